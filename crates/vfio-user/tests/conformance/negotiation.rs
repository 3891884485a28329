//! VERSION. What is refused here ends the connection, and the next client is served.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use serde_json::Value;
use vfio_user::wire::{HEADER, MAX_MESSAGE, command, header_flags};

use crate::INVAL;
use crate::common::full::Serving;
use crate::common::peer::Peer;
use crate::common::{event_fd, message, proposal};

/// The first message of a connection is answered EINVAL, then the connection ends; a proper client comes after it.
fn refused(serving: &Serving, command: u16, payload: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut peer = Peer::raw(UnixStream::connect(&serving.path).unwrap());
    peer.send_bytes(&message(9, command, 0, payload), fds);
    let got = peer.next();
    assert_eq!((got.header.id, got.header.error), (9, INVAL), "{payload:?}");
    assert_eq!(got.header.flags, header_flags::REPLY | header_flags::ERROR);
    assert!(peer.try_next().is_none(), "closed");
    Peer::qemu(&serving.path);
}

fn refused_json(jsons: &[&str]) {
    let serving = Serving::start();
    for json in jsons {
        let payload = [&[0; 4], json.as_bytes()].concat();
        refused(&serving, command::VERSION, &payload, &[]);
    }
}

/// Negotiates; the version and the capabilities of the reply.
fn accepted(serving: &Serving, payload: &[u8]) -> ([u8; 4], Value) {
    let mut peer = Peer::raw(UnixStream::connect(&serving.path).unwrap());
    let got = peer.ask(command::VERSION, payload, &[]);
    assert_eq!(got.header.flags, header_flags::REPLY);
    assert!(
        got.payload.len() <= payload.len(),
        "received into the request"
    );
    let (version, json) = got.payload.split_first_chunk().unwrap();
    let json = match json {
        [] => Value::Null,
        [json @ .., 0] => serde_json::from_slice(json).unwrap(),
        _ => panic!("no NUL"),
    };
    (*version, json)
}

#[test]
fn version_without_payload_is_einval_and_closes() {
    refused(&Serving::start(), command::VERSION, &[], &[]);
}

#[test]
fn version_shorter_than_its_numbers_is_einval_and_closes() {
    refused(&Serving::start(), command::VERSION, &[0; 3], &[]);
}

#[test]
fn a_message_above_the_maximum_is_refused_and_closes() {
    let serving = Serving::start();
    let mut peer = Peer::raw(UnixStream::connect(&serving.path).unwrap());
    let mut header = message(9, command::VERSION, 0, &[]);
    header[4..8].copy_from_slice(&(MAX_MESSAGE as u32 + 1).to_le_bytes());
    peer.send_bytes(&header, &[]);
    assert_eq!(peer.next().header.error, INVAL);
    assert!(peer.try_next().is_none(), "closed");
    Peer::qemu(&serving.path);
}

#[test]
fn a_first_command_that_is_not_version_is_einval() {
    let serving = Serving::start();
    for command in [999, command::DEVICE_GET_INFO, command::DEVICE_RESET, 0] {
        refused(&serving, command, &[0; 16], &[]);
    }
}

#[test]
fn fds_with_version_are_einval() {
    let fd = event_fd();
    let serving = Serving::start();
    refused(&serving, command::VERSION, &proposal(), &[fd.as_fd()]);
}

#[test]
fn a_major_other_than_0_is_einval() {
    let serving = Serving::start();
    for major in [1, u16::MAX] {
        let payload = [&major.to_le_bytes()[..], &[0, 0]].concat();
        refused(&serving, command::VERSION, &payload, &[]);
    }
}

#[test]
fn json_without_nul_is_einval() {
    refused_json(&["{}", r#"{"capabilities":{}}"#]);
}

#[test]
fn json_that_is_none_is_einval() {
    refused_json(&["{\0", "\"\0", "\0"]);
}

#[test]
fn capabilities_that_are_no_object_are_einval() {
    refused_json(&["{\"capabilities\":[]}\0", "{\"capabilities\":7}\0", "[]\0"]);
}

#[test]
fn max_msg_fds_that_is_a_string_negative_or_above_1024_is_einval() {
    refused_json(&[
        "{\"capabilities\":{\"max_msg_fds\":\"8\"}}\0",
        "{\"capabilities\":{\"max_msg_fds\":-1}}\0",
        "{\"capabilities\":{\"max_msg_fds\":1025}}\0",
    ]);
}

#[test]
fn migration_that_is_no_object_is_einval() {
    refused_json(&["{\"capabilities\":{\"migration\":7}}\0"]);
}

#[test]
fn migration_pgsize_that_is_a_string_or_4095_is_einval() {
    refused_json(&[
        "{\"capabilities\":{\"migration\":{\"pgsize\":\"4096\"}}}\0",
        "{\"capabilities\":{\"migration\":{\"pgsize\":4095}}}\0",
    ]);
}

#[test]
fn twin_socket_supported_must_be_a_bool() {
    refused_json(&["{\"capabilities\":{\"twin_socket\":{\"supported\":1}}}\0"]);
}

#[test]
fn no_json_is_accepted() {
    let (version, json) = accepted(&Serving::start(), &[0; 4]);
    assert_eq!((version, json), ([0; 4], Value::Null));
}

#[test]
fn an_empty_object_is_accepted() {
    let (_, json) = accepted(&Serving::start(), b"\0\0\0\0{}\0");
    assert!(json.is_object());
}

/// And the reply says what the client needs to know.
#[test]
fn full_json_is_accepted() {
    let (version, json) = accepted(&Serving::start(), &proposal());
    assert_eq!(version, [0; 4]);
    let capabilities = &json["capabilities"];
    assert_eq!(capabilities["max_msg_fds"], 16);
    assert_eq!(capabilities["max_data_xfer_size"], 1 << 20);
    assert_eq!(capabilities["write_multiple"], true);
}

#[test]
fn the_version_reply_is_never_longer_than_the_request() {
    let serving = Serving::start();
    for spaces in 0..200 {
        let json = format!("\0\0\0\0{{{}}}\0", " ".repeat(spaces));
        accepted(&serving, json.as_bytes());
    }
    let qemu = proposal();
    assert!(qemu.len() + HEADER <= 214, "as QEMU's");
    accepted(&serving, &qemu);
}

#[test]
fn the_minor_version_is_the_smaller_one() {
    let serving = Serving::start();
    for (theirs, ours) in [(0, 0), (1, 1), (2, 2), (3, 2), (u16::MAX, 2)] {
        let proposed = [&[0, 0], &u16::to_le_bytes(theirs)[..]].concat();
        let (version, _) = accepted(&serving, &proposed);
        assert_eq!(version, [0, 0, ours, 0]);
    }
}

#[test]
fn a_client_that_closes_afterwards_makes_room_for_the_next() {
    let serving = Serving::start();
    for _ in 0..10 {
        let mut stream = UnixStream::connect(&serving.path).unwrap();
        stream
            .write_all(&message(1, command::VERSION, 0, &proposal()))
            .unwrap();
    }
    Peer::qemu(&serving.path);
    assert!(serving.seen().resets.len() >= 10);
}
