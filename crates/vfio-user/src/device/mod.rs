//! What a device is: identity, regions, capabilities, interrupts. What it does is a [`Handler`](crate::Handler).

mod builder;
mod capabilities;
mod regions;

use std::sync::Arc;

use guest_mem::GuestMem;
use thiserror::Error;

pub use self::builder::DeviceBuilder;
pub(crate) use self::regions::{IoEventFd, Mappable, MsixPlace, Owner};

use self::regions::Claim;
use crate::pci::Template;
use crate::wire::{irq_flags, irq_index, region_index};

/// A base address register: how the region is addressed, and how large it is.
/// Specification, "VFIO_USER_DEVICE_GET_REGION_INFO".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    kind: BarKind,
    size: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarKind {
    Memory32,
    Memory64,
    Io,
}

impl Bar {
    /// `size` bytes of memory in the first 4 GiB; a power of two of at least 16.
    pub fn memory32(size: u32) -> Self {
        let size = size.into();
        Self {
            kind: BarKind::Memory32,
            size,
        }
    }

    /// `size` bytes of memory anywhere; a power of two of at least 16. Takes two registers.
    pub fn memory64(size: u64) -> Self {
        Self {
            kind: BarKind::Memory64,
            size,
        }
    }

    /// `size` I/O ports; a power of two from 4 to 256.
    pub fn io(size: u32) -> Self {
        let size = size.into();
        Self {
            kind: BarKind::Io,
            size,
        }
    }

    /// Bytes or ports.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn kind(&self) -> BarKind {
        self.kind
    }

    fn is_valid(&self) -> bool {
        let fits = match self.kind {
            BarKind::Io => (4..=256).contains(&self.size),
            BarKind::Memory32 | BarKind::Memory64 => self.size >= 16,
        };
        fits && self.size.is_power_of_two()
    }
}

/// A description that makes no PCI function.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Not a BAR that the header has room for, or its size is not a power of two in range.
    #[error("BAR {0} does not exist, overlaps another or has an impossible size")]
    Bar(usize),
    /// A ROM that is no power of two from 2 KiB to 16 MiB.
    #[error("the expansion ROM's size {0:#x} is not a power of two from 2 KiB to 16 MiB")]
    Rom(u32),
    /// A capability outside its part of configuration space (0x40 to 0xff, extended ones 0x100 to 0xfff), unaligned,
    /// too short, or on top of another.
    #[error("the capability at {0:#x} does not fit there, or its mask is not as long as its bytes")]
    Capability(u16),
    /// Too many capabilities, or too long ones.
    #[error("configuration space has no room left for a capability of {0} bytes")]
    NoRoom(usize),
    /// A capability that acts was added twice, or as mere bytes.
    #[error("capability {0:#04x} can be added once, by the function of the builder that knows it")]
    Acting(u8),
    /// An extended capability without PCI Express.
    #[error("extended capabilities exist in PCI Express functions only")]
    Conventional,
    /// A number of interrupt vectors that cannot be.
    #[error("{0} vectors cannot be: MSI has a power of two of them up to 32, MSI-X from 1 to 2048")]
    Vectors(u32),
    /// The MSI-X table or pending bit array lies outside a memory BAR, is not aligned to 8 bytes, or overlaps the
    /// other or an area that clients map.
    #[error(
        "the MSI-X table or pending bits at {offset:#x} of BAR {bar} do not fit there, are not aligned or overlap \
         something"
    )]
    Msix {
        /// The BAR that was named.
        bar: usize,
        /// The offset that was named.
        offset: u64,
    },
    /// An area of a BAR that clients are to map is empty, not made of whole pages, outside its memory BAR, overlaps
    /// another, or the BAR is made mappable twice.
    #[error("the area at {offset:#x} of BAR {bar} cannot be mapped by clients")]
    Area {
        /// The BAR that was named.
        bar: usize,
        /// Where the area begins.
        offset: u64,
    },
    /// The file behind a mappable BAR is too short or cannot be mapped.
    #[error("the file for BAR {bar} cannot be mapped: {why}")]
    File {
        /// The BAR that was named.
        bar: usize,
        /// What the system says.
        why: String,
    },
    /// An ioeventfd outside its BAR, of a size other than 1, 2, 4 or 8, unaligned, or more different descriptors for
    /// one BAR than fit in a message.
    #[error("the ioeventfd at {offset:#x} of BAR {bar} does not fit there")]
    IoEventFd {
        /// The BAR that was named.
        bar: usize,
        /// Where it is.
        offset: u64,
    },
    /// A pin other than INTA to INTD.
    #[error("interrupt pin {0} does not exist: 1 is INTA, 4 is INTD")]
    Pin(u8),
}

/// The description of a PCI device; made by [`Device::builder`]. Specification, "VFIO_USER_DEVICE_GET_INFO".
#[derive(Clone, Debug)]
pub struct Device {
    pub(crate) config: Template,
    pub(crate) msix: Option<MsixPlace>,
    bars: [Option<Bar>; 6],
    rom: u32,
    irqs: [u32; irq_index::COUNT as usize],
    mappable: [Option<Mappable>; 6],
    io_event_fds: Vec<IoEventFd>,
    /// Per BAR, in ascending order.
    claims: [Vec<Claim>; 6],
}

impl Device {
    /// Starts a description.
    pub fn builder() -> DeviceBuilder {
        DeviceBuilder::default()
    }

    pub(crate) fn bar(&self, index: usize) -> Option<&Bar> {
        self.bars.get(index)?.as_ref()
    }

    /// Bytes of a region, 0 for one that the device does not have.
    pub(crate) fn region_size(&self, index: u32) -> u64 {
        match index {
            region_index::ROM => self.rom.into(),
            region_index::CONFIG => self.config.size() as u64,
            _ => self.bar(index as usize).map_or(0, |bar| bar.size),
        }
    }

    /// Number of interrupts of an index, and the flags that go with them.
    pub(crate) fn irqs(&self, index: u32) -> (u32, u32) {
        use irq_flags::{AUTOMASKED, EVENTFD, MASKABLE, NORESIZE};
        let count = self.irqs.get(index as usize).copied().unwrap_or(0);
        let flags = match index {
            _ if count == 0 => 0,
            irq_index::INTX => EVENTFD | MASKABLE | AUTOMASKED,
            // Each vector can be wired and unwired while others are in use.
            irq_index::MSI | irq_index::MSIX => EVENTFD | MASKABLE,
            _ => EVENTFD | NORESIZE,
        };
        (count, flags)
    }

    /// What clients map of a region.
    pub(crate) fn mappable(&self, region: u32) -> Option<&Mappable> {
        self.mappable.get(region as usize)?.as_ref()
    }

    /// The memory that clients map of a BAR; addresses are offsets in the BAR.
    pub(crate) fn region_mem(&self, bar: usize) -> Option<Arc<GuestMem>> {
        Some(self.mappable.get(bar)?.as_ref()?.mem.clone())
    }

    /// The ioeventfds of a region.
    pub(crate) fn io_event_fds(&self, region: u32) -> impl Iterator<Item = &IoEventFd> {
        let mine = move |fd: &&IoEventFd| u32::from(fd.bar) == region;
        self.io_event_fds.iter().filter(mine)
    }

    /// Who keeps the byte at `offset` of a BAR (the handler if none), with where that begins, and how many of the
    /// next `len` bytes are kept by the same.
    pub(crate) fn piece(&self, bar: u8, offset: u64, len: usize) -> (Option<(Owner, u64)>, usize) {
        let claims = self
            .claims
            .get(usize::from(bar))
            .map_or(&[][..], Vec::as_slice);
        let Some(claim) = claims.iter().find(|claim| offset < claim.range.end) else {
            return (None, len);
        };
        let (owner, border) = match offset < claim.range.start {
            true => (None, claim.range.start),
            false => (Some((claim.owner, claim.range.start)), claim.range.end),
        };
        let room = usize::try_from(border - offset).unwrap_or(usize::MAX);
        (owner, len.min(room))
    }
}
