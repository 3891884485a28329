//! Writes everything that passes to a file that tcpdump and Wireshark read.
//!
//! Format: draft-ietf-opsawg-pcap, with nanosecond timestamps.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nic_emu::Time;
use nic_emu::common::frame::{Features, MAX_SUPER_FRAME, RxFrame, TxBurst};

use crate::backend::{Backend, Receiver, Room, RxBuf, Sender};

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
/// The capture shows what a capture on a host whose NIC has offloads would: super-frames whole, both ways, and checksums
/// that are left to do. Writing to the file may wait for the disk, and each half for the other one: no frame meets a lock
/// unless it is captured. When the disk is full the capture ends, and the traffic goes on.
pub struct Pcap;

/// The file, which both halves write to.
struct Capture {
    name: String,
    /// None once writing has failed.
    file: Mutex<Option<BufWriter<File>>>,
}

/// What both halves know.
struct Half<T: ?Sized> {
    capture: Arc<Capture>,
    /// When the buffer is to be written out; set while this half has written to it.
    flush_at: Option<Time>,
    inner: Box<T>,
}

struct PcapSender {
    half: Half<dyn Sender>,
    /// A frame gathered from guest memory; empty until there is one.
    scratch: Vec<u8>,
}

struct PcapReceiver {
    half: Half<dyn Receiver>,
}

impl Pcap {
    /// Captures what passes through `inner` to a new file, or over an old one.
    ///
    /// # Errors
    ///
    /// If the file cannot be written; the error names it.
    pub fn around(inner: Backend, path: &Path) -> io::Result<Backend> {
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
        let capture = Capture {
            name: format!("pcap over {}", inner.name),
            file: Mutex::new(Some(file)),
        };
        Ok(Self::into(inner, Arc::new(capture)))
    }

    fn into(inner: Backend, capture: Arc<Capture>) -> Backend {
        Backend {
            name: capture.name.clone(),
            tx: Box::new(PcapSender {
                half: Half::new(capture.clone(), inner.tx),
                scratch: Vec::new(),
            }),
            rx: Box::new(PcapReceiver {
                half: Half::new(capture, inner.rx),
            }),
            counters: inner.counters,
        }
    }
}

impl Capture {
    fn file(&self) -> MutexGuard<'_, Option<BufWriter<File>>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the file be written to; whether there is still one.
    fn write(&self, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> bool {
        let mut place = self.file();
        let Some(mut file) = place.take() else {
            return false;
        };
        let written = write(&mut file);
        match &written {
            Ok(()) => *place = Some(file),
            Err(error) => {
                tracing::warn!("{}: the capture ends here: {error}", self.name);
                // Its buffer could not be written; to try again on drop would only fail again.
                drop(file.into_parts());
            }
        }
        written.is_ok()
    }
}

impl<T: ?Sized> Half<T> {
    fn new(capture: Arc<Capture>, inner: Box<T>) -> Self {
        Self {
            capture,
            flush_at: None,
            inner,
        }
    }

    fn record(&mut self, frame: &[u8], now: Time) {
        if self.capture.write(|file| write_record(file, frame)) {
            self.flush_at.get_or_insert(now + FLUSH_AFTER);
        }
    }

    /// Writes out what both halves have written, if it is due.
    fn flush(&mut self, now: Time) {
        if self.flush_at.take_if(|at| *at <= now).is_some() {
            self.capture.write(BufWriter::flush);
        }
    }

    fn deadline(&self, inner: Option<Time>) -> Option<Time> {
        [self.flush_at, inner].into_iter().flatten().min()
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

impl Sender for PcapSender {
    fn features(&self) -> Features {
        self.half.inner.features()
    }

    fn send(&mut self, burst: &TxBurst<'_>, now: Time) -> usize {
        let taken = self.half.inner.send(burst, now);
        self.scratch.resize(MAX_SUPER_FRAME, 0);
        for frame in burst.frames().take(taken) {
            if let Some(len) = frame.copy_to(&mut self.scratch) {
                self.half.record(&self.scratch[..len], now);
            }
        }
        taken
    }

    fn room(&self) -> Option<Room<'_>> {
        self.half.inner.room()
    }

    fn deadline(&self) -> Option<Time> {
        self.half.deadline(self.half.inner.deadline())
    }

    fn run_timers(&mut self, now: Time) {
        self.half.flush(now);
        self.half.inner.run_timers(now);
    }

    fn is_gone(&self) -> bool {
        self.half.inner.is_gone()
    }
}

impl Receiver for PcapReceiver {
    fn recv<'b>(&mut self, buf: &'b mut RxBuf, now: Time) -> Option<RxFrame<'b>> {
        let Half {
            capture,
            flush_at,
            inner,
        } = &mut self.half;
        let frame = inner.recv(buf, now)?;
        if capture.write(|file| write_record(file, frame.data)) {
            flush_at.get_or_insert(now + FLUSH_AFTER);
        }
        Some(frame)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.half.inner.fd()
    }

    fn link(&mut self) -> bool {
        self.half.inner.link()
    }

    fn link_fd(&self) -> Option<BorrowedFd<'_>> {
        self.half.inner.link_fd()
    }

    fn deadline(&self) -> Option<Time> {
        self.half.deadline(self.half.inner.deadline())
    }

    fn run_timers(&mut self, now: Time) {
        self.half.flush(now);
        self.half.inner.run_timers(now);
    }

    fn is_gone(&self) -> bool {
        self.half.inner.is_gone()
    }
}

#[cfg(test)]
mod tests;
