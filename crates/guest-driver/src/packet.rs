//! Packets to send, and what has to come out: TCP and UDP over IPv4 and IPv6, built byte by byte.

use std::vec::Vec;

use crate::e1000::{Headers, Offload};
pub use crate::fcs::fcs;

/// A TCP or UDP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Destination address.
    pub destination: [u8; 6],
    /// Source address.
    pub source: [u8; 6],
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
    /// TCP rather than UDP.
    pub tcp: bool,
    /// IPv4 identification.
    pub id: u16,
    /// TCP sequence number.
    pub seq: u32,
    /// TCP flags.
    pub flags: u8,
    /// Bytes behind the headers.
    pub payload: Vec<u8>,
}

/// TCP flags FIN and PSH, which only the last of several segments carries.
pub const FIN_PSH: u8 = 0x09;
/// TCP flag ACK.
pub const ACK: u8 = 0x10;

/// `len` bytes in which neighbours, and the same place of other packets, differ.
pub fn pattern(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as u8
    };
    (0..len).map(next).collect()
}

/// A frame of `len` bytes with an unassigned ethertype and a payload made of `seed`.
pub fn plain(destination: [u8; 6], source: [u8; 6], len: usize, seed: u32) -> Vec<u8> {
    let mut frame = Vec::with_capacity(len);
    frame.extend(destination);
    frame.extend(source);
    frame.extend([0x88, 0xB5]);
    frame.extend(pattern(len.saturating_sub(14), seed));
    frame.truncate(len);
    frame
}

/// The one's complement sum of big-endian 16-bit words, an odd byte padded with zero.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([
            pair[0],
            pair.get(1).copied().unwrap_or(0),
        ]));
    }
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

impl Packet {
    /// A packet with `len` payload bytes from `source` to `destination`.
    pub fn new(
        destination: [u8; 6],
        source: [u8; 6],
        ipv6: bool,
        tcp: bool,
        len: usize,
        seed: u32,
    ) -> Self {
        Self {
            destination,
            source,
            ipv6,
            tcp,
            id: 0xFFFE,
            seq: 0xFFFF_F000,
            flags: ACK | FIN_PSH,
            payload: pattern(len, seed),
        }
    }

    /// Where the headers are.
    pub fn headers(&self) -> Headers {
        let l4 = 14 + if self.ipv6 { 40 } else { 20 };
        Headers {
            ip: 14,
            ipv6: self.ipv6,
            l4,
            tcp: self.tcp,
            payload: l4 + if self.tcp { 20 } else { 8 },
        }
    }

    /// The packet as it has to be on the wire.
    pub fn finished(&self) -> Vec<u8> {
        let mut frame = self.build();
        let headers = self.headers();
        let l4 = usize::from(headers.l4);
        let length = (frame.len() - l4) as u16;
        let field = self.checksum_field();
        let seed = self.pseudo_sum(length);
        frame[field..field + 2].copy_from_slice(&seed.to_be_bytes());
        let value = match !sum(&frame[l4..]) {
            0 if !self.tcp => 0xFFFF,
            value => value,
        };
        frame[field..field + 2].copy_from_slice(&value.to_be_bytes());
        if !self.ipv6 {
            let value = !sum(&frame[14..34]);
            frame[24..26].copy_from_slice(&value.to_be_bytes());
        }
        frame
    }

    /// The packet as a driver hands it over for checksum insertion, and how it asks for it.
    pub fn for_checksum(&self) -> (Vec<u8>, Offload) {
        let mut frame = self.build();
        let length = (frame.len() - usize::from(self.headers().l4)) as u16;
        let field = self.checksum_field();
        let seed = self.pseudo_sum(length);
        frame[field..field + 2].copy_from_slice(&seed.to_be_bytes());
        (frame, Offload::Checksum(self.headers()))
    }

    /// The packet as a driver hands it over for segmentation, and how it asks for it.
    pub fn for_segmentation(&self, mss: u16) -> (Vec<u8>, Offload) {
        let mut frame = self.build();
        let headers = self.headers();
        let field = self.checksum_field();
        let seed = self.pseudo_sum(0);
        frame[field..field + 2].copy_from_slice(&seed.to_be_bytes());
        let length = if self.ipv6 { 18 } else { 16 };
        frame[length..length + 2].fill(0);
        (frame, Offload::Segment { headers, mss })
    }

    /// The packets that segmentation has to give, each built on its own.
    pub fn segments(&self, mss: u16) -> Vec<Vec<u8>> {
        let chunks: Vec<&[u8]> = self.payload.chunks(usize::from(mss)).collect();
        let last = chunks.len() - 1;
        let segment = |(i, chunk): (usize, &&[u8])| {
            let mut packet = self.clone();
            packet.payload = chunk.to_vec();
            packet.id = self.id.wrapping_add(i as u16);
            packet.seq = self.seq.wrapping_add(i as u32 * u32::from(mss));
            if i != last {
                packet.flags &= !FIN_PSH;
            }
            packet.finished()
        };
        chunks.iter().enumerate().map(segment).collect()
    }

    fn checksum_field(&self) -> usize {
        let headers = self.headers();
        usize::from(headers.l4) + if self.tcp { 16 } else { 6 }
    }

    /// Source, destination and protocol; the sum of the pseudo-header is made of them and the length.
    fn addresses(&self) -> (Vec<u8>, Vec<u8>, u8) {
        let protocol = if self.tcp { 6 } else { 17 };
        if self.ipv6 {
            let address = |host| {
                let mut address = Vec::from([0xFD, 0, 0, 1, 0x80, 0xFE, 0, 0]);
                address.extend([0, 0, 0xC0, 0xDE, 0, 0, 0, host]);
                address
            };
            (address(2), address(1), protocol)
        } else {
            (Vec::from([10, 1, 0, 2]), Vec::from([10, 1, 0, 1]), protocol)
        }
    }

    fn pseudo_sum(&self, length: u16) -> u16 {
        let (source, destination, protocol) = self.addresses();
        let mut bytes = source;
        bytes.extend(destination);
        bytes.extend([0, protocol]);
        bytes.extend(length.to_be_bytes());
        sum(&bytes)
    }

    /// All bytes, with checksums of zero.
    fn build(&self) -> Vec<u8> {
        let headers = self.headers();
        let total = usize::from(headers.payload) + self.payload.len();
        let (source, destination, protocol) = self.addresses();
        let mut frame = Vec::with_capacity(total);
        frame.extend(self.destination);
        frame.extend(self.source);
        if self.ipv6 {
            frame.extend([0x86, 0xDD, 0x60, 0, 0, 0]);
            frame.extend(((total - 54) as u16).to_be_bytes());
            frame.extend([protocol, 64]);
        } else {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend(((total - 14) as u16).to_be_bytes());
            frame.extend(self.id.to_be_bytes());
            frame.extend([0x40, 0, 64, protocol, 0, 0]);
        }
        frame.extend(source);
        frame.extend(destination);
        frame.extend([0x30, 0x39, 0x14, 0x51]);
        if self.tcp {
            frame.extend(self.seq.to_be_bytes());
            frame.extend([0, 0, 0x10, 0, 0x50, self.flags, 0x20, 0, 0, 0, 0, 0]);
        } else {
            let length = (total - usize::from(headers.l4)) as u16;
            frame.extend(length.to_be_bytes());
            frame.extend([0, 0]);
        }
        frame.extend(&self.payload);
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of CRC-32 in every catalogue of CRCs.
    #[test]
    fn fcs_of_the_check_string() {
        assert_eq!(fcs(b"123456789"), 0xCBF4_3926u32.to_le_bytes());
    }

    /// The example of RFC 1071, section 3.
    #[test]
    fn sum_of_the_rfc_example() {
        assert_eq!(
            sum(&[0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7]),
            0xDDF2
        );
    }

    #[test]
    fn segments_carry_the_whole_payload() {
        let packet = Packet::new([2; 6], [4; 6], false, true, 3001, 7);
        let segments = packet.segments(1000);
        assert_eq!(segments.len(), 4);
        assert_eq!(segments[3].len(), 54 + 1);
        let joined: Vec<u8> = segments.iter().flat_map(|s| s[54..].to_vec()).collect();
        assert_eq!(joined, packet.payload);
    }
}
