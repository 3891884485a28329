//! Message layouts of the vfio-user protocol and their constants.
//!
//! Source: the vfio-user specification (`docs/interop/vfio-user.rst` of QEMU) and, for everything inside a
//! payload that comes from VFIO, `linux/vfio.h`. Numbers are host-endian.
//!
//! What is called REGION_READ here is found in the specification under "VFIO_USER_REGION_READ", and so on for all
//! messages; the header under "Header", features and their data under "VFIO_DEVICE_FEATURE_MIGRATION" and the like.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of the header that every message starts with.
pub const HEADER: usize = size_of::<Header>();

/// Largest `count` of a region access that we accept, and announce as `max_data_xfer_size`.
pub const MAX_DATA: usize = 1 << 20;

/// Largest message: a region write of [`MAX_DATA`] bytes.
pub const MAX_MESSAGE: usize = HEADER + size_of::<RegionAccess>() + MAX_DATA;

/// File descriptors that we take with one message, announced as `max_msg_fds` (QEMU takes no more than this).
pub const MAX_FDS: usize = 16;

/// Maps that one client may have, announced as `max_dma_maps`. Enough for a guest that has one per page (with a virtual
/// IOMMU); the specification's default of 65535 would make each change take 9 ms to publish, this takes 2 ms at most,
/// and 3 µs with the few dozen maps that guests usually have.
pub const MAX_DMA_MAPS: usize = 16384;

/// Newest minor version of protocol 0 that we speak.
pub const MINOR: u16 = 2;

/// Message numbers.
pub mod command {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const VERSION: u16 = 1;
    pub const DMA_MAP: u16 = 2;
    pub const DMA_UNMAP: u16 = 3;
    pub const DEVICE_GET_INFO: u16 = 4;
    pub const DEVICE_GET_REGION_INFO: u16 = 5;
    pub const DEVICE_GET_REGION_IO_FDS: u16 = 6;
    pub const DEVICE_GET_IRQ_INFO: u16 = 7;
    pub const DEVICE_SET_IRQS: u16 = 8;
    pub const REGION_READ: u16 = 9;
    pub const REGION_WRITE: u16 = 10;
    pub const DMA_READ: u16 = 11;
    pub const DMA_WRITE: u16 = 12;
    pub const DEVICE_RESET: u16 = 13;
    pub const REGION_WRITE_MULTI: u16 = 15;
    pub const DEVICE_FEATURE: u16 = 16;
    pub const MIG_DATA_READ: u16 = 17;
    pub const MIG_DATA_WRITE: u16 = 18;
}

/// Bits of [`Header::flags`].
pub mod header_flags {
    /// Mask of the message type: 0 is a command, [`REPLY`] a reply.
    pub const TYPE: u32 = 0xf;
    /// The message answers a command.
    pub const REPLY: u32 = 1;
    /// The sender of the command wants no reply, not even an error.
    pub const NO_REPLY: u32 = 1 << 4;
    /// The reply reports a failure, [`Header::error`](super::Header::error) says which.
    pub const ERROR: u32 = 1 << 5;
}

/// Bits of [`DmaMap::flags`].
pub mod dma_map_flags {
    /// The device may read.
    pub const READ: u32 = 1 << 0;
    /// The device may write.
    pub const WRITE: u32 = 1 << 1;
    /// The file is to be mapped (libvfio-user).
    pub const MMAP: u32 = 1 << 2;
    /// The file is to be read and written (libvfio-user).
    pub const FILE_IO: u32 = 1 << 3;
}

/// Bits of [`DmaUnmap::flags`].
pub mod dma_unmap_flags {
    /// The reply is to carry a dirty bitmap.
    pub const GET_DIRTY_BITMAP: u32 = 1 << 0;
    /// All maps go.
    pub const ALL: u32 = 1 << 1;
}

/// Bits of [`DeviceInfo::flags`].
pub mod device_flags {
    /// `DEVICE_RESET` is understood.
    pub const RESET: u32 = 1 << 0;
    /// The device is a PCI function.
    pub const PCI: u32 = 1 << 1;
}

/// Bits of [`RegionInfo::flags`].
pub mod region_flags {
    /// The region can be read.
    pub const READ: u32 = 1 << 0;
    /// The region can be written.
    pub const WRITE: u32 = 1 << 1;
    /// The region, or areas of it, can be mapped from the file that comes with the reply.
    pub const MMAP: u32 = 1 << 2;
    /// Capabilities follow at [`RegionInfo::cap_offset`](super::RegionInfo::cap_offset).
    pub const CAPS: u32 = 1 << 3;
}

/// Id of the region capability that lists the areas that can be mapped (`VFIO_REGION_INFO_CAP_SPARSE_MMAP`).
pub const CAP_SPARSE_MMAP: u16 = 1;

/// Values of [`IoFd::kind`].
pub mod io_fd_type {
    /// Signalled by a write; the value is lost.
    pub const IOEVENTFD: u32 = 0;
    /// Tells reads and writes through a socket (never merged into Linux).
    pub const IOREGIONFD: u32 = 1;
}

/// Bits of [`IoFd::flags`] for an ioeventfd (`KVM_IOEVENTFD_FLAG_*`).
pub mod io_fd_flags {
    /// Only writes of [`IoFd::datamatch`](super::IoFd::datamatch) count.
    pub const DATAMATCH: u32 = 1 << 0;
    /// An I/O port rather than memory.
    pub const PIO: u32 = 1 << 1;
}

/// Indexes of the regions of a PCI device: 0 to 5 are the BARs.
pub mod region_index {
    /// Expansion ROM.
    pub const ROM: u32 = 6;
    /// Configuration space.
    pub const CONFIG: u32 = 7;
    /// Regions of a PCI device, the VGA region (8) included.
    pub const COUNT: u32 = 9;
}

/// Indexes of the interrupts of a PCI device.
pub mod irq_index {
    /// The INTx line.
    pub const INTX: u32 = 0;
    /// MSI vectors.
    pub const MSI: u32 = 1;
    /// MSI-X vectors.
    pub const MSIX: u32 = 2;
    /// "An unrecoverable error happened".
    pub const ERR: u32 = 3;
    /// "Please give the device back".
    pub const REQ: u32 = 4;
    /// Interrupt indexes of a PCI device.
    pub const COUNT: u32 = 5;
}

/// Bits of [`IrqInfo::flags`].
pub mod irq_flags {
    /// Delivered by eventfd.
    pub const EVENTFD: u32 = 1 << 0;
    /// MASK and UNMASK are understood.
    pub const MASKABLE: u32 = 1 << 1;
    /// Masked by its delivery, until UNMASK.
    pub const AUTOMASKED: u32 = 1 << 2;
    /// All of the index are wired at once or not at all.
    pub const NORESIZE: u32 = 1 << 3;
}

/// Bits of [`SetIrqs::flags`]: exactly one of `DATA_*` and one of `ACTION_*`.
pub mod set_irqs_flags {
    /// The action applies to all interrupts in the range.
    pub const DATA_NONE: u32 = 1 << 0;
    /// One byte per interrupt says whether the action applies.
    pub const DATA_BOOL: u32 = 1 << 1;
    /// File descriptors come along that carry the action.
    pub const DATA_EVENTFD: u32 = 1 << 2;
    /// Hold interrupts back.
    pub const ACTION_MASK: u32 = 1 << 3;
    /// Let interrupts through.
    pub const ACTION_UNMASK: u32 = 1 << 4;
    /// Raise an interrupt (or, with eventfds: raise it there from now on).
    pub const ACTION_TRIGGER: u32 = 1 << 5;
    /// Mask of the `DATA_*` bits.
    pub const DATA: u32 = DATA_NONE | DATA_BOOL | DATA_EVENTFD;
    /// Mask of the `ACTION_*` bits.
    pub const ACTION: u32 = ACTION_MASK | ACTION_UNMASK | ACTION_TRIGGER;
}

/// Bits of [`Feature::flags`]; the low 16 bits are the feature's number, see [`feature`].
pub mod feature_flags {
    /// Mask of the feature's number.
    pub const NUMBER: u32 = 0xffff;
    /// The data are asked for.
    pub const GET: u32 = 1 << 16;
    /// The data are given.
    pub const SET: u32 = 1 << 17;
    /// Nothing is done, the reply tells whether it could be.
    pub const PROBE: u32 = 1 << 18;
}

/// Numbers of DEVICE_FEATURE (`VFIO_DEVICE_FEATURE_*`).
pub mod feature {
    #![expect(missing_docs, reason = "the names are those of linux/vfio.h")]
    pub const MIGRATION: u32 = 1;
    pub const MIG_DEVICE_STATE: u32 = 2;
    pub const DMA_LOGGING_START: u32 = 6;
    pub const DMA_LOGGING_STOP: u32 = 7;
    pub const DMA_LOGGING_REPORT: u32 = 8;
}

/// Bits that the feature [`feature::MIGRATION`] returns, a `u64`.
pub mod migration_flags {
    /// The device's state can be had while it is stopped.
    pub const STOP_COPY: u64 = 1 << 0;
    /// The device can stop talking to other devices first.
    pub const P2P: u64 = 1 << 1;
    /// State can be had while the device still runs.
    pub const PRE_COPY: u64 = 1 << 2;
}

/// Values of [`DeviceState::state`] (`VFIO_DEVICE_STATE_*`).
pub mod device_state {
    #![expect(missing_docs, reason = "the names are those of linux/vfio.h")]
    pub const ERROR: u32 = 0;
    pub const STOP: u32 = 1;
    pub const RUNNING: u32 = 2;
    pub const STOP_COPY: u32 = 3;
    pub const RESUMING: u32 = 4;
    pub const RUNNING_P2P: u32 = 5;
    pub const PRE_COPY: u32 = 6;
    pub const PRE_COPY_P2P: u32 = 7;
}

macro_rules! layout {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
    };
}

layout! {
    /// What every message starts with.
    Header {
        /// Chosen by the sender of a command, echoed in the reply. May repeat.
        id: u16,
        /// See [`command`].
        command: u16,
        /// Bytes of the whole message.
        size: u32,
        /// See [`header_flags`].
        flags: u32,
        /// `errno`, valid with [`header_flags::ERROR`].
        error: u32,
    }
}
layout! {
    /// Payload of VERSION, both ways; NUL-terminated JSON may follow.
    Version {
        /// Incompatible versions differ here.
        major: u16,
        /// Compatible ones here.
        minor: u16,
    }
}
layout! {
    /// Payload of DMA_MAP.
    DmaMap {
        /// Bytes of the payload.
        argsz: u32,
        /// See [`dma_map_flags`].
        flags: u32,
        /// First byte of the file that comes along.
        offset: u64,
        /// First DMA address.
        iova: u64,
        /// Bytes.
        size: u64,
    }
}
layout! {
    /// Payload of DMA_UNMAP, both ways.
    DmaUnmap {
        /// Bytes that the client takes in the reply.
        argsz: u32,
        /// See [`dma_unmap_flags`].
        flags: u32,
        /// First DMA address.
        iova: u64,
        /// Bytes.
        size: u64,
    }
}
layout! {
    /// Payload of DEVICE_GET_INFO, both ways.
    DeviceInfo {
        /// Bytes that the client takes; in the reply, bytes that there are.
        argsz: u32,
        /// See [`device_flags`].
        flags: u32,
        /// Regions, see [`region_index`].
        num_regions: u32,
        /// Interrupt indexes, see [`irq_index`].
        num_irqs: u32,
    }
}
layout! {
    /// Payload of DEVICE_GET_REGION_INFO, both ways.
    RegionInfo {
        /// Bytes that the client takes; in the reply, bytes that there are.
        argsz: u32,
        /// See [`region_flags`].
        flags: u32,
        /// See [`region_index`].
        index: u32,
        /// Offset of the first capability, 0 for none.
        cap_offset: u32,
        /// Bytes of the region.
        size: u64,
        /// Where the region begins in a file that comes with a mappable region.
        offset: u64,
    }
}
layout! {
    /// Payload of DEVICE_GET_IRQ_INFO, both ways.
    IrqInfo {
        /// Bytes that the client takes; in the reply, bytes that there are.
        argsz: u32,
        /// See [`irq_flags`].
        flags: u32,
        /// See [`irq_index`].
        index: u32,
        /// Interrupts of this index.
        count: u32,
    }
}
layout! {
    /// Payload of DEVICE_SET_IRQS; with `DATA_BOOL`, `count` bytes follow.
    SetIrqs {
        /// Bytes of the payload.
        argsz: u32,
        /// See [`set_irqs_flags`].
        flags: u32,
        /// See [`irq_index`].
        index: u32,
        /// First interrupt.
        start: u32,
        /// Interrupts.
        count: u32,
    }
}
layout! {
    /// Payload of REGION_READ and REGION_WRITE, both ways; data follow where they flow.
    RegionAccess {
        /// First byte in the region.
        offset: u64,
        /// See [`region_index`].
        region: u32,
        /// Bytes.
        count: u32,
    }
}
layout! {
    /// Payload of DMA_READ and DMA_WRITE, both ways; data follow where they flow.
    DmaAccess {
        /// First DMA address.
        address: u64,
        /// Bytes.
        count: u64,
    }
}
layout! {
    /// What a region capability starts with.
    CapHeader {
        /// Which, see [`CAP_SPARSE_MMAP`].
        id: u16,
        /// Of the capability's layout.
        version: u16,
        /// Offset of the next, from the start of [`RegionInfo`]; 0 for none.
        next: u32,
    }
}
layout! {
    /// What follows the [`CapHeader`] of [`CAP_SPARSE_MMAP`]; then the areas.
    SparseMmap {
        /// Number of areas.
        nr_areas: u32,
        /// 0.
        reserved: u32,
    }
}
layout! {
    /// An area of a region that can be mapped, at [`RegionInfo::offset`] + `offset` of the region's file.
    MmapArea {
        /// First byte in the region.
        offset: u64,
        /// Bytes.
        size: u64,
    }
}
layout! {
    /// Payload of DEVICE_GET_REGION_IO_FDS, both ways; in the reply [`IoFd`]s follow.
    RegionIoFds {
        /// Bytes that the client takes; in the reply, bytes that there are.
        argsz: u32,
        /// 0.
        flags: u32,
        /// See [`region_index`].
        index: u32,
        /// [`IoFd`]s that follow.
        count: u32,
    }
}
layout! {
    /// A piece of a region whose writes a descriptor tells.
    IoFd {
        /// First byte in the region.
        offset: u64,
        /// Bytes.
        size: u64,
        /// Which of the descriptors that came along; all ones for none.
        fd_index: u32,
        /// See [`io_fd_type`].
        kind: u32,
        /// See [`io_fd_flags`].
        flags: u32,
        /// 0.
        padding: u32,
        /// The value that counts, with [`io_fd_flags::DATAMATCH`].
        datamatch: u64,
    }
}
layout! {
    /// Payload of DEVICE_FEATURE, both ways; data follow where they flow.
    Feature {
        /// Bytes of the payload; in a GET, bytes that the client takes.
        argsz: u32,
        /// See [`feature_flags`].
        flags: u32,
    }
}
layout! {
    /// Data of [`feature::MIG_DEVICE_STATE`].
    DeviceState {
        /// See [`device_state`].
        state: u32,
        /// 0 here (in VFIO, a descriptor).
        reserved: u32,
    }
}
layout! {
    /// Data of [`feature::DMA_LOGGING_START`]; then the ranges.
    LoggingStart {
        /// Bytes for which one bit stands.
        page_size: u64,
        /// Ranges that follow; 0 for all that is mapped.
        num_ranges: u32,
        /// 0.
        reserved: u32,
    }
}
layout! {
    /// A range of DMA addresses to log.
    LoggingRange {
        /// First address.
        iova: u64,
        /// Bytes.
        length: u64,
    }
}
layout! {
    /// Data of [`feature::DMA_LOGGING_REPORT`]; in the reply the bitmap follows, in words of 64 bits.
    LoggingReport {
        /// First address.
        iova: u64,
        /// Bytes.
        length: u64,
        /// Bytes for which one bit stands.
        page_size: u64,
    }
}
layout! {
    /// What follows DMA_UNMAP with [`dma_unmap_flags::GET_DIRTY_BITMAP`], both ways; in the reply the bitmap follows.
    DirtyBitmap {
        /// Bytes for which one bit stands.
        pgsize: u64,
        /// Bytes of the bitmap.
        size: u64,
    }
}
layout! {
    /// Payload of MIG_DATA_READ and MIG_DATA_WRITE; data follow where they flow.
    MigData {
        /// Bytes of the payload; in a read, bytes that the client takes.
        argsz: u32,
        /// Bytes of data.
        size: u32,
    }
}
layout! {
    /// One write of REGION_WRITE_MULTI, which starts with a `u64` that counts them.
    MultiWrite {
        /// Where and how many of the bytes in `data`.
        access: RegionAccess,
        /// The data, from the front.
        data: [u8; 8],
    }
}

impl Header {
    /// Whether the sender waits for a reply.
    pub fn wants_reply(&self) -> bool {
        self.flags & header_flags::NO_REPLY == 0
    }

    /// Header of the reply to this command, with `payload` bytes to follow.
    #[must_use]
    pub fn reply(&self, payload: usize) -> Self {
        Self {
            // A reply never exceeds MAX_MESSAGE.
            size: (HEADER + payload) as u32,
            flags: header_flags::REPLY,
            error: 0,
            ..*self
        }
    }

    /// The whole reply to this command if it failed with `errno`.
    #[must_use]
    pub fn error_reply(&self, errno: u32) -> Self {
        Self {
            flags: header_flags::REPLY | header_flags::ERROR,
            error: errno,
            ..self.reply(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_the_sizes_of_the_specification() {
        assert_eq!(HEADER, 16);
        assert_eq!(size_of::<Version>(), 4);
        assert_eq!(size_of::<DmaMap>(), 32);
        assert_eq!(size_of::<DmaUnmap>(), 24);
        assert_eq!(size_of::<DeviceInfo>(), 16);
        assert_eq!(size_of::<RegionInfo>(), 32);
        assert_eq!(size_of::<IrqInfo>(), 16);
        assert_eq!(size_of::<SetIrqs>(), 20);
        assert_eq!(size_of::<RegionAccess>(), 16);
        assert_eq!(size_of::<MultiWrite>(), 24);
        assert_eq!(size_of::<DmaAccess>(), 16);
        assert_eq!(size_of::<CapHeader>() + size_of::<SparseMmap>(), 16);
        assert_eq!(size_of::<MmapArea>(), 16);
        assert_eq!(size_of::<RegionIoFds>(), 16);
        assert_eq!(size_of::<IoFd>(), 40);
        assert_eq!(size_of::<Feature>(), 8);
        assert_eq!(size_of::<DeviceState>(), 8);
        assert_eq!(size_of::<LoggingStart>(), 16);
        assert_eq!(size_of::<LoggingRange>(), 16);
        assert_eq!(size_of::<LoggingReport>(), 24);
        assert_eq!(size_of::<DirtyBitmap>(), 16);
        assert_eq!(size_of::<MigData>(), 8);
    }
}
