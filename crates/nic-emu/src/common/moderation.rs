//! Interrupt moderation: how soon a cause may reach the interrupt line.
//!
//! Plain atomics in nanoseconds, so that a queue may start a timer while control reads it, and a test can name the
//! nanosecond at which something has to happen.

use serde::{Deserialize, Serialize};

use crate::Time;
use crate::sync::{AtomicU64, SeqCst};

/// Stands for "not running".
const NEVER: u64 = u64::MAX;

/// A delay timer: a relative delay that every event starts anew, capped by an absolute one that only the first event
/// starts (8254x manual: RDTR with RADV, TIDV with TADV).
///
/// Anybody may ask and stop it; only one thread starts it, that of the queue whose events it delays. So `due` says by
/// itself whether it runs: who stops it exchanges that word, and the bound of what has fired means nothing any more.
#[derive(Debug)]
pub struct DelayTimer {
    due: AtomicU64,
    /// Belongs to whoever starts the timer, and holds while `due` says that it runs.
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
    /// the first event since the timer last fired. A `cap` of `None` means no bound. On one thread at a time only.
    pub fn start(&self, now: Time, delay: u64, cap: Option<u64>) {
        let at = |nanos| now.plus_nanos(nanos).0.min(NEVER - 1);
        let (due, bound) = (at(delay), cap.map_or(NEVER, at));
        let before = self.due.load(SeqCst);
        // The bound goes first: who sees the event sees its bound.
        if before == NEVER || self.cap.load(SeqCst) == NEVER {
            self.cap.store(bound, SeqCst);
        }
        let started = self.due.compare_exchange(before, due, SeqCst, SeqCst);
        if started.is_err() {
            // Somebody has stopped it meanwhile, and nobody else starts it: this is a first event after all.
            self.cap.store(bound, SeqCst);
            self.due.store(due, SeqCst);
        }
    }

    /// When the timer fires, `None` if no event waits.
    pub fn deadline(&self) -> Option<Time> {
        self.running().map(|(_, at)| at)
    }

    /// What says that it runs, and when it fires.
    fn running(&self) -> Option<(u64, Time)> {
        let due = self.due.load(SeqCst);
        (due != NEVER).then(|| (due, Time(due.min(self.cap.load(SeqCst)))))
    }

    /// Stops the timer if it has run out by `now`, and says whether it had.
    pub fn expire(&self, now: Time) -> bool {
        // An event that comes in between puts it off, or is a first one with a delay of its own: look again.
        while let Some((due, at)) = self.running()
            && at <= now
        {
            let stopped = self.due.compare_exchange(due, NEVER, SeqCst, SeqCst);
            if stopped.is_ok() {
                return true;
            }
        }
        false
    }

    /// Stops the timer, and says whether an event was waiting.
    pub fn flush(&self) -> bool {
        self.due.swap(NEVER, SeqCst) != NEVER
    }

    /// What is left of the timer, `None` if no event waits.
    pub fn save(&self, now: Time) -> Option<SavedTimer> {
        let left = |at: u64| (at != NEVER).then(|| at.saturating_sub(now.0));
        left(self.due.load(SeqCst)).map(|due| SavedTimer {
            due,
            cap: left(self.cap.load(SeqCst)),
        })
    }

    /// Takes over what another timer had left. No delay can be longer than `longest` ns. While nobody starts it.
    pub fn restore(&self, saved: Option<SavedTimer>, longest: u64, now: Time) {
        self.flush();
        let at = |left: u64| now.plus_nanos(left.min(longest)).0.min(NEVER - 1);
        if let Some(SavedTimer { due, cap }) = saved {
            self.cap.store(cap.map_or(NEVER, at), SeqCst);
            self.due.store(at(due), SeqCst);
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
