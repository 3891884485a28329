//! Packets per second of a guest without an operating system, through a TAP: what NIC and hypervisor can do when the
//! guest's own work is next to nothing.

use std::time::Duration;

use anyhow::{Context, Result};
use nic_emu_lab::{Bare, BareBuilder, Netns, Record};

use crate::counters::{self, TapCounters};
use crate::counts::{Cpu, Messages, Mmio, Trace, messages};
use crate::daemon::Daemon;
use crate::latency::{FRAME, fill};

/// What a guest may take for one job, the firmware included.
const PATIENCE: Duration = Duration::from_secs(120);
/// Where the guest's frames go, and who counts what they cost.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// Where the TAP is.
    pub netns: &'a Netns,
    /// The TAP of the guest's NIC.
    pub tap: &'a str,
    /// The daemon and the number of the NIC, if the guest's NIC is nic-emu's.
    pub daemon: Option<(&'a Daemon, usize)>,
    /// The log of the guest's QEMU, started with [`Trace::arguments_at_once`].
    pub trace: Option<&'a Trace>,
}

/// What came of a job.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Frames that the guest has sent or received.
    pub frames: u64,
    /// How long that took, by the guest's clock: from its first frame to its last.
    pub took: Duration,
    /// What the TAP has counted meanwhile.
    pub tap: TapCounters,
    /// QEMU's processor time meanwhile, the guest's included.
    pub qemu: Cpu,
    /// The daemon's.
    pub daemon: Option<Cpu>,
    /// nic-emu's counters.
    pub messages: Option<Messages>,
    /// Accesses, if they were traced.
    pub mmio: Option<Mmio>,
}

impl Flow {
    /// Frames a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.frames as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// The guest sends `count` frames of 60 bytes as fast as its NIC takes them.
///
/// # Errors
/// The guest does not come up, or the frames do not leave.
pub fn send(bare: BareBuilder, way: &Way<'_>, count: u32) -> Result<Flow> {
    let mut guest = bare.start(&format!("test=tx count={count} size={FRAME} ask=1"))?;
    guest.record("ready", PATIENCE)?;
    let before = Seen::now(&guest, way)?;
    guest.nudge()?;
    let done = guest.record("tx", PATIENCE)?;
    let flow = before.until(&guest, way, &done)?;
    guest.nudge()?;
    guest.finish(PATIENCE)?;
    Ok(flow)
}

/// The guest receives `count` frames of 60 bytes, all of which wait in the queue of its TAP before it begins: who sends
/// them takes no processor from it meanwhile, and is no limit to it.
///
/// # Errors
/// The guest does not come up, or the frames do not arrive.
pub fn receive(bare: BareBuilder, way: &Way<'_>, count: u32) -> Result<Flow> {
    const EVERYBODY: [u8; 6] = [0xFF; 6];
    let mut guest = bare.start(&format!("test=rx count={count} idle=20000 ask=1"))?;
    guest.record("ready", PATIENCE)?;
    let before = Seen::now(&guest, way)?;
    fill(way.netns, way.tap, EVERYBODY, count)?;
    guest.nudge()?;
    let done = guest.record("rx", PATIENCE)?;
    let flow = before.until(&guest, way, &done)?;
    guest.nudge()?;
    guest.finish(PATIENCE)?;
    Ok(flow)
}

/// What all have counted so far.
struct Seen {
    tap: TapCounters,
    qemu: Cpu,
    daemon: Option<Cpu>,
    messages: Option<Messages>,
    mmio: Option<Mmio>,
}

impl Seen {
    fn now(guest: &Bare, way: &Way<'_>) -> Result<Self> {
        let daemon = way.daemon.map(|(daemon, _)| Cpu::of(daemon.pid()));
        let messages = way.daemon.map(|(daemon, nic)| messages(daemon, nic));
        Ok(Self {
            tap: counters::tap(way.netns, way.tap)?,
            qemu: Cpu::of(guest.pid())?,
            daemon: daemon.transpose()?,
            messages: messages.transpose()?,
            mmio: way.trace.map(Trace::read).transpose()?,
        })
    }

    fn until(self, guest: &Bare, way: &Way<'_>, done: &Record) -> Result<Flow> {
        let now = Self::now(guest, way)?;
        let number = |key: &str| {
            let number = done.number(key);
            number.with_context(|| format!("no number {key} in {done:?}"))
        };
        let pair = |now: Option<Cpu>, before: Option<Cpu>| Some(now? - before?);
        Ok(Flow {
            frames: number("frames")?,
            took: Duration::from_nanos(number("ns")?),
            tap: now.tap.since(&self.tap),
            qemu: now.qemu - self.qemu,
            daemon: pair(now.daemon, self.daemon),
            messages: now
                .messages
                .zip(self.messages)
                .map(|(now, before)| now.since(&before)),
            mmio: now
                .mmio
                .zip(self.mmio)
                .map(|(now, before)| now.since(&before)),
        })
    }
}
