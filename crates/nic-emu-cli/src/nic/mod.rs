//! One NIC: its control behind a vfio-user server, its two queues, its backend.
//!
//! Control, transmit queue and receive queue are three parts. A shard holds any of them, and those that it holds are one
//! thing that is called in turn; what the others have to know is in the [`Joint`], and their [`Waker`]s wake them.

mod abroad;
mod alarm;
mod asked;
mod calls;
mod control;
mod eventfd;
mod interrupt;
mod joint;
mod line;
mod memory;
mod rx;
mod source;
mod turns;
mod tx;
mod waker;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use net_backend::{Backend, RxBuf};
use nic_emu::Time;
use nic_emu::e1000::rx::Overrun;
use nic_emu::e1000::{self, CountersSnapshot, Kick};
use rustix::event::epoll::EventFlags;
use vfio_user::{Listener, Server};

use crate::eeprom::EepromFile;
use crate::engine::Engine;
use crate::flash::FlashFile;
use crate::loopback;
use crate::mac::MacAddr;
use crate::rom::Rom;
use crate::shard::Door;
use abroad::Abroad;
pub(crate) use asked::ControlAnswer;
use control::Control;
pub(crate) use joint::{Joint, SavedQueues};
use rx::RxPart;
pub(crate) use source::Source;
use source::TOKEN_BITS;
use tx::TxPart;

/// How the threads of NICs wake each other.
pub(crate) type Waker = waker::Waker<eventfd::Eventfd>;

/// What a NIC wants after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing before the next event or deadline.
    Idle,
    /// Another turn at once.
    More,
    /// That parts of it leave for where they are to live, and then another turn.
    Leave,
}

/// One NIC, or those parts of one which a shard holds.
pub struct Nic {
    joint: Arc<Joint>,
    mac: MacAddr,
    token: u64,
    control: Option<Box<Control>>,
    tx: Option<Box<TxPart>>,
    rx: Option<Box<RxPart>>,
    /// The thread that has the queues while their memory has to be asked for. With the control.
    abroad: Option<Abroad>,
    /// That thread, and those before it that have yet to end.
    hired: Vec<JoinHandle<()>>,
    /// There was no thread to be had for the queues, and there is no use in asking at each turn.
    refused: bool,
}

/// The shards on which the parts of a NIC live, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) control: usize,
    pub(crate) tx: usize,
    pub(crate) rx: usize,
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

impl Report {
    /// What this NIC has counted so far.
    pub(crate) fn of(joint: &Joint) -> Self {
        Self {
            name: joint.name.clone(),
            model: joint.shared().counters.snapshot(),
            backend: joint.passed.counters(),
        }
    }
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
        Self::of(name, &e1000::Config::new(mac.0), None, listener, backend)
    }

    /// As [`new`](Self::new), of any model.
    pub fn of(
        name: String,
        model: &e1000::Config,
        rom: Option<Rom>,
        listener: Listener,
        backend: impl Into<Backend>,
    ) -> Self {
        let (control, tx, rx) = e1000::new(model);
        let backend = backend.into();
        let mac = MacAddr(control.mac());
        let server = Server::new(listener, Engine::device(&control, rom.as_ref()));
        let (published, irqs) = (server.mem(), server.irqs());
        let shared = control.shared().clone();
        let joint = Joint::new(name, backend.name, backend.counters, shared, irqs);
        let joint = Arc::new(joint);
        let engine = Engine::new(control, rom, joint.clone());
        let (entrance, exit) = loopback::ring();
        let tx = TxPart::new(joint.clone(), tx, backend.tx, entrance, published.clone());
        let rx = RxPart::new(joint.clone(), rx, backend.rx, exit, published);
        let control = Control::new(joint.clone(), server, engine);
        Self {
            control: Some(Box::new(control)),
            tx: Some(Box::new(tx)),
            rx: Some(Box::new(rx)),
            ..Self::part(joint, mac)
        }
    }

    /// No part of a NIC.
    fn part(joint: Arc<Joint>, mac: MacAddr) -> Self {
        Self {
            joint,
            mac,
            token: 0,
            control: None,
            tx: None,
            rx: None,
            abroad: None,
            hired: Vec::new(),
            refused: false,
        }
    }

    /// Says what happens to frames that come faster than the guest takes them.
    #[must_use]
    pub fn overrun(mut self, overrun: Overrun) -> Self {
        if let Some(rx) = &mut self.rx {
            rx.set_overrun(overrun);
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

    /// Says where the flash is kept, which the model has been given.
    #[must_use]
    pub fn keep_flash(mut self, file: FlashFile) -> Self {
        if let Some(control) = &mut self.control {
            control.keep_flash(file);
        }
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

    /// Whether a part of this NIC is gone for good.
    pub(crate) fn is_over(&self) -> bool {
        self.joint.is_over()
    }

    /// Divides the NIC among shards: what each of them gets.
    ///
    /// # Errors
    ///
    /// The process has no descriptor left.
    pub(crate) fn divide(mut self, places: Places) -> io::Result<Vec<(usize, Self)>> {
        if places.tx != places.control || places.rx != places.control {
            self.joint.control.watch()?;
            self.joint.tx.waker.watch()?;
            self.joint.rx.waker.watch()?;
        }
        let (tx, rx) = (self.tx.take(), self.rx.take());
        let (joint, mac) = (self.joint.clone(), self.mac);
        let mut divided = vec![(places.control, self)];
        let mut at = |place| match divided.iter().position(|(shard, _)| *shard == place) {
            Some(index) => index,
            None => {
                divided.push((place, Self::part(joint.clone(), mac)));
                divided.len() - 1
            }
        };
        let (with_tx, with_rx) = (at(places.tx), at(places.rx));
        divided[with_tx].1.tx = tx;
        divided[with_rx].1.rx = rx;
        Ok(divided)
    }

    /// Comes to a shard, under number `index`, and has its descriptors watched by `epoll`. A shard with a door is a home;
    /// in one without, nobody else is, so the queues may wait.
    pub(crate) fn start(
        &mut self,
        epoll: BorrowedFd<'_>,
        index: usize,
        door: Option<&Door>,
    ) -> io::Result<()> {
        let may_wait = door.is_none();
        self.token = (index as u64) << TOKEN_BITS;
        if let Some(tx) = &mut self.tx {
            if let Some(door) = door {
                self.joint.tx.home.get_or_init(|| door.clone());
            }
            tx.start(epoll, self.token, may_wait)?;
        }
        if let Some(rx) = &mut self.rx {
            if let Some(door) = door {
                self.joint.rx.home.get_or_init(|| door.clone());
            }
            rx.start(epoll, self.token, may_wait)?;
        }
        match &mut self.control {
            Some(control) => control.start(epoll, self.token),
            None => Ok(()),
        }
    }

    /// Takes over parts of the same NIC that have come to the same shard, and were started under the same number.
    pub(crate) fn join(&mut self, mut other: Self) {
        self.tx = self.tx.take().or_else(|| other.tx.take());
        self.rx = self.rx.take().or_else(|| other.rx.take());
    }

    /// Answers what a descriptor reports. Queue work is left to the next turn.
    pub(crate) fn handle(
        &mut self,
        source: Source,
        flags: EventFlags,
        now: Time,
        rx_buf: &mut RxBuf,
        epoll: BorrowedFd<'_>,
    ) -> io::Result<()> {
        match source {
            Source::Server(data) => {
                if let Some(control) = &mut self.control {
                    control.on_event(data, flags, now);
                }
            }
            Source::ControlWaker => self.joint.control.clear(),
            // A part may have moved away since epoll reported it: then the event is for where it is now.
            Source::TxWaker if self.tx.is_some() => self.joint.tx.waker.clear(),
            Source::RxWaker if self.rx.is_some() => self.joint.rx.waker.clear(),
            Source::TxWaker | Source::RxWaker => return Ok(()),
            Source::Frames => {
                if let Some(rx) = &mut self.rx {
                    rx.on_frames();
                }
            }
            Source::Link => {
                if let Some(rx) = &mut self.rx {
                    rx.on_link();
                }
            }
            Source::Room => {
                if let Some(tx) = &mut self.tx {
                    tx.on_room();
                }
            }
        }
        self.pass_epochs(now, rx_buf);
        match &mut self.control {
            Some(control) => control.watch(epoll),
            None => Ok(()),
        }
    }

    /// Does what is due: timers, the queues within their budgets, the interrupt line.
    pub(crate) fn turn(
        &mut self,
        now: Time,
        rx_buf: &mut RxBuf,
        epoll: BorrowedFd<'_>,
    ) -> io::Result<Turn> {
        self.pass_epochs(now, rx_buf);
        if let Some(control) = &mut self.control {
            control.run_timers(now);
        }
        let mut more = false;
        if let Some(tx) = &mut self.tx {
            more |= tx.turn(now, epoll)?;
        }
        if let Some(rx) = &mut self.rx {
            more |= rx.turn(now, rx_buf, epoll)?;
        }
        if let Some(control) = &mut self.control {
            control.follow_cable();
            control.watch(epoll)?;
        }
        self.joint.update_line(now);
        if let Some(control) = &self.control
            && self.joint.operator.is_open()
        {
            let answer = control.answer(self.abroad.is_some());
            self.joint.operator.answer(answer);
        }
        if self.control.is_some() {
            self.place_queues(epoll)?;
        } else if self.joint.is_due_earlier() {
            self.joint.control.wake();
        }
        self.wake_others();
        let tx_leaves = self.tx.is_some() && self.joint.tx.is_bound();
        let rx_leaves = self.rx.is_some() && self.joint.rx.is_bound();
        Ok(match more {
            _ if tx_leaves || rx_leaves => Turn::Leave,
            true => Turn::More,
            false => Turn::Idle,
        })
    }

    /// Wakes the queues on other threads that have something to do.
    fn wake_others(&self) {
        if self.tx.is_none() {
            self.joint.tx.wake_if_wanted();
        }
        if self.rx.is_none() {
            self.joint.rx.wake_if_wanted();
        }
    }

    /// Whether an operator wants to know something that a turn would tell.
    pub(crate) fn is_asked(&self) -> bool {
        self.control.is_some() && self.joint.operator.is_open()
    }

    /// What is told without asking.
    pub(crate) fn joint(&self) -> &Arc<Joint> {
        &self.joint
    }

    /// When this NIC needs a turn although nothing happens.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let control = self.control.as_ref().and_then(|control| control.deadline());
        let tx = self.tx.as_ref().and_then(|tx| tx.deadline());
        let rx = self.rx.as_ref().and_then(|rx| rx.deadline());
        [control, tx, rx].into_iter().flatten().min()
    }

    /// The parts that are to live on another shard, and have left this one.
    pub(crate) fn leave(&mut self, epoll: BorrowedFd<'_>) -> io::Result<Vec<(Door, Self)>> {
        let mut leaving = Vec::new();
        if let Some(tx) = &mut self.tx
            && let Some(door) = self.joint.tx.take_destination()
        {
            tx.leave(epoll)?;
            let tx = self.tx.take();
            let part = Self::part(self.joint.clone(), self.mac);
            leaving.push((door, Self { tx, ..part }));
        }
        if let Some(rx) = &mut self.rx
            && let Some(door) = self.joint.rx.take_destination()
        {
            rx.leave(epoll)?;
            let rx = self.rx.take();
            let part = Self::part(self.joint.clone(), self.mac);
            leaving.push((door, Self { rx, ..part }));
        }
        Ok(leaving)
    }

    /// Whether no part is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.control.is_none() && self.tx.is_none() && self.rx.is_none()
    }

    /// Ends the NIC; whether it can be done from here, where its control is. Its socket and its client are gone afterwards,
    /// and its backend when the other shards have let go of it.
    pub(crate) fn close(&mut self) -> bool {
        let Some(mut control) = self.control.take() else {
            return false;
        };
        control.close();
        self.joint.end();
        self.joint.tx.forget_destination();
        self.joint.rx.forget_destination();
        self.abroad = None;
        for thread in self.hired.drain(..) {
            let _ = thread.join();
        }
        true
    }

    /// Follows the client's changes of memory and interrupts, and lets the answers that waited for it leave.
    fn pass_epochs(&mut self, now: Time, rx_buf: &mut RxBuf) {
        loop {
            if let Some(control) = &self.control {
                control.ask();
            }
            let mut passed = false;
            if let Some(tx) = &mut self.tx {
                passed |= tx.pass_epoch(now);
            }
            if let Some(rx) = &mut self.rx {
                passed |= rx.pass_epoch(now, rx_buf);
            }
            let Some(control) = &mut self.control else {
                if passed {
                    self.joint.control.wake();
                }
                break;
            };
            if !control.pass_epoch(now) {
                break;
            }
            // Whatever the epoch has interrupted goes on.
            if self.tx.is_none() {
                self.joint.tx.kick(Kick::TX);
            }
            if self.rx.is_none() {
                self.joint.rx.kick(Kick::RX);
            }
        }
        self.wake_others();
    }
}
