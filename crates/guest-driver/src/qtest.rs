//! A device inside QEMU, driven without a guest (`-accel qtest`, QEMU's `docs/devel/testing/qtest.rst`).
//!
//! The machine is a q35 whose firmware never runs: this bus places the BARs itself and owns all RAM. Time passes only
//! when it is stepped.

use std::format;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::string::String;
use std::time::Duration;

use crate::bus::{Bar, Bus};
use crate::regs::pci;

const CONFIG_ADDRESS: u16 = 0xCF8;
const CONFIG_DATA: u16 = 0xCFC;
/// Where BARs go: above RAM and below the chipset's own devices.
const MEMORY_BARS: u64 = 0xE000_0000;
const IO_BARS: u64 = 0xC000;
/// The first megabyte belongs to firmware and the VGA hole.
const RAM_START: u64 = 1 << 20;
/// A q35 routes the four pins of a PCI slot to these inputs of its I/O APIC.
const PCI_INTERRUPTS: core::ops::Range<u32> = 16..24;
/// Longest time without an answer before QEMU is held to be dead.
const PATIENCE: Duration = Duration::from_secs(30);
/// QEMU cuts longer commands into pieces nobody waits for.
const CHUNK: usize = 32 * 1024;

/// One PCI function of a QEMU under qtest.
#[derive(Debug)]
pub struct Qtest {
    stream: BufReader<UnixStream>,
    slot: u8,
    bars: [Option<(u64, Bar)>; 6],
    ram_next: u64,
    ram_end: u64,
    /// Inputs of the I/O APIC that are up, one bit each.
    raised: u32,
    now: u64,
    /// How long the device keeps its receiver closed after it was switched on.
    receiver_delay: u64,
}

impl Qtest {
    /// Takes over the qtest socket of a q35 machine with `ram` bytes of RAM, and places the BARs of the device in
    /// PCI slot `slot` of bus 0. Frames are held to arrive no earlier than `receiver_delay` ns after the receiver was
    /// switched on.
    ///
    /// # Panics
    ///
    /// If QEMU does not answer as the protocol says.
    pub fn new(stream: UnixStream, slot: u8, ram: u64, receiver_delay: u64) -> Self {
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a timeout that is not zero");
        let mut bus = Self {
            stream: BufReader::new(stream),
            slot,
            bars: [None; 6],
            ram_next: RAM_START,
            ram_end: ram,
            raised: 0,
            now: 0,
            receiver_delay,
        };
        bus.command("irq_intercept_in ioapic");
        bus.place_bars();
        bus
    }

    fn place_bars(&mut self) {
        let (mut memory, mut io) = (MEMORY_BARS, IO_BARS);
        for index in 0..6 {
            let offset = pci::BAR0 + 4 * index;
            self.config_write(offset, 4, !0);
            let mask = self.config_read(offset, 4);
            let is_io = mask & 1 != 0;
            let bits = mask & if is_io { !0x3 } else { !0xF };
            if bits == 0 {
                continue;
            }
            let size = u64::from(!bits) + 1;
            let size = if is_io { size & 0xFFFF } else { size };
            let place = if is_io { &mut io } else { &mut memory };
            let addr = place.next_multiple_of(size);
            *place = addr + size;
            self.config_write(offset, 4, addr as u32);
            self.bars[usize::from(index)] = Some((addr, Bar { io: is_io, size }));
        }
        let decode = pci::COMMAND_IO | pci::COMMAND_MEMORY;
        self.config_write(pci::COMMAND, 2, decode);
    }

    /// Sends one command and returns what stands behind `OK`.
    fn command(&mut self, command: &str) -> String {
        let line = format!("{command}\n");
        self.stream
            .get_mut()
            .write_all(line.as_bytes())
            .expect("QEMU takes commands");
        loop {
            let mut line = String::new();
            let read = self.stream.read_line(&mut line);
            assert!(
                read.as_ref().is_ok_and(|n| *n > 0),
                "QEMU answers {command:?}: {read:?}"
            );
            let mut words = line.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some("IRQ"), Some(edge), Some(number)) => {
                    let number: u32 = number.parse().expect("a number of an interrupt");
                    if PCI_INTERRUPTS.contains(&number) {
                        match edge {
                            "raise" => self.raised |= 1 << number,
                            _ => self.raised &= !(1 << number),
                        }
                    }
                }
                (Some("OK"), value, _) => return value.unwrap_or_default().into(),
                _ => panic!("QEMU answers {line:?} to {command:?}"),
            }
        }
    }

    fn number(&mut self, command: &str) -> u64 {
        let answer = self.command(command);
        let digits = answer.strip_prefix("0x").unwrap_or(&answer);
        u64::from_str_radix(digits, 16)
            .unwrap_or_else(|_| panic!("QEMU answers {answer:?} to {command:?}"))
    }

    fn select_config(&mut self, offset: u8) -> u16 {
        let address = 1 << 31 | u32::from(self.slot) << 11 | u32::from(offset & !3);
        self.command(&format!("outl {CONFIG_ADDRESS:#x} {address:#x}"));
        CONFIG_DATA + u16::from(offset & 3)
    }

    /// Reads 4 bytes of memory BAR `bar`, for devices that have more than one.
    ///
    /// # Panics
    ///
    /// If there is no such BAR, or it is smaller.
    pub fn bar_read32(&mut self, bar: u8, offset: u32) -> u32 {
        let addr = self.address(bar, offset);
        self.number(&format!("readl {addr:#x}")) as u32
    }

    /// Writes 4 bytes of memory BAR `bar`.
    ///
    /// # Panics
    ///
    /// As [`Qtest::bar_read32`].
    pub fn bar_write32(&mut self, bar: u8, offset: u32, value: u32) {
        let addr = self.address(bar, offset);
        self.command(&format!("writel {addr:#x} {value:#x}"));
    }

    /// Writes 4 bytes to a port of the machine.
    ///
    /// # Panics
    ///
    /// If QEMU does not answer as the protocol says.
    pub fn outl(&mut self, port: u16, value: u32) {
        self.command(&format!("outl {port:#x} {value:#x}"));
    }

    fn address(&self, bar: u8, offset: u32) -> u64 {
        let (addr, bar) = self.bars[usize::from(bar)].expect("the device has this BAR");
        assert!(!bar.io && u64::from(offset) < bar.size);
        addr + u64::from(offset)
    }

    fn port(&self, port: u8) -> u64 {
        let (addr, _) = self
            .bars
            .into_iter()
            .flatten()
            .find(|(_, bar)| bar.io)
            .expect("the device has an I/O BAR");
        addr + u64::from(port)
    }
}

/// `b`, `w` or `l`, as the commands are called.
fn suffix(size: u8) -> char {
    match size {
        1 => 'b',
        2 => 'w',
        4 => 'l',
        _ => panic!("no access of {size} bytes"),
    }
}

impl Bus for Qtest {
    fn config_read(&mut self, offset: u8, size: u8) -> u32 {
        let port = self.select_config(offset);
        self.number(&format!("in{} {port:#x}", suffix(size))) as u32
    }

    fn config_write(&mut self, offset: u8, size: u8, value: u32) {
        let port = self.select_config(offset);
        self.command(&format!("out{} {port:#x} {value:#x}", suffix(size)));
    }

    fn bar(&mut self, index: u8) -> Option<Bar> {
        self.bars[usize::from(index)].map(|(_, bar)| bar)
    }

    fn read32(&mut self, offset: u32) -> u32 {
        self.bar_read32(0, offset)
    }

    fn write32(&mut self, offset: u32, value: u32) {
        self.bar_write32(0, offset, value);
    }

    fn io_read32(&mut self, port: u8) -> u32 {
        let port = self.port(port);
        self.number(&format!("inl {port:#x}")) as u32
    }

    fn io_write32(&mut self, port: u8, value: u32) {
        let port = self.port(port);
        self.command(&format!("outl {port:#x} {value:#x}"));
    }

    fn alloc(&mut self, len: usize, align: u64) -> u64 {
        let addr = self.ram_next.next_multiple_of(align);
        self.ram_next = addr + len as u64;
        assert!(
            self.ram_next <= self.ram_end,
            "the guest is out of DMA memory"
        );
        self.command(&format!("memset {addr:#x} {len:#x} 0x0"));
        addr
    }

    fn dma_read(&mut self, addr: u64, to: &mut [u8]) {
        for (addr, chunk) in (addr..).step_by(CHUNK).zip(to.chunks_mut(CHUNK)) {
            let answer = self.command(&format!("read {addr:#x} {:#x}", chunk.len()));
            let digits = answer.strip_prefix("0x").unwrap_or(&answer).as_bytes();
            assert_eq!(digits.len(), 2 * chunk.len());
            for (byte, pair) in chunk.iter_mut().zip(digits.chunks(2)) {
                let pair = core::str::from_utf8(pair).expect("hexadecimal digits");
                *byte = u8::from_str_radix(pair, 16).expect("hexadecimal digits");
            }
        }
    }

    fn dma_write(&mut self, addr: u64, from: &[u8]) {
        for (addr, chunk) in (addr..).step_by(CHUNK).zip(from.chunks(CHUNK)) {
            let mut command = format!("write {addr:#x} {:#x} 0x", chunk.len());
            for byte in chunk {
                command.push_str(&format!("{byte:02x}"));
            }
            self.command(&command);
        }
    }

    fn interrupt(&mut self) -> bool {
        self.settle();
        self.raised != 0
    }

    fn wait(&mut self, ns: u64) {
        let now = self.command(&format!("clock_step {ns}"));
        self.now = now.parse().expect("the clock in ns");
    }

    fn now(&mut self) -> u64 {
        self.now
    }

    fn owns_time(&self) -> bool {
        true
    }

    fn settle(&mut self) {
        // Each command is one turn of QEMU's main loop, which also reads what has come over the network.
        for _ in 0..3 {
            self.command("endianness");
        }
    }

    fn receiver_started(&mut self) {
        self.wait(self.receiver_delay);
    }
}
