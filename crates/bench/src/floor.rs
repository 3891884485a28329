//! What the same frames cost at the least.

use std::hint::black_box;
use std::os::fd::OwnedFd;

use guest_driver::desc::{Desc, RX_DD, RX_EOP, TX_DD};
use rustix::io::Errno;

use crate::engine::transmit_descriptor;
use crate::slices::Contender;
use crate::tap::{Feeder, VNET_HEADER};

/// Bytes between two buffers: those of the driver are as far apart.
const TX_STRIDE: usize = guest_driver::e1000::TX_BUFFER;
/// See [`TX_STRIDE`].
const RX_STRIDE: usize = 2048;
/// Of frames up to this size the transmit queue copies all, of longer ones [`COPY_HEAD`]; the rest is lent.
const COPY_WHOLE: usize = 128;
/// See [`COPY_WHOLE`].
const COPY_HEAD: usize = 64;
/// Frames of which a burst keeps its copies.
const BURST: usize = 32;

/// The copies and descriptor stores that sending to `null` takes, and nothing else: one loop over a ring in plain memory.
pub struct BareTransmit {
    ring: Vec<Desc>,
    buffers: Vec<u8>,
    heads: [u8; BURST * COPY_WHOLE],
    len: usize,
}

impl BareTransmit {
    /// With a ring of `ring` descriptors, all but one of them full.
    #[must_use]
    pub fn new(ring: u32, frame: &[u8]) -> Self {
        let count = ring as usize - 1;
        let mut buffers = vec![0; count * TX_STRIDE];
        for buffer in buffers.chunks_mut(TX_STRIDE) {
            buffer[..frame.len()].copy_from_slice(frame);
        }
        Self {
            ring: vec![Desc::default(); count],
            buffers,
            heads: [0; BURST * COPY_WHOLE],
            len: frame.len(),
        }
    }
}

impl Contender for BareTransmit {
    fn prepare(&mut self) {
        for (index, desc) in self.ring.iter_mut().enumerate() {
            *desc = transmit_descriptor((index * TX_STRIDE) as u64, self.len as u16);
        }
    }

    fn run(&mut self) -> u64 {
        let ring = black_box(&mut self.ring);
        for burst in ring.chunks_mut(BURST) {
            for (desc, head) in burst.iter_mut().zip(self.heads.chunks_mut(COPY_WHOLE)) {
                let (at, len) = (desc.low as usize, usize::from(desc.high as u16));
                let copied = if len <= COPY_WHOLE { len } else { COPY_HEAD };
                head[..copied].copy_from_slice(&self.buffers[at..at + copied]);
                desc.high |= TX_DD;
            }
            black_box(&mut self.heads);
        }
        ring.len() as u64
    }
}

/// The copies and descriptor stores that receiving takes, and nothing else.
pub struct BareReceive {
    ring: Vec<Desc>,
    buffers: Vec<u8>,
    frame: Vec<u8>,
}

impl BareReceive {
    /// With a ring of `ring` descriptors, all but one of them with a buffer.
    #[must_use]
    pub fn new(ring: u32, frame: &[u8]) -> Self {
        let count = ring as usize - 1;
        Self {
            ring: vec![Desc::default(); count],
            buffers: vec![0; count * RX_STRIDE],
            frame: frame.to_owned(),
        }
    }
}

impl Contender for BareReceive {
    fn prepare(&mut self) {
        for (index, desc) in self.ring.iter_mut().enumerate() {
            *desc = Desc {
                low: (index * RX_STRIDE) as u64,
                high: 0,
            };
        }
    }

    fn run(&mut self) -> u64 {
        let status = u64::from(RX_DD | RX_EOP) << 32;
        let ring = black_box(&mut self.ring);
        for desc in ring.iter_mut() {
            let frame = black_box(&self.frame[..]);
            let at = desc.low as usize;
            self.buffers[at..at + frame.len()].copy_from_slice(frame);
            desc.high = status | frame.len() as u64;
        }
        black_box(&mut self.buffers);
        ring.len() as u64
    }
}

/// Plain writes of a frame to a TAP, each behind the same header.
pub struct RawWrite {
    tun: OwnedFd,
    bytes: Vec<u8>,
    frames: u64,
}

impl RawWrite {
    /// `frames` of them in a piece.
    #[must_use]
    pub fn new(tun: OwnedFd, frame: &[u8], frames: u64) -> Self {
        let bytes = [&[0; VNET_HEADER][..], frame].concat();
        Self { tun, bytes, frames }
    }
}

impl Contender for RawWrite {
    fn prepare(&mut self) {}

    fn run(&mut self) -> u64 {
        for _ in 0..self.frames {
            let written = rustix::io::write(&self.tun, &self.bytes);
            assert_eq!(written, Ok(self.bytes.len()), "a TAP takes a frame");
        }
        self.frames
    }
}

/// Plain reads of frames from a TAP whose queue is full, until there are none.
pub struct RawRead<'f> {
    tun: OwnedFd,
    feeder: &'f Feeder,
    /// As far apart as a driver's, or only one.
    buffers: Vec<u8>,
    len: usize,
    frames: u64,
}

impl<'f> RawRead<'f> {
    /// `frames` of them in a piece, all into the same buffer, which no cache forgets.
    #[must_use]
    pub fn new(tun: OwnedFd, feeder: &'f Feeder, frames: u64) -> Self {
        Self::into(tun, feeder, frames, vec![0; 64 << 10], 64 << 10)
    }

    /// Each into a buffer of its own, one after the other, as a NIC has to.
    #[must_use]
    pub fn spread(tun: OwnedFd, feeder: &'f Feeder, frames: u64) -> Self {
        let buffers = vec![0; frames as usize * RX_STRIDE];
        Self::into(tun, feeder, frames, buffers, RX_STRIDE)
    }

    fn into(tun: OwnedFd, feeder: &'f Feeder, frames: u64, buffers: Vec<u8>, len: usize) -> Self {
        Self {
            tun,
            feeder,
            buffers,
            len,
            frames,
        }
    }
}

impl Contender for RawRead<'_> {
    fn prepare(&mut self) {
        self.feeder.fill(self.frames);
    }

    fn run(&mut self) -> u64 {
        let mut frames = 0;
        let buffers = self.buffers.len() / self.len;
        loop {
            let buffer = frames as usize % buffers * self.len;
            let buffer = &mut self.buffers[buffer..buffer + self.len];
            match rustix::io::read(&self.tun, buffer) {
                Ok(_) => frames += 1,
                Err(Errno::AGAIN) => break,
                Err(error) => panic!("a TAP can be read: {error}"),
            }
        }
        assert_eq!(frames, self.frames, "all frames arrive");
        frames
    }
}
