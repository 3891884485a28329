//! When frames are due.

use std::time::Duration;

/// Shortest time between two turns of the sender: at high rates it sends a few frames at once, rather than keep a
/// processor that the guest needs.
const TICK: Duration = Duration::from_micros(100);
/// Frames that one call sends at most, when the sender is late.
pub(super) const BATCH: usize = 64;

/// Frame `n` is due `n / rate` seconds after the start, whatever became of those before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    rate: u64,
    total: u64,
}

impl Pace {
    pub(super) fn new(rate: u32, total: u64) -> Self {
        Self {
            rate: u64::from(rate.max(1)),
            total,
        }
    }

    /// How many frames to send at once, `elapsed` after the start with `sent` of them gone.
    pub(super) fn due(&self, elapsed: Duration, sent: u64) -> usize {
        let due = elapsed.as_nanos() * u128::from(self.rate) / 1_000_000_000 + 1;
        let due = u64::try_from(due).unwrap_or(u64::MAX).min(self.total);
        usize::try_from(due.saturating_sub(sent)).map_or(BATCH, |due| due.min(BATCH))
    }

    /// When to look again if nothing was due `elapsed` after the start with `sent` frames gone.
    pub(super) fn next(&self, elapsed: Duration, sent: u64) -> Duration {
        let nanos = u128::from(sent) * 1_000_000_000;
        let due = nanos.div_ceil(u128::from(self.rate)) as u64;
        Duration::from_nanos(due).max(elapsed + TICK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a sender whose turns take no time and come late by what `late` says of the turn's number; returns when each
    /// frame left.
    fn play(rate: u32, total: u64, late: impl Fn(u32) -> Duration) -> Vec<Duration> {
        let pace = Pace::new(rate, total);
        let (mut left, mut now, mut turn) = (Vec::new(), Duration::ZERO, 0);
        while left.len() < total as usize {
            let sent = left.len() as u64;
            match pace.due(now, sent) {
                0 => {
                    now = pace.next(now, sent) + late(turn);
                    turn += 1;
                }
                due => left.extend([now].repeat(due)),
            }
        }
        left
    }

    #[test]
    fn slow_frames_leave_exactly_when_they_are_due() {
        let left = play(1000, 50, |_| Duration::ZERO);
        let due = (0..50).map(Duration::from_millis);
        assert!(left.into_iter().eq(due));
    }

    #[test]
    fn fast_frames_leave_in_small_batches_none_early_and_none_a_tick_late() {
        let left = play(40_000, 40_000, |_| Duration::ZERO);
        for (number, left) in (0..).zip(&left) {
            let due = Duration::from_nanos(number * 25_000);
            assert!((due..=due + TICK).contains(left), "frame {number}");
        }
        let together = left.chunk_by(|a, b| a == b).map(<[_]>::len).max();
        assert!(together <= Some(5), "{together:?} at once");
    }

    #[test]
    fn a_sender_that_was_away_catches_up_and_keeps_the_rate() {
        let away = |turn| match turn {
            100 => Duration::from_millis(20),
            _ => Duration::ZERO,
        };
        let left = play(10_000, 10_000, away);
        let last = left.last().unwrap();
        let due = Duration::from_micros(999_900);
        assert!((due..=due + TICK).contains(last), "{last:?}");
        // What had been missed: 200 frames, in as many calls as that takes.
        let gaps = left.windows(2).filter(|w| w[1] - w[0] > 2 * TICK);
        assert_eq!(gaps.count(), 1);
    }

    #[test]
    fn no_call_sends_more_than_a_batch_or_than_there_is() {
        let pace = Pace::new(1_000_000, 100);
        assert_eq!(pace.due(Duration::from_secs(9), 0), BATCH);
        assert_eq!(pace.due(Duration::from_secs(9), 64), 36);
        assert_eq!(pace.due(Duration::from_secs(9), 100), 0);
        assert_eq!(pace.due(Duration::MAX, 100), 0);
    }
}
