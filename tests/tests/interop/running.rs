//! A guest without an operating system on a device with a cable, and what both ends of that cable say.

use std::fmt;
use std::thread::{scope, sleep, yield_now};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bare_guest::frame;
use guest_driver::Wire;
use nic_emu_lab::{Accel, Bare, Error, Lab, Memory, Nic, Record};
use nic_emu_tests::cli;
use nic_emu_tests::machine::{Cable, Daemon, MAC, StreamCable, StreamSocket, e1000_on_wire};
use serde_json::json;

use crate::jobs;
use crate::relay::{Passed, Relay};

/// What a guest may take for one job, the firmware included.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Whose device the guest drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Ours,
    Qemus,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Whose::Ours => "ours",
            Whose::Qemus => "qemu",
        })
    }
}

/// A machine to be started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) whose: Whose,
    pub(crate) accel: Accel,
    pub(crate) memory: Memory,
    /// Count what passes between QEMU and our device.
    pub(crate) counted: bool,
    /// QEMU may send writes without waiting for a reply, as it does by default.
    pub(crate) posted: bool,
    /// The driver is the one that others wrote.
    pub(crate) peer: bool,
}

impl Setup {
    pub(crate) const fn new(whose: Whose) -> Self {
        Self {
            whose,
            accel: Accel::Tcg,
            memory: Memory::Shared,
            counted: false,
            posted: true,
            peer: false,
        }
    }

    /// Boots the guest with this command line and waits until it has brought its device up.
    pub(crate) fn start(self, lab: &Lab, command: &str) -> Result<Running> {
        let image = match self.peer {
            true => cli::peer_guest()?,
            false => cli::bare_guest()?,
        };
        let builder = lab.bare(image).accel(self.accel);
        let builder = builder.memory(self.memory);
        if self.whose == Whose::Qemus {
            let socket = StreamSocket::new();
            let builder = builder.arg("-netdev").arg(socket.netdev());
            // QEMU forgets what it has not passed on when it ends.
            let command = format!("{command} linger=500");
            let builder = builder.arg("-device").arg(e1000_on_wire());
            let mut guest = builder.start(&command)?;
            guest.record("ready", PATIENCE)?;
            return Ok(Running {
                guest,
                far: Far::Qemus(socket.accept()),
                relay: None,
                _daemon: None,
            });
        }
        let (daemon, mut cables) = Daemon::start(&[MAC]);
        let mut socket = daemon.socket(0);
        let relay = self.counted.then(|| Relay::start(&socket)).transpose()?;
        if let Some(relay) = &relay {
            socket = relay.socket();
        }
        let mut device = Nic::vfio_user(socket).device(0);
        if !self.posted {
            device["x-no-posted-writes"] = json!(true);
        }
        let builder = builder.arg("-device").arg(device.to_string());
        let mut guest = builder.start(command)?;
        guest.record("ready", PATIENCE)?;
        Ok(Running {
            guest,
            far: Far::Ours(Box::new(cables.remove(0))),
            relay,
            _daemon: Some(daemon),
        })
    }
}

/// The far end of the device's cable.
enum Far {
    Ours(Box<Cable>),
    Qemus(StreamCable),
}

impl Far {
    fn transmit(&mut self, frame: &[u8]) {
        match self {
            Far::Ours(cable) => cable.transmit(frame),
            Far::Qemus(cable) => cable.transmit(frame, yield_now),
        }
    }

    fn collect(&mut self) -> Option<Vec<u8>> {
        match self {
            Far::Ours(cable) => cable.collect(),
            Far::Qemus(cable) => cable.collect(),
        }
    }
}

/// A guest that has brought its device up and does its job.
pub(crate) struct Running {
    guest: Bare,
    far: Far,
    relay: Option<Relay>,
    // The guest leaves before its device does.
    _daemon: Option<Daemon>,
}

/// What came of a job.
pub(crate) struct Ended {
    /// All that the guest said.
    pub(crate) records: Vec<Record>,
    /// All frames that it sent.
    pub(crate) frames: Vec<Vec<u8>>,
    /// What QEMU asked of our device during the job; nothing if it was not counted.
    pub(crate) passed: Passed,
}

impl Running {
    /// Collects what the guest sends until it has done its job, named `job`.
    pub(crate) fn run(self, job: &str) -> Result<Ended> {
        self.run_with(job, &[], 0)
    }

    /// Sends `frames` to the guest, at most `window` more than it has sent back, and collects what it sends until it has
    /// done its job, named `job`.
    pub(crate) fn run_with(self, job: &str, frames: &[Vec<u8>], window: usize) -> Result<Ended> {
        let Self {
            mut guest,
            mut far,
            relay,
            _daemon,
        } = self;
        if !frames.is_empty() {
            knock(&mut guest, &mut far)?;
        }
        let passed = || relay.as_ref().map(Relay::passed).unwrap_or_default();
        let before = passed();
        scope(|scope| {
            let guest = scope.spawn(move || -> Result<_> {
                guest.record(job, PATIENCE)?;
                let after = passed();
                Ok((guest.finish(PATIENCE)?, after))
            });
            let mut collected = Vec::new();
            let mut frames = frames.iter().enumerate().peekable();
            loop {
                let ended = guest.is_finished();
                let had = collected.len();
                collected.extend(std::iter::from_fn(|| far.collect()));
                let room = had.saturating_add(window);
                let next = frames.next_if(|(number, _)| !ended && *number < room);
                if let Some((_, frame)) = next {
                    far.transmit(frame);
                    continue;
                }
                if collected.len() == had {
                    if ended {
                        break;
                    }
                    sleep(Duration::from_millis(1));
                }
            }
            let (records, after) = guest.join().expect("the guest's thread does not panic")?;
            Ok(Ended {
                records,
                frames: collected,
                passed: after.since(&before),
            })
        })
    }
}

/// Sends frames until the guest says that it hears them: that its receiver is on may reach the device later than us.
fn knock(guest: &mut Bare, far: &mut Far) -> Result<()> {
    let mut frame = [0xFF; frame::MIN];
    frame[6..12].copy_from_slice(&jobs::PEER);
    frame[12..14].copy_from_slice(&frame::KNOCK);
    let started = Instant::now();
    loop {
        far.transmit(&frame);
        match guest.record("hearing", Duration::from_millis(50)) {
            Ok(_) => return Ok(()),
            Err(Error::GuestTimeout { .. }) if started.elapsed() < PATIENCE => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Ended {
    /// The guest's record of this name.
    pub(crate) fn record(&self, name: &str) -> Result<&Record> {
        let mut found = self.records.iter().filter(|record| record.name == name);
        found
            .next()
            .with_context(|| format!("the guest has not said {name:?}: {:?}", self.records))
    }
}

/// The number that a record must have.
pub(crate) fn number(record: &Record, key: &str) -> Result<u64> {
    record
        .number(key)
        .with_context(|| format!("no number {key} in {record:?}"))
}
