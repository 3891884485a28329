//! Writes everything that passes to a file that tcpdump and Wireshark read.
//!
//! Format: draft-ietf-opsawg-pcap, with nanosecond timestamps.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nic_emu::Time;
use nic_emu::common::frame::{Features, MAX_SUPER_FRAME, RxFrame, TxBurst};

use crate::backend::{Backend, Counters, RxBuf};

/// Timestamps have nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;
const LINKTYPE_ETHERNET: u32 = 1;
/// More than any super-frame has.
const SNAPLEN: u32 = 262_144;
const BUFFER: usize = 256 * 1024;
/// Longest time that a captured frame stays in memory.
const FLUSH_AFTER: Duration = Duration::from_secs(1);

/// A backend around another one, which writes down each frame that passes.
///
/// The capture shows what a capture on the host would: super-frames whole, and checksums that are left to do. Writing to
/// the file may wait for the disk. When the disk is full the capture ends, and the traffic goes on.
pub struct Pcap {
    inner: Box<dyn Backend>,
    name: String,
    /// None once writing has failed.
    file: Option<BufWriter<File>>,
    /// A frame gathered from guest memory; empty until there is one.
    scratch: Vec<u8>,
    /// When the buffer is to be written out; set while there is something in it.
    flush_at: Option<Time>,
}

impl Pcap {
    /// Captures what passes through `inner` to a new file, or over an old one.
    ///
    /// # Errors
    ///
    /// If the file cannot be written; the error names it.
    pub fn new(inner: Box<dyn Backend>, path: &Path) -> io::Result<Self> {
        let failed = |error: io::Error| {
            let text = format!("cannot write the capture file {}: {error}", path.display());
            io::Error::new(error.kind(), text)
        };
        let mut file = BufWriter::with_capacity(BUFFER, File::create(path).map_err(failed)?);
        let mut header = [0; 24];
        header[..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[4..6].copy_from_slice(&2u16.to_le_bytes());
        header[6..8].copy_from_slice(&4u16.to_le_bytes());
        header[16..20].copy_from_slice(&SNAPLEN.to_le_bytes());
        header[20..].copy_from_slice(&LINKTYPE_ETHERNET.to_le_bytes());
        file.write_all(&header)
            .and_then(|()| file.flush())
            .map_err(failed)?;
        Ok(Self {
            name: format!("pcap over {}", inner.name()),
            inner,
            file: Some(file),
            scratch: Vec::new(),
            flush_at: None,
        })
    }

    fn record(&mut self, frame: &[u8], now: Time) {
        let Some(file) = &mut self.file else { return };
        if let Err(error) = write_record(file, frame) {
            self.give_up(&error);
            return;
        }
        self.flush_at.get_or_insert(now + FLUSH_AFTER);
    }

    fn flush(&mut self) {
        self.flush_at = None;
        if let Some(file) = &mut self.file
            && let Err(error) = file.flush()
        {
            self.give_up(&error);
        }
    }

    fn give_up(&mut self, error: &io::Error) {
        tracing::warn!("{}: the capture ends here: {error}", self.name);
        self.flush_at = None;
        if let Some(file) = self.file.take() {
            // Its buffer could not be written; to try again on drop would only fail again.
            drop(file.into_parts());
        }
    }
}

fn write_record(file: &mut BufWriter<File>, frame: &[u8]) -> io::Result<()> {
    let at = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let len = frame.len() as u32;
    let mut header = [0; 16];
    header[..4].copy_from_slice(&(at.as_secs() as u32).to_le_bytes());
    header[4..8].copy_from_slice(&at.subsec_nanos().to_le_bytes());
    header[8..12].copy_from_slice(&len.to_le_bytes());
    header[12..].copy_from_slice(&len.to_le_bytes());
    file.write_all(&header)?;
    file.write_all(frame)
}

impl Backend for Pcap {
    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> Features {
        self.inner.features()
    }

    fn send(&mut self, burst: &TxBurst<'_>, now: Time) -> usize {
        let taken = self.inner.send(burst, now);
        if self.file.is_some() {
            let mut scratch = std::mem::take(&mut self.scratch);
            scratch.resize(MAX_SUPER_FRAME, 0);
            for frame in burst.frames().take(taken) {
                if let Some(len) = frame.copy_to(&mut scratch) {
                    self.record(&scratch[..len], now);
                }
            }
            self.scratch = scratch;
        }
        taken
    }

    fn recv<'b>(&mut self, buf: &'b mut RxBuf, now: Time) -> Option<RxFrame<'b>> {
        let frame = self.inner.recv(buf, now)?;
        self.record(frame.data, now);
        Some(frame)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fd()
    }

    fn wants_writable(&self) -> bool {
        self.inner.wants_writable()
    }

    fn link(&mut self) -> bool {
        self.inner.link()
    }

    fn link_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.link_fd()
    }

    fn deadline(&self) -> Option<Time> {
        [self.flush_at, self.inner.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    fn run_timers(&mut self, now: Time) {
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush();
        }
        self.inner.run_timers(now);
    }

    fn counters(&self) -> Counters {
        self.inner.counters()
    }
}

impl Drop for Pcap {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests;
