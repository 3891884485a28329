//! A cable between two NICs of one process.
//!
//! Each direction is a bounded ring of frames without a lock: full buffers go one way, empty ones come back. Buffers are
//! made when they are first needed, so many of a usual frame's size and so many of a super-frame's: 3 MiB a direction at
//! most. Super-frames pass whole, with checksums left to do, since the NIC at the other end makes segments of them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender, TryRecvError, TrySendError, sync_channel};

use nic_emu::Time;
use nic_emu::common::frame::{
    Features, MAX_SUPER_FRAME, Offload, RxFrame, RxMeta, TxBurst, TxFrame,
};
use nic_emu::common::gso::{MAX_HEADERS, Segments};
use rustix::event::{EventfdFlags, eventfd};

use crate::backend::{Backend, Meter, Receiver, Room, RxBuf, Sender};
use bell::Event;

mod bell;

/// Frames of usual length under way in one direction.
const USUAL: usize = 512;
/// What a guest with an MTU of 1500 sends.
const USUAL_LEN: usize = 2048;
/// Longer frames, and super-frames, under way in one direction.
const LARGE: usize = 32;
/// Longest frame on the wire that is passed on; an e1000 receives none that is longer.
const LONGEST: usize = 16 * 1024;
/// Frames received before the other side hears that there is room again.
const BATCH: usize = 32;

/// Both ends of a new cable. All four halves may live on different threads; the link is up.
///
/// # Errors
///
/// If the process has no file descriptor left.
pub fn pair() -> io::Result<(Backend, Backend)> {
    let (a, b) = (Arc::<Meter>::default(), Arc::<Meter>::default());
    let (a_to_b, b_from_a) = way(&a, &b)?;
    let (b_to_a, a_from_b) = way(&b, &a)?;
    let port = |tx, rx, counters| Backend {
        name: "switch".into(),
        tx: Box::new(tx),
        rx: Box::new(rx),
        counters,
    };
    Ok((port(a_to_b, a_from_b, a), port(b_to_a, b_from_a, b)))
}

/// How one half of a direction is woken by the other.
type Bell = bell::Bell<OwnedFd>;

fn event() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

impl Event for OwnedFd {
    fn set(&self) {
        // Fails only if the counter is full, and then it is readable as well.
        let _ = rustix::io::write(self, &1u64.to_ne_bytes());
    }

    fn clear(&self) {
        // Nothing to read is fine: the bell may not have rung.
        let _ = rustix::io::read(self, &mut [0; 8]);
    }
}

/// One direction of a cable.
fn way(from: &Arc<Meter>, to: &Arc<Meter>) -> io::Result<(PortSender, PortReceiver)> {
    let (parcels, incoming) = sync_channel(USUAL + LARGE);
    let (back, empties) = sync_channel(USUAL + LARGE);
    let (room, frames) = (Arc::new(Bell::new(event()?)), Arc::new(Bell::new(event()?)));
    // Whoever has not looked yet is to be called.
    frames.wait(|| ());
    let sender = PortSender {
        parcels,
        empties,
        usual: Pool::new(USUAL_LEN, USUAL),
        large: Pool::new(MAX_SUPER_FRAME, LARGE),
        room: room.clone(),
        frames: frames.clone(),
        counters: from.clone(),
    };
    let receiver = PortReceiver {
        incoming,
        back,
        frames,
        taken: 0,
        counters: to.clone(),
        room: LastRing(room),
    };
    Ok((sender, receiver))
}

/// Where frames go in.
struct PortSender {
    parcels: SyncSender<Parcel>,
    /// Buffers that the receiver has emptied.
    empties: mpsc::Receiver<Box<[u8]>>,
    usual: Pool,
    large: Pool,
    room: Arc<Bell>,
    frames: Arc<Bell>,
    counters: Arc<Meter>,
}

/// Where they come out.
struct PortReceiver {
    incoming: mpsc::Receiver<Parcel>,
    /// Where emptied buffers go.
    back: SyncSender<Box<[u8]>>,
    frames: Arc<Bell>,
    /// Frames received since we last looked whether the sender waits for room, long ones counted as more.
    taken: usize,
    counters: Arc<Meter>,
    /// After the rings, so that a sender that waits finds nobody there any more.
    room: LastRing,
}

/// Rings when its owner goes, for the last time.
struct LastRing(Arc<Bell>);

impl Drop for LastRing {
    fn drop(&mut self) {
        self.0.ring();
    }
}

/// A frame under way.
struct Parcel {
    bytes: Box<[u8]>,
    len: usize,
    meta: RxMeta,
}

/// Buffers of one size.
struct Pool {
    size: usize,
    free: Vec<Box<[u8]>>,
    /// Buffers that may still be made.
    unmade: usize,
}

impl Pool {
    fn new(size: usize, count: usize) -> Self {
        Self {
            size,
            free: Vec::with_capacity(count),
            unmade: count,
        }
    }

    fn has_room(&self) -> bool {
        self.free.len() + self.unmade > 0
    }

    /// A buffer. There must be room.
    fn take(&mut self) -> Box<[u8]> {
        self.free.pop().unwrap_or_else(|| {
            self.unmade -= 1;
            vec![0; self.size].into()
        })
    }
}

impl PortSender {
    /// Where buffers for a frame of `len` bytes are.
    fn pool(&mut self, len: usize) -> &mut Pool {
        match len <= USUAL_LEN {
            true => &mut self.usual,
            false => &mut self.large,
        }
    }

    /// Whether there is room for a frame of `len` bytes. If not, the bell will ring when the receiver has emptied some
    /// buffers.
    fn has_room(&mut self, len: usize) -> bool {
        !self.pool(len).free.is_empty() || self.take_back(len) || {
            let room = self.room.clone();
            room.wait(|| self.take_back(len))
        }
    }

    /// Takes back what the receiver has emptied; whether there is room for a frame of `len` bytes then.
    fn take_back(&mut self, len: usize) -> bool {
        loop {
            match self.empties.try_recv() {
                Ok(buffer) => self.pool(buffer.len()).free.push(buffer),
                Err(TryRecvError::Empty) => return self.pool(len).has_room(),
                Err(TryRecvError::Disconnected) => {
                    // What was under way went down with the peer. There is room for what nobody will receive.
                    let pool = self.pool(len);
                    pool.unmade = pool.unmade.max(1);
                    return true;
                }
            }
        }
    }

    /// Puts a frame on the ring; whether somebody may receive it. There must be room.
    fn put(&mut self, frame: &TxFrame<'_>) -> bool {
        let Some(segments) = Segments::new(*frame).filter(|all| all.max_len() <= LONGEST) else {
            return false;
        };
        let mut bytes = self.pool(frame.len()).take();
        let len = frame
            .copy_to(&mut bytes)
            .expect("what can be cut is no longer than a super-frame");
        let meta = left_to_do(frame.offload, &mut bytes[..len]);
        match self.parcels.try_send(Parcel { bytes, len, meta }) {
            Ok(()) => {
                self.counters.tx.passed(len, segments.count());
                true
            }
            // Nobody is plugged in any more, or it cannot be: there are no more buffers than places.
            Err(TrySendError::Disconnected(parcel) | TrySendError::Full(parcel)) => {
                self.pool(parcel.len).free.push(parcel.bytes);
                false
            }
        }
    }
}

/// What the receiving NIC is to do to a frame. What it cannot is done here.
fn left_to_do(offload: Offload, frame: &mut [u8]) -> RxMeta {
    if let (Some(csum), None) = (offload.csum, offload.gso)
        && csum.field(frame.len().min(MAX_HEADERS)).is_none()
    {
        csum.complete(frame);
        return Offload {
            csum: None,
            ..offload
        }
        .into();
    }
    offload.into()
}

impl Sender for PortSender {
    fn features(&self) -> Features {
        // The NIC at the other end does it all.
        Features::ALL
    }

    fn send(&mut self, burst: &TxBurst<'_>, _now: Time) -> usize {
        let mut taken = 0;
        for frame in burst.frames() {
            if !self.has_room(frame.len()) {
                break;
            }
            if !self.put(&frame) {
                self.counters.tx.dropped.add_alone(1);
            }
            taken += 1;
        }
        if taken > 0 {
            self.frames.ring();
        }
        taken
    }

    fn room(&self) -> Option<Room<'_>> {
        Some(Room::Readable(self.room.event().as_fd()))
    }
}

impl PortReceiver {
    fn take(&mut self) -> Option<Parcel> {
        if let Ok(parcel) = self.incoming.try_recv() {
            return Some(parcel);
        }
        self.call_sender();
        self.frames.wait(|| self.incoming.try_recv().ok())
    }

    /// Tells the sender that there is room, if it waits for that.
    fn call_sender(&mut self) {
        self.taken = 0;
        self.room.0.ring();
    }
}

impl Receiver for PortReceiver {
    fn recv<'b>(&mut self, buf: &'b mut RxBuf, _now: Time) -> Option<RxFrame<'b>> {
        let Parcel { bytes, len, meta } = self.take()?;
        let data = &mut buf.frame()[..len];
        data.copy_from_slice(&bytes[..len]);
        self.taken += match bytes.len() {
            USUAL_LEN => 1,
            _ => USUAL / LARGE,
        };
        // Fails only if the sender has gone, and its buffers with it.
        let _ = self.back.try_send(bytes);
        if self.taken >= BATCH {
            self.call_sender();
        }
        let frame = RxFrame { data, meta };
        self.counters.rx.passed(len, frame.segments());
        Some(frame)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.frames.event().as_fd())
    }
}

#[cfg(test)]
mod tests;
