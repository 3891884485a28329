use std::sync::atomic::AtomicBool;
use std::thread;

use std::sync::atomic::{AtomicU32, Ordering};

use super::vector::*;
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
