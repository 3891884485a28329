//! Building a memory map.

use std::sync::Arc;

use thiserror::Error;

use crate::dirty::DirtyLog;
use crate::map::{Access, Backing, GuestMem, Range};
use crate::mapping::{Host, Mapping};
use crate::remote::Remote;

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

/// Collects the ranges of a [`GuestMem`], in any order.
#[derive(Default)]
pub struct Builder {
    ranges: Vec<Range>,
    remotes: Vec<Arc<dyn Remote>>,
    log: Option<Arc<DirtyLog>>,
}

impl Builder {
    /// Adds `len` bytes at DMA address `iova`, backed by `mapping` from its byte `offset`.
    #[must_use]
    pub fn map(
        self,
        iova: u64,
        len: u64,
        mapping: Arc<Mapping>,
        offset: u64,
        access: Access,
    ) -> Self {
        self.push(iova, len, access, Backing::Mapped { mapping, offset })
    }

    /// Adds `len` bytes at `iova` that are reached by asking `remote`, which is given the same addresses.
    #[must_use]
    pub fn remote(mut self, iova: u64, len: u64, access: Access, remote: Arc<dyn Remote>) -> Self {
        // Each is flushed once, however many ranges it has.
        if !self.remotes.iter().any(|known| Arc::ptr_eq(known, &remote)) {
            self.remotes.push(remote.clone());
        }
        self.push(iova, len, access, Backing::Remote(remote))
    }

    /// Adds `len` bytes at `iova` that exist and that we cannot reach.
    #[must_use]
    pub fn unreachable(self, iova: u64, len: u64, access: Access) -> Self {
        self.push(iova, len, access, Backing::Unreachable)
    }

    /// Notes every write through the map in `log`.
    #[must_use]
    pub fn dirty_log(mut self, log: Arc<DirtyLog>) -> Self {
        self.log = Some(log);
        self
    }

    fn push(mut self, start: u64, len: u64, access: Access, backing: Backing) -> Self {
        // A bad range keeps `last < start`, which `build` reports.
        let last = match len {
            0 => start.wrapping_sub(1),
            _ => start.checked_add(len - 1).unwrap_or(0),
        };
        self.ranges.push(Range {
            start,
            last,
            access,
            host: Host::NONE,
            backing,
        });
        self
    }

    /// The map of all ranges added.
    ///
    /// # Errors
    ///
    /// See [`BuildError`].
    pub fn build(mut self) -> Result<GuestMem, BuildError> {
        self.ranges.sort_by_key(|range| range.start);
        for range in &mut self.ranges {
            if range.last < range.start || (range.start == 0 && range.last == u64::MAX) {
                return Err(BuildError::BadRange(range.start));
            }
            if let Backing::Mapped { mapping, offset } = &range.backing {
                let len = range.last - range.start + 1;
                let fits = offset
                    .checked_add(len)
                    .is_some_and(|end| end <= mapping.len());
                if !fits || (range.access == Access::ReadWrite && !mapping.writable()) {
                    return Err(BuildError::BadMapping(range.start));
                }
                range.host = Host::new(mapping, *offset);
            }
        }
        if let Some(pair) = self
            .ranges
            .windows(2)
            .find(|pair| pair[0].last >= pair[1].start)
        {
            return Err(BuildError::Overlap(pair[1].start));
        }
        Ok(GuestMem::new(self.ranges, self.remotes, self.log))
    }
}
