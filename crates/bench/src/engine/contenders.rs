//! What is measured of the queues: sending, receiving, and both of two NICs on one cable.

use std::io;

use guest_driver::Offload;
use net_backend::{Backend, Receiver, RxBuf, Sender, switch};
use nic_emu::Time;
use nic_emu::common::frame::RxFrame;
use rustix::time::{ClockId, clock_gettime};

use super::{Engine, receive, transmit};
use crate::slices::Contender;
use crate::tap::Feeder;

/// The time that the daemon tells its models.
pub(super) fn monotonic() -> Time {
    let now = clock_gettime(ClockId::Monotonic);
    Time(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

/// Sends a ring full of the same packet to a backend.
pub struct Transmit<'b> {
    engine: Engine,
    packet: Vec<u8>,
    offload: Offload,
    posted: u64,
    backend: &'b mut dyn Sender,
}

impl<'b> Transmit<'b> {
    /// From a ring of `ring` descriptors.
    ///
    /// # Errors
    ///
    /// The kernel has no memory left.
    pub fn new(
        ring: u32,
        packet: &[u8],
        offload: Offload,
        backend: &'b mut dyn Sender,
    ) -> io::Result<Self> {
        Ok(Self {
            engine: Engine::new(ring)?,
            packet: packet.to_owned(),
            offload,
            posted: 0,
            backend,
        })
    }
}

impl Contender for Transmit<'_> {
    fn prepare(&mut self) {
        self.posted = self.engine.post(&self.packet, self.offload);
    }

    fn run(&mut self) -> u64 {
        let Engine {
            tx, mem, shared, ..
        } = &mut self.engine;
        let backend = &mut *self.backend;
        let sent = transmit(tx, mem, shared, monotonic, |burst, now| {
            backend.send(burst, now)
        });
        assert_eq!(sent, self.posted, "all frames leave");
        sent
    }
}

/// Where frames to receive come from.
pub enum Source<'b> {
    /// The same frame out of host memory, again and again, as from a backend that makes no copy.
    Memory(Vec<u8>),
    /// A TAP, whose queue is filled beforehand.
    Tap(&'b mut dyn Receiver, &'b Feeder),
}

/// Receives a ring full of frames.
pub struct Receive<'b> {
    engine: Engine,
    source: Source<'b>,
    buffer: RxBuf,
    frames: u64,
}

impl<'b> Receive<'b> {
    /// Into a ring of `ring` descriptors.
    ///
    /// # Errors
    ///
    /// The kernel has no memory left.
    pub fn new(ring: u32, source: Source<'b>) -> io::Result<Self> {
        Ok(Self {
            engine: Engine::new(ring)?,
            source,
            buffer: RxBuf::new(),
            frames: u64::from(ring) - 1,
        })
    }
}

impl Contender for Receive<'_> {
    fn prepare(&mut self) {
        self.engine.reap();
        if let Source::Tap(_, feeder) = &self.source {
            feeder.fill(self.frames);
        }
    }

    fn run(&mut self) -> u64 {
        let Engine {
            rx, mem, shared, ..
        } = &mut self.engine;
        let (source, buffer) = (&mut self.source, &mut self.buffer);
        let placed = receive(rx, mem, shared, monotonic, |deliver, now| match source {
            Source::Memory(frame) => {
                deliver(RxFrame::new(frame));
                true
            }
            Source::Tap(backend, _) => match backend.recv(buffer, now) {
                Some(frame) => {
                    deliver(frame);
                    true
                }
                None => false,
            },
        });
        assert_eq!(placed, self.frames, "all frames arrive");
        placed
    }
}

/// Sends a ring full of frames from one NIC to another, both on this thread.
pub struct Switched {
    from: Engine,
    to: Engine,
    ports: (Backend, Backend),
    buffer: RxBuf,
    packet: Vec<u8>,
    posted: u64,
}

impl Switched {
    /// With rings of `ring` descriptors.
    ///
    /// # Errors
    ///
    /// The kernel has no memory or descriptor left.
    pub fn new(ring: u32, packet: &[u8]) -> io::Result<Self> {
        Ok(Self {
            from: Engine::new(ring)?,
            to: Engine::new(ring)?,
            ports: switch::pair()?,
            buffer: RxBuf::new(),
            packet: packet.to_owned(),
            posted: 0,
        })
    }
}

impl Contender for Switched {
    fn prepare(&mut self) {
        self.to.reap();
        self.posted = self.from.post(&self.packet, Offload::None);
    }

    fn run(&mut self) -> u64 {
        let (near, far) = &mut self.ports;
        let Engine {
            tx, mem, shared, ..
        } = &mut self.from;
        let sent = transmit(tx, mem, shared, monotonic, |burst, now| {
            near.tx.send(burst, now)
        });
        let Engine {
            rx, mem, shared, ..
        } = &mut self.to;
        let buffer = &mut self.buffer;
        let placed = receive(rx, mem, shared, monotonic, |deliver, now| {
            far.rx.recv(buffer, now).map(deliver).is_some()
        });
        assert_eq!(
            (sent, placed),
            (self.posted, self.posted),
            "all frames arrive"
        );
        placed
    }
}
