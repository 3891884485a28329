//! The network card as the driver reaches it from here.

use guest_driver::regs::{STATUS, pci};
use guest_driver::{Bar, Bus};

use crate::args::Error;
use crate::clock::Clock;
use crate::interrupt;
use crate::machine::{Machine, Ram};
use crate::pci::Function;

/// Vendor and device of the 82540EM.
const ID: u32 = 0x100E_8086;

/// A PCI function with its memory: a [`Bus`] that costs an instruction an access.
#[derive(Debug)]
pub struct Nic {
    machine: Machine,
    function: Function,
    bars: [Option<(u32, Bar)>; 6],
    registers: u32,
    ports: u16,
    /// What the device may reach.
    pub ram: Ram,
    /// The time.
    pub clock: Clock,
}

impl Nic {
    /// Finds the first 82540EM.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`]: there is none, or it lacks a BAR.
    pub fn find(machine: Machine, ram: Ram) -> Result<Self, Error> {
        let function = Function::find(machine, ID).ok_or(Error::NoDevice)?;
        // Nothing decodes while the BARs are sized.
        let command = function.read(pci::COMMAND, 2);
        function.write(pci::COMMAND, 2, 0);
        let bars = core::array::from_fn(|index| function.bar(index as u8));
        function.write(pci::COMMAND, 2, command);
        let first = |io| {
            let mut found = bars.iter().flatten().filter(|(_, bar)| bar.io == io);
            found.next().map(|(addr, _)| *addr).ok_or(Error::NoDevice)
        };
        Ok(Self {
            machine,
            function,
            bars,
            registers: first(false)?,
            ports: first(true)? as u16,
            ram,
            clock: Clock::new(machine),
        })
    }

    /// Its slot on bus 0.
    pub fn slot(&self) -> u8 {
        self.function.slot
    }

    /// Address of its registers.
    pub fn registers(&self) -> u32 {
        self.registers
    }

    /// The input of the interrupt controllers that the firmware has routed its pin to.
    pub fn line(&self) -> u8 {
        self.function.read(pci::INTERRUPT_LINE, 1) as u8
    }

    /// The machine around it.
    pub fn machine(&self) -> Machine {
        self.machine
    }
}

impl Bus for Nic {
    fn config_read(&mut self, offset: u8, size: u8) -> u32 {
        self.function.read(offset, size)
    }
    fn config_write(&mut self, offset: u8, size: u8, value: u32) {
        self.function.write(offset, size, value);
    }
    fn bar(&mut self, index: u8) -> Option<Bar> {
        self.bars[usize::from(index)].map(|(_, bar)| bar)
    }

    #[inline]
    fn read32(&mut self, offset: u32) -> u32 {
        self.machine.read32(self.registers + offset)
    }
    #[inline]
    fn write32(&mut self, offset: u32, value: u32) {
        self.machine.write32(self.registers + offset, value);
    }
    fn io_read32(&mut self, port: u8) -> u32 {
        self.machine.inl(self.ports + u16::from(port))
    }
    fn io_write32(&mut self, port: u8, value: u32) {
        self.machine.outl(self.ports + u16::from(port), value);
    }

    fn alloc(&mut self, len: usize, align: u64) -> u64 {
        self.ram.alloc(len, align)
    }
    /// Whole words are read as such, so that a status word is never seen half written.
    #[inline]
    fn dma_read(&mut self, addr: u64, to: &mut [u8]) {
        let (words, []) = to.as_chunks_mut::<8>() else {
            return self.ram.read(addr, to);
        };
        if !addr.is_multiple_of(8) {
            return self.ram.read(addr, to);
        }
        for (addr, word) in (addr..).step_by(8).zip(words) {
            *word = self.ram.load(addr).to_le_bytes();
        }
    }
    #[inline]
    fn dma_write(&mut self, addr: u64, from: &[u8]) {
        self.ram.write(addr, from);
    }

    fn interrupt(&mut self) -> bool {
        interrupt::asserted(self.machine, self.line())
    }

    fn wait(&mut self, ns: u64) {
        self.clock.wait(ns);
    }
    fn now(&mut self) -> u64 {
        self.clock.now()
    }
    fn owns_time(&self) -> bool {
        false
    }
    fn settle(&mut self) {}
    /// A write may still be on its way when the next instruction runs; a read comes behind it. Who is told that we
    /// receive may send at once.
    fn receiver_started(&mut self) {
        self.read32(STATUS);
    }
}
