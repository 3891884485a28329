//! Where an interrupt goes: an eventfd that the client hands over, and exchanges at any time.

use std::ptr;
use std::sync::Arc;

use super::eventfd::{Eventfd, signal};
use crate::sync::{ArcSwapOption, AtomicPtr, AtomicU64, Ordering, fence};

/// An exchangeable eventfd, and how often it was written.
#[derive(Debug, Default)]
pub(super) struct Trigger {
    fd: ArcSwapOption<Eventfd>,
    /// What `fd` is or is about to become; compared, never followed.
    next: AtomicPtr<Eventfd>,
    sent: AtomicU64,
}

impl Trigger {
    /// From now on interrupts go to `fd`; none means nowhere. True if an eventfd was there before, which somebody
    /// may still be about to write. Whoever sends meanwhile may fail; the caller looks afterwards what is pending.
    pub(super) fn set(&self, fd: Option<Arc<Eventfd>>) -> bool {
        let next = fd.as_ref().map_or(ptr::null(), Arc::as_ptr);
        self.next.store(next.cast_mut(), Ordering::Release);
        fence(Ordering::SeqCst);
        self.fd.swap(fd).is_some()
    }

    /// Whether there is an eventfd, and no other about to take its place.
    pub(super) fn is_set(&self) -> bool {
        self.fd
            .load()
            .as_ref()
            .is_some_and(|fd| self.is_current(fd))
    }

    /// Writes the eventfd. False if there is none, or if it was exchanged between being loaded and being written, so
    /// that nobody may have been listening any more.
    pub(super) fn send(&self) -> bool {
        let fd = self.fd.load();
        let Some(fd) = &*fd else { return false };
        signal(fd);
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.is_current(fd)
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn is_current(&self, fd: &Arc<Eventfd>) -> bool {
        ptr::eq(self.next.load(Ordering::Acquire), Arc::as_ptr(fd))
    }
}
