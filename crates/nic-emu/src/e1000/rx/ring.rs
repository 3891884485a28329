//! The descriptors of one batch: taking them, and giving them back.

use guest_mem::{Access, DmaError, GuestMem, Reach, Words};

use super::super::desc::RxWord;
use crate::common::ring::{DESC, Ring};

/// Descriptors that are read at once from a ring that is not mapped.
const READ_AHEAD: u32 = 64;

/// Descriptors of one ring, one after the other.
///
/// In a mapped ring each is read when it is needed and written when it is done. A ring that is not mapped costs a
/// message per access: there a run of descriptors is read at once, kept for this batch, and those done are written back
/// at once ([`Descriptors::flush`]).
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    remote: bool,
    /// The run: index of its first descriptor, and all of them, first words and second words. Exists from its first
    /// use, never grows.
    start: u32,
    words: Vec<u64>,
    /// How many of the run are done, and how many of those are written back.
    done: usize,
    written: usize,
    /// Where the parts of a frame are joined, for a buffer that is not mapped.
    pub(super) scratch: Vec<u8>,
}

/// A descriptor that was read, and is to be given back when it is done.
pub(super) struct Taken<'m> {
    pub(super) buffer: u64,
    /// Where it is. Of rings that are not mapped, or not as usual, their address says it.
    words: Option<Words<'m>>,
}

impl Descriptors {
    /// Forgets what was read and not used: the driver may change it before the next batch.
    pub(super) fn begin(&mut self, mem: &GuestMem, ring: Option<Ring>) {
        self.words.clear();
        (self.done, self.written) = (0, 0);
        self.remote = !mem.has_no_remotes()
            && ring.is_some_and(|ring| {
                let bytes = u64::from(ring.len()) * DESC;
                mem.reach(ring.addr(0), bytes, Access::ReadWrite) == Ok(Reach::Remote)
            });
    }

    /// Reads descriptor `index`, the next one; `owned` may be read from there on.
    #[inline(always)]
    pub(super) fn take<'m>(
        &mut self,
        mem: &'m GuestMem,
        ring: Ring,
        index: u32,
        owned: u32,
    ) -> Result<Taken<'m>, DmaError> {
        let words = match self.remote {
            true => None,
            false => mem.words(ring.addr(index), 2),
        };
        let buffer = match &words {
            Some(words) => words.load(0),
            None => self.buffer_elsewhere(mem, ring, index, owned)?,
        };
        Ok(Taken { buffer, words })
    }

    #[cold]
    fn buffer_elsewhere(
        &mut self,
        mem: &GuestMem,
        ring: Ring,
        index: u32,
        owned: u32,
    ) -> Result<u64, DmaError> {
        match self.remote {
            true => self.buffer_remote(mem, ring, index, owned),
            false => mem.load_u64(ring.addr(index)),
        }
    }

    fn buffer_remote(
        &mut self,
        mem: &GuestMem,
        ring: Ring,
        index: u32,
        owned: u32,
    ) -> Result<u64, DmaError> {
        if 2 * self.done == self.words.len() {
            self.flush(mem, ring)?;
            if self.words.capacity() == 0 {
                self.words.reserve_exact(2 * READ_AHEAD as usize);
            }
            let run = owned.min(ring.run(index)).min(READ_AHEAD);
            self.words.resize(2 * run as usize, 0);
            (self.start, self.done, self.written) = (index, 0, 0);
            if let Err(error) = mem.read_u64s(ring.addr(index), &mut self.words) {
                self.words.clear();
                return Err(error);
            }
        }
        Ok(self.words[2 * self.done])
    }

    /// The descriptor last taken is done.
    #[inline(always)]
    pub(super) fn done(
        &mut self,
        mem: &GuestMem,
        ring: Ring,
        index: u32,
        taken: &Taken<'_>,
        word: RxWord,
    ) -> Result<(), DmaError> {
        match &taken.words {
            // The second word at once, and after the data: the driver polls DD.
            Some(words) => {
                words.store(1, word.into_bits());
                Ok(())
            }
            None => self.done_elsewhere(mem, ring, index, word),
        }
    }

    #[cold]
    fn done_elsewhere(
        &mut self,
        mem: &GuestMem,
        ring: Ring,
        index: u32,
        word: RxWord,
    ) -> Result<(), DmaError> {
        if !self.remote {
            return mem.store_u64(ring.addr(index).wrapping_add(8), word.into_bits());
        }
        self.words[2 * self.done + 1] = word.into_bits();
        self.done += 1;
        Ok(())
    }

    /// Writes back what is done. [`DmaError::Interrupted`] leaves it to the next call; what cannot be reached is given
    /// up.
    pub(super) fn flush(&mut self, mem: &GuestMem, ring: Ring) -> Result<(), DmaError> {
        if self.written == self.done {
            return Ok(());
        }
        let words = &self.words[2 * self.written..2 * self.done];
        let written = mem.write_u64s(ring.addr(self.start + self.written as u32), words);
        if written != Err(DmaError::Interrupted) {
            self.written = self.done;
        }
        written
    }
}
