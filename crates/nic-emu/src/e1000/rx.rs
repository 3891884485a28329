//! The receive ring: from frames to descriptors (8254x manual, 3.2).
//!
//! A batch is any number of [`RxQueue::deliver`] and one [`RxQueue::finish`]: frames are in the guest's memory when
//! `deliver` returns; head, statistics and interrupt follow at `finish`.
//!
//! Memory that is not mapped but [`Remote`](guest_mem::Remote) costs messages, so a batch reads many descriptors at
//! once, writes each buffer at once and writes its descriptors back at once, in `finish`, which then waits until all has
//! arrived before it tells the guest, by RDH and by interrupt. An epoch may interrupt any of this: a frame that was not
//! yet placed is held, and the batch stays open.
//!
//! What waits for descriptors or an epoch waits in a FIFO ([`Overrun`]).

mod checksum;
mod fifo;
pub(super) mod judge;
mod place;
mod plain;
mod ring;
mod saved;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use guest_mem::{DmaError, GuestMem};

use super::Shared;
use super::bits::{cause, rctl};
use super::mmio::PACKET_BUFFER;
use super::regs::Reg;
use super::tally::{self, Tally};
use super::wake;
use crate::common::frame::{FCS, RxCsum, RxFrame, RxMeta};
use crate::common::gso::{Layout, MAX_HEADERS};
use crate::common::ring::Ring;
use crate::{Interrupted, Time};
use fifo::{Fifo, Held};
use judge::{How, Size};
use place::{Place, Placing, Progress};
use plain::Plain;
use ring::Descriptors;
pub use saved::RxState;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// The guest has it.
    Placed,
    /// The guest does not want it: address or VLAN filter, a pause frame.
    Filtered,
    /// The queue keeps it, or the rest of it, until there are descriptors ([`RxQueue::resume`]). With [`Overrun::Drop`]
    /// the last segments of a super-frame may be lost.
    Held,
    /// The queue keeps it, or the rest of it, until an epoch has passed ([`RxQueue::resume`], [`Interrupted`]). It has no
    /// room for another until then.
    Interrupted,
    /// It is lost.
    Dropped(Loss),
}

/// Why a frame is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The receiver is off.
    Disabled,
    /// Longer than RCTL.LPE allows.
    Oversize,
    /// Shorter than an Ethernet header.
    Runt,
    /// Damaged on the wire.
    BadFcs,
    /// The backend's offload request does not fit its headers.
    Malformed,
    /// No descriptor, or none with a buffer.
    NoDescriptor,
    /// The ring does not lie in reachable memory.
    Unreachable,
}

/// What to do with a frame for which there is no descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overrun {
    /// Keep it, and let the sender wait: the network behind a backend has queues of its own.
    #[default]
    Hold,
    /// Do as the part does: keep it as long as there is room in the receive FIFO, whose KiB are PBA.RXA, and then lose it.
    Drop,
}

/// A batch in progress.
#[derive(Debug)]
struct Batch {
    ring: Option<Ring>,
    head: u32,
    moved: bool,
    causes: u32,
    good: Tally,
    /// Everything that arrived, wanted or not.
    frames: u32,
    octets: u64,
}

impl Batch {
    #[cold]
    fn begin(shared: &Shared, mem: &GuestMem, descriptors: &mut Descriptors) -> Self {
        let ring = ring(shared);
        descriptors.begin(mem, ring);
        Self {
            ring,
            head: shared.regs.get(Reg::RDH),
            moved: false,
            causes: 0,
            good: Tally::default(),
            frames: 0,
            octets: 0,
        }
    }
}

/// The receive ring of one NIC. Whoever holds it delivers; nobody else touches the ring.
#[derive(Debug)]
pub struct RxQueue {
    shared: Arc<Shared>,
    generation: u64,
    overrun: Overrun,
    /// Frames that wait: of the FIFO's size at most, but for one super-frame.
    fifo: Fifo,
    /// The first of them waits for an epoch and not for descriptors.
    interrupted: bool,
    plain: Plain,
    /// Those of the batch.
    descriptors: Descriptors,
    batch: Option<Batch>,
}

impl RxQueue {
    /// The queue of the NIC whose registers are `shared`, holding frames at overrun.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            generation: shared.generation(),
            shared,
            overrun: Overrun::default(),
            fifo: Fifo::default(),
            interrupted: false,
            plain: Plain::default(),
            descriptors: Descriptors::default(),
            batch: None,
        }
    }

    /// Changes what happens to frames for which there is no descriptor.
    pub fn set_overrun(&mut self, overrun: Overrun) {
        self.overrun = overrun;
    }

    /// Whether the receiver is on and may do DMA: what arrives otherwise is lost.
    pub fn enabled(&self) -> bool {
        self.shared.regs.get(Reg::RCTL) & rctl::EN != 0
            && self.shared.bus_master.load(Ordering::Acquire)
    }

    /// Whether the next frame will find a descriptor; while the receiver is off, whether it will find a wake-up filter.
    /// With [`Overrun::Drop`], whether it will find the receiver on and no epoch in its way: that there is no descriptor is
    /// then no reason to leave it on the network.
    pub fn has_room(&self) -> bool {
        if !self.enabled() {
            return self.shared.wakes();
        }
        let waits = !self.fifo.is_empty() && self.generation == self.shared.generation();
        if self.overrun == Overrun::Drop {
            return !(waits && self.interrupted);
        }
        if waits {
            return false;
        }
        let regs = &self.shared.regs;
        let (ring, head) = match &self.batch {
            Some(batch) => (batch.ring, batch.head),
            None => (ring(&self.shared), regs.get(Reg::RDH)),
        };
        ring.is_some_and(|ring| ring.owned(head, regs.get(Reg::RDT)) > 0)
    }

    /// Gives one frame to the guest. Whoever calls it ends the batch with [`RxQueue::finish`].
    pub fn deliver(&mut self, mem: &GuestMem, frame: RxFrame<'_>, now: Time) -> Delivered {
        wake::hear(&self.shared, &frame);
        self.receive(mem, frame, self.overrun, now)
    }

    /// As [`deliver`](Self::deliver), for a frame that the NIC sends to itself: nobody could be made to wait, so it is
    /// always [`Overrun::Drop`].
    pub fn loop_back(&mut self, mem: &GuestMem, frame: RxFrame<'_>, now: Time) -> Delivered {
        self.receive(mem, frame, Overrun::Drop, now)
    }

    fn receive(
        &mut self,
        mem: &GuestMem,
        frame: RxFrame<'_>,
        overrun: Overrun,
        now: Time,
    ) -> Delivered {
        self.sync();
        if !self.enabled() {
            let frames = frame.segments() as u64;
            self.shared.counters.rx_disabled.add(frames);
            return Delivered::Dropped(Loss::Disabled);
        }
        let found;
        let layout = if frame.meta.asks_for_nothing() {
            None
        } else if let Ok(layout) = judge::layout(&frame) {
            found = layout;
            found.as_ref()
        } else {
            self.shared.counters.rx_malformed.add(1);
            return Delivered::Dropped(Loss::Malformed);
        };
        let size = Size::of(&frame, layout);
        if let Some(layout) = layout
            && size.only_last_fits(&self.shared.regs)
        {
            return self.receive_last_apart(mem, frame, layout, overrun, now);
        }
        let batch = self.batch(mem);
        batch.frames += size.frames as u32;
        batch.octets += size.octets as u64;
        let how = match self.plain.how(&self.shared.regs, &frame, size) {
            Some(how) => how,
            None => match judge::judge(&self.shared, &frame, size, now) {
                Ok(how) => how,
                Err(other) => return other,
            },
        };
        // Frames do not overtake one another.
        let first = self.fifo.is_empty() || self.drain(mem);
        let network_waits = first && overrun == Overrun::Hold;
        let room = match network_waits {
            true => usize::MAX,
            false => self.capacity().saturating_sub(self.fifo.octets()),
        };
        let mut progress = Progress::default();
        let place = match first {
            // What is begun has to have a place to go on from.
            true => {
                let keep = size.fitting(room).frames > 0;
                self.placing(mem, &how, keep)
                    .frame(frame, layout, &mut progress)
            }
            false => Place::NoDescriptor,
        };
        let left = match place {
            Place::Done => return Delivered::Placed,
            Place::Unreachable => return Delivered::Dropped(Loss::Unreachable),
            _ => size.without(progress.segment),
        };
        let held = match place {
            Place::Interrupted => left,
            Place::NoBuffer => left.first(0),
            _ => left.fitting(room),
        };
        if held.frames > 0 {
            self.hold(mem, frame, layout, how, progress, held);
        }
        if place == Place::Interrupted {
            self.interrupted = true;
            return Delivered::Interrupted;
        }
        if !network_waits {
            // One that was begun has found a descriptor. Where the network waits, none has come to find none: a
            // super-frame is only how its segments were carried here.
            let begun = usize::from(progress.offset > 0 && held.frames > 0);
            let regs = &self.shared.regs;
            regs.stat_add(Reg::RNBC, (left.frames - begun) as u32);
        }
        if held.frames < left.frames {
            self.overflow(mem, left.frames - held.frames);
        }
        match held.frames {
            0 => Delivered::Dropped(Loss::NoDescriptor),
            _ => Delivered::Held,
        }
    }

    /// Receives the last segment of a super-frame as a frame of its own, after the others.
    #[cold]
    fn receive_last_apart(
        &mut self,
        mem: &GuestMem,
        frame: RxFrame<'_>,
        layout: &Layout,
        overrun: Overrun,
        now: Time,
    ) -> Delivered {
        let last = layout.segments() - 1;
        let (head, payload) = frame.data.split_at(layout.headers());
        let payload = &payload[layout.payload(last)];
        let mut segment = head.to_vec();
        layout.head(&mut segment, last);
        layout.seal(&mut segment, payload);
        segment.extend(payload);
        let mut others = frame.data.to_vec();
        let len = layout.shorten(&mut others, last);
        let others = RxFrame {
            data: &others[..len],
            meta: frame.meta,
        };
        self.receive(mem, others, overrun, now);
        let meta = RxMeta {
            csum: RxCsum::Valid,
            gso: None,
            ..frame.meta
        };
        let data = &segment;
        self.receive(mem, RxFrame { data, meta }, overrun, now)
    }

    /// Bytes that the receive FIFO holds.
    fn capacity(&self) -> usize {
        let rxa = self.shared.regs.get(Reg::PBA) & Reg::PBA.row().mask;
        (rxa.min(PACKET_BUFFER) << 10) as usize
    }

    /// Keeps a frame from where it has come to: `part` of it, not nothing, and of a super-frame perhaps not all. It is
    /// received then (manual 13.7), wherever it is.
    fn hold(
        &mut self,
        mem: &GuestMem,
        frame: RxFrame<'_>,
        layout: Option<&Layout>,
        how: How,
        progress: Progress,
        part: Size,
    ) {
        if how.good {
            let dst = *frame.data.first_chunk().expect("a frame has a header");
            let last = part.without(part.frames - 1).octets - FCS;
            let good = &mut self.batch(mem).good;
            good.add(dst, part.longest - FCS, part.frames - 1);
            good.add(dst, last, 1);
        }
        let mut held = Held {
            meta: frame.meta,
            how: How { good: false, ..how },
            progress,
            len: frame.data.len(),
            octets: part.octets,
        };
        let mut copy = [0; MAX_HEADERS];
        let mut pieces = [frame.data, &[]];
        if let Some(layout) = layout {
            let (head, payload) = frame.data.split_at(layout.headers());
            let copy = &mut copy[..head.len()];
            copy.copy_from_slice(head);
            held.len = layout.shorten(copy, progress.segment + part.frames);
            pieces = [copy, &payload[..held.len - head.len()]];
        }
        self.fifo.push(pieces, held);
        self.show_level();
    }

    /// Tells flow control how full the FIFO is. Where frames are held, the network waits anyway.
    fn show_level(&self) {
        if self.overrun == Overrun::Drop {
            self.shared.flow.fifo(&self.shared.regs, self.fifo.octets());
        }
    }

    /// Goes on with the frames that wait, if any, after the driver has given descriptors or an epoch has passed.
    /// Whether none waits any more. Part of a batch like [`RxQueue::deliver`].
    pub fn resume(&mut self, mem: &GuestMem, _now: Time) -> bool {
        self.sync();
        self.fifo.is_empty() || self.drain(mem)
    }

    #[cold]
    fn drain(&mut self, mem: &GuestMem) -> bool {
        self.interrupted = false;
        let mut fifo = std::mem::take(&mut self.fifo);
        if !self.enabled() {
            // What waits when the driver stops the receiver is not for the next one to find.
            self.shared.counters.rx_disabled.add(fifo.len() as u64);
            fifo.clear();
        }
        while let Some((held, data)) = fifo.front() {
            let meta = held.meta;
            let frame = RxFrame { data, meta };
            let layout = judge::layout(&frame).ok().flatten();
            let (how, progress) = (held.how, &mut held.progress);
            let mut placing = self.placing(mem, &how, true);
            match placing.frame(frame, layout.as_ref(), progress) {
                Place::Done | Place::Unreachable => {}
                Place::NoDescriptor => break,
                Place::Interrupted => {
                    self.interrupted = true;
                    break;
                }
                Place::NoBuffer => {
                    let all = layout.as_ref().map_or(1, Layout::segments);
                    let left = all - progress.segment;
                    self.overflow(mem, left);
                }
            }
            fifo.pop();
        }
        self.fifo = fifo;
        self.show_level();
        self.fifo.is_empty()
    }

    /// Ends the batch: head, statistics, and one decision about the interrupt.
    ///
    /// # Errors
    ///
    /// [`Interrupted`]: the guest has not been told of all frames, or one is held. After the epoch
    /// [`resume`](Self::resume) and `finish` have to be called, even if nothing else has arrived.
    pub fn finish(&mut self, mem: &GuestMem, now: Time) -> Result<(), Interrupted> {
        match self.tell(mem, now, true)? && self.interrupted {
            true => Err(Interrupted),
            false => Ok(()),
        }
    }

    /// As [`finish`](Self::finish), for a guest that is stopped: it sees nothing before all that was written has arrived,
    /// so that is not waited for. A frame that was not placed for an epoch stays held.
    ///
    /// # Errors
    ///
    /// [`Interrupted`], if not even a write is taken before the epoch has passed.
    pub fn stop(&mut self, mem: &GuestMem, now: Time) -> Result<(), Interrupted> {
        self.tell(mem, now, false).map(|_| ())
    }

    /// Ends the batch; whether there was one.
    fn tell(&mut self, mem: &GuestMem, now: Time, wait: bool) -> Result<bool, Interrupted> {
        self.sync();
        let Some(batch) = self.batch.take() else {
            return Ok(false);
        };
        let Shared {
            regs,
            irq,
            counters,
            ..
        } = &*self.shared;
        let written = batch
            .ring
            .map_or(Ok(()), |ring| self.descriptors.flush(mem, ring));
        if let Err(DmaError::Unreachable { .. }) = written {
            counters.dma_unreachable.add(1);
        }
        // The head waits like the interrupt until the descriptors have arrived.
        if written == Err(DmaError::Interrupted) || (wait && mem.flush().is_err()) {
            self.batch = Some(batch);
            return Err(Interrupted);
        }
        if self.generation != self.shared.generation() {
            // A reset came meanwhile, on another thread.
            self.sync();
            return Ok(false);
        }
        if batch.moved {
            regs.set(Reg::RDH, batch.head);
        }
        regs.stat_add(Reg::TPR, batch.frames);
        regs.stat_add64(Reg::TORL, batch.octets);
        let (frames, bytes) = batch.good.totals();
        counters.rx_frames.add(frames);
        counters.rx_bytes.add(bytes);
        batch.good.flush(regs, &tally::RECEIVED);
        if batch.causes & cause::RXT0 != 0 {
            irq.raise_rx_delayed(now);
        }
        let at_once = batch.causes & !cause::RXT0;
        if at_once != 0 {
            irq.raise(at_once);
        }
        Ok(true)
    }

    /// Whether the guest knows of all frames that it has. While it does not, the state of the queue is no state to save:
    /// see [`stop`](Self::stop).
    pub fn is_settled(&self) -> bool {
        self.batch.is_none()
    }

    /// So many frames were lost: no descriptors, and no room to wait for them.
    fn overflow(&mut self, mem: &GuestMem, frames: usize) {
        let regs = &self.shared.regs;
        regs.stat_add(Reg::MPC, frames as u32);
        self.shared.counters.rx_no_descriptor.add(frames as u64);
        self.batch(mem).causes |= cause::RXO;
    }

    #[inline]
    fn batch(&mut self, mem: &GuestMem) -> &mut Batch {
        let Self {
            batch,
            shared,
            descriptors,
            ..
        } = self;
        batch.get_or_insert_with(|| Batch::begin(shared, mem, descriptors))
    }

    /// What is needed to place a frame.
    #[inline]
    fn placing<'a>(&'a mut self, mem: &'a GuestMem, how: &'a How, keep: bool) -> Placing<'a> {
        let Self {
            batch,
            shared,
            descriptors,
            ..
        } = self;
        Placing {
            batch: batch.get_or_insert_with(|| Batch::begin(shared, mem, descriptors)),
            shared,
            mem,
            descriptors,
            how,
            keep,
        }
    }

    /// Drops everything that a reset has made meaningless.
    fn sync(&mut self) {
        let generation = self.shared.generation();
        if self.generation != generation {
            self.generation = generation;
            self.fifo.clear();
            self.interrupted = false;
            self.batch = None;
        }
    }
}

/// The ring as its registers have it.
fn ring(shared: &Shared) -> Option<Ring> {
    let regs = &shared.regs;
    Ring::new(regs.get_u64(Reg::RDBAL, Reg::RDBAH), regs.get(Reg::RDLEN))
}
