//! CTRL.RST and what it leaves.

use guest_driver::e1000::{reset, set_address};
use guest_driver::packet::plain;
use guest_driver::regs::{
    CTRL, GPTC, ICR, ICS, IMS, IOADDR, IODATA, RAH_AV, RAH0, RAL0, RCTL, RDLEN, TCTL, TDLEN, TDT,
    cause, ctrl, pci,
};
use guest_driver::{Config, Offload, phy, until};
use nic_emu_tests::Machine;

use crate::support::{
    Check, Nic, Outcome, PEER, probe, receives, receives_nothing, send, sends, sends_nothing, start,
};
use crate::{checks, ensure, ensure_eq};

pub(crate) fn all() -> Vec<Check> {
    checks!("reset": by_memory, by_io_port, reloads_the_address, drops_the_line,
        clears_statistics, keeps_config_space, keeps_the_phy, drops_half_a_packet, works_again,
        many_times, closed_device_is_quiet)
}

fn by_memory_write(m: &mut dyn Machine) -> Outcome {
    let control = m.read32(CTRL);
    m.write32(CTRL, control | ctrl::RST);
    m.wait(1_000);
    ensure!(
        until(m, 20_000_000, |m| m.read32(CTRL) & ctrl::RST == 0),
        "CTRL.RST stays"
    );
    Ok(())
}

/// Makes sure that what a driver set up in open is gone.
fn is_reset(m: &mut dyn Machine) -> Outcome {
    for (name, register) in [
        ("RCTL", RCTL),
        ("TCTL", TCTL),
        ("RDLEN", RDLEN),
        ("TDLEN", TDLEN),
        ("TDT", TDT),
        ("IMS", IMS),
        ("ICR", ICR),
    ] {
        ensure_eq!(m.read32(register), 0, "{name} after reset");
    }
    Ok(())
}

fn in_use(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    nic.enable_interrupts(cause::LSC);
    let frame = plain(PEER, nic.mac, 100, 1);
    send(&mut nic, &frame, Offload::None)?;
    sends(&mut nic, &[frame])
}

fn by_memory(m: &mut dyn Machine) -> Outcome {
    in_use(m)?;
    by_memory_write(m)?;
    is_reset(m)
}

fn by_io_port(m: &mut dyn Machine) -> Outcome {
    in_use(m)?;
    let control = m.read32(CTRL);
    m.io_write32(IOADDR, CTRL);
    m.io_write32(IODATA, control | ctrl::RST);
    m.wait(1_000);
    ensure!(
        until(m, 20_000_000, |m| m.read32(CTRL) & ctrl::RST == 0),
        "CTRL.RST stays"
    );
    is_reset(m)
}

fn reloads_the_address(m: &mut dyn Machine) -> Outcome {
    let mac = probe(m)?;
    set_address(m, 0, Some([2, 4, 6, 8, 10, 12]));
    by_memory_write(m)?;
    let (low, high) = (m.read32(RAL0), m.read32(RAH0));
    ensure_eq!(low.to_le_bytes(), [mac[0], mac[1], mac[2], mac[3]], "RAL0");
    ensure_eq!(
        high & (RAH_AV | 0xFFFF),
        RAH_AV | u32::from(u16::from_le_bytes([mac[4], mac[5]])),
        "RAH0"
    );
    Ok(())
}

fn drops_the_line(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    m.write32(IMS, cause::LSC);
    m.write32(ICS, cause::LSC);
    ensure!(m.interrupt(), "the line is low with a cause enabled");
    by_memory_write(m)?;
    ensure!(!m.interrupt(), "the line is high after reset");
    Ok(())
}

fn clears_statistics(m: &mut dyn Machine) -> Outcome {
    in_use(m)?;
    by_memory_write(m)?;
    ensure_eq!(m.read32(GPTC), 0, "GPTC after reset");
    Ok(())
}

fn keeps_config_space(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    let command = m.config_read(pci::COMMAND, 2);
    by_memory_write(m)?;
    ensure_eq!(m.config_read(pci::COMMAND, 2), command, "COMMAND");
    Ok(())
}

fn keeps_the_phy(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    phy::write(m, phy::ANAR, 0x01E1).ok_or("a PHY write fails")?;
    by_memory_write(m)?;
    ensure_eq!(
        phy::read(m, phy::ANAR),
        Some(0x01E1),
        "PHY register 4 after CTRL.RST"
    );
    phy::write(m, phy::ANAR, 0x0DE1).ok_or("a PHY write fails")?;
    Ok(())
}

/// The first half of a packet does not become the start of the next one.
fn drops_half_a_packet(m: &mut dyn Machine) -> Outcome {
    use guest_driver::desc::{IFCS, data};
    let mut nic = start(m, Config::default())?;
    let frame = plain(PEER, nic.mac, 200, 2);
    let addr = crate::support::place(&mut nic, &frame);
    crate::support::push(&mut nic, &[data(addr, 100, IFCS, 0)]);
    sends_nothing(&mut nic)?;
    let mut nic = start(nic.bus, Config::default())?;
    send(&mut nic, &frame, Offload::None)?;
    sends(&mut nic, &[frame])
}

fn works_again(m: &mut dyn Machine) -> Outcome {
    in_use(m)?;
    let mut nic = start(m, Config::default())?;
    let frame = plain(PEER, nic.mac, 100, 3);
    send(&mut nic, &frame, Offload::None)?;
    sends(&mut nic, &[frame])?;
    let frame = plain(nic.mac, PEER, 100, 4);
    receives(&mut nic, &frame)?;
    Ok(())
}

/// `ip link set down` and `up`, over and over.
fn many_times(m: &mut dyn Machine) -> Outcome {
    for seed in 0..5 {
        let mut nic = start(&mut *m, Config::default())?;
        let frame = plain(PEER, nic.mac, 100, seed);
        send(&mut nic, &frame, Offload::None)?;
        sends(&mut nic, &[frame])?;
        let frame = plain(nic.mac, PEER, 100, seed);
        receives(&mut nic, &frame)?;
        nic.close().map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn closed_device_is_quiet(m: &mut dyn Machine) -> Outcome {
    let mut nic: Nic<'_> = start(m, Config::default())?;
    let mac = nic.mac;
    nic.disable_interrupts();
    nic.bus.write32(RCTL, 0);
    nic.bus.write32(TCTL, 0);
    reset(&mut nic.bus).map_err(|error| error.to_string())?;
    nic.bus.transmit(&plain(mac, PEER, 100, 5));
    receives_nothing(&mut nic)?;
    nic.tx.kick(&mut nic.bus);
    sends_nothing(&mut nic)?;
    ensure!(!nic.bus.interrupt(), "the line of a closed device is high");
    Ok(())
}
