//! The transmit ring as drivers use it.

mod support;

use guest_mem::{Access, GuestMem, Mapping};
use nic_emu::common::frame::{Features, RxFrame, TxBurst};
use nic_emu::e1000::regs::Reg;
use nic_emu::e1000::tx::Fetch;
use proptest::prelude::*;
use support::packets::{Flow, broadcast, crc, flows};
use support::*;

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

fn icr(nic: &mut Nic) -> u32 {
    nic.get(Reg::ICR)
}

/// Contexts as Linux writes them: for checksums, and for segmentation.
fn csum_context(nic: &mut Nic, flow: &Flow) {
    let ip = [flow.l3(), flow.l3() + 10, flow.l4() - 1].map(|v| v as u32);
    let l4 = [flow.l4() as u32, flow.field() as u32, 0];
    nic.context(ip, l4, if flow.udp { 0 } else { TCP }, 0, 0);
}

fn tso_context(nic: &mut Nic, flow: &Flow, mss: usize, payload: usize) {
    let ip = [flow.l3(), flow.l3() + 10, flow.l4() - 1].map(|v| v as u32);
    let l4 = [flow.l4() as u32, flow.field() as u32, 0];
    let tucmd = if flow.udp { 0 } else { TCP } | if flow.v6 { 0 } else { IPV4 } | TSE;
    nic.context(
        ip,
        l4,
        tucmd | payload as u32,
        flow.headers() as u32,
        mss as u32,
    );
}

fn popts(flow: &Flow) -> u8 {
    TXSM | if flow.v6 { 0 } else { IXSM }
}

#[test]
fn a_legacy_frame_leaves_and_its_descriptor_is_done() {
    let mut nic = Nic::new();
    let frame = broadcast(300);
    let index = nic.legacy(0, &frame, EOP | IFCS | RS);
    let sent = nic.send();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].bytes, frame);
    assert_eq!(sent[0].offload, Default::default());
    assert_eq!(nic.tx_status(index), 1);
    assert_eq!(nic.word(TX_RING), TX_DATA as u32, "the address is kept");
    assert_eq!(
        nic.word(TX_RING + 8),
        300 | EOP | IFCS | RS,
        "and so is the command"
    );
    assert_eq!(nic.get(Reg::TDH), 1);
    assert_eq!(icr(&mut nic) & 3, TXDW | TXQE);
    assert_eq!(nic.get(Reg::GPTC), 1);
    assert_eq!(nic.get(Reg::TPT), 1);
    assert_eq!(nic.get(Reg::BPTC), 1);
    assert_eq!(nic.get(Reg::PTC511), 1);
    assert_eq!(nic.get(Reg::GOTCL), 304);
    assert_eq!(nic.control.counters().tx_frames, 1);
    assert_eq!(nic.control.counters().tx_bytes, 300);
}

#[test]
fn without_report_nothing_is_written_back() {
    let mut nic = Nic::new();
    let first = nic.legacy(0, &broadcast(60), EOP | IFCS);
    let second = nic.legacy(4096, &broadcast(60), EOP | IFCS | RPS);
    assert_eq!(nic.send().len(), 2);
    assert_eq!((nic.tx_status(first), nic.tx_status(second)), (0, 1));
    assert_eq!(nic.get(Reg::TDH), 2);
}

#[test]
fn a_write_back_clears_the_error_bits_and_keeps_the_rest() {
    let mut nic = Nic::new();
    nic.mem.write(TX_DATA, &broadcast(60)).unwrap();
    nic.push(TX_DATA, 60 | EOP | IFCS | RS, 0xabcd_120e);
    nic.send();
    assert_eq!(nic.word(TX_RING + 12), 0xabcd_1201);
}

#[test]
fn nothing_to_do_raises_nothing() {
    let mut nic = Nic::new();
    assert!(nic.send().is_empty());
    assert_eq!(icr(&mut nic) & 3, 0);
}

#[test]
fn a_disabled_transmitter_waits_and_then_starts() {
    let mut nic = Nic::new();
    nic.set(Reg::TCTL, 0);
    nic.legacy(0, &broadcast(60), EOP | IFCS | RS);
    assert!(nic.send().is_empty());
    assert_eq!(nic.get(Reg::TDH), 0);
    nic.set(Reg::TCTL, 1 << 1);
    assert_eq!(nic.run().len(), 1);
}

#[test]
fn without_bus_mastering_there_is_no_dma() {
    let mut nic = Nic::new();
    nic.control.set_bus_master(false);
    nic.legacy(0, &broadcast(60), EOP | IFCS | RS);
    assert!(nic.send().is_empty());
    nic.control.set_bus_master(true);
    assert_eq!(nic.run().len(), 1);
}

#[test]
fn a_ring_goes_round() {
    let mut nic = Nic::new();
    for round in 0..20u64 {
        let mut want = Vec::new();
        for i in 0..40 {
            let frame = broadcast(60 + (round as usize * 40 + i) % 1400);
            nic.legacy(0x2000 * i as u64, &frame, EOP | IFCS | RS);
            want.push(frame);
        }
        let got: Vec<_> = nic.send().into_iter().map(|s| s.bytes).collect();
        assert_eq!(got, want);
    }
    assert_eq!(nic.get(Reg::GPTC), 800);
}

#[test]
fn what_the_backend_does_not_take_stays_in_the_ring() {
    let mut nic = Nic::new();
    let flow = Flow::TCP4;
    csum_context(&mut nic, &flow);
    let mut want = Vec::new();
    for i in 0..5u32 {
        if i == 3 {
            // From here on other offsets: going back must bring the old ones back.
            csum_context(&mut nic, &Flow::UDP6);
        }
        let flow = if i < 3 { flow } else { Flow::UDP6 };
        let data = payload(100 + i as usize);
        nic.data(
            0x1000 * u64::from(i),
            &flow.unfinished(i, 7, 0x10, &data, false),
            EOP | IFCS | RS,
            popts(&flow),
        );
        want.push((flow, flow.packet(i, 7, 0x10, &data)));
    }
    nic.calm();
    nic.accept = 1;
    let mut got = nic.send();
    assert_eq!(got.len(), 1);
    assert_eq!(nic.get(Reg::TDH), 2);
    assert_eq!((nic.tx_status(1), nic.tx_status(2)), (1, 0));
    assert_eq!(icr(&mut nic) & 3, TXDW, "the ring is not empty");
    nic.accept = 0;
    assert!(nic.run().is_empty());
    assert_eq!(nic.get(Reg::TDH), 2);
    for _ in 0..4 {
        nic.accept = 1;
        got.extend(nic.run());
    }
    assert_eq!(nic.get(Reg::TDH), 7);
    assert_eq!(nic.get(Reg::GPTC), 5);
    for (sent, (flow, want)) in got.iter().zip(&want) {
        assert!(flow.same(&sent.wire[0], want));
    }
    assert!(nic.run().is_empty());
}

#[test]
fn checksums_are_left_to_the_backend_and_ip_is_done() {
    for flow in [Flow::TCP4, Flow::UDP4, Flow::TCP6, Flow::UDP6] {
        let mut nic = Nic::new();
        let data = payload(777);
        csum_context(&mut nic, &flow);
        nic.data(
            0,
            &flow.unfinished(9, 8, 0x18, &data, false),
            EOP | IFCS | RS,
            popts(&flow),
        );
        let sent = nic.send();
        let csum = sent[0].offload.csum.expect("left to do");
        assert_eq!(usize::from(csum.start), flow.l4());
        assert_eq!(usize::from(csum.start + csum.offset), flow.field());
        assert!(sent[0].offload.gso.is_none());
        assert!(Features::ALL.cover(&sent[0].offload));
        assert!(flow.same(&sent[0].wire[0], &flow.packet(9, 8, 0x18, &data)));
    }
}

#[test]
fn a_context_serves_many_packets_and_segmentation_does_not_disturb_it() {
    let mut nic = Nic::new();
    let flow = Flow::UDP4;
    csum_context(&mut nic, &flow);
    let data = payload(50);
    nic.data(
        0,
        &flow.unfinished(0, 1, 0, &data, false),
        EOP | IFCS,
        popts(&flow),
    );
    tso_context(&mut nic, &Flow::TCP6, 1000, 2500);
    let big = payload(2500);
    let tso = Flow::TCP6.unfinished(5, 0, 0x18, &big, true);
    nic.data(0x4000, &tso, EOP | IFCS | TSE, popts(&Flow::TCP6));
    nic.data(
        0x1000,
        &flow.unfinished(0, 2, 0, &data, false),
        EOP | IFCS,
        popts(&flow),
    );
    let mut sent = nic.send();
    nic.data(
        0x2000,
        &flow.unfinished(0, 3, 0, &data, false),
        EOP | IFCS,
        popts(&flow),
    );
    sent.extend(nic.send());
    assert_eq!(sent.len(), 4);
    for (i, id) in [(0, 1), (2, 2), (3, 3)] {
        assert!(flow.same(&sent[i].wire[0], &flow.packet(0, id, 0, &data)));
    }
    let want = Flow::TCP6.segments(5, 0, 0x18, &big, 1000);
    for (got, want) in sent[1].wire.iter().zip(&want) {
        assert!(Flow::TCP6.same(got, want));
    }
}

#[test]
fn popts_come_from_the_first_descriptor_and_the_rest_from_the_last() {
    let mut nic = Nic::new();
    let flow = Flow::TCP4;
    let data = payload(1000);
    let bytes = flow.unfinished(1, 2, 0x10, &data, false);
    csum_context(&mut nic, &flow);
    let first = nic.data(0, &bytes[..70], RS, popts(&flow));
    nic.data(0x1000, &bytes[70..500], 0, 0);
    let last = nic.data(0x2000, &bytes[500..], EOP | IFCS, 0);
    let sent = nic.send();
    assert!(flow.same(&sent[0].wire[0], &flow.packet(1, 2, 0x10, &data)));
    assert_eq!((nic.tx_status(first), nic.tx_status(last)), (1, 0));
}

#[test]
fn a_super_frame_counts_each_of_its_segments() {
    let mut nic = Nic::new();
    let flow = Flow {
        options: 3,
        ..Flow::TCP4
    };
    let data = payload(1448 * 10 + 1);
    tso_context(&mut nic, &flow, 1448, data.len());
    let bytes = flow.unfinished(100, 0xfffa, 0x19, &data, true);
    nic.data(0, &bytes[..flow.headers()], TSE, popts(&flow));
    for (i, part) in bytes[flow.headers()..].chunks(4096).enumerate() {
        nic.data(0x1000 * (i as u64 + 1), part, TSE, 0);
    }
    nic.push(TX_DATA, DATA | TSE | EOP | IFCS | RS, 0);
    let sent = nic.send();
    assert_eq!(sent.len(), 1);
    let gso = sent[0].offload.gso.expect("not cut");
    assert_eq!((usize::from(gso.hdr_len), gso.mss), (flow.headers(), 1448));
    let total = u16::from_be_bytes([sent[0].bytes[16], sent[0].bytes[17]]);
    assert_eq!(
        usize::from(total),
        sent[0].bytes.len() - 14,
        "length of the whole"
    );
    let want = flow.segments(100, 0xfffa, 0x19, &data, 1448);
    assert_eq!(sent[0].wire.len(), 11);
    for (got, want) in sent[0].wire.iter().zip(&want) {
        assert!(flow.same(got, want));
    }
    assert_eq!(nic.get(Reg::GPTC), 11);
    assert_eq!(nic.get(Reg::PTC1522), 10);
    assert_eq!(nic.get(Reg::PTC127), 1);
    assert_eq!(nic.get(Reg::TSCTC), 1);
    let octets: usize = want.iter().map(|s| s.len() + 4).sum();
    assert_eq!(nic.get(Reg::GOTCL), octets as u32);
}

#[test]
fn a_super_frame_of_one_segment_is_a_frame() {
    let mut nic = Nic::new();
    let flow = Flow::TCP4;
    let data = payload(1000);
    tso_context(&mut nic, &flow, 1460, data.len());
    nic.data(
        0,
        &flow.unfinished(1, 1, 0x18, &data, true),
        EOP | IFCS | TSE,
        popts(&flow),
    );
    let sent = nic.send();
    assert!(sent[0].offload.gso.is_none());
    assert!(flow.same(&sent[0].wire[0], &flow.packet(1, 1, 0x18, &data)));
}

#[test]
fn a_tag_is_inserted_and_every_offset_moves() {
    let mut nic = Nic::new();
    nic.set(Reg::CTRL, 1 << 30 | 1 << 6);
    let (plain, tagged) = (
        Flow::TCP4,
        Flow {
            vlan: Some(0x2064),
            ..Flow::TCP4
        },
    );
    let special = 0x2064 << 16;
    let data = payload(3000);
    nic.mem
        .write(TX_DATA, &plain.unfinished(1, 2, 0x18, &data[..500], false))
        .unwrap();
    nic.mem
        .write(TX_DATA + 0x4000, &plain.unfinished(1, 2, 0x18, &data, true))
        .unwrap();
    nic.mem
        .write(TX_DATA + 0x8000, &plain.packet(1, 2, 0x18, &data[..5]))
        .unwrap();
    csum_context(&mut nic, &plain);
    let offload = u32::from(popts(&plain)) << 8;
    nic.push(TX_DATA, DATA | EOP | IFCS | VLE | 554, special | offload);
    tso_context(&mut nic, &plain, 1000, 3000);
    nic.push(
        TX_DATA + 0x4000,
        DATA | TSE | EOP | IFCS | VLE | 3054,
        special | offload,
    );
    nic.push(TX_DATA + 0x8000, EOP | IFCS | VLE | 59, special);
    nic.push(TX_DATA + 0x8000, EOP | IFCS | 59, special);
    let sent = nic.send();
    assert!(tagged.same(&sent[0].wire[0], &tagged.packet(1, 2, 0x18, &data[..500])));
    for (got, want) in sent[1]
        .wire
        .iter()
        .zip(tagged.segments(1, 2, 0x18, &data, 1000))
    {
        assert!(tagged.same(got, &want));
    }
    assert_eq!(sent[1].wire.len(), 3);
    assert_eq!(sent[2].bytes, tagged.packet(1, 2, 0x18, &data[..5]));
    assert_eq!(
        sent[3].bytes,
        plain.packet(1, 2, 0x18, &data[..5]),
        "no VLE, no tag"
    );
    nic.set(Reg::CTRL, 1 << 6);
    nic.push(TX_DATA + 0x8000, EOP | IFCS | VLE | 59, special);
    assert_eq!(nic.send()[0].bytes.len(), 59, "no VME, no tag");
}

/// All drivers say the same in all descriptors of a packet. If one does not, the manual says which counts.
#[test]
fn the_tag_is_that_of_the_first_descriptor_of_segments_and_of_the_last_otherwise() {
    let (first, last) = (0x2064, 0x0007);
    let bytes = payload(3000);
    for (tse, a_turn_between) in [(true, false), (true, true), (false, false), (false, true)] {
        for [at_first, at_last] in [[true, true], [true, false], [false, true]] {
            let mut nic = Nic::new();
            nic.set(Reg::CTRL, 1 << 30 | 1 << 6);
            let flow = Flow {
                vlan: match tse {
                    true => at_first.then_some(first),
                    false => at_last.then_some(last),
                },
                ..Flow::TCP4
            };
            let plain = Flow::TCP4;
            let len = if tse { 3000 } else { 1000 };
            let packet = plain.unfinished(1, 2, 0x18, &bytes[..len], tse);
            nic.mem.write(TX_DATA, &packet).unwrap();
            let kind = if tse { DATA | TSE | IFCS } else { DATA | IFCS };
            match tse {
                true => tso_context(&mut nic, &plain, 1000, len),
                false => csum_context(&mut nic, &plain),
            }
            let vle = |set| if set { VLE } else { 0 };
            let special = |tag: u16| u32::from(tag) << 16 | u32::from(popts(&plain)) << 8;
            nic.push(TX_DATA, kind | vle(at_first) | 500, special(first));
            if a_turn_between {
                assert!(nic.send().is_empty());
            }
            let rest = packet.len() as u32 - 500;
            let end = kind | vle(at_last) | EOP | rest;
            nic.push(TX_DATA + 500, end, special(last));
            let sent = nic.send();
            let want = match tse {
                true => flow.segments(1, 2, 0x18, &bytes, 1000),
                false => vec![flow.packet(1, 2, 0x18, &bytes[..len])],
            };
            assert_eq!(sent[0].wire.len(), want.len());
            for (got, want) in sent[0].wire.iter().zip(&want) {
                assert!(
                    flow.same(got, want),
                    "{tse} {at_first} {at_last}: {got:02x?}"
                );
            }
        }
    }
}

#[test]
fn short_frames_are_padded_if_asked() {
    let mut nic = Nic::new();
    nic.legacy(0, &broadcast(20), EOP | IFCS);
    assert_eq!(nic.send()[0].bytes, broadcast(20));
    nic.set(Reg::TCTL, 1 << 1 | 1 << 3);
    nic.legacy(0, &broadcast(20), EOP | IFCS);
    let sent = nic.send();
    assert_eq!(sent[0].bytes[..20], broadcast(20));
    assert_eq!(sent[0].bytes[20..], [0; 40]);
    let [all, good, least] = [Reg::TPT, Reg::GPTC, Reg::PTC64].map(|reg| nic.get(reg));
    assert_eq!((all, good, least), (2, 1, 1));
}

#[test]
fn without_ifcs_the_last_four_bytes_are_the_fcs() {
    let mut nic = Nic::new();
    for len in [14, 60, 200, 1514] {
        let frame = broadcast(len);
        let right = [&frame[..], &crc(&frame).to_le_bytes()].concat();
        for damage in [0, 1] {
            let mut bytes = right.clone();
            bytes[len + 3] ^= damage;
            nic.legacy(0, &bytes, EOP);
            // The FCS in two descriptors.
            nic.legacy(0x1000, &bytes[..len + 2], 0);
            nic.legacy(0x2000, &bytes[len + 2..], EOP);
            for sent in nic.send() {
                assert_eq!(sent.bytes, frame);
                assert_eq!(sent.offload.bad_fcs, damage != 0, "{len}");
            }
        }
    }
    assert_eq!(nic.control.counters().tx_bad_fcs, 8);
    assert_eq!(nic.get(Reg::TPT), 16, "the part sends them all the same");
}

/// It is the FCS of the frame that leaves: with its tag, checksums and padding.
#[test]
fn an_fcs_of_the_drivers_own_is_not_mended() {
    const VME: u32 = 1 << 30;
    let flow = Flow::TCP4;
    let whole = flow.packet(3, 4, 0x10, &payload(100));
    let mut bytes = flow.unfinished(3, 4, 0x10, &payload(100), false);
    bytes[24..26].copy_from_slice(&whole[24..26]);
    let tagged = [&whole[..12], &[0x81, 0, 0, 7], &whole[12..]].concat();
    for (of, vle, good) in [
        (&whole, 0, true),
        (&tagged, VLE, true),
        (&whole, VLE, false),
        (&bytes, 0, false),
    ] {
        let mut nic = Nic::new();
        nic.set(Reg::CTRL, 1 << 6 | VME);
        let given = [&bytes[..], &crc(of).to_le_bytes()].concat();
        nic.mem.write(TX_DATA, &given).unwrap();
        let (cso, css) = (flow.field() as u32, flow.l4() as u32);
        nic.push(
            TX_DATA,
            given.len() as u32 | cso << 16 | EOP | IC | vle,
            css << 8 | 7 << 16,
        );
        let sent = nic.send().remove(0);
        let want = if vle == 0 { &whole } else { &tagged };
        assert_eq!((&sent.wire[0], sent.offload.bad_fcs), (want, !good));
    }
    let mut nic = Nic::new();
    nic.set(Reg::TCTL, 1 << 1 | 1 << 3);
    let short = broadcast(20);
    nic.legacy(0, &[&short[..], &crc(&short).to_le_bytes()].concat(), EOP);
    let sent = nic.send().remove(0);
    assert!(sent.offload.bad_fcs && sent.bytes.len() == 60);
}

/// The same NIC receives what it sends to itself.
#[test]
fn a_wrong_fcs_is_a_crc_error_to_whoever_receives_it() {
    let mut nic = Nic::new();
    let frame = broadcast(100);
    for damage in [0, 0x80] {
        let mut fcs = crc(&frame).to_le_bytes();
        fcs[0] ^= damage;
        nic.legacy(0, &[&frame[..], &fcs].concat(), EOP);
        let Sent { bytes, offload, .. } = nic.send().remove(0);
        let meta = offload.into();
        nic.deliver(RxFrame { data: &bytes, meta });
    }
    assert_eq!((nic.get(Reg::GPTC), nic.get(Reg::GPRC)), (2, 1));
    assert_eq!(nic.get(Reg::CRCERRS), 1);
}

#[test]
fn a_legacy_checksum_is_inserted() {
    let mut nic = Nic::new();
    let flow = Flow::TCP4;
    for len in [3, 100, 1400] {
        let data = payload(len);
        let mut bytes = flow.unfinished(3, 4, 0x10, &data, false);
        let want = flow.packet(3, 4, 0x10, &data);
        bytes[24..26].copy_from_slice(&want[24..26]);
        nic.mem.write(TX_DATA, &bytes).unwrap();
        let cso = flow.field() as u32;
        nic.push(
            TX_DATA,
            bytes.len() as u32 | cso << 16 | EOP | IFCS | IC,
            (flow.l4() as u32) << 8,
        );
        assert!(flow.same(&nic.send()[0].wire[0], &want));
    }
}

#[test]
fn a_checksum_that_cannot_be_left_to_others_is_done_here() {
    let mut nic = Nic::new();
    let bytes = broadcast(2000);
    // Over the middle, and stored before it.
    nic.context([0, 0, 0], [100, 60, 1099], 0, 0, 0);
    nic.data(0, &bytes, EOP | IFCS, TXSM);
    let sent = nic.send();
    assert!(sent[0].offload.csum.is_none());
    let mut want = bytes.clone();
    want[60..62].copy_from_slice(&(!packets::sum(&bytes[100..1100])).to_be_bytes());
    assert_eq!(sent[0].bytes, want);
    // The "IP" checksum over everything, with a tag.
    nic.set(Reg::CTRL, 1 << 30 | 1 << 6);
    nic.context([20, 200, 0], [0, 0, 0], 0, 0, 0);
    nic.mem.write(TX_DATA, &bytes).unwrap();
    nic.push(
        TX_DATA,
        2000 | DATA | EOP | IFCS | VLE,
        u32::from(IXSM) << 8 | 5 << 16,
    );
    let sent = nic.send();
    let mut want = bytes.clone();
    want[200..202].copy_from_slice(&(!packets::sum(&bytes[20..])).to_be_bytes());
    want.splice(12..12, [0x81, 0, 0, 5]);
    assert_eq!(sent[0].bytes, want);
}

#[test]
fn a_packet_may_come_with_several_tail_writes() {
    let mut nic = Nic::new();
    let flow = Flow::TCP4;
    let data = payload(1200);
    let bytes = flow.unfinished(1, 2, 0x10, &data, false);
    csum_context(&mut nic, &flow);
    let first = nic.data(0, &bytes[..30], RS, popts(&flow));
    assert!(nic.send().is_empty());
    assert_eq!(nic.tx_status(first), 1, "its buffer is free again");
    assert_eq!(nic.get(Reg::TDH), 2);
    nic.mem.write(TX_DATA, &[0; 4096]).unwrap();
    // Another context in the middle is for the next packet.
    nic.context([0, 0, 0], [0, 0, 0], 0, 0, 0);
    nic.data(0x1000, &bytes[30..600], 0, 0);
    assert!(nic.send().is_empty());
    nic.data(0x2000, &bytes[600..], EOP | IFCS | RS, 0);
    nic.legacy(0x4000, &broadcast(90), EOP | IFCS);
    nic.accept = 0;
    assert!(nic.send().is_empty());
    nic.accept = 1;
    let sent = nic.run();
    assert!(flow.same(&sent[0].wire[0], &flow.packet(1, 2, 0x10, &data)));
    assert_eq!(nic.run()[0].bytes, broadcast(90));
    assert_eq!(nic.get(Reg::GPTC), 2);
}

#[test]
fn a_reset_forgets_contexts_and_half_a_packet() {
    let mut nic = Nic::new();
    nic.legacy(0, &broadcast(100), 0);
    nic.send();
    nic.set(Reg::CTRL, 1 << 26);
    nic.set(Reg::TDBAL, TX_RING as u32 + 0x1000);
    nic.set(Reg::TDLEN, 64 * 16);
    nic.set(Reg::TCTL, 2);
    nic.mem
        .write(TX_RING + 0x1000, &TX_DATA.to_le_bytes())
        .unwrap();
    nic.mem
        .store_u64(TX_RING + 0x1008, u64::from(80 | EOP | IFCS))
        .unwrap();
    nic.set(Reg::TDT, 1);
    assert_eq!(nic.run()[0].bytes, broadcast(100)[..80]);
}

#[test]
fn a_reset_between_fetch_and_complete_writes_nothing_back() {
    let mut nic = Nic::new();
    let index = nic.legacy(0, &broadcast(100), EOP | IFCS | RS);
    nic.set(Reg::TDT, 1);
    nic.calm();
    let mem = nic.dma.clone();
    let mut burst = TxBurst::new();
    assert_eq!(nic.tx.fetch(&mem, &mut burst, nic.now), Fetch::Frames);
    nic.set(Reg::CTRL, 1 << 26);
    nic.tx.complete(&mem, &mut burst, 1, nic.now).unwrap();
    assert_eq!(nic.word(TX_RING + 16 * u64::from(index) + 12), 0);
    assert_eq!(nic.get(Reg::TDH), 0);
    assert_eq!(icr(&mut nic), 0);
    assert_eq!(nic.get(Reg::GPTC), 0);
}

#[test]
fn delayed_interrupts_wait_for_their_timer() {
    let mut nic = Nic::new();
    nic.set(Reg::TIDV, 10);
    nic.set(Reg::IMS, TXDW);
    nic.legacy(0, &broadcast(60), EOP | IFCS | RS | IDE);
    nic.send();
    assert!(!nic.shared().irq.poll(nic.now));
    let due = nic.shared().irq.deadline().expect("a timer runs");
    assert_eq!(due, nic.now.plus_nanos(10 * 1024));
    assert!(nic.shared().irq.poll(due));
    nic.get(Reg::ICR);
    nic.legacy(0, &broadcast(60), EOP | IFCS | RS);
    nic.send();
    assert!(nic.shared().irq.poll(nic.now.plus_nanos(1_000_000)));
}

#[test]
fn the_low_threshold_is_told_once() {
    const TXD_LOW: u32 = 1 << 15;
    let mut nic = Nic::new();
    nic.calm();
    nic.set(Reg::TXDCTL, 1 << 25);
    nic.accept = 1;
    for _ in 0..10 {
        nic.legacy(0, &broadcast(60), EOP | IFCS);
    }
    nic.send();
    assert_eq!(icr(&mut nic) & TXD_LOW, 0, "nine left");
    nic.run();
    assert_eq!(icr(&mut nic) & TXD_LOW, TXD_LOW, "eight left");
    nic.run();
    assert_eq!(icr(&mut nic) & TXD_LOW, 0, "seven left");
    nic.set(Reg::TXDCTL, 0);
    nic.accept = usize::MAX;
    nic.run();
    assert_eq!(icr(&mut nic) & TXD_LOW, TXD_LOW, "none left");
}

#[test]
fn loopback_is_marked() {
    let mut nic = Nic::new();
    nic.legacy(0, &broadcast(60), EOP | IFCS);
    assert!(!nic.send()[0].loopback);
    nic.set(Reg::RCTL, 1 << 1 | 1 << 6);
    nic.legacy(0, &broadcast(60), EOP | IFCS);
    assert!(nic.send()[0].loopback);
}

#[test]
fn frames_in_many_pieces_of_memory_come_out_whole() {
    let mut nic = Nic::new();
    // RAM in 256-byte ranges: every buffer crosses many of them.
    let mapping = std::sync::Arc::new(Mapping::anonymous(RAM).unwrap());
    let mut map = GuestMem::builder();
    for i in 0..RAM / 256 {
        map = map.map(i * 256, 256, mapping.clone(), i * 256, Access::ReadWrite);
    }
    nic.set_memory(map.build().unwrap());
    let frame = broadcast(16000);
    for _ in 0..30 {
        nic.legacy(7, &frame, EOP | IFCS | RS);
    }
    let sent = nic.send();
    assert_eq!(sent.len(), 30);
    assert!(sent.iter().all(|s| s.bytes == frame));
}

proptest! {
    /// Any packet, cut anywhere, with tail writes anywhere, taken in any portions: the same bytes on the wire.
    #[test]
    fn cuts_and_pauses_change_nothing(
        flow in flows(),
        len in 1usize..9000,
        tso in any::<bool>(),
        mss in 64usize..3000,
        cuts in prop::collection::vec(0usize..9000, 0..20),
        pauses in prop::collection::vec(any::<bool>(), 64),
        accept in 0usize..3,
    ) {
        let mut nic = Nic::new();
        let data = payload(len);
        let bytes = flow.unfinished(0xffff_f000, 9, 0x19, &data, tso);
        let want = if tso {
            tso_context(&mut nic, &flow, mss, len);
            flow.segments(0xffff_f000, 9, 0x19, &data, mss)
        } else {
            csum_context(&mut nic, &flow);
            vec![flow.packet(0xffff_f000, 9, 0x19, &data)]
        };
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
        cuts.push(bytes.len());
        cuts.sort_unstable();
        nic.accept = accept;
        let mut sent = Vec::new();
        let mut from = 0;
        let tse = if tso { TSE } else { 0 };
        for (i, &cut) in cuts.iter().enumerate() {
            let end = if i + 1 == cuts.len() { EOP | IFCS | RS } else { 0 };
            nic.data(0x4000 * i as u64, &bytes[from..cut], tse | end, popts(&flow));
            from = cut;
            if pauses[i] {
                sent.extend(nic.send());
            }
        }
        sent.extend(nic.send());
        nic.accept = 1;
        sent.extend(nic.run());
        prop_assert_eq!(sent.len(), 1);
        prop_assert_eq!(sent[0].wire.len(), want.len());
        for (got, want) in sent[0].wire.iter().zip(&want) {
            prop_assert!(flow.same(got, want));
        }
        prop_assert_eq!(nic.get(Reg::TPT) as usize, want.len());
        prop_assert_eq!(nic.get(Reg::TDH), nic.get(Reg::TDT));
    }
}
