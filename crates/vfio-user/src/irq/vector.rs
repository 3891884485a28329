//! One message-signalled interrupt: pending until it can be delivered.
//!
//! A raiser that finds the way free writes the eventfd and is done. One that does not sets PENDING and looks again;
//! the control, having opened the way, looks for PENDING. A full barrier on either side between the two steps makes
//! sure that one of them sees the other, so an interrupt is never lost, at worst delivered twice.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use super::trigger::Trigger;

/// Raised, and not delivered yet.
const PENDING: u32 = 1 << 0;
/// Held back by the client, with SET_IRQS.
pub(super) const BY_CLIENT: u32 = 1 << 1;
/// Held back by the guest, with the vector's mask bit.
pub(super) const BY_GUEST: u32 = 1 << 2;

#[derive(Debug, Default)]
pub(super) struct Vector {
    state: AtomicU32,
    trigger: Trigger,
}

impl Vector {
    /// Raises the interrupt. `open` tells whether the function may send messages; it is asked again after the
    /// interrupt has become pending.
    pub(super) fn raise(&self, open: impl Fn() -> bool) {
        let free = self.state.load(Ordering::Acquire) & (BY_CLIENT | BY_GUEST) == 0;
        if free && open() && self.trigger.send() {
            return;
        }
        self.state.fetch_or(PENDING, Ordering::Relaxed);
        self.deliver(open);
    }

    /// Delivers what is pending if the way is free now. Called after whatever may have freed it.
    pub(super) fn deliver(&self, open: impl Fn() -> bool) {
        loop {
            fence(Ordering::SeqCst);
            let ready = self.state.load(Ordering::Relaxed) == PENDING;
            if !ready || !open() || !self.trigger.is_set() {
                return;
            }
            if self.state.fetch_and(!PENDING, Ordering::AcqRel) & PENDING == 0
                || self.trigger.send()
            {
                return;
            }
            // The eventfd was exchanged in between.
            self.state.fetch_or(PENDING, Ordering::Relaxed);
        }
    }

    pub(super) fn is_pending(&self) -> bool {
        self.state.load(Ordering::Acquire) & PENDING != 0
    }

    pub(super) fn is_masked(&self, reason: u32) -> bool {
        self.state.load(Ordering::Acquire) & reason != 0
    }

    /// It was raised elsewhere, where it could not be delivered; the caller delivers.
    pub(super) fn make_pending(&self) {
        self.state.fetch_or(PENDING, Ordering::AcqRel);
    }

    /// Holds the interrupt back for `reason`. True if nothing did before.
    pub(super) fn mask(&self, reason: u32) -> bool {
        self.state.fetch_or(reason, Ordering::AcqRel) & (BY_CLIENT | BY_GUEST) == 0
    }

    /// `reason` holds the interrupt back no longer; the caller delivers.
    pub(super) fn unmask(&self, reason: u32) {
        self.state.fetch_and(!reason, Ordering::AcqRel);
    }

    /// What was pending never happened: the function was reset.
    pub(super) fn clear(&self) {
        self.state.fetch_and(!PENDING, Ordering::AcqRel);
    }

    /// See [`Trigger::set`]; the caller delivers.
    pub(super) fn set_trigger(&self, fd: Option<Arc<OwnedFd>>) -> bool {
        self.trigger.set(fd)
    }

    /// Writes the eventfd, if there is one, whatever holds the interrupt back.
    pub(super) fn trigger_now(&self) {
        self.trigger.send();
    }

    pub(super) fn sent(&self) -> u64 {
        self.trigger.sent()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;
    use crate::irq::testing::{count, fd};

    /// Waits a moment that differs from round to round.
    fn dawdle(round: u32, prime: u32) {
        for _ in 0..round.wrapping_mul(prime) % 64 {
            std::hint::spin_loop();
        }
    }

    fn wait_for(turn: &AtomicU32, round: u32) {
        let mut spins = 0_u32;
        while turn.load(Ordering::Acquire) != round {
            spins += 1;
            match spins % 1000 {
                0 => thread::yield_now(),
                _ => std::hint::spin_loop(),
            }
        }
    }

    #[test]
    fn a_way_that_opens_between_looking_and_latching_is_seen() {
        let (vector, fd) = (Vector::default(), fd());
        let asked = std::cell::Cell::new(0);
        vector.raise(|| {
            asked.set(asked.get() + 1);
            if asked.get() > 1 {
                return true;
            }
            // The raiser looks. Before it latches, the control opens the way, and finds nothing pending.
            vector.set_trigger(Some(fd.clone()));
            vector.deliver(|| true);
            assert_eq!(count(&fd), 0);
            false
        });
        assert_eq!((count(&fd), vector.is_pending()), (1, false));
    }

    #[test]
    fn a_way_that_closes_while_delivering_leaves_it_pending() {
        let (vector, fd) = (Vector::default(), fd());
        vector.mask(BY_GUEST);
        vector.set_trigger(Some(fd.clone()));
        vector.raise(|| true);
        vector.unmask(BY_GUEST);
        vector.deliver(|| {
            vector.set_trigger(None);
            true
        });
        assert_eq!((count(&fd), vector.is_pending()), (0, true));
        vector.set_trigger(Some(fd.clone()));
        vector.deliver(|| true);
        assert_eq!((count(&fd), vector.is_pending()), (1, false));
    }

    #[test]
    fn nothing_is_lost_when_both_sides_meet() {
        // Again and again at the moment at which the way opens.
        const ROUNDS: u32 = 3000;
        let (vector, fd) = (Vector::default(), fd());
        vector.set_trigger(Some(fd.clone()));
        let (open, started, done) = (AtomicBool::new(true), AtomicU32::new(0), AtomicU32::new(0));
        let is_open = || open.load(Ordering::Acquire);
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    wait_for(&started, round);
                    dawdle(round, 7919);
                    vector.raise(is_open);
                    done.store(round, Ordering::Release);
                }
            });
            for round in 1..=ROUNDS {
                match round % 3 {
                    0 => _ = vector.mask(BY_CLIENT),
                    1 => _ = vector.set_trigger(None),
                    _ => open.store(false, Ordering::Release),
                }
                started.store(round, Ordering::Release);
                dawdle(round, 104_729);
                match round % 3 {
                    0 => vector.unmask(BY_CLIENT),
                    1 => _ = vector.set_trigger(Some(fd.clone())),
                    _ => open.store(true, Ordering::Release),
                }
                vector.deliver(is_open);
                wait_for(&done, round);
                assert!(count(&fd) >= 1, "round {round}");
                assert!(!vector.is_pending(), "round {round}");
            }
        });
    }
}
