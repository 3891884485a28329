//! Flow control against both who can abuse it: a network that sends pauses without end, and a driver that asks for them.

use std::time::{Duration, Instant};

use guest_driver::packet::plain;
use guest_driver::regs::{
    CTRL, FCAH, FCAL, FCRTH, FCRTL, FCT, FCTTV, RCTL, TCTL, ctrl, rctl, tctl,
};
use guest_driver::{Bus, Offload, Wire};
use nic_emu::e1000::rx::Overrun;

use crate::{Nic, PEER, made, on_shards, plain_nic, settle};

/// Obey pause frames, and send them.
const RFCE: u32 = 1 << 27;
const TFCE: u32 = 1 << 28;
const SWXOFF: u32 = 1 << 22;
/// 65535 times 512 bits at 10 Mb/s are 3.4 s; a link at 1000 Mb/s has the hundredth part of it.
const PATIENCE: Duration = Duration::from_secs(20);

fn pause(opcode: u16, quanta: u16, len: usize) -> Vec<u8> {
    let mut frame = vec![0; 64];
    frame[..6].copy_from_slice(&[0x01, 0x80, 0xC2, 0, 0, 1]);
    frame[6..12].copy_from_slice(&PEER);
    frame[12..14].copy_from_slice(&[0x88, 0x08]);
    frame[14..16].copy_from_slice(&opcode.to_be_bytes());
    frame[16..18].copy_from_slice(&quanta.to_be_bytes());
    frame.truncate(len);
    frame
}

fn listen(nic: &mut Nic, more: u32) {
    let control = nic.bus.read32(CTRL);
    nic.bus.write32(CTRL, control | RFCE | more);
    for (register, value) in [(FCAL, 0x00C2_8001), (FCAH, 0x0100), (FCT, 0x8808)] {
        nic.bus.write32(register, value);
    }
}

fn quiet(nic: &mut Nic) {
    let control = nic.bus.read32(CTRL);
    nic.bus.write32(CTRL, control & !(RFCE | TFCE));
}

/// A frame leaves at last, when the last pause is over.
fn leaves(nic: &mut Nic, seed: u32) {
    let frame = plain(PEER, nic.mac, 200, seed);
    assert!(nic.send(&frame, Offload::None), "the ring is full");
    let start = Instant::now();
    while nic.bus.collect().is_none_or(|sent| sent != frame) {
        assert!(start.elapsed() < PATIENCE, "frame {seed} is held for good");
        std::thread::yield_now();
    }
}

/// Pauses of every length and none, whole and cut short, of every opcode, thousands of them: they hold the transmitter,
/// but no longer than the last of them says, and nobody else.
fn storm_of_pauses(shards: usize) {
    on_shards(shards, |nic| {
        listen(nic, 0);
        for seed in 0..4u32 {
            for n in 0..1500u32 {
                let quanta = [0xFFFF, 1, 0x8000, 0, 0xFFFE][n as usize % 5];
                let opcode = if n % 11 == 0 { n as u16 } else { 1 };
                let len = if n % 7 == 0 { 14 + n as usize % 50 } else { 60 };
                nic.bus.cable.transmit(&pause(opcode, quanta, len));
            }
            nic.bus.cable.transmit(&pause(1, 0xFFFF, 60));
            nic.bus.settle();
            leaves(nic, seed);
        }
        // A driver that stops listening is free at once, and so is one that resets.
        nic.bus.cable.transmit(&pause(1, 0xFFFF, 60));
        quiet(nic);
        leaves(nic, 9);
    });
}

#[test]
fn a_storm_of_pauses() {
    storm_of_pauses(1);
}

#[test]
fn a_storm_of_pauses_on_three_threads() {
    storm_of_pauses(3);
}

/// Frames from a driver that never reads, with thresholds and times of every kind: the network hears of it now and then.
fn asks_for_pauses(shards: usize) {
    let drops = |name, model: &_, listener, plug| {
        plain_nic(name, model, listener, plug).overrun(Overrun::Drop)
    };
    made(shards, drops, |nic| {
        listen(nic, TFCE);
        let mac = nic.mac;
        for (high, low, time) in [
            (8, 0, 1),
            (8, 0x8000_0008, 1),
            (8, 0xFFFF, 0),
            (0xFFF8, 0x8000_FFF8, 2),
            (0, 0, 0xFFFF),
            (16, 0x8000_0000, 0xFFFF),
        ] {
            nic.bus.write32(FCRTH, high);
            nic.bus.write32(FCRTL, low);
            nic.bus.write32(FCTTV, time);
            for seed in 0..300 {
                nic.bus.cable.transmit(&plain(mac, PEER, 1500, seed));
            }
            for _ in 0..50 {
                let control = nic.bus.read32(TCTL);
                nic.bus.write32(TCTL, control | SWXOFF);
            }
            settle(nic);
            nic.bus.write32(RCTL, 0);
            nic.bus.write32(RCTL, rctl::EN | rctl::BAM);
        }
        quiet(nic);
        let control = nic.bus.read32(CTRL);
        nic.bus.write32(CTRL, control | ctrl::SLU);
        let control = nic.bus.read32(TCTL);
        nic.bus.write32(TCTL, control | tctl::EN);
    });
}

#[test]
fn a_driver_that_asks_for_pauses_all_the_time() {
    asks_for_pauses(1);
}

#[test]
fn a_driver_that_asks_for_pauses_on_three_threads() {
    asks_for_pauses(3);
}
