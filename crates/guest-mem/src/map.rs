//! The memory map: sorted ranges of DMA addresses.

use std::fmt;
use std::sync::Arc;

use zerocopy::IntoBytes;

use crate::access::{self, GuestSlice};
use crate::build::Builder;
use crate::dirty::DirtyLog;
use crate::mapping::{Host, Mapping};
use crate::remote::{DmaError, Remote};

/// What a device may do with a range, and what it is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads only (ROM, shadowed areas).
    Read,
    /// Reads and writes.
    ReadWrite,
}

/// What is behind a range.
#[derive(Clone)]
pub(crate) enum Backing {
    /// Memory of this process, from byte `offset` of `mapping`.
    Mapped { mapping: Arc<Mapping>, offset: u64 },
    /// Somebody who has to be asked.
    Remote(Arc<dyn Remote>),
    /// Nothing that we could reach.
    Unreachable,
}

#[derive(Clone)]
pub(crate) struct Range {
    pub(crate) start: u64,
    /// Last address, inclusive: a range may end at the top of the address space.
    pub(crate) last: u64,
    pub(crate) access: Access,
    /// Where `start` is in this process, if it is mapped.
    pub(crate) host: Host,
    pub(crate) backing: Backing,
}

/// How memory is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All of it is mapped into this process: [`GuestMem::slices`] lends it.
    Mapped,
    /// For some of it somebody has to be asked: it can be read and written, not lent.
    Remote,
}

/// A part of one range.
enum Piece<'m> {
    Mapped(*mut u8),
    Remote(&'m dyn Remote),
}

/// A snapshot of one VM's memory map. Cloning is cheap and keeps the mappings alive.
#[derive(Clone)]
pub struct GuestMem {
    ranges: Arc<[Range]>,
    /// Everybody who may have to be asked, once.
    remotes: Arc<[Arc<dyn Remote>]>,
    log: Option<Arc<DirtyLog>>,
    /// Those who would have to be waited for are not asked.
    nonblocking: bool,
}

impl GuestMem {
    pub(crate) fn new(
        ranges: Vec<Range>,
        remotes: Vec<Arc<dyn Remote>>,
        log: Option<Arc<DirtyLog>>,
    ) -> Self {
        Self {
            ranges: ranges.into(),
            remotes: remotes.into(),
            log,
            nonblocking: false,
        }
    }

    /// A map with nothing in it.
    pub fn empty() -> Self {
        Self::new(Vec::new(), Vec::new(), None)
    }

    /// Starts a new map.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The same map for a thread that may not wait: ranges whose [`Remote`] blocks are unreachable in it.
    #[must_use]
    pub fn nonblocking(&self) -> Self {
        let quick = |remote: &&Arc<dyn Remote>| !remote.blocks();
        Self {
            remotes: self.remotes.iter().filter(quick).cloned().collect(),
            nonblocking: true,
            ..self.clone()
        }
    }

    /// Whether there is nobody to ask: [`reach`](Self::reach) answers [`Reach::Mapped`] for all that can be reached.
    #[inline]
    pub fn has_no_remotes(&self) -> bool {
        self.remotes.is_empty()
    }

    /// Whether a file behind this memory has shrunk, and zeros have taken its place: see [`sigbus`](crate::sigbus).
    pub fn is_broken(&self) -> bool {
        self.ranges.iter().any(|range| match &range.backing {
            Backing::Mapped { mapping, .. } => mapping.is_broken(),
            _ => false,
        })
    }

    /// Fills `to` from guest memory at `addr`; reads all bytes or none. (If a remote fails, some bytes of `to` may have
    /// been filled.)
    ///
    /// # Errors
    ///
    /// [`DmaError::Unreachable`] if any byte is, and what a remote says.
    pub fn read(&self, addr: u64, to: &mut [u8]) -> Result<(), DmaError> {
        if let Some((ptr, room)) = self.find(addr, Access::Read)
            && to.len() as u64 <= room
        {
            access::copy_out(ptr, to);
            return Ok(());
        }
        self.read_pieces(addr, to)
    }

    #[cold]
    fn read_pieces(&self, addr: u64, to: &mut [u8]) -> Result<(), DmaError> {
        self.check(addr, to.len() as u64, Access::Read)?;
        let mut rest = to;
        self.walk(addr, rest.len() as u64, Access::Read, |piece, at, n| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(n);
            rest = later;
            match piece {
                Piece::Mapped(ptr) => access::copy_out(ptr, now),
                Piece::Remote(remote) => remote.read(at, now)?,
            }
            Ok(())
        })
    }

    /// Copies `from` to guest memory at `addr`; writes all bytes or none. (If a remote fails, what lies before its range
    /// has been written.) What goes to a remote arrives in the order of these calls, at the latest with
    /// [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// [`DmaError::Unreachable`] if any byte is, or may not be written, and what a remote says.
    pub fn write(&self, addr: u64, from: &[u8]) -> Result<(), DmaError> {
        if let Some((ptr, room)) = self.find(addr, Access::ReadWrite)
            && from.len() as u64 <= room
        {
            access::copy_in(from, ptr);
            self.mark_written(addr, from.len() as u64);
            return Ok(());
        }
        self.write_pieces(addr, from)
    }

    #[cold]
    fn write_pieces(&self, addr: u64, from: &[u8]) -> Result<(), DmaError> {
        self.check(addr, from.len() as u64, Access::ReadWrite)?;
        let mut rest = from;
        self.walk(
            addr,
            rest.len() as u64,
            Access::ReadWrite,
            |piece, at, n| {
                let (now, later) = rest.split_at(n);
                rest = later;
                match piece {
                    Piece::Mapped(ptr) => access::copy_in(now, ptr),
                    Piece::Remote(remote) => remote.write(at, now)?,
                }
                self.mark_written(at, n as u64);
                Ok(())
            },
        )
    }

    /// Fills `to` with little-endian 64-bit words from `addr`. Each word is read at once (if `addr` is a multiple
    /// of 8, as descriptors always are), in ascending order, and what its writer wrote before is visible after. A
    /// remote is asked for all words at once, and keeps this order if it reads as a bus would.
    ///
    /// # Errors
    ///
    /// [`DmaError::Unreachable`] if any byte is, and what a remote says.
    #[inline]
    pub fn read_u64s(&self, addr: u64, to: &mut [u64]) -> Result<(), DmaError> {
        if let Some((ptr, room)) = self.find(addr, Access::Read)
            && size_of_val(to) as u64 <= room
            && ptr.cast::<u64>().is_aligned()
        {
            for (i, word) in to.iter_mut().enumerate() {
                *word = access::load_u64(ptr.wrapping_add(8 * i));
            }
            return Ok(());
        }
        self.read_pieces(addr, to.as_mut_bytes())?;
        for word in to {
            *word = u64::from_le(*word);
        }
        Ok(())
    }

    /// Reads a little-endian 64-bit word as [`read_u64s`](Self::read_u64s) does.
    ///
    /// # Errors
    ///
    /// As [`read_u64s`](Self::read_u64s).
    #[inline(always)]
    pub fn load_u64(&self, addr: u64) -> Result<u64, DmaError> {
        match self.find(addr, Access::Read) {
            Some((ptr, room)) if room >= 8 && ptr.cast::<u64>().is_aligned() => {
                Ok(access::load_u64(ptr))
            }
            _ => {
                let mut bytes = [0; 8];
                self.read_pieces(addr, &mut bytes)?;
                Ok(u64::from_le_bytes(bytes))
            }
        }
    }

    /// `len` little-endian 64-bit words at `addr`, to be read and written one by one, if they are mapped writable in one
    /// piece and `addr` is a multiple of 8: descriptors nearly always are.
    #[inline(always)]
    pub fn words(&self, addr: u64, len: usize) -> Option<Words<'_>> {
        let (ptr, room) = self.find(addr, Access::ReadWrite)?;
        let fits = len as u64 <= room / 8 && ptr.cast::<u64>().is_aligned();
        fits.then_some(Words {
            ptr,
            len,
            addr,
            mem: self,
        })
    }

    /// Copies the bytes of all `chunks`, one after the other, to guest memory at `addr`; writes all bytes or none, as
    /// [`write`](Self::write) does. A remote gets them in one piece: `scratch` is where they are joined for it.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    #[inline(always)]
    pub fn write_chunks(
        &self,
        addr: u64,
        chunks: &[&[u8]],
        scratch: &mut Vec<u8>,
    ) -> Result<(), DmaError> {
        let len: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        if let Some((mut ptr, room)) = self.find(addr, Access::ReadWrite)
            && len as u64 <= room
        {
            for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                access::copy_in(chunk, ptr);
                ptr = ptr.wrapping_add(chunk.len());
            }
            self.mark_written(addr, len as u64);
            return Ok(());
        }
        self.write_joined(addr, chunks, scratch)
    }

    #[cold]
    fn write_joined(
        &self,
        addr: u64,
        chunks: &[&[u8]],
        scratch: &mut Vec<u8>,
    ) -> Result<(), DmaError> {
        scratch.clear();
        for chunk in chunks {
            scratch.extend_from_slice(chunk);
        }
        self.write_pieces(addr, scratch)
    }

    /// Copies little-endian 64-bit words to `addr`: each at once (if `addr` is a multiple of 8), in ascending order, and
    /// after everything written before. A remote gets them in one piece, and keeps this order if it writes as a bus
    /// would.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn write_u64s(&self, addr: u64, from: &[u64]) -> Result<(), DmaError> {
        if let Some((ptr, room)) = self.find(addr, Access::ReadWrite)
            && size_of_val(from) as u64 <= room
            && ptr.cast::<u64>().is_aligned()
        {
            for (i, word) in from.iter().enumerate() {
                access::store_u64(ptr.wrapping_add(8 * i), *word);
            }
            self.mark_written(addr, size_of_val(from) as u64);
            return Ok(());
        }
        if cfg!(target_endian = "little") {
            return self.write_pieces(addr, from.as_bytes());
        }
        self.check(addr, size_of_val(from) as u64, Access::ReadWrite)?;
        let mut words = from.iter().zip((addr..).step_by(8));
        words.try_for_each(|(word, at)| self.write(at, &word.to_le_bytes()))
    }

    /// Publishes a little-endian 64-bit word: at once, and after everything written before, if `addr` is a
    /// multiple of 8.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    #[inline(always)]
    pub fn store_u64(&self, addr: u64, value: u64) -> Result<(), DmaError> {
        match self.find(addr, Access::ReadWrite) {
            Some((ptr, room)) if room >= 8 && ptr.cast::<u64>().is_aligned() => {
                access::store_u64(ptr, value);
                self.mark_written(addr, 8);
                Ok(())
            }
            _ => self.write(addr, &value.to_le_bytes()),
        }
    }

    /// Publishes a little-endian 32-bit word: at once, and after everything written before, if `addr` is a
    /// multiple of 4.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    #[inline(always)]
    pub fn store_u32(&self, addr: u64, value: u32) -> Result<(), DmaError> {
        match self.find(addr, Access::ReadWrite) {
            Some((ptr, room)) if room >= 4 && ptr.cast::<u32>().is_aligned() => {
                access::store_u32(ptr, value);
                self.mark_written(addr, 4);
                Ok(())
            }
            _ => self.write(addr, &value.to_le_bytes()),
        }
    }

    /// Publishes one byte after everything written before.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn store_u8(&self, addr: u64, value: u8) -> Result<(), DmaError> {
        match self.find(addr, Access::ReadWrite) {
            Some((ptr, _)) => {
                access::store_u8(ptr, value);
                self.mark_written(addr, 1);
                Ok(())
            }
            None => self.write(addr, &[value]),
        }
    }

    /// Waits until everything written through remotes has arrived: to be called before the guest is interrupted, or
    /// told in a register, because of it. Costs nothing if there are none.
    ///
    /// # Errors
    ///
    /// [`DmaError::Interrupted`]: call again after the epoch. That somebody has gone is no error here: nothing that
    /// was written can arrive any more, and nobody waits for it.
    pub fn flush(&self) -> Result<(), DmaError> {
        for remote in &*self.remotes {
            match remote.flush() {
                Ok(()) | Err(DmaError::Unreachable { .. }) => {}
                Err(DmaError::Interrupted) => return Err(DmaError::Interrupted),
            }
        }
        Ok(())
    }

    /// The `len` bytes at `addr`, to be read, if they are mapped in one piece: what [`slices`](Self::slices) hands out
    /// nearly always.
    #[inline(always)]
    pub fn slice(&self, addr: u64, len: u64) -> Option<GuestSlice<'_>> {
        let (ptr, room) = self.find(addr, Access::Read)?;
        (len <= room).then(|| GuestSlice::new(ptr, len as usize))
    }

    /// Hands out the pieces of this process's memory that back `len` bytes at `addr`, in ascending order.
    ///
    /// Whoever lets somebody write to slices lent for [`Access::ReadWrite`] calls [`mark_written`](Self::mark_written)
    /// afterwards.
    ///
    /// # Errors
    ///
    /// [`DmaError::Unreachable`] if any byte is not mapped ([`reach`](Self::reach) says whether it can be read and
    /// written all the same); the pieces before it have been handed out then.
    #[inline]
    pub fn slices<'m>(
        &'m self,
        addr: u64,
        len: u64,
        access: Access,
        mut each: impl FnMut(GuestSlice<'m>),
    ) -> Result<(), DmaError> {
        self.walk(addr, len, access, |piece, _, n| match piece {
            Piece::Mapped(ptr) => {
                each(GuestSlice::new(ptr, n));
                Ok(())
            }
            Piece::Remote(_) => Err(DmaError::Unreachable { addr }),
        })
    }

    /// Notes that `len` bytes at `addr` have been written: by somebody who was lent slices of them. All other writes
    /// note it themselves. To be called after the bytes are written and never before: a page that is reported between
    /// mark and write would be copied without the write, and never again.
    #[inline]
    pub fn mark_written(&self, addr: u64, len: u64) {
        if let Some(log) = &self.log {
            log.mark(addr, len);
        }
    }

    /// How `len` bytes at `addr` can be reached for `access`.
    ///
    /// # Errors
    ///
    /// [`DmaError::Unreachable`] if any byte cannot.
    pub fn reach(&self, addr: u64, len: u64, access: Access) -> Result<Reach, DmaError> {
        let mut reach = Reach::Mapped;
        self.walk(addr, len, access, |piece, _, _| {
            if let Piece::Remote(_) = piece {
                reach = Reach::Remote;
            }
            Ok(())
        })?;
        Ok(reach)
    }

    /// Whether `len` bytes at `addr` can be reached for `access`.
    ///
    /// # Errors
    ///
    /// [`DmaError::Unreachable`] if any byte cannot.
    pub fn check(&self, addr: u64, len: u64, access: Access) -> Result<(), DmaError> {
        self.reach(addr, len, access).map(drop)
    }

    /// Calls `each` for every part of `len` bytes at `addr`, with its address and length.
    #[inline]
    fn walk<'m>(
        &'m self,
        addr: u64,
        len: u64,
        access: Access,
        mut each: impl FnMut(Piece<'m>, u64, usize) -> Result<(), DmaError>,
    ) -> Result<(), DmaError> {
        let unreachable = DmaError::Unreachable { addr };
        let mut at = addr;
        let mut left = len;
        while left > 0 {
            let range = self.range(at, access).ok_or(unreachable)?;
            let n = left.min(range.last - at + 1);
            let piece = match (range.host.at(at - range.start), &range.backing) {
                (Some(ptr), _) => Piece::Mapped(ptr),
                (None, Backing::Remote(remote)) if !(self.nonblocking && remote.blocks()) => {
                    Piece::Remote(&**remote)
                }
                (None, _) => return Err(unreachable),
            };
            each(piece, at, usize::try_from(n).map_err(|_| unreachable)?)?;
            left -= n;
            if left > 0 {
                at = at.checked_add(n).ok_or(unreachable)?;
            }
        }
        Ok(())
    }

    /// Pointer to `addr`, if it is mapped, and the number of bytes from there to the end of its range.
    #[inline(always)]
    fn find(&self, addr: u64, access: Access) -> Option<(*mut u8, u64)> {
        let range = self.range(addr, access)?;
        let ptr = range.host.at(addr - range.start)?;
        Some((ptr, range.last - addr + 1))
    }

    /// The range of `addr`, if it may be accessed so.
    #[inline(always)]
    fn range(&self, addr: u64, access: Access) -> Option<&Range> {
        let after = self.ranges.partition_point(|range| range.start <= addr);
        let range = self.ranges.get(after.checked_sub(1)?)?;
        let allowed = access == Access::Read || range.access == Access::ReadWrite;
        (addr <= range.last && allowed).then_some(range)
    }
}

/// Words of guest memory that have been looked up once ([`GuestMem::words`]).
#[derive(Clone, Copy, Debug)]
pub struct Words<'m> {
    ptr: *mut u8,
    len: usize,
    addr: u64,
    mem: &'m GuestMem,
}

impl Words<'_> {
    /// Reads a word at once; what its writer wrote before is visible after.
    ///
    /// # Panics
    ///
    /// If there is no word `index`.
    #[inline(always)]
    pub fn load(&self, index: usize) -> u64 {
        assert!(index < self.len);
        access::load_u64(self.ptr.wrapping_add(8 * index))
    }

    /// Publishes a word: at once, and after everything written before.
    ///
    /// # Panics
    ///
    /// If there is no word `index`.
    #[inline(always)]
    pub fn store(&self, index: usize, value: u64) {
        assert!(index < self.len);
        access::store_u64(self.ptr.wrapping_add(8 * index), value);
        self.mem.mark_written(self.addr + 8 * index as u64, 8);
    }

    /// Publishes the upper half of a word, as [`store`](Self::store) does.
    ///
    /// # Panics
    ///
    /// If there is no word `index`.
    #[inline(always)]
    pub fn store_high(&self, index: usize, value: u32) {
        assert!(index < self.len);
        access::store_u32(self.ptr.wrapping_add(8 * index + 4), value);
        self.mem.mark_written(self.addr + 8 * index as u64 + 4, 4);
    }
}

impl fmt::Debug for GuestMem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.ranges.iter().map(|r| {
                let kind = match r.backing {
                    Backing::Mapped { .. } => "mapped",
                    Backing::Remote(_) => "remote",
                    Backing::Unreachable => "unreachable",
                };
                format!("{:#x}..={:#x} {:?} {kind}", r.start, r.last, r.access)
            }))
            .finish()
    }
}
