//! Register accesses of the guest: BAR0, and the window to it in the I/O BAR.
//!
//! Only aligned 32-bit accesses are defined (8254x manual, section 13.2). Of all others this model makes what can do no
//! harm: a read extracts its bytes from the dwords it touches, each read once; a write reaches the dwords that it covers
//! whole and no others. Offsets where nothing answers read 0 and take no writes. None of this fails.

use super::bits::{cause, ctrl, ctrl_ext, delay, eecd, eerd, mdic, tctl};
use super::flow::Pause;
use super::regs::{BAR0_SIZE, PBM, Reg};
use super::{Control, IO_BAR, Kick, REGISTER_BAR, wake};
use crate::Time;
use crate::common::eeprom::Pins;

/// Address of the PHY on the MDIO bus.
const PHY_ADDRESS: u32 = 1;

/// I/O BAR: the offset of the register that IODATA reaches.
const IOADDR: u64 = 0;

/// I/O BAR: the register at IOADDR.
pub(super) const IODATA: u64 = 4;

/// The packet buffer in KiB, divided between receive and transmit by PBA.
pub(super) const PACKET_BUFFER: u32 = 64;

/// Words of the packet buffer window.
pub(super) const PACKET_BUFFER_WORDS: usize = ((BAR0_SIZE - PBM) / 4) as usize;

/// PBA when `rxa` KiB are for receiving.
pub(super) fn divide_packet_buffer(rxa: u32) -> u32 {
    PACKET_BUFFER.saturating_sub(rxa) << 16 | rxa
}

impl Control {
    /// Reads `data.len()` bytes at `offset` of a BAR.
    pub fn read(&mut self, bar: u8, offset: u64, data: &mut [u8], now: Time) {
        if let Some((flash, at)) = self.flash_at(bar, offset) {
            return flash.read(at, data);
        }
        self.count_odd(offset, data.len());
        data.fill(0);
        for (address, at, len) in dwords(offset, data.len()) {
            let skip = (offset + at as u64 - address) as usize;
            let dword = match bar {
                REGISTER_BAR => self.read_register(address, now),
                IO_BAR => self.read_port(address, now),
                _ => break,
            };
            data[at..at + len].copy_from_slice(&dword.to_le_bytes()[skip..skip + len]);
        }
    }

    /// Writes `data` at `offset` of a BAR, and says whom the write concerns.
    pub fn write(&mut self, bar: u8, offset: u64, data: &[u8], now: Time) -> Kick {
        if self.write_flash(bar, offset, data) {
            return Kick::empty();
        }
        self.count_odd(offset, data.len());
        let mut kick = Kick::empty();
        for (address, at, len) in dwords(offset, data.len()) {
            let Ok(bytes) = data[at..at + len].try_into() else {
                continue;
            };
            let value = u32::from_le_bytes(bytes);
            kick |= match bar {
                REGISTER_BAR => self.write_register(address, value, now),
                IO_BAR => self.write_port(address, value, now),
                _ => break,
            };
        }
        kick
    }

    fn count_odd(&self, offset: u64, len: usize) {
        self.shared
            .counters
            .odd_accesses
            .add(u64::from(!offset.is_multiple_of(4) || len != 4));
    }

    fn read_port(&mut self, port: u64, now: Time) -> u32 {
        match port {
            IOADDR => self.ioaddr,
            IODATA if self.ioaddr.is_multiple_of(4) => self.read_register(self.ioaddr.into(), now),
            _ => 0,
        }
    }

    fn write_port(&mut self, port: u64, value: u32, now: Time) -> Kick {
        match port {
            IOADDR => self.ioaddr = value,
            IODATA if self.ioaddr.is_multiple_of(4) => {
                return self.write_register(self.ioaddr.into(), value, now);
            }
            _ => {}
        }
        Kick::empty()
    }

    fn read_register(&mut self, address: u64, now: Time) -> u32 {
        let offset = match u32::try_from(address) {
            Ok(offset @ PBM..BAR0_SIZE) => {
                return self
                    .packet_buffer
                    .as_ref()
                    .map_or(0, |words| words[((offset - PBM) / 4) as usize]);
            }
            Ok(offset) => offset,
            Err(_) => u32::MAX,
        };
        let Some((reg, n)) = self.register_at(offset) else {
            self.shared.counters.unknown_registers.add(1);
            return 0;
        };
        match reg {
            Reg::EECD => {
                let value = self.shared.regs.get(Reg::EECD);
                let data_out = if self.eeprom.data_out() { eecd::DO } else { 0 };
                let grant = if value & eecd::REQ != 0 { eecd::GNT } else { 0 };
                value | data_out | grant | eecd::PRES
            }
            Reg::STATUS => self.show_pause(now),
            Reg::ICR => self.shared.irq.acknowledge(now),
            Reg::ICS => self.shared.irq.causes(now),
            _ => self.shared.regs.read(reg, n),
        }
    }

    fn write_register(&mut self, address: u64, value: u32, now: Time) -> Kick {
        let offset = match u32::try_from(address) {
            Ok(offset @ PBM..BAR0_SIZE) => {
                let words = self
                    .packet_buffer
                    .get_or_insert_with(|| vec![0; PACKET_BUFFER_WORDS].into());
                words[((offset - PBM) / 4) as usize] = value;
                return Kick::empty();
            }
            Ok(offset) => offset,
            Err(_) => u32::MAX,
        };
        let Some((reg, n)) = self.register_at(offset) else {
            self.shared.counters.unknown_registers.add(1);
            return Kick::empty();
        };
        match reg {
            Reg::CTRL => return self.write_ctrl(value, now),
            Reg::EECD => {
                self.shared.regs.write(reg, n, value);
                let pin = |bit| value & bit != 0;
                self.eeprom.drive(Pins {
                    cs: pin(eecd::CS),
                    sk: pin(eecd::SK),
                    di: pin(eecd::DI),
                });
            }
            Reg::EERD => self.shared.regs.set(reg, self.read_eeprom(value)),
            Reg::CTRL_EXT => {
                self.shared.regs.write(reg, n, value);
                if value & ctrl_ext::EE_RST != 0 {
                    self.load_address();
                    return self.load_apm();
                }
            }
            Reg::MDIC => return self.write_mdic(value, now),
            Reg::PBA => {
                let rxa = value & reg.row().mask;
                self.shared.regs.set(reg, divide_packet_buffer(rxa));
            }
            Reg::ICR => self.shared.irq.clear(value, now),
            Reg::ICS => self.shared.irq.raise(value),
            Reg::IMS => self.shared.irq.enable(value),
            Reg::IMC => self.shared.irq.disable(value),
            Reg::WUC => {
                return self
                    .change_wake_up(|regs| wake::write_control(regs, reg.row().mask, value));
            }
            Reg::WUFC | Reg::WUS => return self.change_wake_up(|regs| regs.write(reg, n, value)),
            Reg::TCTL => {
                self.shared.regs.write(reg, n, value);
                // Clears itself.
                if value & tctl::SWXOFF != 0 {
                    self.shared.flow.ask(Pause::Xoff);
                }
            }
            _ => self.shared.regs.write(reg, n, value),
        }
        match reg {
            Reg::RDTR if value & delay::FPD != 0 => self.shared.irq.flush_rx(),
            Reg::TIDV if value & delay::FPD != 0 => self.shared.irq.flush_tx(),
            // EN may come after the tail that announces work.
            Reg::RDT | Reg::RCTL => return Kick::RX,
            Reg::TDT | Reg::TCTL => return Kick::TX,
            _ => {}
        }
        Kick::empty()
    }

    /// The register of this part at an offset, and the element of it.
    fn register_at(&self, offset: u32) -> Option<(Reg, usize)> {
        Reg::at(offset).filter(|&(reg, _)| self.part().has(reg))
    }

    fn write_ctrl(&mut self, value: u32, now: Time) -> Kick {
        if value & ctrl::RST != 0 {
            self.shared.counters.mac_resets.add(1);
            let kick = self.reset_mac(now);
            if value & ctrl::PHY_RST == 0 {
                return kick;
            }
            self.phy.reset(now);
            return kick | self.settle_link();
        }
        self.shared.regs.write(Reg::CTRL, 0, value);
        if value & ctrl::RFCE == 0 {
            self.shared.flow.resume();
        }
        self.phy.hold_reset(value & ctrl::PHY_RST != 0, now);
        self.settle_link()
    }

    /// EERD in the small format. Bit 1, which later parts call DONE, must stay 0: iPXE looks there first.
    fn read_eeprom(&self, value: u32) -> u32 {
        let address = value & Reg::EERD.row().mask;
        if value & eerd::START == 0 {
            return address;
        }
        let data = self.eeprom.word((address >> eerd::ADDR_SHIFT) as u8);
        u32::from(data) << eerd::DATA_SHIFT | address | eerd::DONE
    }

    /// A command to the PHY, complete by the time the write is.
    fn write_mdic(&mut self, value: u32, now: Time) -> Kick {
        let reg = (value >> mdic::REG_SHIFT & 0x1F) as u8;
        let data = (value & mdic::DATA) as u16;
        let mut answer = value & Reg::MDIC.row().mask | mdic::READY;
        match (
            value >> mdic::PHY_SHIFT & 0x1F,
            value >> mdic::OP_SHIFT & 0b11,
        ) {
            (PHY_ADDRESS, mdic::OP_READ) => {
                answer = answer & !mdic::DATA | u32::from(self.phy.read(reg))
            }
            (PHY_ADDRESS, mdic::OP_WRITE) => self.phy.write(reg, data, now),
            _ => {
                self.shared.counters.mdio_errors.add(1);
                answer |= mdic::ERROR;
            }
        }
        self.shared.regs.set(Reg::MDIC, answer);
        if value & mdic::INT_EN != 0 {
            self.shared.irq.raise(cause::MDAC);
        }
        self.settle_link()
    }
}

/// The dwords that an access touches: (address of the dword, first byte of the access in it, bytes of the access in it).
/// Ends where addresses do.
fn dwords(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let address = offset.checked_add(at as u64).filter(|_| at < len)?;
        let part = (at, (4 - address as usize % 4).min(len - at));
        at += part.1;
        Some((address & !3, part.0, part.1))
    })
}

#[cfg(test)]
#[path = "mmio_tests.rs"]
mod tests;
