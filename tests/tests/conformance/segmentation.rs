//! Segmentation beyond what Linux asks for on this part: of UDP, and of IPv6 with all its headers (8254x manual, 3.5).
//!
//! Of UDP there is no sequence number and no flag: every segment carries the whole header, with a length and a checksum
//! of its own. IPv6 has no checksum of its own, and its length leaves out its own header but not those that extend it.

use guest_driver::desc::{
    Context, EOP, IFCS, IXSM, RS, TSE, TUCMD_IP, TUCMD_TCP, TXSM, VLE, data, with_tag,
};
use guest_driver::e1000::Headers;
use guest_driver::packet::{Packet, plain, sum};
use guest_driver::regs::{CTRL, TSCTFC, VET, ctrl};
use guest_driver::{Config, Offload};
use nic_emu_tests::Machine;

use crate::support::{
    Check, Nic, Outcome, PEER, drained, place, push, same, send, sends, sends_nothing, sent, start,
};
use crate::{checks, ensure_eq};

/// An IPv6 header for hop-by-hop options that holds nothing but padding (RFC 8200, 4.3): behind it comes TCP or UDP.
const OPTIONS: usize = 8;

pub(crate) fn all() -> Vec<Check> {
    let mut all = checks!("udp_segmentation": over_ipv4, over_ipv6, short_last_segment, exact_multiple, single_segment,
        zero_becomes_ones, ipv4_identifies_each, header_over_descriptors, tail_writes_in_between,
        of_sixty_four_kilobytes);
    all.extend(
        checks!("ipv6_segmentation": behind_options, udp_behind_options, header_over_descriptors_of_ipv6,
        tail_writes_in_between_of_ipv6, exact_multiple_of_ipv6, largest_packet),
    );
    all.extend(
        checks!("segmentation_contexts": udp_for_tcp, ipv4_for_ipv6, ipv6_for_ipv4, cut_headers,
        empty_segments, headers_longer_than_packet),
    );
    all
}

fn nic_for(m: &mut dyn Machine) -> Result<Nic<'_>, String> {
    start(m, Config::default())
}

fn packet(nic: &Nic<'_>, ipv6: bool, tcp: bool, len: usize) -> Packet {
    Packet::new(PEER, nic.mac, ipv6, tcp, len, len as u32)
}

/// Whoever cuts the packet up may leave padding to the wire, as the kernel does behind a TAP.
fn sends_padded(nic: &mut Nic<'_>, frames: &[Vec<u8>]) -> Outcome {
    let padded = |mut frame: Vec<u8>| {
        frame.resize(frame.len().max(60), 0);
        frame
    };
    for (index, want) in frames.iter().enumerate() {
        let got = padded(sent(nic)?);
        same(&got, &padded(want.clone())).map_err(|error| format!("frame {index}: {error}"))?;
    }
    sends_nothing(nic)
}

fn segments(m: &mut dyn Machine, ipv6: bool, tcp: bool, payload: usize, mss: u16) -> Outcome {
    let mut nic = nic_for(m)?;
    let packet = packet(&nic, ipv6, tcp, payload);
    let (frame, offload) = packet.for_segmentation(mss);
    send(&mut nic, &frame, offload)?;
    sends_padded(&mut nic, &packet.segments(mss))
        .map_err(|error| format!("{payload} bytes: {error}"))
}

fn over_ipv4(m: &mut dyn Machine) -> Outcome {
    segments(m, false, false, 5000, 1472)
}

fn over_ipv6(m: &mut dyn Machine) -> Outcome {
    segments(m, true, false, 5000, 1452)
}

fn short_last_segment(m: &mut dyn Machine) -> Outcome {
    for payload in [1473, 2945, 1479, 2943] {
        segments(m, false, false, payload, 1472)?;
    }
    Ok(())
}

fn exact_multiple(m: &mut dyn Machine) -> Outcome {
    segments(m, false, false, 3000, 1000)
}

fn single_segment(m: &mut dyn Machine) -> Outcome {
    segments(m, false, false, 100, 1000)?;
    segments(m, false, false, 999, 1000)
}

/// A UDP checksum of zero would mean "none", in a segment as well.
fn zero_becomes_ones(m: &mut dyn Machine) -> Outcome {
    let mut nic = nic_for(m)?;
    let mut packet = packet(&nic, false, false, 2500);
    packet.payload[1000..1002].fill(0);
    let second = &packet.segments(1000)[1];
    let value = [second[40], second[41]];
    packet.payload[1000..1002].copy_from_slice(&value);
    let want = packet.segments(1000);
    ensure_eq!(&want[1][40..42], &[0xFF; 2][..], "what this test prepares");
    let (frame, offload) = packet.for_segmentation(1000);
    send(&mut nic, &frame, offload)?;
    sends(&mut nic, &want)
}

/// The identification goes up by one a segment, past 65535 to 0.
fn ipv4_identifies_each(m: &mut dyn Machine) -> Outcome {
    let mut nic = nic_for(m)?;
    let packet = packet(&nic, false, false, 4500);
    let (frame, offload) = packet.for_segmentation(1000);
    send(&mut nic, &frame, offload)?;
    for id in [0xFFFE, 0xFFFF, 0, 1, 2] {
        let got = sent(&mut nic)?;
        ensure_eq!(u16::from_be_bytes([got[18], got[19]]), id, "identification");
        ensure_eq!(sum(&got[14..34]), 0xFFFF, "sum of the IPv4 header");
    }
    sends_nothing(&mut nic)
}

/// Sends a packet whose pieces are so long, the last one again and again; rings the bell behind each of them if `each`.
fn send_in_pieces(
    nic: &mut Nic<'_>,
    frame: &[u8],
    offload: Offload,
    pieces: &[usize],
    each: bool,
) -> Outcome {
    let Offload::Segment { headers, mss } = offload else {
        return Err("no segmentation".into());
    };
    let addr = place(nic, frame);
    let paylen = frame.len() - usize::from(headers.payload);
    push(nic, &[headers.context(paylen as u32, mss).desc()]);
    let last = pieces.last().copied().unwrap_or(frame.len());
    let (mut at, mut pieces, mut descs) = (0, pieces.iter(), Vec::new());
    while at < frame.len() {
        let len = pieces.next().copied().unwrap_or(last).min(frame.len() - at);
        let end = if at + len == frame.len() { EOP | RS } else { 0 };
        let part = addr + at as u64;
        descs.push(data(part, len as u32, IFCS | TSE | end, headers.popts()));
        at += len;
        if each {
            push(nic, &std::mem::take(&mut descs));
            nic.bus.wait(100_000);
        }
    }
    push(nic, &descs);
    drained(nic)
}

fn in_pieces(m: &mut dyn Machine, ipv6: bool, tcp: bool, pieces: &[usize], each: bool) -> Outcome {
    let mut nic = nic_for(m)?;
    let packet = packet(&nic, ipv6, tcp, 3500);
    let (frame, offload) = packet.for_segmentation(1000);
    send_in_pieces(&mut nic, &frame, offload, pieces, each)?;
    sends(&mut nic, &packet.segments(1000)).map_err(|error| format!("pieces {pieces:?}: {error}"))
}

fn header_over_descriptors(m: &mut dyn Machine) -> Outcome {
    in_pieces(m, false, false, &[13, 20, 5, 700], false)?;
    in_pieces(m, false, false, &[41, 1, 1500], false)
}

fn tail_writes_in_between(m: &mut dyn Machine) -> Outcome {
    in_pieces(m, false, false, &[42, 700, 1300, 999], true)
}

fn header_over_descriptors_of_ipv6(m: &mut dyn Machine) -> Outcome {
    in_pieces(m, true, true, &[14, 30, 15, 16, 700], false)?;
    in_pieces(m, true, false, &[50, 5, 6, 900], false)
}

fn tail_writes_in_between_of_ipv6(m: &mut dyn Machine) -> Outcome {
    in_pieces(m, true, true, &[74, 700, 1300, 999], true)?;
    in_pieces(m, true, false, &[62, 700, 1300, 999], true)
}

fn exact_multiple_of_ipv6(m: &mut dyn Machine) -> Outcome {
    segments(m, true, true, 2856, 1428)?;
    segments(m, true, false, 2904, 1452)
}

fn of_sixty_four_kilobytes(m: &mut dyn Machine) -> Outcome {
    segments(m, false, false, 65_535 - 28, 1472)
}

/// As long as any sender makes them: 65535 bytes with the IPv6 header.
fn largest_packet(m: &mut dyn Machine) -> Outcome {
    segments(m, true, true, 65_535 - 60, 1428)?;
    segments(m, true, false, 65_535 - 48, 1452)
}

/// Puts options between IPv6 and what follows.
fn with_options(frame: &[u8]) -> Vec<u8> {
    let (before, after) = frame.split_at(54);
    // Next header, length beyond 8 bytes, PadN of 6.
    let options = [frame[20], 0, 1, 4, 0, 0, 0, 0];
    let mut frame = [before, &options, after].concat();
    frame[20] = 0;
    let length = (frame.len() - 54) as u16;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame
}

fn options(m: &mut dyn Machine, tcp: bool) -> Outcome {
    let mut nic = nic_for(m)?;
    let packet = packet(&nic, true, tcp, 3300);
    let (frame, offload) = packet.for_segmentation(1000);
    let Offload::Segment { headers, mss } = offload else {
        return Err("no segmentation".into());
    };
    let headers = Headers {
        l4: headers.l4 + OPTIONS as u8,
        payload: headers.payload + OPTIONS as u8,
        ..headers
    };
    let offload = Offload::Segment { headers, mss };
    let segments = packet.segments(1000);
    let want: Vec<_> = segments.iter().map(|frame| with_options(frame)).collect();
    send(&mut nic, &with_options(&frame), offload)?;
    sends(&mut nic, &want)
}

fn behind_options(m: &mut dyn Machine) -> Outcome {
    options(m, true)
}

fn udp_behind_options(m: &mut dyn Machine) -> Outcome {
    options(m, false)
}

/// A packet whose context is wrong goes nowhere, with a tag and without, and is counted; the next one is as good as ever.
fn refused(
    m: &mut dyn Machine,
    ipv6: bool,
    tcp: bool,
    wrong: impl Fn(Context) -> Context,
) -> Outcome {
    let mut nic = nic_for(m)?;
    nic.bus.read32(TSCTFC);
    nic.bus.write32(VET, 0x8100);
    let control = nic.bus.read32(CTRL);
    nic.bus.write32(CTRL, control | ctrl::VME);
    let packet = packet(&nic, ipv6, tcp, 2500);
    let (frame, offload) = packet.for_segmentation(1000);
    let Offload::Segment { headers, mss } = offload else {
        return Err("no segmentation".into());
    };
    let addr = place(&mut nic, &frame);
    let context = wrong(headers.context(2500, mss)).desc();
    let whole = |more| {
        let commands = EOP | IFCS | RS | TSE | more;
        data(addr, frame.len() as u32, commands, TXSM | IXSM)
    };
    push(
        &mut nic,
        &[context, whole(0), context, with_tag(whole(VLE), 5)],
    );
    drained(&mut nic)?;
    sends_nothing(&mut nic)?;
    ensure_eq!(nic.bus.read32(TSCTFC), 2, "TSCTFC");
    send(&mut nic, &frame, offload)?;
    sends(&mut nic, &packet.segments(1000))?;
    let other = plain(PEER, nic.mac, 300, 1);
    send(&mut nic, &other, Offload::None)?;
    sends(&mut nic, &[other])
}

fn udp_for_tcp(m: &mut dyn Machine) -> Outcome {
    let tcp = |context: Context| Context {
        tucmd: context.tucmd ^ TUCMD_TCP,
        ..context
    };
    for ipv6 in [false, true] {
        refused(m, ipv6, false, tcp)?;
        refused(m, ipv6, true, tcp)?;
    }
    Ok(())
}

fn other_ip(context: Context) -> Context {
    Context {
        tucmd: context.tucmd ^ TUCMD_IP,
        ..context
    }
}

fn ipv4_for_ipv6(m: &mut dyn Machine) -> Outcome {
    refused(m, true, true, other_ip)?;
    refused(m, true, false, other_ip)
}

fn ipv6_for_ipv4(m: &mut dyn Machine) -> Outcome {
    refused(m, false, true, other_ip)?;
    refused(m, false, false, other_ip)
}

/// HDRLEN ends within the headers.
fn cut_headers(m: &mut dyn Machine) -> Outcome {
    for less in [1, 7, 9] {
        for tcp in [false, true] {
            refused(m, true, tcp, |context| Context {
                hdrlen: context.hdrlen - less,
                ..context
            })?;
        }
    }
    Ok(())
}

fn empty_segments(m: &mut dyn Machine) -> Outcome {
    for ipv6 in [false, true] {
        refused(m, ipv6, false, |context| Context { mss: 0, ..context })?;
    }
    Ok(())
}

/// The packet ends before its headers do.
fn headers_longer_than_packet(m: &mut dyn Machine) -> Outcome {
    let mut nic = nic_for(m)?;
    for ipv6 in [false, true] {
        let packet = packet(&nic, ipv6, false, 10);
        let (frame, offload) = packet.for_segmentation(1000);
        let Offload::Segment { headers, mss } = offload else {
            return Err("no segmentation".into());
        };
        let addr = place(&mut nic, &frame);
        let len = u32::from(headers.payload) - 1;
        let part = data(addr, len, EOP | IFCS | RS | TSE, TXSM);
        push(&mut nic, &[headers.context(10, mss).desc(), part]);
        drained(&mut nic)?;
        sends_nothing(&mut nic)?;
    }
    Ok(())
}
