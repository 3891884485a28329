//! Frames on their way between a model and a network backend, and the offload requests that travel with them.

use std::fmt;

use arrayvec::ArrayVec;
use guest_mem::GuestSlice;
use serde::{Deserialize, Serialize};

use super::checksum;

/// Length of an Ethernet header without a VLAN tag, in bytes.
pub const ETH_HEADER: usize = 14;
/// Offset of the EtherType in an untagged frame, and of a VLAN tag in a tagged one.
pub const ETH_TYPE: usize = 12;
/// Length of an 802.1Q tag, in bytes.
pub const VLAN_TAG: usize = 4;
/// Length of the frame check sequence, in bytes.
pub const FCS: usize = 4;
/// Shortest frame on the wire without its FCS, in bytes.
pub const MIN_FRAME: usize = 60;
/// Longest super-frame: what an IPv4 total length can say, and the largest link header before it.
pub const MAX_SUPER_FRAME: usize = 65535 + 32;

/// What kind of packets a super-frame has to be cut into. Numbered by [`GsoKind::virtio`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GsoKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP datagrams of one flow, over either IP (`UDP_SEGMENT` of Linux, USO).
    UdpL4,
}

impl GsoKind {
    /// The `gso_type` of a `virtio_net_hdr`, without its ECN bit.
    pub fn virtio(self) -> u8 {
        match self {
            Self::TcpV4 => 1,
            Self::TcpV6 => 4,
            Self::UdpL4 => 5,
        }
    }

    /// The kind that a `gso_type` of a `virtio_net_hdr` stands for; its ECN bit (0x80) is ignored. None for 0
    /// (no super-frame) and for kinds that nothing here asks for (UFO).
    pub fn from_virtio(gso_type: u8) -> Option<Self> {
        match gso_type & 0x7f {
            1 => Some(Self::TcpV4),
            4 => Some(Self::TcpV6),
            5 => Some(Self::UdpL4),
            _ => None,
        }
    }
}

/// A frame that is still to be cut into segments, with the meaning that Linux gives to a `virtio_net_hdr`: the
/// IP lengths in the header are those of the whole super-frame, the checksum field holds the pseudo-header sum with
/// the length of the whole super-frame, and a [`Csum`] always goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gso {
    /// What to cut it into.
    pub kind: GsoKind,
    /// All headers up to the payload, in bytes from the start of the frame.
    pub hdr_len: u16,
    /// Payload bytes per segment, never 0; the last segment may have less.
    pub mss: u16,
}

impl Gso {
    /// How many frames a super-frame of `len` bytes is on the wire, at least 1.
    pub fn segments(&self, len: usize) -> usize {
        let payload = len.saturating_sub(self.hdr_len.into());
        payload.div_ceil(self.mss.max(1).into()).max(1)
    }
}

/// A checksum that is still to be filled in: the one's complement sum from `start` to the end of the frame, which
/// includes the field's present value (the pseudo-header sum), is complemented and stored at `start + offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Csum {
    /// First byte summed, from the start of the frame.
    pub start: u16,
    /// Where the 16-bit result goes, from `start`.
    pub offset: u16,
}

impl Csum {
    /// Where the field is, from the start of the frame; none if it does not lie in a frame of `len` bytes.
    pub fn field(&self, len: usize) -> Option<usize> {
        let at = usize::from(self.start) + usize::from(self.offset);
        (at + 2 <= len).then_some(at)
    }

    /// Fills the checksum in; whether its field lies in `frame`.
    pub fn complete(&self, frame: &mut [u8]) -> bool {
        let Some(field) = self.field(frame.len()) else {
            return false;
        };
        let sum = checksum::sum(&frame[usize::from(self.start)..]);
        let value = checksum::never_zero(!sum);
        frame[field..field + 2].copy_from_slice(&value.to_be_bytes());
        true
    }
}

/// What the sender of a frame left for somebody else to do, as a `virtio_net_hdr` has it; and what nobody can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// A checksum to fill in.
    pub csum: Option<Csum>,
    /// A super-frame to cut up; `csum` is set as well then.
    pub gso: Option<Gso>,
    /// The driver brought an FCS of its own (no IFCS), and it is wrong: whoever receives the frame counts a CRC error,
    /// and a network that has no FCS drops it. Nothing else is left to do then.
    pub bad_fcs: bool,
}

/// Which offload requests a backend passes on. What it does not, it does itself with [`super::gso::Segments`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Checksums ([`Offload::csum`]).
    pub csum: bool,
    /// TCP segmentation over IPv4.
    pub tso4: bool,
    /// TCP segmentation over IPv6.
    pub tso6: bool,
    /// UDP segmentation.
    pub uso: bool,
}

impl Features {
    /// Everything.
    pub const ALL: Self = Self {
        csum: true,
        tso4: true,
        tso6: true,
        uso: true,
    };

    /// Whether all that `offload` asks for is passed on.
    pub fn cover(&self, offload: &Offload) -> bool {
        (offload.csum.is_none() || self.csum)
            && offload.gso.is_none_or(|gso| match gso.kind {
                GsoKind::TcpV4 => self.tso4,
                GsoKind::TcpV6 => self.tso6,
                GsoKind::UdpL4 => self.uso,
            })
    }
}

/// Most frames in a [`TxBurst`].
pub const BURST_FRAMES: usize = 32;
/// Most pieces of guest memory in a [`TxBurst`], and so in one frame.
pub const BURST_SLICES: usize = 256;
const HEAD_BYTES: usize = 4096;

/// Where a frame's head lies.
#[derive(Clone, Copy, Debug)]
enum Head {
    /// In `heads`; the rest of the frame is in guest memory.
    Copied,
    /// In `bounce`: the whole frame.
    Bounced,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    head: Head,
    head_start: u32,
    head_len: u32,
    body_start: u16,
    body_end: u16,
    len: u32,
    offload: Offload,
}

/// Frames that a transmit queue lends to a backend: their headers are copied, the rest still lies in guest memory.
///
/// Lives on the stack of whoever drives the queue. Its arrays are not initialised, so making one costs nothing.
/// It can be used again after `TxQueue::complete`.
pub struct TxBurst<'m> {
    frames: ArrayVec<Record, BURST_FRAMES>,
    body: ArrayVec<GuestSlice<'m>, BURST_SLICES>,
    heads: ArrayVec<u8, HEAD_BYTES>,
    bounce: Vec<u8>,
    loopback: bool,
}

impl<'m> TxBurst<'m> {
    /// A burst without frames.
    #[expect(clippy::new_without_default, reason = "kilobytes: made in place only")]
    #[inline]
    pub fn new() -> Self {
        Self {
            frames: ArrayVec::new(),
            body: ArrayVec::new(),
            heads: ArrayVec::new(),
            bounce: Vec::new(),
            loopback: false,
        }
    }

    /// Number of frames.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there are no frames.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Whether these frames are to go to the sender's own receive queue and not to the wire (MAC or PHY loopback).
    pub fn loopback(&self) -> bool {
        self.loopback
    }

    /// Frame `index`, in the order of sending.
    ///
    /// # Panics
    ///
    /// If there is no such frame.
    pub fn frame(&self, index: usize) -> TxFrame<'_> {
        self.lend(&self.frames[index])
    }

    /// The frames in the order of sending.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = TxFrame<'_>> {
        self.frames.iter().map(|record| self.lend(record))
    }

    fn lend(&self, record: &Record) -> TxFrame<'_> {
        let store: &[u8] = match record.head {
            Head::Copied => &self.heads,
            Head::Bounced => &self.bounce,
        };
        let start = record.head_start as usize;
        TxFrame {
            head: &store[start..start + record.head_len as usize],
            body: &self.body[usize::from(record.body_start)..usize::from(record.body_end)],
            offload: record.offload,
            len: record.len as usize,
        }
    }

    /// Forgets all frames; returns the bounce buffer to whom it belongs.
    pub(crate) fn clear(&mut self) -> Vec<u8> {
        self.frames.clear();
        self.body.clear();
        self.heads.clear();
        self.loopback = false;
        let mut bounce = std::mem::take(&mut self.bounce);
        bounce.clear();
        bounce
    }

    pub(crate) fn set_loopback(&mut self, loopback: bool) {
        self.loopback = loopback;
    }

    /// Whether there is room for a frame whose copied head has `head` bytes.
    pub(crate) fn has_room(&self, head: usize) -> bool {
        !self.frames.is_full() && self.heads.remaining_capacity() >= head
    }

    /// The pieces of guest memory collected; those of the frame that is being built are at the end.
    pub(crate) fn pieces(&mut self) -> &mut ArrayVec<GuestSlice<'m>, BURST_SLICES> {
        &mut self.body
    }

    /// Adds `len` zeroed bytes to the copied heads, for [`TxBurst::push`] to use up; lends the pieces along.
    ///
    /// Panics if there is no room, which [`TxBurst::has_room`] tells.
    #[inline]
    pub(crate) fn head(&mut self, len: usize) -> (&mut [u8], &mut [GuestSlice<'m>]) {
        static ZEROS: [u8; 512] = [0; 512];
        let start = self.heads.len();
        let added = match len <= 64 && self.heads.remaining_capacity() >= 64 {
            // A length that the compiler knows saves a call.
            true => self.heads.try_extend_from_slice(&ZEROS[..64]),
            false => self.heads.try_extend_from_slice(&ZEROS[..len]),
        };
        added.expect("room was asked for");
        self.heads.truncate(start + len);
        (&mut self.heads[start..], &mut self.body)
    }

    /// Takes the last `len` bytes off the copied heads again.
    pub(crate) fn drop_head(&mut self, len: usize) {
        self.heads.truncate(self.heads.len() - len);
    }

    /// Adds a frame of `len` bytes: the last `head_len` bytes of the heads, then the pieces from number `body_start`.
    #[inline]
    pub(crate) fn push(
        &mut self,
        head_len: usize,
        body_start: usize,
        len: usize,
        offload: Offload,
    ) {
        self.frames.push(Record {
            head: Head::Copied,
            head_start: (self.heads.len() - head_len) as u32,
            head_len: head_len as u32,
            body_start: body_start as u16,
            body_end: self.body.len() as u16,
            len: len as u32,
            offload,
        });
    }

    /// Adds a frame: `head` is copied, `body` lent. Whether there was room. For wrappers of backends, which pass on a
    /// part of a burst or frames of their own ([`GuestSlice::from_bytes`]).
    pub fn push_frame(&mut self, head: &[u8], body: &[GuestSlice<'m>], offload: Offload) -> bool {
        let body_start = self.body.len();
        if !self.has_room(head.len()) || self.body.try_extend_from_slice(body).is_err() {
            return false;
        }
        self.heads
            .try_extend_from_slice(head)
            .expect("room was asked for");
        let len: usize = body.iter().map(GuestSlice::len).sum();
        self.push(head.len(), body_start, head.len() + len, offload);
        true
    }

    /// The store for whole frames in host memory. A frame is appended to it, then pushed.
    pub(crate) fn bounce(&mut self) -> &mut Vec<u8> {
        &mut self.bounce
    }

    /// Adds the frame that starts at byte `start` of the bounce store and reaches to its end.
    pub(crate) fn push_bounced(&mut self, start: usize, offload: Offload) {
        let len = (self.bounce.len() - start) as u32;
        let end = self.body.len() as u16;
        self.frames.push(Record {
            head: Head::Bounced,
            head_start: start as u32,
            head_len: len,
            body_start: end,
            body_end: end,
            len,
            offload,
        });
    }
}

impl fmt::Debug for TxBurst<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.frames()).finish()
    }
}

/// One frame to send, without its FCS. Its bytes are `head` and then those of each slice of `body`.
#[derive(Clone, Copy)]
pub struct TxFrame<'a> {
    /// The first bytes, copied out of guest memory and changed where the model had to (VLAN tag, IP header checksum,
    /// lengths of a super-frame). Never less than the Ethernet header; with an offload request, all the
    /// headers that the request is about.
    pub head: &'a [u8],
    /// The rest, in guest memory: it may change until the frame is completed.
    pub body: &'a [GuestSlice<'a>],
    /// What the sender left to do.
    pub offload: Offload,
    len: usize,
}

impl TxFrame<'_> {
    /// Total bytes, without FCS.
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// How many frames it becomes on the wire, at least 1.
    pub fn segments(&self) -> usize {
        self.offload.gso.map_or(1, |gso| gso.segments(self.len))
    }

    /// Copies the frame as it stands, offloads undone, to the start of `to`; returns its length, or none if `to`
    /// is too short.
    pub fn copy_to(&self, to: &mut [u8]) -> Option<usize> {
        let to = to.get_mut(..self.len)?;
        to[..self.head.len()].copy_from_slice(self.head);
        let mut at = self.head.len();
        for slice in self.body {
            at += slice.copy_to(&mut to[at..]);
        }
        Some(at)
    }
}

impl fmt::Debug for TxFrame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxFrame")
            .field("len", &self.len)
            .field("head", &self.head.len())
            .field("pieces", &self.body.len())
            .field("offload", &self.offload)
            .finish()
    }
}

/// What is known about the L4 checksum of a received frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RxCsum {
    /// Nothing: the model verifies it if the guest wants to know.
    #[default]
    Unknown,
    /// It was verified, or cannot be wrong.
    Valid,
    /// The sender left it to do (`VIRTIO_NET_HDR_F_NEEDS_CSUM`): the model fills it in before delivery.
    Partial(Csum),
}

/// What a backend knows of a received frame beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RxMeta {
    /// State of the L4 checksum; `Partial` if `gso` is set.
    pub csum: RxCsum,
    /// A super-frame, to be cut up by the model before delivery.
    pub gso: Option<Gso>,
    /// The frame was damaged on the wire (a fault injector says so), or its sender gave it a wrong FCS.
    pub bad_fcs: bool,
}

impl RxMeta {
    /// Whether its sender left nothing to do.
    #[inline]
    pub(crate) fn asks_for_nothing(&self) -> bool {
        self.gso.is_none() && !matches!(self.csum, RxCsum::Partial(_))
    }
}

/// What a frame's sender left to do is what its receiver finds undone: loopback, and ports of one switch.
impl From<Offload> for RxMeta {
    fn from(offload: Offload) -> Self {
        Self {
            csum: offload.csum.map_or(RxCsum::Unknown, RxCsum::Partial),
            gso: offload.gso,
            bad_fcs: offload.bad_fcs,
        }
    }
}

/// One received frame in host memory.
#[derive(Clone, Copy, Debug)]
pub struct RxFrame<'a> {
    /// Its bytes, from the destination address, without FCS. Need not be padded.
    pub data: &'a [u8],
    /// What is known about it.
    pub meta: RxMeta,
}

impl<'a> RxFrame<'a> {
    /// A plain frame of which nothing more is known.
    pub fn new(data: &'a [u8]) -> Self {
        Self {
            data,
            meta: RxMeta::default(),
        }
    }

    /// How many frames it was or would have been on the wire, at least 1.
    pub fn segments(&self) -> usize {
        self.meta.gso.map_or(1, |gso| gso.segments(self.data.len()))
    }
}

/// A frame that goes on as it came, with what is left to do: for [`Segments`](super::gso::Segments) to do it.
impl<'a> From<RxFrame<'a>> for TxFrame<'a> {
    fn from(RxFrame { data, meta }: RxFrame<'a>) -> Self {
        let csum = match meta.csum {
            RxCsum::Partial(csum) => Some(csum),
            RxCsum::Unknown | RxCsum::Valid => None,
        };
        Self {
            head: data,
            body: &[],
            offload: Offload {
                csum,
                gso: meta.gso,
                bad_fcs: meta.bad_fcs,
            },
            len: data.len(),
        }
    }
}
