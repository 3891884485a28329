//! How much of a processor threads use, and how long they wait for one: proc(5), `/proc/PID/task/TID/schedstat` and
//! `status`.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};

/// All threads of a process, with what they have used so far.
#[derive(Clone, Debug)]
pub struct Use {
    at: Instant,
    threads: BTreeMap<u32, (String, Counts)>,
}

/// What a thread has used between two moments.
#[derive(Clone, Debug, PartialEq)]
pub struct Thread {
    /// Its name; `main` for a process's first.
    pub name: String,
    /// Share of the time in which it ran, in percent.
    pub ran: f64,
    /// Share of the time in which it could have run and waited for a processor, in percent.
    pub waited: f64,
    /// How often a second it went to sleep.
    pub slept: f64,
    /// How often a second a processor was taken from it, or it gave it up without going to sleep.
    pub preempted: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    run_ns: u64,
    wait_ns: u64,
    voluntary: u64,
    involuntary: u64,
}

impl Use {
    /// What a process has used so far.
    ///
    /// # Errors
    /// There is no such process.
    pub fn now(pid: u32) -> Result<Self> {
        let folder = format!("/proc/{pid}/task");
        let tasks = fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))?;
        let mut threads = BTreeMap::new();
        for task in tasks {
            let path = task?.path();
            let read = |file: &str| fs::read_to_string(path.join(file));
            // It may end meanwhile.
            let (Ok(name), Ok(schedstat), Ok(status)) =
                (read("comm"), read("schedstat"), read("status"))
            else {
                continue;
            };
            let tid = path
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok());
            let counts = Counts::parse(&schedstat, &status);
            let odd = || format!("{} says {schedstat:?}", path.display());
            let (tid, counts) = tid.zip(counts).with_context(odd)?;
            // The first one has the name of whatever started the program.
            let name = match tid == pid {
                true => "main",
                false => name.trim_end(),
            };
            threads.insert(tid, (name.to_owned(), counts));
        }
        Ok(Self {
            at: Instant::now(),
            threads,
        })
    }

    /// What its threads have used since then, whoever used most first.
    #[must_use]
    pub fn since(&self, then: &Self) -> Vec<Thread> {
        let seconds = self.at.duration_since(then.at).as_secs_f64().max(1e-9);
        let threads = self.threads.iter().map(|(tid, (name, now))| {
            let before = then.threads.get(tid).map(|(_, counts)| *counts);
            now.thread(before.unwrap_or_default(), name, seconds)
        });
        let mut threads: Vec<_> = threads.collect();
        threads.sort_by(|one, other| other.ran.total_cmp(&one.ran));
        threads
    }
}

impl Counts {
    /// `schedstat` is time on a processor and waiting for one, both in ns, and how often it got one.
    fn parse(schedstat: &str, status: &str) -> Option<Self> {
        let mut numbers = schedstat.split_whitespace().map(|word| word.parse().ok());
        let switches = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.trim().parse().ok()
        };
        Some(Self {
            run_ns: numbers.next()??,
            wait_ns: numbers.next()??,
            voluntary: switches("voluntary_ctxt_switches:")?,
            involuntary: switches("nonvoluntary_ctxt_switches:")?,
        })
    }

    fn thread(self, then: Self, name: &str, seconds: f64) -> Thread {
        let percent = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds / 1e7;
        let a_second = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        Thread {
            name: name.to_owned(),
            ran: percent(self.run_ns, then.run_ns),
            waited: percent(self.wait_ns, then.wait_ns),
            slept: a_second(self.voluntary, then.voluntary),
            preempted: a_second(self.involuntary, then.involuntary),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const STATUS: &str = "Name:\tx\nvoluntary_ctxt_switches:\t30\nnonvoluntary_ctxt_switches:\t7\n";

    #[test]
    fn a_thread_runs_waits_and_sleeps() {
        let now = Counts::parse("1500000000 300000000 40\n", STATUS).unwrap();
        let then = Counts {
            run_ns: 500_000_000,
            wait_ns: 100_000_000,
            voluntary: 10,
            involuntary: 3,
        };
        let at = Instant::now();
        let used = |at, counts| Use {
            at,
            threads: BTreeMap::from([(5, ("x".to_owned(), counts))]),
        };
        let threads = used(at + Duration::from_secs(2), now).since(&used(at, then));
        let [thread] = threads.as_slice() else {
            panic!("{threads:?}");
        };
        assert!((thread.ran - 50.0).abs() < 1e-9, "{thread:?}");
        assert!((thread.waited - 10.0).abs() < 1e-9, "{thread:?}");
        assert!((thread.slept - 10.0).abs() < 1e-9, "{thread:?}");
        assert!((thread.preempted - 2.0).abs() < 1e-9, "{thread:?}");
        assert_eq!(Counts::parse("1 x 2", STATUS), None);
        assert_eq!(Counts::parse("1 2 3", "Name:\tx\n"), None);
    }

    #[test]
    fn we_run() {
        let then = Use::now(std::process::id()).unwrap();
        while Use::now(std::process::id()).unwrap().since(&then)[0].ran <= 0.0 {}
        assert!(Use::now(u32::MAX).is_err());
    }
}
