//! `cargo xtask evaluate`: the thesis's evaluation again, by one command: nic-emu's e1000 beside QEMU's NICs.
//!
//! A round is a fresh boot on each NIC, in an order that rotates and turns round by round; a ratio is always one of two
//! runs of the same round. Every run is stored as soon as it is made; the report is made from what is stored.

mod contestant;
mod figures;
mod measure;
mod record;
mod report;
mod stats;
mod surroundings;
mod svg;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use nic_emu_lab::{Accel, Lab, Suite};
use nic_emu_tests::cli;

use crate::placement;
use crate::{machine, stage};
use contestant::{Contestant, order};
use measure::Measure;
use record::{DISTURBANCE_LIMIT, Environment, Evaluation, Run, Settings};

/// Where the figures are once all rounds are made.
const FIGURES: &str = "evaluation.json";
/// Where they are until then.
const UNFINISHED: &str = "unfinished.json";

/// How often a run is made at most of which much time was stolen or used by others.
const ATTEMPTS: u32 = 3;
/// In how many rounds events are counted. QEMU's log of accesses slows the guest down, so that is done apart from
/// everything else and takes time of its own; and what a frame costs differs little from round to round.
const COUNTED_ROUNDS: u32 = 3;

/// Options of `evaluate`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Rounds of one boot on each NIC; at least 7 tell something.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// Seconds of iperf3 in each direction.
    #[arg(long, value_name = "S", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,

    /// Frames a second to offer to the guest's reflector: the first is the low load, the last the overload.
    #[arg(long, value_name = "PPS,...", value_delimiter = ',', default_values_t = [1000, 10_000, 40_000, 100_000],
          value_parser = clap::value_parser!(u32).range(10..=20_000_000))]
    rates: Vec<u32>,

    /// Seconds of each rate.
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=600))]
    rate_seconds: u32,

    /// The NICs to compare.
    #[arg(long, value_name = "NIC,...", value_delimiter = ',', value_enum, default_values_t = Contestant::ALL)]
    nics: Vec<Contestant>,

    /// How long the daemon of `nic-emu-poll` stays awake after an event.
    #[arg(long, value_name = "US", default_value_t = 50)]
    busy_poll: u32,

    /// The same for `nic-emu-poll-anywhere`.
    #[arg(long, value_name = "US", default_value_t = 1000)]
    busy_poll_anywhere: u32,

    #[command(flatten)]
    placement: placement::Options,

    /// Kernel of the guest: the newest of this Debian suite.
    #[arg(long, value_name = "SUITE", default_value = "trixie-backports")]
    suite: Suite,

    /// What executes the guest's instructions.
    #[arg(long, value_enum, default_value_t = Accelerator::Tcg)]
    accel: Accelerator,

    /// Folder for the report, its pictures and the figures.
    #[arg(long, value_name = "DIR", default_value = "docs/evaluation")]
    output: PathBuf,

    /// Go on with a run that was interrupted, from the rounds stored in the folder.
    #[arg(long, conflicts_with_all = ["from", "quick"])]
    resume: bool,

    /// Make only the report anew, from figures stored before.
    #[arg(long, value_name = "FILE.json", conflicts_with = "quick")]
    from: Option<PathBuf>,

    /// Only see whether it works: one short round on nic-emu's and QEMU's e1000.
    #[arg(long, conflicts_with_all = ["rounds", "seconds", "rates", "rate_seconds", "nics"])]
    quick: bool,
}

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Accelerator {
    /// QEMU's translator: works everywhere, and makes the guest the bottleneck.
    Tcg,
    /// The host kernel, on a machine of its own: what a server would see.
    Kvm,
}

impl Options {
    fn settings(&self) -> Result<Settings> {
        let mut options = self.clone();
        if self.quick {
            (options.rounds, options.seconds, options.rate_seconds) = (1, 1, 1);
            options.rates = vec![1000];
            options.nics = vec![Contestant::NicEmu, Contestant::E1000];
        }
        let Self {
            rounds,
            seconds,
            mut rates,
            rate_seconds,
            mut nics,
            busy_poll,
            busy_poll_anywhere,
            placement,
            suite,
            accel,
            ..
        } = options;
        rates.sort_unstable();
        rates.dedup();
        for (at, nic) in nics.iter().enumerate() {
            ensure!(!nics[..at].contains(nic), "{nic} is named twice in --nics");
        }
        let placement = placement.placement()?;
        let all = Contestant::all(&placement);
        nics.retain(|nic| all.contains(nic));
        ensure!(
            nics.iter().any(|nic| nic.is_placed()),
            "--nics names none that is placed"
        );
        Ok(Settings {
            counted_rounds: if self.quick {
                0
            } else {
                COUNTED_ROUNDS.min(rounds)
            },
            bare: !self.quick,
            attempts: if self.quick { 1 } else { ATTEMPTS },
            rounds,
            seconds,
            rates,
            rate_seconds,
            nics,
            busy_poll_us: busy_poll,
            busy_poll_anywhere_us: busy_poll_anywhere,
            placement,
            accel: match accel {
                Accelerator::Tcg => "tcg".into(),
                Accelerator::Kvm => "kvm".into(),
            },
            suite: suite.to_string(),
        })
    }

    /// The folder for the report; a relative one counts from the workspace.
    fn folder(&self) -> PathBuf {
        cli::workspace().join(&self.output)
    }
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let folder = options.folder();
    let finished = folder.join(FIGURES);
    let evaluation = match &options.from {
        Some(path) => Evaluation::load(path)?,
        None => measure_all(options, &folder)?,
    };
    make_folder(&folder)?;
    report::write(&evaluation, &folder)?;
    evaluation.store(&finished)?;
    if options.from.is_none() {
        fs::remove_file(folder.join(UNFINISHED)).context("cannot remove the unfinished figures")?;
    }
    println!("{}", report::summary(&evaluation));
    println!("report: {}", folder.join(report::INDEX).display());
    Ok(ExitCode::SUCCESS)
}

fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

fn measure_all(options: &Options, folder: &Path) -> Result<Evaluation> {
    let settings = options.settings()?;
    let kvm = match options.accel {
        Accelerator::Tcg => None,
        Accelerator::Kvm => machine::kvm()?,
    };
    if let Some(kvm) = &kvm {
        eprintln!("{kvm}");
    }
    if settings.rounds < 7 {
        eprintln!("fewer than 7 rounds: take the figures as a hint");
    }
    cli::nic_emu_cli()?;
    let lab = Lab::open()?;
    lab.prepare(&[options.suite])?;
    let environment = Environment {
        commit: machine::commit(),
        date: machine::today(),
        machine: machine::describe(),
        qemu: lab.qemu()?.version().to_owned(),
        guest_kernel: lab.kernel(options.suite)?.release().to_owned(),
        kvm,
    };
    make_folder(folder)?;
    let unfinished = folder.join(UNFINISHED);
    let mut evaluation = if options.resume {
        resumed(&unfinished, &settings, &environment)?
    } else {
        Evaluation::new(settings.clone(), environment)
    };
    let measure = Measure {
        lab,
        processors: placement::usable()?,
        suite: options.suite,
        accel: match options.accel {
            Accelerator::Tcg => Accel::Tcg,
            Accelerator::Kvm => Accel::Kvm,
        },
        settings,
    };
    let mut progress = Progress::new(&evaluation);
    for round in 0..evaluation.settings.rounds {
        one_round(&measure, &mut evaluation, round, &unfinished, &mut progress)?;
    }
    Ok(evaluation)
}

/// Makes what is missing of a round, and once more at its end what had too much time stolen.
fn one_round(
    measure: &Measure,
    evaluation: &mut Evaluation,
    round: u32,
    unfinished: &Path,
    progress: &mut Progress,
) -> Result<()> {
    loop {
        let mut made = 0;
        for nic in order(&evaluation.settings.nics, round) {
            let Some(attempt) = evaluation.next_attempt(nic, round) else {
                continue;
            };
            let started = Instant::now();
            let run = measure.run(nic, round, attempt);
            let run = run.with_context(|| format!("{nic}, round {}", round + 1))?;
            evaluation.runs.push(run);
            ensure_comparable(evaluation)?;
            evaluation.store(unfinished)?;
            progress.tell(evaluation, started.elapsed());
            made += 1;
        }
        if made == 0 {
            return Ok(());
        }
    }
}

fn ensure_comparable(evaluation: &Evaluation) -> Result<()> {
    let taps = evaluation
        .runs
        .iter()
        .map(|run| (run.nic.label(), &run.tap));
    stage::ensure_same_tap(taps)
}

/// What is stored of an interrupted run, if it was of the same kind and on the same machine.
fn resumed(path: &Path, settings: &Settings, environment: &Environment) -> Result<Evaluation> {
    ensure!(
        path.exists(),
        "nothing to resume: there is no {}",
        path.display()
    );
    let mut evaluation = Evaluation::load(path)?;
    let then = &evaluation.settings;
    let same = Settings {
        rounds: then.rounds,
        counted_rounds: then.counted_rounds,
        ..settings.clone()
    };
    ensure!(
        *then == same,
        "what is stored in {} was asked for with other options: {then:?}",
        path.display()
    );
    let there = Environment {
        date: environment.date.clone(),
        ..evaluation.environment.clone()
    };
    if there != *environment {
        bail!(
            "what is stored in {} was measured on commit {}, QEMU {}, guest kernel {}, or another machine",
            path.display(),
            there.commit,
            there.qemu,
            there.guest_kernel
        );
    }
    evaluation.settings.rounds = settings.rounds;
    evaluation.settings.counted_rounds = settings.counted_rounds;
    Ok(evaluation)
}

/// A line for each run, with the time that is left.
#[derive(Debug)]
struct Progress {
    started: Instant,
    /// Runs made by this process, and how long they took.
    made: u32,
    took: Duration,
}

impl Progress {
    fn new(evaluation: &Evaluation) -> Self {
        let settings = &evaluation.settings;
        let boots = settings.rounds * settings.nics.len() as u32;
        let stored = evaluation.runs.len();
        if stored > 0 {
            eprintln!("{stored} runs are there already");
        }
        let counts = settings.counted_rounds * 12 / settings.rounds;
        let each = 2 * (settings.seconds + 2)
            + settings.rates.len() as u32 * (settings.rate_seconds + 1)
            + if settings.bare { 14 } else { 10 }
            + counts;
        eprintln!(
            "{boots} runs of about {each} s: {} NICs, {} rounds",
            settings.nics.len(),
            settings.rounds
        );
        Self {
            started: Instant::now(),
            made: 0,
            took: Duration::ZERO,
        }
    }

    fn tell(&mut self, evaluation: &Evaluation, took: Duration) {
        self.made += 1;
        self.took += took;
        let Some(run) = evaluation.runs.last() else {
            return;
        };
        let left = remaining(evaluation);
        let left = self.took / self.made * left;
        eprintln!(
            "[{:5.0} s] round {} of {}, {}: {}; {} left",
            self.started.elapsed().as_secs_f64(),
            run.round + 1,
            evaluation.settings.rounds,
            run.nic,
            told(run),
            minutes(left)
        );
    }
}

/// Runs that are still to be made, if no more time is stolen.
fn remaining(evaluation: &Evaluation) -> u32 {
    let settings = &evaluation.settings;
    let missing = |round| {
        let nics = settings.nics.iter();
        nics.filter(|&&nic| evaluation.next_attempt(nic, round).is_some())
            .count() as u32
    };
    (0..settings.rounds).map(missing).sum()
}

fn told(run: &Run) -> String {
    let mut text = format!(
        "RX {:.0} and TX {:.0} Mbit/s, ping {:.0} us",
        run.receive.mbit, run.send.mbit, run.ping.p50
    );
    for load in &run.loads {
        let share = load.echoed as f64 * 100.0 / load.sent.max(1) as f64;
        text += &format!(
            ", {} pps: {share:.0} % echoed, {:.0} us",
            load.rate, load.trips.p50
        );
    }
    if let Some(bare) = run.bare {
        text += &format!(
            ", bare guest RX {:.0} and TX {:.0} kpps",
            bare.receive_pps / 1e3,
            bare.send_pps / 1e3
        );
    }
    if run.disturbance() > DISTURBANCE_LIMIT {
        text += &format!(
            "; {:.1} % of the time was stolen or others'",
            run.disturbance()
        );
    }
    text
}

fn minutes(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 100 {
        format!("{seconds} s")
    } else {
        format!("{} min", seconds.div_ceil(60))
    }
}
