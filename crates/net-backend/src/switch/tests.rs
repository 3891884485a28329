use super::*;
use crate::fault::{Fault, FaultOptions};
use crate::testing::*;
use nic_emu::common::frame::{Csum, Offload};
use std::net::Ipv4Addr;
use std::time::Duration;

use rustix::fd::BorrowedFd;

const NOW: Time = Time(1);

fn frame(number: u32, len: usize) -> Vec<u8> {
    let addr = |last| Ipv4Addr::new(10, 9, 0, last);
    let mut payload = number.to_be_bytes().to_vec();
    payload.extend(pattern(len));
    udp((MAC_A, addr(1)), (MAC_B, addr(2)), [1, 2], &payload)
}

fn room(port: &Backend) -> BorrowedFd<'_> {
    match port.tx.room() {
        Some(Room::Readable(fd)) => fd,
        other => panic!("{other:?}"),
    }
}

#[test]
fn frames_pass_both_ways_with_one_ring_of_the_bell() {
    let (mut a, mut b) = pair().unwrap();
    assert!(drain(&mut *a.rx, NOW).is_empty() && drain(&mut *b.rx, NOW).is_empty());
    assert!(!readable_within(b.rx.fd().unwrap(), Duration::ZERO));
    let frames: Vec<_> = (0..40).map(|i| frame(i, i as usize * 30)).collect();
    send(&mut *a.tx, &frames, NOW);
    assert!(readable(b.rx.fd().unwrap()));
    let mut count = [0; 8];
    rustix::io::read(b.rx.fd().unwrap(), &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1, "one ring for two bursts");
    assert_eq!(drain(&mut *b.rx, NOW), frames);
    assert!(!readable_within(b.rx.fd().unwrap(), Duration::ZERO));
    send(&mut *b.tx, &frames[..1], NOW);
    assert!(readable(a.rx.fd().unwrap()));
    assert_eq!(drain(&mut *a.rx, NOW), frames[..1]);
    assert_eq!(b.counters.counters().rx_frames, 40);
    assert_eq!(a.counters.counters().tx_segments, 40);
}

#[test]
fn super_frames_pass_whole_and_checksums_are_left_to_the_receiver() {
    let (mut a, mut b) = pair().unwrap();
    let requests = [
        tcp_super(1000, 1448, &pattern(40_000)),
        leave_udp_checksum(&frame(7, 100)),
    ];
    assert_eq!(a.tx.send(&burst(&requests), NOW), 2);
    let mut buf = RxBuf::new();
    for (bytes, offload) in requests {
        let frame = b.rx.recv(&mut buf, NOW).unwrap();
        assert_eq!((frame.data, frame.meta), (&bytes[..], offload.into()));
    }
    assert_eq!(a.counters.counters().tx_frames, 2);
    assert_eq!(a.counters.counters().tx_segments, 29);
    assert_eq!(b.counters.counters().rx_frames, 2);
    assert_eq!(b.counters.counters().rx_segments, 29);
}

/// A NIC finds the field of a checksum among the headers, and nowhere else.
#[test]
fn a_checksum_far_behind_the_headers_is_made_on_the_way() {
    let (mut a, mut b) = pair().unwrap();
    let request = |start| {
        let csum = Some(Csum { start, offset: 6 });
        let offload = Offload {
            csum,
            ..Offload::default()
        };
        (frame(1, 1000), offload)
    };
    let requests = [request(251), request(252)];
    assert_eq!(a.tx.send(&burst(&requests), NOW), 2);
    let mut buf = RxBuf::new();
    let left = b.rx.recv(&mut buf, NOW).unwrap();
    assert_eq!(left.meta, requests[0].1.into());
    let made = b.rx.recv(&mut buf, NOW).unwrap();
    assert_eq!(made.meta, RxMeta::default());
    assert_eq!(
        [made.data.to_vec()],
        *on_the_wire(burst(&requests).frame(1))
    );
}

/// The NIC at the other end counts it, like one at the end of a cable.
#[test]
fn a_wrong_fcs_arrives_as_such_even_through_a_fault_injector() {
    let bad_fcs = Offload {
        bad_fcs: true,
        ..Offload::default()
    };
    let requests = [
        (frame(1, 100), bad_fcs),
        (frame(2, 100), Offload::default()),
    ];
    let (a, mut b) = pair().unwrap();
    let mut injector = Fault::around(a, FaultOptions::default());
    assert_eq!(injector.tx.send(&burst(&requests), NOW), 2);
    let mut buf = RxBuf::new();
    let found = [(); 2].map(|()| b.rx.recv(&mut buf, NOW).unwrap().meta.bad_fcs);
    assert_eq!(found, [true, false]);
}

#[test]
fn nonsense_requests_are_dropped_and_counted() {
    let (mut a, mut b) = pair().unwrap();
    let (mut frame, offload) = tcp_super(0, 100, &pattern(3000));
    frame[23] = 17;
    assert_eq!(a.tx.send(&burst(&[(frame, offload)]), NOW), 1);
    assert_eq!(a.counters.counters().tx_dropped, 1);
    // A segment that no NIC takes.
    let giant = tcp_super(0, 40_000, &pattern(50_000));
    assert_eq!(a.tx.send(&burst(&[giant]), NOW), 1);
    assert_eq!(a.counters.counters().tx_dropped, 2);
    assert!(drain(&mut *b.rx, NOW).is_empty());
}

#[test]
fn a_full_ring_leaves_frames_with_the_sender_and_calls_it_back() {
    let (mut a, mut b) = pair().unwrap();
    assert!(drain(&mut *a.rx, NOW).is_empty());
    let frames: Vec<_> = (0..USUAL as u32).map(|i| frame(i, 10)).collect();
    send(&mut *a.tx, &frames, NOW);
    let late = [(frame(9999, 10), Offload::default())];
    assert_eq!(a.tx.send(&burst(&late), NOW), 0);
    assert!(!readable_within(room(&a), Duration::ZERO));
    assert_eq!(drain(&mut *b.rx, NOW).len(), USUAL);
    assert!(readable(room(&a)), "called back");
    assert!(!readable_within(a.rx.fd().unwrap(), Duration::ZERO));
    assert_eq!(a.tx.send(&burst(&late), NOW), 1);
    assert_eq!(a.counters.counters().tx_dropped, 0);
}

#[test]
fn super_frames_are_bounded_by_themselves() {
    let (mut a, mut b) = pair().unwrap();
    let requests = vec![tcp_super(0, 1448, &pattern(60_000)); LARGE];
    for requests in requests.chunks(4) {
        assert_eq!(a.tx.send(&burst(requests), NOW), 4);
    }
    assert_eq!(a.tx.send(&burst(&requests[..1]), NOW), 0);
    // Those of usual length have room of their own, but nobody overtakes anybody.
    let mixed = [&requests[..1], &[(frame(0, 10), Offload::default())]].concat();
    assert_eq!(a.tx.send(&burst(&mixed), NOW), 0);
    assert_eq!(a.tx.send(&burst(&mixed[1..]), NOW), 1);
    let mut buf = RxBuf::new();
    for _ in 0..BATCH / (USUAL / LARGE) {
        assert_eq!(b.rx.recv(&mut buf, NOW).unwrap().segments(), 42);
    }
    assert!(readable(room(&a)), "called back long before the last one");
    assert_eq!(a.tx.send(&burst(&mixed), NOW), 2);
}

#[test]
fn buffers_are_used_again() {
    let meter = Arc::default();
    let (mut sender, mut receiver) = way(&meter, &meter).unwrap();
    let frames: Vec<_> = (0..40).map(|i| frame(i, 10)).collect();
    let request = vec![tcp_super(0, 1448, &pattern(60_000)); 5];
    for _ in 0..3 {
        send(&mut sender, &frames, NOW);
        assert_eq!(sender.send(&burst(&request), NOW), 5);
        drain(&mut receiver, NOW);
        assert_eq!(sender.usual.unmade, USUAL - 40);
        assert_eq!(sender.large.unmade, LARGE - 5);
    }
}

#[test]
fn whoever_waits_for_room_hears_when_the_peer_goes() {
    let (mut a, b) = pair().unwrap();
    let frames: Vec<_> = (0..USUAL as u32).map(|i| frame(i, 10)).collect();
    send(&mut *a.tx, &frames, NOW);
    let late = [(frame(9999, 10), Offload::default())];
    assert_eq!(a.tx.send(&burst(&late), NOW), 0);
    assert!(!readable_within(room(&a), Duration::ZERO));
    drop(b);
    assert!(readable(room(&a)), "called back");
    assert_eq!(a.tx.send(&burst(&late), NOW), 1);
}

#[test]
fn a_port_without_a_peer_drops() {
    let (mut a, b) = pair().unwrap();
    let frames: Vec<_> = (0..USUAL as u32).map(|i| frame(i, 10)).collect();
    send(&mut *a.tx, &frames, NOW);
    drop(b);
    send(&mut *a.tx, &frames, NOW);
    send(&mut *a.tx, &frames, NOW);
    assert_eq!(a.counters.counters().tx_dropped, 2 * USUAL as u64);
    assert!(drain(&mut *a.rx, NOW).is_empty());
}

/// Two threads, each waiting only for its own descriptor: neither a frame nor a wake-up may get lost.
#[test]
fn nothing_is_lost_between_threads() {
    const COUNT: u32 = 30_000;
    let (mut a, mut b) = pair().unwrap();
    let sender = std::thread::spawn(move || {
        let mut next = 0;
        while next < COUNT {
            let batch: Vec<_> = (next..COUNT.min(next + 16))
                .map(|i| (frame(i, (i % 50) as usize), Offload::default()))
                .collect();
            let mut burst_from = 0;
            while burst_from < batch.len() {
                let taken = a.tx.send(&burst(&batch[burst_from..]), NOW);
                if taken < batch.len() - burst_from {
                    assert!(readable(room(&a)), "not called back at {next}");
                }
                burst_from += taken;
            }
            next += batch.len() as u32;
        }
        a
    });
    let mut expected = 0;
    let mut buf = RxBuf::new();
    while expected < COUNT {
        assert!(readable(b.rx.fd().unwrap()), "not woken at {expected}");
        while let Some(got) = b.rx.recv(&mut buf, NOW) {
            assert_eq!(got.data, frame(expected, (expected % 50) as usize));
            expected += 1;
        }
    }
    assert_eq!(sender.join().unwrap().counters.counters().tx_dropped, 0);
}
