//! Frames that are kept for a while, in order.

use std::collections::VecDeque;

/// Bytes at the start.
const INITIAL: usize = 16 * 1024;

/// A bounded queue of frames with a note each. Their bytes lie in one block of memory, which grows when it has to and is
/// used again: in the long run nothing is allocated.
pub(crate) struct Held<N> {
    /// Used as a ring, but each frame lies in one piece.
    bytes: Vec<u8>,
    entries: VecDeque<Entry<N>>,
    max_frames: usize,
    max_bytes: usize,
}

struct Entry<N> {
    start: usize,
    len: usize,
    note: N,
}

impl<N> Held<N> {
    /// An empty one, without memory yet.
    pub(crate) fn new(max_frames: usize, max_bytes: usize) -> Self {
        Self {
            bytes: Vec::new(),
            entries: VecDeque::new(),
            max_frames,
            max_bytes,
        }
    }

    /// Adds a frame of `len` bytes, which `fill` writes; returns whether there was room.
    pub(crate) fn push(&mut self, len: usize, note: N, fill: impl FnOnce(&mut [u8])) -> bool {
        if self.entries.len() == self.max_frames {
            return false;
        }
        let Some(start) = self.place(len).or_else(|| self.grow(len)) else {
            return false;
        };
        fill(&mut self.bytes[start..start + len]);
        self.entries.push_back(Entry { start, len, note });
        true
    }

    /// How many more frames fit, as far as only their number counts.
    pub(crate) fn room(&self) -> usize {
        self.max_frames - self.entries.len()
    }

    /// The oldest frame.
    pub(crate) fn front(&self) -> Option<(&[u8], &N)> {
        self.iter().next()
    }

    /// All frames, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &N)> {
        self.entries
            .iter()
            .map(|e| (&self.bytes[e.start..e.start + e.len], &e.note))
    }

    /// Forgets the oldest `count` frames.
    pub(crate) fn forget(&mut self, count: usize) {
        self.entries.drain(..count);
    }

    /// Where `len` bytes are free in one piece.
    fn place(&self, len: usize) -> Option<usize> {
        let (Some(first), Some(last)) = (self.entries.front(), self.entries.back()) else {
            return (len <= self.bytes.len()).then_some(0);
        };
        let end = last.start + last.len;
        if last.start < first.start {
            return (first.start - end >= len).then_some(end);
        }
        if self.bytes.len() - end >= len {
            return Some(end);
        }
        // Strictly, lest a full ring look like one that has not wrapped.
        (first.start > len).then_some(0)
    }

    /// Moves everything to a larger block; returns where `len` bytes are free there.
    fn grow(&mut self, len: usize) -> Option<usize> {
        let used: usize = self.entries.iter().map(|e| e.len).sum();
        let wanted = (used + len)
            .max(2 * self.bytes.len())
            .max(INITIAL)
            .min(self.max_bytes);
        if wanted < used + len || wanted == self.bytes.len() {
            return None;
        }
        let mut bytes = vec![0; wanted];
        let mut at = 0;
        for entry in &mut self.entries {
            let old = entry.start..entry.start + entry.len;
            bytes[at..at + entry.len].copy_from_slice(&self.bytes[old]);
            entry.start = at;
            at += entry.len;
        }
        self.bytes = bytes;
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        /// Against the plain thing: a queue of vectors.
        #[test]
        fn what_goes_in_comes_out(steps in proptest::collection::vec((1usize..3000, 0usize..4), 1..400)) {
            let mut held = Held::new(64, 48 * 1024);
            let mut plain = VecDeque::new();
            for (i, (len, forget)) in steps.into_iter().enumerate() {
                let frame = vec![i as u8; len];
                if held.push(len, i, |to| to.copy_from_slice(&frame)) {
                    plain.push_back((frame, i));
                } else {
                    // Only for a reason: too many, or not enough room even without the gap at the ring's end.
                    let used: usize = plain.iter().map(|(f, _)| f.len()).sum();
                    prop_assert!(plain.len() == 64 || used + len + 2 * 3000 > 48 * 1024);
                }
                prop_assert!(held.bytes.len() <= 48 * 1024);
                let forget = if i % 3 == 0 { forget.min(plain.len()) } else { 0 };
                held.forget(forget);
                plain.drain(..forget);
                let ours: Vec<_> = held.iter().map(|(f, n)| (f.to_vec(), *n)).collect();
                prop_assert_eq!(&ours, &plain.iter().cloned().collect::<Vec<_>>());
            }
        }
    }
}
