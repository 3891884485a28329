//! One message-signalled interrupt: pending until it can be delivered.
//!
//! A raiser that finds the way free writes the eventfd and is done. One that does not sets PENDING and looks again;
//! the control, having opened the way, looks for PENDING. A full barrier on either side between the two steps makes
//! sure that one of them sees the other, so an interrupt is never lost, at worst delivered twice.

use std::sync::Arc;

use super::eventfd::Eventfd;
use super::trigger::Trigger;
use crate::sync::{AtomicU32, Ordering, fence};

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
    pub(super) fn set_trigger(&self, fd: Option<Arc<Eventfd>>) -> bool {
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
