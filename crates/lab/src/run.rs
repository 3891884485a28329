//! A QEMU that runs: its folder, its process, and its connections.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::netns::enter;
use crate::{Error, Lab, Process, Qmp, Result};

/// What QEMU may take to connect.
const CONNECT: Duration = Duration::from_secs(60);
/// How much of a log's end goes into an error.
const TAIL: u64 = 3000;

/// A running QEMU's sockets and logs; a short path, since a socket's may have 107 bytes at most.
#[derive(Debug)]
pub(crate) struct RunDir(tempfile::TempDir);

impl RunDir {
    pub(crate) fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("nic-emu-vm-").tempdir();
        dir.map(Self)
            .map_err(Error::io("make a folder for the VM's sockets"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn listen(&self, name: &str) -> Result<UnixListener> {
        let path = self.path(name);
        UnixListener::bind(&path).map_err(Error::io(format!("listen on {}", path.display())))
    }

    /// The end of a log.
    pub(crate) fn tail(&self, name: &str) -> String {
        let read = |path: &Path| -> std::io::Result<Vec<u8>> {
            let mut file = File::open(path)?;
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(len.saturating_sub(TAIL)))?;
            let mut bytes = Vec::new();
            file.take(TAIL).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        String::from_utf8_lossy(&read(&self.path(name)).unwrap_or_default())
            .trim()
            .to_owned()
    }
}

/// Starts QEMU, in a network namespace if asked; what it complains about goes to the log `stderr`.
pub(crate) fn launch(
    lab: &Lab,
    netns: Option<&str>,
    qemu: Command,
    run: &RunDir,
) -> Result<Process> {
    let mut command = match netns {
        Some(name) => enter(lab, name, &qemu)?,
        None => qemu,
    };
    let path = run.path("stderr");
    let log = File::create(&path).map_err(Error::io(format!("write {}", path.display())))?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    Process::spawn(command)
}

/// Waits for QEMU to connect.
pub(crate) fn accept(
    listener: &UnixListener,
    process: &mut Process,
    run: &RunDir,
) -> Result<UnixStream> {
    listener
        .set_nonblocking(true)
        .map_err(Error::io("set up a socket for QEMU"))?;
    let started = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream
                    .set_nonblocking(false)
                    .map_err(Error::io("set up a socket for QEMU"))?;
                return Ok(stream);
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => {
                return Err(Error::Io {
                    what: "accept QEMU's connection".into(),
                    source: e,
                });
            }
        }
        check_alive(process, run)?;
        let waited = started.elapsed();
        if waited > CONNECT {
            return Err(Error::GuestTimeout {
                what: "start".into(),
                after: waited,
                console: run.tail("stderr"),
            });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Opens the monitor on QEMU's connection.
pub(crate) fn greet(stream: UnixStream, process: &mut Process, run: &RunDir) -> Result<Qmp> {
    Qmp::new(stream).or_else(|error| {
        // A bad argument ends QEMU while we talk: then its own words are better.
        process.wait(Duration::from_millis(200))?;
        check_alive(process, run)?;
        Err(error)
    })
}

/// An error if QEMU has ended.
pub(crate) fn check_alive(process: &mut Process, run: &RunDir) -> Result<()> {
    let Some(status) = process.exited()? else {
        return Ok(());
    };
    let mut detail = run.tail("stderr");
    let console = run.tail("console");
    if detail.is_empty() && !console.is_empty() {
        detail = format!("end of the guest's console:\n{console}");
    }
    Err(Error::QemuExited {
        status: status.to_string(),
        detail,
    })
}
