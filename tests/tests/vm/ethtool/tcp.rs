//! As much of TCP as it takes to receive what a guest sends.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use guest_driver::Wire;
use guest_driver::packet::sum;
use nic_emu_tests::machine::MAC;
use nic_emu_tests::transfer::sha256;

use super::echo::{Echo, PATIENCE, PEER};

/// Our address and the guest's.
const OURS: [u8; 4] = [10, 77, 0, 1];
const GUESTS: [u8; 4] = [10, 77, 0, 2];
/// Where we listen.
const PORT: u16 = 4711;
/// TCP flags.
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// Bytes of the headers that we send: Ethernet, IPv4, TCP without options.
const HEADERS: usize = 54;

/// What the segments were that brought the bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    /// All that the guest sent.
    pub(super) segments: usize,
    /// Those whose checksum the device has made.
    pub(super) summed: usize,
    /// Bytes of the longest frame.
    pub(super) longest: usize,
}

/// Lets the guest send `len` random bytes over TCP and compares them; each segment's checksums have to be right.
pub(super) fn upload(echo: &mut Echo, len: usize) -> Result<Sent> {
    let data = "/run/upload";
    let hash = echo.vm.ok(&format!(
        "head -c {len} /dev/urandom >{data} && sha256sum <{data}
         nc 10.77.0.1 {PORT} <{data} >/dev/null 2>&1 &"
    ))?;
    let (sent, bytes) = receive(echo)?;
    ensure!(bytes.len() == len, "{} of {len} bytes arrived", bytes.len());
    let digest = sha256(&bytes);
    ensure!(
        hash.starts_with(&digest),
        "{len} bytes with SHA-256 {hash} arrived with {digest}"
    );
    Ok(sent)
}

/// Serves one connection to its end.
fn receive(echo: &mut Echo) -> Result<(Sent, Vec<u8>)> {
    let mut sent = Sent::default();
    let mut bytes = Vec::new();
    // The guest's port, and the sequence number that it has to send next.
    let mut connected: Option<(u16, u32)> = None;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let Some((frame, summed)) = echo.cable.collect_summed() else {
            sleep(Duration::from_millis(1));
            continue;
        };
        let Some(segment) = Segment::parse(&frame)? else {
            continue;
        };
        ensure!(
            segment.flags & RST == 0,
            "the guest has reset the connection"
        );
        if segment.flags & SYN != 0 {
            connected = Some((segment.port, segment.seq.wrapping_add(1)));
            sent = Sent::default();
        }
        let Some((_, next)) = connected.as_mut().filter(|(port, _)| *port == segment.port) else {
            continue;
        };
        sent.segments += 1;
        sent.summed += usize::from(summed);
        sent.longest = sent.longest.max(frame.len());
        let mut ended = false;
        if segment.flags & SYN == 0 && segment.seq == *next {
            bytes.extend(segment.payload);
            *next = next.wrapping_add(segment.payload.len() as u32);
            ended = segment.flags & FIN != 0;
            *next = next.wrapping_add(ended.into());
        }
        let (flags, seq) = match (segment.flags & SYN != 0, ended) {
            (true, _) => (SYN | ACK, 0),
            (_, true) => (FIN | ACK, 1),
            _ => (ACK, 1),
        };
        let needs_answer = flags != ACK || !segment.payload.is_empty();
        let answer = answer(segment.port, flags, seq, *next);
        if needs_answer {
            echo.cable.transmit(&answer);
        }
        if ended {
            return Ok((sent, bytes));
        }
    }
    bail!(
        "the connection does not end; {} bytes have arrived",
        bytes.len()
    );
}

/// A segment of the guest's.
struct Segment<'f> {
    port: u16,
    seq: u32,
    flags: u8,
    payload: &'f [u8],
}

impl<'f> Segment<'f> {
    /// Takes a frame apart; `None` if it is not a segment to us.
    fn parse(frame: &'f [u8]) -> Result<Option<Self>> {
        if frame.len() < HEADERS || frame[12..14] != [8, 0] || frame[23] != 6 {
            return Ok(None);
        }
        let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        if word(36) != PORT {
            return Ok(None);
        }
        let end = 14 + usize::from(word(16));
        let packet = frame.get(14..end).context("a segment is cut off")?;
        ensure!(
            sum(&packet[..20]) == 0xffff,
            "the IPv4 header's checksum is wrong"
        );
        let segment = &packet[20..];
        let mut pseudo = packet[12..20].to_vec();
        pseudo.extend([0, 6]);
        pseudo.extend((segment.len() as u16).to_be_bytes());
        pseudo.extend(segment);
        ensure!(
            sum(&pseudo) == 0xffff,
            "the checksum of a segment of {} bytes is wrong",
            segment.len()
        );
        let payload = segment.get(usize::from(segment[12] >> 4) * 4..);
        Ok(Some(Self {
            port: word(34),
            seq: u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]),
            flags: segment[13],
            payload: payload.context("a segment's header is cut off")?,
        }))
    }
}

/// A segment of ours, without data; a SYN offers segments of 1460 bytes.
fn answer(port: u16, flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    let options: &[u8] = if flags & SYN != 0 {
        &[2, 4, 0x05, 0xb4]
    } else {
        &[]
    };
    let mut tcp = Vec::new();
    tcp.extend(PORT.to_be_bytes());
    tcp.extend(port.to_be_bytes());
    tcp.extend(seq.to_be_bytes());
    tcp.extend(ack.to_be_bytes());
    let words = (20 + options.len()) / 4;
    tcp.extend([(words as u8) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    tcp.extend(options);
    let mut pseudo = [OURS, GUESTS].concat();
    pseudo.extend([0, 6]);
    pseudo.extend((tcp.len() as u16).to_be_bytes());
    pseudo.extend(&tcp);
    tcp[16..18].copy_from_slice(&(!sum(&pseudo)).to_be_bytes());

    let mut ip = vec![0x45, 0];
    ip.extend((20 + tcp.len() as u16).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    ip.extend([OURS, GUESTS].concat());
    let check = !sum(&ip);
    ip[10..12].copy_from_slice(&check.to_be_bytes());

    let mut frame = [MAC, PEER].concat();
    frame.extend([8, 0]);
    frame.extend(ip);
    frame.extend(tcp);
    frame.resize(frame.len().max(60), 0);
    frame
}
