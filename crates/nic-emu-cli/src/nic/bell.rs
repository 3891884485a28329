//! How one thread wakes another one that sleeps in epoll.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use rustix::event::{EventfdFlags, eventfd};

/// A bell that is rung at most once until it is heard, however much happens meanwhile. Without a descriptor until
/// two threads need it; till then ringing does nothing.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    event: OnceLock<OwnedFd>,
    rung: AtomicBool,
}

impl Bell {
    /// The descriptor to watch, made if there is none yet.
    ///
    /// # Errors
    ///
    /// The process has no descriptor left.
    pub(crate) fn hang(&self) -> io::Result<BorrowedFd<'_>> {
        if self.event.get().is_none() {
            // Only the control hangs bells, so nobody else can have been faster.
            let _ = self
                .event
                .set(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        }
        let event = self.event.get().ok_or(io::ErrorKind::NotFound)?;
        Ok(event.as_fd())
    }

    /// Whether the bell has its descriptor.
    pub(crate) fn is_hung(&self) -> bool {
        self.event.get().is_some()
    }

    /// Wakes whoever watches. What it is to find must have been stored before.
    pub(crate) fn ring(&self) {
        let Some(event) = self.event.get() else {
            return;
        };
        if !self.rung.swap(true, SeqCst) {
            // Fails only if the counter is full, and then it is readable as well.
            let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
        }
    }

    /// The descriptor was readable. Whoever calls this looks afterwards at everything that it could be about.
    pub(crate) fn hear(&self) {
        if let Some(event) = self.event.get() {
            // Nothing to read is fine: the ring that we hear may not have come to its write yet.
            let _ = rustix::io::read(event, &mut [0; 8]);
        }
        // A swap, not a store: it sees what was stored before the ring that found the bell rung already.
        self.rung.swap(false, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::sync::atomic::AtomicU64;

    #[test]
    fn nothing_that_was_stored_before_a_ring_is_missed() {
        const LAST: u64 = 100_000;
        let (bell, news) = (Bell::default(), AtomicU64::new(0));
        bell.ring();
        let fd = bell.hang().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for value in 1..=LAST {
                    news.store(value, SeqCst);
                    bell.ring();
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
                bell.hear();
            }
        });
    }
}
