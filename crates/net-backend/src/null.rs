//! A cable with nobody on the other end.

use std::sync::Arc;

use nic_emu::Time;
use nic_emu::common::frame::{Features, RxFrame, TxBurst};

use crate::backend::{Backend, Meter, Receiver, RxBuf, Sender};

/// Takes every frame and never has one. The link is up.
#[derive(Debug, Default)]
pub struct Null {
    counters: Arc<Meter>,
}

impl Null {
    /// Makes one.
    pub fn new() -> Self {
        Self::default()
    }
}

impl From<Null> for Backend {
    fn from(null: Null) -> Self {
        Self {
            name: "null".into(),
            counters: null.counters.clone(),
            tx: Box::new(null),
            rx: Box::new(Silence),
        }
    }
}

impl Sender for Null {
    fn features(&self) -> Features {
        Features::ALL
    }

    fn send(&mut self, burst: &TxBurst<'_>, _now: Time) -> usize {
        for frame in burst.frames() {
            self.counters.tx.passed(frame.len(), frame.segments());
        }
        burst.len()
    }
}

/// Never has a frame.
struct Silence;

impl Receiver for Silence {
    fn recv<'b>(&mut self, _buf: &'b mut RxBuf, _now: Time) -> Option<RxFrame<'b>> {
        None
    }
}
