//! QEMU without a guest: its devices are driven over the qtest protocol.

use std::os::unix::net::UnixStream;

use crate::machine::Memory;
use crate::run::{RunDir, accept, greet, launch};
use crate::{Lab, Process, Qmp, Result};

/// A QEMU under `-accel qtest`: nothing executes, a test reads and writes ports, memory and MMIO through a socket. It
/// is killed when this is dropped.
#[derive(Debug)]
pub struct QtestVm {
    // First, so that QEMU is gone before its files are.
    process: Process,
    stream: UnixStream,
    qmp: Qmp,
    command_line: String,
    run: RunDir,
}

impl QtestVm {
    /// Starts a q35 machine with 128 MiB of shared memory and these further arguments. All devices are there when
    /// this returns (a vfio-user device is attached).
    ///
    /// # Errors
    /// Those of [`Lab::qemu`], or [`crate::Error::QemuExited`] with what QEMU did not like.
    pub fn start(lab: &Lab, arguments: &[&str]) -> Result<Self> {
        Self::start_machine(lab, "q35", arguments)
    }

    /// As [`QtestVm::start`], with another machine, such as `pc`.
    ///
    /// # Errors
    /// As [`QtestVm::start`].
    pub fn start_machine(lab: &Lab, machine: &str, arguments: &[&str]) -> Result<Self> {
        let run = RunDir::new()?;
        let mut qemu = lab.qemu()?.command();
        let machine = format!("{machine},usb=off,graphics=off");
        qemu.args(Memory::Shared.machine(&machine, 128));
        qemu.args(["-accel", "qtest"]);
        qemu.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-qtest-log",
            "/dev/null",
        ]);
        qemu.arg("-qtest")
            .arg(format!("unix:{}", run.path("qtest").display()));
        qemu.arg("-qmp")
            .arg(format!("unix:{}", run.path("qmp").display()))
            .args(arguments);
        let (qtest, qmp) = (run.listen("qtest")?, run.listen("qmp")?);
        let command_line = crate::netns::words(&qemu);
        let mut process = launch(lab, None, qemu, &run)?;
        // The monitor is made early, the qtest socket after all devices.
        let qmp = accept(&qmp, &mut process, &run)?;
        let stream = accept(&qtest, &mut process, &run)?;
        let qmp = greet(qmp, &mut process, &run)?;
        Ok(Self {
            process,
            stream,
            qmp,
            command_line,
            run,
        })
    }

    /// The qtest socket; clone it (`try_clone`) to own it.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// QEMU's monitor.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// QEMU itself, to kill it or wait for it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What QEMU has complained about so far.
    #[must_use]
    pub fn complaints(&self) -> String {
        self.run.tail("stderr")
    }

    /// QEMU's command line, for reports.
    #[must_use]
    pub fn command_line(&self) -> &str {
        &self.command_line
    }
}
