//! The descriptors of one burst: reading them, and writing back what is done.

use arrayvec::ArrayVec;
use guest_mem::{Access, DmaError, GuestMem, Reach};

use super::super::counters::Counters;
use super::super::desc::{TxDesc, TxWord};
use super::BUDGET;
use crate::Interrupted;
use crate::common::ring::{DESC, Ring};

/// Descriptors that are read from a mapped ring at once.
const READ_AHEAD: usize = 16;

/// A descriptor to write back.
#[derive(Clone, Copy, Debug)]
struct Done {
    index: u32,
    /// Its place in the burst.
    at: u32,
    word: u32,
}

/// A cached run of descriptors of a mapped ring.
pub(super) struct Window {
    words: [u64; 2 * READ_AHEAD],
    start: u32,
    len: u32,
}

impl Window {
    /// An empty one.
    #[inline]
    pub(super) fn new() -> Self {
        Self {
            words: [0; 2 * READ_AHEAD],
            start: 0,
            len: 0,
        }
    }

    #[inline]
    fn get(
        &mut self,
        mem: &GuestMem,
        ring: Ring,
        index: u32,
        left: u32,
    ) -> Result<TxDesc, DmaError> {
        if index < self.start || index >= self.start + self.len {
            let len = left.min(ring.run(index)).min(READ_AHEAD as u32);
            let read = |words: &mut [u64]| mem.read_u64s(ring.addr(index), words);
            (self.start, self.len) = (index, len);
            if read(&mut self.words[..2 * len as usize]).is_err() {
                // The run may straddle the end of RAM: what can be reached still counts.
                self.len = 0;
                read(&mut self.words[..2])?;
                self.len = 1;
            }
        }
        Ok(descriptor(&self.words[2 * (index - self.start) as usize..]))
    }
}

#[inline]
fn descriptor(words: &[u64]) -> TxDesc {
    TxDesc {
        addr: words[0],
        word: TxWord::from_bits(words[1]),
    }
}

/// The descriptors of one burst.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    ring: Option<Ring>,
    done: ArrayVec<Done, BUDGET>,
    /// How many of `done` have been written back.
    written: usize,
    /// The ring is not mapped: each access is a message, so there are to be few.
    remote: bool,
    /// The descriptors of such a ring from the first of the burst on, as far as they have been read. Exists from the
    /// first use, never grows.
    words: Vec<u64>,
}

impl Descriptors {
    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.done.clear();
        self.words.clear();
        self.written = 0;
    }

    /// Starts a burst.
    pub(super) fn begin(&mut self, mem: &GuestMem, ring: Ring) {
        self.ring = Some(ring);
        let bytes = u64::from(ring.len()) * DESC;
        self.remote = !mem.has_no_remotes()
            && mem.reach(ring.addr(0), bytes, Access::Read) == Ok(Reach::Remote);
    }

    /// Descriptor `index`, which is number `at` of the burst; `left` may be read from there on.
    #[inline]
    pub(super) fn get(
        &mut self,
        window: &mut Window,
        mem: &GuestMem,
        ring: Ring,
        index: u32,
        at: u32,
        left: u32,
    ) -> Result<TxDesc, DmaError> {
        if self.remote {
            return self.get_remote(mem, ring, index, at as usize, left);
        }
        window.get(mem, ring, index, left)
    }

    #[cold]
    fn get_remote(
        &mut self,
        mem: &GuestMem,
        ring: Ring,
        index: u32,
        at: usize,
        left: u32,
    ) -> Result<TxDesc, DmaError> {
        let read = self.words.len() / 2;
        if at == read {
            if self.words.capacity() == 0 {
                self.words.reserve_exact(2 * BUDGET);
            }
            let more = left.min(ring.run(index)).min((BUDGET - read) as u32) as usize;
            self.words.resize(2 * (read + more), 0);
            if let Err(error) = mem.read_u64s(ring.addr(index), &mut self.words[2 * read..]) {
                self.words.truncate(2 * read);
                return Err(error);
            }
        }
        Ok(descriptor(&self.words[2 * at..]))
    }

    /// Notes that `desc` is to be written back.
    #[inline]
    pub(super) fn push(&mut self, index: u32, at: u32, desc: &TxDesc) {
        self.done.push(Done {
            index,
            at,
            word: desc.done(),
        });
    }

    /// Writes back the first `count`, from where it was interrupted. None is ever written twice: the driver may have
    /// used it again.
    pub(super) fn write_back(
        &mut self,
        mem: &GuestMem,
        count: usize,
        counters: &Counters,
    ) -> Result<(), Interrupted> {
        let Some(ring) = self.ring else {
            return Ok(());
        };
        if self.remote {
            return self.write_back_runs(mem, ring, count, counters);
        }
        let Some(words) = mem.words(ring.addr(0), 2 * ring.len() as usize) else {
            return self.write_back_singly(mem, ring, count, counters);
        };
        // Only the upper dword: the driver may look for its buffer's address in the rest.
        for done in &self.done[self.written..count] {
            words.store_high(2 * done.index as usize + 1, done.word);
        }
        self.written = count;
        Ok(())
    }

    /// As [`write_back`](Self::write_back), to a ring that is not one piece of memory that can be written.
    #[cold]
    fn write_back_singly(
        &mut self,
        mem: &GuestMem,
        ring: Ring,
        count: usize,
        counters: &Counters,
    ) -> Result<(), Interrupted> {
        for at in self.written..count {
            let done = &self.done[at];
            let addr = ring.addr(done.index).wrapping_add(12);
            match mem.store_u32(addr, done.word) {
                Ok(()) => {}
                Err(DmaError::Unreachable { .. }) => counters.dma_unreachable.add(1),
                Err(DmaError::Interrupted) => {
                    self.written = at;
                    return Err(Interrupted);
                }
            }
        }
        self.written = count;
        Ok(())
    }

    /// One write for each run of the ring: from the first to the last that is done. Those between go back as they were
    /// read, for as long as they are ours nobody else writes them.
    #[cold]
    fn write_back_runs(
        &mut self,
        mem: &GuestMem,
        ring: Ring,
        count: usize,
        counters: &Counters,
    ) -> Result<(), Interrupted> {
        while let Some(&first) = self.done[..count].get(self.written) {
            let run = self.done[self.written..count]
                .iter()
                .take_while(|done| done.index >= first.index);
            let mut last = first;
            let mut members = 0;
            for done in run {
                let word = &mut self.words[2 * done.at as usize + 1];
                *word = u64::from(done.word) << 32 | *word & u64::from(u32::MAX);
                last = *done;
                members += 1;
            }
            let words = &self.words[2 * first.at as usize..2 * (last.at as usize + 1)];
            match mem.write_u64s(ring.addr(first.index), words) {
                Ok(()) => {}
                Err(DmaError::Unreachable { .. }) => counters.dma_unreachable.add(1),
                Err(DmaError::Interrupted) => return Err(Interrupted),
            }
            self.written += members;
        }
        Ok(())
    }
}
