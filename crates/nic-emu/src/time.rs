//! The point in time that every call carries.

use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

/// Nanoseconds on a monotonic clock of the caller's choice.
///
/// The models have no clock; all they need is that the value never runs backwards. Sums stick at the far end instead
/// of wrapping: a deadline beyond it is one that is never reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The clock's origin.
    pub const ZERO: Time = Time(0);

    /// This many nanoseconds later.
    #[inline]
    pub const fn plus_nanos(self, nanos: u64) -> Time {
        Time(self.0.saturating_add(nanos))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, rhs: Duration) -> Time {
        self.plus_nanos(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl AddAssign<Duration> for Time {
    fn add_assign(&mut self, rhs: Duration) {
        *self = *self + rhs;
    }
}

/// The time from `rhs` to `self`, zero if `rhs` is the later one.
impl Sub for Time {
    type Output = Duration;

    fn sub(self, rhs: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(rhs.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_stick_at_the_ends() {
        assert_eq!(Time(5) + Duration::from_nanos(7), Time(12));
        assert_eq!(Time(u64::MAX - 1) + Duration::MAX, Time(u64::MAX));
        assert_eq!(Time(12) - Time(5), Duration::from_nanos(7));
        assert_eq!(Time(5) - Time(12), Duration::ZERO);
    }
}
