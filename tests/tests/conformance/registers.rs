//! Registers as plain storage: what they hold after reset, which bits stick.

use guest_driver::e1000::wait_link;
use guest_driver::regs::*;
use nic_emu_tests::Machine;

use crate::support::{Check, Outcome, SOON, probe};
use crate::{checks, ensure, ensure_eq};

/// Register, bits that hold, bits written: the offline register test of Linux's `ethtool -t`.
const MASKS: &[(&str, u32, u32, u32)] = &[
    ("fcal", FCAL, 0xFFFF_FFFF, 0xFFFF_FFFF),
    ("fcah", FCAH, 0x0000_FFFF, 0xFFFF_FFFF),
    ("fct", FCT, 0x0000_FFFF, 0xFFFF_FFFF),
    ("vet", VET, 0x0000_FFFF, 0xFFFF_FFFF),
    ("rdtr", RDTR, 0x0000_FFFF, 0xFFFF_FFFF),
    ("rdbah", RDBAH, 0xFFFF_FFFF, 0xFFFF_FFFF),
    ("rdlen", RDLEN, 0x000F_FF80, 0x000F_FFFF),
    ("rdh", RDH, 0x0000_FFFF, 0x0000_FFFF),
    ("rdt", RDT, 0x0000_FFFF, 0x0000_FFFF),
    ("fcrth", FCRTH, 0x0000_FFF8, 0x0000_FFF8),
    ("fcttv", FCTTV, 0x0000_FFFF, 0x0000_FFFF),
    ("tipg", TIPG, 0x3FFF_FFFF, 0x3FFF_FFFF),
    ("tdbah", TDBAH, 0xFFFF_FFFF, 0xFFFF_FFFF),
    ("tdlen", TDLEN, 0x000F_FF80, 0x000F_FFFF),
    ("rdbal", RDBAL, 0xFFFF_FFF0, 0xFFFF_FFFF),
    ("txcw", TXCW, 0xC000_FFFF, 0x0000_FFFF),
    ("tdbal", TDBAL, 0xFFFF_FFF0, 0xFFFF_FFFF),
    ("tidv", TIDV, 0x0000_FFFF, 0x0000_FFFF),
];

/// What drivers write in open and read back in a dump.
const VALUES: &[(&str, u32, u32)] = &[
    ("itr", ITR, 195),
    ("tadv", TADV, 32),
    ("radv", RADV, 8),
    ("ait", AIT, 4),
    ("rxcsum", RXCSUM, rxcsum::IPOFL | rxcsum::TUOFL),
    ("rxdctl", RXDCTL, 0x0101_0000),
    ("txdctl", TXDCTL, 0x0101_0000),
    ("ledctl", LEDCTL, 0x0706_8302),
    ("fcrtl", FCRTL, 0x8000_8F78),
];

/// Registers that are 0 after reset.
const ZERO: &[(&str, u32)] = &[
    ("ITR", ITR),
    ("IMS", IMS),
    ("RCTL", RCTL),
    ("TCTL", TCTL),
    ("FCTTV", FCTTV),
    ("TXCW", TXCW),
    ("FCRTL", FCRTL),
    ("FCRTH", FCRTH),
    ("RDLEN", RDLEN),
    ("RDH", RDH),
    ("RDT", RDT),
    ("RDTR", RDTR),
    ("RADV", RADV),
    ("TDLEN", TDLEN),
    ("TDH", TDH),
    ("TDT", TDT),
    ("TIDV", TIDV),
    ("TADV", TADV),
    ("RXCSUM", RXCSUM),
    ("AIT", AIT),
];

pub(crate) fn all() -> Vec<Check> {
    let mut checks = checks!("registers": zero_after_reset, pba_after_reset, address_after_reset,
        status_is_read_only, status_shows_copper, rctl_holds, receive_addresses_hold,
        multicast_table_holds, vlan_table_holds, absent_registers_are_harmless,
        io_window_reads, io_window_writes, fpd_reads_as_zero);
    checks.extend(MASKS.iter().map(|&(name, reg, mask, write)| Check {
        name: format!("registers::mask_of_{name}"),
        run: Box::new(move |m| {
            probe(m)?;
            pattern_test(m, reg, mask, write)
        }),
    }));
    checks.extend(VALUES.iter().map(|&(name, reg, value)| Check {
        name: format!("registers::{name}_holds"),
        run: Box::new(move |m| {
            probe(m)?;
            m.write32(reg, value);
            ensure_eq!(m.read32(reg), value, "register {reg:#06x}");
            Ok(())
        }),
    }));
    checks
}

fn pattern_test(m: &mut dyn Machine, reg: u32, mask: u32, write: u32) -> Outcome {
    for pattern in [0x5A5A_5A5A, 0xA5A5_A5A5, 0, 0xFFFF_FFFF] {
        m.write32(reg, pattern & write);
        let got = m.read32(reg);
        ensure_eq!(
            got,
            pattern & write & mask,
            "register {reg:#06x} after {:#010x}",
            pattern & write
        );
    }
    Ok(())
}

fn zero_after_reset(m: &mut dyn Machine) -> Outcome {
    for (name, reg) in ZERO {
        ensure_eq!(m.read32(*reg), 0, "{name} after power-up");
    }
    Ok(())
}

/// 48 KiB for reception, the rest of 64 for transmission.
fn pba_after_reset(m: &mut dyn Machine) -> Outcome {
    ensure_eq!(m.read32(PBA), 0x0010_0030, "PBA");
    m.write32(PBA, 40);
    ensure_eq!(m.read32(PBA), 0x0018_0028, "PBA after a write of 40");
    Ok(())
}

/// iPXE takes its address from here and not from the EEPROM.
fn address_after_reset(m: &mut dyn Machine) -> Outcome {
    let (low, high) = (m.read32(RAL0), m.read32(RAH0));
    ensure!(high & RAH_AV != 0, "RAH0 {high:#010x} is not valid");
    let mac = probe(m)?;
    ensure_eq!(low.to_le_bytes(), [mac[0], mac[1], mac[2], mac[3]], "RAL0");
    ensure_eq!(high as u16, u16::from_le_bytes([mac[4], mac[5]]), "RAH0");
    Ok(())
}

/// The first step of Linux's register test.
fn status_is_read_only(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    let before = m.read32(STATUS);
    m.write32(STATUS, !before & 0xFFFF_F833);
    ensure_eq!(
        m.read32(STATUS) & 0xFFFF_F833,
        before & 0xFFFF_F833,
        "STATUS after a write"
    );
    Ok(())
}

fn status_shows_copper(m: &mut dyn Machine) -> Outcome {
    let value = m.read32(STATUS);
    ensure_eq!(value & status::TBIMODE, 0, "TBIMODE of STATUS");
    ensure!(value != !0, "STATUS looks like an absent device");
    Ok(())
}

/// The part of Linux's test that switches the receiver on while its ring is garbage: nothing may come of it.
fn rctl_holds(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    for (reg, garbage) in [
        (RDBAL, 0xFFFF_FFF0),
        (RDLEN, 0xF_FF80),
        (RDH, 0xFFFF),
        (RDT, 0xFFFF),
    ] {
        m.write32(reg, garbage);
    }
    for write in [0, 0x003F_FFFB, 0xFFFF_FFFF] {
        m.write32(RCTL, write);
        ensure_eq!(
            m.read32(RCTL) & 0x06DF_B3FE,
            write & 0x06DF_B3FE,
            "RCTL after {write:#010x}"
        );
    }
    m.transmit(&[0xFF; 60]);
    m.settle();
    ensure_eq!(m.read32(RDH), 0xFFFF, "RDH, beyond the ring,");
    m.write32(RCTL, 0);
    Ok(())
}

fn receive_addresses_hold(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    for entry in 0..15 {
        pattern_test(m, RAH0 + 8 * entry, 0x8003_FFFF, !0)?;
        pattern_test(m, RAL0 + 8 * entry, !0, !0)?;
    }
    Ok(())
}

fn multicast_table_holds(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    (0..128).try_for_each(|word| pattern_test(m, MTA + 4 * word, !0, !0))
}

fn vlan_table_holds(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    (0..128).try_for_each(|word| pattern_test(m, VFTA + 4 * word, !0, !0))
}

/// DPDK touches RFCTL, Linux dumps registers of later parts: reads give something, writes change nothing.
fn absent_registers_are_harmless(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    wait_link(m, SOON).map_err(|error| error.to_string())?;
    for reg in [
        RFCTL, 0x3840, 0x3900, 0x3940, 0x5FFC, 0xFFFC, 0x5480, 0x8000, 0x1_FFFC,
    ] {
        let value = m.read32(reg);
        m.write32(reg, value | 0x8000_0000);
        m.read32(reg);
    }
    ensure!(m.read32(STATUS) & status::LU != 0, "the link went away");
    Ok(())
}

fn io_window_reads(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    for reg in [STATUS, RAL0, PBA] {
        m.io_write32(IOADDR, reg);
        ensure_eq!(m.io_read32(IOADDR), reg, "IOADDR");
        let by_memory = m.read32(reg);
        ensure_eq!(
            m.io_read32(IODATA),
            by_memory,
            "register {reg:#06x} by I/O port"
        );
    }
    Ok(())
}

fn io_window_writes(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    m.io_write32(IOADDR, VET);
    m.io_write32(IODATA, 0x88A8);
    ensure_eq!(m.read32(VET), 0x88A8, "VET written by I/O port");
    Ok(())
}

fn fpd_reads_as_zero(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    m.write32(RDTR, FPD | 8);
    ensure_eq!(m.read32(RDTR), 8, "RDTR after FPD");
    Ok(())
}
