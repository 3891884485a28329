//! What the parts of a NIC tell each other, from thread to thread if they live on several.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use guest_mem::{GuestMem, sigbus};
use net_backend::Meter;
use nic_emu::Time;
use nic_emu::e1000::state::{RxState, TxState};
use nic_emu::e1000::{Kick, Shared};
use rustix::event::epoll;
use vfio_user::IrqTable;

use super::Waker;
use super::alarm::Alarm;
use super::asked::Asked;
use super::calls::Calls;
use super::interrupt::Line;
use crate::shard::Door;

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

/// Atomics, and boxes that are opened in a migration or a move only. On one thread the parts call each other and nobody
/// has to be woken; what passes between them is the same.
#[derive(Debug)]
pub(crate) struct Joint {
    /// The NIC's name in logs.
    pub(crate) name: String,
    /// That of its backend.
    pub(crate) network: String,
    /// What has passed through its backend.
    pub(crate) passed: Arc<Meter>,
    line: Line,
    /// Wakes the thread that has the control.
    pub(crate) control: Waker,
    pub(crate) tx: Side<TxState>,
    pub(crate) rx: Side<RxState>,
    shared: Arc<Shared>,
    cable: AtomicBool,
    /// The network is gone, and the cable with it.
    gone: AtomicBool,
    alarm: Alarm,
    stopped: AtomicBool,
    over: AtomicBool,
    /// Faults in guest memory that were survived when this was last looked at.
    faults: AtomicUsize,
    /// What an operator wants of it.
    pub(crate) operator: Asked,
}

/// One queue's part of the joint, on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Side<S> {
    calls: Calls,
    /// The kicks that concern this queue.
    concern: Kick,
    /// Wakes the thread that has the queue.
    pub(crate) waker: Waker,
    /// What the stopped queue is.
    saved: Mutex<Option<S>>,
    /// What it is to become, and the generation under which it does.
    handed: Mutex<Option<(S, u64)>>,
    /// Where it lives unless its memory has to be asked for.
    pub(crate) home: OnceLock<Door>,
    bound: AtomicBool,
    destination: Mutex<Option<Door>>,
}

impl<S: Clone> Side<S> {
    fn new(concern: Kick) -> Self {
        Self {
            calls: Calls::default(),
            concern: concern | Kick::RESET,
            waker: Waker::default(),
            saved: Mutex::default(),
            handed: Mutex::default(),
            home: OnceLock::new(),
            bound: AtomicBool::new(false),
            destination: Mutex::default(),
        }
    }

    /// The queue has work, if this concerns it.
    pub(crate) fn kick(&self, kick: Kick) {
        self.calls.kick((kick & self.concern).bits());
    }

    /// What the queue has to do since the last call.
    pub(crate) fn take_kick(&self) -> Kick {
        Kick::from_bits_truncate(self.calls.take_kick())
    }

    /// The epoch that the queue is to pass; none if it has.
    pub(crate) fn asked(&self) -> Option<u64> {
        self.calls.asked()
    }

    /// As [`asked`](Self::asked), and whether it is the one in which the NIC stops: that one, the other queue passes first.
    pub(crate) fn asked_behind<T>(
        &self,
        other: &Side<T>,
        stops: impl FnOnce() -> bool,
    ) -> Option<(u64, bool)> {
        self.calls.asked_behind(&other.calls, stops)
    }

    /// The queue has passed this epoch.
    pub(crate) fn pass(&self, epoch: u64) {
        self.calls.pass(epoch);
    }

    /// The epoch that the queue has passed.
    pub(crate) fn passed(&self) -> u64 {
        self.calls.passed()
    }

    /// Wakes the queue, on another thread, if it would find something to do.
    pub(crate) fn wake_if_wanted(&self) {
        if self.calls.wants() || self.bound.load(SeqCst) {
            self.waker.wake();
        }
    }

    /// What the queue is at the moment, now that it stands still.
    pub(crate) fn save(&self, state: S) {
        *lock(&self.saved) = Some(state);
    }

    /// What the queue is to become, once, and under which generation.
    pub(crate) fn take_handed(&self) -> Option<(S, u64)> {
        lock(&self.handed).take()
    }

    /// The queue is to live there from now on.
    pub(crate) fn send_to(&self, door: Door) {
        *lock(&self.destination) = Some(door);
        self.bound.store(true, SeqCst);
    }

    /// The queue is to stay where it is.
    pub(crate) fn forget_destination(&self) {
        self.bound.store(false, SeqCst);
        *lock(&self.destination) = None;
    }

    /// Whether the queue is to live elsewhere than where it is.
    pub(crate) fn is_bound(&self) -> bool {
        self.bound.load(SeqCst)
    }

    /// Where the queue is to go, once.
    pub(crate) fn take_destination(&self) -> Option<Door> {
        match self.bound.swap(false, SeqCst) {
            true => lock(&self.destination).take(),
            false => None,
        }
    }
}

impl Joint {
    pub(crate) fn new(
        name: String,
        network: String,
        passed: Arc<Meter>,
        shared: Arc<Shared>,
        irqs: Arc<IrqTable>,
    ) -> Self {
        Self {
            name,
            network,
            passed,
            line: Line::new(shared.clone(), irqs),
            control: Waker::default(),
            tx: Side::new(Kick::TX),
            rx: Side::new(Kick::RX | Kick::WAKE),
            shared,
            cable: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            alarm: Alarm::default(),
            stopped: AtomicBool::new(false),
            over: AtomicBool::new(false),
            faults: AtomicUsize::new(sigbus::faults()),
            operator: Asked::default(),
        }
    }

    /// Registers of the model, its counters, its interrupt causes.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The queues have work.
    pub(crate) fn kick(&self, kick: Kick) {
        self.tx.kick(kick);
        self.rx.kick(kick);
    }

    /// The queues are to let go of everything that was taken away up to this epoch.
    pub(crate) fn ask(&self, epoch: u64) {
        self.tx.calls.ask(epoch);
        self.rx.calls.ask(epoch);
    }

    /// The epoch that both queues have passed.
    pub(crate) fn passed(&self) -> u64 {
        self.tx.passed().min(self.rx.passed())
    }

    /// Whether the cable of the backend is in.
    pub(crate) fn cable(&self) -> bool {
        self.cable.load(SeqCst) && !self.gone.load(SeqCst)
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
            self.kick(Kick::RX | Kick::WAKE);
        }
        changed
    }

    /// The interrupt line and what was sent over it.
    pub(crate) fn irqs(&self) -> &IrqTable {
        self.line.listener()
    }

    /// The cable of the backend was plugged or pulled.
    pub(crate) fn set_cable(&self, up: bool) {
        if self.cable.swap(up, SeqCst) != up {
            self.control.wake();
        }
    }

    /// One half of the backend has noticed that the network is gone for good.
    pub(crate) fn lose_network(&self) {
        if !self.gone.load(SeqCst) && !self.gone.swap(true, SeqCst) {
            self.control.wake();
        }
    }

    /// The control will look at the interrupt line by itself when that may change: at this time.
    pub(crate) fn arm(&self) -> Option<Time> {
        self.alarm.set(|| self.shared.deadline())
    }

    /// Whether the interrupt line may change by itself before the control means to look at it.
    pub(crate) fn is_due_earlier(&self) -> bool {
        !self.is_stopped() && self.alarm.misses(|| self.shared.deadline())
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

    /// What the queues were when they passed the epoch in which the NIC was stopped.
    pub(crate) fn saved_queues(&self) -> Option<SavedQueues> {
        Some(SavedQueues {
            tx: lock(&self.tx.saved).clone()?,
            rx: lock(&self.rx.saved).clone()?,
            generation: 0,
        })
    }

    /// Hands the queues what they are to become when they pass the next epoch.
    pub(crate) fn hand(&self, queues: Option<SavedQueues>) {
        let (tx, rx) = match queues {
            Some(SavedQueues { tx, rx, generation }) => {
                (Some((tx, generation)), Some((rx, generation)))
            }
            None => (None, None),
        };
        *lock(&self.tx.handed) = tx;
        *lock(&self.rx.handed) = rx;
    }

    /// Shows the guest the interrupt line as it is now, unless the NIC stands still.
    pub(crate) fn update_line(&self, now: Time) {
        if !self.is_stopped() {
            self.line.update(now);
        }
    }

    /// Says so if the hypervisor has shrunk the file of its guest's memory. Only this guest suffers.
    pub(crate) fn look_for_faults(&self, mem: &GuestMem) {
        let faults = sigbus::faults();
        if self.faults.load(SeqCst) != faults
            && self.faults.swap(faults, SeqCst) != faults
            && mem.is_broken()
        {
            tracing::warn!(
                nic = self.name,
                "the hypervisor has shrunk the file of its guest's memory: what was there is zeros from now on, and what \
                 the NIC writes there is lost; start the guest again"
            );
        }
    }

    /// A part is gone for good; the others follow it.
    pub(crate) fn end(&self) {
        self.over.store(true, SeqCst);
        for waker in [&self.control, &self.tx.waker, &self.rx.waker] {
            waker.wake();
        }
    }

    /// Has `epoll` watch none of our wakers any more.
    pub(crate) fn unwatch(&self, epoll: BorrowedFd<'_>) {
        for waker in [&self.control, &self.tx.waker, &self.rx.waker] {
            if let Some(fd) = waker.watched() {
                // Those that are watched elsewhere are unknown here.
                let _ = epoll::delete(epoll, fd);
            }
        }
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
