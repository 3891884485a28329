//! `cargo xtask bench native`: builds `crates/bench`, runs it, keeps and compares what it measures.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nic_emu_bench::options;
use nic_emu_bench::report::Report;
use nic_emu_tests::cli;

use crate::machine;

/// Options of `bench native`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where the figures go.
    #[arg(long, value_name = "FILE.json")]
    output: Option<PathBuf>,

    /// Figures of another run to compare with.
    #[arg(long, value_name = "FILE.json")]
    compare: Option<PathBuf>,

    #[command(flatten)]
    bench: options::Options,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let old = options.compare.as_ref().map(|path| {
        let read = || -> Result<Report> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
        read().with_context(|| format!("no figures in {}", path.display()))
    });
    let old = old.transpose()?;
    let program = cli::nic_emu_bench()?;
    let arguments = options.bench.arguments();
    let output = Command::new(program)
        .env("NIC_EMU_CLI", cli::nic_emu_cli()?)
        .args(&arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start nic-emu-bench")?;
    ensure!(
        output.status.success(),
        "the benchmark ended with {}",
        output.status
    );
    let results =
        serde_json::from_slice(&output.stdout).context("the benchmark printed no figures")?;
    let report = Report {
        bench: "native".to_owned(),
        commit: machine::commit(),
        machine: machine::describe(),
        command: format!("cargo xtask bench native {}", arguments.join(" ")),
        results,
    };
    println!(
        "\ncommit {}, machine {}\n{}\n",
        report.commit, report.machine, report.command
    );
    println!("{}", report.table());
    if let Some(old) = &old {
        println!("{}", report.beside(old).join("\n"));
    }
    super::save(&report, options.output.as_deref())?;
    Ok(ExitCode::SUCCESS)
}
