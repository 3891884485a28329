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
    pub(in super::super) first: FirstTx,
    /// The word of the descriptor with which the unfinished packet began, if that has the say about its tag: since version 4.
    pub(in super::super) tagged: Option<u64>,
}

/// What version 1 knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct FirstTx {
    csum: Context,
    tso: Context,
    partial: Option<(SavedPacket, Vec<u8>)>,
}

impl TxState {
    pub(in super::super) fn check(&self) -> Result<(), InvalidState> {
        match &self.first.partial {
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
        let partial = self.partial.as_ref();
        TxState {
            first: FirstTx {
                csum: self.contexts.csum,
                tso: self.contexts.tso,
                partial: partial.map(|packet| (packet.save(), self.partial_bytes.clone())),
            },
            tagged: partial.and_then(Packet::tagged),
        }
    }

    /// Continues what another queue was, of the NIC whose control was restored when
    /// [`Shared::generation`](super::super::Shared::generation) was `generation`.
    pub fn restore(&mut self, state: &TxState, generation: u64) {
        let TxState {
            first: state,
            tagged,
        } = state;
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
            Packet::restore(packet, *tagged, self.partial_bytes.len())
        });
    }
}
