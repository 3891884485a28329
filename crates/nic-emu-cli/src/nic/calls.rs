//! What the control asks of a queue, and how far that is: atomics.

use crate::sync::{AtomicU8, AtomicU64, SeqCst};

/// Kicks, which are taken once, and epochs, which are asked for and passed.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    kick: AtomicU8,
    asked: AtomicU64,
    passed: AtomicU64,
}

impl Calls {
    /// There is work of these kinds.
    pub(crate) fn kick(&self, kinds: u8) {
        if kinds != 0 {
            self.kick.fetch_or(kinds, SeqCst);
        }
    }

    /// The kinds of work that came since the last call.
    pub(crate) fn take_kick(&self) -> u8 {
        match self.kick.load(SeqCst) {
            0 => 0,
            _ => self.kick.swap(0, SeqCst),
        }
    }

    /// The queue is to let go of everything that was taken away up to this epoch.
    pub(crate) fn ask(&self, epoch: u64) {
        if self.asked.load(SeqCst) != epoch {
            self.asked.store(epoch, SeqCst);
        }
    }

    /// The epoch that the queue is to pass; none if it has.
    pub(crate) fn asked(&self) -> Option<u64> {
        let asked = self.asked.load(SeqCst);
        (asked != self.passed()).then_some(asked)
    }

    /// As [`asked`](Self::asked), and whether it is the one in which all `stops`. That one `other` passes first: whatever
    /// it has brought forth is here then.
    pub(crate) fn asked_behind(
        &self,
        other: &Self,
        stops: impl FnOnce() -> bool,
    ) -> Option<(u64, bool)> {
        let epoch = self.asked()?;
        // In this order: who stops says so first, and asks then.
        let stops = stops();
        (!stops || other.passed() >= epoch).then_some((epoch, stops))
    }

    /// The queue has passed this epoch.
    pub(crate) fn pass(&self, epoch: u64) {
        self.passed.store(epoch, SeqCst);
    }

    /// The epoch that the queue has passed.
    pub(crate) fn passed(&self) -> u64 {
        self.passed.load(SeqCst)
    }

    /// Whether the queue would find something to do if it were woken.
    pub(crate) fn wants(&self) -> bool {
        self.kick.load(SeqCst) != 0 || self.asked().is_some()
    }
}
