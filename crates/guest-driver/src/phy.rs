//! The M88E1000 PHY behind MDIC.

use crate::bus::{Bus, until};
use crate::regs::{MDIC, mdic};

/// Address of the internal PHY.
pub const ADDRESS: u32 = 1;
/// Control register.
pub const BMCR: u32 = 0;
/// Status register; its link bit latches low.
pub const BMSR: u32 = 1;
/// First half of the identifier.
pub const ID1: u32 = 2;
/// Second half of the identifier, revision in bits 3:0.
pub const ID2: u32 = 3;
/// What we advertise.
pub const ANAR: u32 = 4;
/// 1000BASE-T control.
pub const GBCR: u32 = 9;
/// M88 specific control.
pub const PSCR: u32 = 16;
/// M88 specific status: what was resolved.
pub const PSSR: u32 = 17;

/// BMCR: reset, clears itself.
pub const BMCR_RESET: u16 = 1 << 15;
/// BMCR: auto-negotiation.
pub const BMCR_ANE: u16 = 1 << 12;
/// BMCR: power down.
pub const BMCR_POWER_DOWN: u16 = 1 << 11;
/// BMCR: restart auto-negotiation, clears itself.
pub const BMCR_RESTART: u16 = 1 << 9;
/// BMSR: auto-negotiation is complete.
pub const BMSR_ANC: u16 = 1 << 5;
/// BMSR: link.
pub const BMSR_LINK: u16 = 1 << 2;
/// ID1 and ID2 of an M88E1000, revision masked.
pub const M88_ID: u32 = 0x0141_0C20;

/// One MDIC operation; returns the register with READY set, or none if it did not come within 3.2 ms.
pub fn operate<B: Bus + ?Sized>(bus: &mut B, command: u32) -> Option<u32> {
    bus.write32(MDIC, command);
    until(bus, 3_200_000, |bus| bus.read32(MDIC) & mdic::READY != 0).then(|| bus.read32(MDIC))
}

/// Reads a PHY register; none on time-out or error.
pub fn read<B: Bus + ?Sized>(bus: &mut B, register: u32) -> Option<u16> {
    let command = register << mdic::REG_SHIFT | ADDRESS << mdic::PHY_SHIFT | mdic::READ;
    operate(bus, command)
        .filter(|value| value & mdic::ERROR == 0)
        .map(|value| value as u16)
}

/// Writes a PHY register; none on time-out or error.
pub fn write<B: Bus + ?Sized>(bus: &mut B, register: u32, value: u16) -> Option<()> {
    let command = register << mdic::REG_SHIFT | ADDRESS << mdic::PHY_SHIFT | mdic::WRITE;
    operate(bus, command | u32::from(value))
        .filter(|value| value & mdic::ERROR == 0)
        .map(|_| ())
}
