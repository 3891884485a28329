//! A frame costs the daemon no allocation: from the doorbell to the cable, and from the cable to the guest's ring.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use guest_driver::packet::plain;
use guest_driver::regs::cause;
use guest_driver::{Config, E1000, Offload, Wire};
use nic_emu_tests::machine::Served;

const PEER: [u8; 6] = [0x52, 0x54, 0, 0xAA, 0xBB, 0xCC];
const PATIENCE: Duration = Duration::from_secs(60);
const BATCH: u32 = 32;

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

/// Batches each way, short frames and full ones.
fn traffic(nic: &mut E1000<Served>, batches: u32) {
    let mut buffer = vec![0; 1 << 16];
    let start = Instant::now();
    for batch in 0..batches {
        let len = if batch.is_multiple_of(2) { 60 } else { 1514 };
        let out = plain(PEER, nic.mac, len, batch);
        for _ in 0..BATCH {
            while !nic.queue(&out, Offload::None) {
                nic.reap();
            }
        }
        nic.tx.kick(&mut nic.bus);
        let frame = plain(nic.mac, PEER, len, batch);
        for _ in 0..BATCH {
            nic.bus.cable.transmit(&frame);
        }
        let (mut sent, mut received) = (0, 0);
        while sent < BATCH || received < BATCH {
            assert!(
                start.elapsed() < PATIENCE,
                "{sent} sent, {received} received"
            );
            sent += u32::from(nic.bus.collect().is_some());
            received += u32::from(nic.receive(&mut buffer).is_some());
        }
        // Reads of registers and interrupts belong to it.
        nic.causes();
    }
}

/// A list may still grow once, a port of the switch has as many buffers as were ever full at once, and the test harness
/// has threads of its own. What a batch cost would be 200 and more.
const A_FEW: usize = 2 * BATCH as usize;

/// One test, so that nothing else allocates meanwhile.
#[test]
fn steady_traffic_allocates_nothing() {
    PLAYS.set(true);
    for shards in 1..=3 {
        let before = ALLOCATIONS.load(SeqCst);
        let mut nic = E1000::start(Served::on_shards(shards), Config::default()).expect("it works");
        nic.enable_interrupts(cause::TXDW | cause::RXT0);
        traffic(&mut nic, 20);
        assert_ne!(ALLOCATIONS.load(SeqCst), before, "the daemon's are counted");
        let before = ALLOCATIONS.load(SeqCst);
        traffic(&mut nic, 200);
        let grown = ALLOCATIONS.load(SeqCst) - before;
        assert!(
            grown < A_FEW,
            "{grown} in 6400 frames each way on {shards} threads"
        );
    }
}
