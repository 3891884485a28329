//! `cargo xtask bench vm`: our e1000 against QEMU's own, in the same rounds.
//!
//! A round is two runs, ours and QEMU's, and the order alternates. Each run is a fresh boot on a TAP of the same name,
//! flags and queue length, made anew before it; iperf3's server is on the host, so that both runs differ in the NIC
//! alone.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use nic_emu_lab::{Accel, Lab, Suite};
use nic_emu_tests::processors::CpuTime;
use nic_emu_tests::{Direction, cli};
use serde_json::{Value, json};

use crate::machine;
use crate::placement::{self, Placement};
use crate::stage::{Maker, Stage, WIRE, ensure_same_tap};

/// Beyond this share of stolen time a round tells more about the neighbours than about the NICs.
const STEAL_LIMIT: f64 = 5.0;
/// How often such a round is run again.
const ATTEMPTS: usize = 3;

/// Options of `bench vm`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Pairs of runs; at least 7 tell something.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// Seconds of iperf3 in each direction.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=600))]
    seconds: u32,

    #[command(flatten)]
    placement: placement::Options,

    /// Kernel of the guest: the newest of this Debian suite.
    #[arg(long, value_name = "SUITE", default_value = "trixie-backports")]
    suite: Suite,

    /// Where the figures go.
    #[arg(long, value_name = "FILE.json")]
    output: Option<PathBuf>,
}

/// Who plays the NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Player {
    NicEmu,
    Qemu,
}

/// One boot.
#[derive(Debug)]
struct Run {
    receive: f64,
    send: f64,
    ping_ms: f64,
    steal: f64,
    command_line: String,
    daemon: Option<String>,
    tap: Value,
}

/// Both runs of a round.
#[derive(Debug)]
struct Round {
    ours: Run,
    qemu: Run,
    attempts: usize,
}

impl Round {
    fn steal(&self) -> f64 {
        self.ours.steal.max(self.qemu.steal)
    }
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let started = Instant::now();
    let placement = options.placement.placement()?;
    cli::nic_emu_cli()?;
    let lab = Lab::open()?;
    lab.prepare(&[options.suite])?;
    placement.leave(&placement::usable()?)?;
    if options.rounds < 7 {
        eprintln!("fewer than 7 rounds: take the figures as a hint");
    }
    let mut rounds = Vec::new();
    for number in 0..options.rounds {
        let round = round(&lab, options, &placement, number)?;
        eprintln!(
            "[{:4.0} s] round {:2} of {}: receives {:.0} against {:.0} Mbit/s ({:.2}x), sends {:.0} against {:.0} ({:.2}x)",
            started.elapsed().as_secs_f64(),
            number + 1,
            options.rounds,
            round.ours.receive,
            round.qemu.receive,
            round.ours.receive / round.qemu.receive,
            round.ours.send,
            round.qemu.send,
            round.ours.send / round.qemu.send,
        );
        rounds.push(round);
    }
    let report = report(&lab, options, &placement, &rounds)?;
    println!("{}", table(&report, &rounds));
    super::save(&report, options.output.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

/// Runs both, once more if others took too much of the processors.
fn round(lab: &Lab, options: &Options, placement: &Placement, number: u32) -> Result<Round> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let play = |player| {
            one_run(lab, options, placement, player).with_context(|| format!("{player:?}"))
        };
        let (ours, qemu) = if number.is_multiple_of(2) {
            let ours = play(Player::NicEmu)?;
            (ours, play(Player::Qemu)?)
        } else {
            let qemu = play(Player::Qemu)?;
            (play(Player::NicEmu)?, qemu)
        };
        let round = Round {
            ours,
            qemu,
            attempts,
        };
        if round.steal() <= STEAL_LIMIT || attempts == ATTEMPTS {
            return Ok(round);
        }
        eprintln!(
            "round {}: {:.1} % of the processors' time was stolen, once more",
            number + 1,
            round.steal()
        );
    }
}

fn one_run(lab: &Lab, options: &Options, placement: &Placement, player: Player) -> Result<Run> {
    let maker = match player {
        Player::NicEmu => Maker::NicEmu(Vec::new()),
        Player::Qemu => Maker::Qemu("e1000".into()),
    };
    let mut stage = Stage::boot(lab, options.suite, Accel::Tcg, placement, &maker, [])?;
    let trips =
        nic_emu_tests::pinger::ping(stage.ground.netns.name(), WIRE.second().v4.into(), [56; 50])?;
    sleep(Duration::from_secs(1));
    let before = CpuTime::now();
    let receive = stage.pair().tcp(Direction::Receive, options.seconds);
    let receive = receive.context("guest receives")?.mbit;
    sleep(Duration::from_secs(1));
    let send = stage.pair().tcp(Direction::Send, options.seconds);
    let send = send.context("guest sends")?.mbit;
    let steal = CpuTime::now().since(before).steal_percent();
    let (command_line, daemon) = stage.command_lines(lab);
    Ok(Run {
        receive,
        send,
        ping_ms: trips.median().as_secs_f64() * 1e3,
        steal,
        command_line,
        daemon,
        tap: stage.tap_facts,
    })
}

fn report(lab: &Lab, options: &Options, placement: &Placement, rounds: &[Round]) -> Result<Value> {
    let last = rounds.last().context("no round")?;
    let taps = rounds.iter().flat_map(|round| {
        [
            ("nic-emu", &round.ours.tap),
            ("QEMU's e1000", &round.qemu.tap),
        ]
    });
    ensure_same_tap(taps)?;
    let of = |value: fn(&Round) -> f64| summary(rounds.iter().map(value).collect());
    let run = |run: &Run| json!({ "receive_mbit": run.receive, "send_mbit": run.send, "ping_ms": run.ping_ms, "steal_percent": run.steal });
    let each = rounds.iter().enumerate().map(|(number, round)| {
        json!({
            "first": if number.is_multiple_of(2) { "nic-emu" } else { "qemu" },
            "nic_emu": run(&round.ours),
            "qemu": run(&round.qemu),
            "receive_ratio": round.ours.receive / round.qemu.receive,
            "send_ratio": round.ours.send / round.qemu.send,
            "attempts": round.attempts,
        })
    });
    Ok(json!({
        "bench": "vm",
        "commit": machine::commit(),
        "machine": machine::describe(),
        "qemu": lab.qemu()?.version(),
        "guest_kernel": lab.kernel(options.suite)?.release(),
        "seconds": options.seconds,
        "placement": { "guest": placement.guest, "daemon": placement.daemon, "told": placement.told() },
        "tap": last.ours.tap,
        "command_lines": {
            "nic_emu": last.ours.command_line,
            "nic_emu_cli": last.ours.daemon,
            "qemu": last.qemu.command_line,
        },
        "rounds": each.collect::<Vec<_>>(),
        "summary": {
            "receive_ratio": of(|round| round.ours.receive / round.qemu.receive),
            "send_ratio": of(|round| round.ours.send / round.qemu.send),
            "ping_ratio": of(|round| round.ours.ping_ms / round.qemu.ping_ms),
            "nic_emu_receive_mbit": of(|round| round.ours.receive),
            "qemu_receive_mbit": of(|round| round.qemu.receive),
            "nic_emu_send_mbit": of(|round| round.ours.send),
            "qemu_send_mbit": of(|round| round.qemu.send),
            "nic_emu_ping_ms": of(|round| round.ours.ping_ms),
            "qemu_ping_ms": of(|round| round.qemu.ping_ms),
            "steal_percent": of(Round::steal),
        },
    }))
}

fn table(report: &Value, rounds: &[Round]) -> String {
    let summary = &report["summary"];
    let cell = |name: &str, digits: usize| {
        let value = |part: &str| summary[name][part].as_f64().unwrap_or(f64::NAN);
        format!(
            "{:.digits$} ({:.digits$} to {:.digits$})",
            value("median"),
            value("min"),
            value("max")
        )
    };
    let row = |what: &str, key: &str, unit: &str, digits: usize| {
        let [ours, qemu] =
            ["nic_emu", "qemu"].map(|who| cell(&format!("{who}_{key}_{unit}"), digits));
        format!(
            "  {what:20}  {ours:22}  {qemu:22}  {}\n",
            cell(&format!("{key}_ratio"), 2)
        )
    };
    let repeated = rounds.iter().filter(|round| round.attempts > 1).count();
    let mut text = format!(
        "\ncommit {}, QEMU {}, guest kernel {}, {} rounds of {} s; median (lowest to highest)\n\n",
        report["commit"].as_str().unwrap_or_default(),
        report["qemu"].as_str().unwrap_or_default(),
        report["guest_kernel"].as_str().unwrap_or_default(),
        rounds.len(),
        report["seconds"],
    );
    text += &format!(
        "  {:20}  {:22}  {:22}  {}\n",
        "", "nic-emu e1000", "QEMU e1000", "ratio, per round"
    );
    text += &row("RX, Mbit/s", "receive", "mbit", 0);
    text += &row("TX, Mbit/s", "send", "mbit", 0);
    text += &row("ping, median in ms", "ping", "ms", 2);
    text += &format!(
        "\n  stolen processor time: {} %; rounds run again for it: {repeated}\n",
        cell("steal_percent", 1)
    );
    text += &format!("  TAP: {}\n", report["tap"]);
    let placement = report["placement"]["told"].as_str().unwrap_or_default();
    text += &format!("  processors: {placement}\n");
    for (who, line) in report["command_lines"].as_object().into_iter().flatten() {
        text += &format!("  {who}: {}\n", line.as_str().unwrap_or_default());
    }
    text
}

fn summary(mut values: Vec<f64>) -> Value {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median = match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    };
    json!({ "median": median, "min": values.first(), "max": values.last() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_the_median_and_the_full_spread() {
        assert_eq!(
            summary(vec![3.0, 1.0, 2.0]),
            json!({ "median": 2.0, "min": 1.0, "max": 3.0 })
        );
        assert_eq!(
            summary(vec![4.0, 1.0]),
            json!({ "median": 2.5, "min": 1.0, "max": 4.0 })
        );
    }
}
