//! Processors that threads are pinned to.

use std::fmt;
use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::error::UsageError;

/// A processor that this process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu(usize);

impl Cpu {
    /// Has the calling thread run there alone.
    ///
    /// # Errors
    ///
    /// The processor has gone, or may not be used any more.
    pub(crate) fn pin(self) -> io::Result<()> {
        let mut set = CpuSet::new();
        set.set(self.0);
        Ok(sched_setaffinity(None, &set)?)
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The processors of a list such as `2,3,8-11`, in that order, of which this process may use each.
///
/// # Errors
///
/// What is wrong with the list, in a sentence for the operator.
pub(crate) fn parse(list: &str) -> Result<Vec<Cpu>, UsageError> {
    let numbers = numbers(list).ok_or_else(|| {
        UsageError(format!(
            "--cpus {list} is no list of processors: give numbers and ranges such as 2,3,8-11"
        ))
    })?;
    let allowed = sched_getaffinity(None)
        .map_err(|error| UsageError(format!("cannot find out which processors to use: {error}")))?;
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    check(&numbers, &online, |number| allowed.is_set(number))?;
    Ok(numbers.into_iter().map(Cpu).collect())
}

fn check(
    numbers: &[usize],
    online: &str,
    allowed: impl Fn(usize) -> bool,
) -> Result<(), UsageError> {
    let online = online.trim();
    let there = self::numbers(online);
    for (index, &number) in numbers.iter().enumerate() {
        let what = if numbers[..index].contains(&number) {
            format!(
                "--cpus names processor {number} twice: two shards on one would be in each other's way"
            )
        } else if there.as_ref().is_some_and(|there| !there.contains(&number)) {
            format!("--cpus names processor {number}, but there are {online}")
        } else if number >= CpuSet::MAX_CPU || !allowed(number) {
            format!(
                "--cpus names processor {number}, which this process may not use: see `taskset -p` and its cgroup's cpuset"
            )
        } else {
            continue;
        };
        return Err(UsageError(what));
    }
    Ok(())
}

/// The numbers of a list of numbers and ranges; none if it is no such list, or longer than any machine is.
fn numbers(list: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for item in list.split(',') {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let [first, last] =
            [first, last].map(|text| match text.bytes().all(|c| c.is_ascii_digit()) {
                true => text.parse::<usize>().ok(),
                false => None,
            });
        let range = first?..=last?;
        if range.is_empty() || numbers.len() + (range.end() - range.start()) >= CpuSet::MAX_CPU {
            return None;
        }
        numbers.extend(range);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_numbers_and_ranges() {
        assert_eq!(numbers("2,3,8-11"), Some(vec![2, 3, 8, 9, 10, 11]));
        assert_eq!(numbers("0"), Some(vec![0]));
        for bad in [
            "",
            ",",
            "1,",
            "-",
            "3-",
            "-3",
            "3-2",
            "a",
            "1 2",
            "+1",
            "0-99999",
            "0-18446744073709551615",
            "99999999999999999999",
        ] {
            assert_eq!(numbers(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let said = |list, online| {
            check(&numbers(list).unwrap(), online, |number| number != 3)
                .unwrap_err()
                .to_string()
        };
        assert!(said("0,1,1", "0-3").contains("processor 1 twice"));
        assert!(said("0-4", "0-2,4\n").contains("processor 3, but there are 0-2,4"));
        assert!(said("2-3", "0-7\n").contains("processor 3, which this process may not use"));
        assert!(check(&[0, 2], "0-3\n", |_| true).is_ok());
    }
}
