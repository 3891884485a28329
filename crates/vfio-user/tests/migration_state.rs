//! The bytes of a migrated device: what is in them, that they are read in any pieces, and that whatever anybody makes up
//! does no harm.

mod common;

use common::moving::*;
use common::{Desk, access, device, errno, words};
use proptest::prelude::*;
use vfio_user::wire::command;
use vfio_user::{Bar, Command, Device, MAX_STATE, Pme, ResetKind};

#[test]
fn a_short_read_is_the_end_of_the_stream() {
    let mut desk = Desk::ready();
    let whole = save(&mut desk);
    assert_eq!(
        read(&mut desk, 100).payload,
        words(&[8, 0]),
        "and so is nothing"
    );
    assert_eq!(desk.ram.moves, ["stop", "save"], "saved once");
    for size in [1, 7, 28, 4096, 1 << 20] {
        assert_eq!(set_state(&mut desk, STOP), 0);
        assert_eq!(set_state(&mut desk, STOP_COPY), 0);
        assert_eq!(
            read_all(&mut desk, size),
            whole,
            "a new session is from the start"
        );
    }
}

#[test]
fn pre_copy_tells_the_header_first() {
    let mut desk = Desk::ready();
    let whole = save(&mut desk);
    assert_eq!(set_state(&mut desk, RUNNING), 0);
    assert_eq!(set_state(&mut desk, PRE_COPY), 0);
    desk.ram.moves.clear();
    let header = read_all(&mut desk, 1000);
    assert_eq!(header, whole[..header.len()]);
    assert!(header.len() >= 24, "who it is");
    assert!(desk.ram.moves.is_empty(), "the device goes on");
    assert_eq!(set_state(&mut desk, STOP_COPY), 0);
    let rest = read_all(&mut desk, 1000);
    assert_eq!([header, rest].concat(), whole);
    assert_eq!(desk.ram.moves, ["stop", "save"]);
}

#[test]
fn a_header_that_nobody_read_while_it_ran_comes_with_the_rest() {
    let mut desk = Desk::ready();
    let whole = save(&mut desk);
    assert_eq!(set_state(&mut desk, RUNNING), 0);
    assert_eq!(set_state(&mut desk, PRE_COPY), 0);
    assert_eq!(read(&mut desk, 5).payload[8..], whole[..5]);
    assert_eq!(set_state(&mut desk, STOP_COPY), 0);
    assert_eq!(read_all(&mut desk, 100), whole[5..]);
}

#[test]
fn a_device_goes_on_where_it_was() {
    let mut desk = Desk::ready();
    for (n, byte) in desk.ram.bytes.iter_mut().enumerate() {
        *byte = (n % 200) as u8;
    }
    // BAR0, interrupt line and COMMAND; D3 shows that the power state moves too.
    for (at, value) in [
        (0x10, 0xfebc_0000_u32),
        (0x3c, 0x0000_000b),
        (4, 0x0000_0006),
        (0xe0, 3),
    ] {
        let write = [&access(7, at, 4)[..], &value.to_le_bytes()].concat();
        assert_eq!(errno(&mut desk, command::REGION_WRITE, &write), 0);
    }
    // PME_En is kept by the device, which heard of it from elsewhere; the rest of what it keeps is its own to save.
    let pme = Some(Pme {
        enabled: true,
        status: false,
    });
    desk.ram.pme = pme;
    let bytes = save(&mut desk);
    let config = desk.ask(command::REGION_READ, &access(7, 0, 256)).payload;

    let mut other = Desk::ready();
    other.ram.pme = Some(Pme::default());
    assert_eq!(load(&mut other, &bytes), 0);
    assert_eq!(other.ram.moves, ["stop", "load", "run"]);
    assert_eq!(other.ram.bytes, desk.ram.bytes);
    assert_eq!(other.ram.pme, pme);
    assert_eq!(
        other.ask(command::REGION_READ, &access(7, 0, 256)).payload,
        config
    );
    assert_eq!(
        other.ram.commands.last(),
        Some(&Command::INTX_DISABLE),
        "as in D3"
    );
    let d0 = [&access(7, 0xe0, 1)[..], &[0]].concat();
    assert_eq!(errno(&mut other, command::REGION_WRITE, &d0), 0);
    assert_eq!(other.ram.resets, [ResetKind::PowerState]);
}

#[test]
fn command_is_told_to_the_device() {
    let mut desk = Desk::ready();
    let bytes = save(&mut desk);
    let mut other = Desk::new();
    assert_eq!(errno(&mut other, command::VERSION, &common::proposal()), 0);
    assert_eq!(load(&mut other, &bytes), 0);
    let all = Command::IO | Command::MEMORY | Command::BUS_MASTER;
    assert_eq!(other.ram.commands, [all]);
}

#[test]
fn nothing_written_is_nothing_loaded() {
    let mut desk = Desk::ready();
    desk.ram.bytes[3] = 9;
    assert_eq!(load(&mut desk, &[]), 0);
    assert_eq!(
        (desk.ram.bytes[3], &desk.ram.moves[..]),
        (9, &["stop", "run"][..])
    );
}

#[test]
fn a_state_that_is_cut_off_anywhere_is_an_error() {
    let bytes = save(&mut Desk::ready());
    let mut desk = Desk::ready();
    let ends = (1..64).chain([
        256,
        284,
        285,
        400,
        4000,
        bytes.len() - 5,
        bytes.len() - 4,
        bytes.len() - 1,
    ]);
    for end in ends {
        assert_eq!(load(&mut desk, &bytes[..end]), INVAL, "{end} bytes");
        assert_eq!(state(&mut desk), ERROR);
        assert_eq!(errno(&mut desk, command::DEVICE_RESET, &[]), 0);
    }
    assert!(!desk.ram.moves.contains(&"load"));
    assert_eq!(
        load(&mut desk, &[&bytes[..], &[0]].concat()),
        INVAL,
        "a byte too many"
    );
    assert_eq!(errno(&mut desk, command::DEVICE_RESET, &[]), 0);
    assert_eq!(load(&mut desk, &bytes), 0);
}

#[test]
fn a_state_that_is_too_long_is_an_error_and_bounded() {
    let mut desk = Desk::ready();
    let mut bytes = save(&mut Desk::ready());
    bytes.resize(1 << 20, 0);
    assert_eq!(set_state(&mut desk, RESUMING), 0);
    for _ in 0..MAX_STATE >> 20 {
        assert_eq!(write(&mut desk, &bytes), 0);
    }
    assert_eq!(write(&mut desk, &[0]), INVAL);
    assert_eq!(state(&mut desk), ERROR);
}

#[test]
fn a_state_of_another_device_is_refused_by_its_header() {
    let mut desk = Desk::ready();
    assert_eq!(set_state(&mut desk, PRE_COPY), 0);
    let header = read_all(&mut desk, 1000);
    let others = [
        Device::builder().ids(0x1234, 0x5679),
        Device::builder()
            .ids(0x1234, 0x5678)
            .class(0x02_00_00)
            .revision(4),
        Device::builder()
            .ids(0x1234, 0x5678)
            .class(0x02_00_00)
            .revision(3)
            .subsystem(1, 2),
        Device::builder()
            .ids(0x1234, 0x5678)
            .class(0x02_00_00)
            .revision(3)
            .express(),
    ];
    for other in others {
        let mut other = Desk::ready_of(other.build().unwrap());
        assert_eq!(set_state(&mut other, RESUMING), 0);
        assert_eq!(write(&mut other, &header), INVAL);
        assert_eq!(state(&mut other), ERROR);
    }
    let mut same = Desk::ready_of(device());
    assert_eq!(set_state(&mut same, RESUMING), 0);
    assert_eq!(write(&mut same, &header), 0);
}

/// MSI-X: the table where the server keeps it, what the guest masks, what is pending.
#[test]
fn interrupts_that_are_pending_go_along() {
    let device = || {
        Device::builder()
            .ids(1, 2)
            .bar(0, Bar::memory32(0x1000))
            .bar(1, Bar::memory32(0x4000))
            .msix(70, 1, 0, 1, 0x2000)
            .build()
            .unwrap()
    };
    let enable = |desk: &mut Desk| {
        let list = desk.ask(command::REGION_READ, &access(7, 0x34, 1)).payload[16];
        let write = [&access(7, u64::from(list) + 2, 2)[..], &[0, 0x80]].concat();
        assert_eq!(errno(desk, command::REGION_WRITE, &write), 0);
    };
    let mut desk = Desk::ready_of(device());
    enable(&mut desk);
    for (vector, control) in [(0, 0_u32), (65, 1), (66, 1)] {
        let at = 16 * vector;
        let entry = words(&[0xfee0_0000, 0, vector as u32, control]);
        let write = [&access(1, at, 16)[..], &entry].concat();
        assert_eq!(errno(&mut desk, command::REGION_WRITE, &write), 0);
    }
    let irqs = desk.session.irqs();
    irqs.raise(65);
    irqs.raise(3);
    assert!(irqs.is_pending(65) && irqs.is_pending(3));
    let table = desk
        .ask(command::REGION_READ, &access(1, 0, 70 * 16))
        .payload;
    let pending = desk
        .ask(command::REGION_READ, &access(1, 0x2000, 16))
        .payload;
    let bytes = save(&mut desk);

    let mut other = Desk::ready_of(device());
    assert_eq!(load(&mut other, &bytes), 0);
    assert_eq!(
        other
            .ask(command::REGION_READ, &access(1, 0, 70 * 16))
            .payload,
        table
    );
    assert_eq!(
        other
            .ask(command::REGION_READ, &access(1, 0x2000, 16))
            .payload,
        pending
    );
    let irqs = other.session.irqs();
    assert!(irqs.is_pending(65) && irqs.is_pending(3) && !irqs.is_pending(66));
    let fds: Vec<_> = (0..5).map(|_| common::event_fd()).collect();
    let assign = |other: &mut Desk, first: u32, from: usize, n: u32| {
        let send = fds[from..from + n as usize]
            .iter()
            .map(|fd| fd.try_clone().unwrap())
            .collect();
        let request = words(&[20, 0x24, 2, first, n]);
        assert_eq!(
            other
                .ask_with(command::DEVICE_SET_IRQS, &request, send)
                .header
                .error,
            0
        );
    };
    assign(&mut other, 3, 0, 1);
    assign(&mut other, 65, 1, 2);
    let told: Vec<_> = fds
        .iter()
        .map(|fd| common::wait(fd, std::time::Duration::ZERO).is_some())
        .collect();
    assert_eq!(
        told,
        [true, false, false, false, false],
        "the guest masks 65"
    );
    let unmask = [&access(1, 65 * 16 + 12, 4)[..], &[0; 4]].concat();
    assert_eq!(errno(&mut other, command::REGION_WRITE, &unmask), 0);
    assert!(common::wait(&fds[1], std::time::Duration::ZERO).is_some());

    let fewer = Device::builder()
        .ids(1, 2)
        .bar(0, Bar::memory32(0x1000))
        .bar(1, Bar::memory32(0x4000))
        .msix(69, 1, 0, 1, 0x2000);
    let mut fewer = Desk::ready_of(fewer.build().unwrap());
    assert_eq!(load(&mut fewer, &bytes), INVAL);
}

/// `tests/golden/vfio-user-1.bin` was saved by the first release, and is never made anew (`UPDATE_GOLDEN=1` makes it if
/// it is not there).
#[test]
fn a_state_of_the_first_release_means_what_it_meant() {
    let golden = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/golden/vfio-user-1.bin"
    );
    let mut desk = Desk::ready();
    desk.ram.bytes[0x123] = 0x45;
    let bar = [&access(7, 0x10, 4)[..], &0xfebc_0000_u32.to_le_bytes()].concat();
    assert_eq!(errno(&mut desk, command::REGION_WRITE, &bar), 0);
    let now = save(&mut desk);
    if std::env::var_os("UPDATE_GOLDEN").is_some() && !std::fs::exists(golden).unwrap() {
        std::fs::write(golden, &now).unwrap();
    }
    let bytes = std::fs::read(golden).expect("made with UPDATE_GOLDEN=1");
    assert!(
        now == bytes,
        "the layout has changed: that needs a version of its own"
    );

    let mut other = Desk::ready();
    assert_eq!(load(&mut other, &bytes), 0);
    assert_eq!(other.ram.bytes[0x123], 0x45);
    let bar = other.ask(command::REGION_READ, &access(7, 0x10, 4)).payload;
    assert_eq!(bar[16..], 0xfebc_0000_u32.to_le_bytes());
    let all = Command::IO | Command::MEMORY | Command::BUS_MASTER;
    assert_eq!(other.ram.commands.last(), Some(&all));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_state_with_any_byte_changed_is_an_error(at: prop::sample::Index, flip in 1_u8..) {
        let mut bytes = save(&mut Desk::ready());
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let mut desk = Desk::ready();
        desk.ram.bytes[0] = 1;
        prop_assert_eq!(load(&mut desk, &bytes), INVAL);
        prop_assert_eq!(state(&mut desk), ERROR);
        prop_assert_eq!(desk.ram.bytes[0], 1, "the device has not seen it");
        prop_assert_eq!(errno(&mut desk, command::DEVICE_RESET, &[]), 0);
        prop_assert_eq!(state(&mut desk), RUNNING);
    }

    #[test]
    fn no_configuration_space_does_what_a_guest_could_not(config: [u8; 32], rest: u8) {
        let mut desk = Desk::ready();
        let mut bytes = save(&mut desk);
        let pristine = desk.ask(command::REGION_READ, &access(7, 0, 256)).payload;
        let end = bytes.len() - 4;
        bytes[28..28 + 256].fill(rest);
        bytes[28..28 + 32].copy_from_slice(&config);
        bytes[28 + 0xdc..28 + 0xe4].copy_from_slice(&config[..8]);
        let crc = crc32fast::hash(&bytes[..end]).to_le_bytes();
        bytes[end..].copy_from_slice(&crc);
        let mut other = Desk::ready();
        prop_assert_eq!(load(&mut other, &bytes), 0);
        let now = other.ask(command::REGION_READ, &access(7, 0, 256)).payload;
        prop_assert_eq!(&now[16..20], &pristine[16..20], "vendor and device");
        prop_assert_eq!(now[16 + 0xe0] & 3 != 1 && now[16 + 0xe0] & 3 != 2, true, "no D1, no D2");
        // The same bits, written by a guest, leave the same space.
        let write = [&access(7, 0, 256)[..], &now[16..]].concat();
        let mut guest = Desk::new();
        prop_assert_eq!(errno(&mut guest, command::VERSION, &common::proposal()), 0);
        prop_assert_eq!(errno(&mut guest, command::REGION_WRITE, &write), 0);
        let written = guest.ask(command::REGION_READ, &access(7, 0, 256)).payload;
        prop_assert_eq!(&written[..], &now[..]);
    }
}
