//! The demo passes on a sound NIC, and notices a broken one.

use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// One demo at a time: guests that share two processors disturb each other.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs the demo; returns whether it passed, and what it printed.
fn demo(arguments: &[&str]) -> (bool, String) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let demo = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("demo")
        .args(arguments)
        .output()
        .expect("xtask starts");
    let printed = String::from_utf8_lossy(&demo.stdout).into_owned();
    println!("{printed}\n{}", String::from_utf8_lossy(&demo.stderr));
    (demo.status.success(), printed)
}

/// The verdicts of the table's rows, by step.
fn rows(printed: &str) -> Vec<(&str, &str)> {
    let row = |line| {
        let verdict = |verdict| {
            let (step, _): (&str, _) = str::split_once(line, &format!("  {verdict}  "))?;
            Some((step.trim(), verdict))
        };
        ["PASS", "FAIL"].into_iter().find_map(verdict)
    };
    printed.lines().filter_map(row).collect()
}

const STEPS: [&str; 7] = [
    "lspci -nn",
    "ethtool -i eth0",
    "ping IPv4",
    "ping IPv6",
    "file to guest and back",
    "iperf3, guest receives",
    "iperf3, guest sends",
];

fn passes(arguments: &[&str]) {
    let (passed, printed) = demo(arguments);
    assert!(passed);
    let rows = rows(&printed);
    assert!(
        rows.iter().all(|(_, verdict)| *verdict == "PASS"),
        "{rows:?}"
    );
    for step in STEPS {
        assert!(
            rows.iter().any(|(row, _)| *row == step),
            "no row for {step}: {rows:?}"
        );
    }
    let throughputs = printed
        .lines()
        .filter(|line| line.contains("iperf3") && line.ends_with(" Mbit/s"))
        .count();
    assert_eq!(throughputs, 2);
}

#[test]
fn passes_with_a_tap() {
    passes(&[]);
}

#[test]
fn passes_with_two_guests_on_a_switch() {
    passes(&["--two-guests"]);
}

#[test]
fn names_the_step_that_a_deaf_nic_fails() {
    let (passed, printed) = demo(&["--fault", "fault-loss=1"]);
    assert!(!passed);
    assert!(rows(&printed).contains(&("ping IPv4", "FAIL")));
    let last = printed.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("The demo has failed at step \"ping IPv4\": "),
        "{last}"
    );
}

#[test]
fn notices_a_nic_that_damages_frames() {
    let (passed, printed) = demo(&["--fault", "fault-corrupt=0.05,fault-seed=1"]);
    assert!(!passed);
    assert_eq!(
        rows(&printed)
            .iter()
            .filter(|(_, verdict)| *verdict == "FAIL")
            .count(),
        1
    );
    assert!(printed.contains("The demo has failed at step "));
}
