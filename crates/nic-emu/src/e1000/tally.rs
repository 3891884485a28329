//! Frame statistics of one batch, added to the registers at once: an atomic per batch, not per frame.

use super::regs::{Reg, Regs};
use crate::common::filter;
use crate::common::frame::FCS;

/// What was sent or received since the last flush.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Frames by length on the wire: 64 bytes, up to 127, 255, 511, 1023, and more.
    bins: [u32; 6],
    multicast: u32,
    broadcast: u32,
    frames: u32,
    octets: u64,
    /// Of these, what is shorter than a frame may be.
    short_frames: u32,
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
            0..=63 => None,
            64 => Some(0),
            65..=127 => Some(1),
            128..=255 => Some(2),
            256..=511 => Some(3),
            512..=1023 => Some(4),
            _ => Some(5),
        };
        match bin {
            Some(bin) => self.bins[bin] += count,
            None => {
                self.short_frames += count;
                self.short_octets += octets;
            }
        }
        self.frames += count;
        self.octets += octets;
        if filter::is_broadcast(dst) {
            self.broadcast += count;
        } else if filter::is_multicast(dst) {
            self.multicast += count;
        }
    }

    /// Frames and their bytes without FCS.
    pub(super) fn totals(&self) -> (u64, u64) {
        let frames = u64::from(self.frames);
        (frames, self.octets - frames * FCS as u64)
    }

    /// Adds everything to the statistics and starts anew.
    pub(super) fn flush(&mut self, regs: &Regs, columns: &Columns) {
        let tally = std::mem::take(self);
        if tally.frames == 0 {
            return;
        }
        for (&reg, count) in columns.bins.iter().zip(tally.bins) {
            regs.stat_add(reg, count);
        }
        regs.stat_add(columns.multicast, tally.multicast);
        regs.stat_add(columns.broadcast, tally.broadcast);
        regs.stat_add(columns.frames, tally.frames - tally.short_frames);
        regs.stat_add64(columns.octets, tally.octets - tally.short_octets);
    }
}
