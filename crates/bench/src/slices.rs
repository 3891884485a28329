//! Things measured in turns.
//!
//! Absolute figures belong to the moment: a virtual processor is moved, a neighbour wakes up. What holds still is the
//! ratio of two things that ran within milliseconds of one another.

use std::time::{Duration, Instant};

use nic_emu_tests::background::Background;
use nic_emu_tests::processors::CpuTime;

use crate::options::Plan;
use crate::processors;

/// Beyond this share of stolen time a round tells more about the neighbours than about us.
const STEAL_LIMIT: f64 = 5.0;

/// Something to measure, in pieces of which each has a part that counts.
pub trait Contender {
    /// Makes everything ready. Not timed.
    fn prepare(&mut self);
    /// Does the work; returns how many frames that were.
    fn run(&mut self) -> u64;
}

/// What came of it.
#[derive(Debug)]
pub struct Measured {
    /// Nanoseconds per frame: for each contender one value a round.
    pub per_frame: Vec<Vec<f64>>,
    /// Frames of each contender in all, with those of rounds that do not count.
    pub frames: Vec<u64>,
    /// Nanoseconds of a getppid, one value a round.
    pub getppid: Vec<f64>,
    /// Nanoseconds from one processor to another and back, one value a round; none with one processor.
    pub ping_pong: Vec<f64>,
    /// What the processors did in the rounds that count.
    pub usage: CpuTime,
    /// What of it was ours.
    pub own: Duration,
    /// Rounds that were run again because time was stolen.
    pub repeated: usize,
}

impl Measured {
    /// How often contender `ours` is as fast as `floor`, round by round.
    #[must_use]
    pub fn ratios(&self, ours: usize, floor: usize) -> Vec<f64> {
        let [ours, floor] = [ours, floor].map(|index| &self.per_frame[index]);
        floor
            .iter()
            .zip(ours)
            .map(|(floor, ours)| floor / ours)
            .collect()
    }
}

/// Measures all of them in turns: each round a slice of each, every other round in the opposite order. A round in which
/// too much time was stolen is run again, as long as that is so in fewer rounds than count.
pub fn interleave(
    plan: Plan,
    background: &Background,
    contenders: &mut [&mut dyn Contender],
) -> Measured {
    let mut measured = Measured {
        per_frame: vec![Vec::new(); contenders.len()],
        frames: vec![0; contenders.len()],
        getppid: Vec::new(),
        ping_pong: Vec::new(),
        usage: CpuTime::default(),
        own: Duration::ZERO,
        repeated: 0,
    };
    for (contender, frames) in contenders.iter_mut().zip(&mut measured.frames) {
        // Pages, caches, buffers that come into being when first used.
        *frames += piece(*contender).1;
    }
    let mut round = 0;
    while round < plan.rounds {
        let (before, own) = (CpuTime::now(), processors::own_time());
        let mut values = vec![0.0; contenders.len()];
        let count = contenders.len();
        for turn in 0..count {
            let index = if round % 2 == 0 {
                turn
            } else {
                count - 1 - turn
            };
            let (time, frames) = slice(plan.slice, contenders[index]);
            values[index] = time.as_nanos() as f64 / frames.max(1) as f64;
            measured.frames[index] += frames;
        }
        let usage = CpuTime::now().since(before);
        if usage.steal_percent() > STEAL_LIMIT && measured.repeated < plan.rounds {
            measured.repeated += 1;
            continue;
        }
        measured.usage += usage;
        measured.own += processors::own_time().saturating_sub(own);
        for (row, value) in measured.per_frame.iter_mut().zip(values) {
            row.push(value);
        }
        measured.getppid.push(background.getppid());
        measured.ping_pong.extend(background.ping_pong());
        round += 1;
    }
    measured
}

/// Pieces until the timed parts of them come to `least`; how long they were, and the frames.
fn slice(least: Duration, contender: &mut dyn Contender) -> (Duration, u64) {
    let (mut time, mut frames) = (Duration::ZERO, 0);
    while time < least {
        let (took, count) = piece(contender);
        time += took;
        frames += count;
    }
    (time, frames)
}

fn piece(contender: &mut dyn Contender) -> (Duration, u64) {
    contender.prepare();
    let start = Instant::now();
    let frames = contender.run();
    (start.elapsed(), frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a time of its own for each frame.
    struct Sleeper {
        prepared: u64,
        ran: u64,
    }

    impl Contender for Sleeper {
        fn prepare(&mut self) {
            self.prepared += 1;
        }
        fn run(&mut self) -> u64 {
            assert_eq!(self.prepared, self.ran + 1, "each piece is prepared once");
            self.ran += 1;
            std::thread::sleep(Duration::from_micros(200));
            100
        }
    }

    #[test]
    fn each_round_has_a_slice_of_each() {
        let plan = Plan {
            slice: Duration::from_millis(1),
            rounds: 4,
        };
        let mut sleepers = [0, 1].map(|_| Sleeper {
            prepared: 0,
            ran: 0,
        });
        let [a, b] = &mut sleepers;
        let measured = interleave(plan, &Background::new(None), &mut [a, b]);
        assert_eq!(measured.per_frame.len(), 2);
        assert!(measured.per_frame.iter().all(|row| row.len() == 4));
        // Nobody sleeps for less than was asked for.
        assert!(measured.per_frame.iter().flatten().all(|&ns| ns >= 2000.0));
        assert_eq!(measured.ratios(0, 1).len(), 4);
        assert_eq!(measured.getppid.len(), 4);
        assert!(measured.ping_pong.is_empty());
    }

    #[test]
    fn the_ratio_is_how_fast_ours_is_beside_the_floor() {
        let measured = Measured {
            per_frame: vec![vec![200.0, 100.0], vec![100.0, 80.0]],
            frames: vec![2, 2],
            getppid: Vec::new(),
            ping_pong: Vec::new(),
            usage: CpuTime::default(),
            own: Duration::ZERO,
            repeated: 0,
        };
        assert_eq!(measured.ratios(0, 1), [0.5, 0.8]);
    }
}
