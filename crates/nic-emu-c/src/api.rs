//! The functions of the C library.
//!
//! Each checks its pointers, takes the NIC's lock without waiting and runs in safe Rust; what panics there ends at
//! `guard`, leaves the lock poisoned and the NIC unusable.
#![allow(unsafe_code)]
// C code does not go where rustdoc leads: each function says in words, for the header, what its pointers have to be.
#![allow(clippy::missing_safety_doc)]

use std::ffi::{c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, TryLockError};

use nic_emu::Time;
use nic_emu::e1000::{Config, ResetKind};

use crate::device::Nic;
use crate::host::Callbacks;
use crate::types::{NIC_EMU_ABI, NIC_EMU_NEVER, NicEmuCallbacks, NicEmuCounter, NicEmuPci};
use crate::types::{NicEmuStatus, NicEmuStatus as Status};

/// An emulated NIC.
pub struct NicEmu(Mutex<Nic>);

/// Runs `f`; a panic ends here.
fn guard(f: impl FnOnce() -> Status) -> Status {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or(Status::Failed)
}

/// Runs `f` on a NIC that nobody else is using.
///
/// # Safety
///
/// `nic` is null, or a NIC that has not been destroyed.
unsafe fn with(nic: *const NicEmu, f: impl FnOnce(&mut Nic) -> Status) -> Status {
    // SAFETY: as above.
    let Some(nic) = (unsafe { nic.as_ref() }) else {
        return Status::Null;
    };
    guard(|| match nic.0.try_lock() {
        Ok(mut nic) => f(&mut nic),
        Err(TryLockError::WouldBlock) => Status::Busy,
        Err(TryLockError::Poisoned(_)) => Status::Failed,
    })
}

/// As [`with`], for what always succeeds.
///
/// # Safety
///
/// See there.
unsafe fn with_ok(nic: *const NicEmu, f: impl FnOnce(&mut Nic)) -> Status {
    // SAFETY: passed on.
    unsafe {
        with(nic, |nic| {
            f(nic);
            Status::Ok
        })
    }
}

/// As [`with`], for an answer that is stored at `to`.
///
/// # Safety
///
/// See there; and `to` is null or can be written.
unsafe fn ask<T>(nic: *const NicEmu, to: *mut T, f: impl FnOnce(&mut Nic) -> T) -> Status {
    if to.is_null() {
        return Status::Null;
    }
    // SAFETY: passed on; `to` is not null.
    unsafe { with_ok(nic, |nic| to.write(f(nic))) }
}

/// The bytes at `data`; an empty slice may have any address.
///
/// # Safety
///
/// There are `len` of them unless `data` is null, and nobody changes them.
unsafe fn bytes<'a>(data: *const c_void, len: usize) -> Result<&'a [u8], Status> {
    match (data.is_null(), len) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Status::Null),
        (false, len) if len > isize::MAX as usize => Err(Status::Invalid),
        // SAFETY: as above.
        (false, len) => Ok(unsafe { std::slice::from_raw_parts(data.cast(), len) }),
    }
}

/// The version of this library, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn nic_emu_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// NIC_EMU_ABI of this library. A program that was compiled with the header of another one must not go on.
#[unsafe(no_mangle)]
pub extern "C" fn nic_emu_abi() -> u32 {
    NIC_EMU_ABI
}

/// What a status means, in a few English words. Any value may be asked for.
#[unsafe(no_mangle)]
pub extern "C" fn nic_emu_status_text(status: i32) -> *const c_char {
    const TEXTS: [(Status, &std::ffi::CStr); 8] = [
        (Status::Ok, c"done"),
        (Status::NoRoom, c"the guest has no room for the frame"),
        (Status::Null, c"a pointer is NULL"),
        (Status::Invalid, c"an argument is out of its range"),
        (Status::Busy, c"another call on this NIC has not returned"),
        (Status::Failed, c"the library has failed"),
        (Status::BadState, c"the bytes are no state of this NIC"),
        (Status::TooSmall, c"the buffer is too small"),
    ];
    let text = TEXTS.iter().find(|(known, _)| *known as i32 == status);
    text.map_or(c"unknown", |&(_, text)| text).as_ptr()
}

/// Makes an Intel 82540EM ("e1000", 8086:100e, PRO/1000 MT Desktop) with the station address at mac (6 bytes, of a single
/// station), and stores it in *nic. It is as after power-on: no cable, no bus mastering, the interrupt pin down. The table
/// of callbacks is copied.
///
/// NIC_EMU_STATUS_INVALID if mac is a multicast address or all zeros, or if a callback that is needed is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nic_emu_create_82540em(
    mac: *const u8,
    callbacks: *const NicEmuCallbacks,
    nic: *mut *mut NicEmu,
) -> NicEmuStatus {
    // SAFETY: the header asks for a NULL or 6 bytes, and for a NULL or a table.
    let (mac, table) = unsafe { (mac.cast::<[u8; 6]>().as_ref(), callbacks.as_ref()) };
    let (Some(&mac), Some(table), false) = (mac, table, nic.is_null()) else {
        return Status::Null;
    };
    // SAFETY: the embedder vouches for what it puts into the table.
    let callbacks = unsafe { Callbacks::new(table) };
    let Some(callbacks) = callbacks.filter(|_| mac[0] & 1 == 0 && mac != [0; 6]) else {
        return Status::Invalid;
    };
    guard(|| {
        let made = Nic::new(&Config::new(mac), Arc::new(callbacks));
        // SAFETY: not null, so it can be written.
        unsafe { nic.write(Box::into_raw(Box::new(NicEmu(Mutex::new(made))))) };
        Status::Ok
    })
}

/// Ends a NIC. No callbacks are made. NULL is NIC_EMU_STATUS_OK. If another call has not returned, this is
/// NIC_EMU_STATUS_BUSY and the NIC lives on; that is no protection against calls that begin afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nic_emu_destroy(nic: *mut NicEmu) -> NicEmuStatus {
    // SAFETY: the header asks for NULL or a NIC.
    let Some(handle) = (unsafe { nic.as_ref() }) else {
        return Status::Ok;
    };
    if matches!(handle.0.try_lock(), Err(TryLockError::WouldBlock)) {
        return Status::Busy;
    }
    guard(|| {
        // SAFETY: made by `Box::into_raw`; the embedder does not use it any more.
        drop(unsafe { Box::from_raw(nic) });
        Status::Ok
    })
}

/// Describes the PCI function that the guest is to see.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nic_emu_pci(nic: *const NicEmu, pci: *mut NicEmuPci) -> NicEmuStatus {
    // SAFETY: as the header asks.
    unsafe { ask(nic, pci, |nic| nic.control().pci().into()) }
}

/// The guest reads size bytes (1, 2, 4 or 8) at offset of base address register bar. The value is stored in *value, as a
/// number: byte order is nobody's concern. Accesses that the NIC does not know give 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nic_emu_read(
    nic: *mut NicEmu,
    bar: u8,
    offset: u64,
    size: u32,
    value: *mut u64,
    now: u64,
) -> NicEmuStatus {
    if !matches!(size, 1 | 2 | 4 | 8) {
        return Status::Invalid;
    }
    // SAFETY: as the header asks.
    unsafe {
        ask(nic, value, |nic| {
            let mut data = [0; 8];
            nic.read(bar, offset, &mut data[..size as usize], Time(now));
            u64::from_le_bytes(data)
        })
    }
}

/// The guest writes the lower size bytes (1, 2, 4 or 8) of value at offset of base address register bar. What that asks
/// for is done before this returns, transmission of the frames in the ring included; if there are very many, the rest is
/// due at once (nic_emu_deadline()). Accesses that the NIC does not know do nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nic_emu_write(
    nic: *mut NicEmu,
    bar: u8,
    offset: u64,
    size: u32,
    value: u64,
    now: u64,
) -> NicEmuStatus {
    if !matches!(size, 1 | 2 | 4 | 8) {
        return Status::Invalid;
    }
    let data = value.to_le_bytes();
    // SAFETY: as the header asks.
    unsafe {
        with_ok(nic, |nic| {
            nic.write(bar, offset, &data[..size as usize], Time(now));
        })
    }
}

/// COMMAND.MASTER of configuration space: without it there is no DMA. To be told after each change, and after
/// nic_emu_restore().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nic_emu_set_bus_master(
    nic: *mut NicEmu,
    on: bool,
    now: u64,
) -> NicEmuStatus {
    // SAFETY: as the header asks.
    unsafe { with_ok(nic, |nic| nic.set_bus_master(on, Time(now))) }
}

/// PME_En and PME_Status, for PMCSR of configuration space to show. They outlast nic_emu_reset(), as with auxiliary power.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nic_emu_pme(
    nic: *const NicEmu,
    enabled: *mut bool,
    status: *mut bool,
) -> NicEmuStatus {
    if enabled.is_null() || status.is_null() {
        return Status::Null;
    }
    // SAFETY: as the header asks; neither is null.
    unsafe {
        with_ok(nic, |nic| {
            let pme = nic.control().pme();
            enabled.write(pme.enabled);
            status.write(pme.status);
        })
    }
}

/// The guest writes PMCSR: PME_En is this from now on, and a 1 for PME_Status clears it. From then on frames and changes of
/// the link that the guest has chosen (WUFC) set PME_Status, in D3 as well: what arrives goes to nic_emu_receive() all the
/// time. A change of power state that the same write makes comes after this: outside D0 there is no bus mastering
/// (nic_emu_set_bus_master()), and on the way back there is nic_emu_reset().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nic_emu_write_pme(
    nic: *mut NicEmu,
    enabled: bool,
    clear_status: bool,
    now: u64,
) -> NicEmuStatus {
    // SAFETY: as the header asks.
    unsafe { with_ok(nic, |nic| nic.write_pme(enabled, clear_status, Time(now))) }
}

/// Resets the NIC as the bus does (RST#), or the way from D3hot to D0. The cable stays, and so do the contents of the
/// EEPROM. COMMAND.MASTER is configuration space's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nic_emu_reset(nic: *mut NicEmu, now: u64) -> NicEmuStatus {
    // SAFETY: as the header asks.
    unsafe { with_ok(nic, |nic| nic.reset(ResetKind::Bus, Time(now))) }
}

/// Resets the NIC to what it was when it was made, but for the cable: the EEPROM, too, forgets what a guest wrote to it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nic_emu_power_on(nic: *mut NicEmu, now: u64) -> NicEmuStatus {
    // SAFETY: as the header asks.
    unsafe { with_ok(nic, |nic| nic.reset(ResetKind::PowerOn, Time(now))) }
}

/// Plugs or pulls the cable. The guest's link goes down at once; it comes up when auto-negotiation is over, for which
/// time has to pass.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nic_emu_set_link(nic: *mut NicEmu, up: bool, now: u64) -> NicEmuStatus {
    // SAFETY: as the header asks.
    unsafe { with_ok(nic, |nic| nic.set_link(up, Time(now))) }
}

/// Whether the guest has link.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nic_emu_link(nic: *const NicEmu, up: *mut bool) -> NicEmuStatus {
    // SAFETY: as the header asks.
    unsafe { ask(nic, up, |nic| nic.control().link()) }
}

/// A frame arrives from the network: len bytes from its destination address to the last before its FCS. It need not be
/// padded.
///
/// NIC_EMU_STATUS_OK if it was taken: by the guest, or by its filters, or by a receiver that is off.
/// NIC_EMU_STATUS_NO_ROOM if the guest's ring is full: reception pauses, keep the frame. When there is room,
/// receive_ready is called; then offer it again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nic_emu_receive(
    nic: *mut NicEmu,
    frame: *const c_void,
    len: usize,
    now: u64,
) -> NicEmuStatus {
    // SAFETY: as the header asks.
    let frame = match unsafe { bytes(frame, len) } {
        Ok(frame) => frame,
        Err(status) => return status,
    };
    let receive = |nic: &mut Nic| match nic.receive(frame, Time(now)) {
        true => Status::Ok,
        false => Status::NoRoom,
    };
    // SAFETY: as the header asks.
    unsafe { with(nic, receive) }
}

/// Whether nic_emu_receive() would take a frame.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nic_emu_can_receive(nic: *const NicEmu, can: *mut bool) -> NicEmuStatus {
    // SAFETY: as the header asks.
    unsafe { ask(nic, can, |nic| nic.can_receive()) }
}

/// After the transmit callback has returned false: there is room again. Sends what has waited.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nic_emu_transmit_ready(nic: *mut NicEmu, now: u64) -> NicEmuStatus {
    // SAFETY: as the header asks.
    unsafe { with_ok(nic, |nic| nic.transmit_ready(Time(now))) }
}

/// When nic_emu_run_timers() has something to do; NIC_EMU_NEVER if time alone changes nothing. Any other call may move it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nic_emu_deadline(nic: *const NicEmu, deadline: *mut u64) -> NicEmuStatus {
    let when = |nic: &mut Nic| nic.deadline().map_or(NIC_EMU_NEVER, |time| time.0);
    // SAFETY: as the header asks.
    unsafe { ask(nic, deadline, when) }
}

/// Does what is due by now. Calling it too early or too often does no harm.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nic_emu_run_timers(nic: *mut NicEmu, now: u64) -> NicEmuStatus {
    // SAFETY: as the header asks.
    unsafe { with_ok(nic, |nic| nic.run_timers(Time(now))) }
}

/// Stores what the NIC has counted in counters, which has room for so many, and in *count how many there are. With room
/// for fewer the rest is left out. counters may be NULL if room is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nic_emu_counters(
    nic: *const NicEmu,
    counters: *mut NicEmuCounter,
    room: usize,
    count: *mut usize,
) -> NicEmuStatus {
    if counters.is_null() && room > 0 {
        return Status::Null;
    }
    // SAFETY: as the header asks: `counters` has room for `room`.
    unsafe {
        ask(nic, count, |nic| {
            let mut total = 0;
            for counter in nic.control().counters().iter() {
                if total < room {
                    counters.add(total).write(counter.into());
                }
                total += 1;
            }
            total
        })
    }
}

/// Saves the NIC as it is now in buffer, which has room for so many bytes, and stores in *len how many it takes. If that
/// is more than room, it is NIC_EMU_STATUS_TOO_SMALL. buffer may be NULL if room is 0.
///
/// The guest should be stopped; no callbacks are made. The cable, COMMAND.MASTER, the counters and frames that were not taken are the embedder's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nic_emu_save(
    nic: *mut NicEmu,
    buffer: *mut c_void,
    room: usize,
    len: *mut usize,
    now: u64,
) -> NicEmuStatus {
    if len.is_null() || (buffer.is_null() && room > 0) {
        return Status::Null;
    }
    let save = |nic: &mut Nic| {
        let state = nic.save(Time(now));
        // SAFETY: not null, so it can be written.
        unsafe { len.write(state.len()) };
        if state.len() > room {
            return Status::TooSmall;
        }
        // SAFETY: `buffer` has room for `room` bytes, and a state is not empty.
        unsafe { buffer.cast::<u8>().copy_from(state.as_ptr(), state.len()) };
        Status::Ok
    };
    // SAFETY: as the header asks.
    unsafe { with(nic, save) }
}

/// Continues what nic_emu_save() has saved, of this NIC or of another. The bytes may come from anybody: what no NIC could
/// be is refused (NIC_EMU_STATUS_BAD_STATE), and changes nothing.
///
/// Plug the cable in before this (nic_emu_set_link()), or the guest sees its link go down. Call nic_emu_set_bus_master()
/// after this, when guest memory is in place and before the guest runs: what the NIC was about to do is done then. With bus
/// mastering on all the time, nic_emu_run_timers() is due at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nic_emu_restore(
    nic: *mut NicEmu,
    state: *const c_void,
    len: usize,
    now: u64,
) -> NicEmuStatus {
    // SAFETY: as the header asks.
    let state = match unsafe { bytes(state, len) } {
        Ok(state) => state,
        Err(status) => return status,
    };
    let restore = |nic: &mut Nic| match nic.restore(state, Time(now)) {
        Ok(()) => Status::Ok,
        Err(_) => Status::BadState,
    };
    // SAFETY: as the header asks.
    unsafe { with(nic, restore) }
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod tests;
