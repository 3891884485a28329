//! Plain description of a PCI function, for whoever puts the device on a bus.

/// The fixed header fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Class, subclass and programming interface: 24 bits.
    pub class: u32,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem_id: u16,
    /// The constant bits of STATUS, but for that of the capability list.
    pub status: u16,
    /// MIN_GNT, 250 ns.
    pub min_gnt: u8,
    /// MAX_LAT, 250 ns.
    pub max_lat: u8,
    /// 1 to 4 for INTA to INTD, 0 for none.
    pub interrupt_pin: u8,
}

/// Kind of a base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// 32-bit memory, not prefetchable.
    Mem32,
    /// I/O ports.
    Io,
}

/// A base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// 0 to 5.
    pub index: u8,
    /// Memory or I/O.
    pub kind: BarKind,
    /// Bytes, a power of two.
    pub size: u32,
}

/// An entry of the capability list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Offset in configuration space.
    pub offset: u8,
    /// Capability ID.
    pub id: u8,
    /// What follows ID and next pointer, as after reset.
    pub bytes: &'static [u8],
    /// Bits of `bytes` that software may write; as long as `bytes`.
    pub writable: &'static [u8],
}

/// A PCI function as its configuration space shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Header.
    pub identity: Identity,
    /// Base address registers, by index.
    pub bars: Vec<Bar>,
    /// Capabilities, in list order.
    pub capabilities: &'static [Capability],
    /// Offset of an MSI capability behind them, for one message to any address of 64 bits.
    pub msi: Option<u8>,
    /// Bytes of an expansion ROM that the function has of its own, a power of two.
    pub rom: Option<u32>,
}
