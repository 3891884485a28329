//! Figures, and how they are told.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::stats::Spread;

/// All figures of a run, and what they depend on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// `native`.
    pub bench: String,
    /// The commit that was measured.
    pub commit: String,
    /// The machine that it was measured on.
    pub machine: Value,
    /// The command that did it.
    pub command: String,
    /// The figures.
    pub figures: Vec<Figure>,
}

/// One thing measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// `engine.tap.tx.60`: how it was driven, the backend, the direction, the bytes of a frame.
    pub name: String,
    /// Nanoseconds per frame.
    pub ns: Spread,
    /// Frames per second, from the median.
    pub per_second: f64,
    /// What the same frames cost at the least.
    pub floor: Option<Floor>,
    /// What was aimed at.
    pub goal: Option<Goal>,
    /// A getppid, meanwhile.
    pub getppid_ns: Option<Spread>,
    /// A word passed to the other processor and back, meanwhile.
    pub ping_pong_ns: Option<Spread>,
    /// Processor time that went to other virtual machines, in percent.
    pub steal_percent: f64,
    /// Processor time that other processes used, in percent.
    pub foreign_percent: f64,
    /// Rounds that were run again because time was stolen.
    pub repeated: usize,
}

/// Something that takes the least.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Floor {
    /// What it does.
    pub what: String,
    /// Nanoseconds per frame.
    pub ns: Spread,
    /// Frames per second of ours, as a share of those of the floor, slice by slice.
    pub ratio: Spread,
}

/// What was aimed at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    /// In words.
    pub what: String,
    /// What the value has to be at least.
    pub least: f64,
    /// What it was.
    pub reached: f64,
    /// Whether that is enough.
    pub met: bool,
}

impl Goal {
    /// Whether `reached` is enough.
    #[must_use]
    pub fn new(what: &str, least: f64, reached: f64) -> Self {
        Self {
            what: what.to_owned(),
            least,
            reached,
            met: reached >= least,
        }
    }
}

/// One line.
impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, ns, .. } = self;
        let millions = self.per_second / 1e6;
        write!(f, "{name:24} {ns:.1} ns, {millions:.3} M/s")?;
        if let Some(Floor { what, ns, ratio }) = &self.floor {
            write!(f, ", {ratio:.2} times {what} ({:.1} ns)", ns.median)?;
        }
        match &self.goal {
            Some(goal) if goal.met => write!(f, ", goal {} reached", goal.least),
            Some(goal) => write!(f, ", goal {} MISSED", goal.least),
            None => Ok(()),
        }
    }
}

impl Report {
    /// All figures, a line each, and what went on beside them.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text: String = self
            .figures
            .iter()
            .map(|figure| format!("{figure}\n"))
            .collect();
        let beside = |what: &str, of: fn(&Figure) -> Option<f64>| {
            let of_all = Spread::of(self.figures.iter().filter_map(of));
            of_all
                .map(|all| format!("{what} {all:.1}\n"))
                .unwrap_or_default()
        };
        text += "\nmedian (p10 to p90) of slices, and meanwhile, over all figures:\n";
        text += &beside("  getppid, ns:", |figure| Some(figure.getppid_ns?.median));
        text += &beside("  shared-memory ping-pong, ns:", |figure| {
            Some(figure.ping_pong_ns?.median)
        });
        text += &beside("  stolen, %:", |figure| Some(figure.steal_percent));
        text += &beside("  used by others, %:", |figure| {
            Some(figure.foreign_percent)
        });
        text += &format!(
            "  slices repeated for steal: {}\n",
            self.figures
                .iter()
                .map(|figure| figure.repeated)
                .sum::<usize>()
        );
        text
    }

    /// One line for each figure that `old` has, too: how often as fast, and what makes the two hard to compare.
    #[must_use]
    pub fn beside(&self, old: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.machine != old.machine {
            lines.push(format!(
                "another machine: {} now, {} then; only ratios to floors mean anything",
                self.machine, old.machine
            ));
        }
        if self.commit != old.commit {
            lines.push(format!("commit {} now, {} then", self.commit, old.commit));
        }
        for new in &self.figures {
            let Some(old) = old.figures.iter().find(|old| old.name == new.name) else {
                continue;
            };
            let faster = old.ns.median / new.ns.median;
            let mut line = format!("{:24} {faster:6.2} times as fast", new.name);
            if let (Some(new), Some(old)) = (&new.floor, &old.floor) {
                line += &format!(
                    ", {:.2} of the floor now, {:.2} then",
                    new.ratio.median, old.ratio.median
                );
            }
            lines.push(line);
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(median: f64) -> Spread {
        Spread {
            median,
            p10: median,
            p90: median,
            count: 1,
        }
    }

    fn report(commit: &str, machine: &str, ns: f64) -> Report {
        let floor = Floor {
            what: "a loop".into(),
            ns: spread(50.0),
            ratio: spread(50.0 / ns),
        };
        let figure = Figure {
            name: "engine.null.tx.60".into(),
            ns: spread(ns),
            per_second: 1e9 / ns,
            floor: Some(floor),
            goal: Some(Goal::new("share", 0.7, 50.0 / ns)),
            getppid_ns: None,
            ping_pong_ns: None,
            steal_percent: 0.0,
            foreign_percent: 0.0,
            repeated: 0,
        };
        Report {
            bench: "native".into(),
            commit: commit.into(),
            machine: machine.into(),
            command: "bench".into(),
            figures: vec![figure],
        }
    }

    #[test]
    fn the_same_machine_and_commit_need_no_note() {
        let (now, then) = (report("a", "m", 100.0), report("a", "m", 200.0));
        let lines = now.beside(&then);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("2.00 times as fast, 0.50 of the floor now, 0.25 then"));
    }

    #[test]
    fn another_machine_and_commit_are_told() {
        let (now, then) = (report("b", "n", 100.0), report("a", "m", 100.0));
        let lines = now.beside(&then);
        assert!(lines[0].contains("another machine"), "{lines:?}");
        assert!(lines[1].contains("commit b now, a then"), "{lines:?}");
    }

    #[test]
    fn a_goal_is_reached_or_missed() {
        assert!(
            report("a", "m", 60.0).figures[0]
                .to_string()
                .contains("goal 0.7 reached")
        );
        assert!(
            report("a", "m", 100.0).figures[0]
                .to_string()
                .contains("goal 0.7 MISSED")
        );
    }

    #[test]
    fn a_report_survives_its_file() {
        let text = serde_json::to_string(&report("a", "m", 100.0)).unwrap();
        let read: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(read.figures[0].ns, spread(100.0));
    }
}
