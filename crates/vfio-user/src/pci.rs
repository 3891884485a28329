//! Configuration space: 256 or 4096 bytes, what of them the guest may write, and the registers that act.
//!
//! Source: PCI Local Bus Specification 3.0, chapter 6; PCI Power Management Interface Specification 1.2,
//! chapter 3 and section 5.4; PCI Express Base Specification 3.0, sections 6.6.2 and 7.8. Clients keep some registers to themselves (QEMU answers reads of the BARs) but
//! forward all writes, so what stands here is what the guest wrote and decides nothing but what is said below.

use bitflags::bitflags;
use rustix::io::Errno;

use crate::handler::{Pme, ResetKind};
use crate::irq::{IrqTable, Mode};
use crate::wire::irq_index;

/// Bytes of the configuration space of a conventional PCI function.
pub const CONFIG_SIZE: usize = 256;

/// Bytes of the configuration space of a PCI Express function.
pub const CONFIG_SIZE_EXPRESS: usize = 4096;

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

/// Capability ids.
pub(crate) mod cap {
    pub(crate) const PM: u8 = 0x01;
    pub(crate) const MSI: u8 = 0x05;
    pub(crate) const VENDOR: u8 = 0x09;
    pub(crate) const EXPRESS: u8 = 0x10;
    pub(crate) const MSIX: u8 = 0x11;
}

/// STATUS: the function asserts INTx (whether or not COMMAND lets it through).
const STATUS_INTERRUPT: u8 = 1 << 3;
/// PMCSR, from the start of the power management capability.
const PMCSR: usize = 4;
/// PMCSR: power state, 0 is D0 and 3 is D3hot.
const POWER_STATE: u8 = 0b11;
/// PMCSR, its upper byte: PME_En, and PME_Status, which writing 1 clears.
pub(crate) const PME_ENABLE: u8 = 1 << 0;
pub(crate) const PME_STATUS: u8 = 1 << 7;
/// PMCSR: the function keeps its state on the way from D3hot to D0.
const NO_SOFT_RESET: u8 = 1 << 3;
/// Message Control of MSI and MSI-X, from the start of the capability.
const MESSAGE_CONTROL: usize = 2;
/// MSI's Message Control: MSI is enabled.
const MSI_ENABLE: u8 = 1 << 0;
/// MSI's mask and pending bits, from the start of a capability of 64-bit addresses.
const MSI_MASK: usize = 16;
const MSI_PENDING: usize = 20;
/// MSI-X's Message Control, its upper byte: MSI-X is enabled, all vectors are masked.
const MSIX_ENABLE: u8 = 1 << 7;
const MSIX_FUNCTION_MASK: u8 = 1 << 6;
/// Device Control, from the start of the PCI Express capability.
const DEVICE_CONTROL: usize = 8;
/// Device Control, its upper byte: Initiate Function Level Reset.
const INITIATE_FLR: u8 = 1 << 7;

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

/// Configuration space as the device's author described it. The three lists have the same length.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    /// Value after reset.
    pub(crate) reset: Vec<u8>,
    /// Bits that a write stores.
    pub(crate) writable: Vec<u8>,
    /// Bits that writing 1 clears.
    pub(crate) clears: Vec<u8>,
    /// Where the capabilities are that act.
    pub(crate) pm: Option<usize>,
    pub(crate) msi: Option<usize>,
    pub(crate) msix: Option<usize>,
    pub(crate) express: Option<usize>,
    /// MSI: the vectors are 2 to the power of this, and each can be masked.
    pub(crate) msi_order: u8,
    pub(crate) msi_maskable: bool,
}

impl Default for Template {
    /// A conventional function with nothing in it.
    fn default() -> Self {
        Self {
            reset: vec![0; CONFIG_SIZE],
            writable: vec![0; CONFIG_SIZE],
            clears: vec![0; CONFIG_SIZE],
            pm: None,
            msi: None,
            msix: None,
            express: None,
            msi_order: 0,
            msi_maskable: false,
        }
    }
}

impl Template {
    /// Makes room for the extended space of an Express function.
    pub(crate) fn grow(&mut self) {
        for list in [&mut self.reset, &mut self.writable, &mut self.clears] {
            list.resize(CONFIG_SIZE_EXPRESS, 0);
        }
    }

    /// Where PME_En and PME_Status are.
    pub(crate) fn pmcsr_high(&self) -> Option<usize> {
        self.pm.map(|cap| cap + PMCSR + 1)
    }

    /// Bytes of the space.
    pub(crate) fn size(&self) -> usize {
        self.reset.len()
    }
}

/// Configuration space of a device in use.
#[derive(Debug)]
pub(crate) struct ConfigSpace {
    bytes: Vec<u8>,
}

impl ConfigSpace {
    pub(crate) fn new(template: &Template) -> Self {
        Self {
            bytes: template.reset.clone(),
        }
    }

    /// Fills `to` from `offset`; both within the space. What the interrupts are doing shows, too, and what a device says
    /// of wake-up that keeps it itself.
    pub(crate) fn read(
        &self,
        template: &Template,
        irqs: &IrqTable,
        pme: Option<Pme>,
        offset: usize,
        to: &mut [u8],
    ) {
        to.copy_from_slice(&self.bytes[offset..][..to.len()]);
        if let Some(byte) = template
            .pmcsr_high()
            .and_then(|at| to.get_mut(at.checked_sub(offset)?))
        {
            *byte = with_pme(*byte, pme);
        }
        let mut show = |register: usize, bits: u8| {
            if let Some(byte) = register.checked_sub(offset).and_then(|at| to.get_mut(at)) {
                *byte |= bits;
            }
        };
        if irqs.level() {
            show(reg::STATUS, STATUS_INTERRUPT);
        }
        if let (Some(msi), true) = (template.msi, template.msi_maskable) {
            let pending = irqs.pending(irq_index::MSI, 0).to_le_bytes();
            for (at, bits) in (msi + MSI_PENDING..msi + MSI_PENDING + 4).zip(pending) {
                show(at, bits);
            }
        }
    }

    /// A guest's write of `from` to `offset`, within the space. Returns how it reset the function, if it did.
    ///
    /// # Errors
    ///
    /// `EINVAL` for what no guest can do or may do, nothing is stored then: an access around Device Control that is
    /// not naturally aligned, more MSI vectors than there are.
    pub(crate) fn write(
        &mut self,
        template: &Template,
        offset: usize,
        from: &[u8],
    ) -> Result<Option<ResetKind>, Errno> {
        let written = |at: usize| at.checked_sub(offset).and_then(|i| from.get(i)).copied();
        let mut flr = false;
        if let Some(control) = template.express.map(|cap| cap + DEVICE_CONTROL)
            && (written(control).is_some() || written(control + 1).is_some())
        {
            if !matches!(from.len(), 1 | 2 | 4) || !offset.is_multiple_of(from.len()) {
                return Err(Errno::INVAL);
            }
            flr = written(control + 1).is_some_and(|byte| byte & INITIATE_FLR != 0);
        }
        if let Some(control) = template.msi.map(|cap| cap + MESSAGE_CONTROL)
            && written(control).is_some_and(|byte| byte >> 4 & 0b111 > template.msi_order)
        {
            return Err(Errno::INVAL);
        }
        if flr {
            self.reset(template);
            return Ok(Some(ResetKind::FunctionLevel));
        }
        let before = self.power_state(template);
        for (at, &new) in (offset..).zip(from) {
            let (stored, cleared) = (template.writable[at], template.clears[at]);
            let byte = &mut self.bytes[at];
            *byte = (*byte & !stored | new & stored) & !(new & cleared);
        }
        let Some(pmcsr) = template.pm.map(|cap| cap + PMCSR) else {
            return Ok(None);
        };
        match (before, self.power_state(template)) {
            (3, 0) if self.bytes[pmcsr] & NO_SOFT_RESET == 0 => {
                self.reset(template);
                return Ok(Some(ResetKind::PowerState));
            }
            // D1 and D2 do not exist here: such a write leaves the state alone (PM 1.2, 3.2.4).
            (_, 1 | 2) => self.bytes[pmcsr] = self.bytes[pmcsr] & !POWER_STATE | before,
            _ => {}
        }
        Ok(None)
    }

    /// All of it, as a guest that has it to itself reads it.
    pub(crate) fn saved(&self, template: &Template, pme: Option<Pme>) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        if let Some(at) = template.pmcsr_high() {
            bytes[at] = with_pme(bytes[at], pme);
        }
        bytes
    }

    /// PME_En as a write or a restored state left it.
    pub(crate) fn pme_enabled(&self, template: &Template) -> bool {
        let stored = template.pmcsr_high().map_or(0, |at| self.bytes[at]);
        stored & PME_ENABLE != 0
    }

    /// Takes over what another device of this description had: what a guest can write, nothing else.
    pub(crate) fn restore(&mut self, template: &Template, saved: &[u8]) {
        self.reset(template);
        for (at, (byte, saved)) in self.bytes.iter_mut().zip(saved).enumerate() {
            let stored = template.writable[at];
            *byte = *byte & !stored | saved & stored;
        }
        if let Some(cap) = template.pm
            && matches!(self.power_state(template), 1 | 2)
        {
            self.bytes[cap + PMCSR] &= !POWER_STATE;
        }
        if let Some(control) = template.msi.map(|cap| cap + MESSAGE_CONTROL)
            && self.bytes[control] >> 4 & 0b111 > template.msi_order
        {
            self.bytes[control] &= !(0b111 << 4);
        }
    }

    /// Back to the values after reset.
    pub(crate) fn reset(&mut self, template: &Template) {
        self.bytes.copy_from_slice(&template.reset);
    }

    /// What COMMAND amounts to: outside D0 the function answers and starts nothing (PM 1.2, 5.4.1).
    pub(crate) fn command(&self, template: &Template) -> Command {
        if self.power_state(template) != 0 {
            return Command::INTX_DISABLE;
        }
        let bits = u16::from_le_bytes([self.bytes[reg::COMMAND], self.bytes[reg::COMMAND + 1]]);
        Command::from_bits_truncate(bits)
    }

    /// What the registers say about interrupts.
    pub(crate) fn interrupts(&self, template: &Template) -> Mode {
        let command = self.command(template);
        let mut mode = Mode::empty();
        mode.set(Mode::BUS_MASTER, command.contains(Command::BUS_MASTER));
        mode.set(Mode::INTX_DISABLE, command.contains(Command::INTX_DISABLE));
        if let Some(cap) = template.msix {
            let control = self.bytes[cap + MESSAGE_CONTROL + 1];
            mode.set(Mode::MSIX, control & MSIX_ENABLE != 0);
            mode.set(Mode::FUNCTION_MASK, control & MSIX_FUNCTION_MASK != 0);
        }
        if let Some(cap) = template.msi {
            let control = self.bytes[cap + MESSAGE_CONTROL];
            mode.set(Mode::MSI, control & MSI_ENABLE != 0);
            mode = mode.with_msi_order(control >> 4 & 0b111);
        }
        mode
    }

    /// MSI's mask bits, if it has any.
    pub(crate) fn msi_mask(&self, template: &Template) -> Option<u32> {
        let at = template.msi.filter(|_| template.msi_maskable)? + MSI_MASK;
        let bytes = self.bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    fn power_state(&self, template: &Template) -> u8 {
        template
            .pm
            .map_or(0, |cap| self.bytes[cap + PMCSR] & POWER_STATE)
    }
}

/// The upper byte of PMCSR of a device that keeps PME_En and PME_Status itself.
fn with_pme(byte: u8, pme: Option<Pme>) -> u8 {
    let Some(pme) = pme else { return byte };
    let bit = |on, bit| if on { bit } else { 0 };
    byte & !(PME_ENABLE | PME_STATUS) | bit(pme.enabled, PME_ENABLE) | bit(pme.status, PME_STATUS)
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
                &[cap::PM, 0, 0x22, 0xc8, 0x00, 0x20, 0, 0],
                &[0, 0, 0, 0, 0x03, 0x1f, 0, 0],
            )
            .intx(1)
            .build()
            .unwrap()
    }

    fn read32(config: &ConfigSpace, at: usize) -> u32 {
        let mut bytes = [0; 4];
        config.read(&device().config, &IrqTable::default(), None, at, &mut bytes);
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
            config.write(&device.config, at, &[0xff; 4]).unwrap();
            assert_eq!(read32(&config, at), sized, "register {at:#x}");
        }
        config
            .write(&device.config, 0x10, &0xfebc_1234_u32.to_le_bytes())
            .unwrap();
        assert_eq!(read32(&config, 0x10), 0xfebc_0000);
    }

    #[test]
    fn identity_is_read_only_and_the_interrupt_line_is_stored() {
        let device = device();
        let mut config = ConfigSpace::new(&device.config);
        config
            .write(&device.config, 0, &[0xff; CONFIG_SIZE])
            .unwrap();
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
        whole.write(&device.config, 1, &data[1..0xe0]).unwrap();
        for (at, byte) in data.iter().enumerate().take(0xe0).skip(1) {
            bytes.write(&device.config, at, &[*byte]).unwrap();
        }
        assert_eq!(whole.bytes, bytes.bytes);
    }

    #[test]
    fn interrupt_status_is_the_line_at_any_offset() {
        let device = device();
        let config = ConfigSpace::new(&device.config);
        let irqs = IrqTable::default();
        irqs.set_level(true);
        for offset in 0..=6 {
            let mut bytes = [0; 8];
            config.read(&device.config, &irqs, None, offset, &mut bytes);
            assert_eq!(bytes[6 - offset] & STATUS_INTERRUPT, STATUS_INTERRUPT);
        }
        let mut after = [0; 4];
        config.read(&device.config, &irqs, None, 7, &mut after);
        assert_eq!(after[0], 0x02);
    }

    #[test]
    fn power_goes_from_d0_to_d3_and_back_by_a_reset() {
        let device = device();
        let mut config = ConfigSpace::new(&device.config);
        config.write(&device.config, 4, &[7]).unwrap();
        assert!(config.command(&device.config).contains(Command::BUS_MASTER));
        let power =
            |config: &mut ConfigSpace, state| config.write(&device.config, 0xe0, &[state]).unwrap();
        assert_eq!(power(&mut config, 1), None, "no D1");
        assert_eq!(power(&mut config, 3), None);
        assert_eq!(config.command(&device.config), Command::INTX_DISABLE);
        assert_eq!(power(&mut config, 2), None, "D3 to D2");
        assert_eq!(config.power_state(&device.config), 3);
        assert_eq!(power(&mut config, 0), Some(ResetKind::PowerState));
        assert_eq!(config.command(&device.config), Command::empty());
    }
}
