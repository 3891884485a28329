//! Registers and their bits, from the 8254x software developer's manual (317453), chapter 13, and its errata as the
//! drivers of Linux and FreeBSD know them. Byte offsets into the memory BAR.

macro_rules! registers {
    ($($name:ident = $offset:literal, $doc:literal;)*) => {
        $(#[doc = $doc] pub const $name: u32 = $offset;)*
    };
}

registers! {
    CTRL = 0x0000, "Device control.";
    STATUS = 0x0008, "Device status.";
    EECD = 0x0010, "EEPROM control, bit by bit.";
    EERD = 0x0014, "EEPROM read, a word at a time.";
    CTRL_EXT = 0x0018, "Extended device control.";
    MDIC = 0x0020, "Access to the PHY.";
    FCAL = 0x0028, "Flow control address, low.";
    FCAH = 0x002C, "Flow control address, high.";
    FCT = 0x0030, "Flow control type.";
    VET = 0x0038, "Ethertype of VLAN tags.";
    ICR = 0x00C0, "Interrupt causes, read clears.";
    ITR = 0x00C4, "Least interval between interrupts, 256 ns.";
    ICS = 0x00C8, "Interrupt causes, set.";
    IMS = 0x00D0, "Interrupt mask, set and read.";
    IMC = 0x00D8, "Interrupt mask, clear.";
    RCTL = 0x0100, "Receive control.";
    FCTTV = 0x0170, "Flow control transmit timer.";
    TXCW = 0x0178, "Transmit configuration word (fibre).";
    TCTL = 0x0400, "Transmit control.";
    TIPG = 0x0410, "Transmit inter-packet gap.";
    AIT = 0x0458, "Adaptive inter-frame spacing.";
    LEDCTL = 0x0E00, "LED control.";
    PBA = 0x1000, "Packet buffer allocation, KiB.";
    FCRTL = 0x2160, "Flow control low threshold.";
    FCRTH = 0x2168, "Flow control high threshold.";
    RDBAL = 0x2800, "Receive ring address, low.";
    RDBAH = 0x2804, "Receive ring address, high.";
    RDLEN = 0x2808, "Receive ring length, bytes.";
    RDH = 0x2810, "Receive ring head.";
    RDT = 0x2818, "Receive ring tail.";
    RDTR = 0x2820, "Receive interrupt delay, 1.024 us.";
    RXDCTL = 0x2828, "Receive descriptor control.";
    RADV = 0x282C, "Receive interrupt absolute delay, 1.024 us.";
    TDBAL = 0x3800, "Transmit ring address, low.";
    TDBAH = 0x3804, "Transmit ring address, high.";
    TDLEN = 0x3808, "Transmit ring length, bytes.";
    TDH = 0x3810, "Transmit ring head.";
    TDT = 0x3818, "Transmit ring tail.";
    TIDV = 0x3820, "Transmit interrupt delay, 1.024 us.";
    TXDCTL = 0x3828, "Transmit descriptor control.";
    TADV = 0x382C, "Transmit interrupt absolute delay, 1.024 us.";
    CRCERRS = 0x4000, "First of the statistics.";
    MPC = 0x4010, "Missed packets.";
    RLEC = 0x4040, "Receive length errors.";
    XONRXC = 0x4048, "XON received.";
    XOFFRXC = 0x4050, "XOFF received.";
    PRC64 = 0x405C, "Packets received, 64 bytes; five more size bins follow.";
    GPRC = 0x4074, "Good packets received.";
    BPRC = 0x4078, "Broadcast packets received.";
    MPRC = 0x407C, "Multicast packets received.";
    GPTC = 0x4080, "Good packets transmitted.";
    GORCL = 0x4088, "Good octets received, low.";
    GORCH = 0x408C, "Good octets received, high.";
    GOTCL = 0x4090, "Good octets transmitted, low.";
    GOTCH = 0x4094, "Good octets transmitted, high.";
    RNBC = 0x40A0, "Receive no buffers.";
    RUC = 0x40A4, "Receive undersize.";
    ROC = 0x40AC, "Receive oversize.";
    TORL = 0x40C0, "Total octets received, low.";
    TORH = 0x40C4, "Total octets received, high.";
    TOTL = 0x40C8, "Total octets transmitted, low.";
    TOTH = 0x40CC, "Total octets transmitted, high.";
    TPR = 0x40D0, "Total packets received.";
    TPT = 0x40D4, "Total packets transmitted.";
    PTC64 = 0x40D8, "Packets transmitted, 64 bytes; five more size bins follow.";
    MPTC = 0x40F0, "Multicast packets transmitted.";
    BPTC = 0x40F4, "Broadcast packets transmitted.";
    TSCTC = 0x40F8, "TCP segmentation contexts transmitted.";
    TSCTFC = 0x40FC, "TCP segmentation contexts failed; last of the statistics.";
    RXCSUM = 0x5000, "Receive checksum control.";
    RFCTL = 0x5008, "Receive filter control of later parts, absent here.";
    MTA = 0x5200, "Multicast table, 128 words.";
    RAL0 = 0x5400, "Receive address 0, low; 16 pairs, 8 bytes apart.";
    RAH0 = 0x5404, "Receive address 0, high.";
    VFTA = 0x5600, "VLAN filter table, 128 words.";
    WUC = 0x5800, "Wake-up control.";
    WUFC = 0x5808, "Wake-up filter control.";
    WUS = 0x5810, "Wake-up status.";
    MANC = 0x5820, "Management control.";
    IPAV = 0x5838, "IP addresses valid.";
    IP4AT = 0x5840, "IPv4 addresses, 4 of them, 8 bytes apart.";
    IP6AT = 0x5880, "IPv6 address, 4 words.";
    WUPL = 0x5900, "Wake-up packet length.";
    WUPM = 0x5A00, "Wake-up packet memory, 32 words.";
    FFLT = 0x5F00, "Flexible filter lengths, 4 of them, 8 bytes apart.";
    FFMT = 0x9000, "Flexible filter masks, 128 of them, 8 bytes apart.";
    FFVT = 0x9800, "Flexible filter values, 128 of them, 8 bytes apart.";
}

/// Register address port of the I/O BAR.
pub const IOADDR: u8 = 0;
/// Register data port of the I/O BAR.
pub const IODATA: u8 = 4;

/// Bits of CTRL.
pub mod ctrl {
    /// Full duplex.
    pub const FD: u32 = 1 << 0;
    /// Auto-speed detection.
    pub const ASDE: u32 = 1 << 5;
    /// Set link up.
    pub const SLU: u32 = 1 << 6;
    /// Device reset, clears itself.
    pub const RST: u32 = 1 << 26;
    /// VLAN mode: tags are stripped and inserted.
    pub const VME: u32 = 1 << 30;
}

/// Bits of WUC.
pub mod wuc {
    /// Wake-up is enabled; the same bit as PMCSR's.
    pub const PME_EN: u32 = 1 << 1;
    /// Something wakes; the same bit as PMCSR's, cleared by writing 1.
    pub const PME_STATUS: u32 = 1 << 2;
}

/// Bits of WUFC and WUS.
pub mod wufc {
    /// Link change.
    pub const LNKC: u32 = 1 << 0;
    /// Magic packet.
    pub const MAG: u32 = 1 << 1;
    /// Destination among the receive addresses.
    pub const EX: u32 = 1 << 2;
    /// Multicast.
    pub const MC: u32 = 1 << 3;
    /// Broadcast.
    pub const BC: u32 = 1 << 4;
    /// ARP request for one of our addresses.
    pub const ARP: u32 = 1 << 5;
    /// IPv4 packet to one of our addresses.
    pub const IPV4: u32 = 1 << 6;
    /// IPv6 packet to our address.
    pub const IPV6: u32 = 1 << 7;
    /// First of the four flexible filters.
    pub const FLX0: u32 = 1 << 16;
}

/// Bits of STATUS.
pub mod status {
    /// Full duplex.
    pub const FD: u32 = 1 << 0;
    /// Link up.
    pub const LU: u32 = 1 << 1;
    /// Fibre or SerDes interface; never on this part.
    pub const TBIMODE: u32 = 1 << 5;
    /// Link speed field; 0b10 and 0b11 mean 1000 Mb/s.
    pub const SPEED: u32 = 3 << 6;
    /// Link speed of 1000 Mb/s.
    pub const SPEED_1000: u32 = 2 << 6;
}

/// Interrupt causes: bits of ICR, ICS, IMS and IMC.
pub mod cause {
    /// A transmit descriptor was written back.
    pub const TXDW: u32 = 1 << 0;
    /// The transmit ring ran empty.
    pub const TXQE: u32 = 1 << 1;
    /// The link changed.
    pub const LSC: u32 = 1 << 2;
    /// Receive sequence error.
    pub const RXSEQ: u32 = 1 << 3;
    /// Few receive descriptors are left.
    pub const RXDMT0: u32 = 1 << 4;
    /// Receiver overrun.
    pub const RXO: u32 = 1 << 6;
    /// Receive timer: frames were received.
    pub const RXT0: u32 = 1 << 7;
    /// A PHY access is complete.
    pub const MDAC: u32 = 1 << 9;
}

/// Bits of RCTL.
pub mod rctl {
    /// Receiver enable.
    pub const EN: u32 = 1 << 1;
    /// Store bad packets.
    pub const SBP: u32 = 1 << 2;
    /// Unicast promiscuous.
    pub const UPE: u32 = 1 << 3;
    /// Multicast promiscuous.
    pub const MPE: u32 = 1 << 4;
    /// Long packets.
    pub const LPE: u32 = 1 << 5;
    /// Descriptor threshold of RXDMT0: half the ring; shift of the field.
    pub const RDMTS_SHIFT: u32 = 8;
    /// Which bits of the address index the multicast table; shift of the field.
    pub const MO_SHIFT: u32 = 12;
    /// Accept broadcast.
    pub const BAM: u32 = 1 << 15;
    /// Buffer size; shift of the field.
    pub const BSIZE_SHIFT: u32 = 16;
    /// VLAN filter.
    pub const VFE: u32 = 1 << 18;
    /// Compare the CFI bit of VLAN tags.
    pub const CFIEN: u32 = 1 << 19;
    /// CFI bit of VLAN tags to accept.
    pub const CFI: u32 = 1 << 20;
    /// Buffer size times 16.
    pub const BSEX: u32 = 1 << 25;
    /// Strip the FCS.
    pub const SECRC: u32 = 1 << 26;
}

/// Bits of TCTL.
pub mod tctl {
    /// Transmitter enable.
    pub const EN: u32 = 1 << 1;
    /// Pad short packets.
    pub const PSP: u32 = 1 << 3;
    /// Collision threshold; shift of the field.
    pub const CT_SHIFT: u32 = 4;
    /// Collision distance; shift of the field.
    pub const COLD_SHIFT: u32 = 12;
}

/// Bits of RXCSUM.
pub mod rxcsum {
    /// Check IPv4 headers.
    pub const IPOFL: u32 = 1 << 8;
    /// Check TCP and UDP.
    pub const TUOFL: u32 = 1 << 9;
}

/// Bits of EECD.
pub mod eecd {
    /// Clock.
    pub const SK: u32 = 1 << 0;
    /// Chip select.
    pub const CS: u32 = 1 << 1;
    /// Data into the EEPROM.
    pub const DI: u32 = 1 << 2;
    /// Data out of the EEPROM.
    pub const DO: u32 = 1 << 3;
    /// Request for access.
    pub const REQ: u32 = 1 << 6;
    /// Grant of access.
    pub const GNT: u32 = 1 << 7;
    /// An EEPROM is present.
    pub const PRES: u32 = 1 << 8;
    /// 256 words rather than 64.
    pub const SIZE: u32 = 1 << 9;
}

/// Bits of EERD.
pub mod eerd {
    /// Start a read.
    pub const START: u32 = 1 << 0;
    /// The read is done.
    pub const DONE: u32 = 1 << 4;
    /// Word address; shift of the field.
    pub const ADDR_SHIFT: u32 = 8;
    /// The word; shift of the field.
    pub const DATA_SHIFT: u32 = 16;
}

/// Bits of MDIC.
pub mod mdic {
    /// PHY register; shift of the field.
    pub const REG_SHIFT: u32 = 16;
    /// PHY address; shift of the field.
    pub const PHY_SHIFT: u32 = 21;
    /// Write operation.
    pub const WRITE: u32 = 1 << 26;
    /// Read operation.
    pub const READ: u32 = 2 << 26;
    /// The operation is complete.
    pub const READY: u32 = 1 << 28;
    /// Raise MDAC when complete.
    pub const INT_EN: u32 = 1 << 29;
    /// The operation failed.
    pub const ERROR: u32 = 1 << 30;
}

/// Address valid, of RAH.
pub const RAH_AV: u32 = 1 << 31;
/// Flush pending delayed interrupts, of RDTR and TIDV.
pub const FPD: u32 = 1 << 31;

/// Offsets and bits of PCI config space.
pub mod pci {
    /// Vendor (low half) and device.
    pub const ID: u8 = 0x00;
    /// Command register, 16 bits.
    pub const COMMAND: u8 = 0x04;
    /// Status register, 16 bits.
    pub const STATUS: u8 = 0x06;
    /// Revision (low byte) and class code.
    pub const CLASS: u8 = 0x08;
    /// First base address register.
    pub const BAR0: u8 = 0x10;
    /// Subsystem vendor (low half) and id.
    pub const SUBSYSTEM: u8 = 0x2C;
    /// Offset of the first capability.
    pub const CAPABILITIES: u8 = 0x34;
    /// Interrupt line, kept for software.
    pub const INTERRUPT_LINE: u8 = 0x3C;
    /// Interrupt pin, 1 = INTA.
    pub const INTERRUPT_PIN: u8 = 0x3D;
    /// Burst length wanted.
    pub const MIN_GNT: u8 = 0x3E;
    /// COMMAND: decode I/O.
    pub const COMMAND_IO: u32 = 1 << 0;
    /// COMMAND: decode memory.
    pub const COMMAND_MEMORY: u32 = 1 << 1;
    /// COMMAND: DMA allowed.
    pub const COMMAND_MASTER: u32 = 1 << 2;
    /// COMMAND: INTx not to be asserted.
    pub const COMMAND_INTX_DISABLE: u32 = 1 << 10;
    /// STATUS: there is a capability list.
    pub const STATUS_CAPABILITIES: u32 = 1 << 4;
    /// Id of the power management capability.
    pub const CAP_PM: u32 = 1;
    /// Its control and status register, from its start, 16 bits.
    pub const PMCSR: u8 = 4;
    /// PMCSR: the power state.
    pub const POWER_STATE: u32 = 0b11;
    /// PMCSR: power state D3hot.
    pub const D3HOT: u32 = 3;
    /// PMCSR: wake-up is enabled.
    pub const PME_EN: u32 = 1 << 8;
    /// PMCSR: something wakes; cleared by writing 1.
    pub const PME_STATUS: u32 = 1 << 15;
}
