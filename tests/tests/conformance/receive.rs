//! Reception: placement, lengths, FCS, descriptors and their exhaustion, checksum status, VLAN tags.

use guest_driver::desc::{
    RX_DD, RX_EOP, RX_IPCS, RX_IPE, RX_IXSM, RX_TCPCS, RX_TCPE, RX_VP, RxStatus,
};
use guest_driver::packet::{Packet, fcs, plain};
use guest_driver::regs::{CTRL, RCTL, RDT, VET, cause, ctrl, rctl, rxcsum};
use guest_driver::{Config, Received, e1000};
use nic_emu_tests::Machine;

use crate::support::{
    Check, Nic, Outcome, PEER, receive_ring, received, receives, receives_nothing, same, soon,
    start,
};
use crate::{checks, ensure, ensure_eq};

pub(crate) fn all() -> Vec<Check> {
    let mut all = checks!("receive": all_sizes, short_frames_are_padded, fcs_is_stored,
        secrc_strips_the_fcs, every_buffer_size, frame_over_descriptors, fcs_over_descriptors,
        frame_fills_a_buffer, long_frames_need_lpe, jumbo_frames, off_means_off,
        starts_at_once, stops_when_disabled, ring_wraps, head_follows, equal_head_and_tail_is_empty,
        waits_for_descriptors, large_frame_waits_for_descriptors, null_buffer_is_skipped,
        head_and_tail_beyond_the_ring, rxdmt0_at_each_threshold, vlan_tag_is_stripped,
        vlan_tag_stays);
    all.extend(
        checks!("verdict": none_when_off, good_tcp_and_udp, good_over_ipv6,
        bad_checksums, ip_only, fragments_have_none, udp_without_checksum),
    );
    all
}

fn all_sizes(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    for len in (60..=130).chain([255, 256, 511, 512, 1023, 1024, 1513, 1514]) {
        let frame = plain(nic.mac, PEER, len, len as u32);
        let got = receives(&mut nic, &frame).map_err(|error| format!("{len} bytes: {error}"))?;
        ensure_eq!(got.descriptors, 1, "descriptors");
        ensure_eq!(got.last.errors, 0, "errors");
        ensure_eq!(got.last.status & (RX_DD | RX_EOP), RX_DD | RX_EOP, "status");
    }
    receives_nothing(&mut nic)
}

fn short_frames_are_padded(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    for len in [14, 42, 59] {
        let mut frame = plain(nic.mac, PEER, len, 2);
        nic.bus.transmit(&frame);
        frame.resize(60, 0);
        let (got, _) = received(&mut nic)?;
        same(&got, &frame)?;
    }
    Ok(())
}

/// Linux leaves SECRC off, subtracts four bytes, and shows them to users who ask.
fn fcs_is_stored(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    for len in [60, 61, 1514] {
        let frame = plain(nic.mac, PEER, len, 3);
        let got = receives(&mut nic, &frame)?;
        ensure_eq!(got.fcs, Some(fcs(&frame)), "FCS of {len} bytes");
    }
    Ok(())
}

fn secrc_strips_the_fcs(m: &mut dyn Machine) -> Outcome {
    let config = Config {
        rctl: rctl::BAM | rctl::SECRC,
        ..Config::default()
    };
    let mut nic = start(m, config)?;
    for len in [60, 61, 1514] {
        let frame = plain(nic.mac, PEER, len, 4);
        let index = nic.rx.clean;
        receives(&mut nic, &frame)?;
        let mut behind = [0; 4];
        let buffer = nic.rx_buffer(index);
        nic.bus.dma_read(buffer + len as u64, &mut behind);
        ensure_eq!(behind, [0; 4], "what lies behind {len} bytes");
    }
    Ok(())
}

fn every_buffer_size(m: &mut dyn Machine) -> Outcome {
    for rx_buffer in [256, 512, 1024, 2048, 4096, 8192, 16384] {
        let config = Config {
            rx_count: 16,
            rx_buffer,
            ..Config::default()
        };
        let mut nic = start(m, config)?;
        for len in [60, 1000, 1514] {
            let frame = plain(nic.mac, PEER, len, rx_buffer);
            let got = receives(&mut nic, &frame)
                .map_err(|error| format!("{len} bytes into buffers of {rx_buffer}: {error}"))?;
            let want = (len as u32 + 4).div_ceil(rx_buffer);
            ensure_eq!(got.descriptors, want, "descriptors");
        }
    }
    Ok(())
}

fn small_buffers() -> Config {
    Config {
        rx_buffer: 256,
        ..Config::default()
    }
}

/// Each descriptor says what it holds; only the last one says that the frame ends.
fn frame_over_descriptors(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, small_buffers())?;
    let frame = plain(nic.mac, PEER, 1000, 5);
    nic.bus.transmit(&frame);
    let ready = soon(&mut nic, |nic| {
        let status = RxStatus::from(nic.rx.read(&mut nic.bus, 3));
        (status.status & RX_DD != 0).then_some(())
    });
    ensure!(ready.is_some(), "the fourth descriptor is never done");
    for (index, len) in [256, 256, 256, 236].into_iter().enumerate() {
        let status = RxStatus::from(nic.rx.read(&mut nic.bus, index as u32));
        ensure_eq!(status.len, len, "length of descriptor {index}");
        let want = RX_DD | if index == 3 { RX_EOP } else { 0 };
        ensure_eq!(
            status.status & (RX_DD | RX_EOP),
            want,
            "status of descriptor {index}"
        );
    }
    let (got, _) = received(&mut nic)?;
    same(&got, &frame)
}

/// The FCS may begin in one buffer and end in the next.
fn fcs_over_descriptors(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, small_buffers())?;
    for len in 507..=513 {
        let frame = plain(nic.mac, PEER, len, 6);
        let got = receives(&mut nic, &frame)?;
        ensure_eq!(got.fcs, Some(fcs(&frame)), "FCS of {len} bytes");
        ensure_eq!(
            got.descriptors,
            (len as u32 + 4).div_ceil(256),
            "descriptors of {len} bytes"
        );
    }
    Ok(())
}

fn frame_fills_a_buffer(m: &mut dyn Machine) -> Outcome {
    let config = Config {
        rx_buffer: 256,
        rctl: rctl::BAM | rctl::SECRC,
        ..Config::default()
    };
    let mut nic = start(m, config)?;
    for len in [256, 512, 1024] {
        let frame = plain(nic.mac, PEER, len, 7);
        let got = receives(&mut nic, &frame)?;
        ensure_eq!(got.descriptors, len as u32 / 256, "descriptors");
        ensure_eq!(got.last.len, 256, "length of the last descriptor");
    }
    Ok(())
}

fn long_frames_need_lpe(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    // 1522 bytes with FCS are the limit.
    let mac = nic.mac;
    receives(&mut nic, &plain(mac, PEER, 1518, 8))?;
    nic.bus.transmit(&plain(mac, PEER, 1519, 9));
    nic.bus.transmit(&plain(mac, PEER, 1600, 9));
    receives_nothing(&mut nic)?;
    receives(&mut nic, &plain(mac, PEER, 100, 10))?;
    nic.write_rctl(rctl::EN | rctl::BAM | rctl::LPE);
    receives(&mut nic, &plain(mac, PEER, 1519, 11))?;
    receives(&mut nic, &plain(mac, PEER, 2000, 12))?;
    Ok(())
}

fn jumbo_frames(m: &mut dyn Machine) -> Outcome {
    let config = Config {
        rx_buffer: 4096,
        rctl: rctl::BAM | rctl::LPE,
        ..Config::default()
    };
    let mut nic = start(m, config)?;
    for len in [4092, 4093, 9014, 16128 - 4] {
        let frame = plain(nic.mac, PEER, len, 13);
        let got = receives(&mut nic, &frame).map_err(|error| format!("{len} bytes: {error}"))?;
        ensure_eq!(
            got.descriptors,
            (len as u32 + 4).div_ceil(4096),
            "descriptors"
        );
    }
    Ok(())
}

fn off_means_off(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    nic.bus.write32(RCTL, rctl::BAM);
    let mac = nic.mac;
    nic.bus.transmit(&plain(mac, PEER, 100, 14));
    receives_nothing(&mut nic)?;
    ensure_eq!(nic.rx.head(&mut nic.bus), 0, "RDH with the receiver off");
    Ok(())
}

/// Linux's loopback test gives the receiver no time to warm up.
fn starts_at_once(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    nic.bus.write32(RCTL, 0);
    nic.bus.write32(RCTL, rctl::EN | rctl::BAM);
    nic.bus.settle();
    let frame = plain(nic.mac, PEER, 100, 15);
    nic.bus.transmit(&frame);
    nic.bus.settle();
    let mut buffer = [0; 100];
    let got = nic.receive(&mut buffer);
    ensure!(
        got.is_some_and(|got| got.len == 100) && buffer[..] == frame[..],
        "nothing was received at once"
    );
    Ok(())
}

fn stops_when_disabled(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    let mac = nic.mac;
    for seed in 0..3 {
        receives(&mut nic, &plain(mac, PEER, 100, seed))?;
        nic.bus.write32(RCTL, rctl::BAM);
        nic.bus.settle();
        nic.write_rctl(rctl::EN | rctl::BAM);
    }
    receives(&mut nic, &plain(mac, PEER, 100, 17))?;
    Ok(())
}

fn ring_wraps(m: &mut dyn Machine) -> Outcome {
    let config = Config {
        rx_count: 8,
        ..Config::default()
    };
    let mut nic = start(m, config)?;
    for seed in 0..50 {
        let frame = plain(nic.mac, PEER, 64 + seed as usize, seed);
        receives(&mut nic, &frame)?;
        let tail = nic.rx.tail;
        nic.bus.write32(RDT, tail);
    }
    Ok(())
}

fn head_follows(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    for head in 0..5 {
        ensure_eq!(nic.rx.head(&mut nic.bus), head, "RDH");
        let frame = plain(nic.mac, PEER, 64, head);
        receives(&mut nic, &frame)?;
    }
    Ok(())
}

fn equal_head_and_tail_is_empty(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    nic.bus.write32(RCTL, 0);
    let buffers = nic.rx_buffers;
    receive_ring(&mut nic, 8, 0, |_| buffers);
    for index in 0..8 {
        let addr = nic.rx.addr(index);
        nic.bus.dma_write(addr, &buffers.to_le_bytes());
    }
    nic.write_rctl(rctl::EN | rctl::BAM);
    let mac = nic.mac;
    nic.bus.transmit(&plain(mac, PEER, 100, 18));
    receives_nothing(&mut nic)?;
    ensure_eq!(nic.rx.head(&mut nic.bus), 0, "RDH");
    Ok(())
}

/// A frame that finds no descriptor is not lost by default: the sender's side holds it back.
fn waits_for_descriptors(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    nic.bus.write32(RCTL, 0);
    let buffers = nic.rx_buffers;
    receive_ring(&mut nic, 8, 2, |i| buffers + 2048 * u64::from(i));
    nic.write_rctl(rctl::EN | rctl::BAM);
    let frames: Vec<Vec<u8>> = (0..5).map(|i| plain(nic.mac, PEER, 100, i)).collect();
    for frame in &frames {
        nic.bus.transmit(frame);
    }
    for (index, frame) in frames.iter().enumerate() {
        // Each frame taken gives its descriptor back; the tail has to be told, since the driver would wait.
        let (got, _) = received(&mut nic).map_err(|error| format!("frame {index}: {error}"))?;
        same(&got, frame).map_err(|error| format!("frame {index}: {error}"))?;
        let tail = nic.rx.tail;
        nic.bus.write32(RDT, tail);
    }
    receives_nothing(&mut nic)
}

/// The same with a frame that needs more descriptors than there are at first.
fn large_frame_waits_for_descriptors(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, small_buffers())?;
    nic.bus.write32(RCTL, 0);
    let buffers = nic.rx_buffers;
    receive_ring(&mut nic, 16, 2, |i| buffers + 256 * u64::from(i));
    nic.write_rctl(rctl::EN | rctl::BAM);
    let frame = plain(nic.mac, PEER, 1000, 19);
    nic.bus.transmit(&frame);
    receives_nothing(&mut nic)?;
    for index in 2u32..8 {
        let low = buffers + 256 * u64::from(index);
        nic.rx
            .push(&mut nic.bus, guest_driver::desc::Desc { low, high: 0 });
    }
    nic.rx.kick(&mut nic.bus);
    let (got, _) = received(&mut nic)?;
    same(&got, &frame)?;
    receives_nothing(&mut nic)
}

/// No data goes to address 0, and the ring goes on behind it.
fn null_buffer_is_skipped(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    nic.bus.write32(RCTL, 0);
    let buffers = nic.rx_buffers;
    receive_ring(&mut nic, 8, 7, |i| {
        if i < 3 {
            0
        } else {
            buffers + 2048 * u64::from(i)
        }
    });
    nic.write_rctl(rctl::EN | rctl::BAM);
    for seed in 0..4 {
        let frame = plain(nic.mac, PEER, 100, seed);
        nic.bus.transmit(&frame);
    }
    let wanted = plain(nic.mac, PEER, 100, 3);
    let found = soon(&mut nic, |nic| {
        (3..8).find_map(|index| {
            let mut data = vec![0; 100];
            let buffer = buffers + 2048 * index;
            nic.bus.dma_read(buffer, &mut data);
            (data == wanted).then_some(())
        })
    });
    ensure!(
        found.is_some(),
        "the fourth frame is in none of the real buffers"
    );
    Ok(())
}

fn head_and_tail_beyond_the_ring(m: &mut dyn Machine) -> Outcome {
    for (head, tail) in [(0xFFFF, 0xFFFF), (64, 3), (0xFFFF, 0), (0, 0xFFFF)] {
        let mut nic = start(m, Config::default())?;
        nic.bus.write32(RCTL, 0);
        nic.bus.write32(guest_driver::regs::RDH, head);
        nic.bus.write32(RDT, tail);
        nic.write_rctl(rctl::EN | rctl::BAM);
        let mac = nic.mac;
        for seed in 0..3 {
            nic.bus.transmit(&plain(mac, PEER, 100, seed));
        }
        nic.bus.settle();
        // Only that it is bounded and stays within the ring is asked for; and afterwards it works again.
        let mut nic = start(nic.bus, Config::default())?;
        let last = plain(nic.mac, PEER, 101, 9);
        nic.bus.transmit(&last);
        let found = soon(&mut nic, |nic| {
            let mut data = vec![0; 101];
            let got = nic.receive(&mut data)?;
            (got.len == 101 && data == last).then_some(())
        });
        ensure!(
            found.is_some(),
            "no reception after RDH {head:#x}, RDT {tail:#x}"
        );
    }
    Ok(())
}

/// RCTL.RDMTS: half, a quarter, an eighth of the ring is left.
fn rxdmt0_at_each_threshold(m: &mut dyn Machine) -> Outcome {
    for (code, left) in [(0, 16), (1, 8), (2, 4)] {
        let mut nic = start(m, Config::default())?;
        nic.bus.write32(RCTL, 0);
        let buffers = nic.rx_buffers;
        receive_ring(&mut nic, 32, 31, |i| buffers + 2048 * u64::from(i));
        nic.write_rctl(rctl::EN | rctl::BAM | code << rctl::RDMTS_SHIFT);
        nic.causes();
        let mac = nic.mac;
        let mut seen = None;
        for used in 1..=31 {
            nic.bus.transmit(&plain(mac, PEER, 60, used));
            let came = soon(&mut nic, |nic| {
                (nic.rx.head(&mut nic.bus) == used).then_some(())
            });
            ensure!(came.is_some(), "frame {used} was not received");
            nic.bus.settle();
            if nic.causes() & cause::RXDMT0 != 0 {
                seen = seen.or(Some(31 - used));
            }
        }
        ensure_eq!(
            seen,
            Some(left),
            "descriptors left at RXDMT0, threshold {code}"
        );
    }
    Ok(())
}

fn tagged(frame: &[u8], tci: u16) -> Vec<u8> {
    let tag = [&[0x81, 0], &tci.to_be_bytes()[..]].concat();
    [&frame[..12], &tag, &frame[12..]].concat()
}

fn vlan_tag_is_stripped(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    nic.bus.write32(VET, 0x8100);
    let control = nic.bus.read32(CTRL);
    nic.bus.write32(CTRL, control | ctrl::VME);
    for len in [60, 64, 1514] {
        let frame = plain(nic.mac, PEER, len, 20);
        nic.bus.transmit(&tagged(&frame, 0x602A));
        let (got, received) = received(&mut nic)?;
        same(&got, &frame)?;
        ensure_eq!(received.last.status & RX_VP, RX_VP, "VP");
        ensure_eq!(received.last.special, 0x602A, "tag");
        let got = receives(&mut nic, &frame)?;
        ensure_eq!(got.last.status & RX_VP, 0, "VP of an untagged frame");
    }
    Ok(())
}

fn vlan_tag_stays(m: &mut dyn Machine) -> Outcome {
    let mut nic = start(m, Config::default())?;
    nic.bus.write32(VET, 0x8100);
    let frame = tagged(&plain(nic.mac, PEER, 100, 21), 5);
    receives(&mut nic, &frame)?;
    Ok(())
}

/// Opens the device with RXCSUM and receives a frame.
fn verdict(m: &mut dyn Machine, rxcsum: u32, frame: &[u8]) -> Result<Received, String> {
    let config = Config {
        rxcsum,
        ..Config::default()
    };
    let mac = e1000::probe(m).map_err(|error| error.to_string())?;
    e1000::wait_link(m, 5_000_000_000).map_err(|error| error.to_string())?;
    let mut nic: Nic<'_> = guest_driver::E1000::open(m, mac, config);
    receives(&mut nic, frame)
}

const BOTH: u32 = rxcsum::IPOFL | rxcsum::TUOFL;

fn to_device(m: &mut dyn Machine, ipv6: bool, tcp: bool) -> Result<Packet, String> {
    let mac = e1000::probe(m).map_err(|error| error.to_string())?;
    Ok(Packet::new(mac, PEER, ipv6, tcp, 333, 22))
}

fn none_when_off(m: &mut dyn Machine) -> Outcome {
    let packet = to_device(m, false, true)?;
    let got = verdict(m, 0, &packet.finished())?;
    ensure_eq!(got.last.status & RX_IXSM, RX_IXSM, "IXSM");
    Ok(())
}

fn good_tcp_and_udp(m: &mut dyn Machine) -> Outcome {
    for tcp in [true, false] {
        let packet = to_device(m, false, tcp)?;
        let got = verdict(m, BOTH, &packet.finished())?;
        let want = RX_TCPCS | RX_IPCS;
        ensure_eq!(
            got.last.status & (want | RX_IXSM),
            want,
            "status, TCP {tcp}"
        );
        ensure_eq!(got.last.errors, 0, "errors, TCP {tcp}");
    }
    Ok(())
}

fn good_over_ipv6(m: &mut dyn Machine) -> Outcome {
    for tcp in [true, false] {
        let packet = to_device(m, true, tcp)?;
        let got = verdict(m, BOTH, &packet.finished())?;
        let mask = RX_TCPCS | RX_IPCS | RX_IXSM;
        ensure_eq!(got.last.status & mask, RX_TCPCS, "status, TCP {tcp}");
        ensure_eq!(got.last.errors, 0, "errors, TCP {tcp}");
    }
    Ok(())
}

fn bad_checksums(m: &mut dyn Machine) -> Outcome {
    for tcp in [true, false] {
        let mut frame = to_device(m, false, tcp)?.finished();
        let last = frame.len() - 1;
        frame[last] ^= 1;
        let got = verdict(m, BOTH, &frame)?;
        let want = RX_TCPCS | RX_IPCS;
        ensure_eq!(
            got.last.status & (want | RX_IXSM),
            want,
            "status, TCP {tcp}"
        );
        ensure_eq!(got.last.errors, RX_TCPE, "errors, TCP {tcp}");
        frame[last] ^= 1;
        // The time to live is no part of the pseudo-header.
        frame[22] ^= 1;
        let got = verdict(m, BOTH, &frame)?;
        ensure_eq!(got.last.status & (RX_IPCS | RX_IXSM), RX_IPCS, "status");
        ensure_eq!(got.last.errors & RX_IPE, RX_IPE, "errors");
    }
    Ok(())
}

fn ip_only(m: &mut dyn Machine) -> Outcome {
    let packet = to_device(m, false, true)?;
    let got = verdict(m, rxcsum::IPOFL, &packet.finished())?;
    let mask = RX_TCPCS | RX_IPCS | RX_IXSM;
    ensure_eq!(got.last.status & mask, RX_IPCS, "status with IPOFL");
    let got = verdict(m, rxcsum::TUOFL, &packet.finished())?;
    ensure_eq!(
        got.last.status & (RX_TCPCS | RX_IXSM),
        RX_TCPCS,
        "status with TUOFL"
    );
    Ok(())
}

/// A fragment's L4 checksum covers what is not there.
fn fragments_have_none(m: &mut dyn Machine) -> Outcome {
    let mut frame = to_device(m, false, false)?.finished();
    frame[20] = 0x20;
    let header = &mut frame[14..34];
    header[10..12].fill(0);
    let value = !guest_driver::packet::sum(header);
    header[10..12].copy_from_slice(&value.to_be_bytes());
    let got = verdict(m, BOTH, &frame)?;
    ensure_eq!(got.last.status & RX_TCPCS, 0, "TCPCS of a fragment");
    ensure_eq!(got.last.errors, 0, "errors");
    Ok(())
}

fn udp_without_checksum(m: &mut dyn Machine) -> Outcome {
    let mut frame = to_device(m, false, false)?.finished();
    frame[40..42].fill(0);
    let got = verdict(m, BOTH, &frame)?;
    ensure_eq!(got.last.errors, 0, "errors");
    Ok(())
}
