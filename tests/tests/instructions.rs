//! The model's work on a frame does not grow unseen: the instructions that a release build of it spends, which do not
//! depend on what else the machine does.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use nic_emu_lab::Lab;
use nic_emu_tests::cli;
use nic_emu_tests::instructions::Counter;

/// What a frame of each kind has cost, by the compiler that it was counted with: to be lowered when a change has made it
/// less, and raised by one that is worth it.
const COUNTED: [(&str, f64); 4] = [
    ("tx.60", 549.0),
    ("tx.1514", 569.0),
    ("rx.60", 570.0),
    ("rx.1514", 736.0),
];
const COMPILER: &str = "rustc 1.95.0";
/// What it may cost: other compilers, and C libraries that copy otherwise, are worth some percent.
const MARGIN: f64 = 1.10;

#[test]
fn a_frame_costs_no_more_instructions_than_it_did() -> Result<()> {
    let lab = Lab::open()?;
    let program = cli::instructions(cli::workspace())?;
    let counter = Counter::new(&lab, &program)?;
    let mut above = Vec::new();
    for (case, counted) in COUNTED {
        let found = counter.per_frame(case)?;
        println!("{case}: {found:.1} instructions, {counted} when last counted");
        if found > counted * MARGIN {
            above.push(format!("{case}: {found:.1} instead of {counted}"));
        }
    }
    ensure!(
        above.is_empty(),
        "{} instructions per frame, more than {:.0} % above what was counted with {COMPILER} (this is {}). \
         `cargo xtask bench instructions --before COMMIT` says since when. If it is the compiler, or worth it, \
         put the new figures into COUNTED, in {}",
        above.join(", "),
        (MARGIN - 1.0) * 100.0,
        compiler()?,
        file!(),
    );
    Ok(())
}

/// What cargo compiles with.
fn compiler() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .arg("--version")
        .output()
        .context("cannot start rustc")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
