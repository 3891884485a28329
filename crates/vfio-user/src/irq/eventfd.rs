//! What interrupts are written to. The model check has one of its own.

use std::os::fd::{AsFd, OwnedFd};

/// An eventfd of the client's.
pub(super) type Eventfd = OwnedFd;

/// Has whoever listens hear of an interrupt.
pub(super) fn signal(fd: &Eventfd) {
    // A full counter (EAGAIN) has the interrupt pending anyway; other errors are the client's affair.
    let _ = rustix::io::write(fd.as_fd(), &1_u64.to_ne_bytes());
}
