//! Surviving a hypervisor that shrinks the file of its guest's memory.
//!
//! Touching a mapped page that lies beyond the end of its file raises SIGBUS, whose default action ends the process,
//! and with it every other guest that it serves. Sealing (see [`Mapping::of_file`](crate::Mapping::of_file)) prevents
//! it where the file can be sealed; for all others the daemon calls [`install`]. A fault in a
//! [`Mapping`](crate::Mapping) then gives this mapping zeroed memory of its own from the page touched to its end, and
//! marks it [broken](crate::Mapping::is_broken). It stays so until it is dropped, whatever becomes of the file: the
//! device reads zeros there and what it writes is lost, which is what this client has asked for.
//!
//! A system call that is handed such memory fails with EFAULT instead, without any signal and without any mark.
//!
//! A file that grows is no trouble: a mapping goes on showing what it was made for, and who needs more maps more.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::{io, mem, ptr};

use libc::{BUS_ADRERR, SA_ONSTACK, SA_SIGINFO, SIG_DFL, SIG_IGN, SIGBUS, c_int, siginfo_t};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// One live mapping, or room for one. Never freed, so that the handler may walk the list at any time; used again when
/// its mapping is gone, so that there are never more than there were mappings at once.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Odd while the slot describes a mapping; moves with every change.
    version: AtomicUsize,
    start: AtomicUsize,
    end: AtomicUsize,
    /// Granularity in which the mapping can be replaced, in bytes.
    page: AtomicUsize,
    writable: AtomicBool,
    broken: AtomicBool,
    next: Option<&'static Slot>,
}

/// The slot made last.
static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(ptr::null_mut());
/// Faults that were survived.
static FAULTS: AtomicUsize = AtomicUsize::new(0);
/// Held while slots are taken and given back: never by the handler.
static CHANGES: Mutex<()> = Mutex::new(());
/// What SIGBUS did before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Lets faults in mappings of this crate, and only those, be survived from now on. For a daemon: the handler of a signal
/// belongs to the process, not to a library. Faults elsewhere go on to whoever handled SIGBUS before, which ends the
/// process if nobody did. Calling it again does nothing.
///
/// # Errors
///
/// What `sigaction` says.
pub fn install() -> io::Result<()> {
    let _changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
    if PREVIOUS.get().is_some() {
        return Ok(());
    }
    // SAFETY: all zeros is a sigaction: the default action, no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    let mut previous = MaybeUninit::uninit();
    // SAFETY: asks only; the kernel fills `previous` if it succeeds.
    if unsafe { libc::sigaction(SIGBUS, ptr::null(), previous.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled by the call above. Stored before the handler can run.
    let _ = PREVIOUS.set(unsafe { previous.assume_init() });
    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = on_sigbus;
    action.sa_sigaction = handler as usize;
    // On the alternate stack, where there is one: the standard library's handler, which may be next, expects that.
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    // SAFETY: the handler is async-signal-safe: it uses atomics and system calls only.
    if unsafe { libc::sigaction(SIGBUS, &action, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// How many faults were survived in this process so far: one load, to see whether it is worth asking
/// [`GuestMem::is_broken`](crate::GuestMem::is_broken).
pub fn faults() -> usize {
    FAULTS.load(Ordering::Acquire)
}

impl Slot {
    /// Tells the handler of a mapping: `len` bytes at `start`, both multiples of `page`.
    pub(crate) fn take(start: usize, len: usize, page: usize, writable: bool) -> &'static Self {
        let _changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        let mut slot = first();
        while let Some(used) = slot
            && used.version.load(Ordering::Relaxed) % 2 == 1
        {
            slot = used.next;
        }
        let slot = slot.unwrap_or_else(|| {
            let new = Box::leak(Box::new(Self {
                version: AtomicUsize::new(0),
                start: AtomicUsize::new(0),
                end: AtomicUsize::new(0),
                page: AtomicUsize::new(page),
                writable: AtomicBool::new(false),
                broken: AtomicBool::new(false),
                next: first(),
            }));
            SLOTS.store(new, Ordering::Release);
            new
        });
        slot.start.store(start, Ordering::Relaxed);
        slot.end.store(start + len, Ordering::Relaxed);
        slot.page.store(page, Ordering::Relaxed);
        slot.writable.store(writable, Ordering::Relaxed);
        slot.broken.store(false, Ordering::Relaxed);
        slot.version.fetch_add(1, Ordering::Release);
        slot
    }

    /// The mapping is about to go. Before, not after it is unmapped: its addresses may be somebody else's from then on.
    pub(crate) fn give_back(&self) {
        let _changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        self.version.fetch_add(1, Ordering::Relaxed);
        // Whoever takes the slot next changes the rest after this.
        fence(Ordering::Release);
    }

    /// Whether a part of the mapping is memory of its own now.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// If `addr` lies in this mapping, puts zeroed memory there. Async-signal-safe.
    ///
    /// The thread that has faulted on one of our mappings keeps it alive, so its slot does not change meanwhile. Others
    /// may, and must not be mistaken for it: hence the version.
    fn mend(&self, addr: usize) -> bool {
        let version = self.version.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Relaxed);
        let end = self.end.load(Ordering::Relaxed);
        let page = self.page.load(Ordering::Relaxed);
        let writable = self.writable.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        if version.is_multiple_of(2)
            || self.version.load(Ordering::Relaxed) != version
            || !(start..end).contains(&addr)
        {
            return false;
        }
        let from = addr - (addr - start) % page;
        let prot = if writable {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // All that follows too: what lies behind is as good as gone, and one area for each page would exhaust the number
        // of areas that a process may have.
        // SAFETY: replaces a part of a mapping that is ours and stays until this returns. No Rust reference points into
        // it: there are raw copies only, which find zeros now.
        let replaced = unsafe { mmap_anonymous(from as *mut c_void, end - from, prot, flags) };
        if replaced.is_err() {
            return false;
        }
        self.broken.store(true, Ordering::Release);
        FAULTS.fetch_add(1, Ordering::Release);
        true
    }
}

/// The slot made last; the others hang on it.
fn first() -> Option<&'static Slot> {
    // SAFETY: null or a leaked box, published with what is in it.
    unsafe { SLOTS.load(Ordering::Acquire).as_ref() }
}

extern "C" fn on_sigbus(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a siginfo to a handler installed with SA_SIGINFO.
    let (code, addr) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    if code == BUS_ADRERR {
        let mut slot = first();
        while let Some(this) = slot {
            if this.mend(addr) {
                return;
            }
            slot = this.next;
        }
    }
    pass_on(signal, info, context);
}

/// Not ours: as if this handler had never been.
fn pass_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let previous = PREVIOUS.get();
    let handler = previous.map_or(SIG_DFL, |previous| previous.sa_sigaction);
    // SAFETY: the kernel filled it, see above.
    let sent = unsafe { (*info).si_code } <= 0;
    match (handler, previous) {
        (SIG_IGN, _) if sent => {}
        (SIG_DFL | SIG_IGN, _) | (_, None) => {
            // SAFETY: all zeros is the default action. It ends the process when the access is tried again, or, if the
            // signal was sent by somebody, when it is sent again.
            unsafe {
                let default: libc::sigaction = mem::zeroed();
                libc::sigaction(signal, &default, ptr::null_mut());
                if sent {
                    libc::raise(signal);
                }
            }
        }
        (handler, Some(previous)) if previous.sa_flags & SA_SIGINFO != 0 => {
            // SAFETY: whoever installed it gave a function of this type along with this flag.
            let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
                unsafe { mem::transmute(handler) };
            handler(signal, info, context);
        }
        (handler, Some(_)) => {
            // SAFETY: as above, without the flag.
            let handler: extern "C" fn(c_int) = unsafe { mem::transmute(handler) };
            handler(signal);
        }
    }
}
