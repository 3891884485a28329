//! Segmentation in software: what a NIC does with a TSO packet, for backends and receivers that cannot pass it on.

use guest_mem::GuestSlice;

use super::checksum::{self, Sum};
use super::frame::{ETH_TYPE, Gso, GsoKind, MAX_SUPER_FRAME, Offload, TxFrame, VLAN_TAG};

/// Longest headers of a super-frame, in bytes: the 8 bits of an e1000 context's HDRLEN, and a VLAN tag.
pub const MAX_HEADERS: usize = 255 + VLAN_TAG;
/// Most frames that one super-frame may become. The parts know no bound; 64 KiB in the smallest segments that Linux's
/// TCP makes are 1365, and who asks for one byte a frame wants to keep somebody busy.
pub const MAX_SEGMENTS: usize = 2048;

const TCP_CSUM: usize = 16;
const UDP_CSUM: usize = 6;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Where the parts of a valid super-frame are. Every check that segmentation relies on has been made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    kind: GsoKind,
    ipv6: bool,
    l3: usize,
    l4: usize,
    /// Length of all headers.
    headers: usize,
    mss: usize,
    /// Payload bytes of the whole super-frame.
    payload: usize,
}

impl Layout {
    /// Finds the headers of a super-frame of `len` bytes whose first bytes are `head`. None if `offload` does not
    /// ask for segmentation or if the headers are not what it says they are: wrong protocol, header lengths that
    /// disagree, a checksum field elsewhere, nothing to send.
    pub fn parse(head: &[u8], len: usize, offload: &Offload) -> Option<Self> {
        let Gso { kind, hdr_len, mss } = offload.gso?;
        let csum = offload.csum?;
        let headers = usize::from(hdr_len);
        let head = head.get(..headers)?;
        let (l3, ethertype) = network_header(head)?;
        let l4 = usize::from(csum.start);
        let payload = len.checked_sub(headers)?;
        if mss == 0 || payload == 0 || headers > MAX_HEADERS || len > MAX_SUPER_FRAME {
            return None;
        }
        let protocol = if kind == GsoKind::UdpL4 { 17 } else { 6 };
        let ipv6 = match (ethertype, *head.get(l3)? >> 4, kind) {
            (0x0800, 4, GsoKind::TcpV4 | GsoKind::UdpL4) => {
                let ihl = usize::from(head[l3] & 0xf) * 4;
                let fits = ihl >= 20 && l3 + ihl == l4 && *head.get(l3 + 9)? == protocol;
                if !fits || len - l3 > 65535 {
                    return None;
                }
                false
            }
            (0x86dd, 6, GsoKind::TcpV6 | GsoKind::UdpL4) => {
                let plain = l4 == l3 + 40;
                let fits = l4 >= l3 + 40 && (!plain || *head.get(l3 + 6)? == protocol);
                if !fits || len - l3 - 40 > 65535 {
                    return None;
                }
                true
            }
            _ => return None,
        };
        let (field, least) = match kind {
            GsoKind::UdpL4 => (UDP_CSUM, 8),
            GsoKind::TcpV4 | GsoKind::TcpV6 => (TCP_CSUM, 20),
        };
        let fits = usize::from(csum.offset) == field
            && header_len(head, kind, csum.start) == Some(hdr_len)
            && headers - l4 >= least;
        let layout = Self {
            kind,
            ipv6,
            l3,
            l4,
            headers,
            mss: usize::from(mss),
            payload,
        };
        (fits && layout.segments() <= MAX_SEGMENTS).then_some(layout)
    }

    /// Number of segments, at least 1.
    pub fn segments(&self) -> usize {
        self.payload.div_ceil(self.mss)
    }

    /// Length of all headers, in bytes.
    pub fn headers(&self) -> usize {
        self.headers
    }

    /// The payload bytes of segment `index`, counted from the start of the super-frame's payload.
    pub fn payload(&self, index: usize) -> std::ops::Range<usize> {
        let start = (index * self.mss).min(self.payload);
        start..(start + self.mss).min(self.payload)
    }

    /// Turns `head`, a copy of the super-frame's headers, into those of segment `index`: lengths, identification,
    /// sequence number, flags, IP header checksum. The L4 checksum field is left with the sum of the segment's
    /// pseudo header, and [`Layout::seal`] completes it.
    ///
    /// # Panics
    ///
    /// If `head` is shorter than [`Layout::headers`].
    pub fn head(&self, head: &mut [u8], index: usize) {
        let head = &mut head[..self.headers];
        let here = self.payload(index);
        let (l3, l4) = (self.l3, self.l4);
        if !self.ipv6 {
            let id = get(head, l3 + 4).wrapping_add(index as u16);
            put(head, l3 + 4, id);
        }
        if self.kind != GsoKind::UdpL4 {
            let at: &mut [u8; 4] = (&mut head[l4 + 4..l4 + 8]).try_into().expect("4 bytes");
            let seq = u32::from_be_bytes(*at).wrapping_add(here.start as u32);
            *at = seq.to_be_bytes();
            if index > 0 {
                head[l4 + 13] &= !CWR;
            }
        }
        self.end(head, here.end, here.len());
    }

    /// Makes a super-frame out of the first `segments` segments of this one, in `head`, a copy of its headers. Returns
    /// the length of that, whose payload begins as it did.
    ///
    /// # Panics
    ///
    /// As [`Layout::head`].
    pub fn shorten(&self, head: &mut [u8], segments: usize) -> usize {
        let payload = (segments * self.mss).min(self.payload);
        self.end(&mut head[..self.headers], payload, payload);
        self.headers + payload
    }

    /// Lets the packet of the headers `head` have `len` bytes of the payload, up to byte `end` of it.
    fn end(&self, head: &mut [u8], end: usize, len: usize) {
        let (l3, l4) = (self.l3, self.l4);
        if self.ipv6 {
            put(head, l3 + 4, (self.headers - l3 - 40 + len) as u16);
        } else {
            put(head, l3 + 2, (self.headers - l3 + len) as u16);
            put(head, l3 + 10, 0);
            let sum = checksum::sum(&head[l3..l4]);
            put(head, l3 + 10, !sum);
        }
        let field = match self.kind {
            GsoKind::UdpL4 => {
                put(head, l4 + 4, (8 + len) as u16);
                l4 + UDP_CSUM
            }
            GsoKind::TcpV4 | GsoKind::TcpV6 => {
                if end < self.payload {
                    head[l4 + 13] &= !(FIN | PSH);
                }
                l4 + TCP_CSUM
            }
        };
        // The seed holds the length of the whole super-frame: exchange it.
        let all = (self.headers - l4 + self.payload) as u16;
        let this = (self.headers - l4 + len) as u16;
        let seed = checksum::add(checksum::add(get(head, field), !all), this);
        put(head, field, seed);
    }

    /// Completes the L4 checksum in `head`, as [`Layout::head`] left it, over `payload`.
    pub fn seal(&self, head: &mut [u8], payload: &[u8]) {
        let mut sum = Sum::new();
        sum.add(&head[self.l4..self.headers]);
        sum.add(payload);
        let value = !sum.fold();
        match self.kind {
            GsoKind::UdpL4 => put(head, self.l4 + UDP_CSUM, checksum::never_zero(value)),
            _ => put(head, self.l4 + TCP_CSUM, value),
        }
    }
}

/// Cuts a frame into what goes on the wire, with all checksums filled in. A frame that is no super-frame comes
/// out as one.
#[derive(Clone, Copy, Debug)]
pub struct Segments<'a> {
    frame: TxFrame<'a>,
    layout: Option<Layout>,
    next: usize,
    /// Payload not yet taken: of the head, then of the pieces of the body, from byte `offset` of the first.
    head: &'a [u8],
    body: &'a [GuestSlice<'a>],
    offset: usize,
}

impl<'a> Segments<'a> {
    /// Starts on `frame`. None if its headers and its offload request contradict each other: nothing that could be
    /// sent, count it as dropped.
    pub fn new(frame: TxFrame<'a>) -> Option<Self> {
        let layout = match frame.offload.gso {
            Some(_) => Some(Layout::parse(frame.head, frame.len(), &frame.offload)?),
            None => None,
        };
        Some(Self {
            frame,
            layout,
            next: 0,
            head: &frame.head[layout.map_or(0, |layout| layout.headers)..],
            body: frame.body,
            offset: 0,
        })
    }

    /// Number of frames that will come out.
    pub fn count(&self) -> usize {
        self.layout.map_or(1, |layout| layout.segments())
    }

    /// Bytes of the longest of them.
    pub fn max_len(&self) -> usize {
        self.layout.map_or(self.frame.len(), |layout| {
            layout.headers + layout.payload(0).len()
        })
    }

    /// Writes the next frame to the start of `to` and returns its length, without FCS and padding. None at the
    /// end, and if `to` is shorter than [`Segments::max_len`].
    pub fn next_into(&mut self, to: &mut [u8]) -> Option<usize> {
        if self.next == self.count() || to.len() < self.max_len() {
            return None;
        }
        let index = self.next;
        self.next += 1;
        let Some(layout) = self.layout else {
            let len = self.frame.copy_to(to)?;
            if let Some(csum) = self.frame.offload.csum {
                csum.complete(&mut to[..len]);
            }
            return Some(len);
        };
        let (head, rest) = to.split_at_mut(layout.headers);
        head.copy_from_slice(&self.frame.head[..layout.headers]);
        layout.head(head, index);
        let payload = &mut rest[..layout.payload(index).len()];
        self.take(payload);
        layout.seal(head, payload);
        Some(layout.headers + payload.len())
    }

    fn take(&mut self, mut to: &mut [u8]) {
        let n = self.head.len().min(to.len());
        let (now, later) = self.head.split_at(n);
        to[..n].copy_from_slice(now);
        self.head = later;
        to = &mut to[n..];
        while !to.is_empty()
            && let Some((first, rest)) = self.body.split_first()
        {
            let n = first.split_at(self.offset).1.copy_to(to);
            to = &mut to[n..];
            self.offset += n;
            if self.offset == first.len() {
                self.body = rest;
                self.offset = 0;
            }
        }
    }
}

/// Length of all headers of a super-frame, as they say themselves: whoever describes it may only have guessed. `l4` is
/// where the last of them starts, [`Csum::start`](super::frame::Csum::start). None if that is not in `frame`.
pub fn header_len(frame: &[u8], kind: GsoKind, l4: u16) -> Option<u16> {
    let len = match kind {
        GsoKind::UdpL4 => 8,
        GsoKind::TcpV4 | GsoKind::TcpV6 => u16::from(*frame.get(usize::from(l4) + 12)? >> 4) * 4,
    };
    l4.checked_add(len)
}

/// Where the network header of a frame starts, behind at most two VLAN tags, and its EtherType.
pub fn network_header(frame: &[u8]) -> Option<(usize, u16)> {
    let mut at = ETH_TYPE;
    for _ in 0..3 {
        let ethertype = u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]);
        match ethertype {
            0x8100 | 0x88a8 | 0x9100 => at += VLAN_TAG,
            _ => return Some((at + 2, ethertype)),
        }
    }
    None
}

fn get(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
#[path = "gso_tests.rs"]
mod tests;
