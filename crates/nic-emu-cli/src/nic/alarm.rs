//! Whether somebody looks in time at what is due by itself.

use nic_emu::Time;

use crate::sync::{AtomicU64, SeqCst, fence};

/// When the control means to look at the interrupt line next, in ns. Queues move what is due, and wake the control if it
/// would look too late.
#[derive(Debug)]
pub(crate) struct Alarm(AtomicU64);

impl Default for Alarm {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl Alarm {
    /// Means to look when it is due; returns when that is.
    pub(crate) fn set(&self, due: impl Fn() -> Option<Time>) -> Option<Time> {
        let first = due();
        self.0.store(first.map_or(u64::MAX, |at| at.0), SeqCst);
        // A queue moves what is due and then looks here; we have written here and look at that once more. One of us sees
        // the other.
        fence(SeqCst);
        [first, due()].into_iter().flatten().min()
    }

    /// Whether something is due before anybody means to look.
    pub(crate) fn misses(&self, due: impl Fn() -> Option<Time>) -> bool {
        fence(SeqCst);
        due().is_some_and(|due| due.0 < self.0.load(SeqCst))
    }
}
