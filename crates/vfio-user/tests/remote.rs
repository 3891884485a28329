//! Guest memory that only the client can reach, over sockets, with queues on threads of their own.

mod common;

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::peer::{Got, Peer};
use common::{Rig, dma_map, dma_unmap, memfd};
use guest_mem::{Access, DmaError, GuestMem};
use rustix::io::Errno;
use vfio_user::wire::{HEADER, Header, command, header_flags};
use zerocopy::IntoBytes;

const INVAL: u32 = Errno::INVAL.raw_os_error() as u32;
const IO: u32 = Errno::IO.raw_os_error() as u32;

/// After so long, whoever asked is told that there is no answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Maps memory without a descriptor.
fn map(peer: &mut Peer, iova: u64, size: u64) {
    let reply = peer.ask(command::DMA_MAP, &dma_map(3, 0, iova, size), &[]);
    assert_eq!(reply.header.error, 0);
}

/// A queue's thread.
fn queue<T: Send + 'static>(
    rig: &Rig,
    work: impl FnOnce(&GuestMem) -> T + Send + 'static,
) -> JoinHandle<T> {
    let mem = rig.mem.clone();
    thread::spawn(move || work(&mem.load()))
}

fn read(rig: &Rig, addr: u64, len: usize) -> JoinHandle<Result<Vec<u8>, DmaError>> {
    queue(rig, move |mem| {
        let mut data = vec![0; len];
        mem.read(addr, &mut data).map(|()| data)
    })
}

/// The next message, a command for memory.
fn asked(peer: &mut Peer, command: u16) -> Got {
    let got = peer.next();
    assert_eq!((got.header.command, got.header.flags), (command, 0));
    got
}

#[test]
fn reads_and_writes_are_messages() {
    let rig = Rig::start();
    let mut peer = Peer::qemu(&rig.path);
    map(&mut peer, 0x10_0000, 0x10_0000);

    let reader = read(&rig, 0x10_0ffc, 8);
    let got = asked(&mut peer, command::DMA_READ);
    assert_eq!((got.dma().0.address, got.dma().0.count), (0x10_0ffc, 8));
    peer.reply(&got, b"contents");
    assert_eq!(reader.join().unwrap().unwrap(), b"contents");

    // Written without waiting; arrived after the flush.
    let writer = queue(&rig, |mem| {
        mem.write(0x10_0000, b"one")?;
        mem.store_u32(0x10_0010, 0x0403_0201)?;
        mem.flush()
    });
    let first = asked(&mut peer, command::DMA_WRITE);
    let second = asked(&mut peer, command::DMA_WRITE);
    assert_eq!(
        (first.dma().0.address, first.dma().1),
        (0x10_0000, &b"one"[..])
    );
    assert_eq!(
        (second.dma().0.address, second.dma().1),
        (0x10_0010, &[1, 2, 3, 4][..])
    );
    assert!(!writer.is_finished());
    peer.reply(&first, &[]);
    peer.reply(&second, &[]);
    writer.join().unwrap().unwrap();

    // Addresses that are not mapped are no questions.
    let outside = read(&rig, 0x20_0000, 1).join().unwrap();
    assert_eq!(outside, Err(DmaError::Unreachable { addr: 0x20_0000 }));
    peer.hears_nothing();
}

#[test]
fn transfers_are_split_at_the_clients_limit() {
    let rig = Rig::start();
    let json = r#"{"capabilities":{"max_data_xfer_size":4099}}"#;
    let (mut peer, _) = Peer::connect(&rig.path, json);
    peer.command(4);
    map(&mut peer, 0, 0x10_0000);
    let data: Vec<u8> = (0..10_000_u32).map(|i| i as u8 ^ (i >> 8) as u8).collect();

    let reader = read(&rig, 0x1000, data.len());
    for (at, len) in [(0, 4099), (4099, 4099), (8198, 1802)] {
        let got = asked(&mut peer, command::DMA_READ);
        let access = got.dma().0;
        assert_eq!((access.address, access.count), (0x1000 + at, len));
        peer.reply(&got, &data[at as usize..][..len as usize]);
    }
    assert_eq!(reader.join().unwrap().unwrap(), data);

    let written = data.clone();
    let writer = queue(&rig, move |mem| {
        mem.write(0x1000, &written).and_then(|()| mem.flush())
    });
    for (at, len) in [(0, 4099), (4099, 4099), (8198, 1802)] {
        let got = asked(&mut peer, command::DMA_WRITE);
        let (access, bytes) = got.dma();
        assert_eq!((access.address, access.count), (0x1000 + at, len));
        assert_eq!(bytes, &data[at as usize..][..len as usize]);
        peer.reply(&got, &[]);
    }
    writer.join().unwrap().unwrap();
}

#[test]
fn what_the_client_refuses_is_unreachable() {
    let rig = Rig::start();
    let mut peer = Peer::qemu(&rig.path);
    map(&mut peer, 0, 0x1000);
    let reader = read(&rig, 0x10, 4);
    let got = asked(&mut peer, command::DMA_READ);
    peer.refuse(&got, IO);
    assert_eq!(
        reader.join().unwrap(),
        Err(DmaError::Unreachable { addr: 0x10 })
    );
    // A write that is refused is known too late for whoever wrote; the queue goes on.
    let writer = queue(&rig, |mem| mem.write(0, &[1]).and_then(|()| mem.flush()));
    let got = asked(&mut peer, command::DMA_WRITE);
    peer.refuse(&got, IO);
    writer.join().unwrap().unwrap();
}

#[test]
fn without_bus_mastering_nothing_is_asked() {
    let rig = Rig::start();
    let mut peer = Peer::qemu(&rig.path);
    map(&mut peer, 0, 0x1000);
    peer.command(3);
    assert!(read(&rig, 0, 4).join().unwrap().is_err());
    peer.hears_nothing();
    peer.command(7);
    let reader = read(&rig, 0, 4);
    let got = asked(&mut peer, command::DMA_READ);
    peer.reply(&got, &[1; 4]);
    assert_eq!(reader.join().unwrap().unwrap(), [1; 4]);
}

/// QEMU answers nothing while it waits for us, and we answer some of its requests only when queues have let go of
/// memory. Neither may wait for the other.
#[test]
fn an_epoch_interrupts_whoever_waits_for_the_client() {
    let rig = Rig::start();
    let mut peer = Peer::qemu(&rig.path);
    map(&mut peer, 0, 0x10_0000);
    let reader = read(&rig, 0x1000, 4);
    let first = asked(&mut peer, command::DMA_READ);
    rig.hold(true);
    let id = peer.send(command::DMA_UNMAP, &dma_unmap(24, 0, 0, 0x10_0000), &[]);
    // Not the error of one that was never answered.
    assert_eq!(reader.join().unwrap(), Err(DmaError::Interrupted));
    peer.hears_nothing();
    rig.hold(false);
    assert_eq!(peer.next().header.id, id);
    // The answer comes late, and is nobody's.
    peer.reply(&first, &[9; 4]);
    map(&mut peer, 0, 0x10_0000);
    let reader = read(&rig, 0x1000, 4);
    let second = asked(&mut peer, command::DMA_READ);
    peer.reply(&second, &[1; 4]);
    assert_eq!(reader.join().unwrap().unwrap(), [1; 4]);
}

#[test]
fn what_was_written_before_an_unmap_leaves_before_its_reply() {
    let rig = Rig::start();
    let mut peer = Peer::qemu(&rig.path);
    map(&mut peer, 0, 0x1000);
    rig.hold(true);
    let mem = rig.mem.load();
    let id = peer.send(command::DMA_UNMAP, &dma_unmap(24, 0, 0, 0x1000), &[]);
    // The queue has not seen the epoch yet.
    while rig.mem.load().check(0, 1, Access::Read).is_ok() {
        thread::yield_now();
    }
    let writer = thread::spawn(move || mem.write(0x10, b"last"));
    let got = asked(&mut peer, command::DMA_WRITE);
    assert_eq!(got.dma().1, b"last");
    writer.join().unwrap().unwrap();
    rig.hold(false);
    assert_eq!(peer.next().header.id, id);
    peer.reply(&got, &[]);
}

#[test]
fn a_client_that_leaves_ends_all_waiting() {
    let rig = Rig::start();
    let mut peer = Peer::qemu(&rig.path);
    map(&mut peer, 0, 0x1000);
    let start = Instant::now();
    let reader = read(&rig, 0, 4);
    let flusher = queue(&rig, |mem| mem.write(0, &[0]).and_then(|()| mem.flush()));
    for _ in 0..2 {
        let _ = peer.next();
    }
    drop(peer);
    assert!(reader.join().unwrap().is_err());
    let _ = flusher.join().unwrap();
    assert!(start.elapsed() < PATIENCE);
    // The next one finds nothing left over.
    let mut peer = Peer::qemu(&rig.path);
    peer.hears_nothing();
}

#[test]
fn a_server_that_ends_ends_all_waiting() {
    let rig = Rig::start();
    let mut peer = Peer::qemu(&rig.path);
    map(&mut peer, 0, 0x1000);
    let start = Instant::now();
    let reader = read(&rig, 0, 4);
    let _ = asked(&mut peer, command::DMA_READ);
    drop(rig);
    assert!(reader.join().unwrap().is_err());
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn replies_that_nobody_asked_for() {
    let rig = Rig::start();
    let mut peer = Peer::qemu(&rig.path);
    let stray = Header {
        id: 9,
        command: command::DMA_READ,
        size: HEADER as u32,
        flags: header_flags::REPLY,
        error: 0,
    };
    peer.send_bytes(stray.as_bytes(), &[]);
    assert_eq!(peer.next().header.error, INVAL);
    map(&mut peer, 0, 0x1000);
    let reader = read(&rig, 0, 1);
    let got = asked(&mut peer, command::DMA_READ);
    let other = Header {
        id: got.header.id.wrapping_add(1),
        ..stray
    };
    for _ in 0..1000 {
        peer.send_bytes(other.as_bytes(), &[]);
    }
    peer.hears_nothing();
    peer.reply(&got, &[7]);
    assert_eq!(reader.join().unwrap().unwrap(), [7]);
    peer.reply(&got, &[8]);
    peer.hears_nothing();
    assert_eq!(peer.ask(command::DEVICE_RESET, &[], &[]).header.error, 0);
}

/// Replies and commands share a socket: each message is whole, whatever else is under way.
#[test]
fn commands_and_replies_never_mix_within_a_message() {
    let rig = Rig::start();
    let mut peer = Peer::qemu(&rig.path);
    map(&mut peer, 0, 0x10_0000);
    let writers: Vec<_> = (0..2_u64)
        .map(|i| {
            queue(&rig, move |mem| {
                for n in 0..200_u64 {
                    mem.write((i << 16) + n, &vec![n as u8; 700]).unwrap();
                }
                mem.flush()
            })
        })
        .collect();
    let (mut writes, mut reads) = (0, 0);
    while writes < 400 || reads < 200 {
        if reads < 200 {
            peer.send(command::REGION_READ, &common::access(6, 0, 0xc000), &[]);
        }
        loop {
            let got = peer.next();
            match got.header.command {
                command::DMA_WRITE => {
                    let (access, data) = got.dma();
                    assert_eq!(data, vec![access.address as u8; 700]);
                    writes += 1;
                    peer.reply(&got, &[]);
                }
                command::REGION_READ => {
                    assert!(got.payload[16..].iter().all(|byte| *byte == 0x55));
                    reads += 1;
                    break;
                }
                other => panic!("{other}"),
            }
            if reads >= 200 && writes >= 400 {
                break;
            }
        }
    }
    for writer in writers {
        writer.join().unwrap().unwrap();
    }
}

fn twin(rig: &Rig) -> (Peer, Peer) {
    let json = r#"{"capabilities":{"max_msg_fds":8,"twin_socket":{"supported":true}}}"#;
    let (mut peer, mut reply) = Peer::connect(&rig.path, json);
    let text = String::from_utf8_lossy(&reply.payload[4..]).into_owned();
    assert!(
        text.contains(r#""twin_socket":{"supported":true,"fd_index":0}"#),
        "{text}"
    );
    assert_eq!(reply.fds.len(), 1);
    peer.command(7);
    (peer, Peer::raw(reply.fds.remove(0).into()))
}

#[test]
fn commands_use_the_second_socket_if_there_is_one() {
    let rig = Rig::start();
    let (mut peer, mut twin) = twin(&rig);
    map(&mut peer, 0, 0x1000);
    let reader = read(&rig, 0, 4);
    let got = asked(&mut twin, command::DMA_READ);
    peer.hears_nothing();
    // Our reply waits for an epoch, theirs need not wait for that.
    twin.reply(&got, &[3; 4]);
    assert_eq!(reader.join().unwrap().unwrap(), [3; 4]);
    let writer = queue(&rig, |mem| {
        mem.write(0, &vec![1; 0x1000]).and_then(|()| mem.flush())
    });
    let got = asked(&mut twin, command::DMA_WRITE);
    twin.reply(&got, &[]);
    writer.join().unwrap().unwrap();
    // Requests belong on the first one.
    assert_eq!(
        twin.ask(command::DEVICE_RESET, &[], &[]).header.error,
        INVAL
    );
    assert_eq!(peer.ask(command::DEVICE_RESET, &[], &[]).header.error, 0);
}

#[test]
fn either_sockets_end_is_the_clients() {
    for first in [true, false] {
        let rig = Rig::start();
        let (peer, twin) = twin(&rig);
        let (gone, mut left) = if first { (peer, twin) } else { (twin, peer) };
        drop(gone);
        assert!(left.try_next().is_none(), "closed");
        rig.until("disconnected", |ram| ram.resets.len() == 1);
        let mut next = Peer::qemu(&rig.path);
        map(&mut next, 0, 0x1000);
    }
}

#[test]
fn who_does_not_ask_for_a_second_socket_gets_none() {
    let rig = Rig::start();
    for json in [
        r#"{"capabilities":{"twin_socket":{"supported":false}}}"#,
        r#"{"capabilities":{"twin_socket":{}}}"#,
        r#"{"capabilities":{"twin_socket":{"supported":true},"max_msg_fds":0}}"#,
        r#"{"capabilities":{}}"#,
    ] {
        let (_, reply) = Peer::connect(&rig.path, json);
        assert!(reply.fds.is_empty());
        assert!(!String::from_utf8_lossy(&reply.payload).contains("twin"));
    }
}

#[test]
fn how_memory_is_reached() {
    use vfio_user::Memory;
    let mut desk = common::Desk::ready();
    assert_eq!(desk.session.memory(), Memory::None);
    // A ROM and a small area say nothing.
    desk.ask(command::DMA_MAP, &dma_map(1, 0, 0xf000_0000, 0x100_0000));
    assert_eq!(desk.session.memory(), Memory::None);
    desk.ask(command::DMA_MAP, &dma_map(3, 0, 0xfeb0_0000, 0x1000));
    assert_eq!(desk.session.memory(), Memory::Remote);
    desk.ask_with(
        command::DMA_MAP,
        &dma_map(3, 0, 0, 0x10_0000),
        vec![memfd(0x10_0000)],
    );
    assert_eq!(desk.session.memory(), Memory::Shared);
    desk.ask(command::DMA_UNMAP, &dma_unmap(24, 2, 0, 0));
    assert_eq!(desk.session.memory(), Memory::None);
}
