//! The socket of one client: nonblocking, read in bulk, written in whole replies.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use arrayvec::ArrayVec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    self, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, recv, recvmsg, sendmsg, shutdown,
};

use crate::session::{Closed, Session};
use crate::wire::MAX_FDS;

/// Receive calls that empty a socket before it is closed: more than any socket buffer holds.
const LAST_RECEIVES: usize = 1024;

/// A connected client. Closed when dropped, such that the client reads an end of file.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
}

impl Connection {
    /// Serves `socket`, which must be nonblocking.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Receives once. False if there is nothing to receive now.
    pub(crate) fn receive(&self, session: &mut Session) -> Result<bool, Closed> {
        match receive(&self.socket, session.space())? {
            Some(Received { bytes, fds, lost }) => session.received(bytes, fds, lost),
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Sends what may leave, until the socket is full.
    pub(crate) fn flush(&self, session: &mut Session) -> Result<(), Closed> {
        while session.has_output() {
            match send(&self.socket, session.output(), session.output_fds())? {
                Some(n) => session.sent(n),
                None => break,
            }
        }
        Ok(())
    }

    /// Whether the client has closed its end, even if something is left to receive.
    pub(crate) fn is_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::empty())];
        let now = Timespec::default();
        poll(&mut fds, Some(&now)).is_ok()
            && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }
}

impl Drop for Connection {
    /// A socket that is closed with something unread resets its peer, and QEMU 11.1 aborts when that happens while it
    /// writes. So nothing more is let in, and what has come is thrown away.
    fn drop(&mut self) {
        let _ = shutdown(&self.socket, Shutdown::Both);
        let mut thrown_away = [0; 4096];
        for _ in 0..LAST_RECEIVES {
            match recv(&self.socket, &mut thrown_away, RecvFlags::DONTWAIT) {
                Ok((_, n)) if n > 0 => {}
                _ => break,
            }
        }
    }
}

/// The second socket of a client, which the session owns. The functions are those of [`Connection`].
pub(crate) mod twin {
    use super::{Closed, Received, Session};

    pub(crate) fn receive(session: &mut Session) -> Result<bool, Closed> {
        let Some(socket) = session.twin_fd().cloned() else {
            return Ok(false);
        };
        match super::receive(&*socket, session.twin_space())? {
            Some(Received { bytes, fds, lost }) => session.twin_received(bytes, fds, lost),
            None => return Ok(false),
        }
        Ok(true)
    }

    pub(crate) fn flush(session: &mut Session) -> Result<(), Closed> {
        let Some(socket) = session.twin_fd().cloned() else {
            return Ok(());
        };
        while !session.twin_output().is_empty() {
            match super::send(&*socket, session.twin_output(), &[])? {
                Some(n) => session.twin_sent(n),
                None => break,
            }
        }
        Ok(())
    }
}

/// What one receive call brought.
struct Received {
    bytes: usize,
    /// One more than we take, since the kernel may use what aligns its buffer; the session counts.
    fds: ArrayVec<OwnedFd, { MAX_FDS + 1 }>,
    /// There were more.
    lost: bool,
}

/// Receives once into `space`. None if there is nothing to receive now.
fn receive(socket: impl AsFd, space: &mut [u8]) -> Result<Option<Received>, Closed> {
    if space.is_empty() {
        return Ok(None);
    }
    let mut control = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut control);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = match recvmsg(socket, &mut [IoSliceMut::new(space)], &mut control, flags) {
        Ok(message) if message.bytes == 0 => return Err(Closed::ByClient),
        Ok(message) => message,
        Err(errno) => return unless_gone(errno),
    };
    let mut received = Received {
        bytes: message.bytes,
        fds: ArrayVec::new(),
        lost: message.flags.contains(ReturnFlags::CTRUNC),
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            for fd in fds {
                received.lost |= received.fds.try_push(fd).is_err();
            }
        }
    }
    Ok(Some(received))
}

/// Sends once. None if there is no room now.
fn send(socket: impl AsFd, bytes: &[u8], fds: &[Arc<OwnedFd>]) -> Result<Option<usize>, Closed> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = if fds.is_empty() {
        net::send(socket, bytes, flags)
    } else {
        let fds: ArrayVec<BorrowedFd<'_>, MAX_FDS> =
            fds.iter().take(MAX_FDS).map(|fd| fd.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)
    };
    sent.map(Some).or_else(unless_gone)
}

fn unless_gone<T>(errno: Errno) -> Result<Option<T>, Closed> {
    match errno {
        Errno::AGAIN | Errno::INTR => Ok(None),
        Errno::CONNRESET | Errno::PIPE => Err(Closed::ByClient),
        errno => Err(Closed::Socket(errno.into())),
    }
}
