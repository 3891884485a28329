//! Frames that wait for descriptors: what the part keeps in its packet buffer.

use std::collections::VecDeque;

use super::judge::How;
use super::place::Progress;
use crate::common::frame::RxMeta;

/// A frame that waits, without its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) meta: RxMeta,
    pub(super) how: How,
    pub(super) progress: Progress,
    /// Its bytes, and what it takes up on the wire.
    pub(super) len: usize,
    pub(super) octets: usize,
}

/// The frames in the order in which they came, their bytes one behind the other. It makes room for itself when it is
/// first used; who adds to it sees to it that it does not grow without end.
#[derive(Debug, Default)]
pub(super) struct Fifo {
    frames: VecDeque<Held>,
    bytes: Vec<u8>,
    /// Where the bytes of the first frame are.
    start: usize,
    octets: usize,
}

impl Fifo {
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Frames that wait.
    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// What they take up on the wire.
    pub(super) fn octets(&self) -> usize {
        self.octets
    }

    /// Adds a frame in two pieces behind the others.
    pub(super) fn push(&mut self, [head, rest]: [&[u8]; 2], held: Held) {
        if self.bytes.len() + head.len() + rest.len() > self.bytes.capacity() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(head);
        self.bytes.extend_from_slice(rest);
        self.octets += held.octets;
        self.frames.push_back(held);
    }

    /// The first frame and its bytes.
    pub(super) fn front(&mut self) -> Option<(&mut Held, &[u8])> {
        let held = self.frames.front_mut()?;
        let bytes = &self.bytes[self.start..self.start + held.len];
        Some((held, bytes))
    }

    /// Takes the first frame out.
    pub(super) fn pop(&mut self) {
        if let Some(held) = self.frames.pop_front() {
            self.start += held.len;
            self.octets -= held.octets;
        }
        if self.frames.is_empty() {
            self.clear();
        }
    }

    /// Forgets all frames.
    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.bytes.clear();
        (self.start, self.octets) = (0, 0);
    }

    /// All frames and their bytes.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Held, &[u8])> {
        let mut at = self.start;
        self.frames.iter().map(move |held| {
            let bytes = &self.bytes[at..at + held.len];
            at += held.len;
            (held, bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(len: usize) -> Held {
        Held {
            meta: RxMeta::default(),
            how: How::default(),
            progress: Progress::default(),
            len,
            octets: len + 4,
        }
    }

    #[test]
    fn frames_come_out_as_they_went_in_and_the_store_does_not_grow() {
        let mut fifo = Fifo::default();
        let frame = |n: usize| vec![n as u8; 60 + n % 7];
        (0..10).for_each(|n| fifo.push([&frame(n), &[]], held(frame(n).len())));
        let capacity = fifo.bytes.capacity();
        for n in 0..5000 {
            assert_eq!(fifo.front().unwrap().1, frame(n));
            fifo.pop();
            fifo.push(
                [&frame(n + 10)[..9], &frame(n + 10)[9..]],
                held(frame(n + 10).len()),
            );
            assert_eq!(fifo.len(), 10);
            assert!(fifo.bytes.capacity() <= 2 * capacity);
            let octets: usize = (n + 1..n + 11).map(|n| frame(n).len() + 4).sum();
            assert_eq!(fifo.octets(), octets);
        }
        assert!(
            fifo.iter()
                .map(|(_, bytes)| bytes.to_vec())
                .eq((5000..5010).map(frame))
        );
        (0..10).for_each(|_| fifo.pop());
        assert!(fifo.is_empty() && fifo.front().is_none() && fifo.bytes.is_empty());
        fifo.pop();
        assert_eq!(fifo.octets(), 0);
    }
}
