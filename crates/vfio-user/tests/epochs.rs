//! A device without queues passes epochs as they come.

mod common;

use std::os::unix::net::UnixStream;

use common::peer::Peer;
use common::{access, message, proposal};
use vfio_user::wire::{command, header_flags};
use vfio_user::{Bar, Device, Handler, ListenOptions, Listener, Region, ResetKind, Server};

/// After each write, to configuration space as well, nothing further is executed until the epoch of that has passed.
#[derive(Default)]
struct Careful {
    writes: u32,
}

impl Handler for Careful {
    fn read(&mut self, _: Region, _: u64, _: &mut [u8]) {}
    fn write(&mut self, _: Region, _: u64, _: &[u8]) {
        self.writes += 1;
    }
    fn reset(&mut self, _: ResetKind) {}
    fn settles(&mut self) -> bool {
        true
    }
}

#[test]
fn epochs_that_begin_one_behind_the_other_are_all_passed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("device.sock");
    let listener = Listener::bind(&path, &ListenOptions::default()).unwrap();
    let device = Device::builder().bar(0, Bar::memory32(0x1000)).build();
    let (mut server, mut device) = (Server::new(listener, device.unwrap()), Careful::default());
    let mut peer = Peer::raw(UnixStream::connect(&path).unwrap());
    server.on_listener(&mut device);

    let write = |region, at, byte| [&access(region, at, 1)[..], &[byte]].concat();
    let mut batch = message(1, command::VERSION, 0, &proposal());
    batch.extend(message(2, command::REGION_WRITE, 0, &write(7, 4, 2)));
    for _ in 0..5 {
        let posted = header_flags::NO_REPLY;
        batch.extend(message(3, command::REGION_WRITE, posted, &write(0, 0, 1)));
    }
    batch.extend(message(4, command::REGION_READ, 0, &access(0, 0, 4)));
    peer.send_bytes(&batch, &[]);
    server.on_readable(&mut device).unwrap();
    assert_eq!(device.writes, 0, "they wait for that to COMMAND");
    server.pass_epoch(server.epoch(), &mut device).unwrap();
    assert_eq!(device.writes, 1, "the others wait for this one");
    // All that there is to receive has been received: nothing else will call.
    server.pass_epochs(&mut device).unwrap();
    assert_eq!(device.writes, 5);
    let ids: Vec<u16> = (0..3).map(|_| peer.next().header.id).collect();
    assert_eq!(ids, [1, 2, 4]);
}
