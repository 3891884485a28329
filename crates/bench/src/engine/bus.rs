//! The driver's way to a model whose queues somebody else calls.
//!
//! Not `guest-driver`'s, though much like its `direct`: this file is put into older commits, whose driver has what it had then.

use std::io;

use guest_driver::ram::Ram;
use guest_driver::regs::pci;
use guest_driver::{Bar, Bus};
use guest_mem::{GuestMem, Mapping};
use nic_emu::Time;
use nic_emu::e1000::{self, Control};

/// DMA address of the first byte of RAM: above 4 GiB, where both halves of an address count.
const RAM_BASE: u64 = 1 << 32;
/// Bytes of RAM; pages that nobody touches cost nothing.
const RAM_SIZE: u64 = 256 << 20;

/// The registers of a model, and RAM. Kicks lead nowhere. Time passes when the driver waits.
pub struct ControlBus {
    control: Control,
    ram: Ram,
    now: Time,
    command: u32,
}

impl ControlBus {
    pub(super) fn new(mut control: Control) -> io::Result<Self> {
        control.set_link(true, Time(0));
        Ok(Self {
            control,
            ram: Ram::new(Mapping::anonymous(RAM_SIZE)?, RAM_BASE),
            now: Time(0),
            command: 0,
        })
    }

    pub(super) fn mem(&self) -> &GuestMem {
        self.ram.mem()
    }

    fn read(&mut self, bar: u8, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.control.read(bar, offset, &mut data, self.now);
        u32::from_le_bytes(data)
    }

    fn write(&mut self, bar: u8, offset: u64, value: u32) {
        self.control
            .write(bar, offset, &value.to_le_bytes(), self.now);
    }
}

impl Bus for ControlBus {
    fn config_read(&mut self, offset: u8, _size: u8) -> u32 {
        let id = &self.control.pci().identity;
        match offset {
            pci::ID => u32::from(id.device) << 16 | u32::from(id.vendor),
            pci::COMMAND => self.command,
            _ => 0,
        }
    }

    fn config_write(&mut self, offset: u8, _size: u8, value: u32) {
        if offset == pci::COMMAND {
            self.command = value;
            self.control
                .set_bus_master(value & pci::COMMAND_MASTER != 0);
        }
    }

    fn bar(&mut self, _index: u8) -> Option<Bar> {
        None
    }

    fn read32(&mut self, offset: u32) -> u32 {
        self.read(e1000::REGISTER_BAR, offset.into())
    }

    fn write32(&mut self, offset: u32, value: u32) {
        self.write(e1000::REGISTER_BAR, offset.into(), value);
    }

    fn io_read32(&mut self, port: u8) -> u32 {
        self.read(e1000::IO_BAR, port.into())
    }

    fn io_write32(&mut self, port: u8, value: u32) {
        self.write(e1000::IO_BAR, port.into(), value);
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

    fn interrupt(&mut self) -> bool {
        self.control.shared().irq.poll(self.now)
    }

    fn wait(&mut self, ns: u64) {
        let end = self.now.plus_nanos(ns);
        while let Some(next) = self.control.deadline().filter(|&next| next <= end) {
            self.now = self.now.max(next);
            self.control.run_timers(self.now);
        }
        self.now = end;
    }

    fn now(&mut self) -> u64 {
        self.now.0
    }

    fn owns_time(&self) -> bool {
        true
    }

    fn settle(&mut self) {}
}
