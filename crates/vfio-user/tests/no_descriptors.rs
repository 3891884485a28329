//! A process without a free descriptor: clients wait, and the event loop does not spin. In a process of its own, since
//! the limit is the process's.

mod common;

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use common::idle::{Nothing, server};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vfio_user::{Accepted, Interest, Poller, Source};

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
    let (mut server, path) = server("nofile");
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
