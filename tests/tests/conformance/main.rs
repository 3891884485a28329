//! One list of claims about an 82540EM, held against the model called directly, against the model behind a vfio-user
//! socket, on one, two and three threads, with our client and with QEMU's, and against QEMU's own e1000: so that a misreading shared by our driver and our model shows.
//!
//! Where a device differs, `differences.rs` says so and why; a difference that has gone fails as well.

mod differences;
mod eeprom_phy;
mod filters;
mod interrupts;
mod offload;
mod pci;
mod receive;
mod registers;
mod reset;
mod segmentation;
mod statistics;
mod support;
mod transmit;
mod wake;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use guest_driver::direct::Direct;
use libtest_mimic::{Arguments, Failed, Trial};
use nic_emu_lab::Lab;
use nic_emu_tests::Machine;
use nic_emu_tests::machine::{Attached, MAC, Qemu, Served};

use differences::{On, difference};
use support::{Check, Outcome};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for check in checks() {
        trials.push(trial(On::Direct, check, |check| {
            let mut machine = Direct::new(MAC).map_err(|error| error.to_string())?;
            run(check, &mut machine)
        }));
    }
    for check in checks() {
        trials.push(trial(On::Socket, check, |check| {
            run(check, &mut Served::start())
        }));
    }
    for check in checks() {
        trials.push(trial(On::TwoThreads, check, |check| {
            run(check, &mut Served::on_shards(2))
        }));
    }
    for check in checks() {
        trials.push(trial(On::ThreeThreads, check, |check| {
            run(check, &mut Served::on_shards(3))
        }));
    }
    for check in checks() {
        trials.push(trial(On::Attached, check, |check| {
            let attached = Lab::open().and_then(|lab| Attached::start(&lab));
            run(check, &mut attached.map_err(|error| error.to_string())?)
        }));
    }
    for check in checks() {
        trials.push(trial(On::Qemu, check, run_in_qemu));
    }
    trials.push(Trial::test(
        "conformance::differences_exist",
        differences_exist,
    ));
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn checks() -> Vec<Check> {
    let groups = [
        pci::all,
        registers::all,
        eeprom_phy::all,
        interrupts::all,
        transmit::all,
        offload::all,
        segmentation::all,
        receive::all,
        filters::all,
        reset::all,
        statistics::all,
        wake::all,
    ];
    groups.into_iter().flat_map(|group| group()).collect()
}

/// A check on one machine as a test of its own, which takes known differences into account.
fn trial(on: On, check: Check, run: fn(&Check) -> Outcome) -> Trial {
    let name = format!("conformance::{on}::{}", check.name);
    Trial::test(name, move || {
        let outcome = run(&check);
        match (outcome, difference(on, &check.name)) {
            (Ok(()), None) | (Err(_), Some(_)) => Ok(()),
            (Err(error), None) => Err(Failed::from(error)),
            (Ok(()), Some(reason)) => Err(Failed::from(format!(
                "this works now; take it out of the list of differences ({reason})"
            ))),
        }
    })
}

/// Runs a check; one that panics has failed.
fn run(check: &Check, machine: &mut dyn Machine) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| (check.run)(machine))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", text.unwrap_or("of something")))
    })
}

fn run_in_qemu(check: &Check) -> Outcome {
    let qemu = Lab::open().and_then(|lab| Qemu::start(&lab));
    run(check, &mut qemu.map_err(|error| error.to_string())?)
}

/// Every difference listed must name a check there is.
fn differences_exist() -> Result<(), Failed> {
    let names: Vec<String> = checks().into_iter().map(|check| check.name).collect();
    for (_, name, _) in differences::KNOWN_DIFFERENCES {
        if !names.iter().any(|check| check == name) {
            return Err(format!("there is no check {name}").into());
        }
    }
    Ok(())
}
