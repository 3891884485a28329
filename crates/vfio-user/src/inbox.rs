//! Bytes and descriptors on their way in, cut into messages.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use arrayvec::ArrayVec;
use zerocopy::FromBytes;

use crate::wire::{HEADER, Header, MAX_FDS, MAX_MESSAGE};

/// Bytes of the buffer: room for a hundred posted writes. A larger message gets what it needs while it comes in.
const CAPACITY: usize = 8 << 10;

/// Descriptors of one message.
pub(crate) type Fds = ArrayVec<OwnedFd, MAX_FDS>;

/// A message whose header contradicts the framing: where the next one begins cannot be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unframed(pub(crate) Header);

/// A descriptor and the stream position of the byte it came with.
#[derive(Debug)]
enum Arrival {
    Fd(u64, OwnedFd),
    /// More came than could be taken.
    Lost(u64),
}

impl Arrival {
    fn at(&self) -> u64 {
        match self {
            Self::Fd(at, _) | Self::Lost(at) => *at,
        }
    }
}

/// The incoming stream.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    buf: Vec<u8>,
    /// Unprocessed bytes are `start..end`.
    start: usize,
    end: usize,
    /// Stream position of `start`.
    position: u64,
    arrivals: VecDeque<Arrival>,
}

/// A complete message, still in the buffer.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) header: Header,
    pub(crate) payload: &'a [u8],
    pub(crate) fds: Fds,
    /// Some descriptors did not make it.
    pub(crate) fds_lost: bool,
}

impl Inbox {
    /// Where to receive to; empty only while a complete message waits to be processed.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let wanted = match Header::read_from_prefix(&self.buf[..self.end]) {
            Ok((header, _)) => (header.size as usize).clamp(CAPACITY, MAX_MESSAGE),
            Err(_) => CAPACITY,
        };
        if self.buf.len() < wanted {
            self.buf.resize(wanted, 0);
        } else if self.buf.len() > wanted && self.end <= wanted {
            self.buf.truncate(wanted);
            self.buf.shrink_to_fit();
        }
        &mut self.buf[self.end..]
    }

    /// `n` bytes are in [`space`](Self::space). Descriptors belong to the message whose bytes end this read: the
    /// kernel ends a read after the write that carried them.
    pub(crate) fn received(
        &mut self,
        n: usize,
        fds: impl IntoIterator<Item = OwnedFd>,
        lost: bool,
    ) {
        self.end += n;
        let at = self.position + (self.end - self.start).saturating_sub(1) as u64;
        for fd in fds {
            let waiting = self.arrivals.iter().filter(|a| a.at() >= self.position);
            // A client may dribble a message, each byte with its own descriptors.
            if waiting.count() >= 2 * MAX_FDS {
                self.lose(at);
            } else {
                self.arrivals.push_back(Arrival::Fd(at, fd));
            }
        }
        if lost {
            self.lose(at);
        }
    }

    fn lose(&mut self, at: u64) {
        if !matches!(self.arrivals.back(), Some(Arrival::Lost(_))) {
            self.arrivals.push_back(Arrival::Lost(at));
        }
    }

    /// The next message if it is complete.
    pub(crate) fn next(&mut self) -> Result<Option<Message<'_>>, Unframed> {
        let bytes = &self.buf[self.start..self.end];
        let Ok((header, _)) = Header::read_from_prefix(bytes) else {
            return Ok(None);
        };
        let size = header.size as usize;
        if !(HEADER..=MAX_MESSAGE).contains(&size) {
            return Err(Unframed(header));
        }
        if bytes.len() < size {
            return Ok(None);
        }
        let at = self.start;
        self.start += size;
        self.position += size as u64;
        let (mut fds, mut fds_lost) = (Fds::new(), false);
        while self
            .arrivals
            .front()
            .is_some_and(|arrival| arrival.at() < self.position)
        {
            match self.arrivals.pop_front() {
                Some(Arrival::Fd(_, fd)) => fds_lost |= fds.try_push(fd).is_err(),
                _ => fds_lost = true,
            }
        }
        Ok(Some(Message {
            header,
            payload: &self.buf[at + HEADER..at + size],
            fds,
            fds_lost,
        }))
    }

    /// Forgets everything: the client is gone.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    fn message(id: u16, payload: &[u8]) -> Vec<u8> {
        let header = Header {
            id,
            size: (HEADER + payload.len()) as u32,
            ..Default::default()
        };
        [header.as_bytes(), payload].concat()
    }

    fn feed(inbox: &mut Inbox, bytes: &[u8], fds: usize) {
        inbox.space()[..bytes.len()].copy_from_slice(bytes);
        let fds = (0..fds)
            .map(|_| rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap());
        inbox.received(bytes.len(), fds, false);
    }

    fn drain(inbox: &mut Inbox) -> Vec<(u16, usize, usize, bool)> {
        let mut seen = Vec::new();
        while let Ok(Some(m)) = inbox.next() {
            seen.push((m.header.id, m.payload.len(), m.fds.len(), m.fds_lost));
        }
        seen
    }

    #[test]
    fn messages_come_out_at_any_cut() {
        let stream = [message(1, b"abc"), message(2, &[]), message(3, &[9; 40])].concat();
        for cut in 0..=stream.len() {
            let mut inbox = Inbox::default();
            feed(&mut inbox, &stream[..cut], 0);
            let mut seen = drain(&mut inbox);
            feed(&mut inbox, &stream[cut..], 0);
            seen.extend(drain(&mut inbox));
            assert_eq!(
                seen,
                [(1, 3, 0, false), (2, 0, 0, false), (3, 40, 0, false)]
            );
        }
    }

    #[test]
    fn descriptors_belong_to_the_message_that_ends_the_read() {
        let mut inbox = Inbox::default();
        feed(&mut inbox, &[message(1, &[]), message(2, &[])].concat(), 2);
        feed(&mut inbox, &message(3, &[]), 1);
        assert_eq!(
            drain(&mut inbox),
            [(1, 0, 0, false), (2, 0, 2, false), (3, 0, 1, false)]
        );
    }

    #[test]
    fn descriptors_with_half_a_message_wait_for_the_rest() {
        let bytes = message(7, &[1; 10]);
        for cut in 1..bytes.len() {
            let mut inbox = Inbox::default();
            feed(&mut inbox, &bytes[..cut], 1);
            assert!(drain(&mut inbox).is_empty());
            feed(&mut inbox, &bytes[cut..], 1);
            assert_eq!(drain(&mut inbox), [(7, 10, 2, false)]);
        }
    }

    #[test]
    fn too_many_descriptors_are_noticed_and_bounded() {
        let mut inbox = Inbox::default();
        let bytes = message(7, &[1; 100]);
        for byte in &bytes {
            feed(&mut inbox, &[*byte], 5);
            assert!(inbox.arrivals.len() <= 2 * MAX_FDS + 1);
        }
        assert_eq!(drain(&mut inbox), [(7, 100, MAX_FDS, true)]);
        feed(&mut inbox, &message(8, &[]), 1);
        assert_eq!(drain(&mut inbox), [(8, 0, 1, false)]);
    }

    #[test]
    fn the_buffer_grows_for_a_large_message_and_shrinks_again() {
        let mut inbox = Inbox::default();
        let bytes = message(1, &vec![5; 100_000]);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let n = inbox.space().len().min(rest.len());
            assert!(n > 0);
            inbox.space()[..n].copy_from_slice(&rest[..n]);
            inbox.received(n, [], false);
            rest = &rest[n..];
        }
        assert_eq!(drain(&mut inbox), [(1, 100_000, 0, false)]);
        assert_eq!(inbox.space().len(), CAPACITY);
    }

    #[test]
    fn impossible_sizes_are_the_end_of_framing() {
        for size in [0, 15, MAX_MESSAGE as u32 + 1, u32::MAX] {
            let mut inbox = Inbox::default();
            let header = Header {
                size,
                ..Default::default()
            };
            feed(&mut inbox, header.as_bytes(), 0);
            assert_eq!(inbox.next().unwrap_err(), Unframed(header));
        }
    }
}
