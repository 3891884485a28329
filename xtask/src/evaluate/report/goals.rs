//! What nic-emu sets out to reach, and whether it does.

use super::super::contestant::Contestant::{self, E1000, E1000e, NicEmu, NicEmuPoll};
use super::super::record::{Bare, Load, Run};
use super::super::stats::Summary;
use super::{Figures, load, low_latency, receive, send};

/// Of frames that are offered at the same rate one run's generator sends a few more than another's: so much of a ratio
/// of what was echoed is chance.
const ECHO_SLACK: f64 = 0.005;

/// Ratios with a bound.
struct Goal {
    what: String,
    bound: Bound,
    /// One for each round that has both figures.
    ratios: Vec<f64>,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// Frames echoed: at least as many, but for [`ECHO_SLACK`].
    AsMany,
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
            Self::AsMany => value >= 1.0 - ECHO_SLACK,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("\u{2265} {bound}"),
            Self::AtMost(bound) => format!("\u{2264} {bound}"),
            Self::AsMany => format!("\u{2265} 1 (\u{2212} {} %)", ECHO_SLACK * 100.0),
        }
    }
}

impl Goal {
    fn row(&self) -> Option<String> {
        let ratio = Summary::of(self.ratios.iter().copied())?;
        let finite = self.ratios.iter().filter(|ratio| ratio.is_finite());
        let held = finite.filter(|&&ratio| self.bound.holds(ratio)).count();
        let verdict = match self.bound.holds(ratio.median) {
            true if held == ratio.count => "reached",
            true => "reached in the median",
            false => "**missed**",
        };
        Some(format!(
            "| {} | {} | {ratio:.3} | {verdict} | {held} of {} |",
            self.what,
            self.bound.text(),
            ratio.count
        ))
    }
}

pub(super) fn section(figures: Figures<'_>) -> String {
    format!(
        "## Goals\n\nWhat this project means to reach, as ratios of runs of the same round; judged by the \
         median, and unrounded.\n\n{}",
        table(figures)
    )
}

pub(super) fn table(figures: Figures<'_>) -> String {
    let rows: Vec<String> = goals(figures).iter().filter_map(Goal::row).collect();
    if rows.is_empty() {
        return "None can be judged: that takes runs of nic-emu and of QEMU's e1000.".to_owned();
    }
    format!(
        "| | goal | ratio | | rounds |\n|---|---|---|---|---|\n{}",
        rows.join("\n")
    )
}

fn goals(figures: Figures<'_>) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut goal = |what: String, bound, ratios| {
        goals.push(Goal {
            what,
            bound,
            ratios,
        });
    };
    let of = |nic: Contestant| nic.label();
    for nic in [NicEmu, NicEmuPoll] {
        goal(
            format!("{}: TX to QEMU's e1000e", of(nic)),
            Bound::AtLeast(1.0),
            figures.ratios(nic, E1000e, send),
        );
        goal(
            format!("{}: TX to QEMU's e1000", of(nic)),
            Bound::AtLeast(1.8),
            figures.ratios(nic, E1000, send),
        );
        goal(
            format!("{}: RX to QEMU's e1000", of(nic)),
            Bound::AtLeast(1.3),
            figures.ratios(nic, E1000, receive),
        );
        let longest = if nic == NicEmuPoll { 1.15 } else { 1.3 };
        goal(
            format!("{}: median round trip at low load to QEMU's e1000", of(nic)),
            Bound::AtMost(longest),
            figures.ratios(nic, E1000, low_latency),
        );
        for &rate in figures.0.settings.rates.iter().skip(1) {
            let echoed = |run: &Run| load(run, rate).map(Load::echoed_kpps);
            goal(
                format!("{}: echoed of {rate} frames/s to QEMU's e1000", of(nic)),
                Bound::AsMany,
                figures.ratios(nic, E1000, echoed),
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
                figures.ratios(nic, E1000, pps),
            );
        }
    }
    goals
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(bound: Bound, ratios: &[f64]) -> String {
        let goal = Goal {
            what: "x".into(),
            bound,
            ratios: ratios.to_vec(),
        };
        goal.row().unwrap()
    }

    #[test]
    fn goals_are_judged_by_the_median() {
        let least = Bound::AtLeast(1.3);
        assert!(judged(least, &[1.3, 1.4, 1.5]).ends_with("| reached | 3 of 3 |"));
        assert!(judged(least, &[1.2, 1.4, 1.5]).ends_with("| reached in the median | 2 of 3 |"));
        assert!(judged(least, &[1.2, 1.29, 1.5]).ends_with("| **missed** | 1 of 3 |"));
        let most = Bound::AtMost(1.15);
        assert!(judged(most, &[1.0, 1.1, 1.15]).ends_with("| reached | 3 of 3 |"));
        assert!(judged(most, &[1.0, 1.16, 1.2]).ends_with("| **missed** | 1 of 3 |"));
    }

    #[test]
    fn what_is_nearly_reached_is_missed() {
        let missed = judged(Bound::AtLeast(1.3), &[1.2991, 1.2991, 1.4]);
        assert_eq!(
            missed,
            "| x | \u{2265} 1.3 | 1.299 (1.299 to 1.400) | **missed** | 1 of 3 |"
        );
        assert!(judged(Bound::AtMost(1.15), &[1.151]).contains("missed"));
        // Two frames fewer of 80 000 are as many; one in a hundred is not.
        assert!(judged(Bound::AsMany, &[0.99998]).ends_with("| reached | 1 of 1 |"));
        assert!(judged(Bound::AsMany, &[0.99]).contains("missed"));
    }

    #[test]
    fn a_ratio_to_nothing_is_no_round() {
        let nothing = [f64::INFINITY, 1.4, f64::NAN];
        assert!(judged(Bound::AtLeast(1.3), &nothing).ends_with("| reached | 1 of 1 |"));
    }
}
