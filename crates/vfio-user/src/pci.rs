//! Configuration space: 256 bytes, what of them the guest may write, and the two registers that act.
//!
//! Source: PCI Local Bus Specification 3.0, chapter 6; PCI Power Management Interface Specification 1.2,
//! chapter 3 and section 5.4. Clients keep some registers to themselves (QEMU answers reads of the BARs) but
//! forward all writes, so what stands here is what the guest wrote and decides nothing but what is said below.

use bitflags::bitflags;

/// Bytes of the configuration space of a conventional PCI function.
pub const CONFIG_SIZE: usize = 256;

/// Offsets of the header's registers.
pub mod reg {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const VENDOR_ID: usize = 0x00;
    pub const DEVICE_ID: usize = 0x02;
    pub const COMMAND: usize = 0x04;
    pub const STATUS: usize = 0x06;
    pub const REVISION_ID: usize = 0x08;
    pub const CLASS: usize = 0x09;
    pub const CACHE_LINE_SIZE: usize = 0x0c;
    pub const LATENCY_TIMER: usize = 0x0d;
    pub const BAR0: usize = 0x10;
    pub const SUBSYSTEM_VENDOR_ID: usize = 0x2c;
    pub const SUBSYSTEM_ID: usize = 0x2e;
    pub const ROM: usize = 0x30;
    pub const CAPABILITIES: usize = 0x34;
    pub const INTERRUPT_LINE: usize = 0x3c;
    pub const INTERRUPT_PIN: usize = 0x3d;
    pub const MIN_GNT: usize = 0x3e;
    pub const MAX_LAT: usize = 0x3f;
}

/// STATUS: the function asserts INTx (whether or not COMMAND lets it through).
const STATUS_INTERRUPT: u8 = 1 << 3;
/// Capability id of power management.
pub(crate) const CAP_PM: u8 = 0x01;
/// PMCSR, from the start of the power management capability.
const PMCSR: usize = 4;
/// PMCSR: power state, 0 is D0 and 3 is D3hot.
const POWER_STATE: u8 = 0b11;
/// PMCSR: the function keeps its state on the way from D3hot to D0.
const NO_SOFT_RESET: u8 = 1 << 3;

bitflags! {
    /// The PCI COMMAND register, as far as it decides what a device does.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Command: u16 {
        /// Accesses to I/O BARs are answered.
        const IO = 1 << 0;
        /// Accesses to memory BARs are answered.
        const MEMORY = 1 << 1;
        /// The device may do DMA and send message-signalled interrupts.
        const BUS_MASTER = 1 << 2;
        /// The device may not assert INTx.
        const INTX_DISABLE = 1 << 10;
    }
}

/// Configuration space as the device's author described it.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    /// Value after reset.
    pub(crate) reset: [u8; CONFIG_SIZE],
    /// Bits that a write stores.
    pub(crate) writable: [u8; CONFIG_SIZE],
    /// Bits that writing 1 clears.
    pub(crate) clears: [u8; CONFIG_SIZE],
    /// Where the power management capability is.
    pub(crate) pm: Option<usize>,
}

/// Configuration space of a device in use.
#[derive(Debug)]
pub(crate) struct ConfigSpace {
    bytes: [u8; CONFIG_SIZE],
}

impl ConfigSpace {
    pub(crate) fn new(template: &Template) -> Self {
        Self {
            bytes: template.reset,
        }
    }

    /// Fills `to` from `offset`; both within the space.
    pub(crate) fn read(&self, offset: usize, to: &mut [u8], intx: bool) {
        to.copy_from_slice(&self.bytes[offset..][..to.len()]);
        if intx
            && let Some(at) = reg::STATUS.checked_sub(offset)
            && let Some(status) = to.get_mut(at)
        {
            *status |= STATUS_INTERRUPT;
        }
    }

    /// A guest's write of `from` to `offset`, within the space. True if it took the function from D3hot to D0
    /// and so reset it.
    pub(crate) fn write(&mut self, template: &Template, offset: usize, from: &[u8]) -> bool {
        let before = self.power_state(template);
        for (at, &new) in (offset..).zip(from) {
            let (stored, cleared) = (template.writable[at], template.clears[at]);
            let byte = &mut self.bytes[at];
            *byte = (*byte & !stored | new & stored) & !(new & cleared);
        }
        let Some(pmcsr) = template.pm.map(|cap| cap + PMCSR) else {
            return false;
        };
        match (before, self.power_state(template)) {
            (3, 0) if self.bytes[pmcsr] & NO_SOFT_RESET == 0 => {
                self.reset(template);
                true
            }
            // D1 and D2 do not exist here: such a write leaves the state alone (PM 1.2, 3.2.4).
            (_, 1 | 2) => {
                self.bytes[pmcsr] = self.bytes[pmcsr] & !POWER_STATE | before;
                false
            }
            _ => false,
        }
    }

    /// Back to the values after reset.
    pub(crate) fn reset(&mut self, template: &Template) {
        self.bytes = template.reset;
    }

    /// What COMMAND amounts to: outside D0 the function answers and starts nothing (PM 1.2, 5.4.1).
    pub(crate) fn command(&self, template: &Template) -> Command {
        if self.power_state(template) != 0 {
            return Command::INTX_DISABLE;
        }
        let bits = u16::from_le_bytes([self.bytes[reg::COMMAND], self.bytes[reg::COMMAND + 1]]);
        Command::from_bits_truncate(bits)
    }

    fn power_state(&self, template: &Template) -> u8 {
        template
            .pm
            .map_or(0, |cap| self.bytes[cap + PMCSR] & POWER_STATE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bar, Device};

    fn device() -> Device {
        Device::builder()
            .ids(0x8086, 0x100e)
            .class(0x02_00_00)
            .status(0x0230)
            .bar(0, Bar::memory32(0x2_0000))
            .bar(1, Bar::io(0x40))
            .bar(2, Bar::memory64(1 << 33))
            .capability(
                0xdc,
                &[CAP_PM, 0, 0x22, 0xc8, 0x00, 0x20, 0, 0],
                &[0, 0, 0, 0, 0x03, 0x1f, 0, 0],
            )
            .intx(1)
            .build()
            .unwrap()
    }

    fn read32(config: &ConfigSpace, at: usize) -> u32 {
        let mut bytes = [0; 4];
        config.read(at, &mut bytes, false);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn bars_can_be_sized() {
        let device = device();
        let mut config = ConfigSpace::new(&device.config);
        for (at, sized) in [
            (0x10, 0xfffe_0000),
            (0x14, 0xffff_ffc1),
            (0x18, 0x0000_0004),
            (0x1c, 0xffff_fffe),
            (0x20, 0),
            (0x30, 0),
        ] {
            config.write(&device.config, at, &[0xff; 4]);
            assert_eq!(read32(&config, at), sized, "register {at:#x}");
        }
        config.write(&device.config, 0x10, &0xfebc_1234_u32.to_le_bytes());
        assert_eq!(read32(&config, 0x10), 0xfebc_0000);
    }

    #[test]
    fn identity_is_read_only_and_the_interrupt_line_is_stored() {
        let device = device();
        let mut config = ConfigSpace::new(&device.config);
        config.write(&device.config, 0, &[0xff; CONFIG_SIZE]);
        assert_eq!(read32(&config, 0), 0x100e_8086);
        assert_eq!(read32(&config, 8), 0x0200_0000);
        assert_eq!(read32(&config, 0x3c), 0x1ff);
        assert_eq!(read32(&config, 0x34), 0xdc);
        assert_eq!(
            read32(&config, 4) >> 16 & 0x10,
            0x10,
            "STATUS names the list"
        );
    }

    #[test]
    fn writes_of_any_size_and_alignment_meet_the_same_masks() {
        let device = device();
        let (mut whole, mut bytes) = (
            ConfigSpace::new(&device.config),
            ConfigSpace::new(&device.config),
        );
        let data: Vec<u8> = (0..=255_u8).map(|i| i.wrapping_mul(37)).collect();
        // Up to the power management control, whose steps through D3 matter.
        whole.write(&device.config, 1, &data[1..0xe0]);
        for (at, byte) in data.iter().enumerate().take(0xe0).skip(1) {
            bytes.write(&device.config, at, &[*byte]);
        }
        assert_eq!(whole.bytes, bytes.bytes);
    }

    #[test]
    fn interrupt_status_is_the_line_at_any_offset() {
        let device = device();
        let config = ConfigSpace::new(&device.config);
        for offset in 0..=6 {
            let mut bytes = [0; 8];
            config.read(offset, &mut bytes, true);
            assert_eq!(bytes[6 - offset] & STATUS_INTERRUPT, STATUS_INTERRUPT);
        }
        let mut after = [0; 4];
        config.read(7, &mut after, true);
        assert_eq!(after[0], 0x02);
    }

    #[test]
    fn power_goes_from_d0_to_d3_and_back_by_a_reset() {
        let device = device();
        let mut config = ConfigSpace::new(&device.config);
        config.write(&device.config, 4, &[7]);
        assert!(config.command(&device.config).contains(Command::BUS_MASTER));
        assert!(!config.write(&device.config, 0xe0, &[1]), "no D1");
        assert!(!config.write(&device.config, 0xe0, &[3]));
        assert_eq!(config.command(&device.config), Command::INTX_DISABLE);
        assert!(!config.write(&device.config, 0xe0, &[2]), "D3 to D2");
        assert_eq!(config.power_state(&device.config), 3);
        assert!(config.write(&device.config, 0xe0, &[0]));
        assert_eq!(config.command(&device.config), Command::empty());
    }
}
