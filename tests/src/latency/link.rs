//! The two ways to a guest, raw frames and datagrams, by the same calls.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{
    AddressFamily, MMsgHdr, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, sendmmsg,
    socket_with, sockopt,
};
use rustix::time::{ClockId, clock_gettime};

use super::pace::BATCH;
use super::stamp::{STAMP, Stamp};
use super::sys::{self, Batch};
use crate::inside::inside;

/// EtherType of our frames: IEEE 802's first for local experiments.
pub const ETHERTYPE: u16 = 0x88B5;
/// Bytes of a frame without FCS: the shortest that Ethernet has.
pub const FRAME: usize = 60;
/// Where the stamp stands in a raw frame.
const HEADER: usize = 14;
/// Our own station, locally administered.
const STATION: [u8; 6] = [0x02, 0, 0, 0, 0, 0x4C];
/// Room for what comes back while the receiver has no processor.
const RECEIVE_BUFFER: usize = 64 << 20;

/// The sockets and what goes before each stamp.
#[derive(Debug)]
pub(super) struct Link {
    sender: OwnedFd,
    receiver: OwnedFd,
    /// A frame or datagram, with a hole at `stamp`.
    template: Vec<u8>,
    stamp: usize,
}

/// What came in.
pub(super) struct Arrival<'a> {
    /// From the stamp on.
    pub(super) bytes: &'a [u8],
    /// CLOCK_MONOTONIC in ns.
    pub(super) at: u64,
}

impl Link {
    /// Raw frames from a TAP to the station `to`.
    pub(super) fn raw(netns: &str, tap: &str, to: [u8; 6]) -> Result<Self> {
        let open = |ethertype| -> Result<OwnedFd> {
            // Deaf until it is bound.
            let fd = socket_with(
                AddressFamily::PACKET,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                None,
            )
            .context("cannot open a packet socket")?;
            let index = name_to_index(&fd, tap).with_context(|| format!("no interface {tap}"))?;
            sys::bind(fd.as_fd(), index, ethertype)
                .with_context(|| format!("cannot bind to {tap}"))?;
            Ok(fd)
        };
        let (sender, receiver) = inside(netns, || Ok((open(0)?, open(ETHERTYPE)?)))?;
        let mut template = vec![0; FRAME];
        template[..6].copy_from_slice(&to);
        template[6..12].copy_from_slice(&STATION);
        template[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
        Self::new(sender, receiver, template, HEADER)
    }

    /// Datagrams to `to`.
    pub(super) fn udp(netns: &str, to: SocketAddr) -> Result<Self> {
        let open = || -> Result<OwnedFd> {
            let any: SocketAddr = match to {
                SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
                SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
            };
            let socket = UdpSocket::bind(any).context("cannot open a UDP socket")?;
            socket
                .connect(to)
                .with_context(|| format!("no way to {to}"))?;
            Ok(socket.into())
        };
        let receiver = inside(netns, open)?;
        let sender = receiver.try_clone()?;
        Self::new(sender, receiver, vec![0; STAMP], 0)
    }

    fn new(sender: OwnedFd, receiver: OwnedFd, template: Vec<u8>, stamp: usize) -> Result<Self> {
        // Beyond what the machine allows everybody: we are root.
        sockopt::set_socket_recv_buffer_size_force(&receiver, RECEIVE_BUFFER)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&receiver, RECEIVE_BUFFER))
            .context("no room to receive to")?;
        sys::ask_for_remarks(receiver.as_fd()).context("the kernel does not time arrivals")?;
        Ok(Self {
            sender,
            receiver,
            template,
            stamp,
        })
    }

    /// Sends frames `first..first + count` of a session, at most [`BATCH`], each stamped with the time of this call.
    /// Returns how many of them were refused for want of room.
    pub(super) fn send(&self, session: u16, first: u64, count: usize) -> Result<u64> {
        let sent = now();
        let frame = |number| {
            let stamp = Stamp {
                session,
                number,
                sent,
            };
            let mut frame = self.template.clone();
            frame[self.stamp..][..STAMP].copy_from_slice(&stamp.bytes());
            frame
        };
        let frames: Vec<_> = (first..).take(count.min(BATCH)).map(frame).collect();
        let (mut done, mut refused) = (0, 0);
        while done < frames.len() {
            match send(self.sender.as_fd(), &frames[done..]) {
                Ok(count) => done += count,
                // The queue of the TAP is full, or an earlier datagram has met nobody: what is not sent now never will
                // be.
                Err(Errno::NOBUFS | Errno::CONNREFUSED | Errno::HOSTUNREACH) => {
                    done += 1;
                    refused += 1;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot send"),
            }
        }
        Ok(refused)
    }

    /// Waits for something to come in, no longer than `timeout`.
    pub(super) fn wait(&self, timeout: Duration) -> Result<bool> {
        let timeout = Timespec::try_from(timeout)?;
        let mut fds = [PollFd::new(&self.receiver, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error).context("cannot wait for frames"),
        }
    }

    /// Hands what is there to `each`; returns how many that were, and how many have found no room in our socket since it
    /// was opened, if the kernel has said.
    pub(super) fn receive(
        &self,
        batch: &mut Batch,
        mut each: impl FnMut(Arrival<'_>),
    ) -> Result<(usize, Option<u64>)> {
        let count = match sys::receive(self.receiver.as_fd(), batch) {
            Ok(count) => count,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock
                | io::ErrorKind::Interrupted
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::HostUnreachable => 0,
                _ => return Err(error).context("cannot receive"),
            },
        };
        // The kernel's times are of a clock that may be set: what counts is how long ago they are.
        let (now, wall) = (now(), time(ClockId::Realtime));
        let mut overlooked = None;
        for (bytes, words) in batch.messages(count) {
            let remarks = Remarks::parse(words);
            let age = remarks.at.map_or(0, |at| wall.saturating_sub(at));
            overlooked = remarks.overlooked.map(u64::from).or(overlooked);
            each(Arrival {
                bytes: bytes.get(self.stamp..).unwrap_or_default(),
                at: now.saturating_sub(age),
            });
        }
        Ok((count, overlooked))
    }
}

fn send(fd: BorrowedFd<'_>, frames: &[Vec<u8>]) -> Result<usize, Errno> {
    let slices: Vec<_> = frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
    let mut nothing: Vec<_> = frames
        .iter()
        .map(|_| SendAncillaryBuffer::default())
        .collect();
    let mut messages: Vec<_> = slices
        .iter()
        .zip(&mut nothing)
        .map(|(slice, nothing)| MMsgHdr::new(slice, nothing))
        .collect();
    sendmmsg(fd, &mut messages, SendFlags::empty())
}

/// CLOCK_MONOTONIC in ns.
pub(super) fn now() -> u64 {
    time(ClockId::Monotonic)
}

fn time(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What the kernel says about a message.
#[derive(Debug, Default, PartialEq, Eq)]
struct Remarks {
    /// When it came in: CLOCK_REALTIME in ns.
    at: Option<u64>,
    /// Messages that have found no room so far.
    overlooked: Option<u32>,
}

impl Remarks {
    /// Of control messages: each is its length with this head, level and kind, then its data, filled up to a word.
    fn parse(mut words: &[u64]) -> Self {
        const HEAD: usize = 2;
        let mut remarks = Self::default();
        while let [len, level_and_kind, ..] = *words {
            let size = (len as usize).div_ceil(8);
            let Some(data) = words.get(HEAD..size) else {
                break;
            };
            let (level, kind) = (level_and_kind as i32, (level_and_kind >> 32) as i32);
            match (level, kind, data) {
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, &[seconds, nanos]) => {
                    remarks.at = Some(seconds * 1_000_000_000 + nanos);
                }
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &[count]) => {
                    remarks.overlooked = Some(count as u32);
                }
                _ => {}
            }
            words = &words[size.max(HEAD)..];
        }
        remarks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remarks_are_found_among_others_and_a_cut_one_is_left_out() {
        let head = |kind: i32| libc::SOL_SOCKET as u64 | (kind as u64) << 32;
        let words = [
            [24, head(99), 5].as_slice(),
            &[32, head(libc::SCM_TIMESTAMPNS), 3, 7],
            &[20, head(libc::SO_RXQ_OVFL), 0xFFFF_FFFF_0000_0009],
        ]
        .concat();
        let all = Remarks {
            at: Some(3_000_000_007),
            overlooked: Some(9),
        };
        assert_eq!(Remarks::parse(&words), all);
        let cut = Remarks {
            overlooked: None,
            ..all
        };
        assert_eq!(Remarks::parse(&words[..words.len() - 1]), cut);
        assert_eq!(Remarks::parse(&[0, 0, 0]), Remarks::default());
        assert_eq!(Remarks::parse(&[]), Remarks::default());
    }
}
