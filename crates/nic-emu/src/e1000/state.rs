//! A running 82540EM in bytes, to be continued elsewhere.
//!
//! Control and queues are saved and restored one by one, each by whoever owns it, while the NIC is stopped: control
//! answers registers as ever, and the queues are not called. Stopping a queue ends with its `stop` function, which waits
//! for nobody: what is on its way into memory that has to be asked for arrives before the guest runs again. [`State`]
//! joins the parts.
//!
//! A state comes from anybody. [`State::decode`] refuses what cannot be a state at all; everything else is restored as
//! if a guest had written it to the registers, through the same masks, so that no state is reached which a driver
//! could not have reached too. What follows from something else (STATUS, the EEPROM's pins, the link) is not saved but
//! worked out. Times are saved as what is left of them, since the next clock is another one.
//!
//! What belongs to the host stays behind: the cable, the counters, the EEPROM as the next owner will find it.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::bits::{ctrl, eecd, eerd, mdic, wuc};
use super::flow::SavedFlow;
use super::irq::SavedIrq;
use super::mmio::{PACKET_BUFFER_WORDS, divide_packet_buffer};
use super::regs::{Access, Domain, Reg, Row};
pub use super::rx::RxState;
pub use super::tx::TxState;
use super::wake::SavedWake;
use super::{Control, Kick, Part};
use crate::Time;
use crate::common::eeprom::{Pins, SavedEeprom};
use crate::common::flash::{Flash, SavedFlash};
use crate::common::phy::SavedPhy;

/// Longest state in bytes: packet buffer, an unfinished packet, a held frame, a full FIFO, 64 KiB for the rest, and the
/// largest flash.
pub const MAX_STATE: usize = (384 + 520) << 10;

/// Bytes that are no state of an 82540EM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidState {
    /// Longer than [`MAX_STATE`].
    #[error("{0} bytes are more than a state has")]
    TooLong(usize),
    /// They end too early or too late, or are of a version that is not known here.
    #[error("the bytes make no state, or one of a later version")]
    Malformed,
    /// There is no such register.
    #[error("there is no register at {0:#x}")]
    Register(u32),
    /// The packet buffer does not have its size.
    #[error("a packet buffer of {0} words")]
    PacketBuffer(usize),
    /// The flash is none that there is.
    #[error("the flash is impossible")]
    Flash,
    /// The unfinished packet is longer than any packet.
    #[error("an unfinished packet of {0} bytes")]
    Packet(usize),
    /// It is of another part.
    #[error("the state is that of another model")]
    Part,
    /// A frame that waits for descriptors is none that could.
    #[error("the held frame is impossible: {0}")]
    Frame(&'static str),
}

/// A stopped 82540EM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Registers, EEPROM, PHY, interrupts.
    pub control: ControlState,
    /// The transmit queue.
    pub tx: TxState,
    /// The receive queue.
    pub rx: RxState,
}

/// All versions there have been. A new one goes to the end, an old one never changes. The letters are the parts
/// of a state, or references to them.
#[derive(Serialize, Deserialize)]
enum Versioned<C, T, R, L, W, G, F> {
    V1(C, T, R),
    V2(C, T, R, L),
    V3(C, T, R, L, W),
    V4(C, T, R, L, W, G, F),
}

impl State {
    /// Which NIC it is of. To restore it in another part is an error that whoever does so has to find.
    pub fn part(&self) -> Part {
        self.control.later.part
    }

    /// Bytes of the flash of that NIC, if one was fitted. The same goes for these.
    pub fn flash_size(&self) -> Option<usize> {
        self.control.flash.as_ref().map(SavedFlash::size)
    }

    /// Appends the state as bytes, at most [`MAX_STATE`]. The version is the oldest that can say it, so that a NIC which
    /// uses nothing new can go back to where it came from.
    pub fn encode(&self, to: &mut Vec<u8>) {
        let ControlState {
            first,
            later,
            wake,
            flash,
        } = &self.control;
        let TxState { first: tx, tagged } = &self.tx;
        let rx = &self.rx;
        let news = [
            *later != Later::default(),
            *wake != SavedWake::default(),
            tagged.is_some() || flash.is_some(),
        ];
        let versioned = match news {
            [false, false, false] => Versioned::V1(first, tx, rx),
            [true, false, false] => Versioned::V2(first, tx, rx, later),
            [_, true, false] => Versioned::V3(first, tx, rx, later, wake),
            [_, _, true] => Versioned::V4(first, tx, rx, later, wake, tagged, flash),
        };
        let all = postcard::to_extend(&versioned, std::mem::take(to));
        *to = all.expect("memory takes everything");
    }

    /// The state that these bytes are.
    ///
    /// # Errors
    ///
    /// [`InvalidState`] if they are none. Whatever is accepted can be restored.
    pub fn decode(bytes: &[u8]) -> Result<State, InvalidState> {
        if bytes.len() > MAX_STATE {
            return Err(InvalidState::TooLong(bytes.len()));
        }
        let Ok((versioned, [])) = postcard::take_from_bytes(bytes) else {
            return Err(InvalidState::Malformed);
        };
        let (later, wake) = Default::default();
        let (first, tx, rx, later, wake, tagged, flash) = match versioned {
            Versioned::V1(first, tx, rx) => (first, tx, rx, later, wake, None, None),
            Versioned::V2(first, tx, rx, later) => (first, tx, rx, later, wake, None, None),
            Versioned::V3(first, tx, rx, later, wake) => (first, tx, rx, later, wake, None, None),
            Versioned::V4(first, tx, rx, later, wake, tagged, flash) => {
                (first, tx, rx, later, wake, tagged, flash)
            }
        };
        let control = ControlState {
            first,
            later,
            wake,
            flash,
        };
        let tx = TxState { first: tx, tagged };
        let state = State { control, tx, rx };
        state.control.check()?;
        state.tx.check()?;
        state.rx.check()?;
        Ok(state)
    }
}

/// What [`Control::save`] saves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlState {
    first: First,
    later: Later,
    wake: SavedWake,
    /// Since version 4.
    flash: Option<SavedFlash>,
}

impl ControlState {
    fn check(&self) -> Result<(), InvalidState> {
        if self
            .flash
            .as_ref()
            .is_some_and(|flash| !flash.is_possible())
        {
            return Err(InvalidState::Flash);
        }
        self.first.check()
    }
}

/// What version 2 knows beyond version 1. Its default means nothing to a NIC that has just been reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Later {
    part: Part,
    flow: SavedFlow,
}

/// What version 1 knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct First {
    /// Offset and value of each register; elements of arrays only where they are not 0.
    registers: Vec<(u32, u32)>,
    irq: SavedIrq,
    eeprom: SavedEeprom,
    phy: SavedPhy,
    ioaddr: u32,
    packet_buffer: Option<Vec<u32>>,
}

impl First {
    /// What cannot be put right by masks.
    fn check(&self) -> Result<(), InvalidState> {
        if let Some(words) = &self.packet_buffer
            && words.len() != PACKET_BUFFER_WORDS
        {
            return Err(InvalidState::PacketBuffer(words.len()));
        }
        let unknown = |&&(offset, _): &&(u32, u32)| {
            !offset.is_multiple_of(4) || Reg::at(offset).is_none_or(|(reg, _)| !is_saved(reg))
        };
        match self.registers.iter().find(unknown) {
            Some(&(offset, _)) => Err(InvalidState::Register(offset)),
            None => Ok(()),
        }
    }
}

impl Control {
    /// The state of everything but the queues, which are stopped.
    pub fn save(&self, now: Time) -> ControlState {
        let regs = &self.shared.regs;
        let mut registers = Vec::new();
        for &reg in Reg::ALL.iter().filter(|&&reg| is_saved(reg)) {
            let row = reg.row();
            for n in 0..row.count.into() {
                let value = regs.get_n(reg, n);
                if value != 0 || row.count == 1 {
                    let offset = row.offset + n as u32 * u32::from(row.stride);
                    registers.push((offset, value));
                }
            }
        }
        ControlState {
            first: First {
                registers,
                irq: self.shared.irq.save(now),
                eeprom: self.eeprom.save(),
                phy: self.phy.save(now),
                ioaddr: self.ioaddr,
                packet_buffer: self.packet_buffer.as_ref().map(|words| words.to_vec()),
            },
            later: Later {
                part: self.part(),
                flow: self.shared.flow.save(now),
            },
            wake: SavedWake::of(regs),
            flash: self.flash.as_ref().map(Flash::save),
        }
    }

    /// Continues what another NIC was; the queues are stopped. The cable stays as it is here, so the guest's link may
    /// change if the other one was plugged differently. The bus-master bit belongs to configuration space.
    ///
    /// The queues' own states are for their owners to restore, under the number that
    /// [`Shared::generation`](super::Shared::generation) gives right after this: a reset that comes before they have
    /// done so wins. `Kick` names everybody, for when the NIC runs again.
    pub fn restore(&mut self, state: &ControlState, now: Time) -> Kick {
        let ControlState {
            first: state,
            later,
            wake,
            flash,
        } = state;
        let regs = self.shared.regs.clone();
        regs.reset(Domain::Power);
        wake.restore(&regs);
        for &(offset, value) in &state.registers {
            if let Some((reg, n)) = Reg::at(offset).filter(|&(reg, _)| is_saved(reg)) {
                regs.put(reg, n, as_written(reg, value));
            }
        }
        let pin = |bit| regs.get(Reg::EECD) & bit != 0;
        let pins = Pins {
            cs: pin(eecd::CS),
            sk: pin(eecd::SK),
            di: pin(eecd::DI),
        };
        self.eeprom.restore(&state.eeprom, pins);
        if let (Some(flash), Some(saved)) = (&mut self.flash, flash) {
            flash.restore(saved);
        }
        self.ioaddr = state.ioaddr;
        self.packet_buffer = state.packet_buffer.as_deref().map(Box::from);
        self.shared.irq.restore(&state.irq, now);
        self.shared.flow.restore(&later.flow, now);

        let held = regs.get(Reg::CTRL) & ctrl::PHY_RST != 0;
        let carrier = self.phy.carrier();
        self.phy.restore(&state.phy, held, now);
        // The link as the guest knows it is no news to it.
        let link = self.show_link();
        self.show_pause(now);
        self.shared.link.store(link, Ordering::Release);
        self.phy.set_carrier(carrier, now);
        self.settle_link() | Kick::TX | Kick::RX | Kick::LINK
    }
}

/// Whether a register's value is more than what follows from something else.
fn is_saved(reg: Reg) -> bool {
    // ICS shows ICR.
    !matches!(reg.row().access, Access::Ro | Access::Wo) && reg != Reg::ICS
}

/// The value that a register can have, of what somebody says that it had.
fn as_written(reg: Reg, value: u32) -> u32 {
    let Row { access, mask, .. } = *reg.row();
    match (reg, access) {
        (_, Access::Rc | Access::RcLow | Access::RcHigh) => value,
        (Reg::PBA, _) => divide_packet_buffer(value & mask),
        (Reg::MDIC, _) => value & (mask | mdic::ERROR) | mdic::READY,
        // Data are there once DONE is.
        (Reg::EERD, _) if value & eerd::DONE != 0 => {
            value & (mask | eerd::DONE | u32::MAX << eerd::DATA_SHIFT)
        }
        (Reg::WUC, _) => value & (mask | wuc::PME_STATUS),
        _ => value & mask,
    }
}
