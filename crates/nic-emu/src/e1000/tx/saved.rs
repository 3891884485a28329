//! What a transmit queue has to remember from one call to the next: contexts, and a packet without its end.

use serde::{Deserialize, Serialize};

use super::super::desc::Context;
use super::super::state::InvalidState;
use super::packet::{Packet, SavedPacket};
use super::{Contexts, TxQueue};
use crate::common::frame::{FCS, MAX_SUPER_FRAME};

/// The state of a transmit queue between two calls. What it has fetched and not completed still lies in the ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxState {
    csum: Context,
    tso: Context,
    partial: Option<(SavedPacket, Vec<u8>)>,
}

impl TxState {
    pub(in super::super) fn check(&self) -> Result<(), InvalidState> {
        match &self.partial {
            Some((_, bytes)) if bytes.len() > MAX_SUPER_FRAME + FCS => {
                Err(InvalidState::Packet(bytes.len()))
            }
            _ => Ok(()),
        }
    }
}

impl TxQueue {
    /// The state of this queue, which was [stopped](TxQueue::stop).
    pub fn save(&mut self) -> TxState {
        self.sync();
        TxState {
            csum: self.contexts.csum,
            tso: self.contexts.tso,
            partial: self
                .partial
                .as_ref()
                .map(|packet| (packet.save(), self.partial_bytes.clone())),
        }
    }

    /// Continues what another queue was, of the NIC whose control was restored when
    /// [`Shared::generation`](super::super::Shared::generation) was `generation`.
    pub fn restore(&mut self, state: &TxState, generation: u64) {
        self.generation = generation;
        self.pending.owed = None;
        self.contexts = Contexts {
            csum: state.csum,
            tso: state.tso,
        };
        self.partial_bytes.clear();
        self.partial = state.partial.as_ref().map(|(packet, bytes)| {
            if !packet.is_refused() {
                self.partial_bytes.reserve_exact(MAX_SUPER_FRAME + FCS);
                self.partial_bytes.extend_from_slice(bytes);
            }
            Packet::restore(packet, self.partial_bytes.len())
        });
    }
}
