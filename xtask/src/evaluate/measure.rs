//! One boot of a guest on one NIC, and all that is measured there.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use nic_emu_lab::{Accel, Lab, Suite};
use nic_emu_tests::Direction;
use nic_emu_tests::counters;
use nic_emu_tests::pinger::{self, RoundTrips};

use super::contestant::Contestant;
use super::record::{Cpu, Run, Settings, Stream, Trips};
use crate::machine::{self, CpuTime};
use crate::stage::{Stage, WIRE};

/// ICMP echoes, one after the other.
const PINGS: usize = 100;
/// For what is still on its way to arrive, and for TCP to forget.
const PAUSE: Duration = Duration::from_millis(500);

/// What all runs have in common.
#[derive(Clone, Debug)]
pub(super) struct Measure {
    pub(super) lab: Lab,
    pub(super) suite: Suite,
    pub(super) accel: Accel,
    pub(super) settings: Settings,
}

impl Measure {
    /// Boots a guest on this NIC and measures.
    pub(super) fn run(&self, nic: Contestant, round: u32, attempt: u32) -> Result<Run> {
        let maker = nic.maker(self.settings.busy_poll_us);
        let mut stage = Stage::boot(&self.lab, self.suite, self.accel, &maker)?;
        sleep(PAUSE);
        let before = CpuTime::now();
        let trips = pinger::ping(
            stage.ground.netns.name(),
            WIRE.second().v4.into(),
            [56; PINGS],
        )?;
        let receive = self.stream(&mut stage, Direction::Receive);
        let receive = receive.context("guest receives")?;
        let send = self.stream(&mut stage, Direction::Send);
        let send = send.context("guest sends")?;
        let steal_percent = CpuTime::now().steal_percent_since(before);
        let (qemu, daemon) = stage.command_lines(&self.lab);
        Ok(Run {
            nic,
            round,
            attempt,
            steal_percent,
            qemu,
            daemon,
            tap: stage.tap_facts,
            ping: trips_of(&trips),
            udp: None,
            receive,
            send,
            loads: Vec::new(),
            bare: None,
        })
    }

    /// iperf3 over TCP in one direction, with what it costs.
    fn stream(&self, stage: &mut Stage, direction: Direction) -> Result<Stream> {
        sleep(PAUSE);
        let before = Used::now(stage)?;
        let throughput = stage.pair().tcp(direction, self.settings.seconds)?;
        let used = Used::now(stage)?;
        let bytes = match direction {
            Direction::Receive => used.tap.tx_bytes - before.tap.tx_bytes,
            Direction::Send => used.tap.rx_bytes - before.tap.rx_bytes,
        };
        Ok(Stream {
            mbit: throughput.mbit,
            retransmits: throughput.retransmits,
            bytes,
            cpu: used.since(&before),
            events: None,
        })
    }
}

/// What was used so far.
#[derive(Clone, Copy, Debug)]
struct Used {
    qemu: f64,
    daemon: f64,
    machine: CpuTime,
    tap: counters::TapCounters,
}

impl Used {
    fn now(stage: &Stage) -> Result<Self> {
        let daemon = stage.daemon.as_ref();
        Ok(Self {
            qemu: machine::process_seconds(stage.vm.pid())?,
            daemon: daemon.map_or(Ok(0.0), |daemon| machine::process_seconds(daemon.pid()))?,
            machine: CpuTime::now(),
            tap: counters::tap(&stage.ground.netns, &stage.ground.tap)?,
        })
    }

    fn since(&self, then: &Self) -> Cpu {
        Cpu {
            qemu: self.qemu - then.qemu,
            daemon: self.daemon - then.daemon,
            machine: self.machine.busy_seconds_since(then.machine),
        }
    }
}

fn trips_of(trips: &RoundTrips) -> Trips {
    let mut us: Vec<f64> = trips.all().iter().map(|t| t.as_secs_f64() * 1e6).collect();
    us.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (share * us.len() as f64).ceil() as usize;
        us.get(index.saturating_sub(1)).copied().unwrap_or_default()
    };
    Trips {
        count: us.len() as u64,
        min: at(0.0),
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        max: at(1.0),
    }
}
