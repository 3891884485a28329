//! The interrupt controllers of the PC (two 8259, the second behind input 2 of the first) and what happens on the
//! network card's interrupt.
//!
//! The firmware has routed the pins of PCI devices to inputs of the second and made those level-triggered.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use guest_driver::regs::ICR;

use crate::machine::Machine;

/// First vector of the sixteen inputs.
pub const VECTORS: u8 = 0x20;

/// Command ports of both controllers; data ports follow them.
const COMMAND: [u16; 2] = [0x20, 0xA0];
/// Which inputs are level-triggered, a bit each.
const ELCR: [u16; 2] = [0x4D0, 0x4D1];
const END_OF_INTERRUPT: u8 = 0x20;
const READ_IRR: u8 = 0x0A;
/// Where the second controller hangs.
const CASCADE: u8 = 2;

/// What the handler does and has done.
#[derive(Debug)]
pub struct State {
    /// Address of the card's registers; 0 while there is none.
    registers: AtomicU32,
    keep: AtomicBool,
    again: AtomicBool,
    /// Interrupts that had a cause.
    pub taken: AtomicU32,
    /// Interrupts without a cause.
    pub spurious: AtomicU32,
    /// Interrupts whose cause was left standing, so that it had to come again.
    pub kept: AtomicU32,
    /// Interrupts whose line was down again when they were looked at.
    pub vanished: AtomicU32,
}

/// The only one: there is one card.
pub static STATE: State = State {
    registers: AtomicU32::new(0),
    keep: AtomicBool::new(false),
    again: AtomicBool::new(false),
    taken: AtomicU32::new(0),
    spurious: AtomicU32::new(0),
    kept: AtomicU32::new(0),
    vanished: AtomicU32::new(0),
};

/// Masks all inputs: the firmware has left the timer's and others' open, at vectors that are the processor's.
pub fn silence(machine: Machine) {
    for command in COMMAND {
        machine.outb(command + 1, !0);
    }
}

/// Sets the controllers up for the card with these registers on input `line`, all other inputs masked. With `keep`
/// the handler leaves a cause standing the first time that it interrupts.
pub fn set_up(machine: Machine, registers: u32, line: u8, keep: bool) {
    STATE.registers.store(registers, Relaxed);
    STATE.keep.store(keep, Relaxed);
    let lines = 1u16 << (line & 15) | 1 << CASCADE;
    let wiring = [1 << CASCADE, CASCADE];
    for chip in 0..2 {
        let (command, data) = (COMMAND[chip], COMMAND[chip] + 1);
        machine.outb(command, 0x11);
        machine.outb(data, VECTORS + 8 * chip as u8);
        machine.outb(data, wiring[chip]);
        machine.outb(data, 1);
        machine.outb(data, !(lines >> (8 * chip)) as u8);
        let level = machine.inb(ELCR[chip]);
        let level = level | (1u16 << (line & 15) >> (8 * chip)) as u8;
        machine.outb(ELCR[chip], level);
    }
}

/// Whether the input is up, acknowledged or not.
pub fn asserted(machine: Machine, line: u8) -> bool {
    let command = COMMAND[usize::from(line >= 8)];
    machine.outb(command, READ_IRR);
    machine.inb(command) & 1 << (line % 8) != 0
}

/// What the entry calls for an interrupt at `input` (0 to 15).
pub fn handle(machine: Machine, input: u8) {
    if input & 7 == 7 {
        // The line went down before the processor asked which one it was: there is nothing to end.
        STATE.vanished.fetch_add(1, Relaxed);
        if input >= 8 {
            machine.outb(COMMAND[0], END_OF_INTERRUPT);
        }
        return;
    }
    let left = STATE.keep.load(Relaxed) && !STATE.again.fetch_xor(true, Relaxed);
    if left {
        STATE.kept.fetch_add(1, Relaxed);
    } else {
        let causes = machine.read32(STATE.registers.load(Relaxed) + ICR);
        let counter = if causes == 0 {
            &STATE.spurious
        } else {
            &STATE.taken
        };
        counter.fetch_add(1, Relaxed);
    }
    if input >= 8 {
        machine.outb(COMMAND[1], END_OF_INTERRUPT);
    }
    machine.outb(COMMAND[0], END_OF_INTERRUPT);
}
