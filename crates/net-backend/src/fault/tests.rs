use super::*;
use crate::Counters;
use crate::testing::*;
use std::net::Ipv4Addr;

const NOW: Time = Time(1_000_000);

fn frames(count: usize) -> Vec<Vec<u8>> {
    let addr = |last| Ipv4Addr::new(10, 9, 0, last);
    (0..count)
        .map(|i| {
            let payload = [&(i as u32).to_be_bytes()[..], &pattern(100)].concat();
            udp((MAC_A, addr(1)), (MAC_B, addr(2)), [1, 2], &payload)
        })
        .collect()
}

fn sent_through(options: FaultOptions, frames: &[Vec<u8>]) -> (Vec<Vec<u8>>, Counters) {
    let (inner, record) = Recorder::backend();
    let mut fault = Fault::around(inner, options);
    send(&mut *fault.tx, frames, NOW);
    let sent = std::mem::take(&mut record.lock().unwrap().sent);
    (
        sent.into_iter().map(|(f, _)| f).collect(),
        fault.counters.counters(),
    )
}

fn received_through(options: FaultOptions, frames: &[Vec<u8>]) -> (Vec<Vec<u8>>, usize, Counters) {
    let (inner, record) = Recorder::backend();
    record.lock().unwrap().store.extend(frames.iter().cloned());
    let mut fault = Fault::around(inner, options);
    let mut buf = RxBuf::new();
    let (mut got, mut bad) = (Vec::new(), 0);
    // A run of lost frames ends a call early; on a descriptor that stays readable, the next one goes on.
    for _ in 0..frames.len() {
        while let Some(frame) = fault.rx.recv(&mut buf, NOW) {
            bad += usize::from(frame.meta.bad_fcs);
            got.push(frame.data.to_vec());
        }
    }
    (got, bad, fault.counters.counters())
}

#[test]
fn without_faults_nothing_changes() {
    let frames = frames(200);
    let (sent, counters) = sent_through(FaultOptions::default(), &frames);
    assert_eq!(sent, frames);
    assert_eq!(counters, Counters::default());
    let (got, bad, counters) = received_through(FaultOptions::default(), &frames);
    assert_eq!((got, bad), (frames, 0));
    assert_eq!(counters, Counters::default());
}

#[test]
fn the_seed_decides_and_the_share_is_right() {
    let frames = frames(10_000);
    let options = FaultOptions {
        loss: 0.2,
        corrupt: 0.1,
        seed: 42,
        ..FaultOptions::default()
    };
    let (first, counters) = sent_through(options, &frames);
    assert_eq!(sent_through(options, &frames).0, first);
    assert_ne!(
        sent_through(
            FaultOptions {
                seed: 43,
                ..options
            },
            &frames
        )
        .0,
        first
    );
    // Five standard deviations.
    assert!(counters.lost.abs_diff(2000) < 200, "{}", counters.lost);
    assert!(
        counters.corrupted.abs_diff(800) < 140,
        "{}",
        counters.corrupted
    );
    assert_eq!(first.len() as u64, 10_000 - counters.lost);
    let damaged = first.iter().filter(|f| !frames.contains(f));
    let mut count = 0;
    for frame in damaged.take(100) {
        count += 1;
        let differ =
            |f: &&Vec<u8>| -> u32 { f.iter().zip(frame).map(|(a, b)| (a ^ b).count_ones()).sum() };
        assert!(frames.iter().any(|f| differ(&f) == 1), "one bit differs");
    }
    assert_eq!(count, 100);

    let (got, bad, counters) = received_through(options, &frames);
    assert_eq!(got.len() as u64, 10_000 - counters.lost);
    assert_eq!(bad as u64, counters.corrupted);
    assert!(counters.lost.abs_diff(2000) < 200);
    assert!(counters.corrupted.abs_diff(800) < 140);
}

#[test]
fn a_direction_can_be_spared() {
    let frames = frames(50);
    let options = FaultOptions {
        loss: 1.0,
        direction: Direction::Rx,
        ..FaultOptions::default()
    };
    assert_eq!(sent_through(options, &frames).0, frames);
    assert!(received_through(options, &frames).0.is_empty());
    let options = FaultOptions {
        direction: Direction::Tx,
        ..options
    };
    assert!(sent_through(options, &frames).0.is_empty());
    assert_eq!(received_through(options, &frames).0, frames);
}

#[test]
fn damage_is_not_hidden_by_a_checksum_made_later() {
    let options = FaultOptions {
        corrupt: 1.0,
        ..FaultOptions::default()
    };
    for seed in 0..50 {
        let (inner, record) = Recorder::backend();
        let mut fault = Fault::around(inner, FaultOptions { seed, ..options });
        let complete = frames(1).remove(0);
        let requests = [
            tcp_super(1, 1000, &pattern(9500)),
            leave_udp_checksum(&complete),
        ];
        assert_eq!(fault.tx.send(&burst(&requests), NOW), 2);
        let sent = std::mem::take(&mut record.lock().unwrap().sent);
        assert_eq!(sent.len(), 11);
        assert!(
            sent.iter()
                .all(|(_, offload)| *offload == Offload::default())
        );
        let intact = on_the_wire(burst(&requests).frame(0));
        let hit = sent[..10].iter().zip(&intact).filter(|((f, _), g)| f != *g);
        assert_eq!(hit.count(), 10, "each of them");
        assert_ne!(sent[10].0, complete);
    }
}

#[test]
fn delayed_frames_come_in_order_and_in_time() {
    let delay = Duration::from_millis(5);
    let (inner, record) = Recorder::backend();
    record.lock().unwrap().store.extend(frames(3));
    let mut fault = Fault::around(
        inner,
        FaultOptions {
            delay,
            ..FaultOptions::default()
        },
    );
    let tso = tcp_super(1, 1000, &pattern(9500));
    assert_eq!(fault.tx.send(&burst(std::slice::from_ref(&tso)), NOW), 1);
    assert_eq!(fault.tx.deadline(), Some(NOW + delay));
    assert!(drain(&mut *fault.rx, Time(NOW.0 + 10)).is_empty());
    fault
        .tx
        .run_timers(Time(NOW.0 + delay.as_nanos() as u64 - 1));
    assert!(record.lock().unwrap().sent.is_empty());
    fault.tx.run_timers(NOW + delay);
    assert_eq!(
        record.lock().unwrap().sent,
        [tso],
        "whole, its requests undone"
    );

    let due = fault.rx.deadline().unwrap();
    assert_eq!(due, Time(NOW.0 + 10) + delay);
    fault.rx.run_timers(due);
    assert!(
        fault.rx.deadline().unwrap() > due,
        "the NIC has been told; no busy loop until it has room"
    );
    assert_eq!(drain(&mut *fault.rx, due), frames(3));
    assert_eq!(fault.rx.deadline(), None);
    assert_eq!(fault.counters.counters().delayed, 4);
}

#[test]
fn what_is_held_back_is_bounded() {
    let options = FaultOptions {
        delay: Duration::from_secs(9),
        ..FaultOptions::default()
    };
    let (inner, record) = Recorder::backend();
    let mut fault = Fault::around(inner, options);
    let plain: Vec<_> = frames(32)
        .into_iter()
        .map(|f| (f, Offload::default()))
        .collect();
    let mut taken = 0;
    for _ in 0..40 {
        taken += fault.tx.send(&burst(&plain), NOW);
    }
    assert_eq!(taken, HELD_FRAMES);
    record.lock().unwrap().store.extend(frames(1500));
    for _ in 0..40 {
        assert!(drain(&mut *fault.rx, NOW).is_empty());
    }
    assert_eq!(fault.counters.counters().rx_dropped, 500);
    fault.tx.run_timers(NOW + options.delay);
    assert_eq!(record.lock().unwrap().sent.len(), HELD_FRAMES);
}

#[test]
fn what_the_network_does_not_take_is_tried_again() {
    let (inner, record) = Recorder::backend();
    record.lock().unwrap().room = 5;
    let mut fault = Fault::around(inner, FaultOptions::default());
    let frames = frames(8);
    send(&mut *fault.tx, &frames, NOW);
    assert_eq!(record.lock().unwrap().sent.len(), 5);
    let at = fault.tx.deadline().unwrap();
    assert!(at > NOW);
    record.lock().unwrap().room = 9;
    fault.tx.run_timers(at);
    let sent = std::mem::take(&mut record.lock().unwrap().sent);
    assert_eq!(sent.into_iter().map(|(f, _)| f).collect::<Vec<_>>(), frames);
    assert_eq!(fault.tx.deadline(), None);
}

/// What comes out of a fault injector on the receiving end of a cable, as it would be on a wire.
fn received_from_cable(options: FaultOptions, sent: &[(Vec<u8>, Offload)]) -> Passed {
    let (mut a, b) = crate::switch::pair().unwrap();
    let mut fault = Fault::around(b, options);
    let mut buf = RxBuf::new();
    let mut frames = Vec::new();
    for request in sent.chunks(8) {
        assert_eq!(a.tx.send(&burst(request), NOW), request.len());
        // All of it may be lost, and yet there is more.
        for _ in 0..request.len() {
            while let Some(frame) = fault.rx.recv(&mut buf, NOW) {
                let bad = frame.meta.bad_fcs;
                frames.extend(on_the_wire(frame.into()).into_iter().map(|f| (f, bad)));
            }
        }
    }
    (frames, fault.counters.counters())
}

/// Frames, and whether their FCS is known to be wrong.
type Passed = (Vec<(Vec<u8>, bool)>, Counters);

fn sent_to_recorder(options: FaultOptions, sent: &[(Vec<u8>, Offload)]) -> Passed {
    let (inner, record) = Recorder::backend();
    let mut fault = Fault::around(inner, options);
    for request in sent.chunks(8) {
        assert_eq!(fault.tx.send(&burst(request), NOW), request.len());
    }
    let sent = std::mem::take(&mut record.lock().unwrap().sent);
    let wire = |request: &_| on_the_wire(burst(std::slice::from_ref(request)).frame(0));
    let frames = sent.iter().flat_map(wire).map(|frame| (frame, false));
    (frames.collect(), fault.counters.counters())
}

/// The same happens to them as if they had been cut before.
#[test]
fn each_segment_of_a_super_frame_has_a_fate_of_its_own() {
    let (mut whole, mut struck) = (0, 0);
    for seed in 0..20 {
        let options = FaultOptions {
            loss: 0.02,
            corrupt: 0.02,
            seed,
            ..FaultOptions::default()
        };
        let payload = |i: u32| pattern(500 + 3000 * i as usize);
        let supers: Vec<_> = (0..20).map(|i| tcp_super(i, 1448, &payload(i))).collect();
        let cut: Vec<_> = supers
            .iter()
            .flat_map(|request| on_the_wire(burst(std::slice::from_ref(request)).frame(0)))
            .map(|frame| (frame, Offload::default()))
            .collect();
        for pass in [received_from_cable, sent_to_recorder] {
            let (got, counted) = pass(options, &supers);
            let (want, expected) = pass(options, &cut);
            assert!(got == want, "seed {seed}");
            let faults = |c: &Counters| (c.lost, c.corrupted, c.tx_dropped + c.rx_dropped);
            assert_eq!(faults(&counted), faults(&expected));
            assert_eq!(got.len() as u64, cut.len() as u64 - counted.lost);
            whole += u64::from(counted.lost + counted.corrupted == 0);
            struck += counted.lost + counted.corrupted;
        }
    }
    assert!(whole < 5 && struck > 200, "{whole} {struck}");
}
