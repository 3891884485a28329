//! The bare machine: ports, device registers, RAM, the processor's own instructions.

#![allow(unsafe_code)]

use core::arch::asm;
use core::arch::x86_64::_rdtsc;
use core::ptr;
use core::sync::atomic::{Ordering, compiler_fence};

/// Leave to use privileged instructions and to touch device registers: whoever has one runs on a machine of its own.
#[derive(Clone, Copy, Debug)]
pub struct Machine(());

impl Machine {
    /// # Safety
    ///
    /// The processor is in ring 0 of a machine that this program has to itself, with all memory below 4 GiB mapped to
    /// itself.
    pub unsafe fn own() -> Self {
        Self(())
    }

    /// Reads a byte from a port.
    pub fn inb(self, port: u16) -> u8 {
        let value;
        // SAFETY: a port access touches no memory, and the machine is ours (`own`).
        unsafe { asm!("in al, dx", out("al") value, in("dx") port, options(nomem, nostack)) };
        value
    }

    /// Writes a byte to a port.
    pub fn outb(self, port: u16, value: u8) {
        // SAFETY: as in `inb`; what a device does to memory by it, it does to memory that was given to it.
        unsafe { asm!("out dx, al", in("al") value, in("dx") port, options(nostack)) };
    }

    /// Reads 4 bytes from a port.
    pub fn inl(self, port: u16) -> u32 {
        let value;
        // SAFETY: as in `inb`.
        unsafe { asm!("in eax, dx", out("eax") value, in("dx") port, options(nomem, nostack)) };
        value
    }

    /// Writes 4 bytes to a port.
    pub fn outl(self, port: u16, value: u32) {
        // SAFETY: as in `outb`.
        unsafe { asm!("out dx, eax", in("eax") value, in("dx") port, options(nostack)) };
    }

    /// Writes 2 bytes to a port.
    pub fn outw(self, port: u16, value: u16) {
        // SAFETY: as in `outb`.
        unsafe { asm!("out dx, ax", in("ax") value, in("dx") port, options(nostack)) };
    }

    /// Reads the device register at a physical address.
    #[inline]
    pub fn read32(self, addr: u32) -> u32 {
        // SAFETY: mapped to itself (`own`), and registers are no memory of the program's.
        unsafe { ptr::with_exposed_provenance::<u32>(addr as usize).read_volatile() }
    }

    /// Writes the device register at a physical address; whatever was stored to RAM before is there when the device
    /// hears of it.
    #[inline]
    pub fn write32(self, addr: u32, value: u32) {
        compiler_fence(Ordering::SeqCst);
        // SAFETY: as in `read32`.
        unsafe { ptr::with_exposed_provenance_mut::<u32>(addr as usize).write_volatile(value) };
    }

    /// The time stamp counter.
    #[inline]
    pub fn tsc(self) -> u64 {
        // SAFETY: reads a counter that every 64-bit processor has.
        unsafe { _rdtsc() }
    }

    /// Tells the processor that this is a waiting loop.
    #[inline]
    pub fn pause(self) {
        core::hint::spin_loop();
    }

    /// Lets interrupts through, or keeps them.
    pub fn interrupts(self, enabled: bool) {
        // SAFETY: the table of interrupts was loaded by the entry, and its handlers leave everything as it was.
        unsafe {
            if enabled {
                asm!("sti", options(nostack));
            } else {
                asm!("cli", options(nostack));
            }
        }
    }

    /// Lets interrupts through and stops until the next one, which cannot come in between.
    pub fn halt(self) {
        // SAFETY: as in `interrupts`; goes on behind the handler.
        unsafe { asm!("sti", "hlt", options(nostack)) };
    }

    /// Sleeps from interrupt to interrupt until `done`; leaves interrupts let through.
    pub fn halt_until(self, mut done: impl FnMut() -> bool) {
        self.interrupts(false);
        while !done() {
            self.halt();
            self.interrupts(false);
        }
        self.interrupts(true);
    }
}

/// RAM for whoever allocates from it, and for devices that are told its addresses. Nothing is ever given back.
#[derive(Debug)]
pub struct Ram {
    start: u64,
    next: u64,
    end: u64,
}

impl Ram {
    /// The physical addresses from `start` to before `end`.
    ///
    /// # Safety
    ///
    /// They are RAM, mapped to themselves, zeroed, and used by nothing else.
    pub unsafe fn new(start: u64, end: u64) -> Self {
        let next = start;
        Self { start, next, end }
    }

    /// Takes `len` bytes; returns their address, a multiple of `align`.
    ///
    /// # Panics
    ///
    /// If there is no room left.
    pub fn alloc(&mut self, len: usize, align: u64) -> u64 {
        let addr = self.next.next_multiple_of(align);
        self.next = addr + len as u64;
        assert!(self.next <= self.end, "out of memory");
        addr
    }

    #[inline]
    fn pointer(&self, addr: u64, len: usize) -> *mut u8 {
        let inside = addr >= self.start && addr <= self.end && len as u64 <= self.end - addr;
        assert!(inside, "no RAM of ours");
        ptr::with_exposed_provenance_mut(addr as usize)
    }

    /// Copies out of RAM. What a device wrote before a word that was [loaded](Ram::load) earlier is seen.
    #[inline]
    pub fn read(&self, addr: u64, to: &mut [u8]) {
        compiler_fence(Ordering::SeqCst);
        let from = self.pointer(addr, to.len());
        // SAFETY: `pointer` has checked the range; no reference points there, and a device that writes meanwhile can
        // spoil the bytes and nothing else.
        unsafe { ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
    }

    /// Copies into RAM.
    #[inline]
    pub fn write(&mut self, addr: u64, from: &[u8]) {
        let to = self.pointer(addr, from.len());
        // SAFETY: as in `read`.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
        compiler_fence(Ordering::SeqCst);
    }

    /// Reads the aligned word at `addr`, as it stands there now.
    #[inline]
    pub fn load(&self, addr: u64) -> u64 {
        assert!(addr.is_multiple_of(8));
        let word = self.pointer(addr, 8).cast::<u64>();
        // SAFETY: `pointer` has checked the range, and the address is aligned.
        let value = unsafe { word.read_volatile() };
        compiler_fence(Ordering::SeqCst);
        value
    }

    /// Writes the aligned word at `addr`, after everything that was written before.
    #[inline]
    pub fn store(&mut self, addr: u64, value: u64) {
        assert!(addr.is_multiple_of(8));
        let word = self.pointer(addr, 8).cast::<u64>();
        compiler_fence(Ordering::SeqCst);
        // SAFETY: as in `load`.
        unsafe { word.write_volatile(value) };
    }
}
