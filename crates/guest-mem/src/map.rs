//! The memory map: sorted ranges of DMA addresses.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::access::{self, GuestSlice};
use crate::mapping::Mapping;

/// What a device may do with a range, and what it is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads only (ROM, shadowed areas).
    Read,
    /// Reads and writes.
    ReadWrite,
}

/// The address range cannot be reached by DMA: nothing is mapped there, it may not be written, its memory was not
/// shared with us, or it wraps around the end of the address space. Nothing was read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("guest memory at {addr:#x} cannot be reached")]
pub struct Unreachable {
    /// First address of the access that failed.
    pub addr: u64,
}

/// A memory map that cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BuildError {
    /// A range is empty or wraps around the end of the 64-bit address space.
    #[error("the range at {0:#x} is empty or wraps around")]
    BadRange(u64),
    /// Two ranges overlap.
    #[error("the range at {0:#x} overlaps another")]
    Overlap(u64),
    /// A range reaches beyond its mapping, or is to be written through a read-only one.
    #[error("the range at {0:#x} does not fit its mapping")]
    BadMapping(u64),
}

#[derive(Clone)]
struct Range {
    start: u64,
    /// Last address, inclusive: a range may end at the top of the address space.
    last: u64,
    access: Access,
    /// Where `start` is in this process; none if the memory was not shared with us.
    host: Option<Host>,
}

#[derive(Clone)]
struct Host {
    mapping: Arc<Mapping>,
    offset: u64,
}

impl Range {
    /// Pointer to `addr`, which must be in the range.
    fn at(&self, addr: u64) -> Option<*mut u8> {
        self.host
            .as_ref()
            .map(|host| host.mapping.at(host.offset + (addr - self.start)))
    }
}

/// A snapshot of one VM's memory map. Cloning is cheap and keeps the mappings alive.
#[derive(Clone)]
pub struct GuestMem {
    ranges: Arc<[Range]>,
}

/// Collects the ranges of a [`GuestMem`], in any order.
#[derive(Default)]
pub struct Builder {
    ranges: Vec<Range>,
}

impl Builder {
    /// Adds `len` bytes at DMA address `iova`, backed by `mapping` from its byte `offset`.
    #[must_use]
    pub fn map(
        mut self,
        iova: u64,
        len: u64,
        mapping: Arc<Mapping>,
        offset: u64,
        access: Access,
    ) -> Self {
        let host = Some(Host { mapping, offset });
        self.push(iova, len, access, host);
        self
    }

    /// Adds `len` bytes at `iova` that exist and that we cannot reach.
    #[must_use]
    pub fn unreachable(mut self, iova: u64, len: u64, access: Access) -> Self {
        self.push(iova, len, access, None);
        self
    }

    fn push(&mut self, start: u64, len: u64, access: Access, host: Option<Host>) {
        // A bad range keeps `last < start`, which `build` reports.
        let last = match len {
            0 => start.wrapping_sub(1),
            _ => start.checked_add(len - 1).unwrap_or(0),
        };
        self.ranges.push(Range {
            start,
            last,
            access,
            host,
        });
    }

    /// The map of all ranges added.
    ///
    /// # Errors
    ///
    /// See [`BuildError`].
    pub fn build(mut self) -> Result<GuestMem, BuildError> {
        self.ranges.sort_by_key(|range| range.start);
        for range in &self.ranges {
            if range.last < range.start || (range.start == 0 && range.last == u64::MAX) {
                return Err(BuildError::BadRange(range.start));
            }
            if let Some(host) = &range.host {
                let len = range.last - range.start + 1;
                let fits = host
                    .offset
                    .checked_add(len)
                    .is_some_and(|end| end <= host.mapping.len());
                if !fits || (range.access == Access::ReadWrite && !host.mapping.writable()) {
                    return Err(BuildError::BadMapping(range.start));
                }
            }
        }
        if let Some(pair) = self
            .ranges
            .windows(2)
            .find(|pair| pair[0].last >= pair[1].start)
        {
            return Err(BuildError::Overlap(pair[1].start));
        }
        Ok(GuestMem {
            ranges: self.ranges.into(),
        })
    }
}

impl GuestMem {
    /// A map with nothing in it.
    pub fn empty() -> Self {
        Self {
            ranges: Arc::new([]),
        }
    }

    /// Starts a new map.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Fills `to` from guest memory at `addr`; reads all bytes or none.
    ///
    /// # Errors
    ///
    /// [`Unreachable`] if any byte is.
    pub fn read(&self, addr: u64, to: &mut [u8]) -> Result<(), Unreachable> {
        if let Some((ptr, room)) = self.find(addr, Access::Read)
            && to.len() as u64 <= room
        {
            access::copy_out(ptr, to);
            return Ok(());
        }
        let mut done = 0;
        self.check(addr, to.len() as u64, Access::Read)?;
        self.slices(addr, to.len() as u64, Access::Read, |slice| {
            done += slice.copy_to(&mut to[done..]);
        })
    }

    /// Copies `from` to guest memory at `addr`; writes all bytes or none.
    ///
    /// # Errors
    ///
    /// [`Unreachable`] if any byte is, or may not be written.
    pub fn write(&self, addr: u64, from: &[u8]) -> Result<(), Unreachable> {
        if let Some((ptr, room)) = self.find(addr, Access::ReadWrite)
            && from.len() as u64 <= room
        {
            access::copy_in(from, ptr);
            return Ok(());
        }
        self.check(addr, from.len() as u64, Access::ReadWrite)?;
        let mut rest = from;
        self.slices(addr, from.len() as u64, Access::ReadWrite, |slice| {
            let (now, later) = rest.split_at(slice.len());
            access::copy_in(now, slice.as_ptr().cast_mut());
            rest = later;
        })
    }

    /// Fills `to` with little-endian 64-bit words from `addr`. Each word is read at once (if `addr` is a multiple
    /// of 8, as descriptors always are), in ascending order, and what its writer wrote before is visible after.
    ///
    /// # Errors
    ///
    /// [`Unreachable`] if any byte is.
    pub fn read_u64s(&self, addr: u64, to: &mut [u64]) -> Result<(), Unreachable> {
        if let Some((ptr, room)) = self.find(addr, Access::Read)
            && size_of_val(to) as u64 <= room
            && ptr.cast::<u64>().is_aligned()
        {
            for (i, word) in to.iter_mut().enumerate() {
                *word = access::load_u64(ptr.wrapping_add(8 * i));
            }
            return Ok(());
        }
        let mut at = addr;
        self.check(addr, size_of_val(to) as u64, Access::Read)?;
        for word in to {
            let mut bytes = [0; 8];
            self.read(at, &mut bytes)?;
            *word = u64::from_le_bytes(bytes);
            at = at.wrapping_add(8);
        }
        Ok(())
    }

    /// Publishes a little-endian 64-bit word: at once, and after everything written before, if `addr` is a
    /// multiple of 8.
    ///
    /// # Errors
    ///
    /// [`Unreachable`] if any byte is, or may not be written.
    pub fn store_u64(&self, addr: u64, value: u64) -> Result<(), Unreachable> {
        match self.find(addr, Access::ReadWrite) {
            Some((ptr, room)) if room >= 8 && ptr.cast::<u64>().is_aligned() => {
                access::store_u64(ptr, value);
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
    /// [`Unreachable`] if any byte is, or may not be written.
    pub fn store_u32(&self, addr: u64, value: u32) -> Result<(), Unreachable> {
        match self.find(addr, Access::ReadWrite) {
            Some((ptr, room)) if room >= 4 && ptr.cast::<u32>().is_aligned() => {
                access::store_u32(ptr, value);
                Ok(())
            }
            _ => self.write(addr, &value.to_le_bytes()),
        }
    }

    /// Publishes one byte after everything written before.
    ///
    /// # Errors
    ///
    /// [`Unreachable`] if it is, or may not be written.
    pub fn store_u8(&self, addr: u64, value: u8) -> Result<(), Unreachable> {
        let (ptr, _) = self
            .find(addr, Access::ReadWrite)
            .ok_or(Unreachable { addr })?;
        access::store_u8(ptr, value);
        Ok(())
    }

    /// Hands out the pieces of this process's memory that back `len` bytes at `addr`, in ascending order.
    ///
    /// # Errors
    ///
    /// [`Unreachable`] if any byte is; the pieces before it have been handed out then.
    pub fn slices<'m>(
        &'m self,
        addr: u64,
        len: u64,
        access: Access,
        mut each: impl FnMut(GuestSlice<'m>),
    ) -> Result<(), Unreachable> {
        let mut at = addr;
        let mut left = len;
        while left > 0 {
            let (ptr, room) = self.find(at, access).ok_or(Unreachable { addr })?;
            let n = left.min(room);
            each(GuestSlice::new(
                ptr,
                usize::try_from(n).map_err(|_| Unreachable { addr })?,
            ));
            left -= n;
            if left > 0 {
                at = at.checked_add(n).ok_or(Unreachable { addr })?;
            }
        }
        Ok(())
    }

    /// Whether `len` bytes at `addr` can be reached for `access`.
    ///
    /// # Errors
    ///
    /// [`Unreachable`] if any byte cannot.
    pub fn check(&self, addr: u64, len: u64, access: Access) -> Result<(), Unreachable> {
        self.slices(addr, len, access, |_| ())
    }

    /// Pointer to `addr` and the number of bytes from there to the end of its range.
    fn find(&self, addr: u64, access: Access) -> Option<(*mut u8, u64)> {
        let after = self.ranges.partition_point(|range| range.start <= addr);
        let range = self.ranges.get(after.checked_sub(1)?)?;
        if addr > range.last || (access == Access::ReadWrite && range.access == Access::Read) {
            return None;
        }
        Some((range.at(addr)?, range.last - addr + 1))
    }
}

impl fmt::Debug for GuestMem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.ranges.iter().map(|r| {
                let kind = if r.host.is_some() {
                    "mapped"
                } else {
                    "unreachable"
                };
                format!("{:#x}..={:#x} {:?} {kind}", r.start, r.last, r.access)
            }))
            .finish()
    }
}
