//! A device on a socket: one listener, at most one client, and what an event loop needs to drive them.

#[cfg(test)]
mod batches;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use guest_mem::{GuestMem, Published};
use tracing::debug;

use crate::conn::{Connection, twin};
use crate::device::Device;
use crate::dma::Memory;
use crate::event::{Event, Interest, Poller, Source};
use crate::handler::Handler;
use crate::irq::IrqTable;
use crate::listener::Listener;
use crate::messages::Messages;
use crate::remote::DmaMessages;
use crate::session::{Closed, Session};

/// What became of those who wanted to connect. Specification, "Socket".
#[derive(Debug)]
pub enum Accepted {
    /// A client is connected.
    Client,
    /// There was one already; the new one was turned away.
    Refused,
    /// Nobody waits (any more).
    Nobody,
    /// The system could not accept, mostly for want of descriptors. Whoever waits goes on waiting, which would keep the
    /// listener readable: it is not watched until [`Server::listen_again`].
    Failed(io::Error),
}

/// A device that is served on a socket. Never blocks; each call does a bounded piece of work.
/// Specification, "Client/server interactions".
///
/// See the [crate's documentation](crate) for the event loop around it.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    session: Session,
    connection: Option<Connection>,
    /// Nobody can be accepted at the moment.
    deaf: bool,
    watched: Watched,
}

/// What the event loop was last told.
#[derive(Debug, Default)]
struct Watched {
    listener: bool,
    connection: Option<Interest>,
    twin: Option<Interest>,
    dma: bool,
    /// Kept open until the event loop has let go of it: the client holds the same open file, so our closing it
    /// would not end an epoll's interest in it.
    resample: Option<Arc<OwnedFd>>,
}

impl Server {
    /// Serves `device` to those who connect to `listener`.
    pub fn new(listener: Listener, device: Device) -> Self {
        Self {
            listener,
            session: Session::new(device),
            connection: None,
            deaf: false,
            watched: Watched::default(),
        }
    }

    /// The guest's memory; the cell stays the same over connections.
    pub fn mem(&self) -> Arc<Published<GuestMem>> {
        self.session.mem()
    }

    /// The device's interrupts; the table stays the same over connections.
    pub fn irqs(&self) -> Arc<IrqTable> {
        self.session.irqs()
    }

    /// How the guest's memory can be reached. If only by messages ([`Memory::Remote`]), queues need a thread of their
    /// own: what they ask for is answered through this server.
    pub fn memory(&self) -> Memory {
        self.session.memory()
    }

    /// What DMA by message came to so far, over all clients.
    pub fn dma_messages(&self) -> DmaMessages {
        self.session.dma_messages()
    }

    /// What clients have asked for so far, negotiation apart.
    pub fn messages(&self) -> Messages {
        self.session.messages()
    }

    /// The memory that clients map of a BAR, if [the device says so](crate::DeviceBuilder::mappable); addresses are
    /// offsets in the BAR.
    pub fn region_mem(&self, bar: usize) -> Option<Arc<GuestMem>> {
        self.session.region_mem(bar)
    }

    /// The newest epoch. When it has moved, queues load the memory map again; then [`pass_epoch`](Self::pass_epoch).
    pub fn epoch(&self) -> u64 {
        self.session.epoch()
    }

    /// Whether a client is connected.
    pub fn connected(&self) -> bool {
        self.connection.is_some()
    }

    /// No queue uses anything any more that was taken away up to epoch `epoch`: sends the replies that waited for it
    /// and goes on with requests that waited behind them.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the client is gone.
    pub fn pass_epoch(
        &mut self,
        epoch: u64,
        handler: &mut (impl Handler + ?Sized),
    ) -> Result<(), Closed> {
        self.session.pass_epoch(epoch);
        self.on_writable(handler)
    }

    /// Passes every epoch that has begun, and those that begin with the requests which waited behind them: for a device
    /// that uses guest memory only while its handler is called, if at all. Call it after the events of each turn.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the client is gone.
    pub fn pass_epochs(&mut self, handler: &mut (impl Handler + ?Sized)) -> Result<(), Closed> {
        loop {
            let epoch = self.epoch();
            self.pass_epoch(epoch, handler)?;
            if self.epoch() == epoch {
                return Ok(());
            }
        }
    }

    /// Dispatches to the `on_*` functions. Events that have become void meanwhile do no harm.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the client is gone.
    pub fn on_event(
        &mut self,
        event: Event,
        handler: &mut (impl Handler + ?Sized),
    ) -> Result<Option<Accepted>, Closed> {
        match event.source {
            Source::Listener => return Ok(Some(self.on_listener(handler))),
            Source::Resample => self.on_resample(),
            Source::Twin => self.on_twin(handler)?,
            Source::Dma => self.on_dma_requests(handler)?,
            Source::Connection => {
                if event.writable {
                    self.on_writable(handler)?;
                }
                if event.readable || event.hangup {
                    self.on_readable(handler)?;
                }
            }
        }
        Ok(None)
    }

    /// Somebody wants to connect. Accepts one; if there is a client already, the new one is turned away at once,
    /// except that a client which has hung up makes room.
    pub fn on_listener(&mut self, handler: &mut (impl Handler + ?Sized)) -> Accepted {
        let newcomer = match self.listener.accept() {
            Ok(Some(socket)) => Connection::new(socket),
            Ok(None) => return Accepted::Nobody,
            Err(error) => {
                self.deaf = true;
                return Accepted::Failed(error);
            }
        };
        if let Some(connection) = &self.connection {
            if !connection.is_hung_up() {
                return Accepted::Refused;
            }
            self.disconnect(&Closed::ByClient, handler);
        }
        debug!("client connected");
        self.connection = Some(newcomer);
        Accepted::Client
    }

    /// Some time has passed since [`Accepted::Failed`]: listens again.
    pub fn listen_again(&mut self) {
        self.deaf = false;
    }

    /// The client sent something: receives once, executes what came, sends the replies that need not wait.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the client is gone.
    pub fn on_readable(&mut self, handler: &mut (impl Handler + ?Sized)) -> Result<(), Closed> {
        let Some(connection) = &self.connection else {
            return Ok(());
        };
        if !self.session.wants_input() {
            // Only a hang-up is of interest while replies pile up.
            return match connection.is_hung_up() {
                true => Err(self.disconnect_for(Closed::ByClient, handler)),
                false => Ok(()),
            };
        }
        match connection.receive(&mut self.session) {
            Ok(true) => self.work(handler),
            Ok(false) => Ok(()),
            Err(closed) => Err(self.disconnect_for(closed, handler)),
        }
    }

    /// There is room to send: sends replies that wait, and goes on with requests that waited for that.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the client is gone.
    pub fn on_writable(&mut self, handler: &mut (impl Handler + ?Sized)) -> Result<(), Closed> {
        if self.connection.is_none() {
            return Ok(());
        }
        if let Err(closed) = self.flush() {
            return Err(self.disconnect_for(closed, handler));
        }
        match self.session.can_continue() {
            true => self.work(handler),
            false => Ok(()),
        }
    }

    /// The client answered on the second socket, or there is room to send on it.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the client is gone, from this socket even if not from the first.
    pub fn on_twin(&mut self, handler: &mut (impl Handler + ?Sized)) -> Result<(), Closed> {
        let received = match twin::receive(&mut self.session) {
            Ok(true) => self.session.process_twin(),
            Ok(false) => Ok(()),
            Err(closed) => Err(closed),
        };
        match received.and_then(|()| self.flush()) {
            Ok(()) => Ok(()),
            Err(closed) => Err(self.disconnect_for(closed, handler)),
        }
    }

    /// Queues on other threads ask for guest memory that only the client can reach: passes it on.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the client is gone.
    pub fn on_dma_requests(&mut self, handler: &mut (impl Handler + ?Sized)) -> Result<(), Closed> {
        self.session.on_dma_requests();
        match self.flush() {
            Ok(()) => Ok(()),
            Err(closed) => Err(self.disconnect_for(closed, handler)),
        }
    }

    /// The client says that the interrupt line may rise again.
    pub fn on_resample(&mut self) {
        self.session.on_resample();
    }

    /// Ends the connection from our side.
    pub fn close(&mut self, handler: &mut (impl Handler + ?Sized)) {
        if self.connection.take().is_some() {
            self.watched.connection = None;
            self.watched.twin = None;
            self.session.disconnect(handler);
        }
    }

    /// Tells the event loop what changed about the descriptors to watch. Call it after any other call; it costs next
    /// to nothing when nothing changed.
    ///
    /// # Errors
    ///
    /// What the event loop says; the next call tries again.
    pub fn update_watches(&mut self, poller: &mut (impl Poller + ?Sized)) -> io::Result<()> {
        if self.deaf && self.watched.listener {
            poller.unwatch(self.listener.as_fd())?;
            self.watched.listener = false;
        }
        if !self.deaf && !self.watched.listener {
            poller.watch(
                Source::Listener,
                self.listener.as_fd(),
                Interest::READ,
                true,
            )?;
            self.watched.listener = true;
        }
        if let Some(connection) = &self.connection {
            let mut interest = Interest::empty();
            interest.set(Interest::READ, self.session.wants_input());
            let writes = self.session.has_output() || self.session.can_continue();
            interest.set(Interest::WRITE, writes);
            if self.watched.connection != Some(interest) {
                let new = self.watched.connection.is_none();
                poller.watch(Source::Connection, connection.as_fd(), interest, new)?;
                self.watched.connection = Some(interest);
            }
        }
        if let Some(twin) = self.session.twin_fd() {
            let mut interest = Interest::READ;
            interest.set(Interest::WRITE, !self.session.twin_output().is_empty());
            if self.watched.twin != Some(interest) {
                let new = self.watched.twin.is_none();
                poller.watch(Source::Twin, twin.as_fd(), interest, new)?;
                self.watched.twin = Some(interest);
            }
        }
        if let Some(fd) = self.session.dma_fd()
            && !self.watched.dma
        {
            poller.watch(Source::Dma, fd, Interest::READ, true)?;
            self.watched.dma = true;
        }
        let resample = self.session.resample_fd();
        if !same(self.watched.resample.as_ref(), resample) {
            let resample = resample.cloned();
            if let Some(old) = self.watched.resample.take() {
                poller.unwatch(old.as_fd())?;
            }
            if let Some(new) = &resample {
                poller.watch(Source::Resample, new.as_fd(), Interest::READ, true)?;
            }
            self.watched.resample = resample;
        }
        Ok(())
    }

    /// Sends what may leave on either socket.
    fn flush(&mut self) -> Result<(), Closed> {
        let Some(connection) = &self.connection else {
            return Ok(());
        };
        twin::flush(&mut self.session)?;
        connection.flush(&mut self.session)
    }

    fn work(&mut self, handler: &mut (impl Handler + ?Sized)) -> Result<(), Closed> {
        let processed = self.session.process(handler);
        match processed.and(self.flush()) {
            Ok(()) => Ok(()),
            Err(closed) => Err(self.disconnect_for(closed, handler)),
        }
    }

    fn disconnect_for(&mut self, closed: Closed, handler: &mut (impl Handler + ?Sized)) -> Closed {
        self.disconnect(&closed, handler);
        closed
    }

    fn disconnect(&mut self, closed: &Closed, handler: &mut (impl Handler + ?Sized)) {
        debug!(reason = %closed, "client disconnected");
        self.close(handler);
    }
}

fn same(a: Option<&Arc<OwnedFd>>, b: Option<&Arc<OwnedFd>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}
