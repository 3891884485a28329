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
use tempfile::TempDir;

pub use samples::{Frame, Sample};
pub use threads::{Thread, Use};
pub use work::{Tally, Work};

/// What perf may take before and after it samples, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Its files.
const DATA: &str = "data";
const SAID: &str = "said";

/// perf, at work.
#[derive(Debug)]
pub struct Recording {
    recorder: Process,
    folder: TempDir,
    pids: String,
    time: Duration,
}

impl Recording {
    /// Samples these processes, with all of their threads, `rate` times for each second of processor time that they use.
    ///
    /// It is processors that are sampled, all of them, and the rest is left out: to sample threads, a timer would have to be
    /// set each time that one of them gets a processor, which they do ten thousand times a second.
    ///
    /// # Errors
    /// perf does not start.
    pub fn start(perf: &Perf, pids: &[u32], rate: u32, time: Duration) -> Result<Self> {
        let folder = tempfile::tempdir().context("no folder for perf")?;
        let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
        let mut command = perf.command()?;
        command.args(["record", "--quiet", "--event", "cpu-clock"]);
        command.args(["--freq", &rate.to_string(), "--call-graph", "fp"]);
        command.args(["--no-buildid", "--no-buildid-cache", "--all-cpus"]);
        command.arg("--output").arg(folder.path().join(DATA));
        command.args(["--", "sleep", &time.as_secs_f64().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(folder.path().join(SAID))?);
        Ok(Self {
            recorder: Process::spawn(command)?,
            folder,
            pids: pids.join(","),
            time,
        })
    }

    /// Waits until the time is over.
    ///
    /// # Errors
    /// The kernel allows nobody to look.
    pub fn wait(&mut self) -> Result<()> {
        let Some(status) = self.recorder.wait(self.time + PATIENCE)? else {
            bail!("perf does not end");
        };
        let said = first_line(&self.folder.path().join(SAID));
        ensure!(status.success(), "perf takes no samples: {said}");
        Ok(())
    }

    /// What was recorded, once the time is over.
    ///
    /// # Errors
    /// perf cannot read it.
    pub fn samples(&self, perf: &Perf) -> Result<Vec<Sample>> {
        let mut command = perf.command()?;
        command.args(["script", "--no-inline", "--pid", &self.pids]);
        command.args(["--fields", "comm,pid,tid,period,ip,sym,dso"]);
        command.arg("--input").arg(self.folder.path().join(DATA));
        samples::parse(&output(command)?)
    }
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
