//! A device to talk to: memory, ports, a line that software raises.

use std::sync::Arc;

use vfio_user::{Bar, Command, Device, Handler, IrqTable, Region, ResetKind};

/// Bytes of BAR 0, memory.
pub(crate) const BAR0: usize = 0x1000;
/// Ports of BAR 1.
pub(crate) const BAR1: usize = 0x40;
/// Bytes of BAR 2, which is larger than 32 bits can tell and holds a pattern.
pub(crate) const BAR2: u64 = 1 << 33;
/// Bytes of the expansion ROM, another pattern.
pub(crate) const ROM: usize = 0x800;
/// Where power management is in configuration space.
pub(crate) const PM: usize = 0xdc;

/// What the device is.
pub(crate) fn description() -> Device {
    Device::builder()
        .ids(0x1234, 0x11e8)
        .subsystem(0x1af4, 0x1100)
        .class(0xff_00_00)
        .revision(7)
        .status(0x0230)
        .bar(0, Bar::memory32(BAR0 as u32))
        .bar(1, Bar::io(BAR1 as u32))
        .bar(2, Bar::memory64(BAR2))
        .rom(ROM as u32)
        .capability(
            PM as u8,
            &[1, 0, 0x22, 0xc8, 0, 0x20, 0, 0],
            &[0, 0, 0, 0, 3, 0x1f, 0, 0],
        )
        .intx(1)
        .build()
        .expect("a device as PCI wants it")
}

/// What is at `offset` of BAR 2 and the ROM.
pub(crate) fn pattern(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// What the device does.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) irqs: Arc<IrqTable>,
    bar0: Vec<u8>,
    bar1: [u8; BAR1],
    pub(crate) command: Command,
    pub(crate) resets: u64,
}

impl Memory {
    pub(crate) fn new(irqs: Arc<IrqTable>) -> Self {
        Self {
            irqs,
            bar0: vec![0; BAR0],
            bar1: [0; BAR1],
            command: Command::empty(),
            resets: 0,
        }
    }

    /// Bytes that a region keeps, after checking that the function answers there now.
    fn stored(&mut self, region: Region) -> Option<&mut [u8]> {
        match region {
            Region::Bar(1) => {
                assert!(
                    self.command.contains(Command::IO),
                    "a port that is not decoded"
                );
                Some(&mut self.bar1)
            }
            Region::Bar(bar) => {
                assert!(
                    self.command.contains(Command::MEMORY),
                    "memory that is not decoded"
                );
                assert!(bar == 0 || bar == 2, "there is no BAR {bar}");
                (bar == 0).then_some(&mut self.bar0)
            }
            Region::Rom => None,
        }
    }
}

impl Handler for Memory {
    fn read(&mut self, region: Region, offset: u64, data: &mut [u8]) {
        assert!(!data.is_empty() && data.iter().all(|byte| *byte == 0xff));
        match self.stored(region) {
            Some(bytes) => data.copy_from_slice(&bytes[offset as usize..][..data.len()]),
            None => {
                let len = if region == Region::Rom {
                    ROM as u64
                } else {
                    BAR2
                };
                assert!(offset + data.len() as u64 <= len);
                data.iter_mut()
                    .zip(offset..)
                    .for_each(|(byte, at)| *byte = pattern(at));
            }
        }
    }

    fn write(&mut self, region: Region, offset: u64, data: &[u8]) {
        assert!(!data.is_empty() && region != Region::Rom);
        if let Some(bytes) = self.stored(region) {
            bytes[offset as usize..][..data.len()].copy_from_slice(data);
        }
        // The first byte of BAR 0 is the interrupt line.
        self.irqs.set_level(self.bar0[0] & 1 != 0);
    }

    fn command(&mut self, command: Command) {
        assert_ne!(command, self.command, "told of a change that is none");
        self.command = command;
    }

    fn reset(&mut self, kind: ResetKind) {
        let _ = kind;
        self.bar0.fill(0);
        self.bar1.fill(0);
        self.irqs.set_level(false);
        self.resets += 1;
    }
}
