//! Checksum insertion and TCP segmentation.

use guest_driver::desc::{
    Context, EOP, IFCS, IXSM, RS, TSE, TUCMD_IP, TUCMD_TCP, TXSM, data, legacy_checksum,
};
use guest_driver::packet::{Packet, plain, sum};
use guest_driver::regs::{GPTC, TSCTC};
use guest_driver::{Config, Offload};
use nic_emu_tests::Machine;

use crate::support::{
    Check, Nic, Outcome, PEER, drained, place, push, same, send, sends, sends_nothing, sent, start,
};
use crate::{checks, ensure, ensure_eq};

pub(crate) fn all() -> Vec<Check> {
    let mut all = checks!("checksum": legacy_insertion, tcp_over_ipv4, udp_over_ipv4,
        tcp_over_ipv6, udp_over_ipv6, short_packets, odd_lengths, udp_zero_becomes_ones, over_many_descriptors,
        context_persists, only_ip_or_only_l4, end_of_sum, field_outside_of_sum, field_beyond_packet_is_not_written,
        options_of_first_descriptor);
    all.extend(checks!("segmentation": tcp_over_ipv4_segments, tcp_over_ipv6_segments,
        short_last_segment, short_last_segment_of_ipv6, exact_multiple, single_segment, one_byte_segments,
        header_over_descriptors, payload_over_descriptors, sixty_four_kilobytes,
        split_over_tail_writes_segments, contexts_do_not_clobber_each_other,
        tse_is_of_the_data_descriptor, small_last_descriptor, counts_packets, counts_segments));
    all
}

fn nic_for(m: &mut dyn Machine) -> Result<Nic<'_>, String> {
    start(m, Config::default())
}

fn packet(nic: &Nic<'_>, ipv6: bool, tcp: bool, len: usize) -> Packet {
    Packet::new(PEER, nic.mac, ipv6, tcp, len, len as u32)
}

/// The plain one's complement sum from an offset to the end, which drivers of old asked for by a legacy descriptor.
fn legacy_insertion(m: &mut dyn Machine) -> Outcome {
    let mut nic = nic_for(m)?;
    for len in [100usize, 101] {
        let frame = plain(PEER, nic.mac, len, 1);
        let addr = place(&mut nic, &frame);
        push(
            &mut nic,
            &[legacy_checksum(addr, len as u16, EOP | IFCS | RS, 34, 40)],
        );
        let mut want = frame.clone();
        let value = !sum(&frame[34..]);
        want[40..42].copy_from_slice(&value.to_be_bytes());
        sends(&mut nic, &[want])?;
    }
    Ok(())
}

fn checksum(m: &mut dyn Machine, ipv6: bool, tcp: bool) -> Outcome {
    let mut nic = nic_for(m)?;
    for len in [18, 100, 1000, 1440] {
        let packet = packet(&nic, ipv6, tcp, len);
        let (frame, offload) = packet.for_checksum();
        send(&mut nic, &frame, offload)?;
        sends(&mut nic, &[packet.finished()])
            .map_err(|error| format!("{len} bytes of payload: {error}"))?;
    }
    Ok(())
}

/// Padding is no part of the packet, and no part of a sum that goes to its end.
fn short_packets(m: &mut dyn Machine) -> Outcome {
    let mut nic = nic_for(m)?;
    for (tcp, len) in [(true, 0), (true, 1), (false, 0), (false, 7)] {
        let packet = packet(&nic, false, tcp, len);
        let (frame, offload) = packet.for_checksum();
        send(&mut nic, &frame, offload)?;
        let got = padded(sent(&mut nic)?);
        same(&got, &padded(packet.finished()))?;
    }
    Ok(())
}

fn tcp_over_ipv4(m: &mut dyn Machine) -> Outcome {
    checksum(m, false, true)
}

fn udp_over_ipv4(m: &mut dyn Machine) -> Outcome {
    checksum(m, false, false)
}

fn tcp_over_ipv6(m: &mut dyn Machine) -> Outcome {
    checksum(m, true, true)
}

fn udp_over_ipv6(m: &mut dyn Machine) -> Outcome {
    checksum(m, true, false)
}

fn odd_lengths(m: &mut dyn Machine) -> Outcome {
    let mut nic = nic_for(m)?;
    for len in [33, 35, 37, 99, 1437] {
        for tcp in [false, true] {
            let packet = packet(&nic, false, tcp, len);
            let (frame, offload) = packet.for_checksum();
            send(&mut nic, &frame, offload)?;
            sends(&mut nic, &[packet.finished()])?;
        }
    }
    Ok(())
}

/// A UDP checksum of zero would mean "none".
fn udp_zero_becomes_ones(m: &mut dyn Machine) -> Outcome {
    let mut nic = nic_for(m)?;
    let mut packet = packet(&nic, false, false, 64);
    packet.payload[..2].fill(0);
    let finished = packet.finished();
    let value = u16::from_be_bytes([finished[40], finished[41]]);
    // Adding the checksum to the data makes the sum all ones, its complement 0.
    packet.payload[..2].copy_from_slice(&value.to_be_bytes());
    ensure!(
        packet.finished()[40..42] == [0xFF, 0xFF],
        "this test prepares a wrong packet"
    );
    let (frame, offload) = packet.for_checksum();
    send(&mut nic, &frame, offload)?;
    sends(&mut nic, &[packet.finished()])
}

fn over_many_descriptors(m: &mut dyn Machine) -> Outcome {
    let mut nic = nic_for(m)?;
    for piece in [1usize, 7, 33, 54, 55] {
        let packet = packet(&nic, false, true, 200.min(30 * piece));
        let (frame, offload) = packet.for_checksum();
        push_pieces(&mut nic, &frame, offload, piece)?;
        let mut want = packet.finished();
        want.resize(want.len().max(60), 0);
        sends(&mut nic, &[want]).map_err(|error| format!("pieces of {piece}: {error}"))?;
    }
    Ok(())
}

/// Sends a packet with its context, at most `piece` bytes a descriptor and, because the ring has an end, at most
/// 50 descriptors.
fn push_pieces(nic: &mut Nic<'_>, frame: &[u8], offload: Offload, piece: usize) -> Outcome {
    let (headers, mss) = match offload {
        Offload::None => return Err("nothing to offload".into()),
        Offload::Checksum(headers) => (headers, 0),
        Offload::Segment { headers, mss } => (headers, mss),
    };
    let paylen = if mss == 0 {
        0
    } else {
        frame.len() - usize::from(headers.payload)
    };
    let tse = if mss == 0 { 0 } else { TSE };
    let addr = place(nic, frame);
    let mut descs = vec![headers.context(paylen as u32, mss).desc()];
    let mut at = 0;
    while at < frame.len() {
        let len = if descs.len() < 50 { piece } else { frame.len() };
        let len = len.min(frame.len() - at);
        let end = if at + len == frame.len() { EOP | RS } else { 0 };
        descs.push(data(
            addr + at as u64,
            len as u32,
            IFCS | tse | end,
            headers.popts(),
        ));
        at += len;
    }
    push(nic, &descs);
    drained(nic)
}

/// FreeBSD and DPDK write a context once for many packets.
fn context_persists(m: &mut dyn Machine) -> Outcome {
    let mut nic = nic_for(m)?;
    let first = packet(&nic, false, true, 100);
    let (frame, offload) = first.for_checksum();
    send(&mut nic, &frame, offload)?;
    sends(&mut nic, &[first.finished()])?;
    for len in [200, 300, 400] {
        let packet = packet(&nic, false, true, len);
        let (frame, _) = packet.for_checksum();
        let addr = place(&mut nic, &frame);
        nic.bus.wait(1_000_000);
        push(
            &mut nic,
            &[data(addr, frame.len() as u32, EOP | IFCS | RS, IXSM | TXSM)],
        );
        sends(&mut nic, &[packet.finished()])?;
        // A packet without offload in between changes nothing.
        let other = plain(PEER, nic.mac, 70, 1);
        send(&mut nic, &other, Offload::None)?;
        sends(&mut nic, &[other])?;
    }
    Ok(())
}

fn only_ip_or_only_l4(m: &mut dyn Machine) -> Outcome {
    let mut nic = nic_for(m)?;
    let packet = packet(&nic, false, true, 77);
    let (frame, _) = packet.for_checksum();
    let finished = packet.finished();
    let addr = place(&mut nic, &frame);
    push(&mut nic, &[packet.headers().context(0, 0).desc()]);
    for popts in [0, IXSM, TXSM, IXSM | TXSM] {
        push(
            &mut nic,
            &[data(addr, frame.len() as u32, EOP | IFCS | RS, popts)],
        );
        let mut want = frame.clone();
        if popts & IXSM != 0 {
            want[24..26].copy_from_slice(&finished[24..26]);
        }
        if popts & TXSM != 0 {
            want[50..52].copy_from_slice(&finished[50..52]);
        }
        sends(&mut nic, &[want]).map_err(|error| format!("POPTS {popts}: {error}"))?;
    }
    Ok(())
}

/// xCSE is the last byte summed.
fn end_of_sum(m: &mut dyn Machine) -> Outcome {
    [
        (14, 33, 24),
        (20, 30, 20),
        (21, 99, 55),
        (50, 199, 60),
        (60, 0, 100),
    ]
    .into_iter()
    .try_for_each(|(start, end, field)| sum_of(m, start, end, field))
}

fn field_outside_of_sum(m: &mut dyn Machine) -> Outcome {
    [(14, 33, 100), (60, 0, 20), (20, 20, 60)]
        .into_iter()
        .try_for_each(|(start, end, field)| sum_of(m, start, end, field))
}

/// Sends a frame whose bytes from `start` to `end` (0 is the last) are summed up to the field at `field`.
fn sum_of(m: &mut dyn Machine, start: u8, end: u16, field: u8) -> Outcome {
    let mut nic = nic_for(m)?;
    let frame = plain(PEER, nic.mac, 200, 4);
    let context = Context {
        ipcss: start,
        ipcso: field,
        ipcse: end,
        tucss: 14,
        tucso: 16,
        ..Context::default()
    };
    let addr = place(&mut nic, &frame);
    push(
        &mut nic,
        &[context.desc(), data(addr, 200, EOP | IFCS | RS, IXSM)],
    );
    let last = if end == 0 { 199 } else { usize::from(end) };
    let value = !sum(&frame[usize::from(start)..=last]);
    let mut want = frame;
    want[usize::from(field)..][..2].copy_from_slice(&value.to_be_bytes());
    sends(&mut nic, &[want]).map_err(|error| format!("{start} to {end}: {error}"))
}

fn field_beyond_packet_is_not_written(m: &mut dyn Machine) -> Outcome {
    let mut nic = nic_for(m)?;
    let frame = plain(PEER, nic.mac, 80, 5);
    // The packet's neighbour in memory must not change either.
    let addr = place(&mut nic, &[&frame[..], &[0xEE; 64]].concat());
    for offset in [80, 90, 255] {
        let context = Context {
            ipcss: 14,
            ipcso: offset,
            tucss: 14,
            tucso: offset,
            ..Context::default()
        };
        push(
            &mut nic,
            &[context.desc(), data(addr, 80, EOP | IFCS | RS, IXSM | TXSM)],
        );
        sends(&mut nic, std::slice::from_ref(&frame))?;
    }
    let mut behind = [0; 64];
    nic.bus.dma_read(addr + 80, &mut behind);
    ensure_eq!(behind, [0xEE; 64], "what lies behind the packet");
    Ok(())
}

/// POPTS counts in the first data descriptor of a packet only.
fn options_of_first_descriptor(m: &mut dyn Machine) -> Outcome {
    let mut nic = nic_for(m)?;
    let packet = packet(&nic, false, true, 100);
    let (frame, _) = packet.for_checksum();
    let addr = place(&mut nic, &frame);
    let half = |first, last| {
        [
            packet.headers().context(0, 0).desc(),
            data(addr, 80, IFCS, first),
            data(addr + 80, 74, IFCS | EOP | RS, last),
        ]
    };
    push(&mut nic, &half(IXSM | TXSM, 0));
    sends(&mut nic, &[packet.finished()])?;
    push(&mut nic, &half(0, IXSM | TXSM));
    sends(&mut nic, &[frame])
}

fn segments(m: &mut dyn Machine, ipv6: bool, payload: usize, mss: u16) -> Outcome {
    let mut nic = nic_for(m)?;
    let packet = packet(&nic, ipv6, true, payload);
    let (frame, offload) = packet.for_segmentation(mss);
    send(&mut nic, &frame, offload)?;
    for (index, want) in packet.segments(mss).into_iter().enumerate() {
        // Whoever cuts the packet up may leave padding to the wire, as the kernel does behind a TAP.
        let got = padded(sent(&mut nic)?);
        same(&got, &padded(want)).map_err(|error| format!("frame {index}: {error}"))?;
    }
    sends_nothing(&mut nic)
}

fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(60), 0);
    frame
}

fn tcp_over_ipv4_segments(m: &mut dyn Machine) -> Outcome {
    segments(m, false, 5000, 1448)
}

fn tcp_over_ipv6_segments(m: &mut dyn Machine) -> Outcome {
    segments(m, true, 5000, 1428)
}

/// Its length is its own, not that of a full segment.
fn short_last_segment(m: &mut dyn Machine) -> Outcome {
    for payload in [1449, 2899, 1455, 2895] {
        segments(m, false, payload, 1448).map_err(|error| format!("{payload} bytes: {error}"))?;
    }
    Ok(())
}

fn short_last_segment_of_ipv6(m: &mut dyn Machine) -> Outcome {
    for payload in [1429, 2857] {
        segments(m, true, payload, 1428).map_err(|error| format!("{payload} bytes: {error}"))?;
    }
    Ok(())
}

fn exact_multiple(m: &mut dyn Machine) -> Outcome {
    segments(m, false, 3000, 1000)?;
    segments(m, true, 3000, 1000)
}

fn single_segment(m: &mut dyn Machine) -> Outcome {
    segments(m, false, 100, 1000)?;
    segments(m, false, 999, 1000)
}

fn one_byte_segments(m: &mut dyn Machine) -> Outcome {
    segments(m, false, 20, 1)
}

fn header_over_descriptors(m: &mut dyn Machine) -> Outcome {
    let mut nic = nic_for(m)?;
    for piece in [3, 14, 20, 53] {
        let packet = packet(&nic, false, true, 2500);
        let (frame, offload) = packet.for_segmentation(1000);
        push_pieces(&mut nic, &frame, offload, piece)?;
        sends(&mut nic, &packet.segments(1000))
            .map_err(|error| format!("pieces of {piece}: {error}"))?;
    }
    Ok(())
}

fn payload_over_descriptors(m: &mut dyn Machine) -> Outcome {
    let mut nic = nic_for(m)?;
    for piece in [54, 200, 999, 1000, 1001] {
        let packet = packet(&nic, false, true, 5100);
        let (frame, offload) = packet.for_segmentation(1000);
        push_pieces(&mut nic, &frame, offload, piece)?;
        sends(&mut nic, &packet.segments(1000))
            .map_err(|error| format!("pieces of {piece}: {error}"))?;
    }
    Ok(())
}

/// As long as a packet of Linux gets.
fn sixty_four_kilobytes(m: &mut dyn Machine) -> Outcome {
    segments(m, false, 65_535 - 40, 1448)
}

fn split_over_tail_writes_segments(m: &mut dyn Machine) -> Outcome {
    let mut nic = nic_for(m)?;
    let packet = packet(&nic, false, true, 3500);
    let (frame, offload) = packet.for_segmentation(1000);
    let Offload::Segment { headers, mss } = offload else {
        return Err("no segmentation".into());
    };
    let addr = place(&mut nic, &frame);
    push(&mut nic, &[headers.context(3500, mss).desc()]);
    let mut at = 0;
    for len in [54, 700, 1300, frame.len() - 2054] {
        let end = if at + len == frame.len() { EOP | RS } else { 0 };
        push(
            &mut nic,
            &[data(
                addr + at as u64,
                len as u32,
                IFCS | TSE | end,
                IXSM | TXSM,
            )],
        );
        nic.bus.wait(100_000);
        at += len;
    }
    sends(&mut nic, &packet.segments(1000))
}

/// There is one context for segmentation and one for the rest.
fn contexts_do_not_clobber_each_other(m: &mut dyn Machine) -> Outcome {
    let mut nic = nic_for(m)?;
    let small = packet(&nic, true, false, 333);
    let (small_frame, offload) = small.for_checksum();
    send(&mut nic, &small_frame, offload)?;
    sends(&mut nic, &[small.finished()])?;
    let large = packet(&nic, false, true, 3333);
    let (large_frame, offload) = large.for_segmentation(1000);
    send(&mut nic, &large_frame, offload)?;
    sends(&mut nic, &large.segments(1000))?;
    let addr = place(&mut nic, &small_frame);
    let len = small_frame.len() as u32;
    push(&mut nic, &[data(addr, len, EOP | IFCS | RS, TXSM)]);
    sends(&mut nic, &[small.finished()])
}

/// A context for segmentation does not turn packets that do not ask for it into super-frames.
fn tse_is_of_the_data_descriptor(m: &mut dyn Machine) -> Outcome {
    let mut nic = nic_for(m)?;
    let packet = packet(&nic, false, true, 1200);
    let context = Context {
        tucmd: TSE | TUCMD_TCP | TUCMD_IP,
        ..packet.headers().context(1200, 500)
    };
    push(&mut nic, &[context.desc()]);
    let frame = packet.finished();
    let addr = place(&mut nic, &frame);
    push(
        &mut nic,
        &[data(addr, frame.len() as u32, EOP | IFCS | RS, 0)],
    );
    sends(&mut nic, &[frame])
}

/// Linux splits the last four bytes off.
fn small_last_descriptor(m: &mut dyn Machine) -> Outcome {
    let mut nic = nic_for(m)?;
    let packet = packet(&nic, false, true, 2500);
    let (frame, offload) = packet.for_segmentation(1000);
    push_pieces(&mut nic, &frame, offload, frame.len() - 4)?;
    sends(&mut nic, &packet.segments(1000))
}

/// TSCTC counts what was cut up.
fn counts_packets(m: &mut dyn Machine) -> Outcome {
    let mut nic = nic_for(m)?;
    count(&mut nic, TSCTC)?;
    ensure_eq!(nic.bus.read32(TSCTC), 1, "TSCTC");
    Ok(())
}

/// GPTC counts what came out.
fn counts_segments(m: &mut dyn Machine) -> Outcome {
    let mut nic = nic_for(m)?;
    count(&mut nic, GPTC)?;
    ensure_eq!(nic.bus.read32(GPTC), 3, "GPTC");
    Ok(())
}

/// Clears a statistic, then sends a packet of three segments.
fn count(nic: &mut Nic<'_>, register: u32) -> Outcome {
    nic.bus.read32(register);
    let packet = packet(nic, false, true, 2500);
    let (frame, offload) = packet.for_segmentation(1000);
    send(nic, &frame, offload)?;
    sends(nic, &packet.segments(1000))?;
    nic.bus.settle();
    Ok(())
}
