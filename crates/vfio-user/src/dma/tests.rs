use std::time::Duration;

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
    assert!(table.regions.is_empty() && table.files.len() == 0);
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
    assert_eq!(table.unmap(&unmap(0x5000, 0x800)), Ok(vec![]));
    let one = Ok(vec![(0x1000, 0x1000)]);
    assert_eq!(table.unmap(&unmap(0x1000, 0x1000)), one);
}

/// What an IOMMU of QEMU's says when its guest gives a device to another process, which then maps the same addresses to
/// other memory: the old one must be out of reach.
#[test]
fn a_range_takes_all_that_lies_in_it() {
    let start = 0x11_8000_0000;
    let fill = |table: &mut DmaTable, offset| {
        for n in 0..4 {
            let request = map(start + n * 0x20_0000, 0x20_0000, offset, BOTH);
            table.map(&request, None).unwrap();
        }
    };
    let mut table = DmaTable::new(Arc::default());
    fill(&mut table, 0);
    for (iova, size) in [
        (start + 0x1000, 0x40_0000),
        (start - 0x1000, 0x30_0000),
        (0, start + 1),
        (start + 0x7f_f000, 0x1000),
    ] {
        assert_eq!(table.unmap(&unmap(iova, size)), Err(Errno::NOENT));
        assert_eq!(table.len(), 4, "{iova:#x}");
    }
    for (iova, size) in [(start, 0), (start + 0x80_0000, u64::MAX), (u64::MAX, 2)] {
        assert_eq!(table.unmap(&unmap(iova, size)), Err(Errno::INVAL));
        assert_eq!(table.len(), 4, "{iova:#x}");
    }
    let before = table.generation();
    for (iova, size) in [(0, start), (start + 0x80_0000, 1 << 40), (u64::MAX, 1)] {
        assert_eq!(table.unmap(&unmap(iova, size)), Ok(vec![]), "{iova:#x}");
    }
    assert_eq!((table.len(), table.generation()), (4, before));
    let two = [start + 0x20_0000, start + 0x40_0000].map(|iova| (iova, 0x20_0000));
    assert_eq!(
        table.unmap(&unmap(start + 0x20_0000, 0x40_0000)),
        Ok(two.to_vec())
    );
    let left: Vec<_> = table.ranges().map(|(iova, _)| iova - start).collect();
    assert_eq!(left, [0, 0x60_0000]);
    table.unmap(&unmap(0x10_0000_0000, 0x10_0000_0000)).unwrap();
    assert_eq!(table.len(), 0);
    fill(&mut table, 0x1000);
    table.unmap(&unmap(1, u64::MAX)).unwrap();
    assert_eq!(table.len(), 0);
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
    let id = identify(&file).unwrap().0;
    let first = Arc::as_ptr(table.files.get(&id).unwrap());
    table.unmap(&unmap(0, 0x4000)).unwrap();
    table.unmap(&unmap(0x8000, 0x8000)).unwrap();
    table.settle();
    table.map(&map(0, 0x10000, 0, BOTH), dup()).unwrap();
    table.settle();
    assert_eq!(table.files.len(), 1);
    assert_eq!(Arc::as_ptr(table.files.get(&id).unwrap()), first);

    table.publish();
    let mem = table.published().load();
    mem.write(0x8000, b"hello").unwrap();
    let mut back = [0; 5];
    rustix::io::pread(&file, &mut back, 0x8000).unwrap();
    assert_eq!(&back, b"hello");

    table.unmap(&unmap(0, 0x10000)).unwrap();
    let now = Instant::now();
    table.settle_at(now);
    assert!(table.unused, "it is looked at again");
    table.settle_at(now + Duration::from_secs(2));
    assert_eq!(table.files.len(), 0, "nothing keeps an unplugged file");
    assert!(!table.unused);
}

#[test]
fn few_unused_files_stay_mapped_the_newest_ones() {
    let mut table = DmaTable::new(Arc::default());
    let now = Instant::now();
    let files: Vec<_> = (0..20).map(|_| memfd(0x1000)).collect();
    for (i, file) in files.iter().enumerate() {
        let file = Some(file.try_clone().unwrap());
        table.map(&map(0, 0x1000, 0, BOTH), file).unwrap();
        table.unmap(&unmap(0, 0x1000)).unwrap();
        table.settle_at(now + Duration::from_micros(i as u64));
    }
    assert_eq!(table.files.len(), 4);
    let newest = identify(&files[19]).unwrap().0;
    assert!(table.files.get(&newest).is_some());
}

#[test]
fn what_is_no_memory_file_is_refused() {
    use rustix::fs::{Mode, OFlags, SealFlags, fcntl_add_seals, open};
    let mut table = DmaTable::new(Arc::default());
    let opened = |path: &str, flags| open(path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let file = memfd(0x1000);
    let by_path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let sealed = memfd_create("sealed", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&sealed, 0x1000).unwrap();
    fcntl_add_seals(&sealed, SealFlags::WRITE).unwrap();
    let socket = std::os::unix::net::UnixStream::pair().unwrap().0;
    let pipe = std::io::pipe().unwrap().0;
    for (what, fd) in [
        ("directory", opened("/", OFlags::RDONLY)),
        ("/dev/zero", opened("/dev/zero", OFlags::RDWR)),
        ("/dev/null", opened("/dev/null", OFlags::RDWR)),
        ("socket", socket.into()),
        ("pipe", pipe.into()),
        (
            "eventfd",
            rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap(),
        ),
        ("O_PATH", opened(&by_path, OFlags::PATH)),
        ("write only", opened(&by_path, OFlags::WRONLY)),
        ("sealed against writing", sealed.try_clone().unwrap()),
        ("/proc file", opened("/proc/self/maps", OFlags::RDONLY)),
        ("empty", memfd(0)),
    ] {
        let result = table.map(&map(0, 0x1000, 0, BOTH), Some(fd));
        assert!(result.is_err(), "{what}");
    }
    assert_eq!((table.regions.len(), table.files.len()), (0, 0));
    // It may still be read.
    table.map(&map(0, 0x1000, 0, READ), Some(sealed)).unwrap();
}

#[test]
fn a_file_of_huge_pages_is_mapped_or_refused() {
    let Ok(file) = memfd_create("huge", MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB) else {
        return;
    };
    ftruncate(&file, 4 << 20).unwrap();
    let mut table = DmaTable::new(Arc::default());
    // A piece that is no multiple of its pages, as PAM leaves behind.
    match table.map(&map(0xc_0000, 0x8000, 0xc_0000, BOTH), Some(file)) {
        Ok(()) => {
            table.publish();
            table
                .published()
                .load()
                .write(0xc_0000, &[1; 0x8000])
                .unwrap();
        }
        Err(errno) => assert_eq!(errno, Errno::NOMEM, "none are set aside"),
    }
}

#[test]
fn a_file_that_shrank_is_refused_beyond_its_end() {
    let mut table = DmaTable::new(Arc::default());
    let path = std::env::temp_dir().join(format!("vfio-user-shrinks-{}", std::process::id()));
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    file.set_len(0x4000).unwrap();
    let dup = || Some(OwnedFd::from(file.try_clone().unwrap()));
    table.map(&map(0, 0x1000, 0, BOTH), dup()).unwrap();
    file.set_len(0x2000).unwrap();
    let beyond = table.map(&map(0x1000, 0x2000, 0x1000, BOTH), dup());
    assert_eq!(beyond, Err(Errno::INVAL));
    table
        .map(&map(0x1000, 0x1000, 0x1000, BOTH), dup())
        .unwrap();
    file.set_len(0x8000).unwrap();
    table
        .map(&map(0x2000, 0x6000, 0x2000, BOTH), dup())
        .unwrap();
    table.publish();
    table.published().load().write(0, &[1; 0x8000]).unwrap();
}

#[test]
fn what_files_take_of_the_process_is_bounded() {
    let mut table = DmaTable::new(Arc::default());
    // Nothing but address space, and more than there is.
    let sparse = || Some(memfd(3 << 40));
    table.map(&map(0, 0x1000, 0, BOTH), sparse()).unwrap();
    table.map(&map(0x1000, 0x1000, 0, BOTH), sparse()).unwrap();
    assert_eq!(
        table.map(&map(0x2000, 0x1000, 0, BOTH), sparse()),
        Err(Errno::NOSPC)
    );
    let mut table = DmaTable::new(Arc::default());
    let results: Vec<_> = (0..600)
        .map(|i| table.map(&map(i << 12, 0x1000, 0, BOTH), Some(memfd(0x1000))))
        .collect();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 512);
    assert_eq!(results[599], Err(Errno::NOSPC));
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
