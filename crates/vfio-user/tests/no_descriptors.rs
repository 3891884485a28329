//! A process without a free descriptor: clients wait, and the event loop does not spin. In a process of its own, since
//! the limit is the process's.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vfio_user::{
    Accepted, Bar, Device, Handler, Interest, ListenOptions, Listener, Poller, Region, ResetKind,
    Server, Source,
};

struct Nothing;

impl Handler for Nothing {
    fn read(&mut self, _: Region, _: u64, _: &mut [u8]) {}
    fn write(&mut self, _: Region, _: u64, _: &[u8]) {}
    fn reset(&mut self, _: ResetKind) {}
}

/// Remembers whether the listener is watched.
#[derive(Default)]
struct Watching(bool);

impl Poller for Watching {
    fn watch(&mut self, source: Source, _: BorrowedFd<'_>, _: Interest, _: bool) -> io::Result<()> {
        self.0 |= source == Source::Listener;
        Ok(())
    }
    fn unwatch(&mut self, _: BorrowedFd<'_>) -> io::Result<()> {
        self.0 = false;
        Ok(())
    }
}

#[test]
fn a_listener_that_cannot_accept_is_left_alone_for_a_while() {
    let path = std::env::temp_dir().join(format!("vfio-user-nofile-{}", std::process::id()));
    let device = Device::builder()
        .ids(1, 2)
        .bar(0, Bar::memory32(0x1000))
        .build()
        .unwrap();
    let mut server = Server::new(
        Listener::bind(&path, &ListenOptions::default()).unwrap(),
        device,
    );
    let mut poller = Watching::default();
    server.update_watches(&mut poller).unwrap();
    assert!(poller.0);

    let _client = UnixStream::connect(&path).unwrap();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(0),
            ..limit
        },
    )
    .unwrap();
    let accepted = server.on_listener(&mut Nothing);
    setrlimit(Resource::Nofile, limit).unwrap();
    assert!(matches!(accepted, Accepted::Failed(_)), "{accepted:?}");
    server.update_watches(&mut poller).unwrap();
    assert!(!poller.0, "it would be readable all the time");

    server.listen_again();
    server.update_watches(&mut poller).unwrap();
    assert!(poller.0);
    assert!(matches!(server.on_listener(&mut Nothing), Accepted::Client));
}
