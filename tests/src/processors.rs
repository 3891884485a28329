//! Who uses the processors: proc(5), `/proc/stat` and `/proc/PID/stat`.
//!
//! The two do not add up. `/proc/stat` looks at each tick who is running and overlooks what runs between two of them, as
//! all does that is woken up by a tick's own work; a process's times are what it has run, to the nanosecond. [`CpuTime`]
//! is for what only the first one knows, stolen time; whoever asks how much was used asks [`Processes`].

use std::collections::BTreeMap;
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

    /// So many processor seconds as a share of all that there were, in percent.
    #[must_use]
    pub fn percent_of(self, used: f64) -> f64 {
        self.percent(used / seconds(1))
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

/// Processor time of all processes so far.
///
/// Those that ended are in it by whoever has waited for them. What interrupts cost while a processor idles is nobody's.
#[derive(Clone, Debug, Default)]
pub struct Processes(BTreeMap<u32, Process>);

/// Times in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    parent: u32,
    kernel: bool,
    own: u64,
    /// Of children that it has waited for, and theirs.
    waited_for: u64,
}

/// Processor seconds between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Of this process, all that descend from it, and the kernel's own threads, which work for whoever comes.
    pub ours: f64,
    /// Of everybody else.
    pub others: f64,
}

impl Processes {
    /// So far.
    ///
    /// # Errors
    /// There is no `/proc`.
    pub fn now() -> Result<Self> {
        let mut all = BTreeMap::new();
        for entry in fs::read_dir("/proc").context("cannot read /proc")? {
            let entry = entry.context("cannot read /proc")?;
            let pid = entry.file_name().to_str().and_then(|pid| pid.parse().ok());
            let Some(pid) = pid else { continue };
            // Whoever has ended meanwhile is in what another one has waited for.
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
                continue;
            };
            let process = Process::parse(&stat);
            let process = process.with_context(|| format!("process {pid} is {stat:?}"))?;
            all.insert(pid, process);
        }
        Ok(Self(all))
    }

    /// Of one process, all its threads, in the guest, in itself and in the kernel, in seconds; 0 if there is none.
    #[must_use]
    pub fn seconds(&self, pid: u32) -> f64 {
        self.0.get(&pid).map_or(0.0, |process| seconds(process.own))
    }

    /// What was spent since then. A process that is there at both moments has its part in it to the tick.
    #[must_use]
    pub fn since(&self, then: &Self) -> Spent {
        // What processes that have ended since had used before: their next of kin alive has all of their time now.
        let mut known: BTreeMap<u32, u64> = BTreeMap::new();
        for (pid, ended) in &then.0 {
            if !self.0.contains_key(pid) {
                let mut heir = ended.parent;
                while let Some(dead) = then.0.get(&heir).filter(|_| !self.0.contains_key(&heir)) {
                    heir = dead.parent;
                }
                *known.entry(heir).or_default() += ended.own + ended.waited_for;
            }
        }
        let mut spent = Spent::default();
        for (pid, now) in &self.0 {
            let before = then.0.get(pid);
            let (own, waited_for) = before.map_or((0, 0), |p| (p.own, p.waited_for));
            let known = known.get(pid).copied().unwrap_or_default();
            let ticks =
                now.own.saturating_sub(own) + now.waited_for.saturating_sub(waited_for + known);
            if now.kernel || self.is_ours(*pid) {
                spent.ours += seconds(ticks);
            } else {
                spent.others += seconds(ticks);
            }
        }
        spent
    }

    fn is_ours(&self, pid: u32) -> bool {
        let us = std::process::id();
        let mut ancestor = pid;
        // A process whose parent has ended has another one by now, so this could be a circle if read at a bad moment.
        for _ in 0..self.0.len() {
            if ancestor == us {
                return true;
            }
            let Some(process) = self.0.get(&ancestor) else {
                return false;
            };
            ancestor = process.parent;
        }
        false
    }
}

impl Process {
    /// Fields 4, 9 and 14 to 17 of proc_pid_stat(5).
    fn parse(stat: &str) -> Option<Self> {
        /// `PF_KTHREAD` of the kernel's `include/linux/sched.h`.
        const KERNEL_THREAD: u32 = 0x0020_0000;
        // The name may have blanks and parentheses in it.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let flags: u32 = fields.get(9 - 3)?.parse().ok()?;
        Some(Self {
            parent: fields.get(4 - 3)?.parse().ok()?,
            kernel: flags & KERNEL_THREAD != 0,
            own: ticks(14)? + ticks(15)?,
            waited_for: ticks(16)? + ticks(17)?,
        })
    }
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

    fn process(parent: u32, own: u64, waited_for: u64) -> Process {
        Process {
            parent,
            kernel: false,
            own,
            waited_for,
        }
    }

    #[test]
    fn a_process_has_a_parent_and_times() {
        let stat = "12 (a) b) S 1 2 3 4 5 4194560 6 7 8 9 300 40 7 8 20 0 1 0 9\n";
        assert_eq!(Process::parse(stat), Some(process(1, 340, 15)));
        let kernel = Process::parse(&stat.replace("4194560", "2129984")).unwrap();
        assert!(kernel.kernel);
        assert_eq!(Process::parse("12 (a) S 1"), None);
    }

    #[test]
    fn what_all_spend_is_told_from_what_others_do() {
        let us = std::process::id();
        let [init, shell, child, grandchild, thread] = [1, 900_001, 900_002, 900_003, 900_004];
        let kernel = |own| Process {
            kernel: true,
            ..process(0, own, 0)
        };
        let then = Processes(BTreeMap::from([
            (init, process(0, 10, 1000)),
            (shell, process(init, 50, 500)),
            (us, process(shell, 100, 20)),
            (child, process(us, 30, 4)),
            (grandchild, process(child, 7, 0)),
            (thread, kernel(60)),
        ]));
        assert_eq!(then.since(&then), Spent::default());
        // The grandchild has ended with 9 ticks, the child then with 40 and what it had waited for; we waited for it.
        // A new child has used 5. The shell has run something that is over already.
        let now = Processes(BTreeMap::from([
            (init, process(0, 11, 1000)),
            (shell, process(init, 52, 503)),
            (us, process(shell, 110, 20 + 40 + 4 + 9)),
            (900_005, process(us, 5, 0)),
            (thread, kernel(61)),
        ]));
        let spent = now.since(&then);
        let (ours, others) = (10 + 10 + 2 + 5 + 1, 1 + 2 + 3);
        assert!((spent.ours - seconds(ours)).abs() < 1e-9, "{spent:?}");
        assert!((spent.others - seconds(others)).abs() < 1e-9, "{spent:?}");
    }

    #[test]
    fn nobody_gives_time_back() {
        let then = Processes(BTreeMap::from([
            (900_001, process(1, 5000, 0)),
            (1, process(0, 9, 3)),
        ]));
        // Nobody has waited for it.
        let now = Processes(BTreeMap::from([(1, process(0, 9, 3))]));
        assert_eq!(now.since(&then), Spent::default());
        assert_eq!(now.seconds(1), seconds(9));
        assert_eq!(now.seconds(900_001), 0.0);
    }

    #[test]
    fn the_whole_is_no_less_than_a_part() {
        let us = std::process::id();
        let before = Processes::now().unwrap();
        let mut child = std::process::Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .spawn()
            .unwrap();
        let pid = child.id();
        let used = |now: &Processes| now.seconds(pid);
        let now = loop {
            let now = Processes::now().unwrap();
            if used(&now) >= 0.1 {
                break now;
            }
        };
        let spent = now.since(&before);
        let parts = used(&now) + now.seconds(us) - before.seconds(us);
        assert!(spent.ours >= parts - 1e-9, "{spent:?} for {parts}");
        child.kill().unwrap();
        child.wait().unwrap();
        let after = Processes::now().unwrap().since(&before);
        assert!(after.ours >= spent.ours - 1e-9, "{after:?} after {spent:?}");
    }
}
