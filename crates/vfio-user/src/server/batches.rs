//! A batch costs one receive and one send call.
//!
//! Counted by records: on a socket that keeps them apart, each receive call takes exactly one and each send call makes
//! exactly one, while nothing else changes for the server.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use zerocopy::IntoBytes;

use super::Server;
use crate::conn::Connection;
use crate::device::{Bar, Device};
use crate::handler::{Handler, Region, ResetKind};
use crate::listener::{ListenOptions, Listener};
use crate::wire::{HEADER, Header, RegionAccess, command, header_flags};

/// Counts the writes.
#[derive(Default)]
struct Counter(u32);

impl Handler for Counter {
    fn read(&mut self, _: Region, _: u64, data: &mut [u8]) {
        data.copy_from_slice(&self.0.to_le_bytes());
    }
    fn write(&mut self, _: Region, _: u64, _: &[u8]) {
        self.0 += 1;
    }
    fn reset(&mut self, _: ResetKind) {}
}

fn message(command: u16, flags: u32, payload: &[&[u8]]) -> Vec<u8> {
    let payload = payload.concat();
    let header = Header {
        command,
        flags,
        size: (HEADER + payload.len()) as u32,
        ..Default::default()
    };
    [header.as_bytes(), &payload].concat()
}

fn access(region: u32, count: u32) -> RegionAccess {
    let offset = if region == 7 { 4 } else { 0 };
    RegionAccess {
        offset,
        region,
        count,
    }
}

struct Records {
    server: Server,
    counter: Counter,
    client: OwnedFd,
    _dir: tempfile::TempDir,
}

impl Records {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device.sock");
        let listener = Listener::bind(path, &ListenOptions::default()).unwrap();
        let device = Device::builder().bar(0, Bar::memory32(0x1000)).build();
        let mut server = Server::new(listener, device.unwrap());
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let kind = SocketType::SEQPACKET;
        let (near, client) = socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
        server.connection = Some(Connection::new(near));
        let mut records = Self {
            server,
            counter: Counter::default(),
            client,
            _dir: dir,
        };
        records.send(&message(command::VERSION, 0, &[&[0; 4]]));
        records.turn();
        assert_eq!(records.take(), Some(HEADER + 4));
        let decode = [access(7, 1).as_bytes(), &[2]].concat();
        records.send(&message(command::REGION_WRITE, 0, &[&decode]));
        records.turn();
        assert_eq!(records.take(), Some(HEADER + 16));
        records
    }

    /// Makes one record.
    fn send(&self, bytes: &[u8]) {
        assert_eq!(
            send(&self.client, bytes, SendFlags::empty()),
            Ok(bytes.len())
        );
    }

    /// What an event loop does when the connection is readable.
    fn turn(&mut self) {
        self.server.on_readable(&mut self.counter).unwrap();
    }

    /// Length of the next record from the server.
    fn take(&self) -> Option<usize> {
        match recv(&self.client, &mut [0; 1 << 16], RecvFlags::DONTWAIT) {
            Ok((n, _)) => Some(n),
            Err(errno) => {
                assert_eq!(errno, Errno::AGAIN);
                None
            }
        }
    }
}

#[test]
fn posted_writes_and_a_read_take_one_receive_and_one_send() {
    let mut records = Records::new();
    let write = [access(0, 4).as_bytes(), &[1; 4]].concat();
    let posted = message(command::REGION_WRITE, header_flags::NO_REPLY, &[&write]);
    let read = message(command::REGION_READ, 0, &[access(0, 4).as_bytes()]);
    let batch = [posted.repeat(200), read].concat();
    // The second one shows that no further receive call was made: that would have taken it.
    records.send(&batch);
    records.send(&batch);
    for turn in 1..=2 {
        records.turn();
        assert_eq!(records.counter.0, 200 * turn);
        assert_eq!(records.take(), Some(HEADER + 16 + 4));
        assert_eq!(records.take(), None, "one send");
    }
}

#[test]
fn posted_writes_alone_take_one_receive_and_no_send() {
    let mut records = Records::new();
    let write = [access(0, 4).as_bytes(), &[1; 4]].concat();
    let posted = message(command::REGION_WRITE, header_flags::NO_REPLY, &[&write]);
    records.send(&posted.repeat(227));
    records.send(&posted);
    records.turn();
    assert_eq!(records.counter.0, 227, "8 KiB of them");
    assert_eq!(records.take(), None);
    records.turn();
    assert_eq!(records.counter.0, 228);
}

#[test]
fn replies_of_a_batch_take_one_send() {
    let mut records = Records::new();
    let read = message(command::REGION_READ, 0, &[access(0, 4).as_bytes()]);
    records.send(&read.repeat(250));
    records.turn();
    assert_eq!(records.take(), Some(250 * (HEADER + 16 + 4)));
    assert_eq!(records.take(), None);
}
