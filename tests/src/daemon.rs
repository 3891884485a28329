//! A running `nic-emu-cli`.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nic_emu_lab::{Netns, Process};
use tempfile::TempDir;

use crate::cli;
use crate::counters::{Report, parse_reports};

/// What starting and ending may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Uid and gid of `nobody`.
const NOBODY: u32 = 65534;

/// A `nic-emu-cli serve` to be started.
#[derive(Debug)]
pub struct DaemonBuilder {
    dir: TempDir,
    nics: Vec<String>,
    sockets: Vec<PathBuf>,
    arguments: Vec<String>,
    cpus: Option<String>,
    verbose: bool,
    unprivileged: bool,
}

/// A running `nic-emu-cli serve`; killed when this is dropped.
#[derive(Debug)]
pub struct Daemon {
    // First, so that it is gone before its folder is.
    process: Process,
    command_line: String,
    announced: String,
    log: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    spec: DaemonBuilder,
}

/// How a daemon ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// What each NIC had counted, in the order of the NICs.
    pub reports: Vec<Report>,
    /// All that it logged.
    pub log: String,
}

impl DaemonBuilder {
    /// Starts with no NIC and a folder of its own for sockets.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("nic-emu-").tempdir();
        let dir = dir.context("cannot make a folder for sockets")?;
        Ok(Self {
            dir,
            nics: Vec::new(),
            sockets: Vec::new(),
            arguments: Vec::new(),
            cpus: None,
            verbose: false,
            unprivileged: false,
        })
    }

    /// Adds a NIC by its `--nic` keys, without `socket-path`: its socket is `nicN.sock`.
    #[must_use]
    pub fn nic(mut self, keys: &str) -> Self {
        let socket = self.dir.path().join(format!("nic{}.sock", self.nics.len()));
        self.nics
            .push(format!("socket-path={},{keys}", socket.display()));
        self.sockets.push(socket);
        self
    }

    /// Adds arguments of `serve`, such as `--shards 2`.
    #[must_use]
    pub fn args(mut self, arguments: &[impl AsRef<str>]) -> Self {
        let arguments = arguments.iter().map(|argument| argument.as_ref().into());
        self.arguments.extend(arguments);
        self
    }

    /// Runs it on these processors alone: a list as `taskset -c` takes it.
    #[must_use]
    pub fn on_cpus(mut self, list: &str) -> Self {
        self.cpus = Some(list.to_owned());
        self
    }

    /// Logs more.
    #[must_use]
    pub fn verbose(mut self) -> Self {
        self.verbose = true;
        self
    }

    /// Runs it as `nobody`, without any capability or way to get one. Only inside a namespace.
    #[must_use]
    pub fn unprivileged(mut self) -> Self {
        self.unprivileged = true;
        self
    }

    /// Starts it, in a network namespace if one is given, and waits until it says that all NICs are ready.
    ///
    /// # Errors
    /// `nic-emu-cli` does not build, ends with an error (told with what it logged), or does not become ready.
    pub fn start(self, netns: Option<&Netns>) -> Result<Daemon> {
        let mut command = self.command(netns)?;
        let words: Vec<_> = command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let from = words
            .iter()
            .position(|word| word == "serve")
            .unwrap_or_default();
        let cpus = self.cpus.as_ref();
        let pinned = cpus.map_or_else(String::new, |list| format!("taskset -c {list} "));
        let command_line = format!("{pinned}nic-emu-cli {}", words[from..].join(" "));
        command.env_remove("RUST_LOG").env("NO_COLOR", "1");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());

        let mut process = Process::spawn(command)?;
        let (lines, announced) = mpsc::channel();
        let stdout = process.child().stdout.take().context("no stdout")?;
        let stderr = process.child().stderr.take().context("no stderr")?;
        let log = Arc::new(Mutex::new(String::new()));
        let readers = vec![read_lines(stdout, move |line| drop(lines.send(line))), {
            let log = Arc::clone(&log);
            read_lines(stderr, move |line| {
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                log.push_str(&line);
                log.push('\n');
            })
        }];
        let mut daemon = Daemon {
            process,
            command_line,
            announced: String::new(),
            log,
            readers,
            spec: self,
        };
        daemon.wait_ready(&announced)?;
        Ok(daemon)
    }

    fn command(&self, netns: Option<&Netns>) -> Result<Command> {
        let program = cli::nic_emu_cli()?;
        let start = |program: &Path| match netns {
            Some(netns) => netns.command(program),
            None => Ok(Command::new(program)),
        };
        let mut command = match (self.unprivileged, netns, &self.cpus) {
            (false, _, None) => start(program)?,
            (false, _, Some(list)) => {
                let mut command = start(Path::new("taskset"))?;
                command.args(["-c", list]).arg(program);
                command
            }
            (true, Some(netns), None) => self.without_privileges(program, netns)?,
            (true, None, _) => bail!("an unprivileged daemon needs a namespace"),
            (true, _, Some(_)) => bail!("an unprivileged daemon is not placed"),
        };
        if self.verbose {
            command.arg("-v");
        }
        command.arg("serve");
        for nic in &self.nics {
            command.args(["--nic", nic]);
        }
        command.args(&self.arguments);
        Ok(command)
    }

    /// A command that runs `program` as nobody, with a `/dev/net/tun` that nobody may open, as most machines have it.
    fn without_privileges(&self, program: &Path, netns: &Netns) -> Result<Command> {
        let dir = self.dir.path();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
        chown(dir, Some(NOBODY), Some(NOBODY))?;
        // The build may lie where only its owner may look.
        let copy = dir.join("nic-emu-cli");
        fs::copy(program, &copy).with_context(|| format!("cannot copy {}", program.display()))?;
        // `ip netns exec` has made a mount namespace: nobody else sees this device.
        let script = r#"set -e
            mknod "$1/tun" c 10 200 && chmod 666 "$1/tun" && mount --bind "$1/tun" /dev/net/tun
            program=$2 && shift 2
            exec setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs --bounding-set=-all \
                --inh-caps=-all --pdeathsig KILL "$program" "$@""#;
        let mut command = netns.command("sh")?;
        command.args(["-c", script, "sh"]).arg(dir).arg(copy);
        Ok(command)
    }
}

impl Daemon {
    /// Where the N-th NIC's hypervisor connects.
    #[must_use]
    pub fn socket(&self, nic: usize) -> &Path {
        &self.spec.sockets[nic]
    }

    /// What it was started with.
    #[must_use]
    pub fn command_line(&self) -> &str {
        &self.command_line
    }

    /// What it has printed on standard output.
    #[must_use]
    pub fn announced(&self) -> &str {
        &self.announced
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// An error with its log if it has ended by itself.
    ///
    /// # Errors
    /// It has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.process.exited()? {
            None => Ok(()),
            Some(status) => bail!("nic-emu-cli has ended ({status}):\n{}", self.log()),
        }
    }

    /// Asks it to end (SIGTERM) and collects what it has to say.
    ///
    /// # Errors
    /// It does not end, or did so before it was asked.
    pub fn stop(mut self) -> Result<Ended> {
        self.check_alive()?;
        self.process.terminate()?;
        let Some(status) = self.process.wait(PATIENCE)? else {
            bail!("nic-emu-cli does not end on SIGTERM:\n{}", self.log());
        };
        for reader in self.readers.drain(..) {
            drop(reader.join());
        }
        let log = self.log();
        let mut reports = parse_reports(&log);
        let order = |report: &Report| {
            self.spec
                .sockets
                .iter()
                .position(|socket| *socket == Path::new(&report.name))
        };
        reports.sort_by_key(order);
        let expected = self.spec.sockets.len();
        ensure!(
            reports.len() == expected,
            "{} reports of {expected} NICs in:\n{log}",
            reports.len()
        );
        for socket in &self.spec.sockets {
            ensure!(
                !socket.exists(),
                "{} is still there after nic-emu-cli has ended",
                socket.display()
            );
        }
        Ok(Ended {
            status,
            reports,
            log,
        })
    }

    /// Kills it (SIGKILL) and starts the same again, as an operator would: on the sockets that it left behind.
    ///
    /// # Errors
    /// The new one does not become ready.
    pub fn kill_and_restart(mut self, netns: Option<&Netns>) -> Result<Self> {
        self.process.kill()?;
        self.spec.start(netns)
    }

    fn wait_ready(&mut self, lines: &mpsc::Receiver<String>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut ready = 0;
        while ready < self.spec.sockets.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                Ok(line) => {
                    ready += usize::from(line.starts_with("ready:"));
                    self.announced.push_str(&line);
                    self.announced.push('\n');
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.process.wait(PATIENCE)?;
                    for reader in self.readers.drain(..) {
                        drop(reader.join());
                    }
                    bail!(
                        "nic-emu-cli ended before it was ready: {}",
                        self.log().trim()
                    );
                }
                Err(RecvTimeoutError::Timeout) => bail!(
                    "nic-emu-cli is not ready after {PATIENCE:?}: {}",
                    self.log()
                ),
            }
        }
        // How to attach comes after that, in the same breath.
        while let Ok(line) = lines.recv_timeout(Duration::from_millis(20)) {
            self.announced.push_str(&line);
            self.announced.push('\n');
        }
        Ok(())
    }
}

fn read_lines(
    from: impl Read + Send + 'static,
    mut each: impl FnMut(String) + Send + 'static,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while matches!(from.read_until(b'\n', &mut line), Ok(1..)) {
            each(String::from_utf8_lossy(&line).trim_end().to_owned());
            line.clear();
        }
    })
}
