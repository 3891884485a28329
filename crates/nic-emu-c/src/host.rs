//! The embedder's callbacks, as the memory, the network and the interrupt line of a NIC.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::sync::atomic::{Ordering, fence};

use guest_mem::{DmaError, Remote};

use crate::device::Host;
use crate::types::NicEmuCallbacks;

type DmaRead = unsafe extern "C" fn(*mut c_void, u64, *mut c_void, usize) -> bool;
type DmaWrite = unsafe extern "C" fn(*mut c_void, u64, *const c_void, usize) -> bool;
type Transmit = unsafe extern "C" fn(*mut c_void, *const u8, usize) -> bool;
type Interrupt = unsafe extern "C" fn(*mut c_void, bool);
type ReceiveReady = unsafe extern "C" fn(*mut c_void);
type Pme = unsafe extern "C" fn(*mut c_void, bool);

/// Callbacks that are all there.
#[derive(Debug)]
pub(crate) struct Callbacks {
    opaque: *mut c_void,
    dma_read: DmaRead,
    dma_write: DmaWrite,
    transmit: Transmit,
    interrupt: Interrupt,
    receive_ready: Option<ReceiveReady>,
    pme: Option<Pme>,
}

// SAFETY: `opaque` is never dereferenced here. It is passed to functions whose owner was told, in the header, that they
// run on whatever thread calls the NIC; a NIC is called by one thread at a time.
unsafe impl Send for Callbacks {}
// SAFETY: As above; the NIC and its memory map, who share this, are called under one lock.
unsafe impl Sync for Callbacks {}

impl Callbacks {
    /// The callbacks of `table`; none if one is missing.
    ///
    /// # Safety
    ///
    /// The functions are what the header says, for as long as this is used.
    pub(crate) unsafe fn new(table: &NicEmuCallbacks) -> Option<Callbacks> {
        Some(Callbacks {
            opaque: table.opaque,
            dma_read: table.dma_read?,
            dma_write: table.dma_write?,
            transmit: table.transmit?,
            interrupt: table.interrupt?,
            receive_ready: table.receive_ready,
            pme: table.pme,
        })
    }
}

fn reached(done: bool, addr: u64) -> Result<(), DmaError> {
    match done {
        true => Ok(()),
        false => Err(DmaError::Unreachable { addr }),
    }
}

impl Remote for Callbacks {
    fn read(&self, addr: u64, to: &mut [u8]) -> Result<(), DmaError> {
        // SAFETY: `new` vouches for the function; it is given a buffer and its length.
        let done = unsafe { (self.dma_read)(self.opaque, addr, to.as_mut_ptr().cast(), to.len()) };
        reached(done, addr)
    }

    fn write(&self, addr: u64, from: &[u8]) -> Result<(), DmaError> {
        // What was written before arrives before this, whatever the machine; a plain memcpy would not see to it.
        fence(Ordering::Release);
        // SAFETY: `new` vouches for the function; it is given bytes and their length.
        let done = unsafe { (self.dma_write)(self.opaque, addr, from.as_ptr().cast(), from.len()) };
        reached(done, addr)
    }

    fn flush(&self) -> Result<(), DmaError> {
        Ok(())
    }

    fn blocks(&self) -> bool {
        false
    }
}

impl Host for Callbacks {
    fn transmit(&self, frame: &[u8]) -> bool {
        // SAFETY: `new` vouches for the function; it is given bytes and their length.
        unsafe { (self.transmit)(self.opaque, frame.as_ptr(), frame.len()) }
    }

    fn interrupt(&self, level: bool) {
        // SAFETY: `new` vouches for the function.
        unsafe { (self.interrupt)(self.opaque, level) }
    }

    fn receive_ready(&self) {
        if let Some(ready) = self.receive_ready {
            // SAFETY: `new` vouches for the function.
            unsafe { ready(self.opaque) }
        }
    }

    fn pme(&self, asserted: bool) {
        if let Some(pme) = self.pme {
            // SAFETY: `new` vouches for the function.
            unsafe { pme(self.opaque, asserted) }
        }
    }
}
