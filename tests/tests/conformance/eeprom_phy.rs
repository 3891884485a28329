//! EEPROM, PHY and link.

use guest_driver::e1000::wait_link;
use guest_driver::eeprom;
use guest_driver::phy::{self, BMCR, BMSR};
use guest_driver::regs::{CTRL, EERD, ICR, STATUS, cause, eerd, mdic, pci, status};
use guest_driver::{Config, until};
use nic_emu_tests::Machine;

use crate::support::{Check, Outcome, SOON, probe, start};
use crate::{checks, ensure, ensure_eq};

/// Auto-negotiation takes up to a few seconds on copper.
const NEGOTIATION: u64 = 5_000_000_000;

pub(crate) fn all() -> Vec<Check> {
    let mut all = checks!("eeprom": checksum, ids_are_those_of_config_space, subsystem_is_that_of_config_space, words_by_eerd,
        eerd_has_the_small_format, other_opcodes_are_harmless, aborted_read_is_harmless);
    all.extend(checks!("phy": identifier, other_addresses_fail, other_operations_complete,
        completion_interrupt, advertisement_holds, identifier_is_read_only, status_of_a_link, specific_status_of_a_link, link_bit_latches_low,
        restart_of_negotiation, reset_clears_itself, power_down_takes_the_link));
    all.extend(checks!("link": status_of_the_mac, carrier_loss_and_return, needs_no_help));
    all
}

fn checksum(m: &mut dyn Machine) -> Outcome {
    ensure_eq!(
        eeprom::checksum(m),
        Some(eeprom::CHECKSUM),
        "sum of the EEPROM"
    );
    Ok(())
}

/// Two words as one number.
fn words(m: &mut dyn Machine, high: u8, low: u8) -> Option<u32> {
    let high = eeprom::read_word(m, high)?;
    let low = eeprom::read_word(m, low)?;
    Some(u32::from(high) << 16 | u32::from(low))
}

fn ids_are_those_of_config_space(m: &mut dyn Machine) -> Outcome {
    let id = words(m, 0x0D, 0x0E);
    ensure_eq!(id, Some(m.config_read(pci::ID, 4)), "device and vendor");
    Ok(())
}

fn subsystem_is_that_of_config_space(m: &mut dyn Machine) -> Outcome {
    let subsystem = words(m, 0x0B, 0x0C);
    let config = m.config_read(pci::SUBSYSTEM, 4);
    ensure_eq!(subsystem, Some(config), "subsystem");
    Ok(())
}

fn words_by_eerd(m: &mut dyn Machine) -> Outcome {
    for word in 0..0x40 {
        let by_bits = eeprom::read_word(m, word);
        ensure_eq!(
            eeprom::read_word_by_eerd(m, word),
            by_bits,
            "word {word:#x} by EERD"
        );
    }
    Ok(())
}

/// iPXE starts a read of word 0 and takes bit 1 for the DONE bit of later parts.
fn eerd_has_the_small_format(m: &mut dyn Machine) -> Outcome {
    m.write32(EERD, eerd::START);
    ensure!(
        until(m, SOON, |m| m.read32(EERD) & eerd::DONE != 0),
        "EERD is never done"
    );
    ensure_eq!(m.read32(EERD) & 2, 0, "bit 1 of EERD");
    Ok(())
}

fn other_opcodes_are_harmless(m: &mut dyn Machine) -> Outcome {
    for opcode in [0b100, 0b101, 0b111, 0b000, 0b010] {
        ensure!(
            eeprom::command(m, opcode, 0, 16).is_some(),
            "no access for opcode {opcode:#05b}"
        );
    }
    checksum(m)
}

fn aborted_read_is_harmless(m: &mut dyn Machine) -> Outcome {
    for bits in 0..32 {
        eeprom::command(m, 0b110, 0x3F, bits).ok_or("no access")?;
        m.write32(guest_driver::regs::EECD, 0);
    }
    checksum(m)
}

fn identifier(m: &mut dyn Machine) -> Outcome {
    let id = phy::read(m, phy::ID1).zip(phy::read(m, phy::ID2));
    ensure!(
        id.is_some_and(|(high, low)| high == 0x0141 && low & 0xFFF0 == 0x0C20),
        "the PHY is {id:x?}"
    );
    Ok(())
}

fn other_addresses_fail(m: &mut dyn Machine) -> Outcome {
    for address in [0, 2, 31] {
        let read = mdic::READ | phy::ID1 << mdic::REG_SHIFT | address << mdic::PHY_SHIFT;
        let answer = phy::operate(m, read);
        ensure!(
            answer.is_some_and(|value| value & mdic::ERROR != 0),
            "PHY address {address} answers {answer:x?}"
        );
    }
    Ok(())
}

fn other_operations_complete(m: &mut dyn Machine) -> Outcome {
    for operation in [0, 3 << 26] {
        let command = operation | phy::ID1 << mdic::REG_SHIFT | 1 << mdic::PHY_SHIFT;
        ensure!(
            phy::operate(m, command).is_some(),
            "MDIC {command:#010x} never completes"
        );
    }
    Ok(())
}

fn completion_interrupt(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    let read = mdic::READ | phy::ID1 << mdic::REG_SHIFT | phy::ADDRESS << mdic::PHY_SHIFT;
    phy::operate(m, read).ok_or("MDIC never completes")?;
    ensure_eq!(m.read32(ICR) & cause::MDAC, 0, "MDAC, not asked for,");
    phy::operate(m, read | mdic::INT_EN).ok_or("MDIC never completes")?;
    ensure_eq!(m.read32(ICR) & cause::MDAC, cause::MDAC, "MDAC");
    Ok(())
}

fn advertisement_holds(m: &mut dyn Machine) -> Outcome {
    for (register, value) in [
        (phy::ANAR, 0x01E1),
        (phy::ANAR, 0x0DE1),
        (phy::GBCR, 0x0200),
        (phy::PSCR, 0x0068),
    ] {
        phy::write(m, register, value).ok_or("a PHY write fails")?;
        ensure_eq!(
            phy::read(m, register),
            Some(value),
            "PHY register {register}"
        );
    }
    Ok(())
}

fn identifier_is_read_only(m: &mut dyn Machine) -> Outcome {
    let before = phy::read(m, phy::ID1);
    let _ = phy::write(m, phy::ID1, 0x5555);
    ensure_eq!(phy::read(m, phy::ID1), before, "PHY register 2");
    Ok(())
}

/// The link bit latches low, so that the second read counts.
fn bmsr(m: &mut dyn Machine) -> Option<u16> {
    phy::read(m, BMSR)?;
    phy::read(m, BMSR)
}

/// Probes the device and waits for its link.
fn linked(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    wait_link(m, NEGOTIATION).map_err(|error| error.to_string())
}

fn status_of_a_link(m: &mut dyn Machine) -> Outcome {
    linked(m)?;
    let status = bmsr(m).ok_or("a PHY read fails")?;
    ensure_eq!(status, 0x796D, "BMSR");
    Ok(())
}

fn specific_status_of_a_link(m: &mut dyn Machine) -> Outcome {
    linked(m)?;
    let specific = phy::read(m, phy::PSSR).ok_or("a PHY read fails")?;
    ensure_eq!(
        specific & 0xEC00,
        0xAC00,
        "PSSR: 1000 Mb/s, full duplex, resolved, link"
    );
    ensure!(specific >> 7 & 7 <= 4, "cable length code in {specific:#x}");
    Ok(())
}

fn restart_of_negotiation(m: &mut dyn Machine) -> Outcome {
    linked(m)?;
    m.read32(ICR);
    phy::write(m, BMCR, 0x1140 | phy::BMCR_RESTART).ok_or("a PHY write fails")?;
    let control = phy::read(m, BMCR).ok_or("a PHY read fails")?;
    ensure_eq!(control & phy::BMCR_RESTART, 0, "the restart bit of BMCR");
    let done = |m: &mut dyn Machine| {
        bmsr(m).is_some_and(|v| v & phy::BMSR_ANC != 0 && v & phy::BMSR_LINK != 0)
    };
    let start = m.now();
    while !done(m) {
        ensure!(
            m.now() - start < NEGOTIATION,
            "negotiation is never complete"
        );
        m.wait(10_000_000);
    }
    ensure!(
        m.read32(ICR) & cause::LSC != 0,
        "the link came up without LSC"
    );
    ensure!(m.read32(STATUS) & status::LU != 0, "STATUS shows no link");
    Ok(())
}

fn reset_clears_itself(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    phy::write(m, phy::ANAR, 0x0021).ok_or("a PHY write fails")?;
    phy::write(m, BMCR, 0x1140 | phy::BMCR_RESET).ok_or("a PHY write fails")?;
    let start = m.now();
    while phy::read(m, BMCR).is_none_or(|v| v & phy::BMCR_RESET != 0) {
        ensure!(m.now() - start < SOON, "the reset bit of BMCR stays");
        m.wait(1_000_000);
    }
    ensure_eq!(phy::read(m, BMCR), Some(0x1140), "BMCR");
    wait_link(m, NEGOTIATION).map_err(|error| error.to_string())
}

/// `ip link set down` powers the PHY down.
fn power_down_takes_the_link(m: &mut dyn Machine) -> Outcome {
    linked(m)?;
    let control = phy::read(m, BMCR).ok_or("a PHY read fails")?;
    phy::write(m, BMCR, control | phy::BMCR_POWER_DOWN).ok_or("a PHY write fails")?;
    ensure_eq!(
        m.read32(STATUS) & status::LU,
        0,
        "LU with the PHY powered down"
    );
    let bits = bmsr(m).ok_or("a PHY read fails")?;
    ensure_eq!(bits & phy::BMSR_LINK, 0, "link bit of BMSR");
    phy::write(m, BMCR, control).ok_or("a PHY write fails")?;
    wait_link(m, NEGOTIATION).map_err(|error| error.to_string())
}

fn status_of_the_mac(m: &mut dyn Machine) -> Outcome {
    let nic = start(m, Config::default())?;
    let value = nic.bus.read32(STATUS);
    let bits = status::FD | status::LU | status::TBIMODE;
    ensure_eq!(
        value & bits,
        status::FD | status::LU,
        "FD, LU and TBIMODE of STATUS"
    );
    ensure!(
        value & status::SPEED >= status::SPEED_1000,
        "STATUS {value:#x} shows no 1000 Mb/s"
    );
    Ok(())
}

/// The link must come up on a card that no driver has set up yet: CTRL.SLU is a default.
fn needs_no_help(m: &mut dyn Machine) -> Outcome {
    m.read32(CTRL);
    wait_link(m, NEGOTIATION).map_err(|error| error.to_string())
}

fn carrier_loss_and_return(m: &mut dyn Machine) -> Outcome {
    linked(m)?;
    m.read32(ICR);
    m.set_carrier(false);
    ensure!(
        until(m, SOON, |m| m.read32(STATUS) & status::LU == 0),
        "STATUS shows link without carrier"
    );
    ensure!(
        m.read32(ICR) & cause::LSC != 0,
        "the link went down without LSC"
    );
    m.set_carrier(true);
    wait_link(m, NEGOTIATION).map_err(|error| error.to_string())?;
    ensure!(
        m.read32(ICR) & cause::LSC != 0,
        "the link came up without LSC"
    );
    Ok(())
}

/// Linux reads BMSR twice, once for what was and once for what is.
fn link_bit_latches_low(m: &mut dyn Machine) -> Outcome {
    linked(m)?;
    bmsr(m);
    m.set_carrier(false);
    until(m, SOON, |m| m.read32(STATUS) & status::LU == 0);
    m.set_carrier(true);
    wait_link(m, NEGOTIATION).map_err(|error| error.to_string())?;
    let first = phy::read(m, BMSR).ok_or("a PHY read fails")?;
    ensure_eq!(first & phy::BMSR_LINK, 0, "link bit at the first read");
    let second = phy::read(m, BMSR).ok_or("a PHY read fails")?;
    ensure_eq!(
        second & phy::BMSR_LINK,
        phy::BMSR_LINK,
        "link bit at the second read"
    );
    Ok(())
}
