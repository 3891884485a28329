//! States that were saved once are restored for ever, and mean what they meant.
//!
//! `tests/golden/82540em-N.bin` was saved by the first release that wrote version N. A new version gets a file of its
//! own, made with `UPDATE_GOLDEN=1 cargo test -p nic-emu --test golden`; no file is ever made anew.

mod support;

use std::path::PathBuf;

use nic_emu::Time;
use nic_emu::common::frame::{Csum, Gso, GsoKind, RxCsum, RxFrame, RxMeta};
use nic_emu::e1000::regs::Reg;
use nic_emu::e1000::rx::Delivered;
use support::packets::{Flow, broadcast};
use support::*;

/// The version that is written now.
const NEWEST: u32 = 4;

const PAYLOAD: usize = 2500;
const MSS: u16 = 1000;
/// Bytes of the TSO packet that the driver had given before the state was saved.
const GIVEN: usize = 700;
/// What its first descriptor says of its tag, where that is known.
const TAG: u32 = 0x2064;

fn file(version: u32) -> PathBuf {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");
    PathBuf::from(golden).join(format!("82540em-{version}.bin"))
}

/// The packet that is being sent.
fn sending() -> Vec<u8> {
    Flow::TCP4.unfinished(100, 7, 0x18, &[0x5a; PAYLOAD], true)
}

/// The super-frame that is being received.
fn receiving() -> (Vec<u8>, RxMeta) {
    let flow = Flow::TCP4;
    let meta = RxMeta {
        csum: RxCsum::Partial(Csum {
            start: flow.l4() as u16,
            offset: 16,
        }),
        gso: Some(Gso {
            kind: GsoKind::TcpV4,
            hdr_len: flow.headers() as u16,
            mss: MSS,
        }),
        bad_fcs: false,
    };
    (flow.unfinished(9, 1, 0x18, &[0xa5; PAYLOAD], false), meta)
}

fn clock_eeprom(nic: &mut Nic, bits: u32, count: u32) {
    for n in (0..count).rev() {
        for sk in [0, 1] {
            nic.set(Reg::EECD, 1 << 6 | 1 << 1 | (bits >> n & 1) << 2 | sk);
        }
    }
}

/// A packet that wakes the NIC.
fn magic() -> Vec<u8> {
    let mut frame = broadcast(120);
    frame[14..20].fill(0xFF);
    for copy in frame[20..116].chunks_mut(6) {
        copy.copy_from_slice(&[0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    }
    frame
}

/// A NIC in the middle of everything at once that the version can say.
fn busy(version: u32) -> Nic {
    let mut nic = Nic::new();
    if version > 2 {
        nic.set(Reg::RCTL, 0);
        nic.set(Reg::WUFC, 1 << 1);
        nic.set(Reg::WUC, 1 << 1);
        nic.give(&magic());
    }
    nic.set_n(Reg::MTA, 3, 0x8000_0001);
    nic.set_n(Reg::VFTA, 127, 0x10);
    nic.set_n(Reg::RAL, 2, 0xddcc_bbaa);
    nic.set_n(Reg::RAH, 2, 0x8000_ffee);
    nic.set(Reg::WUFC, 0x0000_0022);
    nic.set(Reg::PBA, 0x20);
    nic.set(Reg::CTRL, 0x4014_0241);
    nic.control
        .write(0, 0x1_0008, &0x1234_5678_u32.to_le_bytes(), nic.now);
    nic.control.write(2, 0, &0x5400_u32.to_le_bytes(), nic.now);

    // The PHY has negotiated for 600 of 1000 us.
    nic.set(Reg::MDIC, 1 << 26 | 1 << 21 | 16 << 16 | 0x0868);
    nic.control.set_link(true, nic.now);
    nic.now = nic.now.plus_nanos(600_000);
    nic.control.run_timers(nic.now);

    // Word 2 of the EEPROM is 0xBEEF, and the driver has read the first four bits of it.
    clock_eeprom(&mut nic, 0b1_0011_0000, 9);
    nic.set(Reg::EECD, 0);
    clock_eeprom(&mut nic, 0b1_0100_0010, 9);
    clock_eeprom(&mut nic, 0xbeef, 16);
    nic.set(Reg::EECD, 0);
    clock_eeprom(&mut nic, 0b1_1000_0010, 9);
    clock_eeprom(&mut nic, 0, 4);

    // There was one buffer, for the first segment of what arrived. It has asserted the line.
    nic.set(Reg::ITR, 8000);
    nic.set(Reg::IMS, 0x1_f6df);
    nic.receive(8, 0);
    nic.set(Reg::RDT, 1);
    nic.set(Reg::RCTL, 1 << 1 | 1 << 3);
    let (bytes, meta) = receiving();
    let frame = RxFrame { data: &bytes, meta };
    assert_eq!(nic.deliver(frame), Delivered::Held);
    assert!(nic.shared().irq.poll(nic.now));

    // Two frames are sent; the first 700 bytes of a packet to be cut into segments are there.
    nic.legacy(0, &broadcast(100), EOP | IFCS);
    nic.legacy(0x1000, &broadcast(1000), EOP | IFCS);
    assert_eq!(nic.send().len(), 2);
    nic.set(Reg::TIDV, 1000);
    nic.context([14, 24, 33], [34, 50, 0], TCP | IPV4 | TSE, 54, MSS.into());
    let vle = if version > 3 { VLE } else { 0 };
    let (low, special) = (GIVEN as u32 | DATA | TSE | RS | IDE | vle, TAG << 16);
    nic.mem
        .write(TX_DATA + 0x2000, &sending()[..GIVEN])
        .unwrap();
    nic.push(TX_DATA + 0x2000, low, special | u32::from(TXSM | IXSM) << 8);
    assert!(nic.send().is_empty());
    if version > 1 {
        pause(&mut nic);
    }
    nic
}

/// It has to be silent for a while: a pause frame of 1000 times 512 bits comes.
fn pause(nic: &mut Nic) {
    nic.set(Reg::CTRL, ctrl(2));
    let mut pause = vec![0; 60];
    pause[..6].copy_from_slice(&[0x01, 0x80, 0xc2, 0, 0, 1]);
    pause[12..16].copy_from_slice(&[0x88, 0x08, 0, 1]);
    pause[16..18].copy_from_slice(&1000u16.to_be_bytes());
    assert_eq!(nic.give(&pause), Delivered::Filtered);
    nic.control.run_timers(nic.now);
}

/// CTRL, with RFCE and TFCE in the later one.
fn ctrl(version: u32) -> u32 {
    match version {
        1 => 0x4014_0241,
        _ => 0x5814_0241,
    }
}

/// What a guest of that NIC sees from then on.
fn check(version: u32) {
    let bytes = std::fs::read(file(version)).expect("made with UPDATE_GOLDEN=1");
    let mut nic = Nic::bare();
    nic.now = Time(77_000_000_000);
    nic.control.set_link(true, nic.now);
    nic.load(&bytes).unwrap();
    let start = nic.now;

    for (reg, n, value) in [
        (Reg::CTRL, 0, ctrl(version)),
        (Reg::PBA, 0, 0x0020_0020),
        (Reg::MTA, 3, 0x8000_0001),
        (Reg::MTA, 4, 0),
        (Reg::VFTA, 127, 0x10),
        (Reg::RAL, 0, 0x1200_5452),
        (Reg::RAH, 0, 0x8000_5634),
        (Reg::RAL, 2, 0xddcc_bbaa),
        (Reg::RAH, 2, 0x8000_ffee),
        (Reg::WUFC, 0, 0x22),
        (Reg::TDBAL, 0, TX_RING as u32),
        (Reg::TDLEN, 0, 1024),
        (Reg::TDH, 0, 4),
        (Reg::TDT, 0, 4),
        (Reg::RDLEN, 0, 128),
        (Reg::RDH, 0, 1),
        (Reg::RDT, 0, 1),
        (Reg::IMS, 0, 0x1_f6df),
        (Reg::ITR, 0, 8000),
        (Reg::TXDCTL, 0, 0),
        (Reg::GPTC, 0, 2),
        (Reg::GOTCL, 0, 104 + 1004),
        (Reg::PTC127, 0, 1),
        (Reg::PTC1023, 0, 1),
    ] {
        let row = reg.row();
        let mut value_now = [0; 4];
        let at = u64::from(row.offset) + n * u64::from(row.stride);
        nic.control.read(0, at, &mut value_now, start);
        assert_eq!(u32::from_le_bytes(value_now), value, "{}[{n}]", row.name);
    }
    let mut word = [0; 4];
    nic.control.read(0, 0x1_0008, &mut word, start);
    assert_eq!(word, 0x1234_5678_u32.to_le_bytes());
    nic.control.read(2, 4, &mut word, start);
    assert_eq!(word, 0x1200_5452_u32.to_le_bytes(), "IOADDR is that of RAL");

    // The PHY: 400 us to go.
    nic.set(Reg::MDIC, 2 << 26 | 1 << 21 | 16 << 16);
    assert_eq!(nic.get(Reg::MDIC) & 0xffff, 0x0868);
    assert!(!nic.control.link());
    assert_eq!(nic.control.deadline(), Some(start.plus_nanos(400_000)));

    // The EEPROM: twelve bits are left of the word.
    let mut bits = 0;
    for _ in 0..12 {
        nic.set(Reg::EECD, 1 << 6 | 1 << 1 | 1);
        nic.set(Reg::EECD, 1 << 6 | 1 << 1);
        bits = bits << 1 | (nic.get(Reg::EECD) >> 3 & 1);
    }
    assert_eq!(bits, 0xeef);

    // The pause: 512 us.
    let paused = |after| nic.shared().flow.is_paused(start.plus_nanos(after));
    assert_eq!(paused(0) && paused(511_999), version > 1);
    assert!(!paused(512_000));
    assert_eq!(nic.get(Reg::STATUS) >> 4 & 1 == 1, version > 1);

    // What woke it: the packet with padding, without FCS.
    let (wuc, wupl) = if version > 2 { (6, 120) } else { (0, 0) };
    assert_eq!((nic.get(Reg::WUC), nic.get(Reg::WUPL)), (wuc, wupl));
    let first = u32::from_le_bytes(magic()[..4].try_into().unwrap());
    assert_eq!(nic.get(Reg::WUPM), if version > 2 { first } else { 0 });

    // The line is up. TXDW comes 1000 units after the descriptor, and shows once ITR lets the line rise again.
    assert!(nic.shared().irq.poll(start));
    assert_eq!(nic.get(Reg::ICR) & (TXDW | RXT0), RXT0);
    assert!(!nic.shared().irq.poll(start));
    let rises = start.plus_nanos(8000 * 256);
    assert_eq!(nic.shared().irq.deadline(), Some(rises));
    nic.now = start.plus_nanos(1000 * 1024 - 1);
    assert_eq!(nic.get(Reg::ICS) & TXDW, 0);
    nic.now = start.plus_nanos(1000 * 1024);
    assert_eq!(nic.get(Reg::ICS) & TXDW, TXDW);
    assert!(!nic.shared().irq.poll(Time(rises.0 - 1)) && nic.shared().irq.poll(rises));

    // The rest of the packet is given.
    let rest = &sending()[GIVEN..];
    nic.mem.write(TX_DATA, rest).unwrap();
    nic.mem.store_u64(TX_RING + 4 * 16, TX_DATA).unwrap();
    let low = rest.len() as u32 | DATA | TSE | EOP | IFCS | RS;
    nic.mem
        .store_u64(TX_RING + 4 * 16 + 8, u64::from(low))
        .unwrap();
    nic.set(Reg::TDT, 5);
    let sent = nic.run();
    assert_eq!(sent.len(), 1);
    let flow = Flow::TCP4;
    let segments = flow.segments(100, 7, 0x18, &[0x5a; PAYLOAD], MSS.into());
    assert_eq!(sent[0].wire.len(), segments.len());
    for (got, want) in sent[0].wire.iter().zip(&segments) {
        let mut got = got.clone();
        if version > 3 {
            let tag: Vec<u8> = got.drain(12..16).collect();
            assert_eq!(tag, (0x8100 << 16 | TAG).to_be_bytes());
        }
        assert!(flow.same(&got, want));
    }

    // Buffers for the rest of the frame.
    let mut got = Vec::new();
    for at in [1, 2] {
        let desc = RX_RING + 16 * at;
        nic.mem.store_u64(desc, RX_DATA + 0x1000 * at).unwrap();
        nic.mem.store_u64(desc + 8, 0).unwrap();
        nic.set(Reg::RDT, at as u32 + 1);
        assert_eq!(nic.resume(), at == 2, "two more segments");
        let mut part = vec![0; (nic.word(desc + 8) & 0xffff) as usize - 4];
        nic.mem.read(RX_DATA + 0x1000 * at, &mut part).unwrap();
        got.push(part);
    }
    let segments = flow.segments(9, 1, 0x18, &[0xa5; PAYLOAD], MSS.into());
    for (got, want) in got.iter().zip(&segments[1..]) {
        assert!(flow.same(got, want), "{:?}\n{:?}", &got[..60], &want[..60]);
    }
    assert_eq!(nic.get(Reg::GPRC), 3);
}

#[test]
fn every_version_that_ever_was_means_what_it_meant() {
    if std::env::var_os("UPDATE_GOLDEN").is_some() && !file(NEWEST).exists() {
        std::fs::write(file(NEWEST), busy(NEWEST).save()).unwrap();
    }
    for version in 1..=NEWEST {
        check(version);
    }
}

#[test]
fn what_is_written_now_is_the_newest_version() {
    let bytes = std::fs::read(file(NEWEST)).expect("made with UPDATE_GOLDEN=1");
    let mut nic = Nic::bare();
    nic.control.set_link(true, nic.now);
    nic.load(&bytes).unwrap();
    assert!(
        nic.save() == bytes,
        "the format has changed: add a version, and never change an old one"
    );
}
