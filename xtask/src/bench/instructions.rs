//! `cargo xtask bench instructions`: how many instructions the model spends on a frame, counted by callgrind.
//!
//! What is counted, and how, is `nic_emu_tests::instructions`'; tests hold it to what it was. The program, as it is here,
//! is also put into older commits.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nic_emu_lab::Lab;
use nic_emu_tests::cli;
use nic_emu_tests::instructions::Counter;
use serde_json::{Value, json};

use crate::machine;

/// What an older commit needs to build the program: the manifest, and which of our files.
const MANIFEST: &str = r#"[package]
name = "nic-emu-bench"
version = "0.0.0"
edition = "2024"

[features]
default = ["engine"]
engine = []

[dependencies]
guest-driver = { path = "../guest-driver" }
guest-mem = { path = "../guest-mem" }
nic-emu = { path = "../nic-emu" }
"#;
const FILES: [&str; 3] = ["engine/mod.rs", "engine/bus.rs", "bin/instructions.rs"];

/// Options of `bench instructions`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// An older commit to count as well; may be given more than once.
    #[arg(long, value_name = "COMMIT")]
    before: Vec<String>,

    /// Sizes of frames in bytes, without FCS.
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_values_t = [60, 1514])]
    sizes: Vec<u32>,

    /// Where the figures go.
    #[arg(long, value_name = "FILE.json")]
    output: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let lab = Lab::open()?;
    let mut rows = Vec::new();
    for commit in &options.before {
        let program = build_at(&lab, commit)?;
        rows.push((commit.clone(), count_all(&lab, &program, &options.sizes)?));
    }
    let program = cli::instructions(cli::workspace())?;
    rows.push((
        machine::commit(),
        count_all(&lab, &program, &options.sizes)?,
    ));

    println!("\ninstructions per frame, of the model alone");
    for (commit, counts) in &rows {
        let counts: Vec<_> = counts
            .iter()
            .map(|(case, count)| format!("{case} {count:.1}"))
            .collect();
        println!("  {commit:24}  {}", counts.join("  "));
    }
    let rows: Vec<Value> = rows
        .iter()
        .map(|(commit, counts)| {
            let counts: serde_json::Map<_, _> = counts
                .iter()
                .map(|(case, count)| (case.clone(), json!(count)))
                .collect();
            json!({ "commit": commit, "instructions_per_frame": counts })
        })
        .collect();
    let report =
        json!({ "bench": "instructions", "machine": machine::describe(), "commits": rows });
    super::save(&report, options.output.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

fn count_all(lab: &Lab, program: &Path, sizes: &[u32]) -> Result<Vec<(String, f64)>> {
    let counter = Counter::new(lab, program)?;
    let mut counts = Vec::new();
    for size in sizes {
        for way in ["tx", "rx"] {
            let case = format!("{way}.{size}");
            let per_frame = counter.per_frame(&case)?;
            counts.push((case, per_frame));
        }
    }
    Ok(counts)
}

/// Builds the program against the crates of an older commit, in a folder that stays for the next time.
fn build_at(lab: &Lab, commit: &str) -> Result<PathBuf> {
    let resolved = git(&["rev-parse", "--verify", &format!("{commit}^{{commit}}")])?;
    let folder = lab.dir().join("commits").join(&resolved[..12]);
    if !folder.join("Cargo.toml").exists() {
        fs::create_dir_all(&folder)?;
        let tar = folder.join("tree.tar");
        git(&["archive", "--output", &tar.display().to_string(), &resolved])?;
        let status = Command::new("tar")
            .arg("-xf")
            .arg(&tar)
            .arg("-C")
            .arg(&folder)
            .status();
        ensure!(
            status.is_ok_and(|status| status.success()),
            "cannot unpack {}",
            tar.display()
        );
        fs::remove_file(&tar)?;
    }
    let ours = cli::workspace().join("crates/bench/src");
    let theirs = folder.join("crates/bench");
    if theirs.exists() {
        fs::remove_dir_all(&theirs)?;
    }
    for file in FILES {
        let to = theirs.join("src").join(file);
        fs::create_dir_all(to.parent().context("a file has a folder")?)?;
        fs::copy(ours.join(file), to)?;
    }
    fs::write(theirs.join("src/lib.rs"), "pub mod engine;\n")?;
    fs::write(theirs.join("Cargo.toml"), MANIFEST)?;
    // Nothing else is wanted of the workspace, and what is elsewhere in it may want our crate.
    let manifest = fs::read_to_string(folder.join("Cargo.toml"))?;
    let members = manifest
        .lines()
        .map(|line| match line.starts_with("members") {
            true => r#"members = ["crates/bench"]"#.to_owned(),
            false => line.to_owned(),
        });
    fs::write(
        folder.join("Cargo.toml"),
        members.collect::<Vec<_>>().join("\n"),
    )?;
    let lock = Command::new("cargo")
        .args(["metadata", "--format-version=1", "--quiet"])
        .current_dir(&folder)
        .output()?;
    if !lock.status.success() {
        bail!("{commit}: {}", String::from_utf8_lossy(&lock.stderr));
    }
    cli::instructions(&folder).with_context(|| format!("the program does not go with {commit}"))
}

fn git(arguments: &[&str]) -> Result<String> {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(cli::workspace())
        .output()?;
    ensure!(
        output.status.success(),
        "git: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
