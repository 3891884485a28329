//! The program as a process of its own.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "shared by several test programs, each of which uses a part"
)]

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nic-emu-cli"));
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// A running daemon; killed if a test fails before it has ended it.
pub struct Daemon {
    child: Child,
    pub announced: Vec<String>,
}

impl Daemon {
    /// Starts it and waits until `nics` NICs are ready.
    pub fn spawn(command: &mut Command, nics: usize) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        // Three lines a NIC: ready, QEMU, cloud-hypervisor.
        let announced: Vec<_> = stdout
            .lines()
            .take(3 * nics)
            .map_while(Result::ok)
            .collect();
        if announced.len() < 3 * nics {
            let output = child.wait_with_output().expect("it ends");
            panic!("not ready: {}", String::from_utf8_lossy(&output.stderr));
        }
        Self { child, announced }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends SIGTERM and returns what it logged; it has to end well.
    pub fn terminate(mut self) -> String {
        kill_process(self.pid(), Signal::TERM).expect("it runs");
        let mut log = String::new();
        let mut stderr = self.child.stderr.take().expect("piped");
        stderr.read_to_string(&mut log).expect("UTF-8");
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "{status}: {log}");
        log
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A daemon whose NICs' sockets are in a folder of its own.
pub struct Served {
    dir: TempDir,
    daemon: Daemon,
}

impl Served {
    /// NICs with these keys.
    pub fn with(nics: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let mut command = program();
        command.arg("serve");
        for (nic, keys) in nics.iter().enumerate() {
            let path = dir.path().join(nic.to_string());
            command.arg("--nic");
            command.arg(format!("socket-path={},{keys}", path.display()));
        }
        let daemon = Daemon::spawn(&mut command, nics.len());
        Self { dir, daemon }
    }

    pub fn socket(&self, nic: usize) -> PathBuf {
        self.dir.path().join(nic.to_string())
    }

    /// As [`Daemon::terminate`].
    pub fn terminate(self) -> String {
        self.daemon.terminate()
    }
}
