//! The receive queue of a NIC: from the backend to the guest's ring.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use guest_mem::{GuestMem, Published};
use net_backend::{Receiver, RxBuf};
use nic_emu::Time;
use nic_emu::e1000::Kick;
use nic_emu::e1000::rx::{Overrun, RxQueue};
use rustix::event::epoll::{self, EventData, EventFlags};

use super::joint::Joint;
use super::memory::Memory;
use super::source::{TOKEN_FRAMES, TOKEN_LINK, TOKEN_RX, watch};
use crate::loopback::Exit;

/// Frames received in one turn, a super-frame counted as what it is cut into; who has more goes to the back of the list.
const FRAMES_PER_TURN: usize = 128;
/// Frames thrown away at once when reception is switched on: what came while it was off never was for this guest.
/// More than the queue of a TAP holds.
const BACKLOG: usize = 4096;

/// Fills the guest's receive ring, and follows the backend's link.
pub(crate) struct RxPart {
    joint: Arc<Joint>,
    queue: RxQueue,
    network: Box<dyn Receiver>,
    loopback: Exit,
    memory: Memory,
    token: u64,
    /// The NIC stands still, and what the queue is is saved.
    stopped: bool,
    /// The backend said that it has frames, and has not said since that it has none.
    ready: bool,
    enabled: bool,
    /// Kicks that were taken and not yet obeyed.
    kick: Kick,
    /// Whether epoll watches for frames.
    frames_watched: bool,
    /// Whether epoll watches our waker.
    waker_watched: bool,
}

impl RxPart {
    pub(super) fn new(
        joint: Arc<Joint>,
        queue: RxQueue,
        network: Box<dyn Receiver>,
        loopback: Exit,
        published: Arc<Published<GuestMem>>,
    ) -> Self {
        Self {
            joint,
            queue,
            network,
            loopback,
            memory: Memory::new(published),
            token: 0,
            stopped: false,
            ready: false,
            enabled: false,
            kick: Kick::empty(),
            frames_watched: false,
            waker_watched: false,
        }
    }

    pub(super) fn set_overrun(&mut self, overrun: Overrun) {
        self.queue.set_overrun(overrun);
    }

    /// Comes to a shard: looks at everything once. `may_wait`: for memory that the hypervisor has to be asked for.
    pub(super) fn start(
        &mut self,
        epoll: BorrowedFd<'_>,
        token: u64,
        may_wait: bool,
    ) -> io::Result<()> {
        self.token = token;
        self.memory.set_may_wait(may_wait);
        self.frames_watched = false;
        self.waker_watched = false;
        self.watch_waker(epoll, true)?;
        if let Some(fd) = self.network.link_fd() {
            let data = EventData::new_u64(token | TOKEN_LINK);
            epoll::add(epoll, fd, data, EventFlags::IN)?;
        }
        self.joint.set_cable(self.network.link());
        self.ready = true;
        Ok(())
    }

    /// Leaves a shard.
    pub(super) fn leave(&mut self, epoll: BorrowedFd<'_>) -> io::Result<()> {
        self.watch_waker(epoll, false)?;
        if let Some(fd) = self.network.link_fd() {
            epoll::delete(epoll, fd)?;
        }
        self.watch_frames(epoll, false)
    }

    /// Watches our waker, once there is one.
    pub(super) fn watch_waker(&mut self, epoll: BorrowedFd<'_>, wanted: bool) -> io::Result<()> {
        match self.joint.rx.waker.watched() {
            Some(fd) if self.waker_watched != wanted => {
                self.waker_watched = wanted;
                watch(epoll, fd, self.token | TOKEN_RX, EventFlags::IN, wanted)
            }
            _ => Ok(()),
        }
    }

    /// The backend has frames.
    pub(super) fn on_frames(&mut self) {
        self.ready = true;
    }

    /// The backend's link may have changed.
    pub(super) fn on_link(&mut self) {
        let link = self.network.link();
        self.joint.set_cable(link);
        tracing::info!(
            nic = self.joint.name,
            "link of {} is {}",
            self.joint.network,
            if link { "up" } else { "down" }
        );
    }

    /// Lets go of everything that the control has taken away, takes over what it has handed; returns whether there was
    /// anything. A NIC that stops has sent all that it sends to itself before its receive queue is saved.
    pub(super) fn pass_epoch(&mut self, now: Time, rx_buf: &mut RxBuf) -> bool {
        let (tx, rx) = (&self.joint.tx, &self.joint.rx);
        let Some((asked, stopping)) = rx.asked_behind(tx, || self.joint.is_stopped()) else {
            return false;
        };
        self.memory.load();
        self.kick |= self.joint.rx.take_kick();
        if let Some((state, generation)) = self.joint.rx.take_handed() {
            self.queue.restore(&state, generation);
            // What waits in the backend is for this guest, whose receiver has been on.
            self.enabled = true;
        }
        if stopping {
            self.stop(now);
        } else {
            self.switch_reception(now, rx_buf);
        }
        self.joint.rx.pass(asked);
        true
    }

    /// Leaves guest memory and the backend alone from now on, and says what there is to be saved.
    fn stop(&mut self, now: Time) {
        let mem = self.memory.get();
        if !self.stopped {
            self.loop_back(&mem, now);
        }
        if self.queue.stop(&mem, now).is_err() {
            // Only memory that takes no writes before an epoch has passed, which no hypervisor's is.
            tracing::warn!(nic = self.joint.name, "stopped in the middle of a batch");
        }
        self.joint.rx.save(self.queue.save());
        self.stopped = true;
    }

    /// Receives, within its budget. Returns whether there is more to do at once.
    pub(super) fn turn(
        &mut self,
        now: Time,
        rx_buf: &mut RxBuf,
        epoll: BorrowedFd<'_>,
    ) -> io::Result<bool> {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.network.run_timers(now);
            self.ready = true;
        }
        self.kick |= self.joint.rx.take_kick();
        if self.stopped {
            if self.joint.is_stopped() {
                self.kick = Kick::empty();
                self.watch_frames(epoll, false)?;
                return Ok(false);
            }
            self.stopped = false;
            self.ready = true;
        }
        let kicked = self.kick.intersects(Kick::RX | Kick::RESET);
        if kicked {
            self.switch_reception(now, rx_buf);
            self.kick = Kick::empty();
            let mem = self.memory.get();
            self.loop_back(&mem, now);
        }
        let more = (self.ready || kicked) && self.receive(now, rx_buf);
        let gone = self.network.is_gone();
        if gone {
            self.joint.lose_network();
        }
        let stalled = self.ready && !self.queue.has_room();
        // Wakes up for frames only if something would come of it.
        let hears =
            self.enabled || (self.joint.shared().wakes() && self.joint.operator.is_plugged());
        self.watch_frames(epoll, hears && !stalled && !gone)?;
        Ok(more)
    }

    /// When the backend needs a turn although nothing happens.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.network.deadline()
    }

    /// Receives until there is nothing, no buffer, or the budget is used up; returns whether the budget ended it. After
    /// an interruption it goes on when the epoch has passed, for which the control kicks.
    fn receive(&mut self, now: Time, rx_buf: &mut RxBuf) -> bool {
        let mem = self.memory.get();
        let mut budget = FRAMES_PER_TURN;
        let plugged = self.joint.operator.is_plugged();
        self.queue.resume(&mem, now);
        while plugged && budget > 0 && self.ready && self.queue.has_room() {
            let Some(frame) = self.network.recv(rx_buf, now) else {
                self.ready = false;
                break;
            };
            budget = budget.saturating_sub(frame.segments());
            self.queue.deliver(&mem, frame, now);
        }
        let told = self.queue.finish(&mem, now);
        self.joint.look_for_faults(&mem);
        budget == 0 && told.is_ok()
    }

    /// Takes what the NIC sends to itself, and tells the transmit queue that there is room for more.
    fn loop_back(&mut self, mem: &GuestMem, now: Time) {
        let shared = self.joint.shared();
        if self.loopback.deliver(&mut self.queue, shared, mem, now) {
            self.joint.tx.kick(Kick::TX);
        }
    }

    /// Throws away what queued up while the guest had its receiver off, or the operator the link: a NIC that is off
    /// hears nothing, not even what would wake it.
    fn switch_reception(&mut self, now: Time, rx_buf: &mut RxBuf) {
        let plugged = self.joint.operator.is_plugged();
        let enabled = self.queue.enabled() && plugged;
        let listens = self.kick.contains(Kick::WAKE) && plugged && !enabled;
        self.kick.remove(Kick::WAKE);
        if (enabled && !self.enabled) || listens {
            for _ in 0..BACKLOG {
                let Some(frame) = self.network.recv(rx_buf, now) else {
                    break;
                };
                let frames = frame.segments() as u64;
                self.joint.shared().counters.rx_disabled.add(frames);
            }
        }
        self.enabled = enabled;
    }

    fn watch_frames(&mut self, epoll: BorrowedFd<'_>, wanted: bool) -> io::Result<()> {
        if let Some(fd) = self.network.fd()
            && std::mem::replace(&mut self.frames_watched, wanted) != wanted
        {
            watch(epoll, fd, self.token | TOKEN_FRAMES, EventFlags::IN, wanted)?;
        }
        Ok(())
    }
}

impl Drop for RxPart {
    fn drop(&mut self) {
        self.joint.end();
    }
}
