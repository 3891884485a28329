//! How one half of a cable is woken by the other: it found nothing, and will not look before the bell rings.

use crate::sync::{AtomicBool, Ordering, fence};

/// What a half sleeps on: it is set until it is cleared.
pub(crate) trait Event {
    /// Wakes whoever waits.
    fn set(&self);
    /// Lets whoever waits next sleep.
    fn clear(&self);
}

/// Rings only for somebody who waits, and once.
#[derive(Debug)]
pub(crate) struct Bell<E> {
    event: E,
    awaited: AtomicBool,
}

impl<E: Event> Bell<E> {
    /// A bell for which nobody waits yet.
    pub(crate) fn new(event: E) -> Self {
        let awaited = AtomicBool::new(false);
        Self { event, awaited }
    }

    /// What is set when it rings.
    pub(crate) fn event(&self) -> &E {
        &self.event
    }

    /// Wakes whoever waits. What it waits for must have been done before.
    pub(crate) fn ring(&self) {
        // It sets its flag and then looks; we have acted and now look at the flag. One of us sees the other.
        fence(Ordering::SeqCst);
        if self.awaited.load(Ordering::Relaxed) && self.awaited.swap(false, Ordering::SeqCst) {
            self.event.set();
        }
    }

    /// From now on the bell rings. Whoever waits for it looks once more before that, which is what this returns.
    pub(crate) fn wait<T>(&self, look: impl FnOnce() -> T) -> T {
        self.event.clear();
        self.awaited.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        look()
    }
}
