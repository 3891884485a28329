//! The header before each frame of a TAP: a virtio network header without its buffer count.
//!
//! Fields: `struct virtio_net_hdr` of `linux/virtio_net.h`, little endian after `TUNSETVNETLE`.

use nic_emu::common::frame::{Csum, Gso, GsoKind, Offload, RxCsum, RxMeta};
use nic_emu::common::gso;
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

    /// What the kernel says about `frame`, which we read; none if it makes no sense.
    ///
    /// How long the headers are is asked of the headers: `hdr_len` is a hint that leaves out a VLAN tag, or may be the
    /// length of whatever the kernel had at hand.
    pub(crate) fn meta(self, frame: &[u8]) -> Option<RxMeta> {
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
        let gso = match (self.gso_type, csum) {
            (0, _) => None,
            (gso_type, RxCsum::Partial(csum)) => {
                let kind = GsoKind::from_virtio(gso_type)?;
                Some(Gso {
                    kind,
                    hdr_len: gso::header_len(frame, kind, csum.start)?,
                    mss: self.gso_size.get(),
                })
            }
            _ => return None,
        };
        Some(RxMeta {
            csum,
            gso,
            bad_fcs: false,
        })
    }
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
        fn a_request_survives_the_header(start in 0u16..1000, offset: u16, kind in kinds(), hint: u16, mss: u16, words in 5u16..=15) {
            let csum = Csum { start, offset };
            let gso = |hdr_len| Some(Gso { kind, hdr_len, mss });
            let hdr = VnetHdr::of(Offload { csum: Some(csum), gso: gso(hint), bad_fcs: false });
            let mut frame = vec![0; 2000];
            frame[usize::from(start) + 12] = (words << 4) as u8;
            let meta = hdr.meta(&frame).unwrap();
            prop_assert_eq!(meta.csum, RxCsum::Partial(csum));
            let l4 = if kind == GsoKind::UdpL4 { 8 } else { words * 4 };
            prop_assert_eq!(meta.gso, gso(start + l4));
        }

        #[test]
        fn any_header_means_something_or_nothing(bytes: [u8; LEN], len in 14usize..100) {
            let hdr = VnetHdr::read_from_bytes(&bytes).unwrap();
            if let Some(meta) = hdr.meta(&vec![0; len]) {
                let partial = matches!(meta.csum, RxCsum::Partial(_));
                prop_assert_eq!(partial, bytes[0] & 1 != 0);
                prop_assert!(partial || meta.gso.is_none());
                prop_assert_eq!(meta.gso.is_some(), bytes[1] != 0);
            } else {
                prop_assert_ne!(bytes[1], 0);
            }
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
            bad_fcs: false,
        });
        assert_eq!(hdr.as_bytes(), [1, 1, 54, 0, 0xa8, 5, 0x22, 1, 16, 0]);
    }
}
