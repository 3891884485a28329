//! How one thread wakes another one that sleeps.

use crate::sync::{AtomicBool, SeqCst};

/// What a sleeping thread waits for: it is set until it is cleared.
pub(crate) trait Event {
    /// Somebody can wait for it.
    fn exists(&self) -> bool;
    /// Wakes whoever waits.
    fn set(&self);
    /// Lets whoever waits next sleep.
    fn clear(&self);
}

/// An event that is set at most once until it is cleared, however much happens meanwhile. As long as nobody can wait for
/// it, waking does nothing.
#[derive(Debug, Default)]
pub(crate) struct Waker<E> {
    event: E,
    woken: AtomicBool,
}

impl<E: Event> Waker<E> {
    /// What is waited for.
    pub(crate) fn event(&self) -> &E {
        &self.event
    }

    /// Wakes whoever waits. What it is to find must have been stored before.
    pub(crate) fn wake(&self) {
        if self.event.exists() && !self.woken.swap(true, SeqCst) {
            self.event.set();
        }
    }

    /// The event was set. Whoever calls this looks afterwards at everything that it could be about.
    pub(crate) fn clear(&self) {
        // Not set is fine: who woke us may not have come to that yet.
        self.event.clear();
        // A swap, not a store: it sees what was stored before the call that found it woken already.
        self.woken.swap(false, SeqCst);
    }
}
