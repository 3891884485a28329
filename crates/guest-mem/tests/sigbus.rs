//! Files that shrink under their mappings. Each case runs in a process of its own, since its signal handler is the
//! process's, and since some of them end it.

#![allow(unsafe_code, reason = "faults outside of this crate's mappings")]

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use guest_mem::{Access, GuestMem, Mapping, sigbus};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};

const PAGE: u64 = 4096;
const CHILD: &str = "GUEST_MEM_SIGBUS_CHILD";

/// Runs the test `name` of this program again, as a process in which `in_child` is true.
fn child(name: &str) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--test-threads", "1"])
        .env(CHILD, "1")
        .output()
        .unwrap()
        .status
}

fn in_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// The outcome of a child that is to live.
fn survives(name: &str) {
    let status = child(name);
    assert!(status.success(), "{status}");
}

fn dies(name: &str) {
    assert_eq!(child(name).signal(), Some(libc::SIGBUS));
}

/// A file that cannot be sealed.
fn file(pages: u64) -> OwnedFd {
    let file = memfd_create("ram", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, pages * PAGE).unwrap();
    file
}

fn ram(file: &OwnedFd, pages: u64) -> (Arc<Mapping>, GuestMem) {
    let mapping = Arc::new(Mapping::of_file(file.as_fd(), 0, pages * PAGE, true).unwrap());
    let mem = GuestMem::builder()
        .map(0, pages * PAGE, mapping.clone(), 0, Access::ReadWrite)
        .build()
        .unwrap();
    (mapping, mem)
}

/// Maps a file on its own account, shrinks it and touches what is gone.
fn fault_elsewhere() {
    let file = file(1);
    // SAFETY: a new mapping, and a volatile read of it that is meant to fail.
    unsafe {
        let base = mmap(
            ptr::null_mut(),
            PAGE as usize,
            ProtFlags::READ,
            MapFlags::SHARED,
            &file,
            0,
        )
        .unwrap();
        ftruncate(&file, 0).unwrap();
        base.cast::<u8>().read_volatile();
    }
}

#[test]
fn a_file_that_shrinks_reads_as_zeros_and_is_marked() {
    if !in_child() {
        return survives("a_file_that_shrinks_reads_as_zeros_and_is_marked");
    }
    sigbus::install().unwrap();
    sigbus::install().unwrap();
    let file = file(16);
    let (mapping, mem) = ram(&file, 16);
    mem.write(0, &[7; 16 * PAGE as usize]).unwrap();
    ftruncate(&file, 2 * PAGE).unwrap();
    assert!(!mapping.is_broken(), "nobody has touched it");

    let mut bytes = [1; 100];
    mem.read(2 * PAGE - 50, &mut bytes).unwrap();
    assert_eq!(bytes[..50], [7; 50]);
    assert_eq!(bytes[50..], [0; 50]);
    assert!(mapping.is_broken());
    // All the rest, in every way.
    let mut words = [1; 2];
    mem.read_u64s(5 * PAGE, &mut words).unwrap();
    assert_eq!(words, [0; 2]);
    mem.store_u64(9 * PAGE, 3).unwrap();
    mem.store_u32(10 * PAGE, 3).unwrap();
    mem.store_u8(11 * PAGE, 3).unwrap();
    mem.write(15 * PAGE, &[1; PAGE as usize]).unwrap();
    mem.slices(12 * PAGE, PAGE, Access::Read, |slice| {
        slice.copy_to(&mut bytes);
    })
    .unwrap();

    // It stays broken, whatever the file does; another mapping of it is not.
    ftruncate(&file, 16 * PAGE).unwrap();
    rustix::io::pwrite(&file, b"back", 5 * PAGE).unwrap();
    mem.read(5 * PAGE, &mut bytes[..4]).unwrap();
    assert_eq!(bytes[..4], [0; 4]);
    assert!(mapping.is_broken());
    let (again, mem) = ram(&file, 16);
    mem.read(5 * PAGE, &mut bytes[..4]).unwrap();
    assert_eq!(&bytes[..4], b"back");
    assert!(!again.is_broken());
}

#[test]
fn a_read_only_mapping_is_mended_read_only() {
    if !in_child() {
        return survives("a_read_only_mapping_is_mended_read_only");
    }
    sigbus::install().unwrap();
    let file = file(2);
    let mapping = Arc::new(Mapping::of_file(file.as_fd(), PAGE + 8, 100, false).unwrap());
    ftruncate(&file, 0).unwrap();
    let mem = GuestMem::builder()
        .map(0, 100, mapping.clone(), 0, Access::Read)
        .build()
        .unwrap();
    let mut bytes = [1; 100];
    mem.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 100]);
    assert!(mapping.is_broken());
}

#[test]
fn without_the_handler_the_process_ends() {
    if !in_child() {
        return dies("without_the_handler_the_process_ends");
    }
    let file = file(1);
    let (_, mem) = ram(&file, 1);
    ftruncate(&file, 0).unwrap();
    let _ = mem.read(0, &mut [0]);
}

#[test]
fn a_fault_elsewhere_ends_the_process() {
    if !in_child() {
        return dies("a_fault_elsewhere_ends_the_process");
    }
    sigbus::install().unwrap();
    let file = file(1);
    let (_kept, mem) = ram(&file, 1);
    mem.write(0, &[1]).unwrap();
    fault_elsewhere();
}

#[test]
fn a_fault_where_a_mapping_was_ends_the_process() {
    if !in_child() {
        return dies("a_fault_where_a_mapping_was_ends_the_process");
    }
    sigbus::install().unwrap();
    let file = file(1);
    let (mapping, mem) = ram(&file, 1);
    let mut at = 0;
    mem.slices(0, PAGE, Access::Read, |slice| at = slice.as_ptr().addr())
        .unwrap();
    drop((mapping, mem));
    // SAFETY: nothing is mapped there any more (or the test fails), and the read is meant to fail.
    unsafe {
        let base = mmap(
            at as *mut _,
            PAGE as usize,
            ProtFlags::READ,
            MapFlags::SHARED | MapFlags::FIXED_NOREPLACE,
            &file,
            0,
        )
        .unwrap();
        ftruncate(&file, 0).unwrap();
        base.cast::<u8>().read_volatile();
    }
}

#[test]
fn a_signal_that_was_sent_ends_the_process() {
    if !in_child() {
        return dies("a_signal_that_was_sent_ends_the_process");
    }
    // SAFETY: back to the default action; the standard library's handler would let the first such signal pass.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    sigbus::install().unwrap();
    // SAFETY: sends a signal.
    unsafe { libc::kill(libc::getpid(), libc::SIGBUS) };
}

#[test]
fn who_handled_it_before_still_does() {
    extern "C" fn plain(_: libc::c_int) {
        // SAFETY: ends the process.
        unsafe { libc::_exit(42) };
    }
    if !in_child() {
        assert_eq!(child("who_handled_it_before_still_does").code(), Some(42));
        return;
    }
    let handler: extern "C" fn(libc::c_int) = plain;
    // SAFETY: the handler is async-signal-safe.
    unsafe { libc::signal(libc::SIGBUS, handler as libc::sighandler_t) };
    sigbus::install().unwrap();
    let file = file(1);
    let (mapping, mem) = ram(&file, 1);
    ftruncate(&file, 0).unwrap();
    mem.read(0, &mut [0]).unwrap();
    assert!(mapping.is_broken(), "ours is not passed on");
    fault_elsewhere();
}

/// Mappings come and go on one thread while they break on others.
#[test]
fn mappings_come_and_go_while_others_break() {
    if !in_child() {
        return survives("mappings_come_and_go_while_others_break");
    }
    sigbus::install().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = file(64);
            while !done.load(Ordering::Relaxed) {
                let mut some: Vec<_> = (1..20).map(|pages| ram(&file, pages)).collect();
                some.drain(..10);
                drop(some);
            }
        });
        let breakers = [3, 7].map(|pages| {
            scope.spawn(move || {
                for round in 0..2000 {
                    let file = file(pages);
                    let (mapping, mem) = ram(&file, pages);
                    mem.write(0, &[1; PAGE as usize]).unwrap();
                    ftruncate(&file, round % pages * PAGE).unwrap();
                    let mut byte = [1];
                    mem.read((pages - 1) * PAGE, &mut byte).unwrap();
                    assert!(mapping.is_broken());
                    assert_eq!(byte, [0]);
                }
            })
        });
        for breaker in breakers {
            breaker.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn the_kernel_is_told_by_an_error_instead() {
    if !in_child() {
        return survives("the_kernel_is_told_by_an_error_instead");
    }
    sigbus::install().unwrap();
    let file = file(1);
    let (mapping, mem) = ram(&file, 1);
    ftruncate(&file, 0).unwrap();
    let (_reader, writer) = rustix::pipe::pipe().unwrap();
    mem.slices(0, PAGE, Access::Read, |slice| {
        // SAFETY: the kernel reads memory that is mapped; that it has no page behind it is what this is about.
        let sent = unsafe {
            let fd = std::os::fd::AsRawFd::as_raw_fd(&writer);
            libc::write(fd, slice.as_ptr().cast(), slice.len())
        };
        assert_eq!(sent, -1);
        let error = std::io::Error::last_os_error();
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
    })
    .unwrap();
    assert!(!mapping.is_broken());
}
