//! How fast the machine is at the moment, whatever is measured beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use rustix::thread::{CpuSet, sched_setaffinity};

/// What says how fast the machine is at the moment: a system call, and a word passed between two processors.
#[derive(Debug)]
pub struct Background {
    /// The partner: where it plays, and what makes it play so many rounds.
    partner: Option<(Arc<AtomicU64>, Sender<u64>)>,
}

impl Background {
    const CALLS: u32 = 2000;
    const TRIPS: u64 = 500;

    /// With a partner on processor `other`, if there is one.
    #[must_use]
    pub fn new(other: Option<usize>) -> Self {
        let partner = other.map(|cpu| {
            let (start, started) = channel::<u64>();
            let word = Arc::new(AtomicU64::new(0));
            let ball = word.clone();
            // Ends when the sender is dropped.
            std::thread::spawn(move || {
                stay_on(cpu);
                while let Ok(from) = started.recv() {
                    for trip in 0..=Self::TRIPS {
                        wait_for(&ball, from + 2 * trip + 1);
                        ball.store(from + 2 * trip + 2, Ordering::Release);
                    }
                }
            });
            (word, start)
        });
        Self { partner }
    }

    /// Nanoseconds of a getppid.
    #[must_use]
    pub fn getppid(&self) -> f64 {
        let start = Instant::now();
        for _ in 0..Self::CALLS {
            std::hint::black_box(rustix::process::getppid());
        }
        start.elapsed().as_nanos() as f64 / f64::from(Self::CALLS)
    }

    /// Nanoseconds from one processor to the other and back; `None` without a partner.
    #[must_use]
    pub fn ping_pong(&self) -> Option<f64> {
        let (word, start) = self.partner.as_ref()?;
        let from = word.load(Ordering::Acquire);
        start.send(from).ok()?;
        let trip = |trip| {
            word.store(from + 2 * trip + 1, Ordering::Release);
            wait_for(word, from + 2 * trip + 2);
        };
        // The first one wakes the partner.
        trip(0);
        let started = Instant::now();
        (1..=Self::TRIPS).for_each(trip);
        Some(started.elapsed().as_nanos() as f64 / Self::TRIPS as f64)
    }
}

/// Waits for a value, and lets others run if it takes long.
pub fn wait_for(word: &AtomicU64, value: u64) {
    let mut tries = 0u32;
    while word.load(Ordering::Acquire) != value {
        tries += 1;
        match tries.is_multiple_of(10_000) {
            true => std::thread::yield_now(),
            false => std::hint::spin_loop(),
        }
    }
}

/// Keeps this thread on a processor, if there is such a one.
fn stay_on(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    let _ = sched_setaffinity(None, &set);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_goes_to_another_thread_and_back_as_often_as_asked() {
        let background = Background::new(Some(0));
        assert!(background.ping_pong().is_some_and(|ns| ns > 0.0));
        assert!(background.ping_pong().is_some_and(|ns| ns > 0.0));
        assert!(background.getppid() > 0.0);
        assert_eq!(Background::new(None).ping_pong(), None);
    }
}
