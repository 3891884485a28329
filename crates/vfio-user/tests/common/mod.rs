//! A device of RAM, its protocol without a socket, and a server on a thread.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test uses a part of it"
)]

pub mod full;
pub mod idle;
pub mod moving;
pub mod peer;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vfio_user::client::Reply;
use vfio_user::wire::{HEADER, Header, header_flags};
use vfio_user::{
    Accepted, Bar, Closed, Command, Device, Epoll, Event, Handler, InvalidState, IrqTable,
    ListenOptions, Listener, Migration, Pme, Region, ResetKind, Server, Session,
};
use zerocopy::{FromBytes, IntoBytes};

/// BAR0: a byte that is the level of the interrupt line.
pub const LEVEL: u64 = 0x800;

pub fn device() -> Device {
    Device::builder()
        .ids(0x1234, 0x5678)
        .class(0x02_00_00)
        .revision(3)
        .bar(0, Bar::memory32(0x1000))
        .bar(1, Bar::io(0x40))
        .rom(0x1_0000)
        .capability(
            0xdc,
            &[1, 0, 0x22, 0xc8, 0, 0, 0, 0],
            &[0, 0, 0, 0, 3, 1, 0, 0],
        )
        .intx(1)
        .build()
        .unwrap()
}

/// Stores what is written, and remembers what else it was told.
#[derive(Debug)]
pub struct Ram {
    pub bytes: Vec<u8>,
    pub commands: Vec<Command>,
    pub resets: Vec<ResetKind>,
    pub writes: usize,
    pub irqs: Option<Arc<IrqTable>>,
    pub migratable: bool,
    /// What was asked of it to migrate: "stop", "run", "save", "load".
    pub moves: Vec<&'static str>,
    /// PME_En and PME_Status, if it keeps them.
    pub pme: Option<Pme>,
}

impl Default for Ram {
    fn default() -> Self {
        Self {
            bytes: vec![0; 0x1000],
            commands: Vec::new(),
            resets: Vec::new(),
            writes: 0,
            irqs: None,
            migratable: true,
            moves: Vec::new(),
            pme: None,
        }
    }
}

/// A byte of RAM that no saved state may have, to be refused.
pub const POISON: u8 = 0xee;

impl Migration for Ram {
    fn stop(&mut self) {
        self.moves.push("stop");
    }

    fn run(&mut self) {
        self.moves.push("run");
    }

    fn save(&mut self, to: &mut Vec<u8>) {
        self.moves.push("save");
        to.extend_from_slice(&self.bytes);
    }

    fn load(&mut self, state: &[u8]) -> Result<(), InvalidState> {
        self.moves.push("load");
        if state.len() != self.bytes.len() || state.contains(&POISON) {
            self.bytes.fill(0);
            return Err(InvalidState("poison".to_owned()));
        }
        self.bytes.copy_from_slice(state);
        Ok(())
    }
}

impl Handler for Ram {
    fn migration(&mut self) -> Option<&mut dyn Migration> {
        match self.migratable {
            true => Some(self),
            false => None,
        }
    }

    fn read(&mut self, region: Region, offset: u64, data: &mut [u8]) {
        match region {
            Region::Rom => data.fill(0x55),
            _ => data.copy_from_slice(&self.bytes[offset as usize..][..data.len()]),
        }
    }

    fn write(&mut self, region: Region, offset: u64, data: &[u8]) {
        assert_ne!(region, Region::Rom);
        self.bytes[offset as usize..][..data.len()].copy_from_slice(data);
        self.writes += 1;
        if offset == LEVEL
            && let Some(irqs) = &self.irqs
        {
            irqs.set_level(data[0] != 0);
        }
    }

    fn command(&mut self, command: Command) {
        self.commands.push(command);
    }

    fn pme(&mut self) -> Option<Pme> {
        self.pme
    }

    fn write_pme(&mut self, enabled: bool, clear_status: bool) {
        if let Some(pme) = &mut self.pme {
            pme.enabled = enabled;
            pme.status &= !clear_status;
        }
    }

    fn reset(&mut self, kind: ResetKind) {
        self.resets.push(kind);
        self.bytes.fill(0);
        if let Some(irqs) = &self.irqs {
            irqs.set_level(false);
        }
    }
}

/// One message in bytes.
pub fn message(id: u16, command: u16, flags: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        id,
        command,
        size: (HEADER + payload.len()) as u32,
        flags,
        error: 0,
    };
    [header.as_bytes(), payload].concat()
}

/// What QEMU 11.1 proposes, version included.
pub fn proposal() -> Vec<u8> {
    let json = concat!(
        r#"{"capabilities":{"pgsizes":4096,"max_msg_fds":16,"max_dma_maps":65535,"#,
        r#""max_data_xfer_size":1048576,"migration":{"max_bitmap_size":268435456,"pgsize":4096},"#,
        "\"write_multiple\":true}}\0"
    );
    [&[0; 4], json.as_bytes()].concat()
}

/// A session with its device, fed by hand. Epochs pass at once unless told otherwise.
pub struct Desk {
    pub session: Session,
    pub ram: Ram,
    pub hold: bool,
    /// Descriptors that left with replies.
    pub fds: Vec<Arc<OwnedFd>>,
    /// What the server asked.
    pub commands: Vec<Reply>,
}

impl Desk {
    pub fn new() -> Self {
        Self::of(device())
    }

    pub fn of(device: Device) -> Self {
        let session = Session::new(device);
        let ram = Ram {
            irqs: Some(session.irqs()),
            ..Ram::default()
        };
        Self {
            session,
            ram,
            hold: false,
            fds: Vec::new(),
            commands: Vec::new(),
        }
    }

    /// Negotiated, with memory and I/O enabled.
    pub fn ready() -> Self {
        Self::ready_of(device())
    }

    pub fn ready_of(device: Device) -> Self {
        let mut desk = Self::of(device);
        let reply = desk.ask(1, &proposal());
        assert_eq!(reply.header.flags, header_flags::REPLY);
        let write = [&access(7, 4, 1)[..], &[7]].concat();
        assert_eq!(desk.ask(10, &write).header.error, 0);
        desk
    }

    /// Feeds bytes in as one read; returns all replies that leave.
    pub fn feed(&mut self, mut bytes: &[u8], fds: Vec<OwnedFd>) -> Result<Vec<Reply>, Closed> {
        let mut replies = Vec::new();
        let mut fds = Some(fds);
        while !bytes.is_empty() {
            let space = self.session.space();
            let n = space.len().min(bytes.len());
            space[..n].copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            let fds = match bytes {
                [] => fds.take().unwrap_or_default(),
                _ => Vec::new(),
            };
            self.session.received(n, fds, false);
            let result = self.session.process(&mut self.ram);
            self.collect(&mut replies);
            while self.session.can_continue() {
                self.session.process(&mut self.ram)?;
                self.collect(&mut replies);
            }
            result?;
        }
        Ok(replies)
    }

    pub fn collect(&mut self, replies: &mut Vec<Reply>) {
        if !self.hold {
            self.session.pass_epoch(self.session.epoch());
        }
        let mut out = Vec::new();
        while self.session.has_output() {
            let next = self.session.output();
            assert!(!next.is_empty());
            self.fds.extend_from_slice(self.session.output_fds());
            out.extend_from_slice(next);
            let n = next.len();
            self.session.sent(n);
        }
        let mut rest = &out[..];
        while !rest.is_empty() {
            let header = Header::read_from_prefix(rest).unwrap().0;
            let (reply, more) = rest.split_at(header.size as usize);
            let message = Reply {
                header,
                payload: reply[HEADER..].to_vec(),
            };
            match header.flags & header_flags::TYPE {
                header_flags::REPLY => replies.push(message),
                _ => self.commands.push(message),
            }
            rest = more;
        }
    }

    /// One request that has one reply.
    pub fn ask_with(&mut self, command: u16, payload: &[u8], fds: Vec<OwnedFd>) -> Reply {
        let replies = self
            .feed(&message(77, command, 0, payload), fds)
            .expect("the connection stays open");
        let [reply] = &replies[..] else {
            panic!("not one reply: {replies:?}");
        };
        assert_eq!((reply.header.id, reply.header.command), (77, command));
        let error = reply.header.flags & header_flags::ERROR != 0;
        assert_eq!(
            error,
            reply.header.error != 0,
            "never an error without an errno"
        );
        assert!(!error || reply.payload.is_empty(), "errors are header-only");
        reply.clone()
    }

    /// Reads configuration space.
    pub fn config_read(&mut self, offset: u64, count: u32) -> Vec<u8> {
        let reply = self.ask(9, &access(7, offset, count));
        reply.payload[16..].to_vec()
    }

    /// Writes configuration space; the errno.
    pub fn config_write(&mut self, offset: u64, data: &[u8]) -> u32 {
        self.write(7, offset, data)
    }

    /// Reads a region.
    pub fn read(&mut self, region: u32, offset: u64, count: u32) -> Vec<u8> {
        let reply = self.ask(9, &access(region, offset, count));
        reply.payload[16..].to_vec()
    }

    /// Writes a region; the errno.
    pub fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> u32 {
        let request = access(region, offset, data.len() as u32);
        self.ask(10, &[&request[..], data].concat()).header.error
    }

    pub fn ask(&mut self, command: u16, payload: &[u8]) -> Reply {
        self.ask_with(command, payload, Vec::new())
    }
}

/// The errno of the reply, 0 for success.
pub fn errno(desk: &mut Desk, command: u16, payload: &[u8]) -> u32 {
    desk.ask(command, payload).header.error
}

/// Payload of a region access without data.
pub fn access(region: u32, offset: u64, count: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&offset.to_le_bytes());
    bytes[8..12].copy_from_slice(&region.to_le_bytes());
    bytes[12..].copy_from_slice(&count.to_le_bytes());
    bytes
}

/// Payload of DMA_MAP.
pub fn dma_map(flags: u32, offset: u64, iova: u64, size: u64) -> Vec<u8> {
    let mut bytes = words(&[32, flags]);
    for word in [offset, iova, size] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

/// Payload of DMA_UNMAP.
pub fn dma_unmap(argsz: u32, flags: u32, iova: u64, size: u64) -> Vec<u8> {
    let mut bytes = words(&[argsz, flags]);
    for word in [iova, size] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

/// 32-bit words in a row.
pub fn words(words: &[u32]) -> Vec<u8> {
    words.as_bytes().to_vec()
}

pub fn event_fd() -> OwnedFd {
    eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap()
}

pub fn memfd(size: u64) -> OwnedFd {
    let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, size).unwrap();
    fd
}

/// How often the eventfd was signalled since the last time.
pub fn count(fd: &OwnedFd) -> u64 {
    wait(fd, Duration::ZERO).unwrap_or(0)
}

/// Waits until the eventfd is signalled; its count.
pub fn wait(fd: &OwnedFd, limit: Duration) -> Option<u64> {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let limit = Timespec::try_from(limit).unwrap();
    poll(&mut fds, Some(&limit)).unwrap();
    let mut count = [0; 8];
    rustix::io::read(fd, &mut count).ok()?;
    Some(u64::from_ne_bytes(count))
}

pub fn signal(fd: &OwnedFd) {
    rustix::io::write(fd, &1_u64.to_ne_bytes()).unwrap();
}

/// What a test sees of a server on another thread.
#[derive(Default)]
pub struct Shared {
    pub ram: Mutex<Ram>,
    /// The queues stand still: no epoch passes.
    pub hold: AtomicBool,
    pub closed: Mutex<Vec<String>>,
    pub refused: Mutex<usize>,
}

/// A server on a thread, with an event loop as any program would have it.
pub struct Rig {
    pub path: PathBuf,
    pub shared: Arc<Shared>,
    pub irqs: Arc<IrqTable>,
    pub mem: Arc<guest_mem::Published<guest_mem::GuestMem>>,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Rig {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device.sock");
        let listener = Listener::bind(&path, &ListenOptions::default()).unwrap();
        let server = Server::new(listener, device());
        let shared = Arc::new(Shared::default());
        let (irqs, mem) = (server.irqs(), server.mem());
        shared.ram.lock().unwrap().irqs = Some(irqs.clone());
        let stop = event_fd();
        let (state, wake) = (shared.clone(), stop.try_clone().unwrap());
        let thread = Some(std::thread::spawn(move || run(server, &state, &wake)));
        Self {
            path,
            shared,
            irqs,
            mem,
            stop,
            thread,
            _dir: dir,
        }
    }

    /// Waits until what the device saw satisfies `test`.
    pub fn until(&self, what: &str, test: impl Fn(&Ram) -> bool) {
        let start = Instant::now();
        while !test(&self.shared.ram.lock().unwrap()) {
            assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn hold(&self, hold: bool) {
        self.shared.hold.store(hold, Ordering::SeqCst);
        signal(&self.stop);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        rustix::io::write(&self.stop, &(1_u64 << 32).to_ne_bytes()).unwrap();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the server panicked");
        }
    }
}

fn run(mut server: Server, shared: &Shared, wake: &OwnedFd) {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let data = epoll::EventData::new_u64(7);
    epoll::add(&epoll, wake, data, epoll::EventFlags::IN).unwrap();
    let mut events = Vec::with_capacity(8);
    let mut seen = 0;
    loop {
        let mut poller = Epoll {
            epoll: epoll.as_fd(),
            token: 0,
        };
        server.update_watches(&mut poller).unwrap();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None).unwrap();
        let ram = &mut *shared.ram.lock().unwrap();
        let log = |closed: Closed| shared.closed.lock().unwrap().push(closed.to_string());
        for event in events.drain(..) {
            let Some(event) = Event::from_epoll(event.data.u64(), event.flags) else {
                if wait(wake, Duration::ZERO).is_some_and(|n| n >= 1 << 32) {
                    return;
                }
                continue;
            };
            match server.on_event(event, ram) {
                Ok(Some(Accepted::Refused)) => *shared.refused.lock().unwrap() += 1,
                Ok(_) => {}
                Err(closed) => log(closed),
            }
        }
        while server.epoch() != seen && !shared.hold.load(Ordering::SeqCst) {
            seen = server.epoch();
            if let Err(closed) = server.pass_epoch(seen, ram) {
                log(closed);
            }
        }
    }
}
