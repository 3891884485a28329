//! Where an interrupt goes: an eventfd that the client hands over, and exchanges at any time.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use rustix::io::write;

/// An exchangeable eventfd, and how often it was written.
#[derive(Debug, Default)]
pub(super) struct Trigger {
    fd: ArcSwapOption<OwnedFd>,
    sent: AtomicU64,
}

impl Trigger {
    /// From now on interrupts go to `fd`; none means nowhere. True if an eventfd was there before, which somebody
    /// may still be about to write.
    pub(super) fn set(&self, fd: Option<Arc<OwnedFd>>) -> bool {
        self.fd.swap(fd).is_some()
    }

    pub(super) fn is_set(&self) -> bool {
        self.fd.load().is_some()
    }

    /// Writes the eventfd. False if there was none at the end: who cares latches it.
    ///
    /// If the eventfd is exchanged between being loaded and being written, nobody may be listening to the old one any
    /// more, so the new one is written, too.
    pub(super) fn send(&self) -> bool {
        let mut fd = self.fd.load();
        loop {
            let Some(current) = &*fd else { return false };
            // A full counter (EAGAIN) has the interrupt pending anyway; other errors are the client's affair.
            let _ = write(current.as_fd(), &1_u64.to_ne_bytes());
            self.sent.fetch_add(1, Ordering::Relaxed);
            let now = self.fd.load();
            if now.as_ref().map(Arc::as_ptr) == Some(Arc::as_ptr(current)) {
                return true;
            }
            fd = now;
        }
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}
