//! A quick run of everything. What it measures says nothing; that frames arrive is asserted by what is measured.

use clap::Parser;
use nic_emu_bench::options::Options;
use nic_emu_bench::report::Figure;
use nic_emu_bench::{native, processors, tap};

/// Set in the environment of a test that runs as root of a user namespace.
const IN_USER_NAMESPACE: &str = "NIC_EMU_BENCH_IN_USER_NAMESPACE";

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn measure(words: &[&str]) -> Vec<Figure> {
    let words = [&["bench", "--quick"], words].concat();
    let mut told = 0;
    let figures = native::run(&Cli::parse_from(words).options, |_| told += 1).unwrap();
    assert_eq!(told, figures.len(), "each figure is told");
    for figure in &figures {
        assert!(figure.ns.median > 0.0 && figure.ns.count == 3, "{figure:?}");
        if let Some(floor) = &figure.floor {
            assert!(floor.ns.median > 0.0 && floor.ratio.median > 0.0);
        }
    }
    figures
}

fn names(figures: &[Figure]) -> Vec<&str> {
    figures.iter().map(|figure| figure.name.as_str()).collect()
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
    let figures = measure(&["--sizes=64", "--ring=64", "null.tx"]);
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
    // The namespace is the thread's.
    std::thread::spawn(|| {
        if tap::enter_namespace().is_ok() {
            let figures = measure(&["--sizes=60", "engine.tap.tx", "engine.tap.rx"]);
            return assert_eq!(names(&figures), ["engine.tap.tx.60", "engine.tap.rx.60"]);
        }
        assert!(
            std::env::var_os(IN_USER_NAMESPACE).is_none(),
            "no network namespace even in a user namespace"
        );
        let status = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "on_a_tap"])
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
