//! Configuration space and capabilities, clause by clause of what libvfio-user's tests ask.

mod common;

use common::{Desk, access, words};
use rustix::io::Errno;
use vfio_user::{Bar, BuildError, Command, Device, DeviceBuilder, Pme, ResetKind};

const INVAL: u32 = Errno::INVAL.raw_os_error() as u32;

/// An Express function with one of everything, placed automatically.
fn device() -> Device {
    Device::builder()
        .ids(0x1234, 0x5678)
        .bar(0, Bar::memory32(0x1000))
        .bar(1, Bar::memory32(0x1000))
        .power_management()
        .msi(4)
        .msix(8, 1, 0, 1, 0x800)
        .express()
        .vendor_capability(&[0xaa, 0xbb, 0xcc])
        .extended_capability(3, 1, &[1, 2, 3, 4, 5, 6, 7, 8], &[0; 8])
        .extended_capability(0xb, 2, &[0; 4], &[0xff, 0, 0, 0])
        .intx(1)
        .build()
        .unwrap()
}

fn desk() -> Desk {
    Desk::ready_of(device())
}

fn read16(desk: &mut Desk, offset: u64) -> u16 {
    u16::from_le_bytes(desk.config_read(offset, 2).try_into().unwrap())
}

fn read32(desk: &mut Desk, offset: u64) -> u32 {
    u32::from_le_bytes(desk.config_read(offset, 4).try_into().unwrap())
}

/// Ids and places of the capabilities, as a guest finds them.
fn list(desk: &mut Desk) -> Vec<(u8, u64)> {
    let mut found = Vec::new();
    let mut at = u64::from(desk.config_read(0x34, 1)[0]);
    while at != 0 {
        let header = desk.config_read(at, 2);
        found.push((header[0], at));
        assert!(found.len() < 48, "a loop");
        at = header[1].into();
    }
    found
}

fn find(desk: &mut Desk, id: u8) -> u64 {
    let found = list(desk).into_iter().find(|(other, _)| *other == id);
    found.unwrap().1
}

fn fails(with: impl FnOnce(DeviceBuilder) -> DeviceBuilder) -> BuildError {
    with(Device::builder().bar(0, Bar::memory32(0x1_0000)))
        .build()
        .unwrap_err()
}

// BARs

#[test]
fn bars_of_32_bits_are_sized_by_writing_ones() {
    let device = Device::builder()
        .bar(0, Bar::memory32(0x1000))
        .bar(1, Bar::io(0x40))
        .bar(5, Bar::memory32(16));
    let mut desk = Desk::ready_of(device.build().unwrap());
    for (at, sized) in [
        (0x10, 0xffff_f000),
        (0x14, 0xffff_ffc1),
        (0x18, 0),
        (0x24, 0xffff_fff0),
    ] {
        assert_eq!(desk.config_write(at, &[0xff; 4]), 0);
        assert_eq!(read32(&mut desk, at), sized);
    }
}

#[test]
fn bars_of_64_bits_are_sized_in_both_halves() {
    for gigabytes in [4_u64, 8, 16] {
        let size = gigabytes << 30;
        let device = Device::builder().bar(2, Bar::memory64(size));
        let mut desk = Desk::ready_of(device.build().unwrap());
        desk.config_write(0x18, &[0xff; 4]);
        desk.config_write(0x1c, &[0xff; 4]);
        assert_eq!(read32(&mut desk, 0x18), 4);
        assert_eq!(u64::from(read32(&mut desk, 0x1c)) << 32, !(size - 1));
        let info = desk.ask(5, &words(&[32, 0, 2, 0, 0, 0, 0, 0])).payload;
        assert_eq!(info[16..24], size.to_le_bytes());
    }
}

// The list

#[test]
fn capabilities_are_placed_one_behind_the_other_and_listed_in_order() {
    let mut desk = desk();
    assert_eq!(
        list(&mut desk),
        [
            (0x01, 0x40),
            (0x05, 0x48),
            (0x11, 0x58),
            (0x10, 0x64),
            (0x09, 0xa0)
        ]
    );
    assert_eq!(desk.config_read(6, 1)[0] & 0x10, 0x10, "STATUS names them");
    assert_eq!(desk.config_read(0xa0, 6), [9, 0, 6, 0xaa, 0xbb, 0xcc]);
}

#[test]
fn capabilities_go_where_they_are_told_and_others_around_them() {
    let device = Device::builder()
        .bar(0, Bar::memory32(0x1000))
        .power_management()
        .at(0x44)
        .vendor_capability(&[1, 2, 3, 4, 5])
        .at(0xe0)
        .msi(1)
        .vendor_capability(&[])
        .capability(0x80, &[0x0d, 0, 0, 0], &[0; 4]);
    let mut desk = Desk::ready_of(device.build().unwrap());
    let places = [
        (0x01, 0x4c),
        (0x09, 0x44),
        (0x05, 0xe0),
        (0x09, 0x40),
        (0x0d, 0x80),
    ];
    assert_eq!(list(&mut desk), places);
}

#[test]
fn capabilities_that_do_not_fit_are_refused() {
    let at = |offset| fails(|b| b.at(offset).vendor_capability(&[0; 5]));
    for offset in [0x3c, 0x41, 0xfc, 0x100, 0xfffc] {
        assert_eq!(at(offset), BuildError::Capability(offset));
    }
    assert_eq!(
        fails(|b| b.at(0x40).msi(1).at(0x48).power_management()),
        BuildError::Capability(0x48)
    );
    assert_eq!(
        fails(|b| b.vendor_capability(&[0; 190])),
        BuildError::NoRoom(193)
    );
    assert_eq!(
        fails(|b| b.vendor_capability(&[0; 1000])),
        BuildError::NoRoom(1003)
    );
    assert_eq!(fails(|b| b.msi(1).msi(1)), BuildError::Acting(0x05));
    assert_eq!(
        fails(|b| b.power_management().power_management()),
        BuildError::Acting(0x01)
    );
    for id in [0x05, 0x10, 0x11] {
        let raw = fails(|b| b.capability(0x40, &[id, 0, 0, 0], &[0; 4]));
        assert_eq!(raw, BuildError::Acting(id));
    }
}

#[test]
fn the_list_itself_is_read_only() {
    let mut desk = desk();
    let before = list(&mut desk);
    for (_, at) in &before {
        desk.config_write(*at, &[0xee, 0xee]);
    }
    desk.config_write(0x34, &[0xee]);
    assert_eq!(list(&mut desk), before);
}

// Express

#[test]
fn the_space_has_256_bytes_or_4096() {
    let size =
        |desk: &mut Desk| desk.ask(5, &words(&[32, 0, 7, 0, 0, 0, 0, 0])).payload[16..24].to_vec();
    assert_eq!(size(&mut Desk::ready()), 256_u64.to_le_bytes());
    assert_eq!(Desk::ready().config_write(0x100, &[0; 4]), INVAL);
    assert_eq!(Desk::ready().config_read(0x100, 4), [0xff; 4]);
    let mut desk = desk();
    assert_eq!(size(&mut desk), 4096_u64.to_le_bytes());
    assert_eq!(desk.config_read(0, 4096).len(), 4096);
    assert_eq!(desk.config_write(0xffc, &[0; 4]), 0);
    assert_eq!(desk.config_write(0xffd, &[0; 4]), INVAL);
}

#[test]
fn extended_capabilities_are_linked_from_0x100() {
    let mut desk = desk();
    assert_eq!(read32(&mut desk, 0x100), 0x10c1_0003);
    assert_eq!(desk.config_read(0x104, 8), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(read32(&mut desk, 0x10c), 0x0002_000b);
    desk.config_write(0x10c, &[0xff; 8]);
    assert_eq!(read32(&mut desk, 0x10c), 0x0002_000b);
    assert_eq!(read32(&mut desk, 0x110), 0xff);
}

#[test]
fn extended_capabilities_go_where_they_are_told() {
    let device = Device::builder()
        .express()
        .extended_capability(3, 1, &[0; 4], &[0; 4])
        .at(0xab0)
        .extended_capability(4, 1, &[0; 4], &[0; 4])
        .extended_capability(5, 1, &[0; 4], &[0; 4]);
    let mut desk = Desk::ready_of(device.build().unwrap());
    assert_eq!(read32(&mut desk, 0x100), 0xab01_0003);
    assert_eq!(read32(&mut desk, 0xab0), 0x1081_0004);
    assert_eq!(read32(&mut desk, 0x108), 0x0001_0005);
}

#[test]
fn extended_capabilities_are_for_express_functions_only() {
    let add = |b: DeviceBuilder| b.extended_capability(3, 1, &[0; 4], &[0; 4]);
    assert_eq!(fails(add), BuildError::Conventional);
    assert_eq!(
        fails(|b| add(b.express().at(0x200))),
        BuildError::Capability(0x200),
        "the first is at 0x100"
    );
    assert_eq!(
        fails(|b| add(add(b.express()).at(0xffc))),
        BuildError::Capability(0xffc)
    );
    assert_eq!(
        fails(|b| b
            .express()
            .extended_capability(3, 1, &[0; 4096], &[0; 4096])),
        BuildError::Capability(0x100)
    );
    assert_eq!(
        fails(|b| b.express().extended_capability(3, 1, &[0; 4], &[0; 3])),
        BuildError::Capability(0x100)
    );
}

#[test]
fn the_express_capability_is_an_endpoint_of_version_2_with_flr() {
    let mut desk = desk();
    let cap = find(&mut desk, 0x10);
    assert_eq!(read16(&mut desk, cap + 2), 2);
    assert_eq!(read32(&mut desk, cap + 4) & 1 << 28, 1 << 28);
    assert_eq!(read16(&mut desk, cap + 8), 0x2810);
    desk.config_write(cap + 8, &[0xff, 0x7f]);
    assert_eq!(read16(&mut desk, cap + 8), 0x7fff);
    assert!(desk.ram.resets.is_empty());
}

#[test]
fn a_function_level_reset_resets_and_its_reply_waits_for_the_epoch() {
    let mut desk = desk();
    let cap = find(&mut desk, 0x10);
    desk.config_write(0x3c, &[0x55]);
    desk.hold = true;
    let epoch = desk.session.epoch();
    let write = [&access(7, cap + 8, 2)[..], &[0x10, 0xa8]].concat();
    let replies = desk.feed(&common::message(1, 10, 0, &write), Vec::new());
    assert_eq!(replies.unwrap(), [], "held back");
    assert_eq!(desk.ram.resets, [ResetKind::FunctionLevel]);
    assert_eq!(desk.ram.commands.last(), Some(&Command::empty()));
    assert_eq!(desk.session.epoch(), epoch + 1);
    desk.hold = false;
    let mut replies = Vec::new();
    desk.collect(&mut replies);
    assert_eq!(replies.len(), 1);
    assert_eq!(read16(&mut desk, cap + 8), 0x2810, "the bit reads 0");
    assert_eq!(desk.config_read(0x3c, 1), [0]);
    // By the upper byte alone, and as part of a word.
    desk.config_write(cap + 9, &[0x80]);
    desk.config_write(cap + 8, &[0, 0x80, 0, 0]);
    assert_eq!(desk.ram.resets.len(), 3);
}

#[test]
fn odd_writes_around_device_control_are_invalid() {
    let mut desk = desk();
    let cap = find(&mut desk, 0x10);
    for (offset, len) in [(7, 2), (9, 2), (6, 4), (8, 3), (4, 8), (5, 4), (0, 60)] {
        let errno = desk.config_write(cap + offset, &vec![0xff; len]);
        assert_eq!(errno, INVAL, "{len} bytes at {offset}");
    }
    assert_eq!(read16(&mut desk, cap + 8), 0x2810);
    assert!(desk.ram.resets.is_empty());
    // Where it begins or ends beside the register, anything goes.
    assert_eq!(desk.config_write(cap + 5, &[0xff; 3]), 0);
    assert_eq!(desk.config_write(cap + 10, &[0xff; 5]), 0);
}

// Power management

#[test]
fn power_management_has_d0_and_d3_and_resets_on_the_way_back() {
    let mut desk = desk();
    let cap = find(&mut desk, 0x01);
    assert_eq!(read32(&mut desk, cap) >> 16, 3);
    for absent in [1, 2] {
        desk.config_write(cap + 4, &[absent, 0]);
        assert_eq!(read16(&mut desk, cap + 4), 0);
    }
    desk.config_write(cap + 4, &[3, 0]);
    assert_eq!(read16(&mut desk, cap + 4), 3);
    assert_eq!(desk.ram.commands.last(), Some(&Command::INTX_DISABLE));
    assert!(desk.ram.resets.is_empty());
    desk.config_write(cap + 4, &[0, 0]);
    assert_eq!(desk.ram.resets, [ResetKind::PowerState]);
    assert_eq!(read16(&mut desk, 4), 0);
}

#[test]
fn power_management_fields_that_are_not_there_are_read_only() {
    // libvfio-user refuses such writes with ENOTSUP; hardware ignores them, and so do we.
    let mut desk = desk();
    let cap = find(&mut desk, 0x01);
    assert_eq!(desk.config_write(cap + 2, &[0xff; 2]), 0);
    assert_eq!(desk.config_write(cap + 4, &[0xfc, 0xff, 0xff, 0xff]), 0);
    assert_eq!(desk.config_read(cap + 2, 6), [3, 0, 0, 0, 0, 0]);
}

#[test]
fn pme_status_is_cleared_by_writing_1() {
    let pm = [1, 0, 0x22, 0xc8, 0, 0xa0, 0, 0];
    let device = Device::builder().capability(0xdc, &pm, &[0, 0, 0, 0, 3, 0xff, 0, 0]);
    let mut desk = Desk::ready_of(device.build().unwrap());
    desk.config_write(0xe1, &[0x20]);
    assert_eq!(desk.config_read(0xe1, 1), [0xa0]);
    desk.config_write(0xe1, &[0xa0]);
    assert_eq!(desk.config_read(0xe1, 1), [0x20]);
}

#[test]
fn a_device_may_keep_pme_itself() {
    let pm = [1, 0, 0x22, 0xc8, 0, 0x20, 0, 0];
    let device = Device::builder().capability(0xdc, &pm, &[0, 0, 0, 0, 3, 1, 0, 0]);
    let mut desk = Desk::ready_of(device.build().unwrap());
    desk.ram.pme = Some(Pme::default());
    desk.config_write(0xe0, &[3]);
    assert_eq!(
        desk.ram.pme,
        Some(Pme::default()),
        "the other byte says nothing of it"
    );
    desk.config_write(0xe0, &[3, 1]);
    let woken = Pme {
        enabled: true,
        status: true,
    };
    desk.ram.pme = Some(woken);
    assert_eq!(desk.config_read(0xe0, 2), [3, 0xa1]);
    assert_eq!(desk.config_read(0xe1, 1), [0xa1]);
    desk.config_write(0xe0, &[0, 1]);
    assert_eq!(desk.ram.resets, [ResetKind::PowerState]);
    assert_eq!(
        desk.config_read(0xdc, 8),
        [1, 0, 0x22, 0xc8, 0, 0xa1, 0, 0],
        "over the reset"
    );
    desk.config_write(0xe0, &[0, 0x80]);
    assert_eq!(desk.config_read(0xe1, 1), [0x20]);
    assert_eq!(desk.ram.pme, Some(Pme::default()));
}

// MSI and MSI-X

#[test]
fn msi_more_messages_than_there_are_is_invalid() {
    let mut desk = desk();
    let cap = find(&mut desk, 0x05);
    for order in 0..8 {
        let errno = desk.config_write(cap + 2, &[order << 4 | 1, 0]);
        assert_eq!(errno, if order > 2 { INVAL } else { 0 });
    }
    assert_eq!(
        read16(&mut desk, cap + 2) & 0x71,
        0x21,
        "nothing of it stays"
    );
    assert_eq!(desk.config_write(cap, &[0, 0, 0x70, 0]), INVAL);
}

#[test]
fn msi_messages_that_there_are_is_read_only() {
    let mut desk = desk();
    let cap = find(&mut desk, 0x05);
    assert_eq!(read16(&mut desk, cap + 2), 1 << 7 | 2 << 1);
    desk.config_write(cap + 2, &[0x0e, 0xff]);
    assert_eq!(read16(&mut desk, cap + 2), 1 << 7 | 2 << 1);
    desk.config_write(cap + 4, &[0xff; 12]);
    assert_eq!(
        desk.config_read(cap + 4, 12),
        [0xfc, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0]
    );
}

#[test]
fn msi_has_a_power_of_two_of_vectors_up_to_32() {
    for vectors in [0, 3, 64, u32::MAX] {
        assert_eq!(fails(|b| b.msi(vectors)), BuildError::Vectors(vectors));
    }
    for order in 0..=5 {
        let device = Device::builder().msi_maskable(1 << order).build().unwrap();
        let mut desk = Desk::ready_of(device);
        assert_eq!(read16(&mut desk, 0x42), 1 << 8 | 1 << 7 | order << 1);
        desk.config_write(0x50, &[0xff; 4]);
        let mask = u32::MAX >> (32 - (1 << order));
        assert_eq!(read32(&mut desk, 0x50), mask);
    }
}

#[test]
fn msix_control_is_written_by_2_bytes_at_2() {
    let mut desk = desk();
    let cap = find(&mut desk, 0x11);
    assert_eq!(read16(&mut desk, cap + 2), 7);
    assert_eq!(desk.config_write(cap + 2, &[0xff, 0xff]), 0);
    assert_eq!(read16(&mut desk, cap + 2), 0xc007);
    assert_eq!(desk.session.irqs().messages(), 8);
    assert_eq!(desk.config_write(cap + 2, &[0, 0]), 0);
    assert_eq!(read16(&mut desk, cap + 2), 7);
    assert_eq!(desk.session.irqs().messages(), 0);
}

#[test]
fn msix_control_is_written_by_1_byte_at_3() {
    let mut desk = desk();
    let cap = find(&mut desk, 0x11);
    for (byte, control) in [(0x80, 0x8007), (0xff, 0xc007), (0, 7)] {
        assert_eq!(desk.config_write(cap + 3, &[byte]), 0);
        assert_eq!(read16(&mut desk, cap + 2), control);
    }
}

#[test]
fn msix_table_and_pba_words_are_read_only() {
    let mut desk = desk();
    let cap = find(&mut desk, 0x11);
    assert_eq!(desk.config_write(cap + 4, &[0xff; 8]), 0);
    assert_eq!(desk.config_read(cap + 4, 8), words(&[1, 0x801]));
}

#[test]
fn msix_vectors_and_places_are_checked() {
    for vectors in [0, 2049, u32::MAX] {
        assert_eq!(
            fails(|b| b.msix(vectors, 0, 0, 0, 0x8000)),
            BuildError::Vectors(vectors)
        );
    }
    for (table, pba, (bar, offset)) in [
        ((1, 0), (0, 0), (1, 0)),
        ((6, 0), (0, 0), (6, 0)),
        ((0, 4), (0, 0x8000), (0, 4)),
        ((0, 0x8008), (0, 0), (0, 0x8008)),
        ((0, 0), (0, 0x7ff8), (0, 0x7ff8)),
        ((0, 0), (0, 0xff08), (0, 0xff08)),
        ((0, 0), (0, 0x8004), (0, 0x8004)),
        ((0, 0), (usize::MAX, 0x8000), (usize::MAX, 0x8000)),
        ((0, 0xffff_fff8), (0, 0), (0, 0xffff_fff8)),
    ] {
        assert_eq!(
            fails(|b| b.msix(2048, table.0, table.1, pba.0, pba.1)),
            BuildError::Msix { bar, offset }
        );
    }
    let io = Device::builder().bar(0, Bar::io(0x100));
    let error = io.msix(1, 0, 0, 0, 0x10).build().unwrap_err();
    assert_eq!(error, BuildError::Msix { bar: 0, offset: 0 });
    assert!(
        Device::builder()
            .bar(0, Bar::memory32(0x1_0000))
            .msix(2048, 0, 0x7000, 0, 0xff00)
            .build()
            .is_ok()
    );
}

#[test]
fn a_reset_of_the_device_disables_messages() {
    let mut desk = desk();
    let (msi, msix) = (find(&mut desk, 0x05), find(&mut desk, 0x11));
    desk.config_write(msi + 2, &[0x21, 0]);
    desk.config_write(msix + 3, &[0x80]);
    desk.ask(13, &[]);
    assert_eq!(read16(&mut desk, msi + 2), 1 << 7 | 2 << 1);
    assert_eq!(read16(&mut desk, msix + 2), 7);
    assert_eq!(desk.session.irqs().messages(), 0);
}

#[test]
fn errors_of_the_builder_are_sentences() {
    for error in [
        fails(|b| b.msi(3)),
        fails(|b| b.msix(1, 5, 0, 5, 0)),
        fails(|b| b.at(3).msi(1)),
        fails(|b| b.extended_capability(1, 1, &[], &[])),
    ] {
        assert!(error.to_string().len() > 30, "{error}");
    }
}
