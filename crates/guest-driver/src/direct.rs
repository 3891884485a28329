//! A model in this process, called directly. Time is a number that this bus moves.

use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;

use guest_mem::Mapping;
use nic_emu::Time;
use nic_emu::common::frame::{MAX_SUPER_FRAME, RxFrame, TxBurst};
use nic_emu::common::gso::Segments;
use nic_emu::e1000::rx::RxQueue;
use nic_emu::e1000::tx::{Fetch, TxQueue};
use nic_emu::e1000::{self, Control, Kick, ResetKind};
use nic_emu::pci::{BarKind, Capability, Function};

use crate::bus::{Bar, Bus};
use crate::ram::Ram;
use crate::regs::pci;
use crate::wire::Wire;

/// DMA address of the first byte of RAM.
const RAM_BASE: u64 = 1 << 20;
const MAPPED: &str = "no epoch concerns memory that is mapped";
/// Bytes of RAM; pages that nobody touches cost nothing.
const RAM_SIZE: u64 = 256 << 20;

/// An 82540EM model with RAM and a cable.
pub struct Direct {
    control: Control,
    tx: TxQueue,
    rx: RxQueue,
    config: [u8; 256],
    /// PMCSR's power state, D0 or D3hot.
    power: u32,
    ram: Ram,
    now: Time,
    /// Frames on their way to the device.
    inbound: VecDeque<Vec<u8>>,
    /// Frames that the device has sent.
    outbound: VecDeque<Vec<u8>>,
    scratch: Vec<u8>,
}

impl Direct {
    /// A device with this station address, its cable plugged in.
    ///
    /// # Errors
    ///
    /// The kernel has no memory left to map.
    pub fn new(mac: [u8; 6]) -> std::io::Result<Self> {
        let (mut control, tx, rx) = e1000::new(&e1000::Config::new(mac));
        control.set_link(true, Time(0));
        Ok(Self {
            config: config_space(control.pci()),
            power: 0,
            control,
            tx,
            rx,
            ram: Ram::new(Mapping::anonymous(RAM_SIZE)?, RAM_BASE),
            now: Time(0),
            inbound: VecDeque::new(),
            outbound: VecDeque::new(),
            scratch: vec![0; MAX_SUPER_FRAME],
        })
    }

    fn write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        let kick = self.control.write(bar, offset, data, self.now);
        self.run(kick);
    }

    fn is_pmcsr(&self, offset: u8, size: u8) -> bool {
        let of_pm = |cap: &&Capability| u32::from(cap.id) == pci::CAP_PM;
        let pm = self.control.pci().capabilities.iter().find(of_pm);
        pm.is_some_and(|pm| offset == pm.offset + pci::PMCSR && size == 2)
    }

    fn pmcsr(&self) -> u32 {
        let pme = self.control.pme();
        self.power
            | if pme.enabled { pci::PME_EN } else { 0 }
            | if pme.status { pci::PME_STATUS } else { 0 }
    }

    fn set_pmcsr(&mut self, value: u32) {
        let (enabled, clear) = (value & pci::PME_EN, value & pci::PME_STATUS);
        let mut kick = self.control.write_pme(enabled != 0, clear != 0);
        let before = std::mem::replace(&mut self.power, value & pci::POWER_STATE);
        if before == pci::D3HOT && self.power == 0 {
            self.config[usize::from(pci::COMMAND)..][..2].fill(0);
            kick |= self.control.reset(ResetKind::Bus, self.now);
        }
        self.run(kick);
        self.set_bus_master();
    }

    /// Outside D0 there is none, whatever COMMAND says.
    fn set_bus_master(&mut self) {
        let command = u32::from(self.config[usize::from(pci::COMMAND)]);
        let on = self.power == 0 && command & pci::COMMAND_MASTER != 0;
        let kick = self.control.set_bus_master(on);
        self.run(kick);
    }

    /// What an event loop does after each event.
    fn run(&mut self, mut kick: Kick) {
        kick |= self.control.run_timers(self.now);
        if kick.intersects(Kick::TX | Kick::RESET) {
            self.transmit_all();
        }
        self.receive_all();
    }

    fn transmit_all(&mut self) {
        let mem = self.ram.mem().clone();
        loop {
            let mut burst = TxBurst::new();
            let fetched = self.tx.fetch(&mem, &mut burst, self.now);
            let looped = burst.loopback();
            // A frame whose FCS the driver has made wrong is taken by no station.
            for frame in burst.frames().filter(|frame| !frame.offload.bad_fcs) {
                let Some(mut segments) = Segments::new(frame) else {
                    continue;
                };
                while let Some(len) = segments.next_into(&mut self.scratch) {
                    let frame = self.scratch[..len].to_vec();
                    if looped {
                        self.inbound.push_back(frame);
                    } else {
                        self.outbound.push_back(frame);
                    }
                }
            }
            let taken = burst.len();
            let settled = self.tx.complete(&mem, &mut burst, taken, self.now);
            settled.expect(MAPPED);
            if fetched != Fetch::More {
                break;
            }
        }
    }

    fn receive_all(&mut self) {
        let mem = self.ram.mem().clone();
        self.rx.resume(&mem, self.now);
        if !self.rx.enabled() && !self.control.shared().wakes() {
            self.inbound.clear();
        }
        while self.rx.has_room()
            && let Some(frame) = self.inbound.pop_front()
        {
            self.rx.deliver(&mem, RxFrame::new(&frame), self.now);
        }
        self.rx.finish(&mem, self.now).expect(MAPPED);
    }
}

/// Config space as the function describes it, behind no bus: addresses of BARs are 0, COMMAND means bus mastering only,
/// and so does the power state.
fn config_space(function: &Function) -> [u8; 256] {
    let mut config = [0; 256];
    let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
    let id = &function.identity;
    put(0x00, &id.vendor.to_le_bytes());
    put(0x02, &id.device.to_le_bytes());
    put(
        0x08,
        &(id.class << 8 | u32::from(id.revision)).to_le_bytes(),
    );
    for bar in &function.bars {
        let kind = u8::from(bar.kind == BarKind::Io);
        put(0x10 + 4 * usize::from(bar.index), &[kind]);
    }
    put(0x2C, &id.subsystem_vendor.to_le_bytes());
    put(0x2E, &id.subsystem_id.to_le_bytes());
    put(0x3D, &[id.interrupt_pin, id.min_gnt, id.max_lat]);
    let mut link = usize::from(pci::CAPABILITIES);
    for capability in function.capabilities {
        put(link, &[capability.offset]);
        put(usize::from(pci::STATUS), &[pci::STATUS_CAPABILITIES as u8]);
        let at = usize::from(capability.offset);
        put(at, &[capability.id]);
        put(at + 2, capability.bytes);
        link = at + 1;
    }
    config
}

impl Bus for Direct {
    fn config_read(&mut self, offset: u8, size: u8) -> u32 {
        if self.is_pmcsr(offset, size) {
            return self.pmcsr();
        }
        let at = usize::from(offset);
        let mut bytes = [0; 4];
        bytes[..usize::from(size)].copy_from_slice(&self.config[at..at + usize::from(size)]);
        u32::from_le_bytes(bytes)
    }

    fn config_write(&mut self, offset: u8, size: u8, value: u32) {
        if self.is_pmcsr(offset, size) {
            return self.set_pmcsr(value);
        }
        if !matches!(offset, pci::COMMAND | pci::INTERRUPT_LINE) {
            return;
        }
        let (at, size) = (usize::from(offset), usize::from(size));
        self.config[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        if offset == pci::COMMAND {
            self.set_bus_master();
        }
    }

    fn bar(&mut self, index: u8) -> Option<Bar> {
        let bar = self.control.pci().bars.iter().find(|b| b.index == index)?;
        Some(Bar {
            io: bar.kind == BarKind::Io,
            size: bar.size.into(),
        })
    }

    fn read32(&mut self, offset: u32) -> u32 {
        let mut data = [0; 4];
        let bar = e1000::REGISTER_BAR;
        self.control.read(bar, offset.into(), &mut data, self.now);
        u32::from_le_bytes(data)
    }

    fn write32(&mut self, offset: u32, value: u32) {
        self.write(e1000::REGISTER_BAR, offset.into(), &value.to_le_bytes());
    }

    fn io_read32(&mut self, port: u8) -> u32 {
        let mut data = [0; 4];
        self.control
            .read(e1000::IO_BAR, port.into(), &mut data, self.now);
        u32::from_le_bytes(data)
    }

    fn io_write32(&mut self, port: u8, value: u32) {
        self.write(e1000::IO_BAR, port.into(), &value.to_le_bytes());
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

    /// Stops at every moment at which the device wants to do something.
    fn wait(&mut self, ns: u64) {
        let end = self.now.plus_nanos(ns);
        loop {
            let irq = self.control.shared().irq.deadline();
            let next = [self.control.deadline(), irq].into_iter().flatten().min();
            match next {
                Some(next) if next > self.now && next < end => self.now = next,
                _ => break,
            }
            self.run(Kick::empty());
            self.control.shared().irq.poll(self.now);
        }
        self.now = end;
        self.run(Kick::empty());
    }

    fn now(&mut self) -> u64 {
        self.now.0
    }

    fn owns_time(&self) -> bool {
        true
    }

    fn settle(&mut self) {
        self.run(Kick::empty());
    }
}

impl Wire for Direct {
    fn transmit(&mut self, frame: &[u8]) {
        self.inbound.push_back(frame.to_vec());
        self.run(Kick::empty());
    }

    fn collect(&mut self) -> Option<Vec<u8>> {
        self.outbound.pop_front()
    }

    fn set_carrier(&mut self, up: bool) {
        let kick = self.control.set_link(up, self.now);
        self.run(kick);
    }
}
