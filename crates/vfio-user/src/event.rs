//! How a server is told that its descriptors are ready, and tells an event loop which ones to watch.

use std::io;
use std::os::fd::BorrowedFd;

use bitflags::bitflags;
use rustix::event::epoll;

/// Which of a server's descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The listening socket.
    Listener = 0,
    /// The connected client.
    Connection = 1,
    /// The eventfd by which the client lets the interrupt line rise again.
    Resample = 2,
    /// The second socket, if the client wanted one.
    Twin = 3,
    /// The eventfd by which queues ask for guest memory that only the client can reach.
    Dma = 4,
}

bitflags! {
    /// What to watch a descriptor for, level-triggered. Hang-up is always watched.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Interest: u8 {
        /// There is something to read.
        const READ = 1 << 0;
        /// There is room to write.
        const WRITE = 1 << 1;
    }
}

/// Something happened to a descriptor of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which.
    pub source: Source,
    /// There is something to read.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// The other end closed, or the socket failed.
    pub hangup: bool,
}

impl Event {
    /// What [`Epoll`] watched and `epoll_wait` reported. None if the three lowest bits of the data are 5, 6 or 7, which no
    /// server uses: a loop's own descriptors can have them. Which server it was the other bits say, its
    /// [token](Epoll::token).
    pub fn from_epoll(data: u64, flags: epoll::EventFlags) -> Option<Self> {
        Some(Self {
            source: match data & Epoll::SOURCE {
                0 => Source::Listener,
                1 => Source::Connection,
                2 => Source::Resample,
                3 => Source::Twin,
                4 => Source::Dma,
                _ => return None,
            },
            readable: flags.contains(epoll::EventFlags::IN),
            writable: flags.contains(epoll::EventFlags::OUT),
            hangup: flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR),
        })
    }
}

/// Where a server registers its descriptors: an event loop.
pub trait Poller {
    /// Watches `fd` for `interest`; it is not watched yet if `new`.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn watch(
        &mut self,
        source: Source,
        fd: BorrowedFd<'_>,
        interest: Interest,
        new: bool,
    ) -> io::Result<()>;

    /// Watches `fd` no longer.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn unwatch(&mut self, fd: BorrowedFd<'_>) -> io::Result<()>;
}

/// A [`Poller`] over an epoll instance. Events carry `token` with the [`Source`] in its three lowest bits.
#[derive(Clone, Copy, Debug)]
pub struct Epoll<'a> {
    /// The epoll instance.
    pub epoll: BorrowedFd<'a>,
    /// Tells this server's events from others'; its three lowest bits are not used.
    pub token: u64,
}

impl Epoll<'_> {
    /// The bits of an event's data that tell the [`Source`].
    pub const SOURCE: u64 = 0b111;
}

impl Poller for Epoll<'_> {
    fn watch(
        &mut self,
        source: Source,
        fd: BorrowedFd<'_>,
        interest: Interest,
        new: bool,
    ) -> io::Result<()> {
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, interest.contains(Interest::READ));
        flags.set(epoll::EventFlags::OUT, interest.contains(Interest::WRITE));
        let data = epoll::EventData::new_u64(self.token & !Self::SOURCE | source as u64);
        match new {
            true => epoll::add(self.epoll, fd, data, flags)?,
            false => epoll::modify(self.epoll, fd, data, flags)?,
        }
        Ok(())
    }

    fn unwatch(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::delete(self.epoll, fd)?)
    }
}
