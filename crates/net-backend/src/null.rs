//! A cable with nobody on the other end.

use nic_emu::Time;
use nic_emu::common::frame::{Features, RxFrame, TxBurst};

use crate::backend::{Backend, Counters, RxBuf};
use crate::vnet::segments;

/// Takes every frame and never has one. The link is up.
#[derive(Debug, Default)]
pub struct Null {
    counters: Counters,
}

impl Null {
    /// Makes one.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Backend for Null {
    fn name(&self) -> &str {
        "null"
    }

    fn features(&self) -> Features {
        Features::ALL
    }

    fn send(&mut self, burst: &TxBurst<'_>, _now: Time) -> usize {
        for frame in burst.frames() {
            self.counters.sent(frame.len(), segments(&frame));
        }
        burst.len()
    }

    fn recv<'b>(&mut self, _buf: &'b mut RxBuf, _now: Time) -> Option<RxFrame<'b>> {
        None
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}
