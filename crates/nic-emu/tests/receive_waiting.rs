//! What waits for descriptors, and super-frames, of which a part may.

mod support;

use nic_emu::common::frame::{Csum, Gso, GsoKind, RxCsum, RxFrame, RxMeta};
use nic_emu::e1000::regs::Reg;
use nic_emu::e1000::rx::{Delivered, Loss, Overrun};
use proptest::prelude::*;
use support::packets::{Flow, broadcast, crc, flows, stored, sum};
use support::*;

const EN: u32 = 1 << 1;
const LPE: u32 = 1 << 5;
const BAM: u32 = 1 << 15;
const SECRC: u32 = 1 << 26;
const VME: u32 = 1 << 30;
const IPOFL: u32 = 1 << 8;
const TUOFL: u32 = 1 << 9;

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
        long in any::<bool>(),
    ) {
        let flow = Flow { vlan: tag, ..flow };
        let data: Vec<u8> = (0..len).map(|i| (i * 13) as u8).collect();
        let (frame, meta) = super_frame(&flow, &data, mss);
        let mut nic = Nic::bare();
        nic.set(Reg::CTRL, 1 << 6 | if strip { VME } else { 0 });
        nic.set(Reg::RXCSUM, TUOFL | IPOFL);
        let secrc_bit = if secrc { SECRC } else { 0 };
        let lpe = if long { LPE } else { 0 };
        nic.receive(ring, EN | lpe | secrc_bit | bsize << 16);
        nic.deliver(RxFrame { data: &frame, meta });
        let mut want = flow.segments(7, 0xfff0, 0x19, &data, mss);
        let all = want.len();
        want.retain(|segment| long || segment.len() <= 1518);
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
        prop_assert_eq!(nic.get(Reg::ROC) as usize, all - want.len());
        prop_assert_eq!(nic.get(Reg::TPR) as usize, all);
        prop_assert_eq!(nic.get(Reg::MPC), 0);
    }
}
