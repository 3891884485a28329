//! Transmission without offloads: descriptors, write-back, heads and tails.

use guest_driver::desc::{
    Context, DEXT, DTYP_DATA, Desc, EOP, IFCS, RPS, RS, TX_DD, VLE, data, legacy, with_tag,
};
use guest_driver::packet::{fcs, plain};
use guest_driver::regs::{CTRL, TCTL, VET, cause, ctrl, tctl};
use guest_driver::{Config, Offload};
use nic_emu_tests::Machine;

use crate::support::{
    Check, Nic, Outcome, PEER, drained, place, push, same, send, sends, sends_nothing, sent, soon,
    start,
};
use crate::{checks, ensure, ensure_eq};

pub(crate) fn all() -> Vec<Check> {
    checks!("transmit": legacy_frame, all_sizes, data_descriptors, short_frames_are_padded,
        many_descriptors, single_byte_descriptors, split_over_tail_writes, waits_for_enable,
        stops_when_disabled, ring_wraps, order_is_kept, fcs_of_the_driver, wrong_fcs_of_the_driver, rs_sets_dd, rps_sets_dd,
        no_rs_no_write_back, context_reports_status, write_back_keeps_the_rest,
        empty_descriptor_in_packet, null_address_sends_nothing, head_equals_tail_is_empty,
        head_or_tail_beyond_the_ring, txqe_when_empty, vlan_tag_is_inserted, vlan_needs_vme,
        frame_at_end_of_ring, reserved_type_is_skipped)
}

fn legacy_frame(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let frame = plain(PEER, nic.mac, 100, 1);
    send(&mut nic, &frame, Offload::None)?;
    sends(&mut nic, &[frame])?;
    ensure!(nic.flush(1_000_000_000), "the descriptor is never done");
    Ok(())
}

fn all_sizes(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    for len in (60..=130).chain([255, 256, 511, 512, 1023, 1024, 1513, 1514]) {
        let frame = plain(PEER, nic.mac, len, len as u32);
        send(&mut nic, &frame, Offload::None)?;
        let got = sent(&mut nic)?;
        same(&got, &frame).map_err(|error| format!("frame of {len} bytes: {error}"))?;
    }
    sends_nothing(&mut nic)
}

fn data_descriptors(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let frame = plain(PEER, nic.mac, 1514, 3);
    let addr = place(&mut nic, &frame);
    push(
        &mut nic,
        &[
            data(addr, 600, IFCS, 0),
            data(addr + 600, 914, IFCS | EOP | RS, 0),
        ],
    );
    sends(&mut nic, &[frame])
}

fn short_frames_are_padded(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    for len in [14, 42, 59] {
        let mut frame = plain(PEER, nic.mac, len, 5);
        let addr = place(&mut nic, &frame);
        push(&mut nic, &[legacy(addr, len as u16, EOP | IFCS | RS)]);
        frame.resize(60, 0);
        sends(&mut nic, &[frame])?;
    }
    Ok(())
}

fn many_descriptors(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let frame = plain(PEER, nic.mac, 1500, 6);
    let mut descs = Vec::new();
    for (index, chunk) in frame.chunks(50).enumerate() {
        // Pieces need not be aligned, nor in order, nor close to each other.
        let addr = place(&mut nic, &[&[0; 3], chunk].concat()) + 3;
        let end = if index == 29 { EOP | RS } else { 0 };
        descs.push(legacy(addr, 50, IFCS | end));
    }
    push(&mut nic, &descs);
    sends(&mut nic, &[frame])
}

fn single_byte_descriptors(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let frame = plain(PEER, nic.mac, 60, 7);
    let addr = place(&mut nic, &frame);
    let desc = |i| data(addr + i, 1, IFCS | if i == 59 { EOP | RS } else { 0 }, 0);
    let descs: Vec<Desc> = (0..60).map(desc).collect();
    push(&mut nic, &descs);
    sends(&mut nic, &[frame])
}

/// A driver may announce half a packet; the rest follows when it likes.
fn split_over_tail_writes(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    for kind in [data as fn(u64, u32, u32, u8) -> Desc, |a, l, c, _| {
        legacy(a, l as u16, c)
    }] {
        let frame = plain(PEER, nic.mac, 900, 8);
        let addr = place(&mut nic, &frame);
        push(&mut nic, &[kind(addr, 300, IFCS, 0)]);
        sends_nothing(&mut nic)?;
        nic.bus.wait(1_000_000);
        push(&mut nic, &[kind(addr + 300, 300, IFCS, 0)]);
        sends_nothing(&mut nic)?;
        push(&mut nic, &[kind(addr + 600, 300, IFCS | EOP | RS, 0)]);
        sends(&mut nic, &[frame])?;
    }
    Ok(())
}

/// Linux enables the transmitter in its watchdog, when frames may wait already.
fn waits_for_enable(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let on = nic.bus.read32(TCTL);
    nic.bus.write32(TCTL, on & !tctl::EN);
    let frame = plain(PEER, nic.mac, 100, 9);
    send(&mut nic, &frame, Offload::None)?;
    sends_nothing(&mut nic)?;
    ensure_eq!(nic.tx.head(&mut nic.bus), 0, "TDH with the transmitter off");
    nic.bus.write32(TCTL, on);
    sends(&mut nic, &[frame])
}

fn stops_when_disabled(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let on = nic.bus.read32(TCTL);
    for seed in 0..3 {
        let frame = plain(PEER, nic.mac, 100, seed);
        send(&mut nic, &frame, Offload::None)?;
        sends(&mut nic, &[frame])?;
        nic.bus.write32(TCTL, on & !tctl::EN);
        let frame = plain(PEER, nic.mac, 100, seed + 10);
        send(&mut nic, &frame, Offload::None)?;
        sends_nothing(&mut nic)?;
        nic.bus.write32(TCTL, on);
        sends(&mut nic, &[frame])?;
    }
    Ok(())
}

fn ring_wraps(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(
        m,
        Config {
            tx_count: 8,
            ..Config::default()
        },
    )?;
    for seed in 0..50 {
        let frame = plain(PEER, nic.mac, 64 + seed as usize, seed);
        send(&mut nic, &frame, Offload::None)?;
        sends(&mut nic, &[frame])?;
    }
    Ok(())
}

fn order_is_kept(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let frames: Vec<Vec<u8>> = (0..60)
        .map(|i| plain(PEER, nic.mac, 60 + 20 * i, i as u32))
        .collect();
    for frame in &frames {
        ensure!(nic.queue(frame, Offload::None), "the ring is full");
    }
    nic.tx.kick(&mut nic.bus);
    sends(&mut nic, &frames)
}

/// Without IFCS the last four bytes that the driver gives are the FCS.
fn fcs_of_the_driver(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let frame = plain(PEER, nic.mac, 100, 10);
    let addr = place(&mut nic, &[&frame[..], &fcs(&frame)].concat());
    push(&mut nic, &[legacy(addr, 104, EOP | RS)]);
    sends(&mut nic, &[frame])
}

/// No station takes a frame whose FCS is wrong, and only the driver can have made it so.
fn wrong_fcs_of_the_driver(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let bad = plain(PEER, nic.mac, 104, 11);
    let addr = place(&mut nic, &bad);
    let first = push(&mut nic, &[legacy(addr, 104, EOP | RS)]);
    done(&mut nic, first)?;
    let good = plain(PEER, nic.mac, 100, 12);
    send(&mut nic, &good, Offload::None)?;
    sends(&mut nic, &[good])
}

/// Waits until descriptor `index` is done.
fn done(nic: &mut Nic<'_>, index: u32) -> Outcome {
    let done = soon(nic, |nic| {
        (nic.tx.read(&mut nic.bus, index).high & TX_DD != 0).then_some(())
    });
    ensure!(done.is_some(), "descriptor {index} is never done");
    Ok(())
}

fn rs_sets_dd(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let frame = plain(PEER, nic.mac, 120, 11);
    let addr = place(&mut nic, &frame);
    nic.causes();
    let first = push(
        &mut nic,
        &[
            legacy(addr, 60, IFCS | RS),
            legacy(addr + 60, 60, IFCS | RS | EOP),
        ],
    );
    done(&mut nic, first)?;
    done(&mut nic, first + 1)?;
    ensure!(nic.causes() & cause::TXDW != 0, "no TXDW");
    ensure_eq!(nic.tx.head(&mut nic.bus), first + 2, "TDH");
    Ok(())
}

/// "Report packet sent" is the same to a part without a transmit FIFO of its own to report on.
fn rps_sets_dd(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let frame = plain(PEER, nic.mac, 60, 12);
    let addr = place(&mut nic, &frame);
    let first = push(&mut nic, &[legacy(addr, 60, IFCS | RPS | EOP)]);
    done(&mut nic, first)
}

fn no_rs_no_write_back(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let frame = plain(PEER, nic.mac, 60, 13);
    let addr = place(&mut nic, &frame);
    nic.causes();
    let desc = legacy(addr, 60, IFCS | EOP);
    let first = push(&mut nic, &[desc]);
    sends(&mut nic, &[frame])?;
    drained(&mut nic)?;
    ensure!(
        nic.tx.read(&mut nic.bus, first) == desc,
        "the descriptor was written"
    );
    ensure_eq!(nic.causes() & cause::TXDW, 0, "TXDW without a write-back");
    Ok(())
}

fn context_reports_status(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let context = Context {
        tucmd: RS,
        ..Context::default()
    };
    let first = push(&mut nic, &[context.desc()]);
    done(&mut nic, first)?;
    let context = Context::default();
    let second = push(&mut nic, &[context.desc()]);
    drained(&mut nic)?;
    ensure!(
        nic.tx.read(&mut nic.bus, second) == context.desc(),
        "a context without RS was written"
    );
    sends_nothing(&mut nic)
}

fn write_back_keeps_the_rest(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let frame = plain(PEER, nic.mac, 60, 14);
    let addr = place(&mut nic, &frame);
    let desc = with_tag(data(addr, 60, IFCS | EOP | RS, 0), 0xABCD);
    // EC, LC and TU are cleared, whatever the driver left there.
    let mut dirty = desc;
    dirty.high |= 0xE << 32;
    let first = push(&mut nic, &[dirty]);
    done(&mut nic, first)?;
    let got = nic.tx.read(&mut nic.bus, first);
    ensure_eq!(got.low, desc.low, "address");
    ensure_eq!(got.high, desc.high | TX_DD, "second word");
    Ok(())
}

fn empty_descriptor_in_packet(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let frame = plain(PEER, nic.mac, 90, 15);
    let addr = place(&mut nic, &frame);
    let first = push(
        &mut nic,
        &[
            data(addr, 90, IFCS, 0),
            data(0, 0, IFCS | RS, 0),
            data(addr, 0, IFCS | EOP | RS, 0),
        ],
    );
    done(&mut nic, first + 1)?;
    done(&mut nic, first + 2)?;
    sends(&mut nic, &[frame])
}

/// A packet of no bytes is none.
fn null_address_sends_nothing(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let first = push(&mut nic, &[legacy(0, 0, IFCS | EOP | RS)]);
    done(&mut nic, first)?;
    sends_nothing(&mut nic)
}

fn head_equals_tail_is_empty(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let addr = place(&mut nic, &[0x55; 60]);
    let (ring, mut bus) = (nic.tx, &mut nic.bus);
    for index in 0..ring.count {
        let desc = legacy(addr, 60, EOP | IFCS | RS);
        bus.dma_write(ring.addr(index), &desc.to_bytes());
    }
    ring.kick(&mut bus);
    sends_nothing(&mut nic)?;
    ensure_eq!(nic.tx.head(&mut nic.bus), 0, "TDH");
    Ok(())
}

fn head_or_tail_beyond_the_ring(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let frame = plain(PEER, nic.mac, 60, 16);
    for tail in [64, 65, 0xFFFF] {
        nic.tx.tail = tail;
        nic.tx.kick(&mut nic.bus);
        nic.bus.settle();
        let mut frames = 0;
        while nic.bus.collect().is_some() {
            frames += 1;
        }
        ensure!(frames <= 64, "{frames} frames out of 64 empty descriptors");
    }
    // Back in order, the device works again.
    let mut nic = start(nic.bus, Config::default())?;
    send(&mut nic, &frame, Offload::None)?;
    sends(&mut nic, &[frame])
}

fn txqe_when_empty(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let frame = plain(PEER, nic.mac, 60, 17);
    nic.causes();
    send(&mut nic, &frame, Offload::None)?;
    sends(&mut nic, &[frame])?;
    ensure!(nic.causes() & cause::TXQE != 0, "no TXQE");
    Ok(())
}

fn vlan_tag_is_inserted(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let control = nic.bus.read32(CTRL);
    nic.bus.write32(CTRL, control | ctrl::VME);
    nic.bus.write32(VET, 0x8100);
    let frame = plain(PEER, nic.mac, 200, 18);
    let addr = place(&mut nic, &frame);
    let tagged = [&frame[..12], &[0x81, 0, 0x60, 0x2A], &frame[12..]].concat();
    push(
        &mut nic,
        &[
            data(addr, 100, IFCS, 0),
            with_tag(data(addr + 100, 100, IFCS | EOP | RS | VLE, 0), 0x602A),
        ],
    );
    sends(&mut nic, std::slice::from_ref(&tagged))?;
    push(
        &mut nic,
        &[with_tag(legacy(addr, 200, IFCS | EOP | RS | VLE), 0x602A)],
    );
    sends(&mut nic, &[tagged])?;
    push(&mut nic, &[with_tag(legacy(addr, 200, IFCS | EOP | RS), 7)]);
    sends(&mut nic, &[frame])
}

fn vlan_needs_vme(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let control = nic.bus.read32(CTRL);
    nic.bus.write32(CTRL, control & !ctrl::VME);
    let frame = plain(PEER, nic.mac, 200, 19);
    let addr = place(&mut nic, &frame);
    push(
        &mut nic,
        &[with_tag(legacy(addr, 200, IFCS | EOP | RS | VLE), 0x602A)],
    );
    sends(&mut nic, &[frame])
}

/// A packet whose descriptors lie on both sides of the ring's end.
fn frame_at_end_of_ring(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(
        m,
        Config {
            tx_count: 8,
            ..Config::default()
        },
    )?;
    let frame = plain(PEER, nic.mac, 300, 20);
    let addr = place(&mut nic, &frame);
    for _ in 0..6 {
        push(
            &mut nic,
            &[
                data(addr, 100, IFCS, 0),
                data(addr + 100, 100, IFCS, 0),
                data(addr + 200, 100, IFCS | EOP | RS, 0),
            ],
        );
        sends(&mut nic, std::slice::from_ref(&frame))?;
    }
    Ok(())
}

fn reserved_type_is_skipped(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let frame = plain(PEER, nic.mac, 300, 21);
    let addr = place(&mut nic, &frame);
    let reserved = Desc {
        low: addr,
        high: u64::from(100 | DEXT | (DTYP_DATA << 1) | EOP | RS | IFCS),
    };
    push(&mut nic, &[reserved]);
    drained(&mut nic)?;
    while nic.bus.collect().is_some() {}
    send(&mut nic, &frame, Offload::None)?;
    sends(&mut nic, &[frame])
}
