//! Whether the guest gets a frame, and in what form (8254x manual 3.2.2, 3.2.3; 9 for VLANs; 10.1 for pause frames).

use serde::{Deserialize, Serialize};

use super::super::Shared;
use super::super::bits::{ctrl, rctl, rxcsum};
use super::super::regs::{Reg, Regs};
use super::{Delivered, Loss};
use crate::Time;
use crate::common::filter::{self, Modes, Tables, Verdict};
use crate::common::frame::{
    ETH_HEADER, ETH_TYPE, FCS, MAX_SUPER_FRAME, MIN_FRAME, RxFrame, TxFrame, VLAN_TAG,
};
use crate::common::gso::{Layout, MAX_HEADERS};

/// Longest frame with its FCS, with and without RCTL.LPE. A VLAN tag does not raise it.
const LONG: usize = 16384;
const NORMAL: usize = 1522;
const PAUSE_ADDRESS: [u8; 6] = [0x01, 0x80, 0xc2, 0x00, 0x00, 0x01];
pub(super) const MAC_CONTROL: u16 = 0x8808;

/// How an accepted frame is written, as the registers had it when it was accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct How {
    /// Bytes per buffer.
    pub(super) buffer: usize,
    /// The FCS is stored.
    pub(super) fcs: bool,
    /// The FCS is wrong.
    pub(super) bad_fcs: bool,
    /// It counts as a good frame.
    pub(super) good: bool,
    /// The tag is taken out, and stored in the descriptor.
    pub(super) strip: Option<u16>,
    /// The frame passed by the hash table.
    pub(super) inexact: bool,
    /// RXCSUM.
    pub(super) checksums: u32,
    /// RCTL.RDMTS: 1 is half of the ring left, 2 a quarter, 3 an eighth.
    pub(super) minimum_shift: u32,
}

impl How {
    /// A good frame, with nothing taken out of it, under these values of RCTL and RXCSUM.
    pub(super) fn plain(control: u32, checksums: u32) -> Self {
        Self {
            buffer: buffer_size(control),
            fcs: control & rctl::SECRC == 0,
            bad_fcs: false,
            good: true,
            strip: None,
            inexact: false,
            checksums: checksums & (rxcsum::PCSS | rxcsum::IPOFL | rxcsum::TUOFL),
            minimum_shift: ((control & rctl::RDMTS) >> rctl::RDMTS_SHIFT).min(2) + 1,
        }
    }
}

/// How much a frame is on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// Frames: segments of a super-frame.
    pub(super) frames: usize,
    /// All their bytes, with padding and FCS.
    pub(super) octets: usize,
    /// Bytes of each but the last one, with padding and FCS; the last one is no longer.
    pub(super) longest: usize,
}

impl Size {
    pub(super) fn of(frame: &RxFrame<'_>, layout: Option<&Layout>) -> Self {
        let wire = |len: usize| len.max(MIN_FRAME) + FCS;
        let Some(layout) = layout else {
            let len = frame.data.len();
            // What is no frame was not padded either.
            let octets = if len < ETH_HEADER {
                len + FCS
            } else {
                wire(len)
            };
            return Self {
                frames: 1,
                octets,
                longest: octets,
            };
        };
        let frames = layout.segments();
        let full = wire(layout.headers() + layout.payload(0).len());
        let last = wire(layout.headers() + layout.payload(frames - 1).len());
        Self {
            frames,
            octets: full * (frames - 1) + last,
            longest: full,
        }
    }

    /// Bytes of the last one.
    fn last(self) -> usize {
        self.octets - self.longest * (self.frames - 1)
    }

    /// Whether the last segment, and only that, is short enough for a receiver that takes no longer frames.
    pub(super) fn only_last_fits(self, regs: &Regs) -> bool {
        let control = regs.get(Reg::RCTL);
        let limit = limit(control);
        control & rctl::SBP == 0 && self.longest > limit && self.last() <= limit
    }

    /// What is left when the first `done` segments are gone.
    pub(super) fn without(self, done: usize) -> Self {
        Self {
            frames: self.frames - done,
            octets: self.octets - self.longest * done,
            ..self
        }
    }

    /// The first `frames` of them.
    pub(super) fn first(self, frames: usize) -> Self {
        match frames < self.frames {
            true => Self {
                frames,
                octets: self.longest * frames,
                ..self
            },
            false => self,
        }
    }

    /// As many of them as have room in so many bytes.
    pub(super) fn fitting(self, octets: usize) -> Self {
        match self.octets <= octets {
            true => self,
            false => self.first(octets / self.longest),
        }
    }
}

/// Checks what the backend says about offloads, and finds the headers of a super-frame.
pub(super) fn layout(frame: &RxFrame<'_>) -> Result<Option<Layout>, Loss> {
    let offload = TxFrame::from(*frame).offload;
    if offload.gso.is_some() {
        return Layout::parse(frame.data, frame.data.len(), &offload)
            .map(Some)
            .ok_or(Loss::Malformed);
    }
    match offload.csum {
        Some(csum) => csum
            .field(frame.data.len().min(MAX_HEADERS))
            .map(|_| None)
            .ok_or(Loss::Malformed),
        None => Ok(None),
    }
}

/// Judges a frame that is not [plain](super::plain::Plain), and counts it if it is not accepted. Errors of frames that the filters refuse are none
/// (manual 13.7).
#[inline(never)]
pub(super) fn judge(
    shared: &Shared,
    frame: &RxFrame<'_>,
    size: Size,
    now: Time,
) -> Result<How, Delivered> {
    let Shared { regs, counters, .. } = shared;
    let control = regs.get(Reg::RCTL);
    let (data, damaged) = (frame.data, frame.meta.bad_fcs);
    let frames = size.frames as u64;
    let Some(&dst) = data.first_chunk() else {
        counters.rx_malformed.add(1);
        return Err(Delivered::Dropped(Loss::Runt));
    };
    let limit = limit(control);
    let undersize = data.len() < ETH_HEADER;
    let oversize = size.longest > limit;
    let faulty = damaged || undersize || oversize;

    let device = regs.get(Reg::CTRL);
    let ethertype = word(data, ETH_TYPE);
    let tagged = data.len() >= ETH_HEADER + VLAN_TAG && u32::from(ethertype) == regs.get(Reg::VET);
    let tci = tagged.then(|| word(data, ETH_TYPE + 2));
    let tables = Registers(regs);
    let vlan = match tci {
        Some(tci) if control & rctl::VFE != 0 => {
            let cfi = (control & rctl::CFIEN != 0).then_some(control & rctl::CFI != 0);
            filter::vlan(tci, cfi, &tables)
        }
        _ => true,
    };
    let flow = match faulty {
        true => None,
        false => Flow::of(regs, dst, ethertype, data),
    };
    let consumed = match flow {
        None => false,
        // Ends here if the driver lets the hardware obey it and does not want to see it.
        Some(Flow::Pause { quanta }) => {
            let kind = match quanta {
                0 => Reg::XONRXC,
                _ => Reg::XOFFRXC,
            };
            regs.stat_add(kind, 1);
            shared.flow.heard(regs, quanta, now);
            device & ctrl::RFCE != 0 && control & rctl::DPF != 0
        }
        Some(Flow::Unsupported) => {
            regs.stat_add(Reg::FCRUC, 1);
            control & rctl::PMCF == 0
        }
    };
    let verdict = match vlan && !consumed {
        true => filter::address(dst, modes(control), &tables),
        false => Verdict::Refused,
    };
    if verdict == Verdict::Refused {
        counters.rx_filtered.add(frames);
        return Err(Delivered::Filtered);
    }
    if faulty {
        let faults = Faults {
            undersize,
            oversize,
            damaged,
        };
        faults.judge(shared, size, data.len(), control & rctl::SBP != 0)?;
    }
    Ok(How {
        bad_fcs: damaged,
        good: !damaged && !oversize && !matches!(flow, Some(Flow::Pause { .. })),
        strip: tci.filter(|_| device & ctrl::VME != 0),
        inexact: verdict == Verdict::Inexact,
        ..How::plain(control, regs.get(Reg::RXCSUM))
    })
}

/// Bytes of the longest frame that is accepted, with its FCS.
pub(in super::super) fn limit(control: u32) -> usize {
    match control & rctl::LPE != 0 {
        true => LONG,
        false => NORMAL,
    }
}

/// The modes of the address filter, as RCTL has them.
pub(in super::super) fn modes(control: u32) -> Modes {
    Modes {
        unicast: control & rctl::UPE != 0,
        multicast: control & rctl::MPE != 0,
        broadcast: control & rctl::BAM != 0,
        offset: (control & rctl::MO) >> rctl::MO_SHIFT,
    }
}

/// What is wrong with a frame.
struct Faults {
    undersize: bool,
    oversize: bool,
    damaged: bool,
}

impl Faults {
    /// Counts the errors of a frame of `len` bytes that the filters let pass. It is lost unless the driver wants to have
    /// `all`.
    #[cold]
    fn judge(self, shared: &Shared, size: Size, len: usize, all: bool) -> Result<(), Delivered> {
        let Shared { regs, counters, .. } = shared;
        let frames = size.frames as u64;
        let error = match (self.undersize, self.oversize, self.damaged) {
            (true, _, false) => Some(Reg::RUC),
            (true, _, true) => Some(Reg::RFC),
            (false, true, false) => Some(Reg::ROC),
            (false, true, true) => Some(Reg::RJC),
            (false, false, _) => None,
        };
        if let Some(error) = error {
            regs.stat_add(error, frames as u32);
            regs.stat_add(Reg::RLEC, frames as u32);
        }
        if self.damaged && !self.undersize {
            regs.stat_add(Reg::CRCERRS, frames as u32);
        }
        // Too short to have the headers that even a bad packet needs here.
        if self.undersize {
            counters.rx_malformed.add(frames);
            return Err(Delivered::Dropped(Loss::Runt));
        }
        if self.damaged && !all {
            counters.rx_damaged.add(frames);
            return Err(Delivered::Dropped(Loss::BadFcs));
        }
        if self.oversize && (!all || len > MAX_SUPER_FRAME) {
            counters.rx_oversize.add(frames);
            return Err(Delivered::Dropped(Loss::Oversize));
        }
        Ok(())
    }
}

/// The number that is sent first byte first, or 0 if the frame ends before.
#[inline]
fn word(data: &[u8], at: usize) -> u16 {
    match data.get(at..at + 2) {
        Some(&[high, low]) => u16::from_be_bytes([high, low]),
        _ => 0,
    }
}

/// Bytes per receive buffer. The reserved code means what BSEX clear means: 2048.
fn buffer_size(control: u32) -> usize {
    let code = (control & rctl::BSIZE) >> rctl::BSIZE_SHIFT;
    match (control & rctl::BSEX != 0, code) {
        (true, 1..) => 32768 >> code,
        (true, _) => 2048,
        (false, code) => 2048 >> code,
    }
}

/// A MAC control frame that is meant for this station: to the group that pause frames have, by standard or by FCAL and
/// FCAH, or to its own address; of the type that they have, by standard or by FCT.
enum Flow {
    /// A pause frame; without a pause, it means that sending may go on.
    Pause { quanta: u16 },
    /// Another opcode.
    Unsupported,
}

impl Flow {
    #[inline]
    fn of(regs: &Regs, dst: [u8; 6], kind: u16, data: &[u8]) -> Option<Self> {
        // 0 is the length of an empty LLC frame, not a type that a driver has set.
        if kind != MAC_CONTROL && (kind == 0 || u32::from(kind) != regs.get(Reg::FCT)) {
            return None;
        }
        let address = |(low, high): (u32, u32)| {
            let ([a, b, c, d], [e, f, ..]) = (low.to_le_bytes(), high.to_le_bytes());
            [a, b, c, d, e, f]
        };
        let group = || address((regs.get(Reg::FCAL), regs.get(Reg::FCAH)));
        if dst != PAUSE_ADDRESS && dst != group() && dst != address(Registers(regs).rar(0)) {
            return None;
        }
        Some(match word(data, ETH_HEADER) {
            1 => Self::Pause {
                quanta: word(data, ETH_HEADER + 2),
            },
            _ => Self::Unsupported,
        })
    }
}

/// The filter tables as the registers have them.
pub(in super::super) struct Registers<'a>(pub(in super::super) &'a Regs);

impl Tables for Registers<'_> {
    fn rar(&self, index: usize) -> (u32, u32) {
        (self.0.get_n(Reg::RAL, index), self.0.get_n(Reg::RAH, index))
    }

    fn mta(&self, index: usize) -> u32 {
        self.0.get_n(Reg::MTA, index)
    }

    fn vfta(&self, index: usize) -> u32 {
        self.0.get_n(Reg::VFTA, index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_buffer_code_has_a_bounded_size() {
        let size = |bsex: bool, code: u32| {
            buffer_size(if bsex { rctl::BSEX } else { 0 } | code << rctl::BSIZE_SHIFT)
        };
        assert_eq!(
            [0, 1, 2, 3].map(|code| size(false, code)),
            [2048, 1024, 512, 256]
        );
        assert_eq!(
            [0, 1, 2, 3].map(|code| size(true, code)),
            [2048, 16384, 8192, 4096]
        );
    }
}
