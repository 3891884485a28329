//! Who uses the processors: proc(5), `/proc/stat` and `/proc/PID/stat`.

use std::fs;
use std::ops::AddAssign;
use std::time::Duration;

use anyhow::{Context, Result};

/// Time of all processors, in ticks: so far, or between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    total: u64,
    idle: u64,
    steal: u64,
}

impl CpuTime {
    /// So far.
    #[must_use]
    pub fn now() -> Self {
        Self::parse(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// So far, of each processor by itself, in the order of their numbers.
    #[must_use]
    pub fn each() -> Vec<Self> {
        Self::parse_each(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    fn parse_each(stat: &str) -> Vec<Self> {
        let each = stat
            .lines()
            .skip(1)
            .take_while(|line| line.starts_with("cpu"));
        each.map(Self::parse).collect()
    }

    fn parse(stat: &str) -> Self {
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = line
            .split_whitespace()
            .skip(1)
            .filter_map(|word| word.parse().ok())
            .collect();
        let tick = |at: usize| ticks.get(at).copied().unwrap_or_default();
        // user nice system idle iowait irq softirq steal; what follows is contained in user and nice.
        Self {
            total: ticks.iter().take(8).sum(),
            idle: tick(3) + tick(4),
            steal: tick(7),
        }
    }

    /// What has passed since then.
    #[must_use]
    pub fn since(self, then: Self) -> Self {
        Self {
            total: self.total.saturating_sub(then.total),
            idle: self.idle.saturating_sub(then.idle),
            steal: self.steal.saturating_sub(then.steal),
        }
    }

    /// Share that the hypervisor below us gave to others, in percent.
    #[must_use]
    pub fn steal_percent(self) -> f64 {
        self.percent(self.steal as f64)
    }

    /// Share that was used, whoever used it, in percent.
    #[must_use]
    pub fn busy_percent(self) -> f64 {
        self.percent(self.total.saturating_sub(self.idle + self.steal) as f64)
    }

    /// Processor seconds that were used, whoever used them.
    #[must_use]
    pub fn busy_seconds(self) -> f64 {
        seconds(self.total.saturating_sub(self.idle + self.steal))
    }

    /// Share that neither was idle nor stolen nor used by us, who used `own`, in percent.
    #[must_use]
    pub fn foreign_percent(self, own: Duration) -> f64 {
        let foreign = self.busy_seconds() - own.as_secs_f64();
        self.percent(foreign.max(0.0) / seconds(1))
    }

    fn percent(self, ticks: f64) -> f64 {
        ticks * 100.0 / (self.total.max(1)) as f64
    }
}

impl AddAssign for CpuTime {
    fn add_assign(&mut self, more: Self) {
        self.total += more.total;
        self.idle += more.idle;
        self.steal += more.steal;
    }
}

/// Processor time of a process so far, in seconds: all its threads, in the guest, in itself and in the kernel.
///
/// # Errors
/// There is no such process.
pub fn process_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ticks = process_ticks(&stat).with_context(|| format!("{path} says {stat}"))?;
    Ok(seconds(ticks))
}

fn process_ticks(stat: &str) -> Option<u64> {
    // The name may have blanks and parentheses in it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut field = || fields.next()?.parse::<u64>().ok();
    Some(field()? + field()?)
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(then: &str, now: &str) -> CpuTime {
        let mut passed = CpuTime::default();
        passed += CpuTime::parse(now).since(CpuTime::parse(then));
        passed
    }

    #[test]
    fn steal_is_the_eighth_number() {
        let passed = passed(
            "cpu  100 0 100 800 0 0 0 0 7 0\ncpu0 1 1 1 1\n",
            "cpu  150 0 100 840 0 0 0 10 9 0\n",
        );
        assert!((passed.steal_percent() - 10.0).abs() < 1e-9);
    }

    #[test]
    fn busy_is_what_is_neither_idle_nor_stolen() {
        let passed = passed(
            "cpu 100 0 100 800 50 0 0 0 7 0\n",
            "cpu 150 0 130 840 60 5 5 10 9 0\n",
        );
        let ticks = passed.busy_seconds() / seconds(1);
        assert!((ticks - 90.0).abs() < 1e-6, "{ticks}");
    }

    #[test]
    fn each_processor_has_a_line() {
        let then = CpuTime::parse_each("cpu 0 0 0 0\ncpu0 1 0 1 8\ncpu1 0 0 0 0\nintr 5 6\n");
        let now = CpuTime::parse_each("cpu 0 0 0 0\ncpu0 2 0 1 17\ncpu1 4 0 5 1\nintr 5 6\n");
        let busy = |at: usize| now[at].since(then[at]).busy_percent();
        assert_eq!((then.len(), now.len()), (2, 2));
        assert!((busy(0) - 10.0).abs() < 1e-9 && (busy(1) - 90.0).abs() < 1e-9);
    }

    #[test]
    fn what_was_stolen_and_what_others_used() {
        let passed = passed(
            "cpu  100 0 100 800 0 0 0 0 7 0\ncpu0 1 1 1 1\n",
            "cpu  140 0 110 830 10 0 0 10 9 0\n",
        );
        assert!((passed.steal_percent() - 10.0).abs() < 1e-9);
        // 100 ticks in all: 40 idle, 10 stolen, 50 busy, of which 20 were ours.
        let own = Duration::from_secs_f64(seconds(20));
        let foreign = passed.foreign_percent(own);
        assert!((foreign - 30.0).abs() < 1e-6, "{foreign}");
    }

    #[test]
    fn a_process_has_user_and_system_time() {
        let stat = "12 (a) b) S 1 2 3 4 5 6 7 8 9 10 300 40 7 8 20 0 1 0 9\n";
        assert_eq!(process_ticks(stat), Some(340));
        assert_eq!(process_ticks("12 (a) S 1"), None);
        assert!(process_seconds(std::process::id()).unwrap() >= 0.0);
    }
}
