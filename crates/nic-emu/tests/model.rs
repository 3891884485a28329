//! What queues and control share of the interrupt logic, in every order in which its steps can happen.
//!
//! The files under test are those of the library, with the model checker's atomics in place of the standard ones.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "the models use a part of what these files offer their crates"
)]

#[path = "../src/e1000/irq.rs"]
mod irq;
#[path = "../src/common/moderation.rs"]
mod moderation;

/// What the library takes from the standard library.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
}

mod common {
    pub(crate) use crate::moderation;
}

#[path = "model/regs.rs"]
mod regs;

use loom::sync::Arc;
use loom::thread;

use irq::Irq;
use moderation::DelayTimer;
use nic_emu::Time;
use nic_emu::e1000::bits;
use nic_emu::e1000::bits::cause;
use regs::{Reg, Regs};

/// Starts as in the tests here: by an event at `now`, 10 ns of delay, 15 at most.
fn event(timer: &DelayTimer, now: u64) {
    timer.start(Time(now), 10, Some(15));
}

/// The queue notes an event while somebody takes what waits. The event is taken along, or waits as the first one of its
/// own: with a bound that is neither that of the events before nor none.
#[test]
fn a_first_event_has_a_bound_of_its_own() {
    loom::model(|| {
        let timer = Arc::new(DelayTimer::default());
        event(&timer, 0);
        let queue = {
            let timer = timer.clone();
            thread::spawn(move || event(&timer, 12))
        };
        assert!(timer.flush());
        queue.join().unwrap();
        let waits = timer.deadline();
        assert!(waits.is_none_or(|at| at == Time(22)), "{waits:?}");
        event(&timer, 20);
        let bound = if waits.is_some() { 12 + 15 } else { 20 + 10 };
        assert_eq!(timer.deadline(), Some(Time(bound)));
    });
}

/// The queue notes an event while somebody finds that the timer has run out: that event is not fired before its time.
#[test]
fn an_event_that_comes_as_the_timer_fires_has_its_delay() {
    loom::model(|| {
        let timer = Arc::new(DelayTimer::default());
        event(&timer, 0);
        let queue = {
            let timer = timer.clone();
            thread::spawn(move || event(&timer, 12))
        };
        let fired = timer.expire(Time(11));
        queue.join().unwrap();
        // Before, it has put the timer off, to the bound of the one before.
        let due = if fired { 22 } else { 15 };
        assert_eq!(timer.deadline(), Some(Time(due)));
    });
}

/// Control and line find at once that the timer has run out: one of them fires it.
#[test]
fn it_fires_once() {
    loom::model(|| {
        let timer = Arc::new(DelayTimer::default());
        event(&timer, 0);
        let other = {
            let timer = timer.clone();
            thread::spawn(move || timer.expire(Time(10)))
        };
        let fired = [timer.expire(Time(11)), other.join().unwrap()];
        assert_eq!(fired.iter().filter(|&&fired| fired).count(), 1);
        assert_eq!(timer.deadline(), None);
    });
}

/// A NIC that holds received frames back for 1024 ns, and has one that waits.
fn holding() -> (std::sync::Arc<Regs>, Arc<Irq>) {
    let regs = std::sync::Arc::new(Regs::default());
    let irq = Arc::new(Irq::new(regs.clone()));
    regs.set(Reg::RDTR, 1);
    irq.enable(cause::RXT0);
    irq.raise_rx_delayed(Time(0));
    (regs, irq)
}

/// The guest reads ICR as the line looks whether a delayed cause is due: the guest has it, or it is still there.
#[test]
fn a_delayed_cause_is_neither_lost_nor_told_twice() {
    loom::model(|| {
        let (regs, irq) = holding();
        let line = {
            let irq = irq.clone();
            thread::spawn(move || irq.poll(Time(1024)))
        };
        let causes = irq.acknowledge(Time(1024));
        line.join().unwrap();
        let left = irq.poll(Time(1024));
        assert_ne!(causes == cause::RXT0, left);
        assert_eq!(left, regs.get(Reg::ICR) == cause::RXT0);
    });
}

/// A frame is received as the line rises for another reason, which takes delayed causes along: it is among them, or has
/// its delay.
#[test]
fn a_cause_that_comes_as_the_line_rises_is_taken_along_or_waits() {
    loom::model(|| {
        let (_, irq) = holding();
        irq.enable(cause::LSC);
        irq.raise(cause::LSC);
        let queue = {
            let irq = irq.clone();
            thread::spawn(move || irq.raise_rx_delayed(Time(100)))
        };
        assert!(irq.poll(Time(100)));
        queue.join().unwrap();
        assert_eq!(irq.acknowledge(Time(101)), cause::LSC | cause::RXT0);
        let due = irq.deadline();
        assert!(due.is_none_or(|at| at == Time(1124)), "{due:?}");
    });
}
