//! Configuration space of the [device](crate::device), bit by bit.

use crate::device::{BAR0, BAR1, BAR2, PM, ROM};

const SIZE: usize = 256;
const COMMAND: usize = 0x04;
const PMCSR: usize = PM + 4;

#[derive(Debug)]
pub(crate) struct Config {
    bytes: [u8; SIZE],
    after_reset: [u8; SIZE],
    /// Bits that are stored.
    writable: [u8; SIZE],
    /// Bits that writing 1 clears.
    clears: [u8; SIZE],
}

impl Config {
    pub(crate) fn new() -> Self {
        let (mut after_reset, mut writable, mut clears) = ([0; SIZE], [0; SIZE], [0; SIZE]);
        let mut reset =
            |at: usize, bytes: &[u8]| after_reset[at..at + bytes.len()].copy_from_slice(bytes);
        reset(0x00, &[0x34, 0x12, 0xe8, 0x11]);
        reset(0x06, &[0x30, 0x02, 7, 0, 0, 0xff]);
        reset(0x14, &[1]);
        reset(0x18, &[4]);
        reset(0x2c, &[0xf4, 0x1a, 0x00, 0x11]);
        reset(0x34, &[PM as u8]);
        reset(0x3d, &[1]);
        reset(PM, &[1, 0, 0x22, 0xc8, 0, 0x20]);
        let mut store =
            |at: usize, bytes: &[u8]| writable[at..at + bytes.len()].copy_from_slice(bytes);
        store(COMMAND, &[0b0101_0111, 0b101]);
        store(0x0c, &[0xff, 0xff]);
        store(0x10, &(!(BAR0 as u32 - 1)).to_le_bytes());
        store(0x14, &(!(BAR1 as u32 - 1)).to_le_bytes());
        store(0x18, &(!(BAR2 - 1)).to_le_bytes());
        store(0x30, &(!(ROM as u32 - 1) | 1).to_le_bytes());
        store(0x3c, &[0xff]);
        store(PMCSR, &[0x03, 0x1f]);
        clears[0x07] = 0xf9;
        clears[PMCSR + 1] = 0x80;
        Self {
            bytes: after_reset,
            after_reset,
            writable,
            clears,
        }
    }

    pub(crate) fn reset(&mut self) {
        self.bytes = self.after_reset;
    }

    pub(crate) fn read(&self, at: usize, to: &mut [u8], intx: bool) {
        let mut bytes = self.bytes;
        bytes[0x06] |= u8::from(intx) << 3;
        to.copy_from_slice(&bytes[at..][..to.len()]);
    }

    /// True if the function went from D3hot to D0, which resets it.
    pub(crate) fn write(&mut self, at: usize, data: &[u8]) -> bool {
        let before = self.power();
        for (at, new) in (at..).zip(data) {
            for bit in (0..8).map(|bit| 1 << bit) {
                if self.writable[at] & bit != 0 {
                    self.bytes[at] = self.bytes[at] & !bit | new & bit;
                }
                if self.clears[at] & new & bit != 0 {
                    self.bytes[at] &= !bit;
                }
            }
        }
        if matches!(self.power(), 1 | 2) {
            self.bytes[PMCSR] = self.bytes[PMCSR] & !3 | before;
        }
        before == 3 && self.power() == 0
    }

    pub(crate) fn decodes_io(&self) -> bool {
        self.command(1 << 0)
    }

    pub(crate) fn decodes_memory(&self) -> bool {
        self.command(1 << 1)
    }

    pub(crate) fn masters(&self) -> bool {
        self.command(1 << 2)
    }

    pub(crate) fn intx_disabled(&self) -> bool {
        self.power() != 0 || self.bytes[COMMAND + 1] & 1 << 2 != 0
    }

    fn command(&self, bit: u8) -> bool {
        self.power() == 0 && self.bytes[COMMAND] & bit != 0
    }

    fn power(&self) -> u8 {
        self.bytes[PMCSR] & 3
    }
}
