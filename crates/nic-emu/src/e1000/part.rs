//! The members of the family that are modelled, and what tells them apart.

use serde::{Deserialize, Serialize};

use super::regs::{BAR0_SIZE, Reg};
use crate::pci::{Bar, BarKind, Capability, Function, Identity};

/// BAR of the registers: 128 KiB of memory.
pub const REGISTER_BAR: u8 = 0;

/// BAR of the flash, if one is fitted: memory of its size.
pub const FLASH_BAR: u8 = 1;

/// BAR of the port pair IOADDR and IODATA.
pub const IO_BAR: u8 = 2;

fn bars(flash: Option<u32>) -> Vec<Bar> {
    let memory = |index, size| Bar {
        index,
        kind: BarKind::Mem32,
        size,
    };
    let ports = Bar {
        index: IO_BAR,
        kind: BarKind::Io,
        size: 64,
    };
    let registers = memory(REGISTER_BAR, BAR0_SIZE);
    let flash = flash.map(|size| memory(FLASH_BAR, size));
    [Some(registers), flash, Some(ports)]
        .into_iter()
        .flatten()
        .collect()
}

/// Power management version 2, as real parts have it: D0 and D3hot, PME from D0 and both kinds of D3, 4 W. Going back to
/// D0 resets the function. PME_En and PME_Status are [`Pme`](super::Pme)'s.
const POWER_MANAGEMENT: Capability = Capability {
    offset: 0xDC,
    id: 0x01,
    bytes: &[0x22, 0xC8, 0x00, 0x20, 0x00, 0x28],
    writable: &[0, 0, 0x03, 0x01, 0, 0],
};

/// PCI-X, as a part says it that is in a conventional slot of 32 bits: one read of 2048 bytes outstanding. Enable Relaxed
/// Ordering is set; the command register holds what is written, and nothing comes of it.
const fn pci_x(status: &'static [u8; 6]) -> Capability {
    Capability {
        offset: 0xE4,
        id: 0x07,
        bytes: status,
        writable: &[0x7F, 0, 0, 0, 0, 0],
    }
}

const CAPABILITIES: &[Capability] = &[
    POWER_MANAGEMENT,
    pci_x(&[0x02, 0x00, 0x00, 0x00, 0x40, 0x04]),
];

/// The same for a device of 64 bits and 133 MHz.
const CAPABILITIES_WIDE: &[Capability] = &[
    POWER_MANAGEMENT,
    pci_x(&[0x02, 0x00, 0x00, 0x00, 0x43, 0x04]),
];

/// Where the MSI capability is.
const MSI: u8 = 0xF0;

/// Medium timing of DEVSEL, 66 MHz.
const STATUS: u16 = 0x0220;

/// A member of the 8254x family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// 82540EM, of the PRO/1000 MT Desktop.
    #[default]
    I82540Em,
    /// 82545EM with copper, of the PRO/1000 MT Server.
    I82545Em,
    /// 82544GC with copper, of the PRO/1000 T Desktop.
    I82544Gc,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::I82540Em, Self::I82545Em, Self::I82544Gc];

    /// Device ID.
    pub fn device(self) -> u16 {
        match self {
            Self::I82540Em => 0x100E,
            Self::I82545Em => 0x100F,
            Self::I82544Gc => 0x100C,
        }
    }

    /// The subsystem ID of Intel's own card with this part.
    pub fn subsystem(self) -> u16 {
        match self {
            Self::I82540Em => 0x001E,
            Self::I82545Em => 0x1001,
            Self::I82544Gc => 0x1112,
        }
    }

    /// Lower half of the identifier of the PHY: 88E1011 or, in the older part, 88E1000; revision 4, whose clock drivers
    /// leave alone.
    pub(super) fn phy(self) -> u16 {
        match self {
            Self::I82540Em | Self::I82545Em => 0x0C24,
            Self::I82544Gc => 0x0C34,
        }
    }

    /// The word of the EEPROM and the bit of it that enable APM wake-up (manual, initialization control words 2 and 3).
    pub(super) fn apm(self) -> (u8, u16) {
        match self {
            Self::I82544Gc => (0x0F, 1 << 2),
            Self::I82540Em | Self::I82545Em => (0x24, 1 << 10),
        }
    }

    /// Whether the part has this register; the manual marks those that the 82544 lacks.
    pub fn has(self, reg: Reg) -> bool {
        self != Self::I82544Gc
            || !matches!(
                reg,
                Reg::ITR
                    | Reg::RADV
                    | Reg::TADV
                    | Reg::RSRPD
                    | Reg::LEDCTL
                    | Reg::TSPMT
                    | Reg::MANC
                    | Reg::IP6AT
            )
    }

    /// The PCI function, with a flash of this size.
    pub(super) fn function(self, subsystem: (u16, u16), msi: bool, flash: Option<u32>) -> Function {
        let (subsystem_vendor, subsystem_id) = subsystem;
        Function {
            identity: Identity {
                vendor: 0x8086,
                device: self.device(),
                revision: match self {
                    Self::I82540Em | Self::I82544Gc => 2,
                    Self::I82545Em => 1,
                },
                class: 0x02_0000,
                subsystem_vendor,
                subsystem_id,
                status: STATUS,
                min_gnt: 0xFF,
                max_lat: 0,
                interrupt_pin: 1,
            },
            bars: bars(flash),
            capabilities: match self {
                Self::I82545Em => CAPABILITIES_WIDE,
                Self::I82540Em | Self::I82544Gc => CAPABILITIES,
            },
            msi: msi.then_some(MSI),
            rom: flash,
        }
    }
}
