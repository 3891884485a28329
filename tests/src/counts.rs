//! What frames cost: register accesses, messages, interrupts and processor time, read before and after.
//!
//! A [`Reading`] has what every party has counted so far, and [`Reading::since`] the difference of two. The guest counts
//! frames and interrupts, for every NIC alike. Messages and interrupts sent are nic-emu's own counters, told by
//! `nic-emu-cli inspect`. Register accesses of QEMU's own NICs come from its trace events ([`Trace`]), which cost time:
//! count and measure speed in different runs. Processor time is the kernel's, of QEMU and the daemon.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::{Add, Sub};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nic_emu_lab::Vm;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli;
use crate::daemon::Daemon;

/// Trace events of QEMU's that stand for accesses of the guest.
const READ: &str = "memory_region_ops_read";
const WRITE: &str = "memory_region_ops_write";
/// With an ioeventfd, the notification of a virtio queue is no access that the events above show.
const NOTIFY: &str = "virtio_queue_notify";
/// How the memory regions of NICs are called.
const REGIONS: [&str; 5] = ["e1000", "igb", "virtio", "msix", "vfio"];
/// What statistics count of an interface.
const STATISTICS: [&str; 4] = ["rx_packets", "tx_packets", "rx_bytes", "tx_bytes"];

/// Processor time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// In programs.
    pub user: Duration,
    /// In the kernel on their behalf.
    pub system: Duration,
}

impl Cpu {
    /// Of a process since its start, all threads, in units of 10 ms on most machines.
    ///
    /// # Errors
    /// There is no such process.
    pub fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        Self::parse(&stat).with_context(|| format!("{path} reads {stat:?}"))
    }

    /// Fields 14 and 15 of proc_pid_stat(5), in ticks. The second is a name in parentheses and may hold anything.
    fn parse(stat: &str) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split_whitespace().skip(11);
        let per_second = rustix::param::clock_ticks_per_second();
        let mut time = || {
            let ticks: u64 = fields.next()?.parse().ok()?;
            Some(Duration::from_millis(ticks * 1000 / per_second.max(1)))
        };
        Some(Self {
            user: time()?,
            system: time()?,
        })
    }

    /// Both.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.user + self.system
    }
}

impl Add for Cpu {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            user: self.user + other.user,
            system: self.system + other.system,
        }
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
        }
    }
}

/// Frames of an interface of the guest, as its driver counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// Received.
    pub rx: u64,
    /// Sent.
    pub tx: u64,
    /// Received.
    pub rx_bytes: u64,
    /// Sent.
    pub tx_bytes: u64,
}

/// Accesses of the guest to registers of its NIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mmio {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Notifications of virtio queues that QEMU has handled; several may have become one.
    pub notifications: u64,
}

impl Mmio {
    /// What has come after `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            reads: self.reads.saturating_sub(before.reads),
            writes: self.writes.saturating_sub(before.writes),
            notifications: self.notifications.saturating_sub(before.notifications),
        }
    }
}

/// What a NIC of nic-emu has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// Register reads: a processor of the guest waits for each.
    pub reads: u64,
    /// Register writes for which a processor of the guest waits.
    pub writes: u64,
    /// Register writes for which none does.
    pub posted_writes: u64,
    /// About interrupts: that the line may rise again. QEMU waits for each, and the guest mostly too.
    pub set_irqs: u64,
    /// Everything else.
    pub others: u64,
    /// Interrupts sent to QEMU.
    pub interrupts: u64,
}

impl Messages {
    /// What has come after `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            reads: self.reads.saturating_sub(before.reads),
            writes: self.writes.saturating_sub(before.writes),
            posted_writes: self.posted_writes.saturating_sub(before.posted_writes),
            set_irqs: self.set_irqs.saturating_sub(before.set_irqs),
            others: self.others.saturating_sub(before.others),
            interrupts: self.interrupts.saturating_sub(before.interrupts),
        }
    }

    /// All messages.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.waits() + self.posted_writes + self.others
    }

    /// Those for which a processor of the guest waits.
    #[must_use]
    pub fn waits(&self) -> u64 {
        self.reads + self.writes + self.set_irqs
    }
}

/// What all parties have counted so far, or between two moments.
#[derive(Clone, Debug)]
pub struct Reading {
    /// When, or how long, by the host's clock.
    pub at: Duration,
    /// The guest's frames.
    pub frames: Frames,
    /// Interrupts of the NIC that the guest has handled.
    pub interrupts: u64,
    /// Accesses, if they are traced.
    pub mmio: Option<Mmio>,
    /// nic-emu's counters, if it is nic-emu's NIC.
    pub messages: Option<Messages>,
    /// QEMU's processor time, the guest's included.
    pub qemu: Cpu,
    /// The daemon's.
    pub daemon: Option<Cpu>,
}

impl Reading {
    /// What has come after `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let (f, b) = (self.frames, before.frames);
        let both = |now: Option<Cpu>, before: Option<Cpu>| Some(now? - before?);
        Self {
            at: self.at.saturating_sub(before.at),
            frames: Frames {
                rx: f.rx.saturating_sub(b.rx),
                tx: f.tx.saturating_sub(b.tx),
                rx_bytes: f.rx_bytes.saturating_sub(b.rx_bytes),
                tx_bytes: f.tx_bytes.saturating_sub(b.tx_bytes),
            },
            interrupts: self.interrupts.saturating_sub(before.interrupts),
            mmio: self
                .mmio
                .zip(before.mmio)
                .map(|(now, before)| now.since(&before)),
            messages: self
                .messages
                .zip(before.messages)
                .map(|(now, before)| now.since(&before)),
            qemu: self.qemu - before.qemu,
            daemon: both(self.daemon, before.daemon),
        }
    }

    /// Processor time of all processes.
    #[must_use]
    pub fn cpu(&self) -> Cpu {
        self.qemu + self.daemon.unwrap_or_default()
    }
}

/// Whom to ask.
#[derive(Debug)]
pub struct Parties<'a> {
    /// The guest.
    pub vm: &'a mut Vm,
    /// Its interface.
    pub ifname: &'a str,
    /// The daemon and the number of the NIC, if the guest's NIC is nic-emu's.
    pub daemon: Option<(&'a Daemon, usize)>,
    /// Accesses, if they are to be counted.
    pub trace: Option<&'a Trace>,
}

impl Parties<'_> {
    /// Asks all, over the guest's serial port: no frame is sent for it.
    ///
    /// # Errors
    /// One does not answer.
    pub fn read(&mut self) -> Result<Reading> {
        let (frames, interrupts) = guest(self.vm, self.ifname)?;
        let daemon = self.daemon.map(|(daemon, _)| Cpu::of(daemon.pid()));
        let messages = self.daemon.map(|(daemon, nic)| messages(daemon, nic));
        Ok(Reading {
            at: monotonic(),
            frames,
            interrupts,
            mmio: self.trace.map(Trace::read).transpose()?,
            messages: messages.transpose()?,
            qemu: Cpu::of(self.vm.pid())?,
            daemon: daemon.transpose()?,
        })
    }
}

/// Since the first call.
fn monotonic() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// Frames and interrupts, by one command: the difference of two such is as exact as can be.
fn guest(vm: &mut Vm, ifname: &str) -> Result<(Frames, u64)> {
    let files = STATISTICS.map(|name| format!("/sys/class/net/{ifname}/statistics/{name}"));
    let said = vm.ok(&format!(
        "cat {} && basename $(readlink /sys/class/net/{ifname}/device) && cat /proc/interrupts",
        files.join(" ")
    ))?;
    let mut lines = said.lines();
    let numbers: Option<Vec<u64>> = lines
        .by_ref()
        .take(STATISTICS.len())
        .map(|line| line.parse().ok())
        .collect();
    let Some([rx, tx, rx_bytes, tx_bytes]) = numbers.and_then(|n| <[u64; 4]>::try_from(n).ok())
    else {
        bail!("no statistics in {said:?}");
    };
    let device = lines.next().unwrap_or_default();
    let table: Vec<_> = lines.collect();
    let frames = Frames {
        rx,
        tx,
        rx_bytes,
        tx_bytes,
    };
    Ok((frames, interrupts(&table.join("\n"), &[ifname, device])))
}

/// Sums the lines of `/proc/interrupts` whose action is one of `names`, or belongs to one: `eth0-TxRx-0`,
/// `virtio0-input.0`.
fn interrupts(table: &str, names: &[&str]) -> u64 {
    let belongs = |action: &str| {
        let mut names = names.iter().filter(|name| !name.is_empty());
        names.any(|name| {
            let rest = action.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
    };
    let mut sum = 0;
    for line in table.lines() {
        let Some((_, rest)) = line.split_once(':') else {
            continue;
        };
        let mut actions = rest.split([' ', ',']);
        if actions.any(belongs) {
            let counts = rest
                .split_whitespace()
                .map_while(|word| word.parse::<u64>().ok());
            sum += counts.sum::<u64>();
        }
    }
    sum
}

/// What the daemon's NIC number `nic` has counted.
///
/// # Errors
/// The daemon does not answer.
pub fn messages(daemon: &Daemon, nic: usize) -> Result<Messages> {
    let view = inspect(daemon, nic)?;
    let asked = &view["hypervisor"]["messages"];
    let count = |value: &Value, what: &str| {
        value
            .as_u64()
            .with_context(|| format!("no {what} in {view}"))
    };
    Ok(Messages {
        reads: count(&asked["reads"], "reads")?,
        writes: count(&asked["writes"], "writes")?,
        posted_writes: count(&asked["posted_writes"], "posted_writes")?,
        set_irqs: count(&asked["set_irqs"], "set_irqs")?,
        others: count(&asked["others"], "others")?,
        interrupts: count(&view["interrupts"]["sent"], "interrupts")?,
    })
}

/// What `nic-emu-cli inspect --json` says of a NIC.
///
/// # Errors
/// The daemon does not answer.
pub fn inspect(daemon: &Daemon, nic: usize) -> Result<Value> {
    let mut command = Command::new(cli::nic_emu_cli()?);
    command.args(["inspect", "--json"]).arg(daemon.socket(nic));
    let output = command.output().context("cannot start nic-emu-cli")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "nic-emu-cli inspect: {said}");
    serde_json::from_slice(&output.stdout).context("nic-emu-cli inspect printed no JSON")
}

/// QEMU's log of a guest's accesses to its NIC: of QEMU's own, and of nic-emu's as QEMU sees it.
#[derive(Debug)]
pub struct Trace(TempDir);

impl Trace {
    /// A log that no QEMU writes to yet.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("nic-emu-trace-").tempdir();
        Ok(Self(dir.context("cannot make a folder for QEMU's log")?))
    }

    /// Arguments of a QEMU that logs to it, once it is told to ([`Trace::start`]).
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        vec!["-D".into(), self.path().to_string_lossy().into_owned()]
    }

    /// Arguments of a QEMU that logs from the beginning: for a guest without an operating system.
    #[must_use]
    pub fn arguments_at_once(&self) -> Vec<String> {
        let events = [READ, WRITE, NOTIFY].map(|event| ["-trace".to_owned(), event.to_owned()]);
        events
            .into_iter()
            .flatten()
            .chain(self.arguments())
            .collect()
    }

    /// Begins, which slows every access down.
    ///
    /// # Errors
    /// This QEMU has no such events.
    pub fn start(&self, vm: &mut Vm) -> Result<()> {
        for name in [READ, WRITE, NOTIFY] {
            let arguments = json!({ "name": name, "enable": true });
            vm.qmp().execute("trace-event-set-state", arguments)?;
        }
        Ok(())
    }

    /// What has been logged so far.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn read(&self) -> Result<Mmio> {
        Ok(Self::sum(&self.regions()?))
    }

    /// Accesses by event and name of the memory region, of all devices.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn regions(&self) -> Result<BTreeMap<(String, String), u64>> {
        let file = fs::File::open(self.path()).context("QEMU has not begun to log")?;
        let mut regions = BTreeMap::new();
        for line in BufReader::new(file).lines() {
            let line = line.context("cannot read QEMU's log")?;
            if let Some(key) = region(&line) {
                *regions.entry(key).or_default() += 1;
            }
        }
        Ok(regions)
    }

    fn sum(regions: &BTreeMap<(String, String), u64>) -> Mmio {
        let sum = |event: &str| {
            let of_nic = |((kind, name), _): &(&(String, String), &u64)| {
                kind == event && (event == NOTIFY || REGIONS.iter().any(|nic| name.contains(nic)))
            };
            regions.iter().filter(of_nic).map(|(_, count)| count).sum()
        };
        Mmio {
            reads: sum(READ),
            writes: sum(WRITE),
            notifications: sum(NOTIFY),
        }
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("qemu.log")
    }
}

/// Event and region of a line such as `memory_region_ops_read cpu 0 mr 0x.. addr 0x.. value 0x.. size 4 name 'e1000-mmio'`.
fn region(line: &str) -> Option<(String, String)> {
    let event = [READ, WRITE, NOTIFY]
        .into_iter()
        .find(|event| line.contains(event))?;
    let name = line
        .split_once("name '")
        .and_then(|(_, rest)| rest.split_once('\''));
    let name = name.map_or("", |(name, _)| name);
    Some((event.to_owned(), name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_a_name_that_may_hold_anything() {
        let stat = "7 (a) b (c) R 1 7 7 0 -1 4194304 100 0 0 0 250 30 0 0 20 0 1 0 100 1 1";
        let cpu = Cpu::parse(stat).unwrap();
        let tick = 1000 / rustix::param::clock_ticks_per_second();
        assert_eq!(cpu.user, Duration::from_millis(250 * tick));
        assert_eq!(cpu.system, Duration::from_millis(30 * tick));
        assert_eq!(Cpu::parse("7 (a) R 1"), None);
    }

    #[test]
    fn interrupts_of_one_nic_are_told_from_others() {
        let table = "           CPU0       CPU1\n  4:  9  0  IO-APIC  4-edge  ttyS0\n \
            11:  40  2  IO-APIC  11-fasteoi  ahci, eth0\n 24:  5  0  PCI-MSI  eth1-TxRx-0\n 25:  7  1  PCI-MSI-0000:00:03.0  \
            eth0-TxRx-0\n 26:  3  0  PCI-MSIX  virtio0-input.0\nNMI:  1  1  Non-maskable interrupts\n";
        assert_eq!(interrupts(table, &["eth0", "0000:00:03.0"]), 50);
        assert_eq!(interrupts(table, &["eth1", "virtio0"]), 8);
        assert_eq!(interrupts(table, &["eth2", ""]), 0);
    }

    #[test]
    fn accesses_of_nics_are_told_from_others() {
        let log = "memory_region_ops_read cpu 0 mr 0x5 addr 0xc0 value 0x1 size 4 name 'e1000-mmio'\n\
            memory_region_ops_write cpu 0 mr 0x6 addr 0xb0 value 0x0 size 4 name 'apic-msi'\n\
            12@1.5:memory_region_ops_write cpu 0 mr 0x7 addr 0xb0 value 0x0 size 4 name 'virtio-pci-notify-virtio-net'\n\
            virtio_queue_notify vdev 0x1 n 0 vq 0x2\n\
            something else\n";
        let mut regions = BTreeMap::new();
        for key in log.lines().filter_map(region) {
            *regions.entry(key).or_default() += 1;
        }
        let expected = Mmio {
            reads: 1,
            writes: 1,
            notifications: 1,
        };
        assert_eq!(Trace::sum(&regions), expected);
    }
}
