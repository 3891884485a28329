//! A client: what a hypervisor says to a device, for tests and for drivers in user space.
//!
//! Blocking, one request at a time, with a time limit. [`Client::connect`] proposes what QEMU proposes. For tests of
//! a server there is also [`Client::send`], which sends anything, and [`Client::receive`].

use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use thiserror::Error;
use zerocopy::{FromBytes, IntoBytes};

use crate::wire::{
    DeviceInfo, DmaMap, DmaUnmap, HEADER, Header, IrqInfo, MAX_FDS, MAX_MESSAGE, RegionAccess,
    RegionInfo, SetIrqs, Version, command, header_flags, region_index, set_irqs_flags,
};

/// What QEMU 11.1 proposes.
const PROPOSAL: &str = concat!(
    r#"{"capabilities":{"pgsizes":4096,"max_msg_fds":16,"max_dma_maps":65535,"#,
    r#""max_data_xfer_size":1048576,"migration":{"max_bitmap_size":268435456,"pgsize":4096},"#,
    "\"write_multiple\":true}}\0"
);

/// How long the server may take, unless [`Client::set_timeout`] says otherwise.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A request that did not succeed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The socket failed, the server closed it (`UnexpectedEof`) or took too long (`WouldBlock`).
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
    /// The server's answer breaks the protocol.
    #[error("the device broke the protocol: {0}")]
    Protocol(&'static str),
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

/// A connection to a device.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    next_id: u16,
    /// Reused from message to message.
    buf: Vec<u8>,
}

impl Client {
    /// Connects to the socket at `path` and negotiates as QEMU does.
    ///
    /// # Errors
    ///
    /// If nobody serves there, or versions differ.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self> {
        let mut client = Self::from_stream(UnixStream::connect(path)?)?;
        client.negotiate(Version { major: 0, minor: 0 }, PROPOSAL)?;
        Ok(client)
    }

    /// A client on a connected socket, before negotiation.
    ///
    /// # Errors
    ///
    /// If the time limit cannot be set.
    pub fn from_stream(stream: UnixStream) -> Result<Self> {
        let client = Self {
            stream,
            next_id: 0,
            buf: Vec::new(),
        };
        client.set_timeout(TIMEOUT)?;
        Ok(client)
    }

    /// Limits how long one receive or send may take.
    ///
    /// # Errors
    ///
    /// For a limit of zero.
    pub fn set_timeout(&self, timeout: Duration) -> Result<()> {
        self.stream.set_read_timeout(Some(timeout))?;
        self.stream.set_write_timeout(Some(timeout))?;
        Ok(())
    }

    /// Proposes a version and capabilities (JSON with its NUL, or nothing); returns the server's.
    ///
    /// # Errors
    ///
    /// If it refuses, or answers what QEMU would not take: a longer message than was sent, a newer version.
    pub fn negotiate(&mut self, version: Version, json: &str) -> Result<(Version, String)> {
        let payload = [version.as_bytes(), json.as_bytes()].concat();
        let reply = self.request(command::VERSION, &payload, &[])?;
        let (theirs, json) =
            Version::read_from_prefix(&reply).map_err(|_| ClientError::Protocol("no version"))?;
        if reply.len() > payload.len() || theirs.major != 0 || theirs.minor > version.minor {
            return Err(ClientError::Protocol("the answer exceeds the proposal"));
        }
        let json = String::from_utf8_lossy(json.strip_suffix(&[0]).unwrap_or(json));
        Ok((theirs, json.into_owned()))
    }

    /// Gives the device access to `size` bytes at `iova`: those from `offset` of `file` on, or, without a file, bytes
    /// that it cannot reach.
    ///
    /// # Errors
    ///
    /// If the device refuses.
    pub fn dma_map(
        &mut self,
        iova: u64,
        size: u64,
        file: Option<(BorrowedFd<'_>, u64)>,
        flags: u32,
    ) -> Result<()> {
        let map = DmaMap {
            argsz: size_of::<DmaMap>() as u32,
            flags,
            offset: file.map_or(0, |(_, offset)| offset),
            iova,
            size,
        };
        let fd = file.map(|(fd, _)| fd);
        self.request(command::DMA_MAP, map.as_bytes(), fd.as_slice())?;
        Ok(())
    }

    /// Takes a range away that was mapped as such.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn dma_unmap(&mut self, iova: u64, size: u64) -> Result<()> {
        let unmap = DmaUnmap {
            argsz: size_of::<DmaUnmap>() as u32,
            flags: 0,
            iova,
            size,
        };
        match self.request(command::DMA_UNMAP, unmap.as_bytes(), &[])? == unmap.as_bytes() {
            true => Ok(()),
            false => Err(ClientError::Protocol("DMA_UNMAP is not echoed")),
        }
    }

    /// Asks what the device has.
    ///
    /// # Errors
    ///
    /// If it does not say.
    pub fn device_info(&mut self) -> Result<DeviceInfo> {
        let request = DeviceInfo {
            argsz: size_of::<DeviceInfo>() as u32,
            ..Default::default()
        };
        let reply = self.request(command::DEVICE_GET_INFO, request.as_bytes(), &[])?;
        read(&reply)
    }

    /// Asks about a region.
    ///
    /// # Errors
    ///
    /// If the device does not say.
    pub fn region_info(&mut self, index: u32) -> Result<RegionInfo> {
        let request = RegionInfo {
            argsz: size_of::<RegionInfo>() as u32,
            index,
            ..Default::default()
        };
        let reply = self.request(command::DEVICE_GET_REGION_INFO, request.as_bytes(), &[])?;
        read(&reply)
    }

    /// Asks about an interrupt index.
    ///
    /// # Errors
    ///
    /// If the device does not say.
    pub fn irq_info(&mut self, index: u32) -> Result<IrqInfo> {
        let request = IrqInfo {
            argsz: size_of::<IrqInfo>() as u32,
            index,
            ..Default::default()
        };
        let reply = self.request(command::DEVICE_GET_IRQ_INFO, request.as_bytes(), &[])?;
        read(&reply)
    }

    /// The SET_IRQS request for one interrupt: `flags` from [`set_irqs_flags`], with the eventfd for `DATA_EVENTFD`
    /// (none takes the old one away).
    ///
    /// # Errors
    ///
    /// If the device refuses.
    pub fn set_irq(&mut self, index: u32, flags: u32, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.set_irqs(index, flags, 0, 1, fd.as_slice())
    }

    /// The SET_IRQS request in full.
    ///
    /// # Errors
    ///
    /// If the device refuses.
    pub fn set_irqs(
        &mut self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        fds: &[BorrowedFd<'_>],
    ) -> Result<()> {
        let request = SetIrqs {
            argsz: size_of::<SetIrqs>() as u32,
            flags,
            index,
            start,
            count,
        };
        self.request(command::DEVICE_SET_IRQS, request.as_bytes(), fds)?;
        Ok(())
    }

    /// Takes all interrupts of an index down.
    ///
    /// # Errors
    ///
    /// If the device refuses.
    pub fn disable_irqs(&mut self, index: u32) -> Result<()> {
        let flags = set_irqs_flags::ACTION_TRIGGER | set_irqs_flags::DATA_NONE;
        self.set_irqs(index, flags, 0, 0, &[])
    }

    /// Fills `data` from `offset` of a region.
    ///
    /// # Errors
    ///
    /// If the device refuses.
    pub fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<()> {
        let request = access(region, offset, data.len())?;
        let id = self.send(command::REGION_READ, 0, &[request.as_bytes()], &[])?;
        let payload = self.wait_for(id, command::REGION_READ)?;
        match payload.split_at_checked(size_of::<RegionAccess>()) {
            Some((echo, bytes)) if echo == request.as_bytes() && bytes.len() == data.len() => {
                data.copy_from_slice(bytes);
                Ok(())
            }
            _ => Err(ClientError::Protocol("REGION_READ answered out of step")),
        }
    }

    /// Writes `data` to `offset` of a region and waits until the device has taken it.
    ///
    /// # Errors
    ///
    /// If the device refuses.
    pub fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<()> {
        let request = access(region, offset, data.len())?;
        let parts = [request.as_bytes(), data];
        let id = self.send(command::REGION_WRITE, 0, &parts, &[])?;
        match self.wait_for(id, command::REGION_WRITE)? == request.as_bytes() {
            true => Ok(()),
            false => Err(ClientError::Protocol("REGION_WRITE answered out of step")),
        }
    }

    /// Writes without waiting, as QEMU does to memory BARs. A later read is executed after it.
    ///
    /// # Errors
    ///
    /// If it cannot be sent.
    pub fn region_write_posted(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<()> {
        let request = access(region, offset, data.len())?;
        let parts = [request.as_bytes(), data];
        self.send(command::REGION_WRITE, header_flags::NO_REPLY, &parts, &[])?;
        Ok(())
    }

    /// Reads `N` bytes of configuration space.
    ///
    /// # Errors
    ///
    /// As [`region_read`](Self::region_read).
    pub fn config_read<const N: usize>(&mut self, offset: u64) -> Result<[u8; N]> {
        let mut data = [0; N];
        self.region_read(region_index::CONFIG, offset, &mut data)?;
        Ok(data)
    }

    /// Writes configuration space.
    ///
    /// # Errors
    ///
    /// As [`region_write`](Self::region_write).
    pub fn config_write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.region_write(region_index::CONFIG, offset, data)
    }

    /// Resets the device.
    ///
    /// # Errors
    ///
    /// If it refuses.
    pub fn reset(&mut self) -> Result<()> {
        self.request(command::DEVICE_RESET, &[], &[])?;
        Ok(())
    }

    /// Sends a request and waits for its reply's payload.
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
        let id = self.send(command, 0, &[payload], fds)?;
        Ok(self.wait_for(id, command)?.to_vec())
    }

    /// Sends one message, descriptors and all, in one piece; returns its id.
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
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let size = HEADER + payload.iter().map(|part| part.len()).sum::<usize>();
        let header = Header {
            id,
            command,
            size: u32::try_from(size).map_err(|_| ClientError::Protocol("too long to send"))?,
            flags,
            error: 0,
        };
        self.buf.clear();
        self.buf.extend_from_slice(header.as_bytes());
        for part in payload {
            self.buf.extend_from_slice(part);
        }
        send_all(&self.stream, &self.buf, fds)?;
        Ok(id)
    }

    /// Receives the next message, whatever it is.
    ///
    /// # Errors
    ///
    /// If there is none in time, the server closed, or it makes no sense.
    pub fn receive(&mut self) -> Result<Reply> {
        let header = self.receive_message()?;
        Ok(Reply {
            header,
            payload: self.buf[HEADER..].to_vec(),
        })
    }

    /// The socket, for whoever wants to send what no client sends.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    fn wait_for(&mut self, id: u16, command: u16) -> Result<&[u8]> {
        let header = self.receive_message()?;
        if header.flags & header_flags::TYPE != header_flags::REPLY
            || (header.id, header.command) != (id, command)
        {
            return Err(ClientError::Protocol("unexpected reply"));
        }
        if header.flags & header_flags::ERROR != 0 {
            let errno = header.error.cast_signed();
            return Err(ClientError::Refused { command, errno });
        }
        Ok(&self.buf[HEADER..])
    }

    /// Receives a message to `buf`.
    fn receive_message(&mut self) -> Result<Header> {
        self.buf.resize(HEADER, 0);
        self.stream.read_exact(&mut self.buf)?;
        let header: Header = read(&self.buf)?;
        let size = header.size as usize;
        if !(HEADER..=MAX_MESSAGE).contains(&size) {
            return Err(ClientError::Protocol("impossible message size"));
        }
        self.buf.resize(size, 0);
        self.stream.read_exact(&mut self.buf[HEADER..])?;
        Ok(header)
    }
}

fn access(region: u32, offset: u64, len: usize) -> Result<RegionAccess> {
    Ok(RegionAccess {
        offset,
        region,
        count: u32::try_from(len).map_err(|_| ClientError::Protocol("too long to send"))?,
    })
}

fn read<T: FromBytes>(bytes: &[u8]) -> Result<T> {
    T::read_from_prefix(bytes)
        .map(|(value, _)| value)
        .map_err(|_| ClientError::Protocol("a reply is too short"))
}

/// Sends all of `bytes`; `fds` go with the first piece.
fn send_all(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let mut rest = bytes;
    let mut fds = fds;
    while !rest.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4 * MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(ClientError::Protocol("too many descriptors to send"));
        }
        let iov = [IoSlice::new(rest)];
        let n = sendmsg(stream.as_fd(), &iov, &mut control, SendFlags::NOSIGNAL)?;
        rest = &rest[n..];
        fds = &[];
    }
    Ok(())
}
