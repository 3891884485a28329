//! What the descriptor says about a received frame's checksums (8254x manual 3.2.9, register RXCSUM).

use super::super::bits::rxcsum;
use super::super::desc::RxWord;
use super::super::part::Part;
use super::super::wake::{MAX_LENGTH, SNAP};
use crate::common::checksum::{self, Sum};
use crate::common::gso::network_header;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// IPv6 extension headers that the part skips, and the most bytes that each may have (manual 3.2.9.4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;
const MAX_EXTENSION: usize = 64;

/// Adds the verdicts on a frame of `len` bytes (without FCS) to `word`, as far as `enabled` (RXCSUM) asks for them and `part`
/// makes them: the 82544 looks at no IPv6 (manual, table 3-6).
/// `head` is all of it, or only its headers if somebody has verified the L4 checksum already (`valid`).
#[inline(never)]
pub(super) fn report(
    word: RxWord,
    head: &[u8],
    len: usize,
    part: Part,
    enabled: u32,
    valid: bool,
) -> RxWord {
    let (ip, l4) = (enabled & rxcsum::IPOFL != 0, enabled & rxcsum::TUOFL != 0);
    let none = word.with_ixsm(true);
    let Some(packet) = Packet::parse(head, len) else {
        return none;
    };
    if packet.ipv4_header.is_none() && part == Part::I82544Gc {
        return none;
    }
    let mut out = word;
    let mut any = false;
    if let Some(header) = packet.ipv4_header.filter(|_| ip) {
        out = out
            .with_ipcs(true)
            .with_ipe(checksum::sum(header) != 0xffff);
        any = true;
    }
    if let Some(good) = packet.l4.filter(|_| l4).and_then(|l4| l4.verify(valid)) {
        let udp = packet.l4.is_some_and(|l4| l4.protocol == UDP);
        out = out.with_tcpcs(true).with_udpcs(udp).with_tcpe(!good);
        any = true;
    }
    if any { out } else { none }
}

/// The checksummed parts of an IP packet.
struct Packet<'a> {
    ipv4_header: Option<&'a [u8]>,
    l4: Option<L4<'a>>,
}

/// A whole TCP segment or UDP datagram.
#[derive(Clone, Copy)]
struct L4<'a> {
    addresses: &'a [u8],
    protocol: u8,
    len: usize,
    /// From its first byte, as far as it is at hand.
    bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// None if this is not IP. Fragments, other extension headers and lengths that do not fit have no L4 part.
    fn parse(head: &'a [u8], len: usize) -> Option<Self> {
        let (l3, ethertype) = behind_snap(head, network_header(head)?);
        let packet = head.get(l3..)?;
        let room = len - l3;
        let number = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
        match (ethertype, packet.first()? >> 4) {
            (0x0800, 4) => {
                let ihl = usize::from(packet[0] & 0xf) * 4;
                let header = packet.get(..ihl).filter(|_| ihl >= 20)?;
                let total = number(2);
                let fragment = number(6) & 0x3fff != 0;
                let whole = !fragment && total >= ihl && total <= room;
                Some(Self {
                    ipv4_header: Some(header),
                    l4: whole.then(|| L4 {
                        addresses: &header[12..20],
                        protocol: header[9],
                        len: total - ihl,
                        bytes: &packet[ihl..],
                    }),
                })
            }
            (0x86dd, 6) => {
                let header = packet.get(..40)?;
                let len = number(4);
                let upper = skip_extensions(header[6], &packet[40..]).filter(|_| 40 + len <= room);
                Some(Self {
                    ipv4_header: None,
                    l4: upper.and_then(|(protocol, skipped)| {
                        Some(L4 {
                            addresses: &header[8..40],
                            protocol,
                            len: len.checked_sub(skipped)?,
                            bytes: &packet[40 + skipped..],
                        })
                    }),
                })
            }
            _ => None,
        }
    }
}

/// Where the network header starts and its EtherType, if what was found there is the length of LLC and SNAP.
fn behind_snap(head: &[u8], (at, kind): (usize, u16)) -> (usize, u16) {
    match head.get(at..at + SNAP.len() + 2) {
        Some([llc @ .., high, low]) if kind <= MAX_LENGTH && *llc == SNAP => {
            (at + SNAP.len() + 2, u16::from_be_bytes([*high, *low]))
        }
        _ => (at, kind),
    }
}

/// The protocol behind the extension headers at the start of `payload`, the first of which is `next`, and their length.
/// None if they are cut off or too long, or if a routing header has segments left: the checksum is about the last of those
/// then, and not about the destination at hand.
fn skip_extensions(mut next: u8, payload: &[u8]) -> Option<(u8, usize)> {
    let mut skipped = 0;
    while let HOP_BY_HOP | ROUTING | DESTINATION = next {
        let header = payload.get(skipped..skipped + 4)?;
        let len = 8 + 8 * usize::from(header[1]);
        if len > MAX_EXTENSION || (next == ROUTING && header[3] != 0) {
            return None;
        }
        next = header[0];
        skipped += len;
    }
    (skipped <= payload.len()).then_some((next, skipped))
}

impl L4<'_> {
    /// Whether the checksum is right; none if there is none to judge.
    fn verify(&self, valid: bool) -> Option<bool> {
        let len = match self.protocol {
            TCP if self.len >= 20 => self.len,
            UDP if self.len >= 8 => {
                let header = self.bytes.get(..8)?;
                let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
                if len < 8 || len > self.len || header[6..8] == [0, 0] {
                    return None;
                }
                len
            }
            _ => return None,
        };
        if valid {
            return Some(true);
        }
        let mut sum = Sum::new();
        sum.add(self.addresses);
        sum.add_u16(self.protocol.into());
        sum.add_u16(len as u16);
        sum.add(self.bytes.get(..len)?);
        Some(sum.fold() == 0xffff)
    }
}
