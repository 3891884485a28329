//! Breaks a network on purpose, the same way each time.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use guest_mem::GuestSlice;
use nic_emu::Time;
use nic_emu::common::frame::{ETH_HEADER, Features, Offload, RxFrame, RxMeta, TxBurst, TxFrame};
use nic_emu::common::gso::Segments;

use crate::backend::{Backend, Meter, Receiver, RxBuf, Sender};
use crate::held::Held;

/// Frames held back each way, as many as Linux' netem holds.
const HELD_FRAMES: usize = 1000;
const HELD_BYTES: usize = 8 * 1024 * 1024;
/// Frames taken from the other backend per call.
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
/// A super-frame is lost as a whole. If it is to be damaged it is cut up first, and one of its segments is hit. Frames
/// to send wait in the guest's ring when too many are held back already; frames received are dropped then. Each way has
/// a fate of its own, so the same frames meet the same one, on however many threads.
pub struct Fault;

struct FaultSender {
    inner: Box<dyn Sender>,
    fate: Fate,
    /// Due, and what the sender left to do.
    held: Held<(Time, Offload)>,
    /// The other backend did not take all that was due.
    retry_at: Option<Time>,
    counters: Arc<Meter>,
    scratch: Vec<u8>,
}

struct FaultReceiver {
    inner: Box<dyn Receiver>,
    fate: Fate,
    /// Due, and what is known about it.
    held: Held<(Time, RxMeta)>,
    /// When the timers ran last.
    ran_at: Time,
    counters: Arc<Meter>,
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
                fate: fate(options.direction != Direction::Rx, options.seed),
                held: Held::new(HELD_FRAMES, HELD_BYTES),
                retry_at: None,
                counters: inner.counters.clone(),
                scratch: Vec::new(),
            }),
            rx: Box::new(FaultReceiver {
                inner: inner.rx,
                fate: fate(options.direction != Direction::Tx, !options.seed),
                held: Held::new(HELD_FRAMES, HELD_BYTES),
                ran_at: Time::ZERO,
                counters: inner.counters.clone(),
            }),
            counters: inner.counters,
        }
    }
}

impl FaultSender {
    /// Keeps a frame of the guest for later; whether there was room.
    fn keep(&mut self, frame: &TxFrame<'_>, due: Time) -> bool {
        self.held.push(frame.len(), (due, frame.offload), |to| {
            frame.copy_to(to);
        })
    }

    /// As [`FaultSender::keep`], but damaged.
    ///
    /// Checksums left to others would be made after the damage and hide it, so they are made here.
    fn keep_damaged(&mut self, frame: &TxFrame<'_>, due: Time) -> bool {
        let dropped = &self.counters.tx.dropped;
        let Some(mut segments) = Segments::new(*frame) else {
            dropped.add_alone(1);
            return true;
        };
        if segments.count() > HELD_FRAMES {
            dropped.add_alone(1);
            return true;
        }
        if segments.count() > self.held.room() {
            return false;
        }
        let hit = self.fate.below(segments.count());
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(scratch.len().max(segments.max_len()), 0);
        let mut index = 0;
        while let Some(len) = segments.next_into(&mut scratch) {
            if index == hit {
                self.fate.damage(&mut scratch[..len]);
            }
            let kept = self.held.push(len, (due, Offload::default()), |to| {
                to.copy_from_slice(&scratch[..len]);
            });
            // Out of memory in the middle of a super-frame: the rest of it is lost.
            dropped.add_alone(u64::from(!kept));
            index += 1;
        }
        self.scratch = scratch;
        true
    }

    /// Hands on what is due.
    fn flush(&mut self, now: Time) {
        self.retry_at = None;
        loop {
            let mut burst = TxBurst::new();
            for (bytes, (_, offload)) in self.held.iter().take_while(|(_, (due, _))| *due <= now) {
                let (head, body) = bytes.split_at(head_len(bytes.len(), offload));
                if !burst.push_frame(head, &[GuestSlice::from_bytes(body)], *offload) {
                    break;
                }
            }
            if burst.is_empty() {
                return;
            }
            let wanted = burst.len();
            let taken = self.inner.send(&burst, now);
            drop(burst);
            self.held.forget(taken);
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
        let counters = &self.counters.rx;
        for _ in 0..INTAKE {
            let Some(frame) = self.inner.recv(buf, now) else {
                return;
            };
            let RxFrame { data, mut meta } = frame;
            if self.fate.strikes(self.fate.loss) {
                counters.lost.add_alone(1);
                continue;
            }
            let damaged = self.fate.strikes(self.fate.corrupt);
            meta.bad_fcs |= damaged;
            let due = now + self.fate.delay;
            let fate = &mut self.fate;
            let kept = self.held.push(data.len(), (due, meta), |to| {
                to.copy_from_slice(data);
                if damaged {
                    fate.damage(to);
                }
            });
            counters.corrupted.add_alone(u64::from(kept && damaged));
            let delayed = kept && !self.fate.delay.is_zero();
            counters.delayed.add_alone(u64::from(delayed));
            counters.dropped.add_alone(u64::from(!kept));
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
            // A frame that has to wait in the ring meets its fate when it is sent again.
            if self.held.room() == 0 {
                break;
            }
            let due = now + self.fate.delay;
            if self.fate.strikes(self.fate.loss) {
                self.counters.tx.lost.add_alone(1);
            } else {
                let damaged = self.fate.strikes(self.fate.corrupt);
                let kept = if damaged {
                    self.keep_damaged(&frame, due)
                } else {
                    self.keep(&frame, due)
                };
                if !kept {
                    break;
                }
                let counters = &self.counters.tx;
                counters.corrupted.add_alone(u64::from(damaged));
                let delayed = !self.fate.delay.is_zero();
                counters.delayed.add_alone(u64::from(delayed));
            }
            taken += 1;
        }
        self.flush(now);
        taken
    }

    fn deadline(&self) -> Option<Time> {
        let due = self.held.front().map(|(_, (due, _))| *due);
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
        if self.held.front().is_none_or(|(_, (due, _))| *due > now) {
            self.take_in(buf, now);
        }
        let (bytes, &(due, meta)) = self.held.front()?;
        if due > now {
            return None;
        }
        let data = &mut buf.frame()[..bytes.len()];
        data.copy_from_slice(bytes);
        self.held.forget(1);
        Some(RxFrame { data, meta })
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
        let due = self.held.front().map(|(_, (due, _))| *due);
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
