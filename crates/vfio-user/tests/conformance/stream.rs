//! What no test of libvfio-user asks for and real clients need: messages in pieces and in heaps, requests without
//! replies, and clients that do not read.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use vfio_user::wire::{HEADER, MAX_MESSAGE, command, header_flags};

use crate::common::peer::Peer;
use crate::common::{Rig, access, count, dma_map, event_fd, memfd, message, words};
use crate::{BOTH, Case, INVAL, PAGE, request};

const NO_REPLY: u32 = header_flags::NO_REPLY;

/// The next header cannot be found: an error reply, then the end. libvfio-user reads on at what it takes for the next
/// message.
#[test]
fn a_size_that_cannot_be_is_einval_and_closes() {
    for size in [0, 15, MAX_MESSAGE as u32 + 1, u32::MAX] {
        let mut case = Case::new();
        let mut bytes = message(3, command::DEVICE_RESET, 0, &[]);
        bytes[4..8].copy_from_slice(&size.to_le_bytes());
        case.peer.send_bytes(&bytes, &[]);
        let got = case.peer.next();
        assert_eq!((got.header.error, got.header.size), (INVAL, 16), "{size}");
        assert!(case.peer.try_next().is_none(), "closed");
        Peer::qemu(&case.serving.path);
    }
}

/// The longest message there is.
#[test]
fn a_size_at_the_maximum_is_taken() {
    let mut case = Case::new();
    let longest = [&access(0, 0, 1 << 20)[..], &vec![0; 1 << 20]].concat();
    assert_eq!(longest.len() + HEADER, MAX_MESSAGE);
    case.refused(
        "beyond the region",
        &request(command::REGION_WRITE, longest),
        INVAL,
    );
}

#[test]
fn no_reply_gets_none() {
    let mut case = Case::new();
    let posted = [&access(0, 0, 4)[..], &[1, 2, 3, 4]].concat();
    for command in [
        command::DEVICE_GET_INFO,
        command::DEVICE_GET_REGION_INFO,
        command::DEVICE_GET_IRQ_INFO,
        command::REGION_READ,
    ] {
        let bytes = message(1, command, NO_REPLY, &[0; 64]);
        case.peer.send_bytes(&bytes, &[]);
    }
    let write = message(1, command::REGION_WRITE, NO_REPLY, &posted);
    case.peer.send_bytes(&write, &[]);
    // The next reply is the one to this, and the write came first.
    let read = case.ask(&request(command::REGION_READ, access(0, 0, 4)));
    assert_eq!(read.payload, posted);
    case.works();
}

#[test]
fn no_reply_gets_none_even_for_errors() {
    let mut case = Case::new();
    for command in 0..30 {
        for len in [0, 7, 16, 20, 24, 32, 100] {
            let bytes = message(1, command, NO_REPLY, &vec![0xff; len]);
            case.peer.send_bytes(&bytes, &[]);
        }
    }
    case.peer.command(7);
    case.works();
}

#[test]
fn write_multi_writes_all_in_order() {
    let mut case = Case::new();
    let entry = |at: u64, count: u32, byte: u8| [&access(0, at, count)[..], &[byte; 8]].concat();
    let entries = [entry(0, 8, 1), entry(4, 2, 2), entry(0xfff, 1, 3)].concat();
    let payload = [&3_u64.to_le_bytes()[..], &entries].concat();
    let multi = request(command::REGION_WRITE_MULTI, &payload);
    assert_eq!(case.accepted("multi", &multi), 3_u64.to_le_bytes());
    let read = case.ask(&request(command::REGION_READ, access(0, 0, 8)));
    assert_eq!(read.payload[16..], [1, 1, 1, 1, 2, 2, 1, 1]);
    // As QEMU sends it: 200 at once, without a reply.
    let many: Vec<u8> = (0..200_u64)
        .flat_map(|n| entry(n * 4, 4, n as u8))
        .collect();
    let payload = [&200_u64.to_le_bytes()[..], &many].concat();
    let bytes = message(1, command::REGION_WRITE_MULTI, NO_REPLY, &payload);
    assert_eq!(bytes.len(), 4824);
    case.peer.send_bytes(&bytes, &[]);
    let read = case.ask(&request(command::REGION_READ, access(0, 199 * 4, 4)));
    assert_eq!(read.payload[16..], [199; 4]);
}

/// A client's life in messages, with how many descriptors come along.
fn life() -> Vec<(Vec<u8>, usize)> {
    let assign = words(&[20, 0x24, 0, 0, 1]);
    let write = [&access(0, 8, 4)[..], &[1, 2, 3, 4]].concat();
    vec![
        (
            message(1, command::VERSION, 0, &crate::common::proposal()),
            0,
        ),
        (message(2, command::DEVICE_SET_IRQS, 0, &assign), 1),
        (
            message(
                3,
                command::REGION_WRITE,
                0,
                &[&access(7, 4, 1)[..], &[7]].concat(),
            ),
            0,
        ),
        (message(4, command::REGION_WRITE, NO_REPLY, &write), 0),
        (message(5, command::REGION_READ, 0, &access(0, 8, 4)), 0),
        (message(6, 999, 0, &[1; 21]), 0),
        (
            message(7, command::DEVICE_GET_INFO, 0, &words(&[16, 0, 0, 0])),
            0,
        ),
    ]
}

/// Replies to all of `life`.
fn check_life(peer: &mut Peer) {
    for (id, error) in [(1, 0), (2, 0), (3, 0), (5, 0), (6, INVAL), (7, 0)] {
        let got = peer.next();
        assert_eq!((got.header.id, got.header.error), (id, error));
        if id == 5 {
            assert_eq!(got.payload[16..], [1, 2, 3, 4]);
        }
    }
}

#[test]
fn messages_torn_at_every_byte() {
    let rig = Rig::start();
    let total: usize = life().iter().map(|(bytes, _)| bytes.len()).sum();
    for cut in 0..total {
        let trigger = event_fd();
        let stream = std::os::unix::net::UnixStream::connect(&rig.path).unwrap();
        let mut peer = Peer::raw(stream);
        let mut at = 0;
        for (bytes, fds) in life() {
            let here = cut.wrapping_sub(at).min(bytes.len());
            let fds = &[trigger.as_fd()][..fds];
            at += bytes.len();
            let (first, second) = bytes.split_at(here);
            let mut fds = Some(fds);
            for part in [first, second] {
                if !part.is_empty() {
                    peer.send_bytes(part, fds.take().unwrap_or_default());
                }
                if part.len() < bytes.len() {
                    // The server has read this before the rest comes, mostly.
                    std::thread::yield_now();
                }
            }
        }
        check_life(&mut peer);
        rig.irqs.set_level(true);
        assert_eq!(count(&trigger), 1, "cut at {cut}");
        rig.irqs.set_level(false);
    }
}

#[test]
fn messages_byte_by_byte() {
    let rig = Rig::start();
    let trigger = event_fd();
    let stream = std::os::unix::net::UnixStream::connect(&rig.path).unwrap();
    let mut peer = Peer::raw(stream);
    for (bytes, fds) in life() {
        for (n, byte) in bytes.iter().enumerate() {
            let last = n + 1 == bytes.len();
            let fds = &[trigger.as_fd()][..if last { fds } else { 0 }];
            peer.send_bytes(&[*byte], fds);
        }
    }
    check_life(&mut peer);
    rig.irqs.set_level(true);
    assert_eq!(count(&trigger), 1);
}

#[test]
fn several_messages_in_one_segment() {
    let mut case = Case::new();
    // The server sleeps on the lock meanwhile, and finds everything at once.
    let memory = case.serving.memory.clone();
    let lock = memory.lock().unwrap();
    let mut batch = Vec::new();
    for id in 0..100_u16 {
        let write = [&access(0, 0, 2)[..], &id.to_le_bytes()].concat();
        batch.extend(message(id, command::REGION_WRITE, NO_REPLY, &write));
        batch.extend(message(id, command::REGION_READ, 0, &access(0, 0, 2)));
    }
    case.peer.send_bytes(&batch, &[]);
    drop(lock);
    for id in 0..100_u16 {
        let got = case.peer.next();
        assert_eq!((got.header.id, got.header.error), (id, 0));
        assert_eq!(got.payload[16..], id.to_le_bytes());
    }
    case.works();
}

#[test]
fn fds_go_to_their_own_message_of_a_batch() {
    let mut case = Case::new();
    let (first, second, page) = (event_fd(), event_fd(), memfd(0x1000));
    rustix::io::pwrite(&page, b"this one", 0).unwrap();
    let assign = |vector: u32| words(&[20, 0x24, 2, vector, 1]);
    let info = message(4, command::DEVICE_GET_INFO, 0, &words(&[16, 0, 0, 0]));
    let memory = case.serving.memory.clone();
    let lock = memory.lock().unwrap();
    // Something the server sleeps over.
    case.peer
        .send_bytes(&message(1, command::REGION_READ, 0, &access(0, 0, 4)), &[]);
    let one = message(2, command::DEVICE_SET_IRQS, 0, &assign(3));
    case.peer
        .send_bytes(&[&info[..], &one].concat(), &[first.as_fd()]);
    let map = message(3, command::DMA_MAP, 0, &dma_map(BOTH, 0, 0, 0x1000));
    case.peer.send_bytes(&map, &[page.as_fd()]);
    let other = message(2, command::DEVICE_SET_IRQS, 0, &assign(4));
    case.peer.send_bytes(&other, &[second.as_fd()]);
    case.peer.send_bytes(&info, &[]);
    drop(lock);
    for id in [1, 4, 2, 3, 2, 4] {
        let got = case.peer.next();
        assert_eq!((got.header.id, got.header.error), (id, 0));
    }
    for (vector, fd, none) in [(3, &first, &second), (4, &second, &first)] {
        let trigger = words(&[20, 0x21, 2, vector, 1]);
        case.accepted("trigger", &request(command::DEVICE_SET_IRQS, trigger));
        assert_eq!((count(fd), count(none)), (1, 0));
    }
    let mut data = [0; 8];
    case.serving.mem.load().read(0, &mut data).unwrap();
    assert_eq!(&data, b"this one");
}

/// More than fits: refused as a whole, nothing of it is used, and the next message has its own.
#[test]
fn too_many_fds_refuse_their_message_only() {
    let mut case = Case::new();
    let assign = words(&[20, 0x24, 2, 0, 17]);
    let request = request(command::DEVICE_SET_IRQS, assign).with_fds(17);
    case.refused("17 descriptors", &request, INVAL);
    let all: Vec<_> = (0..16).map(|_| event_fd()).collect();
    let fds: Vec<_> = all.iter().map(AsFd::as_fd).collect();
    let assign = words(&[20, 0x24, 2, 0, 16]);
    let got = case.peer.ask(command::DEVICE_SET_IRQS, &assign, &fds);
    assert_eq!(got.header.error, 0);
    let trigger = crate::request(command::DEVICE_SET_IRQS, words(&[20, 0x21, 2, 0, 20]));
    case.accepted("trigger", &trigger);
    assert!(all.iter().all(|fd| count(fd) == 1));
}

/// A client that does not read its replies: it is listened to no more, others are, and nothing is torn or lost when it
/// goes on.
#[test]
fn a_client_that_does_not_read_for_a_while() {
    let mut case = Case::new();
    let stream = case.peer.stream.try_clone().unwrap();
    stream.set_nonblocking(true).unwrap();
    let request = message(1, command::REGION_READ, 0, &access(7, 0, 256));
    let (mut sent, mut idle) = (0, 0);
    while idle < 20 {
        match (&stream).write(&request) {
            Ok(n) => {
                assert_eq!(n, request.len());
                idle = 0;
                sent += 1;
            }
            Err(_) => {
                idle += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        assert!(sent < 100_000, "somebody stores without bound");
    }
    // The server's own thread is free meanwhile.
    let other = Case::new();
    drop(other);
    let write = |bytes: &[u8]| case.serving.mem.load().write(PAGE, bytes);
    write(&[1]).unwrap();
    stream.set_nonblocking(false).unwrap();
    for n in 0..sent {
        // The header is there at once, as QEMU expects.
        let mut header = [0; HEADER];
        assert_eq!((&stream).read(&mut header).unwrap(), HEADER, "{n} is torn");
        let mut payload = [0; 16 + 256];
        (&stream).read_exact(&mut payload).unwrap();
        assert_eq!(payload[16..20], [0x34, 0x12, 0x78, 0x56]);
    }
    case.works();
}

/// Posted writes without end by one client: another one's requests are answered in between.
#[test]
fn a_flood_starves_nobody() {
    let mut case = Case::new();
    let mut other = Case::new();
    let write = [&access(0, 0, 4)[..], &[1; 4]].concat();
    let batch = message(1, command::REGION_WRITE, NO_REPLY, &write).repeat(100);
    for _ in 0..200 {
        case.peer.send_bytes(&batch, &[]);
        other.works();
    }
    case.works();
    assert_eq!(case.serving.seen().writes, 20_000 + 1);
}
