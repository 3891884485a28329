//! One NIC: its control behind a vfio-user server, its two queues, its backend.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use guest_mem::{GuestMem, Published};
use net_backend::{Backend, RxBuf};
use nic_emu::Time;
use nic_emu::common::frame::TxBurst;
use nic_emu::e1000::rx::RxQueue;
use nic_emu::e1000::tx::{Fetch, TxQueue};
use nic_emu::e1000::{self, CountersSnapshot, Kick};
use rustix::event::epoll::{self, EventData, EventFlags};
use vfio_user::{Accepted, Closed, Epoll, Event, Listener, Server};

use crate::engine::Engine;
use crate::loopback;
use crate::mac::MacAddr;
use crate::summary;

/// Bursts sent and frames received in one turn; who has more goes to the back of the list.
const TX_BURSTS_PER_TURN: usize = 8;
const RX_FRAMES_PER_TURN: usize = 128;
/// Frames thrown away at once when reception is switched on: what came while it was off never was for this guest.
/// More than the queue of a TAP holds.
const BACKLOG: usize = 4096;

/// How long a hypervisor that could not be let in waits for the next try.
const LISTEN_AGAIN: Duration = Duration::from_millis(100);

/// One of the descriptors of a NIC. Its epoll data is the NIC's number and these four low bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// One of the server's; the epoll data says which.
    Server(u64),
    /// The backend's: frames, or room for more.
    Backend,
    /// The backend's link may have changed.
    Link,
}

const TOKEN_BITS: u32 = 4;
const TOKEN_BACKEND: u64 = 8;
const TOKEN_LINK: u64 = 9;

impl Source {
    /// Takes epoll data apart into the number of a NIC and its descriptor.
    pub(crate) fn of_token(data: u64) -> (usize, Self) {
        let source = match data & ((1 << TOKEN_BITS) - 1) {
            TOKEN_BACKEND => Self::Backend,
            TOKEN_LINK => Self::Link,
            _ => Self::Server(data),
        };
        ((data >> TOKEN_BITS) as usize, source)
    }
}

/// One NIC of a shard.
pub struct Nic {
    name: String,
    mac: MacAddr,
    token: u64,
    server: Server,
    engine: Engine,
    tx: TxQueue,
    rx: RxQueue,
    backend: Box<dyn Backend>,
    published: Arc<Published<GuestMem>>,
    mem: Arc<GuestMem>,
    epoch: u64,
    /// The backend said that it has frames, and has not said since that it has none.
    rx_ready: bool,
    rx_enabled: bool,
    /// The transmit ring has descriptors that nobody has looked at.
    tx_ready: bool,
    /// The backend did not take all that it was offered.
    tx_blocked: bool,
    /// When to try again after a hypervisor could not be let in.
    listen_again: Option<Time>,
    /// For frames that the NIC sends to itself; empty until it does.
    loopback: Vec<u8>,
    /// What epoll watches the backend for; none if it is not registered.
    watched: Option<EventFlags>,
}

/// What a NIC has counted, for the operator.
#[derive(Clone, Debug)]
pub struct Report {
    /// The NIC's name: that of its socket.
    pub name: String,
    /// Counters of the model.
    pub model: CountersSnapshot,
    /// Counters of the backend.
    pub backend: net_backend::Counters,
}

impl Nic {
    /// A NIC with this address that listens on `listener` and exchanges frames with `backend`. Nothing happens
    /// before a shard takes it over.
    pub fn new(name: String, mac: MacAddr, listener: Listener, backend: Box<dyn Backend>) -> Self {
        let (control, tx, rx) = e1000::new(&e1000::Config::new(mac.0));
        let server = Server::new(listener, Engine::device(&control));
        let published = server.mem();
        let engine = Engine::new(control, server.irqs());
        Self {
            name,
            mac,
            token: 0,
            engine,
            tx,
            rx,
            backend,
            mem: published.load(),
            published,
            epoch: server.epoch(),
            server,
            rx_ready: false,
            rx_enabled: false,
            tx_ready: false,
            tx_blocked: false,
            listen_again: None,
            loopback: Vec::new(),
            watched: None,
        }
    }

    /// The NIC's name in logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address in its EEPROM.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Registers everything with `epoll` under number `index`.
    pub(crate) fn start(&mut self, epoll: BorrowedFd<'_>, index: usize) -> io::Result<()> {
        self.token = (index as u64) << TOKEN_BITS;
        if let Some(fd) = self.backend.link_fd() {
            epoll::add(
                epoll,
                fd,
                EventData::new_u64(self.token | TOKEN_LINK),
                EventFlags::IN,
            )?;
        }
        let link = self.backend.link();
        self.engine.set_link(link);
        self.server.update_watches(&mut Epoll {
            epoll,
            token: self.token,
        })
    }

    /// Answers what a descriptor reports. Queue work is left to the next turn.
    pub(crate) fn handle(
        &mut self,
        source: Source,
        flags: EventFlags,
        now: Time,
        epoll: BorrowedFd<'_>,
    ) -> io::Result<()> {
        self.engine.set_now(now);
        match source {
            Source::Backend => self.rx_ready = true,
            Source::Link => {
                let link = self.backend.link();
                self.engine.set_link(link);
                tracing::info!(
                    nic = self.name,
                    "link of {} is {}",
                    self.backend.name(),
                    up(link)
                );
            }
            Source::Server(data) => {
                let Some(event) = Event::from_epoll(data, flags) else {
                    return Ok(());
                };
                match self.server.on_event(event, &mut self.engine) {
                    Ok(Some(Accepted::Client)) => {
                        tracing::info!(nic = self.name, "a hypervisor has connected")
                    }
                    Ok(Some(Accepted::Refused)) => {
                        tracing::warn!(
                            nic = self.name,
                            "refused a second hypervisor: the NIC is in use"
                        );
                    }
                    Ok(Some(Accepted::Failed(error))) => {
                        tracing::error!(nic = self.name, "cannot let a hypervisor in: {error}");
                        self.listen_again = Some(now + LISTEN_AGAIN);
                    }
                    Ok(_) => {}
                    Err(closed) => self.closed(&closed),
                }
                self.pass_epochs();
                self.server.update_watches(&mut Epoll {
                    epoll,
                    token: self.token,
                })?;
            }
        }
        Ok(())
    }

    /// Does what is due: timers, both queues within their budgets, the interrupt line. Returns whether there is
    /// more to do at once.
    pub(crate) fn turn(
        &mut self,
        now: Time,
        rx_buf: &mut RxBuf,
        epoll: BorrowedFd<'_>,
    ) -> io::Result<bool> {
        self.engine.set_now(now);
        self.engine.run_timers();
        if self.listen_again.is_some_and(|at| at <= now) {
            self.listen_again = None;
            self.server.listen_again();
            self.server.update_watches(&mut Epoll {
                epoll,
                token: self.token,
            })?;
        }
        if self
            .backend
            .deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            self.backend.run_timers(now);
            self.rx_ready = true;
        }

        let kick = self.engine.take_kick();
        self.tx_ready |= kick.intersects(Kick::TX | Kick::RESET);
        let tx_more = (self.tx_ready || self.tx_blocked) && self.transmit(now);
        let rx_kicked = kick.intersects(Kick::RX | Kick::RESET);
        if rx_kicked {
            self.switch_reception(now, rx_buf);
        }
        let rx_more = (self.rx_ready || rx_kicked) && self.receive(now, rx_buf);

        self.watch_backend(epoll)?;
        self.engine.update_line();
        Ok(tx_more || rx_more)
    }

    /// When this NIC needs a turn although nothing happens.
    pub(crate) fn deadline(&self) -> Option<Time> {
        [
            self.engine.deadline(),
            self.backend.deadline(),
            self.listen_again,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Ends the NIC: its socket, client and backend are gone afterwards.
    pub(crate) fn close(self) -> Report {
        let model = self.engine.counters();
        Report {
            name: self.name,
            model,
            backend: self.backend.counters(),
        }
    }

    /// Sends what the ring holds; returns whether the budget ended it.
    fn transmit(&mut self, now: Time) -> bool {
        let mem = Arc::clone(&self.mem);
        self.tx_ready = false;
        self.tx_blocked = false;
        for _ in 0..TX_BURSTS_PER_TURN {
            let mut burst = TxBurst::new();
            let fetch = self.tx.fetch(&mem, &mut burst, now);
            let offered = burst.len();
            let taken = if burst.loopback() {
                loopback::deliver(&burst, &mut self.rx, &mem, &mut self.loopback, now)
            } else if offered > 0 {
                self.backend.send(&burst, now)
            } else {
                0
            };
            self.tx.complete(&mem, &mut burst, taken, now);
            if taken < offered {
                self.tx_blocked = true;
                return false;
            }
            if fetch != Fetch::More {
                return false;
            }
        }
        self.tx_ready = true;
        true
    }

    /// Receives until there is nothing, no buffer, or the budget is used up; returns whether the budget ended it.
    fn receive(&mut self, now: Time, rx_buf: &mut RxBuf) -> bool {
        let mem = Arc::clone(&self.mem);
        let mut budget = RX_FRAMES_PER_TURN;
        self.rx.resume(&mem, now);
        while budget > 0 && self.rx_ready && self.rx.has_room() {
            let Some(frame) = self.backend.recv(rx_buf, now) else {
                self.rx_ready = false;
                break;
            };
            self.rx.deliver(&mem, frame, now);
            budget -= 1;
        }
        self.rx.finish(&mem, now);
        budget == 0
    }

    /// Throws away what queued up while the guest had its receiver off: a NIC that is off hears nothing.
    fn switch_reception(&mut self, now: Time, rx_buf: &mut RxBuf) {
        let enabled = self.rx.enabled();
        if enabled && !self.rx_enabled {
            for _ in 0..BACKLOG {
                if self.backend.recv(rx_buf, now).is_none() {
                    break;
                }
                self.engine.count_rx_disabled();
            }
        }
        self.rx_enabled = enabled;
    }

    /// Follows the client's changes of memory and interrupts, and lets the answers that waited for it leave.
    fn pass_epochs(&mut self) {
        while self.server.epoch() != self.epoch {
            self.epoch = self.server.epoch();
            self.mem = self.published.load();
            if let Err(closed) = self.server.pass_epoch(self.epoch, &mut self.engine) {
                self.closed(&closed);
            }
        }
    }

    fn closed(&mut self, closed: &Closed) {
        let counters = self.engine.counters();
        tracing::info!(
            nic = self.name,
            "{closed}; waiting for the next hypervisor ({})",
            summary::guest(&counters)
        );
    }

    /// Wakes up for the backend only if something would come of it: for frames if the guest receives and has buffers,
    /// for room if frames wait for it. A backend that cannot say when it has room has a deadline instead.
    fn watch_backend(&mut self, epoll: BorrowedFd<'_>) -> io::Result<()> {
        let Some(fd) = self.backend.fd() else {
            if self.watched.take().is_some() {
                let link = self.backend.link();
                self.engine.set_link(link);
            }
            return Ok(());
        };
        let stalled = self.rx_ready && !self.rx.has_room();
        let mut wanted = EventFlags::empty();
        if self.rx_enabled && !stalled {
            wanted |= EventFlags::IN;
        }
        if self.tx_blocked && self.backend.wants_writable() {
            wanted |= EventFlags::OUT;
        }
        if self.watched == Some(wanted) || (self.watched.is_none() && wanted.is_empty()) {
            return Ok(());
        }
        let data = EventData::new_u64(self.token | TOKEN_BACKEND);
        // Not watched at all when nothing is wanted: epoll reports errors and hang-ups of whatever it watches.
        match (self.watched, wanted.is_empty()) {
            (_, true) => epoll::delete(epoll, fd)?,
            (None, false) => epoll::add(epoll, fd, data, wanted)?,
            (Some(_), false) => epoll::modify(epoll, fd, data, wanted)?,
        }
        self.watched = (!wanted.is_empty()).then_some(wanted);
        Ok(())
    }
}

fn up(link: bool) -> &'static str {
    if link { "up" } else { "down" }
}
