//! Which pages of guest memory a device has written, for a hypervisor that migrates the guest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use thiserror::Error;
use zerocopy::FromZeros;

/// Smallest page that is logged, in bytes.
pub const MIN_PAGE_SIZE: u64 = 4096;
/// Most pages of one log: 4 TiB of guest memory in pages of 4 KiB.
pub const MAX_PAGES: u64 = 1 << 30;

/// A log that cannot be made, or not be asked like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LogError {
    /// The page size is not a power of two, or less than [`MIN_PAGE_SIZE`].
    #[error("pages of {0} bytes cannot be logged")]
    PageSize(u64),
    /// The ranges have more than [`MAX_PAGES`], or the host has no memory for so many bits.
    #[error("the ranges to log have too many pages")]
    TooLarge,
    /// A range is empty, wraps around, or overlaps another.
    #[error("the range at {0:#x} cannot be logged")]
    BadRange(u64),
    /// A range of which not all is logged.
    #[error("the range at {0:#x} is not logged")]
    NotLogged(u64),
    /// The bitmap to report into has not one bit per page.
    #[error("the bitmap has no room for all pages")]
    ShortBitmap,
}

#[derive(Debug)]
struct Logged {
    start: u64,
    /// Last address, inclusive.
    last: u64,
    /// A bit for each page from that of `start` to that of `last`. Logs of one memory map after the other share them.
    bits: Arc<Box<[AtomicU64]>>,
}

/// One bit for each page of some ranges of guest memory, set by those who write and taken by whoever reports.
///
/// Pages of 4 KiB cost at most 32 KiB for each GiB of the ranges and 128 MiB in all: 1/32768. A part of the bitmap
/// that no write has touched is address space only.
#[derive(Debug)]
pub struct DirtyLog {
    ranges: Box<[Logged]>,
    /// Page size, as a shift.
    shift: u32,
}

impl DirtyLog {
    /// A log of `ranges`, each a DMA address and a length in bytes, with pages of `page_size` bytes. No page is dirty.
    ///
    /// # Errors
    ///
    /// [`LogError::PageSize`], [`LogError::BadRange`], [`LogError::TooLarge`].
    pub fn new(ranges: &[(u64, u64)], page_size: u64) -> Result<Self, LogError> {
        let none = Self {
            ranges: Box::default(),
            shift: page_size.trailing_zeros(),
        };
        if !page_size.is_power_of_two() || page_size < MIN_PAGE_SIZE {
            return Err(LogError::PageSize(page_size));
        }
        none.continued(ranges)
    }

    /// A log of other ranges, which goes on with what this one knows and will know of those that both have: whoever still
    /// writes to this one is heard there as well. Costs nothing for those ranges.
    ///
    /// # Errors
    ///
    /// [`LogError::BadRange`], [`LogError::TooLarge`].
    pub fn continued(&self, ranges: &[(u64, u64)]) -> Result<Self, LogError> {
        let mut sorted = Vec::with_capacity(ranges.len());
        for &(start, len) in ranges {
            let last = len.checked_sub(1).and_then(|n| start.checked_add(n));
            sorted.push((start, last.ok_or(LogError::BadRange(start))?));
        }
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].1 >= pair[1].0) {
            return Err(LogError::BadRange(pair[1].0));
        }
        let shift = self.shift;
        let mut total = 0_u64;
        let ranges = sorted.into_iter().map(|(start, last)| {
            let pages = (last >> shift) - (start >> shift) + 1;
            total = total.saturating_add(pages);
            if total > MAX_PAGES {
                return Err(LogError::TooLarge);
            }
            if let Ok(same) = self
                .ranges
                .binary_search_by_key(&start, |range| range.start)
                && self.ranges[same].last == last
            {
                let bits = self.ranges[same].bits.clone();
                return Ok(Logged { start, last, bits });
            }
            let words = pages.div_ceil(64) as usize;
            let bits = <[AtomicU64]>::new_box_zeroed_with_elems(words);
            let bits = Arc::new(bits.map_err(|_| LogError::TooLarge)?);
            Ok(Logged { start, last, bits })
        });
        Ok(Self {
            ranges: ranges.collect::<Result<_, _>>()?,
            shift,
        })
    }

    /// Bytes per page.
    pub fn page_size(&self) -> u64 {
        1 << self.shift
    }

    /// Notes that `len` bytes at `addr` have been written. Has to follow the writing: see
    /// [`GuestMem::mark_written`](crate::GuestMem::mark_written). What is not logged is ignored.
    #[cold]
    pub fn mark(&self, addr: u64, len: u64) {
        let Some(more) = len.checked_sub(1) else {
            return;
        };
        let last = addr.saturating_add(more);
        for range in self.within(addr, last) {
            let base = range.start >> self.shift;
            let from = (addr.max(range.start) >> self.shift) - base;
            let to = (last.min(range.last) >> self.shift) - base;
            for (word, mask) in masks(from, to) {
                // Always a locked operation, even if the bits are set: the bytes must be visible to whoever takes the
                // bits, and a plain load could pass the stores before it.
                range.bits[word].fetch_or(mask, Ordering::AcqRel);
            }
        }
    }

    /// Moves what is known about `len` bytes at `iova` into `bitmap`: bit `n % 64` of word `n / 64` says whether page
    /// `n`, counted from the page of `iova`, has been written since the last report of it. All other bits of the words
    /// needed are 0. A page is told as a whole: what is known of it stays known for as long as some logged part of it has
    /// not been asked for together with all that is logged there of the same range.
    ///
    /// # Errors
    ///
    /// [`LogError::BadRange`], [`LogError::NotLogged`], [`LogError::ShortBitmap`]; nothing has been taken then.
    pub fn report(&self, iova: u64, len: u64, bitmap: &mut [u64]) -> Result<(), LogError> {
        let last = len.checked_sub(1).and_then(|n| iova.checked_add(n));
        let last = last.ok_or(LogError::BadRange(iova))?;
        let first_page = iova >> self.shift;
        let pages = (last >> self.shift) - first_page + 1;
        let words = usize::try_from(pages.div_ceil(64)).map_err(|_| LogError::ShortBitmap)?;
        let bitmap = bitmap.get_mut(..words).ok_or(LogError::ShortBitmap)?;
        let mut next = Some(iova);
        for range in self.within(iova, last) {
            if next.is_none_or(|next| next < range.start) {
                return Err(LogError::NotLogged(iova));
            }
            next = range.last.checked_add(1);
        }
        if next.is_some_and(|next| next <= last) {
            return Err(LogError::NotLogged(iova));
        }

        bitmap.fill(0);
        let (page_start, page_end) = (iova & !self.offset_mask(), last | self.offset_mask());
        for range in self.within(page_start, page_end) {
            let base = range.start >> self.shift;
            let from = (page_start.max(range.start) >> self.shift) - base;
            let to = (page_end.min(range.last) >> self.shift) - base;
            // Of the pages at either end somebody may ask for the other part, too.
            let first_kept = (iova > page_start.max(range.start)).then_some(from);
            let last_kept = (last < page_end.min(range.last)).then_some(to);
            let kept = |word: usize| {
                let bits = [first_kept, last_kept].into_iter().flatten();
                bits.filter(|bit| (bit / 64) as usize == word)
                    .fold(0, |kept, bit| kept | 1 << (bit % 64))
            };
            for (word, mask) in masks(from, to) {
                if range.bits[word].load(Ordering::Relaxed) & mask == 0 {
                    continue;
                }
                let mut found =
                    range.bits[word].fetch_and(!mask | kept(word), Ordering::AcqRel) & mask;
                while found != 0 {
                    let page = base + 64 * word as u64 + u64::from(found.trailing_zeros());
                    found &= found - 1;
                    let n = page - first_page;
                    bitmap[(n / 64) as usize] |= 1 << (n % 64);
                }
            }
        }
        Ok(())
    }

    fn offset_mask(&self) -> u64 {
        self.page_size() - 1
    }

    /// The ranges that `first..=last` touches.
    fn within(&self, first: u64, last: u64) -> impl Iterator<Item = &Logged> {
        let skipped = self.ranges.partition_point(|range| range.last < first);
        self.ranges[skipped..]
            .iter()
            .take_while(move |range| range.start <= last)
    }
}

/// The words that bits `from..=to` lie in, and which of their bits.
fn masks(from: u64, to: u64) -> impl Iterator<Item = (usize, u64)> {
    (from / 64..=to / 64).map(move |word| {
        let low = if word == from / 64 { from % 64 } else { 0 };
        let high = if word == to / 64 { to % 64 } else { 63 };
        (word as usize, u64::MAX >> (63 - high) & u64::MAX << low)
    })
}
