//! No descriptor is fetched twice: counted by memory that has to be asked for.

mod support;

use nic_emu::common::frame::{Csum, Gso, GsoKind, RxCsum, RxFrame, RxMeta};
use nic_emu::e1000::rx::Delivered;
use support::packets::{Flow, broadcast};
use support::remote::Call;
use support::*;

const RING: usize = 64;

/// How often each descriptor of the ring at `ring` was read.
fn fetched(nic: &Nic, ring: u64) -> [u32; RING] {
    let mut counts = [0; RING];
    for call in nic.fake.as_ref().expect("who is asked").take_calls() {
        let Call::Read(addr, len) = call else {
            continue;
        };
        let Some(offset) = addr.checked_sub(ring).filter(|&at| at < 16 * RING as u64) else {
            continue;
        };
        assert_eq!((offset % 16, len % 16), (0, 0), "a part of a descriptor");
        let first = offset as usize / 16;
        for count in &mut counts[first..first + len / 16] {
            *count += 1;
        }
    }
    counts
}

/// Bursts of every length, several times around the ring, with frames of one descriptor and of many.
#[test]
fn a_transmit_descriptor_is_fetched_once() {
    let mut nic = Nic::new();
    nic.ask();
    let (mut expected, mut sent, mut next) = ([0; RING], 0, 0);
    for burst in 1..=30 {
        for i in 0..burst {
            nic.legacy(0x1000 * i as u64, &broadcast(60 + i), EOP | IFCS | RS);
        }
        nic.context([14, 24, 0], [34, 50, 0], TCP | IPV4 | TSE, 54, 1400);
        let bytes = Flow::TCP4.unfinished(9, 9, 0x18, &[4; 9000], true);
        nic.data(0x4_0000, &bytes[..54], TSE, TXSM | IXSM);
        nic.data(0x5_0000, &bytes[54..], TSE | EOP | IFCS | RS, TXSM | IXSM);
        for _ in 0..burst + 3 {
            expected[next] += 1;
            next = (next + 1) % RING;
        }
        sent += nic.send().len();
    }
    assert_eq!(sent, 30 * 31 / 2 + 30);
    assert_eq!(fetched(&nic, TX_RING), expected);
}

/// Batches of every length, several times around the ring, super-frames among them, and given back as a driver does. What
/// was read ahead and not used is the next batch's to read: the driver may change it until then.
#[test]
fn a_receive_descriptor_is_fetched_once() {
    let mut nic = Nic::new();
    nic.ask();
    let flow = Flow::TCP4;
    let large = flow.packet(1, 2, 0x10, &[6; 9000]);
    let meta = RxMeta {
        csum: RxCsum::Partial(Csum {
            start: flow.l4() as u16,
            offset: 16,
        }),
        gso: Some(Gso {
            kind: GsoKind::TcpV4,
            hdr_len: flow.headers() as u16,
            mss: 1400,
        }),
        bad_fcs: false,
    };
    let (mut next, mut total) = (0, 0);
    for batch in 1..=30 {
        let mem = nic.dma.clone();
        for _ in 0..batch {
            let delivered = nic.rx.deliver(&mem, RxFrame::new(&broadcast(60)), nic.now);
            assert_eq!(delivered, Delivered::Placed);
        }
        let frame = RxFrame { data: &large, meta };
        assert_eq!(nic.rx.deliver(&mem, frame, nic.now), Delivered::Placed);
        nic.rx.finish(&mem, nic.now).unwrap();
        let fetched = fetched(&nic, RX_RING);
        assert!(fetched.iter().all(|&times| times <= 1), "{fetched:?}");
        while let Some(frame) = nic.collect() {
            for _ in 0..frame.descriptors {
                assert_eq!(fetched[next], 1, "counted");
                next = (next + 1) % RING;
                total += 1;
            }
        }
        nic.refill();
    }
    assert!(total > 2 * RING);
}
