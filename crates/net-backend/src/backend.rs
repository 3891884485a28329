//! What a NIC sees of the network.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nic_emu::Time;
use nic_emu::common::frame::{Features, MAX_SUPER_FRAME, RxFrame, TxBurst};
use nic_emu::common::stats::Counter;

/// Bytes before a frame in a [`RxBuf`]: room for a header that the backend reads along with the frame.
pub(crate) const HEADROOM: usize = 64;
/// Largest frame that is received.
const FRAME_MAX: usize = MAX_SUPER_FRAME;

/// The network on the other end of an emulated cable: two halves, which two threads may use at once.
///
/// Nothing here blocks, and the halves do not wait for each other. All descriptors are level-triggered: they stay
/// readable until everything was taken.
pub struct Backend {
    /// For logs: `tap0`, `null`.
    pub name: String,
    /// Takes what the guest sends.
    pub tx: Box<dyn Sender>,
    /// Has what the guest is to receive.
    pub rx: Box<dyn Receiver>,
    /// What has passed through both.
    pub counters: Arc<Meter>,
}

/// What reports that a [`Sender`] has room again. To be watched after a short [`Sender::send`] only: it may report as
/// much while nothing waits.
#[derive(Clone, Copy, Debug)]
pub enum Room<'a> {
    /// It becomes readable.
    Readable(BorrowedFd<'a>),
    /// It becomes writable.
    Writable(BorrowedFd<'a>),
}

/// The half of a [`Backend`] that takes frames.
pub trait Sender: Send {
    /// Which offload requests of frames are better left to this backend. Whatever it gets it does handle.
    fn features(&self) -> Features {
        Features::default()
    }

    /// Sends frames of `burst` from the front; returns how many it took.
    ///
    /// A frame that it dropped for good counts as taken, and as dropped in [`Backend::counters`]. The others stay in
    /// the guest's ring: try again when [`Sender::room`] reports something or [`Sender::deadline`] has passed.
    fn send(&mut self, burst: &TxBurst<'_>, now: Time) -> usize;

    /// What reports that there is room after a short [`Sender::send`]. Always the same descriptor.
    fn room(&self) -> Option<Room<'_>> {
        None
    }

    /// When [`Sender::run_timers`] is to be called. May change with each other call.
    fn deadline(&self) -> Option<Time> {
        None
    }

    /// Does what is due. Afterwards there may be room to send.
    fn run_timers(&mut self, now: Time) {
        let _ = now;
    }

    /// The network is gone for good: all frames are dropped, the link is down, and nothing is to be watched any more.
    fn is_gone(&self) -> bool {
        false
    }
}

/// The half of a [`Backend`] that has frames, and the link.
pub trait Receiver: Send {
    /// Receives one frame into `buf`; `None` if there is none now.
    fn recv<'b>(&mut self, buf: &'b mut RxBuf, now: Time) -> Option<RxFrame<'b>>;

    /// Readable when [`Receiver::recv`] may have something. Always the same descriptor.
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Whether the cable is in. Takes in what made [`Receiver::link_fd`] readable.
    fn link(&mut self) -> bool {
        true
    }

    /// Readable when [`Receiver::link`] may have changed. Always the same descriptor.
    fn link_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// When [`Receiver::run_timers`] is to be called. May change with each other call.
    fn deadline(&self) -> Option<Time> {
        None
    }

    /// Does what is due. Afterwards there may be frames to receive.
    fn run_timers(&mut self, now: Time) {
        let _ = now;
    }

    /// As [`Sender::is_gone`]. One half may notice before the other one does.
    fn is_gone(&self) -> bool {
        false
    }
}

/// Where a received frame is put: 64 KiB in host memory, allocated once and shared by all NICs of a thread.
pub struct RxBuf(Box<[u8]>);

impl RxBuf {
    /// Allocates one.
    #[expect(clippy::new_without_default, reason = "64 KiB are not made by the way")]
    pub fn new() -> Self {
        Self(vec![0; HEADROOM + FRAME_MAX].into())
    }

    /// Room for a header of `header` bytes with a frame right behind it.
    pub(crate) fn with_header(&mut self, header: usize) -> &mut [u8] {
        &mut self.0[HEADROOM - header..]
    }

    /// Room for a frame.
    pub(crate) fn frame(&mut self) -> &mut [u8] {
        &mut self.0[HEADROOM..]
    }
}

/// What has passed through a backend since it was made. "tx" is what the guest sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames handed to the network. A super-frame counts once.
    pub tx_frames: u64,
    /// Frames handed to the network, a super-frame counted as what it is cut into.
    pub tx_segments: u64,
    /// Bytes of `tx_frames`, without FCS.
    pub tx_bytes: u64,
    /// Frames of the guest that the network did not take.
    pub tx_dropped: u64,
    /// Frames handed to the NIC. A super-frame counts once.
    pub rx_frames: u64,
    /// Frames handed to the NIC, a super-frame counted as what it is cut into.
    pub rx_segments: u64,
    /// Bytes of `rx_frames`, without FCS.
    pub rx_bytes: u64,
    /// Frames from the network that were unusable.
    pub rx_dropped: u64,
    /// Frames that a fault injector lost, both ways.
    pub lost: u64,
    /// Frames that a fault injector damaged, both ways.
    pub corrupted: u64,
    /// Frames that a fault injector held back, both ways.
    pub delayed: u64,
}

/// Counts what passes. Each half of a backend counts its own way; anybody may read.
#[derive(Debug, Default)]
pub struct Meter {
    /// What the guest sends.
    pub tx: Way,
    /// What the guest receives.
    pub rx: Way,
}

/// One way of a [`Meter`], on cache lines of its own: the two halves live on two threads. Only one of them counts here.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Way {
    frames: Counter,
    segments: Counter,
    bytes: Counter,
    pub(crate) dropped: Counter,
    pub(crate) lost: Counter,
    pub(crate) corrupted: Counter,
    pub(crate) delayed: Counter,
}

impl Meter {
    /// The values at this moment, each by itself.
    pub fn counters(&self) -> Counters {
        let Self { tx, rx } = self;
        Counters {
            tx_frames: tx.frames.get(),
            tx_segments: tx.segments.get(),
            tx_bytes: tx.bytes.get(),
            tx_dropped: tx.dropped.get(),
            rx_frames: rx.frames.get(),
            rx_segments: rx.segments.get(),
            rx_bytes: rx.bytes.get(),
            rx_dropped: rx.dropped.get(),
            lost: tx.lost.get() + rx.lost.get(),
            corrupted: tx.corrupted.get() + rx.corrupted.get(),
            delayed: tx.delayed.get() + rx.delayed.get(),
        }
    }
}

impl Way {
    /// Counts a frame of `len` bytes that passed as `segments` frames.
    pub fn passed(&self, len: usize, segments: usize) {
        self.frames.add_alone(1);
        self.segments.add_alone(segments as u64);
        self.bytes.add_alone(len as u64);
    }
}
