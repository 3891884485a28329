//! The image that QEMU boots; what it does is in the library.

#![no_std]
#![no_main]

mod entry;
mod mem;

// Interrupts save no such registers, and a KVM that interprets its guest does not know the instructions.
#[cfg(target_feature = "sse")]
compile_error!("the image is built without SSE: RUSTFLAGS='-C target-feature=-sse' and --target");

use core::fmt::Write;
use core::panic::PanicInfo;

use bare_guest::interrupt;
use bare_guest::machine::{Machine, Ram};
use bare_guest::report::Serial;

/// `isa-debug-exit`: QEMU ends with twice what is written, plus one.
const EXIT: u16 = 0xF4;
const DONE: u32 = 0;
const FAILED: u32 = 1;
const PANICKED: u32 = 2;

fn main(machine: Machine, ram: Ram, command: &str) -> ! {
    let done = bare_guest::run(machine, ram, command);
    exit(machine, if done { DONE } else { FAILED })
}

/// The processor or an interrupt controller has interrupted; what it pushed for an exception is in `frame`.
fn interrupted(machine: Machine, vector: u64, frame: &[u64]) {
    let first = u64::from(interrupt::VECTORS);
    match vector.checked_sub(first) {
        Some(input) => interrupt::handle(machine, input as u8),
        None => panic!("exception {vector}, {frame:#x?}"),
    }
}

fn exit(machine: Machine, code: u32) -> ! {
    machine.outl(EXIT, code);
    machine.interrupts(false);
    loop {
        machine.halt();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let machine = entry::machine();
    let _ = writeln!(Serial::new(machine), "failed {info}");
    exit(machine, PANICKED)
}
