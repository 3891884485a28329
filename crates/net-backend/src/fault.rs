//! Breaks a network on purpose, the same way each time.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use guest_mem::GuestSlice;
use nic_emu::Time;
use nic_emu::common::frame::{
    ETH_HEADER, Features, Offload, RxCsum, RxFrame, RxMeta, TxBurst, TxFrame,
};
use nic_emu::common::gso::{MAX_SEGMENTS, Segments};

use crate::backend::{Backend, Meter, Receiver, RxBuf, Sender, Way};
use crate::held::Held;

/// Frames held back each way, as many as Linux' netem holds.
const HELD_FRAMES: usize = 1000;
const HELD_BYTES: usize = 8 * 1024 * 1024;
/// Frames taken from the other backend per call, a super-frame counted as what it is cut into.
const INTAKE: usize = 64;
/// More than any headers; what asks for more is refused by the other backend.
const HEAD_MAX: usize = 512;
/// When to try again what nobody took when it was due.
const RETRY: Duration = Duration::from_millis(1);

/// Which way the faults strike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Both ways.
    #[default]
    Both,
    /// What the guest sends.
    Tx,
    /// What the guest receives.
    Rx,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FaultOptions {
    /// Probability from 0 to 1 that a frame is lost.
    pub loss: f64,
    /// Probability from 0 to 1 that a frame is damaged: one bit is inverted after all checksums were made.
    pub corrupt: f64,
    /// How much later each frame arrives.
    pub delay: Duration,
    /// The same seed makes the same mistakes.
    pub seed: u64,
    /// Which way.
    pub direction: Direction,
}

/// A backend around another one, which loses, damages and delays frames.
///
/// Each segment of a super-frame has the fate that it would have on a wire, and it is cut up where that is another than
/// that of its neighbours. Frames to send wait in the guest's ring when too many are held back already; frames received
/// are dropped then. Each way has a fate of its own, so the same frames meet the same one, on however many threads.
pub struct Fault;

struct FaultSender {
    inner: Box<dyn Sender>,
    road: Road,
    /// The other backend did not take all that was due.
    retry_at: Option<Time>,
    counters: Arc<Meter>,
}

struct FaultReceiver {
    inner: Box<dyn Receiver>,
    road: Road,
    /// When the timers ran last.
    ran_at: Time,
    counters: Arc<Meter>,
}

/// One way: what happens to frames there, and those that are held back.
struct Road {
    fate: Fate,
    /// Due, and what is known about it: of what the guest sends, what it left to do.
    held: Held<(Time, RxMeta)>,
    /// Damage is told, since it comes out at a NIC. A network gets damaged frames as they are: nobody has made their FCS.
    told: bool,
    /// A segment; empty until there is one.
    scratch: Vec<u8>,
}

impl Fault {
    /// Wraps `inner`. Counters are those of the other backend, and the faults.
    pub fn around(inner: Backend, options: FaultOptions) -> Backend {
        let fate = |struck: bool, seed| Fate {
            loss: if struck { options.loss } else { 0.0 },
            corrupt: if struck { options.corrupt } else { 0.0 },
            delay: if struck {
                options.delay
            } else {
                Duration::ZERO
            },
            state: seed,
        };
        Backend {
            name: format!("fault over {}", inner.name),
            tx: Box::new(FaultSender {
                inner: inner.tx,
                road: Road::new(
                    fate(options.direction != Direction::Rx, options.seed),
                    false,
                ),
                retry_at: None,
                counters: inner.counters.clone(),
            }),
            rx: Box::new(FaultReceiver {
                inner: inner.rx,
                road: Road::new(
                    fate(options.direction != Direction::Tx, !options.seed),
                    true,
                ),
                ran_at: Time::ZERO,
                counters: inner.counters.clone(),
            }),
            counters: inner.counters,
        }
    }
}

impl Road {
    fn new(fate: Fate, told: bool) -> Self {
        Self {
            fate,
            held: Held::new(HELD_FRAMES, HELD_BYTES),
            told,
            scratch: Vec::new(),
        }
    }

    /// Lets a frame meet its fate, and keeps what is left of it. Whether there was room: if not, the same frame will
    /// meet the same fate.
    fn take(&mut self, frame: RxFrame<'_>, now: Time, way: &Way) -> bool {
        self.keep(frame.into(), frame.meta, now, way)
    }

    /// As [`take`](Self::take), for a frame of which `meta` is known.
    fn keep(&mut self, frame: TxFrame<'_>, meta: RxMeta, now: Time, way: &Way) -> bool {
        let due = now + self.fate.delay;
        let before = self.fate.state;
        let kept = match self.fate.spares(frame.segments()) {
            true => self.keep_whole(frame, (due, meta), way),
            false => {
                self.fate.state = before;
                self.keep_segments(frame, (due, meta), way)
            }
        };
        if !kept {
            self.fate.state = before;
        }
        kept
    }

    fn keep_whole(&mut self, frame: TxFrame<'_>, note: (Time, RxMeta), way: &Way) -> bool {
        let kept = self.held.push(frame.len(), note, |to| {
            frame.copy_to(to);
        });
        let delayed = kept && !self.fate.delay.is_zero();
        way.delayed.add_alone(u64::from(delayed));
        kept
    }

    /// Each segment meets a fate of its own. Checksums left to others would be made after the damage and hide it, so they
    /// are made here.
    fn keep_segments(
        &mut self,
        frame: TxFrame<'_>,
        (due, meta): (Time, RxMeta),
        way: &Way,
    ) -> bool {
        let count = |segments: &Segments<'_>| segments.count() <= HELD_FRAMES;
        let Some(mut segments) = Segments::new(frame).filter(count) else {
            way.dropped.add_alone(1);
            return true;
        };
        if segments.count() > self.held.room() {
            return false;
        }
        let csum = match meta.csum {
            RxCsum::Partial(_) => RxCsum::Valid,
            known => known,
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(scratch.len().max(segments.max_len()), 0);
        while let Some(len) = segments.next_into(&mut scratch) {
            if self.fate.loses() {
                way.lost.add_alone(1);
                continue;
            }
            let segment = &mut scratch[..len];
            let mut meta = RxMeta {
                csum,
                gso: None,
                ..meta
            };
            if self.fate.damages() {
                self.fate.damage(segment);
                way.corrupted.add_alone(1);
                meta.csum = RxCsum::Unknown;
                meta.bad_fcs |= self.told;
            }
            let kept = self
                .held
                .push(len, (due, meta), |to| to.copy_from_slice(segment));
            // Out of memory in the middle of a super-frame: the rest of it is lost.
            way.dropped.add_alone(u64::from(!kept));
            let delayed = kept && !self.fate.delay.is_zero();
            way.delayed.add_alone(u64::from(delayed));
        }
        self.scratch = scratch;
        true
    }

    /// The frames that are due, oldest first.
    fn due(&self, now: Time) -> impl Iterator<Item = RxFrame<'_>> {
        let frames = self.held.iter();
        frames
            .take_while(move |(_, (due, _))| *due <= now)
            .map(|(data, &(_, meta))| RxFrame { data, meta })
    }
}

impl FaultSender {
    /// Hands on what is due.
    fn flush(&mut self, now: Time) {
        self.retry_at = None;
        loop {
            let mut burst = TxBurst::new();
            for frame in self.road.due(now) {
                let offload = TxFrame::from(frame).offload;
                let (head, body) = frame.data.split_at(head_len(frame.data.len(), &offload));
                if !burst.push_frame(head, &[GuestSlice::from_bytes(body)], offload) {
                    break;
                }
            }
            if burst.is_empty() {
                return;
            }
            let wanted = burst.len();
            let taken = self.inner.send(&burst, now);
            drop(burst);
            self.road.held.forget(taken);
            if taken < wanted {
                self.retry_at = Some(now + RETRY);
                return;
            }
        }
    }
}

impl FaultReceiver {
    /// Takes what the other backend has received.
    fn take_in(&mut self, buf: &mut RxBuf, now: Time) {
        let way = &self.counters.rx;
        let mut taken = 0;
        while taken < INTAKE {
            let Some(frame) = self.inner.recv(buf, now) else {
                return;
            };
            taken += frame.segments();
            if !self.road.take(frame, now, way) {
                way.dropped.add_alone(frame.segments() as u64);
            }
        }
    }
}

/// How many bytes of a frame are its headers, as a [`TxFrame`]'s head has to have them.
fn head_len(len: usize, offload: &Offload) -> usize {
    let gso = offload.gso.map_or(0, |gso| usize::from(gso.hdr_len));
    let csum = offload.csum.map_or(0, |csum| {
        usize::from(csum.start) + usize::from(csum.offset) + 2
    });
    gso.max(csum).clamp(ETH_HEADER, HEAD_MAX).min(len)
}

impl Sender for FaultSender {
    fn features(&self) -> Features {
        self.inner.features()
    }

    fn send(&mut self, burst: &TxBurst<'_>, now: Time) -> usize {
        let mut taken = 0;
        for frame in burst.frames() {
            if !self
                .road
                .keep(frame, frame.offload.into(), now, &self.counters.tx)
            {
                break;
            }
            taken += 1;
        }
        self.flush(now);
        taken
    }

    fn deadline(&self) -> Option<Time> {
        let due = self.road.held.front().map(|(_, (due, _))| *due);
        // What is overdue waits for another try.
        let due = due.map(|due| self.retry_at.map_or(due, |at| at.max(due)));
        [due, self.inner.deadline()].into_iter().flatten().min()
    }

    fn run_timers(&mut self, now: Time) {
        self.inner.run_timers(now);
        self.flush(now);
    }

    fn is_gone(&self) -> bool {
        self.inner.is_gone()
    }
}

impl Receiver for FaultReceiver {
    fn recv<'b>(&mut self, buf: &'b mut RxBuf, now: Time) -> Option<RxFrame<'b>> {
        if self.road.due(now).next().is_none() {
            self.take_in(buf, now);
        }
        let RxFrame { data, meta } = self.road.due(now).next()?;
        let copy = &mut buf.frame()[..data.len()];
        copy.copy_from_slice(data);
        self.road.held.forget(1);
        Some(RxFrame { data: copy, meta })
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fd()
    }

    fn link(&mut self) -> bool {
        self.inner.link()
    }

    fn link_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.link_fd()
    }

    fn deadline(&self) -> Option<Time> {
        let due = self.road.held.front().map(|(_, (due, _))| *due);
        // What is overdue: the NIC was told, but has no room.
        let due = due.map(|due| {
            if due > self.ran_at {
                due
            } else {
                self.ran_at + RETRY
            }
        });
        [due, self.inner.deadline()].into_iter().flatten().min()
    }

    fn run_timers(&mut self, now: Time) {
        self.ran_at = now;
        self.inner.run_timers(now);
    }

    fn is_gone(&self) -> bool {
        self.inner.is_gone()
    }
}

/// What happens to the frames of one direction.
struct Fate {
    loss: f64,
    corrupt: f64,
    delay: Duration,
    state: u64,
}

impl Fate {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Whether nothing happens to so many frames.
    fn spares(&mut self, frames: usize) -> bool {
        let strikes = self.loss > 0.0 || self.corrupt > 0.0;
        let frames = if strikes { frames.min(MAX_SEGMENTS) } else { 0 };
        (0..frames).all(|_| !self.loses() && !self.damages())
    }

    fn loses(&mut self) -> bool {
        self.strikes(self.loss)
    }

    fn damages(&mut self) -> bool {
        self.strikes(self.corrupt)
    }

    /// True with that probability.
    fn strikes(&mut self, probability: f64) -> bool {
        let uniform = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        uniform < probability
    }

    /// A number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// Inverts one bit behind the Ethernet header, so that the frame still arrives where it should.
    fn damage(&mut self, frame: &mut [u8]) {
        let start = if frame.len() > ETH_HEADER {
            ETH_HEADER
        } else {
            0
        };
        let at = start + self.below(frame.len() - start);
        if let Some(byte) = frame.get_mut(at) {
            *byte ^= 1 << self.below(8);
        }
    }
}

#[cfg(test)]
mod tests;
