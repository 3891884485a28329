//! The receive ring as drivers use it.

mod support;

use nic_emu::common::frame::{Csum, Gso, GsoKind, RxCsum, RxFrame, RxMeta};
use nic_emu::e1000::regs::Reg;
use nic_emu::e1000::rx::{Delivered, Loss, Overrun};
use proptest::prelude::*;
use support::packets::{Flow, broadcast, crc, flows, sum};
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

/// What lies in the guest's buffers for a frame.
fn stored(frame: &[u8], secrc: bool) -> Vec<u8> {
    let mut out = frame.to_vec();
    out.resize(frame.len().max(60), 0);
    if !secrc {
        let fcs = crc(&out);
        out.extend(fcs.to_le_bytes());
    }
    out
}

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
    let (ip, udp, l4) = (0x40, 0x10, 0x20);
    let (ipe, tcpe) = (0x40, 0x20);
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

#[test]
fn a_packet_checksum_starts_where_the_driver_says() {
    let mut nic = Nic::new();
    nic.set(Reg::RXCSUM, 14);
    let frame = Flow::TCP4.packet(1, 2, 0x10, b"data");
    nic.give(&frame);
    assert_eq!(nic.word(RX_RING + 8) >> 16, u32::from(sum(&frame[14..])));
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
fn a_frame_waits_for_descriptors() {
    let mut nic = Nic::new();
    nic.receive(8, EN | BAM | LPE | 3 << 16);
    let (first, second) = (broadcast(1000), broadcast(1400));
    assert_eq!(nic.give(&first), Delivered::Placed);
    assert!(nic.rx.has_room());
    assert_eq!(nic.give(&second), Delivered::Held, "3 of 6 descriptors");
    assert!(!nic.rx.has_room());
    assert_eq!(nic.get(Reg::RDH), 7);
    assert_eq!(nic.give(&first), Delivered::Held, "behind it");
    assert_eq!((nic.get(Reg::MPC), nic.get(Reg::RNBC)), (0, 1));
    assert_eq!(nic.get(Reg::GPRC), 3, "they are received");
    assert!(!nic.resume());
    assert_eq!(nic.collect().unwrap().bytes, stored(&first, false));
    nic.refill();
    assert!(!nic.resume());
    assert_eq!(nic.collect().unwrap().bytes, stored(&second, false));
    nic.refill();
    assert!(nic.resume());
    assert_eq!(nic.collect().unwrap().bytes, stored(&first, false));
    assert_eq!((nic.get(Reg::GPRC), nic.get(Reg::MPC)), (0, 0));
}

#[test]
fn a_ring_smaller_than_a_frame_still_gets_it() {
    let mut nic = Nic::new();
    nic.receive(8, EN | BAM | LPE | 3 << 16);
    let frame = broadcast(9000);
    let mut bytes = Vec::new();
    let mut at = 0;
    assert_eq!(nic.give(&frame), Delivered::Held);
    for _ in 0..20 {
        loop {
            let desc = RX_RING + 16 * at;
            let status = nic.word(desc + 12);
            if status & 1 == 0 {
                break;
            }
            let len = (nic.word(desc + 8) & 0xffff) as usize;
            let mut part = vec![0; len];
            nic.mem.read(u64::from(nic.word(desc)), &mut part).unwrap();
            bytes.extend(part);
            nic.mem.store_u64(desc + 8, 0).unwrap();
            at = (at + 1) % 8;
            nic.set(Reg::RDT, ((at + 7) % 8) as u32);
            if status & 2 != 0 {
                assert_eq!(bytes, stored(&frame, false));
                return;
            }
        }
        nic.resume();
    }
    panic!("never came");
}

#[test]
fn with_drop_and_no_fifo_a_frame_without_descriptors_is_lost_whole() {
    let mut nic = Nic::new();
    nic.rx.set_overrun(Overrun::Drop);
    nic.set(Reg::PBA, 0);
    nic.receive(8, EN | BAM | LPE | 3 << 16);
    assert_eq!(nic.give(&broadcast(1000)), Delivered::Placed);
    assert_eq!(
        nic.give(&broadcast(1400)),
        Delivered::Dropped(Loss::NoDescriptor)
    );
    assert_eq!(nic.get(Reg::RDH), 4, "no part of it was written");
    assert!(nic.rx.has_room(), "the network is not held up");
    assert_eq!(
        (nic.get(Reg::MPC), nic.get(Reg::RNBC), nic.get(Reg::GPRC)),
        (1, 1, 1)
    );
    assert_eq!(nic.get(Reg::ICR) & RXO, RXO);
    assert_eq!(nic.give(&broadcast(60)), Delivered::Placed);
}

#[test]
fn all_that_waits_in_the_fifo_survives_a_save() {
    let mut nic = Nic::new();
    nic.rx.set_overrun(Overrun::Drop);
    nic.receive(8, EN | BAM);
    let frames: Vec<_> = (0..30).map(|n| broadcast(1000 + n)).collect();
    for (n, frame) in frames.iter().enumerate() {
        let want = [Delivered::Placed, Delivered::Held][usize::from(n >= 7)];
        assert_eq!(nic.give(frame), want);
    }
    let bytes = nic.save();
    let mut other = Nic::bare();
    other.take_driver(&nic);
    other.rx.set_overrun(Overrun::Drop);
    other.load(&bytes).unwrap();
    assert_eq!(other.save(), bytes);
    // What is in there takes up its room there too: 48 KiB hold 24 more of 1004 bytes.
    let more = (0..30).filter(|_| other.give(&broadcast(1000)) == Delivered::Held);
    assert_eq!(more.count(), 25);
    assert_eq!(other.get(Reg::MPC), 5);
    for frame in &frames {
        assert_eq!(other.collect().unwrap().bytes, stored(frame, false));
        other.refill();
        other.resume();
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
fn what_a_nic_sends_to_itself_is_lost_when_the_fifo_is_full() {
    let mut nic = Nic::new();
    nic.calm();
    nic.receive(8, EN | BAM);
    let mem = nic.dma.clone();
    let mut kept = 0;
    for _ in 0..100 {
        match nic
            .rx
            .loop_back(&mem, RxFrame::new(&broadcast(1020)), nic.now)
        {
            Delivered::Placed | Delivered::Held | Delivered::Interrupted => kept += 1,
            lost => assert_eq!(lost, Delivered::Dropped(Loss::NoDescriptor)),
        }
    }
    nic.resume();
    assert_eq!(kept, 7 + 48);
    assert_eq!((nic.get(Reg::MPC), nic.get(Reg::GPRC)), (45, 55));
    assert!(!nic.rx.has_room(), "what is on the network waits");
}

#[test]
fn a_held_frame_does_not_survive_a_stop_or_a_reset() {
    for reset in [false, true] {
        let mut nic = Nic::new();
        nic.receive(8, EN | BAM | LPE | 3 << 16);
        assert_eq!(nic.give(&broadcast(9000)), Delivered::Held);
        if reset {
            nic.set(Reg::CTRL, 1 << 26);
        } else {
            nic.set(Reg::RCTL, 0);
            assert!(nic.resume());
        }
        nic.receive(8, EN | BAM | LPE);
        assert!(nic.resume());
        assert_eq!(nic.collect(), None);
        assert!(nic.rx.has_room());
        assert_eq!(nic.give(&broadcast(100)), Delivered::Placed);
        assert_eq!(nic.collect().unwrap().bytes, stored(&broadcast(100), false));
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

/// Collects what the NIC gives in return for all of its descriptors again and again, until it has no more. Each frame
/// with its status and errors; it may be split over the refills.
fn drain(nic: &mut Nic, ring: u32) -> Vec<(Vec<u8>, u32)> {
    let mut got = Vec::new();
    let mut bytes = Vec::new();
    let mut at = 0u64;
    let mut done = false;
    for _ in 0..2000 {
        loop {
            let desc = RX_RING + 16 * at;
            let status = nic.word(desc + 12);
            if status & 1 == 0 {
                break;
            }
            let mut part = vec![0; (nic.word(desc + 8) & 0xffff) as usize];
            nic.mem.read(u64::from(nic.word(desc)), &mut part).unwrap();
            bytes.extend(part);
            nic.mem.store_u64(desc + 8, 0).unwrap();
            at = (at + 1) % u64::from(ring);
            if status & 2 != 0 {
                got.push((std::mem::take(&mut bytes), status));
            }
        }
        if done {
            assert!(bytes.is_empty(), "a frame without an end");
            return got;
        }
        nic.set(Reg::RDT, (at as u32 + ring - 1) % ring);
        done = nic.resume();
    }
    panic!("the receiver finds no end");
}

/// A super-frame as a backend hands it over.
fn super_frame(flow: &Flow, data: &[u8], mss: usize) -> (Vec<u8>, RxMeta) {
    let mut frame = flow.packet(7, 0xfff0, 0x19, data);
    let field = flow.field();
    let mut pseudo = if flow.v6 {
        frame[flow.l3() + 8..flow.l3() + 40].to_vec()
    } else {
        frame[flow.l3() + 12..flow.l3() + 20].to_vec()
    };
    pseudo.extend([0, if flow.udp { 17 } else { 6 }]);
    pseudo.extend(((frame.len() - flow.l4()) as u16).to_be_bytes());
    frame[field..field + 2].copy_from_slice(&sum(&pseudo).to_be_bytes());
    let kind = match (flow.udp, flow.v6) {
        (true, _) => GsoKind::UdpL4,
        (false, true) => GsoKind::TcpV6,
        (false, false) => GsoKind::TcpV4,
    };
    let meta = RxMeta {
        csum: RxCsum::Partial(Csum {
            start: flow.l4() as u16,
            offset: (field - flow.l4()) as u16,
        }),
        gso: Some(Gso {
            kind,
            hdr_len: flow.headers() as u16,
            mss: mss as u16,
        }),
        bad_fcs: false,
    };
    (frame, meta)
}

proptest! {
    #![proptest_config(cases(200))]

    /// Where frames are lost at overrun, a super-frame's segments are that find neither descriptors nor room in the FIFO.
    #[test]
    fn a_full_fifo_takes_the_first_segments_of_a_super_frame(
        flow in flows(),
        len in 1usize..60_000,
        mss in 100usize..3000,
        owned in 0u32..40,
        rxa in 1u32..6,
        times in 1usize..4,
    ) {
        let data: Vec<u8> = (0..len).map(|i| (i * 13) as u8).collect();
        let (frame, meta) = super_frame(&flow, &data, mss);
        let segments = flow.segments(7, 0xfff0, 0x19, &data, mss);
        let octets = |frames: &[Vec<u8>]| frames.iter().map(|f| f.len().max(60) + 4).sum::<usize>();
        let longest = octets(&segments[..1]);

        // Counted by hand: buffers of 2048 bytes, then the FIFO, in which one that was begun has its place as well.
        let capacity = 8 * rxa as usize * 1024;
        let (mut buffers, mut waiting, mut want) = (owned as usize, 0, Vec::new());
        for _ in 0..times {
            let mut placed = 0;
            while waiting == 0 && placed < segments.len() {
                let needed = segments[placed].len().max(60).div_ceil(2048);
                if needed > buffers {
                    buffers = 0;
                    break;
                }
                buffers -= needed;
                placed += 1;
            }
            let rest = &segments[placed..];
            let room = capacity - waiting;
            let held = if octets(rest) <= room { rest.len() } else { room / longest };
            waiting += octets(&rest[..held]);
            want.extend_from_slice(&segments[..placed + held]);
        }

        let mut nic = Nic::bare();
        nic.calm();
        nic.set(Reg::CTRL, 1 << 6);
        nic.set(Reg::PBA, 8 * rxa);
        nic.rx.set_overrun(Overrun::Drop);
        nic.receive(256, EN | LPE | SECRC);
        nic.set(Reg::RDT, owned);
        for _ in 0..times {
            nic.deliver(RxFrame { data: &frame, meta });
        }
        let lost = times * segments.len() - want.len();
        prop_assert_eq!(nic.get(Reg::MPC) as usize, lost);
        prop_assert_eq!(nic.control.counters().rx_frames as usize, want.len());
        // They wait as well in a NIC that moves house.
        let saved = nic.save();
        let mut moved = Nic::bare();
        moved.take_driver(&nic);
        prop_assert!(moved.load(&saved).is_ok());
        let got = drain(&mut moved, 256);
        prop_assert_eq!(got.len(), want.len());
        for (at, ((got, _), want)) in got.iter().zip(&want).enumerate() {
            let mut want = want.clone();
            want.resize(want.len().max(60), 0);
            prop_assert!(flow.same(got, &want), "frame {}", at);
        }
    }
}

proptest! {
    #![proptest_config(cases(400))]

    /// A super-frame from the backend becomes the segments its sender would have sent, whenever descriptors come.
    #[test]
    fn super_frames_are_cut_into_the_ring(
        flow in flows(),
        tag in prop::option::of(any::<u16>()),
        strip in any::<bool>(),
        len in 1usize..20000,
        mss in 200usize..3000,
        ring in prop::sample::select(vec![8u32, 16, 64, 256]),
        bsize in 0u32..4,
        secrc in any::<bool>(),
    ) {
        let flow = Flow { vlan: tag, ..flow };
        let data: Vec<u8> = (0..len).map(|i| (i * 13) as u8).collect();
        let (frame, meta) = super_frame(&flow, &data, mss);
        let mut nic = Nic::bare();
        nic.set(Reg::CTRL, 1 << 6 | if strip { VME } else { 0 });
        nic.set(Reg::RXCSUM, TUOFL | IPOFL);
        let secrc_bit = if secrc { SECRC } else { 0 };
        nic.receive(ring, EN | LPE | secrc_bit | bsize << 16);
        nic.deliver(RxFrame { data: &frame, meta });
        let want = flow.segments(7, 0xfff0, 0x19, &data, mss);
        let got = drain(&mut nic, ring);
        prop_assert_eq!(got.len(), want.len());
        for ((mut got, status), want) in got.into_iter().zip(&want) {
            let fcs = (!secrc).then(|| got.split_off(got.len() - 4));
            let mut want = want.clone();
            want.resize(want.len().max(60), 0);
            if strip && tag.is_some() {
                got.splice(12..12, want[12..16].to_vec());
            }
            prop_assert!(flow.same(&got, &want));
            if let Some(fcs) = fcs {
                prop_assert_eq!(fcs, crc(&got).to_le_bytes());
            }
            prop_assert_eq!(status & 0x20, 0x20, "TCPCS");
            prop_assert_eq!(status >> 8 & 0xff, 0);
        }
        prop_assert_eq!(nic.get(Reg::GPRC) as usize, want.len());
        prop_assert_eq!(nic.get(Reg::MPC), 0);
    }
}
