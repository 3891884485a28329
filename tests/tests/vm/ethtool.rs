//! The driver's features as `ethtool` and `ip` set them: each does what the 8254x manual says, shown by frames that
//! are sent to a guest and by those that come back.

mod echo;
mod features;
mod filters;
mod link;
mod registers;
mod tcp;
mod wake;

use std::thread;

use anyhow::{Context, Result, anyhow};
use libtest_mimic::Trial;
use nic_emu_lab::{Lab, Suite};

use self::echo::Echo;
use crate::stage::Stage;

/// A guest of each kernel, oldest first.
struct Guests(Vec<(Suite, Echo)>);

impl Guests {
    fn boot(lab: &Lab) -> Result<Self> {
        let mut suites = Suite::ALL.map(|suite| (suite, None));
        at_once(&mut suites, |suite, echo| {
            *echo = Some(Echo::boot(lab, suite)?);
            Ok(String::new())
        })?;
        let booted = suites.into_iter();
        Ok(Self(
            booted
                .filter_map(|(suite, echo)| Some((suite, echo?)))
                .collect(),
        ))
    }

    /// Checks all kernels.
    fn all(&mut self, check: fn(&mut Echo) -> Result<String>) -> Result<String> {
        at_once(&mut self.0, |_, echo| check(echo))
    }

    /// Checks the newest kernel.
    fn newest(&mut self, check: fn(&mut Echo) -> Result<String>) -> Result<String> {
        let (_, echo) = self.0.last_mut().context("no guest")?;
        check(echo)
    }
}

/// Works on all at the same time: guests mostly wait.
fn at_once<T: Send>(
    all: &mut [(Suite, T)],
    work: impl Fn(Suite, &mut T) -> Result<String> + Sync,
) -> Result<String> {
    let work = &work;
    let said: Result<Vec<String>> = thread::scope(|scope| {
        let threads: Vec<_> = all
            .iter_mut()
            .map(|(suite, one)| (*suite, scope.spawn(move || work(*suite, one))))
            .collect();
        let mut said = Vec::new();
        for (suite, thread) in threads {
            let done = thread.join().unwrap_or_else(|_| Err(anyhow!("panicked")));
            said.push(done.with_context(|| suite.to_string()));
        }
        said.into_iter().collect()
    });
    let mut said = said?;
    said.dedup();
    Ok(said.join(" | "))
}

/// Those on all kernels, and those on the newest.
pub(crate) fn checks(lab: &Lab) -> Vec<Trial> {
    type Check = (&'static str, fn(&mut Echo) -> Result<String>);
    let all: [Check; 8] = [
        ("selftest", registers::selftest),
        ("eeprom", registers::eeprom),
        ("statistics", registers::statistics),
        ("multicast", filters::multicast),
        ("promiscuous", filters::promiscuous),
        ("vlan", filters::vlan),
        ("checksums", features::receive_checksums),
        ("jumbo", link::jumbo),
    ];
    let newest: [Check; 12] = [
        ("dump", registers::dump),
        ("rings", registers::rings),
        ("blink", registers::blink),
        ("unicast", filters::unicast),
        ("vlan_offload", features::vlan_offload),
        ("rx_fcs", features::rx_fcs),
        ("rx_all", features::rx_all),
        ("segmentation", features::segmentation),
        ("speed", link::speed),
        ("pause", link::pause),
        ("cable", link::cable),
        ("wake", wake::wake),
    ];
    let make = {
        let lab = lab.clone();
        move || Guests::boot(&lab)
    };
    let mut stage = Stage::new("ethtool", make);
    for (name, check) in all {
        stage = stage.check(name, move |guests: &mut Guests| guests.all(check));
    }
    for (name, check) in newest {
        stage = stage.check(name, move |guests: &mut Guests| guests.newest(check));
    }
    stage.trials()
}
