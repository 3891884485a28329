//! Which frames have come back.

use std::time::Duration;

use anyhow::{Result, anyhow};
use hdrhistogram::Histogram;

use super::stamp::Stamp;

/// The longest round trip that is told from longer ones.
const LONGEST: Duration = Duration::from_secs(60);
const DIGITS: u8 = 3;

/// Matches arrivals with what was sent.
#[derive(Debug)]
pub(super) struct Ledger {
    session: u16,
    /// A bit for each frame.
    seen: Vec<u64>,
    total: u64,
    pub(super) received: u64,
    pub(super) duplicates: u64,
    pub(super) strangers: u64,
    pub(super) histogram: Histogram<u64>,
}

impl Ledger {
    /// For `total` frames of this session.
    pub(super) fn new(session: u16, total: u64) -> Result<Self> {
        let words = usize::try_from(total.div_ceil(64))?;
        let longest = LONGEST.as_nanos() as u64;
        let histogram = Histogram::new_with_bounds(1, longest, DIGITS)
            .map_err(|error| anyhow!("no histogram: {error}"))?;
        Ok(Self {
            session,
            seen: vec![0; words],
            total,
            received: 0,
            duplicates: 0,
            strangers: 0,
            histogram,
        })
    }

    /// Something came in at `now` (CLOCK_MONOTONIC in ns).
    pub(super) fn arrived(&mut self, bytes: &[u8], now: u64) {
        let ours = |stamp: &Stamp| {
            stamp.session == self.session && stamp.number < self.total && stamp.sent <= now
        };
        let Some(stamp) = Stamp::parse(bytes).filter(ours) else {
            self.strangers += 1;
            return;
        };
        let (word, bit) = ((stamp.number / 64) as usize, 1 << (stamp.number % 64));
        if self.seen[word] & bit != 0 {
            self.duplicates += 1;
            return;
        }
        self.seen[word] |= bit;
        self.received += 1;
        self.histogram.saturating_record(now - stamp.sent);
    }

    /// All have come back.
    pub(super) fn is_complete(&self) -> bool {
        self.received == self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: u16 = 7;

    fn stamp(number: u64, sent: u64) -> [u8; 18] {
        let session = SESSION;
        Stamp {
            session,
            number,
            sent,
        }
        .bytes()
    }

    #[test]
    fn each_frame_counts_once_in_whatever_order_they_come() {
        let mut ledger = Ledger::new(SESSION, 130).unwrap();
        for number in (0..130).rev() {
            assert!(!ledger.is_complete());
            ledger.arrived(&stamp(number, 1000), 1000 + 1000 * (number + 1));
        }
        assert!(ledger.is_complete());
        ledger.arrived(&stamp(129, 1000), 1_000_000);
        ledger.arrived(&stamp(0, 1000), 1_000_000);
        assert_eq!((ledger.received, ledger.duplicates), (130, 2));
        // A frame that comes back twice has one round trip, its first.
        assert_eq!(ledger.histogram.len(), 130);
        assert!(ledger.histogram.max() < 131_000);
        assert_eq!(ledger.histogram.value_at_quantile(0.5) / 100, 650);
    }

    #[test]
    fn what_was_not_sent_is_a_stranger() {
        let mut ledger = Ledger::new(SESSION, 10).unwrap();
        let mut other = stamp(1, 5);
        other[0] ^= 1;
        for bytes in [
            &other[..],
            &stamp(10, 5),      // no such number
            &stamp(1, 11),      // before it was sent
            &stamp(1, 5)[..17], // cut
            &[],
        ] {
            ledger.arrived(bytes, 10);
        }
        assert_eq!((ledger.received, ledger.strangers), (0, 5));
    }

    #[test]
    fn a_frame_that_comes_late_counts_with_all_the_time_it_took() {
        let mut ledger = Ledger::new(SESSION, 2).unwrap();
        ledger.arrived(&stamp(0, 0), 2_000_000_000);
        ledger.arrived(&stamp(1, 0), 3 * LONGEST.as_nanos() as u64);
        let (min, max) = (ledger.histogram.min(), ledger.histogram.max());
        assert!((1_990_000_000..=2_010_000_000).contains(&min), "{min}");
        assert!(max >= LONGEST.as_nanos() as u64, "{max}");
    }
}
