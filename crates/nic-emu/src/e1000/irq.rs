//! Interrupt causes, mask, throttle and delay timers (8254x manual, section 3.2.7 "Interrupts" and registers ICR, ICS,
//! IMS, IMC, ITR, RDTR, RADV, TIDV, TADV).
//!
//! Atomics only: queues raise, control masks and acknowledges, and whoever owns the interrupt line asks [`Irq::poll`]
//! after each turn and at [`Irq::deadline`].

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::bits::cause;
use super::regs::{Reg, Regs};
use crate::Time;
use crate::common::moderation::{DelayTimer, SavedTimer, Throttle};
use crate::sync::{AtomicBool, AtomicU64, SeqCst};

/// Unit of ITR in ns.
const ITR_UNIT: u64 = 256;

/// Unit of RDTR, RADV, TIDV and TADV in ns.
const DELAY_UNIT: u64 = 1024;

/// All causes there are; ICS and IMS hold no others.
pub const ALL_CAUSES: u32 = 0x0001_FFFF;

/// Longest time that ITR asks for, in ns.
const LONGEST_INTERVAL: u64 = 0xFFFF * ITR_UNIT;

/// Longest delay that a delay register asks for, in ns.
const LONGEST_DELAY: u64 = 0xFFFF * DELAY_UNIT;

/// What [`Irq`] knows beside the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedIrq {
    asserted: bool,
    /// ns since the last assertion, as long as it matters.
    since: Option<u64>,
    tx: Option<SavedTimer>,
    rx: Option<SavedTimer>,
}

/// The interrupt logic of one function with one line (INTx).
#[derive(Debug)]
pub struct Irq {
    regs: Arc<Regs>,
    /// The line is asserted and stays so until no enabled cause is left.
    asserted: AtomicBool,
    /// How often it was.
    assertions: AtomicU64,
    throttle: Throttle,
    tx: DelayTimer,
    rx: DelayTimer,
}

impl Irq {
    pub(super) fn new(regs: Arc<Regs>) -> Irq {
        Irq {
            regs,
            asserted: AtomicBool::new(false),
            assertions: AtomicU64::new(0),
            throttle: Throttle::default(),
            tx: DelayTimer::default(),
            rx: DelayTimer::default(),
        }
    }

    /// Latches causes in ICR, whatever IMS says. The line follows at the next [`poll`](Irq::poll).
    pub fn raise(&self, causes: u32) {
        self.regs
            .cell(Reg::ICR, 0)
            .fetch_or(causes & ALL_CAUSES, SeqCst);
    }

    /// A descriptor with IDE was written back: TXDW after TIDV, which each such descriptor restarts, and no later than
    /// TADV after the first. At once if TIDV is 0.
    pub fn raise_tx_delayed(&self, now: Time) {
        self.raise_delayed(&self.tx, cause::TXDW, Reg::TIDV, Reg::TADV, now);
    }

    /// A frame was received: RXT0 after RDTR, which each frame restarts, and no later than RADV after the first. At once
    /// if RDTR is 0.
    pub fn raise_rx_delayed(&self, now: Time) {
        self.raise_delayed(&self.rx, cause::RXT0, Reg::RDTR, Reg::RADV, now);
    }

    fn raise_delayed(
        &self,
        timer: &DelayTimer,
        cause: u32,
        relative: Reg,
        absolute: Reg,
        now: Time,
    ) {
        match self.regs.get(relative) {
            0 => self.raise(cause),
            delay => {
                let cap = Some(self.regs.get(absolute)).filter(|&cap| cap != 0);
                timer.start(
                    now,
                    u64::from(delay) * DELAY_UNIT,
                    cap.map(|cap| u64::from(cap) * DELAY_UNIT),
                );
            }
        }
    }

    /// TIDV.FPD: a waiting TXDW fires now.
    pub(super) fn flush_tx(&self) {
        if self.tx.flush() {
            self.raise(cause::TXDW);
        }
    }

    /// RDTR.FPD: a waiting RXT0 fires now.
    pub(super) fn flush_rx(&self) {
        if self.rx.flush() {
            self.raise(cause::RXT0);
        }
    }

    /// Latches the causes of the delay timers that have run out.
    fn expire(&self, now: Time) {
        if self.tx.expire(now) {
            self.raise(cause::TXDW);
        }
        if self.rx.expire(now) {
            self.raise(cause::RXT0);
        }
    }

    /// The level of INTx now.
    ///
    /// It rises when an enabled cause is there and ITR has passed since it last rose, and takes all delayed causes
    /// along; then it stays until no enabled cause is left.
    pub fn poll(&self, now: Time) -> bool {
        self.expire(now);
        if self.pending() == 0 {
            self.asserted.store(false, SeqCst);
            return false;
        }
        if self.asserted.load(SeqCst) {
            return true;
        }
        if now < self.throttle.ready_at(self.interval()) {
            return false;
        }
        self.asserted.store(true, SeqCst);
        self.assertions.fetch_add(1, SeqCst);
        self.throttle.asserted(now);
        self.flush_tx();
        self.flush_rx();
        true
    }

    /// How often the level has risen: each time is a message where messages are used and not the line.
    pub fn assertions(&self) -> u64 {
        self.assertions.load(SeqCst)
    }

    /// When the level may rise by the passing of time alone, so that [`poll`](Irq::poll) must be called again; `None`
    /// if it needs an event. Meant to be asked after `poll`.
    pub fn deadline(&self) -> Option<Time> {
        if self.asserted.load(SeqCst) {
            return None;
        }
        let ready = self.throttle.ready_at(self.interval());
        if self.pending() != 0 {
            return Some(ready);
        }
        // A delayed cause that is masked wakes nobody: a read of ICR finds out by itself that it is due.
        let mask = self.regs.get(Reg::IMS);
        let due = |timer: &DelayTimer, cause| timer.deadline().filter(|_| mask & cause != 0);
        [due(&self.tx, cause::TXDW), due(&self.rx, cause::RXT0)]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.max(ready))
    }

    /// Reads ICR: all causes, enabled or not, and clears them.
    pub(super) fn acknowledge(&self, now: Time) -> u32 {
        self.expire(now);
        let causes = self.regs.cell(Reg::ICR, 0).swap(0, SeqCst);
        self.settle(0);
        causes
    }

    /// The causes of ICR as a read of ICS shows them: nothing is cleared.
    pub(super) fn causes(&self, now: Time) -> u32 {
        self.expire(now);
        self.regs.get(Reg::ICR)
    }

    /// Writes ICR: ones clear.
    pub(super) fn clear(&self, causes: u32, now: Time) {
        self.expire(now);
        let before = self.regs.cell(Reg::ICR, 0).fetch_and(!causes, SeqCst);
        self.settle(before & !causes & self.regs.get(Reg::IMS));
    }

    /// Writes IMS: ones enable. A cause that is pending already asserts the line.
    pub(super) fn enable(&self, causes: u32) {
        self.regs
            .cell(Reg::IMS, 0)
            .fetch_or(causes & ALL_CAUSES, SeqCst);
    }

    /// Writes IMC: ones disable.
    pub(super) fn disable(&self, causes: u32) {
        let before = self.regs.cell(Reg::IMS, 0).fetch_and(!causes, SeqCst);
        self.settle(before & !causes & self.regs.get(Reg::ICR));
    }

    /// Forgets causes, timers and throttle; the other registers are reset with the rest.
    pub(super) fn reset(&self) {
        self.regs.set(Reg::ICR, 0);
        self.tx.flush();
        self.rx.flush();
        self.throttle.reset();
        self.asserted.store(false, SeqCst);
    }

    pub(super) fn save(&self, now: Time) -> SavedIrq {
        SavedIrq {
            asserted: self.asserted.load(SeqCst),
            since: self
                .throttle
                .save(now)
                .filter(|&since| since < LONGEST_INTERVAL),
            tx: self.tx.save(now),
            rx: self.rx.save(now),
        }
    }

    /// Takes over what another one has saved; the registers have been restored before.
    pub(super) fn restore(&self, saved: &SavedIrq, now: Time) {
        self.throttle
            .restore(saved.since.map(|since| since.min(LONGEST_INTERVAL)), now);
        self.tx.restore(saved.tx, LONGEST_DELAY, now);
        self.rx.restore(saved.rx, LONGEST_DELAY, now);
        self.asserted.store(saved.asserted, SeqCst);
        self.settle(self.pending());
    }

    fn pending(&self) -> u32 {
        self.regs.get(Reg::ICR) & self.regs.get(Reg::IMS)
    }

    fn interval(&self) -> u64 {
        u64::from(self.regs.get(Reg::ITR)) * ITR_UNIT
    }

    /// The line drops the moment its last cause goes: one that comes before the next poll is a new assertion and has to
    /// wait for ITR. `left` is what that moment has left: a queue may have raised the next one since, of which nobody
    /// would send a message if the line seemed never to have dropped.
    fn settle(&self, left: u32) {
        if left == 0 {
            self.asserted.store(false, SeqCst);
        }
    }
}
