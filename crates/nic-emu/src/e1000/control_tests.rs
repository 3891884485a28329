//! Identity, link, EEPROM through the pins, and what each reset reaches.

use super::bits::{eecd, mdic, rctl};
use super::regs::Access;
use super::*;
use crate::common::phy::{AUTONEG, BMCR, bmcr};

pub(super) const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
const T0: Time = Time(1_000_000_000);

pub(super) fn control() -> Control {
    Control::new(&Config::new(MAC))
}

/// A NIC whose cable has been in for a while.
pub(super) fn linked() -> Control {
    let mut control = control();
    assert_eq!(control.set_link(true, T0), Kick::empty());
    assert_eq!(control.run_timers(T0.plus_nanos(AUTONEG)), Kick::LINK);
    assert_eq!(get(&mut control, Reg::ICR), cause::LSC);
    control
}

pub(super) fn get(control: &mut Control, reg: Reg) -> u32 {
    get_n(control, reg, 0)
}

pub(super) fn get_n(control: &mut Control, reg: Reg, n: u32) -> u32 {
    let mut data = [0; 4];
    let offset = reg.offset() + n * u32::from(reg.row().stride);
    control.read(REGISTER_BAR, offset.into(), &mut data, T0);
    u32::from_le_bytes(data)
}

pub(super) fn set(control: &mut Control, reg: Reg, value: u32) -> Kick {
    set_n(control, reg, 0, value)
}

pub(super) fn set_n(control: &mut Control, reg: Reg, n: u32, value: u32) -> Kick {
    let offset = reg.offset() + n * u32::from(reg.row().stride);
    control.write(REGISTER_BAR, offset.into(), &value.to_le_bytes(), T0)
}

pub(super) fn phy_read(control: &mut Control, reg: u8) -> u16 {
    let command =
        mdic::OP_READ << mdic::OP_SHIFT | 1 << mdic::PHY_SHIFT | u32::from(reg) << mdic::REG_SHIFT;
    set(control, Reg::MDIC, command);
    let answer = get(control, Reg::MDIC);
    assert_eq!(
        answer & !mdic::DATA,
        command | mdic::READY,
        "ready, no error, fields echoed"
    );
    answer as u16
}

pub(super) fn phy_write(control: &mut Control, reg: u8, value: u16) -> Kick {
    let command =
        mdic::OP_WRITE << mdic::OP_SHIFT | 1 << mdic::PHY_SHIFT | u32::from(reg) << mdic::REG_SHIFT;
    let kick = set(control, Reg::MDIC, command | u32::from(value));
    assert_eq!(
        get(control, Reg::MDIC),
        command | u32::from(value) | mdic::READY
    );
    kick
}

/// Reads a word as Linux does: request, wait for the grant, standby, opcode, address, sixteen bits.
pub(super) fn eeprom_read(control: &mut Control, address: u32) -> u16 {
    let idle = get(control, Reg::EECD);
    set(control, Reg::EECD, idle | eecd::REQ);
    let value = get(control, Reg::EECD);
    assert_eq!(value & (eecd::GNT | eecd::PRES), eecd::GNT | eecd::PRES);
    let base = value & !(eecd::SK | eecd::CS | eecd::DI);
    set(control, Reg::EECD, base);
    set(control, Reg::EECD, base | eecd::CS);
    for bit in (0..9).rev() {
        let di = if (0b110 << 6 | address) >> bit & 1 != 0 {
            eecd::DI
        } else {
            0
        };
        set(control, Reg::EECD, base | eecd::CS | di);
        set(control, Reg::EECD, base | eecd::CS | di | eecd::SK);
        set(control, Reg::EECD, base | eecd::CS | di);
    }
    let mut word = 0;
    for _ in 0..16 {
        set(control, Reg::EECD, base | eecd::CS | eecd::SK);
        word = word << 1 | u16::from(get(control, Reg::EECD) & eecd::DO != 0);
        set(control, Reg::EECD, base | eecd::CS);
    }
    set(control, Reg::EECD, base);
    set(control, Reg::EECD, base & !eecd::REQ);
    assert_eq!(
        get(control, Reg::EECD) & eecd::GNT,
        0,
        "the grant follows the request"
    );
    word
}

#[test]
fn is_a_pro_1000_mt_desktop() {
    let control = control();
    let pci = control.pci();
    assert_eq!(
        (pci.identity.vendor, pci.identity.device, pci.identity.class),
        (0x8086, 0x100E, 0x020000)
    );
    assert_eq!(
        (pci.identity.subsystem_vendor, pci.identity.subsystem_id),
        (0x8086, 0x001E)
    );
    for capability in pci.capabilities {
        assert_eq!(capability.bytes.len(), capability.writable.len());
    }
}

#[test]
fn eeprom_test_of_ethtool() {
    let mut control = control();
    let words: Vec<u16> = (0..64)
        .map(|address| eeprom_read(&mut control, address))
        .collect();
    assert_eq!(
        words.iter().fold(0u16, |sum, &word| sum.wrapping_add(word)),
        0xBABA
    );
    assert_eq!(words[..3], [0x5452, 0x1200, 0x5634]);
    assert_eq!(words[0x0B..0x0F], [0x001E, 0x8086, 0x100E, 0x8086]);
    assert_eq!(words, control.eeprom.words());
}

#[test]
fn link_follows_the_cable() {
    let mut control = linked();
    assert!(control.link());
    assert_eq!(
        get(&mut control, Reg::STATUS),
        0x283,
        "up, full duplex, 1000"
    );
    assert_eq!(control.deadline(), None);
    assert_eq!(control.set_link(false, T0), Kick::LINK);
    assert_eq!(get(&mut control, Reg::STATUS) & status::LU, 0);
    assert_eq!(get(&mut control, Reg::ICR), cause::LSC);
    assert_eq!(control.set_link(false, T0), Kick::empty());
    assert_eq!(control.set_link(true, T0), Kick::empty());
    assert_eq!(control.deadline(), Some(T0.plus_nanos(AUTONEG)));
    assert_eq!(
        control.run_timers(T0.plus_nanos(AUTONEG - 1)),
        Kick::empty()
    );
    assert_eq!(control.run_timers(T0.plus_nanos(AUTONEG)), Kick::LINK);
    assert_eq!(get(&mut control, Reg::ICR), cause::LSC);
}

#[test]
fn the_mac_sees_the_link_through_slu_only() {
    let mut control = linked();
    let ctrl = get(&mut control, Reg::CTRL);
    assert_eq!(set(&mut control, Reg::CTRL, ctrl & !ctrl::SLU), Kick::LINK);
    assert!(!control.link());
    assert_eq!(set(&mut control, Reg::CTRL, ctrl), Kick::LINK);
    assert!(control.link());
}

#[test]
fn phy_power_and_reset_take_the_link_down() {
    let mut control = linked();
    assert_eq!(
        phy_write(&mut control, BMCR, 0x1140 | bmcr::POWER_DOWN),
        Kick::LINK
    );
    assert_eq!(get(&mut control, Reg::STATUS) & status::LU, 0);
    phy_write(&mut control, BMCR, 0x1140);
    assert_eq!(control.run_timers(T0.plus_nanos(AUTONEG)), Kick::LINK);

    let ctrl = get(&mut control, Reg::CTRL);
    assert_eq!(
        set(&mut control, Reg::CTRL, ctrl | ctrl::PHY_RST),
        Kick::LINK
    );
    assert_eq!(control.deadline(), None, "held");
    set(&mut control, Reg::CTRL, ctrl);
    assert_eq!(control.run_timers(T0.plus_nanos(AUTONEG)), Kick::LINK);
    assert!(control.link());
}

#[test]
fn forced_speed_and_duplex_show_in_status() {
    let mut control = linked();
    let force = ctrl::SLU | ctrl::FRCSPD | ctrl::FRCDPX;
    for speed in 0..4 {
        set(&mut control, Reg::CTRL, force | speed << ctrl::SPEED_SHIFT);
        assert_eq!(
            get(&mut control, Reg::STATUS) & 0xC3,
            speed.min(2) << status::SPEED_SHIFT | status::LU
        );
    }
    set(&mut control, Reg::CTRL, ctrl::SLU);
    assert_eq!(get(&mut control, Reg::STATUS) & 0xC3, 0x83);
    phy_write(&mut control, BMCR, bmcr::SPEED_100);
    assert_eq!(
        get(&mut control, Reg::STATUS) & 0xC3,
        0x42,
        "100 half, resolved by the PHY"
    );
}

#[test]
fn loopback_is_the_phys() {
    let mut control = linked();
    phy_write(&mut control, BMCR, 0x4140);
    assert!(control.shared().phy_loopback.load(Ordering::Relaxed));
    set(&mut control, Reg::CTRL, ctrl::RST | ctrl::PHY_RST);
    assert!(!control.shared().phy_loopback.load(Ordering::Relaxed));
}

/// Dirties a bit of everything.
fn disturb(control: &mut Control) {
    control.shared().regs.stat_add(Reg::GPRC, 3);
    control.shared().regs.stat_add64(Reg::TORL, 1 << 33);
    set_n(control, Reg::RAL, 0, 0x1111_1111);
    set_n(control, Reg::RAH, 0, 0x2222);
    set_n(control, Reg::RAH, 15, 0x8000_0000);
    set_n(control, Reg::MTA, 127, 1);
    set_n(control, Reg::VFTA, 0, 1);
    set(control, Reg::ITR, 1000);
    set(control, Reg::RDTR, 1000);
    set(control, Reg::IMS, cause::RXT0 | cause::LSC);
    set(control, Reg::ICS, cause::LSC);
    assert!(control.shared().irq.poll(T0));
    control.shared().irq.raise_rx_delayed(T0);
    set(control, Reg::RCTL, rctl::EN);
    set(control, Reg::RDLEN, 128);
    set(control, Reg::RDT, 5);
    set(control, Reg::WUFC, 0x12);
    set_n(control, Reg::FFVT, 127, 9);
    phy_write(control, 16, 0x0868);
}

/// Everything that CTRL.RST has to bring back.
fn check_mac_reset(control: &mut Control) {
    assert_eq!(get_n(control, Reg::RAL, 0), 0x1200_5452);
    assert_eq!(get_n(control, Reg::RAH, 0), rah::AV | 0x5634);
    for &reg in Reg::ALL
        .iter()
        .filter(|reg| reg.row().domain == Domain::Mac)
    {
        for n in 0..reg.row().count {
            match reg {
                Reg::RAL | Reg::RAH if n == 0 => continue,
                Reg::STATUS | Reg::EECD => continue,
                _ => {}
            }
            let expected = if reg.row().access == Access::Wo {
                0
            } else {
                reg.row().reset
            };
            assert_eq!(
                get_n(control, reg, n.into()),
                expected,
                "{}[{n}]",
                reg.row().name
            );
        }
    }
    assert_eq!(get(control, Reg::EECD), 0x118);
    assert!(!control.shared().irq.poll(Time(u64::MAX)));
    assert_eq!(control.shared().irq.deadline(), None);
}

#[test]
fn ctrl_rst_resets_the_mac_and_spares_the_phy() {
    let mut control = linked();
    disturb(&mut control);
    let generation = control.shared().generation();
    let ctrl = get(&mut control, Reg::CTRL);
    assert_eq!(set(&mut control, Reg::CTRL, ctrl | ctrl::RST), Kick::RESET);
    assert_eq!(control.shared().generation(), generation + 1);
    assert!(control.link(), "the PHY was not asked");
    set(&mut control, Reg::MDIC, 0);
    control.shared().regs.set(Reg::MDIC, Reg::MDIC.row().reset);
    check_mac_reset(&mut control);
    assert_eq!(phy_read(&mut control, 16), 0x0868);
    assert_eq!(get(&mut control, Reg::WUFC), 0x12);
    assert_eq!(get_n(&mut control, Reg::FFVT, 127), 9);
    assert_eq!(control.counters().mac_resets, 1);
}

#[test]
fn ctrl_rst_through_the_ports() {
    let mut control = linked();
    disturb(&mut control);
    control.write(IO_BAR, 0, &0u32.to_le_bytes(), T0);
    let mut data = [0; 4];
    control.read(IO_BAR, 4, &mut data, T0);
    assert_eq!(u32::from_le_bytes(data), 0x0014_0241);
    let kick = control.write(
        IO_BAR,
        4,
        &(u32::from_le_bytes(data) | ctrl::RST).to_le_bytes(),
        T0,
    );
    assert_eq!(kick, Kick::RESET);
    check_mac_reset(&mut control);
}

#[test]
fn ctrl_rst_with_phy_rst_resets_both() {
    let mut control = linked();
    disturb(&mut control);
    let kick = set(&mut control, Reg::CTRL, ctrl::RST | ctrl::PHY_RST);
    assert_eq!(kick, Kick::RESET | Kick::LINK);
    assert_eq!(phy_read(&mut control, 16), 0x0360);
    assert_eq!(control.run_timers(T0.plus_nanos(AUTONEG)), Kick::LINK);
}

#[test]
fn ctrl_rst_reloads_an_address_that_was_written_to_the_eeprom() {
    let mut control = control();
    let mut image = *control.eeprom.words();
    image[0] = 0xBBAA;
    control.eeprom = Eeprom::new(image);
    set(&mut control, Reg::CTRL, ctrl::RST);
    assert_eq!(get_n(&mut control, Reg::RAL, 0), 0x1200_BBAA);
}

#[test]
fn a_bus_reset_reaches_everything_but_the_cable() {
    for kind in [ResetKind::Bus, ResetKind::PowerOn] {
        let mut control = linked();
        disturb(&mut control);
        control.write(IO_BAR, 0, &8u32.to_le_bytes(), T0);
        control.write(REGISTER_BAR, 0x1_0000, &7u32.to_le_bytes(), T0);
        assert_eq!(control.reset(kind, T0), Kick::RESET | Kick::LINK);
        check_mac_reset(&mut control);
        assert_eq!(
            (
                get(&mut control, Reg::WUFC),
                get_n(&mut control, Reg::FFVT, 127)
            ),
            (0, 0)
        );
        assert_eq!(phy_read(&mut control, 16), 0x0360);
        let mut data = [0xFF; 4];
        control.read(IO_BAR, 0, &mut data, T0);
        assert_eq!(data, [0; 4]);
        control.read(REGISTER_BAR, 0x1_0000, &mut data, T0);
        assert_eq!(data, [0; 4]);
        assert_eq!(
            control.run_timers(T0.plus_nanos(AUTONEG)),
            Kick::LINK,
            "the link comes back by itself"
        );
    }
}

#[test]
fn what_a_guest_wrote_to_its_eeprom_is_gone_at_power_on() {
    let mut control = control();
    let image = *control.eeprom.words();
    let mut changed = image;
    changed[0] = 0xBBAA;
    control.eeprom = Eeprom::new(changed);
    control.reset(ResetKind::Bus, T0);
    assert_eq!(control.eeprom.words()[0], 0xBBAA);
    control.reset(ResetKind::PowerOn, T0);
    assert_eq!(control.eeprom.words(), &image);
}

#[test]
fn bus_master_on_is_a_kick() {
    let mut control = control();
    assert_eq!(control.set_bus_master(true), Kick::TX | Kick::RX);
    assert!(control.shared().bus_master.load(Ordering::Relaxed));
    assert_eq!(control.set_bus_master(false), Kick::empty());
}
