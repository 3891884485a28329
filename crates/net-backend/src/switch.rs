//! A cable between two NICs of one process.
//!
//! Each direction is a bounded ring of frames without a lock: full buffers go one way, empty ones come back. Buffers are
//! made when they are first needed. Super-frames are cut up and checksums filled in on the way, into the copy that
//! has to be made anyway.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::mpsc::{self, SyncSender, TryRecvError, TrySendError, sync_channel};

use nic_emu::Time;
use nic_emu::common::frame::{Features, RxCsum, RxFrame, RxMeta, TxBurst};
use nic_emu::common::gso::Segments;
use rustix::event::{EventfdFlags, eventfd};

use crate::backend::{Backend, Meter, Receiver, Room, RxBuf, Sender};

/// Frames under way in one direction.
const RING: usize = 512;
/// Usual size of a buffer: what a guest with an MTU of 1500 sends.
const BUFFER: usize = 2048;
/// Longest frame that is passed on; an e1000 receives none that is longer.
const LONGEST: usize = 16 * 1024;
/// Frames received before the other side hears that there is room again.
const BATCH: u32 = 32;

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

/// One direction of a cable.
fn way(from: &Arc<Meter>, to: &Arc<Meter>) -> io::Result<(PortSender, PortReceiver)> {
    let (parcels, incoming) = sync_channel(RING);
    let (back, empties) = sync_channel(RING);
    let (room, frames) = (Arc::new(Bell::new()?), Arc::new(Bell::new()?));
    // Whoever has not looked yet is to be called.
    Bell::wait_for(&frames.awaited);
    let sender = PortSender {
        parcels,
        empties,
        free: Vec::with_capacity(RING),
        made: 0,
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
    free: Vec<Box<[u8]>>,
    /// Buffers that were made; never more than `RING`.
    made: usize,
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
    /// Frames received since we last looked whether the sender waits for room.
    taken: u32,
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

/// A complete frame.
struct Parcel {
    bytes: Box<[u8]>,
    len: usize,
    csum: RxCsum,
}

/// How one half is woken: it found nothing, and will not look before the bell rings.
struct Bell {
    event: OwnedFd,
    awaited: AtomicBool,
}

impl Bell {
    fn new() -> io::Result<Self> {
        Ok(Self {
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            awaited: AtomicBool::new(false),
        })
    }

    /// Wakes whoever waits. What it waits for must have been done before.
    fn ring(&self) {
        // It sets its flag and then looks; we have acted and now look at the flag. One of us sees the other.
        fence(Ordering::SeqCst);
        if self.awaited.load(Ordering::Relaxed) && self.awaited.swap(false, Ordering::SeqCst) {
            // Fails only if the counter is full, and then it is readable as well.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// From now on the bell rings. Whoever waits for it has to look once more after this.
    fn wait(&self) {
        // Nothing to read is fine: the bell may not have rung.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
        Self::wait_for(&self.awaited);
    }

    fn wait_for(awaited: &AtomicBool) {
        awaited.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
}

impl PortSender {
    /// Whether `frames` more fit. If not, the bell will ring when the receiver has taken some.
    fn has_room(&mut self, frames: usize) -> bool {
        let free = |port: &mut Self| {
            if port.free.len() < frames {
                port.free.extend(port.empties.try_iter());
            }
            port.free.len() + (RING - port.made) >= frames
        };
        if free(self) {
            return true;
        }
        match self.empties.try_recv() {
            Ok(buffer) => self.free.push(buffer),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => {
                // What was under way went down with the peer. There is room for what nobody will receive.
                self.made = self.free.len();
                return true;
            }
        }
        self.room.wait();
        free(self)
    }

    /// A buffer of at least `len` bytes. There must be room.
    fn buffer(&mut self, len: usize) -> Box<[u8]> {
        match self.free.pop() {
            Some(buffer) if buffer.len() >= len => buffer,
            Some(_) => vec![0; len.next_power_of_two()].into(),
            None => {
                self.made += 1;
                vec![0; len.next_power_of_two().max(BUFFER)].into()
            }
        }
    }

    /// Puts a frame on the ring, cut up where needed. There must be room for it, or for a whole ring of segments: what
    /// is more than that is lost.
    fn put(&mut self, mut segments: Segments<'_>, csum: RxCsum) {
        let longest = segments.max_len();
        if longest > LONGEST {
            self.counters.tx.dropped.add_alone(1);
            return;
        }
        let (mut bytes, mut frames) = (0, 0);
        for _ in 0..segments.count().min(RING) {
            let mut buffer = self.buffer(longest);
            let Some(len) = segments.next_into(&mut buffer) else {
                self.free.push(buffer);
                break;
            };
            let parcel = Parcel {
                bytes: buffer,
                len,
                csum,
            };
            match self.parcels.try_send(parcel) {
                Ok(()) => {
                    bytes += len;
                    frames += 1;
                }
                // Nobody is plugged in any more, or it cannot be: there are no more buffers than places.
                Err(TrySendError::Disconnected(parcel) | TrySendError::Full(parcel)) => {
                    self.free.push(parcel.bytes);
                    break;
                }
            }
        }
        if frames == 0 {
            self.counters.tx.dropped.add_alone(1);
        } else {
            self.counters.tx.passed(bytes, frames);
        }
    }
}

impl Sender for PortSender {
    fn features(&self) -> Features {
        // The copy into the ring does it all.
        Features::ALL
    }

    fn send(&mut self, burst: &TxBurst<'_>, _now: Time) -> usize {
        let mut taken = 0;
        for frame in burst.frames() {
            let Some(segments) = Segments::new(frame) else {
                self.counters.tx.dropped.add_alone(1);
                taken += 1;
                continue;
            };
            if !self.has_room(segments.count().min(RING)) {
                break;
            }
            // What we have just computed need not be verified.
            let csum = match frame.offload.csum {
                Some(_) => RxCsum::Valid,
                None => RxCsum::Unknown,
            };
            self.put(segments, csum);
            taken += 1;
        }
        if taken > 0 {
            self.frames.ring();
        }
        taken
    }

    fn room(&self) -> Option<Room<'_>> {
        Some(Room::Readable(self.room.event.as_fd()))
    }
}

impl PortReceiver {
    fn take(&mut self) -> Option<Parcel> {
        if let Ok(parcel) = self.incoming.try_recv() {
            return Some(parcel);
        }
        self.call_sender();
        self.frames.wait();
        self.incoming.try_recv().ok()
    }

    /// Tells the sender that there is room, if it waits for that.
    fn call_sender(&mut self) {
        self.taken = 0;
        self.room.0.ring();
    }
}

impl Receiver for PortReceiver {
    fn recv<'b>(&mut self, buf: &'b mut RxBuf, _now: Time) -> Option<RxFrame<'b>> {
        let Parcel { bytes, len, csum } = self.take()?;
        let data = &mut buf.frame()[..len];
        data.copy_from_slice(&bytes[..len]);
        // Fails only if the sender has gone, and its buffers with it.
        let _ = self.back.try_send(bytes);
        self.taken += 1;
        if self.taken == BATCH {
            self.call_sender();
        }
        self.counters.rx.passed(len, 1);
        let meta = RxMeta {
            csum,
            ..RxMeta::default()
        };
        Some(RxFrame { data, meta })
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.frames.event.as_fd())
    }
}

#[cfg(test)]
mod tests;
