//! The system calls that have no safe wrapper: the TUN/TAP ioctls, vectored writes straight from guest RAM, and a socket
//! filter. The only file of this crate with `unsafe` in it.
//!
//! Numbers and structures: `linux/if_tun.h`, `linux/if.h`, `linux/filter.h`.

#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use arrayvec::ArrayVec;
use guest_mem::GuestSlice;
use nic_emu::common::frame::BURST_SLICES;

/// Longest interface name with its terminating zero, `IFNAMSIZ`.
pub(crate) const IFNAMSIZ: usize = libc::IFNAMSIZ;

/// Most pieces one [`writev`] takes: a header, a head and the body of the largest frame of a burst.
pub(crate) const MAX_IOVECS: usize = 2 + BURST_SLICES;

/// `struct ifreq`: a name, and a union of 24 bytes of which the TUN ioctls use the first few.
#[repr(C)]
struct IfReq {
    name: [u8; IFNAMSIZ],
    data: [u8; 24],
}

/// What `TUNGETIFF` tells about an open TAP.
pub(crate) struct TunIf {
    pub(crate) name: String,
    pub(crate) flags: i32,
}

/// `TUNSETIFF`: attaches the freshly opened `/dev/net/tun` to the interface `name`, which is created if there is none.
/// Returns the interface's name, in which the kernel has replaced a `%d` by a number.
///
/// `name` must be shorter than [`IFNAMSIZ`]; longer ones are cut.
pub(crate) fn tun_set_iff(tun: BorrowedFd<'_>, name: &str, flags: i32) -> io::Result<String> {
    let mut req = IfReq {
        name: [0; IFNAMSIZ],
        data: [0; 24],
    };
    let len = name.len().min(IFNAMSIZ - 1);
    req.name[..len].copy_from_slice(&name.as_bytes()[..len]);
    // The flags are a `short`; all of them fit.
    req.data[..2].copy_from_slice(&(flags as u16).to_ne_bytes());
    ioctl(tun, libc::TUNSETIFF, &mut req)?;
    Ok(name_of(&req))
}

/// `TUNGETIFF`: name and flags of the interface this descriptor is attached to.
pub(crate) fn tun_get_iff(tun: BorrowedFd<'_>) -> io::Result<TunIf> {
    let mut req = IfReq {
        name: [0; IFNAMSIZ],
        data: [0; 24],
    };
    ioctl(tun, libc::TUNGETIFF, &mut req)?;
    Ok(TunIf {
        name: name_of(&req),
        flags: i32::from(u16::from_ne_bytes([req.data[0], req.data[1]])),
    })
}

/// `SIOCGIFHWADDR` on the TAP itself: the interface's MAC address, in whatever network namespace it may be.
pub(crate) fn tun_hwaddr(tun: BorrowedFd<'_>) -> io::Result<[u8; 6]> {
    let mut req = IfReq {
        name: [0; IFNAMSIZ],
        data: [0; 24],
    };
    ioctl(tun, libc::SIOCGIFHWADDR as libc::Ioctl, &mut req)?;
    let mut mac = [0; 6];
    mac.copy_from_slice(&req.data[2..8]);
    Ok(mac)
}

/// `TUNSETVNETHDRSZ`: size of the header before each frame.
pub(crate) fn tun_set_vnet_hdr_size(tun: BorrowedFd<'_>, size: usize) -> io::Result<()> {
    ioctl(tun, libc::TUNSETVNETHDRSZ, &mut (size as libc::c_int))
}

/// `TUNSETVNETLE`: the header's fields are little endian, whatever the host's order is.
pub(crate) fn tun_set_vnet_le(tun: BorrowedFd<'_>) -> io::Result<()> {
    ioctl(tun, libc::TUNSETVNETLE, &mut (1 as libc::c_int))
}

/// `TUNSETOFFLOAD`: what the kernel may leave undone in the frames that we read, bits `TUN_F_*`.
pub(crate) fn tun_set_offload(tun: BorrowedFd<'_>, bits: u32) -> io::Result<()> {
    // SAFETY: this ioctl takes its argument by value and touches no memory of ours.
    let ret = unsafe {
        libc::ioctl(
            tun.as_raw_fd(),
            libc::TUNSETOFFLOAD,
            libc::c_ulong::from(bits),
        )
    };
    check(ret as isize).map(drop)
}

/// `TUNSETPERSIST`: whether the interface outlives its last descriptor.
#[cfg(test)]
pub(crate) fn tun_set_persist(tun: BorrowedFd<'_>, persist: bool) -> io::Result<()> {
    // SAFETY: this ioctl takes its argument by value and touches no memory of ours.
    let ret = unsafe {
        libc::ioctl(
            tun.as_raw_fd(),
            libc::TUNSETPERSIST,
            libc::c_ulong::from(persist),
        )
    };
    check(ret as isize).map(drop)
}

/// `TUNSETOWNER`: the user who may attach to the interface without privilege.
#[cfg(test)]
pub(crate) fn tun_set_owner(tun: BorrowedFd<'_>, uid: u32) -> io::Result<()> {
    // SAFETY: this ioctl takes its argument by value and touches no memory of ours.
    let ret = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOWNER, libc::c_ulong::from(uid)) };
    check(ret as isize).map(drop)
}

/// Writes `head` and `body` in one system call. Returns the number of bytes written.
///
/// What exceeds [`MAX_IOVECS`] pieces is not written: the count returned is then short of the frame.
pub(crate) fn writev(
    fd: BorrowedFd<'_>,
    head: [&[u8]; 2],
    body: &[GuestSlice<'_>],
) -> io::Result<usize> {
    let mut iovecs = ArrayVec::<libc::iovec, MAX_IOVECS>::new();
    let pieces = head
        .iter()
        .map(|bytes| (bytes.as_ptr(), bytes.len()))
        .chain(body.iter().map(|slice| (slice.as_ptr(), slice.len())));
    for (ptr, len) in pieces.filter(|&(_, len)| len != 0).take(MAX_IOVECS) {
        iovecs.push(libc::iovec {
            iov_base: ptr.cast_mut().cast(),
            iov_len: len,
        });
    }
    // SAFETY: each iovec is either a live `&[u8]` or a guest slice, which stays mapped as long as it is lent; the kernel
    // only reads through them. That the guest may write meanwhile is the kernel's everyday case.
    let ret = unsafe { libc::writev(fd.as_raw_fd(), iovecs.as_ptr(), iovecs.len() as libc::c_int) };
    check(ret)
}

/// One instruction of a classic BPF program, `struct sock_filter`.
pub(crate) type Instruction = libc::sock_filter;

/// `SO_ATTACH_FILTER`: only messages that `program` accepts are queued on the socket.
pub(crate) fn attach_filter(socket: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    let prog = libc::sock_fprog {
        len: program.len() as libc::c_ushort,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: `prog` and the program it points to live through the call, which copies and checks them.
    let ret = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const prog).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    check(ret as isize).map(drop)
}

/// A descriptor that this process was started with (`fd=3` on a command line), as an own, close-on-exec copy.
///
/// The inherited one stays open as well, so asking twice is harmless.
///
/// # Errors
///
/// `EBADF` if nothing is open under that number.
pub fn inherit_fd(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: `F_DUPFD_CLOEXEC` takes and touches no memory; a number that is not open is an error.
    let ret = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    let fd = check(ret as isize)? as RawFd;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) })
}

fn name_of(req: &IfReq) -> String {
    let len = req.name.iter().position(|&b| b == 0).unwrap_or(IFNAMSIZ);
    String::from_utf8_lossy(&req.name[..len]).into_owned()
}

/// An ioctl whose argument is a pointer to `T`.
///
/// Private to this file: every caller passes the type that its request reads and writes.
fn ioctl<T>(fd: BorrowedFd<'_>, request: libc::Ioctl, arg: &mut T) -> io::Result<()> {
    // SAFETY: `arg` is valid for reads and writes of `T`, and each request used above accesses no more than that.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut *arg) };
    check(ret as isize).map(drop)
}

fn check(ret: isize) -> io::Result<usize> {
    usize::try_from(ret).map_err(|_| io::Error::last_os_error())
}
