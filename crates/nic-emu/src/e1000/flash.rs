//! The flash behind BAR1, the I/O BAR's window to it, and the expansion ROM (8254x manual, 5.4 and 13.2).
//!
//! The chip is on a bus of bytes: each byte of an access is an access of its own to it, in order.

use super::bits::eecd;
use super::mmio::IODATA;
use super::regs::Reg;
use super::{Control, FLASH_BAR, IO_BAR};
use crate::common::flash::Flash;

/// What IOADDR says when IODATA is the flash from there on.
const PORT_WINDOW: std::ops::Range<u32> = 0x8_0000..0x10_0000;

impl Control {
    /// What the flash stores, if one is fitted.
    pub fn flash(&self) -> Option<&[u8]> {
        self.flash.as_ref().map(Flash::bytes)
    }

    /// Where what the flash stores has changed since the last call, and what is there now: for whoever keeps it.
    pub fn take_flash_change(&mut self) -> Option<(usize, &[u8])> {
        self.flash.as_mut()?.take_change()
    }

    /// Reads from the expansion ROM, which is the flash; whether there is one.
    pub fn read_rom(&self, offset: u64, data: &mut [u8]) -> bool {
        match &self.flash {
            Some(flash) => flash.read(offset, data),
            None => return false,
        }
        true
    }

    /// The flash, and the address that this place is of it.
    pub(super) fn flash_at(&self, bar: u8, offset: u64) -> Option<(&Flash, u64)> {
        let flash = self.flash.as_ref()?;
        let at = match bar {
            FLASH_BAR => offset,
            IO_BAR if (IODATA..IODATA + 4).contains(&offset) => {
                let window = PORT_WINDOW.contains(&self.ioaddr);
                let window = window.then(|| self.ioaddr - PORT_WINDOW.start);
                u64::from(window?) + offset - IODATA
            }
            _ => return None,
        };
        Some((flash, at))
    }

    /// Writes to the flash, as far as EECD.FWE allows it; whether this place is one of it.
    pub(super) fn write_flash(&mut self, bar: u8, offset: u64, data: &[u8]) -> bool {
        let Some((_, at)) = self.flash_at(bar, offset) else {
            return false;
        };
        match self.shared.regs.get(Reg::EECD) & eecd::FWE {
            eecd::FWE_ENABLED => {
                if let Some(flash) = &mut self.flash {
                    flash.write(at, data);
                }
            }
            _ => self.shared.counters.flash_protected.add(1),
        }
        true
    }
}
