//! A device behind a vfio-user socket: memory that is shared or that it has to ask for, an eventfd for the interrupt,
//! and what a hypervisor would do in between.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use std::vec::Vec;

use guest_mem::{GuestMem, Mapping};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vfio_user::client::{Client, Result};
use vfio_user::wire::{device_state, dma_map_flags, irq_index, region_index};

use crate::bus::{Bar, Bus};
use crate::ram::Ram;
use crate::regs::{self, pci};

/// Region of the memory BAR; the others follow.
const BAR0: u32 = 0;

/// DMA address of the first byte of RAM: above 4 GiB, where both halves of an address count.
pub const RAM_BASE: u64 = 1 << 32;
/// Bytes of RAM; pages that nobody touches cost nothing.
pub const RAM_SIZE: u64 = 256 << 20;

/// Where the page is seen by the device that is lent to it for a moment.
const LENT: u64 = 1 << 40;
/// Its bytes.
const LENT_SIZE: u64 = 4096;

/// Bytes that the saved state of a device may have.
const STATE_SIZE: usize = 16 << 20;
/// How long a device with memory that it has to ask for may be silent between two questions that belong together.
const SILENCE: Duration = Duration::from_millis(2);

/// One device of a vfio-user server.
pub struct Socket {
    client: Client,
    ram: Ram,
    /// The file behind RAM; without it the device asks for each byte.
    memory: Option<OwnedFd>,
    trigger: OwnedFd,
    bars: [Option<Bar>; 6],
    io_region: u32,
    start: Instant,
}

impl Socket {
    /// Connects to the device at `path`, shares RAM with it, takes its interrupt and lets it decode its BARs, as
    /// firmware does.
    ///
    /// # Errors
    ///
    /// Nobody serves there, or the server does not do what QEMU needs of it.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self> {
        Self::attach(Client::connect(path)?)
    }

    /// [`connect`](Self::connect) without sharing RAM: the device reads and writes it by messages, as it has to with a
    /// guest of QEMU whose memory has no file.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub fn connect_remote(path: impl AsRef<Path>) -> Result<Self> {
        Self::attach_remote(Client::connect(path)?)
    }

    /// [`connect`](Self::connect) with a client that is connected, of whatever dialect.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub fn attach(client: Client) -> Result<Self> {
        let memory = memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&memory, RAM_SIZE)?;
        let mapping = Mapping::of_file(memory.as_fd(), 0, RAM_SIZE, true)?;
        Self::begin(client, Ram::new(mapping, RAM_BASE), Some(memory))
    }

    /// [`connect_remote`](Self::connect_remote) with a client that is connected, of a dialect that answers its device.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub fn attach_remote(client: Client) -> Result<Self> {
        let ram = Ram::new(Mapping::anonymous(RAM_SIZE)?, RAM_BASE);
        Self::begin(client, ram, None)
    }

    fn begin(mut client: Client, ram: Ram, memory: Option<OwnedFd>) -> Result<Self> {
        let trigger = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        give_memory(&mut client, &ram, memory.as_ref())?;

        let mut bars = [None; 6];
        let mut io_region = BAR0;
        for index in (0..6).rev() {
            let info = client.region_info(BAR0 + index)?;
            let [kind] = client.config_read(u64::from(pci::BAR0) + 4 * u64::from(index))?;
            let io = kind & 1 != 0;
            if info.size > 0 {
                bars[index as usize] = Some(Bar {
                    io,
                    size: info.size,
                });
            }
            if io {
                io_region = BAR0 + index;
            }
        }

        client.irq_eventfds(irq_index::INTX, 0, &[trigger.as_fd()])?;
        let decode = (pci::COMMAND_IO | pci::COMMAND_MEMORY) as u16;
        client.config_write(pci::COMMAND.into(), &decode.to_le_bytes())?;
        Ok(Self {
            client,
            ram,
            memory,
            trigger,
            bars,
            io_region,
            start: Instant::now(),
        })
    }

    /// Stops the device and returns its state, as a hypervisor does that moves its guest elsewhere. The device stays
    /// stopped.
    ///
    /// # Errors
    ///
    /// The device cannot be saved.
    pub fn save(&mut self) -> Result<Vec<u8>> {
        self.client.set_device_state(device_state::STOP_COPY)?;
        let state = self.client.read_state(STATE_SIZE)?;
        self.client.set_device_state(device_state::STOP)?;
        Ok(state)
    }

    /// Moves the guest, RAM and all, to the device at `path`, which goes on with a state that was [saved](Self::save).
    /// The connection to the old one ends.
    ///
    /// # Errors
    ///
    /// Nobody serves there, or the device does not take the state. Everything is as before then.
    pub fn restore(&mut self, path: impl AsRef<Path>, state: &[u8]) -> Result<()> {
        self.restore_to(Client::connect(path)?, state)
    }

    /// [`restore`](Self::restore) with a client that is connected.
    ///
    /// # Errors
    ///
    /// As [`restore`](Self::restore).
    pub fn restore_to(&mut self, mut client: Client, state: &[u8]) -> Result<()> {
        give_memory(&mut client, &self.ram, self.memory.as_ref())?;
        client.irq_eventfds(irq_index::INTX, 0, &[self.trigger.as_fd()])?;
        client.set_device_state(device_state::RESUMING)?;
        client.write_state(state)?;
        client.set_device_state(device_state::STOP)?;
        // What a hypervisor knows without asking: whether the guest lets the device do DMA.
        client.config_read::<2>(pci::COMMAND.into())?;
        client.set_device_state(device_state::RUNNING)?;
        self.client = client;
        Ok(())
    }

    /// Whether the device has to ask for RAM.
    pub fn is_remote(&self) -> bool {
        self.memory.is_none()
    }

    /// The connection itself, for what a driver cannot do.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// The file behind RAM, if it is shared.
    pub fn memory(&self) -> Option<&OwnedFd> {
        self.memory.as_ref()
    }

    /// RAM as the device sees it.
    pub fn ram(&self) -> &GuestMem {
        self.ram.mem()
    }

    /// Whether the device has asked for an interrupt since this was last called.
    pub fn take_trigger(&mut self) -> bool {
        rustix::io::read(&self.trigger, &mut [0; 8]).is_ok()
    }

    /// Lends the device a page and takes it back, until each queue has ended a turn that began after this, and what
    /// one queue hands to the other has had its turn as well.
    fn pass_epochs(&mut self) -> Result<()> {
        let Some(memory) = &self.memory else {
            return Ok(());
        };
        for _ in 0..2 {
            let file = Some((memory.as_fd(), 0));
            self.client
                .dma_map(LENT, LENT_SIZE, file, dma_map_flags::READ)?;
            self.client.dma_unmap(LENT, LENT_SIZE)?;
        }
        Ok(())
    }

    /// Answers what the device has asked by now.
    fn serve(&mut self) {
        if self.is_remote() {
            works(self.client.serve(Duration::ZERO));
        }
    }
}

/// Lets the device use RAM.
fn give_memory(client: &mut Client, ram: &Ram, memory: Option<&OwnedFd>) -> Result<()> {
    if memory.is_none() {
        client.set_memory(Some(Arc::new(ram.mem().clone())));
    }
    let file = memory.map(|memory| (memory.as_fd(), 0));
    let both = dma_map_flags::READ | dma_map_flags::WRITE;
    client.dma_map(RAM_BASE, RAM_SIZE, file, both)
}

/// What all of the bus rests on.
fn works<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("the device is gone: {error}"))
}

impl Bus for Socket {
    fn config_read(&mut self, offset: u8, size: u8) -> u32 {
        let mut data = [0; 4];
        let wanted = &mut data[..usize::from(size)];
        works(
            self.client
                .region_read(region_index::CONFIG, offset.into(), wanted),
        );
        u32::from_le_bytes(data)
    }

    fn config_write(&mut self, offset: u8, size: u8, value: u32) {
        let data = value.to_le_bytes();
        works(
            self.client
                .config_write(offset.into(), &data[..usize::from(size)]),
        );
    }

    fn bar(&mut self, index: u8) -> Option<Bar> {
        self.bars[usize::from(index)]
    }

    fn read32(&mut self, offset: u32) -> u32 {
        let mut data = [0; 4];
        works(self.client.region_read(BAR0, offset.into(), &mut data));
        u32::from_le_bytes(data)
    }

    /// Posted, as QEMU does.
    fn write32(&mut self, offset: u32, value: u32) {
        let data = value.to_le_bytes();
        works(self.client.region_write_posted(BAR0, offset.into(), &data));
    }

    fn io_read32(&mut self, port: u8) -> u32 {
        let mut data = [0; 4];
        works(
            self.client
                .region_read(self.io_region, port.into(), &mut data),
        );
        u32::from_le_bytes(data)
    }

    fn io_write32(&mut self, port: u8, value: u32) {
        let data = value.to_le_bytes();
        works(self.client.region_write(self.io_region, port.into(), &data));
    }

    fn alloc(&mut self, len: usize, align: u64) -> u64 {
        self.ram.alloc(len, align)
    }

    fn dma_read(&mut self, addr: u64, to: &mut [u8]) {
        self.serve();
        self.ram.read(addr, to);
    }

    fn dma_write(&mut self, addr: u64, from: &[u8]) {
        self.ram.write(addr, from);
    }

    /// An eventfd tells of rising edges only. What a hypervisor does to learn of the level, once it has taken an edge:
    /// unmask, and see whether the device asks again.
    fn interrupt(&mut self) -> bool {
        self.settle();
        self.take_trigger();
        works(self.client.unmask_irqs(irq_index::INTX, 0, 1));
        self.settle();
        self.take_trigger()
    }

    fn wait(&mut self, ns: u64) {
        let time = Duration::from_nanos(ns);
        match self.is_remote() {
            true => works(self.client.serve(time)),
            false => thread::sleep(time),
        }
    }

    fn now(&mut self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn owns_time(&self) -> bool {
        false
    }

    /// What arrives before the server has seen that the receiver is on is lost.
    fn receiver_started(&mut self) {
        self.settle();
    }

    /// A server answers before its queues work, so that an answer proves that the turn before it has ended; queues with
    /// threads of their own have ended theirs when memory that was taken away is theirs no more. Queues that ask for
    /// memory have come to an end when they ask no more.
    fn settle(&mut self) {
        for _ in 0..3 {
            self.read32(regs::STATUS);
        }
        let mut answered = None;
        while self.is_remote() && answered != Some(self.client.answered()) {
            answered = Some(self.client.answered());
            works(self.client.serve(SILENCE));
        }
        works(self.pass_epochs());
    }
}
