//! ICR, ICS, IMS, IMC, the level of the line, and the timers that hold it back.

use guest_driver::Config;
use guest_driver::desc::{EOP, IDE, IFCS, RS, legacy};
use guest_driver::e1000::wait_link;
use guest_driver::packet::plain;
use guest_driver::regs::{FPD, ICR, ICS, IMC, IMS, ITR, RADV, RDTR, TADV, TIDV, cause};
use nic_emu_tests::Machine;

use crate::support::{
    Check, Nic, Outcome, PEER, SOON, drained, place, probe, push, received, start,
};
use crate::{checks, ensure, ensure_eq};

const US: u64 = 1_000;

pub(crate) fn all() -> Vec<Check> {
    checks!("interrupts": icr_read_clears_all, icr_write_clears_ones, ics_sets,
        ics_read_clears_nothing, causes_0_to_9_latch, ims_reads_the_mask, imc_clears_ones,
        line_rises_with_a_cause, line_rises_with_its_mask, line_falls_with_icr_read,
        line_falls_with_icr_write, line_falls_with_imc, line_stays_for_other_causes, ethtool_test,
        all_ones_are_never_read, causes_of_later_parts_are_ignored, rxt0_and_txdw_come,
        itr_spaces_interrupts, itr_zero_does_not_wait, tidv_delays, tadv_caps_tidv,
        tx_without_ide_does_not_wait, rdtr_delays, rdtr_restarts, radv_caps_rdtr,
        rdtr_flush_fires_now, tidv_flush_fires_now)
}

fn icr_read_clears_all(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    for mask in [0, cause::LSC, !0] {
        m.write32(IMC, !0);
        m.write32(IMS, mask);
        m.write32(ICS, cause::LSC | cause::RXT0);
        let causes = m.read32(ICR);
        ensure_eq!(
            causes & 0xFFFF,
            cause::LSC | cause::RXT0,
            "ICR with IMS {mask:#x}"
        );
        ensure_eq!(m.read32(ICR), 0, "ICR read again with IMS {mask:#x}");
    }
    Ok(())
}

fn icr_write_clears_ones(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    m.write32(ICS, cause::LSC | cause::RXT0 | cause::TXDW);
    m.write32(ICR, cause::RXT0);
    ensure_eq!(m.read32(ICR) & 0xFFFF, cause::LSC | cause::TXDW, "ICR");
    Ok(())
}

fn ics_sets(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    m.write32(ICS, cause::LSC);
    m.write32(ICS, cause::RXDMT0);
    m.write32(ICS, 0);
    ensure_eq!(m.read32(ICR) & 0xFFFF, cause::LSC | cause::RXDMT0, "ICR");
    Ok(())
}

fn ics_read_clears_nothing(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    m.write32(ICS, cause::LSC);
    m.read32(ICS);
    ensure_eq!(m.read32(ICR) & 0xFFFF, cause::LSC, "ICR");
    Ok(())
}

/// Bits 5 and 8 are reserved, and Linux's interrupt test walks over them too.
fn causes_0_to_9_latch(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    for bit in 0..10 {
        m.write32(ICS, 1 << bit);
        ensure_eq!(m.read32(ICR) & 0x3FF, 1 << bit, "ICR");
    }
    Ok(())
}

fn ims_reads_the_mask(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    m.write32(IMS, 0x95);
    ensure_eq!(m.read32(IMS), 0x95, "IMS");
    m.write32(IMS, 0x08);
    ensure_eq!(m.read32(IMS), 0x9D, "IMS after another write");
    m.write32(IMS, 0);
    ensure_eq!(m.read32(IMS), 0x9D, "IMS after a write of 0");
    Ok(())
}

fn imc_clears_ones(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    m.write32(IMS, 0x9D);
    m.write32(IMC, 0x81);
    ensure_eq!(m.read32(IMS), 0x1C, "IMS");
    m.write32(IMC, !0);
    ensure_eq!(m.read32(IMS), 0, "IMS after IMC of all ones");
    Ok(())
}

/// Makes sure that the line has this level.
fn line(m: &mut dyn Machine, high: bool, when: &str) -> Outcome {
    let got = m.interrupt();
    ensure!(
        got == high,
        "the line is {} {when}",
        if got { "high" } else { "low" }
    );
    Ok(())
}

/// The driver's probe, then time for the link to come up and for whatever throttles interrupts to forget.
fn probe_and_rest(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    wait_link(m, SOON).map_err(|error| error.to_string())?;
    m.wait(1_000 * US);
    m.read32(ICR);
    line(m, false, "after reset")
}

fn line_rises_with_a_cause(m: &mut dyn Machine) -> Outcome {
    probe_and_rest(m)?;
    m.write32(IMS, cause::LSC);
    line(m, false, "without a cause")?;
    m.write32(ICS, cause::RXT0);
    line(m, false, "with a masked cause")?;
    m.write32(ICS, cause::LSC);
    line(m, true, "with an enabled cause")
}

fn line_rises_with_its_mask(m: &mut dyn Machine) -> Outcome {
    probe_and_rest(m)?;
    m.write32(ICS, cause::LSC);
    line(m, false, "with a masked cause")?;
    m.write32(IMS, cause::LSC);
    line(m, true, "after IMS uncovered a cause")
}

fn line_falls_with_icr_read(m: &mut dyn Machine) -> Outcome {
    line_rises_with_a_cause(m)?;
    m.read32(ICR);
    line(m, false, "after ICR was read")
}

fn line_falls_with_icr_write(m: &mut dyn Machine) -> Outcome {
    line_rises_with_a_cause(m)?;
    m.write32(ICR, cause::LSC);
    line(m, false, "after its cause was cleared")
}

fn line_falls_with_imc(m: &mut dyn Machine) -> Outcome {
    line_rises_with_a_cause(m)?;
    m.write32(IMC, cause::LSC);
    line(m, false, "after its cause was masked")
}

fn line_stays_for_other_causes(m: &mut dyn Machine) -> Outcome {
    line_rises_with_a_cause(m)?;
    m.write32(IMS, cause::TXDW);
    m.write32(ICS, cause::TXDW);
    m.write32(IMC, cause::LSC);
    line(m, true, "with one of two causes masked")?;
    m.write32(ICR, cause::TXDW);
    line(m, false, "with the other one cleared")
}

/// The interrupt test of Linux's `ethtool -t`, with its 10 ms pauses.
fn ethtool_test(m: &mut dyn Machine) -> Outcome {
    probe_and_rest(m)?;
    m.write32(IMC, !0);
    for bit in 0..10 {
        let mask = 1 << bit;
        m.write32(IMC, mask);
        m.write32(ICS, mask);
        m.wait(1_000 * US);
        line(m, false, &format!("with bit {bit} masked"))?;

        m.write32(IMS, mask);
        m.write32(ICS, mask);
        m.wait(1_000 * US);
        line(m, true, &format!("with bit {bit} enabled"))?;
        ensure_eq!(m.read32(ICR) & 0x7FFF, mask, "ICR in the handler");

        m.write32(IMC, !mask & 0x7FFF);
        m.write32(ICS, !mask & 0x7FFF);
        m.wait(1_000 * US);
        line(m, false, &format!("with all but bit {bit} masked"))?;
        m.write32(IMC, !0);
        m.read32(ICR);
    }
    Ok(())
}

/// FreeBSD takes an ICR of all ones for a card that was pulled.
fn all_ones_are_never_read(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    m.write32(IMS, !0);
    m.write32(ICS, !0);
    let causes = m.read32(ICR);
    ensure!(causes != !0, "ICR reads as all ones");
    Ok(())
}

/// DPDK enables bit 24, "other", of later parts.
fn causes_of_later_parts_are_ignored(m: &mut dyn Machine) -> Outcome {
    probe_and_rest(m)?;
    m.write32(IMS, 1 << 24);
    m.write32(ICS, 1 << 24);
    line(m, false, "with nothing but bit 24")
}

fn rxt0_and_txdw_come(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    nic.causes();
    nic.enable_interrupts(cause::RXT0 | cause::TXDW);
    let mac = nic.mac;
    nic.bus.transmit(&plain(mac, PEER, 100, 1));
    received(&mut nic)?;
    wait_for(&mut nic, cause::RXT0, 10_000 * US)?;
    send_one(&mut nic, 0);
    wait_for(&mut nic, cause::TXDW, 10_000 * US)
}

fn send_one(nic: &mut Nic<'_>, delay: u32) {
    let mac = nic.mac;
    let addr = place(nic, &plain(PEER, mac, 60, 9));
    push(nic, &[legacy(addr, 60, EOP | IFCS | RS | delay)]);
}

/// Waits for the line and then reads ICR, which has to show `cause`.
fn wait_for(nic: &mut Nic<'_>, cause: u32, timeout: u64) -> Outcome {
    let start = nic.bus.now();
    while !nic.bus.interrupt() {
        ensure!(
            nic.bus.now() - start <= timeout,
            "no interrupt within {timeout} ns"
        );
        nic.bus.wait(5 * US);
    }
    let causes = nic.causes();
    ensure!(causes & cause != 0, "ICR {causes:#x} lacks {cause:#x}");
    Ok(())
}

/// Makes sure that the line rises no sooner than `least` ns from `since`, and soon after that; where time is real,
/// `most` counts only as the end of patience.
fn rises_between(m: &mut dyn Machine, since: u64, least: u64, most: u64) -> Outcome {
    let patience = if m.owns_time() { 2 * US } else { 500_000 * US };
    while !m.interrupt() {
        let passed = m.now() - since;
        ensure!(
            passed <= most + patience,
            "no interrupt for {passed} ns, {least} to {most} expected"
        );
        m.wait(US);
    }
    let passed = m.now() - since;
    ensure!(
        passed + US >= least,
        "an interrupt after {passed} ns, {least} to {most} expected"
    );
    Ok(())
}

/// ITR in units of 256 ns.
fn itr_spaces_interrupts(m: &mut dyn Machine) -> Outcome {
    probe_and_rest(m)?;
    m.write32(ITR, 0xFFFF);
    m.write32(IMS, cause::LSC);
    m.write32(ICS, cause::LSC);
    let before = m.now();
    rises_between(m, before, 0, 20 * US)?;
    m.read32(ICR);
    m.write32(ICS, cause::LSC);
    rises_between(m, before, 0xFFFF * 256, 0xFFFF * 256 + 20 * US)
}

fn itr_zero_does_not_wait(m: &mut dyn Machine) -> Outcome {
    probe_and_rest(m)?;
    m.write32(ITR, 0);
    m.write32(IMS, cause::LSC);
    for _ in 0..5 {
        m.write32(ICS, cause::LSC);
        line(m, true, "with a cause and no ITR")?;
        m.read32(ICR);
        line(m, false, "after ICR was read")?;
    }
    Ok(())
}

/// A device in traffic whose delay registers hold these values, and causes enabled.
fn delayed<'m>(
    m: &'m mut dyn Machine,
    registers: &[(u32, u32)],
    causes: u32,
) -> Result<Nic<'m>, String> {
    let mut nic = start(m, Config::default())?;
    for &(register, value) in registers {
        nic.bus.write32(register, value);
    }
    nic.causes();
    nic.enable_interrupts(causes);
    // Whatever throttles interrupts has forgotten the last one then.
    nic.bus.wait(1_000 * US);
    nic.causes();
    Ok(nic)
}

fn tidv_delays(m: &mut dyn Machine) -> Outcome {
    let mut nic = delayed(m, &[(TIDV, 5000)], cause::TXDW)?;
    let before = nic.bus.now();
    send_one(&mut nic, IDE);
    drained(&mut nic)?;
    rises_between(nic.bus, before, 5000 * 1024, 5000 * 1024 + 50 * US)
}

fn tadv_caps_tidv(m: &mut dyn Machine) -> Outcome {
    let mut nic = delayed(m, &[(TIDV, 0xFFFF), (TADV, 5000)], cause::TXDW)?;
    let before = nic.bus.now();
    send_one(&mut nic, IDE);
    drained(&mut nic)?;
    rises_between(nic.bus, before, 5000 * 1024, 5000 * 1024 + 50 * US)
}

fn tx_without_ide_does_not_wait(m: &mut dyn Machine) -> Outcome {
    let mut nic = delayed(m, &[(TIDV, 0xFFFF)], cause::TXDW)?;
    let before = nic.bus.now();
    send_one(&mut nic, 0);
    rises_between(nic.bus, before, 0, 50 * US)
}

fn rdtr_delays(m: &mut dyn Machine) -> Outcome {
    let mut nic = delayed(m, &[(RDTR, 5000)], cause::RXT0)?;
    let before = nic.bus.now();
    let mac = nic.mac;
    nic.bus.transmit(&plain(mac, PEER, 60, 1));
    received(&mut nic)?;
    rises_between(nic.bus, before, 5000 * 1024, 5000 * 1024 + 200 * US)
}

fn rdtr_restarts(m: &mut dyn Machine) -> Outcome {
    let mut nic = delayed(m, &[(RDTR, 20_000)], cause::RXT0)?;
    let mac = nic.mac;
    nic.bus.transmit(&plain(mac, PEER, 60, 1));
    received(&mut nic)?;
    nic.bus.wait(5_000 * US);
    let before = nic.bus.now();
    nic.bus.transmit(&plain(mac, PEER, 60, 2));
    received(&mut nic)?;
    rises_between(nic.bus, before, 20_000 * 1024, 20_000 * 1024 + 200 * US)
}

fn radv_caps_rdtr(m: &mut dyn Machine) -> Outcome {
    let mut nic = delayed(m, &[(RDTR, 0xFFFF), (RADV, 5000)], cause::RXT0)?;
    let before = nic.bus.now();
    let mac = nic.mac;
    nic.bus.transmit(&plain(mac, PEER, 60, 1));
    received(&mut nic)?;
    rises_between(nic.bus, before, 5000 * 1024, 5000 * 1024 + 200 * US)
}

fn rdtr_flush_fires_now(m: &mut dyn Machine) -> Outcome {
    let mut nic = delayed(m, &[(RDTR, 0xFFFF)], cause::RXT0)?;
    let mac = nic.mac;
    nic.bus.transmit(&plain(mac, PEER, 60, 1));
    received(&mut nic)?;
    ensure!(!nic.bus.interrupt(), "the line is high before the flush");
    nic.bus.write32(RDTR, FPD | 0xFFFF);
    ensure!(nic.bus.interrupt(), "the line is low after the flush");
    Ok(())
}

fn tidv_flush_fires_now(m: &mut dyn Machine) -> Outcome {
    let mut nic = delayed(m, &[(TIDV, 0xFFFF)], cause::TXDW)?;
    send_one(&mut nic, IDE);
    drained(&mut nic)?;
    ensure!(!nic.bus.interrupt(), "the line is high before the flush");
    nic.bus.write32(TIDV, FPD | 0xFFFF);
    ensure!(nic.bus.interrupt(), "the line is low after the flush");
    Ok(())
}
