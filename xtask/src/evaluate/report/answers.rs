//! The thesis's two questions, answered from the figures. What is said follows from thresholds, not from hopes.

use super::super::contestant::Contestant::{self, E1000, E1000e, NicEmu, NicEmuPoll, VirtioNet};
use super::super::record::{Load, Run};
use super::super::stats::{Standing, Summary};
use super::tables::times;
use super::{Figures, Metric, load, low_latency, ping, receive, receive_cpu, send, send_cpu};
use super::{places, thesis};

/// Throughput that nobody misses, as a ratio.
const AS_FAST: f64 = 0.95;
/// A round trip that nobody notices, as a ratio.
const AS_PROMPT: f64 = 1.15;

/// A cell of the thesis's column for what it does not tell.
const NOT_SAID: &str = "\u{2013}";

/// The first question.
pub(super) fn impact(figures: Figures<'_>) -> String {
    let title = "## How big is the impact of moving device emulation into userspace?";
    let Some(pair) = Comparison::of(figures, NicEmu, E1000) else {
        return format!("{title}\n\nNot answered: that takes runs of nic-emu and of QEMU's e1000.");
    };
    let polling = Comparison::of(figures, NicEmuPoll, E1000);
    let mut text = format!("{title}\n\n**{}**", pair.impact());
    if let Some(polling) = &polling {
        text += &format!(
            " With a daemon that stays awake for {} us after each event: {}",
            figures.0.settings.busy_poll_us,
            lowered(&polling.impact())
        );
    }
    if let Some(sentence) = places::sentence(figures, NicEmu) {
        text += &format!(" {sentence}");
    }
    text += "\n\nThe same model of a NIC, in nic-emu's process and in QEMU's own, as ratios to QEMU's e1000:\n\n";
    text += &ratios(
        figures,
        E1000,
        &[NicEmu, NicEmuPoll],
        &thesis::AGAINST_E1000,
    );
    text += "\n\n";
    text += &sentences(&pair, "QEMU's e1000");
    text += "\n\n";
    text += &thesis::impact(&pair.receive, &pair.send, shortest_trip(figures));
    text
}

/// The second question.
pub(super) fn viable(figures: Figures<'_>) -> String {
    let title = "## Is an emulated e1000 viable instead of virtio?";
    let Some(pair) = Comparison::of(figures, NicEmu, VirtioNet) else {
        return format!("{title}\n\nNot answered: that takes runs of nic-emu and of virtio-net.");
    };
    let mut text = format!("{title}\n\n**{}**", pair.viability());
    text += "\n\nAs ratios to virtio-net:\n\n";
    text += &ratios(
        figures,
        VirtioNet,
        &[NicEmu, NicEmuPoll, E1000, E1000e],
        &thesis::AGAINST_VIRTIO,
    );
    text += "\n\n";
    text += &sentences(&pair, "virtio-net");
    text += "\n\n";
    text += thesis::VIABLE;
    if figures.0.settings.accel == "tcg" {
        text += " Under TCG the distance is another one: what virtio-net saves are register accesses and segments, and the \
                 guest's slow processor hides or magnifies either.";
    }
    text
}

/// One NIC against another.
#[derive(Clone, Copy, Debug)]
struct Comparison {
    receive: Summary,
    send: Summary,
    /// Median round trip at the lowest rate; of pings if no rate was offered.
    latency: Summary,
    cpu: [Option<Summary>; 2],
    /// Frames echoed at the highest rate.
    overload: Option<Summary>,
}

impl Comparison {
    fn of(figures: Figures<'_>, nic: Contestant, to: Contestant) -> Option<Self> {
        let ratio = |metric: Metric| figures.ratio(nic, to, metric);
        let highest = figures.0.settings.rates.last().copied();
        Some(Self {
            receive: ratio(receive)?,
            send: ratio(send)?,
            latency: ratio(low_latency).or_else(|| ratio(ping))?,
            cpu: [ratio(receive_cpu), ratio(send_cpu)],
            overload: figures.ratio(nic, to, |run| load(run, highest?).map(Load::echoed_kpps)),
        })
    }

    /// The worse of the two directions.
    fn throughput(&self) -> f64 {
        self.receive.median.min(self.send.median)
    }

    fn impact(&self) -> String {
        let (fast, prompt) = (
            self.throughput() >= AS_FAST,
            self.latency.median <= AS_PROMPT,
        );
        let (rx, tx, trip) = (self.receive.median, self.send.median, self.latency.median);
        let figures = format!(
            "RX {rx:.2}x, TX {tx:.2}x, and a lone frame's round trip takes {trip:.2}x as long."
        );
        match (fast, prompt) {
            (true, true) => {
                format!("No cost shows, neither in throughput nor in latency: {figures}")
            }
            (true, false) => format!("It costs no throughput, but latency: {figures}"),
            (false, true) => format!("It costs throughput, but no latency: {figures}"),
            (false, false) => format!("It costs throughput and latency: {figures}"),
        }
    }

    fn viability(&self) -> String {
        let worst = self.throughput();
        let verdict = match (worst, self.latency.median) {
            (AS_FAST.., ..=AS_PROMPT) => {
                "Yes, as far as these figures reach: it is not behind in throughput or latency"
            }
            (AS_FAST.., _) => "For throughput yes, for latency it is behind",
            (0.5.., _) => {
                "Where the guest has no driver for virtio, yes; elsewhere it costs up to half of the throughput"
            }
            (0.2.., _) => {
                "Only where the guest has no driver for virtio: elsewhere, in its weaker direction, it costs most of the throughput"
            }
            _ => "No: in its weaker direction it is more than five times slower",
        };
        format!(
            "{verdict}: RX {:.2}x, TX {:.2}x, and a lone frame's round trip takes {:.2}x as long as with virtio-net.",
            self.receive.median, self.send.median, self.latency.median
        )
    }
}

/// A table of ratios to one NIC.
fn ratios(
    figures: Figures<'_>,
    to: Contestant,
    nics: &[Contestant],
    thesis: &thesis::Column,
) -> String {
    let nics: Vec<_> = nics.iter().filter(|&&nic| figures.has(nic)).collect();
    let mut text = "| |".to_owned();
    for nic in &nics {
        text += &format!(" {nic} |");
    }
    text += &format!(" {} |\n|---|{}", thesis.head, "---|".repeat(nics.len() + 1));
    let rates = &figures.0.settings.rates;
    let mut add = |name: &str, said: &str, metric: &dyn Fn(&Run) -> Option<f64>| {
        let ratio = |nic| figures.ratio(nic, to, metric);
        if nics.iter().any(|&&nic| ratio(nic).is_some()) {
            text += &format!("\n| {name} |");
            for &&nic in &nics {
                text += &format!(" {} |", times(ratio(nic)));
            }
            text += &format!(" {said} |");
        }
    };
    add("RX throughput", thesis.receive, &receive);
    add("TX throughput", thesis.send, &send);
    let lowest = rates.first().copied();
    for rate in rates.iter().copied() {
        let said = |said| {
            if rate == thesis::LOW_LOAD {
                said
            } else {
                NOT_SAID
            }
        };
        if lowest == Some(rate) || rate == thesis::LOW_LOAD {
            add(
                &format!("median round trip, {rate} frames/s"),
                said(thesis.median),
                &|run| load(run, rate).map(|load| load.trips.p50),
            );
            add(
                &format!("shortest round trip, {rate} frames/s"),
                said(thesis.shortest),
                &|run| load(run, rate).map(|load| load.trips.min),
            );
        }
    }
    add("median ping", NOT_SAID, &ping);
    add("processor time per gigabyte, RX", NOT_SAID, &receive_cpu);
    add("processor time per gigabyte, TX", NOT_SAID, &send_cpu);
    for &rate in rates.iter().skip(1) {
        add(&format!("echoed of {rate} frames/s"), NOT_SAID, &|run| {
            load(run, rate).map(Load::echoed_kpps)
        });
    }
    text
}

/// The shortest round trip at the thesis's low load, or else at ours, to QEMU's e1000.
fn shortest_trip(figures: Figures<'_>) -> Option<Summary> {
    let of = |rate: u32| {
        figures.ratio(NicEmu, E1000, |run| {
            load(run, rate).map(|load| load.trips.min)
        })
    };
    of(thesis::LOW_LOAD).or_else(|| of(*figures.0.settings.rates.first()?))
}

/// What holds in every round, what in most, and what does not differ.
fn sentences(pair: &Comparison, to: &str) -> String {
    let mut all = vec![
        ("RX", pair.receive, "faster", "slower"),
        ("TX", pair.send, "faster", "slower"),
        (
            "a lone frame's round trip",
            pair.latency,
            "longer",
            "shorter",
        ),
    ];
    let cpu = ["a gigabyte of RX", "a gigabyte of TX"]
        .into_iter()
        .zip(pair.cpu);
    all.extend(cpu.filter_map(|(what, cpu)| Some((what, cpu?, "dearer", "cheaper"))));
    let echoed = "what is echoed at the highest rate";
    all.extend(
        pair.overload
            .map(|overload| (echoed, overload, "more", "less")),
    );
    let (mut every, mut most, mut none) = (Vec::new(), Vec::new(), Vec::new());
    for (what, ratio, above, below) in all {
        match ratio.standing() {
            Standing::Above { surely: true } => every.push(format!("{what} {above}")),
            Standing::Below { surely: true } => every.push(format!("{what} {below}")),
            Standing::Above { surely: false } => most.push(format!("{what} {above}")),
            Standing::Below { surely: false } => most.push(format!("{what} {below}")),
            Standing::Level => none.push(what.to_owned()),
        }
    }
    let mut text = format!("Without polling, against {to}.");
    for (when, what) in [
        ("In every round", every),
        ("In the median, not in every round", most),
        ("No difference", none),
    ] {
        if !what.is_empty() {
            text += &format!(" {when}: {}.", what.join(", "));
        }
    }
    text
}

fn lowered(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_lowercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}
