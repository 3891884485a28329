//! Replies on their way out: whole, in order, and not before the epoch they wait for.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::wire::{HEADER, Header};

/// Waiting bytes at which no further request is processed. With the largest reply on top this bounds the queue.
const FULL: usize = 64 << 10;

/// Bytes that a stream socket takes as a whole or not at all: the kernel cuts longer writes into buffers of this
/// size and may stop between them.
const WHOLE: usize = 32 << 10;

/// Capacity that is kept when all is sent; what a large reply needed on top is given back.
const KEEP: usize = 4 << 10;

/// From byte `at` on, wait until `epoch` has passed.
#[derive(Debug)]
struct Hold {
    at: u64,
    epoch: u64,
}

/// Descriptors that travel with the message that begins at byte `at`.
#[derive(Debug)]
struct Attached {
    at: u64,
    fds: Vec<Arc<OwnedFd>>,
}

/// Queue of messages. Positions count the bytes of the connection's whole outgoing stream.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    buf: Vec<u8>,
    /// Bytes of `buf` that are sent.
    sent: usize,
    /// Stream position of the front of `buf`.
    base: u64,
    /// Bytes yet to send of a reply whose header is gone.
    begun: usize,
    holds: VecDeque<Hold>,
    attached: VecDeque<Attached>,
}

impl Outbox {
    /// Everything that is pushed from here on waits until `epoch` has passed.
    pub(crate) fn hold(&mut self, epoch: u64) {
        let at = self.base + self.buf.len() as u64;
        match self.holds.back_mut() {
            Some(last) if last.at == at => last.epoch = epoch,
            _ => self.holds.push_back(Hold { at, epoch }),
        }
    }

    /// Releases what waited for `epoch` or an earlier one.
    pub(crate) fn pass(&mut self, epoch: u64) {
        while self.holds.front().is_some_and(|hold| hold.epoch <= epoch) {
            self.holds.pop_front();
        }
    }

    /// Queues a header and its payload.
    pub(crate) fn push(
        &mut self,
        header: &Header,
        payload: &(impl IntoBytes + Immutable + ?Sized),
    ) {
        self.buf.extend_from_slice(header.as_bytes());
        self.buf.extend_from_slice(payload.as_bytes());
    }

    /// Queues whole messages.
    pub(crate) fn append(&mut self, messages: &[u8]) {
        self.buf.extend_from_slice(messages);
    }

    /// Whether a message is sent in part, and must be sent on before any other.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun > 0
    }

    /// Attaches descriptors to the message that is pushed next. They leave with its first byte, and no other message
    /// leaves in the same write: a client that receives in bulk could not tell whose they are.
    pub(crate) fn attach(&mut self, fds: Vec<Arc<OwnedFd>>) {
        if !fds.is_empty() {
            let at = self.base + self.buf.len() as u64;
            self.attached.push_back(Attached { at, fds });
        }
    }

    /// Makes room for `len` more bytes of the reply pushed last, all ones, and lends them to be filled.
    pub(crate) fn extend(&mut self, len: usize) -> &mut [u8] {
        let at = self.buf.len();
        self.buf.resize(at + len, 0xff);
        &mut self.buf[at..]
    }

    /// Whether requests must wait until something has left.
    pub(crate) fn is_full(&self) -> bool {
        self.buf.len() - self.sent >= FULL
    }

    /// Whether something could be sent now.
    pub(crate) fn is_ready(&self) -> bool {
        self.sent < self.released()
    }

    /// What to send next: as many whole replies as the socket takes at once, or a piece of a large one.
    pub(crate) fn next(&self) -> &[u8] {
        let free = &self.buf[self.sent..self.alone()];
        let mut end = self.begun;
        while let Some(rest) = free.get(end..)
            && let Ok((header, _)) = Header::read_from_prefix(rest)
        {
            let next = end + (header.size as usize).max(HEADER);
            if next > WHOLE && end > 0 {
                break;
            }
            end = next;
        }
        &free[..end.min(free.len()).min(WHOLE)]
    }

    /// The descriptors that leave with [`next`](Self::next).
    pub(crate) fn fds(&self) -> &[Arc<OwnedFd>] {
        match self.attached.front() {
            Some(first) if first.at == self.position() => &first.fds,
            _ => &[],
        }
    }

    /// The socket took `n` bytes of [`next`](Self::next).
    pub(crate) fn consume(&mut self, n: usize) {
        if n > 0 && !self.fds().is_empty() {
            self.attached.pop_front();
        }
        let mut left = n;
        while left > 0 {
            if self.begun == 0 {
                let Ok((header, _)) = Header::read_from_prefix(&self.buf[self.sent..]) else {
                    break;
                };
                self.begun = header.size as usize;
            }
            let step = left.min(self.begun);
            self.sent += step;
            self.begun -= step;
            left -= step;
        }
        if self.sent == self.buf.len() {
            self.base += self.sent as u64;
            self.sent = 0;
            self.buf.clear();
            self.buf.shrink_to(KEEP);
        } else if self.sent >= FULL {
            self.buf.drain(..self.sent);
            self.base += self.sent as u64;
            self.sent = 0;
        }
    }

    /// Forgets everything: the client is gone.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Stream position of the next byte to send.
    fn position(&self) -> u64 {
        self.base + self.sent as u64
    }

    /// Index in `buf` up to which nothing is held, and no descriptors come between.
    fn alone(&self) -> usize {
        let index = |at: u64| (at - self.base) as usize;
        let released = self.released();
        let mut attached = self.attached.iter().peekable();
        let mut end = released;
        if let Some(first) = attached.next_if(|a| a.at == self.position()) {
            let bytes = &self.buf[index(first.at)..];
            if let Ok((header, _)) = Header::read_from_prefix(bytes) {
                end = end.min(index(first.at) + header.size as usize);
            }
        }
        attached.next().map_or(end, |next| end.min(index(next.at)))
    }

    /// Index in `buf` up to which nothing is held.
    fn released(&self) -> usize {
        self.holds
            .front()
            .map_or(self.buf.len(), |hold| (hold.at - self.base) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(out: &mut Outbox, id: u16, payload: usize) {
        let header = Header {
            id,
            ..Default::default()
        };
        out.push(&header.reply(payload), &[0_u8; 0]);
        out.extend(payload);
    }

    fn ids(mut bytes: &[u8]) -> Vec<u16> {
        let mut ids = Vec::new();
        while let Ok((header, _)) = Header::read_from_prefix(bytes) {
            ids.push(header.id);
            bytes = &bytes[header.size as usize..];
        }
        ids
    }

    #[test]
    fn replies_leave_together() {
        let mut out = Outbox::default();
        for id in 0..3 {
            push(&mut out, id, 4);
        }
        assert_eq!(ids(out.next()), [0, 1, 2]);
        out.consume(60);
        assert!(!out.is_ready() && out.next().is_empty());
    }

    #[test]
    fn held_replies_and_all_after_them_wait_in_order() {
        let mut out = Outbox::default();
        push(&mut out, 0, 0);
        out.hold(1);
        push(&mut out, 1, 0);
        push(&mut out, 2, 0);
        out.hold(2);
        out.hold(3);
        push(&mut out, 3, 0);
        assert_eq!(ids(out.next()), [0]);
        out.consume(16);
        assert!(!out.is_ready());
        out.pass(0);
        assert!(!out.is_ready());
        out.pass(1);
        assert_eq!(ids(out.next()), [1, 2]);
        out.consume(32);
        out.pass(2);
        assert!(!out.is_ready(), "the later of two holds counts");
        out.pass(3);
        assert_eq!(ids(out.next()), [3]);
    }

    #[test]
    fn a_message_with_descriptors_leaves_alone() {
        let fd = Arc::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let mut out = Outbox::default();
        push(&mut out, 0, 4);
        for id in [1, 2] {
            out.attach(vec![fd.clone(); id.into()]);
            push(&mut out, id, 4);
        }
        push(&mut out, 3, 4);
        push(&mut out, 4, 4);
        for (expected, fds) in [(&[0][..], 0), (&[1], 1), (&[2], 2), (&[3, 4], 0)] {
            assert_eq!((ids(out.next()), out.fds().len()), (expected.to_vec(), fds));
            // The socket may take less than it was offered; the descriptors are gone with the first byte.
            let len = out.next().len();
            out.consume(1);
            assert!(out.fds().is_empty() && out.next().len() >= len - 1);
            out.consume(len - 1);
        }
        assert!(!out.is_ready());
        assert_eq!(Arc::strong_count(&fd), 1, "closed once sent");
    }

    #[test]
    fn a_large_reply_never_follows_small_ones_in_the_same_write() {
        let mut out = Outbox::default();
        push(&mut out, 0, 100);
        push(&mut out, 1, WHOLE);
        push(&mut out, 2, 8);
        assert_eq!(out.next().len(), 116);
        out.consume(116);
        assert_eq!(out.next().len(), WHOLE);
        out.consume(WHOLE);
        // The rest of the large one, and the small one whole behind it.
        assert_eq!(out.next().len(), 16 + 24);
        out.consume(40);
        assert!(!out.is_ready());
    }

    #[test]
    fn fills_up_and_empties() {
        let mut out = Outbox::default();
        let mut pushed = 0;
        while !out.is_full() {
            push(&mut out, 0, 1000);
            pushed += 1;
        }
        assert_eq!(pushed, FULL.div_ceil(1016));
        while out.is_ready() {
            let n = out.next().len();
            out.consume(n);
        }
        assert!(!out.is_full() && out.buf.capacity() <= KEEP);
    }
}
