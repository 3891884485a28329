//! Flow control by pause frames (IEEE 802.3 annex 31B; 8254x manual, 10.1 and the registers FCAL, FCAH, FCT, FCTTV,
//! FCRTL, FCRTH, CTRL.RFCE, CTRL.TFCE, TCTL.SWXOFF).
//!
//! Both directions meet here, in atomics: what the receive queue hears stops the transmit queue, and how full its FIFO
//! is makes the transmit queue send pause frames of its own. What comes of it by itself, at
//! [`deadline`](Flow::deadline), is up to the control.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};

use serde::{Deserialize, Serialize};

use super::bits::{ctrl, fcrtl, status, tctl};
use super::regs::{Reg, Regs};
use crate::Time;
use crate::common::frame::{ETH_HEADER, ETH_TYPE, MIN_FRAME};

/// Stands for "not running".
const NEVER: u64 = u64::MAX;

/// Bits that a pause is counted in go by so quickly: ns of 512 bits at 10, 100 and 1000 Mb/s.
const QUANTUM: [u64; 4] = [51_200, 5_120, 512, 512];

/// The longest pause there is, in ns.
const LONGEST: u64 = 0xFFFF * QUANTUM[0];

/// The sender is not told more often than this, in ns: a driver may have asked for pauses of 512 ns.
const SHORTEST_REPEAT: u64 = 100_000;

/// Opcode of a pause frame.
const PAUSE: u16 = 1;

/// A pause frame that the NIC sends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// For as long as FCTTV says.
    Xoff,
    /// For no longer.
    Xon,
}

/// What a running flow control remembers, without its clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedFlow {
    /// ns for which nothing is to be sent.
    paused: Option<u64>,
    /// ns to the next XOFF.
    repeat: Option<u64>,
    congested: bool,
    wanted: u8,
    news: bool,
}

/// The pauses that are kept, and those that are asked for.
#[derive(Debug)]
pub struct Flow {
    /// Nothing is sent before this time.
    paused: AtomicU64,
    /// The receive FIFO has been above FCRTH, and not below FCRTL since.
    congested: AtomicBool,
    /// When the sender has to be told again.
    repeat: AtomicU64,
    /// A pause frame to send: 0 none, 1 XOFF, 2 XON.
    wanted: AtomicU8,
    /// The transmit queue does not know yet of something that it has to do.
    news: AtomicBool,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            paused: AtomicU64::new(0),
            congested: AtomicBool::new(false),
            repeat: AtomicU64::new(NEVER),
            wanted: AtomicU8::new(0),
            news: AtomicBool::new(false),
        }
    }
}

impl Flow {
    /// Whether a pause frame keeps the transmitter from sending at this time (STATUS.TXOFF).
    #[inline]
    pub fn is_paused(&self, now: Time) -> bool {
        self.paused.load(SeqCst) > now.0
    }

    /// When the control has something to do ([`Control::run_timers`](super::Control::run_timers)).
    pub fn deadline(&self) -> Option<Time> {
        if self.news.load(SeqCst) {
            return Some(Time::ZERO);
        }
        let paused = Some(self.paused.load(SeqCst)).filter(|&at| at != 0);
        let repeat = Some(self.repeat.load(SeqCst)).filter(|&at| at != NEVER);
        paused.into_iter().chain(repeat).min().map(Time)
    }

    /// A pause frame has arrived, for this many times 512 bits.
    pub(super) fn heard(&self, regs: &Regs, quanta: u16, now: Time) {
        if regs.get(Reg::CTRL) & ctrl::RFCE == 0 || !is_full_duplex(regs) {
            return;
        }
        let until = match quanta {
            0 => 0,
            quanta => now.plus_nanos(u64::from(quanta) * quantum(regs)).0,
        };
        if self.paused.swap(until, SeqCst) != until {
            self.news.store(true, SeqCst);
        }
    }

    /// So many bytes wait in the receive FIFO.
    pub(super) fn fifo(&self, regs: &Regs, octets: usize) {
        let (high, low) = (regs.get(Reg::FCRTH), regs.get(Reg::FCRTL));
        let enabled = regs.get(Reg::CTRL) & ctrl::TFCE != 0 && high != 0 && is_full_duplex(regs);
        let octets = octets as u64;
        if !self.congested.load(SeqCst) {
            if enabled && octets >= u64::from(high) {
                self.congested.store(true, SeqCst);
                self.ask(Pause::Xoff);
            }
        } else if octets <= u64::from(low & fcrtl::RTL) || !enabled {
            self.congested.store(false, SeqCst);
            self.repeat.store(NEVER, SeqCst);
            if enabled && low & fcrtl::XONE != 0 {
                self.ask(Pause::Xon);
            }
        }
    }

    /// A pause frame is to be sent: the next thing that the transmit queue does.
    pub(super) fn ask(&self, pause: Pause) {
        self.wanted.store(pause as u8 + 1, SeqCst);
        self.news.store(true, SeqCst);
    }

    /// The pause frame to send, if there is one, for the queue that sends it.
    #[inline]
    pub(super) fn take(&self) -> Option<Pause> {
        match self.wanted.load(SeqCst) {
            0 => None,
            _ => match self.wanted.swap(0, SeqCst) {
                1 => Some(Pause::Xoff),
                2 => Some(Pause::Xon),
                _ => None,
            },
        }
    }

    /// The network did not take it: it is to be sent later, unless another one has come up.
    pub(super) fn put_back(&self, pause: Pause) {
        let _ = self
            .wanted
            .compare_exchange(0, pause as u8 + 1, SeqCst, SeqCst);
    }

    /// It has left. As long as the FIFO is that full, the sender hears of it again when half of the pause is over, but not
    /// all the time.
    pub(super) fn sent(&self, regs: &Regs, pause: Pause, now: Time) {
        let pause_time = u64::from(regs.get(Reg::FCTTV)) * quantum(regs);
        if pause == Pause::Xoff && pause_time != 0 && self.congested.load(SeqCst) {
            let next = now.plus_nanos((pause_time / 2).max(SHORTEST_REPEAT));
            self.repeat.store(next.0.min(NEVER - 1), SeqCst);
            self.news.store(true, SeqCst);
        }
    }

    /// Does what is due by now. Whether the transmit queue has something to do.
    pub(super) fn run(&self, now: Time) -> bool {
        let mut due = self.news.load(SeqCst) && self.news.swap(false, SeqCst);
        let paused = self.paused.load(SeqCst);
        if (1..=now.0).contains(&paused) {
            due |= self
                .paused
                .compare_exchange(paused, 0, SeqCst, SeqCst)
                .is_ok();
        }
        let repeat = self.repeat.load(SeqCst);
        if repeat <= now.0
            && self
                .repeat
                .compare_exchange(repeat, NEVER, SeqCst, SeqCst)
                .is_ok()
        {
            self.wanted.store(Pause::Xoff as u8 + 1, SeqCst);
            if !self.congested.load(SeqCst) {
                // The receive queue has changed its mind meanwhile.
                self.wanted.store(Pause::Xon as u8 + 1, SeqCst);
            }
            due = true;
        }
        due
    }

    /// CTRL.RFCE was cleared, or the link is gone: nobody's pauses are kept any more.
    pub(super) fn resume(&self) {
        if self.paused.swap(0, SeqCst) != 0 {
            self.news.store(true, SeqCst);
        }
    }

    /// Forgets everything.
    pub(super) fn reset(&self) {
        self.paused.store(0, SeqCst);
        self.congested.store(false, SeqCst);
        self.repeat.store(NEVER, SeqCst);
        self.wanted.store(0, SeqCst);
        self.news.store(false, SeqCst);
    }

    pub(super) fn save(&self, now: Time) -> SavedFlow {
        let left = |at: u64| at.saturating_sub(now.0);
        SavedFlow {
            paused: Some(self.paused.load(SeqCst))
                .filter(|&at| at != 0)
                .map(left),
            repeat: Some(self.repeat.load(SeqCst))
                .filter(|&at| at != NEVER)
                .map(left),
            congested: self.congested.load(SeqCst),
            wanted: self.wanted.load(SeqCst),
            news: self.news.load(SeqCst),
        }
    }

    /// Takes over what another one has saved.
    pub(super) fn restore(&self, saved: &SavedFlow, now: Time) {
        let at = |left: u64| now.plus_nanos(left.min(LONGEST)).0.min(NEVER - 1);
        self.paused.store(saved.paused.map_or(0, at), SeqCst);
        self.congested.store(saved.congested, SeqCst);
        let repeat = saved.repeat.filter(|_| saved.congested);
        self.repeat.store(repeat.map_or(NEVER, at), SeqCst);
        self.wanted.store(saved.wanted.min(2), SeqCst);
        self.news.store(saved.news, SeqCst);
    }
}

/// The pause frame, without its FCS, and the register that counts it. A software XOFF of no time is an XON.
pub(super) fn frame(regs: &Regs, pause: Pause) -> ([u8; MIN_FRAME], Reg) {
    let time = match pause {
        Pause::Xoff => regs.get(Reg::FCTTV) as u16,
        Pause::Xon => 0,
    };
    let mut frame = [0; MIN_FRAME];
    frame[..4].copy_from_slice(&regs.get(Reg::FCAL).to_le_bytes());
    frame[4..6].copy_from_slice(&(regs.get(Reg::FCAH) as u16).to_le_bytes());
    frame[6..10].copy_from_slice(&regs.get(Reg::RAL).to_le_bytes());
    frame[10..ETH_TYPE].copy_from_slice(&(regs.get(Reg::RAH) as u16).to_le_bytes());
    frame[ETH_TYPE..ETH_HEADER].copy_from_slice(&(regs.get(Reg::FCT) as u16).to_be_bytes());
    frame[ETH_HEADER..ETH_HEADER + 2].copy_from_slice(&PAUSE.to_be_bytes());
    frame[ETH_HEADER + 2..ETH_HEADER + 4].copy_from_slice(&time.to_be_bytes());
    let counter = match time {
        0 => Reg::XONTXC,
        _ => Reg::XOFFTXC,
    };
    (frame, counter)
}

/// Whether a pause frame can be sent at all.
pub(super) fn can_send(regs: &Regs) -> bool {
    regs.get(Reg::TCTL) & tctl::EN != 0 && is_full_duplex(regs)
}

/// Pauses are for full duplex: otherwise senders hear each other anyway.
fn is_full_duplex(regs: &Regs) -> bool {
    regs.get(Reg::STATUS) & status::FD != 0
}

fn quantum(regs: &Regs) -> u64 {
    QUANTUM[(regs.get(Reg::STATUS) >> status::SPEED_SHIFT & 0b11) as usize]
}
