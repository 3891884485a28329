//! A client: what a hypervisor or a driver in user space says to a device.
//!
//! Blocking, with a time limit for everything, and safe against the server: whatever it sends becomes an error, never a
//! panic, and never takes more memory than was asked for.
//!
//! ```no_run
//! # use std::os::fd::AsFd;
//! # use vfio_user::client::{Client, Dialect};
//! # use vfio_user::wire::{dma_map_flags, irq_index};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let file: std::os::fd::OwnedFd = std::fs::File::open("memory")?.into();
//! # let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK)?;
//! let mut client = Client::builder().dialect(Dialect::LibvfioUser).connect("/run/device.sock")?;
//! client.dma_map(0, 1 << 30, Some((file.as_fd(), 0)), dma_map_flags::READ | dma_map_flags::WRITE)?;
//! client.irq_eventfds(irq_index::INTX, 0, &[eventfd.as_fd()])?;
//! client.config_write(4, &[6, 0])?; // COMMAND: decode memory, bus master
//! client.region_write_posted(0, 0x38, &[1, 0, 0, 0])?;
//! let mut status = [0; 4];
//! client.region_read(0, 0x08, &mut status)?;
//! # Ok(())
//! # }
//! ```
//!
//! **Several requests at once.** [`submit`](Client::submit) and its relatives send and return a [`Ticket`];
//! [`collect`](Client::collect) waits for the reply. A device executes in the order in which it was asked.
//!
//! **Memory that is not shared.** Ranges mapped without a file are read and written by messages from the device, which
//! are answered from a [`Memory`] while the client waits for a reply, and in [`serve`](Client::serve).
//!
//! **Dialects.** Clients in use differ in what they propose, how they number, and what they tolerate: see [`Dialect`].
//! [`Client::connect`] speaks QEMU's.
//!
//! For tests of a server there is also [`send`](Client::send), which sends anything, and [`receive`](Client::receive).

mod builder;
mod capabilities;
mod dialect;
mod dma;
mod exchange;
mod info;
mod irqs;
mod link;
mod memory;
mod migrate;
mod pump;
mod regions;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use thiserror::Error;
use zerocopy::{FromBytes, IntoBytes};

use crate::wire::{HEADER, Header, MAX_FDS, MAX_MESSAGE};

pub use builder::Builder;
pub use capabilities::Capabilities;
pub use dialect::Dialect;
pub use exchange::{Answer, Ticket};
pub use info::{IoFds, RegionDetails};
pub use memory::Memory;

use dialect::Manners;
use exchange::{Exchange, Expected};
use link::{Link, timed_out};
use memory::Served;
use pump::Side;

/// A request that did not succeed. Specification, "Request Retry and Response Timeout".
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The socket failed, the server closed it (`UnexpectedEof`) or took too long (`TimedOut`).
    #[error("the connection to the device failed")]
    Socket(#[from] io::Error),
    /// The server answered with an error.
    #[error("the device refused command {command}: {source}", source = io::Error::from_raw_os_error(*.errno))]
    Refused {
        /// Which request.
        command: u16,
        /// Why.
        errno: i32,
    },
    /// The server's answer breaks the protocol, or the habits of the dialect. No further request will be made.
    #[error("the device broke the protocol: {0}")]
    Protocol(&'static str),
    /// The request does not fit a message, or the limits that the server or the dialect has. Nothing was sent.
    #[error("the request is too long")]
    TooLong,
    /// So many requests are under way that replies have to be collected first. Nothing was sent.
    #[error("too many requests are under way")]
    TooMany,
}

impl From<rustix::io::Errno> for ClientError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Socket(errno.into())
    }
}

/// The result of a request.
pub type Result<T> = std::result::Result<T, ClientError>;

/// A message that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its header.
    pub header: Header,
    /// What follows the header.
    pub payload: Vec<u8>,
}

/// A connection to a device. Specification, "Client/server interactions".
#[derive(Debug)]
pub struct Client {
    main: Link,
    /// Where the server's commands come, if not on the main socket.
    twin: Option<Link>,
    manners: &'static Manners,
    timeout: Duration,
    exchange: Exchange,
    served: Served,
    server: Capabilities,
    /// Why no further request is made.
    broken: Option<&'static str>,
    /// The message being sent, reused.
    out: Vec<u8>,
    /// An eventfd is assigned to INTx.
    line: bool,
    /// Something of the device can be mapped.
    mappable: bool,
    /// Files of maps, for the dialect that sends them back.
    files: Vec<dma::File>,
}

impl Client {
    /// Limits how long one request may take, and [`receive`](Self::receive).
    ///
    /// # Errors
    ///
    /// For a limit of zero.
    pub fn set_timeout(&mut self, timeout: Duration) -> Result<()> {
        self.main.stream.set_read_timeout(Some(timeout))?;
        self.timeout = timeout;
        Ok(())
    }

    /// What the server announced.
    pub fn server(&self) -> &Capabilities {
        &self.server
    }

    /// The socket, for whoever wants to send what no client sends.
    pub fn stream(&self) -> &UnixStream {
        &self.main.stream
    }

    /// The socket for the server's commands, if there is one of their own. Whoever waits for events calls
    /// [`serve`](Self::serve) when it is readable; without one, when [`stream`](Self::stream) is.
    /// Specification, "Socket".
    pub fn twin(&self) -> Option<&UnixStream> {
        self.twin.as_ref().map(|twin| &twin.stream)
    }

    /// Commands of the server that were answered so far.
    pub fn answered(&self) -> u64 {
        self.served.answered
    }

    /// Answers what the server asks, for as long as `limit`; zero for what it has asked by now.
    /// Specification, "Client memory access".
    ///
    /// # Errors
    ///
    /// If the connection fails or the server breaks the protocol.
    pub fn serve(&mut self, limit: Duration) -> Result<()> {
        self.check()?;
        let deadline = Instant::now() + limit;
        loop {
            let moved = self.pump(deadline, false)?;
            if !moved && Instant::now() >= deadline {
                return Ok(());
            }
        }
    }

    /// Sends a request and waits for its reply's payload, of any length; descriptors that come with it are closed.
    ///
    /// # Errors
    ///
    /// If the server refuses, breaks the protocol, closes, or takes too long.
    pub fn request(
        &mut self,
        command: u16,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Vec<u8>> {
        let expected = Expected {
            payload: MAX_MESSAGE - HEADER,
            fds: MAX_FDS,
        };
        let ticket = self.submit_parts(command, &[payload], fds, expected)?;
        Ok(self.collect(ticket)?.payload)
    }

    /// Sends a request without waiting for its reply, whose payload may have `reply` bytes.
    /// Specification, "Command Concurrency".
    ///
    /// # Errors
    ///
    /// If it cannot be sent.
    pub fn submit(
        &mut self,
        command: u16,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
        reply: usize,
    ) -> Result<Ticket> {
        let expected = Expected {
            payload: reply,
            fds: 0,
        };
        self.submit_parts(command, &[payload], fds, expected)
    }

    /// Waits for the reply to a request.
    ///
    /// # Errors
    ///
    /// If the server refuses, breaks the protocol, closes, or takes too long.
    pub fn collect(&mut self, ticket: Ticket) -> Result<Answer> {
        let deadline = Instant::now() + self.timeout;
        let mut fresh = true;
        loop {
            if let Some(result) = self.exchange.take(&ticket) {
                return result;
            }
            self.check()?;
            if !self.exchange.is_pending(&ticket) {
                return Err(ClientError::Protocol("nobody was asked for this reply"));
            }
            let moved = self.pump(deadline, fresh)?;
            fresh = false;
            let late = Instant::now() >= deadline;
            if late && (!moved || self.exchange.is_pending(&ticket)) {
                self.exchange.abandon(&ticket);
                return Err(timed_out());
            }
        }
    }

    /// Sends one message, descriptors and all; returns its id. Its reply, if there is one, is for
    /// [`receive`](Self::receive).
    ///
    /// # Errors
    ///
    /// If it cannot be sent.
    pub fn send(
        &mut self,
        command: u16,
        flags: u32,
        payload: &[&[u8]],
        fds: &[BorrowedFd<'_>],
    ) -> Result<u16> {
        let id = self.exchange.id();
        self.send_as(id, command, flags, payload, fds)?;
        Ok(id)
    }

    /// Receives the next message, whatever it is. For tests: nothing else may be under way.
    ///
    /// # Errors
    ///
    /// If there is none in time, the server closed, or it makes no sense.
    pub fn receive(&mut self) -> Result<Reply> {
        let deadline = Instant::now() + self.timeout;
        loop {
            if let Some(message) = self.main.next()? {
                return Ok(Reply {
                    header: message.header,
                    payload: message.payload.to_vec(),
                });
            }
            let [ready] = link::wait([Some((&self.main.stream, PollFlags::IN))], deadline)?;
            if !ready.is_empty() {
                self.main.receive(false)?;
            } else if Instant::now() >= deadline {
                return Err(timed_out());
            }
        }
    }

    /// Sends a request and waits for its reply.
    fn ask(&mut self, command: u16, payload: &[u8], reply: usize) -> Result<Vec<u8>> {
        let ticket = self.submit(command, payload, &[], reply)?;
        Ok(self.collect(ticket)?.payload)
    }

    fn submit_parts(
        &mut self,
        command: u16,
        payload: &[&[u8]],
        fds: &[BorrowedFd<'_>],
        expected: Expected,
    ) -> Result<Ticket> {
        self.check()?;
        if !self.exchange.has_room() {
            return Err(ClientError::TooMany);
        }
        let id = self.exchange.id();
        let ticket = self.exchange.expect(id, command, expected);
        match self.send_as(id, command, 0, payload, fds) {
            Ok(()) => Ok(ticket),
            Err(error) => {
                self.exchange.abandon(&ticket);
                Err(error)
            }
        }
    }

    fn send_as(
        &mut self,
        id: u16,
        command: u16,
        flags: u32,
        payload: &[&[u8]],
        fds: &[BorrowedFd<'_>],
    ) -> Result<()> {
        let size = HEADER + payload.iter().map(|part| part.len()).sum::<usize>();
        let header = Header {
            id,
            command,
            size: u32::try_from(size).map_err(|_| ClientError::TooLong)?,
            flags,
            error: 0,
        };
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        out.extend_from_slice(header.as_bytes());
        for part in payload {
            out.extend_from_slice(part);
        }
        let sent = self.transmit(Side::Main, &out, fds);
        self.out = out;
        self.out.shrink_to(1 << 16);
        sent
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.main.stream.as_fd()
    }
}

/// The fixed part of a payload.
fn read<T: FromBytes>(bytes: &[u8]) -> Result<T> {
    T::read_from_prefix(bytes)
        .map(|(value, _)| value)
        .map_err(|_| ClientError::Protocol("a reply is too short"))
}
