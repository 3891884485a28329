//! A driver that does everything wrong, over a real socket, while another NIC of the same process goes on working.
//!
//! Each test is a script against one NIC. Afterwards the NIC must come up as if nothing had happened, memory that the
//! device may not write must be as it was, no NIC may have been closed by a panic, and the neighbour must have exchanged
//! frames all the time, none of them late.

mod extras;
mod packets;
mod pauses;
mod receiving;
mod registers;
mod rings;
mod storm;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use guest_driver::desc::Desc;
use guest_driver::packet::plain;
use guest_driver::socket::{RAM_BASE, RAM_SIZE};
use guest_driver::{Bus, Config, E1000, Offload, Wire};
use net_backend::Backend;
use nic_emu::e1000;
use nic_emu_tests::machine::{Daemon, MAC, Served};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vfio_user::Listener;
use vfio_user::wire::dma_map_flags;

/// The NIC under attack, as a driver holds it.
pub(crate) type Nic = E1000<Served>;

/// A station beyond the cable.
pub(crate) const PEER: [u8; 6] = [0x52, 0x54, 0, 0xAA, 0xBB, 0xCC];
/// Memory that the device may read and must not write.
pub(crate) const ROM: u64 = 0xFFFC_0000;
/// Bytes of it.
pub(crate) const ROM_SIZE: u64 = 0x4_0000;
/// Where the device's own registers are in the guest's address space: a range without memory behind it.
pub(crate) const OWN_BAR: u64 = 0xE000_0000;
/// An address with nothing at all.
pub(crate) const NOWHERE: u64 = 0x50_0000_0000;
/// The first address behind RAM.
pub(crate) const RAM_END: u64 = RAM_BASE + RAM_SIZE;
/// The last page of the address space, of which nothing is mapped.
pub(crate) const TOP: u64 = u64::MAX - 0xFFF;

/// Addresses at which no buffer and no ring should be.
pub(crate) const BAD_ADDRESSES: &[u64] = &[
    0,
    1,
    NOWHERE,
    RAM_BASE - 8,
    RAM_END - 8,
    RAM_END - 1,
    RAM_END,
    OWN_BAR,
    OWN_BAR + 0x3818,
    OWN_BAR + 0xC0,
    ROM,
    ROM + ROM_SIZE - 16,
    TOP,
    u64::MAX - 15,
    u64::MAX,
];

/// How long an exchange of frames may take at worst, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `script` against a NIC.
pub(crate) fn against(script: impl FnOnce(&mut Nic)) {
    on_shards(1, script);
}

/// As [`against`], with the parts of the NICs on so many threads.
pub(crate) fn on_shards(count: usize, script: impl FnOnce(&mut Nic)) {
    made(count, plain_nic, script);
}

/// What [`against`] is about.
fn plain_nic(
    name: String,
    model: &e1000::Config,
    listener: Listener,
    plug: Backend,
) -> nic_emu_cli::Nic {
    nic_emu_cli::Nic::of(name, model, None, listener, plug)
}

/// As [`on_shards`], against NICs as `make` makes them from name, model, and both ends.
pub(crate) fn made(
    count: usize,
    make: impl FnMut(String, &e1000::Config, Listener, Backend) -> nic_emu_cli::Nic,
    script: impl FnOnce(&mut Nic),
) {
    let other = [0x52, 0x54, 0, 0x12, 0x34, 0x57];
    let (daemon, cables) = Daemon::of(count, &[MAC, other], make);
    let [cable, cable_of_other] = <[_; 2]>::try_from(cables).ok().expect("two cables");

    let mut victim = Served::connect(&daemon, 0, cable);
    let rom = map_what_is_no_ram(&mut victim);
    let neighbour = Neighbour::start(Served::connect(&daemon, 1, cable_of_other));
    let mut nic = E1000::start(victim, Config::default()).expect("the device works at first");
    exchange(&mut nic, 1);

    script(&mut nic);

    let mut nic = E1000::start(nic.bus, Config::default()).expect("the device comes up again");
    exchange(&mut nic, 2);
    neighbour.stop();
    let mut bytes = vec![0; ROM_SIZE as usize];
    rustix::io::pread(&rom, &mut bytes, 0).expect("a file of our own");
    assert!(
        bytes.iter().all(|byte| *byte == 0xA5),
        "the device wrote where it may only read"
    );
    drop(nic);
    assert_eq!(daemon.stop().len(), 2, "a NIC was closed by a panic");
}

/// Tells the device of memory that is not RAM; returns the file behind the read-only part, which is full of 0xA5.
fn map_what_is_no_ram(victim: &mut Served) -> OwnedFd {
    let rom = memfd_create("rom", MemfdFlags::CLOEXEC).expect("a file in memory");
    ftruncate(&rom, ROM_SIZE).expect("a file of our own");
    rustix::io::pwrite(&rom, &vec![0xA5; ROM_SIZE as usize], 0).expect("a file of our own");
    let client = victim.bus.client();
    client
        .dma_map(ROM, ROM_SIZE, Some((rom.as_fd(), 0)), dma_map_flags::READ)
        .expect("the device takes a read-only range");
    client
        .dma_map(
            OWN_BAR,
            0x2_0000,
            None,
            dma_map_flags::READ | dma_map_flags::WRITE,
        )
        .expect("the device takes a range without memory");
    rom
}

/// One frame each way; whatever else is under way is thrown away.
pub(crate) fn exchange(nic: &mut Nic, seed: u32) {
    let start = Instant::now();
    let out = plain(PEER, nic.mac, 200, seed);
    assert!(nic.send(&out, Offload::None), "the ring is full");
    while nic.bus.collect().is_none_or(|frame| frame != out) {
        assert!(start.elapsed() < PATIENCE, "frame {seed} is not sent");
        std::thread::yield_now();
    }
    let back = plain(nic.mac, PEER, 300, seed);
    nic.bus.cable.transmit(&back);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match nic.receive(&mut buffer) {
            Some(got) if buffer[..got.len] == back => return,
            Some(_) => {}
            None => std::thread::yield_now(),
        }
        assert!(start.elapsed() < PATIENCE, "frame {seed} is not received");
    }
}

/// A NIC that exchanges frames in a thread of its own.
struct Neighbour {
    exchanges: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Neighbour {
    /// Starts it; frames pass when this returns.
    fn start(served: Served) -> Self {
        let exchanges = Arc::new(AtomicU32::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (count, stopped) = (Arc::clone(&exchanges), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut nic = E1000::start(served, Config::default()).expect("the neighbour works");
            while !stopped.load(Ordering::Relaxed) {
                exchange(&mut nic, count.load(Ordering::Relaxed));
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(300));
            }
        });
        let neighbour = Self {
            exchanges,
            stop,
            thread,
        };
        neighbour.goes_on();
        neighbour
    }

    /// Waits for another exchange.
    fn goes_on(&self) {
        let (start, before) = (Instant::now(), self.exchanges.load(Ordering::Relaxed));
        while self.exchanges.load(Ordering::Relaxed) == before {
            assert!(
                start.elapsed() < PATIENCE && !self.thread.is_finished(),
                "the neighbour is disturbed"
            );
            std::thread::yield_now();
        }
    }

    /// Ends it; it must be at work.
    fn stop(self) {
        self.goes_on();
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the neighbour is undisturbed");
    }
}

/// Queues descriptors and announces them all.
pub(crate) fn transmit(nic: &mut Nic, descs: &[Desc]) {
    assert!(descs.len() < nic.tx.count as usize);
    for desc in descs {
        nic.tx.push(&mut nic.bus, *desc);
    }
    nic.tx.kick(&mut nic.bus);
    settle(nic);
    nic.tx.clean = nic.tx.tail;
}

/// Waits until the device has done what it can, and takes away what it has sent.
pub(crate) fn settle(nic: &mut Nic) {
    nic.bus.settle();
    while nic.bus.collect().is_some() {}
}

/// Starts over on the same connection, with rings of `count` descriptors.
pub(crate) fn reopen(nic: &mut Nic, config: Config) {
    guest_driver::e1000::reset(&mut nic.bus).expect("the device comes out of reset");
    let mac = nic.mac;
    guest_driver::e1000::set_address(&mut nic.bus, 0, Some(mac));
    let fresh = E1000::open(&mut nic.bus, mac, config);
    let (tx, rx, tx_buffers, rx_buffers) = (fresh.tx, fresh.rx, fresh.tx_buffers, fresh.rx_buffers);
    (nic.tx, nic.rx, nic.tx_buffers, nic.rx_buffers) = (tx, rx, tx_buffers, rx_buffers);
}
