//! How a shard waits: awake for a moment after each event if the operator wants that, then asleep.
//!
//! A hypervisor's messages come in bursts: an interrupt of a guest is half a dozen of them, a wake-up each for a thread that
//! sleeps in between, and nearly all of the time they take. A thread that stays awake leaves its processor to anybody who
//! wants it (`sched_yield`): on a machine with few, that is whoever handles the reply that has just left.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use nic_emu::Time;
use nic_emu::counters;
use rustix::event::{Timespec, epoll};
use rustix::time::{ClockId, clock_gettime};

/// What the kernel reported. It has room for as many events as are taken at once.
pub(crate) type Events = Vec<epoll::Event>;

/// Room for events.
pub(crate) fn events() -> Events {
    Vec::with_capacity(64)
}

counters! {
    /// What a thread's waiting has come to.
    pub struct Waits => WaitsSnapshot {
        /// Times that it went to sleep: the only calls that may take it off its processor.
        sleeps,
        /// Sleeps that a descriptor ended.
        woken,
        /// Sleeps that a deadline ended.
        due,
        /// Looks for events without sleeping: with work left, or while it stays awake.
        looks,
        /// Looks that found some.
        found,
        /// Descriptors that were reported, asleep or awake.
        events,
    }
}

/// What may end the waiting beside an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// There is work left.
    Now,
    /// A time has come.
    Deadline(Time),
    /// Nothing.
    Event,
}

/// The waiting of one thread.
pub(crate) struct Waiting {
    /// How long to look for further events after one, before sleeping, in ns.
    busy_poll: u64,
    awake_until: Time,
    counts: Arc<Waits>,
}

impl Waiting {
    /// Sleeps at once whenever there is nothing to do.
    pub(crate) fn new() -> Self {
        Self {
            busy_poll: 0,
            awake_until: Time::ZERO,
            counts: Arc::default(),
        }
    }

    /// Stays awake for so long after an event from now on.
    pub(crate) fn set_busy_poll(&mut self, time: Duration) {
        self.busy_poll = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    }

    /// What is counted.
    pub(crate) fn counts(&self) -> &Arc<Waits> {
        &self.counts
    }

    /// Waits, leaves in `events` what happened, and returns the time. A signal ends it, too.
    ///
    /// # Errors
    ///
    /// The kernel refuses to wait.
    pub(crate) fn wait(
        &mut self,
        epoll: BorrowedFd<'_>,
        events: &mut Events,
        until: Until,
    ) -> Result<Time, rustix::io::Errno> {
        if until == Until::Now {
            self.look(epoll, events)?;
            return Ok(self.note(events, monotonic()));
        }
        if self.busy_poll > 0 {
            loop {
                self.look(epoll, events)?;
                let now = monotonic();
                let due = matches!(until, Until::Deadline(at) if at <= now);
                if due || !events.is_empty() {
                    return Ok(self.note(events, now));
                }
                if now >= self.awake_until {
                    break;
                }
                rustix::thread::sched_yield();
            }
        }
        self.sleep(epoll, events, until)?;
        Ok(self.note(events, monotonic()))
    }

    /// Takes what there is.
    fn look(
        &mut self,
        epoll: BorrowedFd<'_>,
        events: &mut Events,
    ) -> Result<(), rustix::io::Errno> {
        let found = self.take(epoll, events, Some(Duration::ZERO))?;
        self.counts.looks.add(1);
        self.counts.found.add(u64::from(found));
        Ok(())
    }

    fn sleep(
        &mut self,
        epoll: BorrowedFd<'_>,
        events: &mut Events,
        until: Until,
    ) -> Result<(), rustix::io::Errno> {
        let timeout = match until {
            Until::Now => Some(Duration::ZERO),
            Until::Deadline(at) => Some(Duration::from_nanos(at.0.saturating_sub(monotonic().0))),
            Until::Event => None,
        };
        self.counts.sleeps.add(1);
        match self.take(epoll, events, timeout)? {
            true => self.counts.woken.add(1),
            false => self.counts.due.add(1),
        }
        Ok(())
    }

    /// Whether there were events.
    fn take(
        &mut self,
        epoll: BorrowedFd<'_>,
        events: &mut Events,
        timeout: Option<Duration>,
    ) -> Result<bool, rustix::io::Errno> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        events.clear();
        let room = rustix::buffer::spare_capacity(events);
        match epoll::wait(epoll, room, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        self.counts.events.add(events.len() as u64);
        Ok(!events.is_empty())
    }

    /// An event makes for some more time awake.
    fn note(&mut self, events: &Events, now: Time) -> Time {
        if !events.is_empty() {
            self.awake_until = now.plus_nanos(self.busy_poll);
        }
        now
    }
}

/// The time that all models here are told.
fn monotonic() -> Time {
    let now = clock_gettime(ClockId::Monotonic);
    Time(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use std::os::fd::{AsFd, OwnedFd};

    struct Rig {
        epoll: OwnedFd,
        event: OwnedFd,
        waiting: Waiting,
        events: Events,
    }

    impl Rig {
        fn new(busy_poll: Duration) -> Self {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
            let event = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
            let data = epoll::EventData::new_u64(7);
            epoll::add(&epoll, &event, data, epoll::EventFlags::IN).unwrap();
            let mut waiting = Waiting::new();
            waiting.set_busy_poll(busy_poll);
            let events = events();
            Self {
                epoll,
                event,
                waiting,
                events,
            }
        }

        fn signal(&self) {
            rustix::io::write(&self.event, &1_u64.to_ne_bytes()).unwrap();
        }

        /// Waits, takes back the signal, and says whether there was one.
        fn wait(&mut self, until: Until) -> bool {
            let epoll = self.epoll.as_fd();
            self.waiting.wait(epoll, &mut self.events, until).unwrap();
            let _ = rustix::io::read(&self.event, &mut [0; 8]);
            self.events.iter().any(|event| event.data.u64() == 7)
        }

        fn counts(&self) -> WaitsSnapshot {
            self.waiting.counts.snapshot()
        }
    }

    fn soon() -> Until {
        Until::Deadline(monotonic() + Duration::from_millis(2))
    }

    #[test]
    fn without_busy_poll_each_wait_is_one_sleep() {
        let mut rig = Rig::new(Duration::ZERO);
        for _ in 0..3 {
            rig.signal();
            assert!(rig.wait(Until::Event));
        }
        assert!(!rig.wait(soon()));
        let counts = rig.counts();
        assert_eq!((counts.sleeps, counts.woken, counts.due), (4, 3, 1));
        assert_eq!((counts.looks, counts.events), (0, 3));
    }

    #[test]
    fn who_has_work_left_only_looks() {
        let mut rig = Rig::new(Duration::ZERO);
        assert!(!rig.wait(Until::Now));
        rig.signal();
        assert!(rig.wait(Until::Now));
        let counts = rig.counts();
        assert_eq!((counts.looks, counts.found, counts.sleeps), (2, 1, 0));
    }

    #[test]
    fn after_an_event_it_stays_awake_and_still_keeps_deadlines() {
        let mut rig = Rig::new(Duration::from_secs(1000));
        rig.signal();
        assert!(rig.wait(Until::Event), "found at the first look");
        assert!(!rig.wait(soon()));
        rig.signal();
        assert!(rig.wait(soon()));
        assert_eq!(rig.counts().sleeps, 0);
    }

    #[test]
    fn when_its_time_is_over_it_sleeps() {
        let mut rig = Rig::new(Duration::from_nanos(1));
        rig.signal();
        assert!(rig.wait(Until::Event));
        for _ in 0..3 {
            let looks = rig.counts().looks;
            assert!(!rig.wait(soon()));
            assert_eq!(rig.counts().looks - looks, 1, "one last look, then asleep");
        }
        assert_eq!(rig.counts().due, 3);
    }

    #[test]
    fn without_an_event_it_never_stays_awake() {
        let mut rig = Rig::new(Duration::from_secs(1000));
        assert!(!rig.wait(soon()));
        assert!(!rig.wait(soon()), "a deadline is no event");
        let counts = rig.counts();
        assert_eq!((counts.sleeps, counts.due, counts.found), (2, 2, 0));
    }
}
