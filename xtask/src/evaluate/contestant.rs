//! The NICs that are compared.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::record::Settings;
use crate::placement::Placement;
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
    /// `nic-emu`, wherever the kernel likes.
    NicEmuAnywhere,
    /// `nic-emu-poll`, wherever the kernel likes (`--busy-poll-anywhere`).
    NicEmuPollAnywhere,
    /// `e1000`, wherever the kernel likes.
    E1000Anywhere,
    /// `e1000e`, wherever the kernel likes.
    E1000eAnywhere,
    /// `virtio-net`, wherever the kernel likes.
    VirtioNetAnywhere,
}

impl Contestant {
    pub(crate) const ALL: [Self; 11] = [
        Self::NicEmu,
        Self::NicEmuPoll,
        Self::E1000,
        Self::E1000e,
        Self::Igb,
        Self::VirtioNet,
        Self::NicEmuAnywhere,
        Self::NicEmuPollAnywhere,
        Self::E1000Anywhere,
        Self::E1000eAnywhere,
        Self::VirtioNetAnywhere,
    ];

    /// Those that differ with QEMU and the daemon there.
    pub(crate) fn all(placement: &Placement) -> Vec<Self> {
        let differs = |nic: &Self| nic.is_placed() || *placement != Placement::default();
        Self::ALL.into_iter().filter(differs).collect()
    }

    /// The same NIC where the kernel likes, if that is compared.
    pub(crate) fn anywhere(self) -> Option<Self> {
        match self {
            Self::NicEmu => Some(Self::NicEmuAnywhere),
            Self::NicEmuPoll => Some(Self::NicEmuPollAnywhere),
            Self::E1000 => Some(Self::E1000Anywhere),
            Self::E1000e => Some(Self::E1000eAnywhere),
            Self::VirtioNet => Some(Self::VirtioNetAnywhere),
            _ => None,
        }
    }

    /// Whether it runs where `--guest-cpus` and `--daemon-cpu` say.
    pub(crate) fn is_placed(self) -> bool {
        !Self::ALL.iter().any(|nic| nic.anywhere() == Some(self))
    }

    /// What it is called in tables and figures.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::NicEmu => "nic-emu e1000",
            Self::NicEmuPoll => "nic-emu e1000, busy poll",
            Self::E1000 => "QEMU e1000",
            Self::E1000e => "QEMU e1000e",
            Self::Igb => "QEMU igb",
            Self::VirtioNet => "QEMU virtio-net",
            Self::NicEmuAnywhere => "nic-emu e1000, anywhere",
            Self::NicEmuPollAnywhere => "nic-emu e1000, busy poll, anywhere",
            Self::E1000Anywhere => "QEMU e1000, anywhere",
            Self::E1000eAnywhere => "QEMU e1000e, anywhere",
            Self::VirtioNetAnywhere => "QEMU virtio-net, anywhere",
        }
    }

    /// How it is started.
    pub(crate) fn maker(self, settings: &Settings) -> Maker {
        let qemu = |device: &str| Maker::Qemu(device.to_owned());
        let polls = |us: u32| Maker::NicEmu(vec!["--busy-poll".into(), us.to_string()]);
        match self {
            Self::NicEmu | Self::NicEmuAnywhere => Maker::NicEmu(Vec::new()),
            Self::NicEmuPoll => polls(settings.busy_poll_us),
            Self::NicEmuPollAnywhere => polls(settings.busy_poll_anywhere_us),
            Self::E1000 | Self::E1000Anywhere => qemu("e1000"),
            Self::E1000e | Self::E1000eAnywhere => qemu("e1000e"),
            Self::Igb => qemu("igb"),
            Self::VirtioNet | Self::VirtioNetAnywhere => qemu("virtio-net-pci"),
        }
    }

    /// Whether the guest without an operating system runs on it, which has a driver for the 82540EM and is placed nowhere
    /// anyhow.
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
        let firsts = (0..22).filter(|&round| place(round, Contestant::Igb) == 0);
        assert_eq!(firsts.count(), 2);
        assert!(order(&[], 3).is_empty());
    }
}
