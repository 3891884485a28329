//! What passes between C and this library. All of it ends up in the header, so it speaks to readers of that.

/// Version of the functions and types of this header. It changes when a program that was compiled with an older header
/// has to be compiled again; compare it with what nic_emu_abi() returns.
pub const NIC_EMU_ABI: u32 = 2;

/// nic_emu_deadline() if nothing is due by itself.
pub const NIC_EMU_NEVER: u64 = 0xFFFF_FFFF_FFFF_FFFF;

/// Length of a name in NicEmuCounter, with its NUL.
pub const NIC_EMU_NAME_LEN: usize = 32;

/// Base address registers of a PCI function.
pub const NIC_EMU_BARS: usize = 6;

/// Most capabilities in NicEmuPci.
pub const NIC_EMU_CAPABILITIES: usize = 4;

/// Most bytes of a capability, without its ID and its pointer to the next one.
pub const NIC_EMU_CAPABILITY_LEN: usize = 32;

/// What came of a call. Negative values mean that nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum NicEmuStatus {
    /// It was done.
    Ok = 0,
    /// nic_emu_receive(): the guest has no room for the frame. Keep it, and offer it again after receive_ready.
    NoRoom = 1,
    /// A pointer that must not be NULL was.
    Null = -1,
    /// An argument is out of its range, or a callback that is needed is missing.
    Invalid = -2,
    /// Another call on this NIC has not returned yet: one on another thread, or the one that a callback was made by.
    Busy = -3,
    /// This library has failed, now or earlier: only nic_emu_destroy() is of use for this NIC. A message went to stderr.
    Failed = -4,
    /// nic_emu_restore(): the bytes are no state of this kind of NIC, or one of a later version of this library.
    BadState = -5,
    /// nic_emu_save(): the buffer is too small. How many bytes it takes was stored.
    TooSmall = -6,
}

/// What the embedder does for a NIC.
///
/// Callbacks are made by functions of this library, on the thread that called those, before they return. They must not
/// leave by longjmp() or by an exception. What they call on the same NIC returns NIC_EMU_STATUS_BUSY and does nothing:
/// a frame that is to come back to the NIC that is sending it has to wait until the function that made the callback has
/// returned. Other NICs may be called.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct NicEmuCallbacks {
    /// Passed to each callback.
    pub opaque: *mut core::ffi::c_void,
    /// Copies len bytes of guest memory at bus address addr to to. False if there is no such memory: the NIC counts
    /// that, and does without. Never NULL.
    pub dma_read: Option<
        unsafe extern "C" fn(
            opaque: *mut core::ffi::c_void,
            addr: u64,
            to: *mut core::ffi::c_void,
            len: usize,
        ) -> bool,
    >,
    /// Copies len bytes to guest memory at bus address addr. False if there is no such memory, or if it is not writable.
    /// The guest has to see what successive calls write in the order of these calls, and aligned groups of 8 bytes at
    /// once; on the machines that we know memcpy() to shared memory does that. Never NULL.
    pub dma_write: Option<
        unsafe extern "C" fn(
            opaque: *mut core::ffi::c_void,
            addr: u64,
            from: *const core::ffi::c_void,
            len: usize,
        ) -> bool,
    >,
    /// Sends one frame, from its destination address to its last byte before the FCS. All that the guest left to its NIC
    /// to do is done: checksums, segmentation, VLAN tags. False if there is no room: the frame and all others stay in the
    /// guest's ring until nic_emu_transmit_ready(). The bytes are those of the library, and gone when this returns. Never
    /// NULL.
    pub transmit: Option<
        unsafe extern "C" fn(opaque: *mut core::ffi::c_void, frame: *const u8, len: usize) -> bool,
    >,
    /// The interrupt pin (INTA) has this level from now on; it is down when a NIC is made. Only changes are told. Whether
    /// COMMAND.INTX_DISABLE lets it through is for configuration space to know. Never NULL.
    pub interrupt: Option<unsafe extern "C" fn(opaque: *mut core::ffi::c_void, level: bool)>,
    /// After nic_emu_receive() has returned NIC_EMU_STATUS_NO_ROOM: there is room again. Offer the frame when
    /// the function that made this callback has returned. May be NULL, then ask nic_emu_can_receive().
    pub receive_ready: Option<unsafe extern "C" fn(opaque: *mut core::ffi::c_void)>,
    /// The NIC asks for its machine to be woken (PME#: PME_En and PME_Status are both set) from now on, or no longer; it does
    /// not when a NIC is made. Only changes are told. May be NULL, then ask nic_emu_pme().
    pub pme: Option<unsafe extern "C" fn(opaque: *mut core::ffi::c_void, asserted: bool)>,
}

/// What a base address register asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum NicEmuBarKind {
    /// Nothing: there is no such register.
    None = 0,
    /// 32-bit memory, not prefetchable.
    Mem32 = 1,
    /// I/O ports.
    Io = 2,
}

/// A base address register.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct NicEmuBar {
    /// What it asks for.
    pub kind: NicEmuBarKind,
    /// Bytes, a power of two.
    pub size: u32,
}

/// An entry of the capability list.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct NicEmuCapability {
    /// Offset in configuration space.
    pub offset: u8,
    /// Capability ID, the byte at offset. The next one is the pointer to the next capability, 0 in the last.
    pub id: u8,
    /// Bytes that follow those two.
    pub len: u8,
    /// They, as they are after reset.
    pub bytes: [u8; NIC_EMU_CAPABILITY_LEN],
    /// Which of their bits software may write.
    pub writable: [u8; NIC_EMU_CAPABILITY_LEN],
}

/// The PCI function that configuration space has to show. That is the embedder's: what the NIC has to know of it comes by
/// nic_emu_set_bus_master(), nic_emu_reset() and nic_emu_write_pme().
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct NicEmuPci {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem_id: u16,
    /// Class, subclass and programming interface: 24 bits.
    pub class_code: u32,
    /// Revision ID.
    pub revision: u8,
    /// 1 for INTA.
    pub interrupt_pin: u8,
    /// MIN_GNT, 250 ns.
    pub min_gnt: u8,
    /// MAX_LAT, 250 ns.
    pub max_lat: u8,
    /// Base address registers, by number.
    pub bars: [NicEmuBar; NIC_EMU_BARS],
    /// How many capabilities there are.
    pub capability_count: u32,
    /// Capabilities, in list order.
    pub capabilities: [NicEmuCapability; NIC_EMU_CAPABILITIES],
}

/// Something that a NIC counts for whoever watches it; the guest does not see it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct NicEmuCounter {
    /// Its name, such as tx_frames.
    pub name: [core::ffi::c_char; NIC_EMU_NAME_LEN],
    /// Its value; it never goes back.
    pub value: u64,
}
