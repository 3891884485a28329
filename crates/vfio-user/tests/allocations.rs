//! Reads and writes of regions allocate nothing once they are under way.
#![allow(unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::unix::net::UnixStream;

use common::{Desk, Ram, access, device, event_fd, message, proposal, words};
use vfio_user::{Bar, Device, ListenOptions, Listener, Server};

struct Counting;

thread_local! {
    /// Of this thread: the test harness has threads of its own.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn steady_traffic_allocates_nothing() {
    use std::io::{Read, Write};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("device.sock");
    let listener = Listener::bind(&path, &ListenOptions::default()).unwrap();
    let mut server = Server::new(listener, device());
    let mut ram = Ram::default();
    let mut stream = UnixStream::connect(&path).unwrap();
    server.on_listener(&mut ram);

    let mut reply = [0; 4096];
    stream.write_all(&message(1, 1, 0, &proposal())).unwrap();
    server.on_readable(&mut ram).unwrap();
    assert_ne!(stream.read(&mut reply).unwrap(), 0);
    let mut turn = |bytes: &[u8], expected: usize| {
        stream.write_all(bytes).unwrap();
        server.on_readable(&mut ram).unwrap();
        if expected > 0 {
            let n = stream.read(&mut reply).unwrap();
            assert_eq!(n, expected);
        }
    };
    let enable = [&access(7, 4, 1)[..], &[7]].concat();
    turn(&message(2, 10, 0, &enable), 32);

    let read = message(3, 9, 0, &access(0, 0xc0, 4));
    let write = message(4, 10, 0, &[&access(0, 0x38, 4)[..], &[1; 4]].concat());
    let posted = message(5, 10, 0x10, &[&access(0, 0x38, 4)[..], &[1; 4]].concat());
    let batch = [posted.repeat(40), read.repeat(10)].concat();
    let doorbells = [posted.repeat(200), read.clone()].concat();
    let warm_up_then_count = |turn: &mut dyn FnMut()| {
        turn();
        let before = ALLOCATIONS.get();
        for _ in 0..1000 {
            turn();
        }
        ALLOCATIONS.get() - before
    };
    let allocations = warm_up_then_count(&mut || {
        turn(&read, 36);
        turn(&write, 32);
        turn(&posted, 0);
        turn(&batch, 360);
        turn(&doorbells, 36);
    });
    assert_eq!(allocations, 0);
}

#[test]
fn raising_allocates_nothing_and_exchanging_an_eventfd_only_its_handle() {
    const VECTORS: u32 = 32;
    let device = Device::builder()
        .bar(0, Bar::memory32(0x1000))
        .msix(VECTORS, 0, 0, 0, 0x800);
    let mut desk = Desk::ready_of(device.build().unwrap());
    desk.config_write(0x43, &[0x80]);
    let irqs = desk.session.irqs();
    let request = |vector| message(1, 8, 0, &words(&[20, 0x24, 2, vector, 1]));
    // One SET_IRQS for each vector, as QEMU sends them when a guest masks or unmasks the function.
    let mut exchange = || {
        let mut allocations = 0;
        for vector in 0..VECTORS {
            let (request, fd) = (request(vector), event_fd());
            let before = ALLOCATIONS.get();
            let space = desk.session.space();
            space[..request.len()].copy_from_slice(&request);
            desk.session.received(request.len(), [fd], false);
            desk.session.process(&mut desk.ram).unwrap();
            desk.session.pass_epoch(desk.session.epoch());
            let n = desk.session.output().len();
            assert_eq!(n, 16);
            desk.session.sent(n);
            allocations += ALLOCATIONS.get() - before;
        }
        allocations
    };
    // The first gives eventfds, the second is the first to take some away.
    exchange();
    exchange();
    assert_eq!(exchange(), VECTORS as usize);
    let before = ALLOCATIONS.get();
    for i in 0..1000 {
        irqs.raise(i % VECTORS);
    }
    assert_eq!(ALLOCATIONS.get(), before);
    assert_eq!(irqs.raised(), 1000);
}
