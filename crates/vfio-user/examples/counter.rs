//! A tiny PCI device: a register that counts the writes to it and interrupts at every tenth.
//!
//! `cargo run -p vfio-user --example counter -- /tmp/counter.sock`, then attach a guest:
//! `qemu-system-x86_64 ... -device '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"/tmp/counter.sock"}}'`

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::event::epoll;
use vfio_user::{
    Accepted, Bar, Device, Epoll, Event, Handler, IrqTable, ListenOptions, Listener, Region,
    ResetKind, Server,
};

struct Counter {
    count: u32,
    irqs: Arc<IrqTable>,
}

impl Handler for Counter {
    fn read(&mut self, _region: Region, offset: u64, data: &mut [u8]) {
        if let (0, [a, b, c, d]) = (offset, data) {
            [*a, *b, *c, *d] = self.count.to_le_bytes();
            self.irqs.set_level(false);
        }
    }

    fn write(&mut self, _region: Region, _offset: u64, _data: &[u8]) {
        self.count = self.count.wrapping_add(1);
        self.irqs.set_level(self.count.is_multiple_of(10));
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.count = 0;
        self.irqs.set_level(false);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: counter SOCKET")?;
    let device = Device::builder()
        .ids(0x1234, 0x0001)
        .class(0xff_00_00)
        .bar(0, Bar::memory32(0x1000))
        .intx(1)
        .build()?;
    let mut server = Server::new(Listener::bind(path, &ListenOptions::default())?, device);
    let (count, irqs) = (0, server.irqs());
    let mut counter = Counter { count, irqs };
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut events = Vec::with_capacity(4);
    loop {
        let (epoll, token) = (epoll.as_fd(), 0);
        server.update_watches(&mut Epoll { epoll, token })?;
        epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            let event = Event::from_epoll(event.data.u64(), event.flags);
            match event.map(|event| server.on_event(event, &mut counter)) {
                Some(Err(closed)) => eprintln!("{closed}"),
                Some(Ok(Some(Accepted::Failed(error)))) => return Err(error.into()),
                _ => {}
            }
        }
        // No queues, no DMA: nothing to wait for.
        let _ = server.pass_epochs(&mut counter);
    }
}
