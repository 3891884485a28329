//! The INTx line, with level semantics.
//!
//! A client can only be told that the line went up. With KVM the eventfd raises the line in the kernel, and the
//! guest's EOI lowers it and signals the *resample* eventfd; without, the client masks the line when it goes up
//! and sends UNMASK when the guest has looked at the device. Either way the answer to "may rise again?" comes
//! from outside, and if the device still asserts the line then, it is raised again.
//!
//! The state is one atomic word; the eventfd is loaded after the word was changed, and the control exchanges the
//! eventfd *before* it changes the word, so a rising edge is never lost between the two. At worst it is delivered
//! twice.

use std::sync::Arc;

use super::eventfd::Eventfd;
use super::trigger::Trigger;
use crate::sync::{AtomicU32, Ordering};

/// The device asserts its line.
const LEVEL: u32 = 1 << 0;
/// The client sent MASK.
const MASKED: u32 = 1 << 1;
/// COMMAND says INTX_DISABLE, the function is not in D0, or it interrupts by messages.
const DISABLED: u32 = 1 << 2;
/// The client was told of the line and has not yet said that it may rise again.
const UP: u32 = 1 << 3;

#[derive(Debug, Default)]
pub(super) struct Line {
    state: AtomicU32,
    trigger: Trigger,
}

impl Line {
    pub(super) fn set_level(&self, level: bool) {
        // Called after each batch of work: usually nothing changes, and then nothing is written.
        if self.level() != level {
            self.change(if level { 0 } else { LEVEL }, if level { LEVEL } else { 0 });
        }
    }

    pub(super) fn level(&self) -> bool {
        self.state.load(Ordering::Acquire) & LEVEL != 0
    }

    /// The line may rise again: the guest signalled end of interrupt. The mask stays as it is.
    pub(super) fn resampled(&self) {
        self.change(UP, 0);
    }

    /// The client let interrupts through again.
    pub(super) fn unmask(&self) {
        self.change(MASKED | UP, 0);
    }

    /// The client holds interrupts back.
    pub(super) fn mask(&self) {
        self.change(0, MASKED);
    }

    /// The guest forbids or permits INTx.
    pub(super) fn set_disabled(&self, disabled: bool) {
        let before = self.state.load(Ordering::Acquire) & DISABLED != 0;
        match (before, disabled) {
            // What the client knows of the line is void after this.
            (false, true) => self.change(UP, DISABLED),
            (true, false) => self.change(DISABLED, 0),
            _ => {}
        }
    }

    /// From now on interrupts go to `fd`; none means nowhere. True if an eventfd was there before.
    pub(super) fn set_trigger(&self, fd: Option<Arc<Eventfd>>) -> bool {
        let replaced = self.trigger.set(fd);
        self.change(UP, 0);
        replaced
    }

    /// The client tore the interrupt down: no eventfd, no mask.
    pub(super) fn disable_index(&self) {
        self.trigger.set(None);
        self.change(MASKED | UP, 0);
    }

    /// Sends an interrupt whatever the line does: the client tests its wiring.
    pub(super) fn trigger_now(&self) {
        self.trigger.send();
    }

    pub(super) fn sent(&self) -> u64 {
        self.trigger.sent()
    }

    fn change(&self, clear: u32, set: u32) {
        let next = |old: u32| {
            let new = old & !clear | set;
            let fires = new & (LEVEL | MASKED | DISABLED | UP) == LEVEL;
            if fires { new | UP } else { new }
        };
        let mut old = self.state.load(Ordering::Relaxed);
        loop {
            match self.state.compare_exchange_weak(
                old,
                next(old),
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
        // UP that was not there, or was cleared by this very change and is back: the line rises.
        if next(old) & UP != 0 && old & !clear & UP == 0 {
            self.trigger.send();
        }
    }
}
