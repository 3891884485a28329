//! Which things are measured, and what is told of them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use anyhow::Result;
use guest_driver::{Offload, packet};
use net_backend::{Backend, Null};
use nic_emu_lab::{Lab, Netns};
use nic_emu_tests::background::Background;
use nic_emu_tests::host::namespace;

use crate::daemon::{self, Host, Trace};
use crate::engine::{Duplex, MAC, OnOne, OnTwo, Receive, Source, Switched, Transmit};
use crate::floor::{BareReceive, BareTransmit, RawRead, RawWrite};
use crate::options::Options;
use crate::processors;
use crate::report::{self, Figure, Floor, Goal, Results, Trips};
use crate::slices::{Contender, Measured, interleave};
use crate::stats::Spread;
use crate::tap::{self, Feeder};

/// A neighbour of the host: frames to it go no further than the TAP.
const ELSEWHERE: [u8; 6] = [0x02, 0, 0, 0, 0, 0x77];

/// Measures what is asked for; tells each result as soon as it is there.
///
/// Has to have a network namespace of its own ([`tap::enter_namespace`]) if a TAP is wanted.
///
/// # Errors
///
/// The machine lacks something, or we may not have it.
pub fn run(options: &Options, mut told: impl FnMut(&dyn Display)) -> Result<Results> {
    let cpus = processors::allowed()?;
    let other = cpus.get(1).copied();
    let background = Background::new(other);
    if let Some(&cpu) = cpus.first() {
        processors::stay_on(&[cpu])?;
    }
    let mut bench = Bench {
        options,
        cpus,
        background,
        netns: None,
        results: Results::default(),
        told: &mut told,
    };
    let measures = [
        Bench::null,
        Bench::tap,
        Bench::switch,
        Bench::duplex,
        Bench::daemon,
        Bench::daemon_duplex,
        Bench::work,
        Bench::trips,
    ];
    for measure in measures {
        for &size in &options.sizes {
            measure(&mut bench, size as usize)?;
        }
    }
    Ok(bench.results)
}

struct Bench<'o> {
    options: &'o Options,
    /// The processors that we may use; we are on the first.
    cpus: Vec<usize>,
    background: Background,
    /// Of daemons with TAPs.
    netns: Option<Netns>,
    results: Results,
    told: &'o mut dyn FnMut(&dyn Display),
}

impl Bench<'_> {
    fn null(&mut self, size: usize) -> Result<()> {
        let ring = self.options.ring();
        let frame = packet::plain(ELSEWHERE, MAC, size, 1);
        let name = format!("engine.null.tx.{size}");
        if self.options.wants(&name) {
            let mut null = Backend::from(Null::new());
            let mut ours = Transmit::new(ring, &frame, Offload::None, &mut *null.tx)?;
            let floor = &mut BareTransmit::new(ring, &frame);
            self.beside(&name, &mut ours, floor, BARE, 0.7);
        }
        let name = format!("engine.null.rx.{size}");
        if self.options.wants(&name) {
            let frame = packet::plain(MAC, ELSEWHERE, size, 1);
            let mut ours = Receive::new(ring, Source::Memory(frame.clone()))?;
            let floor = &mut BareReceive::new(ring, &frame);
            self.beside(&name, &mut ours, floor, BARE, 0.7);
        }
        Ok(())
    }

    fn tap(&mut self, size: usize) -> Result<()> {
        let [tx, rx] = ["tx", "rx"].map(|way| format!("engine.tap.{way}.{size}"));
        if ![&tx, &rx].iter().any(|name| self.options.wants(name)) {
            return Ok(());
        }
        let ring = self.options.ring();
        let frames = u64::from(ring) - 1;
        let mut tap = tap::open("bench0")?;
        if self.options.wants(&tx) {
            let frame = packet::plain(ELSEWHERE, MAC, size, 1);
            let floor = &mut RawWrite::new(tap::descriptor(&tap)?, &frame, frames);
            let mut ours = Transmit::new(ring, &frame, Offload::None, &mut *tap.tx)?;
            self.beside(
                &tx,
                &mut ours,
                floor,
                "the speed of plain writes to the same TAP",
                0.8,
            );
        }
        if self.options.wants(&rx) {
            let feeder = Feeder::new(0, size)?;
            let floor = &mut RawRead::new(tap::descriptor(&tap)?, &feeder, frames);
            let spread = &mut RawRead::spread(tap::descriptor(&tap)?, &feeder, frames);
            let mut ours = Receive::new(ring, Source::Tap(&mut *tap.rx, &feeder))?;
            let plan = self.options.plan();
            let contenders: &mut [&mut dyn Contender] = &mut [&mut ours, floor, spread];
            let measured = interleave(plan, &self.background, contenders);
            let what = "the speed of plain reads of the same TAP";
            let mut figure = figure_beside(&rx, &measured, what, 0.8);
            let what = "the speed of plain reads into as many buffers";
            figure.spread_floor = Some(floor_of(&measured, 2, what));
            self.add(figure);
        }
        anyhow::ensure!(
            tap.counters.counters().tx_dropped == 0,
            "the TAP dropped frames"
        );
        Ok(())
    }

    fn switch(&mut self, size: usize) -> Result<()> {
        let name = format!("engine.switch.{size}");
        if !self.options.wants(&name) {
            return Ok(());
        }
        let frame = packet::plain(MAC, ELSEWHERE, size, 1);
        let mut ours = Switched::new(self.options.ring(), &frame)?;
        let measured = interleave(self.options.plan(), &self.background, &mut [&mut ours]);
        let mut figure = figure(name, &measured);
        if size <= 64 {
            let what = "million frames per second from NIC to NIC on one processor";
            figure.goal = Some(Goal::new(what, 2.0, figure.per_second / 1e6));
        }
        self.add(figure);
        Ok(())
    }

    /// Both ways at once, on two threads and on one.
    fn duplex(&mut self, size: usize) -> Result<()> {
        let Some(&other) = self.cpus.get(1) else {
            return Ok(());
        };
        let ring = self.options.ring();
        let packet = packet::plain(ELSEWHERE, MAC, size, 1);
        let frame = packet::plain(MAC, ELSEWHERE, size, 1);
        for backend in ["null", "tap"] {
            let name = format!("engine.{backend}.duplex.{size}");
            if !self.options.wants(&name) {
                continue;
            }
            let (to, from) = match backend {
                "tap" => {
                    let tap = tap::open("bench0")?;
                    (tap.tx, Some((tap.rx, Feeder::new(0, size)?)))
                }
                _ => (Backend::from(Null::new()).tx, None),
            };
            let nic = RefCell::new(Duplex::new(ring, &packet, &frame, to, from, other)?);
            let (mut two, mut one) = (OnTwo(&nic), OnOne(&nic));
            self.beside(&name, &mut two, &mut one, "one thread's speed", 1.5);
        }
        Ok(())
    }

    /// Measures `ours` and `floor` in turns.
    fn beside(
        &mut self,
        name: &str,
        ours: &mut dyn Contender,
        floor: &mut dyn Contender,
        what: &str,
        goal: f64,
    ) {
        let plan = self.options.plan();
        let measured = interleave(plan, &self.background, &mut [ours, floor]);
        self.add(figure_beside(name, &measured, what, goal));
    }

    /// A daemon's NICs, rings posted beforehand.
    fn daemon(&mut self, size: usize) -> Result<()> {
        let away = packet::plain(ELSEWHERE, MAC, size, 1);
        for (which, nics) in [
            ("null.tx", NULL),
            ("tap.tx", TAP),
            ("tap.rx", TAP),
            ("switch", SWITCH),
        ] {
            let name = format!("daemon.{which}.{size}");
            if !self.options.wants(&name) {
                continue;
            }
            let ring = if which.starts_with("tap") {
                QUEUE
            } else {
                LONG
            };
            let mut host = self.host(nics, &[], ring)?;
            let plan = self.options.plan();
            let before = host.time();
            let measured = match which {
                "tap.rx" => {
                    let feeder = Feeder::new(1, size)?;
                    let ours = &mut daemon::Receive::new(&mut host, &feeder);
                    interleave(plan, &self.background, &mut [ours])
                }
                "switch" => {
                    let frame = packet::plain(SECOND, MAC, size, 1);
                    let ours = &mut daemon::Switched::new(&mut host, &frame);
                    interleave(plan, &self.background, &mut [ours])
                }
                _ => {
                    let ours = &mut daemon::Transmit::new(&mut host, &away);
                    interleave(plan, &self.background, &mut [ours])
                }
            };
            let mut figure = figure(name, &measured);
            figure.processor_ns = Some(per_frame(host.time() - before, measured.frames[0]));
            self.add(figure);
        }
        Ok(())
    }

    /// Both ways at once, by a daemon of two threads and by one of one. The guest sleeps meanwhile.
    fn daemon_duplex(&mut self, size: usize) -> Result<()> {
        let name = format!("daemon.tap.duplex.{size}");
        if !self.options.wants(&name) || self.cpus.len() < 2 {
            return Ok(());
        }
        let packet = packet::plain(ELSEWHERE, MAC, size, 1);
        let two = match self.host(TAP, &["--shards", "2"], QUEUE) {
            Ok(two) => two,
            Err(error) => {
                // What went before is not to be lost for a daemon that knows of no shards.
                (self.told)(&format_args!("{name}: not measured: {error:#}"));
                return Ok(());
            }
        };
        let one = self.host(TAP_2, &["--shards", "1"], QUEUE)?;
        let mut hosts = [two, one];
        let feeders = [Feeder::new(1, size)?, Feeder::new(2, size)?];
        let [two, one] = &mut hosts;
        let mut two = daemon::Both::new(two, &feeders[0], &packet);
        let mut one = daemon::Both::new(one, &feeders[1], &packet);
        self.beside(&name, &mut two, &mut one, "one thread's speed", 1.5);
        Ok(())
    }

    /// Doorbells and interrupts as a real driver has them: what a frame costs in messages, interrupts, system calls.
    fn work(&mut self, size: usize) -> Result<()> {
        let packet = packet::plain(ELSEWHERE, MAC, size, 1);
        let (frames, traced) = if self.options.quick {
            (2_000, 0)
        } else {
            (300_000, 30_000)
        };
        for (which, nics) in [("null.tx", NULL), ("tap.tx", TAP), ("tap.rx", TAP)] {
            let name = format!("work.{which}.{size}");
            if !self.options.wants(&name) {
                continue;
            }
            let mut host = self.host(nics, &[], self.options.ring())?;
            let feeder = match which {
                "tap.rx" => Some(Feeder::new(1, size)?),
                _ => None,
            };
            let work = |host: &mut Host, frames| match &feeder {
                Some(feeder) => daemon::receive(host, feeder, frames),
                None => daemon::send(host, &packet, frames),
            };
            let cost = work(&mut host, frames)?;
            let mut system_calls = BTreeMap::new();
            if traced > 0 {
                let trace = Trace::attach(&Lab::open()?, host.pid())?;
                let traced = work(&mut host, traced)?;
                let per_frame = |(name, calls)| (name, calls as f64 / traced.frames as f64);
                system_calls = trace.end()?.into_iter().map(per_frame).collect();
            }
            let share = |count: u64| count as f64 / cost.frames as f64;
            let work = report::Work {
                name,
                frames: cost.frames,
                per_second: cost.frames as f64 / cost.took.as_secs_f64(),
                processor_ns: per_frame(cost.processor, cost.frames),
                messages: share(cost.messages),
                interrupts: share(cost.interrupts),
                system_calls,
            };
            (self.told)(&work);
            self.results.work.push(work);
        }
        Ok(())
    }

    /// A lone frame from one NIC to another and back.
    fn trips(&mut self, size: usize) -> Result<()> {
        let name = format!("trip.switch.{size}");
        if !self.options.wants(&name) {
            return Ok(());
        }
        let mut host = self.host(SWITCH, &[], self.options.ring())?;
        let there = packet::plain(SECOND, MAC, size, 1);
        let back = packet::plain(MAC, SECOND, size, 1);
        let trips = if self.options.quick { 100 } else { 20_000 };
        let histogram = daemon::round_trips(&mut host, [&there, &back], trips)?;
        let trips = Trips {
            name,
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        };
        (self.told)(&trips);
        self.results.trips.push(trips);
        Ok(())
    }

    /// A daemon: of one thread on the processor that is not ours, of more on all. With TAPs, it and we are in a network
    /// namespace from then on.
    fn host(&mut self, nics: &[&str], arguments: &[&str], ring: u32) -> Result<Host> {
        if nics != NULL && nics != SWITCH && self.netns.is_none() {
            let netns = namespace(&Lab::open()?)?;
            tap::enter(&netns)?;
            self.netns = Some(netns);
        }
        let other = self.cpus.len().min(2) - 1;
        let cpus = match arguments {
            [] => &self.cpus[other..=other],
            _ => &self.cpus,
        };
        Host::start(nics, arguments, ring, self.netns.as_ref(), cpus)
    }

    fn add(&mut self, figure: Figure) {
        (self.told)(&figure);
        self.results.figures.push(figure);
    }
}

/// Networks of a daemon's NICs.
const NULL: &[&str] = &["net=null"];
const TAP: &[&str] = &["net=tap,ifname=bench1,ip=10.99.1.1/24"];
const TAP_2: &[&str] = &["net=tap,ifname=bench2,ip=10.99.2.1/24"];
const SWITCH: &[&str] = &["net=switch,switch=s", "net=switch,switch=s"];
/// The address of a daemon's second NIC.
const SECOND: [u8; 6] = [MAC[0], MAC[1], MAC[2], MAC[3], MAC[4], MAC[5] + 1];
/// Descriptors of a daemon's rings: enough for its wake-up not to count, and on a TAP what its
/// queue of 1000 holds for certain: the kernel frees its places some at a time.
const LONG: u32 = 4096;
/// See [`LONG`].
const QUEUE: u32 = 896;

fn per_frame(time: Duration, frames: u64) -> f64 {
    time.as_nanos() as f64 / frames.max(1) as f64
}

const BARE: &str = "the speed of the same copies and descriptor stores in a bare loop";

/// Of the first contender.
fn figure(name: String, measured: &Measured) -> Figure {
    let ns = spread(measured.per_frame[0].iter().copied());
    Figure {
        name,
        ns,
        per_second: 1e9 / ns.median,
        processor_ns: None,
        floor: None,
        spread_floor: None,
        goal: None,
        getppid_ns: Spread::of(measured.getppid.iter().copied()),
        ping_pong_ns: Spread::of(measured.ping_pong.iter().copied()),
        steal_percent: measured.usage.steal_percent(),
        foreign_percent: measured.usage.foreign_percent(measured.own),
        repeated: measured.repeated,
    }
}

/// Of the first contender beside the second, its floor.
fn figure_beside(name: &str, measured: &Measured, what: &str, goal: f64) -> Figure {
    let mut figure = figure(name.to_owned(), measured);
    let floor = floor_of(measured, 1, what);
    figure.goal = Some(Goal::new(what, goal, floor.ratio.median));
    figure.floor = Some(floor);
    figure
}

/// What contender `index` is to the first.
fn floor_of(measured: &Measured, index: usize, what: &str) -> Floor {
    Floor {
        what: what.to_owned(),
        ns: spread(measured.per_frame[index].iter().copied()),
        ratio: spread(measured.ratios(0, index)),
    }
}

fn spread(values: impl IntoIterator<Item = f64>) -> Spread {
    Spread::of(values).expect("a round at least")
}
