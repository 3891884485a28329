//! Which processors a guest and its NIC run on, as an operator decides it who gives guests processors of their own.

use std::io;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nic_emu_lab::Lab;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

/// Wherever the kernel likes.
const ANY: &str = "any";

/// Options of whatever compares NICs.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub(crate) struct Options {
    /// Processors of QEMU with all of its threads, whichever NIC it has: numbers and ranges such as 2,8-11, or `any` for
    /// wherever the kernel likes. By default one, if there are others for the rest.
    #[arg(long, value_name = "LIST")]
    guest_cpus: Option<String>,

    /// The processor of nic-emu's daemon, or `any`. By default that of QEMU, if it has one: then nobody sleeps on another
    /// processor that has to be woken up before a register access is answered.
    #[arg(long, value_name = "CPU")]
    daemon_cpu: Option<String>,
}

/// Where a guest runs, and its daemon; nothing said is wherever the kernel likes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Placement {
    /// QEMU, as a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) guest: Option<String>,
    /// nic-emu's daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) daemon: Option<String>,
}

impl Options {
    /// What they come to on this machine.
    ///
    /// # Errors
    /// A list that is none, or processors that may not be used.
    pub(crate) fn placement(&self) -> Result<Placement> {
        let usable = usable()?;
        // The last one, if there are others.
        let default = usable.last().filter(|_| usable.len() > 1).copied();
        let (guest, daemon) = (self.guest_cpus.as_deref(), self.daemon_cpu.as_deref());
        let placement = Placement::of(guest, daemon, default);
        for list in [&placement.guest, &placement.daemon].into_iter().flatten() {
            let known =
                numbers(list).is_some_and(|cpus| cpus.iter().all(|cpu| usable.contains(cpu)));
            ensure!(
                known,
                "`{list}`: no processors that this process may use, which are {usable:?}; give numbers and ranges such as \
                 2,8-11, or `{ANY}`"
            );
        }
        Ok(placement)
    }
}

impl Placement {
    fn of(guest: Option<&str>, daemon: Option<&str>, default: Option<usize>) -> Self {
        let asked = |list: Option<&str>, otherwise: Option<String>| match list {
            None => otherwise,
            Some(ANY) => None,
            Some(list) => Some(list.to_owned()),
        };
        let guest = asked(guest, default.map(|cpu| cpu.to_string()));
        let one = guest.clone().filter(|list| list.parse::<usize>().is_ok());
        Self {
            daemon: asked(daemon, one),
            guest,
        }
    }

    /// A lab whose guests run there.
    pub(crate) fn lab(&self, lab: Lab) -> Lab {
        match &self.guest {
            Some(list) => lab.on_cpus(list),
            None => lab,
        }
    }

    /// All of these processors, for both.
    pub(crate) fn everywhere(all: &[usize]) -> Self {
        let all: Vec<_> = all.iter().map(usize::to_string).collect();
        let all = Some(all.join(","));
        Self {
            guest: all.clone(),
            daemon: all,
        }
    }

    /// Leaves these processors to them: this thread, and what it starts from now on, run on the others of `all`; on all if
    /// there are no others.
    ///
    /// # Errors
    /// The kernel does not take them.
    pub(crate) fn leave(&self, all: &[usize]) -> Result<()> {
        let lists = [&self.guest, &self.daemon].into_iter().flatten();
        let taken: Vec<usize> = lists.filter_map(|list| numbers(list)).flatten().collect();
        let mut rest = all.to_vec();
        rest.retain(|cpu| !taken.contains(cpu));
        let rest = if rest.is_empty() { all } else { &rest };
        run_on(rest).context("cannot leave processors to the guest")
    }

    /// In words.
    pub(crate) fn told(&self) -> String {
        let place = |list: &Option<String>| match list {
            Some(list) => format!("on {list}"),
            None => "anywhere".to_owned(),
        };
        format!(
            "QEMU with all of its threads {}, nic-emu's daemon {}, everything else {}",
            place(&self.guest),
            place(&self.daemon),
            match self {
                Self {
                    guest: None,
                    daemon: None,
                } => "anywhere",
                _ => "on the others",
            }
        )
    }
}

/// The processors that this thread may use.
///
/// # Errors
/// The kernel does not say which.
pub(crate) fn usable() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(None).context("cannot find out which processors to use")?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|&cpu| allowed.is_set(cpu))
        .collect())
}

pub(crate) fn run_on(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// The numbers of a list of numbers and ranges.
pub(crate) fn numbers(list: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for item in list.split(',') {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= CpuSet::MAX_CPU {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(guest: Option<&str>, daemon: Option<&str>) -> (Option<String>, Option<String>) {
        let Placement { guest, daemon } = Placement::of(guest, daemon, Some(7));
        (guest, daemon)
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn a_daemon_is_where_its_guest_is() {
        assert_eq!(of(None, None), (some("7"), some("7")));
        assert_eq!(of(Some("2"), None), (some("2"), some("2")));
        assert_eq!(of(Some("2,3"), None), (some("2,3"), None));
        assert_eq!(of(Some("2"), Some("3")), (some("2"), some("3")));
        assert_eq!(of(Some("2"), Some("any")), (some("2"), None));
        assert_eq!(of(Some("any"), None), (None, None));
        assert_eq!(Placement::of(None, None, None), Placement::default());
    }

    #[test]
    fn processors_that_are_none_are_refused() {
        for list in ["x", "", "99999", "3-", "-1"] {
            let options = Options {
                guest_cpus: some(list),
                daemon_cpu: None,
            };
            assert!(options.placement().is_err(), "{list:?}");
        }
        let options = Options {
            guest_cpus: some(ANY),
            daemon_cpu: None,
        };
        assert_eq!(options.placement().unwrap(), Placement::default());
        assert_eq!(numbers("2,8-11"), Some(vec![2, 8, 9, 10, 11]));
    }

    #[test]
    fn what_is_left_is_for_the_rest() {
        let all = usable().unwrap();
        let everywhere = Placement::everywhere(&all);
        assert_eq!(
            numbers(everywhere.guest.as_ref().unwrap()),
            Some(all.clone())
        );
        let placement = Placement {
            guest: all.last().map(usize::to_string),
            daemon: None,
        };
        placement.leave(&all).unwrap();
        let rest = usable().unwrap();
        match all.len() {
            1 => assert_eq!(rest, all),
            more => assert_eq!(rest, all[..more - 1]),
        }
        for nowhere_else in [everywhere, Placement::default()] {
            nowhere_else.leave(&all).unwrap();
            assert_eq!(usable().unwrap(), all);
        }
    }
}
