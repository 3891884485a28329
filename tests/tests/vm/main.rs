//! Checks with real guests: QEMU, Debian's kernels, their in-tree driver. Need root, for TAPs in namespaces.
//!
//! They run one after the other, and those that can share a guest do, since booting one takes its time.

mod ethtool;
mod family;
mod kernels;
mod packets;
mod several;
mod stage;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use nic_emu_lab::{Lab, Suite};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Guests that share two processors disturb each other.
    arguments.test_threads = Some(1);
    let lab = match Lab::open() {
        Ok(lab) => lab,
        Err(error) => {
            eprintln!("the lab cannot be set up: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut trials = Vec::new();
    for suite in Suite::ALL {
        trials.extend(kernels::checks(&lab, suite));
    }
    trials.extend(ethtool::checks(&lab));
    trials.extend(several::checks(&lab));
    trials.extend(packets::checks(&lab));
    trials.extend(family::checks(&lab));
    libtest_mimic::run(&arguments, trials).exit_code()
}
