//! The messages of a migration, sent to a session on a desk.

use rustix::io::Errno;
use vfio_user::client::Reply;
use vfio_user::wire::{command, device_state, feature, feature_flags};

use super::{Desk, errno, words};

pub const INVAL: u32 = Errno::INVAL.raw_os_error() as u32;

pub const ERROR: u32 = device_state::ERROR;
pub const STOP: u32 = device_state::STOP;
pub const RUNNING: u32 = device_state::RUNNING;
pub const STOP_COPY: u32 = device_state::STOP_COPY;
pub const RESUMING: u32 = device_state::RESUMING;
pub const PRE_COPY: u32 = device_state::PRE_COPY;
pub const STATES: [u32; 5] = [STOP, RUNNING, STOP_COPY, RESUMING, PRE_COPY];

pub const GET: u32 = feature_flags::GET;
pub const SET: u32 = feature_flags::SET;

pub fn feature(argsz: u32, flags: u32, data: &[u8]) -> Vec<u8> {
    [&words(&[argsz, flags])[..], data].concat()
}

pub fn set_message(state: u32) -> Vec<u8> {
    feature(16, SET | feature::MIG_DEVICE_STATE, &words(&[state, 0]))
}

pub fn set_state(desk: &mut Desk, state: u32) -> u32 {
    let payload = set_message(state);
    let reply = desk.ask(command::DEVICE_FEATURE, &payload);
    if reply.header.error == 0 {
        assert_eq!(reply.payload, payload, "the reply is the request");
    }
    reply.header.error
}

pub fn state(desk: &mut Desk) -> u32 {
    let payload = feature(16, GET | feature::MIG_DEVICE_STATE, &[]);
    let reply = desk.ask(command::DEVICE_FEATURE, &payload);
    assert_eq!(reply.payload[..8], feature(16, GET | 2, &[])[..]);
    assert_eq!(reply.payload[12..], [0; 4]);
    u32::from_le_bytes(reply.payload[8..12].try_into().unwrap())
}

pub fn read(desk: &mut Desk, size: u32) -> Reply {
    desk.ask(command::MIG_DATA_READ, &words(&[8 + size, size]))
}

/// Reads until less than asked for comes.
pub fn read_all(desk: &mut Desk, size: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let reply = read(desk, size);
        assert_eq!(reply.header.error, 0);
        let n = reply.payload.len() as u32 - 8;
        assert_eq!(reply.payload[..8], words(&[8 + n, n])[..]);
        bytes.extend_from_slice(&reply.payload[8..]);
        if n < size {
            return bytes;
        }
    }
}

pub fn write(desk: &mut Desk, data: &[u8]) -> u32 {
    let size = data.len() as u32;
    let payload = [&words(&[8 + size, size])[..], data].concat();
    errno(desk, command::MIG_DATA_WRITE, &payload)
}

/// The state of a device that is stopped for it.
pub fn save(desk: &mut Desk) -> Vec<u8> {
    assert_eq!(set_state(desk, STOP_COPY), 0);
    read_all(desk, 1000)
}

/// Gives a device a state; the errno with which it was refused at last.
pub fn load(desk: &mut Desk, bytes: &[u8]) -> u32 {
    assert_eq!(set_state(desk, RESUMING), 0);
    for piece in bytes.chunks(1 << 16) {
        let errno = write(desk, piece);
        if errno != 0 {
            return errno;
        }
    }
    set_state(desk, RUNNING)
}
