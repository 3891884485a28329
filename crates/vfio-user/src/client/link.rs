//! One end of a socket: whole messages out, messages with their descriptors in, and never longer than a time limit.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::{ClientError, Result};
use crate::inbox::{Inbox, Message};
use crate::wire::{HEADER, MAX_FDS};

/// A connected socket and what has come in on it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: UnixStream,
    inbox: Inbox,
    /// Bytes received that are no whole message yet.
    unparsed: usize,
    /// The last receive took all there was.
    drained: bool,
}

impl Link {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            inbox: Inbox::default(),
            unparsed: 0,
            drained: true,
        }
    }

    /// Receives once; false if there is nothing now (or, when `blocking`, within the socket's time limit).
    pub(super) fn receive(&mut self, blocking: bool) -> Result<bool> {
        let mut control = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut control);
        let mut flags = RecvFlags::CMSG_CLOEXEC;
        flags.set(RecvFlags::DONTWAIT, !blocking);
        let space = self.inbox.space();
        let room = space.len();
        if room == 0 {
            // A whole message waits, which is as good as having received it.
            return Ok(true);
        }
        let mut iov = [IoSliceMut::new(space)];
        let message = match recvmsg(&self.stream, &mut iov, &mut control, flags) {
            Ok(message) if message.bytes == 0 => {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            Ok(message) => message,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        let fds = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let lost = message.flags.contains(ReturnFlags::CTRUNC);
        self.inbox.received(message.bytes, fds.flatten(), lost);
        self.unparsed += message.bytes;
        self.drained = message.bytes < room;
        Ok(true)
    }

    /// The next message that is complete.
    pub(super) fn next(&mut self) -> Result<Option<Message<'_>>> {
        let message = self
            .inbox
            .next()
            .map_err(|_| ClientError::Protocol("impossible message size"))?;
        if let Some(message) = &message {
            self.unparsed -= HEADER + message.payload.len();
        }
        Ok(message)
    }

    /// Whether what has come in ends within a header, with all complete messages taken.
    pub(super) fn header_is_torn(&self) -> bool {
        self.drained && (1..HEADER).contains(&self.unparsed)
    }

    /// Sends as much of `bytes` as there is room for, with `fds`; 0 if there is none now.
    pub(super) fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4 * MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(ClientError::TooLong);
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, flags) {
            Ok(n) => Ok(n),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Waits until one of the sockets is ready for what is asked of it, or `deadline` has passed; who is ready.
pub(super) fn wait<const N: usize>(
    sockets: [Option<(&UnixStream, PollFlags)>; N],
    deadline: Instant,
) -> Result<[PollFlags; N]> {
    let mut ready = [PollFlags::empty(); N];
    let left = deadline.saturating_duration_since(Instant::now());
    let mut fds: arrayvec::ArrayVec<PollFd<'_>, N> = sockets
        .iter()
        .flatten()
        .map(|(stream, flags)| PollFd::from_borrowed_fd(stream.as_fd(), *flags))
        .collect();
    match poll(&mut fds, Some(&timespec(left))) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut polled = fds.iter();
    for (flags, socket) in ready.iter_mut().zip(&sockets) {
        if socket.is_some() {
            *flags = polled.next().map_or(PollFlags::empty(), PollFd::revents);
        }
    }
    Ok(ready)
}

/// Rounded up to what the clock can tell, so that a wait does not spin at its end.
fn timespec(limit: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(limit.subsec_nanos()),
    }
}

pub(super) fn timed_out() -> ClientError {
    io::Error::from(io::ErrorKind::TimedOut).into()
}
