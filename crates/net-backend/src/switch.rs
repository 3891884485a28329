//! A cable between two NICs of one process.
//!
//! Each direction is a bounded ring of frames without a lock: full buffers go one way, empty ones come back. Buffers are
//! made when they are first needed. Super-frames are cut up and checksums filled in on the way, into the copy that
//! has to be made anyway.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::Duration;

use nic_emu::Time;
use nic_emu::common::frame::{Features, RxCsum, RxFrame, RxMeta, TxBurst};
use nic_emu::common::gso::Segments;
use rustix::event::{EventfdFlags, eventfd};

use crate::backend::{Backend, Counters, RxBuf};

/// Frames under way in one direction.
const RING: usize = 512;
/// Usual size of a buffer: what a guest with an MTU of 1500 sends.
const BUFFER: usize = 2048;
/// Longest frame that is passed on; an e1000 receives none that is longer.
const LONGEST: usize = 16 * 1024;
/// Frames received before the other side hears that there is room again.
const BATCH: u32 = 32;
/// When to try again though nobody has called: the bell is not heard by a NIC that cannot receive at the moment.
const RETRY: Duration = Duration::from_millis(1);

/// Both ends of a new cable. They may live on different threads; the link is up.
///
/// # Errors
///
/// If the process has no file descriptor left.
pub fn pair() -> io::Result<(Port, Port)> {
    let (to_b, from_a) = sync_channel(RING);
    let (to_a, from_b) = sync_channel(RING);
    let (back_to_a, empties_a) = sync_channel(RING);
    let (back_to_b, empties_b) = sync_channel(RING);
    let (bell_a, bell_b) = (Arc::new(Bell::new()?), Arc::new(Bell::new()?));
    let a = Port::new(to_b, empties_a, from_b, back_to_b, [&bell_a, &bell_b]);
    let b = Port::new(to_a, empties_b, from_a, back_to_a, [&bell_b, &bell_a]);
    Ok((a, b))
}

/// One end of a cable.
pub struct Port {
    to_peer: SyncSender<Parcel>,
    from_peer: Receiver<Parcel>,
    /// Buffers that the peer has emptied.
    empties: Receiver<Box<[u8]>>,
    /// Where buffers go that we have emptied.
    back: SyncSender<Box<[u8]>>,
    free: Vec<Box<[u8]>>,
    /// Buffers that we have made; never more than `RING`.
    made: usize,
    mine: Arc<Bell>,
    peer: Arc<Bell>,
    /// Frames received since we last looked whether the peer waits for room.
    taken: u32,
    retry_at: Option<Time>,
    counters: Counters,
}

/// A complete frame.
struct Parcel {
    bytes: Box<[u8]>,
    len: usize,
    csum: RxCsum,
}

/// How one port is woken.
struct Bell {
    event: OwnedFd,
    /// The port found nothing to receive and will not look before the bell rings.
    idle: AtomicBool,
    /// The port found no room to send.
    starved: AtomicBool,
}

impl Bell {
    fn new() -> io::Result<Self> {
        Ok(Self {
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            idle: AtomicBool::new(true),
            starved: AtomicBool::new(false),
        })
    }

    /// Wakes the port, if `flag` says that it waits. What it waits for must have been done before.
    fn ring_if(&self, flag: &AtomicBool) {
        // The port sets its flag and then looks; we have acted and now look at the flag. One of us sees the other.
        fence(Ordering::SeqCst);
        if flag.load(Ordering::Relaxed) && flag.swap(false, Ordering::SeqCst) {
            // Fails only if the counter is full, and then it is readable as well.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// Says that the port waits. It has to look once more after this.
    fn wait_for(flag: &AtomicBool) {
        flag.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    fn silence(&self) {
        // Nothing to read is fine: the bell may not have rung.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
    }
}

impl Port {
    fn new(
        to_peer: SyncSender<Parcel>,
        empties: Receiver<Box<[u8]>>,
        from_peer: Receiver<Parcel>,
        back: SyncSender<Box<[u8]>>,
        [mine, peer]: [&Arc<Bell>; 2],
    ) -> Self {
        Self {
            to_peer,
            from_peer,
            empties,
            back,
            free: Vec::with_capacity(RING),
            made: 0,
            mine: mine.clone(),
            peer: peer.clone(),
            taken: 0,
            retry_at: None,
            counters: Counters::default(),
        }
    }

    /// Whether `frames` more fit. If not, the bell will ring when the peer has taken some.
    fn room(&mut self, frames: usize) -> bool {
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
        Bell::wait_for(&self.mine.starved);
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
            self.counters.tx_dropped += 1;
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
            match self.to_peer.try_send(parcel) {
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
            self.counters.tx_dropped += 1;
        } else {
            self.counters.sent(bytes, frames);
        }
    }

    fn take(&mut self) -> Option<Parcel> {
        if let Ok(parcel) = self.from_peer.try_recv() {
            return Some(parcel);
        }
        self.call_sender();
        self.mine.silence();
        Bell::wait_for(&self.mine.idle);
        self.from_peer.try_recv().ok()
    }

    /// Tells the peer that there is room, if it waits for that.
    fn call_sender(&mut self) {
        self.taken = 0;
        self.peer.ring_if(&self.peer.starved);
    }
}

impl Backend for Port {
    fn name(&self) -> &str {
        "switch"
    }

    fn features(&self) -> Features {
        // The copy into the ring does it all.
        Features::ALL
    }

    fn send(&mut self, burst: &TxBurst<'_>, now: Time) -> usize {
        self.retry_at = None;
        let mut taken = 0;
        for frame in burst.frames() {
            let Some(segments) = Segments::new(frame) else {
                self.counters.tx_dropped += 1;
                taken += 1;
                continue;
            };
            if !self.room(segments.count().min(RING)) {
                self.retry_at = Some(now + RETRY);
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
            self.peer.ring_if(&self.peer.idle);
        }
        taken
    }

    fn recv<'b>(&mut self, buf: &'b mut RxBuf, _now: Time) -> Option<RxFrame<'b>> {
        let Parcel { bytes, len, csum } = self.take()?;
        let data = &mut buf.frame()[..len];
        data.copy_from_slice(&bytes[..len]);
        // Fails only if the peer has gone, and its buffers with it.
        let _ = self.back.try_send(bytes);
        self.taken += 1;
        if self.taken == BATCH {
            self.call_sender();
        }
        self.counters.received(len);
        let meta = RxMeta {
            csum,
            ..RxMeta::default()
        };
        Some(RxFrame { data, meta })
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.mine.event.as_fd())
    }

    fn deadline(&self) -> Option<Time> {
        self.retry_at
    }

    fn run_timers(&mut self, now: Time) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

#[cfg(test)]
mod tests;
