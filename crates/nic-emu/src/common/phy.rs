//! Marvell 88E1011 copper PHY as built into 82540-class parts, seen through its MDIO registers.
//!
//! Registers 0 to 15 are IEEE 802.3 clause 22, 16 and up are Marvell's. The far end of the cable is a partner that
//! can do everything and needs [`AUTONEG`] to agree.

use serde::{Deserialize, Serialize};

use crate::Time;

/// Nanoseconds from the start of auto-negotiation to link. Real ones take seconds; long enough here for a driver to see
/// the link go down, short enough that nobody waits for it.
pub const AUTONEG: u64 = 1_000_000;

/// BMCR: control.
pub const BMCR: u8 = 0;
/// BMSR: status.
pub const BMSR: u8 = 1;
const PHYID1: u8 = 2;
const PHYID2: u8 = 3;
/// ANAR: what we offer in auto-negotiation.
pub const ANAR: u8 = 4;
const ANLPAR: u8 = 5;
const ANER: u8 = 6;
const ANNPTR: u8 = 7;
/// 1000BASE-T control: what we offer beyond ANAR.
pub const GBCR: u8 = 9;
const GBSR: u8 = 10;
const ESTATUS: u8 = 15;
const PSCR: u8 = 16;
/// PSSR: PHY-specific status, the resolved link.
pub const PSSR: u8 = 17;
/// Interrupt enable.
pub const INT_ENABLE: u8 = 18;
/// Interrupt status, cleared by reading.
pub const INT_STATUS: u8 = 19;
const EPSCR: u8 = 20;
const RX_ERRORS: u8 = 21;

/// Bits of BMCR.
pub mod bmcr {
    #![allow(missing_docs, reason = "IEEE 802.3 names")]
    pub const RESET: u16 = 1 << 15;
    pub const LOOPBACK: u16 = 1 << 14;
    pub const SPEED_100: u16 = 1 << 13;
    pub const AN_ENABLE: u16 = 1 << 12;
    pub const POWER_DOWN: u16 = 1 << 11;
    pub const AN_RESTART: u16 = 1 << 9;
    pub const FULL_DUPLEX: u16 = 1 << 8;
    pub const SPEED_1000: u16 = 1 << 6;
}

/// Bits of BMSR.
pub mod bmsr {
    #![allow(missing_docs, reason = "IEEE 802.3 names")]
    pub const LINK: u16 = 1 << 2;
    pub const AN_COMPLETE: u16 = 1 << 5;
    /// What the PHY can do; never changes.
    pub const ABILITIES: u16 = 0x7949;
}

const PSSR_LINK: u16 = 1 << 10;
const PSSR_RESOLVED: u16 = 1 << 11;
const PSSR_FULL_DUPLEX: u16 = 1 << 13;
const PSSR_SPEED_SHIFT: u16 = 14;

const INT_LINK_CHANGED: u16 = 1 << 10;
const INT_AN_COMPLETE: u16 = 1 << 11;

/// The partner's base page with acknowledge: 10 and 100 Mb/s, both duplexes, pause frames both ways.
const PARTNER: u16 = 0x4DE1;
/// The partner's gigabit abilities, and both receivers are fine.
const PARTNER_GIGABIT: u16 = 0x3C00;

/// Bits that hold what is written, by register. RESET and AN_RESTART clear themselves at once.
const WRITABLE: [u16; 32] = {
    let mut mask = [0; 32];
    mask[BMCR as usize] = 0x7DC0;
    mask[ANAR as usize] = 0xAFFF;
    mask[ANNPTR as usize] = 0xB7FF;
    mask[GBCR as usize] = 0xFF00;
    mask[PSCR as usize] = 0xFFFF;
    mask[INT_ENABLE as usize] = 0xFFFF;
    mask[EPSCR as usize] = 0xFFFF;
    let mut vendor = 22;
    while vendor <= 30 {
        mask[vendor] = 0xFFFF;
        vendor += 1;
    }
    mask
};

/// Values after a hardware reset. The identifier is that of the 88E1011 I, revision 4: Linux reprograms the clock of
/// earlier ones.
const RESET: [u16; 32] = {
    let mut value = [0; 32];
    value[BMCR as usize] = 0x1140;
    value[PHYID1 as usize] = 0x0141;
    value[PHYID2 as usize] = 0x0C24;
    value[ANAR as usize] = 0x0DE1;
    value[ANNPTR as usize] = 0x2001;
    value[GBCR as usize] = 0x0E00;
    value[ESTATUS as usize] = 0x3000;
    value[PSCR as usize] = 0x0360;
    value[EPSCR as usize] = 0x0D60;
    value
};

/// Link speed; the numbers are how MAC and PHY registers encode it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Speed {
    /// 10 Mb/s.
    Mbps10 = 0,
    /// 100 Mb/s.
    Mbps100 = 1,
    /// 1000 Mb/s.
    Mbps1000 = 2,
}

/// A link as both ends understand it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Speed.
    pub speed: Speed,
    /// Full duplex.
    pub full_duplex: bool,
}

/// How far auto-negotiation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Autoneg {
    /// No cable, power or permission.
    Stopped,
    /// Complete at this time.
    Running(Time),
    /// Complete; `None` if the two ends have nothing in common.
    Complete(Option<Link>),
}

/// The state of a PHY without its clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedPhy {
    regs: [u16; 32],
    carrier: bool,
    autoneg: SavedAutoneg,
    dropped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum SavedAutoneg {
    Stopped,
    /// Nanoseconds that are left.
    Running(u64),
    Complete(Option<Link>),
}

/// The PHY.
#[derive(Clone, Debug)]
pub struct Phy {
    /// PHYID2, which tells PHYs of the family apart.
    id: u16,
    regs: [u16; 32],
    carrier: bool,
    /// The reset pin is held.
    held: bool,
    autoneg: Autoneg,
    link: Option<Link>,
    /// BMSR has yet to show that the link was down.
    dropped: bool,
    interrupt: bool,
}

impl Default for Phy {
    fn default() -> Self {
        Phy {
            id: RESET[usize::from(PHYID2)],
            regs: RESET,
            carrier: false,
            held: false,
            autoneg: Autoneg::Stopped,
            link: None,
            dropped: true,
            interrupt: false,
        }
    }
}

impl Phy {
    /// A PHY with this lower half of its identifier.
    pub fn new(id: u16) -> Phy {
        Phy {
            id,
            ..Phy::default()
        }
    }

    /// The link, if there is one.
    pub fn link(&self) -> Option<Link> {
        self.link
    }

    /// What is sent comes back, whatever the state of the link.
    pub fn loopback(&self) -> bool {
        self.regs[usize::from(BMCR)] & bmcr::LOOPBACK != 0
    }

    /// When [`run`](Phy::run) has something to do.
    pub fn deadline(&self) -> Option<Time> {
        match self.autoneg {
            Autoneg::Running(due) => Some(due),
            _ => None,
        }
    }

    /// Completes an auto-negotiation that is due.
    pub fn run(&mut self, now: Time) {
        if self.deadline().is_some_and(|due| due <= now) {
            self.autoneg = Autoneg::Complete(self.resolve());
            self.event(INT_AN_COMPLETE);
            self.settle();
        }
    }

    /// Whether the cable is in.
    pub fn carrier(&self) -> bool {
        self.carrier
    }

    /// Plugs or pulls the cable.
    pub fn set_carrier(&mut self, up: bool, now: Time) {
        if self.carrier != up {
            self.carrier = up;
            self.start(now);
        }
    }

    /// Holds the reset pin, or lets go of it: all registers return to their defaults, and the link comes back once
    /// nobody holds the pin.
    pub fn hold_reset(&mut self, hold: bool, now: Time) {
        if hold != self.held {
            self.held = hold;
            self.regs = RESET;
            self.interrupt = false;
            self.start(now);
        }
    }

    /// Pulses the reset pin.
    pub fn reset(&mut self, now: Time) {
        self.held = false;
        self.hold_reset(true, now);
        self.hold_reset(false, now);
    }

    /// Takes the level of the interrupt pin: an enabled event has happened since the last call.
    pub fn take_interrupt(&mut self) -> bool {
        std::mem::take(&mut self.interrupt)
    }

    /// Reads a register; only the low five bits of the number count.
    pub fn read(&mut self, reg: u8) -> u16 {
        let complete = matches!(self.autoneg, Autoneg::Complete(_));
        let if_complete = |value| if complete { value } else { 0 };
        let stored = &mut self.regs[usize::from(reg & 0x1F)];
        match reg & 0x1F {
            BMSR => {
                let up = self.link.is_some()
                    && !std::mem::replace(&mut self.dropped, self.link.is_none());
                bmsr::ABILITIES | if up { bmsr::LINK } else { 0 } | if_complete(bmsr::AN_COMPLETE)
            }
            PHYID2 => self.id,
            ANLPAR => if_complete(PARTNER),
            ANER => if_complete(1),
            GBSR => if_complete(PARTNER_GIGABIT),
            PSSR => self.specific_status(),
            INT_STATUS | RX_ERRORS => std::mem::take(stored),
            _ => *stored,
        }
    }

    /// Writes a register; only the low five bits of the number count.
    pub fn write(&mut self, reg: u8, value: u16, now: Time) {
        let reg = reg & 0x1F;
        let stored = &mut self.regs[usize::from(reg)];
        let before = *stored;
        *stored = *stored & !WRITABLE[usize::from(reg)] | value & WRITABLE[usize::from(reg)];
        if reg == BMCR {
            // A soft reset keeps what the registers hold: drivers configure first and reset then to make it so.
            let changed = (before ^ *stored) & !bmcr::LOOPBACK != 0;
            if changed || value & (bmcr::RESET | bmcr::AN_RESTART) != 0 {
                self.start(now);
            }
        }
    }

    /// Its state. That the reset pin is held is for whoever holds it to remember.
    pub fn save(&self, now: Time) -> SavedPhy {
        SavedPhy {
            regs: self.regs,
            carrier: self.carrier,
            autoneg: match self.autoneg {
                Autoneg::Stopped => SavedAutoneg::Stopped,
                Autoneg::Running(due) => SavedAutoneg::Running(due.0.saturating_sub(now.0)),
                Autoneg::Complete(link) => SavedAutoneg::Complete(link),
            },
            dropped: self.dropped,
        }
    }

    /// Takes over a state, cable included, as far as a PHY can have it whose reset pin is held or not.
    pub fn restore(&mut self, saved: &SavedPhy, held: bool, now: Time) {
        for (reg, stored) in self.regs.iter_mut().enumerate() {
            let mask = match reg as u8 {
                INT_STATUS => INT_LINK_CHANGED | INT_AN_COMPLETE,
                _ => WRITABLE[reg],
            };
            *stored = RESET[reg] & !mask | saved.regs[reg] & mask;
        }
        self.carrier = saved.carrier;
        self.held = held;
        self.dropped = saved.dropped;
        self.interrupt = false;
        self.autoneg = match saved.autoneg {
            _ if !self.negotiates() => Autoneg::Stopped,
            SavedAutoneg::Stopped => Autoneg::Running(now.plus_nanos(AUTONEG)),
            SavedAutoneg::Running(left) => Autoneg::Running(now.plus_nanos(left.min(AUTONEG))),
            SavedAutoneg::Complete(link) => Autoneg::Complete(link),
        };
        self.link = self.outcome();
        self.dropped |= self.link.is_none();
    }

    /// There is power, and a cable.
    fn alive(&self) -> bool {
        self.carrier && !self.held && self.regs[usize::from(BMCR)] & bmcr::POWER_DOWN == 0
    }

    fn negotiates(&self) -> bool {
        self.alive() && self.regs[usize::from(BMCR)] & bmcr::AN_ENABLE != 0
    }

    /// Takes the link down and starts over from what BMCR says.
    fn start(&mut self, now: Time) {
        self.autoneg = if self.negotiates() {
            Autoneg::Running(now.plus_nanos(AUTONEG))
        } else {
            Autoneg::Stopped
        };
        self.settle();
    }

    /// The link as it is now.
    fn outcome(&self) -> Option<Link> {
        let bmcr = self.regs[usize::from(BMCR)];
        match self.autoneg {
            Autoneg::Complete(link) => link,
            Autoneg::Running(_) => None,
            Autoneg::Stopped => {
                (self.alive() && bmcr & bmcr::AN_ENABLE == 0).then_some(forced(bmcr))
            }
        }
    }

    /// Works out the link and latches what has changed.
    fn settle(&mut self) {
        let link = self.outcome();
        if link.is_none() {
            self.dropped = true;
        }
        if link.is_some() != self.link.is_some() {
            self.event(INT_LINK_CHANGED);
        }
        self.link = link;
    }

    /// The best that both ends can do.
    fn resolve(&self) -> Option<Link> {
        let anar = self.regs[usize::from(ANAR)];
        let gbcr = self.regs[usize::from(GBCR)];
        let offers = [
            (gbcr & 1 << 9, Speed::Mbps1000, true),
            (gbcr & 1 << 8, Speed::Mbps1000, false),
            (anar & 1 << 8, Speed::Mbps100, true),
            (anar & 1 << 7, Speed::Mbps100, false),
            (anar & 1 << 6, Speed::Mbps10, true),
            (anar & 1 << 5, Speed::Mbps10, false),
        ];
        let best = offers.into_iter().find(|&(offered, ..)| offered != 0);
        best.map(|(_, speed, full_duplex)| Link { speed, full_duplex })
    }

    fn specific_status(&self) -> u16 {
        let Some(link) = self.link else { return 0 };
        let duplex = if link.full_duplex {
            PSSR_FULL_DUPLEX
        } else {
            0
        };
        (link.speed as u16) << PSSR_SPEED_SHIFT | duplex | PSSR_RESOLVED | PSSR_LINK
    }

    fn event(&mut self, bits: u16) {
        self.regs[usize::from(INT_STATUS)] |= bits;
        self.interrupt |= self.regs[usize::from(INT_ENABLE)] & bits != 0;
    }
}

/// The link that BMCR asks for without auto-negotiation.
fn forced(bmcr: u16) -> Link {
    let speed = match (bmcr & bmcr::SPEED_1000 != 0, bmcr & bmcr::SPEED_100 != 0) {
        (true, _) => Speed::Mbps1000,
        (false, true) => Speed::Mbps100,
        (false, false) => Speed::Mbps10,
    };
    Link {
        speed,
        full_duplex: bmcr & bmcr::FULL_DUPLEX != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIGABIT: Link = Link {
        speed: Speed::Mbps1000,
        full_duplex: true,
    };

    fn linked() -> Phy {
        let mut phy = Phy::default();
        phy.set_carrier(true, Time(0));
        phy.run(Time(AUTONEG));
        assert_eq!(phy.link(), Some(GIGABIT));
        phy.read(BMSR);
        phy
    }

    #[test]
    fn negotiates_to_the_nanosecond() {
        let mut phy = Phy::default();
        assert_eq!(phy.deadline(), None);
        phy.set_carrier(true, Time(5));
        assert_eq!(phy.deadline(), Some(Time(5 + AUTONEG)));
        phy.run(Time(4 + AUTONEG));
        assert_eq!(phy.link(), None);
        assert_eq!(phy.read(BMSR), 0x7949);
        assert_eq!(
            (phy.read(ANLPAR), phy.read(GBSR), phy.read(PSSR)),
            (0, 0, 0)
        );
        phy.run(Time(5 + AUTONEG));
        assert_eq!(phy.link(), Some(GIGABIT));
        assert_eq!(phy.deadline(), None);
        assert_eq!(
            [phy.read(BMSR), phy.read(BMSR)],
            [0x7969, 0x796D],
            "it was down at the last look"
        );
        assert_eq!((phy.read(PSSR), phy.read(GBSR)), (0xAC00, 0x3C00));
    }

    #[test]
    fn link_bit_latches_low() {
        let mut phy = linked();
        assert_eq!(phy.read(BMSR), 0x796D);
        phy.set_carrier(false, Time(0));
        phy.set_carrier(true, Time(0));
        phy.run(Time(AUTONEG));
        assert_eq!(phy.read(BMSR), 0x7969, "it was down for a moment");
        assert_eq!(phy.read(BMSR), 0x796D);
    }

    #[test]
    fn reset_and_restart_clear_themselves_and_keep_the_rest() {
        let mut phy = linked();
        phy.write(PSCR, 0x0868, Time(0));
        phy.write(BMCR, bmcr::RESET | 0x1140, Time(0));
        assert_eq!(phy.read(BMCR), 0x1140);
        assert_eq!(phy.read(PSCR), 0x0868);
        assert_eq!(phy.link(), None);
        phy.run(Time(AUTONEG));
        phy.write(BMCR, bmcr::AN_RESTART | 0x1140, Time(7));
        assert_eq!(phy.read(BMCR), 0x1140);
        assert_eq!(
            (phy.link(), phy.deadline()),
            (None, Some(Time(7 + AUTONEG)))
        );
        phy.reset(Time(9));
        assert_eq!(phy.read(PSCR), 0x0360);
        assert_eq!(phy.deadline(), Some(Time(9 + AUTONEG)));
    }

    #[test]
    fn power_down_drops_the_link() {
        let mut phy = linked();
        phy.write(BMCR, 0x1140 | bmcr::POWER_DOWN, Time(0));
        assert_eq!((phy.link(), phy.deadline()), (None, None));
        phy.write(BMCR, 0x1140, Time(10));
        phy.run(Time(10 + AUTONEG));
        assert_eq!(phy.link(), Some(GIGABIT));
    }

    #[test]
    fn a_held_reset_pin_means_no_link() {
        let mut phy = linked();
        phy.hold_reset(true, Time(0));
        assert_eq!((phy.link(), phy.deadline()), (None, None));
        phy.set_carrier(false, Time(1));
        phy.set_carrier(true, Time(2));
        assert_eq!(phy.deadline(), None);
        phy.hold_reset(false, Time(3));
        phy.run(Time(3 + AUTONEG));
        assert_eq!(phy.link(), Some(GIGABIT));
    }

    #[test]
    fn offers_and_forced_speeds_are_obeyed() {
        let mut phy = linked();
        phy.write(GBCR, 0, Time(0));
        phy.write(BMCR, 0x1340, Time(0));
        phy.run(Time(AUTONEG));
        assert_eq!(
            phy.link(),
            Some(Link {
                speed: Speed::Mbps100,
                full_duplex: true
            })
        );
        phy.write(ANAR, 0x0021, Time(0));
        phy.write(BMCR, 0x1340, Time(0));
        phy.run(Time(AUTONEG));
        assert_eq!(
            phy.link(),
            Some(Link {
                speed: Speed::Mbps10,
                full_duplex: false
            })
        );
        phy.write(ANAR, 1, Time(0));
        phy.write(BMCR, 0x1340, Time(0));
        phy.run(Time(AUTONEG));
        assert_eq!(phy.link(), None, "nothing in common");
        phy.write(BMCR, bmcr::SPEED_100, Time(0));
        assert_eq!(
            phy.link(),
            Some(Link {
                speed: Speed::Mbps100,
                full_duplex: false
            }),
            "forced: no waiting"
        );
        assert_eq!(phy.read(PSSR), 0x4C00);
    }

    #[test]
    fn loopback_sequence_of_the_offline_test() {
        let mut phy = linked();
        for value in [0x9140, 0x8140, 0x4140] {
            phy.write(BMCR, value, Time(0));
        }
        for (reg, value) in [(29, 0x1F), (30, 0x8FFC), (29, 0x1A), (30, 0x8FF0)] {
            phy.write(reg, value, Time(0));
            assert_eq!(phy.read(reg), value);
        }
        assert_eq!(phy.read(BMCR), 0x4140);
        assert!(phy.loopback());
    }

    #[test]
    fn interrupts_latch_and_clear_on_read() {
        let mut phy = linked();
        assert!(!phy.take_interrupt(), "not enabled");
        phy.read(INT_STATUS);
        phy.write(INT_ENABLE, INT_LINK_CHANGED, Time(0));
        phy.set_carrier(false, Time(0));
        assert!(phy.take_interrupt());
        assert!(!phy.take_interrupt());
        assert_eq!(phy.read(INT_STATUS), INT_LINK_CHANGED);
        assert_eq!(phy.read(INT_STATUS), 0);
    }

    #[test]
    fn every_register_takes_any_value() {
        let mut phy = linked();
        for reg in 0..=255 {
            for value in [0, 0xFFFF, 0x5A5A] {
                phy.write(reg, value, Time(1));
                phy.read(reg);
            }
        }
        assert_eq!((phy.read(PHYID1), phy.read(PHYID2)), (0x0141, 0x0C24));
    }
}
