//! The PCI function: identity, base address registers, what COMMAND gates.

use guest_driver::desc::{EOP, IFCS, RS, legacy};
use guest_driver::packet::plain;
use guest_driver::regs::{ICR, ICS, IMC, IMS, IOADDR, IODATA, VET, cause, pci};
use guest_driver::{Bar, Config};
use nic_emu_tests::Machine;

use crate::support::{
    Check, Outcome, PEER, place, probe, push, received, receives_nothing, sends, sends_nothing,
    start,
};
use crate::{checks, ensure, ensure_eq};

pub(crate) fn all() -> Vec<Check> {
    checks!("pci": ids, class, subsystem, header, latency, memory_bar, io_bar, io_bar_is_bar2,
        power_management, command_holds, interrupt_line_holds, bus_master_gates_tx,
        bus_master_gates_rx, intx_disable, status_shows_the_line, memory_off_hides_registers,
        io_off_hides_ports)
}

fn ids(m: &mut dyn Machine) -> Outcome {
    ensure_eq!(m.config_read(pci::ID, 4), 0x100E_8086, "vendor and device");
    Ok(())
}

fn class(m: &mut dyn Machine) -> Outcome {
    ensure_eq!(m.config_read(pci::CLASS, 4) >> 8, 0x02_0000, "class");
    Ok(())
}

/// What the EEPROM of a PRO/1000 MT Desktop loads.
fn subsystem(m: &mut dyn Machine) -> Outcome {
    ensure_eq!(m.config_read(pci::SUBSYSTEM, 4), 0x001E_8086, "subsystem");
    Ok(())
}

fn header(m: &mut dyn Machine) -> Outcome {
    ensure_eq!(m.config_read(0x0E, 1), 0, "header type");
    ensure_eq!(m.config_read(pci::INTERRUPT_PIN, 1), 1, "interrupt pin");
    Ok(())
}

fn latency(m: &mut dyn Machine) -> Outcome {
    ensure_eq!(m.config_read(pci::MIN_GNT, 2), 0x00FF, "MIN_GNT, MAX_LAT");
    Ok(())
}

fn memory_bar(m: &mut dyn Machine) -> Outcome {
    let want = Bar {
        io: false,
        size: 0x2_0000,
    };
    ensure!(m.bar(0) == Some(want), "BAR0 is {:?}", m.bar(0));
    ensure_eq!(
        m.config_read(pci::BAR0, 4) & 0xF,
        0,
        "type bits of BAR0 (32-bit, not prefetchable)"
    );
    Ok(())
}

fn io_bar(m: &mut dyn Machine) -> Outcome {
    let bar = (0..6).filter_map(|i| m.bar(i)).find(|bar| bar.io);
    ensure!(
        bar.is_some_and(|bar| bar.size == 0x40),
        "the first I/O BAR is {bar:?}"
    );
    Ok(())
}

fn io_bar_is_bar2(m: &mut dyn Machine) -> Outcome {
    ensure!(m.bar(2).is_some_and(|bar| bar.io), "BAR2 is {:?}", m.bar(2));
    Ok(())
}

/// Linux arms Wake-on-LAN only on a function that has it.
fn power_management(m: &mut dyn Machine) -> Outcome {
    let at = power_capability(m)?;
    ensure_eq!(at, 0xDC, "place of the PM capability");
    let version = m.config_read(at, 4) >> 16 & 7;
    ensure_eq!(version, 2, "version of the PM capability");
    Ok(())
}

/// Where the power management capability is.
pub(crate) fn power_capability(m: &mut dyn Machine) -> Result<u8, String> {
    let status = m.config_read(pci::STATUS, 2);
    ensure!(
        status & pci::STATUS_CAPABILITIES != 0,
        "STATUS {status:#x} knows no capability list"
    );
    let mut at = m.config_read(pci::CAPABILITIES, 1) as u8;
    for _ in 0..16 {
        if at == 0 {
            break;
        }
        let capability = m.config_read(at, 4);
        if capability & 0xFF == pci::CAP_PM {
            return Ok(at);
        }
        at = (capability >> 8) as u8;
    }
    Err("no PM capability".into())
}

fn command_holds(m: &mut dyn Machine) -> Outcome {
    let bits = pci::COMMAND_IO | pci::COMMAND_MEMORY | pci::COMMAND_MASTER;
    for value in [bits, 0, bits | pci::COMMAND_INTX_DISABLE, 0] {
        m.config_write(pci::COMMAND, 2, value);
        ensure_eq!(m.config_read(pci::COMMAND, 2), value, "COMMAND");
    }
    Ok(())
}

fn interrupt_line_holds(m: &mut dyn Machine) -> Outcome {
    m.config_write(pci::INTERRUPT_LINE, 1, 0x0B);
    ensure_eq!(
        m.config_read(pci::INTERRUPT_LINE, 1),
        0x0B,
        "interrupt line"
    );
    Ok(())
}

fn bus_master_gates_tx(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let on = nic.bus.config_read(pci::COMMAND, 2);
    nic.bus
        .config_write(pci::COMMAND, 2, on & !pci::COMMAND_MASTER);
    let frame = plain(PEER, nic.mac, 100, 1);
    let addr = place(&mut nic, &frame);
    push(&mut nic, &[legacy(addr, 100, EOP | IFCS | RS)]);
    sends_nothing(&mut nic)?;
    nic.bus.config_write(pci::COMMAND, 2, on);
    // The manual leaves open whether the switch alone starts it; a tail write has to.
    nic.tx.kick(&mut nic.bus);
    sends(&mut nic, &[frame])
}

fn bus_master_gates_rx(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let on = nic.bus.config_read(pci::COMMAND, 2);
    nic.bus
        .config_write(pci::COMMAND, 2, on & !pci::COMMAND_MASTER);
    let mac = nic.mac;
    nic.bus.transmit(&plain(mac, PEER, 100, 1));
    receives_nothing(&mut nic)?;
    nic.bus.config_write(pci::COMMAND, 2, on);
    let last = plain(mac, PEER, 101, 2);
    nic.bus.transmit(&last);
    // Whether the first frame was kept or lost is the buffer's business.
    for _ in 0..2 {
        if received(&mut nic)?.0 == last {
            return Ok(());
        }
    }
    Err("a frame sent after bus mastering came back was not received".into())
}

fn intx_disable(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    m.write32(IMS, cause::LSC);
    m.write32(ICS, cause::LSC);
    ensure!(m.interrupt(), "the line is low with a cause enabled");
    let on = m.config_read(pci::COMMAND, 2);
    m.config_write(pci::COMMAND, 2, on | pci::COMMAND_INTX_DISABLE);
    ensure!(!m.interrupt(), "the line is high with INTx disabled");
    m.config_write(pci::COMMAND, 2, on);
    ensure!(m.interrupt(), "the line is low with INTx enabled again");
    m.write32(IMC, !0);
    ensure!(!m.interrupt(), "the line is high with all causes masked");
    Ok(())
}

/// STATUS.INTERRUPT shows what the function asks for, also while it may not say so (PCI 3.0, 6.2.3).
fn status_shows_the_line(m: &mut dyn Machine) -> Outcome {
    const INTERRUPT: u32 = 1 << 3;
    let shows = |m: &mut dyn Machine, want: bool, when: &str| {
        // A write is posted: what it does to the line is certain once that has settled.
        m.settle();
        let shown = m.config_read(pci::STATUS, 2) & INTERRUPT != 0;
        ensure!(shown == want, "STATUS.INTERRUPT is {shown} {when}");
        Ok(())
    };
    probe(m)?;
    shows(m, false, "without a cause")?;
    m.write32(ICS, cause::LSC);
    shows(m, false, "with a masked cause")?;
    m.write32(IMS, cause::LSC);
    shows(m, true, "with a cause")?;
    let on = m.config_read(pci::COMMAND, 2);
    m.config_write(pci::COMMAND, 2, on | pci::COMMAND_INTX_DISABLE);
    shows(m, true, "with INTx disabled")?;
    m.config_write(pci::COMMAND, 2, on);
    m.read32(ICR);
    shows(m, false, "after ICR was read")
}

fn memory_off_hides_registers(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    m.write32(VET, 0x88A8);
    let on = m.config_read(pci::COMMAND, 2);
    m.config_write(pci::COMMAND, 2, on & !pci::COMMAND_MEMORY);
    let hidden = m.read32(VET);
    m.write32(VET, 0x1234);
    m.config_write(pci::COMMAND, 2, on);
    ensure!(hidden != 0x88A8, "registers answer with memory off");
    ensure_eq!(m.read32(VET), 0x88A8, "VET, written with memory off");
    Ok(())
}

fn io_off_hides_ports(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    m.io_write32(IOADDR, VET);
    m.io_write32(IODATA, 0x88A8);
    ensure_eq!(m.read32(VET), 0x88A8, "VET, written by I/O port");
    let on = m.config_read(pci::COMMAND, 2);
    m.config_write(pci::COMMAND, 2, on & !pci::COMMAND_IO);
    let hidden = m.io_read32(IODATA);
    m.io_write32(IODATA, 0x1234);
    m.config_write(pci::COMMAND, 2, on);
    ensure!(hidden != 0x88A8, "I/O ports answer with I/O off");
    ensure_eq!(m.read32(VET), 0x88A8, "VET, written with I/O off");
    ensure_eq!(m.io_read32(IOADDR), VET, "IOADDR after I/O was off");
    Ok(())
}
