//! Descriptors (8254x manual 3.2.3 receive, 3.3.3 legacy transmit, 3.3.6 context, 3.3.7 data).
//!
//! All are two little-endian 64-bit words. They are fetched once and judged as copies.

use bitfield_struct::bitfield;
use serde::{Deserialize, Serialize};

/// Second word of a transmit descriptor, as far as all kinds share it.
#[bitfield(u64)]
pub struct TxWord {
    /// Bytes of the buffer of a data descriptor, PAYLEN of a context; a legacy one has only 16 bits of it.
    #[bits(20)]
    pub length: u32,
    /// DTYP if `dext`; else the high half of legacy CSO.
    #[bits(4)]
    pub dtyp: u8,
    /// End of packet; a context's TCP.
    pub eop: bool,
    /// Insert FCS; a context's IP (set: IPv4).
    pub ifcs: bool,
    /// Insert checksum (legacy) or TCP segmentation enable (context, data).
    pub ic_tse: bool,
    /// Report status.
    pub rs: bool,
    /// Report packet sent: on this part no different from `rs`.
    pub rps: bool,
    /// Not a legacy descriptor.
    pub dext: bool,
    /// VLAN packet enable.
    pub vle: bool,
    /// Delay the interrupt.
    pub ide: bool,
    /// STA: DD and what became of the packet.
    #[bits(4)]
    pub sta: u8,
    #[bits(4)]
    __: u8,
    /// CSS of a legacy descriptor, POPTS of a data descriptor, HDRLEN of a context.
    pub css_popts: u8,
    /// VLAN tag; MSS of a context.
    pub special: u16,
}

/// Insert the IP header checksum (POPTS).
pub const POPTS_IXSM: u8 = 1 << 0;
/// Insert the TCP or UDP checksum (POPTS).
pub const POPTS_TXSM: u8 = 1 << 1;

/// What a transmit descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxKind {
    /// A buffer, with commands of its own.
    Legacy,
    /// Offsets for checksums and segmentation.
    Context,
    /// A buffer to which a context applies.
    Data,
    /// DTYP 2 and above.
    Reserved,
}

/// A transmit descriptor.
#[derive(Clone, Copy, Debug)]
pub struct TxDesc {
    /// Buffer address, or the first word of a context.
    pub addr: u64,
    /// Everything else.
    pub word: TxWord,
}

impl TxDesc {
    /// What it is.
    pub fn kind(&self) -> TxKind {
        match (self.word.dext(), self.word.dtyp()) {
            (false, _) => TxKind::Legacy,
            (true, 0) => TxKind::Context,
            (true, 1) => TxKind::Data,
            (true, _) => TxKind::Reserved,
        }
    }

    /// Bytes in the buffer of a legacy or data descriptor.
    pub fn buffer_len(&self) -> usize {
        let mask = if self.word.dext() { 0xf_ffff } else { 0xffff };
        (self.word.length() & mask) as usize
    }

    /// Where a legacy descriptor wants its checksum.
    pub fn cso(&self) -> usize {
        (self.word.into_bits() >> 16 & 0xff) as usize
    }

    /// Where a legacy descriptor's checksum starts.
    pub fn css(&self) -> usize {
        self.word.css_popts().into()
    }

    /// The upper half of the second word as it is written back: DD set, EC, LC and TU cleared.
    pub fn done(&self) -> u32 {
        (self.word.with_sta(1).into_bits() >> 32) as u32
    }
}

/// One of the checksums of a context: sum from `start` to `end` inclusive (0: end of packet), stored at `offset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// First byte summed.
    pub start: u8,
    /// Where the result goes.
    pub offset: u8,
    /// Last byte summed.
    pub end: u16,
}

/// A transmit context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// IPCSS, IPCSO, IPCSE.
    pub ip: Range,
    /// TUCSS, TUCSO, TUCSE.
    pub l4: Range,
    /// TUCMD.TCP: else UDP.
    pub tcp: bool,
    /// TUCMD.IP: IPv4, else IPv6.
    pub ipv4: bool,
    /// TUCMD.TSE: for segmentation.
    pub tse: bool,
    /// HDRLEN.
    pub hdr_len: u8,
    /// MSS.
    pub mss: u16,
}

impl From<TxDesc> for Context {
    fn from(desc: TxDesc) -> Self {
        let range = |bits: u64| Range {
            start: bits as u8,
            offset: (bits >> 8) as u8,
            end: (bits >> 16) as u16,
        };
        Self {
            ip: range(desc.addr),
            l4: range(desc.addr >> 32),
            tcp: desc.word.eop(),
            ipv4: desc.word.ifcs(),
            tse: desc.word.ic_tse(),
            hdr_len: desc.word.css_popts(),
            mss: desc.word.special(),
        }
    }
}

/// Second word of a receive descriptor, as it is written back.
#[bitfield(u64)]
pub struct RxWord {
    /// Bytes in this buffer.
    pub length: u16,
    /// Packet checksum.
    pub csum: u16,
    /// Descriptor done.
    pub dd: bool,
    /// End of packet.
    pub eop: bool,
    /// Ignore the checksum indications.
    pub ixsm: bool,
    /// VLAN packet: its tag is in `special`.
    pub vp: bool,
    /// UDP checksum was calculated.
    pub udpcs: bool,
    /// TCP or UDP checksum was calculated.
    pub tcpcs: bool,
    /// IP header checksum was calculated.
    pub ipcs: bool,
    /// Passed by an inexact filter.
    pub pif: bool,
    /// CRC error.
    pub ce: bool,
    #[bits(4)]
    __: u8,
    /// TCP or UDP checksum error.
    pub tcpe: bool,
    /// IP header checksum error.
    pub ipe: bool,
    /// Receive data error.
    pub rxe: bool,
    /// VLAN tag.
    pub special: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transmit_fields_lie_where_drivers_put_them() {
        let legacy = TxDesc {
            addr: 0,
            word: TxWord::from_bits(0xabcd_1200_0000_0000 | 0x0f34_ffff),
        };
        assert_eq!(legacy.kind(), TxKind::Legacy);
        assert_eq!(
            (legacy.buffer_len(), legacy.cso(), legacy.css()),
            (0xffff, 0x34, 0x12)
        );
        assert!(
            legacy.word.eop() && legacy.word.ifcs() && legacy.word.ic_tse() && legacy.word.rs()
        );
        assert!(!legacy.word.rps() && !legacy.word.vle());
        assert_eq!(legacy.word.special(), 0xabcd);
        assert_eq!(legacy.done(), 0xabcd_1201);
        let kind = |bits| {
            TxDesc {
                addr: 0,
                word: TxWord::from_bits(bits),
            }
            .kind()
        };
        assert_eq!(kind(0x2000_0000), TxKind::Context);
        assert_eq!(kind(0x2010_0000), TxKind::Data);
        assert_eq!(kind(0x20f0_0000), TxKind::Reserved);
        assert_eq!(TxWord::from_bits(0x401f_ffff).length(), 0xf_ffff);
        assert!(TxWord::from_bits(1 << 30).vle() && TxWord::from_bits(1 << 31).ide());
        assert!(TxWord::from_bits(1 << 28).rps());
    }

    #[test]
    fn context_fields_lie_where_drivers_put_them() {
        let context = Context::from(TxDesc {
            addr: 0xffee_3222_0021_180e,
            word: TxWord::from_bits(0x05b4_3600_2700_1234),
        });
        assert_eq!(
            context.ip,
            Range {
                start: 14,
                offset: 24,
                end: 33
            }
        );
        assert_eq!(
            context.l4,
            Range {
                start: 34,
                offset: 50,
                end: 0xffee
            }
        );
        assert!(context.tcp && context.ipv4 && context.tse);
        assert_eq!((context.hdr_len, context.mss), (54, 1460));
    }

    #[test]
    fn receive_bits_are_the_manuals() {
        let status = |word: RxWord| (word.into_bits() >> 32) as u8;
        assert_eq!(status(RxWord::new().with_dd(true).with_eop(true)), 0x03);
        assert_eq!(status(RxWord::new().with_ixsm(true).with_vp(true)), 0x0c);
        assert_eq!(
            status(RxWord::new().with_udpcs(true).with_tcpcs(true)),
            0x30
        );
        assert_eq!(status(RxWord::new().with_ipcs(true).with_pif(true)), 0xc0);
        let errors = |word: RxWord| (word.into_bits() >> 40) as u8;
        assert_eq!(errors(RxWord::new().with_ce(true)), 0x01);
        assert_eq!(errors(RxWord::new().with_tcpe(true).with_ipe(true)), 0x60);
        assert_eq!(errors(RxWord::new().with_rxe(true)), 0x80);
        assert_eq!(RxWord::new().with_special(0x1234).into_bits(), 0x1234 << 48);
    }
}
