//! `cargo xtask fuzz`: coverage-guided fuzzing, on a stable compiler.
//!
//! The targets are in `fuzz/`. What an input has reached is counted by code that LLVM puts in (`sancov`), which needs no
//! nightly compiler; libFuzzer itself comes with the crate `libfuzzer-sys` and needs one for C++.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nic_emu_tests::cli;
use serde_json::Value;

/// Programs of `fuzz/`, without their prefix.
const TARGETS: &[&str] = &["stream", "session", "state", "e1000"];

/// Those in which a bug can be planted.
const PLANTED: &[&str] = &["session", "e1000"];

/// Has LLVM count edges and comparisons.
const INSTRUMENT: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// Bounds of one input: bytes, seconds, megabytes. It takes milliseconds, but a machine with other work may stand still for long.
const LIMITS: &[&str] = &["-max_len=2048", "-timeout=60", "-rss_limit_mb=1024"];

/// How often progress is shown.
const PROGRESS: Duration = Duration::from_secs(60);

/// Options of `fuzz`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this target; all, one after the other, if none is named.
    target: Option<String>,

    /// How long, for each target.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,

    /// Processes that work at the same time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,

    /// Look for a bug that is there on purpose, from nothing: shows that bugs are found. In session and e1000.
    #[arg(long)]
    planted: bool,
}

/// What libFuzzer has told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    /// Edges that the corpus reached at first, and the newest number.
    first: Option<u64>,
    last: Option<u64>,
    executions: u64,
    /// The newest line of the target's own.
    stats: String,
    /// What the panic said.
    panic: Option<String>,
    crash: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let all = if options.planted { PLANTED } else { TARGETS };
    let targets = match &options.target {
        None => all.to_vec(),
        Some(target) => {
            let known = all.iter().copied().find(|known| known == target);
            vec![
                known
                    .with_context(|| format!("there is no target {target}: {}", all.join(", ")))?,
            ]
        }
    };
    ensure!(
        options.minutes > 0.0 && options.jobs > 0,
        "no time to run, or nobody who does"
    );
    eprintln!("building");
    let programs = build(options.planted)?;
    let mut code = ExitCode::SUCCESS;
    for target in targets {
        let name = format!("fuzz-{target}");
        let program = programs
            .iter()
            .find(|path| path.file_name().is_some_and(|file| *file == *name));
        let program = program.with_context(|| format!("cargo did not build {name}"))?;
        let found = match options.planted {
            true => plant(program, target, options)?,
            false => fuzz(program, target, options)?,
        };
        // The planted bug is to be found, others are not.
        if found != options.planted {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// Builds the programs and says where they are.
fn build(planted: bool) -> Result<Vec<PathBuf>> {
    let mut build = cli::cargo();
    // With a target named, what runs on the host while building is not instrumented.
    build.args([
        "build",
        "--locked",
        "--package",
        "nic-emu-fuzz",
        "--profile",
        "fuzz",
        "--target",
        &host()?,
    ]);
    build.args([
        "--features",
        if planted {
            "libfuzzer,planted"
        } else {
            "libfuzzer"
        },
    ]);
    build.args(["--message-format", "json-render-diagnostics"]);
    build
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", INSTRUMENT.join(" "));
    let output = build
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "the fuzz targets do not build; libFuzzer needs a C++ compiler"
    );
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = |line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    };
    Ok(messages.lines().filter_map(executable).collect())
}

/// The platform that this compiler runs on.
fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .arg("-vV")
        .output()
        .context("cannot start rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host
        .context("rustc does not say what it runs on")?
        .to_owned())
}

/// Fuzzes a target from the kept corpus on, and keeps what is new and needed. True if it found a bug.
fn fuzz(program: &Path, target: &str, options: &Options) -> Result<bool> {
    let home = cli::workspace().join("fuzz");
    let kept = folder(home.join("corpus").join(target))?;
    let regressions = folder(home.join("regressions").join(target))?;
    let crashes = folder(home.join("crashes"))?;
    // All that was ever new, also what the kept corpus does without.
    let work = folder(cli::workspace().join("target/fuzz").join(target))?;
    let told = search(
        program,
        target,
        &[&work, &kept, &regressions],
        &crashes,
        options,
    )?;
    println!(
        "{target}: coverage {} -> {} edges, {} executions; {}",
        told.first.unwrap_or(0),
        told.last.unwrap_or(0),
        told.executions,
        told.stats
    );
    if let Some(crash) = &told.crash {
        println!(
            "{target}: FOUND {}",
            told.panic.as_deref().unwrap_or("a bug")
        );
        println!(
            "  replay it: cargo run -p nic-emu-fuzz --example replay -- {target} {}",
            crash.display()
        );
        return Ok(true);
    }
    merge(program, target, &[&kept, &work])?;
    Ok(false)
}

/// Looks for the planted bug without any corpus. True if it is found.
fn plant(program: &Path, target: &str, options: &Options) -> Result<bool> {
    let work = cli::workspace().join("target/fuzz/planted").join(target);
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("{} is in the way", work.display()))?;
    }
    let (corpus, crashes) = (folder(work.join("corpus"))?, folder(work.join("crashes"))?);
    let started = Instant::now();
    let told = search(program, target, &[&corpus], &crashes, options)?;
    let seconds = started.elapsed().as_secs_f64();
    let found = told.panic.is_some_and(|panic| panic.contains("planted"));
    match found {
        true => println!("{target}: the planted bug was found after {seconds:.1} s, from nothing"),
        false => println!("{target}: the planted bug was not found in {seconds:.0} s"),
    }
    Ok(found)
}

/// Runs libFuzzer on the folders, the first of which takes what is new.
fn search(
    program: &Path,
    target: &str,
    folders: &[&Path],
    crashes: &Path,
    options: &Options,
) -> Result<Told> {
    let command = || {
        let mut command = Command::new(program);
        command.args(folders).args(LIMITS);
        command.arg(format!(
            "-max_total_time={:.0}",
            (options.minutes * 60.0).max(1.0)
        ));
        command.arg(format!("-artifact_prefix={}/{target}-", crashes.display()));
        command.args([
            "-print_final_stats=1",
            "-reload=1",
            "-len_control=20",
            "-use_value_profile=0",
        ]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    };
    let mut children = Vec::new();
    for job in 0..options.jobs {
        let stderr = if job == 0 {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        children.push(
            command()
                .stderr(stderr)
                .spawn()
                .with_context(|| format!("cannot start {target}"))?,
        );
    }
    let told = listen(target, &mut children[0])?;
    let mut ended = Vec::new();
    for mut child in children {
        ended.push(child.wait()?);
    }
    if told.crash.is_none() && !ended[0].success() {
        bail!("{target} ended with {}, and without a crash", ended[0]);
    }
    Ok(told)
}

fn listen(target: &str, child: &mut Child) -> Result<Told> {
    let stderr = child.stderr.take().context("no stderr")?;
    let mut told = Told::default();
    let mut shown = Instant::now();
    for line in BufReader::new(stderr).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let progress = told.take(&line);
        if progress && shown.elapsed() > PROGRESS {
            shown = Instant::now();
            eprintln!("{target}: {}", line.trim());
        }
    }
    Ok(told)
}

/// Replaces the first folder's files by the few of all folders that reach every edge.
fn merge(program: &Path, target: &str, folders: &[&Path]) -> Result<()> {
    let fresh = folders[0].with_extension("new");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    fs::create_dir_all(&fresh)?;
    let mut command = Command::new(program);
    command
        .args(["-set_cover_merge=1", "-use_counters=0"])
        .args(LIMITS)
        .arg(&fresh)
        .args(folders);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    ensure!(
        command.status()?.success(),
        "{target}: the corpus cannot be merged"
    );
    let files: Vec<_> = fs::read_dir(&fresh)?.collect::<Result<_, _>>()?;
    ensure!(!files.is_empty(), "{target}: nothing of the corpus is left");
    let bytes = files
        .iter()
        .map(|file| file.metadata().map_or(0, |m| m.len()))
        .sum::<u64>();
    println!(
        "{target}: kept {} inputs, {} KiB",
        files.len(),
        bytes.div_ceil(1024)
    );
    fs::remove_dir_all(folders[0])?;
    fs::rename(&fresh, folders[0]).context("cannot put the new corpus in its place")
}

fn folder(path: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

impl Told {
    /// Takes a line that libFuzzer or the target printed. True if it tells of progress.
    fn take(&mut self, line: &str) -> bool {
        let line = line.trim();
        if let Some(stats) = line.strip_prefix("stats: ") {
            self.stats = stats.to_owned();
        } else if let Some(panic) = line.split_once("panicked at ") {
            self.panic.get_or_insert(panic.1.to_owned());
        } else if let Some(path) = line.split_once("Test unit written to ") {
            self.crash = Some(path.1.into());
        } else if let Some(rest) = line.strip_prefix('#') {
            let mut words = rest.split_whitespace();
            let executions = words.next().and_then(|word| word.parse().ok());
            self.executions = executions.unwrap_or(self.executions);
            let cover = words
                .skip_while(|word| *word != "cov:")
                .nth(1)
                .and_then(|word| word.parse().ok());
            self.first = self.first.or(cover);
            self.last = cover.or(self.last);
            return cover.is_some();
        } else if self
            .panic
            .as_deref()
            .is_some_and(|panic| panic.ends_with(':'))
        {
            // What it said follows where it was.
            let place = self.panic.take().unwrap_or_default();
            self.panic = Some(format!("{place} {line}"));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_and_crashes_are_understood() {
        let mut told = Told::default();
        for line in [
            "INFO: seed corpus: files: 12",
            "#13\tINITED cov: 100 ft: 300 corp: 10/2Kb exec/s: 0 rss: 30Mb",
            "stats: 16 inputs",
            "#4096\tpulse  cov: 120 ft: 310 corp: 11/2Kb exec/s: 900 rss: 31Mb",
            "thread 'main' (7) panicked at fuzz/src/peer.rs:1:2:",
            "no reply",
            "stack backtrace:",
            "artifact_prefix='/c/'; Test unit written to /c/stream-crash-1",
        ] {
            told.take(line);
        }
        let expected = Told {
            first: Some(100),
            last: Some(120),
            executions: 4096,
            stats: "16 inputs".into(),
            panic: Some("fuzz/src/peer.rs:1:2: no reply".into()),
            crash: Some("/c/stream-crash-1".into()),
        };
        assert_eq!(told, expected);
    }
}
