//! The client's memory map as a list, and which of its pages the device has written.

use std::collections::BTreeSet;

use rustix::io::Errno;
use vfio_user::wire::{
    DirtyBitmap, DmaMap, DmaUnmap, LoggingRange, LoggingReport, LoggingStart, MAX_DATA,
    MAX_DMA_MAPS, dma_map_flags as map_flags, dma_unmap_flags as unmap_flags,
};
use zerocopy::{FromBytes, IntoBytes};

use super::{Outcome, invalid};
use crate::fds::{FRESH, Fd, Pool};

/// Most pages of a log.
const MAX_PAGES: u64 = 1 << 30;

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) iova: u64,
    pub(crate) size: u64,
    pub(crate) writable: bool,
    /// Number of the file and offset in it.
    pub(crate) file: Option<(usize, u64)>,
}

impl Entry {
    fn end(&self) -> u128 {
        u128::from(self.iova) + u128::from(self.size)
    }

    /// The part of `len` bytes at `addr` that is in it, as first and last address.
    fn part(&self, addr: u64, len: u64) -> Option<(u64, u64)> {
        let end = (u128::from(addr) + u128::from(len)).min(self.end());
        let start = addr.max(self.iova);
        (u128::from(start) < end).then(|| (start, (end - 1) as u64))
    }
}

#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) entries: Vec<Entry>,
    /// Bytes of a page, if pages are logged.
    page: Option<u64>,
    /// Start of the entry, number of the page in the address space.
    dirty: BTreeSet<(u64, u64)>,
}

impl Memory {
    pub(crate) fn map(
        &mut self,
        request: &DmaMap,
        fd: Option<&Fd>,
        pool: &Pool,
        held: &mut u64,
    ) -> Outcome {
        let &DmaMap {
            argsz,
            flags,
            offset,
            iova,
            size,
        } = request;
        let all = map_flags::READ | map_flags::WRITE | map_flags::MMAP | map_flags::FILE_IO;
        let wants_file = flags & (map_flags::MMAP | map_flags::FILE_IO) != 0;
        let file = match fd {
            None => None,
            Some(Fd::File(number)) => Some((*number, offset)),
            // These have numbers behind those of the pool.
            Some(Fd::Fresh(number)) => Some((pool.files.len() + *number, offset)),
            // Its size and kind may have been looked at before or after the rest.
            Some(_) => return Outcome::Errors(vec![Errno::INVAL, Errno::NOSPC]),
        };
        let mut errors = Vec::new();
        let entry = Entry {
            iova,
            size,
            writable: flags & map_flags::WRITE != 0,
            file,
        };
        if argsz < 32
            || flags & !all != 0
            || wants_file && fd.is_none()
            || size == 0
            || entry.end() > u64::MAX.into()
        {
            errors.push(Errno::INVAL);
        }
        if size > 8 << 40 {
            errors.push(Errno::NOSPC);
        }
        if errors.is_empty() && self.entries.contains(&entry) {
            return Outcome::Payload(Vec::new());
        }
        if self
            .entries
            .iter()
            .any(|old| old.part(iova, size).is_some())
            || self.entries.len() >= MAX_DMA_MAPS
        {
            errors.push(Errno::INVAL);
        }
        if let Some((number, offset)) = file {
            let (bytes, writable) = pool
                .files
                .get(number)
                .map_or((FRESH, true), |file| (file.size, file.writable));
            if u128::from(offset) + u128::from(size) > bytes.into() {
                errors.push(Errno::INVAL);
            }
            if entry.writable && !writable {
                errors.extend([Errno::ACCESS, Errno::PERM]);
            }
        }
        self.entries.push(entry);
        if errors.is_empty() && self.page.is_some_and(|page| self.pages(page) > MAX_PAGES) {
            errors.push(Errno::NOSPC);
        }
        if !errors.is_empty() {
            self.entries.pop();
            return Outcome::Errors(errors);
        }
        *held += 1;
        Outcome::Payload(Vec::new())
    }

    pub(crate) fn unmap(&mut self, payload: &[u8], held: &mut u64) -> Outcome {
        let Ok((request, rest)) = DmaUnmap::read_from_prefix(payload) else {
            return invalid();
        };
        let DmaUnmap {
            argsz,
            flags,
            iova,
            size,
        } = request;
        let all = flags == unmap_flags::ALL && (iova, size) == (0, 0);
        let wants_bitmap = flags == unmap_flags::GET_DIRTY_BITMAP;
        if !(24..=1 << 20).contains(&argsz) || flags != 0 && !all && !wants_bitmap {
            return invalid();
        }
        // What the range touches, it has to have as a whole; that may be nothing.
        let end = u128::from(iova) + u128::from(size);
        let inside = |entry: &Entry| entry.iova >= iova && entry.end() <= end;
        let touches =
            |entry: &Entry| u128::from(entry.iova) < end && u128::from(iova) < entry.end();
        let cut = self.entries.iter().any(|e| touches(e) && !inside(e));
        let refused = Outcome::Errors(vec![Errno::NOENT]);
        let is_range = size > 0 && end <= 1 << 64;
        let mut reply = request.as_bytes().to_vec();
        if wants_bitmap {
            let Ok((bitmap, _)) = DirtyBitmap::read_from_prefix(rest) else {
                return invalid();
            };
            let words = self.words(size, bitmap.pgsize);
            let fits = words.is_some_and(|words| {
                bitmap.size == 8 * words && u64::from(argsz) >= 40 + bitmap.size
            });
            if !fits || !is_range {
                return invalid();
            }
            if !cut {
                reply.extend_from_slice(bitmap.as_bytes());
                reply.extend_from_slice(&self.take(iova, size, bitmap.pgsize));
            }
        }
        if !all && !is_range {
            return invalid();
        }
        if !all && cut {
            return refused;
        }
        let before = self.entries.len();
        self.entries.retain(|entry| !all && !inside(entry));
        let taken = |start: u64| all || start >= iova && u128::from(start) < end;
        self.dirty.retain(|(start, _)| !taken(*start));
        *held += u64::from(self.entries.len() != before);
        Outcome::Payload(reply)
    }

    /// The device wrote there.
    pub(crate) fn written(&mut self, addr: u64, len: u64) {
        let Some(page) = self.page else { return };
        for entry in &self.entries {
            if let Some((first, last)) = entry.part(addr, len) {
                self.dirty
                    .extend((first / page..=last / page).map(|n| (entry.iova, n)));
            }
        }
    }

    pub(crate) fn start_logging(
        &mut self,
        data: &[u8],
        held: &mut u64,
    ) -> Result<LoggingStart, Errno> {
        let (mut start, ranges) = LoggingStart::read_from_prefix(data).map_err(|_| Errno::INVAL)?;
        let mut ranges = ranges.chunks(size_of::<LoggingRange>());
        for _ in 0..start.num_ranges {
            let range = ranges
                .next()
                .and_then(|range| LoggingRange::read_from_bytes(range).ok());
            let range = range.ok_or(Errno::INVAL)?;
            if range.length == 0 || u128::from(range.iova) + u128::from(range.length) > 1 << 64 {
                return Err(Errno::INVAL);
            }
        }
        if !start.page_size.is_power_of_two()
            || self.page.is_some_and(|page| page != start.page_size)
        {
            return Err(Errno::INVAL);
        }
        if self.page.is_none() {
            start.page_size = start.page_size.max(4096);
            if self.pages(start.page_size) > MAX_PAGES {
                return Err(Errno::NOSPC);
            }
            self.page = Some(start.page_size);
            *held += 1;
        }
        Ok(start)
    }

    pub(crate) fn stop_logging(&mut self, held: &mut u64) {
        *held += u64::from(self.page.take().is_some());
        self.dirty.clear();
    }

    /// The data of a report, with room for `room` bytes of them.
    pub(crate) fn report(&mut self, data: &[u8], room: u64) -> Result<Vec<u8>, Vec<Errno>> {
        let invalid = || vec![Errno::INVAL];
        let (report, _) = LoggingReport::read_from_prefix(data).map_err(|_| invalid())?;
        let LoggingReport {
            iova,
            length,
            page_size,
        } = report;
        let words = self
            .words(length, page_size)
            .filter(|words| room >= 24 + 8 * words);
        words.ok_or_else(invalid)?;
        let mut covered: Vec<_> = self
            .entries
            .iter()
            .filter_map(|entry| entry.part(iova, length))
            .collect();
        covered.sort_unstable();
        let bytes = covered
            .iter()
            .map(|(first, last)| u128::from(last - first) + 1)
            .sum::<u128>();
        if bytes != length.into() {
            return Err(vec![Errno::NOENT]);
        }
        Ok([report.as_bytes(), &self.take(iova, length, page_size)].concat())
    }

    /// A bitmap of the pages of `bits` bytes from `iova` on. What is known of a page is told of all of it, and forgotten
    /// where all that an entry has of it was asked for.
    fn take(&mut self, iova: u64, length: u64, bits: u64) -> Vec<u8> {
        let mut bitmap = vec![0; 8 * words(length, bits) as usize];
        let page = self.page.unwrap_or(4096);
        let last = iova + (length - 1);
        let entries = &self.entries;
        self.dirty.retain(|(start, n)| {
            let (from, to) = (n * page, n * page + (page - 1));
            // Something of the page that is mapped has to be asked for.
            let asked = entries.iter().filter_map(|entry| entry.part(iova, length));
            if !asked
                .into_iter()
                .any(|(first, last)| first <= to && last >= from)
            {
                return true;
            }
            for bit in (from.max(iova) - iova) / bits..=(to.min(last) - iova) / bits {
                bitmap[(bit / 8) as usize] |= 1 << (bit % 8);
            }
            let entry = entries.iter().find(|entry| entry.iova == *start);
            let part = entry.and_then(|entry| entry.part(from, page));
            part.is_some_and(|(first_part, last_part)| first_part < iova || last_part > last)
        });
        bitmap
    }

    /// 64-bit words of a bitmap, if it can be asked for: in pages of the log as well it must not have too many bits.
    fn words(&self, length: u64, page: u64) -> Option<u64> {
        let sound = length > 0 && page.is_power_of_two();
        let logged = self.page.filter(|_| sound)?;
        let fits = words(length, page.min(logged)) <= MAX_DATA as u64 / 8;
        fits.then(|| words(length, page))
    }

    fn pages(&self, page: u64) -> u64 {
        let pages = self
            .entries
            .iter()
            .map(|e| (e.iova + (e.size - 1)) / page - e.iova / page + 1);
        pages.sum()
    }
}

/// 64-bit words of a bitmap in pages of `page` bytes.
fn words(length: u64, page: u64) -> u64 {
    length.div_ceil(page).div_ceil(64)
}
