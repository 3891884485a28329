//! The server's own commands: DMA by message.

use std::thread::{self, JoinHandle};

use guest_mem::{DmaError, GuestMem};
use rustix::io::Errno;
use vfio_user::wire::command;

use crate::common::full::Serving;
use crate::common::peer::{Got, Peer};
use crate::common::{access, dma_map};
use crate::{BOTH, Case, PAGE};

/// A client that takes `max_data` bytes at once and has mapped a megabyte without a file.
fn client(serving: &Serving, max_data: usize) -> Peer {
    let json = format!(r#"{{"capabilities":{{"max_data_xfer_size":{max_data}}}}}"#);
    let (mut peer, _) = Peer::connect(&serving.path, &json);
    peer.command(6);
    let map = dma_map(BOTH, 0, 0, 1 << 20);
    assert_eq!(peer.ask(command::DMA_MAP, &map, &[]).header.error, 0);
    peer
}

/// A queue's thread.
fn queue<T: Send + 'static>(
    serving: &Serving,
    work: impl FnOnce(&GuestMem) -> T + Send + 'static,
) -> JoinHandle<T> {
    let mem = serving.mem.clone();
    thread::spawn(move || work(&mem.load()))
}

fn asked(peer: &mut Peer, command: u16, at: u64, len: usize) -> Got {
    let got = peer.next();
    assert_eq!((got.header.command, got.header.flags), (command, 0));
    let (access, data) = got.dma();
    assert_eq!((access.address, access.count), (at, len as u64));
    let carried = if command == command::DMA_WRITE {
        len
    } else {
        0
    };
    assert_eq!(data.len(), carried);
    got
}

#[test]
fn transfers_are_split_at_the_clients_limit_and_the_last_piece_is_right() {
    let serving = Serving::start();
    let mut peer = client(&serving, 4096);
    let data: Vec<u8> = (0..10_001_u32).map(|i| (i % 251) as u8).collect();
    let written = data.clone();
    let worker = queue(&serving, move |mem| {
        mem.write(0x801, &written).unwrap();
        mem.flush().unwrap();
        let mut back = vec![0; 10_001];
        mem.read(0x801, &mut back).unwrap();
        back
    });
    let pieces = [(0, 4096), (4096, 4096), (8192, 1809)];
    for (at, len) in pieces {
        let got = asked(&mut peer, command::DMA_WRITE, 0x801 + at as u64, len);
        assert_eq!(got.dma().1, &data[at..][..len]);
        peer.reply(&got, &[]);
    }
    for (at, len) in pieces {
        let got = asked(&mut peer, command::DMA_READ, 0x801 + at as u64, len);
        peer.reply(&got, &data[at..][..len]);
    }
    assert_eq!(worker.join().unwrap(), data);
}

#[test]
fn an_error_of_the_client_is_passed_on() {
    let serving = Serving::start();
    let mut peer = client(&serving, 1 << 20);
    let worker = queue(&serving, |mem| mem.read(0x10, &mut [0; 4]));
    let got = asked(&mut peer, command::DMA_READ, 0x10, 4);
    peer.refuse(&got, Errno::IO.raw_os_error() as u32);
    let unreachable = Err(DmaError::Unreachable { addr: 0x10 });
    assert_eq!(worker.join().unwrap(), unreachable);
    let reply = peer.ask(command::REGION_READ, &access(7, 0, 4), &[]);
    assert_eq!(reply.header.error, 0, "and the connection works");
}

#[test]
fn memory_that_is_mapped_needs_no_message() {
    let mut case = Case::new();
    queue(&case.serving, |mem| {
        mem.write(PAGE, &[5; 0x1000]).unwrap();
        let mut back = [0; 0x1000];
        mem.read(PAGE, &mut back).unwrap();
        mem.flush().unwrap();
        assert_eq!(back, [5; 0x1000]);
    })
    .join()
    .unwrap();
    case.peer.hears_nothing();
    case.works();
}

/// A client's requests and a server's cross on one socket; both have ids of their own, here the same ones.
#[test]
fn commands_of_both_sides_cross() {
    let serving = Serving::start();
    let mut peer = client(&serving, 1 << 20);
    for round in 0..50_u8 {
        let worker = queue(&serving, move |mem| {
            let mut data = [0; 4];
            mem.read(0x100, &mut data).map(|()| data)
        });
        let got = asked(&mut peer, command::DMA_READ, 0x100, 4);
        let id = got.header.id;
        // In between, a request with the very same id.
        let read = crate::common::message(id, command::REGION_READ, 0, &access(7, 0, 4));
        peer.send_bytes(&read, &[]);
        let reply = peer.next();
        assert_eq!(
            (reply.header.id, reply.header.command),
            (id, command::REGION_READ)
        );
        assert_eq!(reply.payload[16..], [0x34, 0x12, 0x78, 0x56]);
        peer.reply(&got, &[round; 4]);
        assert_eq!(worker.join().unwrap(), Ok([round; 4]));
    }
}
