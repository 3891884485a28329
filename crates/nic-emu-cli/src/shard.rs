//! The event loop: one thread, one epoll, one timer heap, and the NICs that it owns, or parts of them.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

use net_backend::RxBuf;
use nic_emu::Time;
use rustix::event::epoll;

use crate::nic::{Joint, Nic, Report, Source, Turn, Waker};
use crate::waiting::{self, Until, Waiting, Waits};

/// Epoll data of the descriptor that ends the loop.
const STOP: u64 = u64::MAX;
/// Epoll data of the door.
const DOOR: u64 = u64::MAX - 1;

/// Where parts of NICs come to a shard from other threads, and where it is woken for what concerns no single one.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    parts: Sender<Nic>,
    waker: Arc<Waker>,
}

impl Door {
    /// Sends parts of a NIC there. They end if that shard has.
    pub(crate) fn send(self, parts: Nic) {
        let _ = self.parts.send(parts);
        self.close();
    }

    /// Nobody else will come from here. A hired shard ends when that is true of all.
    pub(crate) fn close(self) {
        let Self { parts, waker } = self;
        drop(parts);
        waker.wake();
    }

    /// Wakes the shard.
    pub(crate) fn knock(&self) {
        self.waker.wake();
    }
}

/// A thread's worth of NICs.
pub struct Shard {
    epoll: OwnedFd,
    waiting: Waiting,
    nics: Vec<Slot>,
    timers: crate::timers::Timers,
    /// NICs that have work left from their last turn, in the order in which they get the next one.
    busy: VecDeque<usize>,
    rx_buf: RxBuf,
    /// Ends the loop when it becomes readable. A loop without it ends when it has no NIC and can get none.
    stop: Option<UnixStream>,
    /// None in a shard without `stop`, once it runs: others have it.
    door: Option<Door>,
    waker: Arc<Waker>,
    arrivals: Receiver<Nic>,
    /// Nobody can come through the door any more.
    closed: bool,
}

/// A NIC, or the parts of one that are here, and what the loop remembers about it. The number of a NIC that has ended is
/// not used again; parts that have moved away find theirs when they come back.
struct Slot {
    nic: Option<Nic>,
    joint: Arc<Joint>,
    queued: bool,
}

impl Shard {
    /// A shard without NICs, which runs until `stop` becomes readable.
    ///
    /// # Errors
    ///
    /// The kernel has no descriptor or memory left for an epoll.
    pub fn new(stop: UnixStream) -> io::Result<Self> {
        let mut shard = Self::hired()?;
        epoll::add(
            &shard.epoll,
            &stop,
            epoll::EventData::new_u64(STOP),
            epoll::EventFlags::IN,
        )?;
        shard.stop = Some(stop);
        Ok(shard)
    }

    /// A shard for [`Shard::run_hired`].
    pub(crate) fn hired() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let waker = Arc::<Waker>::default();
        let data = epoll::EventData::new_u64(DOOR);
        epoll::add(&epoll, waker.watch()?, data, epoll::EventFlags::IN)?;
        let (parts, arrivals) = channel();
        Ok(Self {
            epoll,
            nics: Vec::new(),
            timers: crate::timers::Timers::default(),
            busy: VecDeque::new(),
            rx_buf: RxBuf::new(),
            waiting: Waiting::new(),
            stop: None,
            door: Some(Door {
                parts,
                waker: waker.clone(),
            }),
            waker,
            arrivals,
            closed: false,
        })
    }

    /// Where parts of NICs may come in. Not for a hired shard that runs.
    pub(crate) fn door(&self) -> Option<Door> {
        self.door.clone()
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
        let joint = nic.joint().clone();
        let known = |slot: &Slot| Arc::ptr_eq(&slot.joint, &joint);
        let index = self.nics.iter().position(known).unwrap_or(self.nics.len());
        nic.start(self.epoll.as_fd(), index, self.door.as_ref())?;
        match self.nics.get_mut(index) {
            None => self.nics.push(Slot {
                nic: Some(nic),
                joint,
                queued: false,
            }),
            Some(slot) => match &mut slot.nic {
                Some(parts) => parts.join(nic),
                None => slot.nic = Some(nic),
            },
        }
        // It may have work from where it was before.
        self.enqueue(index);
        Ok(())
    }

    /// Makes the kernel refuse to wait.
    #[cfg(test)]
    pub(crate) fn break_epoll(&mut self) {
        self.epoll = UnixStream::pair().expect("a descriptor").0.into();
    }

    /// Serves the NICs until told to stop; returns what each has counted.
    ///
    /// # Errors
    ///
    /// The kernel refuses to wait, which leaves nothing to do but to end.
    pub fn run(self) -> io::Result<Vec<Report>> {
        let (ended, _) = self.run_until_stopped()?;
        Ok(ended.iter().map(|joint| Report::of(joint)).collect())
    }

    /// As [`run`](Self::run), for one shard of several: returns the NICs whose controls it had, and its parts of others,
    /// which end with their controls.
    pub(crate) fn run_until_stopped(mut self) -> io::Result<(Vec<Arc<Joint>>, Vec<Nic>)> {
        self.serve()?;
        drop(self.stop);
        let (mut ended, mut parts) = (Vec::new(), Vec::new());
        for mut nic in self.nics.into_iter().filter_map(|slot| slot.nic) {
            match nic.close() {
                true => ended.push(nic.joint().clone()),
                false => parts.push(nic),
            }
        }
        Ok((ended, parts))
    }

    /// Serves whatever comes through the door, until nobody can come any more and all have left.
    pub(crate) fn run_hired(mut self) -> io::Result<()> {
        self.door = None;
        self.serve()
    }

    /// The loop.
    fn serve(&mut self) -> io::Result<()> {
        let mut events = waiting::events();
        while self.stop.is_some() || !self.closed || self.nics.iter().any(|slot| slot.nic.is_some())
        {
            let until = self.until();
            let now = self.waiting.wait(self.epoll.as_fd(), &mut events, until)?;
            for event in events.drain(..) {
                let data = event.data.u64();
                if data == STOP {
                    return Ok(());
                }
                if data == DOOR {
                    self.waker.clear();
                    self.admit();
                    self.enqueue_asked();
                    continue;
                }
                let (nic, source) = Source::of_token(data);
                self.with(nic, |nic, rx_buf, epoll| {
                    nic.handle(source, event.flags, now, rx_buf, epoll)
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
        // Who has more goes to the back, behind those counted here.
        for _ in 0..self.busy.len() {
            let Some(nic) = self.busy.pop_front() else {
                return;
            };
            self.nics[nic].queued = false;
            let turn = self.with(nic, |nic, rx_buf, epoll| nic.turn(now, rx_buf, epoll));
            if turn == Some(Turn::More) {
                self.enqueue(nic);
            }
            if turn == Some(Turn::Leave) {
                self.see_off(nic);
            }
            let deadline = self.nics[nic].nic.as_ref().and_then(Nic::deadline);
            self.timers.set(nic, deadline);
        }
    }

    /// Lets in whoever has come through the door.
    fn admit(&mut self) {
        while !self.closed {
            match self.arrivals.try_recv() {
                Ok(parts) => {
                    let name = parts.name().to_owned();
                    if let Err(error) = self.add(parts) {
                        tracing::error!(
                            nic = name,
                            "closed, its descriptors cannot be watched: {error}"
                        );
                    }
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => self.closed = true,
            }
        }
    }

    /// Sends the parts of a NIC on their way that are to live elsewhere.
    fn see_off(&mut self, nic: usize) {
        let leaving = self.with(nic, |nic, _, epoll| nic.leave(epoll));
        for (door, parts) in leaving.into_iter().flatten() {
            door.send(parts);
        }
        // What is left may have been waiting for its turn.
        self.enqueue(nic);
        let slot = &mut self.nics[nic];
        slot.nic.take_if(|nic| nic.is_empty());
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
            self.busy.push_back(nic);
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
                    nic = slot.joint.name,
                    "closed, its descriptors cannot be watched: {error}"
                ),
                Err(_) => tracing::error!(
                    nic = slot.joint.name,
                    "closed after an internal error; please report it"
                ),
            }
        }
        let lost = slot.nic.take();
        // Nobody clears them any more.
        slot.joint.unwatch(epoll);
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
