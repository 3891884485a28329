//! What the control and the queues of a NIC tell each other, from thread to thread if they live on two.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};

use nic_emu::Time;
use nic_emu::e1000::{Kick, Shared};
use vfio_user::IrqTable;

use super::bell::Bell;
use super::line::Line;

/// Atomics only. On one thread the two call each other and nobody rings; what passes between them is the same.
#[derive(Debug)]
pub(crate) struct Joint {
    /// The NIC's name in logs.
    pub(crate) name: String,
    /// The interrupt line.
    pub(crate) line: Line,
    /// Wakes the thread that has the control.
    pub(crate) control: Bell,
    /// Wakes the thread that has the queues.
    pub(crate) queues: Bell,
    shared: Arc<Shared>,
    kick: AtomicU8,
    asked: AtomicU64,
    passed: AtomicU64,
    cable: AtomicBool,
    armed: AtomicU64,
    recalled: AtomicBool,
    returned: AtomicBool,
    over: AtomicBool,
}

impl Joint {
    pub(crate) fn new(name: String, shared: Arc<Shared>, irqs: Arc<IrqTable>) -> Self {
        Self {
            name,
            line: Line::new(shared.clone(), irqs),
            control: Bell::default(),
            queues: Bell::default(),
            shared,
            kick: AtomicU8::new(0),
            asked: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            cable: AtomicBool::new(false),
            armed: AtomicU64::new(u64::MAX),
            recalled: AtomicBool::new(false),
            returned: AtomicBool::new(false),
            over: AtomicBool::new(false),
        }
    }

    /// Registers of the model, its counters, its interrupt causes.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The queues have work.
    pub(crate) fn kick(&self, kick: Kick) {
        let kick = kick & (Kick::TX | Kick::RX | Kick::RESET);
        if !kick.is_empty() {
            self.kick.fetch_or(kick.bits(), SeqCst);
        }
    }

    /// What the queues have to do since the last call.
    pub(crate) fn take_kick(&self) -> Kick {
        match self.kick.load(SeqCst) {
            0 => Kick::empty(),
            _ => Kick::from_bits_truncate(self.kick.swap(0, SeqCst)),
        }
    }

    /// The queues are to let go of everything that was taken away up to this epoch.
    pub(crate) fn ask(&self, epoch: u64) {
        if self.asked.load(SeqCst) != epoch {
            self.asked.store(epoch, SeqCst);
        }
    }

    /// The epoch that the queues are to pass.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(SeqCst)
    }

    /// The queues have passed this epoch.
    pub(crate) fn pass(&self, epoch: u64) {
        self.passed.store(epoch, SeqCst);
    }

    /// The epoch that the queues have passed.
    pub(crate) fn passed(&self) -> u64 {
        self.passed.load(SeqCst)
    }

    /// Whether the cable of the backend is in.
    pub(crate) fn cable(&self) -> bool {
        self.cable.load(SeqCst)
    }

    /// The cable of the backend was plugged or pulled.
    pub(crate) fn set_cable(&self, up: bool) {
        if self.cable.swap(up, SeqCst) != up {
            self.control.ring();
        }
    }

    /// The control will look at the interrupt line at this time by itself.
    pub(crate) fn arm(&self, at: Option<Time>) {
        self.armed.store(at.map_or(u64::MAX, |at| at.0), SeqCst);
    }

    /// Whether the interrupt line may change by itself before the control means to look at it.
    pub(crate) fn is_due_earlier(&self) -> bool {
        let due = self.shared.irq.deadline();
        due.is_some_and(|due| due.0 < self.armed.load(SeqCst))
    }

    /// Calls the queues back to the control's thread, or lets them stay away.
    pub(crate) fn recall(&self, back: bool) {
        if self.recalled.swap(back, SeqCst) != back {
            self.queues.ring();
        }
    }

    /// Whether the queues are to return to the control's thread.
    pub(crate) fn is_recalled(&self) -> bool {
        self.recalled.load(SeqCst)
    }

    /// The thread that had the queues ends and hands them over, or has been seen to.
    pub(crate) fn return_queues(&self, returned: bool) {
        self.returned.store(returned, SeqCst);
        if returned {
            self.control.ring();
        }
    }

    /// Whether the thread that had the queues hands them over.
    pub(crate) fn has_returned(&self) -> bool {
        self.returned.load(SeqCst)
    }

    /// Whether the queues would find something to do if they were woken.
    pub(crate) fn wants_queues(&self) -> bool {
        self.kick.load(SeqCst) != 0 || self.asked() != self.passed()
    }

    /// One side is gone for good; the other one follows it.
    pub(crate) fn end(&self) {
        self.over.store(true, SeqCst);
        self.control.ring();
        self.queues.ring();
    }

    /// Whether the NIC has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }
}
