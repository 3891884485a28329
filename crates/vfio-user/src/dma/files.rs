//! The files of a client's memory, each mapped once.
//!
//! Firmware makes clients replace the entry of main memory several times in a row, each time with a fresh descriptor
//! of the same file. So a file is mapped as a whole, recognised by device and inode, and kept for a moment when no
//! entry uses it any more.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_mem::{Access, Mapping};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use rustix::io::Errno;

use super::MAX_SIZE;

/// How long a file stays mapped that no entry uses, and how many such files there are at most.
const GRACE: Duration = Duration::from_secs(1);
const MOST_UNUSED: usize = 4;

/// Files that one client may have. Hypervisors have one for each piece of memory that can be plugged, 256 at most; each
/// takes one of the mappings that the system grants the whole process.
const MAX_FILES: usize = 512;

/// What identifies a file: device and inode.
pub(crate) type FileId = (u64, u64);

/// Whether a file is the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Nothing speaks against it.
    Unknown,
    /// It is.
    Shared,
    /// It is not: the hypervisor has a private copy.
    Private,
}

#[derive(Debug)]
struct File {
    mapping: Arc<Mapping>,
    sharing: Sharing,
    /// Since when no entry uses it.
    unused: Option<Instant>,
}

/// The mapped files of the connected client.
#[derive(Debug, Default)]
pub(crate) struct Files {
    files: BTreeMap<FileId, File>,
}

/// Which file a descriptor stands for, and how many bytes it has.
pub(crate) fn identify(fd: &OwnedFd) -> Result<(FileId, u64), Errno> {
    let stat = fstat(fd).map_err(|_| Errno::INVAL)?;
    match FileType::from_raw_mode(stat.st_mode) {
        // Everything else that could be mapped is not the same memory for whoever maps it.
        FileType::RegularFile => Ok((
            (stat.st_dev, stat.st_ino),
            u64::try_from(stat.st_size).unwrap_or(0),
        )),
        _ => Err(Errno::INVAL),
    }
}

impl Files {
    /// Makes sure that a file of `size` bytes is mapped up to byte `end`. True if a new mapping took the place of one
    /// that was too short, read-only or broken; that one goes on serving queues until they reload.
    pub(crate) fn map(
        &mut self,
        fd: &OwnedFd,
        (id, size): (FileId, u64),
        end: u64,
        access: Access,
    ) -> Result<bool, Errno> {
        // It may have shrunk since it was mapped.
        if end > size {
            return Err(Errno::INVAL);
        }
        let old = self.files.get(&id);
        if old.is_some_and(|file| {
            end <= file.mapping.len()
                && (access == Access::Read || file.mapping.writable())
                && !file.mapping.is_broken()
        }) {
            return Ok(false);
        }
        let mapped = self.files.values().map(|file| file.mapping.len());
        let others = mapped.sum::<u64>() - old.map_or(0, |file| file.mapping.len());
        let room = MAX_SIZE.saturating_sub(others);
        if size > room || (old.is_none() && self.files.len() >= MAX_FILES) {
            return Err(Errno::NOSPC);
        }
        let flags = fcntl_getfl(fd).map_err(|_| Errno::INVAL)?;
        let writable = flags & OFlags::ACCMODE == OFlags::RDWR;
        if access == Access::ReadWrite && !writable {
            return Err(Errno::ACCESS);
        }
        // A file sealed against writing may be open for writing all the same.
        let mapping = match Mapping::of_file(fd.as_fd(), 0, size, writable) {
            Err(_) if writable && access == Access::Read => {
                Mapping::of_file(fd.as_fd(), 0, size, false)
            }
            other => other,
        }
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?;
        let file = File {
            mapping: Arc::new(mapping),
            sharing: old.map_or(Sharing::Unknown, |old| old.sharing),
            unused: None,
        };
        Ok(self.files.insert(id, file).is_some())
    }

    /// The mapping of a file.
    pub(crate) fn get(&self, id: &FileId) -> Option<&Arc<Mapping>> {
        self.files.get(id).map(|file| &file.mapping)
    }

    pub(crate) fn sharing(&self, id: &FileId) -> Sharing {
        self.files
            .get(id)
            .map_or(Sharing::Unknown, |file| file.sharing)
    }

    pub(crate) fn set_sharing(&mut self, id: &FileId, sharing: Sharing) {
        if let Some(file) = self.files.get_mut(id) {
            file.sharing = sharing;
        }
    }

    /// Entries use these files and no others, as of `now`.
    pub(crate) fn set_used(&mut self, used: &BTreeSet<FileId>, now: Instant) {
        for (id, file) in &mut self.files {
            file.unused = match used.contains(id) {
                true => None,
                false => file.unused.or(Some(now)),
            };
        }
    }

    /// Lets go of what nobody has used for a while. True if something unused is left.
    pub(crate) fn reap(&mut self, now: Instant) -> bool {
        self.files.retain(|_, file| {
            file.unused
                .is_none_or(|since| now.saturating_duration_since(since) < GRACE)
        });
        let mut unused: Vec<(Instant, FileId)> = self
            .files
            .iter()
            .filter_map(|(id, file)| Some((file.unused?, *id)))
            .collect();
        unused.sort_unstable();
        let excess = unused.len().saturating_sub(MOST_UNUSED);
        for (_, id) in &unused[..excess] {
            self.files.remove(id);
        }
        !unused.is_empty()
    }

    /// Lets go of all.
    pub(crate) fn clear(&mut self) {
        self.files.clear();
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }
}
