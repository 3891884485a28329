//! A frame costs the daemon no allocation: from the doorbell to the network, and from the network to the guest's ring.
//! Nor does a super-frame that leaves.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::Result;
use guest_driver::packet::{Packet, plain};
use guest_driver::regs::{cause, rctl};
use guest_driver::socket::Socket;
use guest_driver::{Bus, Config, E1000, Offload, Wire};
use net_backend::{Backend, Tap, TapOptions};
use nic_emu_cli::Nic;
use nic_emu_lab::{Lab, Netns};
use nic_emu_tests::inside::inside;
use nic_emu_tests::is_root;
use nic_emu_tests::machine::{Daemon, FarTap, MAC, Served};

const PEER: [u8; 6] = [0x52, 0x54, 0, 0xAA, 0xBB, 0xCC];
const PATIENCE: Duration = Duration::from_secs(60);
const BATCH: usize = 32;
/// TCP payload of a segment.
const MSS: u16 = 1448;
const CONFIG: Config = Config {
    tx_count: 128,
    rx_count: 128,
    rx_buffer: 2048,
    rctl: rctl::BAM,
    rxcsum: 0,
};

/// Of all threads that do not play guest and network.
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static PLAYS: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

impl Counting {
    fn count() {
        if !PLAYS.get() {
            ALLOCATIONS.fetch_add(1, SeqCst);
        }
    }
}

// SAFETY: everything is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count();
        // SAFETY: the caller's promise is the same.
        unsafe { System.realloc(ptr, layout, size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A NIC and what is behind its backend.
trait Network: Bus {
    fn transmit(&mut self, frame: &[u8]);
    /// The number of frames that the NIC has sent as the next one; none if there is none.
    fn collect(&mut self) -> Option<usize>;
}

impl Network for Served {
    fn transmit(&mut self, frame: &[u8]) {
        self.cable.transmit(frame);
    }

    fn collect(&mut self) -> Option<usize> {
        self.cable.collect().map(|_| 1)
    }
}

/// A NIC on a TAP.
struct Tapped {
    bus: Socket,
    far: FarTap,
    // In this order: the daemon, then its namespace.
    _daemon: Daemon,
    _netns: Netns,
}

impl Tapped {
    fn on_shards(count: usize) -> Result<Self> {
        let netns = Netns::new(&Lab::open()?, "allocations")?;
        let options = TapOptions {
            ifname: "near0".into(),
            ..TapOptions::default()
        };
        let mut tap = Some(inside(netns.name(), || Ok(Tap::create(&options)?))?);
        let far = FarTap::plug(&netns, &options.ifname)?;
        let (daemon, _) = Daemon::of(count, &[MAC], |name, model, listener, _| {
            let backend = Backend::from(tap.take().expect("one NIC"));
            Nic::of(name, model, None, listener, backend)
        });
        Ok(Self {
            bus: Socket::connect(daemon.socket(0))?,
            far,
            _daemon: daemon,
            _netns: netns,
        })
    }
}

impl Bus for Tapped {
    guest_driver::delegate_bus!(self => self.bus);
}

impl Network for Tapped {
    fn transmit(&mut self, frame: &[u8]) {
        self.far.transmit(frame);
    }

    fn collect(&mut self) -> Option<usize> {
        self.far.collect()
    }
}

/// Batches each way, short frames, full ones, and sent super-frames against their segments.
fn traffic(nic: &mut E1000<impl Network>, batches: u32) {
    let mut buffer = vec![0; 1 << 16];
    let start = Instant::now();
    for batch in 0..batches {
        let frames = match batch % 3 {
            2 => large(nic, batch),
            kind => small(nic, [60, 1514][kind as usize], batch),
        };
        nic.tx.kick(&mut nic.bus);
        let (mut sent, mut received) = (0, 0);
        while sent < frames || received < frames {
            assert!(
                start.elapsed() < PATIENCE,
                "{sent} sent, {received} received of {frames}"
            );
            sent += nic.bus.collect().unwrap_or(0);
            received += usize::from(nic.receive(&mut buffer).is_some());
        }
        // Reads of registers and interrupts belong to it.
        nic.causes();
    }
}

/// Starts a batch of frames of `len` bytes; returns how many those are.
fn small(nic: &mut E1000<impl Network>, len: usize, seed: u32) -> usize {
    let out = plain(PEER, nic.mac, len, seed);
    let frame = plain(nic.mac, PEER, len, seed);
    for _ in 0..BATCH {
        while !nic.queue(&out, Offload::None) {
            nic.reap();
        }
        nic.bus.transmit(&frame);
    }
    BATCH
}

/// The same with two packets of ten segments.
fn large(nic: &mut E1000<impl Network>, seed: u32) -> usize {
    const SEGMENTS: usize = 10;
    let packet = |to, from| Packet::new(to, from, false, true, SEGMENTS * usize::from(MSS), seed);
    let (out, offload) = packet(PEER, nic.mac).for_segmentation(MSS);
    let segments = packet(nic.mac, PEER).segments(MSS);
    for _ in 0..2 {
        while !nic.queue(&out, offload) {
            nic.reap();
        }
        for segment in &segments {
            nic.bus.transmit(segment);
        }
    }
    2 * SEGMENTS
}

/// A list may still grow once, and a port of the switch has as many buffers as were ever full at once: that ends. What a
/// batch costs, or every hundredth, does not.
fn grows_no_more(mut nic: E1000<impl Network>, what: &str) {
    const ROUNDS: u32 = 8;
    nic.enable_interrupts(cause::TXDW | cause::RXT0);
    let mut grown = Vec::new();
    for _ in 0..ROUNDS {
        let before = ALLOCATIONS.load(SeqCst);
        traffic(&mut nic, 200);
        grown.push(ALLOCATIONS.load(SeqCst) - before);
        if grown.ends_with(&[0]) {
            return;
        }
    }
    panic!("{what}: {grown:?} in 200 batches each");
}

/// One test, so that nothing else allocates meanwhile.
#[test]
fn steady_traffic_allocates_nothing() -> Result<()> {
    PLAYS.set(true);
    for shards in 1..=3 {
        let before = ALLOCATIONS.load(SeqCst);
        let nic = E1000::start(Served::on_shards(shards), CONFIG)?;
        assert_ne!(ALLOCATIONS.load(SeqCst), before, "the daemon's are counted");
        grows_no_more(nic, &format!("a cable, {shards} threads"));
        if !is_root() {
            eprintln!("skipped: needs root");
            continue;
        }
        let nic = E1000::start(Tapped::on_shards(shards)?, CONFIG)?;
        grows_no_more(nic, &format!("a TAP, {shards} threads"));
    }
    Ok(())
}
