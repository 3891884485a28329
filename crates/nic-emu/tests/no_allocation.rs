//! A steady stream of frames allocates nothing, in either direction.

#![allow(unsafe_code, reason = "a counting allocator")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use guest_mem::{Access, GuestMem};
use nic_emu::common::frame::{RxFrame, TxBurst};
use nic_emu::e1000::regs::Reg;
use nic_emu::e1000::rx::Delivered;
use support::packets::{Flow, broadcast};
use support::remote::AtOnce;
use support::*;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as our caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as our caller promises.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(
        allocations(|| drop(std::hint::black_box(vec![1u8; 100]))),
        1
    );
}

/// A NIC whose memory is mapped, and one that asks for it.
fn both() -> [Nic; 2] {
    let mut asking = Nic::new();
    asking.dma = GuestMem::builder()
        .remote(
            0,
            RAM,
            Access::ReadWrite,
            Arc::new(AtOnce(asking.mem.clone())),
        )
        .build()
        .unwrap();
    [Nic::new(), asking]
}

#[test]
fn transmitting_allocates_nothing() {
    both().into_iter().for_each(transmit);
}

fn transmit(mut nic: Nic) {
    let flow = Flow::TCP4;
    let big = flow.unfinished(1, 1, 0x18, &[7; 30_000], true);
    let [plain, odd, half] = [1514, 1000, 500].map(broadcast);
    // A plain frame, a super-frame, one whose checksum is done here, one that comes in two halves.
    let round = |nic: &mut Nic| {
        nic.legacy(0, &plain, EOP | IFCS | RS);
        nic.context([14, 24, 33], [34, 50, 0], TCP | IPV4 | TSE, 54, 1460);
        nic.data(0x1_0000, &big, TSE | EOP | IFCS | RS, 3);
        nic.context([14, 24, 0], [34, 50, 99], 0, 0, 0);
        nic.data(0x2_0000, &odd, EOP | IFCS | RS, 3);
        let tail = nic.legacy(0x3_0000, &half, 0) + 1;
        nic.set(Reg::TDT, tail % 64);
        let mem = nic.dma.clone();
        let mut count = 0;
        let mut turn = |nic: &mut Nic| {
            let mut burst = TxBurst::new();
            loop {
                nic.tx.fetch(&mem, &mut burst, nic.now);
                if burst.is_empty() {
                    break;
                }
                count += burst.len();
                nic.tx
                    .complete(&mem, &mut burst, usize::MAX, nic.now)
                    .unwrap();
            }
        };
        turn(nic);
        let end = nic.legacy(0x4_0000, &half, EOP | IFCS | RS) + 1;
        nic.set(Reg::TDT, end % 64);
        turn(nic);
        assert_eq!(count, 4);
    };
    round(&mut nic);
    let count = allocations(|| {
        for _ in 0..50 {
            round(&mut nic);
        }
    });
    assert_eq!(count, 0);
    assert!(nic.get(Reg::GPTC) > 1000);
}

#[test]
fn receiving_allocates_nothing() {
    both().into_iter().for_each(receive);
}

fn receive(mut nic: Nic) {
    nic.set(Reg::RXCSUM, 3 << 8);
    nic.receive(64, 1 << 1 | 1 << 15 | 3 << 16);
    let frame = broadcast(1514);
    let mem = nic.dma.clone();
    let round = |nic: &mut Nic| {
        let mut delivered = Delivered::Placed;
        while delivered == Delivered::Placed {
            delivered = nic.rx.deliver(&mem, RxFrame::new(&frame), nic.now);
        }
        nic.rx.finish(&mem, nic.now).unwrap();
        assert_eq!(delivered, Delivered::Held);
        let head = nic.shared().regs.get(Reg::RDH);
        nic.set(Reg::RDT, (head + 63) % 64);
        assert!(nic.rx.resume(&mem, nic.now));
        nic.rx.finish(&mem, nic.now).unwrap();
    };
    round(&mut nic);
    let count = allocations(|| {
        for _ in 0..50 {
            round(&mut nic);
        }
    });
    assert_eq!(count, 0);
    assert!(nic.get(Reg::GPRC) > 400);
}
