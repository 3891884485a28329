//! Writing an accepted frame into the guest's buffers (8254x manual 3.2.3 to 3.2.6).

use guest_mem::{DmaError, GuestMem};
use serde::{Deserialize, Serialize};

use super::super::Shared;
use super::super::bits::{cause, rxcsum};
use super::super::desc::RxWord;
use super::super::regs::Reg;
use super::Batch;
use super::checksum;
use super::judge::How;
use super::ring::Descriptors;
use crate::common::checksum::{Sum, never_zero};
use crate::common::frame::{ETH_HEADER, ETH_TYPE, FCS, MIN_FRAME, RxCsum, RxFrame, VLAN_TAG};
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

impl Batch {
    /// Writes `frame`, from where `progress` says. With `keep`, the beginning of a frame is written even if there are not
    /// enough descriptors for its end.
    #[expect(clippy::too_many_arguments, reason = "one call, from one place")]
    pub(super) fn place(
        &mut self,
        shared: &Shared,
        mem: &GuestMem,
        descriptors: &mut Descriptors,
        frame: RxFrame<'_>,
        layout: Option<&Layout>,
        how: &How,
        progress: &mut Progress,
        keep: bool,
    ) -> Place {
        let data = frame.data;
        let valid = frame.meta.csum == RxCsum::Valid;
        let Some(layout) = layout else {
            let RxCsum::Partial(csum) = frame.meta.csum else {
                return self.write(
                    shared,
                    mem,
                    descriptors,
                    [data, &[]],
                    how,
                    valid,
                    &mut progress.offset,
                    keep,
                );
            };
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
            return self.write(
                shared,
                mem,
                descriptors,
                [head, rest],
                how,
                true,
                &mut progress.offset,
                keep,
            );
        };
        let mut head = [0; MAX_HEADERS];
        let head = &mut head[..layout.headers()];
        let (prototype, payload) = data.split_at(layout.headers());
        while progress.segment < layout.segments() {
            let payload = &payload[layout.payload(progress.segment)];
            head.copy_from_slice(prototype);
            layout.head(head, progress.segment);
            layout.seal(head, payload);
            let offset = &mut progress.offset;
            match self.write(
                shared,
                mem,
                descriptors,
                [head, payload],
                how,
                true,
                offset,
                keep,
            ) {
                Place::Done => {}
                other => return other,
            }
            progress.segment += 1;
            progress.offset = 0;
        }
        Place::Done
    }

    /// Writes one frame, which is `head` and `rest`; the first `offset` bytes of what is stored have been written.
    #[expect(clippy::too_many_arguments, reason = "two calls, from one place")]
    fn write(
        &mut self,
        shared: &Shared,
        mem: &GuestMem,
        descriptors: &mut Descriptors,
        [head, rest]: [&[u8]; 2],
        how: &How,
        valid: bool,
        offset: &mut usize,
        keep: bool,
    ) -> Place {
        let Some(ring) = self.ring else {
            return Place::NoDescriptor;
        };
        let regs = &shared.regs;
        let mut owned = ring.owned(self.head, regs.get(Reg::RDT));
        let len = head.len() + rest.len();
        let mut tail = [0; MIN_FRAME + FCS];
        let pad = MIN_FRAME.saturating_sub(len);
        let tail = &mut tail[..pad + FCS];
        let (before, after) = match how.strip {
            Some(_) => (&head[..ETH_TYPE], &head[ETH_TYPE + VLAN_TAG..]),
            None => (head, &[][..]),
        };
        let stored = before.len() + after.len() + rest.len() + pad + if how.fcs { FCS } else { 0 };
        if owned == 0 || (!keep && (owned as usize) < stored.div_ceil(how.buffer)) {
            return Place::NoDescriptor;
        }
        if how.fcs {
            fill_fcs(tail, head, rest, how.bad_fcs);
        }
        let tail = &tail[..pad + if how.fcs { FCS } else { 0 }];
        let chunks = [before, after, rest, tail];
        let word = describe(head, rest, how, valid);
        let minimum = ring.len() >> how.minimum_shift;

        for _ in 0..MAX_DESCRIPTORS {
            if owned == 0 {
                return Place::NoDescriptor;
            }
            let buffer = match descriptors.buffer(mem, ring, self.head, owned) {
                Ok(buffer) => buffer,
                Err(DmaError::Unreachable { .. }) => {
                    shared.counters.dma_unreachable.add(1);
                    return Place::Unreachable;
                }
                Err(DmaError::Interrupted) => return Place::Interrupted,
            };
            let n = how.buffer.min(stored.saturating_sub(*offset));
            let mut end = *offset;
            let done = if buffer == 0 {
                // No buffer: nothing is stored, the frame goes on in the next one.
                RxWord::new().with_dd(true)
            } else {
                // Nearly always all of the frame.
                let parts = match n == stored {
                    true => chunks,
                    false => parts(&chunks, *offset, n),
                };
                match mem.write_chunks(buffer, &parts, &mut descriptors.scratch) {
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
            match descriptors.done(mem, ring, self.head, done) {
                Ok(()) => {}
                Err(DmaError::Unreachable { .. }) => shared.counters.dma_unreachable.add(1),
                // The buffer is written again then: it is still ours.
                Err(DmaError::Interrupted) => return Place::Interrupted,
            }
            *offset = end;
            self.advance(ring);
            owned -= 1;
            if owned == minimum {
                self.causes |= cause::RXDMT0;
            }
            if *offset >= stored && buffer != 0 {
                self.causes |= cause::RXT0;
                let stripped = if how.strip.is_some() { VLAN_TAG } else { 0 };
                let wire = len.max(MIN_FRAME) + FCS - stripped;
                if wire <= regs.get(Reg::RSRPD) as usize {
                    self.causes |= cause::SRPD;
                }
                let dst = *head.first_chunk().expect("a frame has a header");
                if how.good {
                    self.good.add(dst, len.max(MIN_FRAME), 1);
                }
                return Place::Done;
            }
        }
        Place::NoBuffer
    }

    fn advance(&mut self, ring: Ring) {
        self.head = ring.next(self.head);
        self.moved = true;
    }
}

/// The descriptor's last word, except for its length.
fn describe(head: &[u8], rest: &[u8], how: &How, valid: bool) -> RxWord {
    let mut word = RxWord::new()
        .with_pif(how.inexact)
        .with_ce(how.bad_fcs)
        .with_vp(how.strip.is_some())
        .with_special(how.strip.unwrap_or(0));
    // The packet checksum costs a pass over the frame and no driver of this part reads it: it is worth that only to one
    // who says where it has to start.
    let start = (how.checksums & rxcsum::PCSS) as usize;
    if start > 0 {
        let mut sum = Sum::new();
        sum.add(head.get(start..).unwrap_or(&[]));
        sum.add(rest.get(start.saturating_sub(head.len())..).unwrap_or(&[]));
        word.set_csum(sum.fold());
    }
    checksum::report(word, head, head.len() + rest.len(), how.checksums, valid)
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

/// Bytes `from..from + len` of the chunks.
fn parts<'a>(chunks: &[&'a [u8]; 4], mut from: usize, mut len: usize) -> [&'a [u8]; 4] {
    chunks.map(|chunk| {
        let start = from.min(chunk.len());
        let end = chunk.len().min(start + len);
        from -= start;
        len -= end - start;
        &chunk[start..end]
    })
}
