//! What a row of measured values comes to.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Median and spread. A value of one slice says little, and the mean of many is at the mercy of the worst.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Half of the values are below.
    pub median: f64,
    /// A tenth of the values is below.
    pub p10: f64,
    /// A tenth of the values is above.
    pub p90: f64,
    /// Number of values.
    pub count: usize,
}

impl Spread {
    /// Of these values; none of none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Some(Self {
            median: quantile(&values, 0.5)?,
            p10: quantile(&values, 0.1)?,
            p90: quantile(&values, 0.9)?,
            count: values.len(),
        })
    }
}

/// Median (tenth to tenth), with the precision asked for.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        let Self {
            median, p10, p90, ..
        } = self;
        write!(f, "{median:.digits$} ({p10:.digits$} to {p90:.digits$})")
    }
}

/// The value below which `share` of the sorted ones are, between the two nearest ones by its distance from them.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let at = share * sorted.len().checked_sub(1)? as f64;
    let (low, part) = (at.floor(), at.fract());
    let value = sorted[low as usize];
    let next = sorted.get(low as usize + 1).copied().unwrap_or(value);
    Some(value + (next - value) * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_tenths_of_a_row() {
        let spread = Spread::of((0..=100).rev().map(f64::from)).unwrap();
        assert_eq!(
            spread,
            Spread {
                median: 50.0,
                p10: 10.0,
                p90: 90.0,
                count: 101
            }
        );
    }

    #[test]
    fn between_two_values_the_nearer_one_counts_more() {
        let spread = Spread::of([1.0, 2.0]).unwrap();
        assert_eq!(spread.median, 1.5);
        assert!((spread.p10 - 1.1).abs() < 1e-9 && (spread.p90 - 1.9).abs() < 1e-9);
    }

    #[test]
    fn one_value_is_its_own_spread_and_none_have_none() {
        let spread = Spread::of([7.0]).unwrap();
        assert_eq!((spread.median, spread.p10, spread.p90), (7.0, 7.0, 7.0));
        assert_eq!(Spread::of([]), None);
    }
}
