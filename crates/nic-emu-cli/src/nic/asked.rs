//! What an operator asks of a running NIC, and what it answers.
//!
//! Registers and counters are atomics that anybody may read. What only the control knows it says in its next turn, if it
//! finds that somebody wants to know: one load a turn is all that this costs a NIC that nobody looks at.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use nic_emu::common::stats::Counter;
use vfio_user::{DmaMessages, Memory, Messages};

/// What only the control knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ControlAnswer {
    pub(crate) connected: bool,
    pub(crate) memory: Memory,
    pub(crate) dma: DmaMessages,
    pub(crate) messages: Messages,
    /// The queues have a thread of their own.
    pub(crate) apart: bool,
}

/// The question, its answer, and the operator's hand at the cable.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    open: AtomicBool,
    answer: Mutex<Option<ControlAnswer>>,
    answered: Condvar,
    /// The operator has taken the link down.
    unplugged: AtomicBool,
    /// Frames that the guest sent while it was.
    pub(crate) lost: Counter,
}

impl Asked {
    /// Opens the question; the control has to be woken afterwards.
    pub(crate) fn ask(&self) {
        *self.lock() = None;
        self.open.store(true, SeqCst);
    }

    /// Waits for the answer, no longer than `timeout`, and closes the question.
    pub(crate) fn wait(&self, timeout: Duration) -> Option<ControlAnswer> {
        let (answer, _) = self
            .answered
            .wait_timeout_while(self.lock(), timeout, |answer| answer.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        self.open.store(false, SeqCst);
        *answer
    }

    /// Whether anything is asked.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(SeqCst)
    }

    pub(super) fn answer(&self, answer: ControlAnswer) {
        if self.open.swap(false, SeqCst) {
            *self.lock() = Some(answer);
            self.answered.notify_all();
        }
    }

    /// Whether the operator lets the link be up.
    pub(crate) fn is_plugged(&self) -> bool {
        !self.unplugged.load(SeqCst)
    }

    /// Takes the operator's part of the link up or down; whether that changes it.
    pub(crate) fn plug(&self, up: bool) -> bool {
        self.unplugged.swap(!up, SeqCst) == up
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<ControlAnswer>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
