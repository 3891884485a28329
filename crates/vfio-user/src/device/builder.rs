//! Collects what a device is.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use super::capabilities::{self, Capability};
use super::regions::{self, IoEventFd, MapRequest, Mappable, MsixPlace};
use super::{Bar, BarKind, BuildError, Device};
use crate::pci::{Template, cap, reg};
use crate::wire::{MAX_FDS, MmapArea, irq_index};

/// Collects the description of a device.
///
/// ```
/// # use vfio_user::{Bar, Device};
/// let device = Device::builder()
///     .ids(0x1234, 0x11e8)
///     .class(0xff_00_00)
///     .bar(0, Bar::memory32(0x1000))
///     .intx(1)
///     .build()?;
/// # Ok::<_, vfio_user::BuildError>(())
/// ```
#[derive(Clone, Debug)]
pub struct DeviceBuilder {
    config: Template,
    bars: [Option<Bar>; 6],
    rom: u32,
    capabilities: Vec<Capability>,
    extended: Vec<Capability>,
    /// Where the next capability goes.
    at: Option<u16>,
    irqs: [u32; irq_index::COUNT as usize],
    msix: Option<MsixPlace>,
    mappable: Vec<MapRequest>,
    io_event_fds: Vec<IoEventFd>,
    error: Option<BuildError>,
}

impl Default for DeviceBuilder {
    fn default() -> Self {
        let mut config = Template::default();
        config.writable[reg::CACHE_LINE_SIZE] = 0xff;
        config.writable[reg::LATENCY_TIMER] = 0xff;
        config.writable[reg::INTERRUPT_LINE] = 0xff;
        // MWI, parity, SERR and INTX_DISABLE; bus master, too: only a device that does DMA looks at it.
        config.writable[reg::COMMAND] = 0b0101_0100;
        config.writable[reg::COMMAND + 1] = 0b0000_0101;
        // The error bits of STATUS.
        config.clears[reg::STATUS + 1] = 0xf9;
        Self {
            config,
            bars: [None; 6],
            rom: 0,
            capabilities: Vec::new(),
            extended: Vec::new(),
            at: None,
            irqs: [0; irq_index::COUNT as usize],
            msix: None,
            mappable: Vec::new(),
            io_event_fds: Vec::new(),
            error: None,
        }
    }
}

impl DeviceBuilder {
    /// Vendor and device id.
    #[must_use]
    pub fn ids(self, vendor: u16, device: u16) -> Self {
        self.put(reg::VENDOR_ID, &vendor.to_le_bytes())
            .put(reg::DEVICE_ID, &device.to_le_bytes())
    }

    /// Subsystem vendor and subsystem id.
    #[must_use]
    pub fn subsystem(self, vendor: u16, id: u16) -> Self {
        self.put(reg::SUBSYSTEM_VENDOR_ID, &vendor.to_le_bytes())
            .put(reg::SUBSYSTEM_ID, &id.to_le_bytes())
    }

    /// Class, subclass and programming interface, as in `0x02_00_00`: network, Ethernet, none.
    #[must_use]
    pub fn class(self, class: u32) -> Self {
        let [interface, subclass, base, _] = class.to_le_bytes();
        self.put(reg::CLASS, &[interface, subclass, base])
    }

    /// Revision id.
    #[must_use]
    pub fn revision(self, revision: u8) -> Self {
        self.put(reg::REVISION_ID, &[revision])
    }

    /// Constant bits of STATUS (timing, speed); the capability list's bit sets itself.
    #[must_use]
    pub fn status(self, status: u16) -> Self {
        self.put(reg::STATUS, &status.to_le_bytes())
    }

    /// `MIN_GNT` and `MAX_LAT`, in units of 250 ns.
    #[must_use]
    pub fn latency(self, min_gnt: u8, max_lat: u8) -> Self {
        self.put(reg::MIN_GNT, &[min_gnt, max_lat])
    }

    /// A base address register; a 64-bit one takes the next, too.
    #[must_use]
    pub fn bar(mut self, index: usize, bar: Bar) -> Self {
        let wide = bar.kind == BarKind::Memory64;
        let under_wide = |i: usize| {
            i.checked_sub(1).is_some_and(
                |below| matches!(self.bars[below], Some(b) if b.kind == BarKind::Memory64),
            )
        };
        let last = index.saturating_add(usize::from(wide));
        if last >= 6
            || !bar.is_valid()
            || under_wide(index)
            || self.bars[index..=last].iter().any(Option::is_some)
        {
            return self.fail(BuildError::Bar(index));
        }
        let at = reg::BAR0 + 4 * index;
        let (kind, command) = match bar.kind {
            BarKind::Memory32 => (0b000, 0b10),
            BarKind::Memory64 => (0b100, 0b10),
            BarKind::Io => (0b001, 0b01),
        };
        let mask = !(bar.size - 1);
        let bytes = if wide { 8 } else { 4 };
        self.config.reset[at] = kind;
        self.config.writable[at..at + bytes].copy_from_slice(&mask.to_le_bytes()[..bytes]);
        self.config.writable[reg::COMMAND] |= command;
        self.bars[index] = Some(bar);
        self
    }

    /// An expansion ROM of `size` bytes, which the handler reads as [`Region::Rom`](crate::Region::Rom).
    #[must_use]
    pub fn rom(mut self, size: u32) -> Self {
        if !size.is_power_of_two() || !(2048..=16 << 20).contains(&size) {
            return self.fail(BuildError::Rom(size));
        }
        // Address bits, and bit 0, the enable bit.
        let mask = (!(size - 1) | 1).to_le_bytes();
        self.config.writable[reg::ROM..reg::ROM + 4].copy_from_slice(&mask);
        self.config.writable[reg::COMMAND] |= 0b10;
        self.rom = size;
        self
    }

    /// The next capability goes to `offset` of configuration space, a multiple of 4, instead of where there is room.
    /// Drivers find capabilities by walking their list, but some look where the real device has them.
    #[must_use]
    pub fn at(mut self, offset: u16) -> Self {
        self.at = Some(offset);
        self
    }

    /// A capability at `offset`: its `bytes` from the id on (the second, the link to the next, is filled in), and
    /// the bits of them that a guest may write, `writable`, of the same length. Capabilities are listed in the
    /// order in which they are added.
    ///
    /// Power management (id 1) is understood: D0 and D3hot exist, leaving D3hot resets the function unless the
    /// capability says `No_Soft_Reset`. MSI, MSI-X and PCI Express have functions of their own.
    #[must_use]
    pub fn capability(mut self, offset: u8, bytes: &[u8], writable: &[u8]) -> Self {
        if let Some(&id @ (cap::MSI | cap::MSIX | cap::EXPRESS)) = bytes.first() {
            return self.fail(BuildError::Acting(id));
        }
        self.at = Some(offset.into());
        self.add(Capability::raw(None, bytes.to_vec(), writable.to_vec()))
    }

    /// Power management with the states D0 and D3hot. Leaving D3hot resets the function, as
    /// [`ResetKind::PowerState`](crate::ResetKind::PowerState).
    #[must_use]
    pub fn power_management(self) -> Self {
        self.add(Capability::power_management())
    }

    /// A vendor-specific capability (id 9) with these `bytes` after its length byte, read-only.
    #[must_use]
    pub fn vendor_capability(self, bytes: &[u8]) -> Self {
        self.add(Capability::vendor(bytes))
    }

    /// The function is a PCI Express endpoint: configuration space has 4096 bytes, and a capability that offers
    /// function level reset, told as [`ResetKind::FunctionLevel`](crate::ResetKind::FunctionLevel).
    #[must_use]
    pub fn express(mut self) -> Self {
        self.config.grow();
        self.add(Capability::express())
    }

    /// An extended capability of an Express function: its id, version, the `bytes` after its header, and the bits of
    /// them that a guest may write, of the same length. The first one is at 0x100.
    #[must_use]
    pub fn extended_capability(
        mut self,
        id: u16,
        version: u8,
        bytes: &[u8],
        writable: &[u8],
    ) -> Self {
        let capability = Capability::extended(id, version, bytes, writable);
        let at = self.at.take();
        self.extended.push(Capability { at, ..capability });
        self
    }

    /// The device interrupts by INTx; `pin` 1 is INTA. Specification, "VFIO_USER_DEVICE_GET_IRQ_INFO".
    #[must_use]
    pub fn intx(mut self, pin: u8) -> Self {
        if !(1..=4).contains(&pin) {
            return self.fail(BuildError::Pin(pin));
        }
        self.irqs[irq_index::INTX as usize] = 1;
        self.put(reg::INTERRUPT_PIN, &[pin])
    }

    /// The device interrupts by MSI, with up to `vectors` messages, a power of two up to 32. How many it may use
    /// the guest decides, see [`IrqTable::messages`](crate::IrqTable::messages).
    /// Specification, "VFIO_USER_DEVICE_GET_IRQ_INFO".
    #[must_use]
    pub fn msi(self, vectors: u32) -> Self {
        self.add_msi(vectors, false)
    }

    /// As [`msi`](Self::msi), and the guest can mask each message.
    #[must_use]
    pub fn msi_maskable(self, vectors: u32) -> Self {
        self.add_msi(vectors, true)
    }

    /// The device interrupts by MSI-X, with `vectors` messages, up to 2048. The table (16 bytes a vector) and the
    /// pending bits (8 bytes for 64 vectors) are at these offsets, multiples of 8, of memory BARs. The handler sees
    /// no access to them. Specification, "VFIO_USER_DEVICE_GET_IRQ_INFO".
    ///
    /// Clients keep the table themselves and read the pending bits here. If one does not keep the table, it is
    /// stored here, and its mask bits are honoured once they have been written: a client that keeps the table never
    /// writes them, so their value after reset, masked, holds nothing back.
    #[must_use]
    pub fn msix(
        mut self,
        vectors: u32,
        table_bar: usize,
        table_offset: u32,
        pba_bar: usize,
        pba_offset: u32,
    ) -> Self {
        if !(1..=2048).contains(&vectors) {
            return self.fail(BuildError::Vectors(vectors));
        }
        let (table, pba) = (
            (table_bar, table_offset.into()),
            (pba_bar, pba_offset.into()),
        );
        self.irqs[irq_index::MSIX as usize] = vectors;
        self.msix = Some(MsixPlace {
            vectors,
            table,
            pba,
        });
        self.add(Capability::msix(vectors, table, pba))
    }

    /// The device can say that it failed, with [`IrqTable::raise_error`](crate::IrqTable::raise_error).
    /// Specification, "VFIO_USER_DEVICE_GET_IRQ_INFO".
    #[must_use]
    pub fn err_irq(mut self) -> Self {
        self.irqs[irq_index::ERR as usize] = 1;
        self
    }

    /// The device can ask to be let go of, with [`IrqTable::request_release`](crate::IrqTable::request_release).
    /// Specification, "VFIO_USER_DEVICE_GET_IRQ_INFO".
    #[must_use]
    pub fn req_irq(mut self) -> Self {
        self.irqs[irq_index::REQ as usize] = 1;
        self
    }

    /// Clients may map `areas` of memory BAR `bar`, or all of it if there are none: whole pages, in any order.
    /// `file`'s byte 0 is the BAR's byte 0; it is open for reading and writing and as long as the last area needs.
    /// Clients get the file itself: make it a memfd that allows sealing, and it is sealed against being made shorter,
    /// which would kill whoever touches what was cut off. Specification, "Sparse Regions".
    ///
    /// A guest's accesses to mapped memory cause no message at all, so the device has to look at the memory by
    /// itself, which [`Server::region_mem`](crate::Server::region_mem) lends. Accesses that come by message all the
    /// same (not every client maps, and QEMU without KVM stops mapping at the first interrupt) go to the same bytes;
    /// of writes among them the handler is told after they are stored.
    ///
    /// QEMU sends all writes to a device synchronously as soon as any of its BARs is mappable. SPDK's client takes
    /// one area at most.
    #[must_use]
    pub fn mappable(mut self, bar: usize, file: OwnedFd, areas: &[MmapArea]) -> Self {
        let mut areas = areas.to_vec();
        areas.sort_by_key(|area| area.offset);
        let file = Arc::new(file);
        self.mappable.push(MapRequest { bar, file, areas });
        self
    }

    /// A client may signal `fd` instead of sending writes of `size` bytes to `offset` of BAR `bar`; with
    /// [`io_fd_flags::DATAMATCH`](crate::wire::io_fd_flags::DATAMATCH) in `flags` only writes of `datamatch`. Without
    /// `fd`, such writes may be ignored. The same descriptor may serve several places. The value written is lost, and
    /// the handler is not told; the device watches its end of the descriptor itself.
    /// Specification, "VFIO_USER_DEVICE_GET_REGION_IO_FDS".
    #[must_use]
    pub fn ioeventfd(
        mut self,
        bar: usize,
        offset: u64,
        size: u64,
        fd: Option<Arc<OwnedFd>>,
        flags: u32,
        datamatch: u64,
    ) -> Self {
        let Ok(index) = u8::try_from(bar) else {
            return self.fail(BuildError::IoEventFd { bar, offset });
        };
        self.io_event_fds.push(IoEventFd {
            bar: index,
            offset,
            size,
            fd,
            flags,
            datamatch,
        });
        self
    }

    /// The finished description.
    ///
    /// # Errors
    ///
    /// See [`BuildError`]; the first mistake is reported.
    pub fn build(mut self) -> Result<Device, BuildError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        capabilities::link(&self.capabilities, &mut self.config)?;
        if !self.extended.is_empty() && self.config.express.is_none() {
            return Err(BuildError::Conventional);
        }
        capabilities::link_extended(&self.extended, &mut self.config)?;
        let claims = regions::claims(&self.bars, &self.mappable, self.msix)?;
        for fd in &self.io_event_fds {
            let mut fds: Vec<_> = self
                .io_event_fds
                .iter()
                .filter(|other| other.bar == fd.bar)
                .filter_map(|other| Some(other.fd.as_ref()?.as_raw_fd()))
                .collect();
            fds.sort_unstable();
            fds.dedup();
            if fds.len() > MAX_FDS || !regions::io_event_fd_fits(&self.bars, fd) {
                let (bar, offset) = (fd.bar.into(), fd.offset);
                return Err(BuildError::IoEventFd { bar, offset });
            }
        }
        let mut mappable: [Option<Mappable>; 6] = Default::default();
        for request in self.mappable {
            let bar = request.bar;
            let size = self.bars[bar].map_or(0, |bar| bar.size);
            mappable[bar] = Some(request.map(size)?);
        }
        Ok(Device {
            config: self.config,
            msix: self.msix,
            bars: self.bars,
            rom: self.rom,
            irqs: self.irqs,
            mappable,
            io_event_fds: self.io_event_fds,
            claims,
        })
    }

    fn add_msi(mut self, vectors: u32, maskable: bool) -> Self {
        if !vectors.is_power_of_two() || vectors > 32 {
            return self.fail(BuildError::Vectors(vectors));
        }
        self.irqs[irq_index::MSI as usize] = vectors;
        self.config.msi_order = vectors.trailing_zeros() as u8;
        self.config.msi_maskable = maskable;
        self.add(Capability::msi(vectors, maskable))
    }

    fn add(mut self, capability: Capability) -> Self {
        let at = self.at.take();
        self.capabilities.push(Capability { at, ..capability });
        self
    }

    fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.config.reset[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn fail(mut self, error: BuildError) -> Self {
        self.error.get_or_insert(error);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_descriptions_are_refused() {
        let with = |f: fn(DeviceBuilder) -> DeviceBuilder| f(Device::builder()).build().map(|_| ());
        assert_eq!(with(|b| b.bar(6, Bar::io(8))), Err(BuildError::Bar(6)));
        assert_eq!(
            with(|b| b.bar(usize::MAX, Bar::memory64(16))),
            Err(BuildError::Bar(usize::MAX))
        );
        assert_eq!(
            with(|b| b.bar(5, Bar::memory64(0x1000))),
            Err(BuildError::Bar(5))
        );
        assert_eq!(
            with(|b| b.bar(0, Bar::memory64(0x1000)).bar(1, Bar::io(8))),
            Err(BuildError::Bar(1))
        );
        assert_eq!(
            with(|b| b.bar(0, Bar::memory32(0x1001))),
            Err(BuildError::Bar(0))
        );
        assert_eq!(with(|b| b.rom(1024)), Err(BuildError::Rom(1024)));
        assert_eq!(with(|b| b.intx(5)), Err(BuildError::Pin(5)));
        assert_eq!(
            with(|b| b.capability(0x3c, &[9, 0], &[0, 0])),
            Err(BuildError::Capability(0x3c))
        );
        assert_eq!(
            with(|b| b
                .capability(0x40, &[9, 0, 0, 0], &[0; 4])
                .capability(0x40, &[9, 0], &[0, 0])),
            Err(BuildError::Capability(0x40))
        );
        assert_eq!(
            with(|b| b.capability(0xfc, &[cap::PM, 0, 0, 0], &[0; 4])),
            Err(BuildError::Capability(0xfc))
        );
    }

    #[test]
    fn capabilities_are_linked_in_order() {
        let device = Device::builder()
            .capability(0xdc, &[9, 0xff, 4, 7], &[0xff; 4])
            .capability(0x40, &[9, 0xff, 4, 7], &[0; 4])
            .build()
            .unwrap();
        let config = device.config;
        assert_eq!(config.reset[0x34], 0xdc);
        assert_eq!(config.reset[0xdd], 0x40);
        assert_eq!(config.reset[0x41], 0);
        assert_eq!(config.writable[0xdc..0xe0], [0, 0, 0xff, 0xff]);
    }
}
