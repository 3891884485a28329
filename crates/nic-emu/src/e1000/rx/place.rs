//! Writing an accepted frame into the guest's buffers (8254x manual 3.2.3 to 3.2.6).

use guest_mem::{DmaError, GuestMem};
use serde::{Deserialize, Serialize};

use super::super::Shared;
use super::super::bits::{cause, rxcsum};
use super::super::desc::RxWord;
use super::super::part::Part;
use super::super::regs::Reg;
use super::Batch;
use super::checksum;
use super::judge::How;
use super::ring::Descriptors;
use crate::common::checksum::{Sum, never_zero};
use crate::common::frame::{Csum, ETH_HEADER, ETH_TYPE, FCS, MIN_FRAME, RxCsum, RxFrame, VLAN_TAG};
use crate::common::gso::{Layout, MAX_HEADERS};
use crate::common::ring::Ring;

/// Most descriptors that one frame may use up. The longest frame in the smallest buffers takes 258: who needs more has
/// filled the ring with descriptors that have no buffer.
const MAX_DESCRIPTORS: usize = 320;

/// How far a frame has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// The segment at hand: all before it are placed.
    pub(super) segment: usize,
    /// Bytes of it that the guest has.
    pub(super) offset: usize,
}

/// How placing a frame ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Done,
    /// The descriptors are used up; what is left can go on later.
    NoDescriptor,
    /// Too many descriptors without a buffer.
    NoBuffer,
    /// The ring cannot be reached.
    Unreachable,
    /// An epoch has to pass first; what is left can go on then.
    Interrupted,
}

/// What is needed to place a frame.
pub(super) struct Placing<'a> {
    pub(super) batch: &'a mut Batch,
    pub(super) shared: &'a Shared,
    pub(super) mem: &'a GuestMem,
    pub(super) descriptors: &'a mut Descriptors,
    pub(super) how: &'a How,
    /// The beginning of a frame is written even if there are not enough descriptors for its end.
    pub(super) keep: bool,
}

impl Placing<'_> {
    /// Writes `frame`, from where `progress` says.
    #[inline(always)]
    pub(super) fn frame(
        &mut self,
        frame: RxFrame<'_>,
        layout: Option<&Layout>,
        progress: &mut Progress,
    ) -> Place {
        match (layout, frame.meta.csum) {
            (Some(layout), _) => self.segments(frame.data, layout, progress),
            (None, RxCsum::Partial(csum)) => self.completed(frame.data, csum, progress),
            (None, csum) => {
                let valid = csum == RxCsum::Valid;
                self.write(frame.data, &[], valid, &mut progress.offset)
            }
        }
    }

    /// A frame whose checksum its sender has left to do.
    #[inline(never)]
    fn completed(&mut self, data: &[u8], csum: Csum, progress: &mut Progress) -> Place {
        // The field is filled in in a copy: the frame may be on its way to others too.
        let mut head = [0; MAX_HEADERS];
        let Some(field) = csum.field(data.len().min(MAX_HEADERS)) else {
            return Place::Done;
        };
        let addresses = (ETH_HEADER + VLAN_TAG).min(data.len());
        let (start, rest) = data.split_at(addresses.max(field + 2));
        let head = &mut head[..start.len()];
        head.copy_from_slice(start);
        let mut sum = Sum::new();
        sum.add(&data[usize::from(csum.start)..]);
        head[field..field + 2].copy_from_slice(&never_zero(!sum.fold()).to_be_bytes());
        self.write(head, rest, true, &mut progress.offset)
    }

    /// What a super-frame is cut into.
    #[inline(never)]
    fn segments(&mut self, data: &[u8], layout: &Layout, progress: &mut Progress) -> Place {
        let mut head = [0; MAX_HEADERS];
        let head = &mut head[..layout.headers()];
        let (prototype, payload) = data.split_at(layout.headers());
        while progress.segment < layout.segments() {
            let payload = &payload[layout.payload(progress.segment)];
            head.copy_from_slice(prototype);
            layout.head(head, progress.segment);
            layout.seal(head, payload);
            match self.write(head, payload, true, &mut progress.offset) {
                Place::Done => {}
                other => return other,
            }
            progress.segment += 1;
            progress.offset = 0;
        }
        Place::Done
    }

    /// Writes one frame, which is `head` and `rest`; the first `offset` bytes of what is stored have been written.
    fn write(&mut self, head: &[u8], rest: &[u8], valid: bool, offset: &mut usize) -> Place {
        let Self {
            batch,
            shared,
            mem,
            descriptors,
            how,
            keep,
        } = self;
        let Some(ring) = batch.ring else {
            return Place::NoDescriptor;
        };
        let mut owned = ring.owned(batch.head, shared.regs.get(Reg::RDT));
        let len = head.len() + rest.len();
        // Nearly always what is stored is what has come, and in one piece.
        let as_it_is = rest.is_empty() && len >= MIN_FRAME && !how.fcs && how.strip.is_none();
        let (whole, mut tail, changed);
        let chunks: &[&[u8]] = if as_it_is {
            whole = [head];
            &whole
        } else {
            tail = [0; MIN_FRAME + FCS];
            changed = change(head, rest, how, &mut tail);
            &changed
        };
        let stored: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        if owned == 0 || (!*keep && (owned as usize) < stored.div_ceil(how.buffer)) {
            return Place::NoDescriptor;
        }
        let word = describe(head, len, chunks, how, shared.part, valid);
        let minimum = ring.len() >> how.minimum_shift;

        for _ in 0..MAX_DESCRIPTORS {
            if owned == 0 {
                return Place::NoDescriptor;
            }
            let taken = match descriptors.take(mem, ring, batch.head, owned) {
                Ok(taken) => taken,
                Err(DmaError::Unreachable { .. }) => {
                    shared.counters.dma_unreachable.add(1);
                    return Place::Unreachable;
                }
                Err(DmaError::Interrupted) => return Place::Interrupted,
            };
            let buffer = taken.buffer;
            let n = how.buffer.min(stored.saturating_sub(*offset));
            let mut end = *offset;
            let done = if buffer == 0 {
                // No buffer: nothing is stored, the frame goes on in the next one.
                RxWord::new().with_dd(true)
            } else {
                let written = match n == stored {
                    true => mem.write_chunks(buffer, chunks, &mut descriptors.scratch),
                    false => write_part(mem, buffer, chunks, *offset, n, &mut descriptors.scratch),
                };
                match written {
                    Ok(()) => {}
                    Err(DmaError::Unreachable { .. }) => shared.counters.dma_unreachable.add(1),
                    Err(DmaError::Interrupted) => return Place::Interrupted,
                }
                end += n;
                let word = if end >= stored {
                    word.with_eop(true)
                } else {
                    RxWord::new()
                };
                word.with_dd(true).with_length(n as u16)
            };
            match descriptors.done(mem, ring, batch.head, &taken, done) {
                Ok(()) => {}
                Err(DmaError::Unreachable { .. }) => shared.counters.dma_unreachable.add(1),
                // The buffer is written again then: it is still ours.
                Err(DmaError::Interrupted) => return Place::Interrupted,
            }
            *offset = end;
            batch.advance(ring);
            owned -= 1;
            if owned == minimum {
                batch.causes |= cause::RXDMT0;
            }
            if end >= stored && buffer != 0 {
                batch.causes |= cause::RXT0;
                let stripped = if how.strip.is_some() { VLAN_TAG } else { 0 };
                let wire = len.max(MIN_FRAME) + FCS - stripped;
                if wire <= shared.regs.get(Reg::RSRPD) as usize {
                    batch.causes |= cause::SRPD;
                }
                let dst = *head.first_chunk().expect("a frame has a header");
                if how.good {
                    batch.good.add(dst, len.max(MIN_FRAME), 1);
                }
                return Place::Done;
            }
        }
        Place::NoBuffer
    }
}

impl Batch {
    #[inline]
    fn advance(&mut self, ring: Ring) {
        self.head = ring.next(self.head);
        self.moved = true;
    }
}

/// The descriptor's last word, except for its length, of a frame of `len` bytes that is stored as `chunks`.
#[inline]
fn describe(
    head: &[u8],
    len: usize,
    chunks: &[&[u8]],
    how: &How,
    part: Part,
    valid: bool,
) -> RxWord {
    let mut word = RxWord::new()
        .with_pif(how.inexact)
        .with_ce(how.bad_fcs)
        .with_vp(how.strip.is_some())
        .with_special(how.strip.unwrap_or(0));
    // The packet checksum costs a pass over the frame and no driver of this part reads it: it is worth that only to one
    // who says where it has to start.
    let start = (how.checksums & rxcsum::PCSS) as usize;
    if start > 0 {
        word.set_csum(packet_checksum(chunks, start));
    }
    match how.checksums & (rxcsum::IPOFL | rxcsum::TUOFL) {
        0 => word.with_ixsm(true),
        enabled => checksum::report(word, head, len, part, enabled, valid),
    }
}

/// The sum of a frame as it is stored, without its tag and with its FCS as the driver has asked for, from byte `start`
/// on (8254x manual, 3.2.9).
#[inline(never)]
fn packet_checksum(chunks: &[&[u8]], mut start: usize) -> u16 {
    let mut sum = Sum::new();
    for chunk in chunks {
        let skipped = start.min(chunk.len());
        start -= skipped;
        sum.add(&chunk[skipped..]);
    }
    sum.fold()
}

/// What is stored of a frame that is not stored as it has come: without its tag, with padding, with its FCS. The last two
/// are in `tail`.
#[inline(never)]
fn change<'a>(
    head: &'a [u8],
    rest: &'a [u8],
    how: &How,
    tail: &'a mut [u8; MIN_FRAME + FCS],
) -> [&'a [u8]; 4] {
    let pad = MIN_FRAME.saturating_sub(head.len() + rest.len());
    let tail = &mut tail[..pad + if how.fcs { FCS } else { 0 }];
    if how.fcs {
        fill_fcs(tail, head, rest, how.bad_fcs);
    }
    let (before, after) = match how.strip {
        Some(_) => (&head[..ETH_TYPE], &head[ETH_TYPE + VLAN_TAG..]),
        None => (head, &[][..]),
    };
    [before, after, rest, tail]
}

/// Writes padding and FCS: the CRC-32 of the frame as it was on the wire, least significant byte first.
fn fill_fcs(tail: &mut [u8], head: &[u8], rest: &[u8], bad: bool) {
    let (pad, fcs) = tail.split_at_mut(tail.len() - FCS);
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(rest);
    crc.update(pad);
    let crc = crc.finalize() ^ if bad { !0 } else { 0 };
    fcs.copy_from_slice(&crc.to_le_bytes());
}

/// Writes bytes `from..from + len` of the chunks, of which there are at most four.
#[cold]
fn write_part(
    mem: &GuestMem,
    buffer: u64,
    chunks: &[&[u8]],
    mut from: usize,
    mut len: usize,
    scratch: &mut Vec<u8>,
) -> Result<(), DmaError> {
    let mut parts: [&[u8]; 4] = [&[]; 4];
    for (part, chunk) in parts.iter_mut().zip(chunks) {
        let start = from.min(chunk.len());
        let end = chunk.len().min(start + len);
        from -= start;
        len -= end - start;
        *part = &chunk[start..end];
    }
    mem.write_chunks(buffer, &parts, scratch)
}
