//! What is measured, as it is stored: everything that the report is made from.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::contestant::Contestant;
use super::surroundings::Surroundings;
use crate::placement::Placement;

/// Changes when the fields below change their meaning.
const FORMAT: u32 = 1;
/// Beyond this share of time, stolen or used by others, a run tells more about the neighbours than about the NIC.
pub(crate) const DISTURBANCE_LIMIT: f64 = 5.0;

/// All of an evaluation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Evaluation {
    pub(crate) format: u32,
    pub(crate) settings: Settings,
    pub(crate) environment: Environment,
    /// In the order in which they were made.
    pub(crate) runs: Vec<Run>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) rounds: u32,
    /// Seconds of iperf3 in each direction.
    pub(crate) seconds: u32,
    /// Frames a second offered to the reflector, ascending.
    pub(crate) rates: Vec<u32>,
    /// Seconds of each of these.
    pub(crate) rate_seconds: u32,
    pub(crate) nics: Vec<Contestant>,
    /// How often a run with much time stolen or used by others is made at most.
    pub(crate) attempts: u32,
    /// Rounds in which events are counted.
    pub(crate) counted_rounds: u32,
    /// Whether the guest without an operating system runs, too.
    pub(crate) bare: bool,
    pub(crate) busy_poll_us: u32,
    /// Of the daemon that runs anywhere; 0 if there is none.
    #[serde(default)]
    pub(crate) busy_poll_anywhere_us: u32,
    #[serde(default)]
    pub(crate) placement: Placement,
    /// `tcg` or `kvm`.
    pub(crate) accel: String,
    pub(crate) suite: String,
}

/// Where and with what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Environment {
    pub(crate) commit: String,
    pub(crate) date: String,
    pub(crate) machine: Value,
    pub(crate) qemu: String,
    pub(crate) guest_kernel: String,
    /// What is odd about this machine's KVM, if it was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kvm: Option<String>,
}

/// One boot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) nic: Contestant,
    /// From 0.
    pub(crate) round: u32,
    /// From 1: more after runs of which too much time was stolen or used by others.
    pub(crate) attempt: u32,
    /// Share of the measuring time that was stolen.
    pub(crate) steal_percent: f64,
    /// What else went on; `None` if nobody has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) surroundings: Option<Surroundings>,
    pub(crate) qemu: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) daemon: Option<String>,
    /// Flags of the TAP, read back while in use; the same for all.
    pub(crate) tap: Value,
    /// ICMP echoes, one at a time.
    pub(crate) ping: Trips,
    /// UDP echoes, one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) udp: Option<Trips>,
    /// iperf3, the guest receives.
    pub(crate) receive: Stream,
    /// iperf3, the guest sends.
    pub(crate) send: Stream,
    /// Frames through the reflector, by offered rate.
    pub(crate) loads: Vec<Load>,
    /// The guest without an operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bare: Option<Bare>,
}

/// Round trips, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trips {
    pub(crate) count: u64,
    pub(crate) min: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// TCP in one direction.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Stream {
    /// Mbit/s of payload at the receiver.
    pub(crate) mbit: f64,
    pub(crate) retransmits: u64,
    /// What passed the TAP, headers included.
    pub(crate) bytes: u64,
    pub(crate) cpu: Cpu,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) events: Option<Events>,
}

/// Processor time in seconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cpu {
    /// QEMU's process, the guest included.
    pub(crate) qemu: f64,
    /// Our daemon's.
    pub(crate) daemon: f64,
    /// All processors, whoever used them, as `/proc/stat` counts ticks: it may come to less than its parts.
    pub(crate) machine: f64,
    /// What we have started, QEMU and daemon among them, and the kernel's threads; `None` if nobody has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ours: Option<f64>,
    /// How long all of it took; 0 if nobody has looked.
    #[serde(default)]
    pub(crate) elapsed: f64,
}

impl Cpu {
    /// QEMU and the daemon.
    pub(crate) fn parts(&self) -> f64 {
        self.qemu + self.daemon
    }

    /// All that the traffic took; where only ticks were counted, at least what is known of the parts.
    pub(crate) fn whole(&self) -> f64 {
        self.ours.unwrap_or(self.machine).max(self.parts())
    }

    /// Whether the whole, as it was measured, came to less than its parts.
    pub(crate) fn is_short(&self) -> bool {
        self.ours.unwrap_or(self.machine) < self.parts() - 1e-6
    }
}

/// What a stretch of traffic cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Events {
    /// Frames of both directions as the guest's driver counts them.
    pub(crate) frames: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Times that the NIC has interrupted the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) interrupts: Option<u64>,
    /// Accesses of the guest to the NIC's registers, notifications of virtio queues among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) accesses: Option<u64>,
    /// vfio-user messages from QEMU to the daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) messages: Option<u64>,
    /// Those of them for which a processor of the guest waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) waits: Option<u64>,
}

/// Frames of 60 bytes at a rate, reflected by the guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    /// Frames a second asked for.
    pub(crate) rate: u32,
    /// Frames that were sent, and how long that took.
    pub(crate) sent: u64,
    pub(crate) seconds: f64,
    /// Those that came back.
    pub(crate) echoed: u64,
    pub(crate) trips: Trips,
    /// Round trips up to so many microseconds, and how many since the bucket before.
    pub(crate) histogram: Vec<(f64, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) events: Option<Events>,
}

impl Run {
    /// Share of the measuring time, in percent, that was stolen or that others used, whichever is more.
    pub(crate) fn disturbance(&self) -> f64 {
        let others = self.surroundings.map_or(0.0, |s| s.foreign_percent);
        self.steal_percent.max(others)
    }

    /// Whether that is little enough.
    pub(crate) fn is_undisturbed(&self) -> bool {
        self.disturbance() <= DISTURBANCE_LIMIT
    }
}

impl Load {
    /// Thousands of frames echoed for each second that was sent.
    pub(crate) fn echoed_kpps(&self) -> f64 {
        self.echoed as f64 / self.seconds / 1e3
    }

    /// Share of the frames that came back.
    pub(crate) fn echoed_share(&self) -> f64 {
        self.echoed as f64 / self.sent.max(1) as f64
    }
}

/// The guest without an operating system: frames a second through the TAP.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Bare {
    pub(crate) receive_pps: f64,
    pub(crate) send_pps: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) receive_events: Option<Events>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) send_events: Option<Events>,
}

impl Evaluation {
    pub(crate) fn new(settings: Settings, environment: Environment) -> Self {
        Self {
            format: FORMAT,
            settings,
            environment,
            runs: Vec::new(),
        }
    }

    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let evaluation: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is no evaluation", path.display()))?;
        ensure!(
            evaluation.format == FORMAT,
            "{} has format {}, this command knows {FORMAT}",
            path.display(),
            evaluation.format
        );
        Ok(evaluation)
    }

    /// Writes it whole or not at all: whoever interrupts us finds what was stored before.
    pub(crate) fn store(&self, path: &Path) -> Result<()> {
        let told = || format!("cannot write {}", path.display());
        let unfinished = path.with_extension("json.new");
        fs::write(&unfinished, self.text()?).with_context(told)?;
        fs::rename(&unfinished, path).with_context(told)
    }

    /// JSON with one line for each run.
    fn text(&self) -> Result<String> {
        let head = Self {
            runs: Vec::new(),
            ..self.clone()
        };
        let head = serde_json::to_string_pretty(&head)?;
        let (head, tail) = head
            .rsplit_once("[]")
            .context("no place for the runs in the JSON")?;
        let mut text = head.to_owned() + "[";
        for (at, run) in self.runs.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let _ = write!(text, "{comma}\n    {}", serde_json::to_string(run)?);
        }
        Ok(text + "\n  ]" + tail + "\n")
    }

    /// The run that counts: the first one that was hardly disturbed, else the one that was the least.
    pub(crate) fn run(&self, nic: Contestant, round: u32) -> Option<&Run> {
        let of = || {
            let all = self.runs.iter();
            all.filter(move |run| run.nic == nic && run.round == round)
        };
        of().find(|run| run.is_undisturbed())
            .or_else(|| of().min_by(|a, b| a.disturbance().total_cmp(&b.disturbance())))
    }

    /// Number of the attempt that is still to be made for this NIC in this round; `None` if it is done.
    pub(crate) fn next_attempt(&self, nic: Contestant, round: u32) -> Option<u32> {
        let all = self.runs.iter();
        let made = all.filter(|run| run.nic == nic && run.round == round);
        let (count, fine) = made.fold((0, false), |(count, fine), run| {
            (count + 1, fine || run.is_undisturbed())
        });
        (!fine && count < self.settings.attempts).then_some(count + 1)
    }

    /// The runs that count of a NIC, by round.
    pub(crate) fn of(&self, nic: Contestant) -> impl Iterator<Item = &Run> {
        (0..self.settings.rounds).filter_map(move |round| self.run(nic, round))
    }

    /// The NICs that have at least one run where all were placed, in the order asked for.
    pub(crate) fn nics(&self) -> Vec<Contestant> {
        let nics = self.settings.nics.iter().copied();
        nics.filter(|&nic| nic.is_placed() && self.of(nic).next().is_some())
            .collect()
    }

    /// Rounds in which all NICs have run.
    pub(crate) fn complete_rounds(&self) -> u32 {
        let complete = |round: &u32| {
            let mut nics = self.settings.nics.iter();
            nics.all(|&nic| self.run(nic, *round).is_some())
        };
        (0..self.settings.rounds).filter(complete).count() as u32
    }
}
