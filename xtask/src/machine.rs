//! What figures depend on: the machine, the commit, who else used the processors.

use std::fs;
use std::process::Command;

use nic_emu_tests::cli;
use serde_json::{Value, json};

/// This machine, in a few words each.
pub(crate) fn describe() -> Value {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(": "))
            .map(|(_, value)| value.to_owned())
            .unwrap_or_default()
    };
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory
        .lines()
        .next()
        .and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "processor": field("model name"),
        "processors": cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
        "virtual": cpuinfo.contains(" hypervisor "),
        "memory_mib": memory.unwrap_or_default() / 1024,
        "kernel": kernel.trim(),
    })
}

/// The commit that is checked out, with `-dirty` if files differ from it; `unknown` outside of a repository.
pub(crate) fn commit() -> String {
    let git = Command::new("git")
        .args(["describe", "--always", "--abbrev=12", "--dirty"])
        .current_dir(cli::workspace())
        .output();
    match git {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
    }
}

/// Processor time of all processors so far, in ticks (proc(5), `/proc/stat`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuTime {
    total: u64,
    steal: u64,
}

impl CpuTime {
    pub(crate) fn now() -> Self {
        Self::parse(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    fn parse(stat: &str) -> Self {
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = line
            .split_whitespace()
            .skip(1)
            .filter_map(|word| word.parse().ok())
            .collect();
        // user nice system idle iowait irq softirq steal; what follows is contained in user and nice.
        Self {
            total: ticks.iter().take(8).sum(),
            steal: ticks.get(7).copied().unwrap_or_default(),
        }
    }

    /// Share of the time since then that the hypervisor below us gave to others, in percent.
    pub(crate) fn steal_percent_since(self, then: Self) -> f64 {
        let total = self.total.saturating_sub(then.total).max(1);
        self.steal.saturating_sub(then.steal) as f64 * 100.0 / total as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_is_the_eighth_number() {
        let then = CpuTime::parse("cpu  100 0 100 800 0 0 0 0 7 0\ncpu0 1 1 1 1\n");
        let now = CpuTime::parse("cpu  150 0 100 840 0 0 0 10 9 0\n");
        assert!((now.steal_percent_since(then) - 10.0).abs() < 1e-9);
    }
}
