//! How one thread wakes another one that sleeps in epoll.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use rustix::event::{EventfdFlags, eventfd};

/// An eventfd that is written at most once until it is cleared, however much happens meanwhile. Without a descriptor
/// until two threads need it; till then waking does nothing.
#[derive(Debug, Default)]
pub(crate) struct Waker {
    event: OnceLock<OwnedFd>,
    woken: AtomicBool,
}

impl Waker {
    /// The descriptor to watch, made if there is none yet.
    ///
    /// # Errors
    ///
    /// The process has no descriptor left.
    pub(crate) fn watch(&self) -> io::Result<BorrowedFd<'_>> {
        if self.event.get().is_none() {
            // Only the control makes them, so nobody else can have been faster.
            let _ = self
                .event
                .set(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        }
        let event = self.event.get().ok_or(io::ErrorKind::NotFound)?;
        Ok(event.as_fd())
    }

    /// Whether the waker has its descriptor.
    pub(crate) fn is_watched(&self) -> bool {
        self.event.get().is_some()
    }

    /// Wakes whoever watches. What it is to find must have been stored before.
    pub(crate) fn wake(&self) {
        let Some(event) = self.event.get() else {
            return;
        };
        if !self.woken.swap(true, SeqCst) {
            // Fails only if the counter is full, and then it is readable as well.
            let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
        }
    }

    /// The descriptor was readable. Whoever calls this looks afterwards at everything that it could be about.
    pub(crate) fn clear(&self) {
        if let Some(event) = self.event.get() {
            // Nothing to read is fine: who woke us may not have come to its write yet.
            let _ = rustix::io::read(event, &mut [0; 8]);
        }
        // A swap, not a store: it sees what was stored before the call that found it woken already.
        self.woken.swap(false, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::sync::atomic::AtomicU64;

    #[test]
    fn nothing_that_was_stored_before_waking_is_missed() {
        const LAST: u64 = 100_000;
        let (waker, news) = (Waker::default(), AtomicU64::new(0));
        waker.wake();
        let fd = waker.watch().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for value in 1..=LAST {
                    news.store(value, SeqCst);
                    waker.wake();
                }
            });
            let limit = Timespec {
                tv_sec: 20,
                tv_nsec: 0,
            };
            while news.load(SeqCst) != LAST {
                let mut fds = [PollFd::new(&fd, PollFlags::IN)];
                let woken = poll(&mut fds, Some(&limit)).unwrap();
                assert_ne!(woken, 0, "asleep at {} of {LAST}", news.load(SeqCst));
                waker.clear();
            }
        });
    }
}
