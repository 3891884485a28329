//! Drivers that are not Linux's own, each on the same model, in real guests.

mod dpdk;
mod flashrom;
mod ipxe;
#[path = "../vm/stage.rs"]
mod stage;
mod testpmd;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use nic_emu_lab::Lab;

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
    let mut trials = dpdk::checks(&lab);
    if nic_emu_tests::is_root() {
        trials.extend(ipxe::checks(&lab));
        trials.extend(flashrom::checks(&lab));
    } else {
        eprintln!("iPXE and flashrom are left out: their TAPs in namespaces need root");
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
