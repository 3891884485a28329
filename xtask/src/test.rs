//! `cargo xtask test`: every test of the workspace, told by name.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nic_emu_lab::{Lab, Suite};
use nic_emu_tests::cli;
use serde_json::Value;

/// Options of `test`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Large counts and long runs: hours.
    #[arg(long)]
    soak: bool,

    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// A program full of tests.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    name: String,
    path: PathBuf,
    folder: PathBuf,
}

/// What became of each test, by name.
#[derive(Debug, Default)]
struct Tally {
    passed: Vec<String>,
    failed: Vec<String>,
    skipped: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let started = Instant::now();
    let told = |what: &str| eprintln!("[{:5.0} s] {what}", started.elapsed().as_secs_f64());
    told("building nic-emu-cli and bare-guest");
    let (program, guest) = (cli::nic_emu_cli()?, cli::bare_guest()?);
    told("setting the lab up: QEMU, three kernels");
    let lab = Lab::open()?;
    lab.prepare(&Suite::ALL)?;
    told("building the tests");
    let programs = build()?;

    let mut tally = Tally::default();
    let environment = |command: &mut Command| {
        command
            .env("NIC_EMU_CLI", program)
            .env("NIC_EMU_BARE_GUEST", guest)
            .env("NIC_EMU_LAB_DIR", lab.dir());
        if options.soak {
            command.env("NIC_EMU_SOAK", "1");
        }
    };
    for Program { name, path, folder } in &programs {
        told(name);
        let mut command = Command::new(path);
        command
            .current_dir(folder)
            .env("CARGO_MANIFEST_DIR", folder);
        environment(&mut command);
        command.args(&options.filter);
        tally.run(name, command)?;
    }
    told("examples in documentation");
    let mut command = cli::cargo();
    command
        .args(["test", "--workspace", "--locked", "--doc", "--quiet"])
        .arg("--")
        .args(["--format", "pretty"]);
    command.args(&options.filter);
    environment(&mut command);
    tally.run("doc", command)?;

    tally.refuse_skips();
    println!("{}", tally.listing());
    if !tally.skipped.is_empty() {
        println!("skipped: this machine has no KVM that would do");
    }
    eprintln!("{:.0} s in all", started.elapsed().as_secs_f64());
    println!("{}", tally.last_line());
    Ok(if tally.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Builds all tests of the workspace and finds their programs.
fn build() -> Result<Vec<Program>> {
    let mut build = cli::cargo();
    build.args([
        "test",
        "--workspace",
        "--locked",
        "--no-run",
        "--message-format",
        "json-render-diagnostics",
    ]);
    let output = build
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(output.status.success(), "the tests do not build");
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut programs: Vec<_> = messages.lines().filter_map(parse_artifact).collect();
    ensure!(!programs.is_empty(), "cargo built no tests");
    // What is quick comes first; guests come last.
    programs.sort_by_key(|program| {
        (
            program.name.starts_with("nic-emu-tests::vm"),
            program.name.clone(),
        )
    });
    Ok(programs)
}

/// The program with tests that a message of `cargo --message-format json` announces.
fn parse_artifact(line: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_test = message["reason"] == "compiler-artifact" && message["profile"]["test"] == true;
    let path = is_test.then(|| message["executable"].as_str())??.into();
    let folder = Path::new(message["manifest_path"].as_str()?)
        .parent()?
        .to_owned();
    let package = folder.file_name()?.to_str()?;
    let target = message["target"]["name"].as_str()?;
    let package = if package == "tests" {
        "nic-emu-tests"
    } else {
        package
    };
    let is_same = target.replace('_', "-") == package
        || target.replace('_', "-").ends_with(&format!("-{package}"));
    let name = if is_same {
        package.to_owned()
    } else {
        format!("{package}::{target}")
    };
    let is_main = is_same && message["target"]["kind"][0] == "bin";
    Some(Program {
        name: if is_main {
            format!("{name} (main)")
        } else {
            name
        },
        path,
        folder,
    })
}

impl Tally {
    /// Runs a program of tests, shows what it prints and takes its verdicts.
    fn run(&mut self, group: &str, mut command: Command) -> Result<()> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {group}"))?;
        let stdout = child.stdout.take().context("no stdout")?;
        let failed_before = self.failed.len();
        let mut open: Option<String> = None;
        let mut lines = BufReader::new(stdout);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            let text = String::from_utf8_lossy(&line).into_owned();
            print!("{text}");
            std::io::stdout().flush()?;
            match parse_verdict(text.trim_end(), open.take()) {
                Some((name, Some(verdict))) => self.take(&format!("{group}::{name}"), verdict),
                Some((name, None)) => open = Some(name),
                None => {}
            }
            line.clear();
        }
        let status = child.wait()?;
        // A program that crashed has not told which test did it.
        if !status.success() && self.failed.len() == failed_before {
            let during = open
                .map(|name| format!(" during {name}"))
                .unwrap_or_default();
            self.failed
                .push(format!("{group} (ended with {status}{during})"));
        }
        Ok(())
    }

    fn take(&mut self, name: &str, verdict: Verdict) {
        let list = match verdict {
            Verdict::Passed => &mut self.passed,
            Verdict::Failed => &mut self.failed,
            Verdict::Skipped => &mut self.skipped,
        };
        list.push(name.to_owned());
    }

    /// Only what needs KVM may be skipped: anything else that is missing on this machine is a failure.
    fn refuse_skips(&mut self) {
        let (may, must_not) = self
            .skipped
            .drain(..)
            .partition(|name| name.contains("::kvm::"));
        self.skipped = may;
        let must_not: Vec<String> = must_not;
        self.failed.extend(
            must_not
                .iter()
                .map(|name| format!("{name} (was skipped, and does not need KVM)")),
        );
    }

    fn listing(&self) -> String {
        let mut text = String::new();
        for (verdict, names) in [
            ("passed", &self.passed),
            ("skipped", &self.skipped),
            ("FAILED", &self.failed),
        ] {
            let mut groups: BTreeMap<&str, usize> = BTreeMap::new();
            for name in names {
                *groups.entry(name.as_str()).or_default() += 1;
            }
            for (name, times) in groups {
                let times = if times > 1 {
                    format!(" ({times} times)")
                } else {
                    String::new()
                };
                text += &format!("{verdict} {name}{times}\n");
            }
        }
        text
    }

    fn last_line(&self) -> String {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        format!(
            "{} passed, {} failed, {} skipped",
            passed.len(),
            failed.len(),
            skipped.len()
        )
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    Skipped,
}

/// Reads a line of the test harness: `test NAME ... VERDICT`. If the test printed something in between, the verdict
/// comes later: then `open` is the name that waits for it.
fn parse_verdict(line: &str, open: Option<String>) -> Option<(String, Option<Verdict>)> {
    let (name, rest) = match line
        .strip_prefix("test ")
        .and_then(|rest| rest.split_once(" ... "))
    {
        Some((name, rest)) => (name.trim().to_owned(), rest),
        None => match line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ..."))
        {
            Some(name) => (name.trim().to_owned(), ""),
            None => (open?, line),
        },
    };
    // `should panic` and `compile` are part of what doc tests are called.
    let name = name
        .split(" - should panic")
        .next()
        .unwrap_or_default()
        .to_owned();
    let verdict = match rest.trim() {
        "ok" => Some(Verdict::Passed),
        rest if rest.starts_with("FAILED") => Some(Verdict::Failed),
        rest if rest.starts_with("ignored") => Some(Verdict::Skipped),
        _ => None,
    };
    Some((name, verdict))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_read_by_name() {
        let verdict = |line| parse_verdict(line, None);
        assert_eq!(
            verdict("test a::b ... ok"),
            Some(("a::b".into(), Some(Verdict::Passed)))
        );
        assert_eq!(
            verdict("test a - should panic ... ok"),
            Some(("a".into(), Some(Verdict::Passed)))
        );
        assert_eq!(
            verdict("test kvm::traffic                 ... ignored"),
            Some(("kvm::traffic".into(), Some(Verdict::Skipped)))
        );
        assert_eq!(
            verdict("test x ... ignored, takes long"),
            Some(("x".into(), Some(Verdict::Skipped)))
        );
        assert_eq!(
            verdict("test src/lib.rs - (line 3) ... FAILED"),
            Some(("src/lib.rs - (line 3)".into(), Some(Verdict::Failed)))
        );
        assert_eq!(verdict("running 3 tests"), None);
        assert_eq!(
            verdict("test result: ok. 3 passed; 0 failed; 0 ignored"),
            None
        );
    }

    #[test]
    fn a_test_that_prints_gets_its_verdict_later() {
        let (name, verdict) = parse_verdict("test loud ... hello", None).unwrap();
        assert_eq!(verdict, None);
        let (name, verdict) = parse_verdict("still talking", Some(name)).unwrap();
        assert_eq!(verdict, None);
        assert_eq!(
            parse_verdict("ok", Some(name)),
            Some(("loud".into(), Some(Verdict::Passed)))
        );
    }

    #[test]
    fn only_programs_with_tests_are_run() {
        let line = r#"{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml","target":{"kind":["test"],
            "name":"vm"},"profile":{"test":true},"executable":"/t/vm-1"}"#.replace('\n', "");
        let program = parse_artifact(&line).unwrap();
        assert_eq!(
            (program.name.as_str(), program.folder.as_path()),
            ("nic-emu-tests::vm", Path::new("/w/tests"))
        );
        assert_eq!(parse_artifact(&line.replace("true", "false")), None);
        assert_eq!(parse_artifact("not json"), None);
    }

    #[test]
    fn the_last_line_counts() {
        let mut tally = Tally::default();
        tally.take("a::b", Verdict::Passed);
        tally.take("vm::kvm::c", Verdict::Skipped);
        tally.refuse_skips();
        assert_eq!(tally.last_line(), "1 passed, 0 failed, 1 skipped");
        assert_eq!(tally.listing(), "passed a::b\nskipped vm::kvm::c\n");
    }
    #[test]
    fn only_kvm_may_be_missing() {
        let mut tally = Tally::default();
        tally.take("vm::kvm::traffic", Verdict::Skipped);
        tally.take("net-backend::tap", Verdict::Skipped);
        tally.refuse_skips();
        assert_eq!(tally.last_line(), "0 passed, 1 failed, 1 skipped");
    }
}
