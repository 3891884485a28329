//! What a NIC sees of the network.

use std::os::fd::BorrowedFd;

use nic_emu::Time;
use nic_emu::common::frame::{Features, MAX_SUPER_FRAME, RxFrame, TxBurst};

/// Bytes before a frame in a [`RxBuf`]: room for a header that the backend reads along with the frame.
pub(crate) const HEADROOM: usize = 64;
/// Largest frame that is received.
const FRAME_MAX: usize = MAX_SUPER_FRAME;

/// The network on the other end of an emulated cable.
///
/// Nothing here blocks. All descriptors are level-triggered: they stay readable until everything was taken.
pub trait Backend: Send {
    /// For logs: `tap0`, `null`.
    fn name(&self) -> &str;

    /// Which offload requests of frames to send are better left to this backend. Whatever it gets it does handle.
    fn features(&self) -> Features {
        Features::default()
    }

    /// Sends frames of `burst` from the front; returns how many it took.
    ///
    /// A frame that it dropped for good counts as taken, and as dropped in [`Backend::counters`]. The others stay in
    /// the guest's ring: try again when [`Backend::fd`] reports anything (writable too if [`Backend::wants_writable`])
    /// or [`Backend::deadline`] has passed.
    fn send(&mut self, burst: &TxBurst<'_>, now: Time) -> usize;

    /// Receives one frame into `buf`; `None` if there is none now.
    fn recv<'b>(&mut self, buf: &'b mut RxBuf, now: Time) -> Option<RxFrame<'b>>;

    /// Readable when [`Backend::recv`] may have something.
    ///
    /// Becomes `None` if the network is gone for good; so ask again after each turn.
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The last [`Backend::send`] was short, and [`Backend::fd`] becomes writable when it is worth another try.
    fn wants_writable(&self) -> bool {
        false
    }

    /// Whether the cable is in. Takes in what made [`Backend::link_fd`] readable.
    fn link(&mut self) -> bool {
        true
    }

    /// Readable when [`Backend::link`] may have changed. May become `None` like [`Backend::fd`].
    fn link_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// When [`Backend::run_timers`] is to be called. May change with each other call.
    fn deadline(&self) -> Option<Time> {
        None
    }

    /// Does what is due. Afterwards there may be frames to receive, and room to send.
    fn run_timers(&mut self, now: Time) {
        let _ = now;
    }

    /// What has passed so far.
    fn counters(&self) -> Counters;
}

impl<B: Backend + ?Sized> Backend for Box<B> {
    fn name(&self) -> &str {
        (**self).name()
    }
    fn features(&self) -> Features {
        (**self).features()
    }
    fn send(&mut self, burst: &TxBurst<'_>, now: Time) -> usize {
        (**self).send(burst, now)
    }
    fn recv<'b>(&mut self, buf: &'b mut RxBuf, now: Time) -> Option<RxFrame<'b>> {
        (**self).recv(buf, now)
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        (**self).fd()
    }
    fn wants_writable(&self) -> bool {
        (**self).wants_writable()
    }
    fn link(&mut self) -> bool {
        (**self).link()
    }
    fn link_fd(&self) -> Option<BorrowedFd<'_>> {
        (**self).link_fd()
    }
    fn deadline(&self) -> Option<Time> {
        (**self).deadline()
    }
    fn run_timers(&mut self, now: Time) {
        (**self).run_timers(now);
    }
    fn counters(&self) -> Counters {
        (**self).counters()
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
    /// Frames handed to the NIC.
    pub rx_frames: u64,
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

impl Counters {
    /// Counts a frame of `len` bytes that left as `segments` frames.
    pub(crate) fn sent(&mut self, len: usize, segments: u64) {
        self.tx_frames += 1;
        self.tx_segments += segments;
        self.tx_bytes += len as u64;
    }

    /// Counts a frame of `len` bytes received.
    pub(crate) fn received(&mut self, len: usize) {
        self.rx_frames += 1;
        self.rx_bytes += len as u64;
    }
}
