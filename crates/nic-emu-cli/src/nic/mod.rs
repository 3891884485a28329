//! One NIC: its control behind a vfio-user server, its two queues, its backend.
//!
//! A shard holds the control of a NIC, its queues, or both. Both together are one thing that is called in turn; apart,
//! each side leaves what the other one has to know in the [`Joint`] and wakes it by its [`Waker`](waker::Waker).

mod asked;
mod control;
mod joint;
mod line;
mod queues;
mod waker;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{Builder, JoinHandle};

use net_backend::{Backend, RxBuf};
use nic_emu::Time;
use nic_emu::e1000::rx::Overrun;
use nic_emu::e1000::{self, CountersSnapshot, Kick};
use rustix::event::epoll::{self, EventData, EventFlags};
use vfio_user::{Listener, Server};

use crate::eeprom::EepromFile;
use crate::engine::Engine;
use crate::mac::MacAddr;
use crate::shard::Shard;
pub(crate) use asked::Answers;
use control::Control;
pub(crate) use joint::{Joint, SavedQueues};
pub(crate) use queues::Queues;
pub(crate) use waker::Waker;

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
    /// The queues, on another thread, have news for the control.
    ControlWaker,
    /// The control, on another thread, has news for the queues.
    QueuesWaker,
}

const TOKEN_BITS: u32 = 4;
const TOKEN_FRAMES: u64 = 8;
const TOKEN_ROOM: u64 = 12;
const TOKEN_LINK: u64 = 9;
const TOKEN_CONTROL: u64 = 10;
const TOKEN_QUEUES: u64 = 11;

impl Source {
    /// Takes epoll data apart into the number of a NIC and its descriptor.
    pub(crate) fn of_token(data: u64) -> (usize, Self) {
        let source = match data & ((1 << TOKEN_BITS) - 1) {
            TOKEN_FRAMES => Self::Frames,
            TOKEN_ROOM => Self::Room,
            TOKEN_LINK => Self::Link,
            TOKEN_CONTROL => Self::ControlWaker,
            TOKEN_QUEUES => Self::QueuesWaker,
            _ => Self::Server(data),
        };
        ((data >> TOKEN_BITS) as usize, source)
    }
}

/// What a NIC wants after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing before the next event or deadline.
    Idle,
    /// Another turn at once.
    More,
    /// To leave this shard: the control has called its queues back.
    Leave,
}

/// One NIC, or that part of one which a shard holds.
pub struct Nic {
    joint: Arc<Joint>,
    mac: MacAddr,
    token: u64,
    control: Option<Box<Control>>,
    queues: Option<Box<Queues>>,
    /// The thread that has the queues while they are not here.
    away: Option<JoinHandle<Option<Box<Queues>>>>,
    placement: Placement,
    /// There was no thread to be had for the queues, and there is no use in asking at each turn.
    refused: bool,
}

/// Where the queues of a NIC run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// On the thread of the control, unless the hypervisor does not share the guest's memory: to ask for it means to
    /// wait, and the control never waits.
    #[default]
    Together,
    /// On a thread of their own.
    Apart,
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
    /// An 82540EM with this address that listens on `listener` and exchanges frames with `backend`. Nothing happens
    /// before a shard takes it over.
    pub fn new(
        name: String,
        mac: MacAddr,
        listener: Listener,
        backend: impl Into<Backend>,
    ) -> Self {
        Self::of(name, &e1000::Config::new(mac.0), listener, backend)
    }

    /// As [`new`](Self::new), of any model.
    pub fn of(
        name: String,
        model: &e1000::Config,
        listener: Listener,
        backend: impl Into<Backend>,
    ) -> Self {
        let (control, tx, rx) = e1000::new(model);
        let mac = MacAddr(control.mac());
        let server = Server::new(listener, Engine::device(&control));
        let (published, irqs) = (server.mem(), server.irqs());
        let joint = Arc::new(Joint::new(name, control.shared().clone(), irqs));
        let engine = Engine::new(control, joint.clone());
        Self {
            mac,
            token: 0,
            control: Some(Box::new(Control::new(joint.clone(), server, engine))),
            queues: Some(Box::new(Queues::new(
                joint.clone(),
                tx,
                rx,
                backend.into(),
                published,
            ))),
            away: None,
            placement: Placement::default(),
            refused: false,
            joint,
        }
    }

    /// Says what happens to frames that come faster than the guest takes them.
    #[must_use]
    pub fn overrun(mut self, overrun: Overrun) -> Self {
        if let Some(queues) = &mut self.queues {
            queues.set_overrun(overrun);
        }
        self
    }

    /// Says where the EEPROM is kept, whose contents the model has been given.
    #[must_use]
    pub fn keep_eeprom(mut self, file: EepromFile) -> Self {
        if let Some(control) = &mut self.control {
            control.keep_eeprom(file);
        }
        self
    }

    /// Says where the queues are to run, as far as there is a choice.
    #[must_use]
    pub fn placed(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// The NIC's name in logs.
    pub fn name(&self) -> &str {
        &self.joint.name
    }

    /// The address in its EEPROM.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Whether the other part of this NIC is gone for good.
    pub(crate) fn is_over(&self) -> bool {
        self.joint.is_over()
    }

    /// Registers everything with `epoll` under number `index`.
    pub(crate) fn start(&mut self, epoll: BorrowedFd<'_>, index: usize) -> io::Result<()> {
        self.token = (index as u64) << TOKEN_BITS;
        if let Some(queues) = &mut self.queues {
            queues.start(epoll, self.token, self.control.is_none())?;
        }
        match &mut self.control {
            Some(control) => control.start(epoll, self.token),
            None => {
                let data = EventData::new_u64(self.token | TOKEN_QUEUES);
                Ok(epoll::add(
                    epoll,
                    self.joint.queues.watch()?,
                    data,
                    EventFlags::IN,
                )?)
            }
        }
    }

    /// Answers what a descriptor reports. Queue work is left to the next turn.
    pub(crate) fn handle(
        &mut self,
        source: Source,
        flags: EventFlags,
        now: Time,
        epoll: BorrowedFd<'_>,
    ) -> io::Result<()> {
        match (source, &mut self.control, &mut self.queues) {
            (Source::Server(data), Some(control), _) => control.on_event(data, flags, now),
            (Source::Frames, _, Some(queues)) => queues.on_frames(),
            (Source::Room, _, Some(queues)) => queues.on_room(),
            (Source::Link, _, Some(queues)) => queues.on_link(),
            (Source::ControlWaker, ..) => self.joint.control.clear(),
            (Source::QueuesWaker, ..) => self.joint.queues.clear(),
            // A descriptor whose side has moved away since epoll reported it.
            _ => return Ok(()),
        }
        self.pass_epochs(now);
        match &mut self.control {
            Some(control) => control.watch(epoll),
            None => Ok(()),
        }
    }

    /// Does what is due: timers, both queues within their budgets, the interrupt line.
    pub(crate) fn turn(
        &mut self,
        now: Time,
        rx_buf: &mut RxBuf,
        epoll: BorrowedFd<'_>,
    ) -> io::Result<Turn> {
        self.pass_epochs(now);
        if let Some(control) = &mut self.control {
            control.run_timers(now);
            if self.queues.is_none() && self.joint.wants_queues() {
                self.joint.queues.wake();
            }
        }
        let more = match &mut self.queues {
            Some(queues) => queues.turn(now, rx_buf, epoll)?,
            None => false,
        };
        if let Some(control) = &mut self.control {
            control.follow_cable();
            control.watch(epoll)?;
        }
        self.joint.update_line(now);
        if self.joint.operator.is_open() {
            self.answer();
        }
        if self.control.is_some() {
            if self.place_queues(epoll)? {
                return Ok(Turn::More);
            }
        } else if self.joint.is_recalled() {
            return Ok(Turn::Leave);
        } else if self.joint.is_due_earlier() {
            self.joint.control.wake();
        }
        Ok(if more { Turn::More } else { Turn::Idle })
    }

    /// Tells an operator what only this part of the NIC knows.
    fn answer(&self) {
        let operator = &self.joint.operator;
        if let Some(control) = &self.control {
            operator.answer_control(control.answer());
        }
        match &self.queues {
            Some(queues) => operator.answer_queues(queues.answer()),
            None if operator.wants_queues() => self.joint.queues.wake(),
            None => {}
        }
    }

    /// Whether an operator wants to know something that a turn would tell.
    pub(crate) fn is_asked(&self) -> bool {
        self.joint.operator.is_open()
    }

    /// What is told without asking.
    pub(crate) fn joint(&self) -> &Arc<Joint> {
        &self.joint
    }

    /// When this NIC needs a turn although nothing happens.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let control = self.control.as_ref().and_then(|control| control.deadline());
        let queues = self.queues.as_ref().and_then(|queues| queues.deadline());
        control.into_iter().chain(queues).min()
    }

    /// The queues on their way home, after [`Turn::Leave`]. The thread that had them has nothing left to do but to end.
    pub(crate) fn leave(self) -> Option<Box<Queues>> {
        self.joint.return_queues(true);
        self.queues
    }

    /// Ends the NIC: its socket, client and backend are gone afterwards.
    pub(crate) fn close(mut self) -> Option<Report> {
        let mut control = self.control.take()?;
        control.close();
        self.joint.recall(true);
        if let Some(thread) = self.away.take() {
            self.queues = thread.join().ok().flatten();
        }
        Some(Report {
            name: self.joint.name.clone(),
            model: control.counters(),
            backend: self.queues.as_ref()?.counters(),
        })
    }

    /// Follows the client's changes of memory and interrupts, and lets the answers that waited for it leave.
    fn pass_epochs(&mut self, now: Time) {
        loop {
            if let Some(control) = &self.control {
                control.ask();
            }
            if let Some(queues) = &mut self.queues
                && queues.pass_epoch(now)
                && self.control.is_none()
            {
                self.joint.control.wake();
            }
            let passed = self.control.as_mut().map(|control| control.pass_epoch(now));
            if passed != Some(true) {
                break;
            }
            if self.queues.is_none() {
                // Whatever the epoch has interrupted goes on.
                self.joint.kick(Kick::TX | Kick::RX);
            }
        }
        if self.queues.is_none() && self.joint.wants_queues() {
            self.joint.queues.wake();
        }
    }

    /// Sends the queues to a thread of their own, or calls them back, as things are. Whether they have just come home:
    /// they know nothing of what was asked of them on the way.
    fn place_queues(&mut self, epoll: BorrowedFd<'_>) -> io::Result<bool> {
        let apart = self.placement == Placement::Apart
            || self
                .control
                .as_ref()
                .is_some_and(|control| control.is_remote());
        if apart && self.queues.is_some() {
            self.send_queues_away(epoll)?;
            return Ok(false);
        }
        self.refused &= apart;
        if let Some(thread) = self.away.take_if(|_| self.joint.has_returned()) {
            // It has nothing left to do but to end.
            let returned = thread.join().ok().flatten();
            let mut queues = returned.ok_or_else(|| io::Error::other("its thread has died"))?;
            self.joint.recall(false);
            self.joint.return_queues(false);
            queues.start(epoll, self.token, false)?;
            self.queues = Some(queues);
            return Ok(true);
        }
        if self.away.is_some() {
            self.joint.recall(!apart);
        }
        Ok(false)
    }

    /// Gives the queues a thread of their own. If there is none to be had, they stay.
    fn send_queues_away(&mut self, epoll: BorrowedFd<'_>) -> io::Result<()> {
        let Some(mut queues) = self.queues.take_if(|_| !self.refused) else {
            return Ok(());
        };
        let (hand_over, handed_over) = sync_channel::<Nic>(1);
        match self.hire(handed_over, epoll) {
            Ok(thread) => {
                if self.placement == Placement::Together {
                    tracing::info!(
                        nic = self.name(),
                        "asks its hypervisor for the guest's memory, on a thread of its own"
                    );
                }
                queues.leave(epoll)?;
                let part = Nic {
                    joint: self.joint.clone(),
                    mac: self.mac,
                    token: 0,
                    control: None,
                    queues: Some(queues),
                    away: None,
                    placement: self.placement,
                    refused: false,
                };
                hand_over
                    .send(part)
                    .map_err(|_| io::Error::other("its thread has died"))?;
                self.away = Some(thread);
            }
            Err(error) => {
                tracing::error!(
                    nic = self.name(),
                    "no thread for the queues, they stay where they are: {error}"
                );
                self.refused = true;
                self.queues = Some(queues);
            }
        }
        Ok(())
    }

    /// A thread that serves the queues it is given, and the wakers between it and this one.
    fn hire(
        &self,
        queues: Receiver<Nic>,
        epoll: BorrowedFd<'_>,
    ) -> io::Result<JoinHandle<Option<Box<Queues>>>> {
        let shard = Shard::alone()?;
        self.joint.queues.watch()?;
        if !self.joint.control.is_watched() {
            let data = EventData::new_u64(self.token | TOKEN_CONTROL);
            epoll::add(epoll, self.joint.control.watch()?, data, EventFlags::IN)?;
        }
        // Not the whole path: the kernel keeps 15 bytes of a thread's name.
        let name = self.name().rsplit('/').next().unwrap_or_default();
        Builder::new()
            .name(name.to_owned())
            .spawn(move || shard.run_alone(queues.recv().ok()?))
    }
}
