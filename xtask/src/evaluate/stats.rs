//! Medians with their full spread, and ratios of runs of the same round.

use std::fmt;

/// The middle of a few figures, the lowest and the highest of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// How many there were.
    pub(crate) count: usize,
}

impl Summary {
    /// `None` of nothing. What is not finite (the ratio to a run that moved nothing) is left out.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self {
            median,
            min,
            max,
            count: values.len(),
        })
    }

    /// Where this, as a ratio, stands to 1.
    pub(crate) fn standing(self) -> Standing {
        if self.min > 1.0 && self.median > Standing::LEVEL {
            Standing::Above { surely: true }
        } else if self.max < 1.0 && self.median < 1.0 / Standing::LEVEL {
            Standing::Below { surely: true }
        } else if self.median > Standing::LEVEL {
            Standing::Above { surely: false }
        } else if self.median < 1.0 / Standing::LEVEL {
            Standing::Below { surely: false }
        } else {
            Standing::Level
        }
    }
}

impl fmt::Display for Summary {
    /// `median (lowest to highest)`, with the precision of the format or as many digits as tell something.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or_else(|| digits(self.median));
        write!(
            f,
            "{:.digits$} ({:.digits$} to {:.digits$})",
            self.median, self.min, self.max
        )
    }
}

/// Digits behind the point that leave about three that count.
pub(crate) fn digits(value: f64) -> usize {
    match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        0.1.. => 3,
        0.0 => 0,
        _ => 4,
    }
}

/// A ratio's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Greater than 1; `surely`: in every round.
    Above { surely: bool },
    /// As good as 1.
    Level,
    /// Less than 1; `surely`: in every round.
    Below { surely: bool },
}

impl Standing {
    /// A median closer to 1 than this factor tells nothing.
    const LEVEL: f64 = 1.05;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(values: &[f64]) -> Summary {
        Summary::of(values.iter().copied()).unwrap()
    }

    #[test]
    fn the_middle_and_the_ends() {
        let odd = summary(&[3.0, 1.0, 2.0]);
        assert_eq!(
            (odd.median, odd.min, odd.max, odd.count),
            (2.0, 1.0, 3.0, 3)
        );
        assert_eq!(summary(&[4.0, 1.0]).median, 2.5);
        assert_eq!(summary(&[f64::INFINITY, 4.0, f64::NAN]).count, 1);
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn figures_are_written_as_precisely_as_they_are() {
        assert_eq!(
            summary(&[812.3, 700.0, 900.9]).to_string(),
            "812 (700 to 901)"
        );
        assert_eq!(
            summary(&[1.234, 1.0, 1.5]).to_string(),
            "1.23 (1.00 to 1.50)"
        );
        assert_eq!(
            format!("{:.1}", summary(&[1.25, 1.0, 1.5])),
            "1.2 (1.0 to 1.5)"
        );
    }

    #[test]
    fn a_ratio_is_sure_when_every_round_says_so() {
        let standing = |values: &[f64]| summary(values).standing();
        assert_eq!(standing(&[1.1, 1.2, 1.3]), Standing::Above { surely: true });
        assert_eq!(
            standing(&[0.9, 1.2, 1.3]),
            Standing::Above { surely: false }
        );
        assert_eq!(standing(&[1.01, 1.02, 1.03]), Standing::Level);
        assert_eq!(
            standing(&[0.8, 0.9, 1.2]),
            Standing::Below { surely: false }
        );
        assert_eq!(standing(&[0.5, 0.6, 0.7]), Standing::Below { surely: true });
    }
}
