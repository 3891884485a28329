//! Guests at full load, and what is seen of their NIC's daemon and their QEMU meanwhile.

use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nic_emu_lab::{Accel, Lab, Nic, Perf, Suite};
use nic_emu_tests::counts::{Messages, messages};
use nic_emu_tests::latency::{FRAME, Flood};
use nic_emu_tests::processors::CpuTime;
use nic_emu_tests::profile::{Recording, Tally, Thread, Use};
use nic_emu_tests::{Daemon, Direction, Far, Pair, cli, counters};

use super::Load;
use crate::placement::Placement;
use crate::stage::{Ground, Maker, Stage, WIRE};

/// After a load has begun: TCP is up to speed.
const SETTLE: Duration = Duration::from_secs(2);
/// What starting to sample and reading the counters may take beside the time that is sampled.
const MARGIN: u32 = 5;
/// What a bare guest may take to boot.
const PATIENCE: Duration = Duration::from_secs(120);
/// Frames for longer than anybody samples.
const PLENTY: u32 = 1_000_000_000;
/// Frames a second that are offered to a guest which cannot take as many.
const OFFERED: u32 = 250_000;

/// What all loads have in common.
#[derive(Debug)]
pub(super) struct Boot {
    pub(super) lab: Lab,
    pub(super) perf: Perf,
    pub(super) suite: Suite,
    pub(super) accel: Accel,
    pub(super) seconds: u32,
    pub(super) rate: u32,
    /// Where a Debian guest and its daemon run.
    pub(super) placement: Placement,
    /// Where a guest without an operating system does: it polls, and its daemon needs a processor beside it.
    pub(super) everywhere: Placement,
}

/// What was seen of one load.
#[derive(Debug)]
pub(super) struct Seen {
    /// Seconds that were looked at.
    pub(super) seconds: f64,
    /// Share of the machine's time that its hypervisor gave to others, in percent.
    pub(super) steal: f64,
    /// Share of each processor that was used by anybody, in percent.
    pub(super) processors: Vec<f64>,
    /// Frames a second that passed the TAP; a super-frame is one.
    pub(super) frames: f64,
    /// Bits of them.
    pub(super) mbit: f64,
    /// Messages of QEMU's a second, of them those for whose reply it waits, and interrupts.
    pub(super) messages: f64,
    pub(super) waits: f64,
    pub(super) interrupts: f64,
    /// What the daemon did, and QEMU.
    pub(super) daemon: Tally,
    pub(super) qemu: Tally,
    /// Their threads.
    pub(super) daemon_threads: Vec<Thread>,
    pub(super) qemu_threads: Vec<Thread>,
    /// Command lines of QEMU and of the daemon.
    pub(super) command_lines: (String, String),
}

/// Who is looked at.
struct Parties<'a> {
    daemon: &'a Daemon,
    qemu: u32,
    ground: &'a Ground,
    way: Direction,
}

impl Boot {
    /// Samples these loads, on daemons that look out for work for so long before they sleep.
    pub(super) fn all(&self, loads: &[Load], poll_us: u32) -> Result<Vec<(Load, Seen)>> {
        let maker = Maker::NicEmu(match poll_us {
            0 => Vec::new(),
            us => vec!["--busy-poll".into(), us.to_string()],
        });
        let mut all = Vec::new();
        let (bare, debian): (Vec<Load>, Vec<Load>) = loads.iter().partition(|load| load.is_bare());
        if !debian.is_empty() {
            let none = Vec::<String>::new();
            let mut stage = Stage::boot(
                &self.lab,
                self.suite,
                self.accel,
                &self.placement,
                &maker,
                none,
            )?;
            for load in debian {
                let seen = self.debian(&mut stage, load);
                all.push((load, seen.context(load.label())?));
            }
        }
        for load in bare {
            all.push((load, self.bare(&maker, load).context(load.label())?));
        }
        Ok(all)
    }

    fn debian(&self, stage: &mut Stage, load: Load) -> Result<Seen> {
        let (qemu, daemon) = stage.command_lines(&self.lab);
        let way = match load {
            Load::Receive => Direction::Receive,
            _ => Direction::Send,
        };
        let Stage {
            vm,
            daemon: ours,
            ground,
            ..
        } = stage;
        let parties = Parties {
            daemon: ours.as_ref().context("no daemon")?,
            qemu: vm.pid(),
            ground,
            way,
        };
        let mut pair = Pair {
            vm,
            own: WIRE.second(),
            far: Far::Host(&ground.netns),
            to: WIRE.first(),
        };
        let seen = thread::scope(|scope| {
            let looking = scope.spawn(|| {
                sleep(SETTLE);
                self.look(&parties)
            });
            let traffic = pair.tcp(way, self.seconds + SETTLE.as_secs() as u32 + MARGIN);
            let seen = looking.join();
            traffic.and_then(|_| seen.unwrap_or_else(|_| bail!("nobody looked")))
        })?;
        Ok(Seen {
            command_lines: (qemu, daemon.context("no daemon")?),
            ..seen
        })
    }

    fn bare(&self, maker: &Maker, load: Load) -> Result<Seen> {
        let Maker::NicEmu(arguments) = maker else {
            bail!("no daemon");
        };
        let ground = Ground::new(&self.lab)?;
        let daemon = ground.daemon(arguments, &self.everywhere)?;
        let guest = self.everywhere.lab(self.lab.clone());
        let guest = guest.bare(cli::bare_guest()?).accel(self.accel);
        let guest = guest.nic(Nic::vfio_user(daemon.socket(0)));
        let guest = guest.netns(ground.netns.name());
        let (way, job) = match load {
            Load::BareReceive => (
                Direction::Receive,
                format!("test=rx count={PLENTY} idle=20000 ask=1"),
            ),
            _ => (
                Direction::Send,
                format!("test=tx count={PLENTY} size={FRAME} ask=1"),
            ),
        };
        let mut guest = guest.start(&job)?;
        guest.record("ready", PATIENCE)?;
        guest.nudge()?;
        let flood = match way {
            Direction::Receive => Some(Flood::start(
                &ground.netns,
                &ground.tap,
                [0xFF; 6],
                OFFERED,
            )?),
            Direction::Send => None,
        };
        sleep(SETTLE);
        let seen = self.look(&Parties {
            daemon: &daemon,
            qemu: guest.pid(),
            ground: &ground,
            way,
        })?;
        flood.map(Flood::stop).transpose()?;
        Ok(Seen {
            command_lines: (
                guest.command_line().to_owned(),
                daemon.command_line().to_owned(),
            ),
            ..seen
        })
    }

    /// Samples both processes while the load goes on.
    fn look(&self, parties: &Parties<'_>) -> Result<Seen> {
        let pids = [parties.daemon.pid(), parties.qemu];
        let before = Counted::now(parties)?;
        let time = Duration::from_secs(u64::from(self.seconds));
        let mut recording = Recording::start(&self.perf, &pids, self.rate, time)?;
        recording.wait()?;
        let after = Counted::now(parties)?;
        let samples = recording.samples(&self.perf)?;
        let of = |pid: u32| Tally::of(samples.iter().filter(|sample| sample.pid == pid));

        let seconds = after.at.duration_since(before.at).as_secs_f64().max(1e-9);
        let tap = after.tap.since(&before.tap);
        let (frames, bytes) = match parties.way {
            // Seen from the host.
            Direction::Receive => (tap.tx_packets, tap.tx_bytes),
            Direction::Send => (tap.rx_packets, tap.rx_bytes),
        };
        let messages = after.messages.since(&before.messages);
        let processors = after.processors.iter().zip(&before.processors);
        let busy = processors.map(|(now, then)| now.since(*then).busy_percent());
        Ok(Seen {
            seconds,
            steal: after.machine.since(before.machine).steal_percent(),
            processors: busy.collect(),
            frames: frames as f64 / seconds,
            mbit: bytes as f64 * 8.0 / seconds / 1e6,
            messages: messages.total() as f64 / seconds,
            waits: messages.waits() as f64 / seconds,
            interrupts: messages.interrupts as f64 / seconds,
            daemon: of(parties.daemon.pid()),
            qemu: of(parties.qemu),
            daemon_threads: after.daemon.since(&before.daemon),
            qemu_threads: after.qemu.since(&before.qemu),
            command_lines: Default::default(),
        })
    }
}

/// What was counted so far.
struct Counted {
    at: Instant,
    machine: CpuTime,
    processors: Vec<CpuTime>,
    tap: counters::TapCounters,
    messages: Messages,
    daemon: Use,
    qemu: Use,
}

impl Counted {
    fn now(of: &Parties<'_>) -> Result<Self> {
        let messages = messages(of.daemon, 0)?;
        Ok(Self {
            at: Instant::now(),
            machine: CpuTime::now(),
            processors: CpuTime::each(),
            tap: counters::tap(&of.ground.netns, &of.ground.tap)?,
            messages,
            daemon: Use::now(of.daemon.pid())?,
            qemu: Use::now(of.qemu)?,
        })
    }
}
