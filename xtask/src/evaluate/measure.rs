//! One boot of a guest on one NIC, and all that is measured there; after it, where there is a driver, one of the guest
//! without an operating system.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nic_emu_lab::{Accel, Lab, Nic, Suite};
use nic_emu_tests::counts::{Messages, Mmio, Parties, Reading, Trace};
use nic_emu_tests::packets::{self, Flow, Way};
use nic_emu_tests::pinger::{self, RoundTrips};
use nic_emu_tests::processors::{CpuTime, Processes};
use nic_emu_tests::{Direction, cli, counters, latency, reflector};

use super::contestant::Contestant;
use super::record::{Bare, Cpu, Events, Load, Run, Settings, Stream, Trips};
use super::surroundings::Watch;
use crate::placement::Placement;
use crate::stage::{Ground, MAC, Maker, Stage, WIRE};

/// ICMP echoes, one after the other.
const PINGS: usize = 100;
/// For what is still on its way to arrive, and for TCP to forget.
const PAUSE: Duration = Duration::from_millis(500);
/// UDP echoes a second: one is back long before the next one leaves.
const UDP_RATE: u32 = 500;
/// Width of the buckets of a stored histogram, as a ratio.
const BUCKET: f64 = 1.04;

/// What all runs have in common.
#[derive(Clone, Debug)]
pub(super) struct Measure {
    pub(super) lab: Lab,
    /// All that may be used.
    pub(super) processors: Vec<usize>,
    pub(super) suite: Suite,
    pub(super) accel: Accel,
    pub(super) settings: Settings,
}

impl Measure {
    /// Boots a guest on this NIC and measures.
    pub(super) fn run(&self, nic: Contestant, round: u32, attempt: u32) -> Result<Run> {
        let maker = nic.maker(&self.settings);
        let everywhere = Placement::everywhere(&self.processors);
        let placement = match nic.is_placed() {
            true => &self.settings.placement,
            false => &everywhere,
        };
        placement.leave(&self.processors)?;
        let counted = nic.is_placed() && round < self.settings.counted_rounds;
        let trace = Trace::new()?;
        let boot = Stage::boot(
            &self.lab,
            self.suite,
            self.accel,
            placement,
            &maker,
            trace.arguments(),
        );
        let mut stage = boot.context("the guest does not boot")?;
        let (guest, host) = (WIRE.second().v4, WIRE.first().v4);
        let echo = reflector::udp_echo(&mut stage.vm, &stage.ground.netns, host, guest)?;
        sleep(PAUSE);
        let watch = Watch::begin(&self.processors)?;

        let ping = pinger::ping(stage.ground.netns.name(), guest.into(), [56; PINGS])?;
        let udp = latency::Load::new(UDP_RATE, 1);
        let udp = latency::datagrams(&stage.ground.netns, echo, &udp).context("UDP echo")?;
        let receive = self.stream(&mut stage, Direction::Receive);
        let mut receive = receive.context("guest receives")?;
        let send = self.stream(&mut stage, Direction::Send);
        let mut send = send.context("guest sends")?;
        let mut loads = self.loads(&mut stage)?;
        let (mut surroundings, mut steal) = watch.end()?;

        let (qemu, daemon) = stage.command_lines(&self.lab);
        let tap = stage.tap_facts.clone();
        if counted {
            let events = count(&mut stage, &trace, &self.settings);
            let events = events.context("cannot count events")?;
            (receive.events, send.events) = (Some(events.receive), Some(events.send));
            if let Some(load) = loads.first_mut() {
                load.events = Some(events.echo);
            }
        }
        drop(stage);

        let bare = if self.settings.bare && nic.is_82540em() {
            let watch = Watch::begin(&self.processors)?;
            let mut bare = self.bare(&maker).context("bare guest")?;
            let (meanwhile, stolen) = watch.end()?;
            (surroundings, steal) = (surroundings.worse(meanwhile), steal.max(stolen));
            if counted {
                let [receive, send] = self
                    .bare_events(&maker)
                    .context("cannot count the bare guest's events")?;
                (bare.receive_events, bare.send_events) = (Some(receive), Some(send));
            }
            Some(bare)
        } else {
            None
        };
        Ok(Run {
            nic,
            round,
            attempt,
            steal_percent: steal,
            surroundings: Some(surroundings),
            qemu,
            daemon,
            tap,
            ping: pings(&ping),
            udp: Some(trips(&udp)),
            receive,
            send,
            loads,
            bare,
        })
    }

    /// iperf3 over TCP in one direction, with what it costs.
    fn stream(&self, stage: &mut Stage, direction: Direction) -> Result<Stream> {
        sleep(PAUSE);
        let before = Used::now(stage)?;
        let throughput = stage.pair().tcp(direction, self.settings.seconds)?;
        let used = Used::now(stage)?;
        let tap = used.tap.since(&before.tap);
        Ok(Stream {
            mbit: throughput.mbit,
            retransmits: throughput.retransmits,
            bytes: match direction {
                Direction::Receive => tap.tx_bytes,
                Direction::Send => tap.rx_bytes,
            },
            cpu: used.since(&before),
            events: None,
        })
    }

    /// Frames through the reflector, which stays attached.
    fn loads(&self, stage: &mut Stage) -> Result<Vec<Load>> {
        let address = reflector::address(&mut stage.vm, "eth0")?;
        reflector::attach(&mut stage.vm, "eth0")?;
        let offer = |&rate: &u32| {
            sleep(PAUSE);
            let load = latency::Load::new(rate, self.settings.rate_seconds);
            let trips = latency::frames(&stage.ground.netns, &stage.ground.tap, address, &load);
            let trips = trips.with_context(|| format!("{rate} frames a second"))?;
            ensure!(
                trips.overlooked == 0,
                "{} frames came back that we had no room for",
                trips.overlooked
            );
            Ok(loaded(rate, &trips))
        };
        self.settings.rates.iter().map(offer).collect()
    }

    /// The guest without an operating system, both ways, as fast as it can: on whatever processors there are, since it
    /// polls, and a daemon that shares its processor would have to wait for it.
    fn bare(&self, maker: &Maker) -> Result<Bare> {
        let [receive, send] = self.bare_flows(maker, None)?;
        Ok(Bare {
            receive_pps: receive.rate(),
            send_pps: send.rate(),
            receive_events: None,
            send_events: None,
        })
    }

    fn bare_events(&self, maker: &Maker) -> Result<[Events; 2]> {
        let traces = [Trace::new()?, Trace::new()?];
        let flows = self.bare_flows(maker, Some(&traces))?;
        Ok(flows.map(|flow| Events {
            frames: flow.frames,
            bytes: flow.frames * latency::FRAME as u64,
            // It polls: nobody handles interrupts.
            interrupts: None,
            accesses: flow.mmio.as_ref().map(accesses),
            messages: flow.messages.as_ref().map(Messages::total),
            waits: flow.messages.as_ref().map(Messages::waits),
        }))
    }

    /// What the bare guest receives and sends, each by a boot of its own.
    fn bare_flows(&self, maker: &Maker, traces: Option<&[Trace; 2]>) -> Result<[Flow; 2]> {
        // What is to be received waits in the host's memory, nearly a kilobyte each.
        let (received, sent) = match traces {
            None => (200_000, 1_000_000),
            Some(_) => (20_000, 20_000),
        };
        let everywhere = Placement::everywhere(&self.processors);
        everywhere.leave(&self.processors)?;
        let flow = |send: bool| {
            let ground = Ground::new(&self.lab)?;
            let (nic, daemon) = match maker {
                Maker::NicEmu(arguments) => {
                    let daemon = ground.daemon(arguments, &everywhere)?;
                    (Nic::vfio_user(daemon.socket(0)), Some(daemon))
                }
                Maker::Qemu(device) => (Nic::tap(device, &ground.tap, MAC), None),
            };
            let guest = everywhere.lab(self.lab.clone());
            let guest = guest.bare(cli::bare_guest()?).accel(self.accel);
            let mut guest = guest.netns(ground.netns.name()).nic(nic);
            let trace = traces.map(|traces| &traces[usize::from(send)]);
            for argument in trace.iter().flat_map(|trace| trace.arguments_at_once()) {
                guest = guest.arg(argument);
            }
            let way = Way {
                netns: &ground.netns,
                tap: &ground.tap,
                daemon: daemon.as_ref().map(|daemon| (daemon, 0)),
                trace,
            };
            if send {
                packets::send(guest, &way, sent).context("sending")
            } else {
                packets::receive(guest, &way, received).context("receiving")
            }
        };
        Ok([flow(false)?, flow(true)?])
    }
}

/// What was used so far.
#[derive(Debug)]
struct Used {
    at: Instant,
    qemu: f64,
    daemon: f64,
    processes: Processes,
    machine: CpuTime,
    tap: counters::TapCounters,
}

impl Used {
    fn now(stage: &Stage) -> Result<Self> {
        let daemon = stage.daemon.as_ref();
        let processes = Processes::now()?;
        Ok(Self {
            at: Instant::now(),
            qemu: processes.seconds(stage.vm.pid()),
            daemon: daemon.map_or(0.0, |daemon| processes.seconds(daemon.pid())),
            processes,
            machine: CpuTime::now(),
            tap: counters::tap(&stage.ground.netns, &stage.ground.tap)?,
        })
    }

    fn since(&self, then: &Self) -> Cpu {
        Cpu {
            qemu: self.qemu - then.qemu,
            daemon: self.daemon - then.daemon,
            machine: self.machine.since(then.machine).busy_seconds(),
            ours: Some(self.processes.since(&then.processes).ours),
            elapsed: self.at.duration_since(then.at).as_secs_f64(),
        }
    }
}

/// Events of a guest's traffic.
struct Counted {
    receive: Events,
    send: Events,
    echo: Events,
}

/// Counts events, with QEMU's log of accesses on, during a second each of the lowest load and of iperf3. The reflector
/// is attached before, and not after.
fn count(stage: &mut Stage, trace: &Trace, settings: &Settings) -> Result<Counted> {
    let address = reflector::address(&mut stage.vm, "eth0")?;
    trace.start(&mut stage.vm)?;
    let rate = settings.rates.first().copied().unwrap_or(1000);
    let echo = counted(stage, trace, |stage| {
        let load = latency::Load::new(rate, 1);
        let ground = &stage.ground;
        latency::frames(&ground.netns, &ground.tap, address, &load).map(drop)
    })?;
    reflector::detach(&mut stage.vm, "eth0")?;
    let mut tcp = |direction| {
        counted(stage, trace, |stage| {
            stage.pair().tcp(direction, 1).map(drop)
        })
    };
    Ok(Counted {
        echo,
        receive: tcp(Direction::Receive)?,
        send: tcp(Direction::Send)?,
    })
}

fn counted(
    stage: &mut Stage,
    trace: &Trace,
    traffic: impl FnOnce(&mut Stage) -> Result<()>,
) -> Result<Events> {
    sleep(PAUSE);
    let before = read(stage, trace)?;
    traffic(stage)?;
    let spent = read(stage, trace)?.since(&before);
    Ok(Events {
        frames: spent.frames.rx + spent.frames.tx,
        bytes: spent.frames.rx_bytes + spent.frames.tx_bytes,
        interrupts: Some(spent.interrupts),
        accesses: spent.mmio.as_ref().map(accesses),
        messages: spent.messages.as_ref().map(Messages::total),
        waits: spent.messages.as_ref().map(Messages::waits),
    })
}

fn read(stage: &mut Stage, trace: &Trace) -> Result<Reading> {
    let mut parties = Parties {
        vm: &mut stage.vm,
        ifname: "eth0",
        daemon: stage.daemon.as_ref().map(|daemon| (daemon, 0)),
        trace: Some(trace),
    };
    parties.read()
}

fn accesses(mmio: &Mmio) -> u64 {
    mmio.reads + mmio.writes + mmio.notifications
}

fn pings(trips: &RoundTrips) -> Trips {
    let mut us: Vec<f64> = trips.all().iter().map(|&trip| in_us(trip)).collect();
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

fn trips(trips: &latency::Trips) -> Trips {
    let at = |share| in_us(trips.quantile(share));
    Trips {
        count: trips.received,
        min: at(0.0),
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        max: at(1.0),
    }
}

fn loaded(rate: u32, of: &latency::Trips) -> Load {
    Load {
        rate,
        sent: of.sent,
        seconds: of.sending.as_secs_f64(),
        echoed: of.received,
        trips: trips(of),
        histogram: buckets(&of.distribution(), of.received),
        events: None,
    }
}

/// A few dozen buckets of a distribution's hundreds, each with its upper end in microseconds.
fn buckets(distribution: &[(Duration, f64)], total: u64) -> Vec<(f64, u64)> {
    let mut buckets: Vec<(f64, u64)> = Vec::new();
    let mut counted = 0;
    for &(trip, share) in distribution {
        let until = (share * total as f64).round() as u64;
        let number = (in_us(trip).max(0.1).ln() / BUCKET.ln()).ceil();
        // Four digits are plenty.
        let end = BUCKET.powf(number);
        let digit = 10_f64.powf(end.log10().floor() - 3.0);
        let end = (end / digit).ceil() * digit;
        match buckets.last_mut() {
            Some(last) if last.0 >= end => last.1 += until - counted,
            _ => buckets.push((end, until - counted)),
        }
        counted = until;
    }
    buckets
}

fn in_us(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e7).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_every_trip() {
        let us = |us: u64| Duration::from_micros(us);
        let distribution = [
            (us(100), 0.25),
            (us(101), 0.5),
            (us(150), 0.75),
            (us(90_000), 1.0),
        ];
        let buckets = buckets(&distribution, 8);
        let counts: Vec<u64> = buckets.iter().map(|bucket| bucket.1).collect();
        assert_eq!(counts, [4, 2, 2]);
        for (&(end, _), trip) in buckets.iter().zip([101.0, 150.0, 90_000.0]) {
            assert!(end >= trip && end <= trip * BUCKET * 1.001, "{trip}: {end}");
        }
        assert!(super::buckets(&[], 0).is_empty());
    }
}
