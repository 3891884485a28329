//! One packet on its way out: what its descriptors said, and the frame that becomes of it.

use guest_mem::{Access, DmaError, GuestMem, GuestSlice, Reach};
use serde::{Deserialize, Serialize};

use super::super::desc::{Context, POPTS_IXSM, POPTS_TXSM, Range, TxDesc, TxKind, TxWord};
use super::BOUNCE;
use crate::common::checksum;
use crate::common::frame::{
    Csum, ETH_HEADER, ETH_TYPE, FCS, Gso, GsoKind, MAX_SUPER_FRAME, MIN_FRAME, Offload, TxBurst,
    VLAN_TAG,
};
use crate::common::gso::{self, Layout};

/// Longest frame that is not cut into segments, without FCS (8254x manual, 3.3.3: 16288 bytes of data).
const MAX_FRAME: usize = 16288;
/// EtherType of IPv4; what else can be cut up is IPv6.
const IPV4: u16 = 0x0800;
/// Frames up to this size are copied whole: it costs less than a piece of guest memory for the backend.
const COPY_WHOLE: usize = 128;
/// Bytes of a larger frame that are always copied: what a switch or a capture wants to see.
const COPY_HEAD: usize = 64;
/// Most bytes that are ever copied as a head: HDRLEN and every checksum field within reach of a context, and a tag.
pub(super) const MAX_HEAD: usize = 264;

/// What became of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Append {
    /// The packet has it, or is refused for it.
    Taken,
    /// This burst has no room for it.
    NoRoom,
    /// An epoch has to pass before it can be read.
    Interrupted,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finished {
    /// It is in the burst, and stands for this many segments.
    Pushed(usize),
    /// It does not fit this burst any more.
    NoRoom,
    /// It cannot be sent.
    Refused(Refusal),
}

/// Why a packet cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Refusal {
    /// Too long or too short.
    Malformed,
    /// A buffer does not lie in reachable memory.
    Unreachable,
    /// Its context does not describe its headers.
    Tso,
}

/// A packet all of whose bytes so far are in host memory, without them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedPacket {
    legacy: bool,
    tse: bool,
    popts: u8,
    context: Context,
    refusal: Option<Refusal>,
}

impl SavedPacket {
    pub(super) fn is_refused(&self) -> bool {
        self.refusal.is_some()
    }
}

/// A packet of which all descriptors so far have been seen.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    legacy: bool,
    tse: bool,
    popts: u8,
    context: Context,
    /// The first descriptor's word, if it has the say about the tag: that of a packet to be segmented (8254x manual, 3.3.7.1).
    /// A state of before version 4 does not have it.
    tagged: Option<TxWord>,
    /// Bytes so far, and of them those kept in host memory.
    len: usize,
    kept: usize,
    /// Those kept are this packet's own: some buffer of it is not mapped, and no more are lent.
    staged: bool,
    refusal: Option<Refusal>,
}

impl Packet {
    /// A packet that starts with `desc`: its POPTS, its TSE and the context in force now are the packet's.
    pub(super) fn new(desc: &TxDesc, csum: &Context, tso: &Context) -> Self {
        let legacy = desc.kind() == TxKind::Legacy;
        let tse = !legacy && desc.word.ic_tse();
        Self {
            legacy,
            tse,
            popts: if legacy { 0 } else { desc.word.css_popts() },
            context: if tse { *tso } else { *csum },
            tagged: tse.then_some(desc.word),
            len: 0,
            kept: 0,
            staged: false,
            refusal: None,
        }
    }

    /// It is to be cut into segments, though it may be no longer than one.
    pub(super) fn is_tso(&self) -> bool {
        self.tse
    }

    pub(super) fn refused(&self) -> Option<Refusal> {
        self.refusal
    }

    /// All bytes so far are in host memory now.
    pub(super) fn keep(&mut self) {
        self.kept = self.len;
        self.staged = false;
    }

    pub(super) fn save(&self) -> SavedPacket {
        SavedPacket {
            legacy: self.legacy,
            tse: self.tse,
            popts: self.popts,
            context: self.context,
            refusal: self.refusal,
        }
    }

    /// The first descriptor, as far as it has the say about the tag.
    pub(super) fn tagged(&self) -> Option<u64> {
        self.tagged.map(u64::from)
    }

    /// The packet of which `len` bytes have been kept, and what was [`tagged`](Self::tagged).
    pub(super) fn restore(saved: &SavedPacket, tagged: Option<u64>, len: usize) -> Self {
        let tse = saved.tse && !saved.legacy;
        Self {
            legacy: saved.legacy,
            tse,
            popts: if saved.legacy { 0 } else { saved.popts },
            context: saved.context,
            tagged: tagged.map(TxWord::from).filter(|_| tse),
            len,
            kept: len,
            staged: false,
            refusal: saved.refusal,
        }
    }

    /// Whether the bytes so far are in the store that [`append`](Self::append) was given.
    pub(super) fn is_staged(&self) -> bool {
        self.staged
    }

    /// Adds the buffer of `desc` to the burst's pieces, where this packet starts at number `first`. From a buffer on
    /// that cannot be lent, all of the packet is copied to `store`, behind its bytes `kept` from before. If it
    /// cannot be taken now, the packet is to be begun anew.
    pub(super) fn append<'m>(
        &mut self,
        desc: &TxDesc,
        mem: &'m GuestMem,
        burst: &mut TxBurst<'m>,
        first: usize,
        kept: &[u8],
        store: &mut Vec<u8>,
    ) -> Append {
        let len = desc.buffer_len();
        // No buffer: nothing to read. The commands count all the same.
        if len == 0 || desc.addr == 0 || self.refusal.is_some() {
            return Append::Taken;
        }
        if self.len + len > MAX_SUPER_FRAME + FCS {
            return self.refuse(Refusal::Malformed, burst, first);
        }
        if self.staged {
            return self.fetch(desc, mem, burst, first, store);
        }
        if let Some(piece) = mem.slice(desc.addr, len as u64)
            && burst.pieces().try_push(piece).is_ok()
        {
            self.len += len;
            return Append::Taken;
        }
        self.append_pieces(desc, mem, burst, first, kept, store)
    }

    /// As [`append`](Self::append), for a buffer that is not one piece of mapped memory, or if there is no room for it.
    #[cold]
    fn append_pieces<'m>(
        &mut self,
        desc: &TxDesc,
        mem: &'m GuestMem,
        burst: &mut TxBurst<'m>,
        first: usize,
        kept: &[u8],
        store: &mut Vec<u8>,
    ) -> Append {
        let len = desc.buffer_len();
        let pieces = burst.pieces();
        let before = pieces.len();
        let mut full = false;
        let found = mem.slices(desc.addr, len as u64, Access::Read, |piece| {
            full |= pieces.try_push(piece).is_err();
        });
        if found.is_err() {
            pieces.truncate(before);
            if mem.reach(desc.addr, len as u64, Access::Read) != Ok(Reach::Remote) {
                return self.refuse(Refusal::Unreachable, burst, first);
            }
            // Nothing is to be read that may have to be read again for want of room.
            if !burst.is_empty() && burst.bounce().len() + VLAN_TAG + self.max() + FCS > BOUNCE {
                return Append::NoRoom;
            }
            self.stage(burst, first, kept, store);
            return self.fetch(desc, mem, burst, first, store);
        }
        if full {
            pieces.truncate(before);
            if before > 0 {
                return Append::NoRoom;
            }
            // One buffer in more pieces than a burst holds: no memory map of a real VM looks like this.
            return self.refuse(Refusal::Malformed, burst, first);
        }
        self.len += len;
        Append::Taken
    }

    /// Moves all bytes so far to `store`.
    #[cold]
    fn stage(&mut self, burst: &mut TxBurst<'_>, first: usize, kept: &[u8], store: &mut Vec<u8>) {
        store.clear();
        if store.capacity() == 0 {
            store.reserve_exact(MAX_SUPER_FRAME + FCS);
        }
        store.extend_from_slice(&kept[..self.kept]);
        for piece in burst.pieces().drain(first..) {
            append_piece(store, &piece);
        }
        self.kept = self.len;
        self.staged = true;
    }

    /// Reads the buffer of `desc` to the end of `store`.
    #[cold]
    fn fetch(
        &mut self,
        desc: &TxDesc,
        mem: &GuestMem,
        burst: &mut TxBurst<'_>,
        first: usize,
        store: &mut Vec<u8>,
    ) -> Append {
        store.resize(self.len + desc.buffer_len(), 0);
        match mem.read(desc.addr, &mut store[self.len..]) {
            Ok(()) => {
                self.len = store.len();
                self.kept = self.len;
                Append::Taken
            }
            Err(DmaError::Unreachable { .. }) => self.refuse(Refusal::Unreachable, burst, first),
            Err(DmaError::Interrupted) => Append::Interrupted,
        }
    }

    /// Longest packet of this kind, without FCS.
    fn max(&self) -> usize {
        if self.tse { MAX_SUPER_FRAME } else { MAX_FRAME }
    }

    fn refuse(&mut self, refusal: Refusal, burst: &mut TxBurst<'_>, first: usize) -> Append {
        burst.pieces().truncate(first);
        self.refusal = Some(refusal);
        Append::Taken
    }

    /// Makes the frame: `last` is the descriptor with EOP, `partial` are bytes of the packet that came before those
    /// in the burst's pieces from number `first`, `tag` the type of VLAN tags if they may be inserted, `pad` asks for the minimum
    /// length, `spare` is a buffer to lend to the burst if it needs one.
    #[expect(clippy::too_many_arguments, reason = "one call, from one place")]
    pub(super) fn finish(
        &self,
        last: &TxDesc,
        partial: &[u8],
        burst: &mut TxBurst<'_>,
        first: usize,
        tag: Option<u16>,
        pad: bool,
        spare: &mut Vec<u8>,
    ) -> Finished {
        if let Some(refusal) = self.refusal {
            return Finished::Refused(refusal);
        }
        // Without IFCS the driver has brought its own FCS, which no backend wants but all receivers look at.
        let own_fcs = !last.word.ifcs() && !self.tse;
        let len = self.len.saturating_sub(if own_fcs { FCS } else { 0 });
        if len < ETH_HEADER || len > self.max() {
            return Finished::Refused(Refusal::Malformed);
        }
        let jobs = self.jobs(last, len);
        let tagged = self.tagged.unwrap_or(last.word);
        let tag = tag
            .filter(|_| tagged.vle())
            .map(|ethertype| (ethertype, tagged.special()));
        let slack = if tag.is_some() { VLAN_TAG } else { 0 };
        let padded = if pad { len.max(MIN_FRAME - slack) } else { len };
        let seen = jobs.as_ref().map_or(0, |jobs| jobs.head);
        let mut segments = 1;

        if self.kept > 0 || seen > MAX_HEAD - VLAN_TAG || own_fcs {
            let shape = Shape {
                len,
                slack,
                padded,
                tag,
                own_fcs,
            };
            return self.finish_in_host(shape, jobs.as_ref(), partial, burst, first, spare);
        }
        let whole = padded <= COPY_WHOLE;
        let copied = if whole {
            len
        } else {
            seen.max(COPY_HEAD).min(len)
        };
        let head_len = slack + if whole { padded } else { copied };
        let (head, pieces) = burst.head(head_len);
        let body = take_head(&mut head[slack..slack + copied], pieces, first);
        let edited = self.edit(&mut head[slack..], len, jobs.as_ref(), &mut segments);
        let Some(offload) = edited else {
            burst.drop_head(head_len);
            return Finished::Refused(Refusal::Tso);
        };
        insert_tag(head, tag);
        burst.push(head_len, body, slack + padded, shift(offload, slack));
        Finished::Pushed(segments)
    }

    /// As [`finish`](Self::finish), for a packet that has to be in host memory as a whole.
    #[cold]
    fn finish_in_host(
        &self,
        shape: Shape,
        jobs: Option<&Jobs>,
        partial: &[u8],
        burst: &mut TxBurst<'_>,
        first: usize,
        spare: &mut Vec<u8>,
    ) -> Finished {
        let Shape {
            len,
            slack,
            padded,
            tag,
            own_fcs,
        } = shape;
        // An FCS is compared with what leaves, so there is nothing to be left to others.
        let jobs = jobs.map(|jobs| Jobs {
            offload: jobs.offload && !own_fcs,
            ..*jobs
        });
        let mut segments = 1;
        let start = burst.bounce().len();
        if start > 0 && start + slack + padded + FCS > BOUNCE {
            return Finished::NoRoom;
        }
        if burst.bounce().capacity() == 0 {
            *burst.bounce() = std::mem::take(spare);
            burst.bounce().reserve(BOUNCE);
        }
        let mut store = std::mem::take(burst.bounce());
        store.resize(start + slack, 0);
        store.extend_from_slice(&partial[..self.kept]);
        for piece in burst.pieces().drain(first..) {
            append_piece(&mut store, &piece);
        }
        let fcs = store.last_chunk().copied();
        store.truncate(start + slack + len);
        store.resize(start + slack + padded, 0);
        let bytes = &mut store[start + slack..];
        let mut edited = self.edit(bytes, len, jobs.as_ref(), &mut segments);
        match &mut edited {
            Some(offload) => {
                let frame = &mut store[start..];
                insert_tag(frame, tag);
                offload.bad_fcs = own_fcs && fcs != Some(crc32fast::hash(frame).to_le_bytes());
            }
            None => store.truncate(start),
        }
        *burst.bounce() = store;
        let Some(offload) = edited else {
            return Finished::Refused(Refusal::Tso);
        };
        burst.push_bounced(start, shift(offload, slack));
        Finished::Pushed(segments)
    }

    /// What is to be done to the bytes of a packet of `len` bytes, if anything is.
    #[inline]
    fn jobs(&self, last: &TxDesc, len: usize) -> Option<Jobs> {
        let any = match self.legacy {
            true => last.word.ic_tse(),
            false => self.tse || self.popts & (POPTS_IXSM | POPTS_TXSM) != 0,
        };
        any.then(|| self.some_jobs(last, len))
    }

    #[inline(never)]
    fn some_jobs(&self, last: &TxDesc, len: usize) -> Jobs {
        let mut jobs = Jobs::default();
        if self.tse {
            jobs.head = self.context.hdr_len.into();
            return jobs;
        }
        if self.legacy {
            // IC counts if it stands beside EOP, and if both offsets lie in the packet.
            if last.kind() == TxKind::Legacy && last.word.ic_tse() {
                jobs.l4 = Job::new(last.css(), last.cso(), 0, len);
            }
        } else {
            if self.popts & POPTS_IXSM != 0 {
                jobs.ip = Job::from_range(self.context.ip, len);
            }
            if self.popts & POPTS_TXSM != 0 {
                jobs.l4 = Job::from_range(self.context.l4, len);
                jobs.udp = !self.context.tcp;
            }
        }
        // Which of them must see which bytes in host memory?
        if let Some(ip) = jobs.ip {
            jobs.head = jobs.head.max(ip.end).max(ip.field + 2);
        }
        if let Some(l4) = jobs.l4 {
            let last_field = l4.field + 2;
            if l4.end == len && l4.field >= l4.start {
                jobs.offload = true;
                jobs.head = jobs.head.max(last_field);
            } else {
                jobs.head = jobs.head.max(l4.end).max(last_field);
            }
        }
        jobs
    }

    /// Does the jobs in `head`, the packet's first bytes, or all of its `len` and padding. None if the packet has a
    /// segmentation context that does not fit it.
    #[inline]
    fn edit(
        &self,
        head: &mut [u8],
        len: usize,
        jobs: Option<&Jobs>,
        segments: &mut usize,
    ) -> Option<Offload> {
        match jobs {
            None => Some(Offload::default()),
            Some(jobs) => self.do_jobs(head, len, jobs, segments),
        }
    }

    #[inline(never)]
    fn do_jobs(
        &self,
        head: &mut [u8],
        len: usize,
        jobs: &Jobs,
        segments: &mut usize,
    ) -> Option<Offload> {
        if self.tse {
            let (offload, count) = self.segmentation(head, len)?;
            *segments = count;
            return Some(offload);
        }
        if let Some(ip) = jobs.ip {
            ip.fill(head, false);
        }
        let mut offload = Offload::default();
        if let Some(l4) = jobs.l4 {
            if jobs.offload {
                offload.csum = Some(Csum {
                    start: l4.start as u16,
                    offset: (l4.field - l4.start) as u16,
                });
            } else {
                l4.fill(head, jobs.udp);
            }
        }
        Some(offload)
    }

    /// Turns the prototype header of a TSO packet, which has no lengths in it, into that of a super-frame, which has
    /// those of the whole. Also the number of segments.
    fn segmentation(&self, head: &mut [u8], len: usize) -> Option<(Offload, usize)> {
        let context = &self.context;
        let (l3, l4) = (usize::from(context.ip.start), usize::from(context.l4.start));
        let headers = usize::from(context.hdr_len);
        if headers > len || context.mss == 0 {
            return None;
        }
        let proto = head.get_mut(..headers)?;
        let (network, ethertype) = gso::network_header(proto)?;
        if network != l3 || l4 <= l3 || context.ipv4 != (ethertype == IPV4) {
            return None;
        }
        let kind = match (context.tcp, context.ipv4) {
            (true, true) => GsoKind::TcpV4,
            (true, false) => GsoKind::TcpV6,
            (false, _) => GsoKind::UdpL4,
        };
        if context.ipv4 {
            let total = u16::try_from(len - l3).ok()?;
            proto.get_mut(l3..l4)?;
            put(proto, l3 + 2, total)?;
            put(proto, l3 + 10, 0)?;
            let sum = checksum::sum(&proto[l3..l4]);
            put(proto, l3 + 10, !sum)?;
        } else {
            let total = u16::try_from(len.checked_sub(l3 + 40)?).ok()?;
            put(proto, l3 + 4, total)?;
        }
        let l4_len = u16::try_from(len.checked_sub(l4)?).ok()?;
        if kind == GsoKind::UdpL4 {
            put(proto, l4 + 4, l4_len)?;
        }
        // The driver's seed leaves the length out, because it differs from segment to segment.
        let field = usize::from(context.l4.offset);
        let seed = u16::from_be_bytes([*proto.get(field)?, *proto.get(field + 1)?]);
        put(proto, field, checksum::add(seed, l4_len))?;
        let mut offload = Offload {
            csum: Some(Csum {
                start: l4 as u16,
                offset: u16::try_from(field.checked_sub(l4)?).ok()?,
            }),
            gso: Some(Gso {
                kind,
                hdr_len: headers as u16,
                mss: context.mss,
            }),
            bad_fcs: false,
        };
        let count = Layout::parse(proto, len, &offload)?.segments();
        if count == 1 {
            offload.gso = None;
        }
        Some((offload, count))
    }
}

/// Lengths of a packet: its own, room for a tag before it, its own with padding; that tag; whether it ends with an FCS.
#[derive(Clone, Copy, Debug)]
struct Shape {
    len: usize,
    slack: usize,
    padded: usize,
    tag: Option<(u16, u16)>,
    own_fcs: bool,
}

/// What has to be done to a packet's bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Jobs {
    ip: Option<Job>,
    l4: Option<Job>,
    /// In the L4 field 0 means "none".
    udp: bool,
    /// The L4 checksum can be left to the backend.
    offload: bool,
    /// First bytes of the packet that all this is about.
    head: usize,
}

/// A checksum over bytes `start..end`, stored at `field`; all of it within the packet.
#[derive(Clone, Copy, Debug)]
struct Job {
    start: usize,
    end: usize,
    field: usize,
}

impl Job {
    /// None if the offsets do not lie in the packet: such a request is ignored.
    fn new(start: usize, field: usize, last: usize, len: usize) -> Option<Self> {
        let end = if last == 0 { len } else { (last + 1).min(len) };
        (start < end && field + 2 <= len).then_some(Self { start, end, field })
    }

    fn from_range(range: Range, len: usize) -> Option<Self> {
        Self::new(
            range.start.into(),
            range.offset.into(),
            range.end.into(),
            len,
        )
    }

    fn fill(&self, bytes: &mut [u8], udp: bool) {
        let mut value = !checksum::sum(&bytes[self.start..self.end]);
        if udp {
            value = checksum::never_zero(value);
        }
        bytes[self.field..self.field + 2].copy_from_slice(&value.to_be_bytes());
    }
}

/// Moves the copied first bytes of the packet to `head`; returns the number of the first piece that is left.
fn take_head(head: &mut [u8], pieces: &mut [GuestSlice<'_>], first: usize) -> usize {
    let mut at = 0;
    let mut index = first;
    while at < head.len() && index < pieces.len() {
        let n = pieces[index].copy_to(&mut head[at..]);
        at += n;
        if n < pieces[index].len() {
            pieces[index] = pieces[index].split_at(n).1;
        } else {
            index += 1;
        }
    }
    index
}

/// Puts the tag behind the addresses, which move to the front of `frame`: its first four bytes are slack.
#[inline]
fn insert_tag(frame: &mut [u8], tag: Option<(u16, u16)>) {
    let Some((ethertype, tci)) = tag else {
        return;
    };
    frame.copy_within(VLAN_TAG..VLAN_TAG + ETH_TYPE, 0);
    frame[ETH_TYPE..ETH_TYPE + 2].copy_from_slice(&ethertype.to_be_bytes());
    frame[ETH_TYPE + 2..ETH_TYPE + 4].copy_from_slice(&tci.to_be_bytes());
}

/// Offsets in a packet become offsets in a frame with `slack` more bytes before them.
fn shift(mut offload: Offload, slack: usize) -> Offload {
    if let Some(csum) = &mut offload.csum {
        csum.start += slack as u16;
    }
    if let Some(gso) = &mut offload.gso {
        gso.hdr_len += slack as u16;
    }
    offload
}

/// Copies guest memory to the end of `store`.
pub(super) fn append_piece(store: &mut Vec<u8>, piece: &GuestSlice<'_>) {
    let start = store.len();
    store.resize(start + piece.len(), 0);
    piece.copy_to(&mut store[start..]);
}

fn put(bytes: &mut [u8], at: usize, value: u16) -> Option<()> {
    bytes
        .get_mut(at..at + 2)?
        .copy_from_slice(&value.to_be_bytes());
    Some(())
}
