//! The descriptors of a NIC, and how epoll tells them apart.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::event::epoll::{self, EventData, EventFlags};

/// One of the descriptors of a NIC. Its epoll data is the NIC's number and these four low bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// One of the server's; the epoll data says which.
    Server(u64),
    /// The backend's: it has frames.
    Frames,
    /// The backend's: it has room again.
    Room,
    /// The backend's link may have changed.
    Link,
    /// Parts on other threads have news for the control.
    ControlWaker,
    /// Parts on other threads have news for the transmit queue.
    TxWaker,
    /// Parts on other threads have news for the receive queue.
    RxWaker,
}

pub(super) const TOKEN_BITS: u32 = 4;
pub(super) const TOKEN_FRAMES: u64 = 8;
pub(super) const TOKEN_LINK: u64 = 9;
pub(super) const TOKEN_CONTROL: u64 = 10;
pub(super) const TOKEN_TX: u64 = 11;
pub(super) const TOKEN_RX: u64 = 12;
pub(super) const TOKEN_ROOM: u64 = 13;

impl Source {
    /// Takes epoll data apart into the number of a NIC and its descriptor.
    pub(crate) fn of_token(data: u64) -> (usize, Self) {
        let source = match data & ((1 << TOKEN_BITS) - 1) {
            TOKEN_FRAMES => Self::Frames,
            TOKEN_ROOM => Self::Room,
            TOKEN_LINK => Self::Link,
            TOKEN_CONTROL => Self::ControlWaker,
            TOKEN_TX => Self::TxWaker,
            TOKEN_RX => Self::RxWaker,
            _ => Self::Server(data),
        };
        ((data >> TOKEN_BITS) as usize, source)
    }
}

/// Has epoll watch a descriptor, or not any more: it reports errors and hang-ups of whatever it watches.
pub(super) fn watch(
    epoll: BorrowedFd<'_>,
    fd: BorrowedFd<'_>,
    data: u64,
    flags: EventFlags,
    wanted: bool,
) -> io::Result<()> {
    match wanted {
        true => epoll::add(epoll, fd, EventData::new_u64(data), flags)?,
        false => epoll::delete(epoll, fd)?,
    }
    Ok(())
}
