//! Intel 82540EM ("e1000", 8086:100e), the NIC of a PRO/1000 MT Desktop card, and two of its [family](Part).
//!
//! [`new`] gives one [`Control`] and two queues. Control takes register accesses, link changes and resets; the queues
//! move frames. The sources behind what they do are the 8254x Family Software Developer's Manual and the drivers that
//! run on the part.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub mod bits;
pub mod counters;
pub mod desc;
pub mod fields;
mod flash;
pub mod flow;
pub mod irq;
pub mod mmio;
mod part;
pub mod regs;
pub mod rx;
pub mod state;
mod tally;
pub mod tx;
mod wake;

use crate::Time;
use crate::common::eeprom::{self, Eeprom};
use crate::common::flash::Flash;
use crate::common::phy::Phy;
use crate::pci::Function;
use bits::{cause, ctrl, rah, status, wuc};
pub use counters::{Counters, CountersSnapshot};
use flow::Flow;
use irq::Irq;
pub use part::{FLASH_BAR, IO_BAR, Part, REGISTER_BAR};
use regs::{Domain, Reg, Regs};
use rx::RxQueue;
use tx::TxQueue;

bitflags::bitflags! {
    /// Whom a call to [`Control`] concerns, so that the caller can run them.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Kick: u8 {
        /// The transmit queue may have work.
        const TX = 1 << 0;
        /// The receive queue may have room.
        const RX = 1 << 1;
        /// The NIC was reset: queues drop what they hold at their next call, and must not complete what is in flight.
        const RESET = 1 << 2;
        /// The guest's link has changed: see [`Control::link`].
        const LINK = 1 << 3;
        /// The wake-up filters listen from now on ([`Shared::wakes`]): what came before is not for them.
        const WAKE = 1 << 4;
    }
}

/// What stops and resets a NIC from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetKind {
    /// Power-on: the NIC as it came, whatever a guest has written to its EEPROM, unless that is kept
    /// ([`Config::eeprom`]). For the next owner.
    PowerOn,
    /// The bus or this function: RST#, DEVICE_RESET, D3hot to D0. The EEPROM keeps its contents, and what woke the
    /// machine is there for it to see.
    Bus,
}

/// What power management knows of wake-up: the two bits that PMCSR and WUC have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pme {
    /// PME_En: the NIC is to look out for what wakes.
    pub enabled: bool,
    /// PME_Status: something would have woken the machine.
    pub status: bool,
}

/// What makes one NIC differ from the next.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which NIC it is.
    pub part: Part,
    /// Station address, as the EEPROM holds it when it is new.
    pub mac: [u8; 6],
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem_id: u16,
    /// What the EEPROM holds, if it is kept by whoever has the NIC ([`Control::take_eeprom_change`]): address and
    /// subsystem come from there. What drivers write to it survives every reset.
    pub eeprom: Option<[u16; eeprom::WORDS]>,
    /// The flash, which whoever has the NIC keeps ([`Control::take_flash_change`]): a window in [`FLASH_BAR`], and the
    /// expansion ROM. Most cards have none.
    pub flash: Option<Flash>,
    /// The part's MSI capability, which most models of it do without and most drivers do not use.
    pub msi: bool,
}

impl Config {
    /// A PRO/1000 MT Desktop Adapter with this station address.
    pub fn new(mac: [u8; 6]) -> Config {
        Config::of(Part::default(), mac)
    }

    /// Intel's own card with this part and station address.
    pub fn of(part: Part, mac: [u8; 6]) -> Config {
        Config {
            part,
            mac,
            subsystem_vendor: 0x8086,
            subsystem_id: part.subsystem(),
            eeprom: None,
            flash: None,
            msi: false,
        }
    }

    /// What a new EEPROM of this NIC holds.
    pub fn eeprom_image(&self) -> [u16; eeprom::WORDS] {
        *Eeprom::new(eeprom_image(self)).words()
    }
}

/// What control and queues of one NIC share: atomics, nothing else.
#[derive(Debug)]
pub struct Shared {
    /// Which NIC it is.
    pub part: Part,
    /// The registers.
    pub regs: Arc<Regs>,
    /// Interrupt causes, mask, throttle and line.
    pub irq: Irq,
    /// Pause frames, heard and sent.
    pub flow: Flow,
    /// PCI COMMAND.MASTER: without it, no DMA.
    pub bus_master: AtomicBool,
    /// STATUS.LU: the guest has link.
    pub link: AtomicBool,
    /// BMCR.14: the PHY returns what is sent, with or without link.
    pub phy_loopback: AtomicBool,
    /// Moves with each reset: a queue that sees a new value drops what it holds.
    generation: AtomicU64,
    /// For whoever watches.
    pub counters: Counters,
}

impl Shared {
    pub(crate) fn new(part: Part) -> Shared {
        let regs = Arc::new(Regs::default());
        Shared {
            part,
            irq: Irq::new(regs.clone()),
            flow: Flow::default(),
            regs,
            bus_master: AtomicBool::new(false),
            link: AtomicBool::new(false),
            phy_loopback: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            counters: Counters::default(),
        }
    }

    /// When something happens by itself that whoever owns the control has to look at: the interrupt line
    /// ([`Irq::deadline`]), or flow control, which is part of [`Control::deadline`].
    pub fn deadline(&self) -> Option<Time> {
        [self.irq.deadline(), self.flow.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether the receiver is on and may do DMA: what arrives otherwise is lost.
    pub fn receives(&self) -> bool {
        self.regs.get(Reg::RCTL) & bits::rctl::EN != 0 && self.bus_master.load(Ordering::Acquire)
    }

    /// Whether frames that arrive are held against the wake-up filters, with the receiver on or off.
    #[inline]
    pub fn wakes(&self) -> bool {
        wake::filters(&self.regs) != 0
    }

    /// The number of resets so far.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

/// A new NIC, its cable not yet plugged: one control, one transmit and one receive queue.
pub fn new(config: &Config) -> (Control, TxQueue, RxQueue) {
    let control = Control::new(config);
    let (tx, rx) = (
        TxQueue::new(control.shared().clone()),
        RxQueue::new(control.shared().clone()),
    );
    (control, tx, rx)
}

/// The control half of a NIC: registers, EEPROM, PHY and resets. It never touches guest memory.
///
/// After each call the caller runs what [`Kick`] names, and brings the interrupt line to what
/// [`Irq::poll`] says; it calls [`run_timers`](Control::run_timers) at [`deadline`](Control::deadline).
#[derive(Debug)]
pub struct Control {
    shared: Arc<Shared>,
    function: Function,
    eeprom: Eeprom,
    /// What the EEPROM holds at power-on, unless that is what it held before.
    eeprom_image: Option<[u16; eeprom::WORDS]>,
    flash: Option<Flash>,
    phy: Phy,
    ioaddr: u32,
    /// The packet buffer window, from its first write on.
    packet_buffer: Option<Box<[u32]>>,
    /// How far the last reset reached into what queues write.
    reach: Domain,
}

impl Control {
    pub(crate) fn new(config: &Config) -> Control {
        let image = config.eeprom_image();
        let eeprom = Eeprom::with(config.eeprom.unwrap_or(image));
        let subsystem = match eeprom.word(INIT_CONTROL_1) & (SIGNATURE | LOAD_SUBSYSTEM) {
            LOADED => (eeprom.word(SUBSYSTEM_VENDOR), eeprom.word(SUBSYSTEM_ID)),
            _ => (config.subsystem_vendor, config.subsystem_id),
        };
        let flash_size = config.flash.as_ref().map(|flash| flash.size() as u32);
        let mut control = Control {
            shared: Arc::new(Shared::new(config.part)),
            function: config.part.function(subsystem, config.msi, flash_size),
            eeprom_image: config.eeprom.is_none().then_some(image),
            eeprom,
            flash: config.flash.clone(),
            phy: Phy::new(config.part.phy()),
            ioaddr: 0,
            packet_buffer: None,
            reach: Domain::Mac,
        };
        control.load_address();
        control.load_apm();
        control.settle_link();
        control
    }

    /// What the queues see too.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The PCI function to put on the bus.
    pub fn pci(&self) -> &Function {
        &self.function
    }

    /// Which NIC this is.
    pub fn part(&self) -> Part {
        self.shared.part
    }

    /// The station address in the EEPROM.
    pub fn mac(&self) -> [u8; 6] {
        let [a, b, c] = [0, 1, 2].map(|address| self.eeprom.word(address).to_le_bytes());
        [a[0], a[1], b[0], b[1], c[0], c[1]]
    }

    /// What the EEPROM holds, if that is not what it held at the last call or in the beginning: for whoever keeps it.
    pub fn take_eeprom_change(&mut self) -> Option<&[u16; eeprom::WORDS]> {
        self.eeprom.take_change().then(|| self.eeprom.words())
    }

    /// What this NIC has counted for whoever watches it.
    pub fn counters(&self) -> CountersSnapshot {
        self.shared.counters.snapshot()
    }

    /// The guest has link: the cable is in, the PHY is up and CTRL.SLU lets the MAC see it.
    pub fn link(&self) -> bool {
        self.shared.link.load(Ordering::Acquire)
    }

    /// Plugs or pulls the cable. The guest's link follows: down at once, up after auto-negotiation.
    pub fn set_link(&mut self, up: bool, now: Time) -> Kick {
        self.phy.set_carrier(up, now);
        self.settle_link()
    }

    /// PCI COMMAND.MASTER. Work announced while it was off starts when it comes on.
    pub fn set_bus_master(&mut self, on: bool) -> Kick {
        self.shared.bus_master.store(on, Ordering::Release);
        if on {
            Kick::TX | Kick::RX
        } else {
            Kick::empty()
        }
    }

    /// PME_En and PME_Status, for PMCSR.
    pub fn pme(&self) -> Pme {
        let control = self.shared.regs.get(Reg::WUC);
        Pme {
            enabled: control & wuc::PME_EN != 0,
            status: control & wuc::PME_STATUS != 0,
        }
    }

    /// A write of PME_En to PMCSR, with a 1 for PME_Status or not, which clears it. The power state is no more to the NIC
    /// than that outside D0 there is no bus mastering and no access.
    pub fn write_pme(&mut self, enabled: bool, clear_status: bool) -> Kick {
        let bit = |on, bit| if on { bit } else { 0 };
        let value = bit(enabled, wuc::PME_EN) | bit(clear_status, wuc::PME_STATUS);
        self.change_wake_up(|regs| wake::write_control(regs, wuc::PME_EN, value))
    }

    /// Changes what the wake-up filters go by.
    fn change_wake_up(&self, change: impl FnOnce(&Regs)) -> Kick {
        let before = self.shared.wakes();
        change(&self.shared.regs);
        match (before, self.shared.wakes()) {
            (false, true) => Kick::RX | Kick::WAKE,
            (true, false) => Kick::RX,
            _ => Kick::empty(),
        }
    }

    /// When [`run_timers`](Control::run_timers) has something to do. An idle NIC wants nothing.
    pub fn deadline(&self) -> Option<Time> {
        [self.phy.deadline(), self.shared.flow.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due by now.
    pub fn run_timers(&mut self, now: Time) -> Kick {
        self.phy.run(now);
        let mut kick = self.settle_link();
        if self.shared.flow.run(now) {
            self.show_pause(now);
            kick |= Kick::TX;
        }
        kick
    }

    /// Resets everything but the cable, the flash's contents and, unless it is [`ResetKind::PowerOn`], the EEPROM's. The bus-master
    /// bit belongs to configuration space.
    pub fn reset(&mut self, kind: ResetKind, now: Time) -> Kick {
        if let (ResetKind::PowerOn, Some(image)) = (kind, self.eeprom_image) {
            self.eeprom = Eeprom::with(image);
        }
        if let Some(flash) = &mut self.flash {
            flash.reset();
        }
        let reach = match kind {
            ResetKind::PowerOn => Domain::Power,
            ResetKind::Bus => Domain::Wake,
        };
        self.shared.regs.reset(reach);
        self.load_apm();
        self.phy.reset(now);
        self.ioaddr = 0;
        self.packet_buffer = None;
        let kick = self.reset_mac(now);
        self.reach = reach;
        kick
    }

    /// CTRL.RST: MAC, rings, filters, masks, statistics and timers; not the PHY, nor wake-up and management.
    fn reset_mac(&mut self, now: Time) -> Kick {
        self.reach = Domain::Mac;
        self.shared.regs.reset(Domain::Mac);
        self.shared.generation.fetch_add(1, Ordering::AcqRel);
        self.eeprom.drive(eeprom::Pins::default());
        self.load_address();
        // CTRL has let go of the PHY's reset pin.
        self.phy.hold_reset(false, now);
        let kick = Kick::RESET | self.settle_link();
        self.shared.irq.reset();
        self.shared.flow.reset();
        kick
    }

    /// Queues on other threads have seen the last reset: wipes what they were writing when it came, the heads of the
    /// rings, statistics, causes, a wake-up. Nothing may have been written to a register in between.
    pub fn settle_reset(&mut self) {
        self.shared.regs.reset(self.reach);
        self.load_address();
        if self.reach > Domain::Mac {
            self.load_apm();
        }
        let _ = self.settle_link();
        self.shared.irq.reset();
        self.shared.flow.reset();
    }

    /// Loads the station address from the EEPROM into receive address 0.
    fn load_address(&self) {
        let [low, middle, high] = [0, 1, 2].map(|address| u32::from(self.eeprom.word(address)));
        self.shared.regs.set_n(Reg::RAL, 0, middle << 16 | low);
        self.shared.regs.set_n(Reg::RAH, 0, rah::AV | high);
    }

    /// Loads from the EEPROM whether magic packets are looked out for from power-on.
    fn load_apm(&self) -> Kick {
        let (address, bit) = self.part().apm();
        let valid = self.eeprom.word(INIT_CONTROL_1) & SIGNATURE == VALID;
        let apme = match valid && self.eeprom.word(address) & bit != 0 {
            true => wuc::APME,
            false => 0,
        };
        self.change_wake_up(|regs| wake::write_control(regs, wuc::APME | wuc::APMPME, apme))
    }

    /// Brings what shows of the PHY up to date with it and with CTRL, and tells the guest if the link has changed.
    fn settle_link(&mut self) -> Kick {
        let link = self.show_link();
        if self.phy.take_interrupt() {
            self.shared.irq.raise(cause::PHYINT);
        }
        if self.shared.link.swap(link, Ordering::AcqRel) == link {
            return Kick::empty();
        }
        self.shared.irq.raise(cause::LSC);
        wake::link_changed(&self.shared.regs);
        if !link {
            self.shared.flow.resume();
        }
        Kick::LINK
    }

    /// Brings STATUS.TXOFF up to date.
    fn show_pause(&self, now: Time) -> u32 {
        let Shared { regs, flow, .. } = &*self.shared;
        let paused = if flow.is_paused(now) {
            status::TXOFF
        } else {
            0
        };
        let value = regs.get(Reg::STATUS) & !status::TXOFF | paused;
        regs.set(Reg::STATUS, value);
        value
    }

    /// Brings what shows of the PHY up to date; whether the guest has link.
    fn show_link(&mut self) -> bool {
        let regs = &self.shared.regs;
        let ctrl = regs.get(Reg::CTRL);
        let link = self.phy.link().filter(|_| ctrl & ctrl::SLU != 0);
        // Without a link to go by, and where CTRL forces them, speed and duplex are what CTRL asks for.
        let asked = (ctrl & ctrl::SPEED) >> ctrl::SPEED_SHIFT;
        let speed = link
            .filter(|_| ctrl & ctrl::FRCSPD == 0)
            .map_or(asked.min(2), |link| link.speed as u32);
        let duplex = link
            .filter(|_| ctrl & ctrl::FRCDPX == 0)
            .map_or(ctrl & ctrl::FD != 0, |link| link.full_duplex);
        let paused = regs.get(Reg::STATUS) & status::TXOFF;
        let mut value = paused | speed << status::SPEED_SHIFT | speed << status::ASDV_SHIFT;
        if duplex {
            value |= status::FD;
        }
        if link.is_some() {
            value |= status::LU;
        }
        regs.set(Reg::STATUS, value);
        self.shared
            .phy_loopback
            .store(self.phy.loopback(), Ordering::Release);
        link.is_some()
    }
}

/// Words of the EEPROM that the NIC itself looks at.
const INIT_CONTROL_1: u8 = 0x0A;
const SUBSYSTEM_ID: u8 = 0x0B;
const SUBSYSTEM_VENDOR: u8 = 0x0C;

/// Initialization control word 1: the words are valid, and the subsystem is to be loaded.
const SIGNATURE: u16 = 0b11 << 14;
const LOAD_SUBSYSTEM: u16 = 1 << 1;
const VALID: u16 = 0b01 << 14;
const LOADED: u16 = VALID | LOAD_SUBSYSTEM;

/// The EEPROM's words as drivers expect them (8254x manual, chapter 5). What no driver reads is left erased.
fn eeprom_image(config: &Config) -> [u16; eeprom::WORDS] {
    let mut words = [0xFFFF; eeprom::WORDS];
    for (word, pair) in words.iter_mut().zip(config.mac.chunks_exact(2)) {
        *word = u16::from_le_bytes([pair[0], pair[1]]);
    }
    words[0x03] = 0x0000; // compatibility
    words[0x08] = 0x0000; // board number: none
    words[0x09] = 0x0000;
    words[0x0A] = 0x640B; // init control 1: load IDs from here, power management
    words[0x0B] = config.subsystem_id;
    words[0x0C] = config.subsystem_vendor;
    words[0x0D] = config.part.device();
    words[0x0E] = 0x8086;
    words[0x0F] = 0x3040; // init control 2: full pause
    words[0x24] = 0x0000; // init control 3: no APM wake-up
    words
}

// Not inside: the model check has the file by itself.
#[cfg(test)]
mod irq_tests;

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
