//! `cargo xtask bench profile`: what the daemon does with its processor at full load, what QEMU's threads do beside it, and
//! who waits for whom: samples by perf, times by the scheduler.
//!
//! Two daemons, one that sleeps when there is nothing to do and one that polls for a while, each with a Debian guest that
//! receives and sends by iperf3, and with a guest without an operating system that does so with frames of 60 bytes.

mod load;
mod tell;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{Args, ValueEnum};
use nic_emu_lab::{Accel, Lab, Suite};
use nic_emu_tests::cli;
use serde_json::{Value, json};

use crate::machine;
use crate::placement;
use crate::stage::portable;
use load::{Boot, Seen};

/// Options of `bench profile`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Seconds to sample each load for.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=300))]
    seconds: u32,

    /// Samples for each second of processor time.
    #[arg(long, value_name = "HZ", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(50..=10_000))]
    rate: u32,

    /// What the guest does: all of it, if nothing is said.
    #[arg(long, value_name = "LOAD", value_delimiter = ',')]
    loads: Vec<Load>,

    /// Microseconds for which the second daemon looks out for work before it sleeps; 0: no second daemon.
    #[arg(long, value_name = "US", default_value_t = 50)]
    busy_poll: u32,

    #[command(flatten)]
    placement: placement::Options,

    /// Kernel of the guest: the newest of this Debian suite.
    #[arg(long, value_name = "SUITE", default_value = "trixie-backports")]
    suite: Suite,

    /// Lines of each table of functions.
    #[arg(long, value_name = "N", default_value_t = 12)]
    top: usize,

    /// Where the figures go.
    #[arg(long, value_name = "FILE.json")]
    output: Option<PathBuf>,
}

/// What a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Load {
    /// A Debian guest receives TCP by iperf3.
    Receive,
    /// It sends.
    Send,
    /// A guest without an operating system receives frames of 60 bytes, more than it can take.
    BareReceive,
    /// It sends them as fast as its NIC takes them.
    BareSend,
}

impl Load {
    const ALL: [Self; 4] = [Self::Receive, Self::Send, Self::BareReceive, Self::BareSend];

    fn label(self) -> &'static str {
        match self {
            Self::Receive => "Debian receives, iperf3",
            Self::Send => "Debian sends, iperf3",
            Self::BareReceive => "bare guest receives, 60 bytes",
            Self::BareSend => "bare guest sends, 60 bytes",
        }
    }

    fn is_bare(self) -> bool {
        matches!(self, Self::BareReceive | Self::BareSend)
    }
}

/// One load on one daemon.
#[derive(Debug)]
struct Row {
    load: Load,
    poll_us: u32,
    seen: Seen,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let started = Instant::now();
    let placement = options.placement.placement()?;
    let processors = placement::usable()?;
    let everywhere = placement::Placement::everywhere(&processors);
    let asked = |load: &Load| options.loads.is_empty() || options.loads.contains(load);
    let loads: Vec<_> = Load::ALL.into_iter().filter(asked).collect();
    cli::nic_emu_cli()?;
    if loads.iter().any(|load| load.is_bare()) {
        cli::bare_guest()?;
    }
    let lab = Lab::open()?;
    lab.prepare(&[options.suite])?;
    let boot = Boot {
        perf: lab.perf()?,
        lab: lab.clone(),
        suite: options.suite,
        accel: Accel::Tcg,
        seconds: options.seconds,
        rate: options.rate,
        placement,
        everywhere,
    };
    boot.placement.leave(&processors)?;

    let mut polls = vec![0, options.busy_poll];
    polls.dedup();
    let mut rows = Vec::new();
    for poll_us in polls {
        for (load, seen) in boot.all(&loads, poll_us)? {
            eprintln!(
                "[{:4.0} s] {}: {}",
                started.elapsed().as_secs_f64(),
                tell::daemon(poll_us),
                load.label()
            );
            rows.push(Row {
                load,
                poll_us,
                seen,
            });
        }
    }
    println!("{}", tell::text(&rows, options.top));
    super::save(&report(&boot, &rows)?, options.output.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

fn report(boot: &Boot, rows: &[Row]) -> Result<Value> {
    let place = |of: &placement::Placement| json!({ "guest": of.guest, "daemon": of.daemon, "told": of.told() });
    let loads = rows.iter().map(|row| {
        let (qemu, daemon) = &row.seen.command_lines;
        json!({
            "load": row.load.label(),
            "busy_poll_us": row.poll_us,
            "command_lines": {
                "nic_emu_cli": portable(&boot.lab, daemon),
                "qemu": portable(&boot.lab, qemu),
            },
            "seen": tell::figures(&row.seen),
        })
    });
    Ok(json!({
        "bench": "profile",
        "commit": machine::commit(),
        "machine": machine::describe(),
        "qemu": boot.lab.qemu()?.version(),
        "guest_kernel": boot.lab.kernel(boot.suite)?.release(),
        "seconds": boot.seconds,
        "samples_a_second": boot.rate,
        "placement": { "debian": place(&boot.placement), "bare": place(&boot.everywhere) },
        "loads": loads.collect::<Vec<_>>(),
    }))
}
