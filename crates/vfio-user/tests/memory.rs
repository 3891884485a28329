//! DMA_MAP, DMA_UNMAP, and replies that wait until queues have let go of memory.

mod common;

use common::{Desk, access, dma_map as map, dma_unmap as unmap, errno, memfd, message, words};
use rustix::io::Errno;

const INVAL: u32 = Errno::INVAL.raw_os_error() as u32;
const NOENT: u32 = Errno::NOENT.raw_os_error() as u32;
const NOSPC: u32 = Errno::NOSPC.raw_os_error() as u32;

#[test]
fn dma_map() {
    let mut desk = Desk::ready();
    assert_eq!(errno(&mut desk, 2, &map(3, 0, 0, 0x1000)[..31]), INVAL);
    let mut argsz = map(3, 0, 0, 0x1000);
    argsz[0] = 31;
    assert_eq!(errno(&mut desk, 2, &argsz), INVAL);
    assert_eq!(errno(&mut desk, 2, &map(16, 0, 0, 0x1000)), INVAL);
    assert_eq!(errno(&mut desk, 2, &map(3, 0, 0, (8 << 40) + 1)), NOSPC);
    assert_eq!(errno(&mut desk, 2, &map(3, 0, u64::MAX - 1, 4)), INVAL);
    for flags in [7, 11, 15] {
        let fds = vec![memfd(0x1000)];
        assert_eq!(
            errno(&mut desk, 2, &map(flags, 0, 0, 0x1000)),
            INVAL,
            "no fd"
        );
        let reply = desk.ask_with(2, &map(flags, 0, 0, 0x1000), fds);
        assert_eq!(reply.header.error, 0);
        assert!(reply.payload.is_empty());
        assert_eq!(errno(&mut desk, 3, &unmap(24, 0, 0, 0x1000)), 0);
    }
    let two = vec![memfd(0x1000), memfd(0x1000)];
    assert_eq!(
        desk.ask_with(2, &map(3, 0, 0, 0x1000), two).header.error,
        INVAL
    );
    assert_eq!(errno(&mut desk, 2, &map(1, 0, 0xf000_0000, 0x1000)), 0);
    assert_eq!(
        errno(&mut desk, 2, &map(1, 0, 0xf000_0000, 0x1000)),
        0,
        "again"
    );
    assert_eq!(errno(&mut desk, 2, &map(3, 0, 0xf000_0000, 0x1000)), INVAL);
    assert_eq!(errno(&mut desk, 2, &map(1, 0, 0xf000_0800, 0x1000)), INVAL);
}

#[test]
fn dma_unmap() {
    let mut desk = Desk::ready();
    let file = memfd(0x3000);
    for page in 0..3 {
        let fds = vec![file.try_clone().unwrap()];
        let request = map(3, page << 12, page << 12, 0x1000);
        assert_eq!(desk.ask_with(2, &request, fds).header.error, 0);
    }
    desk.session.mem().load().write(0, &[1; 0x3000]).unwrap();
    for (what, request, error) in [
        ("argsz", unmap(23, 0, 0, 0x1000), INVAL),
        ("large argsz", unmap((1 << 20) + 1, 0, 0, 0x1000), INVAL),
        ("flag 4", unmap(24, 4, 0, 0x1000), INVAL),
        ("ALL with a range", unmap(24, 2, 0, 0x1000), INVAL),
        ("ALL and dirty", unmap(24, 3, 0, 0), INVAL),
        ("dirty without tracking", unmap(24, 1, 0, 0x1000), INVAL),
        ("part", unmap(24, 0, 0, 0x800), NOENT),
        ("part of the second", unmap(24, 0, 0, 0x1800), NOENT),
        ("size 0", unmap(24, 0, 0, 0), INVAL),
        ("wrapping", unmap(24, 0, 0x1000, u64::MAX), INVAL),
    ] {
        assert_eq!(errno(&mut desk, 3, &request), error, "{what}");
    }
    let before = desk.session.epoch();
    let nothing = unmap(24, 0, 0x9000, 0x1000);
    assert_eq!(desk.ask(3, &nothing).payload, nothing);
    assert_eq!(desk.session.epoch(), before, "nobody is waited for");
    let request = unmap(24, 0, 0, 0x1000);
    // SPDK passes the descriptor along.
    let reply = desk.ask_with(3, &request, vec![file.try_clone().unwrap()]);
    assert_eq!(reply.payload, request);
    assert!(desk.session.mem().load().write(0, &[0]).is_err());
    desk.session.mem().load().write(0x1000, &[0]).unwrap();
    let map_again = map(3, 0, 0, 0x1000);
    let fds = vec![file.try_clone().unwrap()];
    assert_eq!(desk.ask_with(2, &map_again, fds).header.error, 0);
    let two = unmap(24, 0, 0, 0x2000);
    assert_eq!(desk.ask(3, &two).payload, two, "two at once");
    assert!(desk.session.mem().load().write(0, &[0]).is_err());
    assert!(desk.session.mem().load().write(0x1000, &[0]).is_err());
    desk.session.mem().load().write(0x2000, &[0]).unwrap();
    let all = unmap(24, 2, 0, 0);
    assert_eq!(desk.ask(3, &all).payload, all);
    assert!(desk.session.mem().load().write(0x2000, &[0]).is_err());
}

#[test]
fn replies_wait_for_their_epoch_in_order() {
    let mut desk = Desk::ready();
    desk.hold = true;
    let before = desk.session.epoch();
    let requests = [
        message(1, 9, 0, &access(0, 0, 4)),
        message(2, 2, 0, &map(3, 0, 0, 0x1000)),
        message(3, 9, 0, &access(0, 0, 4)),
        message(4, 3, 0, &unmap(24, 0, 0, 0x1000)),
        message(5, 13, 0, &[]),
        message(6, 4, 0, &words(&[16, 0, 0, 0])),
    ];
    let ids = |replies: &[vfio_user::client::Reply]| {
        replies.iter().map(|r| r.header.id).collect::<Vec<_>>()
    };
    let replies = desk.feed(&requests.concat(), Vec::new()).unwrap();
    assert_eq!(ids(&replies), [1]);
    assert_eq!(desk.ram.resets.len(), 1, "executed at once, told later");
    assert_eq!(desk.session.epoch(), before + 3);
    for (passed, expected) in [(1, &[2, 3][..]), (2, &[4]), (3, &[5, 6])] {
        desk.session.pass_epoch(before + passed);
        let mut replies = Vec::new();
        desk.collect(&mut replies);
        assert_eq!(ids(&replies), expected);
    }
}

#[test]
fn too_many_waiting_replies_stop_the_input_and_nothing_is_lost() {
    let mut desk = Desk::ready();
    desk.hold = true;
    desk.feed(&message(0, 13, 0, &[]), Vec::new()).unwrap();
    desk.feed(
        &message(0, 10, 0, &[&access(7, 4, 1)[..], &[2]].concat()),
        Vec::new(),
    )
    .unwrap();
    let mut fed = 0_u16;
    while desk.session.wants_input() {
        fed += 1;
        let space = desk.session.space();
        let bytes = message(fed, 9, 0, &access(0, 0, 0x100));
        space[..bytes.len()].copy_from_slice(&bytes);
        desk.session.received(bytes.len(), [], false);
        desk.session.process(&mut desk.ram).unwrap();
        assert!(fed < 1000, "bounded");
    }
    assert!(!desk.session.has_output() && !desk.session.can_continue());
    desk.hold = false;
    let mut replies = Vec::new();
    desk.collect(&mut replies);
    assert!(desk.session.can_continue());
    desk.session.process(&mut desk.ram).unwrap();
    desk.collect(&mut replies);
    let ids: Vec<u16> = replies.iter().skip(2).map(|r| r.header.id).collect();
    assert_eq!(ids, (1..=fed).collect::<Vec<_>>());
}
