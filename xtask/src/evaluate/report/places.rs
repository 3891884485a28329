//! What it comes to where threads run: the same NICs placed, and where the kernel likes.

use super::super::contestant::Contestant::{self, E1000, NicEmu, NicEmuPoll};
use super::super::record::Run;
use super::super::stats::Summary;
use super::tables::{figure, times};
use super::{Figures, Metric, low_latency, ping, receive, send};

/// A metric, and whether more of it is better.
const METRICS: [(&str, Metric, bool); 4] = [
    ("RX, Mbit/s", receive, true),
    ("TX, Mbit/s", send, true),
    (
        "median round trip at the lowest rate, us",
        low_latency,
        false,
    ),
    ("median ping, us", ping, false),
];

/// The section, if NICs have run in both places.
pub(super) fn section(figures: Figures<'_>) -> Option<String> {
    let both: Vec<Contestant> = figures
        .0
        .nics()
        .into_iter()
        .filter(|&nic| other(figures, nic).is_some())
        .collect();
    if both.is_empty() {
        return None;
    }
    let mut text = format!(
        "## Where threads run\n\nEverything above is of NICs that were placed. The same ones without that, in the same rounds, nothing \
         placed at all{}:\n\n|  |",
        match figures
            .0
            .settings
            .nics
            .contains(&Contestant::NicEmuPollAnywhere)
        {
            true => format!(
                " and the daemon that polls awake for {} us",
                figures.0.settings.busy_poll_anywhere_us
            ),
            false => String::new(),
        }
    );
    for (name, ..) in METRICS {
        text += &format!(" {name}: placed | anywhere |");
    }
    text += &format!("\n|---|{}", "---|---|".repeat(METRICS.len()));
    for &nic in &both {
        text += &format!("\n| {nic} |");
        for (_, metric, _) in METRICS {
            let anywhere = other(figures, nic).and_then(|other| figures.of(other, metric));
            text += &format!(
                " {} | {} |",
                figure(figures.of(nic, metric)),
                figure(anywhere)
            );
        }
    }
    let ours = [NicEmu, NicEmuPoll]
        .into_iter()
        .filter(|nic| both.contains(nic));
    let rows: Vec<String> = ours.filter_map(|nic| to_e1000(figures, nic)).collect();
    if !rows.is_empty() {
        text += "\n\nRatios to QEMU's e1000, of runs of the same round: both placed, neither, and each in that place of the \
                 two in which its own median is better.\n\n|  |  | both placed | both anywhere | each at its best |\n|---|---|---|---|---|\n";
        text += &rows.join("\n");
    }
    Some(text)
}

/// The same in a sentence, of one NIC.
pub(super) fn sentence(figures: Figures<'_>, nic: Contestant) -> Option<String> {
    let (ours, theirs) = (other(figures, nic)?, other(figures, E1000)?);
    let of = |metric: Metric| Some(figures.ratio(ours, theirs, metric)?.median);
    Some(format!(
        "With neither placed it is RX {:.2}x, TX {:.2}x, and {:.2}x as long for a lone frame (see [below](#where-threads-run)).",
        of(receive)?,
        of(send)?,
        of(low_latency)?
    ))
}

fn other(figures: Figures<'_>, nic: Contestant) -> Option<Contestant> {
    nic.anywhere().filter(|&nic| figures.has(nic))
}

fn to_e1000(figures: Figures<'_>, nic: Contestant) -> Option<String> {
    let (ours, theirs) = (other(figures, nic)?, other(figures, E1000)?);
    let row = |&(name, metric, more): &(&str, Metric, bool)| {
        let name = name.split(',').next().unwrap_or_default();
        let best = figures.ratio(
            better(figures, [nic, ours], metric, more),
            better(figures, [E1000, theirs], metric, more),
            metric,
        );
        format!(
            "| {nic} | {name} | {} | {} | {} |",
            times(figures.ratio(nic, E1000, metric)),
            times(figures.ratio(ours, theirs, metric)),
            times(best)
        )
    };
    Some(METRICS.iter().map(row).collect::<Vec<_>>().join("\n"))
}

/// In which of two places a NIC's median is better.
fn better(
    figures: Figures<'_>,
    [placed, anywhere]: [Contestant; 2],
    metric: impl Fn(&Run) -> Option<f64> + Copy,
    more: bool,
) -> Contestant {
    let median = |nic| {
        figures
            .of(nic, metric)
            .map(|summary: Summary| summary.median)
    };
    match (median(placed), median(anywhere)) {
        (Some(here), Some(there)) if (there > here) == more && there != here => anywhere,
        _ => placed,
    }
}
