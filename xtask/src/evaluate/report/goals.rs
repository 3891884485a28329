//! What nic-emu sets out to reach, and whether it does.

use super::super::contestant::Contestant::{self, E1000, E1000e, NicEmu, NicEmuPoll};
use super::super::record::{Bare, Load, Run};
use super::super::stats::Summary;
use super::{Figures, load, low_latency, receive, send};

/// A ratio with a bound.
struct Goal {
    what: String,
    bound: Bound,
    ratio: Option<Summary>,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    /// Judged as it is written: two frames fewer of 80 000 are as many.
    fn holds(self, value: f64) -> bool {
        let value = (value * 100.0).round() / 100.0;
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("\u{2265} {bound}"),
            Self::AtMost(bound) => format!("\u{2264} {bound}"),
        }
    }
}

impl Goal {
    fn row(&self) -> Option<String> {
        let ratio = self.ratio?;
        let every = [ratio.min, ratio.max].map(|end| self.bound.holds(end));
        let verdict = match (self.bound.holds(ratio.median), every) {
            (true, [true, true]) => "reached in every round",
            (true, _) => "reached in the median",
            (false, _) => "**missed**",
        };
        Some(format!(
            "| {} | {} | {:.2} ({:.2} to {:.2}) | {verdict} |",
            self.what,
            self.bound.text(),
            ratio.median,
            ratio.min,
            ratio.max
        ))
    }
}

pub(super) fn section(figures: Figures<'_>) -> String {
    format!(
        "## Goals\n\nWhat this project means to reach, as ratios of runs of the same round; judged by the median.\n\n{}",
        table(figures)
    )
}

pub(super) fn table(figures: Figures<'_>) -> String {
    let rows: Vec<String> = goals(figures).iter().filter_map(Goal::row).collect();
    if rows.is_empty() {
        return "None can be judged: that takes runs of nic-emu and of QEMU's e1000.".to_owned();
    }
    format!(
        "| | goal | ratio | |\n|---|---|---|---|\n{}",
        rows.join("\n")
    )
}

fn goals(figures: Figures<'_>) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut goal = |what: String, bound, ratio| goals.push(Goal { what, bound, ratio });
    let latency = |nic, to| figures.ratio(nic, to, low_latency);
    let of = |nic: Contestant| nic.label();
    for nic in [NicEmu, NicEmuPoll] {
        goal(
            format!("{}: TX to QEMU's e1000e", of(nic)),
            Bound::AtLeast(1.0),
            figures.ratio(nic, E1000e, send),
        );
        goal(
            format!("{}: TX to QEMU's e1000", of(nic)),
            Bound::AtLeast(1.8),
            figures.ratio(nic, E1000, send),
        );
        goal(
            format!("{}: RX to QEMU's e1000", of(nic)),
            Bound::AtLeast(1.3),
            figures.ratio(nic, E1000, receive),
        );
        let longest = if nic == NicEmuPoll { 1.15 } else { 1.3 };
        goal(
            format!("{}: median round trip at low load to QEMU's e1000", of(nic)),
            Bound::AtMost(longest),
            latency(nic, E1000),
        );
        for &rate in figures.0.settings.rates.iter().skip(1) {
            let echoed = |run: &Run| load(run, rate).map(Load::echoed_kpps);
            goal(
                format!("{}: echoed of {rate} frames/s to QEMU's e1000", of(nic)),
                Bound::AtLeast(1.0),
                figures.ratio(nic, E1000, echoed),
            );
        }
        let receive_pps: fn(&Bare) -> f64 = |bare| bare.receive_pps;
        let send_pps: fn(&Bare) -> f64 = |bare| bare.send_pps;
        let bare = [("RX", receive_pps), ("TX", send_pps)];
        for (direction, value) in bare {
            let pps = |run: &Run| run.bare.as_ref().map(value);
            goal(
                format!(
                    "{}: bare guest, {direction} frames/s to QEMU's e1000",
                    of(nic)
                ),
                Bound::AtLeast(1.0),
                figures.ratio(nic, E1000, pps),
            );
        }
    }
    goals
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(bound: Bound, values: &[f64]) -> String {
        let goal = Goal {
            what: "x".into(),
            bound,
            ratio: Summary::of(values.iter().copied()),
        };
        goal.row().unwrap()
    }

    #[test]
    fn goals_are_judged_by_the_median() {
        let least = Bound::AtLeast(1.3);
        assert!(verdict(least, &[1.3, 1.4, 1.5]).ends_with("| reached in every round |"));
        assert!(verdict(least, &[1.2, 1.4, 1.5]).ends_with("| reached in the median |"));
        assert!(verdict(least, &[1.2, 1.29, 1.5]).ends_with("| **missed** |"));
        assert!(verdict(least, &[1.299, 1.299, 1.3]).ends_with("| reached in every round |"));
        let most = Bound::AtMost(1.15);
        assert!(verdict(most, &[1.0, 1.1, 1.15]).ends_with("| reached in every round |"));
        assert!(verdict(most, &[1.0, 1.16, 1.2]).ends_with("| **missed** |"));
    }
}
