//! The client's memory map: what DMA_MAP and DMA_UNMAP say, published as snapshots for queues.
//!
//! Firmware makes clients replace the entry of main memory several times in a row, each time with a fresh
//! descriptor of the same file. So a file is mapped once, as a whole, recognised by device and inode, and kept
//! over a burst of such messages; what no entry uses any more goes when something else is processed.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use guest_mem::{Access, DirtyLog, GuestMem, Mapping, Published};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use rustix::io::Errno;
use tracing::{debug, warn};

use crate::remote::RemoteMemory;
use crate::wire::{DmaMap, DmaUnmap, MAX_DMA_MAPS, dma_map_flags, dma_unmap_flags};

/// Largest map that we take. A file may claim any size; mapping it costs page tables.
const MAX_SIZE: u64 = 8 << 40;

/// What becomes of a device without shared memory, and what to do about it.
const SHARE_IT: &str = "so the device asks the hypervisor for every piece of it, which is slow: start the hypervisor \
     with shared memory (QEMU: -object memory-backend-memfd,id=mem,size=...,share=on -machine memory-backend=mem)";

/// What identifies a file: device and inode.
type FileId = (u64, u64);

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

/// How a guest's memory can be reached.
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
    files: BTreeMap<FileId, Arc<Mapping>>,
    published: Arc<Published<GuestMem>>,
    /// Who is asked for memory without a file.
    remote: Arc<RemoteMemory>,
    /// Changed since it was published.
    dirty: bool,
    /// Changed since `settle` looked.
    unsettled: bool,
    warned: bool,
    log: Option<Arc<DirtyLog>>,
}

impl DmaTable {
    pub(crate) fn new(remote: Arc<RemoteMemory>) -> Self {
        Self {
            remote,
            regions: BTreeMap::new(),
            files: BTreeMap::new(),
            published: Arc::new(Published::new(GuestMem::empty())),
            dirty: false,
            unsettled: false,
            warned: false,
            log: None,
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
        let source = match &fd {
            Some(fd) => Some(Source {
                file: file_id(fd)?,
                offset,
            }),
            None => None,
        };
        if let Some(old) = self.regions.get(&iova)
            && (old.size, old.access, old.source) == (size, access, source)
        {
            return Ok(());
        }
        // The specification names EEXIST for an overlap, libvfio-user answers this.
        if self.overlaps(iova, size) || self.regions.len() >= MAX_DMA_MAPS {
            return Err(Errno::INVAL);
        }
        if let (Some(fd), Some(source)) = (fd, source) {
            self.map_file(&fd, source, size, access)?;
        }
        debug!(iova = %format_args!("{iova:#x}"), size, ?access, ?source, "memory mapped");
        let region = Region {
            size,
            access,
            source,
        };
        self.regions.insert(iova, region);
        self.dirty = true;
        self.unsettled = true;
        Ok(())
    }

    /// Removes an entry, or all; the caller publishes, and knows of dirty bitmaps.
    pub(crate) fn unmap(&mut self, request: &DmaUnmap) -> Result<(), Errno> {
        use dma_unmap_flags::ALL;
        let &DmaUnmap {
            argsz,
            flags,
            iova,
            size,
        } = request;
        let least = size_of::<DmaUnmap>();
        if !(least..=1 << 20).contains(&(argsz as usize))
            || flags & !ALL != 0
            || (flags & ALL != 0 && (iova, size) != (0, 0))
        {
            return Err(Errno::INVAL);
        }
        if flags & ALL != 0 {
            self.regions.clear();
        } else {
            if self.regions.get(&iova).is_none_or(|r| r.size != size) {
                return Err(Errno::NOENT);
            }
            self.regions.remove(&iova);
        }
        debug!(iova = %format_args!("{iova:#x}"), size, flags, "memory unmapped");
        self.dirty = true;
        self.unsettled = true;
        Ok(())
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
        self.unsettled = false;
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
            builder = match region
                .source
                .and_then(|s| Some((s, self.files.get(&s.file)?)))
            {
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

    /// A burst of map changes is over: lets go of files that nothing uses, and says it if the client does not
    /// share the guest's memory.
    pub(crate) fn settle(&mut self) {
        if !std::mem::take(&mut self.unsettled) {
            return;
        }
        let sources = self.regions.values().filter_map(|region| region.source);
        let used: BTreeSet<FileId> = sources.map(|source| source.file).collect();
        self.files.retain(|id, _| used.contains(id));
        if self.memory() == Memory::Remote && !std::mem::replace(&mut self.warned, true) {
            warn!("the guest's memory is not shared with us, {SHARE_IT}");
        }
    }

    /// How the largest part of memory that the device may write is reached.
    pub(crate) fn memory(&self) -> Memory {
        let largest = self
            .regions
            .values()
            .filter(|region| region.access == Access::ReadWrite)
            .max_by_key(|region| (region.size, region.source.is_some()));
        match largest {
            None => Memory::None,
            Some(Region {
                source: Some(_), ..
            }) => Memory::Shared,
            Some(_) => Memory::Remote,
        }
    }

    /// Whether the client can be asked for memory, as far as we are concerned.
    fn can_ask(&self) -> bool {
        let needed = self.regions.values().any(|region| region.source.is_none());
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

    /// Makes sure that the file is mapped as far as an entry needs it.
    fn map_file(
        &mut self,
        fd: &OwnedFd,
        source: Source,
        size: u64,
        access: Access,
    ) -> Result<(), Errno> {
        let end = source.offset.checked_add(size).ok_or(Errno::INVAL)?;
        if let Some(mapping) = self.files.get(&source.file)
            && end <= mapping.len()
            && (access == Access::Read || mapping.writable())
        {
            return Ok(());
        }
        let stat = fstat(fd).map_err(|_| Errno::INVAL)?;
        let file_size = u64::try_from(stat.st_size).unwrap_or(0);
        if end > file_size {
            return Err(Errno::INVAL);
        }
        let flags = fcntl_getfl(fd).map_err(|_| Errno::INVAL)?;
        let writable = flags & OFlags::ACCMODE == OFlags::RDWR;
        if access == Access::ReadWrite && !writable {
            return Err(Errno::ACCESS);
        }
        // A file sealed against writing may be open for writing all the same.
        let mapping = match Mapping::of_file(fd.as_fd(), 0, file_size, writable) {
            Err(_) if writable && access == Access::Read => {
                Mapping::of_file(fd.as_fd(), 0, file_size, false)
            }
            other => other,
        }
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?;
        // A mapping that was too short or read-only goes on serving queues until they reload.
        self.files.insert(source.file, Arc::new(mapping));
        self.dirty = true;
        Ok(())
    }
}

fn file_id(fd: &OwnedFd) -> Result<FileId, Errno> {
    let stat = fstat(fd).map_err(|_| Errno::INVAL)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok((stat.st_dev, stat.st_ino)),
        _ => Err(Errno::INVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    const READ: u32 = dma_map_flags::READ;
    const BOTH: u32 = READ | dma_map_flags::WRITE;

    fn memfd(size: u64) -> OwnedFd {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, size).unwrap();
        fd
    }

    fn map(iova: u64, size: u64, offset: u64, flags: u32) -> DmaMap {
        DmaMap {
            argsz: 32,
            flags,
            offset,
            iova,
            size,
        }
    }

    fn unmap(iova: u64, size: u64) -> DmaUnmap {
        DmaUnmap {
            argsz: 24,
            flags: 0,
            iova,
            size,
        }
    }

    #[test]
    fn bad_maps_are_refused_with_the_right_errno() {
        let mut table = DmaTable::new(Arc::default());
        let file = || Some(memfd(0x1000));
        let mut short = map(0, 0x1000, 0, BOTH);
        short.argsz = 31;
        for (what, request, fd, errno) in [
            ("argsz", short, None, Errno::INVAL),
            ("flag", map(0, 0x1000, 0, 16), None, Errno::INVAL),
            ("empty", map(0, 0, 0, BOTH), None, Errno::INVAL),
            ("wraps", map(u64::MAX, 2, 0, BOTH), None, Errno::INVAL),
            ("huge", map(0, MAX_SIZE + 1, 0, BOTH), None, Errno::NOSPC),
            ("MMAP, no fd", map(0, 1, 0, BOTH | 4), None, Errno::INVAL),
            ("FILE_IO, no fd", map(0, 1, 0, BOTH | 8), None, Errno::INVAL),
            ("beyond file", map(0, 0x2000, 0, BOTH), file(), Errno::INVAL),
            ("offset", map(0, 1, u64::MAX, BOTH), file(), Errno::INVAL),
        ] {
            assert_eq!(table.map(&request, fd), Err(errno), "{what}");
        }
        assert!(table.regions.is_empty() && table.files.is_empty());
    }

    #[test]
    fn overlaps_are_refused_and_identical_maps_accepted() {
        let mut table = DmaTable::new(Arc::default());
        table.map(&map(0x1000, 0x1000, 0, BOTH), None).unwrap();
        table.map(&map(0x1000, 0x1000, 0, BOTH), None).unwrap();
        for request in [
            map(0x1000, 0x1000, 0, READ),
            map(0x1800, 0x1000, 0, BOTH),
            map(0, 0x1001, 0, BOTH),
            map(0, 0x8000, 0, BOTH),
            map(0x1fff, 1, 0, BOTH),
        ] {
            assert_eq!(table.map(&request, None), Err(Errno::INVAL), "{request:x?}");
        }
        table.map(&map(0, 0x1000, 0, BOTH), None).unwrap();
        table.map(&map(0x2000, 0x1000, 0, BOTH), None).unwrap();
        assert_eq!(table.unmap(&unmap(0x1000, 0x800)), Err(Errno::NOENT));
        assert_eq!(table.unmap(&unmap(0x5000, 0x800)), Err(Errno::NOENT));
        assert_eq!(table.unmap(&unmap(0x1000, 0x1000)), Ok(()));
    }

    #[test]
    fn the_number_of_maps_is_bounded() {
        let mut table = DmaTable::new(Arc::default());
        for i in 0..MAX_DMA_MAPS as u64 {
            table.map(&map(i << 12, 0x1000, 0, BOTH), None).unwrap();
        }
        let one_more = map(1 << 40, 0x1000, 0, BOTH);
        assert_eq!(table.map(&one_more, None), Err(Errno::INVAL));
    }

    #[test]
    fn one_mapping_serves_all_entries_of_a_file_over_churn() {
        let mut table = DmaTable::new(Arc::default());
        let file = memfd(0x10000);
        let dup = || Some(file.try_clone().unwrap());
        table.map(&map(0, 0x4000, 0, BOTH), dup()).unwrap();
        table
            .map(&map(0x8000, 0x8000, 0x8000, READ), dup())
            .unwrap();
        let first = Arc::as_ptr(table.files.values().next().unwrap());
        table.unmap(&unmap(0, 0x4000)).unwrap();
        table.unmap(&unmap(0x8000, 0x8000)).unwrap();
        table.map(&map(0, 0x10000, 0, BOTH), dup()).unwrap();
        table.settle();
        assert_eq!(table.files.len(), 1);
        assert_eq!(Arc::as_ptr(table.files.values().next().unwrap()), first);

        table.publish();
        let mem = table.published().load();
        mem.write(0x8000, b"hello").unwrap();
        let mut back = [0; 5];
        rustix::io::pread(&file, &mut back, 0x8000).unwrap();
        assert_eq!(&back, b"hello");

        table.unmap(&unmap(0, 0x10000)).unwrap();
        table.settle();
        assert!(table.files.is_empty(), "nothing keeps an unplugged file");
    }

    #[test]
    fn a_file_that_grew_is_mapped_anew() {
        let mut table = DmaTable::new(Arc::default());
        let file = memfd(0x1000);
        let dup = || Some(file.try_clone().unwrap());
        table.map(&map(0, 0x1000, 0, BOTH), dup()).unwrap();
        ftruncate(&file, 0x3000).unwrap();
        table
            .map(&map(0x1000, 0x2000, 0x1000, BOTH), dup())
            .unwrap();
        table.publish();
        table.published().load().write(0xff0, &[7; 0x1000]).unwrap();
    }

    #[test]
    fn a_read_only_file_backs_read_only_entries() {
        let mut table = DmaTable::new(Arc::default());
        let path = std::env::temp_dir().join(format!("vfio-user-ro-{}", std::process::id()));
        std::fs::write(&path, [1; 0x1000]).unwrap();
        let open = || Some(OwnedFd::from(std::fs::File::open(&path).unwrap()));
        let refused = table.map(&map(0, 0x1000, 0, BOTH), open());
        table.map(&map(0, 0x1000, 0, READ), open()).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(refused, Err(Errno::ACCESS));
        table.publish();
        let mem = table.published().load();
        let mut byte = [0];
        mem.read(0xfff, &mut byte).unwrap();
        assert_eq!(byte, [1]);
        assert!(mem.write(0, &[2]).is_err());
    }

    #[test]
    fn regions_without_a_file_are_asked_for() {
        let mut table = DmaTable::new(Arc::default());
        table.map(&map(0xfeb0_0000, 0x1000, 0, BOTH), None).unwrap();
        table.publish();
        assert!(table.published().load().write(0xfeb0_0000, &[0]).is_err());
        table.settle();
        assert!(table.warned, "the operator is told of share=on");
    }
}
