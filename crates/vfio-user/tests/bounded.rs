//! What a client can make us keep is bounded, whatever it sends and however little it reads. One test, alone in its
//! process: it counts the bytes that the process has allocated.
#![allow(unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::idle::{Nothing, server};
use common::{access, dma_map, dma_unmap, event_fd, memfd, message, proposal, words};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use vfio_user::Server;
use vfio_user::wire::{HEADER, Header, command, header_flags};
use zerocopy::IntoBytes;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn files(what: &str) -> usize {
    let path = format!("/proc/self/{what}");
    match what {
        "maps" => std::fs::read_to_string(path)
            .unwrap()
            .matches("memfd:guest")
            .count(),
        _ => std::fs::read_dir(path).unwrap().count(),
    }
}

/// A client that never reads.
struct Flood {
    stream: UnixStream,
    /// Bytes of a message that did not fit.
    rest: Vec<u8>,
}

impl Flood {
    /// Sends as much as fits; false if there was no room.
    fn send(&mut self, bytes: &[u8], fds: &[OwnedFd]) -> bool {
        if !self.rest.is_empty() {
            let n = self.stream.write(&self.rest).unwrap_or(0);
            self.rest.drain(..n);
            return self.rest.is_empty();
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, flags) {
            Ok(n) => {
                self.rest.extend_from_slice(&bytes[n..]);
                true
            }
            Err(_) => false,
        }
    }
}

/// A client that never reads, of a server that takes what comes; the most bytes and descriptors that were kept.
fn flood(
    server: &mut Server,
    path: &std::path::Path,
    pass: bool,
    what: &[(Vec<u8>, Vec<OwnedFd>)],
) -> (usize, usize) {
    let stream = UnixStream::connect(path).unwrap();
    server.on_listener(&mut Nothing);
    let mut client = Flood {
        stream,
        rest: Vec::new(),
    };
    let before = (LIVE.load(Ordering::Relaxed), files("fd"));
    let mut most = (0, 0);
    assert!(client.send(&message(1, command::VERSION, 0, &proposal()), &[]));
    let mut closed = false;
    let mut stuck = 0;
    for i in 0..1_500 {
        let (bytes, fds) = &what[i % what.len()];
        stuck = if client.send(bytes, fds) {
            0
        } else {
            stuck + 1
        };
        if pass {
            closed |= server.pass_epoch(server.epoch(), &mut Nothing).is_err();
        }
        closed |= server.on_readable(&mut Nothing).is_err();
        closed |= server.on_writable(&mut Nothing).is_err();
        if closed || stuck > 20 {
            break;
        }
        most.0 = most
            .0
            .max(LIVE.load(Ordering::Relaxed).saturating_sub(before.0));
        if i % 64 == 0 {
            most.1 = most.1.max(files("fd").saturating_sub(before.1));
        }
    }
    drop(client);
    server.close(&mut Nothing);
    most
}

#[test]
fn what_a_client_makes_us_keep_is_bounded() {
    let (mut server, path) = server("bounded");
    let none = Vec::new;
    let many = || (0..40).map(|_| event_fd()).collect::<Vec<_>>();
    let stray = Header {
        id: 1,
        command: command::DMA_READ,
        size: HEADER as u32,
        flags: header_flags::REPLY,
        error: 0,
    };
    let bus_master = [&access(7, 4, 1)[..], &[7]].concat();
    let large = Header {
        size: (1 << 20) + 32,
        flags: 0,
        ..stray
    };
    let file = memfd(0x10_0000);
    let map = |offset| message(3, command::DMA_MAP, 0, &dma_map(3, offset, offset, 0x1000));
    let floods = [
        (
            "small reads",
            vec![(
                message(2, command::REGION_READ, 0, &access(0, 0, 4)),
                none(),
            )],
        ),
        (
            "large reads",
            vec![(
                message(2, command::REGION_READ, 0, &access(7, 0, 1 << 20)),
                none(),
            )],
        ),
        (
            "ROM reads",
            vec![(
                message(2, command::REGION_READ, 0, &access(6, 0, 0x10_0000)),
                none(),
            )],
        ),
        ("errors", vec![(message(2, 999, 0, &[]), none())]),
        ("descriptors", vec![(message(2, 999, 0, &[]), many())]),
        (
            "resets",
            vec![(message(2, command::DEVICE_RESET, 0, &[]), none())],
        ),
        ("replies", vec![(stray.as_bytes().to_vec(), many())]),
        (
            "half a message",
            vec![
                (large.as_bytes().to_vec(), many()),
                (vec![0; 100_000], many()),
            ],
        ),
        (
            "interrupts",
            vec![(
                message(2, command::DEVICE_SET_IRQS, 0, &words(&[20, 0x24, 0, 0, 1])),
                vec![event_fd()],
            )],
        ),
        (
            "maps",
            vec![
                (map(0), vec![file.try_clone().unwrap()]),
                (
                    message(4, command::DMA_UNMAP, 0, &dma_unmap(24, 0, 0, 0x1000)),
                    none(),
                ),
            ],
        ),
        (
            "bus mastering",
            vec![
                (map(0), vec![file.try_clone().unwrap()]),
                (message(5, command::REGION_WRITE, 0, &bus_master), none()),
                (message(5, command::DEVICE_RESET, 0x10, &[]), none()),
            ],
        ),
    ];
    let start = (files("fd"), files("maps"));
    let mut settled = None;
    for round in 0..2 {
        for (name, what) in &floods {
            for pass in [true, false] {
                let (bytes, fds) = flood(&mut server, &path, pass, what);
                assert!(bytes < 4 << 20, "{name}: {bytes} bytes");
                assert!(fds <= 80, "{name}: {fds} descriptors");
            }
        }
        // The first round may leave what is made once; the second adds nothing.
        let left = (LIVE.load(Ordering::Relaxed), files("fd"), files("maps"));
        let (bytes, fds, maps) = *settled.get_or_insert(left);
        if round > 0 {
            assert!(
                left.0 <= bytes + 4096,
                "{} bytes more than {bytes}",
                left.0 - bytes
            );
            assert_eq!((left.1, left.2), (fds, maps));
        }
    }
    let end = (files("fd"), files("maps"));
    // The eventfd by which queues ask for memory is made once for a device.
    assert!(end.0 <= start.0 + 1, "{start:?} {end:?}");
    assert_eq!(end.1, start.1, "nothing stays mapped");
}
