//! What threads of a NIC share, in every order in which its steps can happen.
//!
//! The files under test are those of the daemon, and the model's interrupt logic, with the model checker's atomics in place
//! of the standard ones.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "the models use a part of what these files offer their crates"
)]

#[path = "../src/nic/alarm.rs"]
mod alarm;
#[path = "../src/nic/calls.rs"]
mod calls;
#[path = "../../nic-emu/src/e1000/irq.rs"]
mod irq;
#[path = "../src/nic/line.rs"]
mod line;
#[path = "../../nic-emu/src/common/moderation.rs"]
mod moderation;
#[path = "../src/nic/turns.rs"]
mod turns;
#[path = "../src/nic/waker.rs"]
mod waker;

/// What the daemon takes from the standard library.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst, fence};
}

mod common {
    pub(crate) use crate::moderation;
}

#[path = "../../nic-emu/tests/model/regs.rs"]
mod regs;

use loom::sync::Arc;
use loom::thread;

use alarm::Alarm;
use calls::Calls;
use irq::Irq;
use line::{Line, Listener, Logic};
use nic_emu::Time;
use nic_emu::e1000::bits;
use nic_emu::e1000::bits::cause;
use regs::{Reg, Regs};
use sync::{AtomicBool, AtomicU8, SeqCst};
use waker::{Event, Waker};

/// An eventfd, of which somebody sleeps on the other side.
#[derive(Default)]
struct Flag(AtomicBool);

impl Event for Flag {
    fn exists(&self) -> bool {
        true
    }

    fn set(&self) {
        self.0.store(true, SeqCst);
    }

    fn clear(&self) {
        self.0.store(false, SeqCst);
    }
}

impl Waker<Flag> {
    /// The thread that sleeps would be woken.
    fn is_set(&self) -> bool {
        self.event().0.load(SeqCst)
    }
}

#[derive(Default)]
struct Side {
    calls: Calls,
    waker: Waker<Flag>,
}

impl Side {
    /// What a thread does that has something for the queue.
    fn call(&self, kind: u8) {
        self.calls.kick(kind);
        if self.calls.wants() {
            self.waker.wake();
        }
    }

    /// What the queue's thread does, once, if it is woken. Returns the kicks that it took.
    fn turn(&self) -> u8 {
        if !self.waker.is_set() {
            return 0;
        }
        self.waker.clear();
        if let Some(epoch) = self.calls.asked() {
            self.calls.pass(epoch);
        }
        self.calls.take_kick()
    }
}

/// Two threads have work for the queue, while its own is awake. When all is quiet, none of it was lost or done twice: what
/// was not taken wakes it.
#[test]
fn no_kick_is_lost() {
    loom::model(|| {
        let side = Arc::new(Side::default());
        let callers = [1, 2].map(|kind| {
            let side = side.clone();
            thread::spawn(move || side.call(kind))
        });
        let taken = side.turn();
        for caller in callers {
            caller.join().unwrap();
        }
        let mut all = taken;
        // Each pass of this loop is one wake-up; a thread that sleeps with work left ends it early.
        for _ in 0..3 {
            let more = side.turn();
            assert_eq!(all & more, 0, "a kick was taken twice");
            all |= more;
        }
        assert_eq!(all, 3, "asleep with work left");
        assert!(!side.calls.wants());
        // And whoever comes later is heard.
        side.call(4);
        assert_eq!(side.turn(), 4, "nobody can wake it any more");
    });
}

/// The control asks for epochs while the queue runs: it hears of the last one.
#[test]
fn no_epoch_is_lost() {
    loom::model(|| {
        let side = Arc::new(Side::default());
        let control = {
            let side = side.clone();
            thread::spawn(move || {
                for epoch in 1..=2 {
                    side.calls.ask(epoch);
                    side.call(0);
                }
            })
        };
        side.turn();
        control.join().unwrap();
        for _ in 0..3 {
            side.turn();
        }
        assert_eq!(side.calls.passed(), 2, "asleep before an epoch");
    });
}

/// A hypervisor that is told of the line, or takes messages.
struct Hypervisor {
    messages: bool,
    level: AtomicBool,
    message: AtomicBool,
}

impl Listener for Hypervisor {
    fn set_level(&self, level: bool) {
        self.level.store(level, SeqCst);
    }

    fn takes_messages(&self) -> bool {
        self.messages
    }

    fn message(&self) {
        self.message.store(true, SeqCst);
    }
}

impl Logic for std::sync::Arc<Irq> {
    fn poll(&self, now: Time) -> bool {
        Irq::poll(self, now)
    }

    fn assertions(&self) -> u64 {
        Irq::assertions(self)
    }
}

/// A NIC whose line is up, of which its guest has been told. `itr` is the least time between two interrupts.
struct Told {
    regs: std::sync::Arc<Regs>,
    irq: std::sync::Arc<Irq>,
    alarm: Alarm,
    waker: Waker<Flag>,
    line: Line<std::sync::Arc<Irq>, Hypervisor>,
}

impl Told {
    fn new(messages: bool, itr: u32) -> Arc<Self> {
        let regs = std::sync::Arc::new(Regs::default());
        let hypervisor = Hypervisor {
            messages,
            level: AtomicBool::new(false),
            message: AtomicBool::new(false),
        };
        let irq = std::sync::Arc::new(Irq::new(regs.clone()));
        let nic = Self {
            line: Line::new(irq.clone(), hypervisor),
            regs,
            irq,
            alarm: Alarm::default(),
            waker: Waker::default(),
        };
        nic.regs.set(Reg::ITR, itr);
        nic.irq.enable(cause::RXT0);
        nic.receive(0);
        Arc::new(nic)
    }

    /// What the receive queue does after a batch.
    fn receive(&self, now: u64) {
        self.irq.raise(cause::RXT0);
        self.line.update(Time(now));
    }

    /// What a queue on another thread does besides.
    fn wake_control(&self) {
        if self.alarm.misses(|| self.irq.deadline()) {
            self.waker.wake();
        }
    }

    fn is_pending(&self) -> bool {
        self.regs.get(Reg::ICR) & self.regs.get(Reg::IMS) != 0
    }
}

/// A frame is received as the guest acknowledges the interrupt of the one before: when all is quiet, the line shows whether
/// a cause is left.
#[test]
fn when_all_is_quiet_the_line_is_where_it_belongs() {
    loom::model(|| {
        let nic = Told::new(false, 0);
        let queue = {
            let nic = nic.clone();
            thread::spawn(move || nic.receive(1))
        };
        nic.irq.acknowledge(Time(1));
        nic.line.update(Time(1));
        queue.join().unwrap();
        assert_eq!(nic.line.listener().level.load(SeqCst), nic.is_pending());
    });
}

/// The same by messages: with a cause left, there is one that the guest has not taken yet.
#[test]
fn no_message_is_forgotten() {
    loom::model(|| {
        let nic = Told::new(true, 0);
        let queue = {
            let nic = nic.clone();
            thread::spawn(move || nic.receive(1))
        };
        let message = &nic.line.listener().message;
        assert!(message.swap(false, SeqCst));
        nic.irq.acknowledge(Time(1));
        nic.line.update(Time(1));
        queue.join().unwrap();
        assert!(
            message.load(SeqCst) || !nic.is_pending(),
            "the guest sleeps"
        );
    });
}

/// A frame is received, too soon after the interrupt before, as the control goes to sleep: it looks in time, or is woken.
#[test]
fn nobody_oversleeps_an_interrupt_that_is_held_back() {
    const ITR: u32 = 4;
    loom::model(|| {
        let nic = Told::new(false, ITR);
        nic.irq.acknowledge(Time(1));
        nic.line.update(Time(1));
        let queue = {
            let nic = nic.clone();
            thread::spawn(move || {
                nic.receive(2);
                nic.wake_control();
            })
        };
        let alarm = nic.alarm.set(|| nic.irq.deadline());
        queue.join().unwrap();
        let due = u64::from(ITR) * 256;
        assert!(!nic.line.listener().level.load(SeqCst), "too early");
        assert_eq!(nic.irq.deadline(), Some(Time(due)));
        assert!(alarm == Some(Time(due)) || nic.waker.is_set(), "asleep");
        nic.line.update(Time(due));
        assert!(nic.line.listener().level.load(SeqCst));
    });
}

/// A frame that the NIC sends to itself, against a NIC that stops: the receive queue is saved with it.
#[test]
fn a_nic_that_stops_has_heard_itself() {
    #[derive(Default)]
    struct Nic {
        stopped: AtomicBool,
        tx: Calls,
        rx: Calls,
        ring: AtomicU8,
        saved: AtomicU8,
    }

    impl Nic {
        /// A turn of the transmit queue that has a frame, and one that has none.
        fn send(&self, frames: u8) {
            self.ring.fetch_add(frames, SeqCst);
            if let Some(epoch) = self.tx.asked() {
                self.tx.pass(epoch);
            }
        }

        fn receive(&self) {
            let stops = || self.stopped.load(SeqCst);
            if let Some((epoch, stops)) = self.rx.asked_behind(&self.tx, stops) {
                if stops {
                    let frames = self.ring.swap(0, SeqCst);
                    self.saved.fetch_add(frames, SeqCst);
                }
                self.rx.pass(epoch);
            }
        }
    }

    loom::model(|| {
        let nic = Arc::new(Nic::default());
        let queues = [
            thread::spawn({
                let nic = nic.clone();
                move || nic.send(1)
            }),
            thread::spawn({
                let nic = nic.clone();
                move || nic.receive()
            }),
        ];
        nic.stopped.store(true, SeqCst);
        nic.tx.ask(1);
        nic.rx.ask(1);
        for queue in queues {
            queue.join().unwrap();
        }
        // Who has not passed it by now is woken for it.
        nic.send(0);
        nic.receive();
        assert_eq!(nic.rx.passed(), 1);
        assert_eq!(nic.saved.load(SeqCst), 1, "a frame was left in the ring");
    });
}
