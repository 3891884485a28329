//! A PCI Express device with 32 MSI-X vectors and a doorbell for each.
//!
//! `cargo run -p vfio-user --example msix -- /tmp/msix.sock`, then attach a guest:
//! `qemu-system-x86_64 ... -device '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"/tmp/msix.sock"}}'`
//!
//! Vendor 0x1234, device 0x0020, class 0xff0000. Registers in BAR0 (memory, 4 KiB), all of 32 bits:
//!
//! | offset        | name         | read                                    | write                         |
//! |---------------|--------------|-----------------------------------------|-------------------------------|
//! | 4 * v, v < 32 | `DOORBELL`   | how often vector v was raised           | any value: raises vector v    |
//! | 0x80          | `RAISE_MASK` | 0                                       | raises each v whose bit is set|
//! | 0x84          | `MESSAGES`   | vectors that may be used: 32, or 0 while MSI-X is disabled | ignored    |
//! | 0x88          | `SENT`       | interrupts that were sent to the client | ignored                       |
//!
//! A reset of any kind sets the counts of the doorbells to 0. BAR1 (memory, 4 KiB) holds the MSI-X table, at 0, and
//! the pending bits, at 0x800.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::event::epoll;
use vfio_user::{
    Bar, Device, Epoll, Event, Handler, IrqTable, ListenOptions, Listener, Region, ResetKind,
    Server,
};

const VECTORS: u32 = 32;
const RAISE_MASK: u64 = 0x80;
const MESSAGES: u64 = 0x84;
const SENT: u64 = 0x88;

struct Doorbells {
    rung: [u32; VECTORS as usize],
    irqs: Arc<IrqTable>,
}

impl Doorbells {
    fn ring(&mut self, vector: u32) {
        let rung = &mut self.rung[vector as usize];
        *rung = rung.wrapping_add(1);
        self.irqs.raise(vector);
    }

    /// The doorbell at an offset of BAR0.
    fn vector(offset: u64) -> Option<u32> {
        let vector = u32::try_from(offset / 4).ok()?;
        (offset.is_multiple_of(4) && vector < VECTORS).then_some(vector)
    }
}

impl Handler for Doorbells {
    fn read(&mut self, region: Region, offset: u64, data: &mut [u8]) {
        let (Region::Bar(0), [a, b, c, d]) = (region, data) else {
            return;
        };
        let value = match (offset, Self::vector(offset)) {
            (_, Some(vector)) => self.rung[vector as usize],
            (MESSAGES, _) => self.irqs.messages(),
            (SENT, _) => self.irqs.raised() as u32,
            _ => 0,
        };
        [*a, *b, *c, *d] = value.to_le_bytes();
    }

    fn write(&mut self, region: Region, offset: u64, data: &[u8]) {
        if region != Region::Bar(0) {
            return;
        }
        if let Some(vector) = Self::vector(offset) {
            self.ring(vector);
        } else if let (RAISE_MASK, &[a, b, c, d]) = (offset, data) {
            let mask = u32::from_le_bytes([a, b, c, d]);
            (0..VECTORS)
                .filter(|vector| mask >> vector & 1 != 0)
                .for_each(|vector| self.ring(vector));
        }
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.rung = [0; VECTORS as usize];
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: msix SOCKET")?;
    let device = Device::builder()
        .ids(0x1234, 0x0020)
        .class(0xff_00_00)
        .bar(0, Bar::memory32(0x1000))
        .bar(1, Bar::memory32(0x1000))
        .express()
        .power_management()
        .msix(VECTORS, 1, 0, 1, 0x800)
        .build()?;
    let mut server = Server::new(Listener::bind(path, &ListenOptions::default())?, device);
    let mut doorbells = Doorbells {
        rung: [0; VECTORS as usize],
        irqs: server.irqs(),
    };
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut events = Vec::with_capacity(4);
    loop {
        let (epoll, token) = (epoll.as_fd(), 0);
        server.update_watches(&mut Epoll { epoll, token })?;
        epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            let event = Event::from_epoll(event.data.u64(), event.flags);
            if let Some(Err(closed)) = event.map(|e| server.on_event(e, &mut doorbells)) {
                eprintln!("{closed}");
            }
        }
        // No queues, no DMA: nothing to wait for.
        if let Err(closed) = server.pass_epochs(&mut doorbells) {
            eprintln!("{closed}");
        }
    }
}
