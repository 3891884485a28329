//! The client's memory map: what DMA_MAP and DMA_UNMAP say, published as snapshots for queues.
//!
//! Where libvfio-user and the specification differ, or neither says:
//! - A map that overlaps another is refused with EINVAL, as libvfio-user does; the specification names EEXIST.
//! - The same map again succeeds, and is the one that there was.
//! - An unmap takes every entry that lies in its range as a whole, and there may be none, as VFIO does it: QEMU's IOMMUs
//!   name large ranges of powers of two when a guest gives a device to somebody else, or drops what it never mapped; an
//!   error ends a migration that is under way. If the range cuts through an entry, ENOENT.
//! - An entry without a descriptor is reached by messages, whatever its flags.

mod files;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use guest_mem::{Access, DirtyLog, GuestMem, Published};
use rustix::io::Errno;
use tracing::{debug, warn};

use crate::remote::RemoteMemory;
use crate::share::{PAGE, Sample};
use crate::wire::{DmaMap, DmaUnmap, MAX_DMA_MAPS, dma_map_flags, dma_unmap_flags};
pub(crate) use files::{FileId, Sharing};
use files::{Files, identify};

/// Largest map that we take. A file may claim any size; mapping it costs page tables.
const MAX_SIZE: u64 = 8 << 40;

/// Entries of which pages are compared, and pages in all, to find out whether files are the guest's memory.
const SAMPLED_REGIONS: usize = 8;
const MOST_SAMPLES: usize = 64;

/// What becomes of a device without shared memory, and what to do about it.
pub(crate) const SHARE_IT: &str = "so the device asks the hypervisor for every piece of it, which is slow: start the hypervisor \
     with shared memory (QEMU: -object memory-backend-memfd,id=mem,size=...,share=on -machine memory-backend=mem)";

#[derive(Debug)]
struct Region {
    size: u64,
    access: Access,
    source: Option<Source>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Source {
    file: FileId,
    offset: u64,
}

/// How a guest's memory can be reached. Specification, "Client memory access".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// There is none.
    None,
    /// The client shares it with us.
    Shared,
    /// Only by asking the client for it, message by message.
    Remote,
}

/// The memory map of the connected client.
#[derive(Debug)]
pub(crate) struct DmaTable {
    regions: BTreeMap<u64, Region>,
    files: Files,
    published: Arc<Published<GuestMem>>,
    /// Who is asked for memory without a file.
    remote: Arc<RemoteMemory>,
    /// Changed since it was published.
    dirty: bool,
    /// Changed since `settle` looked.
    unsettled: bool,
    /// There are files that no entry uses.
    unused: bool,
    warned: bool,
    log: Option<Arc<DirtyLog>>,
    /// Counts changes.
    generation: u64,
}

impl DmaTable {
    pub(crate) fn new(remote: Arc<RemoteMemory>) -> Self {
        Self {
            remote,
            regions: BTreeMap::new(),
            files: Files::default(),
            published: Arc::new(Published::new(GuestMem::empty())),
            dirty: false,
            unsettled: false,
            unused: false,
            warned: false,
            log: None,
            generation: 0,
        }
    }

    pub(crate) fn published(&self) -> Arc<Published<GuestMem>> {
        self.published.clone()
    }

    /// Adds an entry; the caller publishes.
    pub(crate) fn map(&mut self, request: &DmaMap, fd: Option<OwnedFd>) -> Result<(), Errno> {
        use dma_map_flags::{FILE_IO, MMAP, READ, WRITE};
        let &DmaMap {
            argsz,
            flags,
            offset,
            iova,
            size,
        } = request;
        let file_flags = flags & (MMAP | FILE_IO) != 0;
        if (argsz as usize) < size_of::<DmaMap>()
            || flags & !(READ | WRITE | MMAP | FILE_IO) != 0
            || (file_flags && fd.is_none())
            || size == 0
            || iova.checked_add(size).is_none()
        {
            return Err(Errno::INVAL);
        }
        if size > MAX_SIZE {
            return Err(Errno::NOSPC);
        }
        let access = match flags & WRITE {
            0 => Access::Read,
            _ => Access::ReadWrite,
        };
        let file = fd.as_ref().map(identify).transpose()?;
        let source = file.map(|(file, _)| Source { file, offset });
        if let Some(old) = self.regions.get(&iova)
            && (old.size, old.access, old.source) == (size, access, source)
        {
            return Ok(());
        }
        // The specification names EEXIST for an overlap, libvfio-user answers this.
        if self.overlaps(iova, size) || self.regions.len() >= MAX_DMA_MAPS {
            return Err(Errno::INVAL);
        }
        if let (Some(fd), Some(file)) = (fd, file) {
            let end = offset.checked_add(size).ok_or(Errno::INVAL)?;
            self.files.map(&fd, file, end, access)?;
        }
        debug!(iova = %format_args!("{iova:#x}"), size, ?access, ?source, "memory mapped");
        let region = Region {
            size,
            access,
            source,
        };
        self.regions.insert(iova, region);
        self.changed();
        Ok(())
    }

    /// Removes the entries of a range, or all, and returns their DMA addresses and sizes, in order; the caller publishes,
    /// and knows of dirty bitmaps.
    pub(crate) fn unmap(&mut self, request: &DmaUnmap) -> Result<Vec<(u64, u64)>, Errno> {
        use dma_unmap_flags::ALL;
        let &DmaUnmap {
            argsz,
            flags,
            iova,
            size,
        } = request;
        let least = size_of::<DmaUnmap>();
        let all = flags & ALL != 0;
        let sound = match all {
            true => (iova, size) == (0, 0),
            false => size > 0 && iova.checked_add(size - 1).is_some(),
        };
        if !(least..=1 << 20).contains(&(argsz as usize)) || flags & !ALL != 0 || !sound {
            return Err(Errno::INVAL);
        }
        let end = if all {
            u128::MAX
        } else {
            u128::from(iova) + u128::from(size)
        };
        let below = self.regions.range(..iova).next_back();
        let mut whole = below.is_none_or(|(start, region)| start + region.size <= iova);
        let mut inside = Vec::new();
        for (&start, region) in self.regions.range(iova..) {
            if u128::from(start) >= end {
                break;
            }
            whole &= u128::from(start) + u128::from(region.size) <= end;
            inside.push((start, region.size));
        }
        if !whole {
            return Err(Errno::NOENT);
        }
        for (start, _) in &inside {
            self.regions.remove(start);
        }
        debug!(iova = %format_args!("{iova:#x}"), size, flags, entries = inside.len(), "memory unmapped");
        if !inside.is_empty() {
            self.changed();
        }
        Ok(inside)
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.regions.len()
    }

    /// DMA addresses and sizes of all entries, in order.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.regions
            .iter()
            .map(|(&iova, region)| (iova, region.size))
    }

    /// Whether all of a range that is not empty is mapped, by one entry or several.
    pub(crate) fn covers(&self, iova: u64, size: u64) -> bool {
        let Some(last) = iova.checked_add(size - 1) else {
            return false;
        };
        let mut next = iova;
        for (start, size) in self.ranges() {
            if (start..start + size).contains(&next) {
                next = start + size;
            }
            if next > last {
                return true;
            }
        }
        false
    }

    /// Notes in `log` what is written from the next publication on.
    pub(crate) fn set_dirty_log(&mut self, log: Option<Arc<DirtyLog>>) {
        self.log = log;
        self.dirty = true;
    }

    /// Forgets the client.
    pub(crate) fn clear(&mut self) {
        self.regions.clear();
        self.files.clear();
        self.generation += 1;
        self.unsettled = false;
        self.unused = false;
        self.warned = false;
        self.log = None;
        self.published.publish(GuestMem::empty());
        self.dirty = false;
    }

    /// Hands the map as it is now to queues, if it changed.
    pub(crate) fn publish(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        let mut builder = GuestMem::builder();
        if let Some(log) = &self.log {
            builder = builder.dirty_log(log.clone());
        }
        let asks = self.can_ask();
        for (&iova, region) in &self.regions {
            let source = region.source.filter(|_| !self.is_remote(region));
            builder = match source.and_then(|s| Some((s, self.files.get(&s.file)?))) {
                Some((source, mapping)) => builder.map(
                    iova,
                    region.size,
                    mapping.clone(),
                    source.offset,
                    region.access,
                ),
                None if asks => {
                    builder.remote(iova, region.size, region.access, self.remote.clone())
                }
                None => builder.unreachable(iova, region.size, region.access),
            };
        }
        match builder.build() {
            Ok(mem) => self.published.publish(mem),
            Err(error) => {
                // `map` lets nothing in that does not fit; rather no memory than an old map.
                warn!(%error, "the memory map cannot be used");
                self.published.publish(GuestMem::empty());
            }
        }
    }

    /// A burst of map changes is over: lets go of files that nothing uses any more, and says it if the client does not
    /// share the guest's memory.
    pub(crate) fn settle(&mut self) {
        if self.unsettled || self.unused {
            self.settle_at(Instant::now());
        }
    }

    fn settle_at(&mut self, now: Instant) {
        if std::mem::take(&mut self.unsettled) {
            let sources = self.regions.values().filter_map(|region| region.source);
            let used = sources.map(|source| source.file).collect();
            self.files.set_used(&used, now);
            if self.memory() == Memory::Remote && !std::mem::replace(&mut self.warned, true) {
                warn!("the guest's memory is not shared with us, {SHARE_IT}");
            }
        }
        self.unused = self.files.reap(now);
    }

    /// Changes with every change of the map.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Pages by which to find out whether files are the guest's memory, if that is not known: some of each large
    /// entry, more of them where it begins.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        let mut regions: Vec<(&u64, &Region)> = self
            .regions
            .iter()
            .filter(|(_, region)| {
                region.access == Access::ReadWrite
                    && region.size >= PAGE as u64
                    && region
                        .source
                        .is_some_and(|s| self.files.sharing(&s.file) == Sharing::Unknown)
            })
            .collect();
        regions.sort_by_key(|(_, region)| std::cmp::Reverse(region.size));
        let mut samples = Vec::new();
        for (&iova, region) in regions.into_iter().take(SAMPLED_REGIONS) {
            let last = region.size - PAGE as u64;
            let doubled = (0..)
                .map(|n| (PAGE as u64) << n)
                .take_while(|offset| *offset < last);
            let file = region.source.map(|source| source.file).unwrap_or_default();
            samples.extend([0, last].into_iter().chain(doubled).map(|offset| Sample {
                file,
                addr: iova + offset,
            }));
        }
        samples.truncate(MOST_SAMPLES);
        samples
    }

    /// What was found out about a file; the caller publishes.
    pub(crate) fn set_sharing(&mut self, file: &FileId, sharing: Sharing) {
        self.files.set_sharing(file, sharing);
        self.dirty |= sharing == Sharing::Private;
        self.warned |= sharing == Sharing::Private;
    }

    /// How the largest part of memory that the device may write is reached.
    pub(crate) fn memory(&self) -> Memory {
        let largest = self
            .regions
            .values()
            .filter(|region| region.access == Access::ReadWrite)
            .max_by_key(|region| (region.size, !self.is_remote(region)));
        match largest {
            None => Memory::None,
            Some(region) if self.is_remote(region) => Memory::Remote,
            Some(_) => Memory::Shared,
        }
    }

    /// Whether an entry can be reached by messages only.
    fn is_remote(&self, region: &Region) -> bool {
        region
            .source
            .is_none_or(|source| self.files.sharing(&source.file) == Sharing::Private)
    }

    fn changed(&mut self) {
        self.dirty = true;
        self.unsettled = true;
        self.generation += 1;
    }

    /// Whether the client can be asked for memory, as far as we are concerned.
    fn can_ask(&self) -> bool {
        let needed = self.regions.values().any(|region| self.is_remote(region));
        needed
            && self
                .remote
                .prepare()
                .inspect_err(|error| warn!(%error, "the hypervisor cannot be asked for memory"))
                .is_ok()
    }

    fn overlaps(&self, iova: u64, size: u64) -> bool {
        self.regions
            .range(..iova + size)
            .next_back()
            .is_some_and(|(start, region)| start + region.size > iova)
    }
}

#[cfg(test)]
mod tests;
