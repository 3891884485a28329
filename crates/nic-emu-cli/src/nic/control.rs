//! The control of a NIC: its registers behind a vfio-user server.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use nic_emu::Time;
use nic_emu::e1000::CountersSnapshot;
use rustix::event::epoll::EventFlags;
use vfio_user::{Accepted, Closed, Epoll, Event, Memory, Server};

use super::asked::ControlAnswer;
use super::joint::Joint;
use super::source::{TOKEN_CONTROL, watch};
use crate::eeprom::EepromFile;
use crate::engine::Engine;
use crate::flash::FlashFile;
use crate::summary;

/// How long a hypervisor that could not be let in waits for the next try.
const LISTEN_AGAIN: Duration = Duration::from_millis(100);

/// Answers the hypervisor. Never waits for anybody, and never touches guest memory.
pub(super) struct Control {
    joint: Arc<Joint>,
    server: Server,
    engine: Engine,
    token: u64,
    /// The cable as the model was last told.
    cable: bool,
    /// The last epoch of which the server knows that the queues have passed it.
    passed: u64,
    /// When to try again after a hypervisor could not be let in.
    listen_again: Option<Time>,
    /// Whether epoll watches our waker.
    waker_watched: bool,
}

impl Control {
    pub(super) fn new(joint: Arc<Joint>, server: Server, engine: Engine) -> Self {
        Self {
            joint,
            passed: server.epoch(),
            server,
            engine,
            token: 0,
            cable: false,
            listen_again: None,
            waker_watched: false,
        }
    }

    /// Whatever a guest writes to the EEPROM goes to this file from now on.
    pub(super) fn keep_eeprom(&mut self, file: EepromFile) {
        self.engine.keep_eeprom(file);
    }

    /// Whatever a guest writes to the flash goes to this file from now on.
    pub(super) fn keep_flash(&mut self, file: FlashFile) {
        self.engine.keep_flash(file);
    }

    /// Registers the server with `epoll` under this token.
    pub(super) fn start(&mut self, epoll: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        self.token = token;
        self.watch_waker(epoll)?;
        self.follow_cable();
        self.watch(epoll)
    }

    /// Watches our waker, once there is one.
    pub(super) fn watch_waker(&mut self, epoll: BorrowedFd<'_>) -> io::Result<()> {
        match self.joint.control.watched() {
            Some(fd) if !std::mem::replace(&mut self.waker_watched, true) => {
                watch(epoll, fd, self.token | TOKEN_CONTROL, EventFlags::IN, true)
            }
            _ => Ok(()),
        }
    }

    /// Answers what one of the server's descriptors reports. Epochs are left to [`Control::pass_epoch`].
    pub(super) fn on_event(&mut self, data: u64, flags: EventFlags, now: Time) {
        let Some(event) = Event::from_epoll(data, flags) else {
            return;
        };
        self.engine.set_now(now);
        let nic = self.joint.name.as_str();
        match self.server.on_event(event, &mut self.engine) {
            Ok(Some(Accepted::Client)) => tracing::info!(nic, "a hypervisor has connected"),
            Ok(Some(Accepted::Refused)) => {
                tracing::warn!(nic, "refused a second hypervisor: the NIC is in use");
            }
            Ok(Some(Accepted::Failed(error))) => {
                tracing::error!(nic, "cannot let a hypervisor in: {error}");
                self.listen_again = Some(now + LISTEN_AGAIN);
            }
            Ok(_) => {}
            Err(closed) => self.closed(&closed),
        }
    }

    /// Asks the queues to pass the newest epoch, if they have not yet.
    pub(super) fn ask(&self) {
        self.joint.ask(self.server.epoch());
    }

    /// Lets the answers leave that waited for what the queues have passed meanwhile, which may bring forth the next
    /// epoch. Returns whether anything left.
    pub(super) fn pass_epoch(&mut self, now: Time) -> bool {
        let passed = self.joint.passed();
        if passed == self.passed {
            return false;
        }
        self.passed = passed;
        self.engine.set_now(now);
        // Before anything is executed that was held back.
        if passed == self.server.epoch() {
            self.engine.settle();
        }
        if let Err(closed) = self.server.pass_epoch(passed, &mut self.engine) {
            self.closed(&closed);
        }
        true
    }

    /// Whether the guest's memory has to be asked for.
    pub(super) fn is_remote(&self) -> bool {
        self.server.memory() == Memory::Remote
    }

    /// Does what is due.
    pub(super) fn run_timers(&mut self, now: Time) {
        self.engine.set_now(now);
        if !self.joint.is_stopped() {
            self.engine.run_timers();
        }
        if self.listen_again.is_some_and(|at| at <= now) {
            self.listen_again = None;
            self.server.listen_again();
        }
        self.follow_cable();
    }

    /// Tells the model of the cable.
    pub(super) fn follow_cable(&mut self) {
        let cable = self.joint.carrier();
        if cable != self.cable && !self.joint.is_stopped() {
            self.cable = cable;
            self.engine.set_link(cable);
        }
    }

    /// Tells epoll what changed about the server's descriptors.
    pub(super) fn watch(&mut self, epoll: BorrowedFd<'_>) -> io::Result<()> {
        self.server.update_watches(&mut Epoll {
            epoll,
            token: self.token,
        })
    }

    /// When this has to be called although nothing happens.
    pub(super) fn deadline(&self) -> Option<Time> {
        if self.joint.is_stopped() {
            return self.listen_again;
        }
        [self.joint.arm(), self.engine.deadline(), self.listen_again]
            .into_iter()
            .flatten()
            .min()
    }

    /// Ends the connection, so that nobody waits for the hypervisor any more.
    pub(super) fn close(&mut self) {
        self.server.close(&mut self.engine);
    }

    /// What nobody else knows.
    pub(super) fn answer(&self, apart: bool) -> ControlAnswer {
        ControlAnswer {
            apart,
            connected: self.server.connected(),
            memory: self.server.memory(),
            dma: self.server.dma_messages(),
            messages: self.server.messages(),
        }
    }

    /// What the model has counted.
    pub(super) fn counters(&self) -> CountersSnapshot {
        self.joint.shared().counters.snapshot()
    }

    fn closed(&self, closed: &Closed) {
        tracing::info!(
            nic = self.joint.name,
            "{closed}; waiting for the next hypervisor ({})",
            summary::guest(&self.counters())
        );
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.joint.end();
    }
}
