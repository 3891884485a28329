//! The stream of a client, cut into messages a second time.

use vfio_user::wire::{HEADER, Header, MAX_FDS, MAX_MESSAGE};
use zerocopy::FromBytes;

use crate::fds::Fd;

/// What a client has sent and no message was made of yet.
#[derive(Debug, Default)]
pub(crate) struct Framer {
    bytes: Vec<u8>,
    /// Position in the stream of the first of them.
    at: u64,
    /// Descriptors, or the loss of some, and the position of the byte that each came with.
    arrivals: Vec<(u64, Option<Fd>)>,
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Next {
    Incomplete,
    /// A length that cannot be.
    Unframed(Header),
    Message(Whole),
}

/// A message of its own.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
    pub(crate) fds: Vec<Fd>,
    pub(crate) lost: bool,
}

impl Framer {
    /// Some bytes, at least one, were received in one go, and descriptors with them.
    pub(crate) fn push(&mut self, bytes: &[u8], fds: &[Fd], lost: bool) {
        self.bytes.extend_from_slice(bytes);
        let at = self.at + self.bytes.len() as u64 - 1;
        self.arrivals.extend(fds.iter().map(|fd| (at, Some(*fd))));
        self.arrivals.extend(lost.then_some((at, None)));
    }

    /// No message has begun.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn next(&mut self) -> Next {
        let Ok((header, _)) = Header::read_from_prefix(&self.bytes) else {
            return Next::Incomplete;
        };
        let size = header.size as usize;
        if !(HEADER..=MAX_MESSAGE).contains(&size) {
            return Next::Unframed(header);
        }
        if self.bytes.len() < size {
            return Next::Incomplete;
        }
        let payload = self.bytes[HEADER..size].to_vec();
        self.bytes.drain(..size);
        self.at += size as u64;
        let mine = self
            .arrivals
            .iter()
            .take_while(|(at, _)| *at < self.at)
            .count();
        let mine: Vec<_> = self.arrivals.drain(..mine).map(|(_, fd)| fd).collect();
        let fds: Vec<_> = mine.iter().copied().flatten().collect();
        let lost = fds.len() < mine.len() || fds.len() > MAX_FDS;
        Next::Message(Whole {
            header,
            payload,
            fds,
            lost,
        })
    }
}
