//! Configuration space of the [device](crate::device), bit by bit.

use crate::device::{BAR0, BAR1, BAR2, BAR4, EXPRESS, MSI, MSIX, PBA, PM, ROM, VENDOR};

pub(crate) const SIZE: usize = 4096;
const COMMAND: usize = 0x04;
const PMCSR: usize = PM + 4;
const DEVICE_CONTROL: usize = EXPRESS + 8;
/// Log2 of the number of MSI vectors.
const MSI_ORDER: u8 = 2;

#[derive(Clone, Debug)]
pub(crate) struct Config {
    bytes: Vec<u8>,
    after_reset: Vec<u8>,
    /// Bits that are stored.
    writable: Vec<u8>,
    /// Bits that writing 1 clears.
    clears: Vec<u8>,
}

/// What a write amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Stored,
    Reset,
    Refused,
}

impl Config {
    pub(crate) fn new() -> Self {
        let mut after_reset = vec![0; SIZE];
        let mut reset =
            |at: usize, bytes: &[u8]| after_reset[at..at + bytes.len()].copy_from_slice(bytes);
        reset(0x00, &[0x34, 0x12, 0xe8, 0x11]);
        reset(0x06, &[0x30, 0x02, 7, 0, 0, 0xff]);
        reset(0x14, &[1]);
        reset(0x18, &[4]);
        reset(0x2c, &[0xf4, 0x1a, 0x00, 0x11]);
        reset(0x34, &[PM as u8]);
        reset(0x3d, &[1]);
        reset(PM, &[1, MSI as u8, 0x22, 0xc8, 0, 0x20]);
        reset(MSI, &[5, MSIX as u8, MSI_ORDER << 1 | 0x80, 1]);
        reset(
            MSIX,
            &[0x11, EXPRESS as u8, 2, 0, 4, 0, 0, 0, 4, (PBA >> 8) as u8],
        );
        reset(
            EXPRESS,
            &[0x10, VENDOR as u8, 2, 0, 0, 0x80, 0, 0x10, 0x10, 0x28],
        );
        reset(EXPRESS + 12, &[0x11, 0, 0, 0, 0, 0, 0x11, 0]);
        reset(EXPRESS + 36, &[0x10]);
        reset(EXPRESS + 44, &[2, 0, 0, 0, 1]);
        reset(VENDOR, &[9, 0, 5, 0xaa, 0xbb]);
        reset(0x100, &[3, 0, 1, 0, 1, 2, 3, 4]);

        let mut writable = vec![0; SIZE];
        let mut store =
            |at: usize, bytes: &[u8]| writable[at..at + bytes.len()].copy_from_slice(bytes);
        store(COMMAND, &[0b0101_0111, 0b101]);
        store(0x0c, &[0xff, 0xff]);
        store(0x10, &(!(BAR0 as u32 - 1)).to_le_bytes());
        store(0x14, &(!(BAR1 as u32 - 1)).to_le_bytes());
        store(0x18, &(!(BAR2 - 1)).to_le_bytes());
        store(0x20, &(!(BAR4 as u32 - 1)).to_le_bytes());
        store(0x30, &(!(ROM as u32 - 1) | 1).to_le_bytes());
        store(0x3c, &[0xff]);
        store(PMCSR, &[0x03, 0x1f]);
        store(MSI + 2, &[0x71]);
        store(
            MSI + 4,
            &[0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        );
        store(MSI + 16, &[0x0f]);
        store(MSIX + 3, &[0xc0]);
        store(DEVICE_CONTROL, &[0xff, 0x7f]);
        store(EXPRESS + 16, &[0xcb]);
        store(EXPRESS + 40, &[0x1f]);
        store(0x105, &[0xff, 0, 0x0f]);

        let mut clears = vec![0; SIZE];
        clears[0x07] = 0xf9;
        clears[PMCSR + 1] = 0x80;
        clears[EXPRESS + 10] = 0x0f;
        Self {
            bytes: after_reset.clone(),
            after_reset,
            writable,
            clears,
        }
    }

    pub(crate) fn reset(&mut self) {
        self.bytes.clone_from(&self.after_reset);
    }

    /// Takes over what a guest can have written, of what somebody says that it has.
    pub(crate) fn restore(&mut self, saved: &[u8]) {
        self.reset();
        for (at, byte) in self.bytes.iter_mut().enumerate() {
            *byte = *byte & !self.writable[at] | saved[at] & self.writable[at];
        }
        if matches!(self.power(), 1 | 2) {
            self.bytes[PMCSR] &= !3;
        }
        if self.bytes[MSI + 2] >> 4 & 7 > MSI_ORDER {
            self.bytes[MSI + 2] &= !0x70;
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn after_reset(&self) -> &[u8] {
        &self.after_reset
    }

    pub(crate) fn read(&self, at: usize, to: &mut [u8], intx: bool, msi_pending: u8) {
        let mut bytes = self.bytes.clone();
        bytes[0x06] |= u8::from(intx) << 3;
        bytes[MSI + 20] |= msi_pending;
        to.copy_from_slice(&bytes[at..][..to.len()]);
    }

    pub(crate) fn write(&mut self, at: usize, data: &[u8]) -> Written {
        let new = |register: usize| {
            (at..at + data.len())
                .contains(&register)
                .then(|| data[register - at])
        };
        let control = [new(DEVICE_CONTROL), new(DEVICE_CONTROL + 1)];
        let natural = matches!(data.len(), 1 | 2 | 4) && at.is_multiple_of(data.len());
        if control != [None, None] && !natural
            || new(MSI + 2).is_some_and(|byte| byte >> 4 & 7 > MSI_ORDER)
        {
            return Written::Refused;
        }
        if control[1].is_some_and(|byte| byte & 0x80 != 0) {
            return Written::Reset;
        }
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
        match before == 3 && self.power() == 0 {
            true => Written::Reset,
            false => Written::Stored,
        }
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

    /// Log2 of the vectors that the guest has granted, if MSI is on.
    pub(crate) fn msi(&self) -> Option<u8> {
        let control = self.bytes[MSI + 2];
        (control & 1 != 0).then_some(control >> 4 & 7)
    }

    pub(crate) fn msi_mask(&self) -> u8 {
        self.bytes[MSI + 16]
    }

    pub(crate) fn msix(&self) -> bool {
        self.bytes[MSIX + 3] & 0x80 != 0
    }

    pub(crate) fn msix_masked(&self) -> bool {
        self.bytes[MSIX + 3] & 0x40 != 0
    }

    fn command(&self, bit: u8) -> bool {
        self.power() == 0 && self.bytes[COMMAND] & bit != 0
    }

    fn power(&self) -> u8 {
        self.bytes[PMCSR] & 3
    }
}
