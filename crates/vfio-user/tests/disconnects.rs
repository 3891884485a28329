//! A client that leaves, at every byte of a session, with everything under way that can be. One test, alone in its
//! process: it counts descriptors and mappings.

mod common;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use common::peer::Peer;
use common::{Rig, access, dma_map, dma_unmap, event_fd, memfd, message, words};
use vfio_user::wire::command;

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn mapped() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.matches("memfd:guest").count()
}

/// A session that leaves nothing out, message by message.
fn session() -> Vec<(Vec<u8>, Vec<OwnedFd>)> {
    let version = concat!(
        "\0\0\0\0",
        r#"{"capabilities":{"max_msg_fds":16,"write_multiple":true,"twin_socket":{"supported":true}}}"#,
        "\0"
    );
    let file = memfd(0x2000);
    let bus_master = [&access(7, 4, 1)[..], &[7]].concat();
    let irq = |flags| words(&[20, flags, 0, 0, 1]);
    let requests: [(u16, Vec<u8>, Vec<OwnedFd>); 10] = [
        (command::VERSION, version.as_bytes().to_vec(), vec![]),
        (
            command::DMA_MAP,
            dma_map(3, 0, 0, 0x1000),
            vec![file.try_clone().unwrap()],
        ),
        (
            command::DMA_MAP,
            dma_map(1, 0x1000, 0x1000, 0x1000),
            vec![file.try_clone().unwrap()],
        ),
        (
            command::DMA_MAP,
            dma_map(3, 0, 0x10_0000, 0x10_0000),
            vec![],
        ),
        (command::DEVICE_SET_IRQS, irq(0x24), vec![event_fd()]),
        (command::DEVICE_SET_IRQS, irq(0x14), vec![event_fd()]),
        (command::REGION_WRITE, bus_master, vec![]),
        (
            command::REGION_READ,
            access(6, 0, 0x1_0000).to_vec(),
            vec![],
        ),
        (
            command::DMA_UNMAP,
            dma_unmap(24, 0, 0x1000, 0x1000),
            vec![file],
        ),
        (command::DEVICE_RESET, vec![], vec![]),
    ];
    let number = |(i, (command, payload, fds)): (usize, (u16, Vec<u8>, Vec<OwnedFd>))| {
        (message(i as u16, command, 0, &payload), fds)
    };
    requests.into_iter().enumerate().map(number).collect()
}

#[test]
fn a_client_that_leaves_at_any_byte_leaves_nothing_behind() {
    let rig = Rig::start();
    let session = session();
    let total: usize = session.iter().map(|(bytes, _)| bytes.len()).sum();
    // The eventfd by which queues ask for memory is made once for a device.
    let mut first = Peer::qemu(&rig.path);
    first.ask(command::DMA_MAP, &dma_map(3, 0, 0, 0x1000), &[]);
    drop(first);
    let mut clients = 1;
    rig.until("disconnected", |ram| !ram.resets.is_empty());
    let before = open_files();
    let mut visit = |length: usize| {
        let mut peer = Peer::raw(UnixStream::connect(&rig.path).unwrap());
        let mut left = length;
        for (bytes, fds) in &session {
            let n = left.min(bytes.len());
            left -= n;
            if n > 0 {
                let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
                peer.send_bytes(&bytes[..n], &fds);
            }
        }
        // A queue that is in the middle of something.
        let mem = rig.mem.load();
        let queue = std::thread::spawn(move || {
            let _ = mem.write(0x10_0000, &[1; 100]);
            let _ = mem.read(0x10_0000, &mut [0; 100]);
        });
        drop(peer);
        clients += 1;
        rig.until("disconnected", |ram| {
            ram.resets
                .iter()
                .filter(|kind| **kind == vfio_user::ResetKind::Disconnected)
                .count()
                == clients
        });
        queue.join().unwrap();
    };
    for length in 0..=total {
        visit(length);
    }
    rig.hold(false);
    for _ in 0..1000 {
        if (open_files(), mapped()) == (before, 0) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!((open_files(), mapped()), (before, 0));
}
