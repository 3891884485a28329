//! A man in the middle who counts: passes the messages of one connection on, whole and with their descriptors.

use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::spawn;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tempfile::TempDir;

/// Descriptors that a message may carry: QEMU says 16.
const MAX_FDS: usize = 16;
const HEADER: usize = 16;
/// Header flags: the type field, and that no reply is wanted.
const TYPE: u32 = 0xF;
const NO_REPLY: u32 = 1 << 4;

/// Numbers of commands.
pub(crate) const SET_IRQS: usize = 8;
pub(crate) const REGION_READ: usize = 9;
pub(crate) const REGION_WRITE: usize = 10;

/// Commands of the client that have passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// By number.
    pub(crate) commands: [u64; 32],
    /// Those of them that want no reply.
    pub(crate) posted: u64,
}

impl Passed {
    /// What has passed after `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let mut commands = self.commands;
        for (count, before) in commands.iter_mut().zip(before.commands) {
            *count -= before;
        }
        Self {
            commands,
            posted: self.posted - before.posted,
        }
    }
}

/// Passes one client's connection on to a server.
pub(crate) struct Relay {
    folder: TempDir,
    passed: Arc<Mutex<Passed>>,
}

impl Relay {
    /// Waits for a client on a socket of its own, for the server at `server`.
    pub(crate) fn start(server: &Path) -> std::io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let relay = Self {
            folder,
            passed: Arc::default(),
        };
        let listener = UnixListener::bind(relay.socket())?;
        let (server, passed) = (server.to_owned(), Arc::clone(&relay.passed));
        spawn(move || -> std::io::Result<()> {
            let (client, _) = listener.accept()?;
            let server = UnixStream::connect(server)?;
            let (from_server, to_client) = (server.try_clone()?, client.try_clone()?);
            spawn(move || pass(from_server, to_client, |_, _| {}));
            pass(client, server, |command, flags| {
                if flags & TYPE != 0 {
                    return;
                }
                let mut passed = passed.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(count) = passed.commands.get_mut(usize::from(command)) {
                    *count += 1;
                }
                passed.posted += u64::from(flags & NO_REPLY != 0);
            });
            Ok(())
        });
        Ok(relay)
    }

    /// Where the client connects.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("relay.sock")
    }

    /// What has passed so far.
    pub(crate) fn passed(&self) -> Passed {
        *self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes messages on until either side is gone; tells `seen` of the command and flags of each.
fn pass(mut from: UnixStream, to: UnixStream, mut seen: impl FnMut(u16, u32)) {
    while let Some((message, fds)) = receive(&mut from) {
        let word = |at: usize| [message[at], message[at + 1]];
        let flags = u32::from(u16::from_le_bytes(word(8)));
        seen(u16::from_le_bytes(word(2)), flags);
        if !send(&to, &message, &fds) {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

fn receive(from: &mut UnixStream) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    let mut message = vec![0; HEADER];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut iov = [IoSliceMut::new(&mut message)];
    let read = recvmsg(&*from, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC);
    let read = read.ok().filter(|read| read.bytes > 0)?.bytes;
    let fds = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
        _ => Vec::new(),
    });
    let fds = fds.collect();
    from.read_exact(&mut message[read..]).ok()?;
    let size = u32::from_le_bytes(*message[4..].first_chunk()?);
    message.resize((size as usize).max(HEADER), 0);
    from.read_exact(&mut message[HEADER..]).ok()?;
    Some((message, fds))
}

/// Sends a message, its header in one piece.
fn send(to: &UnixStream, mut message: &[u8], fds: &[OwnedFd]) -> bool {
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut fds = &fds[..];
    while !message.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        match sendmsg(
            to,
            &[IoSlice::new(message)],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Ok(sent) => message = &message[sent..],
            Err(_) => return false,
        }
        fds = &[];
    }
    true
}
