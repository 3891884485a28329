//! A device that has nothing but interrupts: the example `msix` of the crate `vfio-user`, which sends message `v` when
//! its doorbell `v` is written.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

use guest_driver::regs::pci;

use crate::args::{Args, Error};
use crate::clock::Clock;
use crate::machine::Machine;
use crate::patience::Patience;
use crate::pci::Function;
use crate::report;
use crate::report::Serial;

/// Vendor and device.
const ID: u32 = 0x0020_1234;
/// How many messages it has.
pub const VECTORS: usize = 32;
/// The processor's vector of message 0.
pub const FIRST: u8 = 0x40;

/// BARs with its doorbells and with its table.
const DOORBELLS: u8 = 0;
const TABLE: u8 = 1;
/// Bytes of a table entry, and where its mask is.
const ENTRY: u32 = 16;
const ENTRY_MASK: u32 = 12;

/// Capability id, and the bit of its control word that switches messages on.
const CAP_MSIX: u32 = 0x11;
const ENABLE: u32 = 1 << 15;

/// The local APIC of the first processor: where messages go, and where their end is told.
const APIC: u32 = 0xFEE0_0000;
const APIC_EOI: u32 = APIC + 0xB0;

/// Which messages to mask and unmask in the end.
const MASKED: [usize; 3] = [0, 5, 31];
/// How long a masked one has to come nevertheless, and between two parts of the job, ns.
const QUIET: u64 = 50_000_000;

static TAKEN: [AtomicU32; VECTORS] = [const { AtomicU32::new(0) }; VECTORS];

/// What the entry calls for message `vector`.
pub fn handle(machine: Machine, vector: usize) {
    if let Some(taken) = TAKEN.get(vector) {
        taken.fetch_add(1, Relaxed);
    }
    machine.write32(APIC_EOI, 0);
}

/// Rings the doorbells one after the other, `count` times, and waits for each message; then holds that masked ones are
/// held back until they are unmasked.
///
/// # Errors
///
/// There is no such device, or a message is lost.
pub fn run(machine: Machine, args: &Args, serial: &mut Serial) -> Result<(), Error> {
    let clock = Clock::new(machine);
    let device = Device::find(machine).ok_or(Error::NoDevice)?;
    device.enable();
    machine.interrupts(true);
    report!(serial, "ready");

    let mut patience = Patience::new(clock, args);
    let (mut taken, start) = (0, clock.now());
    for number in 0..args.count {
        let vector = number as usize % VECTORS;
        let expected = number / VECTORS as u32 + 1;
        device.ring(vector);
        if !patience.wait(|| TAKEN[vector].load(Relaxed) >= expected) {
            break;
        }
        taken += 1;
    }
    let ns = clock.now() - start;
    let all: u32 = TAKEN.iter().map(|taken| taken.load(Relaxed)).sum();
    report!(
        serial,
        "msix caused={} taken={taken} handled={all} ns={ns}",
        args.count
    );
    if taken < args.count {
        return Err(Error::Idle);
    }

    clock.wait(QUIET);
    let (mut held, mut delivered) = (0, 0);
    for vector in MASKED {
        let before = TAKEN[vector].load(Relaxed);
        device.mask(vector, true);
        device.ring(vector);
        clock.wait(QUIET);
        held += u32::from(TAKEN[vector].load(Relaxed) == before);
        device.mask(vector, false);
        delivered += u32::from(patience.wait(|| TAKEN[vector].load(Relaxed) > before));
    }
    machine.interrupts(false);
    report!(
        serial,
        "masked count={} held={held} delivered={delivered}",
        MASKED.len()
    );
    Ok(())
}

struct Device {
    machine: Machine,
    function: Function,
    doorbells: u32,
    table: u32,
    control: u8,
}

impl Device {
    fn find(machine: Machine) -> Option<Self> {
        let function = Function::find(machine, ID)?;
        let command = function.read(pci::COMMAND, 2);
        function.write(pci::COMMAND, 2, 0);
        let (doorbells, _) = function.bar(DOORBELLS)?;
        let (table, _) = function.bar(TABLE)?;
        let bits = pci::COMMAND_MEMORY | pci::COMMAND_MASTER | pci::COMMAND_INTX_DISABLE;
        function.write(pci::COMMAND, 2, command | bits);
        let mut at = function.read(pci::CAPABILITIES, 1) as u8;
        // A list without end would have more than all of config space has room for.
        for _ in 0..48 {
            if at != 0 && function.read(at, 1) == CAP_MSIX {
                return Some(Self {
                    machine,
                    function,
                    doorbells,
                    table,
                    control: at + 2,
                });
            }
            at = function.read(at + 1, 1) as u8;
        }
        None
    }

    fn enable(&self) {
        for vector in 0..VECTORS as u32 {
            let entry = self.table + ENTRY * vector;
            self.machine.write32(entry, APIC);
            self.machine.write32(entry + 4, 0);
            self.machine.write32(entry + 8, u32::from(FIRST) + vector);
            self.machine.write32(entry + ENTRY_MASK, 0);
        }
        self.function.write(self.control, 2, ENABLE);
    }

    fn ring(&self, vector: usize) {
        self.machine.write32(self.doorbells + 4 * vector as u32, 1);
    }

    fn mask(&self, vector: usize, masked: bool) {
        let control = self.table + ENTRY * vector as u32 + ENTRY_MASK;
        self.machine.write32(control, masked.into());
    }
}
