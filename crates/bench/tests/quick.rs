//! A quick run of everything. What it measures says nothing; that frames arrive is asserted by what is measured.

use clap::Parser;
use nic_emu_bench::options::Options;
use nic_emu_bench::report::Results;
use nic_emu_bench::{native, processors, tap};

/// Set in the environment of a test that runs as root of a user namespace.
const IN_USER_NAMESPACE: &str = "NIC_EMU_BENCH_IN_USER_NAMESPACE";

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn measure(words: &[&str]) -> Results {
    let words = [&["bench", "--quick"], words].concat();
    let mut told = 0;
    let results = native::run(&Cli::parse_from(words).options, |_| told += 1).unwrap();
    let Results {
        figures,
        work,
        trips,
    } = &results;
    let all = figures.len() + work.len() + trips.len();
    assert_eq!(told, all, "each result is told");
    for figure in figures {
        assert!(figure.ns.median > 0.0 && figure.ns.count == 3, "{figure:?}");
        if let Some(floor) = &figure.floor {
            assert!(floor.ns.median > 0.0 && floor.ratio.median > 0.0);
        }
    }
    results
}

fn names(results: &Results) -> Vec<&str> {
    results
        .figures
        .iter()
        .map(|figure| figure.name.as_str())
        .collect()
}

#[test]
fn without_a_network() {
    let figures = measure(&[
        "--sizes=60,1514",
        "engine.null.tx",
        "engine.null.rx",
        "engine.switch",
    ]);
    let expected = [
        "engine.null.tx.60",
        "engine.null.rx.60",
        "engine.null.tx.1514",
        "engine.null.rx.1514",
        "engine.switch.60",
        "engine.switch.1514",
    ];
    assert_eq!(names(&figures), expected);
}

#[test]
fn only_what_is_asked_for() {
    let figures = measure(&["--sizes=64", "--ring=64", "engine.null.tx"]);
    assert_eq!(names(&figures), ["engine.null.tx.64"]);
}

#[test]
fn both_ways_on_one_thread_and_on_two() {
    // Before the thread is put on one of them.
    let expected: &[&str] = match processors::allowed().unwrap().len() {
        1 => &[],
        _ => &["engine.null.duplex.60"],
    };
    let figures = measure(&["--sizes=60", "--ring=64", "engine.null.duplex"]);
    assert_eq!(names(&figures), expected);
}

#[test]
fn on_a_tap() {
    in_namespace("on_a_tap", || {
        let figures = measure(&["--sizes=60", "engine.tap.tx", "engine.tap.rx"]);
        assert_eq!(names(&figures), ["engine.tap.tx.60", "engine.tap.rx.60"]);
    });
}

#[test]
fn a_daemon_over_its_sockets() {
    let results = measure(&[
        "--sizes=60",
        "daemon.null",
        "daemon.switch",
        "work.null",
        "trip",
    ]);
    assert_eq!(names(&results), ["daemon.null.tx.60", "daemon.switch.60"]);
    let [work] = &results.work[..] else {
        panic!("one guest at work: {:?}", results.work);
    };
    assert_eq!((work.name.as_str(), work.frames), ("work.null.tx.60", 2000));
    // A doorbell for each frame, and something for each interrupt.
    assert!(work.messages > 1.0, "{work:?}");
    assert!(work.interrupts > 0.0 && work.interrupts <= 1.0, "{work:?}");
    let [trips] = &results.trips[..] else {
        panic!("one kind of round trips: {:?}", results.trips);
    };
    assert_eq!((trips.name.as_str(), trips.count), ("trip.switch.60", 100));
    assert!(trips.p50 <= trips.p99 && trips.p99 <= trips.max);
}

#[test]
fn a_daemon_on_its_tap() {
    assert!(nic_emu_tests::is_root(), "TAPs of daemons need root");
    // The thread stays in the namespace.
    let check = || {
        let results = measure(&["--sizes=60", "daemon.tap.tx", "daemon.tap.rx", "work.tap"]);
        assert_eq!(names(&results), ["daemon.tap.tx.60", "daemon.tap.rx.60"]);
        let work: Vec<_> = results.work.iter().map(|work| work.name.as_str()).collect();
        assert_eq!(work, ["work.tap.tx.60", "work.tap.rx.60"]);
        assert!(results.work.iter().all(|work| work.frames >= 2000));
    };
    std::thread::spawn(check)
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Runs `check` on a thread with a network namespace of its own; an ordinary user gets it by running the test of this
/// name again in a user namespace.
fn in_namespace(test: &'static str, check: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        if tap::enter_namespace().is_ok() {
            return check();
        }
        assert!(
            std::env::var_os(IN_USER_NAMESPACE).is_none(),
            "no network namespace even in a user namespace"
        );
        let status = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env(IN_USER_NAMESPACE, "1")
            .status()
            .expect("tests of TAPs need root, or `unshare`");
        assert!(
            status.success(),
            "tests of TAPs need root or user namespaces"
        );
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
