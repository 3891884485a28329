//! The header before each frame of a TAP: a virtio network header without its buffer count.
//!
//! Fields: `struct virtio_net_hdr` of `linux/virtio_net.h`, little endian after `TUNSETVNETLE`.

use nic_emu::common::frame::{Csum, Gso, GsoKind, Offload, RxCsum, RxMeta, TxFrame};
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A checksum is to be filled in at `csum_start + csum_offset`.
const NEEDS_CSUM: u8 = 1;
/// The checksum has been verified.
const DATA_VALID: u8 = 2;

/// `struct virtio_net_hdr`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct VnetHdr {
    flags: u8,
    gso_type: u8,
    hdr_len: U16,
    gso_size: U16,
    csum_start: U16,
    csum_offset: U16,
}

/// Size of a [`VnetHdr`].
pub(crate) const LEN: usize = size_of::<VnetHdr>();

impl VnetHdr {
    /// Asks for what the sender of a frame left to do.
    pub(crate) fn of(offload: Offload) -> Self {
        let mut hdr = Self::default();
        if let Some(csum) = offload.csum {
            hdr.flags = NEEDS_CSUM;
            hdr.csum_start = csum.start.into();
            hdr.csum_offset = csum.offset.into();
        }
        if let Some(gso) = offload.gso {
            hdr.gso_type = gso.kind.virtio();
            hdr.hdr_len = gso.hdr_len.into();
            hdr.gso_size = gso.mss.into();
        }
        hdr
    }

    /// What the kernel says about a frame that we read.
    pub(crate) fn meta(self) -> RxMeta {
        let csum = if self.flags & NEEDS_CSUM != 0 {
            RxCsum::Partial(Csum {
                start: self.csum_start.get(),
                offset: self.csum_offset.get(),
            })
        } else if self.flags & DATA_VALID != 0 {
            RxCsum::Valid
        } else {
            RxCsum::Unknown
        };
        let gso = GsoKind::from_virtio(self.gso_type).map(|kind| Gso {
            kind,
            hdr_len: self.hdr_len.get(),
            mss: self.gso_size.get(),
        });
        RxMeta {
            csum,
            gso,
            bad_fcs: false,
        }
    }
}

/// How many frames `frame` becomes on the wire.
pub(crate) fn segments(frame: &TxFrame<'_>) -> u64 {
    frame.offload.gso.map_or(1, |gso| {
        let payload = frame.len().saturating_sub(usize::from(gso.hdr_len));
        payload.div_ceil(usize::from(gso.mss.max(1))).max(1) as u64
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds() -> impl Strategy<Value = GsoKind> {
        prop_oneof![
            Just(GsoKind::TcpV4),
            Just(GsoKind::TcpV6),
            Just(GsoKind::UdpL4)
        ]
    }

    proptest! {
        #[test]
        fn a_request_survives_the_header(start: u16, offset: u16, kind in kinds(), hdr_len: u16, mss: u16) {
            let csum = Csum { start, offset };
            let gso = Some(Gso { kind, hdr_len, mss });
            let meta = VnetHdr::of(Offload { csum: Some(csum), gso }).meta();
            prop_assert_eq!(meta.csum, RxCsum::Partial(csum));
            prop_assert_eq!(meta.gso, gso);
        }

        #[test]
        fn any_header_means_something(bytes: [u8; LEN]) {
            let meta = VnetHdr::read_from_bytes(&bytes).unwrap().meta();
            prop_assert_eq!(matches!(meta.csum, RxCsum::Partial(_)), bytes[0] & 1 != 0);
        }
    }

    #[test]
    fn the_layout_is_that_of_linux() {
        let hdr = VnetHdr::of(Offload {
            csum: Some(Csum {
                start: 0x0122,
                offset: 16,
            }),
            gso: Some(Gso {
                kind: GsoKind::TcpV4,
                hdr_len: 54,
                mss: 1448,
            }),
        });
        assert_eq!(hdr.as_bytes(), [1, 1, 54, 0, 0xa8, 5, 0x22, 1, 16, 0]);
    }
}
