//! Interrupt moderation: how soon a cause may reach the interrupt line.
//!
//! Plain atomics in nanoseconds, so that a queue may start a timer while control reads it, and a test can name the
//! nanosecond at which something has to happen.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use serde::{Deserialize, Serialize};

use crate::Time;

/// Stands for "not running".
const NEVER: u64 = u64::MAX;

/// A delay timer: a relative delay that every event starts anew, capped by an absolute one that only the first event
/// starts (8254x manual: RDTR with RADV, TIDV with TADV).
#[derive(Debug)]
pub struct DelayTimer {
    due: AtomicU64,
    cap: AtomicU64,
}

impl Default for DelayTimer {
    fn default() -> Self {
        DelayTimer {
            due: AtomicU64::new(NEVER),
            cap: AtomicU64::new(NEVER),
        }
    }
}

impl DelayTimer {
    /// Notes an event: fires `delay` ns from now, unless another event comes first, but no later than `cap` ns after
    /// the first event since the timer last fired. A `cap` of `None` means no bound.
    pub fn start(&self, now: Time, delay: u64, cap: Option<u64>) {
        self.due
            .store(now.plus_nanos(delay).0.min(NEVER - 1), SeqCst);
        if let Some(cap) = cap {
            let at = now.plus_nanos(cap).0.min(NEVER - 1);
            // An error means that an earlier event has set the bound already.
            let _ = self.cap.compare_exchange(NEVER, at, SeqCst, SeqCst);
        }
    }

    /// When the timer fires, `None` if no event waits.
    pub fn deadline(&self) -> Option<Time> {
        let due = self.due.load(SeqCst);
        (due != NEVER).then(|| Time(due.min(self.cap.load(SeqCst))))
    }

    /// Stops the timer if it has run out by `now`, and says whether it had.
    pub fn expire(&self, now: Time) -> bool {
        self.deadline().is_some_and(|at| at <= now) && self.flush()
    }

    /// Stops the timer, and says whether an event was waiting.
    pub fn flush(&self) -> bool {
        let waiting = self.due.swap(NEVER, SeqCst) != NEVER;
        self.cap.store(NEVER, SeqCst);
        waiting
    }

    /// What is left of the timer, `None` if no event waits.
    pub fn save(&self, now: Time) -> Option<SavedTimer> {
        let left = |at: u64| (at != NEVER).then(|| at.saturating_sub(now.0));
        left(self.due.load(SeqCst)).map(|due| SavedTimer {
            due,
            cap: left(self.cap.load(SeqCst)),
        })
    }

    /// Takes over what another timer had left. No delay can be longer than `longest` ns.
    pub fn restore(&self, saved: Option<SavedTimer>, longest: u64, now: Time) {
        self.flush();
        let at = |left: u64| now.plus_nanos(left.min(longest)).0.min(NEVER - 1);
        if let Some(SavedTimer { due, cap }) = saved {
            self.due.store(at(due), SeqCst);
            self.cap.store(cap.map_or(NEVER, at), SeqCst);
        }
    }
}

/// A running [`DelayTimer`] without its clock: nanoseconds that are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedTimer {
    due: u64,
    cap: Option<u64>,
}

/// The minimum interval between two assertions of an interrupt.
///
/// A lone interrupt is never delayed. The interval counts from the last assertion and is given with each question, so
/// a driver that changes it (Linux does, by load) is obeyed at once.
#[derive(Debug)]
pub struct Throttle {
    last: AtomicU64,
}

impl Default for Throttle {
    fn default() -> Self {
        Throttle {
            last: AtomicU64::new(NEVER),
        }
    }
}

impl Throttle {
    /// The first moment at which the interrupt may be asserted again, given an interval in ns.
    pub fn ready_at(&self, interval: u64) -> Time {
        match self.last.load(SeqCst) {
            NEVER => Time::ZERO,
            last => Time(last).plus_nanos(interval),
        }
    }

    /// Notes an assertion.
    pub fn asserted(&self, now: Time) {
        self.last.store(now.0.min(NEVER - 1), SeqCst);
    }

    /// Nanoseconds since the last assertion, `None` if there was none.
    pub fn save(&self, now: Time) -> Option<u64> {
        match self.last.load(SeqCst) {
            NEVER => None,
            last => Some(now.0.saturating_sub(last)),
        }
    }

    /// Takes over what another throttle has seen.
    pub fn restore(&self, since: Option<u64>, now: Time) {
        match since {
            None => self.reset(),
            Some(since) => self.asserted(Time(now.0.saturating_sub(since))),
        }
    }

    /// Forgets the last assertion.
    pub fn reset(&self) {
        self.last.store(NEVER, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_restarts_the_delay_up_to_the_cap() {
        let timer = DelayTimer::default();
        assert_eq!(timer.deadline(), None);
        timer.start(Time(1000), 100, Some(250));
        assert_eq!(timer.deadline(), Some(Time(1100)));
        timer.start(Time(1090), 100, Some(250));
        assert_eq!(timer.deadline(), Some(Time(1190)));
        timer.start(Time(1180), 100, Some(250));
        assert_eq!(timer.deadline(), Some(Time(1250)));
        assert!(!timer.expire(Time(1249)));
        assert!(timer.expire(Time(1250)));
        assert!(!timer.expire(Time(9999)));
        timer.start(Time(2000), 100, Some(250));
        assert_eq!(timer.deadline(), Some(Time(2100)));
    }

    #[test]
    fn without_a_cap_a_steady_stream_holds_the_timer_off() {
        let timer = DelayTimer::default();
        for i in 0..1000 {
            timer.start(Time(i * 99), 100, None);
            assert!(!timer.expire(Time(i * 99 + 98)));
        }
        assert!(timer.expire(Time(999 * 99 + 100)));
    }

    #[test]
    fn flush_reports_a_waiting_event_once() {
        let timer = DelayTimer::default();
        assert!(!timer.flush());
        timer.start(Time(u64::MAX), u64::MAX, Some(u64::MAX));
        assert!(timer.flush());
        assert!(!timer.flush());
    }

    #[test]
    fn throttle_counts_from_the_last_assertion() {
        let throttle = Throttle::default();
        assert_eq!(throttle.ready_at(5000), Time::ZERO);
        throttle.asserted(Time(100));
        assert_eq!(throttle.ready_at(5000), Time(5100));
        assert_eq!(throttle.ready_at(0), Time(100));
        throttle.reset();
        assert_eq!(throttle.ready_at(5000), Time::ZERO);
    }
}
