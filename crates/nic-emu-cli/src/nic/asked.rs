//! What an operator asks of a running NIC, and what it answers.
//!
//! Registers and counters are atomics that anybody may read. What only control or queues know they say in their next
//! turn, if they find that somebody wants to know: one load a turn is all that this costs a NIC that nobody looks at.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use nic_emu::common::stats::Counter;
use vfio_user::{DmaMessages, Memory, Messages};

const CONTROL: u8 = 1 << 0;
const QUEUES: u8 = 1 << 1;

/// What only the control knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ControlAnswer {
    pub(crate) connected: bool,
    pub(crate) memory: Memory,
    pub(crate) dma: DmaMessages,
    pub(crate) messages: Messages,
}

/// What only the queues know.
#[derive(Clone, Debug)]
pub(crate) struct QueuesAnswer {
    pub(crate) backend: String,
    pub(crate) counters: net_backend::Counters,
    /// They have a thread of their own.
    pub(crate) apart: bool,
}

/// The answers that came in time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers {
    pub(crate) control: Option<ControlAnswer>,
    pub(crate) queues: Option<QueuesAnswer>,
}

/// The questions, the answers, and the operator's hand at the cable.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    open: AtomicU8,
    answers: Mutex<Answers>,
    answered: Condvar,
    /// The operator has taken the link down.
    unplugged: AtomicBool,
    /// Frames that the guest sent while it was.
    pub(crate) lost: Counter,
}

impl Asked {
    /// Opens the questions; whoever answers has to be woken afterwards.
    pub(crate) fn ask(&self) {
        *self.lock() = Answers::default();
        self.open.store(CONTROL | QUEUES, SeqCst);
    }

    /// Waits for both answers, no longer than `timeout`, and closes the questions.
    pub(crate) fn wait(&self, timeout: Duration) -> Answers {
        let missing = |answers: &mut Answers| answers.control.is_none() || answers.queues.is_none();
        let (answers, _) = self
            .answered
            .wait_timeout_while(self.lock(), timeout, missing)
            .unwrap_or_else(PoisonError::into_inner);
        self.open.store(0, SeqCst);
        answers.clone()
    }

    /// Whether anything is asked.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(SeqCst) != 0
    }

    /// Whether the queues are still asked.
    pub(crate) fn wants_queues(&self) -> bool {
        self.open.load(SeqCst) & QUEUES != 0
    }

    pub(super) fn answer_control(&self, answer: ControlAnswer) {
        if self.open.fetch_and(!CONTROL, SeqCst) & CONTROL != 0 {
            self.lock().control = Some(answer);
            self.answered.notify_all();
        }
    }

    pub(super) fn answer_queues(&self, answer: QueuesAnswer) {
        if self.open.fetch_and(!QUEUES, SeqCst) & QUEUES != 0 {
            self.lock().queues = Some(answer);
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

    fn lock(&self) -> std::sync::MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
