//! The transmit queue of a NIC: from the guest's ring to the backend.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use guest_mem::{GuestMem, Published};
use net_backend::{Room, Sender};
use nic_emu::Time;
use nic_emu::common::frame::TxBurst;
use nic_emu::e1000::Kick;
use nic_emu::e1000::tx::{Fetch, TxQueue};
use rustix::event::epoll::EventFlags;

use super::joint::Joint;
use super::memory::Memory;
use super::source::{TOKEN_ROOM, TOKEN_TX, watch};
use crate::loopback::Entrance;

/// Bursts sent in one turn; who has more goes to the back of the list.
const BURSTS_PER_TURN: usize = 8;

/// Sends what the guest has in its transmit ring.
pub(crate) struct TxPart {
    joint: Arc<Joint>,
    queue: TxQueue,
    network: Box<dyn Sender>,
    loopback: Entrance,
    memory: Memory,
    token: u64,
    /// The NIC stands still, and what the queue is is saved.
    stopped: bool,
    /// The ring has descriptors that nobody has looked at.
    ready: bool,
    /// Not all that was offered was taken.
    blocked: bool,
    /// It was the network that did not take it, and not the NIC's own receive queue.
    room_wanted: bool,
    /// Whether epoll watches for room in the backend.
    room_watched: bool,
    /// Whether epoll watches our waker.
    waker_watched: bool,
}

impl TxPart {
    pub(super) fn new(
        joint: Arc<Joint>,
        queue: TxQueue,
        network: Box<dyn Sender>,
        loopback: Entrance,
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
            blocked: false,
            room_wanted: false,
            room_watched: false,
            waker_watched: false,
        }
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
        self.room_watched = false;
        self.waker_watched = false;
        self.watch_waker(epoll, true)?;
        self.ready = true;
        Ok(())
    }

    /// Leaves a shard.
    pub(super) fn leave(&mut self, epoll: BorrowedFd<'_>) -> io::Result<()> {
        self.watch_waker(epoll, false)?;
        self.watch_room(epoll, false)
    }

    /// Watches our waker, once there is one.
    pub(super) fn watch_waker(&mut self, epoll: BorrowedFd<'_>, wanted: bool) -> io::Result<()> {
        match self.joint.tx.waker.watched() {
            Some(fd) if self.waker_watched != wanted => {
                self.waker_watched = wanted;
                watch(epoll, fd, self.token | TOKEN_TX, EventFlags::IN, wanted)
            }
            _ => Ok(()),
        }
    }

    /// There is room again.
    pub(super) fn on_room(&mut self) {
        self.ready = true;
    }

    /// Lets go of everything that the control has taken away, takes over what it has handed; returns whether there was
    /// anything.
    pub(super) fn pass_epoch(&mut self, now: Time) -> bool {
        let Some(asked) = self.joint.tx.asked() else {
            return false;
        };
        self.memory.load();
        if let Some((state, generation)) = self.joint.tx.take_handed() {
            self.queue.restore(&state, generation);
        }
        if self.joint.is_stopped() {
            self.stop(now);
        }
        self.joint.tx.pass(asked);
        true
    }

    /// Leaves guest memory and the backend alone from now on, and says what there is to be saved.
    fn stop(&mut self, now: Time) {
        if self.queue.stop(&self.memory.get(), now).is_err() {
            // Only memory that takes no writes before an epoch has passed, which no hypervisor's is.
            tracing::warn!(nic = self.joint.name, "stopped in the middle of a burst");
        }
        self.joint.tx.save(self.queue.save());
        self.stopped = true;
    }

    /// Sends, within its budget. Returns whether there is more to do at once.
    pub(super) fn turn(&mut self, now: Time, epoll: BorrowedFd<'_>) -> io::Result<bool> {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.network.run_timers(now);
            self.ready |= self.blocked;
        }
        let kick = self.joint.tx.take_kick();
        if self.stopped {
            if self.joint.is_stopped() {
                self.watch_room(epoll, false)?;
                return Ok(false);
            }
            self.stopped = false;
            self.ready = true;
        }
        self.ready |= kick.intersects(Kick::TX | Kick::RESET);
        let more = (self.ready || self.blocked) && self.transmit(now);
        let gone = self.network.is_gone();
        if gone {
            self.joint.lose_network();
        }
        self.watch_room(epoll, self.room_wanted && !gone)?;
        Ok(more)
    }

    /// When the backend needs a turn although nothing happens.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.network.deadline()
    }

    /// Sends what the ring holds; returns whether the budget ended it. After an interruption it goes on when the epoch
    /// has passed, for which the control kicks.
    fn transmit(&mut self, now: Time) -> bool {
        let mem = self.memory.get();
        self.ready = false;
        self.blocked = false;
        self.room_wanted = false;
        let mut looped = false;
        let mut more = true;
        for _ in 0..BURSTS_PER_TURN {
            let generation = self.joint.shared().generation();
            let mut burst = TxBurst::new();
            let fetch = self.queue.fetch(&mem, &mut burst, now);
            let offered = burst.len();
            let taken = if burst.loopback() {
                looped |= offered > 0;
                self.loopback.send(&burst, generation)
            } else if offered == 0 {
                0
            } else if self.joint.operator.is_plugged() {
                self.network.send(&burst, now)
            } else {
                self.joint.operator.lost.add(offered as u64);
                offered
            };
            self.room_wanted = taken < offered && !burst.loopback();
            let told = self.queue.complete(&mem, &mut burst, taken, now);
            self.blocked = taken < offered;
            if self.blocked || fetch != Fetch::More || told.is_err() {
                more = false;
                break;
            }
        }
        if looped {
            self.joint.rx.kick(Kick::RX);
        }
        self.joint.look_for_faults(&mem);
        self.ready |= more;
        more
    }

    fn watch_room(&mut self, epoll: BorrowedFd<'_>, wanted: bool) -> io::Result<()> {
        let (fd, flags) = match self.network.room() {
            None => return Ok(()),
            Some(Room::Readable(fd)) => (fd, EventFlags::IN),
            Some(Room::Writable(fd)) => (fd, EventFlags::OUT),
        };
        if std::mem::replace(&mut self.room_watched, wanted) != wanted {
            watch(epoll, fd, self.token | TOKEN_ROOM, flags, wanted)?;
        }
        Ok(())
    }
}

impl Drop for TxPart {
    fn drop(&mut self) {
        self.joint.end();
    }
}
