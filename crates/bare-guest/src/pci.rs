//! PCI config space through the ports 0xCF8 and 0xCFC.

use guest_driver::Bar;
use guest_driver::regs::pci;

use crate::machine::Machine;

const CONFIG_ADDRESS: u16 = 0xCF8;
const CONFIG_DATA: u16 = 0xCFC;

/// A function on bus 0, whose BARs the firmware has placed.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    machine: Machine,
    /// Its slot.
    pub slot: u8,
}

impl Function {
    /// The first function 0 whose vendor (low half) and device are `id`.
    pub fn find(machine: Machine, id: u32) -> Option<Self> {
        (0..32)
            .map(|slot| Self { machine, slot })
            .find(|function| function.read(pci::ID, 4) == id)
    }

    fn select(&self, offset: u8) {
        let address = 1 << 31 | u32::from(self.slot) << 11 | u32::from(offset & !3);
        self.machine.outl(CONFIG_ADDRESS, address);
    }

    /// Reads 1, 2 or 4 bytes at the naturally aligned `offset`.
    pub fn read(&self, offset: u8, size: u8) -> u32 {
        self.select(offset);
        let value = self.machine.inl(CONFIG_DATA) >> (8 * (offset & 3));
        match size {
            1 => value & 0xFF,
            2 => value & 0xFFFF,
            _ => value,
        }
    }

    /// Writes 1, 2 or 4 bytes at the naturally aligned `offset`.
    pub fn write(&self, offset: u8, size: u8, value: u32) {
        self.select(offset);
        let port = CONFIG_DATA + u16::from(offset & 3);
        match size {
            1 => self.machine.outb(port, value as u8),
            2 => self.machine.outw(port, value as u16),
            _ => self.machine.outl(port, value),
        }
    }

    /// Where base address register `index` is and what it decodes, if anything.
    pub fn bar(&self, index: u8) -> Option<(u32, Bar)> {
        let offset = pci::BAR0 + 4 * index;
        let value = self.read(offset, 4);
        self.write(offset, 4, !0);
        let mask = self.read(offset, 4);
        self.write(offset, 4, value);
        let io = mask & 1 != 0;
        let low = if io { 0x3 } else { 0xF };
        let size = match mask & !low {
            0 => return None,
            bits if io => (!bits & 0xFFFF) + 1,
            bits => !bits + 1,
        };
        let size = u64::from(size);
        Some((value & !low, Bar { io, size }))
    }
}
