//! What a device is: identity, regions, capabilities, interrupts. What it does is a [`Handler`](crate::Handler).

use thiserror::Error;

use crate::pci::{CAP_PM, CONFIG_SIZE, Template, reg};
use crate::wire::{irq_flags, irq_index, region_index};

/// A base address register: how the region is addressed, and how large it is.
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
pub enum BuildError {
    /// Not a BAR that the header has room for, or its size is not a power of two in range.
    #[error("BAR {0} does not exist, overlaps another or has an impossible size")]
    Bar(usize),
    /// A ROM that is no power of two from 2 KiB to 16 MiB.
    #[error("the expansion ROM's size {0:#x} is not a power of two from 2 KiB to 16 MiB")]
    Rom(u32),
    /// A capability outside 0x40..0x100, unaligned, too short, or on top of another.
    #[error("the capability at {0:#x} does not fit there, or its mask is not as long as its bytes")]
    Capability(u8),
    /// A pin other than INTA to INTD.
    #[error("interrupt pin {0} does not exist: 1 is INTA, 4 is INTD")]
    Pin(u8),
}

/// The description of a PCI device; made by [`Device::builder`].
#[derive(Clone, Debug)]
pub struct Device {
    pub(crate) config: Template,
    bars: [Option<Bar>; 6],
    rom: u32,
    intx: bool,
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
            region_index::CONFIG => CONFIG_SIZE as u64,
            _ => self.bar(index as usize).map_or(0, |bar| bar.size),
        }
    }

    /// Number of interrupts of an index, and the flags that go with them.
    pub(crate) fn irqs(&self, index: u32) -> (u32, u32) {
        match index {
            irq_index::INTX if self.intx => (
                1,
                irq_flags::EVENTFD | irq_flags::MASKABLE | irq_flags::AUTOMASKED,
            ),
            _ => (0, 0),
        }
    }
}

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
    capabilities: Vec<(u8, Vec<u8>, Vec<u8>)>,
    error: Option<BuildError>,
}

impl Default for DeviceBuilder {
    fn default() -> Self {
        let mut config = Template {
            reset: [0; CONFIG_SIZE],
            writable: [0; CONFIG_SIZE],
            clears: [0; CONFIG_SIZE],
            pm: None,
        };
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

    /// A capability at `offset`: its `bytes` from the id on (the second, the link to the next, is filled in), and
    /// the bits of them that a guest may write, `writable`, of the same length. Capabilities are listed in the
    /// order in which they are added.
    ///
    /// Power management (id 1) is understood: D0 and D3hot exist, leaving D3hot resets the function unless the
    /// capability says `No_Soft_Reset`.
    #[must_use]
    pub fn capability(mut self, offset: u8, bytes: &[u8], writable: &[u8]) -> Self {
        self.capabilities
            .push((offset, bytes.to_vec(), writable.to_vec()));
        self
    }

    /// The device interrupts by INTx; `pin` 1 is INTA.
    #[must_use]
    pub fn intx(self, pin: u8) -> Self {
        if !(1..=4).contains(&pin) {
            return self.fail(BuildError::Pin(pin));
        }
        self.put(reg::INTERRUPT_PIN, &[pin])
    }

    /// The finished description.
    ///
    /// # Errors
    ///
    /// See [`BuildError`]; the first mistake is reported.
    pub fn build(mut self) -> Result<Device, BuildError> {
        self.link_capabilities();
        if let Some(error) = self.error {
            return Err(error);
        }
        Ok(Device {
            intx: self.config.reset[reg::INTERRUPT_PIN] != 0,
            config: self.config,
            bars: self.bars,
            rom: self.rom,
        })
    }

    fn link_capabilities(&mut self) {
        let mut taken = [false; CONFIG_SIZE];
        let mut link = reg::CAPABILITIES;
        for (offset, bytes, writable) in std::mem::take(&mut self.capabilities) {
            let at = usize::from(offset);
            let end = at + bytes.len();
            let least = if bytes.first() == Some(&CAP_PM) { 8 } else { 2 };
            if at < 0x40
                || !at.is_multiple_of(4)
                || end > CONFIG_SIZE
                || bytes.len() < least
                || writable.len() != bytes.len()
                || taken[at..end].contains(&true)
            {
                self.error.get_or_insert(BuildError::Capability(offset));
                return;
            }
            taken[at..end].fill(true);
            self.config.reset[at..end].copy_from_slice(&bytes);
            self.config.reset[at + 1] = 0;
            self.config.writable[at..end].copy_from_slice(&writable);
            // Nobody rewrites the list itself.
            self.config.writable[at..at + 2].fill(0);
            if bytes[0] == CAP_PM {
                self.config.pm = Some(at);
                // PME_Status.
                self.config.clears[at + 5] |= 0x80;
                self.config.writable[at + 5] &= 0x7f;
            }
            self.config.reset[link] = offset;
            self.config.reset[reg::STATUS] |= 1 << 4;
            link = at + 1;
        }
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
            with(|b| b.capability(0xfc, &[CAP_PM, 0, 0, 0], &[0; 4])),
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
