//! What the protocol and libvfio-user's own tests ask of a server, request by request, without a socket.

mod common;

use common::{Desk, access, errno, event_fd, memfd, message, proposal, words};
use rustix::io::Errno;
use vfio_user::wire::{MAX_DATA, header_flags};
use vfio_user::{Closed, Command, ResetKind};

const INVAL: u32 = Errno::INVAL.raw_os_error() as u32;

#[test]
fn negotiation_comes_first_and_is_answered_within_the_request() {
    let mut desk = Desk::new();
    let reply = desk.ask(1, &proposal());
    assert!(reply.header.size <= 214);
    assert_eq!(reply.payload[..4], [0; 4]);
    assert_eq!(reply.payload.last(), Some(&0));
}

#[test]
fn negotiation_refuses_and_closes() {
    for (command, payload) in [
        (1, &b""[..]),
        (1, b"\0\0"),
        (1, b"\x01\0\0\0"),
        (1, b"\0\0\0\0{}"),
        (1, b"\0\0\0\0{\0"),
        (999, b""),
        (9, &access(7, 0, 4)),
    ] {
        let mut desk = Desk::new();
        let closed = desk.feed(&message(1, command, 0, payload), Vec::new());
        assert!(matches!(closed, Err(Closed::Negotiation(_))), "{payload:?}");
    }
    let mut desk = Desk::new();
    let closed = desk.feed(&message(1, 1, 0, &proposal()), vec![event_fd()]);
    assert!(matches!(closed, Err(Closed::Negotiation(_))));
}

#[test]
fn a_refusal_is_told_before_the_connection_closes() {
    let mut desk = Desk::new();
    let space = desk.session.space();
    let bytes = message(5, 999, 0, &[]);
    space[..bytes.len()].copy_from_slice(&bytes);
    desk.session.received(bytes.len(), [], false);
    assert!(desk.session.process(&mut desk.ram).is_err());
    let mut replies = Vec::new();
    desk.collect(&mut replies);
    assert_eq!(replies[0].header.error, INVAL);
    assert_eq!(replies[0].header.flags, 0x21);
}

#[test]
fn a_second_negotiation_is_an_error() {
    assert_eq!(errno(&mut Desk::ready(), 1, &proposal()), INVAL);
}

#[test]
fn impossible_sizes_close() {
    for size in [0_u32, 15, (MAX_DATA + 33) as u32, u32::MAX] {
        let mut desk = Desk::ready();
        let mut bytes = message(1, 13, 0, &[]);
        bytes[4..8].copy_from_slice(&size.to_le_bytes());
        let closed = desk.feed(&bytes, Vec::new());
        assert!(matches!(closed, Err(Closed::Framing(s)) if s == size));
    }
}

#[test]
fn replies_and_unknown_commands_are_errors() {
    let mut desk = Desk::ready();
    for kind in [1, 2, 15] {
        let replies = desk.feed(&message(1, 13, kind, &[]), Vec::new()).unwrap();
        assert_eq!(replies[0].header.error, INVAL);
    }
    for command in [0, 11, 12, 14, 19, u16::MAX] {
        assert_eq!(errno(&mut desk, command, &[0; 64]), INVAL, "{command}");
    }
}

#[test]
fn empty_messages_are_errors_except_reset() {
    let mut desk = Desk::ready();
    for command in [2, 3, 4, 5, 7, 8, 9, 10, 15, 16, 17, 18] {
        assert_eq!(errno(&mut desk, command, &[]), INVAL, "{command}");
    }
    assert_eq!(errno(&mut desk, 13, &[]), 0);
    assert_eq!(errno(&mut desk, 13, &[1, 2, 3]), 0, "whatever comes along");
}

#[test]
fn nothing_that_wants_no_reply_gets_one() {
    let mut desk = Desk::ready();
    for command in 0..30 {
        for len in [0, 7, 16, 20, 24, 32, 100] {
            let bytes = message(1, command, header_flags::NO_REPLY, &vec![0xff; len]);
            assert_eq!(desk.feed(&bytes, Vec::new()).unwrap(), []);
        }
    }
    assert_eq!(errno(&mut desk, 4, &words(&[16, 0, 0, 0])), 0);
}

#[test]
fn get_info() {
    let mut desk = Desk::ready();
    assert_eq!(errno(&mut desk, 4, &words(&[16, 0, 0])), INVAL);
    assert_eq!(errno(&mut desk, 4, &words(&[15, 0, 0, 0])), INVAL);
    for argsz in [16, 32, 4096] {
        let reply = desk.ask(4, &words(&[argsz, 0, 0, 0]));
        assert_eq!(reply.payload, words(&[16, 3, 9, 5]));
    }
}

fn region_info(index: u32, argsz: u32) -> Vec<u8> {
    words(&[argsz, 0, index, 0, 0, 0, 0, 0])
}

#[test]
fn get_region_info() {
    let mut desk = Desk::ready();
    assert_eq!(errno(&mut desk, 5, &region_info(0, 31)), INVAL);
    assert_eq!(errno(&mut desk, 5, &region_info(9, 32)), INVAL);
    assert_eq!(errno(&mut desk, 5, &region_info(u32::MAX, 32)), INVAL);
    assert_eq!(errno(&mut desk, 5, &region_info(0, 32)[..31]), INVAL);
    let sizes = [0x1000, 0x40, 0, 0, 0, 0, 0x1_0000, 256, 0];
    for (index, size) in (0..).zip(sizes) {
        let reply = desk.ask(5, &region_info(index, 32)).payload;
        let flags = match (index, size) {
            (_, 0) => 0,
            (6, _) => 1,
            _ => 3,
        };
        let high = if size == 0 { 0 } else { index << 8 };
        assert_eq!(reply, words(&[32, flags, index, 0, size, 0, 0, high]));
    }
    // SPDK sends the whole buffer that it wants filled.
    let mut long = region_info(0, 4064);
    long.resize(4064, 0);
    assert_eq!(desk.ask(5, &long).payload.len(), 32);
}

#[test]
fn get_irq_info() {
    let mut desk = Desk::ready();
    assert_eq!(errno(&mut desk, 7, &words(&[16, 0, 0])), INVAL);
    assert_eq!(errno(&mut desk, 7, &words(&[15, 0, 0, 0])), INVAL);
    assert_eq!(errno(&mut desk, 7, &words(&[16, 0, 5, 0])), INVAL);
    let intx = desk.ask(7, &words(&[16, 0, 0, 0])).payload;
    assert_eq!(intx, words(&[16, 7, 0, 1]));
    let msix = desk.ask(7, &words(&[16, 0, 2, 0])).payload;
    assert_eq!(msix, words(&[16, 0, 2, 0]));
    assert_eq!(
        errno(&mut desk, 7, &words(&[16, 0, 3, 0])),
        INVAL,
        "a count of 0 for ERR makes QEMU warn"
    );
}

#[test]
fn set_irqs_refuses_what_makes_no_sense() {
    let mut desk = Desk::ready();
    let trigger_none = 0x21;
    for (what, request) in [
        ("short", &[20, trigger_none, 0, 0][..]),
        ("argsz", &[19, trigger_none, 0, 0, 1]),
        ("index", &[20, trigger_none, 5, 0, 1]),
        ("index without interrupts", &[20, trigger_none, 1, 0, 1]),
        ("disable without interrupts", &[20, trigger_none, 2, 0, 0]),
        ("two actions", &[20, 0x31, 0, 0, 1]),
        ("no action", &[20, 0x01, 0, 0, 1]),
        ("two data types", &[20, 0x23, 0, 0, 1]),
        ("no data type", &[20, 0x20, 0, 0, 1]),
        ("unknown flag", &[20, 0x61, 0, 0, 1]),
        ("start", &[20, trigger_none, 0, 1, 1]),
        ("end", &[20, trigger_none, 0, 0, 2]),
        ("overflow", &[20, trigger_none, 0, 1, u32::MAX]),
        ("MASK on ERR", &[20, 0x09, 3, 0, 1]),
        ("UNMASK on REQ", &[20, 0x11, 4, 0, 1]),
        ("count 0, start not", &[20, trigger_none, 0, 1, 0]),
        ("count 0, MASK", &[20, 0x09, 0, 0, 0]),
        ("count 0, EVENTFD", &[20, 0x24, 0, 0, 0]),
        ("BOOL without data", &[20, 0x22, 0, 0, 1]),
    ] {
        assert_eq!(errno(&mut desk, 8, &words(request)), INVAL, "{what}");
    }
    let too_many_bools = [&words(&[20, 0x22, 0, 0, 1])[..], &[1, 1]].concat();
    assert_eq!(errno(&mut desk, 8, &too_many_bools), INVAL);
    for (flags, count) in [(0x21, 1), (0x22, 1), (0x24, 2)] {
        let fds = (0..count).map(|_| event_fd()).collect();
        let mut request = words(&[20, flags, 0, 0, 1]);
        request.extend((flags == 0x22).then_some(1));
        let reply = desk.ask_with(8, &request, fds);
        assert_eq!(reply.header.error, INVAL, "fds with flags {flags:#x}");
    }
    let not_an_eventfd = vec![memfd(8)];
    let reply = desk.ask_with(8, &words(&[20, 0x24, 0, 0, 1]), not_an_eventfd);
    assert_eq!(reply.header.error, INVAL);
}

#[test]
fn set_irqs_wires_and_unwires_the_line() {
    let mut desk = Desk::ready();
    let (first, second) = (event_fd(), event_fd());
    let count = |fd| common::wait(fd, std::time::Duration::ZERO).unwrap_or(0);
    let assign = words(&[20, 0x24, 0, 0, 1]);
    let give = |fd: &std::os::fd::OwnedFd| vec![fd.try_clone().unwrap()];
    assert_eq!(desk.ask_with(8, &assign, give(&first)).header.error, 0);
    assert_eq!(errno(&mut desk, 8, &words(&[20, 0x21, 0, 0, 1])), 0);
    assert_eq!(count(&first), 1, "TRIGGER|NONE");
    for (flag, signals) in [(1, 1), (0, 0)] {
        let request = [&words(&[20, 0x22, 0, 0, 1])[..], &[flag]].concat();
        assert_eq!(errno(&mut desk, 8, &request), 0);
        assert_eq!(count(&first), signals, "TRIGGER|BOOL");
    }
    assert_eq!(desk.ask_with(8, &assign, give(&second)).header.error, 0);
    let irqs = desk.session.irqs();
    irqs.set_level(true);
    assert_eq!((count(&first), count(&second)), (0, 1));
    // UNMASK after each look at the device, as cloud-hypervisor does.
    assert_eq!(errno(&mut desk, 8, &words(&[20, 0x11, 0, 0, 1])), 0);
    assert_eq!(count(&second), 1, "still asserted");
    // MASK, UNMASK.
    assert_eq!(errno(&mut desk, 8, &words(&[20, 0x09, 0, 0, 1])), 0);
    irqs.set_level(false);
    irqs.set_level(true);
    assert_eq!(count(&second), 0);
    assert_eq!(errno(&mut desk, 8, &words(&[20, 0x11, 0, 0, 1])), 0);
    assert_eq!(count(&second), 1);
    // De-assign, assign again: the level is pending.
    assert_eq!(errno(&mut desk, 8, &assign), 0);
    assert_eq!(desk.ask_with(8, &assign, give(&first)).header.error, 0);
    assert_eq!((count(&first), count(&second)), (1, 0));
    // Disable all.
    assert_eq!(errno(&mut desk, 8, &words(&[20, 0x21, 0, 0, 0])), 0);
    irqs.set_level(false);
    irqs.set_level(true);
    assert_eq!(count(&first), 0);
}

#[test]
fn intx_disable_holds_the_line_and_status_shows_it() {
    let mut desk = Desk::ready();
    let fd = event_fd();
    let fds = vec![fd.try_clone().unwrap()];
    desk.ask_with(8, &words(&[20, 0x24, 0, 0, 1]), fds);
    let disable = [&access(7, 5, 1)[..], &[4]].concat();
    let enable = [&access(7, 5, 1)[..], &[0]].concat();
    desk.ask(10, &disable);
    desk.session.irqs().set_level(true);
    assert_eq!(desk.ask(9, &access(7, 6, 1)).payload[16] & 8, 8);
    assert_eq!(common::wait(&fd, std::time::Duration::ZERO), None);
    desk.ask(10, &enable);
    assert_eq!(common::wait(&fd, std::time::Duration::ZERO), Some(1));
    desk.session.irqs().set_level(false);
    assert_eq!(desk.ask(9, &access(7, 6, 1)).payload[16] & 8, 0);
}

#[test]
fn region_reads_are_answered_with_data() {
    let mut desk = Desk::ready();
    desk.ram.bytes[0x10..0x14].copy_from_slice(&[1, 2, 3, 4]);
    let reply = desk.ask(9, &access(0, 0x10, 4));
    assert_eq!(
        reply.payload,
        [&access(0, 0x10, 4)[..], &[1, 2, 3, 4]].concat()
    );
    assert_eq!(desk.ask(9, &access(0, 0x10, 0)).payload.len(), 16);
    assert_eq!(
        desk.ask(9, &access(6, 0, 0x1_0000)).payload[16..],
        [0x55; 0x1_0000]
    );
    // Clients that hang on an error get ones.
    for request in [
        access(0, 0xffd, 4),
        access(0, u64::MAX, 4),
        access(2, 0, 4),
        access(8, 0, 4),
        access(9, 0, 4),
        access(u32::MAX, 0, 4),
        access(7, 254, 4),
    ] {
        let reply = desk.ask(9, &request).payload;
        assert_eq!(reply, [&request[..], &[0xff; 4]].concat());
    }
    let all = desk.ask(9, &access(5, 0, MAX_DATA as u32)).payload;
    assert!(all.len() == 16 + MAX_DATA && all[16..].iter().all(|b| *b == 0xff));
    assert_eq!(
        errno(&mut desk, 9, &access(0, 0, MAX_DATA as u32 + 1)),
        INVAL
    );
    assert_eq!(errno(&mut desk, 9, &access(0, 0, 4)[..15]), INVAL);
}

#[test]
fn region_writes_are_checked() {
    let mut desk = Desk::ready();
    let write = |desk: &mut Desk, region, offset, count, len| {
        let payload = [&access(region, offset, count)[..], &vec![9; len]].concat();
        errno(desk, 10, &payload)
    };
    assert_eq!(write(&mut desk, 0, 0xffc, 4, 4), 0);
    assert_eq!(write(&mut desk, 0, 0, 0, 0), 0);
    assert_eq!(desk.ram.writes, 1);
    for (region, offset, count, len) in [
        (0, 0, 4, 3),
        (0, 0, 4, 5),
        (0, 0xffd, 4, 4),
        (0, u64::MAX, 4, 4),
        (3, 0, 4, 4),
        (9, 0, 4, 4),
        (7, 253, 4, 4),
        (0, 0, u32::MAX, 4),
    ] {
        assert_eq!(write(&mut desk, region, offset, count, len), INVAL);
    }
    assert_eq!(write(&mut desk, 6, 0, 4, 4), 0, "ROM is not written");
    assert_eq!(desk.ram.writes, 1);
}

#[test]
fn region_write_multi() {
    let mut desk = Desk::ready();
    let entry =
        |offset: u64, count: u32, byte: u8| [&access(0, offset, count)[..], &[byte; 8]].concat();
    let request = |n: u64, entries: &[Vec<u8>]| [&n.to_le_bytes()[..], &entries.concat()].concat();
    let good = request(2, &[entry(0, 8, 1), entry(8, 2, 2)]);
    assert_eq!(desk.ask(15, &good).payload, 2_u64.to_le_bytes());
    assert_eq!(desk.ram.bytes[..11], [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 0]);
    for bad in [
        request(3, &[entry(0, 1, 7), entry(0, 1, 7)]),
        request(u64::MAX, &[]),
        request(u64::MAX / 24 + 1, &[]),
        request(1, &[entry(0, 9, 7)]),
        request(1, &[entry(0x1000, 1, 7)]),
    ] {
        assert_eq!(errno(&mut desk, 15, &bad), INVAL);
    }
    assert_eq!(desk.ram.writes, 2);
    let mixed = request(3, &[entry(0, 1, 7), entry(0x1000, 1, 7), entry(1, 1, 7)]);
    assert_eq!(errno(&mut desk, 15, &mixed), INVAL);
    assert_eq!(desk.ram.bytes[..2], [7, 7], "the others are done");
    assert_eq!(desk.ask(15, &request(0, &[])).payload, [0; 8]);
}

#[test]
fn bars_answer_only_while_decoding_is_enabled() {
    let mut desk = Desk::ready();
    desk.ram.bytes.fill(0x11);
    for (command, memory, io) in [(1, 0xff, 0x11), (2, 0x11, 0xff), (0, 0xff, 0xff)] {
        desk.ask(10, &[&access(7, 4, 1)[..], &[command]].concat());
        assert_eq!(desk.ask(9, &access(0, 0, 1)).payload[16], memory);
        assert_eq!(desk.ask(9, &access(1, 0, 1)).payload[16], io);
    }
    let write = [&access(0, 0, 1)[..], &[9]].concat();
    assert_eq!(errno(&mut desk, 10, &write), 0);
    assert_eq!(desk.ram.writes, 0, "ignored, not refused");
}

#[test]
fn power_states_and_resets_reach_the_device() {
    let mut desk = Desk::ready();
    let power = |desk: &mut Desk, state| {
        desk.ask(10, &[&access(7, 0xe0, 1)[..], &[state]].concat());
    };
    power(&mut desk, 3);
    assert_eq!(desk.ask(9, &access(0, 0, 1)).payload[16], 0xff);
    assert_eq!(desk.ram.commands.last(), Some(&Command::INTX_DISABLE));
    power(&mut desk, 0);
    assert_eq!(desk.ram.resets, [ResetKind::PowerState]);
    assert_eq!(desk.ram.commands.last(), Some(&Command::empty()));
    desk.ask(10, &[&access(7, 4, 1)[..], &[6]].concat());
    desk.ask(13, &[]);
    assert_eq!(desk.ram.resets, [ResetKind::PowerState, ResetKind::Message]);
    assert_eq!(desk.ask(9, &access(7, 4, 2)).payload[16..], [0, 0]);
    desk.session.disconnect(&mut desk.ram);
    assert_eq!(desk.ram.resets.last(), Some(&ResetKind::Disconnected));
}
