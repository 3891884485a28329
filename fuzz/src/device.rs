//! A device to talk to, with everything that a description can have: memory, ports, a ROM, memory that clients map, all
//! kinds of interrupts, Express configuration space, ioeventfds, a state that migrates.

use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vfio_user::wire::MmapArea;
use vfio_user::{
    Bar, Command, Device, Handler, InvalidState, IrqTable, Migration, Region, ResetKind,
};

/// Bytes of BAR 0, memory.
pub(crate) const BAR0: usize = 0x1000;
/// Ports of BAR 1.
pub(crate) const BAR1: usize = 0x40;
/// Bytes of BAR 2, which is larger than 32 bits can tell and holds a pattern.
pub(crate) const BAR2: u64 = 1 << 33;
/// Bytes of BAR 4, with the MSI-X table in front and an area that clients map.
pub(crate) const BAR4: usize = 0x4000;
/// Where in it the pending bits are, and the area.
pub(crate) const PBA: usize = 0x800;
pub(crate) const AREA: std::ops::Range<usize> = 0x1000..0x3000;
/// Bytes of the expansion ROM, another pattern.
pub(crate) const ROM: usize = 0x800;
/// Where capabilities are in configuration space.
pub(crate) const PM: usize = 0xdc;
pub(crate) const MSI: usize = 0x40;
pub(crate) const MSIX: usize = 0x60;
pub(crate) const EXPRESS: usize = 0x70;
pub(crate) const VENDOR: usize = 0xb0;
/// Vectors.
pub(crate) const MSI_VECTORS: usize = 4;
pub(crate) const MSIX_VECTORS: usize = 3;
/// What a client may signal instead of writing: offset in BAR 0, bytes, which of two eventfds.
pub(crate) const IO_FDS: [(u64, u64, Option<usize>); 4] = [
    (0x100, 4, Some(0)),
    (0x104, 4, Some(1)),
    (0x108, 2, Some(0)),
    (0x110, 8, None),
];
/// Bytes that a saved state has, of the beginning of BAR 0. The last of them is never above 0x7f.
pub(crate) const SAVED: usize = 64;

/// What the device is.
pub(crate) fn description() -> Device {
    std::thread_local! { static DEVICE: Device = build(); }
    DEVICE.with(Device::clone)
}

fn build() -> Device {
    let file = memfd_create("bar", MemfdFlags::CLOEXEC).expect("a memfd");
    ftruncate(&file, AREA.end as u64).expect("a size for a memfd");
    let fds = [0; 2].map(|_| Arc::new(eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd")));
    let area = MmapArea {
        offset: AREA.start as u64,
        size: AREA.len() as u64,
    };
    let mut device = Device::builder()
        .ids(0x1234, 0x11e8)
        .subsystem(0x1af4, 0x1100)
        .class(0xff_00_00)
        .revision(7)
        .status(0x0230)
        .bar(0, Bar::memory32(BAR0 as u32))
        .bar(1, Bar::io(BAR1 as u32))
        .bar(2, Bar::memory64(BAR2))
        .bar(4, Bar::memory32(BAR4 as u32))
        .rom(ROM as u32)
        .capability(
            PM as u8,
            &[1, 0, 0x22, 0xc8, 0, 0x20, 0, 0],
            &[0, 0, 0, 0, 3, 0x1f, 0, 0],
        )
        .at(MSI as u16)
        .msi_maskable(MSI_VECTORS as u32)
        .at(MSIX as u16)
        .msix(MSIX_VECTORS as u32, 4, 0, 4, PBA as u32)
        .at(EXPRESS as u16)
        .express()
        .at(VENDOR as u16)
        .vendor_capability(&[0xaa, 0xbb])
        .extended_capability(3, 1, &[1, 2, 3, 4], &[0, 0xff, 0, 0x0f])
        .intx(1)
        .err_irq()
        .req_irq()
        .mappable(4, file, &[area]);
    for (offset, size, fd) in IO_FDS {
        device = device.ioeventfd(0, offset, size, fd.map(|fd| fds[fd].clone()), 0, 0);
    }
    device.build().expect("a device as PCI wants it")
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
    /// What BAR 4 has beside table, pending bits and the area.
    bar4: Vec<u8>,
    pub(crate) command: Command,
    pub(crate) resets: u64,
    pub(crate) runs: bool,
}

impl Memory {
    pub(crate) fn new(irqs: Arc<IrqTable>) -> Self {
        Self {
            irqs,
            bar0: vec![0; BAR0],
            bar1: [0; BAR1],
            bar4: vec![0; BAR4],
            command: Command::empty(),
            resets: 0,
            runs: true,
        }
    }

    /// Bytes that a region keeps, after checking that the function answers there now.
    fn stored(&mut self, region: Region, offset: u64) -> Option<&mut [u8]> {
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
                match bar {
                    0 => Some(&mut self.bar0),
                    2 => None,
                    4 => {
                        assert!(
                            offset >= 16 * MSIX_VECTORS as u64,
                            "the MSI-X table is not ours"
                        );
                        Some(&mut self.bar4)
                    }
                    _ => panic!("there is no BAR {bar}"),
                }
            }
            Region::Rom => None,
        }
    }
}

impl Handler for Memory {
    fn read(&mut self, region: Region, offset: u64, data: &mut [u8]) {
        assert!(!data.is_empty() && data.iter().all(|byte| *byte == 0xff));
        match self.stored(region, offset) {
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
        if let Some(bytes) = self.stored(region, offset) {
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
        self.bar4.fill(0);
        self.irqs.set_level(false);
        self.resets += 1;
    }

    fn migration(&mut self) -> Option<&mut dyn Migration> {
        Some(self)
    }
}

impl Migration for Memory {
    fn stop(&mut self) {
        assert!(std::mem::take(&mut self.runs), "stopped twice");
    }

    fn run(&mut self) {
        assert!(!std::mem::replace(&mut self.runs, true), "started twice");
    }

    fn save(&mut self, to: &mut Vec<u8>) {
        assert!(!self.runs, "saved while it runs");
        to.extend_from_slice(&self.bar0[..SAVED - 1]);
        to.push(self.bar0[SAVED - 1] & 0x7f);
    }

    fn load(&mut self, state: &[u8]) -> Result<(), InvalidState> {
        assert!(!self.runs, "loaded while it runs");
        let sound = state.len() == SAVED && state[SAVED - 1] < 0x80;
        self.bar0.fill(0);
        self.bar1.fill(0);
        self.bar4.fill(0);
        if sound {
            self.bar0[..SAVED].copy_from_slice(state);
        }
        self.irqs.set_level(self.bar0[0] & 1 != 0);
        match sound {
            true => Ok(()),
            false => Err(InvalidState("that is none of ours".into())),
        }
    }
}
