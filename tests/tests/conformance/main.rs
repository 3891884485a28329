//! One list of claims about an 82540EM, held against the model called directly, against the model behind a vfio-user
//! socket, on one, two and three threads, with our client and with QEMU's, and against QEMU's own e1000: so that a misreading shared by our driver and our model shows.
//!
//! Where a device differs, `differences.rs` says so and why; a difference that has gone fails as well.

mod differences;
mod eeprom_phy;
mod every_register;
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
            Ok(run(check, &mut machine))
        }));
    }
    for check in checks() {
        trials.push(trial(On::Socket, check, |check| {
            Ok(run(check, &mut Served::start()))
        }));
    }
    for check in checks() {
        trials.push(trial(On::TwoThreads, check, |check| {
            Ok(run(check, &mut Served::on_shards(2)))
        }));
    }
    for check in checks() {
        trials.push(trial(On::ThreeThreads, check, |check| {
            Ok(run(check, &mut Served::on_shards(3)))
        }));
    }
    for check in checks() {
        trials.push(trial(On::Attached, check, |check| {
            let attached = Lab::open().and_then(|lab| Attached::start(&lab));
            let mut attached = attached.map_err(|error| error.to_string())?;
            Ok(run(check, &mut attached))
        }));
    }
    for check in checks() {
        trials.push(trial(On::Qemu, check, run_in_qemu));
    }
    trials.push(Trial::test(
        "conformance::differences_exist",
        differences_exist,
    ));
    trials.push(Trial::test(
        "conformance::only_the_known_difference_passes",
        only_the_known_difference_passes,
    ));
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn checks() -> Vec<Check> {
    let groups = [
        pci::all,
        registers::all,
        every_register::all,
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

/// A check on one machine as a test of its own.
fn trial(on: On, check: Check, run: fn(&Check) -> Result<Outcome, String>) -> Trial {
    let name = format!("conformance::{on}::{}", check.name);
    Trial::test(name, move || {
        outcome_on(on, &check, run).map_err(Failed::from)
    })
}

/// What a check comes to with known differences taken into account. A machine that could not be had is none: the error of
/// `run` itself always counts, and that of the check is what is compared.
fn outcome_on(on: On, check: &Check, run: fn(&Check) -> Result<Outcome, String>) -> Outcome {
    as_known(run(check)?, difference(on, &check.name))
}

/// Whether a check came out as it is known to: without a known difference well, with one by failing with its words.
fn as_known(outcome: Outcome, known: Option<(&str, &str)>) -> Outcome {
    match (outcome, known) {
        (outcome, None) => outcome,
        (Ok(()), Some((_, reason))) => Err(format!(
            "this works now; take it out of the list of differences ({reason})"
        )),
        (Err(error), Some((seen, _))) if error.contains(seen) => Ok(()),
        (Err(error), Some((seen, reason))) => Err(format!(
            "differs in another way than listed ({reason}): expected to see {seen:?}, but: {error}"
        )),
    }
}

/// Runs a check; one that panics has failed.
fn run(check: &Check, machine: &mut dyn Machine) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| (check.run)(machine))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", text.unwrap_or("of something")))
    })
}

fn run_in_qemu(check: &Check) -> Result<Outcome, String> {
    let qemu = Lab::open().and_then(|lab| Qemu::start(&lab));
    let mut qemu = qemu.map_err(|error| error.to_string())?;
    Ok(run(check, &mut qemu))
}

/// Every difference listed must name a check there is.
fn differences_exist() -> Result<(), Failed> {
    let names: Vec<String> = checks().into_iter().map(|check| check.name).collect();
    for (_, name, ..) in differences::KNOWN_DIFFERENCES {
        if !names.iter().any(|check| check == name) {
            return Err(format!("there is no check {name}").into());
        }
    }
    Ok(())
}

/// What a listed difference lets pass: what it says, and neither success, another message, nor a panic.
fn only_the_known_difference_passes() -> Result<(), Failed> {
    let known = Some(("FCAL: 0x0", "kept by nobody"));
    let as_expected = |outcome: Outcome, passes: bool| match as_known(outcome.clone(), known) {
        got if got.is_ok() == passes => Ok(()),
        got => Err(Failed::from(format!("{outcome:?} came out as {got:?}"))),
    };
    as_expected(Err("FCAL: 0x0 and not 0x1".into()), true)?;
    as_expected(Err("FCAL: 0x2 and not 0x1".into()), false)?;
    as_expected(Err("panicked: index out of bounds".into()), false)?;
    as_expected(Ok(()), false)?;
    // Nor is there a machine that could not be had: that is no outcome of the check.
    let lost = Check {
        name: "registers::mask_of_fcal".into(),
        run: Box::new(|_| Ok(())),
    };
    let trial = outcome_on(On::Qemu, &lost, |_| Err("FCAL: 0x0: no QEMU".into()));
    match trial {
        Err(_) => Ok(()),
        Ok(()) => Err("a machine that could not be had passed for a difference".into()),
    }
}
