//! The Microwire EEPROM behind EECD, read the way drivers do: bit by bit.

use crate::bus::{Bus, until};
use crate::regs::{EECD, EERD, eecd, eerd};

/// Sum of words 0 to 0x3F of an intact EEPROM.
pub const CHECKSUM: u16 = 0xBABA;

/// Reads one word; none if access was not granted in 5 ms.
pub fn read_word<B: Bus + ?Sized>(bus: &mut B, word: u8) -> Option<u16> {
    let value = command(bus, 0b110, u32::from(word), 16)?;
    Some(value as u16)
}

/// Writes one word of a chip that allows it; always 0, or none if access was not granted in 5 ms.
pub fn write_word<B: Bus + ?Sized>(bus: &mut B, word: u8, value: u16) -> Option<u32> {
    send(bus, 0b101, word.into(), Some(value), 0)
}

/// Sends a 3-bit `opcode` and an address, then clocks `data_bits` (at most 32) out of the chip; none if access was
/// not granted in 5 ms.
pub fn command<B: Bus + ?Sized>(
    bus: &mut B,
    opcode: u32,
    address: u32,
    data_bits: u32,
) -> Option<u32> {
    send(bus, opcode, address, None, data_bits)
}

fn send<B: Bus + ?Sized>(
    bus: &mut B,
    opcode: u32,
    address: u32,
    data: Option<u16>,
    data_bits: u32,
) -> Option<u32> {
    let control = bus.read32(EECD);
    let address_bits = if control & eecd::SIZE != 0 { 8 } else { 6 };
    bus.write32(EECD, control | eecd::REQ);
    if !until(bus, 5_000_000, |bus| bus.read32(EECD) & eecd::GNT != 0) {
        bus.write32(EECD, control & !eecd::REQ);
        return None;
    }

    let mut pins = bus.read32(EECD) & !(eecd::SK | eecd::DI | eecd::CS);
    bus.write32(EECD, pins);
    pins |= eecd::CS;
    bus.write32(EECD, pins);
    shift_out(bus, pins, opcode, 3);
    shift_out(bus, pins, address, address_bits);
    if let Some(data) = data {
        shift_out(bus, pins, data.into(), 16);
    }
    let mut value = 0;
    for _ in 0..data_bits {
        bus.write32(EECD, pins | eecd::SK);
        value = value << 1 | u32::from(bus.read32(EECD) & eecd::DO != 0);
        bus.write32(EECD, pins);
    }

    pins &= !eecd::CS;
    bus.write32(EECD, pins);
    bus.write32(EECD, pins | eecd::SK);
    bus.write32(EECD, pins);
    bus.write32(EECD, pins & !eecd::REQ);
    Some(value)
}

fn shift_out<B: Bus + ?Sized>(bus: &mut B, pins: u32, value: u32, bits: u32) {
    for bit in (0..bits).rev() {
        let data = if value >> bit & 1 != 0 { eecd::DI } else { 0 };
        bus.write32(EECD, pins | data);
        bus.write32(EECD, pins | data | eecd::SK);
        bus.write32(EECD, pins | data);
    }
    bus.write32(EECD, pins);
}

/// The 16-bit sum of words 0 to 0x3F, [`CHECKSUM`] if all is well.
pub fn checksum<B: Bus + ?Sized>(bus: &mut B) -> Option<u16> {
    (0..0x40).try_fold(0u16, |sum, word| {
        Some(sum.wrapping_add(read_word(bus, word)?))
    })
}

/// Reads one word by EERD; none if it was not done in 5 ms.
pub fn read_word_by_eerd<B: Bus + ?Sized>(bus: &mut B, word: u8) -> Option<u16> {
    bus.write32(EERD, eerd::START | u32::from(word) << eerd::ADDR_SHIFT);
    until(bus, 5_000_000, |bus| bus.read32(EERD) & eerd::DONE != 0)
        .then(|| (bus.read32(EERD) >> eerd::DATA_SHIFT) as u16)
}
