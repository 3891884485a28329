//! Figures, and how they are told.

use std::collections::BTreeMap;
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
    /// What came of it.
    #[serde(flatten)]
    pub results: Results,
}

/// What was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// Times, beside their floors.
    pub figures: Vec<Figure>,
    /// Guests at work with a daemon.
    pub work: Vec<Work>,
    /// Lone frames' round trips.
    pub trips: Vec<Trips>,
}

/// What a frame costs with doorbells and interrupts as a real driver has them. Everything but the first two is per frame.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Work {
    /// `work.tap.tx.60`.
    pub name: String,
    /// Frames.
    pub frames: u64,
    /// Frames per second.
    pub per_second: f64,
    /// Processor time of the daemon, in nanoseconds.
    pub processor_ns: f64,
    /// Messages to the daemon.
    pub messages: f64,
    /// Interrupts of the daemon.
    pub interrupts: f64,
    /// System calls of the daemon, by name; counted by an strace, under which it is slower and has larger batches.
    pub system_calls: BTreeMap<String, f64>,
}

/// How long lone frames took there and back, in nanoseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trips {
    /// `trip.switch.60`.
    pub name: String,
    /// Round trips.
    pub count: u64,
    /// Half of them took less.
    pub p50: u64,
    /// Nine in ten took less.
    pub p90: u64,
    /// All but one in a hundred took less.
    pub p99: u64,
    /// All but one in a thousand took less.
    pub p999: u64,
    /// The longest.
    pub max: u64,
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
    /// Processor time of the daemon per frame, if there is a daemon.
    pub processor_ns: Option<f64>,
    /// What the same frames cost at the least.
    pub floor: Option<Floor>,
    /// What they cost if that, too, has to spread them over memory as a NIC does.
    #[serde(default)]
    pub spread_floor: Option<Floor>,
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
            Some(goal) if goal.met => write!(f, ", goal {} reached", goal.least)?,
            Some(goal) => write!(f, ", goal {} MISSED", goal.least)?,
            None => {}
        }
        match &self.spread_floor {
            Some(Floor { what, ns, ratio }) => {
                write!(f, "; {ratio:.2} times {what} ({:.1} ns)", ns.median)
            }
            None => Ok(()),
        }
    }
}

/// One line.
impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:24} {:.3} M/s; per frame: {:.0} ns of the daemon's processor time, {:.4} messages, {:.4} interrupts",
            self.name,
            self.per_second / 1e6,
            self.processor_ns,
            self.messages,
            self.interrupts
        )?;
        if !self.system_calls.is_empty() {
            write!(
                f,
                ", {:.4} system calls",
                self.system_calls.values().sum::<f64>()
            )?;
        }
        for (name, calls) in self
            .system_calls
            .iter()
            .filter(|(_, calls)| **calls >= 0.001)
        {
            write!(f, ", {name} {calls:.4}")?;
        }
        Ok(())
    }
}

/// One line, in microseconds.
impl fmt::Display for Trips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |ns: u64| ns as f64 / 1e3;
        write!(
            f,
            "{:24} median {:.1} us, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, longest {:.1} of {} round trips",
            self.name,
            us(self.p50),
            us(self.p90),
            us(self.p99),
            us(self.p999),
            us(self.max),
            self.count
        )
    }
}

impl Report {
    /// All figures, a line each, and what went on beside them.
    #[must_use]
    pub fn table(&self) -> String {
        let Results {
            figures,
            work,
            trips,
        } = &self.results;
        let lines = figures.iter().map(ToString::to_string);
        let lines = lines.chain(work.iter().map(ToString::to_string));
        let lines = lines.chain(trips.iter().map(ToString::to_string));
        let mut text = lines.collect::<Vec<_>>().join("\n") + "\n";
        let beside = |what: &str, of: fn(&Figure) -> Option<f64>| {
            let of_all = Spread::of(figures.iter().filter_map(of));
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
            figures.iter().map(|figure| figure.repeated).sum::<usize>()
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
        let [new, old] = [self, old].map(|report| &report.results);
        for new in &new.figures {
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
        for new in &new.work {
            if let Some(old) = old.work.iter().find(|old| old.name == new.name) {
                lines.push(format!(
                    "{:24} {:6.2} times as fast, {:.2} of the processor time, {:.2} of the messages, {:.2} of the \
                     interrupts",
                    new.name,
                    new.per_second / old.per_second,
                    new.processor_ns / old.processor_ns,
                    new.messages / old.messages,
                    new.interrupts / old.interrupts
                ));
            }
        }
        for new in &new.trips {
            if let Some(old) = old.trips.iter().find(|old| old.name == new.name) {
                let ratio = new.p50 as f64 / old.p50 as f64;
                lines.push(format!(
                    "{:24} {ratio:6.2} of the median round trip",
                    new.name
                ));
            }
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
            spread_floor: None,
            goal: Some(Goal::new("share", 0.7, 50.0 / ns)),
            processor_ns: None,
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
            results: Results {
                figures: vec![figure],
                work: vec![Work {
                    name: "work.null.tx.60".into(),
                    frames: 1000,
                    per_second: 1e9 / ns,
                    processor_ns: ns,
                    messages: 1.0,
                    interrupts: 0.01,
                    system_calls: BTreeMap::from([("recvmsg".into(), 0.5)]),
                }],
                trips: vec![Trips {
                    name: "trip.switch.60".into(),
                    count: 10,
                    p50: ns as u64,
                    p90: 300,
                    p99: 400,
                    p999: 500,
                    max: 600,
                }],
            },
        }
    }

    #[test]
    fn the_same_machine_and_commit_need_no_note() {
        let (now, then) = (report("a", "m", 100.0), report("a", "m", 200.0));
        let lines = now.beside(&then);
        assert_eq!(lines.len(), 3);
        assert!(lines[0].contains("2.00 times as fast, 0.50 of the floor now, 0.25 then"));
        assert!(
            lines[1]
                .contains("2.00 times as fast, 0.50 of the processor time, 1.00 of the messages")
        );
        assert!(lines[2].contains("0.50 of the median round trip"));
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
            report("a", "m", 60.0).results.figures[0]
                .to_string()
                .contains("goal 0.7 reached")
        );
        assert!(
            report("a", "m", 100.0).results.figures[0]
                .to_string()
                .contains("goal 0.7 MISSED")
        );
    }

    #[test]
    fn a_report_survives_its_file() {
        let text = serde_json::to_string(&report("a", "m", 100.0)).unwrap();
        let read: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(read.results.figures[0].ns, spread(100.0));
    }
}
