//! Dirty page logging: which pages of guest memory the device has written since somebody last asked (specification,
//! "VFIO_DEVICE_FEATURE_DMA_LOGGING_START" and what follows, and "VFIO_USER_DMA_UNMAP").
//!
//! All that is mapped is logged, whatever ranges the client asks for. The log is part of the published memory map, so
//! queues pass an epoch when it comes and goes; over a change of the map, what they still note in the old log counts.
//! The pages of a range that is unmapped are complete once queues have let go of it: until then nothing further is
//! executed.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use guest_mem::{DirtyLog, LogError, MIN_PAGE_SIZE};
use rustix::io::Errno;
use tracing::debug;
use zerocopy::{FromBytes, IntoBytes};

use crate::session::{State, parse};
use crate::wire::dma_unmap_flags::GET_DIRTY_BITMAP;
use crate::wire::{
    DirtyBitmap, DmaMap, DmaUnmap, Feature, Header, LoggingRange, LoggingReport, LoggingStart,
    MAX_DATA,
};

/// What is logged.
#[derive(Debug, Default)]
pub(crate) struct Tracking {
    log: Option<Arc<DirtyLog>>,
    /// An unmapping whose reply waits for its pages.
    unmapped: Option<Unmapped>,
}

#[derive(Debug)]
struct Unmapped {
    header: Header,
    request: DmaUnmap,
    bitmap: DirtyBitmap,
    /// The log that still has the entries.
    log: Arc<DirtyLog>,
    /// DMA addresses and sizes of what was mapped there.
    entries: Vec<(u64, u64)>,
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
        let ranges: Vec<_> = self.dma.ranges().collect();
        self.set_log(DirtyLog::new(&ranges, start.page_size))?;
        self.begin_epoch();
        debug!(page_size = start.page_size, "logging dirty pages");
        Ok(start)
    }

    /// DMA_LOGGING_STOP; none to stop is fine.
    pub(crate) fn stop_logging(&mut self) {
        if self.tracking.log.take().is_some() {
            self.dma.set_dirty_log(None);
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
        let words = bitmap_words(&log, length, page_size)?;
        let size = size_of::<Feature>() + size_of::<LoggingReport>() + 8 * words;
        if (request.argsz as usize) < size {
            return Err(Errno::INVAL);
        }
        if !self.dma.covers(iova, length) {
            return Err(Errno::NOENT);
        }
        let mut bitmap = vec![0; words];
        take(&log, (iova, length), (iova, length), page_size, &mut bitmap);
        let reply = [report.as_bytes(), bitmap.as_bytes()].concat();
        self.feature_data(header, request, &reply)
    }

    /// DMA_MAP: what is new is logged as well.
    pub(crate) fn dma_map(&mut self, request: &DmaMap, fd: Option<OwnedFd>) -> Result<(), Errno> {
        let before = self.dma.len();
        self.dma.map(request, fd)?;
        if self.dma.len() > before
            && let Err(errno) = self.continue_log()
        {
            let undo = DmaUnmap {
                argsz: size_of::<DmaUnmap>() as u32,
                flags: 0,
                iova: request.iova,
                size: request.size,
            };
            let _ = self.dma.unmap(&undo);
            return Err(errno);
        }
        self.begin_epoch();
        Ok(())
    }

    /// DMA_UNMAP, with the pages that were written if the client asks for them.
    pub(crate) fn dma_unmap(&mut self, header: &Header, payload: &[u8]) -> Result<(), Errno> {
        let request: DmaUnmap = parse(payload)?;
        let dirty = match request.flags {
            GET_DIRTY_BITMAP => Some(self.dirty_bitmap(&request, payload)?),
            flags if flags & GET_DIRTY_BITMAP != 0 => return Err(Errno::INVAL),
            _ => None,
        };
        let entries = self.dma.unmap(&DmaUnmap {
            flags: request.flags & !GET_DIRTY_BITMAP,
            ..request
        })?;
        if entries.is_empty() && dirty.is_none() {
            // No queue has anything to let go of.
            self.reply(header, &request);
            return Ok(());
        }
        self.continue_log()?;
        match dirty {
            Some((log, bitmap)) => {
                self.tracking.unmapped = Some(Unmapped {
                    header: *header,
                    request,
                    bitmap,
                    log,
                    entries,
                });
                self.wait_for_queues();
            }
            None => {
                self.begin_epoch();
                self.reply(header, &request);
            }
        }
        Ok(())
    }

    /// Checks what is to come back with an unmapping.
    fn dirty_bitmap(
        &self,
        request: &DmaUnmap,
        payload: &[u8],
    ) -> Result<(Arc<DirtyLog>, DirtyBitmap), Errno> {
        let bitmap: DirtyBitmap = parse(&payload[size_of::<DmaUnmap>()..])?;
        let fixed = (size_of::<DmaUnmap>() + size_of::<DirtyBitmap>()) as u64;
        let log = self.tracking.log.clone().ok_or(Errno::INVAL)?;
        let words = bitmap_words(&log, request.size, bitmap.pgsize)?;
        let sound =
            bitmap.size == 8 * words as u64 && u64::from(request.argsz) >= fixed + bitmap.size;
        if !sound {
            return Err(Errno::INVAL);
        }
        Ok((log, bitmap))
    }

    /// Queues have passed the epoch that was waited for.
    pub(crate) fn queues_waited_for(&mut self) {
        let Some(unmapped) = self.tracking.unmapped.take() else {
            return;
        };
        let Unmapped {
            header,
            request,
            bitmap,
            log,
            entries,
        } = unmapped;
        let mut bits = vec![0; (bitmap.size / 8) as usize];
        // Between them nothing was written.
        let range = (request.iova, request.size);
        for run in runs(entries) {
            take(&log, run, range, bitmap.pgsize, &mut bits);
        }
        let reply = [request.as_bytes(), bitmap.as_bytes(), bits.as_bytes()].concat();
        self.reply(&header, &reply[..]);
    }

    /// Logs what is mapped now, if anything is logged.
    fn continue_log(&mut self) -> Result<(), Errno> {
        let Some(log) = self.tracking.log.clone() else {
            return Ok(());
        };
        let ranges: Vec<_> = self.dma.ranges().collect();
        self.set_log(log.continued(&ranges))
    }

    fn set_log(&mut self, log: Result<DirtyLog, LogError>) -> Result<(), Errno> {
        let log = Arc::new(log.map_err(|error| match error {
            LogError::TooLarge => Errno::NOSPC,
            _ => Errno::INVAL,
        })?);
        self.dma.set_dirty_log(Some(log.clone()));
        self.tracking.log = Some(log);
        Ok(())
    }
}

/// 64-bit words of the bitmap of a range. What is too much for one message is too much, in pages of the log as well: it
/// takes time.
fn bitmap_words(log: &DirtyLog, length: u64, page_size: u64) -> Result<usize, Errno> {
    if length == 0 || !page_size.is_power_of_two() {
        return Err(Errno::INVAL);
    }
    let words = length.div_ceil(page_size.min(log.page_size())).div_ceil(64);
    match words <= MAX_DATA as u64 / 8 {
        true => Ok(length.div_ceil(page_size).div_ceil(64) as usize),
        false => Err(Errno::INVAL),
    }
}

/// Entries in order, those that touch as one.
fn runs(entries: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (iova, size) in entries {
        match runs.last_mut() {
            Some((start, length)) if *start + *length == iova => *length += size,
            _ => runs.push((iova, size)),
        }
    }
    runs
}

/// Takes the bits of a logged range out of the log and adds them to the bitmap of a range that it is in, in pages of
/// another size: larger ones are dirty if a part is, smaller ones if the whole is.
fn take(log: &DirtyLog, logged: (u64, u64), whole: (u64, u64), page_size: u64, bitmap: &mut [u64]) {
    let (iova, last) = (whole.0, whole.0 + (whole.1 - 1));
    // The pages of the log, counted from that of the logged range.
    let page_of_log = log.page_size();
    let first = logged.0 & !(page_of_log - 1);
    let end = logged.0 + (logged.1 - 1);
    let mut pages = vec![0; ((end - first) / page_of_log) as usize / 64 + 1];
    if log.report(logged.0, logged.1, &mut pages).is_err() {
        // Nothing is reported before it is known to be logged.
        return;
    }
    for (at, mut bits) in (0..).zip(pages) {
        while bits != 0 {
            let page = first + (64 * at + u64::from(bits.trailing_zeros())) * page_of_log;
            bits &= bits - 1;
            let end = (page | (page_of_log - 1)).min(last);
            for n in (page.max(iova) - iova) / page_size..=(end - iova) / page_size {
                bitmap[(n / 64) as usize] |= 1 << (n % 64);
            }
        }
    }
}
