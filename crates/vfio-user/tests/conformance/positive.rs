//! What a server does that refuses nothing: clauses about success.

use std::os::fd::AsFd;

use vfio_user::wire::{command, irq_index};
use vfio_user::{Bar, Device, ResetKind};

use crate::common::full::LEVEL;
use crate::common::peer::Peer;
use crate::common::{Desk, Rig, access, dma_map, event_fd, memfd, message, wait, words};
use crate::{BOTH, Case, PAGE, request};

const SOON: std::time::Duration = std::time::Duration::from_secs(20);

#[test]
fn get_info_with_more_room_is_16_bytes() {
    let mut case = Case::new();
    for argsz in [16, 17, 32, 4096, u32::MAX] {
        let info = request(command::DEVICE_GET_INFO, words(&[argsz, 0, 0, 0]));
        assert_eq!(case.accepted("info", &info), words(&[16, 3, 9, 5]));
    }
    // What SPDK sends: its whole buffer.
    let mut long = words(&[16, 0, 0, 0]);
    long.resize(4064, 0);
    case.accepted("long", &request(command::DEVICE_GET_INFO, long));
}

#[test]
fn bars_of_4_8_and_16_gib() {
    for gib in [4_u64, 8, 16] {
        let device = Device::builder().bar(0, Bar::memory64(gib << 30)).build();
        let mut desk = Desk::ready_of(device.unwrap());
        let info = desk.ask(5, &words(&[32, 0, 0, 0, 0, 0, 0, 0])).payload;
        assert_eq!(info[16..24], (gib << 30).to_le_bytes());
        for at in [0x10, 0x14] {
            assert_eq!(desk.config_write(at, &[0xff; 4]), 0);
        }
        let mask = desk.config_read(0x10, 8);
        let mask = u64::from_le_bytes(mask.try_into().unwrap());
        assert_eq!(mask & !0xf, !((gib << 30) - 1));
    }
}

#[test]
fn a_region_access_of_0_bytes_succeeds() {
    let mut case = Case::new();
    let nothing = access(0, 0, 0);
    for command in [command::REGION_READ, command::REGION_WRITE] {
        assert_eq!(
            case.accepted("nothing", &request(command, nothing)),
            nothing
        );
    }
}

/// Where libvfio-user says EINVAL: a client that hangs on an error would hang.
#[test]
fn reads_of_nothing_are_all_ones() {
    let mut case = Case::new();
    for place in [
        access(0, u64::MAX, 4),
        access(0, 0xffd, 4),
        access(1, 0, 4),
        access(8, 0, 4),
        access(9, 0, 4),
        access(7, 4094, 4),
    ] {
        let reply = case.accepted("ones", &request(command::REGION_READ, place));
        assert_eq!(reply, [&place[..], &[0xff; 4]].concat());
    }
}

#[test]
fn an_identical_map_again_succeeds() {
    let mut case = Case::new();
    let file = memfd(0x2000);
    let map = dma_map(BOTH, 0x1000, 0x9000, 0x1000);
    for _ in 0..3 {
        let got = case.peer.ask(command::DMA_MAP, &map, &[file.as_fd()]);
        assert_eq!((got.header.error, got.payload.len()), (0, 0));
    }
    let unmap = crate::common::dma_unmap(24, 0, 0x9000, 0x1000);
    case.accepted("the one", &request(command::DMA_UNMAP, unmap));
    let left = case.serving.mem.load().read(0x9000, &mut [0]);
    assert!(left.is_err(), "and not a second one");
}

#[test]
fn dma_unmap_echoes_the_request_and_all_takes_everything() {
    let mut case = Case::new();
    let one = crate::common::dma_unmap(24, 0, PAGE, 0x1000);
    let reply = case.accepted("one", &request(command::DMA_UNMAP, &one));
    assert_eq!(reply, one);
    assert!(case.serving.mem.load().read(PAGE, &mut [0]).is_err());
    for page in 0..5 {
        let map = dma_map(BOTH, 0, page << 20, 0x1000);
        case.accepted("map", &request(command::DMA_MAP, map));
    }
    let all = crate::common::dma_unmap(24, 2, 0, 0);
    let reply = case.accepted("all", &request(command::DMA_UNMAP, &all));
    assert_eq!(reply, all);
    // Free for others, which overlap what there was.
    let map = dma_map(BOTH, 0, 0, 5 << 20);
    case.accepted("map", &request(command::DMA_MAP, map));
}

/// libvfio-user says ENOENT. VFIO does not, and QEMU was made for that one: an IOMMU of its own drops what it never
/// mapped, and an error is told to the operator and ends a migration that is under way.
#[test]
fn dma_unmap_of_an_unknown_range_succeeds() {
    let mut case = Case::new();
    let all = crate::common::dma_unmap(24, 2, 0, 0);
    for unmap in [
        crate::common::dma_unmap(24, 0, PAGE + 0x1000, 0x1000),
        crate::common::dma_unmap(24, 0, 0, PAGE),
        crate::common::dma_unmap(24, 0, 1 << 63, 1 << 63),
    ] {
        let reply = case.accepted("nothing", &request(command::DMA_UNMAP, &unmap));
        assert_eq!(reply, unmap);
        case.serving.mem.load().write(PAGE, &[1; 0x1000]).unwrap();
    }
    for _ in 0..2 {
        case.accepted("all", &request(command::DMA_UNMAP, &all));
    }
}

/// As VFIO does it, and as QEMU relies on where the guest has an IOMMU.
#[test]
fn dma_unmap_of_a_range_takes_all_that_lies_in_it() {
    let mut case = Case::new();
    for page in 1..4 {
        let map = dma_map(BOTH, 0, page << 30, 0x1000);
        case.accepted("map", &request(command::DMA_MAP, map));
    }
    let unmap = |iova, size| {
        let unmap = crate::common::dma_unmap(24, 0, iova, size);
        request(command::DMA_UNMAP, unmap)
    };
    case.refused("cuts one", &unmap(1 << 30, (2 << 30) + 1), crate::NOENT);
    case.accepted("two", &unmap(1 << 30, 2 << 30));
    case.accepted("gone", &unmap(1 << 30, 2 << 30));
    case.refused("cuts the third", &unmap(3 << 30, 0x800), crate::NOENT);
    case.accepted("there", &unmap(3 << 30, 0x1000));
}

/// SPDK sends the descriptor along when it unmaps.
#[test]
fn dma_unmap_with_a_descriptor_closes_it() {
    let mut case = Case::new();
    let one = crate::common::dma_unmap(24, 0, PAGE, 0x1000);
    case.accepted("one", &request(command::DMA_UNMAP, one).with_fds(1));
}

#[test]
fn a_device_that_offers_no_reset_is_reset_all_the_same() {
    let mut case = Case::new();
    // Memory and I/O are off afterwards, as in a machine that starts.
    let got = case.ask(&request(command::DEVICE_RESET, []));
    assert_eq!((got.header.error, got.payload.len()), (0, 0));
    assert_eq!(case.serving.seen().resets, [ResetKind::Message]);
    case.peer.command(7);
    case.works();
}

#[test]
fn a_disconnect_resets_the_device_and_drops_what_was_the_clients() {
    let rig = Rig::start();
    let mut peer = Peer::qemu(&rig.path);
    let file = memfd(0x1000);
    let map = dma_map(BOTH, 0, PAGE, 0x1000);
    peer.ask(command::DMA_MAP, &map, &[file.as_fd()]);
    let trigger = event_fd();
    let assign = words(&[20, 0x24, irq_index::INTX, 0, 1]);
    peer.ask(command::DEVICE_SET_IRQS, &assign, &[trigger.as_fd()]);
    rig.mem.load().write(PAGE, &[1]).unwrap();
    drop(peer);
    rig.until("reset", |ram| ram.resets == [ResetKind::Disconnected]);
    rig.irqs.set_level(true);
    assert_eq!(wait(&trigger, std::time::Duration::ZERO), None);
    rig.irqs.set_level(false);
    // The server is done with this one once it serves the next.
    Peer::qemu(&rig.path);
    assert!(rig.mem.load().write(PAGE, &[1]).is_err());
    let closed = rig.shared.closed.lock().unwrap();
    assert!(closed[0].contains("closed the connection"), "{closed:?}");
}

/// The client is gone before the reply could leave.
#[test]
fn a_map_whose_reply_cannot_be_sent_is_undone() {
    let rig = Rig::start();
    let mut peer = Peer::qemu(&rig.path);
    rig.hold(true);
    let file = memfd(0x1000);
    let map = dma_map(BOTH, 0, PAGE, 0x1000);
    peer.send(command::DMA_MAP, &map, &[file.as_fd()]);
    // The request has been executed once its page is there.
    let start = std::time::Instant::now();
    while rig.mem.load().read(PAGE, &mut [0]).is_err() {
        assert!(start.elapsed() < SOON);
    }
    drop(peer);
    rig.until("reset", |ram| ram.resets == [ResetKind::Disconnected]);
    rig.hold(false);
    Peer::qemu(&rig.path);
    assert!(rig.mem.load().read(PAGE, &mut [0]).is_err());
}

/// libvfio-user's "quiesce", which is our epoch: the reply waits, once, for all that use what changes.
#[test]
fn maps_unmaps_and_resets_complete_only_after_the_queues_have_let_go() {
    let rig = Rig::start();
    let mut peer = Peer::qemu(&rig.path);
    let file = memfd(0x1000);
    let map = dma_map(BOTH, 0, PAGE, 0x1000);
    let unmap = crate::common::dma_unmap(24, 0, PAGE, 0x1000);
    for (command, payload) in [
        (command::DMA_MAP, &map[..]),
        (command::DMA_UNMAP, &unmap),
        (command::DEVICE_RESET, &[]),
    ] {
        rig.hold(true);
        let fds = [file.as_fd()];
        let fds = &fds[..usize::from(command == command::DMA_MAP)];
        let id = peer.send(command, payload, fds);
        peer.hears_nothing();
        rig.hold(false);
        assert_eq!(peer.next().header.id, id);
    }
}

/// A client that goes while its requests wait for the queues is cleaned up after once.
#[test]
fn a_disconnect_while_the_queues_are_waited_for_resets_once() {
    let rig = Rig::start();
    let mut peer = Peer::qemu(&rig.path);
    rig.hold(true);
    peer.send(command::DMA_MAP, &dma_map(BOTH, 0, PAGE, 0x1000), &[]);
    peer.send(command::DMA_MAP, &dma_map(BOTH, 0, 0, 0x1000), &[]);
    drop(peer);
    rig.until("reset", |ram| !ram.resets.is_empty());
    rig.hold(false);
    // Stays: it would be reset as well when it goes.
    let _next = Peer::qemu(&rig.path);
    rig.until("once", |ram| ram.resets == [ResetKind::Disconnected]);
}

#[test]
fn more_maps_than_announced_are_einval() {
    let mut case = Case::new();
    let most = vfio_user::wire::MAX_DMA_MAPS as u64;
    // One is there already. In few messages without a reply, so that the memory map is not made anew for each.
    let maps: Vec<_> = (1..most)
        .map(|n| dma_map(BOTH, 0, n << 12, 0x1000))
        .map(|map| message(1, command::DMA_MAP, 0x10, &map))
        .collect();
    for maps in maps.chunks(1000) {
        case.peer.send_bytes(&maps.concat(), &[]);
    }
    case.works();
    let map = dma_map(BOTH, 0, most << 12, 0x1000);
    case.refused("one more", &request(command::DMA_MAP, map), crate::INVAL);
}

/// INTx with KVM: a resample eventfd and no message per interrupt.
#[test]
fn the_resample_eventfd_raises_the_line_again() {
    let mut case = Case::new();
    let (trigger, resample) = (event_fd(), event_fd());
    for (flags, fd) in [(0x24, &trigger), (0x14, &resample)] {
        let payload = words(&[20, flags, irq_index::INTX, 0, 1]);
        let got = case
            .peer
            .ask(command::DEVICE_SET_IRQS, &payload, &[fd.as_fd()]);
        assert_eq!(got.header.error, 0);
    }
    let level = |case: &mut Case, level| {
        let write = [&access(0, LEVEL, 1)[..], &[level]].concat();
        case.peer.send_bytes(&message(1, 10, 0x10, &write), &[]);
    };
    level(&mut case, 1);
    assert_eq!(wait(&trigger, SOON), Some(1));
    for _ in 0..3 {
        crate::common::signal(&resample);
        assert_eq!(wait(&trigger, SOON), Some(1), "still asserted");
    }
    level(&mut case, 0);
    case.works();
    crate::common::signal(&resample);
    let moment = std::time::Duration::from_millis(50);
    assert_eq!(wait(&trigger, moment), None);
}
