//! Wake-up: what the part does about frames and link changes that are to wake a machine (8254x manual, 6.4).
//!
//! No machine is woken: vfio-user has no PME# line. All that comes of an event is what it leaves behind: WUS, WUPL and
//! WUPM, and PME_Status, which WUC shows as well as PMCSR.
//!
//! The filters listen while PME_En is set (ACPI wake-up: those that WUFC names) or APME is (APM wake-up: magic packets),
//! in any power state, and until WUS tells of a packet. The receiver may be off meanwhile.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::Shared;
use super::bits::{ipav, rctl, wuc, wufc};
use super::regs::{Reg, Regs};
use super::rx::judge::{self, Registers};
use crate::common::filter::{self, Modes, Verdict};
use crate::common::frame::{ETH_HEADER, ETH_TYPE, FCS, MIN_FRAME, RxFrame, VLAN_TAG};

/// Bytes of a packet that WUPM keeps, and flexible filters compare.
const KEPT: usize = 128;

/// LLC and SNAP before an EtherType that follows a length: DSAP, SSAP, control, OUI.
pub(super) const SNAP: [u8; 6] = [0xAA, 0xAA, 0x03, 0, 0, 0];
/// The greatest value of the type field that is a length.
pub(super) const MAX_LENGTH: u16 = 1500;

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86DD;
/// An ARP request for an IPv4 address over Ethernet, up to the sender.
const ARP_REQUEST: [u8; 8] = [0, 1, 0x08, 0, 6, 4, 0, 1];

/// The filters of packets that listen, as WUFC has them; 0 is none.
#[inline]
pub(super) fn filters(regs: &Regs) -> u32 {
    match regs.get(Reg::WUC) {
        control if control & (wuc::PME_EN | wuc::APME) == 0 => 0,
        control => listening(regs, control),
    }
}

/// The first packet is kept until the driver has seen it.
fn listening(regs: &Regs, control: u32) -> u32 {
    if regs.get(Reg::WUS) & wufc::PACKETS != 0 {
        return 0;
    }
    let acpi = match control & wuc::PME_EN != 0 {
        true => regs.get(Reg::WUFC) & wufc::PACKETS,
        false => 0,
    };
    let apm = match control & wuc::APME != 0 {
        true => wufc::MAG,
        false => 0,
    };
    acpi | apm
}

/// Writes the bits of `mask` in WUC; PME_Status is cleared by a 1. A queue may set it at the same moment.
pub(super) fn write_control(regs: &Regs, mask: u32, value: u32) {
    let change = |old: u32| Some((old & !mask | value & mask) & !(value & wuc::PME_STATUS));
    let _ = regs
        .cell(Reg::WUC, 0)
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
}

/// The link went up or down.
pub(super) fn link_changed(regs: &Regs) {
    let enabled = regs.get(Reg::WUC) & wuc::PME_EN != 0 && regs.get(Reg::WUFC) & wufc::LNKC != 0;
    if enabled && regs.get(Reg::WUS) & wufc::LNKC == 0 {
        tell(regs, wufc::LNKC, true);
    }
}

/// Holds a frame from the network against the filters that listen. A super-frame passes for its first segment, but a magic
/// packet is one wherever it is.
#[inline]
pub(super) fn hear(shared: &Shared, frame: &RxFrame<'_>) {
    if shared.wakes() {
        judge(&shared.regs, frame);
    }
}

#[cold]
fn judge(regs: &Regs, frame: &RxFrame<'_>) {
    let listening = filters(regs);
    let packet = Packet::new(frame);
    let passed = match frame.meta.bad_fcs {
        true => 0,
        false => packet.passes(regs, listening) & listening,
    };
    if passed == 0 {
        return;
    }
    for (n, bytes) in packet.head.as_chunks().0.iter().enumerate() {
        regs.set_n(Reg::WUPM, n, u32::from_le_bytes(*bytes));
    }
    regs.set(Reg::WUPL, packet.len as u32);
    let control = regs.get(Reg::WUC);
    let acpi = control & wuc::PME_EN != 0 && passed & regs.get(Reg::WUFC) != 0;
    tell(regs, passed, acpi || control & wuc::APMPME != 0);
}

/// What is stored before this is there for who reads WUS.
fn tell(regs: &Regs, passed: u32, pme: bool) {
    regs.cell(Reg::WUS, 0).fetch_or(passed, Ordering::AcqRel);
    if pme {
        let status = regs.cell(Reg::WUC, 0);
        status.fetch_or(wuc::PME_STATUS, Ordering::AcqRel);
    }
}

/// A packet as it was on the wire.
struct Packet<'a> {
    data: &'a [u8],
    /// Its first bytes, and zeros behind them.
    head: [u8; KEPT],
    /// Its bytes with padding, without FCS.
    len: usize,
}

impl<'a> Packet<'a> {
    fn new(frame: &RxFrame<'a>) -> Self {
        let data = frame.data;
        let mut head = [0; KEPT];
        let kept = data.len().min(KEPT);
        head[..kept].copy_from_slice(&data[..kept]);
        let first = match frame.meta.gso {
            Some(gso) => usize::from(gso.hdr_len) + usize::from(gso.mss),
            None => data.len(),
        };
        let len = data.len().min(first).max(MIN_FRAME);
        Self { data, head, len }
    }

    /// All filters that it passes, of those that `wanted` names and perhaps others.
    fn passes(&self, regs: &Regs, wanted: u32) -> u32 {
        let Some(&dst) = self
            .data
            .first_chunk()
            .filter(|_| self.data.len() >= ETH_HEADER)
        else {
            return 0;
        };
        let control = regs.get(Reg::RCTL);
        if self.len + FCS > judge::limit(control) {
            return 0;
        }
        let (tables, modes) = (Registers(regs), judge::modes(control));
        let mut passed = 0;
        let (low, high) = (regs.get_n(Reg::RAL, 0), regs.get_n(Reg::RAH, 0));
        let [[a, b, c, d], [e, f, ..]] = [low.to_le_bytes(), high.to_le_bytes()];
        let station = [a, b, c, d, e, f];
        let broadcast = filter::is_broadcast(dst);
        let accepted = control & rctl::EN != 0
            && filter::address(dst, modes, &tables) != Verdict::Refused
            && self.in_vlan(regs, control, &tables);
        // Before there is a driver to switch the receiver on, there is an address.
        let addressed = accepted || broadcast || dst == station;
        if wanted & wufc::MAG != 0 && addressed && self.is_magic(station) {
            passed |= wufc::MAG;
        }
        if !accepted {
            return passed;
        }
        let tabled = Modes {
            offset: modes.offset,
            ..Modes::default()
        };
        let tabled = filter::address(dst, tabled, &tables);
        if tabled == Verdict::Exact {
            passed |= wufc::EX;
        }
        if broadcast {
            passed |= wufc::BC;
        } else if filter::is_multicast(dst) && (modes.multicast || tabled == Verdict::Inexact) {
            passed |= wufc::MC;
        }
        passed | self.network_filter(regs) | self.flexible_filters(regs)
    }

    fn in_vlan(&self, regs: &Regs, control: u32, tables: &Registers<'_>) -> bool {
        let tagged = u32::from(self.word(ETH_TYPE)) == regs.get(Reg::VET);
        let cfi = (control & rctl::CFIEN != 0).then_some(control & rctl::CFI != 0);
        control & rctl::VFE == 0 || !tagged || filter::vlan(self.word(ETH_TYPE + 2), cfi, tables)
    }

    /// Six bytes of ones and then, sixteen times, the address of this station.
    fn is_magic(&self, station: [u8; 6]) -> bool {
        let magic = |bytes: &[u8]| {
            let (sync, copies) = bytes.split_at(6);
            filter::is_broadcast([0, 1, 2, 3, 4, 5].map(|n| sync[n]))
                && copies.chunks_exact(6).all(|copy| copy == station)
        };
        self.data[ETH_HEADER..].windows(6 + 16 * 6).any(magic)
    }

    /// ARP, IPV4 or IPV6, which may lie behind a VLAN tag and behind LLC and SNAP.
    fn network_filter(&self, regs: &Regs) -> u32 {
        let mut at = ETH_TYPE;
        if u32::from(self.word(at)) == regs.get(Reg::VET) {
            at += VLAN_TAG;
        }
        if self.word(at) <= MAX_LENGTH && self.has(at + 2, &SNAP) {
            at += 2 + SNAP.len();
        }
        let (kind, header) = (self.word(at), at + 2);
        let valid = regs.get(Reg::IPAV);
        let is_ours = |at: usize| {
            (0..4).any(|n| {
                valid & ipav::V40 << n != 0
                    && self.has(at, &regs.get_n(Reg::IP4AT, n).to_le_bytes())
            })
        };
        match kind {
            ARP if self.has(header, &ARP_REQUEST) && is_ours(header + 24) => wufc::ARP,
            IPV4 if self.version(header) == 4 && is_ours(header + 16) => wufc::IPV4,
            IPV6 if self.version(header) == 6
                && valid & ipav::V60 != 0
                && (0..4).all(|n| {
                    let part = regs.get_n(Reg::IP6AT, n).to_le_bytes();
                    self.has(header + 24 + 4 * n, &part)
                }) =>
            {
                wufc::IPV6
            }
            _ => 0,
        }
    }

    /// Those that the packet is long enough for, and each of whose bytes, as far as it has any, is the packet's.
    fn flexible_filters(&self, regs: &Regs) -> u32 {
        let passes = |filter: &usize| {
            let length = regs.get_n(Reg::FFLT, *filter) as usize;
            let compared = &self.head[..length.min(KEPT)];
            self.len >= length
                && compared.iter().enumerate().all(|(n, byte)| {
                    regs.get_n(Reg::FFMT, n) >> filter & 1 == 0
                        || regs.get_n(Reg::FFVT, n).to_le_bytes()[*filter] == *byte
                })
        };
        let passed = (0..4).filter(passes);
        passed.fold(0, |bits, filter| bits | wufc::FLX0 << filter)
    }

    fn has(&self, at: usize, bytes: &[u8]) -> bool {
        self.head.get(at..at + bytes.len()) == Some(bytes)
    }

    fn version(&self, at: usize) -> u8 {
        self.head.get(at).map_or(0, |byte| byte >> 4)
    }

    fn word(&self, at: usize) -> u16 {
        match self.head.get(at..at + 2) {
            Some(&[high, low]) => u16::from_be_bytes([high, low]),
            _ => 0,
        }
    }
}

/// The packet that would have woken the machine. WUC and WUS are saved as registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedWake {
    length: u32,
    packet: [u32; KEPT / 4],
}

impl SavedWake {
    pub(super) fn of(regs: &Regs) -> Self {
        Self {
            length: regs.get(Reg::WUPL),
            packet: std::array::from_fn(|n| regs.get_n(Reg::WUPM, n)),
        }
    }

    pub(super) fn restore(&self, regs: &Regs) {
        regs.set(Reg::WUPL, self.length & 0xFFFF);
        for (n, word) in self.packet.iter().enumerate() {
            regs.set_n(Reg::WUPM, n, *word);
        }
    }
}

#[cfg(test)]
#[path = "wake_tests.rs"]
mod tests;
