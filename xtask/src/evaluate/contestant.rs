//! The NICs that are compared.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::stage::Maker;

/// A NIC, with whoever makes it.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contestant {
    /// nic-emu's e1000.
    NicEmu,
    /// The same, by a daemon that looks out for work for a while before it sleeps (`--busy-poll`).
    NicEmuPoll,
    /// QEMU's e1000: the same hardware, in the hypervisor's own process.
    E1000,
    /// QEMU's e1000e.
    E1000e,
    /// QEMU's igb.
    Igb,
    /// QEMU's virtio-net, without vhost.
    VirtioNet,
}

impl Contestant {
    pub(crate) const ALL: [Self; 6] = [
        Self::NicEmu,
        Self::NicEmuPoll,
        Self::E1000,
        Self::E1000e,
        Self::Igb,
        Self::VirtioNet,
    ];

    /// What it is called in tables and figures.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::NicEmu => "nic-emu e1000",
            Self::NicEmuPoll => "nic-emu e1000, busy poll",
            Self::E1000 => "QEMU e1000",
            Self::E1000e => "QEMU e1000e",
            Self::Igb => "QEMU igb",
            Self::VirtioNet => "QEMU virtio-net",
        }
    }

    /// How it is started.
    pub(crate) fn maker(self, busy_poll_us: u32) -> Maker {
        let qemu = |device: &str| Maker::Qemu(device.to_owned());
        match self {
            Self::NicEmu => Maker::NicEmu(Vec::new()),
            Self::NicEmuPoll => Maker::NicEmu(vec!["--busy-poll".into(), busy_poll_us.to_string()]),
            Self::E1000 => qemu("e1000"),
            Self::E1000e => qemu("e1000e"),
            Self::Igb => qemu("igb"),
            Self::VirtioNet => qemu("virtio-net-pci"),
        }
    }

    /// Whether the guest without an operating system has a driver for it: that of the 82540EM.
    pub(crate) fn is_82540em(self) -> bool {
        matches!(self, Self::NicEmu | Self::NicEmuPoll | Self::E1000)
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

/// Who comes first, second and so on in a round: each two follow each other now in one order, now in the other, and
/// nobody always comes first.
pub(crate) fn order(nics: &[Contestant], round: u32) -> Vec<Contestant> {
    let mut order = nics.to_vec();
    if !order.is_empty() {
        let len = order.len();
        order.rotate_left((round / 2) as usize % len);
    }
    if !round.is_multiple_of(2) {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_alternates() {
        let place = |round, nic| {
            let order = order(&Contestant::ALL, round);
            order.iter().position(|&n| n == nic).unwrap()
        };
        for one in Contestant::ALL {
            for other in Contestant::ALL.into_iter().filter(|&other| other != one) {
                for round in (0..8).step_by(2) {
                    let first = |round| place(round, one) < place(round, other);
                    assert_ne!(first(round), first(round + 1), "{one}, {other}");
                }
            }
        }
        let firsts = (0..12).filter(|&round| place(round, Contestant::Igb) == 0);
        assert_eq!(firsts.count(), 2);
        assert!(order(&[], 3).is_empty());
    }
}
