//! A NIC of the daemon, attached to a QEMU without a guest: the real client in between.

use std::time::{Duration, Instant};

use guest_driver::qtest::Qtest;
use guest_driver::regs::STATUS;
use guest_driver::{Bar, Bus, Wire};
use nic_emu_lab::{Lab, Nic, QtestVm, Result};

use super::qemu::{RAM, SLOT};
use super::{Cable, Daemon};

/// A NIC behind QEMU's vfio-user client.
pub struct Attached {
    qtest: Qtest,
    cable: Cable,
    start: Instant,
    // QEMU leaves before its device does.
    _vm: QtestVm,
    _daemon: Daemon,
}

impl Attached {
    /// Serves a NIC and attaches a QEMU to it.
    ///
    /// # Errors
    ///
    /// Those of [`QtestVm::start`]: QEMU may not like the device.
    ///
    /// # Panics
    ///
    /// Those of [`Daemon::start`].
    pub fn start(lab: &Lab) -> Result<Self> {
        let (daemon, mut cables) = Daemon::start(&[super::MAC]);
        let mut device = Nic::vfio_user(daemon.socket(0)).device(0);
        device["addr"] = format!("{SLOT:#x}").into();
        let vm = QtestVm::start(lab, &["-device", &device.to_string()])?;
        let stream = vm.stream().try_clone().expect("a descriptor");
        Ok(Self {
            qtest: Qtest::new(stream, SLOT, RAM, 0),
            cable: cables.remove(0),
            start: Instant::now(),
            _vm: vm,
            _daemon: daemon,
        })
    }
}

impl Bus for Attached {
    fn config_read(&mut self, offset: u8, size: u8) -> u32 {
        self.qtest.config_read(offset, size)
    }
    fn config_write(&mut self, offset: u8, size: u8, value: u32) {
        self.qtest.config_write(offset, size, value);
    }
    fn bar(&mut self, index: u8) -> Option<Bar> {
        self.qtest.bar(index)
    }
    fn read32(&mut self, offset: u32) -> u32 {
        self.qtest.read32(offset)
    }
    fn write32(&mut self, offset: u32, value: u32) {
        self.qtest.write32(offset, value);
    }
    fn io_read32(&mut self, port: u8) -> u32 {
        self.qtest.io_read32(port)
    }
    fn io_write32(&mut self, port: u8, value: u32) {
        self.qtest.io_write32(port, value);
    }
    fn alloc(&mut self, len: usize, align: u64) -> u64 {
        self.qtest.alloc(len, align)
    }
    fn dma_read(&mut self, addr: u64, to: &mut [u8]) {
        self.qtest.dma_read(addr, to);
    }
    fn dma_write(&mut self, addr: u64, from: &[u8]) {
        self.qtest.dma_write(addr, from);
    }

    /// Each access lets QEMU drop the line and unmask; a device that still asks raises it again, for QEMU's main loop
    /// to see.
    fn interrupt(&mut self) -> bool {
        self.settle();
        self.qtest.interrupt()
    }

    /// The device lives outside QEMU, where time is real.
    fn wait(&mut self, ns: u64) {
        std::thread::sleep(Duration::from_nanos(ns));
    }
    fn now(&mut self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
    fn owns_time(&self) -> bool {
        false
    }

    fn settle(&mut self) {
        for _ in 0..3 {
            self.read32(STATUS);
        }
    }
    fn receiver_started(&mut self) {
        self.settle();
    }
}

impl Wire for Attached {
    /// Comes after all that the driver has written: those writes do not wait to be executed, but a read does.
    fn transmit(&mut self, frame: &[u8]) {
        self.qtest.read32(STATUS);
        self.cable.transmit(frame);
    }
    fn collect(&mut self) -> Option<Vec<u8>> {
        self.cable.collect()
    }
    fn set_carrier(&mut self, up: bool) {
        self.cable.set_carrier(up);
    }
}
