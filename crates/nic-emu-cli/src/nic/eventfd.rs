//! The event of a thread that sleeps in epoll.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::event::{EventfdFlags, eventfd};

use super::waker::{Event, Waker};

/// An eventfd, made when two threads need it.
#[derive(Debug, Default)]
pub(crate) struct Eventfd(OnceLock<OwnedFd>);

impl Event for Eventfd {
    fn exists(&self) -> bool {
        self.0.get().is_some()
    }

    fn set(&self) {
        if let Some(event) = self.0.get() {
            // Fails only if the counter is full, and then it is readable as well.
            let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
        }
    }

    fn clear(&self) {
        if let Some(event) = self.0.get() {
            let _ = rustix::io::read(event, &mut [0; 8]);
        }
    }
}

impl Waker<Eventfd> {
    /// The descriptor to watch, made if there is none yet.
    ///
    /// # Errors
    ///
    /// The process has no descriptor left.
    pub(crate) fn watch(&self) -> io::Result<BorrowedFd<'_>> {
        let Eventfd(event) = self.event();
        if event.get().is_none() {
            // If somebody else was faster, theirs is as good.
            let _ = event.set(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        }
        let event = event.get().ok_or(io::ErrorKind::NotFound)?;
        Ok(event.as_fd())
    }

    /// The descriptor to watch, if there is one: two threads need it.
    pub(crate) fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.event().0.get().map(AsFd::as_fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    #[test]
    fn nothing_that_was_stored_before_waking_is_missed() {
        const LAST: u64 = 100_000;
        let (waker, news) = (Waker::<Eventfd>::default(), AtomicU64::new(0));
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
