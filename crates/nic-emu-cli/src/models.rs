//! The NICs that can be emulated.

use std::str::FromStr;

use nic_emu::e1000::Part;

use crate::error::UsageError;

/// A NIC that can be emulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Model {
    /// Intel 82540EM, the PRO/1000 MT Desktop.
    #[default]
    E1000,
    /// Intel 82545EM, the PRO/1000 MT Server.
    E1000_82545Em,
    /// Intel 82544GC, the PRO/1000 T Desktop.
    E1000_82544Gc,
}

impl Model {
    /// All of them, the default first.
    pub const ALL: [Self; 3] = [Self::E1000, Self::E1000_82545Em, Self::E1000_82544Gc];

    /// The name on the command line: that of QEMU's device.
    pub fn name(self) -> &'static str {
        match self {
            Self::E1000 => "e1000",
            Self::E1000_82545Em => "e1000-82545em",
            Self::E1000_82544Gc => "e1000-82544gc",
        }
    }

    /// What it is, for people.
    pub fn description(self) -> &'static str {
        match self {
            Self::E1000 => {
                "Intel 82540EM Gigabit Ethernet (8086:100e), drivers: Linux e1000, FreeBSD em, DPDK em"
            }
            Self::E1000_82545Em => {
                "Intel 82545EM Gigabit Ethernet, copper (8086:100f), drivers: as e1000, VMware's guests"
            }
            Self::E1000_82544Gc => {
                "Intel 82544GC Gigabit Ethernet, copper (8086:100c), drivers: Linux e1000, FreeBSD em"
            }
        }
    }

    /// The part that the NIC is made of.
    pub fn part(self) -> Part {
        match self {
            Self::E1000 => Part::I82540Em,
            Self::E1000_82545Em => Part::I82545Em,
            Self::E1000_82544Gc => Part::I82544Gc,
        }
    }

    /// The NIC that is made of this part.
    pub fn of(part: Part) -> Self {
        match part {
            Part::I82540Em => Self::E1000,
            Part::I82545Em => Self::E1000_82545Em,
            Part::I82544Gc => Self::E1000_82544Gc,
        }
    }
}

impl FromStr for Model {
    type Err = UsageError;

    fn from_str(name: &str) -> Result<Self, UsageError> {
        let known = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|model| model.name() == name);
        found.ok_or_else(|| UsageError(format!("model {name} is unknown; there is {}", known())))
    }
}
