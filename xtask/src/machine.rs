//! What figures depend on: the machine and the commit.

use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nic_emu_tests::cli;
use serde_json::{Map, Value, json};

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
        "idle_driver": word("/sys/devices/system/cpu/cpuidle/current_driver"),
        "idle_governor": word("/sys/devices/system/cpu/cpuidle/current_governor"),
        "frequency_governor": word("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "mitigations": mitigations(),
    })
}

/// What a file says, `none` if there is no such file.
fn word(path: &str) -> String {
    fs::read_to_string(path).map_or("none".to_owned(), |text| text.trim().to_owned())
}

/// What the kernel does about the processor's vulnerabilities, those that it has.
fn mitigations() -> Map<String, Value> {
    let folder = fs::read_dir("/sys/devices/system/cpu/vulnerabilities");
    let files = folder.into_iter().flatten().flatten();
    files
        .map(|file| {
            let name = file.file_name().to_string_lossy().into_owned();
            (name, word(&file.path().to_string_lossy()))
        })
        .filter(|(_, state)| state != "Not affected")
        .map(|(name, state)| (name, state.into()))
        .collect()
}

/// What is to be said of this machine's KVM before guests run on it; an error if there is none.
pub(crate) fn kvm() -> Result<Option<String>> {
    let open = fs::File::options().read(true).write(true).open("/dev/kvm");
    open.context("no guest can run on KVM: /dev/kvm cannot be opened; `--accel tcg` needs none")?;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    Ok(interprets(&cpuinfo).then(|| {
        "this machine's /dev/kvm runs guests without the processor's help (neither `vmx` nor `svm` in /proc/cpuinfo): \
         it interprets them, and its figures say nothing about KVM"
            .to_owned()
    }))
}

fn interprets(cpuinfo: &str) -> bool {
    !cpuinfo
        .split_whitespace()
        .any(|word| word == "vmx" || word == "svm")
}

/// Today, UTC, as `2026-11-23`.
pub(crate) fn today() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    date(now.unwrap_or_default().as_secs() / 86400)
}

/// The date of a day counted from 1970-01-01, in the Gregorian calendar.
fn date(mut day: u64) -> String {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", day + 1)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(59), "1970-03-01");
        assert_eq!(date(11_016), "2000-02-29");
        assert_eq!(date(20_780), "2026-11-23");
        assert_eq!(date(20_818), "2026-12-31");
        assert_eq!(today().len(), 10);
    }

    #[test]
    fn a_kvm_without_the_processors_help_interprets() {
        assert!(interprets("flags : fpu sse\n"));
        assert!(!interprets("flags : fpu svm sse\n"));
        assert!(!interprets("flags : vmx\n"));
    }
}
