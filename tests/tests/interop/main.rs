//! Our side of vfio-user with QEMU as the other, without an operating system in between: a guest that is only the
//! driver (`bare-guest`, and `peer-guest` with one that others wrote), and QEMU under qtest.
//!
//! They run one after the other: two processors are soon busy.

mod crowd;
mod examples;
mod hotplug;
mod jobs;
mod kvm;
mod memory;
mod peer;
mod profile;
mod relay;
mod running;
mod tcg;

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use nic_emu_lab::Lab;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let lab = match Lab::open() {
        Ok(lab) => lab,
        Err(error) => {
            eprintln!("the lab cannot be set up: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut trials = tcg::checks(&lab);
    trials.extend(examples::checks(&lab));
    trials.extend(crowd::checks(&lab));
    trials.extend(hotplug::checks(&lab));
    trials.extend(memory::checks(&lab));
    trials.extend(peer::checks(&lab));
    trials.extend(kvm::checks(&lab));
    trials.extend(profile::checks(&lab));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A check; what it returns is told on stderr.
fn check(
    name: impl Into<String>,
    lab: &Lab,
    run: impl FnOnce(&Lab) -> Result<String> + Send + 'static,
) -> Trial {
    let (name, lab) = (name.into(), lab.clone());
    let told = name.clone();
    Trial::test(name, move || {
        let said = run(&lab).map_err(|error| Failed::from(format!("{error:#}")))?;
        eprintln!("    {told}: {said}");
        Ok(())
    })
}
