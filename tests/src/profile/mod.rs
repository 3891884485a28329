//! What processes are at: samples that perf takes of them, each sorted by the work that it was taken in.
//!
//! Samples are taken by the processor's clock (perf's event `cpu-clock`), which virtual machines have as well: so many a
//! second of processor time. Where the kernel had interrupts off, a sample is late: it is taken where they come on again.
//! What a sample is counted as goes by all of its chain of callers in the kernel ([`work`]), which that does not change.

pub mod samples;
pub mod threads;
pub mod work;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nic_emu_lab::{Perf, Process};

pub use samples::{Frame, Sample};
pub use threads::{Thread, Use};
pub use work::{Tally, Work};

/// What perf may take before and after it samples, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Samples these processes, with all of their threads, `rate` times for each second of processor time that they use.
///
/// # Errors
/// There is no such process, or the kernel allows nobody to look at it.
pub fn record(perf: &Perf, pids: &[u32], rate: u32, time: Duration) -> Result<Vec<Sample>> {
    let folder = tempfile::tempdir().context("no folder for perf")?;
    let (data, said) = (folder.path().join("data"), folder.path().join("said"));
    let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
    let mut command = perf.command()?;
    command.args(["record", "--quiet", "--event", "cpu-clock"]);
    command.args(["--freq", &rate.to_string(), "--call-graph", "fp"]);
    command.args([
        "--no-buildid",
        "--no-buildid-cache",
        "--pid",
        &pids.join(","),
    ]);
    command.arg("--output").arg(&data);
    command.args(["--", "sleep", &time.as_secs_f64().to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(File::create(&said)?);
    let mut recorder = Process::spawn(command)?;
    let Some(status) = recorder.wait(time + PATIENCE)? else {
        bail!("perf does not end");
    };
    ensure!(
        status.success(),
        "perf samples nothing: {}",
        first_line(&said)
    );
    read(perf, &data)
}

/// The samples of a file of perf's.
fn read(perf: &Perf, data: &Path) -> Result<Vec<Sample>> {
    let mut command = perf.command()?;
    command.args(["script", "--no-inline", "--fields"]);
    command.arg("comm,pid,tid,period,ip,sym,dso");
    command.arg("--input").arg(data);
    let text = output(command)?;
    samples::parse(&text)
}

fn output(mut command: Command) -> Result<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(Stdio::null());
    let mut process = Process::spawn(command)?;
    let stdout = process.child().stdout.take().context("no stdout")?;
    let mut text = Vec::new();
    BufReader::new(stdout).read_to_end(&mut text)?;
    let status = process.wait(PATIENCE)?;
    let done = status.is_some_and(|status| status.success());
    ensure!(done, "perf cannot read its own samples");
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn first_line(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|line| !line.trim().is_empty());
    line.unwrap_or("it says nothing").trim().to_owned()
}
