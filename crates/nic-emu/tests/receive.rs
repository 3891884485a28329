//! The receive ring as drivers use it.

mod support;

use nic_emu::common::frame::{Csum, RxCsum, RxFrame, RxMeta};
use nic_emu::e1000::Part;
use nic_emu::e1000::regs::Reg;
use nic_emu::e1000::rx::{Delivered, Loss};
use support::packets::{Flow, broadcast, stored, sum};
use support::*;

const EN: u32 = 1 << 1;
const SBP: u32 = 1 << 2;
const UPE: u32 = 1 << 3;
const MPE: u32 = 1 << 4;
const LPE: u32 = 1 << 5;
const BAM: u32 = 1 << 15;
const VFE: u32 = 1 << 18;
const CFIEN: u32 = 1 << 19;
const DPF: u32 = 1 << 22;
const PMCF: u32 = 1 << 23;
const BSEX: u32 = 1 << 25;
const SECRC: u32 = 1 << 26;
const VME: u32 = 1 << 30;
const RFCE: u32 = 1 << 27;
const IPOFL: u32 = 1 << 8;
const TUOFL: u32 = 1 << 9;

const DD_EOP: u8 = 0x03;
const IXSM: u8 = 0x04;

/// The sizes where something happens, and all others when nothing else does.
#[test]
fn every_size_in_every_buffer_size_with_and_without_crc() {
    let sizes = (14..200)
        .chain((200..2100).step_by(37))
        .chain([
            252, 255, 256, 508, 511, 512, 1020, 1514, 1518, 2043, 2044, 2045, 2048, 4092, 4096,
        ])
        .chain((4000..16380).step_by(977))
        .chain([16380]);
    for secrc in [0, SECRC] {
        for code in 0..8 {
            let (bsex, bsize) = (code & 4 != 0, code & 3);
            let buffer = match (bsex, bsize) {
                (false, _) => 2048 >> bsize,
                (true, 0) => 2048,
                (true, _) => 32768 >> bsize,
            };
            let mut nic = Nic::bare();
            nic.receive(
                256,
                EN | BAM | LPE | secrc | bsize << 16 | if bsex { BSEX } else { 0 },
            );
            for len in sizes.clone() {
                let frame = broadcast(len);
                assert_eq!(nic.give(&frame), Delivered::Placed);
                let got = nic.collect().expect("a frame");
                let want = stored(&frame, secrc != 0);
                assert_eq!(got.bytes, want, "{len} in {buffer}");
                assert_eq!(got.descriptors, want.len().div_ceil(buffer));
                assert_eq!((got.status, got.errors), (DD_EOP | IXSM, 0));
                nic.refill();
            }
        }
    }
}

#[test]
fn a_batch_has_one_head_update_and_one_interrupt() {
    let mut nic = Nic::new();
    nic.set(Reg::IMS, RXT0);
    nic.calm();
    let mem = nic.dma.clone();
    for _ in 0..5 {
        let frame = broadcast(100);
        assert_eq!(
            nic.rx.deliver(&mem, RxFrame::new(&frame), nic.now),
            Delivered::Placed
        );
        assert_eq!(nic.get(Reg::RDH), 0);
        assert!(!nic.shared().irq.poll(nic.now));
    }
    nic.rx.finish(&mem, nic.now).unwrap();
    assert_eq!(nic.get(Reg::RDH), 5);
    assert!(nic.shared().irq.poll(nic.now));
    assert_eq!(nic.get(Reg::ICR) & RXT0, RXT0);
    assert_eq!(nic.get(Reg::GPRC), 5);
    assert_eq!(nic.get(Reg::BPRC), 5);
    assert_eq!(nic.get(Reg::PRC127), 5);
    assert_eq!(nic.get(Reg::TPR), 5);
    assert_eq!(nic.get(Reg::GORCL), 520);
    assert_eq!(nic.get(Reg::TORL), 520);
    assert_eq!(nic.control.counters().rx_bytes, 500);
    nic.rx.finish(&mem, nic.now).unwrap();
    assert_eq!(nic.get(Reg::ICR), 0, "an empty batch raises nothing");
}

#[test]
fn a_delayed_interrupt_waits() {
    let mut nic = Nic::new();
    nic.set(Reg::RDTR, 20);
    nic.set(Reg::IMS, RXT0);
    nic.give(&broadcast(60));
    assert!(!nic.shared().irq.poll(nic.now));
    assert!(nic.shared().irq.poll(nic.now.plus_nanos(20 * 1024)));
}

#[test]
fn only_a_receiver_that_is_on_receives() {
    let mut nic = Nic::new();
    nic.set(Reg::RCTL, BAM);
    assert!(!nic.rx.has_room());
    assert_eq!(nic.give(&broadcast(60)), Delivered::Dropped(Loss::Disabled));
    assert_eq!((nic.get(Reg::TPR), nic.get(Reg::GPRC)), (0, 0));
    nic.set(Reg::RCTL, BAM | EN);
    assert!(nic.rx.has_room());
    nic.control.set_bus_master(false);
    assert!(!nic.rx.has_room());
    assert_eq!(nic.give(&broadcast(60)), Delivered::Dropped(Loss::Disabled));
    nic.control.set_bus_master(true);
    assert_eq!(nic.give(&broadcast(60)), Delivered::Placed);
}

#[test]
fn filters_decide() {
    let mut nic = Nic::new();
    let to = |dst: [u8; 6]| {
        let mut frame = broadcast(80);
        frame[..6].copy_from_slice(&dst);
        frame
    };
    let other = [2, 0, 0, 0, 0, 1];
    let group = [0x01, 0x00, 0x5e, 0, 0, 0xfb];
    for (rctl, dst, passes) in [
        (0, MAC, true),
        (0, other, false),
        (UPE, other, true),
        (0, group, false),
        (MPE, group, true),
        (0, [0xff; 6], false),
        (BAM, [0xff; 6], true),
        (MPE, [0xff; 6], true),
        (UPE, group, false),
    ] {
        nic.set(Reg::RCTL, EN | rctl);
        let want = if passes {
            Delivered::Placed
        } else {
            Delivered::Filtered
        };
        assert_eq!(nic.give(&to(dst)), want, "{rctl:#x} {dst:02x?}");
    }
    assert_eq!(nic.control.counters().rx_filtered, 4);
    assert_eq!((nic.get(Reg::GPRC), nic.get(Reg::TPR)), (5, 9));
    assert_eq!((nic.get(Reg::BPRC), nic.get(Reg::MPRC)), (2, 1));
    while nic.collect().is_some() {}
    // The hash table, with the bit that says so.
    nic.set(Reg::RCTL, EN);
    let hash = 0xfb00u64 >> 4;
    nic.set_n(Reg::MTA, hash >> 5, 1 << (hash & 31));
    assert_eq!(nic.give(&to(group)), Delivered::Placed);
    assert_eq!(nic.collect().unwrap().status, DD_EOP | IXSM | 0x80);
    // A second station address.
    nic.set_n(Reg::RAL, 15, 2);
    nic.set_n(Reg::RAH, 15, 0x8000_0100);
    assert_eq!(nic.give(&to(other)), Delivered::Placed);
}

#[test]
fn vlan_filter_and_strip() {
    let mut nic = Nic::new();
    let tagged = Flow {
        vlan: Some(0x3064),
        ..Flow::UDP4
    }
    .packet(0, 0, 0, b"tagged, and long enough");
    let plain = Flow::UDP4.packet(0, 0, 0, b"plain");
    nic.set(Reg::RCTL, EN | VFE);
    assert_eq!(nic.give(&tagged), Delivered::Filtered);
    assert_eq!(nic.give(&plain), Delivered::Placed);
    nic.set_n(Reg::VFTA, 0x64 >> 5, 1 << (0x64 & 31));
    assert_eq!(nic.give(&tagged), Delivered::Placed);
    nic.set(Reg::RCTL, EN | VFE | CFIEN);
    assert_eq!(nic.give(&tagged), Delivered::Filtered, "CFI is set");
    nic.set(Reg::RCTL, EN | VFE | CFIEN | 1 << 20);
    assert_eq!(nic.give(&tagged), Delivered::Placed);
    assert_eq!(nic.collect().unwrap().bytes, stored(&plain, false));
    for _ in 0..2 {
        let got = nic.collect().unwrap();
        assert_eq!((got.bytes, got.status & 8), (stored(&tagged, false), 0));
    }
    nic.set(Reg::CTRL, VME | 1 << 6);
    assert_eq!(nic.give(&tagged), Delivered::Placed);
    let got = nic.collect().unwrap();
    let mut want = stored(&tagged, false);
    want.drain(12..16);
    assert_eq!((got.bytes, got.status & 8, got.special), (want, 8, 0x3064));
    nic.set(Reg::VET, 0x9100);
    assert_eq!(nic.give(&tagged), Delivered::Placed);
    assert_eq!(nic.collect().unwrap().status & 8, 0);
}

#[test]
fn sizes_have_limits() {
    let mut nic = Nic::bare();
    nic.receive(256, EN | BAM);
    assert_eq!(nic.give(&broadcast(1518)), Delivered::Placed);
    assert_eq!(
        nic.give(&broadcast(1519)),
        Delivered::Dropped(Loss::Oversize)
    );
    nic.set(Reg::RCTL, EN | BAM | LPE);
    assert_eq!(nic.give(&broadcast(1519)), Delivered::Placed);
    assert_eq!(nic.give(&broadcast(16380)), Delivered::Placed);
    assert_eq!(
        nic.give(&broadcast(16381)),
        Delivered::Dropped(Loss::Oversize)
    );
    assert_eq!(nic.get(Reg::ROC), 2);
    nic.set(Reg::RCTL, EN | BAM | SBP);
    assert_eq!(nic.give(&broadcast(16381)), Delivered::Placed);
    assert_eq!(nic.get(Reg::ROC), 1);
    assert_eq!(nic.get(Reg::GPRC), 3, "an oversize frame is no good frame");
    assert_eq!(nic.give(&broadcast(13)), Delivered::Dropped(Loss::Runt));
    assert_eq!(nic.give(&[]), Delivered::Dropped(Loss::Runt));
    assert_eq!(
        (nic.get(Reg::RUC), nic.get(Reg::RLEC)),
        (1, 4),
        "and all that were too long"
    );
}

#[test]
fn damaged_frames_come_only_to_who_stores_bad_packets() {
    let mut nic = Nic::new();
    let data = broadcast(100);
    let meta = RxMeta {
        bad_fcs: true,
        ..RxMeta::default()
    };
    assert_eq!(
        nic.deliver(RxFrame { data: &data, meta }),
        Delivered::Dropped(Loss::BadFcs)
    );
    assert_eq!(nic.get(Reg::CRCERRS), 1);
    nic.set(Reg::RCTL, EN | BAM | SBP);
    assert_eq!(
        nic.deliver(RxFrame { data: &data, meta }),
        Delivered::Placed
    );
    let got = nic.collect().unwrap();
    assert_eq!(got.errors, 1);
    assert_eq!(got.bytes[..100], data);
    assert_ne!(got.bytes, stored(&data, false), "and its FCS is wrong");
    assert_eq!((nic.get(Reg::CRCERRS), nic.get(Reg::GPRC)), (1, 0));
}

/// An IPv6 packet with one more extension header of `len` bytes before what it has.
fn behind(kind: u8, len: usize, segments_left: u8, frame: &[u8]) -> Vec<u8> {
    let mut f = frame.to_vec();
    let mut header = vec![0; len];
    header[0] = f[20];
    header[1] = (len / 8 - 1) as u8;
    header[3] = segments_left;
    f[20] = kind;
    let payload = u16::from_be_bytes([f[18], f[19]]) + len as u16;
    f[18..20].copy_from_slice(&payload.to_be_bytes());
    f.splice(54..54, header);
    f
}

/// It looks at IPv4 only.
#[test]
fn the_82544_makes_no_verdict_on_ipv6() {
    for (part, flow, want) in [
        (Part::I82544Gc, Flow::TCP4, 0x60),
        (Part::I82544Gc, Flow::TCP6, IXSM),
        (Part::I82545Em, Flow::TCP6, 0x20),
    ] {
        let mut nic = Nic::of(part);
        nic.receive(64, EN | UPE);
        nic.set(Reg::RXCSUM, IPOFL | TUOFL);
        nic.give(&flow.packet(1, 2, 0x10, b"data"));
        assert_eq!(nic.collect().unwrap().status & !DD_EOP, want, "{part:?}");
    }
}

#[test]
fn checksum_verdicts() {
    let udp_zero = {
        let mut f = Flow::UDP4.packet(0, 0, 0, b"no checksum");
        let at = Flow::UDP4.field();
        f[at..at + 2].fill(0);
        f
    };
    let fragment = |bits: u16| {
        let mut f = Flow::UDP4.packet(0, 0, 0, b"fragment");
        f[20..22].copy_from_slice(&bits.to_be_bytes());
        f[24..26].fill(0);
        let value = !sum(&f[14..34]);
        f[24..26].copy_from_slice(&value.to_be_bytes());
        f
    };
    let broken = |mut f: Vec<u8>, at: usize| {
        f[at] ^= 0x10;
        f
    };
    let tcp = Flow::TCP4.packet(1, 2, 0x10, b"data");
    let padded = {
        let mut f = tcp.clone();
        f.extend([0xff; 30]);
        f
    };
    let tagged = Flow {
        vlan: Some(5),
        ..Flow::TCP6
    }
    .packet(1, 2, 0x10, b"data");
    let in_snap = |mut f: Vec<u8>| {
        let len = (f.len() - 14 + 8) as u16;
        let [high, low] = len.to_be_bytes();
        f.splice(12..12, [high, low, 0xAA, 0xAA, 3, 0, 0, 0]);
        f
    };
    let (ip, udp, l4) = (0x40, 0x10, 0x20);
    let (hop_by_hop, routing, fragment6, options) = (0, 43, 44, 60);
    let two = behind(
        options,
        16,
        0,
        &behind(hop_by_hop, 64, 0, &Flow::TCP6.packet(1, 2, 0, b"x")),
    );
    let (ipe, tcpe) = (0x40, 0x20);
    let udp6 = Flow::UDP6.packet(0, 0, 0, b"xyz");
    let arp = broadcast(60);
    for (name, frame, both, errors, only_l4) in [
        ("tcp4", tcp.clone(), ip | l4, 0, l4),
        ("tcp4 padded", padded, ip | l4, 0, l4),
        ("tcp6", Flow::TCP6.packet(1, 2, 0x10, b"odd"), l4, 0, l4),
        ("tcp6 tagged", tagged, l4, 0, l4),
        (
            "udp4",
            Flow::UDP4.packet(0, 0, 0, b"x"),
            ip | udp | l4,
            0,
            udp | l4,
        ),
        (
            "udp6",
            Flow::UDP6.packet(0, 0, 0, b"xy"),
            udp | l4,
            0,
            udp | l4,
        ),
        ("udp without", udp_zero, ip, 0, IXSM),
        ("tcp4 in snap", in_snap(tcp.clone()), ip | l4, 0, l4),
        (
            "tcp6 in snap",
            in_snap(Flow::TCP6.packet(1, 2, 0x10, b"odd")),
            l4,
            0,
            l4,
        ),
        ("two extensions", two.clone(), l4, 0, l4),
        ("broken there", broken(two, 141), l4, tcpe, l4),
        (
            "routing",
            behind(routing, 24, 0, &udp6),
            udp | l4,
            0,
            udp | l4,
        ),
        (
            "segments left",
            behind(routing, 24, 1, &udp6),
            IXSM,
            0,
            IXSM,
        ),
        (
            "long extension",
            behind(options, 72, 0, &udp6),
            IXSM,
            0,
            IXSM,
        ),
        (
            "ipv6 fragment",
            behind(fragment6, 8, 0, &udp6),
            IXSM,
            0,
            IXSM,
        ),
        ("first fragment", fragment(0x2000), ip, 0, IXSM),
        ("last fragment", fragment(0x0010), ip, 0, IXSM),
        ("tcp4 payload", broken(tcp.clone(), 56), ip | l4, tcpe, l4),
        ("ip header", broken(tcp.clone(), 22), ip | l4, ipe, l4),
        ("ip total length", broken(tcp.clone(), 16), ip, ipe, IXSM),
        ("no ip", arp, IXSM, 0, IXSM),
    ] {
        let mut nic = Nic::new();
        nic.set(Reg::RCTL, EN | BAM | UPE);
        let mut look = |rxcsum: u32| {
            nic.set(Reg::RXCSUM, rxcsum);
            assert_eq!(nic.give(&frame), Delivered::Placed);
            let got = nic.collect().unwrap();
            (got.status & !DD_EOP, got.errors)
        };
        assert_eq!(look(0), (IXSM, 0), "{name}");
        assert_eq!(look(IPOFL | TUOFL), (both, errors), "{name}");
        assert_eq!(look(TUOFL).0, only_l4, "{name}");
    }
}

#[test]
fn what_the_backend_knows_is_believed() {
    let mut nic = Nic::new();
    nic.set(Reg::RXCSUM, TUOFL);
    let mut frame = Flow::TCP4.packet(1, 2, 0x10, b"data");
    frame[56] ^= 1;
    let meta = RxMeta {
        csum: RxCsum::Valid,
        ..RxMeta::default()
    };
    nic.deliver(RxFrame { data: &frame, meta });
    let got = nic.collect().unwrap();
    assert_eq!((got.status & 0x20, got.errors), (0x20, 0));
}

#[test]
fn partial_checksums_are_filled_in() {
    for flow in [
        Flow::TCP4,
        Flow::TCP6,
        Flow::UDP4,
        Flow {
            vlan: Some(7),
            ..Flow::UDP6
        },
    ] {
        for strip in [false, true] {
            let mut nic = Nic::new();
            nic.set(Reg::RXCSUM, TUOFL);
            nic.set(Reg::CTRL, 1 << 6 | if strip { VME } else { 0 });
            let mut want = flow.packet(1, 2, 0x10, b"some data");
            let mut data = flow.unfinished(1, 2, 0x10, b"some data", false);
            if !flow.v6 {
                let at = flow.l3() + 10;
                data[at..at + 2].copy_from_slice(&want[at..at + 2]);
            }
            let csum = RxCsum::Partial(Csum {
                start: flow.l4() as u16,
                offset: (flow.field() - flow.l4()) as u16,
            });
            let meta = RxMeta {
                csum,
                ..RxMeta::default()
            };
            assert_eq!(
                nic.deliver(RxFrame { data: &data, meta }),
                Delivered::Placed
            );
            let got = nic.collect().unwrap();
            want = stored(&want, false);
            if strip && flow.vlan.is_some() {
                want.drain(12..16);
            }
            assert_eq!(got.bytes, want);
            assert_eq!((got.status & 0x20, got.errors), (0x20, 0));
        }
    }
}

/// Of what is stored: without the tag if that is taken out, with padding, with the FCS if that is kept; of all that lies
/// in however many buffers.
#[test]
fn a_packet_checksum_starts_where_the_driver_says() {
    let tagged = Flow {
        vlan: Some(7),
        ..Flow::UDP4
    };
    let mut frames = vec![broadcast(15), broadcast(60), broadcast(3001)];
    for flow in [Flow::TCP4, Flow::TCP6, tagged] {
        frames.push(flow.packet(1, 2, 0x10, b"data"));
        frames.push(flow.packet(1, 2, 0x10, &[0xA5; 1001]));
    }
    for (frame, secrc, vme) in frames
        .iter()
        .flat_map(|frame| [0, SECRC].map(|secrc| (frame, secrc)))
        .flat_map(|(frame, secrc)| [0, VME].map(|vme| (frame, secrc, vme)))
    {
        let mut want = stored(frame, secrc != 0);
        if vme != 0 && frame[12..14] == [0x81, 0] {
            want.drain(12..16);
        }
        for start in [1, 13, 14, 18, 61, 255] {
            let mut nic = Nic::new();
            nic.set(Reg::RCTL, EN | UPE | BAM | LPE | secrc | 3 << 16);
            nic.set(Reg::CTRL, 1 << 6 | vme);
            nic.set(Reg::RXCSUM, start as u32);
            nic.give(frame);
            let last = want.len().div_ceil(256) as u64 - 1;
            assert_eq!(
                nic.word(RX_RING + 16 * last + 8) >> 16,
                u32::from(sum(want.get(start..).unwrap_or(&[]))),
                "{} bytes from {start}, SECRC {secrc:x}, VME {vme:x}",
                frame.len()
            );
        }
    }
}

#[test]
fn pause_frames_and_their_kin() {
    let control = |opcode: u16, dst: [u8; 6], quanta: u16| {
        let mut f = vec![0; 60];
        f[..6].copy_from_slice(&dst);
        f[12..14].copy_from_slice(&[0x88, 0x08]);
        f[14..16].copy_from_slice(&opcode.to_be_bytes());
        f[16..18].copy_from_slice(&quanta.to_be_bytes());
        f
    };
    let pause = [0x01, 0x80, 0xc2, 0, 0, 1];
    let mut nic = Nic::new();
    nic.set(Reg::RCTL, EN | MPE);
    assert_eq!(nic.give(&control(1, pause, 5)), Delivered::Placed);
    assert_eq!(nic.give(&control(2, pause, 5)), Delivered::Filtered);
    assert_eq!(nic.give(&control(2, MAC, 5)), Delivered::Filtered);
    nic.set(Reg::RCTL, EN | MPE | PMCF);
    assert_eq!(nic.give(&control(2, MAC, 5)), Delivered::Placed);
    nic.set(Reg::CTRL, 1 << 6 | RFCE);
    assert_eq!(nic.give(&control(1, pause, 5)), Delivered::Placed);
    nic.set(Reg::RCTL, EN | MPE | DPF);
    assert_eq!(nic.give(&control(1, pause, 0)), Delivered::Filtered);
    assert_eq!((nic.get(Reg::XOFFRXC), nic.get(Reg::XONRXC)), (2, 1));
    assert_eq!((nic.get(Reg::FCRUC), nic.get(Reg::GPRC)), (3, 1));
    assert_eq!(
        nic.give(&control(1, [0x03, 0, 0, 0, 0, 1], 0)),
        Delivered::Placed
    );
}

#[test]
fn the_minimum_threshold_is_told_when_it_is_reached() {
    for (rdmts, left) in [(0, 32), (1, 16), (2, 8)] {
        let mut nic = Nic::new();
        nic.set(Reg::RCTL, EN | BAM | rdmts << 8);
        for i in 1..=63 - left {
            assert_eq!(nic.get(Reg::ICR) & RXDMT0, 0, "{i}");
            nic.give(&broadcast(60));
        }
        assert_eq!(nic.get(Reg::ICR) & RXDMT0, RXDMT0);
        nic.give(&broadcast(60));
        assert_eq!(nic.get(Reg::ICR) & RXDMT0, 0);
    }
}

#[test]
fn small_packets_are_told_of() {
    const SRPD: u32 = 1 << 16;
    let mut nic = Nic::new();
    nic.give(&broadcast(60));
    assert_eq!(nic.get(Reg::ICR) & SRPD, 0, "RSRPD is 0");
    nic.set(Reg::RSRPD, 104);
    for (len, told) in [(100, SRPD), (101, 0), (20, SRPD)] {
        nic.give(&broadcast(len));
        assert_eq!(nic.get(Reg::ICR) & SRPD, told, "{len}");
    }
}

#[test]
fn null_buffers_are_skipped() {
    let mut nic = Nic::new();
    nic.receive(8, EN | BAM | LPE | 3 << 16);
    for i in [0, 2, 3] {
        nic.mem.store_u64(RX_RING + 16 * i, 0).unwrap();
    }
    assert_eq!(nic.give(&broadcast(400)), Delivered::Placed);
    let got = nic.collect().unwrap();
    assert_eq!(got.bytes, stored(&broadcast(400), false));
    assert_eq!(got.descriptors, 5);
}
