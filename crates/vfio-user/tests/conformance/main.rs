//! Is this a vfio-user server? One named test for each clause that libvfio-user's own tests hold a server to, and for
//! what real clients need besides. All of them run over a socket, and whatever a server refuses, it is asked afterwards
//! whether it still works.
//!
//! Which clause is tested where, and what we do otherwise on purpose, is in `docs/vfio-user.md`; [`table`] holds that
//! list to the truth.

#[path = "../common/mod.rs"]
mod common;

mod dma;
mod negotiation;
mod positive;
mod refusals;
mod stream;
mod table;

use std::os::fd::{AsFd, OwnedFd};

use common::full::Serving;
use common::peer::{Got, Peer};
use common::{access, dma_map, event_fd, memfd, message, words};
use rustix::io::Errno;
use vfio_user::wire::{command, header_flags};

const INVAL: u32 = Errno::INVAL.raw_os_error() as u32;
const NOENT: u32 = Errno::NOENT.raw_os_error() as u32;
const NOSPC: u32 = Errno::NOSPC.raw_os_error() as u32;

/// Where a page of memory is mapped that every test finds.
const PAGE: u64 = 0x1000_0000;
/// Flags of DMA_MAP.
const BOTH: u32 = 3;

/// A request, in bytes.
struct Request {
    command: u16,
    flags: u32,
    payload: Vec<u8>,
    /// Eventfds that come along.
    fds: usize,
}

fn request(command: u16, payload: impl AsRef<[u8]>) -> Request {
    Request {
        command,
        flags: 0,
        payload: payload.as_ref().to_vec(),
        fds: 0,
    }
}

impl Request {
    fn with_fds(self, fds: usize) -> Self {
        Self { fds, ..self }
    }
}

/// A server with a client that has negotiated, mapped a page and let the device do DMA.
struct Case {
    serving: Serving,
    peer: Peer,
    next: u8,
}

impl Case {
    fn new() -> Self {
        let serving = Serving::start();
        // One that is not asked whether its files are the guest's memory, which can be at any time.
        let json = r#"{"capabilities":{"max_msg_fds":16}}"#;
        let (mut peer, _) = Peer::connect(&serving.path, json);
        peer.command(7);
        let page = memfd(0x1000);
        let map = dma_map(BOTH, 0, PAGE, 0x1000);
        let mapped = peer.ask(command::DMA_MAP, &map, &[page.as_fd()]);
        assert_eq!(mapped.header.error, 0);
        let next = 0;
        Self {
            serving,
            peer,
            next,
        }
    }

    /// Makes a request; its reply, which must be the next message.
    fn ask(&mut self, request: &Request) -> Got {
        let fds: Vec<OwnedFd> = (0..request.fds).map(|_| event_fd()).collect();
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let Request {
            command,
            flags,
            payload,
            ..
        } = request;
        let id = 0x7000 | u16::from(self.next);
        self.peer
            .send_bytes(&message(id, *command, *flags, payload), &fds);
        let got = self.peer.next();
        assert_eq!((got.header.id, got.header.command), (id, *command));
        assert_eq!(got.header.flags & header_flags::TYPE, header_flags::REPLY);
        got
    }

    /// A request that is answered with `errno` and nothing else, and the connection goes on working.
    fn refused(&mut self, what: &str, request: &Request, errno: u32) {
        let got = self.ask(request);
        let error = header_flags::REPLY | header_flags::ERROR;
        assert_eq!(got.header.flags, error, "{what}: {got:?}");
        assert_eq!(got.header.error, errno, "{what}");
        assert_eq!(got.header.size, 16, "{what}: the header only");
        assert!(got.fds.is_empty());
        self.works();
    }

    /// A request that succeeds; the payload of its reply. The connection goes on working.
    fn accepted(&mut self, what: &str, request: &Request) -> Vec<u8> {
        let got = self.ask(request);
        assert_eq!(got.header.flags, header_flags::REPLY, "{what}: {got:?}");
        self.works();
        got.payload
    }

    /// What was written to the device is read back, and the page is still mapped where it was.
    fn works(&mut self) {
        self.next = self.next.wrapping_add(1);
        let write = [&access(0, 0x40, 1)[..], &[self.next]].concat();
        let wrote = self.peer.ask(command::REGION_WRITE, &write, &[]);
        assert_eq!((wrote.header.error, &wrote.payload[..]), (0, &write[..16]));
        let read = self
            .peer
            .ask(command::REGION_READ, &access(0, 0x40, 1), &[]);
        assert_eq!(read.payload, write);
        let info = self
            .peer
            .ask(command::DEVICE_GET_INFO, &words(&[16, 0, 0, 0]), &[]);
        assert_eq!(info.payload, words(&[16, 3, 9, 5]));
    }
}
