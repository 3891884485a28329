//! What every image needs besides its job: handlers, and an end.

use core::fmt::Write;
use core::panic::PanicInfo;

use bare_guest::machine::Machine;
use bare_guest::report::Serial;
use bare_guest::{interrupt, msix};

use crate::entry;

/// `isa-debug-exit`: QEMU ends with twice what is written, plus one.
const EXIT: u16 = 0xF4;
const DONE: u32 = 0;
const FAILED: u32 = 1;
const PANICKED: u32 = 2;

/// Switches the machine off, and says whether its job is done.
pub(crate) fn end(machine: Machine, done: bool) -> ! {
    exit(machine, if done { DONE } else { FAILED })
}

/// The processor, an interrupt controller or a device's message has interrupted; what was pushed for an exception is in
/// `frame`.
pub(crate) fn interrupted(machine: Machine, vector: u8, frame: &[u64]) {
    const INPUTS_END: u8 = interrupt::VECTORS + 16;
    match vector {
        interrupt::VECTORS..INPUTS_END => interrupt::handle(machine, vector - interrupt::VECTORS),
        msix::FIRST.. => msix::handle(machine, usize::from(vector - msix::FIRST)),
        _ => panic!("exception {vector}, {frame:x?}"),
    }
}

fn exit(machine: Machine, code: u32) -> ! {
    machine.interrupts(false);
    machine.outl(EXIT, code);
    // There is no such device; whoever waits for the end sees the last record.
    loop {
        machine.pause();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let machine = entry::machine();
    let (message, mut serial) = (info.message(), Serial::new(machine));
    // A record is one line.
    let _ = match info.location() {
        Some(at) => writeln!(serial, "failed {message} ({}:{})", at.file(), at.line()),
        None => writeln!(serial, "failed {message}"),
    };
    exit(machine, PANICKED)
}
