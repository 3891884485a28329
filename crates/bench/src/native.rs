//! Which things are measured, and what is told of them.

use std::cell::RefCell;

use anyhow::Result;
use guest_driver::{Offload, packet};
use net_backend::{Backend, Null};

use crate::engine::{Duplex, MAC, OnOne, OnTwo, Receive, Source, Switched, Transmit};
use crate::floor::{BareReceive, BareTransmit, RawRead, RawWrite};
use crate::options::Options;
use crate::processors;
use crate::report::{Figure, Floor, Goal};
use crate::slices::{Background, Contender, Measured, interleave};
use crate::stats::Spread;
use crate::tap::{self, Feeder};

/// A neighbour of the host: frames to it go no further than the TAP.
const ELSEWHERE: [u8; 6] = [0x02, 0, 0, 0, 0, 0x77];

/// Measures what is asked for; tells each figure as soon as it is there.
///
/// Has to have a network namespace of its own ([`tap::enter_namespace`]) if a TAP is wanted.
///
/// # Errors
///
/// The machine lacks something, or we may not have it.
pub fn run(options: &Options, mut told: impl FnMut(&Figure)) -> Result<Vec<Figure>> {
    let cpus = processors::allowed()?;
    let other = cpus.get(1).copied();
    let background = Background::new(other);
    if let Some(&cpu) = cpus.first() {
        processors::stay_on(cpu)?;
    }
    let mut bench = Bench {
        options,
        other,
        background,
        figures: Vec::new(),
        told: &mut told,
    };
    let measures = [Bench::null, Bench::tap, Bench::switch, Bench::duplex];
    for measure in measures {
        for &size in &options.sizes {
            measure(&mut bench, size as usize)?;
        }
    }
    Ok(bench.figures)
}

struct Bench<'o> {
    options: &'o Options,
    /// The processor for a second thread, if there is one.
    other: Option<usize>,
    background: Background,
    figures: Vec<Figure>,
    told: &'o mut dyn FnMut(&Figure),
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
            let feeder = Feeder::new(size)?;
            let floor = &mut RawRead::new(tap::descriptor(&tap)?, &feeder, frames);
            let mut ours = Receive::new(ring, Source::Tap(&mut *tap.rx, &feeder))?;
            self.beside(
                &rx,
                &mut ours,
                floor,
                "the speed of plain reads of the same TAP",
                0.8,
            );
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
        let Some(other) = self.other else {
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
                    (tap.tx, Some((tap.rx, Feeder::new(size)?)))
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
        let measured = interleave(self.options.plan(), &self.background, &mut [ours, floor]);
        let mut figure = figure(name.to_owned(), &measured);
        let ratio = spread(measured.ratios(0, 1));
        figure.goal = Some(Goal::new(what, goal, ratio.median));
        figure.floor = Some(Floor {
            what: what.to_owned(),
            ns: spread(measured.per_frame[1].iter().copied()),
            ratio,
        });
        self.add(figure);
    }

    fn add(&mut self, figure: Figure) {
        (self.told)(&figure);
        self.figures.push(figure);
    }
}

const BARE: &str = "the speed of the same copies and descriptor stores in a bare loop";

/// Of the first contender.
fn figure(name: String, measured: &Measured) -> Figure {
    let ns = spread(measured.per_frame[0].iter().copied());
    Figure {
        name,
        ns,
        per_second: 1e9 / ns.median,
        floor: None,
        goal: None,
        getppid_ns: Spread::of(measured.getppid.iter().copied()),
        ping_pong_ns: Spread::of(measured.ping_pong.iter().copied()),
        steal_percent: measured.usage.steal_percent(),
        foreign_percent: measured.usage.foreign_percent(measured.own),
        repeated: measured.repeated,
    }
}

fn spread(values: impl IntoIterator<Item = f64>) -> Spread {
    Spread::of(values).expect("a round at least")
}
