//! Wake-up: what a part in D3 makes of frames, and what it leaves for the driver to find (manual, 6.4).

use guest_driver::Config;
use guest_driver::packet::plain;
use guest_driver::regs::{
    FFLT, FFMT, FFVT, IP4AT, IP6AT, IPAV, MTA, WUC, WUFC, WUPL, WUPM, WUS, pci, wuc, wufc,
};
use nic_emu_tests::Machine;

use crate::pci::power_capability;
use crate::support::{BROADCAST, Check, Nic, Outcome, PEER, SOON, start};
use crate::{checks, ensure, ensure_eq};

pub(crate) fn all() -> Vec<Check> {
    checks!("wake": pmcsr_and_wuc_share_their_bits, magic_packet, magic_packet_to_everybody, own_address,
        broadcast, multicast_by_table, arp_request, ipv4_packet, ipv6_packet, flexible_filter, link_change,
        others_sleep_on, first_packet_is_kept, nothing_without_pme_en, d3_receives_nothing)
}

const GROUP: [u8; 6] = [0x01, 0x00, 0x5E, 0x00, 0x00, 0xFB];
const ADDRESS: [u8; 4] = [192, 0, 2, 7];
const BARS: std::ops::Range<u8> = 0..6;

/// A running device that can be sent to sleep.
struct Sleeper<'m> {
    nic: Nic<'m>,
    pmcsr: u8,
}

impl<'m> Sleeper<'m> {
    /// With these wake-up filters on.
    fn with(m: &'m mut dyn Machine, filters: u32) -> Result<Self, String> {
        let pmcsr = power_capability(m)? + pci::PMCSR;
        let nic = start(m, Config::default())?;
        nic.bus.write32(WUFC, filters);
        Ok(Self { nic, pmcsr })
    }

    /// PMCSR without the scale of its data.
    fn power(&mut self) -> u32 {
        let bits = pci::POWER_STATE | pci::PME_EN | pci::PME_STATUS;
        self.nic.bus.config_read(self.pmcsr, 2) & bits
    }

    fn set_power(&mut self, value: u32) {
        self.nic.bus.config_write(self.pmcsr, 2, value);
    }

    /// D3hot with PME_En, what `during` does there, and back to D0, as a driver does it that saves and restores
    /// configuration space.
    fn sleep(&mut self, during: impl FnOnce(&mut Self) -> Outcome) -> Outcome {
        let bars = BARS.map(|n| pci::BAR0 + 4 * n);
        let saved: Vec<_> = bars
            .chain([pci::COMMAND])
            .map(|at| {
                (
                    at,
                    self.nic.bus.config_read(at, 4) & if at == pci::COMMAND { 0xFFFF } else { !0 },
                )
            })
            .collect();
        self.set_power(pci::D3HOT | pci::PME_EN);
        ensure_eq!(self.power(), pci::D3HOT | pci::PME_EN, "PMCSR in D3");
        let outcome = during(self);
        self.set_power(pci::PME_EN);
        for (at, value) in saved {
            let size = if at == pci::COMMAND { 2 } else { 4 };
            self.nic.bus.config_write(at, size, value);
        }
        outcome
    }

    /// Waits for PME_Status.
    fn woken(&mut self) -> Outcome {
        let start = self.nic.bus.now();
        while self.power() & pci::PME_STATUS == 0 {
            ensure!(
                self.nic.bus.now() - start < SOON,
                "PME_Status stays clear: PMCSR is {:#x}",
                self.power()
            );
            self.nic.bus.wait(100_000);
        }
        Ok(())
    }

    /// Sleeps, gets these frames, and finds on waking that the last one woke it, having passed these filters.
    fn is_woken_by(&mut self, frames: &[Vec<u8>], passed: u32) -> Outcome {
        self.sleep(|sleeper| {
            for frame in frames {
                sleeper.nic.bus.transmit(frame);
            }
            sleeper.woken()
        })?;
        let frame = frames.last().expect("one that wakes");
        let bus = &mut self.nic.bus;
        ensure_eq!(bus.read32(WUS), passed, "WUS");
        ensure_eq!(bus.read32(WUPL), frame.len() as u32, "WUPL");
        for (n, want) in frame.as_chunks().0.iter().take(32).enumerate() {
            let got = bus.read32(WUPM + 4 * n as u32);
            ensure_eq!(got, u32::from_le_bytes(*want), "word {n} of WUPM");
        }
        ensure_eq!(
            bus.read32(WUC) & (wuc::PME_EN | wuc::PME_STATUS),
            wuc::PME_EN | wuc::PME_STATUS,
            "WUC"
        );
        self.set_power(pci::PME_EN | pci::PME_STATUS);
        ensure_eq!(self.power(), pci::PME_EN, "PMCSR after a 1 for PME_Status");
        self.nic.bus.write32(WUS, passed);
        ensure_eq!(self.nic.bus.read32(WUS), 0, "WUS after ones");
        Ok(())
    }
}

fn magic(destination: [u8; 6], station: [u8; 6]) -> Vec<u8> {
    let kind = [0x08, 0x42];
    [
        &destination[..],
        &PEER,
        &kind,
        &[7; 20],
        &[0xFF; 6],
        &station.repeat(16),
    ]
    .concat()
}

fn packet(destination: [u8; 6], kind: u16, fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut frame = plain(destination, PEER, 90, 5);
    frame[12..14].copy_from_slice(&kind.to_be_bytes());
    for (at, bytes) in fields {
        frame[14 + at..][..bytes.len()].copy_from_slice(bytes);
    }
    frame
}

fn set_address(sleeper: &mut Sleeper<'_>) {
    sleeper
        .nic
        .bus
        .write32(IP4AT + 8, u32::from_le_bytes(ADDRESS));
    sleeper.nic.bus.write32(IPAV, 1 << 1);
}

fn pmcsr_and_wuc_share_their_bits(m: &mut dyn Machine) -> Outcome {
    let mut sleeper = Sleeper::with(m, 0)?;
    for on in [true, false] {
        sleeper
            .nic
            .bus
            .write32(WUC, if on { wuc::PME_EN } else { 0 });
        let pme = sleeper.power();
        ensure_eq!(pme, if on { pci::PME_EN } else { 0 }, "PMCSR after WUC");
        sleeper.set_power(if on { 0 } else { pci::PME_EN });
        let control = sleeper.nic.bus.read32(WUC);
        ensure_eq!(control, if on { 0 } else { wuc::PME_EN }, "WUC after PMCSR");
    }
    Ok(())
}

fn magic_packet(m: &mut dyn Machine) -> Outcome {
    let mut sleeper = Sleeper::with(m, wufc::MAG)?;
    let mac = sleeper.nic.mac;
    sleeper.is_woken_by(&[magic(mac, mac)], wufc::MAG)
}

fn magic_packet_to_everybody(m: &mut dyn Machine) -> Outcome {
    let mut sleeper = Sleeper::with(m, wufc::MAG)?;
    let mac = sleeper.nic.mac;
    sleeper.is_woken_by(&[magic(BROADCAST, mac)], wufc::MAG)
}

fn own_address(m: &mut dyn Machine) -> Outcome {
    let mut sleeper = Sleeper::with(m, wufc::EX)?;
    let mac = sleeper.nic.mac;
    sleeper.is_woken_by(&[plain(mac, PEER, 300, 1)], wufc::EX)
}

fn broadcast(m: &mut dyn Machine) -> Outcome {
    let mut sleeper = Sleeper::with(m, wufc::BC)?;
    sleeper.is_woken_by(&[plain(BROADCAST, PEER, 300, 1)], wufc::BC)
}

fn multicast_by_table(m: &mut dyn Machine) -> Outcome {
    let mut sleeper = Sleeper::with(m, wufc::MC)?;
    let hash = (u32::from(GROUP[4]) | u32::from(GROUP[5]) << 8) >> 4 & 0xFFF;
    let word = MTA + (hash >> 5) * 4;
    sleeper.nic.bus.write32(word, 1 << (hash & 31));
    sleeper.is_woken_by(&[plain(GROUP, PEER, 300, 1)], wufc::MC)
}

fn arp_request(m: &mut dyn Machine) -> Outcome {
    let mut sleeper = Sleeper::with(m, wufc::ARP)?;
    set_address(&mut sleeper);
    let request = [0, 1, 8, 0, 6, 4, 0, 1];
    let ask = |ip: &[u8]| packet(BROADCAST, 0x0806, &[(0, &request), (24, ip)]);
    let reply = packet(
        BROADCAST,
        0x0806,
        &[(0, &[0, 1, 8, 0, 6, 4, 0, 2]), (24, &ADDRESS)],
    );
    sleeper.is_woken_by(&[ask(&[192, 0, 2, 8]), reply, ask(&ADDRESS)], wufc::ARP)
}

fn ipv4_packet(m: &mut dyn Machine) -> Outcome {
    let mut sleeper = Sleeper::with(m, wufc::IPV4)?;
    set_address(&mut sleeper);
    let mac = sleeper.nic.mac;
    let to = |ip: &[u8]| packet(mac, 0x0800, &[(0, &[0x45]), (16, ip)]);
    sleeper.is_woken_by(&[to(&[192, 0, 2, 8]), to(&ADDRESS)], wufc::IPV4)
}

fn ipv6_packet(m: &mut dyn Machine) -> Outcome {
    let mut sleeper = Sleeper::with(m, wufc::IPV6)?;
    let mac = sleeper.nic.mac;
    let ours: [u8; 16] = std::array::from_fn(|n| 0x20 + n as u8);
    for (n, part) in ours.as_chunks().0.iter().enumerate() {
        let part = u32::from_le_bytes(*part);
        sleeper.nic.bus.write32(IP6AT + 4 * n as u32, part);
    }
    sleeper.nic.bus.write32(IPAV, 1 << 16);
    let to = |ip: &[u8]| packet(mac, 0x86DD, &[(0, &[0x60]), (24, ip)]);
    sleeper.is_woken_by(&[to(&[0x20; 16]), to(&ours)], wufc::IPV6)
}

fn flexible_filter(m: &mut dyn Machine) -> Outcome {
    let mut sleeper = Sleeper::with(m, wufc::FLX0 << 3)?;
    let mac = sleeper.nic.mac;
    sleeper.nic.bus.write32(FFLT + 8 * 3, 80);
    for (at, byte) in [(12, 0x88), (13, 0xB5), (70, 0x5A)] {
        sleeper.nic.bus.write32(FFMT + 8 * at, 1 << 3);
        sleeper.nic.bus.write32(FFVT + 8 * at, byte << 24);
    }
    let with = |byte: u8| packet(mac, 0x88B5, &[(56, &[byte])]);
    let short = with(0x5A)[..79].to_vec();
    sleeper.is_woken_by(&[with(0x5B), short, with(0x5A)], wufc::FLX0 << 3)
}

fn link_change(m: &mut dyn Machine) -> Outcome {
    let mut sleeper = Sleeper::with(m, wufc::LNKC)?;
    sleeper.sleep(|sleeper| {
        ensure_eq!(sleeper.power() & pci::PME_STATUS, 0, "PME_Status at rest");
        sleeper.nic.bus.set_carrier(false);
        sleeper.woken()
    })?;
    ensure_eq!(sleeper.nic.bus.read32(WUS), wufc::LNKC, "WUS");
    Ok(())
}

fn others_sleep_on(m: &mut dyn Machine) -> Outcome {
    let mut sleeper = Sleeper::with(m, wufc::MAG)?;
    let mac = sleeper.nic.mac;
    let mut broken = magic(mac, mac);
    *broken.last_mut().expect("it has bytes") ^= 1;
    let frames = [
        plain(mac, PEER, 300, 1),
        plain(BROADCAST, PEER, 300, 1),
        magic(mac, PEER),
        magic(PEER, mac),
        broken,
        magic(BROADCAST, mac),
    ];
    sleeper.is_woken_by(&frames, wufc::MAG)
}

fn first_packet_is_kept(m: &mut dyn Machine) -> Outcome {
    let mut sleeper = Sleeper::with(m, wufc::EX | wufc::BC)?;
    let mac = sleeper.nic.mac;
    let first = plain(mac, PEER, 200, 1);
    sleeper.sleep(|sleeper| {
        sleeper.nic.bus.transmit(&first);
        sleeper.woken()?;
        sleeper.nic.bus.transmit(&plain(BROADCAST, PEER, 100, 2));
        sleeper.nic.bus.settle();
        Ok(())
    })?;
    ensure_eq!(sleeper.nic.bus.read32(WUS), wufc::EX, "WUS");
    ensure_eq!(sleeper.nic.bus.read32(WUPL), 200, "WUPL");
    Ok(())
}

fn nothing_without_pme_en(m: &mut dyn Machine) -> Outcome {
    let mut sleeper = Sleeper::with(m, wufc::EX)?;
    let mac = sleeper.nic.mac;
    sleeper.sleep(|sleeper| {
        sleeper.set_power(pci::D3HOT);
        sleeper.nic.bus.transmit(&plain(mac, PEER, 100, 1));
        sleeper.nic.bus.settle();
        sleeper.set_power(pci::D3HOT | pci::PME_EN);
        sleeper.nic.bus.transmit(&plain(mac, PEER, 200, 2));
        sleeper.woken()
    })?;
    ensure_eq!(sleeper.nic.bus.read32(WUPL), 200, "WUPL");
    Ok(())
}

fn d3_receives_nothing(m: &mut dyn Machine) -> Outcome {
    let mut sleeper = Sleeper::with(m, wufc::MAG)?;
    let mac = sleeper.nic.mac;
    let frames = [plain(mac, PEER, 300, 1), magic(mac, mac)];
    sleeper.is_woken_by(&frames, wufc::MAG)?;
    let got = sleeper.nic.receive(&mut [0; 512]);
    ensure!(got.is_none(), "the driver has received {got:?}");
    Ok(())
}
