//! A memory map that is replaced again and again while others use it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use guest_mem::{Access, GuestMem, Mapping, Published};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

const PAGE: u64 = 4096;
const WORDS: usize = 64;

/// A map of one page at an address that depends on its number, all of whose words are that number.
fn map(number: u64) -> (GuestMem, OwnedFd) {
    let file = memfd_create("ram", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, PAGE).unwrap();
    let mapping = Mapping::of_file(file.as_fd(), 0, PAGE, true).unwrap();
    let mem = GuestMem::builder()
        .map(
            number % 4 * PAGE,
            PAGE,
            Arc::new(mapping),
            0,
            Access::ReadWrite,
        )
        .build()
        .unwrap();
    mem.write_u64s(number % 4 * PAGE, &[number; WORDS]).unwrap();
    (mem, file)
}

/// Memory of a version that nobody holds is unmapped at once, so a reader of freed memory would crash here, or find the
/// number of another version.
#[test]
fn who_holds_a_version_reads_that_version_only() {
    const VERSIONS: u64 = 3000;
    let published = Published::new(map(0).0);
    let done = AtomicBool::new(false);
    let loads = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let readers = [(); 2].map(|()| {
            scope.spawn(|| {
                let mut newest = 0;
                while !done.load(Ordering::Acquire) {
                    let held = published.load();
                    let mut words = [0; WORDS];
                    let at = (0..4).find(|page| held.check(page * PAGE, 8, Access::Read).is_ok());
                    held.read_u64s(at.unwrap() * PAGE, &mut words).unwrap();
                    assert!(words.iter().all(|&word| word == words[0]));
                    assert_eq!(words[0] % 4, at.unwrap());
                    assert!(words[0] >= newest, "never back to an older one");
                    newest = words[0];
                    loads.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        for version in 1..VERSIONS {
            published.publish(map(version).0);
        }
        // Some of it has to have happened meanwhile.
        while loads.load(Ordering::Relaxed) < VERSIONS && !readers.iter().any(|r| r.is_finished()) {
            published.publish(map(VERSIONS).0);
        }
        done.store(true, Ordering::Release);
    });
}
