//! A TAP interface of the host.
//!
//! Each frame is one system call, with a header before it that carries the offload requests: a guest's super-frame of
//! 64 KiB leaves in one `writev` from where it lies in the guest's memory.

mod error;
mod open;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nic_emu::Time;
use nic_emu::common::frame::{ETH_HEADER, Features, RxFrame, TxBurst, TxFrame};
use nic_emu::common::gso::Segments;
use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use crate::backend::{Backend, Counters, RxBuf};
use crate::netlink::Carrier;
use crate::sys;
use crate::vnet::{self, VnetHdr, segments};

pub use error::TapError;
pub use open::TapOptions;

/// A TAP that this process has attached to. It vanishes on drop, unless it was made persistent beforehand.
pub struct Tap {
    /// Closed once the interface was deleted: whatever still watched it would be told of an error for ever.
    tun: Option<OwnedFd>,
    name: String,
    index: Option<u32>,
    /// None if the interface is in a network namespace that we do not see.
    carrier: Option<Carrier>,
    counters: Counters,
    /// The last write found no room.
    blocked: bool,
    /// Segments that the kernel cannot be asked to cut; empty until there is one.
    scratch: Vec<u8>,
}

/// What became of one frame.
enum Sent {
    Yes,
    /// Not now.
    Blocked,
    /// Never.
    Refused(Errno),
}

impl Tap {
    /// The interface's name when it was opened.
    pub fn ifname(&self) -> &str {
        &self.name
    }

    /// The interface's index; none if it is in a network namespace that this thread does not see.
    pub fn index(&self) -> Option<u32> {
        self.index
    }

    fn write(&mut self, frame: &TxFrame<'_>) -> Sent {
        let covered = self.features().cover(&frame.offload);
        let Some(tun) = &self.tun else {
            return Sent::Refused(Errno::BADFD);
        };
        if covered {
            let hdr = VnetHdr::of(frame.offload);
            return writev(tun.as_fd(), [hdr.as_bytes(), frame.head], frame.body);
        }
        let Some(mut segments) = Segments::new(*frame) else {
            return Sent::Refused(Errno::INVAL);
        };
        let longest = segments.max_len();
        if self.scratch.len() < longest {
            self.scratch.resize(longest, 0);
        }
        let hdr = VnetHdr::default();
        let mut first = true;
        while let Some(len) = segments.next_into(&mut self.scratch) {
            match writev(tun.as_fd(), [hdr.as_bytes(), &self.scratch[..len]], &[]) {
                Sent::Yes => first = false,
                Sent::Blocked if first => return Sent::Blocked,
                // Half a super-frame cannot be taken back. The rest is lost, as on a congested wire.
                Sent::Blocked => return Sent::Refused(Errno::AGAIN),
                refused => return refused,
            }
        }
        Sent::Yes
    }

    fn drop_frame(&mut self, errno: Errno) {
        self.counters.tx_dropped += 1;
        let dropped = self.counters.tx_dropped;
        // A guest can cause as many of these as it likes.
        if dropped.is_power_of_two() {
            tracing::debug!(tap = self.name, dropped, "frame not sent: {errno}");
        }
    }

    fn lose(&mut self, errno: Errno) {
        if self.tun.take().is_none() {
            return;
        }
        tracing::warn!(
            "TAP {} is gone ({errno}): its NIC has no link any more",
            self.name
        );
    }
}

/// Writes one frame.
fn writev(tun: BorrowedFd<'_>, head: [&[u8]; 2], body: &[guest_mem::GuestSlice<'_>]) -> Sent {
    match sys::writev(tun, head, body) {
        Ok(_) => Sent::Yes,
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::AGAIN | Errno::INTR) => Sent::Blocked,
            Some(errno) => Sent::Refused(errno),
            None => Sent::Refused(Errno::IO),
        },
    }
}

impl Backend for Tap {
    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> Features {
        Features {
            csum: true,
            tso4: true,
            tso6: true,
            // Kernels before 6.2 do not know it.
            uso: false,
        }
    }

    fn send(&mut self, burst: &TxBurst<'_>, _now: Time) -> usize {
        self.blocked = false;
        for (index, frame) in burst.frames().enumerate() {
            match self.write(&frame) {
                Sent::Yes => self.counters.sent(frame.len(), segments(&frame)),
                Sent::Blocked => {
                    self.blocked = true;
                    return index;
                }
                Sent::Refused(errno) => {
                    // EIO: the interface is down.
                    self.drop_frame(errno);
                    if errno == Errno::BADFD {
                        self.lose(errno);
                    }
                }
            }
        }
        burst.len()
    }

    fn recv<'b>(&mut self, buf: &'b mut RxBuf, _now: Time) -> Option<RxFrame<'b>> {
        let tun = self.tun.as_ref()?;
        let bytes = buf.with_header(vnet::LEN);
        let len = match rustix::io::read(tun, &mut *bytes) {
            Ok(len) => len,
            Err(Errno::AGAIN | Errno::INTR) => return None,
            Err(errno) => {
                self.lose(errno);
                return None;
            }
        };
        let bytes: &'b [u8] = &bytes[..len];
        let Some((hdr, data)) = VnetHdr::read_from_prefix(bytes)
            .ok()
            .filter(|(_, data)| data.len() >= ETH_HEADER)
        else {
            self.counters.rx_dropped += 1;
            return None;
        };
        self.counters.received(data.len());
        Some(RxFrame {
            data,
            meta: hdr.meta(),
        })
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.tun.as_ref().map(AsFd::as_fd)
    }

    fn wants_writable(&self) -> bool {
        self.blocked
    }

    fn link(&mut self) -> bool {
        let carrier = self.carrier.as_mut().is_none_or(Carrier::poll);
        carrier && self.tun.is_some()
    }

    fn link_fd(&self) -> Option<BorrowedFd<'_>> {
        let carrier = self.carrier.as_ref().filter(|_| self.tun.is_some())?;
        Some(carrier.fd())
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

#[cfg(test)]
mod tests;
