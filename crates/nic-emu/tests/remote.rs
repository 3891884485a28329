//! Memory that has to be asked for: the tests of both directions once more, and what only concerns such memory.

#![allow(
    clippy::duplicate_mod,
    reason = "the same tests under other conditions"
)]

#[path = "receive.rs"]
mod asked_receive;
#[path = "receive_waiting.rs"]
mod asked_receive_waiting;
#[path = "transmit.rs"]
mod asked_transmit;
#[path = "hostile.rs"]
mod interrupted_hostile;
#[path = "receive.rs"]
mod interrupted_receive;
#[path = "receive_waiting.rs"]
mod interrupted_receive_waiting;
#[path = "transmit.rs"]
mod interrupted_transmit;

mod support;

use nic_emu::common::frame::{Csum, Gso, GsoKind, RxCsum, RxFrame, RxMeta, TxBurst};
use nic_emu::common::gso::Segments;
use nic_emu::e1000::regs::Reg;
use nic_emu::e1000::rx::{Delivered, Overrun};
use nic_emu::e1000::tx::Fetch;
use support::packets::{Flow, broadcast};
use support::remote::Call;
use support::*;

/// What a direction of traffic came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    frames: Vec<Vec<u8>>,
    registers: [u32; 8],
    counters: nic_emu::e1000::CountersSnapshot,
}

/// What is wrong with the remote memory of a run.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    None,
    /// An epoch begins at this call.
    Epoch(usize),
    /// From this call on so many fail.
    Refusal(usize, usize),
}

impl Trouble {
    fn cause(self, nic: &mut Nic) {
        let fake = nic.ask();
        match self {
            Self::None => {}
            Self::Epoch(call) => fake.interrupt_at(call),
            Self::Refusal(call, count) => fake.refuse(call, count),
        }
    }
}

fn outcome(mut nic: Nic, frames: Vec<Vec<u8>>) -> (Outcome, usize) {
    let registers = [
        Reg::TDH,
        Reg::RDH,
        Reg::GPTC,
        Reg::GOTCL,
        Reg::GPRC,
        Reg::TORL,
        Reg::TSCTC,
        Reg::ICR,
    ]
    .map(|reg| nic.get(reg));
    let fake = nic.fake.take().unwrap();
    assert_eq!(fake.reported_twice(), 0);
    let counters = nic.control.counters();
    let outcome = Outcome {
        frames,
        registers,
        counters,
    };
    (outcome, fake.take_calls().len())
}

/// Lets the NIC send all that it can. At every moment, what the head has passed is done in the driver's memory, unless
/// that cannot be written.
fn send_all(nic: &mut Nic, first: u32, wire: &mut Vec<Vec<u8>>, lossy: bool) {
    let check = |nic: &Nic| {
        let head = nic.shared().regs.get(Reg::TDH);
        let mut at = first;
        while at != head {
            let low = nic.word(TX_RING + 16 * u64::from(at) + 8);
            assert!(low & RS == 0 || nic.tx_status(at) & 1 == 1 || lossy);
            at = (at + 1) % 64;
        }
    };
    let mem = nic.dma.clone();
    let mut burst = TxBurst::new();
    let mut buffer = vec![0; 70_000];
    for _ in 0..100 {
        let fetch = nic.tx.fetch(&mem, &mut burst, nic.now);
        check(nic);
        if fetch == Fetch::Interrupted {
            assert!(burst.is_empty());
            nic.fake.as_ref().unwrap().pass_epoch();
            continue;
        }
        for frame in burst.frames() {
            let mut segments = Segments::new(frame).unwrap();
            while let Some(len) = segments.next_into(&mut buffer) {
                wire.push(buffer[..len].to_vec());
            }
        }
        let told = nic.tx.complete(&mem, &mut burst, usize::MAX, nic.now);
        check(nic);
        if told.is_err() {
            nic.fake.as_ref().unwrap().pass_epoch();
        } else if fetch != Fetch::More {
            return;
        }
    }
    panic!("the transmitter finds no end");
}

/// Frames of all sorts across the end of the ring, one of them in two halves.
fn transmit(trouble: Trouble) -> (Outcome, usize) {
    const FIRST: u32 = 55;
    let lossy = matches!(trouble, Trouble::Refusal(..));
    let mut nic = Nic::new();
    nic.start_at(FIRST);
    trouble.cause(&mut nic);
    let mut wire = Vec::new();
    nic.legacy(0, &broadcast(300), EOP | IFCS | RS);
    nic.context([14, 24, 0], [34, 50, 0], TCP, 0, 0);
    let flow = Flow::TCP4;
    let bytes = flow.unfinished(5, 5, 0x10, &[3; 1000], false);
    nic.data(0x1000, &bytes[..100], 0, TXSM | IXSM);
    nic.data(0x2000, &bytes[100..101], RS, 0);
    nic.data(0x3000, &bytes[101..], EOP | IFCS, 0);
    // Nowhere.
    nic.push(RAM + 0x1000, 64 | EOP | IFCS | RS, 0);
    nic.kick();
    send_all(&mut nic, FIRST, &mut wire, lossy);

    nic.context([14, 24, 0], [34, 50, 0], TCP | IPV4 | TSE, 54, 1400);
    let bytes = flow.unfinished(9, 9, 0x18, &[4; 20_000], true);
    nic.data(0x4000, &bytes[..54], TSE, TXSM | IXSM);
    nic.data(0x5000, &bytes[54..], TSE | EOP | IFCS | RS, TXSM | IXSM);
    nic.legacy(0xb000, &broadcast(60), EOP | IFCS);
    let half = broadcast(1500);
    nic.legacy(0xc000, &half[..700], RS);
    nic.kick();
    send_all(&mut nic, FIRST, &mut wire, lossy);

    nic.legacy(0xd000, &half[700..], EOP | IFCS | RS);
    for i in 0..5 {
        nic.legacy(
            0xe000 + 0x800 * i,
            &broadcast(1000 + i as usize),
            EOP | IFCS | RS,
        );
    }
    nic.kick();
    send_all(&mut nic, FIRST, &mut wire, lossy);
    assert!(nic.tx.is_settled());
    outcome(nic, wire)
}

#[test]
fn what_is_sent_leaves_once_wherever_an_epoch_begins() {
    let (want, calls) = transmit(Trouble::None);
    assert_eq!(want.frames.len(), 2 + 15 + 1 + 1 + 5);
    assert!(calls > 20);
    for call in 0..calls {
        let (got, _) = transmit(Trouble::Epoch(call));
        assert_eq!(got, want, "an epoch at call {call}");
    }
}

#[test]
fn a_client_that_refuses_loses_only_what_it_refuses() {
    let (want, calls) = transmit(Trouble::None);
    for call in 0..calls {
        for count in [1, 2, calls] {
            let (got, _) = transmit(Trouble::Refusal(call, count));
            let mut rest = want.frames.iter();
            assert!(
                got.frames
                    .iter()
                    .all(|frame| rest.any(|want| want == frame)),
                "in order, and none twice"
            );
            // A refused flush is no loss: there is nobody to be told of it.
            let lost = want.frames.len() - got.frames.len();
            assert!(lost == 0 || got.counters.dma_unreachable > want.counters.dma_unreachable);
        }
    }
}

/// Frames of all sorts into a ring of a few buffers, which the driver empties when it is full.
fn receive(trouble: Trouble, overrun: Overrun, ring: u32) -> (Outcome, usize) {
    let mut nic = Nic::bare();
    nic.set(Reg::CTRL, 1 << 6 | 1 << 30);
    nic.set(Reg::VET, 0x8100);
    // EN, UPE, LPE, BAM.
    nic.receive(ring, 1 << 1 | 1 << 3 | 1 << 5 | 1 << 15);
    nic.rx.set_overrun(overrun);
    trouble.cause(&mut nic);

    let tagged = Flow {
        vlan: Some(7),
        ..Flow::UDP4
    };
    let mut frames: Vec<_> = [60, 1514, 2300, 100, 4096, 65]
        .map(|len| (broadcast(len), RxMeta::default()))
        .into();
    frames.push((tagged.packet(0, 1, 0, &[5; 700]), RxMeta::default()));
    let flow = Flow::TCP4;
    let csum = Csum {
        start: flow.l4() as u16,
        offset: 16,
    };
    let gso = Gso {
        kind: GsoKind::TcpV4,
        hdr_len: flow.headers() as u16,
        mss: 1400,
    };
    frames.push((
        flow.packet(1, 2, 0x10, &[6; 9000]),
        RxMeta {
            csum: RxCsum::Partial(csum),
            gso: Some(gso),
            bad_fcs: false,
        },
    ));
    frames.extend([61, 62, 63].map(|len| (broadcast(len), RxMeta::default())));

    let lossy = matches!(trouble, Trouble::Refusal(..));
    let (mut got, mut bytes, mut at) = (Vec::new(), Vec::new(), 0);
    let mem = nic.dma.clone();
    let mut waiting = frames.iter();
    for _ in 0..200 {
        nic.rx.resume(&mem, nic.now);
        let mut batch = 0;
        while nic.rx.has_room() && batch < 4 {
            let Some((data, meta)) = waiting.next() else {
                break;
            };
            let frame = RxFrame { data, meta: *meta };
            let delivered = nic.rx.deliver(&mem, frame, nic.now);

            if delivered == Delivered::Interrupted {
                assert!(!nic.rx.has_room());
            }
            batch += 1;
        }
        if nic.rx.finish(&mem, nic.now).is_err() {
            nic.fake.as_ref().unwrap().pass_epoch();
            continue;
        }
        // A frame may begin in the last descriptors of a ring and end in those given then.
        let head = nic.shared().regs.get(Reg::RDH);
        let before = at;
        while at != head {
            let desc = RX_RING + 16 * u64::from(at);
            let status = nic.word(desc + 12);
            assert!(status & 1 == 1 || lossy);
            let mut part = vec![0; (nic.word(desc + 8) & 0xffff) as usize];
            nic.mem.read(u64::from(nic.word(desc)), &mut part).unwrap();
            bytes.extend(part);
            nic.mem.store_u64(desc + 8, 0).unwrap();
            at = (at + 1) % ring;
            if status & 2 != 0 {
                got.push(std::mem::take(&mut bytes));
            }
        }
        nic.set(Reg::RDT, (at + ring - 1) % ring);
        if batch == 0 && at == before && nic.rx.has_room() {
            break;
        }
    }
    assert!(nic.rx.is_settled() && waiting.next().is_none());
    outcome(nic, got)
}

#[test]
fn what_arrives_is_placed_once_wherever_an_epoch_begins() {
    for (overrun, ring) in [(Overrun::Hold, 8), (Overrun::Hold, 16), (Overrun::Drop, 64)] {
        let (want, calls) = receive(Trouble::None, overrun, ring);
        assert_eq!(want.frames.len(), 10 + 7);
        for call in 0..calls {
            let (got, _) = receive(Trouble::Epoch(call), overrun, ring);
            assert_eq!(got.frames, want.frames, "an epoch at call {call}");
            assert_eq!(got.registers[2..7], want.registers[2..7]);
            assert_eq!(got.counters, want.counters);
        }
        for call in 0..calls {
            // Whatever is lost, nothing is doubled, and the queue comes to an end.
            receive(Trouble::Refusal(call, 1), overrun, ring);
        }
    }
}

#[test]
fn a_burst_and_a_batch_cost_few_messages() {
    let mut nic = Nic::new();
    let fake = nic.ask();
    let length = |i: u64| 200 + i as usize;
    for i in 0..10 {
        nic.legacy(0x1000 * i, &broadcast(length(i)), EOP | IFCS | RS);
    }
    assert_eq!(nic.send().len(), 10);
    let mut want = vec![Call::Read(TX_RING, 160)];
    want.extend((0..10).map(|i| Call::Read(TX_DATA + 0x1000 * i, length(i))));
    want.extend([Call::Write(TX_RING, 160), Call::Flush]);
    // The harness fetches until nothing is left, which costs nothing more.
    assert_eq!(fake.take_calls(), want);

    let mem = nic.dma.clone();
    for i in 0..10 {
        let frame = broadcast(length(i));
        nic.rx.deliver(&mem, RxFrame::new(&frame), nic.now);
    }
    nic.rx.finish(&mem, nic.now).unwrap();
    let mut want = vec![Call::Read(RX_RING, 63 * 16)];
    want.extend((0..10).map(|i| Call::Write(RX_DATA + 0x4000 * i, length(i) + 4)));
    want.extend([Call::Write(RX_RING, 160), Call::Flush]);
    assert_eq!(fake.take_calls(), want);
}
