//! How an operator asks a running daemon: one socket for each daemon, JSON-RPC 2.0 on it, a message a line.
//!
//! | method | params | result |
//! |---|---|---|
//! | `list` | | `[{"name", "mac"}]` |
//! | `inspect` | `{"nic": NAME}` | a [`View`](crate::view::View) |
//! | `link` | `{"nic": NAME, "up": BOOL}` | the link afterwards, a [`Link`](crate::view::Link) |
//!
//! The daemon answers from a thread of its own, one connection after the other, each for a limited time. Permissions of
//! the socket keep others out.

mod client;
mod place;
mod server;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use client::{inspect, set_link};
pub(crate) use place::open;
pub(crate) use server::{Server, Watched};

/// Longest request in bytes, its newline not counted.
const MAX_REQUEST: usize = 4096;
/// Longest reply: a NIC has some 700 registers with a good hundred bytes each.
const MAX_REPLY: usize = 4 << 20;

/// What is asked of a daemon.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    /// Returned in the reply.
    #[serde(default)]
    id: serde_json::Value,
    method: String,
    #[serde(default)]
    params: Params,
}

/// What the methods take; what one does not need is ignored.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Params {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nic: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    up: Option<bool>,
}

/// One NIC of `list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Listed {
    name: String,
    mac: String,
}

/// Why there is no result; the codes are those of JSON-RPC 2.0, section 5.1.
#[derive(Debug, Serialize, Deserialize)]
struct Failure {
    code: i32,
    message: String,
}

impl Failure {
    fn new(code: i32, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message }
    }
}

/// Reads up to the next newline; `None` at the end of the stream. Part of the following lines may be in `rest`.
fn read_line(
    stream: &mut UnixStream,
    rest: &mut Vec<u8>,
    longest: usize,
    deadline: Instant,
) -> io::Result<Option<Vec<u8>>> {
    let mut searched = 0;
    loop {
        if let Some(end) = rest[searched..].iter().position(|&byte| byte == b'\n') {
            let mut line: Vec<u8> = rest.drain(..=searched + end).collect();
            line.pop();
            return Ok(Some(line));
        }
        searched = rest.len();
        if searched > longest {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        stream.set_read_timeout(Some(left(deadline)?))?;
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(None),
            Ok(n) => rest.extend(&chunk[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes it all or fails at the deadline, however slowly the other end reads.
fn write_line(stream: &mut UnixStream, line: &str, deadline: Instant) -> io::Result<()> {
    let line = [line.as_bytes(), b"\n"].concat();
    let mut rest = &line[..];
    while !rest.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match stream.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => rest = &rest[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(io::ErrorKind::TimedOut.into()),
        false => Ok(left),
    }
}
