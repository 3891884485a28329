//! Memory that the device reaches by asking the client for it.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use guest_mem::GuestMem;
use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use super::{ClientError, Result};
use crate::inbox::Message;
use crate::wire::{DmaAccess, HEADER, Header, command, header_flags};

/// Most bytes of commands that may wait until they are answered.
const MOST_WAITING: usize = 16 << 20;

/// What a client lets its device reach by DMA_READ and DMA_WRITE: the ranges that were mapped without a file. Addresses
/// are those of DMA.
///
/// An error is answered with its errno (EIO if it has none): QEMU says ENODEV where there is no memory.
pub trait Memory: Send + Sync + Debug {
    /// Fills `to` from `address`: specification, "VFIO_USER_DMA_READ".
    ///
    /// # Errors
    ///
    /// If any byte cannot be read.
    fn read(&self, address: u64, to: &mut [u8]) -> io::Result<()>;

    /// Takes `from` for `address`: specification, "VFIO_USER_DMA_WRITE".
    ///
    /// # Errors
    ///
    /// If any byte cannot be written.
    fn write(&self, address: u64, from: &[u8]) -> io::Result<()>;
}

impl Memory for GuestMem {
    fn read(&self, address: u64, to: &mut [u8]) -> io::Result<()> {
        GuestMem::read(self, address, to).map_err(|_| Errno::NODEV.into())
    }

    fn write(&self, address: u64, from: &[u8]) -> io::Result<()> {
        GuestMem::write(self, address, from).map_err(|_| Errno::NODEV.into())
    }
}

/// A command of the server, not answered yet.
#[derive(Debug)]
struct Asked {
    header: Header,
    payload: Vec<u8>,
}

/// The server's commands and what answers them.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) memory: Option<Arc<dyn Memory>>,
    /// Most bytes of one transfer: what was proposed as `max_data_xfer_size`.
    pub(super) max_data: usize,
    /// Whether DMA is refused while `bus_master` is clear.
    pub(super) checks_bus_master: bool,
    /// The guest lets the device do DMA.
    pub(super) bus_master: bool,
    /// Commands answered so far.
    pub(super) answered: u64,
    asked: VecDeque<Asked>,
    waiting: usize,
}

impl Served {
    pub(super) fn new(max_data: usize, checks_bus_master: bool) -> Self {
        Self {
            memory: None,
            max_data,
            checks_bus_master,
            bus_master: false,
            answered: 0,
            asked: VecDeque::new(),
            waiting: 0,
        }
    }

    /// Takes a command down, to be answered later.
    pub(super) fn ask(&mut self, message: &Message<'_>) -> Result<()> {
        if !message.fds.is_empty() || message.fds_lost {
            return Err(ClientError::Protocol("descriptors come with a command"));
        }
        let bytes = HEADER + message.payload.len();
        if self.waiting + bytes > MOST_WAITING {
            return Err(ClientError::Protocol("a flood of commands"));
        }
        self.waiting += bytes;
        self.asked.push_back(Asked {
            header: message.header,
            payload: message.payload.to_vec(),
        });
        Ok(())
    }

    /// Number of commands that wait.
    pub(super) fn waiting(&self) -> usize {
        self.asked.len()
    }

    /// Executes the oldest command; appends its reply, if it wants one, to `out`.
    pub(super) fn answer(&mut self, out: &mut Vec<u8>) {
        let Some(Asked { header, payload }) = self.asked.pop_front() else {
            return;
        };
        self.waiting -= HEADER + payload.len();
        self.answered += 1;
        let start = out.len();
        out.extend_from_slice(header.as_bytes());
        let done = self.execute(header.command, &payload, out);
        let reply = match done {
            Ok(()) => header.reply(out.len() - start - HEADER),
            Err(errno) => {
                out.truncate(start + HEADER);
                header.error_reply(errno.raw_os_error().unsigned_abs())
            }
        };
        match header.wants_reply() {
            true => out[start..][..HEADER].copy_from_slice(reply.as_bytes()),
            false => out.truncate(start),
        }
    }

    /// Appends the payload of the reply.
    fn execute(
        &self,
        command: u16,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> std::result::Result<(), Errno> {
        if !matches!(command, command::DMA_READ | command::DMA_WRITE) {
            return Err(Errno::NOSYS);
        }
        let (access, data) = DmaAccess::read_from_prefix(payload).map_err(|_| Errno::INVAL)?;
        let count = usize::try_from(access.count)
            .ok()
            .filter(|count| *count <= self.max_data)
            .ok_or(Errno::TOOBIG)?;
        if self.checks_bus_master && !self.bus_master {
            return Err(Errno::NODEV);
        }
        let memory = self.memory.as_ref().ok_or(Errno::NODEV)?;
        out.extend_from_slice(access.as_bytes());
        if command == command::DMA_READ {
            let at = out.len();
            out.resize(at + count, 0);
            memory.read(access.address, &mut out[at..]).map_err(errno)
        } else if data.len() == count {
            memory.write(access.address, data).map_err(errno)
        } else {
            Err(Errno::INVAL)
        }
    }
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error)
        .filter(|errno| errno.raw_os_error() > 0)
        .unwrap_or(Errno::IO)
}

/// Whether a message is a command rather than a reply.
pub(super) fn is_command(header: &Header) -> bool {
    header.flags & header_flags::TYPE == 0
}
