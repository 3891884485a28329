//! What no safe interface has: binding a packet socket, and arrivals with the kernel's time.

#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{from_mut, from_ref};

use libc::{c_int, c_uint, iovec, mmsghdr, sockaddr_ll, socklen_t};

/// Messages that one call receives.
const MESSAGES: usize = 64;
/// Bytes kept of each.
const BYTES: usize = 64;
/// Words for the kernel's time (4) and its count of what found no room (3), with room to spare.
const CONTROL: usize = 16;

/// Messages received at once, each with the kernel's remarks.
pub(super) struct Batch {
    bytes: [[u8; BYTES]; MESSAGES],
    control: [[u64; CONTROL]; MESSAGES],
    /// Of each: bytes, and words of remarks.
    lengths: [(usize, usize); MESSAGES],
}

impl Batch {
    pub(super) fn new() -> Box<Self> {
        Box::new(Self {
            bytes: [[0; BYTES]; MESSAGES],
            control: [[0; CONTROL]; MESSAGES],
            lengths: [(0, 0); MESSAGES],
        })
    }

    /// The first `count` messages and the remarks on them, which are control messages (`struct cmsghdr`) in words.
    pub(super) fn messages(&self, count: usize) -> impl Iterator<Item = (&[u8], &[u64])> {
        let all = self.bytes.iter().zip(&self.control).zip(&self.lengths);
        all.take(count).map(|((bytes, control), &(len, words))| {
            (&bytes[..len.min(BYTES)], &control[..words.min(CONTROL)])
        })
    }
}

/// Receives what is there, without waiting.
pub(super) fn receive(fd: BorrowedFd<'_>, batch: &mut Batch) -> io::Result<usize> {
    // SAFETY: both are plain C structures of numbers and pointers, for which all zeros are a value.
    let (mut iovecs, mut headers): ([iovec; MESSAGES], [mmsghdr; MESSAGES]) =
        unsafe { (zeroed(), zeroed()) };
    for (at, header) in headers.iter_mut().enumerate() {
        iovecs[at].iov_base = batch.bytes[at].as_mut_ptr().cast();
        iovecs[at].iov_len = BYTES;
        header.msg_hdr.msg_iov = &raw mut iovecs[at];
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_control = batch.control[at].as_mut_ptr().cast();
        header.msg_hdr.msg_controllen = CONTROL * size_of::<u64>();
    }
    // SAFETY: `headers` has as many elements as we say. Each points to one iovec, and that and the control pointer to
    // parts of `batch`, which we hold alone, with their lengths. All outlive the call.
    let count = unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr(),
            MESSAGES as c_uint,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
        )
    };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    for (header, lengths) in headers.iter().zip(&mut batch.lengths).take(count) {
        let words = header.msg_hdr.msg_controllen / size_of::<u64>();
        *lengths = (header.msg_len as usize, words);
    }
    Ok(count)
}

/// Ties a packet socket to an interface, and has it receive frames of this EtherType; 0 for none.
pub(super) fn bind(fd: BorrowedFd<'_>, interface: u32, ethertype: u16) -> io::Result<()> {
    // SAFETY: a plain C structure of numbers, for which all zeros are a value.
    let mut address: sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = interface as c_int;
    let length = size_of::<sockaddr_ll>() as socklen_t;
    // SAFETY: the address is a `sockaddr_ll` of the length that we say, and outlives the call.
    let done = unsafe { libc::bind(fd.as_raw_fd(), from_ref(&address).cast(), length) };
    done_or_error(done)
}

/// Has the kernel tell with each message when it came in, and how many found no room so far.
pub(super) fn ask_for_remarks(fd: BorrowedFd<'_>) -> io::Result<()> {
    for option in [libc::SO_TIMESTAMPNS, libc::SO_RXQ_OVFL] {
        let mut on: c_int = 1;
        let length = size_of::<c_int>() as socklen_t;
        // SAFETY: the value is an `int` of the length that we say, and outlives the call.
        done_or_error(unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                from_mut(&mut on).cast_const().cast(),
                length,
            )
        })?;
    }
    Ok(())
}

fn done_or_error(done: c_int) -> io::Result<()> {
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
