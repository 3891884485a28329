//! The event loop: one thread, one epoll, one timer heap, the NICs that it owns, or their queues alone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use net_backend::RxBuf;
use nic_emu::Time;
use rustix::event::epoll;

use crate::nic::{Nic, Queues, Report, Source, Turn, Waker};
use crate::waiting::{self, Until, Waiting, Waits};

/// Epoll data of the descriptor that ends the loop.
const STOP: u64 = u64::MAX;
/// Epoll data of the operators' waker.
const OPERATOR: u64 = u64::MAX - 1;

/// A thread's worth of NICs.
pub struct Shard {
    epoll: OwnedFd,
    waiting: Waiting,
    nics: Vec<Slot>,
    timers: crate::timers::Timers,
    /// NICs that have work left from their last turn, in the order in which they get the next one.
    busy: Vec<usize>,
    rx_buf: RxBuf,
    /// Ends the loop when it becomes readable. A loop without it ends with its last NIC.
    stop: Option<UnixStream>,
    /// Woken when an operator wants to know something of a NIC.
    operator: Arc<Waker>,
    /// What has left for another shard.
    left: Option<Nic>,
}

/// A NIC and what the loop remembers about it. A NIC whose turn panicked is gone; its number is not used again.
struct Slot {
    nic: Option<Nic>,
    name: String,
    queued: bool,
}

impl Shard {
    /// A shard without NICs, which runs until `stop` becomes readable.
    ///
    /// # Errors
    ///
    /// The kernel has no descriptor or memory left for an epoll.
    pub fn new(stop: UnixStream) -> io::Result<Self> {
        let mut shard = Self::alone()?;
        epoll::add(
            &shard.epoll,
            &stop,
            epoll::EventData::new_u64(STOP),
            epoll::EventFlags::IN,
        )?;
        shard.stop = Some(stop);
        Ok(shard)
    }

    /// A shard for [`Shard::run_alone`].
    pub(crate) fn alone() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            waiting: Waiting::new(),
            nics: Vec::new(),
            timers: crate::timers::Timers::default(),
            busy: Vec::new(),
            rx_buf: RxBuf::new(),
            stop: None,
            operator: Arc::default(),
            left: None,
        })
    }

    /// Looks for further events for so long after each one before it sleeps. That takes a processor, and saves
    /// hypervisors and network the time that it takes to wake one up.
    #[must_use]
    pub fn busy_poll(mut self, time: Duration) -> Self {
        self.waiting.set_busy_poll(time);
        self
    }

    /// What this thread's waiting comes to, while it runs.
    pub fn waits(&self) -> Arc<Waits> {
        self.waiting.counts().clone()
    }

    /// Takes over a NIC; its socket is served from the next turn of the loop on.
    ///
    /// # Errors
    ///
    /// A descriptor of the NIC cannot be waited for.
    pub fn add(&mut self, mut nic: Nic) -> io::Result<()> {
        nic.start(self.epoll.as_fd(), self.nics.len())?;
        self.nics.push(Slot {
            name: nic.name().to_owned(),
            nic: Some(nic),
            queued: false,
        });
        Ok(())
    }

    /// The waker that makes the NICs here tell operators what they want to know.
    ///
    /// # Errors
    ///
    /// The process has no descriptor left.
    pub(crate) fn operator_waker(&self) -> io::Result<Arc<Waker>> {
        let data = epoll::EventData::new_u64(OPERATOR);
        epoll::add(
            &self.epoll,
            self.operator.watch()?,
            data,
            epoll::EventFlags::IN,
        )?;
        Ok(self.operator.clone())
    }

    /// Serves the NICs until told to stop; returns what each has counted.
    ///
    /// # Errors
    ///
    /// The kernel refuses to wait, which leaves nothing to do but to end.
    pub fn run(mut self) -> io::Result<Vec<Report>> {
        self.serve()?;
        drop(self.stop);
        Ok(self
            .nics
            .into_iter()
            .filter_map(|slot| slot.nic.and_then(Nic::close))
            .collect())
    }

    /// Serves the queues of one NIC until its control, on another shard, calls them back. None if the NIC has ended.
    pub(crate) fn run_alone(mut self, queues: Nic) -> Option<Box<Queues>> {
        let name = queues.name().to_owned();
        let added = self.add(queues);
        // They may have work from before they came here.
        self.enqueue(0);
        if let Err(error) = added.and_then(|()| self.serve()) {
            tracing::error!(nic = name, "closed, its queues have no event loop: {error}");
        }
        self.left.and_then(Nic::leave)
    }

    /// The loop.
    fn serve(&mut self) -> io::Result<()> {
        let mut events = waiting::events();
        while self.stop.is_some() || self.nics.iter().any(|slot| slot.nic.is_some()) {
            let until = self.until();
            let now = self.waiting.wait(self.epoll.as_fd(), &mut events, until)?;
            for event in events.drain(..) {
                let data = event.data.u64();
                if data == STOP {
                    return Ok(());
                }
                if data == OPERATOR {
                    self.operator.clear();
                    self.enqueue_asked();
                    continue;
                }
                let (nic, source) = Source::of_token(data);
                self.with(nic, |nic, _, epoll| {
                    nic.handle(source, event.flags, now, epoll)
                });
                self.enqueue(nic);
            }
            while let Some(nic) = self.timers.pop_due(now) {
                self.enqueue(nic);
            }
            self.turns(now);
        }
        Ok(())
    }

    /// Gives each NIC that has something to do one turn.
    fn turns(&mut self, now: Time) {
        for nic in std::mem::take(&mut self.busy) {
            self.nics[nic].queued = false;
            match self.with(nic, |nic, rx_buf, epoll| nic.turn(now, rx_buf, epoll)) {
                Some(Turn::More) => self.enqueue(nic),
                Some(Turn::Leave) => self.left = self.nics[nic].nic.take(),
                Some(Turn::Idle) | None => {}
            }
            let deadline = self.nics[nic].nic.as_ref().and_then(Nic::deadline);
            self.timers.set(nic, deadline);
        }
    }

    /// A turn for those of whom an operator wants to know something.
    fn enqueue_asked(&mut self) {
        for number in 0..self.nics.len() {
            let nic = self.nics[number].nic.as_ref();
            if nic.is_some_and(Nic::is_asked) {
                self.enqueue(number);
            }
        }
    }

    fn enqueue(&mut self, nic: usize) {
        let Some(slot) = self.nics.get_mut(nic) else {
            return;
        };
        if slot.nic.is_some() && !slot.queued {
            slot.queued = true;
            self.busy.push(nic);
        }
    }

    /// Lets a NIC do something. If that panics, the NIC is closed and the others run on: whatever made it panic
    /// came from its guest, its client or its network.
    fn with<T>(
        &mut self,
        nic: usize,
        f: impl FnOnce(&mut Nic, &mut RxBuf, std::os::fd::BorrowedFd<'_>) -> io::Result<T>,
    ) -> Option<T> {
        let slot = self.nics.get_mut(nic)?;
        let device = slot.nic.as_mut()?;
        let (rx_buf, epoll) = (&mut self.rx_buf, self.epoll.as_fd());
        // If its other part is gone, that has been said there.
        if !device.is_over() {
            // The NIC is dropped if it panics, so nobody sees the state that it was left in.
            match catch_unwind(AssertUnwindSafe(|| f(device, rx_buf, epoll))) {
                Ok(Ok(value)) => return Some(value),
                Ok(Err(error)) => tracing::error!(
                    nic = slot.name,
                    "closed, its descriptors cannot be watched: {error}"
                ),
                Err(_) => tracing::error!(
                    nic = slot.name,
                    "closed after an internal error; please report it"
                ),
            }
        }
        let lost = slot.nic.take();
        // Its sockets and its backend go too; should that panic as well, they stay open.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(lost)));
        self.timers.set(nic, None);
        None
    }

    /// Until when to wait: not at all with work left, else until the next deadline, if there is one.
    fn until(&mut self) -> Until {
        match self.busy.is_empty() {
            false => Until::Now,
            true => self.timers.next().map_or(Until::Event, Until::Deadline),
        }
    }
}
