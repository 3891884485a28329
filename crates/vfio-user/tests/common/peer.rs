//! A client of bytes: it sends what it is told and sees every message, commands of the server included.

use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use vfio_user::wire::{DmaAccess, HEADER, Header, command, header_flags};
use zerocopy::{FromBytes, IntoBytes};

use super::{access, message, proposal};

/// One message.
#[derive(Debug)]
pub struct Got {
    pub header: Header,
    pub payload: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

impl Got {
    /// The server asks for memory; with the data to write.
    pub fn dma(&self) -> (DmaAccess, &[u8]) {
        assert_eq!(self.header.flags, 0, "{self:?}");
        let (access, data) = DmaAccess::read_from_prefix(&self.payload).unwrap();
        (access, data)
    }
}

pub struct Peer {
    pub stream: UnixStream,
    next_id: u16,
}

impl Peer {
    /// A client with these capabilities (JSON without its NUL), and the VERSION reply.
    pub fn connect(path: &Path, json: &str) -> (Self, Got) {
        let mut peer = Self::raw(UnixStream::connect(path).unwrap());
        let mut payload = vec![0; 4];
        payload.extend(json.bytes());
        payload.push(0);
        let reply = peer.ask(command::VERSION, &payload, &[]);
        assert_eq!(reply.header.flags, header_flags::REPLY);
        (peer, reply)
    }

    /// As QEMU, with bus mastering.
    pub fn qemu(path: &Path) -> Self {
        let mut peer = Self::raw(UnixStream::connect(path).unwrap());
        assert_eq!(peer.ask(command::VERSION, &proposal(), &[]).header.error, 0);
        peer.command(7);
        peer
    }

    pub fn raw(stream: UnixStream) -> Self {
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Self { stream, next_id: 0 }
    }

    /// Writes the COMMAND register.
    pub fn command(&mut self, value: u8) {
        let write = [&access(7, 4, 1)[..], &[value]].concat();
        assert_eq!(self.ask(command::REGION_WRITE, &write, &[]).header.error, 0);
    }

    /// Sends a command; its id.
    pub fn send(&mut self, command: u16, payload: &[u8], fds: &[BorrowedFd<'_>]) -> u16 {
        self.next_id = self.next_id.wrapping_add(1);
        self.send_bytes(&message(self.next_id, command, 0, payload), fds);
        self.next_id
    }

    pub fn send_bytes(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        if fds.is_empty() {
            return self.stream.write_all(bytes).unwrap();
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        let iov = [std::io::IoSlice::new(bytes)];
        let sent = sendmsg(&self.stream, &iov, &mut control, SendFlags::empty()).unwrap();
        assert_eq!(sent, bytes.len());
    }

    /// Sends all bytes; false if the other end has gone.
    pub fn try_send(&mut self, mut bytes: &[u8], mut fds: &[BorrowedFd<'_>]) -> bool {
        while !bytes.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(128))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
            let iov = [std::io::IoSlice::new(bytes)];
            match sendmsg(&self.stream, &iov, &mut control, SendFlags::NOSIGNAL) {
                Ok(n) => bytes = &bytes[n..],
                Err(_) => return false,
            }
            fds = &[];
        }
        true
    }

    /// A command and its reply, which must be the next message.
    pub fn ask(&mut self, command: u16, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Got {
        let id = self.send(command, payload, fds);
        let got = self.next();
        assert_eq!((got.header.id, got.header.command), (id, command));
        assert_eq!(got.header.flags & header_flags::TYPE, header_flags::REPLY);
        got
    }

    /// Answers a command of the server.
    pub fn reply(&mut self, to: &Got, data: &[u8]) {
        let payload = [&to.payload[..size_of::<DmaAccess>()], data].concat();
        let header = to.header.reply(payload.len());
        self.send_bytes(&[header.as_bytes(), &payload].concat(), &[]);
    }

    /// Refuses a command of the server.
    pub fn refuse(&mut self, to: &Got, errno: u32) {
        self.send_bytes(to.header.error_reply(errno).as_bytes(), &[]);
    }

    /// The next message.
    pub fn next(&mut self) -> Got {
        self.try_next().expect("a message")
    }

    /// The next message; none if the server closed the connection, or nothing came in time.
    pub fn try_next(&mut self) -> Option<Got> {
        let mut fds = Vec::new();
        let mut header = [0; HEADER];
        self.fill(&mut header, &mut fds)?;
        let header = Header::read_from_bytes(&header).unwrap();
        let mut payload = vec![0; header.size as usize - HEADER];
        self.fill(&mut payload, &mut fds)?;
        Some(Got {
            header,
            payload,
            fds,
        })
    }

    /// Nothing comes for a while.
    pub fn hears_nothing(&mut self) {
        let short = Some(Duration::from_millis(50));
        self.stream.set_read_timeout(short).unwrap();
        let got = self.try_next();
        assert!(got.is_none(), "{got:?}");
        let long = Some(Duration::from_secs(20));
        self.stream.set_read_timeout(long).unwrap();
    }

    fn fill(&mut self, mut to: &mut [u8], fds: &mut Vec<OwnedFd>) -> Option<()> {
        while !to.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let stream = self.stream.as_fd();
            let mut iov = [IoSliceMut::new(to)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let n = recvmsg(stream, &mut iov, &mut control, flags).ok()?.bytes;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(more) = message {
                    fds.extend(more);
                }
            }
            if n == 0 {
                return None;
            }
            to = &mut to[n..];
        }
        Some(())
    }
}
