//! A guest without an operating system: an image that QEMU boots by itself, runs one job and switches off.
//!
//! What such a guest says on its serial port is lines, records: a name, then `key=value` words.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::lines::{Heard, Lines};
use crate::machine::{Accel, Memory};
use crate::run::{RunDir, accept, check_alive, launch};
use crate::{Error, Lab, Nic, Process, Result};

/// The exit code of a guest that was content, by way of `isa-debug-exit`.
const CONTENT: i32 = 1;
/// What switching off may take once a guest has said its last.
const EXIT: Duration = Duration::from_secs(10);

/// A guest without an operating system, to be started; from [`Lab::bare`].
#[derive(Clone, Debug)]
pub struct BareBuilder {
    lab: Lab,
    image: PathBuf,
    accel: Accel,
    memory: Memory,
    memory_mib: u32,
    nics: Vec<Nic>,
    arguments: Vec<String>,
    netns: Option<String>,
}

impl BareBuilder {
    pub(crate) fn new(lab: Lab, image: PathBuf) -> Self {
        Self {
            lab,
            image,
            accel: Accel::default(),
            memory: Memory::default(),
            memory_mib: 64,
            nics: Vec::new(),
            arguments: Vec::new(),
            netns: None,
        }
    }

    /// What executes the guest's instructions; TCG unless said otherwise.
    #[must_use]
    pub fn accel(mut self, accel: Accel) -> Self {
        self.accel = accel;
        self
    }

    /// Where the guest's memory is; shared unless said otherwise.
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// Guest memory in MiB; 64 unless said otherwise.
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Adds a NIC, as [`crate::VmBuilder::nic`].
    #[must_use]
    pub fn nic(mut self, nic: Nic) -> Self {
        self.nics.push(nic);
        self
    }

    /// Adds an argument for QEMU.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Runs QEMU in a named network namespace, as [`crate::VmBuilder::netns`].
    #[must_use]
    pub fn netns(mut self, name: impl Into<String>) -> Self {
        self.netns = Some(name.into());
        self
    }

    /// Starts it with a command line, such as `test=irq count=3000`.
    ///
    /// # Errors
    /// Those of [`Lab::qemu`], or [`Error::QemuExited`] with what QEMU did not like.
    pub fn start(self, command: &str) -> Result<Bare> {
        let run = RunDir::new()?;
        let mut qemu = self.lab.qemu()?.command();
        qemu.args(
            self.memory
                .machine("q35,usb=off,vmport=off,graphics=off", self.memory_mib),
        );
        qemu.args(self.accel.arguments());
        qemu.args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ]);
        qemu.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        qemu.arg("-serial")
            .arg(format!("unix:{}", run.path("serial").display()));
        for (index, nic) in self.nics.iter().enumerate() {
            qemu.args(nic.arguments(index));
        }
        qemu.args(&self.arguments);
        qemu.arg("-kernel")
            .arg(&self.image)
            .args(["-append", command]);

        let serial = run.listen("serial")?;
        let command_line = crate::netns::words(&qemu);
        let mut process = launch(&self.lab, self.netns.as_deref(), qemu, &run)?;
        let serial = accept(&serial, &mut process, &run)?;
        let serial = Lines::new(serial, "the guest's serial port")?;
        Ok(Bare {
            process,
            serial,
            said: String::new(),
            ended: false,
            command: command.to_owned(),
            command_line,
            run,
        })
    }
}

/// A guest without an operating system that runs. QEMU is killed when this is dropped.
#[derive(Debug)]
pub struct Bare {
    // First, so that QEMU is gone before its files are.
    process: Process,
    serial: Lines,
    said: String,
    ended: bool,
    command: String,
    command_line: String,
    run: RunDir,
}

impl Bare {
    /// Waits for the next record of this name; those of other names are passed over.
    ///
    /// # Errors
    /// [`Error::GuestTimeout`]; [`Error::CommandFailed`] if the guest gives up, with all that it said;
    /// [`Error::QemuExited`].
    pub fn record(&mut self, name: &str, timeout: Duration) -> Result<Record> {
        let deadline = Instant::now() + timeout;
        loop {
            let Some(line) = self.next_line(deadline)? else {
                return Err(Error::GuestTimeout {
                    what: format!("say `{name}` after `{}`", self.command),
                    after: timeout,
                    console: self.said.clone(),
                });
            };
            let record = Record::parse(&line);
            self.ended |= record.name == "end";
            if record.name == name {
                return Ok(record);
            }
            if record.name == "failed" {
                return Err(Error::CommandFailed {
                    command: self.command.clone(),
                    code: 1,
                    output: self.said.clone(),
                });
            }
        }
    }

    /// Sends a byte to the guest's serial port, for one that waits for a sign (`ask=1`).
    ///
    /// # Errors
    /// [`Error::Io`] if QEMU does not take it.
    pub fn nudge(&mut self) -> Result<()> {
        self.serial.write(b"\n")
    }

    /// Waits until the guest has ended content; returns all its records.
    ///
    /// # Errors
    /// As [`Bare::record`], and [`Error::QemuExited`] if QEMU then ends in another way than the guest asked for.
    pub fn finish(mut self, timeout: Duration) -> Result<Vec<Record>> {
        if !self.ended {
            self.record("end", timeout)?;
        }
        match self.process.wait(EXIT)? {
            Some(status) if status.code() == Some(CONTENT) => {}
            Some(status) => {
                return Err(Error::QemuExited {
                    status: status.to_string(),
                    detail: self.run.tail("stderr"),
                });
            }
            None => {
                return Err(Error::GuestTimeout {
                    what: "switch itself off".into(),
                    after: EXIT,
                    console: self.said,
                });
            }
        }
        Ok(self.said.lines().map(Record::parse).collect())
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

    /// QEMU's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The next line; `None` at the deadline.
    fn next_line(&mut self, deadline: Instant) -> Result<Option<String>> {
        match self.serial.next(deadline)? {
            Heard::Line(line) => {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                self.said.push_str(&line);
                self.said.push('\n');
                Ok(Some(line))
            }
            Heard::Nothing => Ok(None),
            Heard::End => {
                self.process.wait(EXIT)?;
                check_alive(&mut self.process, &self.run)?;
                Ok(None)
            }
        }
    }
}

/// A line that a guest without an operating system has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its first word.
    pub name: String,
    /// Its `key=value` words.
    pub values: BTreeMap<String, String>,
}

impl Record {
    fn parse(line: &str) -> Self {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default().to_owned();
        let values = words
            .filter_map(|word| word.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Self { name, values }
    }

    /// The number that stands for `key`, decimal or, with `0x`, hexadecimal; `None` if there is none.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        let value = self.values.get(key)?;
        match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => value.parse().ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_a_name_and_numbers() {
        let record = Record::parse("irq caused=3 pending=0x80 mac=52:54:00:12:34:56 odd");
        assert_eq!(record.name, "irq");
        assert_eq!(record.number("caused"), Some(3));
        assert_eq!(record.number("pending"), Some(0x80));
        assert_eq!(record.number("mac"), None);
        assert_eq!(record.values.len(), 3);
        assert_eq!(Record::parse("").name, "");
    }
}
