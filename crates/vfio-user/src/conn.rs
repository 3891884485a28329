//! The socket of one client: nonblocking, read in bulk, written in whole replies.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use arrayvec::ArrayVec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, recv, recvmsg, send, sendmsg, shutdown,
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
        // The kernel may use what aligns the buffer for one more than we take; the session counts.
        let mut control = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut control);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let space = session.space();
        if space.is_empty() {
            return Ok(false);
        }
        let mut iov = [IoSliceMut::new(space)];
        let message = match recvmsg(&self.socket, &mut iov, &mut control, flags) {
            Ok(message) if message.bytes == 0 => return Err(Closed::ByClient),
            Ok(message) => message,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(Errno::CONNRESET | Errno::PIPE) => return Err(Closed::ByClient),
            Err(errno) => return Err(Closed::Socket(errno.into())),
        };
        let fds = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let lost = message.flags.contains(ReturnFlags::CTRUNC);
        session.received(message.bytes, fds.flatten(), lost);
        Ok(true)
    }

    /// Sends what may leave, until the socket is full.
    pub(crate) fn flush(&self, session: &mut Session) -> Result<(), Closed> {
        while session.has_output() {
            match self.send(session.output(), session.output_fds()) {
                Ok(n) => session.sent(n),
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(Errno::CONNRESET | Errno::PIPE) => return Err(Closed::ByClient),
                Err(errno) => return Err(Closed::Socket(errno.into())),
            }
        }
        Ok(())
    }

    fn send(&self, bytes: &[u8], fds: &[Arc<OwnedFd>]) -> Result<usize, Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        if fds.is_empty() {
            return send(&self.socket, bytes, flags);
        }
        let fds: ArrayVec<BorrowedFd<'_>, MAX_FDS> =
            fds.iter().take(MAX_FDS).map(|fd| fd.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, flags)
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
