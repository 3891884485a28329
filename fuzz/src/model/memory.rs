//! The client's memory map as a list.

use rustix::io::Errno;
use vfio_user::wire::{
    DmaMap, DmaUnmap, MAX_DMA_MAPS, dma_map_flags as map_flags, dma_unmap_flags as unmap_flags,
};
use zerocopy::IntoBytes;

use super::{Outcome, invalid};
use crate::fds::{Fd, Pool};

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) iova: u64,
    pub(crate) size: u64,
    pub(crate) writable: bool,
    /// Number of the file and offset in it.
    pub(crate) file: Option<(usize, u64)>,
}

#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) entries: Vec<Entry>,
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
            // Its size and kind may have been looked at before or after the rest.
            Some(_) => return Outcome::Errors(vec![Errno::INVAL, Errno::NOSPC]),
        };
        let mut errors = Vec::new();
        let end = u128::from(iova) + u128::from(size);
        if argsz < 32
            || flags & !all != 0
            || wants_file && fd.is_none()
            || size == 0
            || end > u64::MAX.into()
        {
            errors.push(Errno::INVAL);
        }
        if size > 8 << 40 {
            errors.push(Errno::NOSPC);
        }
        let entry = Entry {
            iova,
            size,
            writable: flags & map_flags::WRITE != 0,
            file,
        };
        if errors.is_empty() && self.entries.contains(&entry) {
            return Outcome::Payload(Vec::new());
        }
        let overlaps = |old: &Entry| {
            u128::from(old.iova) < end
                && u128::from(iova) < u128::from(old.iova) + u128::from(old.size)
        };
        if self.entries.iter().any(overlaps) || self.entries.len() >= MAX_DMA_MAPS {
            errors.push(Errno::INVAL);
        }
        if let Some((number, offset)) = file {
            let file = &pool.files[number];
            if u128::from(offset) + u128::from(size) > file.size.into() {
                errors.push(Errno::INVAL);
            }
            if entry.writable && !file.writable {
                errors.extend([Errno::ACCESS, Errno::PERM]);
            }
        }
        if !errors.is_empty() {
            return Outcome::Errors(errors);
        }
        self.entries.push(entry);
        *held += 1;
        Outcome::Payload(Vec::new())
    }

    pub(crate) fn unmap(&mut self, request: &DmaUnmap, held: &mut u64) -> Outcome {
        let &DmaUnmap {
            argsz,
            flags,
            iova,
            size,
        } = request;
        let all = flags == unmap_flags::ALL && (iova, size) == (0, 0);
        if !(24..=1 << 20).contains(&argsz) || flags != 0 && !all {
            return invalid();
        }
        let before = self.entries.len();
        self.entries
            .retain(|entry| !all && (entry.iova, entry.size) != (iova, size));
        if self.entries.len() == before && !all {
            return Outcome::Errors(vec![Errno::NOENT]);
        }
        *held += u64::from(self.entries.len() != before);
        Outcome::Payload(request.as_bytes().to_vec())
    }
}
