//! A guest with an IOMMU: its driver maps each buffer before the NIC uses it and unmaps it afterwards, as Linux does, while
//! a hypervisor logs what the NIC writes and moves the guest to another daemon and to other memory. What is copied there
//! is what the log names, and nothing else: a page that it leaves out shows.
//!
//! No client in use can do all of this yet. QEMU's messages about its IOMMU are those here (`drivers` has it with a real
//! one); those about migration are the protocol's.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use guest_driver::Wire;
use guest_driver::desc::{Desc, EOP, IFCS, RS, TX_DD, legacy};
use guest_driver::packet::plain;
use guest_driver::regs::{self, STATUS, ctrl, pci, rctl, status, tctl};
use guest_mem::{Access, GuestMem, Mapping};
use nic_emu_tests::machine::{Cable, Daemon, MAC};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vfio_user::client::Client;
use vfio_user::wire::{device_state, dma_map_flags};

const PEER: [u8; 6] = [0x52, 0x54, 0, 0xAA, 0xBB, 0xCC];
const PATIENCE: Duration = Duration::from_secs(60);
const PAGE: u64 = 4096;
/// Pages of the guest's memory.
const PAGES: u64 = 512;
/// Descriptors of each ring, which has a page of its own.
const RING: u32 = 64;
/// Descriptor done, of received frames.
const RX_DD: u64 = 1 << 32;
/// Where Linux begins to give out I/O addresses, downwards.
const TOP: u64 = 1 << 32;
/// What the IOMMU translates.
const WIDTH: u64 = 1 << 39;
const STATE_SIZE: usize = 16 << 20;

/// RAM of the guest: a file, and how its processors see it.
struct Ram {
    file: OwnedFd,
    mem: GuestMem,
}

impl Ram {
    fn new() -> Self {
        let file = memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
        let file = file.expect("a memory file");
        ftruncate(&file, PAGES * PAGE).expect("a size");
        let mapping = Mapping::of_file(file.as_fd(), 0, PAGES * PAGE, true).expect("it is mapped");
        let map = GuestMem::builder().map(0, PAGES * PAGE, Arc::new(mapping), 0, Access::ReadWrite);
        let mem = map.build().expect("one range");
        Self { file, mem }
    }

    fn page(&self, number: u64) -> Vec<u8> {
        let mut bytes = vec![0; PAGE as usize];
        self.mem.read(number * PAGE, &mut bytes).expect("RAM");
        bytes
    }
}

/// A buffer that the NIC has: its I/O address and its page.
#[derive(Clone, Copy)]
struct Buffer {
    iova: u64,
    page: u64,
}

/// The guest, and the hypervisor around it.
struct Guest {
    client: Client,
    ram: Ram,
    /// What the IOMMU has mapped: page, and whether the NIC may write it.
    mapped: BTreeMap<u64, (u64, bool)>,
    free_pages: Vec<u64>,
    /// The last one that became free is used next, as Linux does it: for another page, mostly.
    free_iovas: Vec<u64>,
    /// Pages that have changed since they were last copied, as far as is known.
    dirty: BTreeSet<u64>,
    logging: bool,
    rx_ring: Buffer,
    tx_ring: Buffer,
    rx: Vec<Buffer>,
    tx: Vec<Option<Buffer>>,
    /// Frames received, sent, and known to be sent.
    received: u32,
    sent: u32,
    done: u32,
}

impl Guest {
    /// Attaches, at first without translation, as a hypervisor does before the guest switches it on.
    fn start(socket: PathBuf) -> Self {
        let mut client = Client::connect(socket).expect("a NIC");
        let ram = Ram::new();
        let both = dma_map_flags::READ | dma_map_flags::WRITE;
        let all = Some((ram.file.as_fd(), 0));
        client.dma_map(0, PAGES * PAGE, all, both).expect("plain");
        let command = pci::COMMAND_MEMORY | pci::COMMAND_MASTER;
        let command = (command as u16).to_le_bytes();
        client
            .config_write(pci::COMMAND.into(), &command)
            .expect("on");
        // QEMU's IOMMU drops all of its addresses in steps that double, whatever was there.
        client.dma_unmap(0, WIDTH / 2).expect("it is dropped");
        client.dma_unmap(WIDTH / 2, WIDTH / 2).expect("never there");

        let none = Buffer { iova: 0, page: 0 };
        let mut guest = Self {
            client,
            ram,
            mapped: BTreeMap::new(),
            free_pages: (0..PAGES).rev().collect(),
            free_iovas: (1..=PAGES).rev().map(|n| TOP - n * PAGE).collect(),
            dirty: BTreeSet::new(),
            logging: false,
            rx_ring: none,
            tx_ring: none,
            rx: Vec::new(),
            tx: vec![None; RING as usize],
            received: 0,
            sent: 0,
            done: 0,
        };
        guest.rx_ring = guest.map(true);
        guest.tx_ring = guest.map(true);
        for at in 0..RING {
            let buffer = guest.map(true);
            guest.rx.push(buffer);
            guest.describe(guest.rx_ring, at, legacy(buffer.iova, 0, 0));
        }
        for (base, ring) in [(regs::RDBAL, guest.rx_ring), (regs::TDBAL, guest.tx_ring)] {
            guest.write(base, ring.iova as u32);
            guest.write(base + 4, (ring.iova >> 32) as u32);
            guest.write(base + 8, RING * Desc::SIZE as u32);
        }
        guest.write(regs::CTRL, ctrl::SLU | ctrl::ASDE);
        guest.write(regs::TCTL, tctl::EN | tctl::PSP);
        guest.write(regs::RDT, RING - 1);
        guest.write(regs::RCTL, rctl::EN | rctl::BAM | rctl::SECRC);
        let started = Instant::now();
        while guest.register(STATUS) & status::LU == 0 {
            assert!(started.elapsed() < PATIENCE, "no link");
        }
        guest
    }

    fn register(&mut self, offset: u32) -> u32 {
        let mut data = [0; 4];
        let read = self.client.region_read(0, offset.into(), &mut data);
        read.expect("the NIC answers");
        u32::from_le_bytes(data)
    }

    fn write(&mut self, offset: u32, value: u32) {
        let data = value.to_le_bytes();
        let written = self.client.region_write_posted(0, offset.into(), &data);
        written.expect("the NIC is there");
    }

    /// A processor writes, of which the hypervisor knows.
    fn store(&mut self, page: u64, offset: u64, bytes: &[u8]) {
        let at = page * PAGE + offset;
        self.ram.mem.write(at, bytes).expect("RAM");
        self.dirty.insert(page);
    }

    fn describe(&mut self, ring: Buffer, at: u32, desc: Desc) {
        let offset = u64::from(at) * Desc::SIZE as u64;
        self.store(ring.page, offset, &desc.to_bytes());
    }

    /// The second word of a descriptor, which has its status.
    fn state(&self, ring: Buffer, at: u32) -> u64 {
        let word = ring.page * PAGE + u64::from(at) * Desc::SIZE as u64 + 8;
        self.ram.mem.load_u64(word).expect("RAM")
    }

    /// A page for the NIC, at an I/O address.
    fn map(&mut self, writable: bool) -> Buffer {
        let page = self.free_pages.pop().expect("pages are given back");
        let iova = self.free_iovas.pop().expect("so are addresses");
        self.mapped.insert(iova, (page, writable));
        map(&mut self.client, &self.ram, iova, page, writable);
        Buffer { iova, page }
    }

    /// Takes a buffer from the NIC; whether it has written there, as far as that is logged.
    fn unmap(&mut self, buffer: Buffer) -> bool {
        let Buffer { iova, page } = buffer;
        let (_, writable) = self.mapped.remove(&iova).expect("it is mapped");
        self.free_pages.push(page);
        self.free_iovas.push(iova);
        if !self.logging {
            self.client.dma_unmap(iova, PAGE).expect("it is unmapped");
            return false;
        }
        let bits = self.client.dma_unmap_dirty(iova, PAGE, PAGE);
        let dirty = bits.expect("it is unmapped") == [1];
        assert!(writable || !dirty, "the NIC wrote what it may only read");
        if dirty {
            self.dirty.insert(page);
        }
        dirty
    }

    /// Sends the next frame if there is room.
    fn send(&mut self) -> bool {
        if self.sent - self.done >= RING / 2 {
            return false;
        }
        let frame = plain(PEER, MAC, length(self.sent), self.sent);
        let buffer = self.map(false);
        self.store(buffer.page, 0, &frame);
        let at = self.sent % RING;
        let desc = legacy(buffer.iova, frame.len() as u16, EOP | IFCS | RS);
        self.describe(self.tx_ring, at, desc);
        self.tx[at as usize] = Some(buffer);
        self.sent += 1;
        self.write(regs::TDT, self.sent % RING);
        true
    }

    /// Takes back what is sent, and takes what has been received: the right frames, which the log has noted.
    fn poll(&mut self) {
        while self.done < self.sent && self.state(self.tx_ring, self.done % RING) & TX_DD != 0 {
            let buffer = self.tx[(self.done % RING) as usize].take();
            self.unmap(buffer.expect("it was sent"));
            self.done += 1;
        }
        loop {
            let at = self.received % RING;
            let state = self.state(self.rx_ring, at);
            if state & RX_DD == 0 {
                return;
            }
            let buffer = self.rx[at as usize];
            // What it had before is out of the NIC's reach, and not counted twice, once this is answered.
            let known = self.dirty.contains(&buffer.page);
            let dirty = self.unmap(buffer);
            assert!(dirty || known || !self.logging, "a frame is not logged");
            let want = plain(MAC, PEER, length(self.received), self.received);
            let page = self.ram.page(buffer.page);
            assert_eq!(usize::from(state as u16), want.len());
            assert!(page.starts_with(&want), "frame {}", self.received);
            self.rx[at as usize] = self.map(true);
            let iova = self.rx[at as usize].iova;
            self.describe(self.rx_ring, at, legacy(iova, 0, 0));
            self.received += 1;
            self.write(regs::RDT, at);
        }
    }

    /// All that is mapped: what the NIC has written there since it was last asked.
    fn ask(&mut self) {
        for (&iova, &(page, writable)) in &self.mapped {
            let bits = self.client.dma_logging_report(iova, PAGE, PAGE);
            if bits.expect("it is logged") == [1] {
                assert!(writable, "the NIC wrote what it may only read");
                self.dirty.insert(page);
            }
        }
    }

    /// Copies what has changed.
    fn copy(&mut self, to: &Ram) -> usize {
        self.ask();
        let dirty = std::mem::take(&mut self.dirty);
        for &page in &dirty {
            let bytes = self.ram.page(page);
            to.mem.write(page * PAGE, &bytes).expect("RAM");
        }
        dirty.len()
    }

    /// The guest throws all translations away at once, and makes them again: its NIC is at rest.
    fn flush(&mut self) {
        let base = TOP - PAGES * PAGE;
        // Nothing has been written since, and most of it was never mapped.
        let bits = self.client.dma_unmap_dirty(base, PAGES * PAGE, PAGE);
        assert_eq!(bits.expect("it is unmapped"), [0; (PAGES / 64) as usize]);
        let again = self.client.dma_unmap_dirty(base, PAGES * PAGE, PAGE);
        assert_eq!(again.expect("none is left"), [0; (PAGES / 64) as usize]);
        for (&iova, &(page, writable)) in &self.mapped {
            map(&mut self.client, &self.ram, iova, page, writable);
        }
    }
}

fn map(client: &mut Client, ram: &Ram, iova: u64, page: u64, writable: bool) {
    let flags = match writable {
        true => dma_map_flags::READ | dma_map_flags::WRITE,
        false => dma_map_flags::READ,
    };
    let file = Some((ram.file.as_fd(), page * PAGE));
    client.dma_map(iova, PAGE, file, flags).expect("it maps");
}

fn length(number: u32) -> usize {
    60 + (number as usize * 97) % 1400
}

/// The other end of the cable: what it has sent and received.
#[derive(Default)]
struct Network {
    sent: u32,
    received: u32,
}

impl Network {
    fn poll(&mut self, cable: &mut Cable) {
        while let Some(frame) = cable.collect() {
            let want = plain(PEER, MAC, length(self.received), self.received);
            assert_eq!(frame, want, "frame {}", self.received);
            self.received += 1;
        }
    }

    fn send(&mut self, cable: &mut Cable) {
        cable.transmit(&plain(MAC, PEER, length(self.sent), self.sent));
        self.sent += 1;
    }
}

/// Frames both ways, so many more of each, until each is where it belongs.
fn traffic(guest: &mut Guest, network: &mut Network, cable: &mut Cable, count: u32) {
    let started = Instant::now();
    let (to_send, to_receive) = (guest.sent + count, network.sent + count);
    loop {
        assert!(
            started.elapsed() < PATIENCE,
            "{} of {} received, {} of {} sent",
            guest.received,
            network.sent,
            network.received,
            guest.sent
        );
        while guest.sent < to_send && guest.send() {}
        while network.sent < to_receive && network.sent - guest.received < RING / 2 {
            network.send(cable);
        }
        let before = (guest.received, guest.done, network.received);
        guest.poll();
        network.poll(cable);
        let idle = before == (guest.received, guest.done, network.received);
        let over = guest.sent == to_send && guest.done == to_send && network.received == to_send;
        if over && guest.received == to_receive {
            return;
        }
        if idle {
            sleep(Duration::from_micros(100));
        }
    }
}

fn moves(shards: [usize; 2]) {
    let (here, mut cable) = Daemon::on_shards(shards[0], &[MAC]);
    let (there, mut other_cable) = Daemon::on_shards(shards[1], &[MAC]);
    let (mut cable, mut other_cable) = (cable.remove(0), other_cable.remove(0));
    let mut network = Network::default();
    let mut guest = Guest::start(here.socket(0));
    traffic(&mut guest, &mut network, &mut cable, 300);

    // Everything once, then what has changed meanwhile, again and again, while it runs.
    let page_size = guest.client.dma_logging_start(PAGE, &[]);
    assert_eq!(page_size.expect("it logs"), PAGE);
    guest.logging = true;
    guest.dirty = (0..PAGES).collect();
    let target = Ram::new();
    let pre_copy = guest.client.set_device_state(device_state::PRE_COPY);
    pre_copy.expect("it can be moved");
    let state = guest.client.read_state(STATE_SIZE);
    let mut state = state.expect("what it says while it runs");
    guest.copy(&target);
    for _ in 0..5 {
        traffic(&mut guest, &mut network, &mut cable, 50);
        assert!(guest.copy(&target) > 50, "the rings and the buffers");
    }
    assert_eq!(guest.copy(&target), 0, "the NIC is at rest");
    guest.flush();
    traffic(&mut guest, &mut network, &mut cable, 50);

    // Stopped in the middle of it.
    for _ in 0..RING / 4 {
        guest.send();
        network.send(&mut cable);
    }
    let stopped = guest.client.set_device_state(device_state::STOP_COPY);
    stopped.expect("it stops");
    let rest = guest.client.read_state(STATE_SIZE);
    state.extend(rest.expect("it is saved"));
    guest.copy(&target);
    for page in 0..PAGES {
        let same = guest.ram.page(page) == target.page(page);
        assert!(same, "page {page} was written and not logged");
    }
    network.poll(&mut cable);

    // What the guest has mapped, in other memory, and the state.
    let mut client = Client::connect(there.socket(0)).expect("a NIC");
    for (&iova, &(page, writable)) in &guest.mapped {
        map(&mut client, &target, iova, page, writable);
    }
    let resuming = client.set_device_state(device_state::RESUMING);
    resuming.expect("it can be restored");
    client.write_state(&state).expect("it takes the state");
    for state in [device_state::STOP, device_state::RUNNING] {
        client.set_device_state(state).expect("it goes on");
    }
    client
        .config_read::<2>(pci::COMMAND.into())
        .expect("it answers");
    (guest.client, guest.ram, guest.logging) = (client, target, false);
    // What the first NIC has not taken from the network comes by the other cable.
    guest.poll();
    network.sent = guest.received;
    traffic(&mut guest, &mut network, &mut other_cable, 300);

    drop(guest);
    for daemon in [here, there] {
        let reports = daemon.stop();
        assert_eq!(reports.len(), 1, "a NIC was closed by a panic");
        let missed = reports[0].model.dma_unreachable;
        assert_eq!(missed, 0, "the NIC used what was not mapped");
    }
}

#[test]
fn a_guest_that_remaps_moves_with_its_memory() {
    moves([1, 1]);
}

/// The queues, on threads of their own, use what they have of the map while it changes.
#[test]
fn so_does_one_whose_queues_have_threads_of_their_own() {
    moves([3, 2]);
}
