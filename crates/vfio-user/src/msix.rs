//! The MSI-X table and pending bits, for clients that do not keep them: QEMU and cloud-hypervisor keep the table, and
//! read the pending bits here.
//!
//! Source: PCI Local Bus Specification 3.0, section 6.8.2.

use std::ops::Range;

use crate::device::Device;
use crate::irq::IrqTable;
use crate::wire::irq_index;

/// Bytes of an entry: address (8), data (4), Vector Control (4).
const ENTRY: usize = 16;
/// Where Vector Control is in an entry; the lowest bit masks the vector.
const CONTROL: usize = 12;

/// The table, as it was written.
#[derive(Debug)]
pub(crate) struct MsixTable {
    bytes: Vec<u8>,
}

impl MsixTable {
    pub(crate) fn new(device: &Device) -> Self {
        let vectors = device.msix.map_or(0, |msix| msix.vectors as usize);
        let mut entry = [0; ENTRY];
        entry[CONTROL] = 1;
        Self {
            bytes: entry.repeat(vectors),
        }
    }

    /// Back to the values after reset; mask bits hold nothing back until they are written again.
    pub(crate) fn reset(&mut self, irqs: &IrqTable) {
        for (vector, entry) in (0..).zip(self.bytes.chunks_exact_mut(ENTRY)) {
            entry.fill(0);
            entry[CONTROL] = 1;
            irqs.set_guest_mask(irq_index::MSIX, vector, false);
        }
    }

    /// The whole table, to be saved.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes over a table of the same size; what its mask bits hold back is for the [`IrqTable`] to remember.
    pub(crate) fn restore(&mut self, saved: &[u8]) {
        for (entry, saved) in self
            .bytes
            .chunks_exact_mut(ENTRY)
            .zip(saved.chunks_exact(ENTRY))
        {
            entry.copy_from_slice(saved);
            entry[CONTROL] &= 1;
            entry[CONTROL + 1..].fill(0);
        }
    }

    /// Fills `to` from `offset` of the table.
    pub(crate) fn read(&self, offset: u64, to: &mut [u8]) {
        if let Some(from) = range(offset, to.len()).and_then(|range| self.bytes.get(range)) {
            to.copy_from_slice(from);
        }
    }

    /// Stores `from` at `offset` of the table. True if that masked a vector that could be sent before.
    pub(crate) fn write(&mut self, irqs: &IrqTable, offset: u64, from: &[u8]) -> bool {
        let Some(range) = range(offset, from.len()) else {
            return false;
        };
        let Some(to) = self.bytes.get_mut(range.clone()) else {
            return false;
        };
        to.copy_from_slice(from);
        let mut withdrawn = false;
        let entries = range.start / ENTRY..range.end.div_ceil(ENTRY);
        for vector in entries {
            let at = vector * ENTRY + CONTROL;
            // The other bits are reserved.
            self.bytes[at] &= 1;
            self.bytes[at + 1..at + 4].fill(0);
            if range.contains(&at) {
                let masked = self.bytes[at] != 0;
                withdrawn |= irqs.set_guest_mask(irq_index::MSIX, vector as u32, masked);
            }
        }
        withdrawn
    }
}

/// Fills `to` from `offset` of the pending bits.
pub(crate) fn read_pending(irqs: &IrqTable, offset: u64, to: &mut [u8]) {
    for (at, byte) in (offset as usize..).zip(to) {
        *byte = irqs.pending(irq_index::MSIX, at / 8).to_le_bytes()[at % 8];
    }
}

fn range(offset: u64, len: usize) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    Some(start..start.checked_add(len)?)
}
