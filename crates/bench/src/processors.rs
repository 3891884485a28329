//! Who uses the processors: proc(5), `/proc/stat`.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Ticks of `/proc/stat` in a second: USER_HZ, which is 100 on every Linux that we know.
const TICKS: f64 = 100.0;

/// Time of all processors so far, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    total: u64,
    idle: u64,
    steal: u64,
}

impl Usage {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self::parse(&fs::read_to_string("/proc/stat").unwrap_or_default())
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

    /// Adds what has passed between two moments.
    pub fn add(&mut self, then: Self, now: Self) {
        self.total += now.total.saturating_sub(then.total);
        self.idle += now.idle.saturating_sub(then.idle);
        self.steal += now.steal.saturating_sub(then.steal);
    }

    /// Share that the hypervisor below us gave to others, in percent.
    #[must_use]
    pub fn steal_percent(&self) -> f64 {
        self.percent(self.steal as f64)
    }

    /// Share that neither was idle nor stolen nor used by us, who used `own`, in percent.
    #[must_use]
    pub fn foreign_percent(&self, own: Duration) -> f64 {
        let busy = self.total - self.idle - self.steal;
        self.percent((busy as f64 - own.as_secs_f64() * TICKS).max(0.0))
    }

    fn percent(&self, ticks: f64) -> f64 {
        ticks * 100.0 / (self.total.max(1)) as f64
    }
}

/// Processor time that this process has used.
#[must_use]
pub fn own_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// The processors that this thread may use.
///
/// # Errors
///
/// The kernel does not say.
pub fn allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect())
}

/// Keeps this thread, and those that it starts from now on, on these processors.
///
/// # Errors
///
/// There are no such processors.
pub fn stay_on(cpus: &[usize]) -> io::Result<()> {
    Ok(sched_setaffinity(None, &set(cpus))?)
}

/// The same for all threads that another process has, and those that they start.
///
/// # Errors
///
/// There are no such processors, or the process is gone.
pub fn keep_on(pid: u32, cpus: &[usize]) -> io::Result<()> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let id = thread?.file_name().to_str().and_then(|id| id.parse().ok());
        sched_setaffinity(id.and_then(Pid::from_raw), &set(cpus))?;
    }
    Ok(())
}

fn set(cpus: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu);
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stolen_and_what_others_used() {
        let then = Usage::parse("cpu  100 0 100 800 0 0 0 0 7 0\ncpu0 1 1 1 1\n");
        let now = Usage::parse("cpu  140 0 110 830 10 0 0 10 9 0\n");
        let mut passed = Usage::default();
        passed.add(then, now);
        assert!((passed.steal_percent() - 10.0).abs() < 1e-9);
        // 100 ticks in all: 40 idle, 10 stolen, 50 busy, of which 20 were ours.
        let foreign = passed.foreign_percent(Duration::from_millis(200));
        assert!((foreign - 30.0).abs() < 1e-9, "{foreign}");
    }
}
