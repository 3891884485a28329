//! Frame statistics of one batch, added to the registers at once: an atomic per batch, not per frame.

use super::regs::{Reg, Regs};
use crate::common::filter;
use crate::common::frame::FCS;

/// What was sent or received since the last flush.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Frames by length on the wire: shorter than a frame may be, 64 bytes, up to 127, 255, 511, 1023, and more.
    bins: [u32; 7],
    multicast: u32,
    broadcast: u32,
    octets: u64,
    /// Of these, what is shorter than a frame may be.
    short_octets: u64,
}

/// The registers of one direction.
pub(super) struct Columns {
    bins: [Reg; 6],
    multicast: Reg,
    broadcast: Reg,
    frames: Reg,
    octets: Reg,
}

pub(super) const SENT: Columns = Columns {
    bins: [
        Reg::PTC64,
        Reg::PTC127,
        Reg::PTC255,
        Reg::PTC511,
        Reg::PTC1023,
        Reg::PTC1522,
    ],
    multicast: Reg::MPTC,
    broadcast: Reg::BPTC,
    frames: Reg::GPTC,
    octets: Reg::GOTCL,
};

pub(super) const RECEIVED: Columns = Columns {
    bins: [
        Reg::PRC64,
        Reg::PRC127,
        Reg::PRC255,
        Reg::PRC511,
        Reg::PRC1023,
        Reg::PRC1522,
    ],
    multicast: Reg::MPRC,
    broadcast: Reg::BPRC,
    frames: Reg::GPRC,
    octets: Reg::GORCL,
};

impl Tally {
    /// Notes `frames` frames without errors to `dst`, of `len` bytes each without their FCS.
    #[inline]
    pub(super) fn add(&mut self, dst: [u8; 6], len: usize, frames: usize) {
        let wire = len + FCS;
        let (count, octets) = (frames as u32, (wire * frames) as u64);
        let bin = match wire {
            0..64 => 0,
            64 => 1,
            _ => (wire.ilog2() as usize - 4).min(6),
        };
        self.bins[bin] += count;
        self.octets += octets;
        if bin == 0 {
            self.short_octets += octets;
        }
        if !filter::is_multicast(dst) {
            return;
        }
        if filter::is_broadcast(dst) {
            self.broadcast += count;
        } else {
            self.multicast += count;
        }
    }

    /// Frames and their bytes without FCS.
    pub(super) fn totals(&self) -> (u64, u64) {
        let frames = self.bins.iter().copied().map(u64::from).sum();
        (frames, self.octets - frames * FCS as u64)
    }

    /// Adds everything to the statistics.
    pub(super) fn flush(self, regs: &Regs, columns: &Columns) {
        let [_, bins @ ..] = self.bins;
        for (&reg, count) in columns.bins.iter().zip(bins) {
            regs.stat_add(reg, count);
        }
        regs.stat_add(columns.multicast, self.multicast);
        regs.stat_add(columns.broadcast, self.broadcast);
        regs.stat_add(columns.frames, bins.iter().sum());
        regs.stat_add64(columns.octets, self.octets - self.short_octets);
    }
}
