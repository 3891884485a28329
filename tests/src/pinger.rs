//! ICMP echoes of any size, each reply compared byte by byte.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket, sockopt,
};

use crate::inside::inside;

/// How long a reply may take: a guest under emulation may be busy.
const PATIENCE: Duration = Duration::from_secs(3);

/// Round trips of a series of echoes, none of which was lost or damaged.
#[derive(Clone, Debug, Default)]
pub struct RoundTrips(Vec<Duration>);

impl RoundTrips {
    /// Number of echoes.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Each of them, in the order in which they were made.
    #[must_use]
    pub fn all(&self) -> &[Duration] {
        &self.0
    }

    /// The shortest.
    #[must_use]
    pub fn min(&self) -> Duration {
        self.0.iter().min().copied().unwrap_or_default()
    }

    /// The middle one.
    #[must_use]
    pub fn median(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }
}

/// Sends one echo request of each payload size in turn to `to` from inside `netns`, and waits for each reply.
///
/// # Errors
/// Raw sockets are not allowed here, or an echo was lost, damaged or cut: the first such one, by its size.
pub fn ping(netns: &str, to: IpAddr, sizes: impl IntoIterator<Item = usize>) -> Result<RoundTrips> {
    let sizes: Vec<usize> = sizes.into_iter().collect();
    inside(netns, || {
        let pinger = Pinger::new(to)?;
        let mut trips = RoundTrips::default();
        for (seq, &size) in sizes.iter().enumerate() {
            let trip = pinger.echo(seq as u16, size);
            let trip =
                trip.with_context(|| format!("echo with {size} bytes to {to} (number {seq})"))?;
            trips.0.push(trip);
        }
        Ok(trips)
    })
}

struct Pinger {
    socket: OwnedFd,
    to: IpAddr,
    id: u16,
}

impl Pinger {
    fn new(to: IpAddr) -> Result<Self> {
        let (family, protocol) = match to {
            IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
            IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
        };
        let socket = socket(family, SocketType::RAW, Some(protocol))
            .context("cannot open a raw socket: run as root")?;
        sockopt::set_socket_recv_buffer_size(&socket, 1 << 20)?;
        Ok(Self {
            socket,
            to,
            id: std::process::id() as u16,
        })
    }

    fn echo(&self, seq: u16, size: usize) -> Result<Duration> {
        let (request, reply) = match self.to {
            IpAddr::V4(_) => (8, 0),
            IpAddr::V6(_) => (128, 129),
        };
        let mut message = vec![request, 0, 0, 0];
        message.extend(self.id.to_be_bytes());
        message.extend(seq.to_be_bytes());
        message.extend(payload(seq, size));
        // The kernel computes the checksum of ICMPv6, which covers addresses too.
        if self.to.is_ipv4() {
            let sum = internet_checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        let started = Instant::now();
        let sent = sendto(
            &self.socket,
            &message,
            SendFlags::empty(),
            &SocketAddr::new(self.to, 0),
        )?;
        ensure!(sent == message.len(), "only {sent} bytes were sent");
        let mut buffer = vec![0; 66_000];
        loop {
            let left = PATIENCE.saturating_sub(started.elapsed());
            ensure!(!left.is_zero(), "no reply within {PATIENCE:?}");
            sockopt::set_socket_timeout(&self.socket, sockopt::Timeout::Recv, Some(left))?;
            let len = match recv(&self.socket, &mut buffer, RecvFlags::empty()) {
                Ok((len, _)) => len,
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(error) => return Err(io::Error::from(error)).context("cannot receive"),
            };
            let got = match self.to {
                // A raw IPv4 socket shows the IP header too.
                IpAddr::V4(_) => &buffer[usize::from(buffer[0] & 15) * 4..len],
                IpAddr::V6(_) => &buffer[..len],
            };
            let ours = got.len() >= 8 && got[0] == reply && got[4..8] == message[4..8];
            if !ours {
                continue;
            }
            let trip = started.elapsed();
            if self.to.is_ipv4() && internet_checksum(got) != 0 {
                bail!("the reply's checksum is wrong");
            }
            ensure!(
                got.len() == message.len(),
                "the reply has {} bytes",
                got.len() - 8
            );
            if let Some(at) = got[8..].iter().zip(&message[8..]).position(|(a, b)| a != b) {
                bail!("the reply differs at byte {at}");
            }
            return Ok(trip);
        }
    }
}

/// Bytes that differ from echo to echo and within one.
fn payload(seq: u16, size: usize) -> impl Iterator<Item = u8> {
    let mut state = u32::from(seq) << 16 | 0x9e37;
    (0..size).map(move |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
}

/// RFC 1071; 0 over a message that holds its right checksum.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&b| b.into()))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Payload sizes around each edge of an Ethernet frame over IPv4, 0 to 1472 bytes.
pub const TWELVE_SIZES: [usize; 12] = [0, 1, 17, 18, 19, 56, 64, 512, 1023, 1024, 1471, 1472];
/// Sizes that need two and more fragments.
pub const FRAGMENTED_SIZES: [usize; 4] = [1473, 3000, 8192, 60_000];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_with_its_checksum_sums_to_zero() {
        let mut message = [8, 0, 0, 0, 1, 2, 3, 4, 5];
        let sum = internet_checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(internet_checksum(&message), 0);
        message[8] ^= 1;
        assert_ne!(internet_checksum(&message), 0);
    }
}
