//! Descriptors, 16 bytes each: manual sections 3.2.3 (receive) and 3.3.3 to 3.3.7 (transmit).

/// A descriptor as two little-endian words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Desc {
    /// Buffer address, or the offsets of a context.
    pub low: u64,
    /// Lengths, commands, status.
    pub high: u64,
}

impl Desc {
    /// Size in memory.
    pub const SIZE: usize = 16;

    /// The descriptor in memory order.
    pub fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.low) | u128::from(self.high) << 64).to_le_bytes()
    }

    /// A descriptor from memory.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let value = u128::from_le_bytes(bytes);
        Self {
            low: value as u64,
            high: (value >> 64) as u64,
        }
    }
}

/// End of packet.
pub const EOP: u32 = 1 << 24;
/// Insert the FCS.
pub const IFCS: u32 = 1 << 25;
/// Legacy: insert a checksum.
pub const IC: u32 = 1 << 26;
/// Context and data: TCP segmentation.
pub const TSE: u32 = 1 << 26;
/// Report status.
pub const RS: u32 = 1 << 27;
/// Report packet sent.
pub const RPS: u32 = 1 << 28;
/// Not a legacy descriptor.
pub const DEXT: u32 = 1 << 29;
/// Insert a VLAN tag.
pub const VLE: u32 = 1 << 30;
/// Delay the interrupt.
pub const IDE: u32 = 1 << 31;
/// Context: the packet is TCP (else UDP).
pub const TUCMD_TCP: u32 = 1 << 24;
/// Context: the packet is IPv4 (else IPv6).
pub const TUCMD_IP: u32 = 1 << 25;
/// Data descriptor type.
pub const DTYP_DATA: u32 = 1 << 20;
/// POPTS: insert the IPv4 header checksum.
pub const IXSM: u8 = 1;
/// POPTS: insert the TCP or UDP checksum.
pub const TXSM: u8 = 2;

/// Status of a transmit descriptor: done.
pub const TX_DD: u64 = 1 << 32;

/// A legacy descriptor; `cmd` is made of [`EOP`], [`IFCS`], [`IC`], [`RS`], [`RPS`], [`VLE`], [`IDE`].
pub fn legacy(addr: u64, len: u16, cmd: u32) -> Desc {
    Desc {
        low: addr,
        high: u64::from(u32::from(len) | cmd),
    }
}

/// A legacy descriptor with [`IC`]: sum from `css` to the end of the packet, stored at `cso`.
pub fn legacy_checksum(addr: u64, len: u16, cmd: u32, css: u8, cso: u8) -> Desc {
    let mut desc = legacy(addr, len, cmd | IC);
    desc.high |= u64::from(cso) << 16 | u64::from(css) << 40;
    desc
}

/// A data descriptor; `dcmd` as for [`legacy`] with [`TSE`] in the place of [`IC`], `popts` [`IXSM`] and [`TXSM`].
pub fn data(addr: u64, len: u32, dcmd: u32, popts: u8) -> Desc {
    Desc {
        low: addr,
        high: u64::from(len & 0xF_FFFF | DTYP_DATA | DEXT | dcmd) | u64::from(popts) << 40,
    }
}

/// The descriptor with VLAN tag `tci` in its special field.
pub fn with_tag(mut desc: Desc, tci: u16) -> Desc {
    desc.high |= u64::from(tci) << 48;
    desc
}

/// A context: where the headers of the packets that follow are. All offsets count from the start of the packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Start of the IP header.
    pub ipcss: u8,
    /// Place of the IP checksum.
    pub ipcso: u8,
    /// Last byte of the IP header, 0 = end of packet.
    pub ipcse: u16,
    /// Start of the TCP or UDP header.
    pub tucss: u8,
    /// Place of the TCP or UDP checksum.
    pub tucso: u8,
    /// Last byte of its payload, 0 = end of packet.
    pub tucse: u16,
    /// TSO: bytes behind the headers.
    pub paylen: u32,
    /// TSO: bytes of all headers.
    pub hdrlen: u8,
    /// TSO: payload bytes per segment.
    pub mss: u16,
    /// [`TUCMD_TCP`], [`TUCMD_IP`], [`TSE`], [`RS`], [`IDE`].
    pub tucmd: u32,
}

impl Context {
    /// The context as a descriptor.
    pub fn desc(self) -> Desc {
        Desc {
            low: u64::from(self.ipcss)
                | u64::from(self.ipcso) << 8
                | u64::from(self.ipcse) << 16
                | u64::from(self.tucss) << 32
                | u64::from(self.tucso) << 40
                | u64::from(self.tucse) << 48,
            high: u64::from(self.paylen & 0xF_FFFF | DEXT | self.tucmd)
                | u64::from(self.hdrlen) << 40
                | u64::from(self.mss) << 48,
        }
    }
}

/// Receive status: descriptor done.
pub const RX_DD: u8 = 0x01;
/// Receive status: last descriptor of the frame.
pub const RX_EOP: u8 = 0x02;
/// Receive status: the checksum bits mean nothing.
pub const RX_IXSM: u8 = 0x04;
/// Receive status: a VLAN tag was stripped.
pub const RX_VP: u8 = 0x08;
/// Receive status: TCP (or UDP) checksum was checked.
pub const RX_TCPCS: u8 = 0x20;
/// Receive status: IPv4 header checksum was checked.
pub const RX_IPCS: u8 = 0x40;
/// Receive error: TCP or UDP checksum.
pub const RX_TCPE: u8 = 0x20;
/// Receive error: IPv4 header checksum.
pub const RX_IPE: u8 = 0x40;

/// What the device wrote into a receive descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxStatus {
    /// Bytes in this buffer.
    pub len: u16,
    /// Packet checksum.
    pub csum: u16,
    /// [`RX_DD`] and friends.
    pub status: u8,
    /// [`RX_TCPE`] and friends.
    pub errors: u8,
    /// VLAN tag.
    pub special: u16,
}

impl From<Desc> for RxStatus {
    fn from(desc: Desc) -> Self {
        Self {
            len: desc.high as u16,
            csum: (desc.high >> 16) as u16,
            status: (desc.high >> 32) as u8,
            errors: (desc.high >> 40) as u8,
            special: (desc.high >> 48) as u16,
        }
    }
}
