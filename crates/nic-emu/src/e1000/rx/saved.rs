//! What a receive queue has to remember from one batch to the next: the frames that wait.

use serde::{Deserialize, Serialize};

use super::super::bits::rxcsum;
use super::super::mmio::PACKET_BUFFER;
use super::super::state::InvalidState;
use super::RxQueue;
use super::fifo::Held;
use super::judge::{self, How, Size};
use super::place::Progress;
use crate::common::frame::{
    ETH_HEADER, FCS, MAX_SUPER_FRAME, MIN_FRAME, RxFrame, RxMeta, VLAN_TAG,
};
use crate::common::gso::Layout;

/// Most frames that wait, and their bytes: a super-frame that is held for lack of a FIFO, and what the largest FIFO takes.
const MAX_FRAMES: usize = 1 + ((PACKET_BUFFER << 10) as usize) / (MIN_FRAME + FCS);
const MAX_BYTES: usize = MAX_SUPER_FRAME + ((PACKET_BUFFER << 10) as usize);

/// The state of a receive queue between two batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RxState {
    /// Was an option once, which has the same bytes as a list of none or one.
    held: Vec<SavedFrame>,
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
        let bytes: usize = self.held.iter().map(|frame| frame.bytes.len()).sum();
        if self.held.len() > MAX_FRAMES || bytes > MAX_BYTES {
            return Err(InvalidState::Frame("there are more than fit the FIFO"));
        }
        let mut frames = self.held.iter();
        frames.try_for_each(|frame| frame.check().map_err(InvalidState::Frame))
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
            held: self
                .fifo
                .iter()
                .map(|(held, bytes)| SavedFrame {
                    bytes: bytes.to_vec(),
                    meta: held.meta,
                    how: held.how,
                    progress: held.progress,
                })
                .collect(),
        }
    }

    /// Continues what another queue was, of the NIC whose control was restored when
    /// [`Shared::generation`](super::super::Shared::generation) was `generation`.
    pub fn restore(&mut self, state: &RxState, generation: u64) {
        self.generation = generation;
        self.batch = None;
        self.interrupted = false;
        self.fifo.clear();
        for SavedFrame {
            bytes,
            meta,
            how,
            progress,
        } in &state.held
        {
            let (data, meta, how, progress) = (&bytes[..], *meta, *how, *progress);
            let frame = RxFrame { data, meta };
            let layout = judge::layout(&frame).ok().flatten();
            let held = Held {
                meta,
                how,
                progress,
                len: bytes.len(),
                octets: Size::of(&frame, layout.as_ref())
                    .without(progress.segment)
                    .octets,
            };
            self.fifo.push([data, &[]], held);
        }
    }
}
