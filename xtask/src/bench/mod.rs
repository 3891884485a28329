//! `cargo xtask bench`: what is measured, and where the figures go.

mod instructions;
mod native;
mod profile;
mod vm;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde::Serialize;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// iperf3 both ways in a guest, against QEMU's own e1000 in the same rounds: needs root.
    Vm(vm::Options),
    /// NICs driven natively, beside what the same frames cost at the least: needs root.
    Native(native::Options),
    /// Instructions per frame, counted: the same for the same commit, whatever else the machine does.
    Instructions(instructions::Options),
    /// What the daemon and QEMU do with their processor at full load, by samples: needs root.
    Profile(profile::Options),
}

pub(crate) fn run(bench: &Bench) -> Result<ExitCode> {
    match bench {
        Bench::Vm(options) => vm::run(options),
        Bench::Native(options) => native::run(options),
        Bench::Instructions(options) => instructions::run(options),
        Bench::Profile(options) => profile::run(options),
    }
}

/// Writes figures to a file, if one is given.
fn save(report: &impl Serialize, output: Option<&Path>) -> Result<()> {
    let Some(path) = output else { return Ok(()) };
    let text = serde_json::to_string_pretty(report)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("figures: {}", path.display());
    Ok(())
}
