//! Dirty page logging: which pages of guest memory the device has written since somebody last asked (specification,
//! "VFIO_DEVICE_FEATURE_DMA_LOGGING_START" and what follows, and "VFIO_USER_DMA_UNMAP").
//!
//! All that is mapped is logged, whatever ranges the client asks for. The log is part of the published memory map, so
//! queues pass an epoch when it comes and goes. While pages are logged, nothing further is executed after a change of
//! the map before queues have let go of the old one: then what they have noted in an old log is moved to the new one,
//! and the pages of a range that is gone are complete.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use guest_mem::{DirtyLog, LogError, MIN_PAGE_SIZE};
use rustix::io::Errno;
use tracing::debug;
use zerocopy::{FromBytes, IntoBytes};

use crate::session::{State, parse};
use crate::wire::dma_unmap_flags::{ALL, GET_DIRTY_BITMAP};
use crate::wire::{
    DirtyBitmap, DmaMap, DmaUnmap, Feature, Header, LoggingRange, LoggingReport, LoggingStart,
    MAX_DATA,
};

/// Pages that are taken out of a log at once.
const CHUNK: usize = 1 << 18;

/// What is logged, and what has to be done when queues have passed the epoch that is waited for.
#[derive(Debug, Default)]
pub(crate) struct Tracking {
    log: Option<Arc<DirtyLog>>,
    /// The log that queues may still write to.
    old: Option<Arc<DirtyLog>>,
    /// An unmapping whose pages are to be told, or only to be forgotten.
    unmapped: Option<(Header, DmaUnmap, Option<DirtyBitmap>)>,
}

impl State {
    /// DMA_LOGGING_START. The page size is what the log will have: what the client asked for, but not below
    /// [`MIN_PAGE_SIZE`].
    pub(crate) fn start_logging(&mut self, data: &[u8]) -> Result<LoggingStart, Errno> {
        let (mut start, ranges) = LoggingStart::read_from_prefix(data).map_err(|_| Errno::INVAL)?;
        let count = start.num_ranges as usize;
        let ranges = count
            .checked_mul(size_of::<LoggingRange>())
            .and_then(|size| ranges.get(..size))
            .ok_or(Errno::INVAL)?;
        for range in ranges.chunks_exact(size_of::<LoggingRange>()) {
            let LoggingRange { iova, length } = parse(range)?;
            if length == 0 || iova.checked_add(length - 1).is_none() {
                return Err(Errno::INVAL);
            }
        }
        if !start.page_size.is_power_of_two() {
            return Err(Errno::INVAL);
        }
        if let Some(log) = &self.tracking.log {
            return match log.page_size() == start.page_size {
                true => Ok(start),
                false => Err(Errno::INVAL),
            };
        }
        start.page_size = start.page_size.max(MIN_PAGE_SIZE);
        self.set_log(start.page_size)?;
        self.begin_epoch();
        debug!(page_size = start.page_size, "logging dirty pages");
        Ok(start)
    }

    /// DMA_LOGGING_STOP; none to stop is fine.
    pub(crate) fn stop_logging(&mut self) {
        if self.tracking.log.take().is_some() {
            self.dma.set_dirty_log(None);
            self.dma.publish();
            self.begin_epoch();
            debug!("dirty pages are not logged any more");
        }
    }

    /// DMA_LOGGING_REPORT.
    pub(crate) fn logging_report(
        &mut self,
        header: &Header,
        request: Feature,
        data: &[u8],
    ) -> Result<(), Errno> {
        let report: LoggingReport = parse(data)?;
        let LoggingReport {
            iova,
            length,
            page_size,
        } = report;
        let log = self.tracking.log.clone().ok_or(Errno::INVAL)?;
        let words = bitmap_words(length, page_size)?;
        let size = size_of::<Feature>() + size_of::<LoggingReport>() + 8 * words;
        if (request.argsz as usize) < size {
            return Err(Errno::INVAL);
        }
        if !self.dma.covers(iova, length) {
            return Err(Errno::NOENT);
        }
        let bitmap = take(&log, iova, length, page_size, words);
        let reply = [report.as_bytes(), bitmap.as_bytes()].concat();
        self.feature_data(header, request, &reply)
    }

    /// DMA_MAP: what is new is logged as well.
    pub(crate) fn dma_map(&mut self, request: &DmaMap, fd: Option<OwnedFd>) -> Result<(), Errno> {
        let before = self.dma.len();
        self.dma.map(request, fd)?;
        let grew = self.dma.len() > before;
        let Some(log) = self.tracking.log.clone().filter(|_| grew) else {
            self.begin_epoch();
            return Ok(());
        };
        if let Err(errno) = self.set_log(log.page_size()) {
            let undo = DmaUnmap {
                argsz: size_of::<DmaUnmap>() as u32,
                flags: 0,
                iova: request.iova,
                size: request.size,
            };
            let _ = self.dma.unmap(&undo);
            return Err(errno);
        }
        self.tracking.old = Some(log);
        self.wait_for_queues();
        Ok(())
    }

    /// DMA_UNMAP, with the pages that were written if the client asks for them.
    pub(crate) fn dma_unmap(&mut self, header: &Header, payload: &[u8]) -> Result<(), Errno> {
        let request: DmaUnmap = parse(payload)?;
        let bitmap = match request.flags {
            GET_DIRTY_BITMAP => Some(self.dirty_bitmap(&request, payload)?),
            flags if flags & GET_DIRTY_BITMAP != 0 => return Err(Errno::INVAL),
            _ => None,
        };
        self.dma.unmap(&DmaUnmap {
            flags: request.flags & !GET_DIRTY_BITMAP,
            ..request
        })?;
        if let Some(log) = &self.tracking.log {
            if request.flags & ALL != 0 {
                // Nothing is left to log.
                self.set_log(log.page_size())?;
            }
            self.tracking.unmapped = Some((*header, request, bitmap));
            self.dma.publish();
            self.wait_for_queues();
        } else {
            self.begin_epoch();
            self.reply(header, &request);
        }
        Ok(())
    }

    /// Checks what is to come back with an unmapping.
    fn dirty_bitmap(&self, request: &DmaUnmap, payload: &[u8]) -> Result<DirtyBitmap, Errno> {
        let bitmap: DirtyBitmap = parse(&payload[size_of::<DmaUnmap>()..])?;
        let fixed = (size_of::<DmaUnmap>() + size_of::<DirtyBitmap>()) as u64;
        let words = bitmap_words(request.size, bitmap.pgsize)?;
        let sound = self.tracking.log.is_some()
            && bitmap.size == 8 * words as u64
            && u64::from(request.argsz) >= fixed + bitmap.size;
        match sound {
            true => Ok(bitmap),
            false => Err(Errno::INVAL),
        }
    }

    /// Queues have passed the epoch that was waited for.
    pub(crate) fn queues_waited_for(&mut self) {
        let Some(log) = &self.tracking.log else {
            return;
        };
        if let Some(old) = self.tracking.old.take() {
            for (iova, size) in self.dma.ranges() {
                for_each_dirty(&old, iova, size, |page| log.mark(page, 1));
            }
        }
        if let Some((header, request, bitmap)) = self.tracking.unmapped.take() {
            let DmaUnmap { iova, size, .. } = request;
            match bitmap {
                Some(bitmap) => {
                    let words = (bitmap.size / 8) as usize;
                    let bits = take(log, iova, size, bitmap.pgsize, words);
                    let reply = [request.as_bytes(), bitmap.as_bytes(), bits.as_bytes()].concat();
                    self.reply(&header, &reply[..]);
                }
                None => {
                    // Whoever maps there next has written nothing.
                    if size > 0 {
                        for_each_dirty(log, iova, size, |_| {});
                    }
                    self.reply(&header, &request);
                }
            }
        }
    }

    /// Logs what is mapped now.
    fn set_log(&mut self, page_size: u64) -> Result<(), Errno> {
        let ranges: Vec<_> = self.dma.ranges().collect();
        let log = DirtyLog::new(&ranges, page_size).map_err(|error| match error {
            LogError::TooLarge => Errno::NOSPC,
            _ => Errno::INVAL,
        })?;
        let log = Arc::new(log);
        self.dma.set_dirty_log(Some(log.clone()));
        self.dma.publish();
        self.tracking.log = Some(log);
        Ok(())
    }
}

/// 64-bit words of the bitmap of a range; what is too much for one message is too much.
fn bitmap_words(length: u64, page_size: u64) -> Result<usize, Errno> {
    if length == 0 || !page_size.is_power_of_two() {
        return Err(Errno::INVAL);
    }
    let words = length.div_ceil(page_size).div_ceil(64);
    match words <= MAX_DATA as u64 / 8 {
        true => Ok(words as usize),
        false => Err(Errno::INVAL),
    }
}

/// Takes the bits of a range out of the log, in pages of another size: larger ones are dirty if a part is, smaller ones
/// if the whole is.
fn take(log: &DirtyLog, iova: u64, length: u64, page_size: u64, words: usize) -> Vec<u64> {
    let mut bitmap = vec![0; words];
    let last = iova + (length - 1);
    for_each_dirty(log, iova, length, |page| {
        let end = (page | (log.page_size() - 1)).min(last);
        for n in (page.max(iova) - iova) / page_size..=(end - iova) / page_size {
            bitmap[(n / 64) as usize] |= 1 << (n % 64);
        }
    });
    bitmap
}

/// Takes the bits of a range out of the log; calls with the address of each page that was dirty. What is not logged is
/// passed over.
fn for_each_dirty(log: &DirtyLog, iova: u64, length: u64, mut each: impl FnMut(u64)) {
    let page_size = log.page_size();
    let last = iova + (length - 1);
    let mut bitmap = vec![0; CHUNK.min((length / page_size) as usize + 2).div_ceil(64)];
    let mut at = iova;
    loop {
        let page = at & !(page_size - 1);
        let span = page_size.saturating_mul(CHUNK as u64);
        let end = page.saturating_add(span - 1).min(last);
        if log.report(at, end - at + 1, &mut bitmap).is_ok() {
            for (word, bits) in bitmap.iter().enumerate() {
                let mut bits = *bits;
                while bits != 0 {
                    let n = 64 * word as u64 + u64::from(bits.trailing_zeros());
                    bits &= bits - 1;
                    each(page + n * page_size);
                }
            }
            bitmap.fill(0);
        }
        if end == last {
            return;
        }
        at = end + 1;
    }
}
