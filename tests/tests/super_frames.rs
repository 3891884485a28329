//! The host's own TCP sends through a TAP to a guest that is a few lines long and looks at every frame.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest_driver::packet::{pattern, sum};
use guest_driver::socket::Socket;
use guest_driver::{Config, E1000, Offload};
use nic_emu_lab::{Lab, Netns};
use nic_emu_tests::daemon::DaemonBuilder;
use nic_emu_tests::inside::inside;

const PATIENCE: Duration = Duration::from_secs(60);
const BYTES: usize = 3_000_001;
const PORT: u16 = 7;
const MTU: usize = 1500;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// What is different from one stream to the next.
#[derive(Clone, Copy, Debug)]
struct Case {
    v6: bool,
    offload: bool,
    config: Config,
}

impl Case {
    fn host(&self) -> IpAddr {
        self.address(1)
    }

    fn guest(&self) -> IpAddr {
        self.address(2)
    }

    fn address(&self, end: u8) -> IpAddr {
        match self.v6 {
            true => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, end.into()).into(),
            false => Ipv4Addr::new(10, 1, 0, end).into(),
        }
    }

    /// Source, destination, 0, protocol and length.
    fn pseudo(&self, ip: &[u8], len: usize) -> Vec<u8> {
        let addresses = if self.v6 { 8..40 } else { 12..20 };
        let mut pseudo = ip[addresses].to_vec();
        pseudo.extend([0, 6]);
        pseudo.extend((len as u16).to_be_bytes());
        pseudo
    }
}

/// A TCP segment of the host.
struct Segment {
    port: u16,
    seq: u32,
    flags: u8,
    payload: Vec<u8>,
}

/// Takes a frame apart; none if it is none of TCP. Its lengths and checksums have to be right.
fn parse(case: &Case, frame: &[u8]) -> Result<Option<Segment>> {
    ensure!(frame.len() <= 14 + MTU, "{} bytes", frame.len());
    let ethertype = if case.v6 { [0x86, 0xdd] } else { [8, 0] };
    if frame[12..14] != ethertype {
        return Ok(None);
    }
    let ip = &frame[14..];
    let number =
        |bytes: &[u8], at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let (protocol, header, len) = match case.v6 {
        true => (ip[6], 40, 40 + number(ip, 4)),
        false => (ip[9], 20, number(ip, 2)),
    };
    if protocol != 6 {
        return Ok(None);
    }
    // Only what is shorter than a frame may be is padded.
    ensure!(
        frame.len() == (14 + len).max(60),
        "{len} in {}",
        frame.len()
    );
    ensure!(
        case.v6 || sum(&ip[..20]) == 0xffff,
        "the IP header's checksum"
    );
    let tcp = &ip[header..len];
    let all = [&case.pseudo(ip, tcp.len()), tcp].concat();
    ensure!(
        sum(&all) == 0xffff,
        "the TCP checksum of {} bytes",
        tcp.len()
    );
    Ok(Some(Segment {
        port: number(tcp, 0) as u16,
        seq: u32::from_be_bytes(tcp[4..8].try_into()?),
        flags: tcp[13],
        payload: tcp[usize::from(tcp[12] >> 4) * 4..].to_vec(),
    }))
}

/// A segment of the guest.
fn build(case: &Case, macs: [[u8; 6]; 2], port: u16, seq: u32, ack: u32, flags: u8) -> Vec<u8> {
    let mut tcp = PORT.to_be_bytes().to_vec();
    tcp.extend(port.to_be_bytes());
    tcp.extend(seq.to_be_bytes());
    tcp.extend(ack.to_be_bytes());
    // A window of 4 MiB, and as SYN the options that allow it: segments of 1440 bytes, a scale of 64.
    let options: &[u8] = match flags & SYN {
        0 => &[],
        _ => &[2, 4, 0x05, 0xa0, 3, 3, 6, 1],
    };
    let words = 5 + options.len() as u8 / 4;
    tcp.extend([words << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    tcp.extend(options);
    let octets = |address| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let len = tcp.len() as u16;
    let mut ip = match case.v6 {
        true => [&[0x60, 0, 0, 0][..], &len.to_be_bytes(), &[6, 64]].concat(),
        false => [
            &[0x45, 0][..],
            &(20 + len).to_be_bytes(),
            &[0, 0, 0x40, 0, 64, 6, 0, 0],
        ]
        .concat(),
    };
    ip.extend(octets(case.guest()));
    ip.extend(octets(case.host()));
    if !case.v6 {
        let value = !sum(&ip);
        ip[10..12].copy_from_slice(&value.to_be_bytes());
    }
    let value = !sum(&[&case.pseudo(&ip, tcp.len())[..], &tcp].concat());
    tcp[16..18].copy_from_slice(&value.to_be_bytes());

    let mut frame = macs.concat();
    frame.extend(if case.v6 { [0x86, 0xdd] } else { [8, 0] });
    frame.extend(ip);
    frame.extend(tcp);
    frame
}

/// Receives one stream, as the simplest TCP does: what is not the next segment is only acknowledged. Returns it with the
/// number of segments that had bytes in them.
fn receive(case: &Case, nic: &mut E1000<Socket>) -> Result<(Vec<u8>, usize)> {
    let end = Instant::now() + PATIENCE;
    let mut buffer = vec![0; 16384];
    let (mut stream, mut segments, mut next, mut mine) = (Vec::new(), 0, None, 1000);
    loop {
        ensure!(Instant::now() < end, "{} bytes came", stream.len());
        let Some(received) = nic.receive(&mut buffer) else {
            std::thread::yield_now();
            continue;
        };
        let frame = &buffer[..received.len];
        let Some(segment) = parse(case, frame)? else {
            continue;
        };
        segments += usize::from(!segment.payload.is_empty());
        let here = *next.get_or_insert(segment.seq);
        let mut flags = ACK;
        let in_order = segment.seq == here;
        if in_order {
            stream.extend(&segment.payload);
            let phantom = segment.flags & (SYN | FIN);
            next = Some(here.wrapping_add(segment.payload.len() as u32 + u32::from(phantom != 0)));
            flags |= phantom;
        }
        if segment.payload.is_empty() && flags == ACK {
            continue;
        }
        let macs = [frame[6..12].try_into()?, nic.mac];
        let ack = next.unwrap_or_default();
        let answer = build(case, macs, segment.port, mine, ack, flags);
        ensure!(nic.send(&answer, Offload::None) || nic.flush(1_000_000_000));
        mine += u32::from(flags != ACK);
        if flags & FIN != 0 {
            return Ok((stream, segments));
        }
    }
}

fn stream(case: &Case) -> Result<()> {
    let lab = Lab::open()?;
    let netns = Netns::new(&lab, "super")?;
    let offload = if case.offload { "on" } else { "off" };
    let keys = format!("net=tap,ifname=tap0,offload={offload}");
    let daemon = DaemonBuilder::new()?.nic(&keys).start(Some(&netns))?;
    let (host, guest) = (case.host(), case.guest());
    netns.ip(&format!(
        "address add {host}/24 dev tap0 {}",
        if case.v6 { "nodad" } else { "" }
    ))?;
    let mut nic = E1000::start(Socket::connect(daemon.socket(0))?, case.config)?;
    let mac = nic.mac.map(|byte| format!("{byte:02x}")).join(":");
    netns.ip(&format!("neighbour add {guest} lladdr {mac} dev tap0"))?;

    let sent = pattern(BYTES, 7);
    let (came, segments) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            inside(netns.name(), || {
                let mut stream = TcpStream::connect_timeout(&(guest, PORT).into(), PATIENCE)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(&sent)?;
                stream.shutdown(Shutdown::Write)?;
                // Only the end comes back.
                ensure!(stream.read(&mut [0; 1])? == 0);
                Ok(())
            })
        });
        let came = receive(case, &mut nic);
        sender
            .join()
            .expect("it does not panic")
            .context("the host")?;
        came
    })?;
    ensure!(came == sent, "another stream came");

    let report = daemon.stop()?.reports.remove(0);
    let (network, model) = (report.backend, report.model);
    let story = format!("{case:?}, {segments} segments with data; {model}; {network}");
    let lost: u64 = ["rx_filtered", "rx_disabled"]
        .map(|name| model.get(name))
        .iter()
        .sum();
    ensure!(
        network.get("rx_segments") == model.get("rx_frames") + lost,
        "{story}"
    );
    ensure!(
        network.get("rx_dropped") + model.get("rx_malformed") == 0,
        "{story}"
    );
    ensure!(model.get("rx_frames") >= segments as u64, "{story}");
    // Each frame of the TAP is one system call.
    match case.offload {
        true => ensure!(
            2 * network.get("rx_frames") < network.get("rx_segments"),
            "{story}"
        ),
        false => ensure!(
            network.get("rx_frames") == network.get("rx_segments"),
            "{story}"
        ),
    }
    Ok(())
}

const TCP4: Case = Case {
    v6: false,
    offload: true,
    config: Config {
        tx_count: 64,
        rx_count: 256,
        rx_buffer: 2048,
        rctl: 1 << 15,
        rxcsum: 0,
    },
};

#[test]
fn super_frames_reach_the_guest_as_the_segments_they_stand_for() -> Result<()> {
    stream(&TCP4)
}

#[test]
fn so_they_do_over_ipv6() -> Result<()> {
    stream(&Case { v6: true, ..TCP4 })
}

/// Six descriptors to a segment: most super-frames have to wait again and again.
#[test]
fn a_super_frame_is_larger_than_the_ring() -> Result<()> {
    let config = Config {
        rx_count: 64,
        rx_buffer: 256,
        ..TCP4.config
    };
    stream(&Case { config, ..TCP4 })
}

#[test]
fn the_host_cuts_if_it_is_told_to() -> Result<()> {
    stream(&Case {
        offload: false,
        ..TCP4
    })
}
