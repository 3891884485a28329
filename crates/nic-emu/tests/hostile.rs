//! What a driver must not be able to do to us: panic, work without bound, memory beyond the guest's.
//!
//! `GuestMem` cannot be left by construction; here every case also has to end, and the NIC has to be as good as new
//! after a reset.

mod support;

use nic_emu::common::frame::{Csum, Gso, GsoKind, RxCsum, RxFrame, RxMeta, TxBurst};
use nic_emu::common::gso::MAX_SEGMENTS;
use nic_emu::e1000::regs::Reg;
use nic_emu::e1000::rx::{Delivered, Overrun};
use proptest::prelude::*;
use support::packets::{Flow, broadcast};
use support::*;

const EN: u32 = 1 << 1;
const UPE: u32 = 1 << 3;
const LPE: u32 = 1 << 5;
const BAM: u32 = 1 << 15;
const RST: u32 = 1 << 26;

/// A reset, and then both directions work.
fn assert_usable(nic: &mut Nic) {
    nic.set(Reg::CTRL, RST);
    nic.control.set_bus_master(true);
    nic.accept = usize::MAX;
    nic.rx.set_overrun(Overrun::Hold);
    nic.set(Reg::TDBAL, TX_RING as u32);
    nic.set(Reg::TDLEN, 8 * 16);
    nic.set(Reg::TCTL, EN);
    nic.mem.write(TX_DATA, &broadcast(100)).unwrap();
    nic.mem.store_u64(TX_RING, TX_DATA).unwrap();
    nic.mem
        .store_u64(TX_RING + 8, u64::from(100 | EOP | IFCS | RS))
        .unwrap();
    nic.set(Reg::TDT, 1);
    let sent = nic.run();
    assert_eq!((sent.len(), &sent[0].bytes), (1, &broadcast(100)));
    nic.receive(8, EN | BAM);
    assert_eq!(nic.give(&broadcast(1000)), Delivered::Placed);
    assert_eq!(nic.collect().unwrap().bytes[..1000], broadcast(1000));
}

/// Sends what is in the ring, whatever it is; sizes of the frames that came out.
fn send_raw(nic: &mut Nic, descriptors: &[(u64, u64)]) -> Vec<usize> {
    let mut sizes = Vec::new();
    for part in descriptors.chunks(32) {
        for &(addr, word) in part {
            nic.push(addr, word as u32, (word >> 32) as u32);
        }
        sizes.extend(nic.send().iter().map(|s| s.bytes.len()));
    }
    assert_eq!(nic.get(Reg::TDH), nic.get(Reg::TDT), "the ring goes on");
    sizes
}

fn word(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

#[test]
fn item_01_heads_and_tails_beyond_the_ring() {
    for head in [0u32, 1, 7, 8, 9, 0x7fff, 0xffff] {
        for tail in [0u32, 1, 7, 8, 9, 0x7fff, 0xffff] {
            let mut nic = Nic::new();
            nic.set(Reg::TDLEN, 8 * 16);
            nic.set(Reg::TDH, head);
            nic.set(Reg::TDT, tail);
            nic.run();
            nic.receive(8, EN | BAM);
            nic.set(Reg::RDH, head);
            nic.set(Reg::RDT, tail);
            let possible = head < 8 && tail < 8 && head != tail;
            assert_eq!(nic.rx.has_room(), possible);
            let delivered = nic.give(&broadcast(100));
            assert_eq!(delivered == Delivered::Placed, possible);
            assert_usable(&mut nic);
        }
    }
}

#[test]
fn item_02_ring_lengths() {
    for len in [0, 1, 16, 127, 128, 0xf_ff80, u32::MAX] {
        let mut nic = Nic::new();
        nic.set(Reg::TDLEN, len);
        nic.set(Reg::TDT, 0xfff7);
        nic.run();
        nic.set(Reg::RDLEN, len);
        nic.set(Reg::RDT, 0xfff7);
        for _ in 0..10 {
            nic.give(&broadcast(100));
        }
        assert_usable(&mut nic);
    }
}

#[test]
fn item_03_ring_bases() {
    let bases = [
        0u64,
        8,
        TX_RING + 3,
        RAM - 32,
        RAM - 16,
        RAM,
        0xfebc_0000,
        1 << 32,
        u64::MAX - 63,
        TX_DATA,
        RX_DATA,
    ];
    for tx in bases {
        for rx in bases {
            let mut nic = Nic::new();
            nic.receive(64, EN | BAM | UPE);
            for (low, high, base) in [(Reg::TDBAL, Reg::TDBAH, tx), (Reg::RDBAL, Reg::RDBAH, rx)] {
                nic.set(low, base as u32);
                nic.set(high, (base >> 32) as u32);
            }
            nic.set(Reg::TDT, 63);
            nic.run();
            for _ in 0..100 {
                nic.give(&broadcast(1500));
            }
            nic.set(Reg::RDBAH, 0);
            nic.set(Reg::TDBAH, 0);
            assert_usable(&mut nic);
        }
    }
}

/// CVE-2023-3019 as well: the NIC's own BAR is not memory that its DMA could reach.
#[test]
fn item_04_buffer_addresses() {
    for addr in [
        RAM - 1,
        RAM - 60,
        RAM,
        0xfebc_3818,
        0xfebc_00c0,
        u64::MAX,
        u64::MAX - 59,
    ] {
        let mut nic = Nic::new();
        let whole = addr <= RAM - 60;
        nic.push(addr, 60 | EOP | IFCS | RS, 0);
        nic.push(addr, 60, 0);
        nic.push(TX_DATA, 60 | EOP | IFCS | RS, 0);
        let good = nic.legacy(0, &broadcast(80), EOP | IFCS | RS);
        let sent = nic.send();
        let want = if whole { 3 } else { 1 };
        assert_eq!(sent.len(), want, "{addr:#x}");
        assert_eq!(
            sent.last().unwrap().bytes,
            broadcast(80),
            "the ring goes on"
        );
        assert_eq!(nic.tx_status(good), 1);
        assert_eq!(
            nic.control.counters().dma_unreachable,
            if whole { 0 } else { 2 }
        );

        nic.mem.store_u64(RX_RING, addr).unwrap();
        nic.mem.store_u64(RX_RING + 16, RX_DATA).unwrap();
        assert_eq!(
            nic.give(&broadcast(1000)),
            Delivered::Placed,
            "as far as it knows"
        );
        assert_eq!(nic.word(RX_RING + 12) & 1, 1, "the descriptor is done");
        assert_eq!(nic.give(&broadcast(999)), Delivered::Placed);
        let mut bytes = vec![0; 999];
        nic.mem.read(RX_DATA, &mut bytes).unwrap();
        assert_eq!(bytes, broadcast(999));
        assert_usable(&mut nic);
    }
}

/// CVE-2015-6815, CVE-2021-20257, and the thesis's MSS 0, HDRLEN beyond the data and PAYLEN that does not fit.
#[test]
fn item_05_segmentation_parameters() {
    let flow = Flow::TCP4;
    let data = vec![7; 60_000];
    for mss in [0, 1, 2, 31, 1460, 0x3010, 60_000, 0xffff] {
        for hdr_len in [0, 1, 13, 14, 33, 34, 53, 54, 55, 100, 240, 255] {
            for payload in [0, 1, 20, 60, 500, 60_000] {
                for paylen in [0, payload, 0xf_ffff] {
                    let mut nic = Nic::new();
                    let bytes = flow.unfinished(1, 1, 0x18, &data[..payload], true);
                    nic.context(
                        [14, 24, 33],
                        [34, 50, 0],
                        TCP | IPV4 | TSE | paylen as u32,
                        hdr_len,
                        mss,
                    );
                    nic.data(0, &bytes, TSE | EOP | IFCS | RS, 3);
                    let sent = nic.send();
                    let segments: usize = sent.iter().map(|s| s.wire.len()).sum();
                    assert!(segments <= 2048);
                    let sound = mss > 0
                        && hdr_len == 54
                        && payload > 0
                        && payload.div_ceil(mss as usize) <= 2048;
                    assert_eq!(sent.len(), usize::from(sound), "{mss} {hdr_len} {payload}");
                    assert_eq!(nic.get(Reg::TSCTFC), u32::from(!sound));
                    assert_eq!(nic.get(Reg::TDH), nic.get(Reg::TDT));
                }
            }
        }
    }
}

/// CVE-2016-2857, CVE-2022-23087, and the thesis's checksum offsets.
#[test]
fn item_06_checksum_offsets() {
    let numbers = [0u32, 1, 13, 14, 33, 34, 58, 59, 60, 61, 99, 100, 255];
    for len in [14, 15, 60, 61, 100] {
        let bytes = broadcast(len);
        for &start in &numbers {
            for &offset in &numbers {
                let mut nic = Nic::new();
                for end in [0, 1, 20, 59, 98, 99, 100, 0xffff] {
                    nic.context([start, offset, end], [offset, start, end], TCP, 0, 0);
                    nic.data(0, &bytes, EOP | IFCS, 3);
                    let sent = nic.send();
                    assert_eq!(sent[0].wire[0].len(), len);
                }
                nic.mem.write(TX_DATA, &bytes).unwrap();
                nic.push(
                    TX_DATA,
                    len as u32 | offset << 16 | EOP | IFCS | IC,
                    start << 8,
                );
                let sent = nic.send();
                if offset as usize + 2 > len || start as usize >= len {
                    assert_eq!(sent[0].wire[0], bytes, "ignored");
                }
            }
        }
    }
    // An IPv4 request with an IPv6 packet, and the reverse.
    for (flow, tucmd) in [(Flow::TCP6, TCP | IPV4 | TSE), (Flow::TCP4, TCP | TSE)] {
        let mut nic = Nic::new();
        let bytes = flow.unfinished(1, 1, 0x18, &[0; 3000], true);
        let (l4, headers) = (flow.l4() as u32, flow.headers() as u32);
        nic.context(
            [14, 24, l4 - 1],
            [l4, l4 + 16, 0],
            tucmd | 3000,
            headers,
            1000,
        );
        nic.data(0, &bytes, TSE | EOP | IFCS | RS, 3);
        assert!(nic.send().is_empty());
        assert_eq!(nic.get(Reg::TSCTFC), 1);
    }
}

/// CVE-2020-16092 (a fragment sequence that ran into an assertion) as well.
#[test]
fn item_07_lengths_and_fragments() {
    let mut nic = Nic::new();
    let end = EOP | IFCS | RS;
    // Nothing at all, and almost nothing.
    assert_eq!(send_raw(&mut nic, &[(TX_DATA, word(end, 0))]), [0; 0]);
    assert_eq!(send_raw(&mut nic, &[(TX_DATA, word(13 | end, 0))]), [0; 0]);
    assert_eq!(send_raw(&mut nic, &[(0, word(60 | end, 0))]), [0; 0]);
    assert_eq!(
        send_raw(&mut nic, &[(TX_DATA, word(3 | EOP | RS, 0))]),
        [0; 0]
    );
    // A zero-length end acts all the same.
    let parts = [
        (TX_DATA, word(60, 0)),
        (0, word(77, 0)),
        (TX_DATA, word(end, 0)),
    ];
    assert_eq!(send_raw(&mut nic, &parts), [60]);
    // Too much at once and in parts.
    for big in [16_289, 65_535] {
        assert_eq!(send_raw(&mut nic, &[(TX_DATA, word(big | end, 0))]), [0; 0]);
    }
    assert_eq!(
        send_raw(&mut nic, &[(TX_DATA, word(16_288 | end, 0))]),
        [16_288]
    );
    assert_eq!(
        send_raw(&mut nic, &[(TX_DATA, word(0xf_ffff | DATA | end, 0))]),
        [0; 0]
    );
    let many = |n: usize, len: u32| {
        let mut all = vec![(TX_DATA, word(len, 0)); n];
        all.push((TX_DATA, word(len | end, 0)));
        all
    };
    assert_eq!(send_raw(&mut nic, &many(3, 16_000)), [0; 0]);
    assert_eq!(send_raw(&mut nic, &many(100, 65_535)), [0; 0]);
    assert_eq!(
        send_raw(&mut nic, &many(4095, 4)),
        [0; 0],
        "16384 bytes are too many"
    );
    assert_eq!(
        send_raw(&mut nic, &many(4000, 4)),
        [16_004],
        "but not the fragments"
    );
    // No end, ever.
    for _ in 0..100 {
        assert_eq!(
            send_raw(&mut nic, &vec![(TX_DATA, word(4096, 0)); 63]),
            [0; 0]
        );
    }
    assert_eq!(send_raw(&mut nic, &[(TX_DATA, word(60 | end, 0))]), [0; 0]);
    assert_eq!(send_raw(&mut nic, &[(TX_DATA, word(60 | end, 0))]), [60]);
    assert_usable(&mut nic);
}

/// CVE-2017-10235 and the VirtualBox escape of 2018 (contexts that change in the middle of a packet) as well.
#[test]
fn item_08_mixed_descriptors() {
    let mut nic = Nic::new();
    let end = EOP | IFCS | RS;
    let context = |hdr_len: u32, mss: u32| {
        (
            0x2200_0021_180e,
            word(DEXT | TSE | TCP | IPV4, hdr_len << 8 | mss << 16),
        )
    };
    let sizes = send_raw(
        &mut nic,
        &[
            context(0, 0x3010),
            (TX_DATA, word(0x10 | DATA | TSE, 0x300)),
            (TX_DATA, word(DATA | TSE | EOP, 0)),
            context(0, 0xf),
            (TX_DATA, word(0x4188 | DATA | TSE | EOP, 0)),
        ],
    );
    assert_eq!(sizes, [0; 0]);
    for dtyp in 2..16u32 {
        let reserved = (TX_DATA, word(60 | DEXT | dtyp << 20 | EOP | RS, 0));
        let frame = (TX_DATA, word(100 | end, 0));
        let part = (TX_DATA, word(100, 0));
        assert_eq!(
            send_raw(&mut nic, &[reserved, frame, part, reserved, frame]),
            [100, 200]
        );
    }
    // Legacy and data in one packet, TSE that comes and goes, contexts in between.
    let sizes = send_raw(
        &mut nic,
        &[
            (TX_DATA, word(30, 0)),
            (TX_DATA, word(30 | DATA | TSE, 0x300)),
            context(54, 1),
            (TX_DATA, word(30 | end | IC | 200 << 16, 0xff00)),
            (TX_DATA, word(30 | DATA, 0x300)),
            context(255, 0),
            (TX_DATA, word(30 | DATA | TSE, 0)),
            (TX_DATA, word(30 | end, 0)),
        ],
    );
    assert_eq!(sizes, [90, 90]);
    nic.set(Reg::CTRL, 1 << 30 | 1 << 6);
    assert_eq!(
        send_raw(&mut nic, &[(TX_DATA, word(13 | end | VLE, 0))]),
        [0; 0]
    );
    assert_eq!(
        send_raw(&mut nic, &[(TX_DATA, word(14 | end | VLE, 0))]),
        [18]
    );
    assert_usable(&mut nic);
}

/// CVE-2012-6075 and CVE-2020-28916 as well.
#[test]
fn item_09_receive_buffers() {
    let sizes = [
        0, 1, 13, 14, 59, 60, 1514, 1518, 1519, 1522, 1523, 16_380, 16_384, 16_385, 65_535, 65_600,
    ];
    for overrun in [Overrun::Hold, Overrun::Drop] {
        for rctl in [
            EN | BAM,
            EN | BAM | LPE,
            EN | BAM | 1 << 2,
            EN | BAM | LPE | 1 << 2 | 3 << 16,
        ] {
            for kind in 0..3 {
                let mut nic = Nic::new();
                nic.rx.set_overrun(overrun);
                nic.receive(256, rctl);
                for i in 0..256 {
                    let addr = match kind {
                        0 => 0,
                        1 => RX_RING,
                        _ => RX_RING + 16 * i,
                    };
                    nic.mem.store_u64(RX_RING + 16 * i, addr).unwrap();
                }
                for len in sizes {
                    nic.give(&broadcast(len));
                    nic.set(Reg::RDT, (nic.shared().regs.get(Reg::RDH) + 255) % 256);
                    nic.resume();
                }
                assert_usable(&mut nic);
            }
        }
    }
}

#[test]
fn item_10_registers_that_change_under_way() {
    let mut nic = Nic::new();
    for step in 0..2000u32 {
        let mix = step.wrapping_mul(2_654_435_761);
        nic.set(Reg::RCTL, mix | EN);
        nic.set(Reg::RDT, mix >> 7 & 63);
        nic.give(&broadcast(60 + (mix >> 20) as usize));
        nic.set(
            Reg::RCTL,
            if step % 3 == 0 { 0 } else { mix.rotate_left(9) },
        );
        nic.resume();
        nic.legacy(
            0,
            &broadcast(60),
            if step % 2 == 0 { 0 } else { EOP | IFCS },
        );
        nic.set(Reg::TCTL, mix >> 3 & 0xff);
        nic.send();
        if step % 97 == 0 {
            nic.set(Reg::CTRL, mix | RST);
            nic.set(Reg::TDBAL, TX_RING as u32);
            nic.set(Reg::TDLEN, 64 * 16);
            nic.receive(64, mix | EN);
        }
        if step % 2 == 1 {
            // Keep the driver's own position honest again.
            let tdt = nic.get(Reg::TDT);
            nic.set(Reg::TDH, tdt);
        }
    }
    assert_usable(&mut nic);
}

/// CVE-2021-3416: loopback is a second step of the owner, not a call from within the transmitter.
#[test]
fn item_11_loopback_into_the_own_ring() {
    let mut nic = Nic::new();
    nic.receive(64, EN | BAM | UPE | 1 << 6);
    for i in 0..64 {
        nic.mem
            .store_u64(RX_RING + 16 * i, TX_RING + 16 * (i % 8))
            .unwrap();
    }
    for _ in 0..40 {
        nic.legacy(0, &broadcast(300), EOP | IFCS | RS);
    }
    nic.set(Reg::TDT, 40);
    nic.calm();
    let mem = nic.dma.clone();
    let mut burst = TxBurst::new();
    let mut buffer = vec![0; 70_000];
    let mut turns = 0;
    for _ in 0..100 {
        let fetch = nic.tx.fetch(&mem, &mut burst, nic.now);
        assert!(burst.is_empty() || burst.loopback());
        let n = burst.len();
        for frame in burst.frames() {
            let len = frame.copy_to(&mut buffer).unwrap();
            let meta = frame.offload.into();
            nic.rx.deliver(
                &mem,
                RxFrame {
                    data: &buffer[..len],
                    meta,
                },
                nic.now,
            );
        }
        nic.rx.finish(&mem, nic.now).unwrap();
        nic.tx.complete(&mem, &mut burst, n, nic.now).unwrap();
        turns += 1;
        if fetch == nic_emu::e1000::tx::Fetch::Idle {
            break;
        }
    }
    assert!(turns < 20);
    assert_usable(&mut nic);
}

#[test]
fn item_12_bus_mastering_goes_away() {
    let mut nic = Nic::new();
    for _ in 0..10 {
        nic.legacy(0, &broadcast(100), EOP | IFCS | RS);
    }
    nic.calm();
    nic.accept = 3;
    nic.send();
    assert_eq!(nic.get(Reg::TDH), 3);
    nic.control.set_bus_master(false);
    assert!(nic.run().is_empty());
    assert!(matches!(nic.give(&broadcast(100)), Delivered::Dropped(_)));
    assert_eq!(nic.get(Reg::TDH), 3);
    nic.control.set_bus_master(true);
    nic.accept = usize::MAX;
    assert_eq!(nic.run().len(), 7);
    assert_usable(&mut nic);
}

/// CVE-2016-1981: a head beyond the ring, so that the tail is never met.
#[test]
fn a_head_that_never_meets_the_tail() {
    let mut nic = Nic::new();
    nic.set(Reg::TDH, 64);
    nic.set(Reg::TDT, 1);
    assert!(nic.run().is_empty());
    nic.set(Reg::RDH, 0xffff);
    assert!(!nic.rx.has_room());
}

/// CVE-2019-5541 and every other way to make a NIC write where it should not: the bytes round the ring and the buffers
/// stay as they are.
#[test]
fn nothing_beside_the_buffers_is_written() {
    let mut nic = Nic::bare();
    nic.receive(64, EN | BAM | LPE | 3 << 16);
    let guard = vec![0xa5; 0x4000 - 256];
    for i in 0..64 {
        nic.mem.write(RX_DATA + 0x4000 * i + 256, &guard).unwrap();
    }
    for len in [60, 252, 253, 1000, 5000, 10_000] {
        assert_eq!(nic.give(&broadcast(len)), Delivered::Placed);
        nic.collect().unwrap();
        nic.refill();
    }
    for i in 0..64 {
        let mut bytes = vec![0; guard.len()];
        nic.mem
            .read(RX_DATA + 0x4000 * i + 256, &mut bytes)
            .unwrap();
        assert_eq!(bytes, guard);
    }
}

/// The part's other known ends in the thesis's model: a legacy checksum request, a frame of more than one buffer, a
/// null buffer, a reserved descriptor type, an oversize frame. All are single lines elsewhere; here in one ring.
#[test]
fn the_thesis_model_panicked_on_these() {
    let mut nic = Nic::new();
    nic.legacy(0, &broadcast(100), EOP | IFCS | RS | IC);
    nic.legacy(0, &broadcast(100), EOP | IFCS | RS | DEXT | 7 << 20);
    nic.legacy(0, &broadcast(100), EOP | IFCS | RS);
    assert_eq!(nic.send().len(), 2);
    nic.mem.store_u64(RX_RING, 0).unwrap();
    nic.set(Reg::RCTL, EN | BAM | LPE | 3 << 16);
    assert_eq!(nic.give(&broadcast(9000)), Delivered::Placed);
    nic.set(Reg::RDLEN, 0);
    nic.set(Reg::TDLEN, 0);
    assert!(!nic.rx.has_room());
    assert!(nic.run().is_empty());
    assert_usable(&mut nic);
}

/// A register to scribble on, weighted towards those of rings and frames.
fn registers() -> impl Strategy<Value = Reg> {
    prop::sample::select(vec![
        Reg::CTRL,
        Reg::RCTL,
        Reg::TCTL,
        Reg::RDBAL,
        Reg::RDBAH,
        Reg::RDLEN,
        Reg::RDH,
        Reg::RDT,
        Reg::RDT,
        Reg::RDTR,
        Reg::RXCSUM,
        Reg::VET,
        Reg::TDBAL,
        Reg::TDBAH,
        Reg::TDLEN,
        Reg::TDH,
        Reg::TDT,
        Reg::TDT,
        Reg::TXDCTL,
        Reg::TIDV,
    ])
}

#[derive(Clone, Debug)]
enum Step {
    Write(Reg, u32),
    Memory(u64, u64),
    Descriptor(u32, u64, u32, u32),
    Transmit(usize),
    Receive(usize),
    Resume,
}

fn steps() -> impl Strategy<Value = Step> {
    let addr = prop_oneof![
        Just(0),
        TX_DATA..TX_DATA + 100,
        (TX_RING..TX_RING + 1024).prop_map(|a| a & !15),
        (RX_RING..RX_RING + 1024).prop_map(|a| a & !15),
        RAM - 100..RAM + 10,
        any::<u64>(),
    ];
    let small = prop_oneof![0u32..70, 0u32..0x1_0000, any::<u32>()];
    let command = prop_oneof![
        Just(EOP | IFCS | RS),
        Just(DATA),
        Just(DATA | TSE),
        Just(DATA | TSE | EOP | IFCS),
        Just(DEXT | TSE | TCP | IPV4),
        Just(DEXT | TCP),
        any::<u32>().prop_map(|c| c & 0xfff0_0000),
    ];
    prop_oneof![
        2 => (registers(), small.clone()).prop_map(|(reg, value)| Step::Write(reg, value)),
        1 => (addr.clone(), any::<u64>()).prop_map(|(a, v)| Step::Memory(a, v)),
        6 => (0u32..64, addr, small, command, any::<u32>())
            .prop_map(|(i, a, len, cmd, high)| Step::Descriptor(i, a, len & 0xffff | cmd, high)),
        2 => (0usize..40).prop_map(Step::Transmit),
        2 => (0usize..17_000).prop_map(Step::Receive),
        1 => Just(Step::Resume),
    ]
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn any_registers_descriptors_and_frames(steps in prop::collection::vec(steps(), 0..150)) {
        let mut nic = Nic::new();
        for step in steps {
            match step {
                Step::Write(reg, value) => nic.set(reg, value),
                Step::Memory(addr, value) => {
                    let _ = nic.mem.store_u64(addr, value);
                }
                Step::Descriptor(index, addr, low, high) => {
                    for ring in [TX_RING, RX_RING] {
                        let at = ring + 16 * u64::from(index);
                        nic.mem.store_u64(at, addr).unwrap();
                        nic.mem.store_u64(at + 8, word(low, high)).unwrap();
                    }
                }
                Step::Transmit(accept) => {
                    nic.accept = accept;
                    nic.run();
                }
                Step::Receive(len) => {
                    nic.give(&broadcast(len));
                }
                Step::Resume => {
                    nic.resume();
                }
            }
        }
        nic.set(Reg::TDBAH, 0);
        nic.set(Reg::RDBAH, 0);
        assert_usable(&mut nic);
    }
}

/// What a network may say about a frame that is half right.
fn lies() -> impl Strategy<Value = RxMeta> {
    let kind = prop_oneof![
        Just(GsoKind::TcpV4),
        Just(GsoKind::TcpV6),
        Just(GsoKind::UdpL4)
    ];
    let place = || {
        prop_oneof![
            0u16..80,
            Just(14u16),
            Just(34u16),
            Just(54u16),
            any::<u16>()
        ]
    };
    let offset = prop_oneof![Just(16u16), Just(6u16), any::<u16>()];
    let hdr_len = prop_oneof![Just(54u16), Just(42u16), Just(74u16), any::<u16>()];
    let mss = prop_oneof![Just(0u16), Just(1u16), Just(1448u16), any::<u16>()];
    let gso = prop::option::of((kind, hdr_len, mss));
    let csum = prop::option::of((place(), offset));
    (gso, csum, any::<bool>()).prop_map(|(gso, csum, bad_fcs)| RxMeta {
        csum: match csum {
            Some((start, offset)) => RxCsum::Partial(Csum { start, offset }),
            None => RxCsum::Unknown,
        },
        gso: gso.map(|(kind, hdr_len, mss)| Gso { kind, hdr_len, mss }),
        bad_fcs,
    })
}

proptest! {
    #![proptest_config(cases(600))]

    /// Super-frames of a network that says anything about them: none becomes more segments than there may be, and the NIC
    /// is as good as new afterwards.
    #[test]
    fn super_frames_that_lie(
        frames in prop::collection::vec((lies(), 0usize..9000, any::<u8>(), any::<u8>(), 0usize..100), 1..12),
        overrun in prop_oneof![Just(Overrun::Hold), Just(Overrun::Drop)],
    ) {
        let mut nic = Nic::new();
        nic.rx.set_overrun(overrun);
        nic.receive(64, EN | UPE | LPE | BAM);
        let given = frames.len();
        for (meta, len, spoil, with, at) in frames {
            let v6 = with & 1 != 0;
            let mut data = broadcast(len.max(100));
            data[12..14].copy_from_slice(if v6 { &[0x86, 0xDD] } else { &[0x08, 0x00] });
            data[14] = if v6 { 0x60 } else { 0x45 };
            data[20] = 6;
            data[23] = if with & 2 != 0 { 6 } else { 17 };
            data[46] = 0x50;
            data[66] = 0x50;
            data[at] ^= spoil;
            data.truncate(len);
            nic.deliver(RxFrame { data: &data, meta });
            for _ in 0..3 {
                let head = nic.get(Reg::RDH);
                nic.set(Reg::RDT, (head + 63) % 64);
                nic.resume();
            }
        }
        prop_assert!(nic.get(Reg::GPRC) as usize <= given * MAX_SEGMENTS);
        assert_usable(&mut nic);
    }
}
