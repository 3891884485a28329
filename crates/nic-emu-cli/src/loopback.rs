//! Frames that a NIC sends to itself: MAC and PHY loopback. From the transmit queue to the receive queue, on whatever
//! threads they are, they wait in a bounded ring.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use guest_mem::GuestMem;
use nic_emu::Time;
use nic_emu::common::frame::{MAX_SUPER_FRAME, RxFrame, RxMeta, TxBurst};
use nic_emu::e1000::Shared;
use nic_emu::e1000::rx::RxQueue;

/// Frames under way. Two bursts: of super-frames it could be megabytes.
const RING: usize = 64;

/// Where frames go in, and where they come out. Buffers are made when they are first needed.
pub(crate) fn ring() -> (Entrance, Exit) {
    let (frames, incoming) = sync_channel(RING);
    let (back, empties) = sync_channel(RING);
    let entrance = Entrance {
        frames,
        empties,
        spare: None,
        made: 0,
    };
    (entrance, Exit { incoming, back })
}

/// The transmit queue's end.
pub(crate) struct Entrance {
    frames: SyncSender<Looped>,
    empties: Receiver<Vec<u8>>,
    spare: Option<Vec<u8>>,
    made: usize,
}

/// The receive queue's end.
pub(crate) struct Exit {
    incoming: Receiver<Looped>,
    back: SyncSender<Vec<u8>>,
}

struct Looped {
    bytes: Vec<u8>,
    meta: RxMeta,
    /// That of the NIC when the frame was sent: a reset loses what is under way.
    generation: u64,
}

impl Entrance {
    /// Puts frames of `burst` into the ring, from the front; returns how many. The others fit when the receive queue has
    /// taken some, after which it kicks the transmit queue.
    pub(crate) fn send(&mut self, burst: &TxBurst<'_>, generation: u64) -> usize {
        let mut taken = 0;
        for frame in burst.frames() {
            let Some(mut bytes) = self.buffer() else {
                break;
            };
            taken += 1;
            // One that is longer than any frame is lost.
            let len = frame.len().min(MAX_SUPER_FRAME);
            bytes.resize(len, 0);
            if frame.copy_to(&mut bytes) != Some(len) {
                self.spare = Some(bytes);
                continue;
            }
            let looped = Looped {
                bytes,
                meta: frame.offload.into(),
                generation,
            };
            // There are no more buffers than places; and without a receive queue the NIC is at its end.
            if self.frames.try_send(looped).is_err() {
                break;
            }
        }
        taken
    }

    fn buffer(&mut self) -> Option<Vec<u8>> {
        let known = self.spare.take().or_else(|| self.empties.try_recv().ok());
        if known.is_none() && self.made < RING {
            self.made += 1;
            return Some(Vec::new());
        }
        known
    }
}

impl Exit {
    /// Delivers what waits in the ring; returns whether there was anything. What finds neither a buffer nor room in the
    /// FIFO is lost, as in the silicon.
    pub(crate) fn deliver(
        &mut self,
        rx: &mut RxQueue,
        shared: &Shared,
        mem: &GuestMem,
        now: Time,
    ) -> bool {
        let mut any = false;
        for _ in 0..RING {
            let Ok(looped) = self.incoming.try_recv() else {
                break;
            };
            any = true;
            let Looped {
                bytes,
                meta,
                generation,
            } = looped;
            if generation == shared.generation() {
                rx.loop_back(mem, RxFrame { data: &bytes, meta }, now);
            }
            // There is a place for each buffer.
            let _ = self.back.try_send(bytes);
        }
        if any {
            // If an epoch interrupts it, the next batch goes on.
            let _ = rx.finish(mem, now);
        }
        any
    }
}
