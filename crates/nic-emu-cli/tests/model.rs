//! What threads of a NIC share, in every order in which its steps can happen.
//!
//! The files under test are those of the daemon, with the model checker's atomics in place of the standard ones.

#[path = "../src/nic/calls.rs"]
mod calls;
#[path = "../src/nic/turns.rs"]
mod turns;
#[path = "../src/nic/waker.rs"]
mod waker;

/// What the daemon takes from the standard library.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
}

use loom::sync::Arc;
use loom::thread;

use calls::Calls;
use sync::{AtomicBool, AtomicU8, AtomicU64, SeqCst};
use turns::Turns;
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

/// Two threads complete work, each of which changes the level, and bring the line up to date: when all is quiet, it shows
/// the level.
#[test]
fn when_all_is_quiet_the_line_is_where_it_belongs() {
    loom::model(|| {
        let state = Arc::new((Turns::default(), AtomicU8::new(0), AtomicU8::new(0)));
        let update = |state: &(Turns, AtomicU8, AtomicU8)| {
            let (turns, level, shown) = state;
            turns.have_done(|| shown.store(level.load(SeqCst), SeqCst));
        };
        let other = {
            let state = state.clone();
            thread::spawn(move || {
                state.1.fetch_or(1, SeqCst);
                update(&state);
            })
        };
        state.1.fetch_or(2, SeqCst);
        update(&state);
        other.join().unwrap();
        assert_eq!(state.2.load(SeqCst), 3);
    });
}

/// A queue stores the head of its ring after it has looked at the generation, and a reset comes in between. The control
/// wipes what the queue was writing once it has passed the reset's epoch, and the guest sees nothing before that.
#[test]
fn no_head_survives_a_reset() {
    loom::model(|| {
        #[derive(Default)]
        struct Nic {
            calls: Calls,
            generation: AtomicU64,
            head: AtomicU64,
        }
        let nic = Arc::new(Nic::default());
        let queue = {
            let nic = nic.clone();
            thread::spawn(move || {
                let mine = 0;
                for _ in 0..2 {
                    // A turn: the epoch first, then a batch under the generation that the queue knows.
                    let asked = nic.calls.asked();
                    if let Some(epoch) = asked {
                        nic.calls.pass(epoch);
                    }
                    if nic.generation.load(SeqCst) == mine {
                        nic.head.store(7, SeqCst);
                    }
                }
            })
        };
        nic.head.store(0, SeqCst);
        nic.generation.fetch_add(1, SeqCst);
        nic.calls.ask(1);
        let passed_early = nic.calls.passed() == 1;
        if passed_early {
            nic.head.store(0, SeqCst);
        }
        queue.join().unwrap();
        // What was not passed by now is passed by a turn that is still to come.
        if !passed_early {
            nic.head.store(0, SeqCst);
        }
        assert_eq!(nic.head.load(SeqCst), 0, "a head from before the reset");
    });
}

/// A frame that the NIC sends to itself, against a NIC that stops: the receive queue is saved with it.
#[test]
fn a_nic_that_stops_has_heard_itself() {
    loom::model(|| {
        #[derive(Default)]
        struct Nic {
            tx: Calls,
            rx: Calls,
            ring: AtomicU8,
            saved: AtomicU8,
        }
        let nic = Arc::new(Nic::default());
        let sender = {
            let nic = nic.clone();
            thread::spawn(move || {
                nic.ring.fetch_add(1, SeqCst);
                if let Some(epoch) = nic.tx.asked() {
                    nic.tx.pass(epoch);
                }
            })
        };
        nic.tx.ask(1);
        nic.rx.ask(1);
        let passes = |nic: &Nic| {
            let Some(epoch) = nic.rx.asked() else {
                return;
            };
            if nic.tx.passed() < epoch {
                return;
            }
            nic.saved.store(nic.ring.swap(0, SeqCst), SeqCst);
            nic.rx.pass(epoch);
        };
        passes(&nic);
        sender.join().unwrap();
        if let Some(epoch) = nic.tx.asked() {
            nic.tx.pass(epoch);
        }
        passes(&nic);
        assert_eq!(nic.rx.passed(), 1);
        assert_eq!(nic.saved.load(SeqCst), 1, "a frame was left in the ring");
    });
}
