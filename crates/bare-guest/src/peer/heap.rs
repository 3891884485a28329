//! The heap, which that driver returns received frames on. Nothing is ever given back: a job ends before it is used up.

#![allow(unsafe_code)]

use core::alloc::{GlobalAlloc, Layout};
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bare_guest::machine::Ram;

/// Enough for ten thousand frames.
const SIZE: usize = 16 << 20;

struct Heap {
    next: AtomicU64,
    end: AtomicU64,
}

#[global_allocator]
static HEAP: Heap = Heap {
    next: AtomicU64::new(0),
    end: AtomicU64::new(0),
};

/// Takes the heap's bytes from `ram`; whoever allocates before that gets none.
pub(crate) fn set_up(ram: &mut Ram) {
    let start = ram.alloc(SIZE, 4096);
    HEAP.next.store(start, Relaxed);
    HEAP.end.store(start + SIZE as u64, Relaxed);
}

// SAFETY: each byte of RAM that was taken for it is handed out once only, at the alignment that was asked for.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let end = self.end.load(Relaxed);
        let take = |next: u64| {
            let start = next.checked_next_multiple_of(layout.align() as u64)?;
            let behind = start.checked_add(layout.size() as u64)?;
            (behind <= end).then_some(behind)
        };
        let Ok(next) = self.next.fetch_update(Relaxed, Relaxed, take) else {
            return ptr::null_mut();
        };
        ptr::with_exposed_provenance_mut(next.next_multiple_of(layout.align() as u64) as usize)
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}
