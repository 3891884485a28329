//! The NICs that can be emulated.

use std::str::FromStr;

use crate::error::UsageError;

/// A NIC that can be emulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Model {
    /// Intel 82540EM, the PRO/1000 MT Desktop.
    #[default]
    E1000,
}

impl Model {
    /// All of them, the default first.
    pub const ALL: [Self; 1] = [Self::E1000];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::E1000 => "e1000",
        }
    }

    /// What it is, for people.
    pub fn description(self) -> &'static str {
        match self {
            Self::E1000 => {
                "Intel 82540EM Gigabit Ethernet (8086:100e), drivers: Linux e1000, FreeBSD em, DPDK em"
            }
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
