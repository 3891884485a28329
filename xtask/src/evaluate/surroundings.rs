//! What else went on in the machine while something was measured, and how fast it was.

use std::thread;

use anyhow::Result;
use nic_emu_tests::background::Background;
use nic_emu_tests::processors::{CpuTime, Processes};
use serde::{Deserialize, Serialize};

use super::stats::Summary;
use crate::placement;

/// What a run had around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Surroundings {
    /// Share of all processor time that processes used which this command has not started.
    pub(crate) foreign_percent: f64,
    /// Nanoseconds of a getppid, before and after the measurements.
    pub(crate) getppid_ns: f64,
    /// Nanoseconds from the first processor to the last one and back, through shared memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ping_pong_ns: Option<f64>,
}

/// Looks from its beginning to its end.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    /// The processors that there are.
    cpus: &'a [usize],
    moments: Vec<Moment>,
    processes: Processes,
    usage: CpuTime,
}

/// A getppid, and a word to another processor and back.
type Moment = (f64, Option<f64>);

/// Looks at the machine's speed at each end of a watch. The median of all counts.
const MOMENTS: usize = 5;

impl<'a> Watch<'a> {
    pub(super) fn begin(cpus: &'a [usize]) -> Result<Self> {
        Ok(Self {
            cpus,
            moments: moments(cpus),
            processes: Processes::now()?,
            usage: CpuTime::now(),
        })
    }

    /// What it saw, and the share of stolen time.
    pub(super) fn end(mut self) -> Result<(Surroundings, f64)> {
        let usage = CpuTime::now().since(self.usage);
        let spent = Processes::now()?.since(&self.processes);
        self.moments.extend(moments(self.cpus));
        let median = |values: &mut dyn Iterator<Item = f64>| Summary::of(values).map(|s| s.median);
        let all = || self.moments.iter();
        let surroundings = Surroundings {
            foreign_percent: usage.percent_of(spent.others),
            getppid_ns: median(&mut all().map(|moment| moment.0)).unwrap_or_default(),
            ping_pong_ns: median(&mut all().filter_map(|moment| moment.1)),
        };
        Ok((surroundings, usage.steal_percent()))
    }
}

/// On a thread of its own, which can stay on one processor.
fn moments(cpus: &[usize]) -> Vec<Moment> {
    let look = || {
        if let Some(&first) = cpus.first() {
            // Where it is refused, what is measured is still what it says it is: a word between two threads.
            let _ = placement::run_on(&[first]);
        }
        let partner = cpus.last().filter(|_| cpus.len() > 1);
        let background = Background::new(partner.copied());
        // Threads wake up, caches fill.
        let _ = (background.getppid(), background.ping_pong());
        (0..MOMENTS)
            .map(|_| (background.getppid(), background.ping_pong()))
            .collect()
    };
    thread::scope(|scope| scope.spawn(look).join().unwrap_or_default())
}

impl Surroundings {
    /// Of two stretches of a run, as bad as the worse one.
    pub(super) fn worse(self, other: Self) -> Self {
        let both = self.ping_pong_ns.zip(other.ping_pong_ns);
        Self {
            foreign_percent: self.foreign_percent.max(other.foreign_percent),
            getppid_ns: self.getppid_ns.max(other.getppid_ns),
            ping_pong_ns: both.map(|(one, other)| one.max(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_sees_the_machine() {
        let watch = Watch::begin(&[0]).unwrap();
        let (alone, steal) = watch.end().unwrap();
        assert!(alone.getppid_ns > 0.0 && alone.foreign_percent >= 0.0 && steal >= 0.0);
        assert_eq!(alone.ping_pong_ns, None);
        let all = placement::usable().unwrap();
        let (surroundings, _) = Watch::begin(&all).unwrap().end().unwrap();
        assert_eq!(surroundings.ping_pong_ns.is_some(), all.len() > 1);
        let worse = alone.worse(surroundings);
        assert!(worse.getppid_ns >= alone.getppid_ns);
        assert!(worse.getppid_ns >= surroundings.getppid_ns);
    }
}
