//! Which frames come in: addresses, broadcast, multicast hash, VLANs.

use guest_driver::Config;
use guest_driver::e1000::set_address;
use guest_driver::packet::plain;
use guest_driver::regs::{MTA, VET, VFTA, rctl};
use nic_emu_tests::Machine;

use crate::checks;
use crate::support::{BROADCAST, Check, Nic, Outcome, PEER, received, same, start};

pub(crate) fn all() -> Vec<Check> {
    checks!("filters": own_address, other_addresses, every_receive_address, receive_address_off,
        unicast_promiscuous, broadcast, multicast_by_table, multicast_by_receive_address,
        multicast_promiscuous, multicast_promiscuous_takes_broadcast, table_is_not_for_unicast, broadcast_is_not_for_the_table,
        vlan_table, vlan_cfi, vlan_filter_off)
}

const GROUP: [u8; 6] = [0x33, 0x33, 0x12, 0x9A, 0x5C, 0xE7];

/// Sends a frame to `destination` and says whether it came in. Another one follows, which always does.
fn passes(nic: &mut Nic<'_>, destination: [u8; 6]) -> Result<bool, String> {
    let frame = plain(destination, PEER, 90, u32::from(destination[5]));
    passes_frame(nic, &frame)
}

fn passes_frame(nic: &mut Nic<'_>, frame: &[u8]) -> Result<bool, String> {
    let marker = plain(nic.mac, PEER, 61, 99);
    nic.bus.transmit(frame);
    nic.bus.transmit(&marker);
    let (first, _) = received(nic)?;
    if first == marker {
        return Ok(false);
    }
    same(&first, frame)?;
    let (second, _) = received(nic)?;
    same(&second, &marker)?;
    Ok(true)
}

fn expect(nic: &mut Nic<'_>, destination: [u8; 6], want: bool, what: &str) -> Outcome {
    let got = passes(nic, destination)?;
    crate::ensure!(
        got == want,
        "{what}: a frame to {destination:x?} {}",
        if got { "came in" } else { "was dropped" }
    );
    Ok(())
}

fn start_with(m: &mut dyn Machine, rctl: u32) -> Result<Nic<'_>, String> {
    let config = Config {
        rctl,
        ..Config::default()
    };
    start(m, config)
}

fn own_address(m: &mut dyn Machine) -> Outcome {
    let mut nic = start_with(m, 0)?;
    let mac = nic.mac;
    expect(&mut nic, mac, true, "own address")
}

fn other_addresses(m: &mut dyn Machine) -> Outcome {
    let mut nic = start_with(m, rctl::BAM)?;
    for byte in 0..6 {
        for bit in [0x02, 0x80] {
            let mut other = nic.mac;
            other[byte] ^= bit;
            expect(&mut nic, other, false, "one bit off")?;
        }
    }
    Ok(())
}

fn every_receive_address(m: &mut dyn Machine) -> Outcome {
    let mut nic = start_with(m, 0)?;
    for entry in 1..16 {
        let address = [0x02, 0x10, 0x20, 0x30, 0x40, entry as u8];
        expect(&mut nic, address, false, "unknown address")?;
        set_address(&mut nic.bus, entry, Some(address));
        expect(&mut nic, address, true, "receive address")?;
        set_address(&mut nic.bus, entry, None);
        expect(&mut nic, address, false, "removed address")?;
    }
    Ok(())
}

/// An entry without its valid bit is none, whatever its bytes.
fn receive_address_off(m: &mut dyn Machine) -> Outcome {
    let mut nic = start_with(m, 0)?;
    let address = [0x02, 0x10, 0x20, 0x30, 0x40, 0x50];
    set_address(&mut nic.bus, 3, Some(address));
    let high = guest_driver::regs::RAH0 + 8 * 3;
    let value = nic.bus.read32(high);
    nic.bus.write32(high, value & 0xFFFF);
    expect(&mut nic, address, false, "without AV")
}

fn unicast_promiscuous(m: &mut dyn Machine) -> Outcome {
    let mut nic = start_with(m, rctl::UPE)?;
    expect(&mut nic, [0x02, 9, 9, 9, 9, 9], true, "UPE")?;
    expect(&mut nic, GROUP, false, "UPE")?;
    nic.write_rctl(rctl::EN);
    expect(&mut nic, [0x02, 9, 9, 9, 9, 9], false, "UPE off")
}

fn broadcast(m: &mut dyn Machine) -> Outcome {
    let mut nic = start_with(m, 0)?;
    expect(&mut nic, BROADCAST, false, "BAM off")?;
    nic.write_rctl(rctl::EN | rctl::BAM);
    expect(&mut nic, BROADCAST, true, "BAM")?;
    expect(&mut nic, GROUP, false, "BAM")
}

/// The 12 bits of the hash for each value of RCTL.MO: bits 47:36, 46:35, 45:34, 43:32 of the address, whose first
/// byte on the wire is bits 7:0.
fn hash(address: [u8; 6], offset: u32) -> u32 {
    let top = u32::from(address[4]) | u32::from(address[5]) << 8;
    let shift = [4, 3, 2, 0][offset as usize];
    top >> shift & 0xFFF
}

fn multicast_by_table(m: &mut dyn Machine) -> Outcome {
    for offset in 0..4 {
        let mut nic = start_with(m, offset << rctl::MO_SHIFT)?;
        for last in [0x00, 0x01, 0x7F, 0xFF, 0xE7] {
            let group = [0x01, 0x00, 0x5E, 0x12, 0x35, last];
            let hash = hash(group, offset);
            let word = MTA + 4 * (hash >> 5);
            expect(&mut nic, group, false, "table empty")?;
            nic.bus.write32(word, 1 << (hash & 31));
            expect(&mut nic, group, true, &format!("MO {offset}"))?;
            nic.bus.write32(word, !(1 << (hash & 31)));
            expect(
                &mut nic,
                group,
                false,
                &format!("MO {offset}, all other bits"),
            )?;
            nic.bus.write32(word, 0);
        }
    }
    Ok(())
}

fn multicast_by_receive_address(m: &mut dyn Machine) -> Outcome {
    let mut nic = start_with(m, 0)?;
    expect(&mut nic, GROUP, false, "unknown group")?;
    set_address(&mut nic.bus, 5, Some(GROUP));
    expect(&mut nic, GROUP, true, "group in a receive address")
}

fn multicast_promiscuous(m: &mut dyn Machine) -> Outcome {
    let mut nic = start_with(m, rctl::MPE)?;
    expect(&mut nic, GROUP, true, "MPE")?;
    expect(&mut nic, [0x02, 9, 9, 9, 9, 9], false, "MPE")
}

/// Broadcast is a multicast address, too.
fn multicast_promiscuous_takes_broadcast(m: &mut dyn Machine) -> Outcome {
    let mut nic = start_with(m, rctl::MPE)?;
    expect(&mut nic, BROADCAST, true, "MPE")
}

fn table_is_not_for_unicast(m: &mut dyn Machine) -> Outcome {
    let mut nic = start_with(m, 0)?;
    for word in 0..128 {
        nic.bus.write32(MTA + 4 * word, !0);
    }
    expect(&mut nic, [0x02, 9, 9, 9, 9, 9], false, "full table")?;
    expect(&mut nic, GROUP, true, "full table")
}

/// With BAM off, broadcast still is a multicast address whose bit may be set.
fn broadcast_is_not_for_the_table(m: &mut dyn Machine) -> Outcome {
    let mut nic = start_with(m, 0)?;
    expect(&mut nic, BROADCAST, false, "table empty")
}

fn tagged(destination: [u8; 6], tci: u16) -> Vec<u8> {
    let frame = plain(destination, PEER, 90, u32::from(tci));
    let tag = [&[0x81, 0], &tci.to_be_bytes()[..]].concat();
    [&frame[..12], &tag, &frame[12..]].concat()
}

fn expect_tag(nic: &mut Nic<'_>, tci: u16, want: bool, what: &str) -> Outcome {
    let mac = nic.mac;
    let got = passes_frame(nic, &tagged(mac, tci))?;
    crate::ensure!(
        got == want,
        "{what}: a frame with tag {tci:#06x} {}",
        if got { "came in" } else { "was dropped" }
    );
    Ok(())
}

fn vlan_table(m: &mut dyn Machine) -> Outcome {
    let mut nic = start_with(m, rctl::VFE)?;
    nic.bus.write32(VET, 0x8100);
    for word in 0..128 {
        nic.bus.write32(VFTA + 4 * word, 0);
    }
    for vid in [0u16, 1, 31, 32, 42, 4095] {
        expect_tag(&mut nic, vid, false, "table empty")?;
        let word = VFTA + 4 * u32::from(vid >> 5);
        nic.bus.write32(word, 1 << (vid & 31));
        expect_tag(&mut nic, vid, true, "in the table")?;
        expect_tag(&mut nic, vid | 0xE000, true, "priority is no part of it")?;
        nic.bus.write32(word, !(1 << (vid & 31)));
        expect_tag(&mut nic, vid, false, "all others in the table")?;
        nic.bus.write32(word, 0);
    }
    Ok(())
}

fn vlan_cfi(m: &mut dyn Machine) -> Outcome {
    let mut nic = start_with(m, rctl::VFE | rctl::CFIEN)?;
    nic.bus.write32(VET, 0x8100);
    nic.bus.write32(VFTA, !0);
    expect_tag(&mut nic, 0x0005, true, "CFI 0 wanted")?;
    expect_tag(&mut nic, 0x1005, false, "CFI 0 wanted")?;
    nic.write_rctl(rctl::EN | rctl::VFE | rctl::CFIEN | rctl::CFI);
    expect_tag(&mut nic, 0x0005, false, "CFI 1 wanted")?;
    expect_tag(&mut nic, 0x1005, true, "CFI 1 wanted")
}

fn vlan_filter_off(m: &mut dyn Machine) -> Outcome {
    let mut nic = start_with(m, 0)?;
    nic.bus.write32(VET, 0x8100);
    expect_tag(&mut nic, 0x1FFF, true, "VFE off")
}
