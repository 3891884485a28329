//! A device that has everything, and a server for it on a thread.

use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use guest_mem::{GuestMem, Published};
use rustix::event::epoll;
use vfio_user::wire::MmapArea;
use vfio_user::{
    Bar, Command, Device, Epoll, Event, Handler, InvalidState, IrqTable, ListenOptions, Listener,
    Migration, Region, ResetKind, Server,
};

use super::{event_fd, memfd, wait};

/// Page of BAR2 that clients can map, and where the device shows how often it was reset.
pub const WINDOW: u64 = 0x1000;
/// Byte of BAR0 that is the level of the interrupt line.
pub const LEVEL: u64 = 0x800;

/// What the device remembers.
#[derive(Debug, Default)]
pub struct Memory {
    pub bytes: Vec<u8>,
    pub resets: Vec<ResetKind>,
    pub writes: usize,
    pub stopped: bool,
}

/// BAR0 is memory; reads of anything else give ones.
pub struct Everything {
    pub memory: Arc<Mutex<Memory>>,
    pub irqs: Arc<IrqTable>,
}

impl Handler for Everything {
    fn read(&mut self, region: Region, offset: u64, data: &mut [u8]) {
        if region == Region::Bar(0) {
            let memory = self.memory.lock().unwrap();
            data.copy_from_slice(&memory.bytes[offset as usize..][..data.len()]);
        }
    }

    fn write(&mut self, region: Region, offset: u64, data: &[u8]) {
        let mut memory = self.memory.lock().unwrap();
        memory.writes += 1;
        if region == Region::Bar(0) {
            memory.bytes[offset as usize..][..data.len()].copy_from_slice(data);
            if offset == LEVEL {
                self.irqs.set_level(data[0] != 0);
            }
        }
    }

    fn command(&mut self, _: Command) {}

    fn reset(&mut self, kind: ResetKind) {
        let mut memory = self.memory.lock().unwrap();
        memory.bytes.fill(0);
        memory.resets.push(kind);
        self.irqs.set_level(false);
    }

    fn migration(&mut self) -> Option<&mut dyn Migration> {
        Some(self)
    }
}

impl Migration for Everything {
    fn stop(&mut self) {
        self.memory.lock().unwrap().stopped = true;
    }

    fn run(&mut self) {
        self.memory.lock().unwrap().stopped = false;
    }

    fn save(&mut self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.memory.lock().unwrap().bytes);
    }

    fn load(&mut self, state: &[u8]) -> Result<(), InvalidState> {
        let bytes = &mut self.memory.lock().unwrap().bytes;
        if state.len() != bytes.len() {
            return Err(InvalidState(format!("{} bytes", state.len())));
        }
        bytes.copy_from_slice(state);
        Ok(())
    }
}

/// A PCI Express device with 20 MSI-X vectors, INTx, a mappable page and two eventfds for writes; the descriptors for
/// those.
pub fn device() -> (Device, Arc<OwnedFd>) {
    let doorbell = Arc::new(event_fd());
    let window = MmapArea {
        offset: WINDOW,
        size: 0x1000,
    };
    let device = Device::builder()
        .ids(0x1234, 0x5678)
        .class(0x02_00_00)
        .bar(0, Bar::memory32(0x1000))
        .bar(2, Bar::memory32(0x4000))
        .bar(4, Bar::memory32(0x2000))
        .express()
        .msix(20, 4, 0, 4, 0x1000)
        .intx(1)
        .err_irq()
        .req_irq()
        .mappable(2, memfd(0x4000), &[window])
        .ioeventfd(0, 0x10, 4, Some(doorbell.clone()), 0, 0)
        .ioeventfd(0, 0x20, 4, Some(doorbell.clone()), 1, 7)
        .build()
        .unwrap();
    (device, doorbell)
}

/// A server on a thread, until dropped.
pub struct Serving {
    pub path: PathBuf,
    pub irqs: Arc<IrqTable>,
    pub mem: Arc<Published<GuestMem>>,
    pub memory: Arc<Mutex<Memory>>,
    pub window: Arc<GuestMem>,
    pub doorbell: Arc<OwnedFd>,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Serving {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device.sock");
        let listener = Listener::bind(&path, &ListenOptions::default()).unwrap();
        let (device, doorbell) = device();
        let server = Server::new(listener, device);
        let memory = Arc::new(Mutex::new(Memory {
            bytes: vec![0; 0x1000],
            ..Memory::default()
        }));
        let handler = Everything {
            memory: memory.clone(),
            irqs: server.irqs(),
        };
        let stop = event_fd();
        let wake = stop.try_clone().unwrap();
        Self {
            path,
            irqs: server.irqs(),
            mem: server.mem(),
            memory,
            window: server.region_mem(2).unwrap(),
            doorbell,
            stop,
            thread: Some(std::thread::spawn(move || run(server, handler, &wake))),
            _dir: dir,
        }
    }

    /// What the device remembers now.
    pub fn seen(&self) -> impl Deref<Target = Memory> {
        self.memory.lock().unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        super::signal(&self.stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the server panicked");
        }
    }
}

/// Queues, if a test has any, hold no memory map for longer than one access: epochs pass at once.
fn run(mut server: Server, mut handler: Everything, wake: &OwnedFd) {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let data = epoll::EventData::new_u64(u64::MAX);
    epoll::add(&epoll, wake, data, epoll::EventFlags::IN).unwrap();
    let mut events = Vec::with_capacity(8);
    let mut seen = 0;
    loop {
        let (epoll, token) = (epoll.as_fd(), 0);
        server.update_watches(&mut Epoll { epoll, token }).unwrap();
        epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), None).unwrap();
        for event in events.drain(..) {
            match Event::from_epoll(event.data.u64(), event.flags) {
                Some(event) => drop(server.on_event(event, &mut handler)),
                None if wait(wake, std::time::Duration::ZERO).is_some() => return,
                None => {}
            }
        }
        while server.epoch() != seen {
            seen = server.epoch();
            let _ = server.pass_epoch(seen, &mut handler);
        }
    }
}
