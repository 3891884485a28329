//! A TAP interface of the host.
//!
//! Each frame is one system call, with a header before it that carries the offload requests: a guest's super-frame of
//! 64 KiB leaves in one `writev` from where it lies in the guest's memory, and one of the host's comes in one `read`.

mod error;
mod open;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nic_emu::Time;
use nic_emu::common::frame::{ETH_HEADER, Features, RxCsum, RxFrame, TxBurst, TxFrame};
use nic_emu::common::gso::Segments;
use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use crate::backend::{Backend, Meter, Receiver, Room, RxBuf, Sender};
use crate::netlink::Carrier;
use crate::sys;
use crate::vnet::{self, VnetHdr};

pub use error::TapError;
pub use open::TapOptions;

/// A TAP that this process has attached to. It vanishes on drop, unless it was made persistent beforehand.
pub struct Tap {
    name: String,
    index: Option<u32>,
    tx: TapSender,
    rx: TapReceiver,
}

/// What both halves of a TAP have.
struct Shared {
    tun: OwnedFd,
    name: String,
    /// The interface was deleted.
    gone: AtomicBool,
    counters: Arc<Meter>,
}

/// Writes to a TAP.
struct TapSender {
    tap: Arc<Shared>,
    /// The same TAP. A descriptor can wait in one epoll for one thing only, and the receiver's does.
    room: OwnedFd,
    /// Where a frame of usual length is joined with its header: to copy so much costs less than to tell the kernel of a
    /// few pieces.
    joined: Box<[u8; JOINED]>,
    /// Segments that the kernel cannot be asked to cut; empty until there is one.
    scratch: Vec<u8>,
}

/// A frame of an MTU of 1500, and what comes before it.
const JOINED: usize = 1536;

/// Reads from a TAP.
struct TapReceiver {
    tap: Arc<Shared>,
    /// None if the interface is in a network namespace that we do not see.
    carrier: Option<Carrier>,
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
}

impl From<Tap> for Backend {
    fn from(tap: Tap) -> Self {
        Self {
            name: tap.name,
            counters: tap.rx.tap.counters.clone(),
            tx: Box::new(tap.tx),
            rx: Box::new(tap.rx),
        }
    }
}

impl Shared {
    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    fn lose(&self, errno: Errno) {
        if self.gone.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::warn!(
            "TAP {} is gone ({errno}): its NIC has no link any more",
            self.name
        );
    }
}

impl TapSender {
    fn write(&mut self, frame: &TxFrame<'_>) -> Sent {
        let covered = self.features().cover(&frame.offload);
        if self.tap.is_gone() {
            return Sent::Refused(Errno::BADFD);
        }
        // The host would take it for a good one.
        if frame.offload.bad_fcs {
            return Sent::Refused(Errno::BADMSG);
        }
        let tun = &self.tap.tun;
        if covered {
            let hdr = VnetHdr::of(frame.offload);
            let len = vnet::LEN + frame.len();
            if let Some(joined) = self.joined.get_mut(..len) {
                let (to_hdr, to_frame) = joined.split_at_mut(vnet::LEN);
                to_hdr.copy_from_slice(hdr.as_bytes());
                frame.copy_to(to_frame);
                return sent(rustix::io::write(tun, joined));
            }
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
        let dropped = &self.tap.counters.tx.dropped;
        dropped.add_alone(1);
        // A guest can cause as many of these as it likes.
        if dropped.get().is_power_of_two() {
            let dropped = dropped.get();
            tracing::debug!(tap = self.tap.name, dropped, "frame not sent: {errno}");
        }
    }
}

/// Writes one frame.
fn writev(tun: BorrowedFd<'_>, head: [&[u8]; 2], body: &[guest_mem::GuestSlice<'_>]) -> Sent {
    let written = sys::writev(tun, head, body);
    sent(written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)))
}

/// What a write has done.
fn sent(written: Result<usize, Errno>) -> Sent {
    match written {
        Ok(_) => Sent::Yes,
        Err(Errno::AGAIN | Errno::INTR) => Sent::Blocked,
        Err(errno) => Sent::Refused(errno),
    }
}

/// Takes apart what was read. A checksum that was left to do is filled in; those of a super-frame are its segments'.
/// None if header and frame contradict each other.
fn understand(bytes: &mut [u8]) -> Option<RxFrame<'_>> {
    let (hdr, data) = VnetHdr::mut_from_prefix(bytes).ok()?;
    if data.len() < ETH_HEADER {
        return None;
    }
    let mut meta = hdr.meta(data)?;
    if let (RxCsum::Partial(csum), None) = (meta.csum, meta.gso) {
        if !csum.complete(data) {
            return None;
        }
        meta.csum = RxCsum::Valid;
    }
    Some(RxFrame { data, meta })
}

impl Sender for TapSender {
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
        for (index, frame) in burst.frames().enumerate() {
            match self.write(&frame) {
                Sent::Yes => self.tap.counters.tx.passed(frame.len(), frame.segments()),
                Sent::Blocked => return index,
                Sent::Refused(errno) => {
                    // EIO: the interface is down.
                    self.drop_frame(errno);
                    if errno == Errno::BADFD {
                        self.tap.lose(errno);
                    }
                }
            }
        }
        burst.len()
    }

    fn room(&self) -> Option<Room<'_>> {
        Some(Room::Writable(self.room.as_fd()))
    }

    fn is_gone(&self) -> bool {
        self.tap.is_gone()
    }
}

impl Receiver for TapReceiver {
    fn recv<'b>(&mut self, buf: &'b mut RxBuf, _now: Time) -> Option<RxFrame<'b>> {
        if self.tap.is_gone() {
            return None;
        }
        let bytes = buf.with_header(vnet::LEN);
        let frame = match rustix::io::read(&self.tap.tun, &mut *bytes) {
            Ok(len) => understand(&mut bytes[..len]),
            Err(Errno::AGAIN | Errno::INTR) => return None,
            // A frame that the kernel could not describe to us. It has dropped it.
            Err(Errno::INVAL) => None,
            Err(errno) => {
                self.tap.lose(errno);
                return None;
            }
        };
        let counters = &self.tap.counters.rx;
        match &frame {
            Some(frame) => counters.passed(frame.data.len(), frame.segments()),
            None => counters.dropped.add_alone(1),
        }
        frame
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.tap.tun.as_fd())
    }

    fn link(&mut self) -> bool {
        let carrier = self.carrier.as_mut().is_none_or(Carrier::poll);
        carrier && !self.tap.is_gone()
    }

    fn link_fd(&self) -> Option<BorrowedFd<'_>> {
        self.carrier.as_ref().map(Carrier::fd)
    }

    fn is_gone(&self) -> bool {
        self.tap.is_gone()
    }
}

#[cfg(test)]
mod tests;
