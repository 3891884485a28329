//! How the two halves of a cable inside the process wake each other, in every order in which the steps can happen.
//!
//! The file under test is that of the library, with the model checker's atomics in place of the standard ones.

#[path = "../src/switch/bell.rs"]
mod bell;

/// What the library takes from the standard library.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, Ordering, fence};
}

use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;

use bell::{Bell, Event};
use sync::{AtomicBool, Ordering};

/// An eventfd, and how often it was written.
#[derive(Debug, Default)]
struct Flag(AtomicBool, AtomicU64);

impl Event for Flag {
    fn set(&self) {
        self.0.swap(true, Ordering::SeqCst);
        self.1.fetch_add(1, Ordering::Relaxed);
    }

    fn clear(&self) {
        self.0.swap(false, Ordering::SeqCst);
    }
}

/// One direction: how many frames were put on it, which is as much as the ring of frames promises.
struct Way {
    put: AtomicU64,
    bell: Bell<Flag>,
}

impl Way {
    fn new() -> Arc<Self> {
        let (put, bell) = (AtomicU64::new(0), Bell::new(Flag::default()));
        bell.wait(|| ());
        Arc::new(Self { put, bell })
    }

    fn send(&self) {
        self.put.fetch_add(1, Ordering::Release);
        self.bell.ring();
    }

    /// What a receiver does that is awake: it takes what there is, and looks once more before it sleeps. Returns how often
    /// it looked in vain.
    fn drain(&self, taken: &mut u64) -> u64 {
        let mut look = || {
            let put = self.put.load(Ordering::Acquire);
            put > std::mem::replace(taken, put)
        };
        let mut waits = 0;
        loop {
            if look() {
                continue;
            }
            waits += 1;
            if !self.bell.wait(&mut look) {
                return waits;
            }
        }
    }

    fn rings(&self) -> u64 {
        self.bell.event().1.load(Ordering::SeqCst)
    }

    fn has_rung(&self) -> bool {
        self.bell.event().0.load(Ordering::SeqCst)
    }
}

/// Bursts come as the receiver goes to sleep: it has seen them, or is woken.
#[test]
fn nobody_sleeps_while_a_frame_waits() {
    // Without a bound it takes half a minute, and finds no more.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let way = Way::new();
        let sender = {
            let way = way.clone();
            thread::spawn(move || (0..2).for_each(|_| way.send()))
        };
        let mut taken = 0;
        let waits = 1 + way.drain(&mut taken);
        sender.join().unwrap();
        assert!(way.rings() <= waits, "rung for somebody who does not wait");
        if way.has_rung() {
            way.drain(&mut taken);
        }
        assert_eq!(taken, 2, "asleep, and a frame waits");
    });
}
