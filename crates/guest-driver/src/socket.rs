//! A device behind a vfio-user socket: shared memory, an eventfd for the interrupt, and what a hypervisor would do in
//! between.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use guest_mem::Mapping;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vfio_user::client::{Client, Result};
use vfio_user::wire::{dma_map_flags, irq_index, region_index, set_irqs_flags};

use crate::bus::{Bar, Bus};
use crate::ram::Ram;
use crate::regs::{self, pci};

/// Region of the memory BAR; the others follow.
const BAR0: u32 = 0;

/// DMA address of the first byte of RAM: above 4 GiB, where both halves of an address count.
pub const RAM_BASE: u64 = 1 << 32;
/// Bytes of RAM; pages that nobody touches cost nothing.
pub const RAM_SIZE: u64 = 256 << 20;

/// One device of a vfio-user server.
pub struct Socket {
    client: Client,
    ram: Ram,
    memory: OwnedFd,
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
        let mut client = Client::connect(path)?;
        let memory = memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&memory, RAM_SIZE)?;
        let mapping = Mapping::of_file(memory.as_fd(), 0, RAM_SIZE, true)?;
        client.dma_map(
            RAM_BASE,
            RAM_SIZE,
            Some((memory.as_fd(), 0)),
            dma_map_flags::READ | dma_map_flags::WRITE,
        )?;

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

        let trigger = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        client.set_irq(
            irq_index::INTX,
            set_irqs_flags::DATA_EVENTFD | set_irqs_flags::ACTION_TRIGGER,
            Some(trigger.as_fd()),
        )?;
        let decode = (pci::COMMAND_IO | pci::COMMAND_MEMORY) as u16;
        client.config_write(pci::COMMAND.into(), &decode.to_le_bytes())?;
        Ok(Self {
            client,
            ram: Ram::new(mapping, RAM_BASE),
            memory,
            trigger,
            bars,
            io_region,
            start: Instant::now(),
        })
    }

    /// The connection itself, for what a driver cannot do.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// The file behind RAM.
    pub fn memory(&self) -> &OwnedFd {
        &self.memory
    }

    /// Whether the device has asked for an interrupt since this was last called.
    pub fn take_trigger(&mut self) -> bool {
        rustix::io::read(&self.trigger, &mut [0; 8]).is_ok()
    }
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
        works(self.client.set_irq(
            irq_index::INTX,
            set_irqs_flags::DATA_NONE | set_irqs_flags::ACTION_UNMASK,
            None,
        ));
        self.settle();
        self.take_trigger()
    }

    fn wait(&mut self, ns: u64) {
        thread::sleep(Duration::from_nanos(ns));
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

    /// A server answers before its queues work, so that an answer proves that the turn before it has ended.
    fn settle(&mut self) {
        for _ in 0..3 {
            self.read32(regs::STATUS);
        }
    }
}
