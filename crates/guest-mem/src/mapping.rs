//! Shared mappings of files into this process.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};

use rustix::fs::SealFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::sigbus::Slot;

/// `f_type` of hugetlbfs, which memfds with huge pages live on too.
const HUGETLBFS: u64 = 0x958458f6;

/// Memory of a file (or anonymous memory) mapped shared into this process; unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
    /// Bytes between the page boundary at which the kernel mapped and the first byte that was asked for.
    lead: usize,
    writable: bool,
    /// Where the handler of SIGBUS finds the mapping of a file.
    slot: Option<&'static Slot>,
}

// SAFETY: the mapping is plain memory without thread affinity; all access goes through raw copies and atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above; `Mapping` itself has no method that reads or writes the memory.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `file` from byte `offset`, readable, and writable if asked.
    ///
    /// The file is sealed against shrinking where it lets us (a memfd made for sealing): touching a mapped page
    /// beyond the end of its file raises SIGBUS; [`sigbus`](crate::sigbus) is for those that can not. A file that grows
    /// changes nothing here: the mapping shows the bytes that it was made for.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if the range is empty, overflows or reaches beyond the end of the file; else what `mmap`
    /// says, `PermissionDenied` for a file that is not open for what was asked.
    pub fn of_file(
        file: BorrowedFd<'_>,
        offset: u64,
        len: u64,
        writable: bool,
    ) -> io::Result<Self> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        let end = offset
            .checked_add(len)
            .ok_or_else(|| invalid("range overflows"))?;
        let stat = rustix::fs::fstat(file)?;
        if u64::try_from(stat.st_size).unwrap_or(0) < end {
            return Err(invalid("range reaches beyond the end of the file"));
        }
        // Best effort: not every file can be sealed, and hypervisors usually have done it already.
        let _ = rustix::fs::fcntl_add_seals(file, SealFlags::SHRINK);

        let page = rustix::param::page_size() as u64;
        let lead = offset % page;
        let len = usize::try_from(len + lead).map_err(|_| invalid("range is too long"))?;
        if len == lead as usize {
            return Err(invalid("range is empty"));
        }
        let prot = if writable {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        let base = unsafe {
            mmap(
                ptr::null_mut(),
                len,
                prot,
                MapFlags::SHARED,
                file,
                offset - lead,
            )?
        };
        let mut mapping = Self::adopt(base.cast(), len, lead as usize, writable);
        // The kernel maps whole pages of the file, and lets no part of a huge one be replaced.
        let page = match rustix::fs::fstatfs(file) {
            Ok(stat) if stat.f_type as u64 == HUGETLBFS => stat.f_bsize as usize,
            _ => page as usize,
        };
        let whole = len.next_multiple_of(page);
        mapping.slot = Some(Slot::take(base.addr(), whole, page, writable));
        Ok(mapping)
    }

    /// Maps `len` bytes of zeroed memory that belongs to no file.
    ///
    /// # Errors
    ///
    /// What `mmap` says, `InvalidInput` for an empty range.
    pub fn anonymous(len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        if len == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), len, prot, MapFlags::SHARED)? };
        Ok(Self::adopt(base.cast(), len, 0, true))
    }

    fn adopt(base: *mut u8, len: usize, lead: usize, writable: bool) -> Self {
        let base = NonNull::new(base).expect("mmap never returns address 0 unless told to");
        Self {
            base,
            len,
            lead,
            writable,
            slot: None,
        }
    }

    /// Number of bytes that can be reached.
    #[expect(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub fn len(&self) -> u64 {
        (self.len - self.lead) as u64
    }

    /// Whether the mapping may be written.
    pub fn writable(&self) -> bool {
        self.writable
    }

    /// Whether its file has shrunk and some of it was touched since: from there on it is zeroed memory that nobody
    /// shares. Only ever true after [`sigbus::install`](crate::sigbus::install), without which the process would have
    /// ended instead.
    pub fn is_broken(&self) -> bool {
        self.slot.is_some_and(Slot::is_broken)
    }

    /// Address of byte `offset` in this process; `offset` must not exceed `len()`.
    pub(crate) fn at(&self, offset: u64) -> *mut u8 {
        assert!(offset <= self.len());
        // In bounds by the assertion, which is why wrapping arithmetic cannot wrap.
        self.base.as_ptr().wrapping_add(self.lead + offset as usize)
    }
}

/// Where a range of guest memory is in this process, looked up once so that an access need not; null if it is not there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host(*mut u8);

// SAFETY: an address, as good on any thread as on the one that looked it up.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

impl Host {
    /// Nowhere.
    pub(crate) const NONE: Self = Self(ptr::null_mut());

    /// Byte `offset` of `mapping`, which whoever holds this holds too.
    pub(crate) fn new(mapping: &Mapping, offset: u64) -> Self {
        Self(mapping.at(offset))
    }

    /// The byte `offset` bytes further, which has to be in the same range.
    #[inline]
    pub(crate) fn at(self, offset: u64) -> Option<*mut u8> {
        (!self.0.is_null()).then(|| self.0.wrapping_add(offset as usize))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            slot.give_back();
        }
        // SAFETY: exactly the range that mmap returned; whoever holds a pointer into it holds the `Arc` too.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}
