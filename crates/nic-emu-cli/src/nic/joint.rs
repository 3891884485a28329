//! What the control and the queues of a NIC tell each other, from thread to thread if they live on two.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use nic_emu::Time;
use nic_emu::e1000::state::{RxState, TxState};
use nic_emu::e1000::{Kick, Shared};
use vfio_user::IrqTable;

use super::asked::Asked;
use super::line::Line;
use super::waker::Waker;

/// The queues as they are saved and restored.
#[derive(Clone, Debug)]
pub(crate) struct SavedQueues {
    /// The transmit queue.
    pub(crate) tx: TxState,
    /// The receive queue.
    pub(crate) rx: RxState,
    /// The generation under which they are to be restored; meaningless in those that were just saved.
    pub(crate) generation: u64,
}

/// Atomics, and a box for saved queues that is opened in a migration only. On one thread the two call each other and
/// nobody has to be woken; what passes between them is the same.
#[derive(Debug)]
pub(crate) struct Joint {
    /// The NIC's name in logs.
    pub(crate) name: String,
    line: Line,
    /// Wakes the thread that has the control.
    pub(crate) control: Waker,
    /// Wakes the thread that has the queues.
    pub(crate) queues: Waker,
    shared: Arc<Shared>,
    kick: AtomicU8,
    asked: AtomicU64,
    passed: AtomicU64,
    cable: AtomicBool,
    armed: AtomicU64,
    stopped: AtomicBool,
    /// What the stopped queues are.
    saved: Mutex<Option<SavedQueues>>,
    /// What the queues are to become.
    handed: Mutex<Option<SavedQueues>>,
    recalled: AtomicBool,
    returned: AtomicBool,
    over: AtomicBool,
    /// What an operator wants of it.
    pub(crate) operator: Asked,
}

impl Joint {
    pub(crate) fn new(name: String, shared: Arc<Shared>, irqs: Arc<IrqTable>) -> Self {
        Self {
            name,
            line: Line::new(shared.clone(), irqs),
            control: Waker::default(),
            queues: Waker::default(),
            shared,
            kick: AtomicU8::new(0),
            asked: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            cable: AtomicBool::new(false),
            armed: AtomicU64::new(u64::MAX),
            stopped: AtomicBool::new(false),
            saved: Mutex::default(),
            handed: Mutex::default(),
            recalled: AtomicBool::new(false),
            returned: AtomicBool::new(false),
            over: AtomicBool::new(false),
            operator: Asked::default(),
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

    /// Whether the guest's link may be up: the cable is in, and the operator has not taken the link down.
    pub(crate) fn carrier(&self) -> bool {
        self.cable() && self.operator.is_plugged()
    }

    /// The operator takes the link up or down; whether that changes it. Whoever calls this wakes the control.
    pub(crate) fn plug(&self, up: bool) -> bool {
        let changed = self.operator.plug(up);
        if changed {
            // The queues stop listening to the network, or throw away what it sent meanwhile.
            self.kick(Kick::RX);
        }
        changed
    }

    /// The interrupt line and what was sent over it.
    pub(crate) fn irqs(&self) -> &IrqTable {
        self.line.irqs()
    }

    /// The cable of the backend was plugged or pulled.
    pub(crate) fn set_cable(&self, up: bool) {
        if self.cable.swap(up, SeqCst) != up {
            self.control.wake();
        }
    }

    /// The control will look at the interrupt line at this time by itself.
    pub(crate) fn arm(&self, at: Option<Time>) {
        self.armed.store(at.map_or(u64::MAX, |at| at.0), SeqCst);
    }

    /// Whether the interrupt line may change by itself before the control means to look at it.
    pub(crate) fn is_due_earlier(&self) -> bool {
        let due = self.shared.deadline();
        !self.is_stopped() && due.is_some_and(|due| due.0 < self.armed.load(SeqCst))
    }

    /// The NIC stops, with the next epoch, or goes on at once: see [`vfio_user::Migration`].
    pub(crate) fn stop(&self, stop: bool) {
        self.stopped.store(stop, SeqCst);
        if !stop {
            self.kick(Kick::TX | Kick::RX);
        }
    }

    /// Whether the NIC is to stand still: it moves no frames and no interrupt line.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(SeqCst)
    }

    /// What the queues are at the moment, now that they stand still.
    pub(crate) fn save_queues(&self, queues: SavedQueues) {
        *lock(&self.saved) = Some(queues);
    }

    /// What the queues were when they passed the epoch in which the NIC was stopped.
    pub(crate) fn saved_queues(&self) -> Option<SavedQueues> {
        lock(&self.saved).clone()
    }

    /// Hands the queues what they are to become when they pass the next epoch.
    pub(crate) fn hand(&self, queues: Option<SavedQueues>) {
        *lock(&self.handed) = queues;
    }

    /// What the queues are to become, once.
    pub(crate) fn take_handed(&self) -> Option<SavedQueues> {
        lock(&self.handed).take()
    }

    /// Shows the guest the interrupt line as it is now, unless the NIC stands still.
    pub(crate) fn update_line(&self, now: Time) {
        if !self.is_stopped() {
            self.line.update(now);
        }
    }

    /// Calls the queues back to the control's thread, or lets them stay away.
    pub(crate) fn recall(&self, back: bool) {
        if self.recalled.swap(back, SeqCst) != back {
            self.queues.wake();
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
            self.control.wake();
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
        self.control.wake();
        self.queues.wake();
    }

    /// Whether the NIC has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }
}

/// Nothing is left half done in the boxes by a thread that panics.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
