//! When which NIC has to be looked at again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use nic_emu::Time;

/// Deadlines of numbered NICs, at most one that counts for each.
///
/// A deadline that was moved or cleared stays in the heap until it comes up and is then dropped; so moving one
/// costs a push, and the heap is rebuilt when most of it is stale.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Time, usize)>>,
    current: Vec<Option<Time>>,
}

impl Timers {
    /// Sets or clears the deadline of `nic`.
    pub(crate) fn set(&mut self, nic: usize, deadline: Option<Time>) {
        if self.current.len() <= nic {
            self.current.resize(nic + 1, None);
        }
        if self.current[nic] == deadline {
            return;
        }
        self.current[nic] = deadline;
        if let Some(deadline) = deadline {
            self.heap.push(Reverse((deadline, nic)));
            if self.heap.len() > 4 * self.current.len() + 64 {
                self.rebuild();
            }
        }
    }

    /// The earliest deadline.
    pub(crate) fn next(&mut self) -> Option<Time> {
        while let Some(&Reverse((deadline, nic))) = self.heap.peek() {
            if self.current[nic] == Some(deadline) {
                return Some(deadline);
            }
            self.heap.pop();
        }
        None
    }

    /// Takes one NIC whose deadline has come.
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<usize> {
        if self.next()? > now {
            return None;
        }
        let Reverse((_, nic)) = self.heap.pop()?;
        self.current[nic] = None;
        Some(nic)
    }

    fn rebuild(&mut self) {
        self.heap.clear();
        let current = self.current.iter().enumerate();
        self.heap.extend(
            current.filter_map(|(nic, deadline)| deadline.map(|deadline| Reverse((deadline, nic)))),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_moved_deadline_fires_once() {
        let mut timers = Timers::default();
        timers.set(0, Some(Time(10)));
        timers.set(0, Some(Time(30)));
        timers.set(1, Some(Time(20)));
        assert_eq!(timers.next(), Some(Time(20)));
        assert_eq!(timers.pop_due(Time(25)), Some(1));
        assert_eq!(timers.pop_due(Time(25)), None);
        assert_eq!(timers.pop_due(Time(30)), Some(0));
        assert_eq!(timers.next(), None);
    }

    proptest! {
        /// The heap agrees with a list that is searched, however deadlines are moved, and stays small.
        #[test]
        fn agrees_with_a_list(steps in proptest::collection::vec((0usize..4, proptest::option::of(0u64..50)), 0..400)) {
            let mut timers = Timers::default();
            let mut list = [None; 4];
            for (nic, deadline) in steps {
                timers.set(nic, deadline.map(Time));
                list[nic] = deadline.map(Time);
                prop_assert_eq!(timers.next(), list.iter().flatten().min().copied());
                prop_assert!(timers.heap.len() <= 4 * 4 + 65);
            }
            let mut due: Vec<_> = std::iter::from_fn(|| timers.pop_due(Time(50))).collect();
            due.sort_unstable();
            let expected: Vec<_> = (0..4).filter(|&nic| list[nic].is_some()).collect();
            prop_assert_eq!(due, expected);
        }
    }
}
