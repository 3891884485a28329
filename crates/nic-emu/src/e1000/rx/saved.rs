//! What a receive queue has to remember from one batch to the next: the frame that it holds.

use serde::{Deserialize, Serialize};

use super::super::bits::rxcsum;
use super::super::state::InvalidState;
use super::judge::{self, How};
use super::place::Progress;
use super::{Held, RxQueue};
use crate::common::frame::{
    ETH_HEADER, FCS, MAX_SUPER_FRAME, MIN_FRAME, RxFrame, RxMeta, VLAN_TAG,
};
use crate::common::gso::Layout;

/// The state of a receive queue between two batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RxState {
    held: Option<SavedFrame>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedFrame {
    bytes: Vec<u8>,
    meta: RxMeta,
    how: How,
    progress: Progress,
}

impl RxState {
    pub(in super::super) fn check(&self) -> Result<(), InvalidState> {
        match &self.held {
            Some(frame) => frame.check().map_err(InvalidState::Frame),
            None => Ok(()),
        }
    }
}

impl SavedFrame {
    /// Everything that placing a frame relies on, and that judging it has made sure of.
    fn check(&self) -> Result<(), &'static str> {
        let Self {
            bytes, meta, how, ..
        } = self;
        let len = bytes.len();
        let tagged = len >= ETH_HEADER + VLAN_TAG;
        if !(ETH_HEADER..=MAX_SUPER_FRAME).contains(&len) || (how.strip.is_some() && !tagged) {
            return Err("its length");
        }
        let frame = RxFrame {
            data: bytes,
            meta: *meta,
        };
        let layout = judge::layout(&frame).map_err(|_| "its offload request")?;
        if !how.buffer.is_power_of_two() || !(256..=16384).contains(&how.buffer) {
            return Err("the size of its buffers");
        }
        if how.checksums & !(rxcsum::PCSS | rxcsum::IPOFL | rxcsum::TUOFL) != 0
            || !(1..=3).contains(&how.minimum_shift)
        {
            return Err("how it is to be described");
        }
        let Progress { segment, offset } = self.progress;
        let segments = layout.as_ref().map_or(1, Layout::segments);
        if segment >= segments || offset >= len.max(MIN_FRAME) + FCS {
            return Err("how far it has come");
        }
        Ok(())
    }
}

impl RxQueue {
    /// The state of this queue, which was [stopped](RxQueue::stop).
    pub fn save(&mut self) -> RxState {
        self.sync();
        RxState {
            held: self.held.as_ref().map(|held| SavedFrame {
                bytes: self.held_bytes.clone(),
                meta: held.meta,
                how: held.how,
                progress: held.progress,
            }),
        }
    }

    /// Continues what another queue was, of the NIC whose control was restored when
    /// [`Shared::generation`](super::super::Shared::generation) was `generation`.
    pub fn restore(&mut self, state: &RxState, generation: u64) {
        self.generation = generation;
        self.batch = None;
        self.held_bytes.clear();
        self.held = state.held.as_ref().map(|frame| {
            self.held_bytes.extend_from_slice(&frame.bytes);
            Held {
                meta: frame.meta,
                how: frame.how,
                progress: frame.progress,
            }
        });
    }
}
