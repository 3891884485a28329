//! The transmit ring: from descriptors to frames and back (8254x manual, 3.3 and 3.4).
//!
//! [`TxQueue::fetch`] turns descriptors into frames that a backend is lent, [`TxQueue::complete`] tells the driver about
//! those that the backend took. What it did not take was never taken from the ring: TDH stays before it, and the next
//! fetch finds it again, under the contexts that were in force then.
//!
//! Memory that is not mapped but [`Remote`](guest_mem::Remote) costs messages, so a burst reads all its descriptors at
//! once, each buffer at once, into host memory, and writes all its descriptors back at once. Then it waits until they
//! have arrived, and only then the guest is told, by TDH and by interrupt. An epoch may interrupt any of this; what the
//! backend was given is not offered again.

mod packet;
mod ring;
mod saved;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use guest_mem::{DmaError, GuestMem};

use super::Shared;
use super::bits::{cause, ctrl, rctl, tctl, txdctl};
use super::desc::{Context, TxKind};
use super::flow::{self, Pause};
use super::regs::Reg;
use super::tally::{self, Tally};
use crate::common::frame::{BURST_FRAMES, FCS, Gso, MAX_SUPER_FRAME, MIN_FRAME, Offload, TxBurst};
use crate::common::ring::Ring;
use crate::{Interrupted, Time};
use packet::{Append, Finished, MAX_HEAD, Packet, Refusal};
use ring::{Descriptors, Window};
pub use saved::TxState;

/// Descriptors that one call of [`TxQueue::fetch`] looks at.
const BUDGET: usize = 256;
/// Segments after which a burst is closed: a super-frame stands for much more work than a frame.
const SEGMENTS: usize = 2048;
/// Bytes that packets in host memory may have: one super-frame, and the rest of a burst of small ones.
const BOUNCE: usize = MAX_SUPER_FRAME + 4096;

/// What a fetch found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// No frames, and nothing more to do until the driver writes a register.
    Idle,
    /// Frames; the ring has nothing behind them.
    Frames,
    /// Frames or none, and the ring has more: call again after this burst.
    More,
    /// No frames, and nothing is lost: let the epoch pass and call again (see [`Interrupted`]).
    Interrupted,
}

/// The two contexts that the part keeps: a checksum context survives a segmentation context, and the reverse.
#[derive(Clone, Copy, Debug, Default)]
struct Contexts {
    csum: Context,
    tso: Context,
}

impl Contexts {
    fn load(&mut self, context: Context) {
        if context.tse {
            self.tso = context;
        } else {
            self.csum = context;
        }
    }
}

/// Where the queue stands after some descriptor: what it has to be set to when everything before is completed. One is
/// kept for each frame, so it is small.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    /// The next descriptor.
    next: u32,
    /// Descriptors before it, and of them those that are written back and those that are contexts.
    descriptors: u32,
    done: u32,
    contexts: u32,
    malformed: u32,
    tso_sent: u32,
    tso_failed: u32,
    unreachable: u32,
    /// What [`TxQueue::partial`] held has been used.
    resumed: bool,
    /// Of those that are written back, some want their interrupt at once, and some want it late.
    at_once: bool,
    delayed: bool,
}

/// What [`TxQueue::complete`] has to know of a fetch.
#[derive(Debug, Default)]
struct Pending {
    /// Descriptors that were the queue's when it fetched.
    owned: u32,
    descriptors: Descriptors,
    /// The contexts among them.
    contexts: ArrayVec<Context, BUDGET>,
    /// Position after each frame of the burst.
    frames: ArrayVec<Position, BURST_FRAMES>,
    /// Position after everything that was looked at.
    end: Position,
    /// Where the queue has to go, and could not yet for an epoch.
    owed: Option<Position>,
}

impl Pending {
    fn clear(&mut self) {
        self.descriptors.clear();
        self.contexts.clear();
        self.frames.clear();
        self.end = Position::default();
    }
}

/// The transmit ring of one NIC. Whoever holds it sends; nobody else touches the ring.
#[derive(Debug)]
pub struct TxQueue {
    shared: Arc<Shared>,
    generation: u64,
    contexts: Contexts,
    /// A packet whose end is not in the ring yet: its descriptors are completed, its bytes kept here.
    partial: Option<Packet>,
    /// Those bytes. Like `spare` it exists from its first use, and never grows.
    partial_bytes: Vec<u8>,
    /// Buffer for packets that have to be worked on in host memory; in the burst meanwhile.
    spare: Vec<u8>,
    /// Bytes of the packet at hand, if it has buffers that are not mapped. Like the others.
    staged: Vec<u8>,
    pending: Pending,
    /// The burst is a pause frame of the NIC's own.
    pause: Option<Pause>,
}

impl TxQueue {
    /// The queue of the NIC whose registers are `shared`.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            generation: shared.generation(),
            shared,
            contexts: Contexts::default(),
            partial: None,
            partial_bytes: Vec::new(),
            spare: Vec::new(),
            staged: Vec::new(),
            pending: Pending::default(),
            pause: None,
        }
    }

    /// Fills `burst` with the next whole packets, as far as the burst and the work of one turn go. Every fetch is to
    /// be followed by [`TxQueue::complete`], unless the burst is empty.
    ///
    /// A packet whose end is not in the ring when its beginning is the next thing to send is taken out of the ring and
    /// kept; `now` is for the interrupt of such descriptors.
    pub fn fetch<'m>(&mut self, mem: &'m GuestMem, burst: &mut TxBurst<'m>, now: Time) -> Fetch {
        self.recycle(burst);
        self.sync();
        if self.settle(mem, now).is_err() {
            return Fetch::Interrupted;
        }
        self.pending.clear();
        if self.push_pause(burst) {
            return Fetch::More;
        }
        if self.shared.flow.is_paused(now) {
            return Fetch::Idle;
        }
        let regs = &self.shared.regs;
        let (control, receive) = (regs.get(Reg::CTRL), regs.get(Reg::RCTL));
        let head = regs.get(Reg::TDH);
        let owned = self.owned(head);
        let Some(ring) = self.ring().filter(|_| owned > 0) else {
            return Fetch::Idle;
        };
        let mac_loopback = receive & rctl::LBM == 1 << rctl::LBM_SHIFT;
        burst.set_loopback(mac_loopback || self.shared.phy_loopback.load(Ordering::Relaxed));
        let tag = (control & ctrl::VME != 0).then(|| regs.get(Reg::VET) as u16);
        let pad = regs.get(Reg::TCTL) & tctl::PSP != 0;

        self.pending.descriptors.begin(mem, ring);
        self.pending.owned = owned;
        let mut window = Window::new();
        let mut at = Position {
            next: head,
            ..Position::default()
        };
        let mut contexts = self.contexts;
        let mut segments = 0;
        let mut interrupted;
        let more;
        // One turn per packet. `at` moves on only when the packet is whole, or taken out of the ring unfinished.
        loop {
            let mut now_at = at;
            let mut packet = match &self.partial {
                Some(packet) if !at.resumed => Some(packet.clone()),
                _ => None,
            };
            let first_piece = burst.pieces().len();
            let mut stop = Stop::None;
            let mut last = None;
            while last.is_none() {
                let left = owned - now_at.descriptors;
                if left == 0 {
                    stop = Stop::Drained;
                    break;
                }
                if now_at.descriptors as usize == BUDGET {
                    stop = Stop::Full;
                    break;
                }
                let descriptors = &mut self.pending.descriptors;
                let (index, number) = (now_at.next, now_at.descriptors);
                let desc = match descriptors.get(&mut window, mem, ring, index, number, left) {
                    Ok(desc) => desc,
                    Err(DmaError::Unreachable { .. }) => {
                        stop = Stop::Unreachable;
                        break;
                    }
                    Err(DmaError::Interrupted) => {
                        stop = Stop::Interrupted;
                        break;
                    }
                };
                match desc.kind() {
                    TxKind::Context => {
                        let context = desc.into();
                        contexts.load(context);
                        self.pending.contexts.push(context);
                        now_at.contexts += 1;
                    }
                    TxKind::Reserved => now_at.malformed += 1,
                    TxKind::Legacy | TxKind::Data => {
                        let packet = packet.get_or_insert_with(|| {
                            Packet::new(&desc, &contexts.csum, &contexts.tso)
                        });
                        let kept = &self.partial_bytes;
                        let staged = &mut self.staged;
                        match packet.append(&desc, mem, burst, first_piece, kept, staged) {
                            Append::Taken => {}
                            Append::NoRoom => {
                                stop = Stop::Full;
                                break;
                            }
                            Append::Interrupted => {
                                stop = Stop::Interrupted;
                                break;
                            }
                        }
                        if desc.word.eop() {
                            last = Some(desc);
                        }
                    }
                }
                if desc.word.rs() || desc.word.rps() {
                    self.pending.descriptors.push(index, number, &desc);
                    now_at.done += 1;
                    now_at.at_once |= !desc.word.ide();
                    now_at.delayed |= desc.word.ide();
                }
                now_at.next = ring.next(now_at.next);
                now_at.descriptors += 1;
            }

            if stop == Stop::Unreachable {
                self.shared.counters.dma_unreachable.add(1);
            }
            interrupted = stop == Stop::Interrupted;
            let finished = match (&packet, last) {
                (Some(packet), Some(last)) => {
                    // Of these it takes as many as it has kept.
                    let kept = match packet.is_staged() {
                        true => &self.staged,
                        false => &self.partial_bytes,
                    };
                    let bounce = &mut self.spare;
                    packet.finish(&last, kept, burst, first_piece, tag, pad, bounce)
                }
                // Only contexts and the like since the last packet: they are done with.
                (None, _) => {
                    self.pending.end = now_at;
                    more = stop == Stop::Full || interrupted;
                    break;
                }
                (Some(_), None)
                    if !interrupted && burst.is_empty() && at.descriptors < now_at.descriptors =>
                {
                    let packet = packet.expect("matched");
                    self.absorb(packet, burst, first_piece, at.resumed);
                    // The partial packet is what is kept now, not what was used up.
                    now_at.resumed = false;
                    self.pending.end = now_at;
                    more = stop == Stop::Full;
                    break;
                }
                (Some(_), None) => Finished::NoRoom,
            };
            match finished {
                Finished::Pushed(count) => {
                    segments += count;
                    now_at.resumed = true;
                    now_at.tso_sent += u32::from(packet.is_some_and(|packet| packet.is_tso()));
                    self.pending.frames.push(now_at);
                }
                Finished::NoRoom => {
                    // The packet waits in the ring for the next burst.
                    burst.pieces().truncate(first_piece);
                    self.pending.end = at;
                    more = stop != Stop::Unreachable;
                    break;
                }
                Finished::Refused(refusal) => {
                    burst.pieces().truncate(first_piece);
                    now_at.resumed = true;
                    match refusal {
                        Refusal::Malformed => now_at.malformed += 1,
                        Refusal::Unreachable => now_at.unreachable += 1,
                        Refusal::Tso => now_at.tso_failed += 1,
                    }
                }
            }
            at = now_at;
            if !burst.has_room(MAX_HEAD) || segments >= SEGMENTS {
                self.pending.end = at;
                more = at.descriptors < owned;
                break;
            }
        }
        if !burst.is_empty() {
            return if more { Fetch::More } else { Fetch::Frames };
        }
        let end = self.pending.end;
        if end.descriptors > 0 {
            self.pending.owed = Some(end);
            interrupted |= self.settle(mem, now).is_err();
        }
        match (interrupted, more) {
            (true, _) => Fetch::Interrupted,
            (false, true) => Fetch::More,
            (false, false) => Fetch::Idle,
        }
    }

    /// The first `accepted` frames of `burst` have left: tells the driver. The rest stays in the ring. `burst` is
    /// empty afterwards, and may be used again.
    ///
    /// # Errors
    ///
    /// [`Interrupted`]: the frames have left and will not be offered again, but the driver could not be told. That is up
    /// to [`settle`](Self::settle) after the epoch, or the next fetch.
    pub fn complete(
        &mut self,
        mem: &GuestMem,
        burst: &mut TxBurst<'_>,
        accepted: usize,
        now: Time,
    ) -> Result<(), Interrupted> {
        // After a reset nothing may be written back any more.
        let stale = self.generation != self.shared.generation();
        let accepted = accepted.min(burst.len());
        if let Some(pause) = self.pause.take() {
            if !stale {
                self.complete_pause(pause, accepted > 0, now);
            }
            self.recycle(burst);
            return Ok(());
        }
        if !stale && accepted > 0 {
            let end = if accepted == burst.len() {
                self.pending.end
            } else {
                self.pending.frames[accepted - 1]
            };
            self.count(burst, accepted);
            self.pending.owed = Some(end);
        }
        let settled = if stale { Ok(()) } else { self.settle(mem, now) };
        self.recycle(burst);
        settled
    }

    /// Tells the driver of what has left, if an epoch was in the way before: descriptors, head, contexts, interrupts, in
    /// this order. The head waits like the interrupt until the descriptors have arrived: a driver that sees it may use
    /// them again.
    ///
    /// # Errors
    ///
    /// [`Interrupted`]: to be called again after the epoch.
    pub fn settle(&mut self, mem: &GuestMem, now: Time) -> Result<(), Interrupted> {
        self.tell(mem, now, true)
    }

    /// As [`settle`](Self::settle), for a guest that is stopped: it sees nothing before all that was written has arrived,
    /// so that is not waited for.
    ///
    /// # Errors
    ///
    /// [`Interrupted`], if not even a write is taken before the epoch has passed.
    pub fn stop(&mut self, mem: &GuestMem, now: Time) -> Result<(), Interrupted> {
        self.tell(mem, now, false)
    }

    /// Makes `burst` the pause frame that is to be sent, if there is one.
    #[inline]
    fn push_pause(&mut self, burst: &mut TxBurst<'_>) -> bool {
        let pause = self.shared.flow.take();
        pause.is_some_and(|pause| self.push_this_pause(burst, pause))
    }

    #[cold]
    fn push_this_pause(&mut self, burst: &mut TxBurst<'_>, pause: Pause) -> bool {
        let Shared {
            regs, phy_loopback, ..
        } = &*self.shared;
        // A NIC that hears only itself has nobody to tell.
        let looped = regs.get(Reg::RCTL) & rctl::LBM != 0 || phy_loopback.load(Ordering::Relaxed);
        if looped || !flow::can_send(regs) {
            return false;
        }
        let (frame, _) = flow::frame(regs, pause);
        self.pause = Some(pause);
        burst.push_frame(&frame, &[], Offload::default())
    }

    fn complete_pause(&self, pause: Pause, accepted: bool, now: Time) {
        let Shared { regs, flow, .. } = &*self.shared;
        if !accepted {
            return flow.put_back(pause);
        }
        let (frame, counter) = flow::frame(regs, pause);
        regs.stat_add(counter, 1);
        // Of the statistics of frames, only those of all that leave the NIC count it.
        regs.stat_add(Reg::TPT, 1);
        regs.stat_add64(Reg::TOTL, (frame.len() + FCS) as u64);
        flow.sent(regs, pause, now);
    }

    fn tell(&mut self, mem: &GuestMem, now: Time, wait: bool) -> Result<(), Interrupted> {
        self.sync();
        let Some(end) = self.pending.owed else {
            return Ok(());
        };
        let Shared {
            regs,
            irq,
            counters,
            ..
        } = &*self.shared;
        let descriptors = &mut self.pending.descriptors;
        descriptors.write_back(mem, end.done as usize, counters)?;
        if wait {
            mem.flush().map_err(|_| Interrupted)?;
        }
        if self.generation != self.shared.generation() {
            // A reset came meanwhile, on another thread.
            self.sync();
            return Ok(());
        }
        self.pending.owed = None;

        regs.set(Reg::TDH, end.next);
        for &context in &self.pending.contexts[..end.contexts as usize] {
            self.contexts.load(context);
        }
        if end.resumed {
            self.partial = None;
            self.partial_bytes.clear();
        }
        regs.stat_add(Reg::TSCTC, end.tso_sent);
        regs.stat_add(Reg::TSCTFC, end.tso_failed);
        counters
            .tx_malformed
            .add(u64::from(end.malformed + end.tso_failed));
        counters.dma_unreachable.add(u64::from(end.unreachable));

        let mut causes = 0;
        if end.at_once {
            causes |= cause::TXDW;
        } else if end.delayed {
            irq.raise_tx_delayed(now);
        }
        if regs.get(Reg::TDT) == end.next {
            causes |= cause::TXQE;
        }
        let low = (regs.get(Reg::TXDCTL) >> txdctl::LWTHRESH_SHIFT) * 8;
        let left = self.pending.owned - end.descriptors;
        if self.pending.owned > low && left <= low {
            causes |= cause::TXD_LOW;
        }
        if causes != 0 {
            irq.raise(causes);
        }
        Ok(())
    }

    /// Whether the driver has been told of everything that has left. While it has not, the state of the queue is no
    /// state to save: see [`stop`](Self::stop).
    pub fn is_settled(&self) -> bool {
        self.pending.owed.is_none()
    }

    /// Descriptors that wait, if the transmitter is on.
    fn owned(&self, head: u32) -> u32 {
        let regs = &self.shared.regs;
        if regs.get(Reg::TCTL) & tctl::EN == 0 || !self.shared.bus_master.load(Ordering::Acquire) {
            return 0;
        }
        let tail = regs.get(Reg::TDT);
        self.ring().map_or(0, |ring| ring.owned(head, tail))
    }

    fn ring(&self) -> Option<Ring> {
        let regs = &self.shared.regs;
        Ring::new(regs.get_u64(Reg::TDBAL, Reg::TDBAH), regs.get(Reg::TDLEN))
    }

    /// Drops everything that a reset has made meaningless.
    fn sync(&mut self) {
        let generation = self.shared.generation();
        if self.generation != generation {
            self.generation = generation;
            self.contexts = Contexts::default();
            self.partial = None;
            self.partial_bytes.clear();
            self.pending.owed = None;
        }
    }

    /// Empties `burst` and takes the bounce buffer back.
    fn recycle(&mut self, burst: &mut TxBurst<'_>) {
        let bounce = burst.clear();
        if bounce.capacity() > 0 {
            self.spare = bounce;
        }
    }

    /// Keeps the beginning of a packet whose end cannot be had now, and whose descriptors are about to be completed.
    #[cold]
    fn absorb(
        &mut self,
        mut packet: Packet,
        burst: &mut TxBurst<'_>,
        first_piece: usize,
        resumed: bool,
    ) {
        if resumed {
            self.partial_bytes.clear();
        }
        if self.partial_bytes.capacity() == 0 {
            self.partial_bytes.reserve_exact(MAX_SUPER_FRAME + FCS);
        }
        if packet.refused().is_some() {
            burst.pieces().truncate(first_piece);
            self.partial_bytes.clear();
        } else if packet.is_staged() {
            std::mem::swap(&mut self.partial_bytes, &mut self.staged);
        }
        for piece in burst.pieces().drain(first_piece..) {
            packet::append_piece(&mut self.partial_bytes, &piece);
        }
        packet.keep();
        self.partial = Some(packet);
    }

    /// Statistics of the first `accepted` frames: of each segment that goes on the wire.
    fn count(&self, burst: &TxBurst<'_>, accepted: usize) {
        let mut tally = Tally::default();
        let pad = self.shared.regs.get(Reg::TCTL) & tctl::PSP != 0;
        let shortest = if pad { MIN_FRAME } else { 0 };
        let mut bad_fcs = 0;
        for frame in burst.frames().take(accepted) {
            let dst = *frame.head.first_chunk().expect("a frame has a header");
            bad_fcs += u64::from(frame.offload.bad_fcs);
            match frame.offload.gso {
                None => tally.add(dst, frame.len(), 1),
                Some(Gso { hdr_len, mss, .. }) => {
                    let (headers, mss) = (usize::from(hdr_len), usize::from(mss));
                    let payload = frame.len() - headers;
                    let last = payload % mss;
                    tally.add(dst, (headers + mss).max(shortest), payload / mss);
                    if last > 0 {
                        tally.add(dst, (headers + last).max(shortest), 1);
                    }
                }
            }
        }
        let Shared { regs, counters, .. } = &*self.shared;
        let (frames, bytes) = tally.totals();
        counters.tx_frames.add(frames);
        counters.tx_bytes.add(bytes);
        counters.tx_bad_fcs.add(bad_fcs);
        regs.stat_add(Reg::TPT, frames as u32);
        regs.stat_add64(Reg::TOTL, bytes + frames * FCS as u64);
        tally.flush(regs, &tally::SENT);
    }
}

/// Why the descriptors of a packet ended before the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    None,
    /// The driver has given no more.
    Drained,
    /// This call has no room or budget for more.
    Full,
    /// The ring does not lie in reachable memory.
    Unreachable,
    /// An epoch has to pass first.
    Interrupted,
}
