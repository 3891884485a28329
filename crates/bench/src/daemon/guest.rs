//! The guest's way to its NIC, with an eye on what it costs.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use guest_driver::socket::Socket;
use guest_driver::{Bar, Bus};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use vfio_user::wire::irq_index;

use super::Guest;

/// How long the guest waits for an interrupt that has to come.
const PATIENCE: Timespec = Timespec {
    tv_sec: 20,
    tv_nsec: 0,
};

/// A socket that counts messages and interrupts.
pub struct Counted {
    socket: Socket,
    trigger: OwnedFd,
    /// Messages sent to the daemon: register accesses and what a hypervisor adds.
    pub messages: u64,
    /// Times that the daemon has signalled an interrupt.
    pub interrupts: u64,
}

impl Counted {
    pub(super) fn connect(path: &Path) -> Result<Self> {
        let mut socket = Socket::connect(path)?;
        let trigger = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let fds = [trigger.as_fd()];
        socket.client().irq_eventfds(irq_index::INTX, 0, &fds)?;
        Ok(Self {
            socket,
            trigger,
            messages: 0,
            interrupts: 0,
        })
    }

    /// Sleeps until an interrupt has come.
    ///
    /// # Errors
    ///
    /// None comes.
    pub fn await_interrupt(&mut self) -> Result<()> {
        let mut fds = [PollFd::new(&self.trigger, PollFlags::IN)];
        ensure!(poll(&mut fds, Some(&PATIENCE))? > 0, "no interrupt in 20 s");
        let mut count = [0; 8];
        rustix::io::read(&self.trigger, &mut count)?;
        self.interrupts += u64::from_ne_bytes(count);
        Ok(())
    }

    /// What a hypervisor does when the guest has handled an interrupt of the pin.
    ///
    /// # Errors
    ///
    /// The daemon is gone.
    pub fn unmask(&mut self) -> Result<()> {
        self.messages += 1;
        Ok(self.socket.client().unmask_irqs(irq_index::INTX, 0, 1)?)
    }
}

/// Handles interrupts as Linux's driver does: reads the causes, masks, works, unmasks.
///
/// # Errors
///
/// No interrupt comes, or the daemon is gone.
pub(super) fn on_interrupt<T>(guest: &mut Guest, work: impl FnOnce(&mut Guest) -> T) -> Result<T> {
    guest.bus.await_interrupt()?;
    guest.causes();
    guest.disable_interrupts();
    let done = work(guest);
    guest.enable_interrupts(!0);
    guest.bus.unmask()?;
    Ok(done)
}

impl Bus for Counted {
    fn config_read(&mut self, offset: u8, size: u8) -> u32 {
        self.messages += 1;
        self.socket.config_read(offset, size)
    }

    fn config_write(&mut self, offset: u8, size: u8, value: u32) {
        self.messages += 1;
        self.socket.config_write(offset, size, value);
    }

    fn bar(&mut self, index: u8) -> Option<Bar> {
        self.socket.bar(index)
    }

    fn read32(&mut self, offset: u32) -> u32 {
        self.messages += 1;
        self.socket.read32(offset)
    }

    fn write32(&mut self, offset: u32, value: u32) {
        self.messages += 1;
        self.socket.write32(offset, value);
    }

    fn io_read32(&mut self, port: u8) -> u32 {
        self.messages += 1;
        self.socket.io_read32(port)
    }

    fn io_write32(&mut self, port: u8, value: u32) {
        self.messages += 1;
        self.socket.io_write32(port, value);
    }

    fn alloc(&mut self, len: usize, align: u64) -> u64 {
        self.socket.alloc(len, align)
    }

    fn dma_read(&mut self, addr: u64, to: &mut [u8]) {
        self.socket.dma_read(addr, to);
    }

    fn dma_write(&mut self, addr: u64, from: &[u8]) {
        self.socket.dma_write(addr, from);
    }

    fn interrupt(&mut self) -> bool {
        self.socket.interrupt()
    }

    fn wait(&mut self, ns: u64) {
        std::thread::sleep(Duration::from_nanos(ns));
    }

    fn now(&mut self) -> u64 {
        self.socket.now()
    }

    fn owns_time(&self) -> bool {
        false
    }

    fn settle(&mut self) {
        self.socket.settle();
    }

    fn receiver_started(&mut self) {
        self.socket.receiver_started();
    }
}
