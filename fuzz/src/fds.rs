//! Descriptors that a client may hand over, of which only few are what they should be.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{
    MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create, open,
};
use rustix::io::{fcntl_dupfd_cloexec, pwrite};
use rustix::pipe::{PipeFlags, pipe_with};

/// Bytes of a page, each of which begins with its [`mark`].
pub(crate) const PAGE: u64 = 4096;

/// What the other side gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fd {
    /// A file of the [`Pool`], by number.
    File(usize),
    /// A file of its own that its owner can shrink, by the order in which they were made.
    Fresh(usize),
    /// An eventfd, by the order in which they were made.
    Event(usize),
    /// Something that can neither be mapped nor counts.
    Other,
}

/// Bytes of a file that can shrink.
pub(crate) const FRESH: u64 = 2 * PAGE;

/// Our ends of what was made for one peer.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) events: Vec<OwnedFd>,
    pub(crate) fresh: Vec<OwnedFd>,
}

/// A file with guest memory in it.
#[derive(Debug)]
pub(crate) struct File {
    fd: OwnedFd,
    pub(crate) size: u64,
    /// Open for writing and not sealed against it.
    pub(crate) writable: bool,
}

/// What stands at the front of page `page` of file `file`.
pub(crate) fn mark(file: usize, page: u64) -> u64 {
    (file as u64 + 1) << 32 | page
}

/// Files and oddities that live as long as the fuzzer: their identity is what counts.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) files: Vec<File>,
    others: Vec<OwnedFd>,
}

impl Pool {
    /// The pool of this thread.
    pub(crate) fn get() -> &'static Self {
        std::thread_local! { static POOL: &'static Pool = Box::leak(Box::new(Pool::new())); }
        POOL.with(|pool| *pool)
    }

    fn new() -> Self {
        let files = [
            (64 << 10, true),
            (1 << 20, true),
            (0x1801, true),
            (0, true),
            (64 << 10, false),
            (4096, true),
        ];
        let files = files.into_iter().enumerate();
        let mut files: Vec<_> = files.map(|(i, (size, rw))| file(i, size, rw)).collect();
        let sealed = file(files.len(), 16 << 10, true);
        fcntl_add_seals(&sealed.fd, SealFlags::WRITE).expect("a fresh memfd can be sealed");
        files.push(File {
            writable: false,
            ..sealed
        });
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        let others = vec![
            read,
            write,
            open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).expect("/dev/null"),
            open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("the root"),
            epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll"),
        ];
        Self { files, others }
    }

    /// The descriptor that byte `choice` means, and what it is; what is new is added to `made`.
    pub(crate) fn make(&self, choice: u8, made: &mut Made) -> (Fd, OwnedFd) {
        let number = usize::from(choice >> 2);
        match choice & 3 {
            0 => {
                let number = number % self.files.len();
                (Fd::File(number), dup(&self.files[number].fd))
            }
            1 if number % 4 == 3 => {
                let flags = MemfdFlags::CLOEXEC;
                let fd = memfd_create("fuzz", flags).expect("a memfd");
                ftruncate(&fd, FRESH).expect("a size for a memfd");
                let theirs = dup(&fd);
                made.fresh.push(fd);
                (Fd::Fresh(made.fresh.len() - 1), theirs)
            }
            1 => (Fd::Other, dup(&self.others[number % self.others.len()])),
            _ => {
                let flags = if choice & 4 == 0 {
                    EventfdFlags::NONBLOCK
                } else {
                    EventfdFlags::empty()
                };
                let fd = eventfd(0, flags | EventfdFlags::CLOEXEC).expect("an eventfd");
                let theirs = dup(&fd);
                made.events.push(fd);
                (Fd::Event(made.events.len() - 1), theirs)
            }
        }
    }
}

fn file(number: usize, size: u64, writable: bool) -> File {
    let fd =
        memfd_create("fuzz", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a memfd");
    ftruncate(&fd, size).expect("a size for a memfd");
    for page in 0..size / PAGE {
        pwrite(&fd, &mark(number, page).to_ne_bytes(), page * PAGE).expect("a page of a memfd");
    }
    let fd = if writable {
        fd
    } else {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
        open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("a memfd opened again")
    };
    File { fd, size, writable }
}

fn dup(fd: impl AsFd) -> OwnedFd {
    fcntl_dupfd_cloexec(fd, 0).expect("a descriptor more")
}
