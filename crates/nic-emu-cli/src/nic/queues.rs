//! The queues of a NIC: everything that touches guest memory, and the backend.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use guest_mem::{GuestMem, Published, sigbus};
use net_backend::{Backend, Room, RxBuf};
use nic_emu::Time;
use nic_emu::common::frame::TxBurst;
use nic_emu::e1000::Kick;
use nic_emu::e1000::rx::{Overrun, RxQueue};
use nic_emu::e1000::tx::{Fetch, TxQueue};
use rustix::event::epoll::{self, EventData, EventFlags};

use super::asked::QueuesAnswer;
use super::joint::{Joint, SavedQueues};
use super::{TOKEN_FRAMES, TOKEN_LINK, TOKEN_ROOM};
use crate::loopback;

/// Bursts sent and frames received in one turn, a super-frame counted as what it is cut into; who has more goes to the
/// back of the list.
const TX_BURSTS_PER_TURN: usize = 8;
const RX_FRAMES_PER_TURN: usize = 128;
/// Frames thrown away at once when reception is switched on: what came while it was off never was for this guest.
/// More than the queue of a TAP holds.
const BACKLOG: usize = 4096;

/// Moves frames between the guest's rings and the backend.
pub(crate) struct Queues {
    joint: Arc<Joint>,
    tx: TxQueue,
    rx: RxQueue,
    backend: Backend,
    published: Arc<Published<GuestMem>>,
    mem: Arc<GuestMem>,
    token: u64,
    /// On a thread of their own, which may wait for memory that the hypervisor has to be asked for.
    apart: bool,
    /// The NIC stands still, and what the queues are is saved.
    stopped: bool,
    /// Faults in guest memory that were survived when this was last looked at.
    faults: usize,
    /// The backend said that it has frames, and has not said since that it has none.
    rx_ready: bool,
    rx_enabled: bool,
    /// The transmit ring has descriptors that nobody has looked at.
    tx_ready: bool,
    /// The backend did not take all that it was offered.
    tx_blocked: bool,
    /// For frames that the NIC sends to itself; empty until it does.
    loopback: Vec<u8>,
    /// Whether epoll watches the backend for frames.
    frames_watched: bool,
    /// Whether it watches for room in the backend.
    room_watched: bool,
}

impl Queues {
    pub(super) fn new(
        joint: Arc<Joint>,
        tx: TxQueue,
        rx: RxQueue,
        backend: Backend,
        published: Arc<Published<GuestMem>>,
    ) -> Self {
        Self {
            joint,
            tx,
            rx,
            backend,
            mem: Arc::new(GuestMem::empty()),
            published,
            token: 0,
            apart: false,
            stopped: false,
            faults: sigbus::faults(),
            rx_ready: false,
            rx_enabled: false,
            tx_ready: false,
            tx_blocked: false,
            loopback: Vec::new(),
            frames_watched: false,
            room_watched: false,
        }
    }

    pub(super) fn set_overrun(&mut self, overrun: Overrun) {
        self.rx.set_overrun(overrun);
    }

    /// Registers the backend with `epoll` under this token, and looks at everything once.
    pub(super) fn start(
        &mut self,
        epoll: BorrowedFd<'_>,
        token: u64,
        apart: bool,
    ) -> io::Result<()> {
        self.token = token;
        self.apart = apart;
        (self.frames_watched, self.room_watched) = (false, false);
        self.load_memory();
        if let Some(fd) = self.backend.rx.link_fd() {
            let data = EventData::new_u64(token | TOKEN_LINK);
            epoll::add(epoll, fd, data, EventFlags::IN)?;
        }
        let link = self.backend.rx.link();
        self.joint.set_cable(link);
        // Whatever happened while nobody watched.
        self.tx_ready = true;
        self.rx_ready = true;
        Ok(())
    }

    /// Takes the backend out of `epoll` again.
    pub(super) fn leave(&mut self, epoll: BorrowedFd<'_>) -> io::Result<()> {
        if let Some(fd) = self.backend.rx.link_fd() {
            epoll::delete(epoll, fd)?;
        }
        self.watch_frames(epoll, false)?;
        self.watch_room(epoll, false)
    }

    /// The backend has frames.
    pub(super) fn on_frames(&mut self) {
        self.rx_ready = true;
    }

    /// The backend has room again.
    pub(super) fn on_room(&mut self) {
        self.tx_ready = true;
    }

    /// The backend's link may have changed.
    pub(super) fn on_link(&mut self) {
        let link = self.backend.rx.link();
        self.joint.set_cable(link);
        tracing::info!(
            nic = self.joint.name,
            "link of {} is {}",
            self.backend.name,
            if link { "up" } else { "down" }
        );
    }

    /// Lets go of everything that the control has taken away, takes over what it has handed; returns whether there was
    /// anything.
    pub(super) fn pass_epoch(&mut self, now: Time) -> bool {
        let asked = self.joint.asked();
        if asked == self.joint.passed() {
            return false;
        }
        self.load_memory();
        if let Some(queues) = self.joint.take_handed() {
            self.tx.restore(&queues.tx, queues.generation);
            self.rx.restore(&queues.rx, queues.generation);
            // What waits in the backend is for this guest, whose receiver has been on.
            self.rx_enabled = true;
        }
        if self.joint.is_stopped() {
            self.stop(now);
        }
        self.joint.pass(asked);
        true
    }

    fn load_memory(&mut self) {
        let mem = self.published.load();
        self.mem = match self.apart {
            true => mem,
            false => Arc::new(mem.nonblocking()),
        };
    }

    /// Leaves guest memory and the backend alone from now on, and says what there is to be saved.
    fn stop(&mut self, now: Time) {
        let ended = self
            .tx
            .stop(&self.mem, now)
            .and(self.rx.stop(&self.mem, now));
        if ended.is_err() {
            // Only memory that takes no writes before an epoch has passed, which no hypervisor's is.
            tracing::warn!(nic = self.joint.name, "stopped in the middle of a batch");
        }
        self.joint.save_queues(SavedQueues {
            tx: self.tx.save(),
            rx: self.rx.save(),
            generation: 0,
        });
        self.stopped = true;
    }

    /// Both queues, within their budgets. Returns whether there is more to do at once.
    pub(super) fn turn(
        &mut self,
        now: Time,
        rx_buf: &mut RxBuf,
        epoll: BorrowedFd<'_>,
    ) -> io::Result<bool> {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.backend.tx.run_timers(now);
            self.backend.rx.run_timers(now);
            self.rx_ready = true;
        }
        let kick = self.joint.take_kick();
        if self.stopped {
            if self.joint.is_stopped() {
                self.watch_backend(epoll)?;
                return Ok(false);
            }
            self.stopped = false;
            (self.tx_ready, self.rx_ready) = (true, true);
        }
        self.tx_ready |= kick.intersects(Kick::TX | Kick::RESET);
        let tx_more = (self.tx_ready || self.tx_blocked) && self.transmit(now);
        let rx_kicked = kick.intersects(Kick::RX | Kick::RESET);
        if rx_kicked {
            self.switch_reception(now, rx_buf);
        }
        let rx_more = (self.rx_ready || rx_kicked) && self.receive(now, rx_buf);
        self.watch_backend(epoll)?;
        self.look_for_faults();
        Ok(tx_more || rx_more)
    }

    /// When the backend needs a turn although nothing happens.
    pub(super) fn deadline(&self) -> Option<Time> {
        let (tx, rx) = (self.backend.tx.deadline(), self.backend.rx.deadline());
        tx.into_iter().chain(rx).min()
    }

    /// What nobody else knows.
    pub(super) fn answer(&self) -> QueuesAnswer {
        QueuesAnswer {
            backend: self.backend.name.clone(),
            counters: self.backend.counters.counters(),
            apart: self.apart,
        }
    }

    /// What the backend has counted.
    pub(super) fn counters(&self) -> net_backend::Counters {
        self.backend.counters.counters()
    }

    /// Sends what the ring holds; returns whether the budget ended it. After an interruption it goes on when the epoch
    /// has passed, for which the control kicks.
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
            } else if offered == 0 {
                0
            } else if self.joint.operator.is_plugged() {
                self.backend.tx.send(&burst, now)
            } else {
                self.joint.operator.lost.add(offered as u64);
                offered
            };
            let told = self.tx.complete(&mem, &mut burst, taken, now);
            self.tx_blocked = taken < offered;
            if self.tx_blocked || fetch != Fetch::More || told.is_err() {
                return false;
            }
        }
        self.tx_ready = true;
        true
    }

    /// Receives until there is nothing, no buffer, or the budget is used up; returns whether the budget ended it. After
    /// an interruption it goes on as [`Queues::transmit`] does.
    fn receive(&mut self, now: Time, rx_buf: &mut RxBuf) -> bool {
        let mem = Arc::clone(&self.mem);
        let mut budget = RX_FRAMES_PER_TURN;
        let plugged = self.joint.operator.is_plugged();
        self.rx.resume(&mem, now);
        while plugged && budget > 0 && self.rx_ready && self.rx.has_room() {
            let Some(frame) = self.backend.rx.recv(rx_buf, now) else {
                self.rx_ready = false;
                break;
            };
            budget = budget.saturating_sub(frame.segments());
            self.rx.deliver(&mem, frame, now);
        }
        let told = self.rx.finish(&mem, now);
        budget == 0 && told.is_ok()
    }

    /// Throws away what queued up while the guest had its receiver off, or the operator the link: a NIC that is off
    /// hears nothing.
    fn switch_reception(&mut self, now: Time, rx_buf: &mut RxBuf) {
        let enabled = self.rx.enabled() && self.joint.operator.is_plugged();
        if enabled && !self.rx_enabled {
            for _ in 0..BACKLOG {
                let Some(frame) = self.backend.rx.recv(rx_buf, now) else {
                    break;
                };
                let frames = frame.segments() as u64;
                self.joint.shared().counters.rx_disabled.add(frames);
            }
        }
        self.rx_enabled = enabled;
    }

    /// Says so if the hypervisor has shrunk the file of its guest's memory. Only this guest suffers.
    fn look_for_faults(&mut self) {
        let faults = sigbus::faults();
        if std::mem::replace(&mut self.faults, faults) != faults && self.mem.is_broken() {
            tracing::warn!(
                nic = self.joint.name,
                "the hypervisor has shrunk the file of its guest's memory: what was there is zeros from now on, and what \
                 the NIC writes there is lost; start the guest again"
            );
        }
    }

    fn is_gone(&self) -> bool {
        self.backend.tx.is_gone() || self.backend.rx.is_gone()
    }

    /// Wakes up for the backend only if something would come of it: for frames if the guest receives and has buffers,
    /// for room if frames wait for it. A backend that cannot say when it has room has a deadline instead.
    fn watch_backend(&mut self, epoll: BorrowedFd<'_>) -> io::Result<()> {
        let gone = self.is_gone();
        if gone && self.joint.cable() {
            self.joint.set_cable(false);
        }
        let stalled = self.rx_ready && !self.rx.has_room();
        self.watch_frames(epoll, self.rx_enabled && !stalled && !self.stopped && !gone)?;
        self.watch_room(epoll, self.tx_blocked && !self.stopped && !gone)
    }

    fn watch_frames(&mut self, epoll: BorrowedFd<'_>, watch: bool) -> io::Result<()> {
        if let Some(fd) = self.backend.rx.fd()
            && std::mem::replace(&mut self.frames_watched, watch) != watch
        {
            watch_fd(epoll, fd, self.token | TOKEN_FRAMES, EventFlags::IN, watch)?;
        }
        Ok(())
    }

    fn watch_room(&mut self, epoll: BorrowedFd<'_>, watch: bool) -> io::Result<()> {
        let (fd, flags) = match self.backend.tx.room() {
            None => return Ok(()),
            Some(Room::Readable(fd)) => (fd, EventFlags::IN),
            Some(Room::Writable(fd)) => (fd, EventFlags::OUT),
        };
        if std::mem::replace(&mut self.room_watched, watch) != watch {
            watch_fd(epoll, fd, self.token | TOKEN_ROOM, flags, watch)?;
        }
        Ok(())
    }
}

/// Adds a descriptor to `epoll`, or removes it: epoll reports errors and hang-ups of whatever it watches.
fn watch_fd(
    epoll: BorrowedFd<'_>,
    fd: BorrowedFd<'_>,
    data: u64,
    flags: EventFlags,
    watch: bool,
) -> io::Result<()> {
    match watch {
        true => epoll::add(epoll, fd, EventData::new_u64(data), flags)?,
        false => epoll::delete(epoll, fd)?,
    }
    Ok(())
}

impl Drop for Queues {
    fn drop(&mut self) {
        self.joint.end();
    }
}
