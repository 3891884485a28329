//! A guest without an operating system: the driver of [`guest_driver`] on a bare PC, booted by QEMU's `-kernel`.
//!
//! Nothing stands between its loops and the device, so that what is measured is the device and the hypervisor. It runs
//! the one job that its command line names ([`args`]), prints records to the first serial port ([`mod@report`]) and switches
//! the machine off through `isa-debug-exit` (port 0xF4). It drives any 82540EM, QEMU's own as well as ours.
//!
//! The image is a static ELF file of some kilobytes with a PVH entry, built for the ordinary host target:
//!
//! ```text
//! cargo build --package bare-guest --features image --profile bare
//! qemu-system-x86_64 -M q35 -nodefaults -display none -serial stdio -device isa-debug-exit,iobase=0xf4,iosize=4 \
//!     -device e1000,romfile= -kernel target/bare/bare-guest -append 'test=mmio count=1000'
//! ```
//!
//! A KVM without the processor's help interprets its guest and knows no SSE instructions. For that one the image is
//! built with `RUSTFLAGS='-C target-feature=-sse'` (and `--target`, which keeps them from build scripts).
//!
//! The library is what can be checked and tested like any other crate; the program adds the entry from the firmware.

#![cfg_attr(not(test), no_std)]

pub mod args;
pub mod clock;
pub mod frame;
pub mod interrupt;
pub mod jobs;
pub mod machine;
pub mod msix;
pub mod nic;
pub mod patience;
pub mod pci;
pub mod report;

use args::Args;
use machine::{Machine, Ram};

/// Runs the job that `command` names; returns whether it succeeded. What it found out is on the serial port.
pub fn run(machine: Machine, ram: Ram, command: &str) -> bool {
    let mut serial = report::Serial::new(machine);
    // The firmware has left its cursor behind a message.
    report!(serial, "");
    interrupt::silence(machine);
    let done = Args::parse(command).and_then(|args| jobs::run(machine, ram, &args, &mut serial));
    match done {
        Ok(()) => report!(serial, "end ok"),
        Err(error) => report!(serial, "failed {error}"),
    }
    done.is_ok()
}
