//! Pause frames, heard and sent (IEEE 802.3 annex 31B; 8254x manual, 10.1), to the nanosecond.

mod support;

use nic_emu::Time;
use nic_emu::e1000::rx::{Delivered, Overrun};
use proptest::prelude::*;

use nic_emu::e1000::regs::Reg;
use support::packets::broadcast;
use support::*;

const EN: u32 = 1 << 1;
const BAM: u32 = 1 << 15;
const SLU: u32 = 1 << 6;
const FD: u32 = 1;
const FRCSPD: u32 = 1 << 11;
const FRCDPX: u32 = 1 << 12;
const RFCE: u32 = 1 << 27;
const TFCE: u32 = 1 << 28;
const TXOFF: u32 = 1 << 4;
const SWXOFF: u32 = 1 << 22;
const XONE: u32 = 1 << 31;
const PAUSE: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 1];

fn pause(quanta: u16) -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[..6].copy_from_slice(&PAUSE);
    frame[12..16].copy_from_slice(&[0x88, 0x08, 0, 1]);
    frame[16..18].copy_from_slice(&quanta.to_be_bytes());
    frame
}

/// A NIC with link, as Linux sets flow control up.
fn nic(ctrl: u32) -> Nic {
    let mut nic = Nic::new();
    nic.control.set_link(true, nic.now);
    nic.now = nic.now.plus_nanos(2_000_000);
    nic.control.run_timers(nic.now);
    nic.set(Reg::CTRL, SLU | ctrl);
    nic.set(Reg::FCAL, 0x00c2_8001);
    nic.set(Reg::FCAH, 0x0100);
    nic.set(Reg::FCT, 0x8808);
    nic.set(Reg::FCTTV, 0x0680);
    nic
}

/// Runs everything that is due, as often as it is.
fn settle(nic: &mut Nic) -> Vec<Sent> {
    let mut sent = Vec::new();
    for _ in 0..100 {
        match nic.control.deadline() {
            Some(due) if due <= nic.now => {
                nic.control.run_timers(nic.now);
            }
            _ => break,
        }
        sent.extend(nic.run());
    }
    assert!(nic.control.deadline().is_none_or(|due| due > nic.now));
    sent
}

#[test]
fn an_xoff_holds_for_its_time_and_an_xon_ends_it() {
    // Speed in CTRL and nanoseconds of 512 bits.
    for (speed, quantum) in [(0, 51_200), (1, 5_120), (2, 512)] {
        let mut nic = nic(RFCE | FRCSPD | FRCDPX | FD | speed << 8);
        assert_eq!(nic.give(&pause(100)), Delivered::Filtered);
        let until = nic.now.plus_nanos(100 * quantum);
        settle(&mut nic);
        assert_eq!(nic.control.deadline(), Some(until));
        assert_eq!(nic.get(Reg::STATUS) & TXOFF, TXOFF);
        assert_eq!(nic.shared().regs.get(Reg::STATUS) & TXOFF, TXOFF);
        nic.legacy(0, &broadcast(60), EOP | RS);
        assert!(nic.send().is_empty());
        nic.now = Time(until.0 - 1);
        assert!(settle(&mut nic).is_empty() && nic.run().is_empty());
        assert_eq!(nic.get(Reg::STATUS) & TXOFF, TXOFF);
        nic.now = until;
        assert_eq!(nic.get(Reg::STATUS) & TXOFF, 0);
        assert_eq!(settle(&mut nic).len(), 1);
        assert_eq!(nic.shared().regs.get(Reg::STATUS) & TXOFF, 0);
        assert_eq!(nic.control.deadline(), None);

        nic.give(&pause(0xffff));
        nic.legacy(0, &broadcast(60), EOP | RS);
        assert!(nic.send().is_empty());
        nic.give(&pause(0));
        assert_eq!(settle(&mut nic).len(), 1);
        assert_eq!((nic.get(Reg::XOFFRXC), nic.get(Reg::XONRXC)), (2, 1));
        assert_eq!(nic.control.deadline(), None);
    }
}

#[test]
fn who_does_not_listen_is_not_paused() {
    let half = FRCSPD | FRCDPX | 1 << 8;
    for ctrl in [TFCE, 0, RFCE | half] {
        let mut nic = nic(ctrl);
        nic.give(&pause(0xffff));
        assert_eq!(nic.get(Reg::STATUS) & TXOFF, 0, "{ctrl:#x}");
        nic.legacy(0, &broadcast(60), EOP | RS);
        assert_eq!(nic.send().len(), 1);
        assert_eq!(nic.get(Reg::XOFFRXC), 1);
    }
    // Nor who stops listening, loses the link or is reset.
    let ends: [fn(&mut Nic); 3] = [
        |nic| nic.set(Reg::CTRL, SLU),
        |nic| {
            nic.control.set_link(false, nic.now);
        },
        |nic| nic.set(Reg::CTRL, 1 << 26),
    ];
    for end in ends {
        let mut nic = nic(RFCE);
        nic.give(&pause(0xffff));
        settle(&mut nic);
        assert_eq!(nic.get(Reg::STATUS) & TXOFF, TXOFF);
        end(&mut nic);
        settle(&mut nic);
        assert_eq!(nic.get(Reg::STATUS) & TXOFF, 0);
        assert!(!nic.shared().flow.is_paused(nic.now));
    }
}

#[test]
fn software_sends_pause_frames() {
    let mut nic = nic(0);
    nic.set(Reg::TCTL, EN | SWXOFF);
    assert_eq!(nic.get(Reg::TCTL), EN, "clears itself");
    let sent = settle(&mut nic);
    let mut want = pause(0x0680);
    want[6..12].copy_from_slice(&MAC);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].wire, [want]);
    nic.set(Reg::FCTTV, 0);
    nic.set(Reg::TCTL, EN | SWXOFF);
    assert_eq!(settle(&mut nic)[0].bytes[16..18], [0, 0]);
    assert_eq!((nic.get(Reg::XOFFTXC), nic.get(Reg::XONTXC)), (1, 1));
    // Of the other statistics, those of all frames.
    assert_eq!((nic.get(Reg::TPT), nic.get(Reg::TOTL)), (2, 128));
    for none in [Reg::GPTC, Reg::MPTC, Reg::PTC64, Reg::GOTCL] {
        assert_eq!(nic.get(none), 0);
    }
    // A paused transmitter sends them too; one that is off, or at half duplex, does not.
    nic.set(Reg::CTRL, SLU | RFCE);
    nic.give(&pause(0xffff));
    nic.set(Reg::TCTL, EN | SWXOFF);
    assert_eq!(settle(&mut nic).len(), 1);
    nic.set(Reg::TCTL, SWXOFF);
    assert!(settle(&mut nic).is_empty());
    nic.set(Reg::CTRL, SLU | FRCSPD | FRCDPX);
    nic.set(Reg::TCTL, EN | SWXOFF);
    assert!(settle(&mut nic).is_empty());
}

#[test]
fn a_pause_frame_waits_for_the_network() {
    let mut nic = nic(0);
    nic.accept = 0;
    nic.set(Reg::TCTL, EN | SWXOFF);
    assert!(settle(&mut nic).is_empty());
    assert_eq!(nic.control.deadline(), None, "nobody is asked in a loop");
    nic.accept = usize::MAX;
    assert_eq!(nic.run().len(), 1);
    assert!(nic.run().is_empty());
}

#[test]
fn a_full_fifo_pauses_the_sender_until_it_is_drained() {
    let mut nic = nic(TFCE);
    nic.rx.set_overrun(Overrun::Drop);
    nic.set(Reg::FCRTH, 8 << 10);
    nic.set(Reg::FCRTL, 4 << 10 | XONE);
    nic.receive(8, EN | BAM);
    let frame = broadcast(1020);
    for n in 0..7 {
        assert_eq!(nic.give(&frame), Delivered::Placed, "{n}");
    }
    for n in 0..7 {
        assert_eq!(nic.give(&frame), Delivered::Held, "{n}");
        assert!(settle(&mut nic).is_empty());
    }
    assert_eq!(nic.give(&frame), Delivered::Held);
    let pauses = |sent: Vec<Sent>| -> Vec<u16> {
        let time = |sent: &Sent| u16::from_be_bytes([sent.bytes[16], sent.bytes[17]]);
        sent.iter().map(time).collect()
    };
    assert_eq!(pauses(settle(&mut nic)), [0x680], "8 KiB wait");
    // While that stays so, the sender hears of it before its pause is over.
    for _ in 0..3 {
        let half = nic.now.plus_nanos(0x680 * 512 / 2);
        assert_eq!(nic.control.deadline(), Some(half));
        nic.now = half;
        assert_eq!(pauses(settle(&mut nic)), [0x680]);
    }
    // Three frames leave: still more than 4 KiB.
    for _ in 0..3 {
        nic.collect().unwrap();
    }
    nic.refill();
    assert!(!nic.resume());
    assert!(settle(&mut nic).is_empty());
    // One more: no more than 4 KiB.
    nic.collect().unwrap();
    nic.refill();
    assert!(!nic.resume());
    assert_eq!(pauses(settle(&mut nic)), [0]);
    assert_eq!(nic.control.deadline(), None);
    assert_eq!((nic.get(Reg::XOFFTXC), nic.get(Reg::XONTXC)), (4, 1));
    assert_eq!((nic.get(Reg::MPC), nic.get(Reg::GPTC)), (0, 0));
}

/// A driver that asks for pauses of 512 ns and then reads nothing cannot keep its NIC busy.
#[test]
fn a_sender_is_not_told_all_the_time() {
    for time in [1, 2, 100, 390] {
        let mut nic = nic(TFCE);
        nic.rx.set_overrun(Overrun::Drop);
        nic.set(Reg::FCTTV, time);
        nic.set(Reg::FCRTH, 8);
        nic.receive(8, EN | BAM);
        for _ in 0..8 {
            nic.give(&broadcast(60));
        }
        let end = nic.now.plus_nanos(10_000_000);
        let mut sent = settle(&mut nic).len();
        while let Some(due) = nic.control.deadline().filter(|due| *due < end) {
            nic.now = due;
            sent += settle(&mut nic).len();
            assert!(sent <= 101, "more than one in 100 us for {time} quanta");
        }
        assert!(sent >= 90, "{sent} for {time} quanta");
    }
}

/// Whatever else is in them, or missing of them, is not obeyed, and nothing is due later.
#[test]
fn pause_frames_that_are_none_hold_nobody() {
    let mut nic = nic(RFCE);
    let mut strange = vec![pause(0xFFFF); 7];
    strange[0].truncate(14);
    strange[1].truncate(15);
    strange[2].truncate(16);
    strange[3].truncate(17);
    strange[4][15] = 0;
    strange[5][13] = 0x09;
    strange[6][5] = 2;
    for (number, frame) in strange.iter().enumerate() {
        nic.give(frame);
        nic.legacy(0, &broadcast(60), EOP);
        nic.kick();
        assert_eq!(settle(&mut nic).len() + nic.run().len(), 1, "{number}");
    }
    assert_eq!(nic.control.deadline(), None);
}

/// However many there are, the last one counts, and its time only.
#[test]
fn a_storm_of_pauses_holds_no_longer_than_its_last() {
    let mut nic = nic(RFCE);
    nic.legacy(0, &broadcast(60), EOP);
    nic.kick();
    // The frame would leave at once.
    nic.give(&pause(0xFFFF));
    for round in 0..10_000u32 {
        nic.give(&pause(if round % 3 == 0 { 1 } else { 0xFFFF }));
        nic.now = nic.now.plus_nanos(500);
        assert!(settle(&mut nic).is_empty(), "{round}");
    }
    nic.give(&pause(0xFFFF));
    let until = nic.now.plus_nanos(0xFFFF * 512);
    assert!(settle(&mut nic).is_empty());
    assert_eq!(nic.control.deadline(), Some(until), "one deadline");
    nic.now = until;
    assert_eq!(settle(&mut nic).len() + nic.run().len(), 1);
    assert_eq!(nic.control.deadline(), None);
}

#[test]
fn without_xone_the_pause_just_runs_out() {
    let mut nic = nic(TFCE);
    nic.rx.set_overrun(Overrun::Drop);
    nic.set(Reg::FCRTH, 8);
    nic.receive(8, EN | BAM);
    for _ in 0..8 {
        nic.give(&broadcast(60));
    }
    assert_eq!(settle(&mut nic).len(), 1);
    nic.collect().unwrap();
    nic.refill();
    assert!(nic.resume());
    assert!(settle(&mut nic).is_empty());
    assert_eq!(nic.control.deadline(), None);
}

/// Where the network waits by itself nobody has to be told; and without TFCE or a threshold nobody wants to be.
#[test]
fn only_who_loses_frames_asks_for_pauses() {
    for (ctrl, overrun, high) in [
        (TFCE, Overrun::Hold, 8),
        (0, Overrun::Drop, 8),
        (TFCE, Overrun::Drop, 0),
    ] {
        let mut nic = nic(ctrl);
        nic.rx.set_overrun(overrun);
        nic.set(Reg::FCRTH, high);
        nic.receive(8, EN | BAM);
        for _ in 0..8 {
            nic.give(&broadcast(60));
        }
        assert!(settle(&mut nic).is_empty());
        assert_eq!(nic.control.deadline(), None);
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Hear(u16),
    Wait(u32),
    Send,
    Move,
}

proptest! {
    #![proptest_config(cases(256))]

    /// A frame leaves exactly if no pause is in force, whatever came before, and however often the NIC has moved.
    #[test]
    fn pauses_are_kept_to_the_nanosecond(steps in prop::collection::vec(prop_oneof![
        any::<u16>().prop_map(Step::Hear),
        Just(Step::Hear(0)),
        (0..40_000_000_u32).prop_map(Step::Wait),
        Just(Step::Send),
        Just(Step::Move),
    ], 1..60)) {
        let mut nic = nic(RFCE);
        let mut until = 0;
        let mut waiting = 0;
        for step in steps {
            match step {
                Step::Hear(quanta) => {
                    nic.give(&pause(quanta));
                    until = nic.now.0 + u64::from(quanta) * 512;
                }
                Step::Wait(nanos) => nic.now = nic.now.plus_nanos(nanos.into()),
                Step::Send => {
                    if waiting < 60 {
                        nic.legacy(0, &broadcast(60), EOP);
                        nic.kick();
                        waiting += 1;
                    }
                }
                Step::Move => {
                    let saved = nic.save();
                    let mut other = Nic::bare();
                    other.now = Time(5_000_000);
                    other.control.set_link(true, other.now);
                    until = until.saturating_sub(nic.now.0) + other.now.0;
                    other.take_driver(&nic);
                    other.load(&saved).unwrap();
                    nic = other;
                }
            }
            let sent = settle(&mut nic).len() + nic.run().len();
            let paused = nic.now.0 < until;
            prop_assert_eq!(sent, if paused { 0 } else { waiting });
            waiting -= sent;
            prop_assert_eq!(nic.get(Reg::STATUS) & TXOFF != 0, paused);
        }
    }
}
