//! Reports from figures that are made up.

use serde_json::json;

use super::super::contestant::Contestant::{self, E1000, NicEmu, VirtioNet};
use super::super::record::{
    Bare, Cpu, Environment, Evaluation, Events, Load, Run, Settings, Stream, Trips,
};
use super::super::surroundings::Surroundings;
use crate::placement::Placement;

use super::{Figures, conditions, pictures, receive, text, write};

fn settings(nics: &[Contestant]) -> Settings {
    Settings {
        rounds: 2,
        seconds: 1,
        rates: vec![1000, 10_000],
        rate_seconds: 1,
        nics: nics.to_vec(),
        attempts: 3,
        counted_rounds: 2,
        bare: true,
        busy_poll_us: 50,
        busy_poll_anywhere_us: 1000,
        placement: Placement {
            guest: Some("3".into()),
            daemon: Some("3".into()),
        },
        accel: "tcg".into(),
        suite: "trixie".into(),
    }
}

/// A run whose throughput and latency are so many times those of another.
fn run(nic: Contestant, round: u32, speed: f64, delay: f64) -> Run {
    let stream = |mbit: f64| Stream {
        mbit: mbit * speed,
        retransmits: 0,
        bytes: 100_000_000,
        cpu: Cpu {
            qemu: 1.0,
            daemon: 0.25,
            machine: 1.2,
            ours: Some(1.75),
            elapsed: 1.25,
        },
        events: Some(Events {
            frames: 1000,
            bytes: 1_500_000,
            interrupts: Some(100),
            accesses: Some(400),
            messages: None,
            waits: None,
        }),
    };
    let trips = Trips {
        count: 3,
        min: 100.0 * delay,
        p50: 200.0 * delay,
        p90: 300.0 * delay,
        p99: 400.0 * delay,
        max: 500.0 * delay,
    };
    let load = |rate: u32, echoed: u64| Load {
        rate,
        sent: rate.into(),
        seconds: 1.0,
        echoed,
        trips,
        histogram: vec![
            (100.0 * delay, echoed / 2),
            (500.0 * delay, echoed - echoed / 2),
        ],
        events: None,
    };
    Run {
        nic,
        round,
        attempt: 1,
        steal_percent: 0.5,
        surroundings: Some(Surroundings {
            foreign_percent: 1.5,
            getppid_ns: 120.0,
            ping_pong_ns: Some(210.0),
        }),
        qemu: "qemu -M q35".into(),
        daemon: nic
            .label()
            .starts_with("nic-emu")
            .then(|| "nic-emu-cli serve".into()),
        tap: json!({ "mtu": 1500 }),
        ping: trips,
        udp: Some(trips),
        receive: stream(500.0),
        send: stream(600.0),
        loads: vec![load(1000, 1000), load(10_000, 4000)],
        bare: nic.is_82540em().then_some(Bare {
            receive_pps: 80_000.0,
            send_pps: 120_000.0,
            receive_events: None,
            send_events: None,
        }),
    }
}

/// Two rounds in which nic-emu has this speed and delay, QEMU's e1000 1, and virtio-net three times the speed.
fn evaluation(speed: f64, delay: f64) -> Evaluation {
    let environment = Environment {
        commit: "abc".into(),
        date: "2026-01-01".into(),
        machine: json!({ "processor": "P & Q <R>", "processors": 2, "virtual": true,
            "mitigations": { "spectre": "Vulnerable" } }),
        qemu: "11.1.3".into(),
        guest_kernel: "7.3".into(),
        kvm: None,
    };
    let mut evaluation = Evaluation::new(settings(&[NicEmu, E1000, VirtioNet]), environment);
    for round in 0..2 {
        evaluation.runs.push(run(NicEmu, round, speed, delay));
        evaluation.runs.push(run(E1000, round, 1.0, 1.0));
        evaluation.runs.push(run(VirtioNet, round, 3.0, 1.0));
    }
    evaluation
}

/// From a heading to the next.
fn section<'a>(report: &'a str, heading: &str) -> &'a str {
    let rest = report.split_once(heading).expect("the section is there").1;
    rest.split_once("\n## ")
        .map_or(rest, |(section, _)| section)
}

const IMPACT: &str = "## How big is the impact of moving device emulation into userspace?";
const VIABLE: &str = "## Is an emulated e1000 viable instead of virtio?";

#[test]
fn the_answers_follow_the_figures() {
    let impact = |speed, delay| section(&text(&evaluation(speed, delay)), IMPACT).to_owned();
    assert!(impact(1.2, 1.0).contains("**No cost shows"));
    assert!(impact(1.2, 2.0).contains("**It costs no throughput, but latency: RX 1.20x"));
    assert!(impact(0.5, 1.0).contains("**It costs throughput, but no latency"));
    let both = impact(0.5, 2.0);
    assert!(both.contains("**It costs throughput and latency"));
    assert!(
        both.contains("In every round: RX slower, TX slower, a lone frame's round trip longer.")
    );
    assert!(impact(1.0, 1.0).contains("No difference: RX, TX, a lone frame's round trip,"));

    let viable = |speed, delay| section(&text(&evaluation(speed, delay)), VIABLE).to_owned();
    assert!(viable(3.0, 1.0).contains("**Yes"));
    assert!(viable(3.0, 2.0).contains("**For throughput yes"));
    assert!(viable(2.0, 1.0).contains("up to half of the throughput: RX 0.67x"));
    assert!(viable(1.0, 1.0).contains("costs most of the throughput: RX 0.33x"));
    assert!(viable(0.3, 1.0).contains("**No: "));
}

#[test]
fn what_was_not_measured_is_not_answered() {
    let mut evaluation = evaluation(1.0, 1.0);
    evaluation.settings.nics = vec![E1000];
    evaluation.runs.retain(|run| run.nic == E1000);
    for run in &mut evaluation.runs {
        run.loads.clear();
        run.bare = None;
        run.udp = None;
        run.receive.events = None;
        run.send.events = None;
    }
    let report = text(&evaluation);
    assert!(section(&report, IMPACT).contains("Not answered"));
    assert!(section(&report, VIABLE).contains("Not answered"));
    let names: Vec<_> = pictures::all(Figures(&evaluation))
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["throughput.svg", "cpu.svg"]);
    for missing in ["bare.svg", "events.svg", "overload.svg", "latency-"] {
        assert!(!report.contains(missing), "{missing}");
    }
}

#[test]
fn figures_and_conditions_are_told() {
    let report = text(&evaluation(2.0, 1.0));
    assert!(report.contains("| nic-emu e1000 | 1000 (1000 to 1000) | **2.00** (2.00 to 2.00) |"));
    assert!(report.contains("P & Q <R>, 2 of them, itself virtual"));
    assert!(report.contains("spectre (Vulnerable)"));
    assert!(report.contains("Fewer than seven rounds"));
    assert!(report.contains("nic-emu-cli serve"));
    assert!(report.contains("| QEMU e1000 | 80.0 (80.0 to 80.0) | 1 |"));
    assert!(!report.contains("/tmp"));
}

#[test]
fn a_run_with_stolen_time_gives_way_to_its_repetition() {
    let mut evaluation = evaluation(1.0, 1.0);
    evaluation.runs[0].steal_percent = 9.0;
    assert_eq!(evaluation.next_attempt(NicEmu, 0), Some(2));
    assert_eq!(evaluation.next_attempt(NicEmu, 1), None);
    let mut better = run(NicEmu, 0, 7.0, 1.0);
    better.attempt = 2;
    better.steal_percent = 6.0;
    evaluation.runs.push(better.clone());
    // Still too much: it counts until there is a better one.
    assert_eq!(evaluation.next_attempt(NicEmu, 0), Some(3));
    assert_eq!(evaluation.run(NicEmu, 0).unwrap().attempt, 2);
    assert!(
        text(&evaluation)
            .contains("made again | 1 of 7 runs, for more than 5 % of either; 1 count")
    );
    better.attempt = 3;
    better.steal_percent = 1.0;
    evaluation.runs.push(better);
    assert_eq!(evaluation.next_attempt(NicEmu, 0), None);
    assert_eq!(evaluation.run(NicEmu, 0).unwrap().attempt, 3);
    let ratio = Figures(&evaluation).ratio(NicEmu, E1000, receive).unwrap();
    assert_eq!((ratio.min, ratio.max), (1.0, 7.0));
    // Three are enough, whatever came of them.
    for run in &mut evaluation.runs {
        run.steal_percent = 50.0;
    }
    assert_eq!(evaluation.next_attempt(NicEmu, 0), None);
    assert_eq!(evaluation.next_attempt(NicEmu, 1), Some(2));
}

#[test]
fn the_command_asks_for_the_same_again() {
    #[derive(Debug, clap::Parser)]
    struct Xtask {
        #[command(flatten)]
        options: super::super::Options,
    }
    let mut all = settings(&Contestant::all(&Placement::default()));
    all.placement = Placement::default();
    (all.suite, all.counted_rounds) = ("trixie".into(), 2);
    let mut few = Settings {
        nics: vec![NicEmu, VirtioNet],
        ..all.clone()
    };
    few.rates = vec![500];
    for settings in [all, few] {
        let command = conditions::command(&settings);
        let arguments = command.strip_prefix("cargo xtask ").unwrap();
        let asked = <Xtask as clap::Parser>::parse_from(arguments.split(' '));
        assert_eq!(asked.options.settings().unwrap(), settings, "{command}");
    }
}

#[test]
fn streams_are_counted_by_bytes_and_small_frames_one_by_one() {
    let mut evaluation = evaluation(1.0, 1.0);
    for run in &mut evaluation.runs {
        // As a driver with TSO counts: the same bytes in a tenth of the frames.
        run.send.events = run.send.events.map(|events| Events {
            frames: 100,
            ..events
        });
        run.loads[0].events = run.receive.events;
    }
    let report = text(&evaluation);
    let costs = section(&report, "## What a frame costs");
    // 100 interrupts for 1.5 MB are 0.1 for 1500 bytes, whatever a frame is.
    for direction in ["RX", "TX"] {
        let row = format!("| {direction} | nic-emu e1000 | 0.100 (0.100 to 0.100) | 0.400 (");
        assert!(costs.contains(&row), "{costs}");
    }
    assert!(costs.contains("| echo, low load | nic-emu e1000 | 0.100 (0.100 to 0.100) |"));
    assert!(costs.contains("15000 (15000 to 15000) |"));
}

#[test]
fn the_answers_stand_beside_the_thesis() {
    let report = text(&evaluation(1.2, 2.0));
    let impact = section(&report, IMPACT);
    assert!(impact.contains("| RX throughput | **1.20** (1.20 to 1.20) | 0.60 |"));
    assert!(
        impact.contains("| shortest round trip, 10000 frames/s | **2.00** (2.00 to 2.00) | much")
    );
    assert!(
        impact.contains(
            "| shortest round trip, 1000 frames/s | **2.00** (2.00 to 2.00) | \u{2013} |"
        )
    );
    assert!(impact.contains("RX is ahead (1.20x after 0.60x), TX ahead"));
    assert!(impact.contains("the shortest round trip still longer (2.00x)."));
    let behind = text(&evaluation(0.5, 0.5));
    assert!(section(&behind, IMPACT).contains("RX is behind (0.50x after 0.60x), TX behind"));
    assert!(section(&report, VIABLE).contains("0.08 to 0.17"));
}

#[test]
fn a_run_beside_others_gives_way_too() {
    let mut evaluation = evaluation(1.0, 1.0);
    let report = text(&evaluation);
    for row in [
        "| time that others used | 1.5 (1.5 to 1.5) % of a run |",
        "| getppid | 120.0 (120.0 to 120.0) ns |",
        "| a word to another processor and back | 210.0 (210.0 to 210.0) ns |",
    ] {
        assert!(report.contains(row), "{row}");
    }
    evaluation.runs[0].surroundings = Some(Surroundings {
        foreign_percent: 5.1,
        ..Surroundings::default()
    });
    assert_eq!(evaluation.next_attempt(NicEmu, 0), Some(2));
    assert!(text(&evaluation).contains("1 count although"));
    // Of older runs nobody knows: they count.
    evaluation.runs[0].surroundings = None;
    assert_eq!(evaluation.next_attempt(NicEmu, 0), None);
    evaluation
        .runs
        .iter_mut()
        .for_each(|run| run.surroundings = None);
    assert!(text(&evaluation).contains("| getppid | unknown ns |"));
}

#[test]
fn processor_time_is_no_less_than_its_parts() {
    let cpu = |ours, machine| Cpu {
        qemu: 1.0,
        daemon: 0.25,
        machine,
        elapsed: 1.25,
        ours,
    };
    // What each process has run counts, not the ticks.
    let exact = cpu(Some(1.75), 1.2);
    assert_eq!((exact.whole(), exact.is_short()), (1.75, false));
    let mut evaluation = evaluation(1.0, 1.0);
    assert!(!text(&evaluation).contains("came to less"));
    // Older runs have nothing else, and it may fall short.
    let ticks = cpu(None, 1.2);
    assert_eq!((ticks.whole(), ticks.is_short()), (1.25, true));
    assert_eq!(cpu(None, 1.5).whole(), 1.5);
    evaluation.runs[0].receive.cpu = ticks;
    let report = text(&evaluation);
    let section = section(&report, "## Processor time");
    assert!(section.contains("**in 1 of 12 streams all came to less"));
    assert!(section.contains("by ticks"));
}

#[test]
fn places_are_compared_with_their_like_and_each_at_its_best() {
    use Contestant::{E1000Anywhere, NicEmuAnywhere};
    let mut evaluation = evaluation(1.2, 1.0);
    assert!(!text(&evaluation).contains("## Where threads run"));
    evaluation
        .settings
        .nics
        .extend([NicEmuAnywhere, E1000Anywhere]);
    for round in 0..2 {
        evaluation.runs.push(run(NicEmuAnywhere, round, 1.1, 3.0));
        evaluation.runs.push(run(E1000Anywhere, round, 2.2, 0.5));
    }
    let report = text(&evaluation);
    let places = section(&report, "## Where threads run");
    let row = "| nic-emu e1000 | RX | **1.20** (1.20 to 1.20) | **0.50** (0.50 to 0.50) | **0.55** (0.55 to 0.55) |";
    assert!(places.contains(row), "{places}");
    let row = "| nic-emu e1000 | median ping | **1.00** (1.00 to 1.00) | **6.00** (6.00 to 6.00) | **2.00** (2.00 to 2.00) |";
    assert!(places.contains(row), "{places}");
    let impact = section(&report, IMPACT);
    assert!(
        impact.contains("With neither placed it is RX 0.50x, TX 0.50x, and 6.00x as long"),
        "{impact}"
    );
    let throughput = section(&report, "## Throughput");
    assert!(!throughput.contains("anywhere"), "{throughput}");
}

/// Checks that tags are nested and attributes quoted; returns how many elements there are.
fn elements(svg: &str) -> usize {
    let mut open: Vec<&str> = Vec::new();
    let mut count = 0;
    let mut rest = svg;
    while let Some((_, tag)) = rest.split_once('<') {
        let (tag, after) = tag.split_once('>').expect("a tag ends");
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
            continue;
        }
        count += 1;
        assert!(tag.matches('"').count() % 2 == 0, "{tag}");
        assert!(!tag.contains("NaN") && !tag.contains("inf\""), "{tag}");
        if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap());
        }
    }
    assert!(open.is_empty(), "{open:?}");
    count
}

#[test]
fn pictures_are_well_formed() {
    let mut odd = evaluation(1.0, 1.0);
    odd.runs[0].receive.mbit = 0.0;
    odd.runs[0].send.bytes = 0;
    odd.runs[1].loads[0].histogram.clear();
    odd.runs[2].loads[1].echoed = 0;
    for evaluation in [&evaluation(2.0, 0.5), &odd] {
        let pictures = pictures::all(Figures(evaluation));
        assert_eq!(pictures.len(), 7);
        for (name, svg) in &pictures {
            assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"));
            assert!(elements(svg) > 20, "{name}");
            for label in ["nic-emu e1000", "QEMU virtio-net"] {
                assert!(name == "bare.svg" || svg.contains(label), "{name}: {label}");
            }
        }
    }
}

#[test]
fn curves_count_what_was_lost() {
    let evaluation = evaluation(1.0, 1.0);
    let load = &evaluation.runs[0].loads[1];
    let points = pictures::distribution(&[load, load]);
    assert_eq!(points, [(100.0, 0.2), (500.0, 0.4)]);
    assert_eq!(pictures::distribution(&[]), []);
}

#[test]
fn what_is_stored_is_what_is_loaded() {
    let folder = std::env::temp_dir().join(format!("nic-emu-report-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let evaluation = evaluation(1.5, 1.0);
    let path = folder.join("evaluation.json");
    evaluation.store(&path).unwrap();
    let stored = std::fs::read_to_string(&path).unwrap();
    // A line for each run, so that differences can be read.
    assert_eq!(
        stored
            .lines()
            .filter(|line| line.contains("\"nic\":"))
            .count(),
        6
    );
    let loaded = Evaluation::load(&path).unwrap();
    assert_eq!(text(&loaded), text(&evaluation));
    write(&loaded, &folder).unwrap();
    let written = std::fs::read_to_string(folder.join(super::INDEX)).unwrap();
    assert_eq!(written, text(&evaluation));
    for (start, _) in written.match_indices("](") {
        let target = written[start + 2..].split(')').next().unwrap();
        match target.strip_prefix('#') {
            Some(_) => assert_eq!(
                (target, written.contains("## Conditions")),
                ("#conditions", true)
            ),
            None => assert!(folder.join(target).exists(), "{target}"),
        }
    }

    std::fs::write(&path, "{}").unwrap();
    assert!(
        Evaluation::load(&path)
            .unwrap_err()
            .to_string()
            .contains("is no evaluation")
    );
    std::fs::write(&path, stored.replace("\"format\": 1", "\"format\": 9")).unwrap();
    assert!(
        Evaluation::load(&path)
            .unwrap_err()
            .to_string()
            .contains("format 9")
    );
    assert!(Evaluation::load(&folder.join("none.json")).is_err());
    std::fs::remove_dir_all(&folder).unwrap();
}
