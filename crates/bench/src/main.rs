//! `nic-emu-bench`: the figures on standard output as JSON, each as a line on standard error. `cargo xtask bench native`
//! builds and runs it.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use nic_emu_bench::options::Options;
use nic_emu_bench::{native, tap};

/// Drives NICs natively and measures them beside their floors: needs root for TAPs.
#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    match run(&Cli::parse().options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    tap::enter_namespace()?;
    let results = native::run(options, |result| eprintln!("{result}"))?;
    println!("{}", serde_json::to_string_pretty(&results)?);
    Ok(())
}
