//! Registers as drivers test them, odd accesses, and inputs that mean harm.

use proptest::prelude::*;

use super::super::bits::wuc;
use super::super::regs::Access;
use super::super::tests::{control, eeprom_read, get, get_n, linked, phy_read, set, set_n};
use super::*;

const T0: Time = Time(1_000_000_000);
const PATTERNS: [u32; 4] = [0x5A5A_5A5A, 0xA5A5_A5A5, 0, 0xFFFF_FFFF];

/// `reg_pattern_test` of Linux's `ethtool -t`: the whole value must be what was written, within the mask.
fn pattern(control: &mut Control, reg: Reg, n: u32, mask: u32, write: u32) {
    for value in PATTERNS {
        set_n(control, reg, n, value & write);
        assert_eq!(
            get_n(control, reg, n),
            value & write & mask,
            "{}[{n}]",
            reg.row().name
        );
    }
}

/// `reg_set_and_check`: only the bits of the mask are written and compared.
fn check(control: &mut Control, reg: Reg, mask: u32, write: u32) {
    set(control, reg, write & mask);
    assert_eq!(get(control, reg) & mask, write & mask, "{}", reg.row().name);
}

#[test]
fn register_test_of_ethtool() {
    let nic = &mut linked();
    let before = get(nic, Reg::STATUS);
    let toggle = 0xFFFF_F833;
    set(nic, Reg::STATUS, before & toggle);
    assert_eq!(get(nic, Reg::STATUS), before);
    set(nic, Reg::STATUS, !before);
    assert_eq!(get(nic, Reg::STATUS), before);

    let all = 0xFFFF_FFFF;
    pattern(nic, Reg::FCAL, 0, all, all);
    pattern(nic, Reg::FCAH, 0, 0xFFFF, all);
    pattern(nic, Reg::FCT, 0, 0xFFFF, all);
    pattern(nic, Reg::VET, 0, 0xFFFF, all);
    pattern(nic, Reg::RDTR, 0, 0xFFFF, all);
    pattern(nic, Reg::RDBAH, 0, all, all);
    pattern(nic, Reg::RDLEN, 0, 0x000F_FF80, 0x000F_FFFF);
    pattern(nic, Reg::RDH, 0, 0xFFFF, 0xFFFF);
    pattern(nic, Reg::RDT, 0, 0xFFFF, 0xFFFF);
    pattern(nic, Reg::FCRTH, 0, 0xFFF8, 0xFFF8);
    pattern(nic, Reg::FCTTV, 0, 0xFFFF, all);
    pattern(nic, Reg::TIPG, 0, 0x3FFF_FFFF, all);
    pattern(nic, Reg::TDBAH, 0, all, all);
    pattern(nic, Reg::TDLEN, 0, 0x000F_FF80, 0x000F_FFFF);
    check(nic, Reg::RCTL, all, 0);
    check(nic, Reg::RCTL, 0x06DF_B3FE, 0x003F_FFFB);
    check(nic, Reg::TCTL, all, 0);
    check(nic, Reg::RCTL, 0x06DF_B3FE, all);
    pattern(nic, Reg::RDBAL, 0, 0xFFFF_FFF0, all);
    pattern(nic, Reg::TXCW, 0, 0xC000_FFFF, 0x0000_FFFF);
    pattern(nic, Reg::TDBAL, 0, 0xFFFF_FFF0, all);
    pattern(nic, Reg::TIDV, 0, 0xFFFF, 0xFFFF);
    for n in 0..15 {
        pattern(nic, Reg::RAL, n, all, all);
        pattern(nic, Reg::RAH, n, 0x8003_FFFF, all);
    }
    for n in 0..128 {
        pattern(nic, Reg::MTA, n, all, all);
    }
}

#[test]
fn interrupt_test_of_ethtool() {
    let nic = &mut linked();
    let line = |nic: &Control| nic.shared().irq.poll(T0);
    set(nic, Reg::IMC, u32::MAX);
    for bit in (0..10).map(|bit| 1 << bit) {
        set(nic, Reg::IMC, bit);
        set(nic, Reg::ICS, bit);
        assert!(!line(nic), "masked: {bit:#x}");
        set(nic, Reg::IMS, bit);
        set(nic, Reg::ICS, bit);
        assert!(line(nic), "enabled: {bit:#x}");
        assert_eq!(get(nic, Reg::ICR), bit);
        assert!(!line(nic));
        set(nic, Reg::IMC, !bit & 0x7FFF);
        set(nic, Reg::ICS, !bit & 0x7FFF);
        assert!(!line(nic), "others: {bit:#x}");
        set(nic, Reg::IMC, u32::MAX);
        get(nic, Reg::ICR);
    }
}

#[test]
fn interrupt_registers_read_as_the_manual_says() {
    let nic = &mut control();
    set(nic, Reg::ICS, 0xFFFF_FFFF);
    assert_eq!(get(nic, Reg::ICS), 0x1_FFFF, "mirrors ICR, clears nothing");
    set(nic, Reg::ICR, 0xFF);
    assert_eq!(get(nic, Reg::ICR), 0x1_FF00, "written ones clear");
    assert_eq!(get(nic, Reg::ICR), 0);
    set(nic, Reg::IMS, 0x0100_0085);
    set(nic, Reg::IMS, 0);
    assert_eq!(get(nic, Reg::IMS), 0x85);
    set(nic, Reg::IMC, 0x80);
    assert_eq!((get(nic, Reg::IMS), get(nic, Reg::IMC)), (0x05, 0));
}

#[test]
fn flush_bits_fire_and_read_zero() {
    let nic = &mut control();
    set(nic, Reg::RDTR, 0x8000_0000 | 500);
    set(nic, Reg::TIDV, 0x8000_0000 | 500);
    assert_eq!(
        (get(nic, Reg::RDTR), get(nic, Reg::TIDV), get(nic, Reg::ICR)),
        (500, 500, 0)
    );
    nic.shared().irq.raise_rx_delayed(T0);
    nic.shared().irq.raise_tx_delayed(T0);
    set(nic, Reg::RDTR, 0x8000_0000 | 500);
    assert_eq!(get(nic, Reg::ICR), cause::RXT0);
    set(nic, Reg::TIDV, 0x8000_0000 | 500);
    assert_eq!(get(nic, Reg::ICR), cause::TXDW);
}

#[test]
fn writes_kick_whom_they_concern() {
    let nic = &mut control();
    assert_eq!(set(nic, Reg::TDT, 1), Kick::TX);
    assert_eq!(set(nic, Reg::TCTL, 2), Kick::TX);
    assert_eq!(set(nic, Reg::RDT, 1), Kick::RX);
    assert_eq!(set(nic, Reg::RCTL, 2), Kick::RX);
    assert_eq!(set(nic, Reg::VET, 0), Kick::empty());
}

#[test]
fn packet_buffer_is_divided_between_both_directions() {
    let nic = &mut control();
    assert_eq!(get(nic, Reg::PBA), 0x0010_0030);
    for (written, read) in [
        (40, 24 << 16 | 40),
        (0xFFFF_0030, 16 << 16 | 48),
        (0xFFFF, 0xFFFF),
        (0, 64 << 16),
    ] {
        set(nic, Reg::PBA, written);
        assert_eq!(get(nic, Reg::PBA), read);
    }
}

#[test]
fn eerd_in_the_small_format() {
    let nic = &mut control();
    assert_eq!(get(nic, Reg::EERD), 0);
    for address in 0..64 {
        set(nic, Reg::EERD, address << 8 | 1);
        let word = get(nic, Reg::EERD);
        assert_eq!(word & 0xFFFF, address << 8 | 0x10);
        assert_eq!((word >> 16) as u16, eeprom_read(nic, address));
    }
    for address in 64..256 {
        set(nic, Reg::EERD, address << 8 | 1);
        assert_eq!(
            get(nic, Reg::EERD) & 0x12,
            0x10,
            "done, and not in the large format"
        );
    }
}

#[test]
fn mdic_answers_for_one_address_and_completes_for_all() {
    let nic = &mut control();
    assert_ne!(
        get(nic, Reg::MDIC) & mdic::READY,
        0,
        "polled without a command"
    );
    for command in 0..1u32 << 12 {
        let value = command << mdic::REG_SHIFT | 0x1234;
        set(nic, Reg::MDIC, value);
        let answer = get(nic, Reg::MDIC);
        let op = value >> mdic::OP_SHIFT & 3;
        let known =
            value >> mdic::PHY_SHIFT & 0x1F == 1 && (op == mdic::OP_READ || op == mdic::OP_WRITE);
        assert_ne!(answer & mdic::READY, 0, "{value:#x}");
        assert_eq!(answer & mdic::ERROR == 0, known, "{value:#x}");
        assert_eq!(answer & 0x0FFF_0000, value & 0x0FFF_0000, "fields echo");
    }
    assert_eq!(
        (phy_read(nic, 2), phy_read(nic, 3) & 0xFFF0),
        (0x0141, 0x0C20)
    );
    get(nic, Reg::ICR);
    set(
        nic,
        Reg::MDIC,
        mdic::INT_EN | mdic::OP_READ << mdic::OP_SHIFT | 1 << mdic::PHY_SHIFT,
    );
    assert_eq!(get(nic, Reg::ICR), cause::MDAC);
}

#[test]
fn an_ee_rst_reloads_the_address() {
    let nic = &mut control();
    set_n(nic, Reg::RAH, 0, 0);
    set(nic, Reg::CTRL_EXT, ctrl_ext::EE_RST | 1 << 28);
    assert_eq!(get(nic, Reg::CTRL_EXT), 1 << 28);
    assert_eq!(get_n(nic, Reg::RAH, 0), 0x8000_5634);
}

#[test]
fn packet_buffer_window_is_storage() {
    let nic = &mut control();
    let mut data = [0xFF; 4];
    nic.read(REGISTER_BAR, 0x1_FFFC, &mut data, T0);
    assert_eq!(data, [0; 4]);
    assert!(
        nic.packet_buffer.is_none(),
        "no memory before the first write"
    );
    nic.write(REGISTER_BAR, 0x1_FFFC, &[1, 2, 3, 4], T0);
    nic.read(REGISTER_BAR, 0x1_FFFC, &mut data, T0);
    assert_eq!(data, [1, 2, 3, 4]);
}

#[test]
fn odd_reads_extract_and_read_each_dword_once() {
    let nic = &mut control();
    set(nic, Reg::FCAL, 0x4433_2211);
    set(nic, Reg::FCAH, 0x6655);
    let base = u64::from(Reg::FCAL.offset());
    let bytes = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0, 0];
    for at in 0..8 {
        for len in 0..=8 - at {
            let mut data = vec![0xEE; len];
            nic.read(REGISTER_BAR, base + at as u64, &mut data, T0);
            assert_eq!(data, bytes[at..at + len]);
        }
    }
    set(nic, Reg::ICS, 0x0102);
    let mut byte = [0];
    nic.read(
        REGISTER_BAR,
        u64::from(Reg::ICR.offset()) + 1,
        &mut byte,
        T0,
    );
    assert_eq!(byte, [1]);
    assert_eq!(get(nic, Reg::ICR), 0, "a byte of ICR reads all of it");
    assert!(nic.counters().odd_accesses > 0);
}

#[test]
fn odd_writes_reach_whole_dwords_only() {
    let nic = &mut control();
    for reg in [Reg::MTA, Reg::VFTA, Reg::RAL] {
        let base = u64::from(reg.offset());
        let next = if reg == Reg::RAL {
            (Reg::RAH, 0)
        } else {
            (reg, 1)
        };
        set_n(nic, reg, 0, 0x1111_1111);
        set_n(nic, next.0, next.1, 0x1111);
        for (at, len) in [
            (0, 1),
            (0, 2),
            (0, 3),
            (1, 3),
            (2, 2),
            (3, 1),
            (1, 4),
            (3, 4),
            (2, 4),
        ] {
            nic.write(REGISTER_BAR, base + at, &vec![0xFF; len], T0);
            assert_eq!(
                (get_n(nic, reg, 0), get_n(nic, next.0, next.1)),
                (0x1111_1111, 0x1111)
            );
        }
        nic.write(REGISTER_BAR, base + 2, &[0x33; 6], T0);
        assert_eq!(
            (get_n(nic, reg, 0), get_n(nic, next.0, next.1)),
            (0x1111_1111, 0x3333_3333 & next.0.row().mask)
        );
        nic.write(REGISTER_BAR, base, &[0x22; 8], T0);
        assert_eq!(
            (get_n(nic, reg, 0), get_n(nic, next.0, next.1)),
            (0x2222_2222, 0x2222_2222 & next.0.row().mask)
        );
    }
}

#[test]
fn nothing_answers_past_an_array_or_the_bar() {
    let nic = &mut control();
    for offset in [
        0x5480,
        0x5680 + 0x180,
        0x5008,
        0x0040,
        0x3900,
        0x2_0000,
        0xFFFF_FFFC,
        0x1_0000_0000,
        u64::MAX - 3,
    ] {
        nic.write(REGISTER_BAR, offset & !3, &[0xFF; 4], T0);
        let mut data = [0xEE; 4];
        if offset != 0x5680 + 0x180 {
            nic.read(REGISTER_BAR, offset & !3, &mut data, T0);
            assert_eq!(data, [0; 4], "{offset:#x}");
        }
    }
    assert_eq!(
        get(nic, Reg::WUC),
        0xB,
        "what follows VFTA is WUC and nothing else"
    );
    for (offset, len) in [(u64::MAX, 8), (u64::MAX - 2, 4), (0x1_FFFE, 64)] {
        let mut data = vec![0xEE; len];
        nic.read(REGISTER_BAR, offset, &mut data, T0);
        nic.write(REGISTER_BAR, offset, &data, T0);
        assert!(data.iter().all(|&byte| byte == 0));
    }
    let mut data = [0xEE; 4];
    nic.read(1, 0, &mut data, T0);
    assert_eq!(data, [0; 4]);
}

#[test]
fn hostile_port_addresses_do_nothing() {
    let nic = &mut control();
    let before = get(nic, Reg::CTRL);
    for address in [
        0xFFFF_FFFF,
        1,
        2,
        3,
        0x2_0000,
        0x8_0000,
        0xF_FFFC,
        0x8000_0000,
        0xFFFF_FFFC,
    ] {
        let address: u32 = address;
        nic.write(IO_BAR, 0, &address.to_le_bytes(), T0);
        assert_eq!(nic.write(IO_BAR, 4, &[0xFF; 4], T0), Kick::empty());
        let mut data = [0xEE; 4];
        nic.read(IO_BAR, 4, &mut data, T0);
        assert_eq!(data, [0; 4], "{address:#x}");
        nic.read(IO_BAR, 0, &mut data, T0);
        assert_eq!(u32::from_le_bytes(data), address);
    }
    for port in 8..64 {
        nic.write(IO_BAR, port, &[0xFF; 4], T0);
    }
    assert_eq!(get(nic, Reg::CTRL), before);
}

#[test]
fn a_flood_of_causes_is_throttled() {
    let nic = &mut control();
    set(nic, Reg::ITR, 0xFFFF);
    set(nic, Reg::IMS, u32::MAX);
    let mut assertions = 0;
    for now in (0..1_000_000_000).step_by(100_000) {
        set(nic, Reg::ICS, u32::MAX);
        if nic.shared().irq.poll(Time(now)) {
            assertions += 1;
            get(nic, Reg::ICR);
        }
    }
    assert_eq!(assertions, 60, "once in 16.8 ms");
}

/// Registers whose reads are not what was written, for reasons of their own, each tested above.
fn has_a_mind_of_its_own(reg: Reg) -> bool {
    matches!(
        reg,
        Reg::CTRL | Reg::EECD | Reg::EERD | Reg::MDIC | Reg::PBA
    )
}

proptest! {
    #[test]
    fn every_stored_register_holds_its_mask(values in proptest::collection::vec(any::<u32>(), 8)) {
        let nic = &mut control();
        for &reg in Reg::ALL {
            for (n, &value) in (0..u32::from(reg.row().count)).zip(values.iter().cycle()) {
                let before = get_n(nic, reg, n);
                set_n(nic, reg, n, value);
                let after = get_n(nic, reg, n);
                match reg.row().access {
                    Access::Rw if has_a_mind_of_its_own(reg) => {}
                    Access::Rw => prop_assert_eq!(after, value & reg.row().mask, "{}", reg.row().name),
                    Access::Ro => prop_assert_eq!(after, before, "{}", reg.row().name),
                    Access::Rc | Access::RcLow | Access::RcHigh | Access::Wo => prop_assert_eq!(after, 0),
                    Access::W1c | Access::W1s => prop_assert_eq!(after & !reg.row().mask, 0),
                }
            }
        }
    }

    #[test]
    fn any_access_is_survived(accesses in proptest::collection::vec(access(), 1..400)) {
        let nic = &mut linked();
        nic.set_bus_master(true);
        let mut now = T0;
        for Step { write, bar, offset, data, wait } in accesses {
            now = now.plus_nanos(wait);
            let mut data = data;
            if write {
                nic.write(bar, offset, &data, now);
            } else {
                nic.read(bar, offset, &mut data, now);
            }
            nic.run_timers(now);
            nic.shared().irq.poll(now);
            for &reg in Reg::ALL.iter().filter(|&&reg| reg.row().access == Access::Rw && !has_a_mind_of_its_own(reg)) {
                let beyond = !reg.row().mask & !reg.row().reset;
                let beyond = if reg == Reg::WUC { beyond & !wuc::PME_STATUS } else { beyond };
                for n in 0..usize::from(reg.row().count) {
                    prop_assert_eq!(nic.shared().regs.get_n(reg, n) & beyond, 0, "{}", reg.row().name);
                }
            }
            prop_assert_eq!(nic.shared().regs.get(Reg::CTRL) & ctrl::RST, 0);
            prop_assert_eq!(nic.shared().regs.get(Reg::ICR) & !0x1_FFFF, 0);
        }
    }

    #[test]
    fn no_sequence_of_pins_jams_the_eeprom(pins in proptest::collection::vec(0u32..8, 0..2000)) {
        let nic = &mut control();
        for value in pins {
            set(nic, Reg::EECD, value);
            get(nic, Reg::EECD);
        }
        set(nic, Reg::EECD, 0);
        for address in 0..64 {
            prop_assert_eq!(eeprom_read(nic, address), nic.eeprom.word(address as u8));
        }
    }
}

#[derive(Clone, Debug)]
struct Step {
    write: bool,
    bar: u8,
    offset: u64,
    data: Vec<u8>,
    wait: u64,
}

/// Accesses of any kind, most of them near something.
fn access() -> impl Strategy<Value = Step> {
    let known = (0..Reg::ALL.len(), 0u64..16)
        .prop_map(|(reg, past)| u64::from(Reg::ALL[reg].offset()) + past);
    let aligned = (0..Reg::ALL.len()).prop_map(|reg| u64::from(Reg::ALL[reg].offset()));
    let offset = prop_oneof![4 => aligned, 2 => known, 1 => 0u64..0x2_0010, 1 => 0u64..64, 1 => any::<u64>()];
    let data = prop_oneof![
        4 => any::<[u8; 4]>().prop_map(|data| data.to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
    ];
    (
        any::<bool>(),
        prop_oneof![8 => Just(0u8), 3 => Just(2u8), 1 => any::<u8>()],
        offset,
        data,
        0u64..2_000_000,
    )
        .prop_map(|(write, bar, offset, data, wait)| Step {
            write,
            bar,
            offset,
            data,
            wait,
        })
}
