//! Breaks a network on purpose, the same way each time.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use guest_mem::GuestSlice;
use nic_emu::Time;
use nic_emu::common::frame::{ETH_HEADER, Features, Offload, RxFrame, RxMeta, TxBurst, TxFrame};
use nic_emu::common::gso::Segments;

use crate::backend::{Backend, Counters, RxBuf};
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
/// to send wait in the guest's ring when too many are held back already; frames received are dropped then.
pub struct Fault {
    inner: Box<dyn Backend>,
    name: String,
    tx: Fate,
    rx: Fate,
    /// Due, and what the sender left to do.
    out: Held<(Time, Offload)>,
    /// Due, and what is known about it.
    incoming: Held<(Time, RxMeta)>,
    /// The other backend did not take all that was due.
    retry_at: Option<Time>,
    /// When the timers ran last.
    ran_at: Time,
    counters: Counters,
    scratch: Vec<u8>,
}

impl Fault {
    /// Wraps `inner`.
    pub fn new(inner: Box<dyn Backend>, options: FaultOptions) -> Self {
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
        Self {
            name: format!("fault over {}", inner.name()),
            inner,
            tx: fate(options.direction != Direction::Rx, options.seed),
            rx: fate(options.direction != Direction::Tx, !options.seed),
            out: Held::new(HELD_FRAMES, HELD_BYTES),
            incoming: Held::new(HELD_FRAMES, HELD_BYTES),
            retry_at: None,
            ran_at: Time::ZERO,
            counters: Counters::default(),
            scratch: Vec::new(),
        }
    }

    /// Keeps a frame of the guest for later; whether there was room.
    fn keep(&mut self, frame: &TxFrame<'_>, due: Time) -> bool {
        self.out.push(frame.len(), (due, frame.offload), |to| {
            frame.copy_to(to);
        })
    }

    /// As [`Fault::keep`], but damaged.
    ///
    /// Checksums left to others would be made after the damage and hide it, so they are made here.
    fn keep_damaged(&mut self, frame: &TxFrame<'_>, due: Time) -> bool {
        let Some(mut segments) = Segments::new(*frame) else {
            self.counters.tx_dropped += 1;
            return true;
        };
        if segments.count() > HELD_FRAMES {
            self.counters.tx_dropped += 1;
            return true;
        }
        if segments.count() > self.out.room() {
            return false;
        }
        let hit = self.tx.below(segments.count());
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(scratch.len().max(segments.max_len()), 0);
        let mut index = 0;
        while let Some(len) = segments.next_into(&mut scratch) {
            if index == hit {
                self.tx.damage(&mut scratch[..len]);
            }
            let kept = self.out.push(len, (due, Offload::default()), |to| {
                to.copy_from_slice(&scratch[..len]);
            });
            // Out of memory in the middle of a super-frame: the rest of it is lost.
            self.counters.tx_dropped += u64::from(!kept);
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
            for (bytes, (_, offload)) in self.out.iter().take_while(|(_, (due, _))| *due <= now) {
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
            self.out.forget(taken);
            if taken < wanted {
                self.retry_at = Some(now + RETRY);
                return;
            }
        }
    }

    /// Takes what the other backend has received.
    fn take_in(&mut self, buf: &mut RxBuf, now: Time) {
        for _ in 0..INTAKE {
            let Some(frame) = self.inner.recv(buf, now) else {
                return;
            };
            let RxFrame { data, mut meta } = frame;
            if self.rx.strikes(self.rx.loss) {
                self.counters.lost += 1;
                continue;
            }
            let damaged = self.rx.strikes(self.rx.corrupt);
            meta.bad_fcs |= damaged;
            let due = now + self.rx.delay;
            let rx = &mut self.rx;
            let kept = self.incoming.push(data.len(), (due, meta), |to| {
                to.copy_from_slice(data);
                if damaged {
                    rx.damage(to);
                }
            });
            self.counters.corrupted += u64::from(kept && damaged);
            self.counters.delayed += u64::from(kept && !self.rx.delay.is_zero());
            self.counters.rx_dropped += u64::from(!kept);
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

impl Backend for Fault {
    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> Features {
        self.inner.features()
    }

    fn send(&mut self, burst: &TxBurst<'_>, now: Time) -> usize {
        let mut taken = 0;
        for frame in burst.frames() {
            // A frame that has to wait in the ring meets its fate when it is sent again.
            if self.out.room() == 0 {
                break;
            }
            let due = now + self.tx.delay;
            if self.tx.strikes(self.tx.loss) {
                self.counters.lost += 1;
            } else {
                let damaged = self.tx.strikes(self.tx.corrupt);
                let kept = if damaged {
                    self.keep_damaged(&frame, due)
                } else {
                    self.keep(&frame, due)
                };
                if !kept {
                    break;
                }
                self.counters.corrupted += u64::from(damaged);
                self.counters.delayed += u64::from(!self.tx.delay.is_zero());
            }
            taken += 1;
        }
        self.flush(now);
        taken
    }

    fn recv<'b>(&mut self, buf: &'b mut RxBuf, now: Time) -> Option<RxFrame<'b>> {
        if self.retry_at.is_some() {
            // Something has happened at the other backend; perhaps it has room.
            self.flush(now);
        }
        if self.incoming.front().is_none_or(|(_, (due, _))| *due > now) {
            self.take_in(buf, now);
        }
        let (bytes, &(due, meta)) = self.incoming.front()?;
        if due > now {
            return None;
        }
        let data = &mut buf.frame()[..bytes.len()];
        data.copy_from_slice(bytes);
        self.incoming.forget(1);
        Some(RxFrame { data, meta })
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fd()
    }

    fn wants_writable(&self) -> bool {
        self.inner.wants_writable()
    }

    fn link(&mut self) -> bool {
        self.inner.link()
    }

    fn link_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.link_fd()
    }

    fn deadline(&self) -> Option<Time> {
        let out = self.out.front().map(|(_, (due, _))| *due);
        let incoming = self.incoming.front().map(|(_, (due, _))| *due);
        [
            // What is overdue waits for another try.
            out.map(|due| self.retry_at.map_or(due, |at| at.max(due))),
            // The NIC was told, but has no room.
            incoming.map(|due| {
                if due > self.ran_at {
                    due
                } else {
                    self.ran_at + RETRY
                }
            }),
            self.inner.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn run_timers(&mut self, now: Time) {
        self.ran_at = now;
        self.inner.run_timers(now);
        self.flush(now);
    }

    /// Those of the other backend, and the faults.
    fn counters(&self) -> Counters {
        let mut counters = self.inner.counters();
        counters.tx_dropped += self.counters.tx_dropped;
        counters.rx_dropped += self.counters.rx_dropped;
        counters.lost += self.counters.lost;
        counters.corrupted += self.counters.corrupted;
        counters.delayed += self.counters.delayed;
        counters
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
