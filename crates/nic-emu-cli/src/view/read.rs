//! From the atomics of a NIC to a [`View`].

use std::collections::BTreeMap;
use std::sync::Arc;

use nic_emu::e1000::bits::{ctrl, rah, rctl, rxcsum, status, tctl, wuc, wufc};
use nic_emu::e1000::fields::{self, LED_MODES};
use nic_emu::e1000::regs::{Access, Reg, Regs};
use vfio_user::Memory;

use super::{
    Address, Field, Filters, Hypervisor, Interrupts, Led, Link, Network, Register, Ring, View,
    WakeUp,
};
use crate::mac::MacAddr;
use crate::models::Model;
use crate::nic::{ControlAnswer, Joint};
use crate::summary;
use crate::waiting::Waits;

/// Unit of ITR in ns.
const ITR_UNIT: u64 = 256;
/// Bytes of a descriptor.
const DESCRIPTOR: u32 = 16;

impl View {
    /// The NIC as it is, with the answer, if it came in time, and how the daemon's shards wait.
    pub(crate) fn new(
        joint: &Joint,
        mac: MacAddr,
        answer: Option<ControlAnswer>,
        shards: &[Arc<Waits>],
    ) -> Self {
        let (shared, irqs) = (joint.shared(), joint.irqs());
        let regs = &shared.regs;
        let mut counters = named(shared.counters.snapshot().iter());
        counters.insert("tx_unplugged".into(), joint.operator.lost.get());
        Self {
            name: joint.name.clone(),
            pid: std::process::id(),
            model: Model::of(joint.shared().part).name().into(),
            mac: mac.to_string(),
            hypervisor: answer.map(|control| Hypervisor {
                connected: control.connected,
                memory: match control.memory {
                    Memory::None => "none".into(),
                    Memory::Shared => "shared".into(),
                    Memory::Remote => "remote".into(),
                },
                dma_messages: named([
                    ("reads", control.dma.reads),
                    ("writes", control.dma.writes),
                    ("refused", control.dma.refused),
                    ("lost", control.dma.lost),
                ]),
                messages: named([
                    ("reads", control.messages.reads),
                    ("writes", control.messages.writes),
                    ("posted_writes", control.messages.posted_writes),
                    ("set_irqs", control.messages.set_irqs),
                    ("others", control.messages.others),
                ]),
            }),
            queues_apart: answer.map(|control| control.apart),
            stopped: joint.is_stopped(),
            link: link(regs, joint.cable(), joint.operator.is_plugged()),
            interrupts: interrupts(regs, irqs.level(), irqs.raised()),
            transmit: transmit(regs),
            receive: receive(regs),
            filters: filters(regs),
            wake_up: wake_up(regs),
            leds: leds(regs),
            statistics: statistics(regs),
            counters,
            shards: shards
                .iter()
                .map(|waits| named(waits.snapshot().iter()))
                .collect(),
            network: Some(Network {
                name: joint.network.clone(),
                counters: named(summary::all(&joint.passed.counters())),
            }),
            registers: registers(regs),
        }
    }
}

fn named(counters: impl IntoIterator<Item = (&'static str, u64)>) -> BTreeMap<String, u64> {
    let owned = |(name, value): (&str, _)| (name.to_owned(), value);
    counters.into_iter().map(owned).collect()
}

fn link(regs: &Regs, cable: bool, operator: bool) -> Link {
    let value = regs.get(Reg::STATUS);
    Link {
        up: value & status::LU != 0,
        cable,
        operator,
        speed: match value >> status::SPEED_SHIFT & 0b11 {
            0 => 10,
            1 => 100,
            _ => 1000,
        },
        full_duplex: value & status::FD != 0,
    }
}

fn interrupts(regs: &Regs, asserted: bool, sent: u64) -> Interrupts {
    let names = |reg| fields::causes(regs.get(reg)).map(str::to_owned).collect();
    Interrupts {
        asserted,
        sent,
        pending: names(Reg::ICR),
        enabled: names(Reg::IMS),
        interval_ns: u64::from(regs.get(Reg::ITR)) * ITR_UNIT,
    }
}

fn transmit(regs: &Regs) -> Ring {
    let length = regs.get(Reg::TDLEN);
    let (head, tail) = (regs.get(Reg::TDH), regs.get(Reg::TDT));
    Ring {
        enabled: regs.get(Reg::TCTL) & tctl::EN != 0,
        base: regs.get_u64(Reg::TDBAL, Reg::TDBAH),
        length,
        descriptors: length / DESCRIPTOR,
        head,
        tail,
        with_nic: between(head, tail, length / DESCRIPTOR),
        buffer: None,
    }
}

fn receive(regs: &Regs) -> Ring {
    let length = regs.get(Reg::RDLEN);
    let (head, tail) = (regs.get(Reg::RDH), regs.get(Reg::RDT));
    let control = regs.get(Reg::RCTL);
    // 2048, 1024, 512, 256; sixteen times that with BSEX, where the first is reserved.
    let size = 2048 >> ((control & rctl::BSIZE) >> rctl::BSIZE_SHIFT);
    let extended = control & rctl::BSEX != 0 && size != 2048;
    Ring {
        enabled: control & rctl::EN != 0,
        base: regs.get_u64(Reg::RDBAL, Reg::RDBAH),
        length,
        descriptors: length / DESCRIPTOR,
        head,
        tail,
        with_nic: between(head, tail, length / DESCRIPTOR),
        buffer: Some(if extended { size * 16 } else { size }),
    }
}

/// Descriptors from head to tail in a ring of `count`; none if the driver has put either outside of it.
fn between(head: u32, tail: u32, count: u32) -> u32 {
    match head < count && tail < count {
        true => (tail + count - head) % count,
        false => 0,
    }
}

fn filters(regs: &Regs) -> Filters {
    let valid = |&n: &usize| regs.get_n(Reg::RAH, n) & rah::AV != 0;
    let address = |n| {
        let (low, high) = (regs.get_n(Reg::RAL, n), regs.get_n(Reg::RAH, n));
        let ([a, b, c, d], [e, f, ..]) = (low.to_le_bytes(), high.to_le_bytes());
        Address {
            entry: n as u32,
            mac: MacAddr([a, b, c, d, e, f]).to_string(),
            select: (high & rah::ASEL) >> rah::ASEL_SHIFT,
        }
    };
    let bits = |reg: Reg| {
        let ones = |n| regs.get_n(reg, n).count_ones();
        (0..reg.row().count.into()).map(ones).sum()
    };
    let (control, checksum) = (regs.get(Reg::RCTL), regs.get(Reg::RXCSUM));
    let modes = [
        ("SBP", control & rctl::SBP),
        ("UPE", control & rctl::UPE),
        ("MPE", control & rctl::MPE),
        ("LPE", control & rctl::LPE),
        ("BAM", control & rctl::BAM),
        ("VFE", control & rctl::VFE),
        ("CFIEN", control & rctl::CFIEN),
        ("DPF", control & rctl::DPF),
        ("PMCF", control & rctl::PMCF),
        ("SECRC", control & rctl::SECRC),
        ("VME", regs.get(Reg::CTRL) & ctrl::VME),
        ("IPOFL", checksum & rxcsum::IPOFL),
        ("TUOFL", checksum & rxcsum::TUOFL),
    ];
    Filters {
        addresses: (0..Reg::RAH.row().count.into())
            .filter(valid)
            .map(address)
            .collect(),
        multicast_bits: bits(Reg::MTA),
        vlans: bits(Reg::VFTA),
        modes: modes
            .iter()
            .filter(|(_, bit)| *bit != 0)
            .map(|&(name, _)| name.to_owned())
            .collect(),
    }
}

fn wake_up(regs: &Regs) -> Option<WakeUp> {
    let control = regs.get(Reg::WUC);
    let acpi = match control & wuc::PME_EN != 0 {
        true => regs.get(Reg::WUFC),
        false => 0,
    };
    let apm = match control & wuc::APME != 0 {
        true => wufc::MAG,
        false => 0,
    };
    let names = |bits| {
        fields::wake_up_filters(bits)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let wake_up = WakeUp {
        filters: names(acpi | apm),
        passed: names(regs.get(Reg::WUS)),
        status: control & wuc::PME_STATUS != 0,
    };
    let tells = !wake_up.filters.is_empty() || !wake_up.passed.is_empty() || wake_up.status;
    tells.then_some(wake_up)
}

fn leds(regs: &Regs) -> Vec<Led> {
    const INVERTED: u8 = 1 << 6;
    const BLINKS: u8 = 1 << 7;
    let link = link(regs, true, true);
    let at = |speeds: &[u32]| Some(link.up && speeds.contains(&link.speed));
    let led = |byte: u8| {
        let mode = LED_MODES[usize::from(byte & 0xF)];
        let inverted = byte & INVERTED != 0;
        let lit = match mode {
            "LINK_10/1000" => at(&[10, 1000]),
            "LINK_100/1000" => at(&[100, 1000]),
            "LINK_UP" => Some(link.up),
            "LINK_10" => at(&[10]),
            "LINK_100" => at(&[100]),
            "LINK_1000" => at(&[1000]),
            "FULL_DUPLEX" => Some(link.up && link.full_duplex),
            // There is no half-duplex cable to collide on.
            "COLLISION" => Some(false),
            "PAUSED" => Some(regs.get(Reg::STATUS) & status::TXOFF != 0),
            "LED_ON" => Some(true),
            "LED_OFF" => Some(false),
            // Without link there is no activity either.
            "LINK/ACTIVITY" if !link.up => Some(false),
            _ => None,
        };
        Led {
            mode: mode.to_owned(),
            lit: lit.map(|lit| lit != inverted),
            blinks: byte & BLINKS != 0,
            inverted,
        }
    };
    regs.get(Reg::LEDCTL).to_le_bytes().map(led).to_vec()
}

fn statistics(regs: &Regs) -> BTreeMap<String, u64> {
    let one = |&reg: &Reg| {
        let row = reg.row();
        match row.access {
            Access::Rc => Some((row.name.to_owned(), regs.get(reg).into())),
            Access::RcLow => {
                let name = row.name.trim_end_matches('L').to_owned();
                Some((name, regs.stat64(reg)?))
            }
            _ => None,
        }
    };
    Reg::ALL.iter().filter_map(one).collect()
}

fn registers(regs: &Regs) -> Vec<Register> {
    let mut all = Vec::new();
    for &reg in Reg::ALL {
        let row = reg.row();
        if row.access == Access::Wo || reg == Reg::ICS {
            continue; // ICS shows ICR
        }
        for n in 0..usize::from(row.count) {
            let value = regs.get_n(reg, n);
            if row.count > 1 && value == 0 {
                continue;
            }
            let field = |field: &fields::Field| Field {
                name: field.name.to_owned(),
                value: field.of(value),
                flag: field.is_flag(),
            };
            all.push(Register {
                name: match row.count {
                    1 => row.name.to_owned(),
                    _ => format!("{}[{n}]", row.name),
                },
                offset: row.offset + n as u32 * u32::from(row.stride),
                value,
                fields: fields::of(reg).iter().map(field).collect(),
            });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regs(values: &[(Reg, u32)]) -> Regs {
        let regs = Regs::default();
        for &(reg, value) in values {
            regs.set(reg, value);
        }
        regs
    }

    #[test]
    fn rings_are_counted_around_their_end_and_nonsense_is_none() {
        assert_eq!(between(3, 3, 8), 0);
        assert_eq!(between(3, 5, 8), 2);
        assert_eq!(between(6, 1, 8), 3);
        assert_eq!(between(8, 1, 8), 0);
        assert_eq!(between(0, 0xFFFF, 8), 0);
        assert_eq!(between(0, 0, 0), 0);
        let regs = regs(&[
            (Reg::RDBAL, 0x1000),
            (Reg::RDBAH, 2),
            (Reg::RDLEN, 128),
            (Reg::RDH, 6),
            (Reg::RDT, 1),
            (Reg::RCTL, rctl::EN | 1 << rctl::BSIZE_SHIFT | rctl::BSEX),
        ]);
        let ring = receive(&regs);
        assert_eq!(
            (ring.base, ring.descriptors, ring.with_nic),
            (0x2_0000_1000, 8, 3)
        );
        assert_eq!((ring.enabled, ring.buffer), (true, Some(16384)));
        assert!(!transmit(&regs).enabled);
    }

    #[test]
    fn filters_name_addresses_hashes_and_modes() {
        let regs = regs(&[(Reg::RCTL, rctl::BAM | rctl::MPE), (Reg::CTRL, ctrl::VME)]);
        regs.set_n(Reg::RAL, 3, 0x0012_5452);
        regs.set_n(Reg::RAH, 3, rah::AV | 1 << rah::ASEL_SHIFT | 0x5634);
        regs.set_n(Reg::MTA, 9, 0x8001);
        regs.set_n(Reg::VFTA, 127, 1);
        let filters = filters(&regs);
        let address = Address {
            entry: 3,
            mac: "52:54:12:00:34:56".into(),
            select: 1,
        };
        assert_eq!(filters.addresses, [address]);
        assert_eq!((filters.multicast_bits, filters.vlans), (2, 1));
        assert_eq!(filters.modes, ["MPE", "BAM", "VME"]);
    }

    #[test]
    fn wake_up_shows_once_there_is_something_to_show() {
        let show = |values| wake_up(&regs(values));
        assert_eq!(show(&[(Reg::WUFC, wufc::EX)]), None, "nobody enabled it");
        let armed = show(&[(Reg::WUFC, wufc::EX | wufc::BC), (Reg::WUC, wuc::PME_EN)]).unwrap();
        assert_eq!(armed.filters, ["EX", "BC"]);
        assert!(armed.passed.is_empty() && !armed.status);
        assert_eq!(show(&[(Reg::WUC, wuc::APME)]).unwrap().filters, ["MAG"]);
        let seen = show(&[(Reg::WUS, wufc::FLX0 << 3), (Reg::WUC, wuc::PME_STATUS)]).unwrap();
        assert_eq!(seen.passed, ["FLX"]);
        assert!(seen.filters.is_empty() && seen.status);
    }

    #[test]
    fn leds_follow_their_mode() {
        // Off, on and inverted, link at 100, activity; then link at 1000 Mb/s comes.
        let regs = regs(&[(Reg::LEDCTL, 0x03_06_CE_0F), (Reg::STATUS, 0)]);
        let lit = |regs: &Regs| leds(regs).iter().map(|led| led.lit).collect::<Vec<_>>();
        assert_eq!(lit(&regs), [Some(false), Some(false), Some(false), None]);
        assert!(leds(&regs)[1].blinks && leds(&regs)[1].inverted);
        regs.set(Reg::LEDCTL, 0x07_06_02_09);
        let up = status::LU | status::FD | 2 << status::SPEED_SHIFT;
        regs.set(Reg::STATUS, up);
        assert_eq!(
            lit(&regs),
            [Some(true), Some(true), Some(false), Some(true)]
        );
    }

    #[test]
    fn looking_clears_nothing_and_joins_what_belongs_together() {
        let regs = regs(&[(Reg::ICR, 0x84), (Reg::IMS, 4), (Reg::ITR, 200)]);
        regs.stat_add(Reg::GPRC, 7);
        regs.stat_add64(Reg::GORCL, 0x2_0000_0001);
        for _ in 0..2 {
            let statistics = statistics(&regs);
            assert_eq!(statistics["GPRC"], 7);
            assert_eq!(statistics["GORC"], 0x2_0000_0001);
            assert!(!statistics.contains_key("GORCL") && !statistics.contains_key("GORCH"));
            let interrupts = interrupts(&regs, true, 9);
            assert_eq!(interrupts.pending, ["LSC", "RXT0"]);
            assert_eq!(interrupts.enabled, ["LSC"]);
            assert_eq!(interrupts.interval_ns, 51_200);
        }
    }

    #[test]
    fn every_readable_register_is_there_by_name_and_offset() {
        let regs = Regs::default();
        let all = registers(&regs);
        let ctrl = all.iter().find(|register| register.name == "CTRL");
        let ctrl = ctrl.expect("the first of all");
        assert_eq!((ctrl.offset, ctrl.value), (0, Reg::CTRL.row().reset));
        let set = ctrl.fields.iter().find(|field| field.name == "SPEED");
        assert_eq!(set.map(|field| (field.value, field.flag)), Some((2, false)));
        assert!(all.iter().all(|r| Reg::at(r.offset).is_some()));
        let scalars = Reg::ALL
            .iter()
            .filter(|reg| reg.row().count == 1 && !matches!(reg, Reg::ICS | Reg::IMC));
        assert_eq!(all.len(), scalars.count(), "arrays are all zeros");
        regs.set_n(Reg::VFTA, 5, 1);
        assert!(
            registers(&regs)
                .iter()
                .any(|r| r.name == "VFTA[5]" && r.offset == 0x5614)
        );
    }
}
