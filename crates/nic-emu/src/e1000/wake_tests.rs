//! Each filter by itself, what is kept of a packet, and for how long.

use guest_mem::GuestMem;
use proptest::prelude::*;

use super::super::bits::ctrl;
use super::super::rx::{Delivered, Loss, RxQueue};
use super::super::state::State;
use super::super::tests::{MAC, get, get_n, set, set_n};
use super::super::tx::TxQueue;
use super::super::{Config, Control, Kick, Part, Pme, ResetKind, new};
use super::*;
use crate::Time;

const T0: Time = Time(1_000_000_000);
const PEER: [u8; 6] = [0x52, 0x54, 0, 0xAA, 0xBB, 0xCC];
const BROADCAST: [u8; 6] = [0xFF; 6];
const GROUP: [u8; 6] = [0x01, 0x00, 0x5E, 0x00, 0x00, 0xFB];
const ADDRESS: [u8; 4] = [192, 0, 2, 7];
const ADDRESS6: [u8; 16] = [
    0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x17,
];

/// A NIC in D3, its driver having left the receiver on and these filters.
struct Asleep {
    control: Control,
    tx: TxQueue,
    rx: RxQueue,
}

impl Asleep {
    fn new(filters: u32) -> Self {
        Self::of(&Config::new(MAC), filters)
    }

    fn of(config: &Config, filters: u32) -> Self {
        let (mut control, tx, rx) = new(config);
        let (slot, bit) = filter::hash_slot(GROUP, 0);
        set_n(&mut control, Reg::MTA, slot as u32, 1 << bit);
        set_n(&mut control, Reg::IP4AT, 2, u32::from_le_bytes(ADDRESS));
        for (n, part) in ADDRESS6.as_chunks().0.iter().enumerate() {
            set_n(
                &mut control,
                Reg::IP6AT,
                n as u32,
                u32::from_le_bytes(*part),
            );
        }
        set(&mut control, Reg::IPAV, ipav::V40 << 2 | ipav::V60);
        set(&mut control, Reg::RCTL, rctl::EN | rctl::BAM);
        set(&mut control, Reg::WUFC, filters);
        control.write_pme(true, false);
        Self { control, tx, rx }
    }

    /// WUS after this frame, which does nothing else.
    fn hears(&mut self, frame: &[u8]) -> u32 {
        self.hears_of(RxFrame::new(frame))
    }

    fn hears_of(&mut self, frame: RxFrame<'_>) -> u32 {
        let off = Delivered::Dropped(Loss::Disabled);
        assert_eq!(self.rx.deliver(&GuestMem::empty(), frame, T0), off);
        self.rx.finish(&GuestMem::empty(), T0).unwrap();
        get(&mut self.control, Reg::WUS)
    }

    fn forgets(&mut self) {
        set(&mut self.control, Reg::WUS, !0);
        self.control.write_pme(true, true);
    }

    fn status(&self) -> bool {
        self.control.pme().status
    }
}

fn frame(dst: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&dst[..], &PEER, &kind.to_be_bytes(), payload].concat()
}

fn magic(dst: [u8; 6], station: [u8; 6], before: &[u8]) -> Vec<u8> {
    frame(
        dst,
        0x0842,
        &[before, &BROADCAST, &station.repeat(16)].concat(),
    )
}

fn arp(dst: [u8; 6], target: [u8; 4]) -> Vec<u8> {
    frame(dst, ARP, &[&ARP_REQUEST[..], &[0; 16], &target].concat())
}

fn ipv4(dst: [u8; 6], target: [u8; 4]) -> Vec<u8> {
    frame(
        dst,
        IPV4,
        &[&[0x45][..], &[0; 15], &target, &[0; 30]].concat(),
    )
}

fn ipv6(dst: [u8; 6], target: [u8; 16]) -> Vec<u8> {
    frame(
        dst,
        IPV6,
        &[&[0x60][..], &[0; 23], &target, &[0; 30]].concat(),
    )
}

/// A frame for each filter and the bits that it passes with all of them on.
fn samples() -> Vec<(Vec<u8>, u32)> {
    vec![
        (frame(MAC, 0x1234, &[1; 50]), wufc::EX),
        (frame(GROUP, 0x1234, &[1; 50]), wufc::MC),
        (frame(BROADCAST, 0x1234, &[1; 50]), wufc::BC),
        (magic(MAC, MAC, &[7; 33]), wufc::MAG | wufc::EX),
        (magic(BROADCAST, MAC, &[]), wufc::MAG | wufc::BC),
        (arp(BROADCAST, ADDRESS), wufc::ARP | wufc::BC),
        (arp(MAC, ADDRESS), wufc::ARP | wufc::EX),
        (ipv4(MAC, ADDRESS), wufc::IPV4 | wufc::EX),
        (ipv4(GROUP, ADDRESS), wufc::IPV4 | wufc::MC),
        (ipv6(MAC, ADDRESS6), wufc::IPV6 | wufc::EX),
    ]
}

const FIXED: u32 = wufc::PACKETS & 0xFF;

#[test]
fn each_filter_passes_what_is_for_it() {
    for (frame, bits) in samples() {
        assert_eq!(Asleep::new(FIXED).hears(&frame), bits, "{frame:x?}");
        for bit in (1..8).map(|n| 1 << n) {
            let nic = &mut Asleep::new(bit);
            assert_eq!(nic.hears(&frame), bit & bits, "{bit:#x}: {frame:x?}");
            assert_eq!(nic.status(), bit & bits != 0);
        }
    }
}

#[test]
fn what_nobody_asked_for_wakes_nobody() {
    let others = [
        frame(PEER, 0x1234, &[1; 50]),
        frame([0x01, 0, 0x5E, 0, 0, 1], 0x1234, &[1; 50]),
        magic(PEER, MAC, &[]),
        vec![],
        vec![0xFF; 13],
    ];
    for frame in others {
        assert_eq!(Asleep::new(FIXED).hears(&frame), 0, "{frame:x?}");
    }
    let tail = |mut frame: Vec<u8>, at: usize| {
        let at = frame.len() - at;
        frame[at] ^= 1;
        frame
    };
    let almost = [
        (tail(magic(MAC, MAC, &[]), 1), wufc::EX),
        (magic(MAC, PEER, &[]), wufc::EX),
        (magic(MAC, MAC, &[])[..14 + 101].to_vec(), wufc::EX),
        (arp(MAC, [192, 0, 2, 8]), wufc::EX),
        (tail(arp(MAC, ADDRESS), 21), wufc::EX),
        (ipv4(MAC, [192, 0, 2, 8]), wufc::EX),
        (tail(ipv6(MAC, ADDRESS6), 31), wufc::EX),
    ];
    for (frame, bits) in almost {
        assert_eq!(Asleep::new(FIXED).hears(&frame), bits, "{frame:x?}");
    }
    for (frame, _) in samples() {
        let damaged = || {
            let mut damaged = RxFrame::new(&frame);
            damaged.meta.bad_fcs = true;
            damaged
        };
        assert_eq!(Asleep::new(FIXED).hears_of(damaged()), 0);
        // Neither PME_En nor APME.
        let nic = &mut Asleep::new(FIXED);
        assert_eq!(nic.control.write_pme(false, false), Kick::RX);
        assert!(!nic.control.shared().wakes() && !nic.rx.has_room());
        assert_eq!(nic.hears(&frame), 0);
    }
}

#[test]
fn with_the_receiver_off_only_magic_packets_wake() {
    for (frame, bits) in samples() {
        let nic = &mut Asleep::new(FIXED);
        set(&mut nic.control, Reg::RCTL, 0);
        assert_eq!(nic.hears(&frame), bits & wufc::MAG);
    }
}

#[test]
fn addresses_are_found_behind_a_vlan_tag_and_snap() {
    let tag = [0x81, 0x00, 0x00, 0x05];
    for (frame, bits) in samples() {
        let (head, rest) = frame.split_at(12);
        let snap = [&[0, 60][..], &SNAP].concat();
        for between in [&tag[..], &snap, &[&tag[..], &snap].concat()] {
            let frame = [head, between, rest].concat();
            assert_eq!(Asleep::new(FIXED).hears(&frame), bits, "{frame:x?}");
        }
    }
    // A tag that the VLAN filter refuses.
    let nic = &mut Asleep::new(FIXED);
    let control = get(&mut nic.control, Reg::RCTL);
    set(&mut nic.control, Reg::RCTL, control | rctl::VFE);
    let tagged = frame(MAC, 0x8100, &[0, 5, 0x12, 0x34, 0, 0]);
    assert_eq!(nic.hears(&tagged), 0);
    set_n(&mut nic.control, Reg::VFTA, 0, 1 << 5);
    assert_eq!(nic.hears(&tagged), wufc::EX);
}

#[test]
fn all_groups_wake_if_the_receiver_takes_all() {
    let nic = &mut Asleep::new(wufc::MC);
    let other = frame([0x33, 0x33, 0, 0, 0, 1], 0x1234, &[1; 50]);
    assert_eq!(nic.hears(&other), 0);
    let control = get(&mut nic.control, Reg::RCTL);
    set(&mut nic.control, Reg::RCTL, control | rctl::MPE);
    assert_eq!(nic.hears(&other), wufc::MC);
}

#[test]
fn the_first_packet_is_kept_until_the_driver_has_seen_it() {
    let nic = &mut Asleep::new(FIXED);
    let first = magic(MAC, MAC, &[5; 60]);
    let bits = wufc::MAG | wufc::EX;
    assert_eq!(nic.hears(&first), bits);
    assert!(!nic.control.shared().wakes() && !nic.rx.has_room());
    assert_eq!(nic.hears(&arp(BROADCAST, ADDRESS)), bits);
    assert_eq!(get(&mut nic.control, Reg::WUPL), first.len() as u32);
    for (n, word) in first[..128].as_chunks().0.iter().enumerate() {
        let kept = get_n(&mut nic.control, Reg::WUPM, n as u32);
        assert_eq!(kept, u32::from_le_bytes(*word));
    }
    // One bit is not all.
    assert_eq!(set(&mut nic.control, Reg::WUS, wufc::MAG), Kick::empty());
    assert_eq!(nic.hears(&arp(BROADCAST, ADDRESS)), wufc::EX);
    let again = set(&mut nic.control, Reg::WUS, wufc::EX);
    assert_eq!(again, Kick::RX | Kick::WAKE);
    assert_eq!(nic.hears(&frame(MAC, 0x1234, &[])), wufc::EX);
    assert_eq!(get(&mut nic.control, Reg::WUPL), 60, "padded");
    assert_eq!(get_n(&mut nic.control, Reg::WUPM, 31), 0);
}

#[test]
fn pmcsr_and_wuc_show_the_same() {
    let nic = &mut Asleep::new(wufc::EX);
    let control = &mut nic.control;
    assert_eq!(get(control, Reg::WUC), wuc::PME_EN);
    set(control, Reg::WUC, 0);
    assert_eq!(control.pme(), Pme::default());
    assert_eq!(set(control, Reg::WUC, wuc::PME_EN), Kick::RX | Kick::WAKE);
    assert!(control.pme().enabled);
    nic.hears(&frame(MAC, 0x1234, &[]));
    assert_eq!(
        get(&mut nic.control, Reg::WUC),
        wuc::PME_EN | wuc::PME_STATUS
    );
    // Only a 1 clears it, in either place.
    for clear in [true, false] {
        let control = &mut nic.control;
        set(control, Reg::WUC, wuc::PME_EN);
        control.write_pme(true, false);
        assert!(control.pme().status);
        match clear {
            true => drop(control.write_pme(true, true)),
            false => drop(set(control, Reg::WUC, wuc::PME_EN | wuc::PME_STATUS)),
        }
        assert_eq!(get(control, Reg::WUC), wuc::PME_EN);
        nic.forgets();
        nic.hears(&frame(MAC, 0x1234, &[]));
    }
}

#[test]
fn nothing_else_becomes_of_what_is_heard() {
    let nic = &mut Asleep::new(FIXED);
    for (frame, _) in samples() {
        nic.hears(&frame);
    }
    for reg in [
        Reg::TPR,
        Reg::TORL,
        Reg::GPRC,
        Reg::BPRC,
        Reg::MPRC,
        Reg::MPC,
        Reg::ICR,
    ] {
        assert_eq!(get(&mut nic.control, reg), 0, "{}", reg.row().name);
    }
}

#[test]
fn a_change_of_the_link_wakes_once() {
    let nic = &mut Asleep::new(wufc::LNKC | wufc::EX);
    let control = &mut nic.control;
    set(control, Reg::WUFC, wufc::EX);
    let plug = |control: &mut Control, up| {
        control.set_link(up, T0);
        control.run_timers(T0.plus_nanos(10_000_000_000));
    };
    plug(control, true);
    assert!(control.link() && !control.pme().status, "not asked for");
    set(control, Reg::WUFC, wufc::LNKC | wufc::EX);
    for up in [false, true] {
        plug(control, up);
        assert_eq!(get(control, Reg::WUS), wufc::LNKC);
        assert!(control.pme().status);
        control.write_pme(true, true);
        plug(control, !up);
        assert!(
            !control.pme().status,
            "the driver has not seen the first one"
        );
        plug(control, up);
        set(control, Reg::WUS, wufc::LNKC);
    }
    plug(control, false);
    assert_eq!(
        nic.hears(&frame(MAC, 0x1234, &[])),
        wufc::LNKC | wufc::EX,
        "the link's event is not in a packet's way"
    );
}

/// An EEPROM with APM wake-up on, and the part.
fn apm(part: Part) -> Config {
    let mut config = Config::of(part, MAC);
    let mut image = config.eeprom_image();
    let (word, bit) = part.apm();
    image[usize::from(word)] |= bit;
    config.eeprom = Some(image);
    config
}

#[test]
fn a_magic_packet_wakes_by_apm_before_there_is_a_driver() {
    for part in Part::ALL {
        assert!(!new(&Config::of(part, MAC)).0.shared().wakes());
        let (control, tx, rx) = new(&apm(part));
        let nic = &mut Asleep { control, tx, rx };
        assert_eq!(get(&mut nic.control, Reg::WUC), wuc::APME);
        assert!(nic.rx.has_room(), "it listens");
        assert_eq!(nic.hears(&frame(BROADCAST, 0x1234, &[])), 0);
        assert_eq!(nic.hears(&magic(GROUP, MAC, &[])), 0);
        assert_eq!(nic.hears(&magic(BROADCAST, MAC, &[])), wufc::MAG);
        assert!(!nic.status(), "without APMPME");
        nic.forgets();
        set(&mut nic.control, Reg::WUC, wuc::APME | wuc::APMPME);
        assert_eq!(nic.hears(&magic(MAC, MAC, &[])), wufc::MAG);
        assert!(nic.status());
        set(&mut nic.control, Reg::WUC, 0);
        let kick = nic.control.reset(ResetKind::PowerOn, T0);
        assert_eq!(kick, Kick::RESET);
        assert_eq!(get(&mut nic.control, Reg::WUC), wuc::APME);
        nic.control.settle_reset();
        assert_eq!(get(&mut nic.control, Reg::WUC), wuc::APME);
    }
}

#[test]
fn what_woke_the_machine_outlasts_its_resets() {
    let nic = &mut Asleep::new(FIXED);
    let packet = magic(MAC, MAC, &[]);
    let bits = nic.hears(&packet);
    for bus in [false, true] {
        match bus {
            false => drop(set(&mut nic.control, Reg::CTRL, ctrl::RST)),
            true => drop(nic.control.reset(ResetKind::Bus, T0)),
        }
        nic.control.settle_reset();
        let control = &mut nic.control;
        assert_eq!(get(control, Reg::WUS), bits);
        assert_eq!(get(control, Reg::WUPL), packet.len() as u32);
        assert_ne!(get(control, Reg::WUPM), 0);
        assert_eq!(get(control, Reg::WUC), wuc::PME_EN | wuc::PME_STATUS);
        assert_eq!(get(control, Reg::WUFC), if bus { 0 } else { FIXED });
    }
    nic.control.reset(ResetKind::PowerOn, T0);
    // A queue of the last owner's was late.
    tell(&nic.control.shared().regs, wufc::EX, true);
    nic.control.settle_reset();
    for reg in [Reg::WUS, Reg::WUPL, Reg::WUPM, Reg::WUC] {
        assert_eq!(get(&mut nic.control, reg), 0, "{}", reg.row().name);
    }
}

#[test]
fn a_saved_nic_has_its_packet_and_an_old_state_has_none() {
    let nic = &mut Asleep::new(FIXED);
    let save = |nic: &mut Asleep| {
        let mut bytes = Vec::new();
        let state = State {
            control: nic.control.save(T0),
            tx: nic.tx.save(),
            rx: nic.rx.save(),
        };
        state.encode(&mut bytes);
        bytes
    };
    let before = save(nic);
    let packet = arp(BROADCAST, ADDRESS);
    nic.hears(&packet);
    let after = save(nic);
    assert_eq!((before[0], after[0]), (0, 2), "versions");
    let (mut other, ..) = new(&Config::new(MAC));
    for (bytes, woken) in [(&after, true), (&before, false)] {
        let state = State::decode(bytes).unwrap();
        other.restore(&state.control, T0);
        for reg in [Reg::WUS, Reg::WUPL, Reg::WUPM] {
            let kept = get(&mut other, reg);
            assert_eq!(kept != 0, woken, "{}", reg.row().name);
            assert!(!woken || kept == get(&mut nic.control, reg));
        }
        let pme = Pme {
            enabled: true,
            status: woken,
        };
        assert_eq!(other.pme(), pme);
    }
}

#[test]
fn a_flexible_filter_compares_what_its_mask_names() {
    let nic = &mut Asleep::new(wufc::FLX0 << 2);
    let packet = frame(MAC, 0x1234, &[9; 100]);
    set_n(&mut nic.control, Reg::FFLT, 2, 20);
    for (at, value) in [(12, 0x12), (13, 0x34), (19, 9), (20, 77)] {
        set_n(&mut nic.control, Reg::FFMT, at, 1 << 2);
        set_n(&mut nic.control, Reg::FFVT, at, value << 16);
    }
    assert_eq!(nic.hears(&packet), wufc::FLX0 << 2, "byte 20 is beyond");
    nic.forgets();
    set_n(&mut nic.control, Reg::FFLT, 2, 21);
    assert_eq!(nic.hears(&packet), 0);
    set_n(&mut nic.control, Reg::FFMT, 20, 0);
    assert_eq!(nic.hears(&packet), wufc::FLX0 << 2);
    nic.forgets();
    set_n(&mut nic.control, Reg::FFLT, 2, 115);
    assert_eq!(nic.hears(&packet), 0, "a packet of 114");
    set_n(&mut nic.control, Reg::FFLT, 2, 114);
    let mut other = packet.clone();
    other[..6].copy_from_slice(&PEER);
    assert_eq!(nic.hears(&other), 0, "not for this station");
    assert_eq!(nic.hears(&packet), wufc::FLX0 << 2);
}

proptest! {
    /// Anything may be in the tables, and anything may come.
    #[test]
    fn no_frame_and_no_table_does_harm(
        writes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u16>(), any::<u32>()), 0..60),
        frames in proptest::collection::vec(
            (0..4u8, proptest::collection::vec(any::<u8>(), 0..300), 0..20_000usize), 1..40),
    ) {
        let tables = [
            Reg::WUC, Reg::WUFC, Reg::IPAV, Reg::IP4AT, Reg::IP6AT, Reg::FFLT, Reg::FFMT, Reg::FFVT, Reg::RCTL,
            Reg::RAL, Reg::RAH, Reg::VET, Reg::MTA, Reg::VFTA, Reg::WUS,
        ];
        let nic = &mut Asleep::new(0x000F_00FF);
        for (reg, n, value) in writes {
            let reg = tables[reg.index(tables.len())];
            set_n(&mut nic.control, reg, u32::from(n % reg.row().count), value);
        }
        for (dst, mut frame, longer) in frames {
            let first = [&MAC[..], &BROADCAST, &GROUP, &[]][usize::from(dst)];
            let len = frame.len().min(first.len());
            frame[..len].copy_from_slice(&first[..len]);
            frame.resize(frame.len() + longer * usize::from(longer > 19_000), 0xFF);
            let before = nic.control.shared().wakes();
            let (was, is) = (get(&mut nic.control, Reg::WUS), nic.hears(&frame));
            prop_assert!(before || was == is, "nobody listened");
            prop_assert_eq!(is & was, was);
            prop_assert_eq!(is & !0x000F_00FF, 0);
            if was != is {
                prop_assert!(!nic.control.shared().wakes(), "one packet at a time");
                prop_assert_eq!(get(&mut nic.control, Reg::WUPL) as usize, frame.len().max(60));
                nic.forgets();
            }
        }
    }
}
