//! The register table of the 82540EM, and the cells behind it.
//!
//! One row per register in the order of the manual (8254x Family Software Developer's Manual, chapter 13). The masks are
//! exact where Linux's `ethtool -t` compares whole values: a bit outside the mask reads 0 whatever was written.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What an access does, beyond moving the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Holds what is written, within the mask.
    Rw,
    /// Writes do nothing.
    Ro,
    /// Reads give 0.
    Wo,
    /// A statistic: sticks at 0xFFFF_FFFF, reading clears it, writes do nothing.
    Rc,
    /// Low half of a 64-bit statistic: reading clears nothing.
    RcLow,
    /// High half of a 64-bit statistic: reading clears both halves.
    RcHigh,
    /// Written ones clear.
    W1c,
    /// Written ones set.
    W1s,
}

/// How far a reset reaches, the less first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Domain {
    /// Returns to its reset value by CTRL.RST and by every stronger reset.
    Mac,
    /// Wake-up and management: CTRL.RST leaves it alone, a bus reset does not.
    Wake,
    /// What woke the machine, which has to find it afterwards: only power-on clears it.
    Power,
}

/// How much of a register's behaviour is modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Something comes of it, or of its value.
    Behaves,
    /// It holds what it has to hold, and nothing comes of it.
    Stored,
    /// It always reads 0: what it would show never happens here.
    Zero,
}

/// One row of the table.
#[derive(Debug)]
pub struct Row {
    /// Name in the manual.
    pub name: &'static str,
    /// Byte offset of (the first element of) the register in BAR0.
    pub offset: u32,
    /// Number of elements; 1 unless it is an array.
    pub count: u16,
    /// Bytes from one element to the next.
    pub stride: u8,
    /// What reads and writes do.
    pub access: Access,
    /// Which resets it obeys.
    pub domain: Domain,
    /// Value after reset.
    pub reset: u32,
    /// Bits that hold what is written.
    pub mask: u32,
    /// How much of the part's behaviour is there.
    pub state: State,
    /// The drivers that read or write it, a letter each: L Linux e1000 (l: only its register dump), F FreeBSD em, D DPDK
    /// em, I iPXE, C the crate e1000-driver.
    pub users: &'static str,
    /// One line on what it is.
    pub doc: &'static str,
}

macro_rules! first {
    ($value:expr $(, $rest:expr)*) => {
        $value
    };
}

macro_rules! registers {
    ($( $name:ident = $offset:literal $([$count:literal; $stride:literal])?,
        $access:ident, $domain:ident, $reset:expr, $mask:expr, $state:ident, $users:literal, $doc:literal; )+) => {
        /// A register of the 82540EM, or an array of them.
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "names as the manual writes them")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reg {
            $( #[doc = $doc] $name, )+
        }

        impl Reg {
            /// All registers, in the manual's order.
            pub const ALL: &'static [Reg] = &[ $( Reg::$name, )+ ];
        }

        const TABLE: &[Row] = &[ $( Row {
            name: stringify!($name),
            offset: $offset,
            count: first!($($count,)? 1),
            stride: first!($($stride,)? 4),
            access: Access::$access,
            domain: Domain::$domain,
            reset: $reset,
            mask: $mask,
            state: State::$state,
            users: $users,
            doc: $doc,
        }, )+ ];
    };
}

registers! {
    // General
    CTRL     = 0x0000, Rw, Mac, 0x0014_0241, 0xDBFC_1BE9, Behaves, "LFDIC", "device control";
    STATUS   = 0x0008, Ro, Mac, 0x0000_0281, 0, Behaves, "LFDIC", "device status: link, speed, duplex";
    EECD     = 0x0010, Rw, Mac, 0x0000_0010, 0x0000_0077, Behaves, "LFD", "EEPROM/flash control: the bit-banged Microwire port";
    EERD     = 0x0014, Rw, Mac, 0, 0x0000_FF00, Behaves, "", "EEPROM read, small format";
    CTRL_EXT = 0x0018, Rw, Mac, 0, 0x1003_DFFF, Behaves, "lFD", "extended device control";
    FLA      = 0x001C, Rw, Mac, 0, 0x0000_0017, Stored, "", "access to a serial flash, which this part does not have";
    MDIC     = 0x0020, Rw, Mac, 0x1000_0000, 0x2FFF_FFFF, Behaves, "LFD", "MDI control: the way to the PHY";
    FCAL     = 0x0028, Rw, Mac, 0, 0xFFFF_FFFF, Behaves, "LFD", "flow control address low";
    FCAH     = 0x002C, Rw, Mac, 0, 0x0000_FFFF, Behaves, "LFD", "flow control address high";
    FCT      = 0x0030, Rw, Mac, 0, 0x0000_FFFF, Behaves, "LFD", "flow control type";
    VET      = 0x0038, Rw, Mac, 0x8100, 0x0000_FFFF, Behaves, "LFD", "VLAN ethertype";
    FCTTV    = 0x0170, Rw, Mac, 0, 0x0000_FFFF, Behaves, "LFD", "flow control transmit timer value";
    TXCW     = 0x0178, Rw, Mac, 0, 0xC000_FFFF, Stored, "L", "transmit configuration word (fibre)";
    RXCW     = 0x0180, Ro, Mac, 0, 0, Zero, "", "receive configuration word (fibre)";
    LEDCTL   = 0x0E00, Rw, Mac, 0x0706_8302, 0xCFCF_CFCF, Stored, "LFD", "LED control";
    PBA      = 0x1000, Rw, Mac, 0x0010_0030, 0x0000_FFFF, Behaves, "LFD", "packet buffer allocation in KiB: RXA written, TXA derived";

    // Interrupt
    ICR      = 0x00C0, W1c, Mac, 0, 0x0001_FFFF, Behaves, "LFDIC", "interrupt cause read: a read clears it";
    ITR      = 0x00C4, Rw, Mac, 0, 0x0000_FFFF, Behaves, "LFD", "interrupt throttling, 256 ns";
    ICS      = 0x00C8, W1s, Mac, 0, 0x0001_FFFF, Behaves, "LC", "interrupt cause set; reads mirror ICR without clearing";
    IMS      = 0x00D0, W1s, Mac, 0, 0x0001_FFFF, Behaves, "LFDIC", "interrupt mask set; reads give the mask";
    IMC      = 0x00D8, Wo, Mac, 0, 0x0001_FFFF, Behaves, "LFDIC", "interrupt mask clear";

    // Receive
    RCTL     = 0x0100, Rw, Mac, 0, 0x06DF_B3FF, Behaves, "LFDIC", "receive control";
    FCRTL    = 0x2160, Rw, Mac, 0, 0x8000_FFF8, Behaves, "LFD", "flow control receive threshold low";
    FCRTH    = 0x2168, Rw, Mac, 0, 0x0000_FFF8, Behaves, "LFD", "flow control receive threshold high";
    RDBAL    = 0x2800, Rw, Mac, 0, 0xFFFF_FFF0, Behaves, "LFDIC", "receive descriptor base low";
    RDBAH    = 0x2804, Rw, Mac, 0, 0xFFFF_FFFF, Behaves, "LFDI", "receive descriptor base high";
    RDLEN    = 0x2808, Rw, Mac, 0, 0x000F_FF80, Behaves, "LFDIC", "receive descriptor ring length, bytes";
    RDH      = 0x2810, Rw, Mac, 0, 0x0000_FFFF, Behaves, "LFDIC", "receive descriptor head";
    RDT      = 0x2818, Rw, Mac, 0, 0x0000_FFFF, Behaves, "LFDIC", "receive descriptor tail";
    RDTR     = 0x2820, Rw, Mac, 0, 0x0000_FFFF, Behaves, "LFC", "receive interrupt delay, 1.024 us; bit 31 flushes and reads 0";
    RXDCTL   = 0x2828, Rw, Mac, 0x0001_0000, 0x013F_3F3F, Stored, "DI", "receive descriptor control";
    RADV     = 0x282C, Rw, Mac, 0, 0x0000_FFFF, Behaves, "LFC", "receive interrupt absolute delay, 1.024 us";
    RSRPD    = 0x2C00, Rw, Mac, 0, 0x0000_0FFF, Behaves, "", "receive small packet detect";

    // Transmit
    TCTL     = 0x0400, Rw, Mac, 0, 0x013F_FFFA, Behaves, "LFDIC", "transmit control; SWXOFF sends a pause frame and reads 0";
    TIPG     = 0x0410, Rw, Mac, 0, 0x3FFF_FFFF, Stored, "LFC", "transmit inter-packet gap";
    AIT      = 0x0458, Rw, Mac, 0, 0x0000_FFFF, Stored, "LF", "adaptive inter-frame spacing throttle";
    TDBAL    = 0x3800, Rw, Mac, 0, 0xFFFF_FFF0, Behaves, "LFDIC", "transmit descriptor base low";
    TDBAH    = 0x3804, Rw, Mac, 0, 0xFFFF_FFFF, Behaves, "LFDI", "transmit descriptor base high";
    TDLEN    = 0x3808, Rw, Mac, 0, 0x000F_FF80, Behaves, "LFDIC", "transmit descriptor ring length, bytes";
    TDH      = 0x3810, Rw, Mac, 0, 0x0000_FFFF, Behaves, "LFDIC", "transmit descriptor head";
    TDT      = 0x3818, Rw, Mac, 0, 0x0000_FFFF, Behaves, "LFDIC", "transmit descriptor tail";
    TIDV     = 0x3820, Rw, Mac, 0, 0x0000_FFFF, Behaves, "LFC", "transmit interrupt delay, 1.024 us; bit 31 flushes and reads 0";
    TXDCTL   = 0x3828, Rw, Mac, 0, 0xFF3F_3F3F, Behaves, "LFDI", "transmit descriptor control";
    TADV     = 0x382C, Rw, Mac, 0, 0x0000_FFFF, Behaves, "LFC", "transmit interrupt absolute delay, 1.024 us";
    TSPMT    = 0x3830, Rw, Mac, 0, 0xFFFF_FFFF, Stored, "", "TSO pad and minimum threshold";

    // Filters
    RXCSUM   = 0x5000, Rw, Mac, 0, 0x0000_03FF, Behaves, "LFD", "receive checksum control";
    MTA      = 0x5200 [128; 4], Rw, Mac, 0, 0xFFFF_FFFF, Behaves, "LFDC", "multicast hash table";
    RAL      = 0x5400 [16; 8], Rw, Mac, 0, 0xFFFF_FFFF, Behaves, "LFDIC", "receive address low; entry 0 is loaded from the EEPROM";
    RAH      = 0x5404 [16; 8], Rw, Mac, 0, 0x8003_FFFF, Behaves, "LFDIC", "receive address high: bytes 4 and 5, select, valid";
    VFTA     = 0x5600 [128; 4], Rw, Mac, 0, 0xFFFF_FFFF, Behaves, "LFD", "VLAN filter table";

    // Wake-up and management
    WUC      = 0x5800, Rw, Power, 0, 0x0000_000B, Behaves, "LFD", "wake-up control: PME_EN and PME_STATUS are those of PMCSR; APME comes from the EEPROM";
    WUFC     = 0x5808, Rw, Wake, 0, 0x000F_80FF, Behaves, "LF", "wake-up filter control";
    WUS      = 0x5810, W1c, Power, 0, 0x000F_00FF, Behaves, "L", "wake-up status: the filters that passed the packet";
    MANC     = 0x5820, Rw, Wake, 0, 0xFFFF_FFFF, Stored, "LFD", "management control";
    IPAV     = 0x5838, Rw, Wake, 0, 0x0001_000F, Behaves, "", "IP addresses valid";
    IP4AT    = 0x5840 [4; 8], Rw, Wake, 0, 0xFFFF_FFFF, Behaves, "", "IPv4 address table, first byte on the wire lowest";
    IP6AT    = 0x5880 [4; 4], Rw, Wake, 0, 0xFFFF_FFFF, Behaves, "", "IPv6 address table, first byte on the wire lowest";
    WUPL     = 0x5900, Ro, Power, 0, 0, Behaves, "", "wake-up packet length";
    WUPM     = 0x5A00 [32; 4], Ro, Power, 0, 0, Behaves, "", "wake-up packet memory: its first 128 bytes";
    FFLT     = 0x5F00 [4; 8], Rw, Wake, 0, 0x0000_07FF, Behaves, "", "flexible filter length table";
    FFMT     = 0x9000 [128; 8], Rw, Wake, 0, 0x0000_000F, Behaves, "", "flexible filter mask table: a bit a filter, an element a byte of the packet";
    FFVT     = 0x9800 [128; 8], Rw, Wake, 0, 0xFFFF_FFFF, Behaves, "", "flexible filter value table: a byte a filter, an element a byte of the packet";

    // Statistics
    CRCERRS  = 0x4000, Rc, Mac, 0, 0, Behaves, "LFD", "CRC errors";
    ALGNERRC = 0x4004, Rc, Mac, 0, 0, Zero, "LFD", "alignment errors";
    SYMERRS  = 0x4008, Rc, Mac, 0, 0, Zero, "LFD", "symbol errors";
    RXERRC   = 0x400C, Rc, Mac, 0, 0, Zero, "LFD", "receive errors";
    MPC      = 0x4010, Rc, Mac, 0, 0, Behaves, "LFD", "missed packets: the receive buffer was full";
    SCC      = 0x4014, Rc, Mac, 0, 0, Zero, "LFD", "single collisions";
    ECOL     = 0x4018, Rc, Mac, 0, 0, Zero, "LFD", "excessive collisions";
    MCC      = 0x401C, Rc, Mac, 0, 0, Zero, "LFD", "multiple collisions";
    LATECOL  = 0x4020, Rc, Mac, 0, 0, Zero, "LFD", "late collisions";
    COLC     = 0x4028, Rc, Mac, 0, 0, Zero, "LFD", "collisions";
    DC       = 0x4030, Rc, Mac, 0, 0, Zero, "LFD", "deferrals";
    TNCRS    = 0x4034, Rc, Mac, 0, 0, Zero, "LFD", "transmissions without carrier sense";
    SEC      = 0x4038, Rc, Mac, 0, 0, Zero, "LFD", "sequence errors";
    CEXTERR  = 0x403C, Rc, Mac, 0, 0, Zero, "LFD", "carrier extension errors";
    RLEC     = 0x4040, Rc, Mac, 0, 0, Behaves, "LFD", "receive length errors";
    XONRXC   = 0x4048, Rc, Mac, 0, 0, Behaves, "LFD", "XON received";
    XONTXC   = 0x404C, Rc, Mac, 0, 0, Behaves, "LFD", "XON transmitted";
    XOFFRXC  = 0x4050, Rc, Mac, 0, 0, Behaves, "LFD", "XOFF received";
    XOFFTXC  = 0x4054, Rc, Mac, 0, 0, Behaves, "LFD", "XOFF transmitted";
    FCRUC    = 0x4058, Rc, Mac, 0, 0, Behaves, "LFD", "unsupported flow control frames received";
    PRC64    = 0x405C, Rc, Mac, 0, 0, Behaves, "LFD", "good frames received of 64 bytes, CRC included";
    PRC127   = 0x4060, Rc, Mac, 0, 0, Behaves, "LFD", "good frames received of 65 to 127 bytes";
    PRC255   = 0x4064, Rc, Mac, 0, 0, Behaves, "LFD", "good frames received of 128 to 255 bytes";
    PRC511   = 0x4068, Rc, Mac, 0, 0, Behaves, "LFD", "good frames received of 256 to 511 bytes";
    PRC1023  = 0x406C, Rc, Mac, 0, 0, Behaves, "LFD", "good frames received of 512 to 1023 bytes";
    PRC1522  = 0x4070, Rc, Mac, 0, 0, Behaves, "LFD", "good frames received of 1024 bytes and more";
    GPRC     = 0x4074, Rc, Mac, 0, 0, Behaves, "LFD", "good frames received that passed the filters";
    BPRC     = 0x4078, Rc, Mac, 0, 0, Behaves, "LFD", "broadcasts received";
    MPRC     = 0x407C, Rc, Mac, 0, 0, Behaves, "LFD", "multicasts received, broadcasts excluded";
    GPTC     = 0x4080, Rc, Mac, 0, 0, Behaves, "LFD", "good frames transmitted";
    GORCL    = 0x4088, RcLow, Mac, 0, 0, Behaves, "LFD", "good octets received, low";
    GORCH    = 0x408C, RcHigh, Mac, 0, 0, Behaves, "LFD", "good octets received, high";
    GOTCL    = 0x4090, RcLow, Mac, 0, 0, Behaves, "LFD", "good octets transmitted, low";
    GOTCH    = 0x4094, RcHigh, Mac, 0, 0, Behaves, "LFD", "good octets transmitted, high";
    RNBC     = 0x40A0, Rc, Mac, 0, 0, Behaves, "LFD", "frames that found no receive descriptor";
    RUC      = 0x40A4, Rc, Mac, 0, 0, Behaves, "LFD", "undersize frames with good CRC";
    RFC      = 0x40A8, Rc, Mac, 0, 0, Behaves, "LFD", "fragments: undersize frames with bad CRC";
    ROC      = 0x40AC, Rc, Mac, 0, 0, Behaves, "LFD", "oversize frames with good CRC";
    RJC      = 0x40B0, Rc, Mac, 0, 0, Behaves, "LFD", "jabber: oversize frames with bad CRC";
    MGTPRC   = 0x40B4, Rc, Mac, 0, 0, Zero, "LFD", "management frames received";
    MGTPDC   = 0x40B8, Rc, Mac, 0, 0, Zero, "LFD", "management frames dropped";
    MGTPTC   = 0x40BC, Rc, Mac, 0, 0, Zero, "LFD", "management frames transmitted";
    TORL     = 0x40C0, RcLow, Mac, 0, 0, Behaves, "LFD", "octets of all frames received, low";
    TORH     = 0x40C4, RcHigh, Mac, 0, 0, Behaves, "LFD", "octets of all frames received, high";
    TOTL     = 0x40C8, RcLow, Mac, 0, 0, Behaves, "LFD", "octets of all frames transmitted, low";
    TOTH     = 0x40CC, RcHigh, Mac, 0, 0, Behaves, "LFD", "octets of all frames transmitted, high";
    TPR      = 0x40D0, Rc, Mac, 0, 0, Behaves, "LFD", "frames received, all kinds";
    TPT      = 0x40D4, Rc, Mac, 0, 0, Behaves, "LFD", "frames transmitted, all kinds";
    PTC64    = 0x40D8, Rc, Mac, 0, 0, Behaves, "LFD", "frames transmitted of 64 bytes, CRC included";
    PTC127   = 0x40DC, Rc, Mac, 0, 0, Behaves, "LFD", "frames transmitted of 65 to 127 bytes";
    PTC255   = 0x40E0, Rc, Mac, 0, 0, Behaves, "LFD", "frames transmitted of 128 to 255 bytes";
    PTC511   = 0x40E4, Rc, Mac, 0, 0, Behaves, "LFD", "frames transmitted of 256 to 511 bytes";
    PTC1023  = 0x40E8, Rc, Mac, 0, 0, Behaves, "LFD", "frames transmitted of 512 to 1023 bytes";
    PTC1522  = 0x40EC, Rc, Mac, 0, 0, Behaves, "LFD", "frames transmitted of 1024 bytes and more";
    MPTC     = 0x40F0, Rc, Mac, 0, 0, Behaves, "LFD", "multicasts transmitted";
    BPTC     = 0x40F4, Rc, Mac, 0, 0, Behaves, "LFD", "broadcasts transmitted";
    TSCTC    = 0x40F8, Rc, Mac, 0, 0, Behaves, "LFD", "TSO contexts completed";
    TSCTFC   = 0x40FC, Rc, Mac, 0, 0, Behaves, "LFD", "TSO contexts failed";

    // Diagnostics
    RDFH     = 0x2410, Rw, Mac, 0, 0x0000_1FFF, Stored, "l", "receive data FIFO head";
    RDFT     = 0x2418, Rw, Mac, 0, 0x0000_1FFF, Stored, "l", "receive data FIFO tail";
    RDFHS    = 0x2420, Rw, Mac, 0, 0x0000_1FFF, Stored, "l", "receive data FIFO head saved";
    RDFTS    = 0x2428, Rw, Mac, 0, 0x0000_1FFF, Stored, "l", "receive data FIFO tail saved";
    RDFPC    = 0x2430, Rw, Mac, 0, 0x0000_1FFF, Stored, "l", "receive data FIFO packet count";
    TDFH     = 0x3410, Rw, Mac, 0, 0x0000_1FFF, Stored, "lF", "transmit data FIFO head";
    TDFT     = 0x3418, Rw, Mac, 0, 0x0000_1FFF, Stored, "lF", "transmit data FIFO tail";
    TDFHS    = 0x3420, Rw, Mac, 0, 0x0000_1FFF, Stored, "lF", "transmit data FIFO head saved";
    TDFTS    = 0x3428, Rw, Mac, 0, 0x0000_1FFF, Stored, "lF", "transmit data FIFO tail saved";
    TDFPC    = 0x3430, Rw, Mac, 0, 0x0000_1FFF, Stored, "lF", "transmit data FIFO packet count";
}

/// CTRL answers at this offset too.
const CTRL_DUPLICATE: usize = 0x0004;

/// First offset of the packet buffer window (PBM), 64 KiB of plain storage without a row of its own.
pub const PBM: u32 = 0x1_0000;

/// Size of the register BAR in bytes: registers, then the packet buffer window.
pub const BAR0_SIZE: u32 = 0x2_0000;

/// Registers end below this offset.
const END: usize = 0xA000;

/// Number of 32-bit cells of all rows.
const CELLS: usize = {
    let mut cells = 0;
    let mut i = 0;
    while i < TABLE.len() {
        cells += TABLE[i].count as usize;
        i += 1;
    }
    cells
};

/// First cell of each row.
const FIRST_CELL: [u16; TABLE.len()] = {
    let mut first = [0; TABLE.len()];
    let mut cells = 0;
    let mut i = 0;
    while i < TABLE.len() {
        first[i] = cells;
        cells += TABLE[i].count;
        i += 1;
    }
    first
};

/// Row number + 1 by dword offset, 0 where there is nothing.
static BY_OFFSET: [u8; END / 4] = {
    let mut map = [0; END / 4];
    let mut row = 0;
    while row < TABLE.len() {
        let mut n = 0;
        while n < TABLE[row].count as usize {
            let at = (TABLE[row].offset as usize + n * TABLE[row].stride as usize) / 4;
            assert!(map[at] == 0, "two rows claim one offset");
            map[at] = row as u8 + 1;
            n += 1;
        }
        row += 1;
    }
    map[CTRL_DUPLICATE / 4] = Reg::CTRL as u8 + 1;
    map
};

impl Reg {
    /// The register at a dword-aligned offset of BAR0 and the element of it, `None` where nothing answers.
    pub fn at(offset: u32) -> Option<(Reg, usize)> {
        let row = BY_OFFSET.get(offset as usize / 4)?.checked_sub(1)?;
        let reg = Reg::ALL[row as usize];
        // Only CTRL's duplicate lies beyond the first element of a row of one.
        let element = if reg.row().count == 1 {
            0
        } else {
            (offset - reg.row().offset) / u32::from(reg.row().stride)
        };
        Some((reg, element as usize))
    }

    /// This register's row.
    #[inline]
    pub fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// Offset of (the first element of) the register.
    #[inline]
    pub const fn offset(self) -> u32 {
        TABLE[self as usize].offset
    }
}

/// The cells of all registers, shared by control and queues.
///
/// Stores are Release and loads Acquire: whoever sees a new tail also sees the ring registers written before it.
/// Values are raw: masks are applied where the guest writes, not here. Elements are below the row's count: offsets of
/// the guest come through [`Reg::at`], which names no others.
#[derive(Debug)]
pub struct Regs {
    cells: [AtomicU32; CELLS],
    /// The 64-bit statistics, whose two cells stay unused: a count and a clear must not tear.
    octets: [AtomicU64; 4],
}

impl Default for Regs {
    fn default() -> Self {
        let regs = Regs {
            cells: [const { AtomicU32::new(0) }; CELLS],
            octets: Default::default(),
        };
        regs.reset(Domain::Power);
        regs
    }
}

impl Regs {
    /// The value of a register.
    #[inline]
    pub fn get(&self, reg: Reg) -> u32 {
        self.get_n(reg, 0)
    }

    /// Sets a register.
    #[inline]
    pub fn set(&self, reg: Reg, value: u32) {
        self.set_n(reg, 0, value);
    }

    /// The value of element `n` of an array.
    #[inline]
    pub fn get_n(&self, reg: Reg, n: usize) -> u32 {
        match self.pair(reg) {
            None => self.cell(reg, n).load(Ordering::Acquire),
            Some((pair, shift)) => (pair.load(Ordering::Acquire) >> shift) as u32,
        }
    }

    /// Sets element `n` of an array.
    #[inline]
    pub fn set_n(&self, reg: Reg, n: usize, value: u32) {
        self.cell(reg, n).store(value, Ordering::Release);
    }

    /// The cell of element `n`, for read-modify-write.
    #[inline]
    pub(crate) fn cell(&self, reg: Reg, n: usize) -> &AtomicU32 {
        debug_assert!(n < TABLE[reg as usize].count as usize);
        &self.cells[FIRST_CELL[reg as usize] as usize + n]
    }

    /// Two neighbouring registers as one 64-bit address, e.g. `get_u64(Reg::TDBAL, Reg::TDBAH)`.
    #[inline]
    pub fn get_u64(&self, low: Reg, high: Reg) -> u64 {
        u64::from(self.get(high)) << 32 | u64::from(self.get(low))
    }

    /// The 64-bit statistic whose low half is `low`, whole at one moment, and without clearing it; `None` if it is none.
    pub fn stat64(&self, low: Reg) -> Option<u64> {
        let (pair, _) = self.pair(low).filter(|&(_, shift)| shift == 0)?;
        Some(pair.load(Ordering::Acquire))
    }

    /// Adds to a 32-bit statistic, which sticks at its maximum.
    #[inline]
    pub fn stat_add(&self, reg: Reg, n: u32) {
        debug_assert_eq!(reg.row().access, Access::Rc);
        if n != 0 {
            let add = |old: u32| Some(old.saturating_add(n));
            let _ = self
                .cell(reg, 0)
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
        }
    }

    /// Adds to the 64-bit statistic whose low half is `low` ([`Reg::GORCL`], [`Reg::GOTCL`], [`Reg::TORL`] or
    /// [`Reg::TOTL`]); it sticks at its maximum.
    #[inline]
    pub fn stat_add64(&self, low: Reg, n: u64) {
        debug_assert_eq!(low.row().access, Access::RcLow);
        if let (Some((pair, _)), 1..) = (self.pair(low), n) {
            let add = |old: u64| Some(old.saturating_add(n));
            let _ = pair.fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
        }
    }

    /// Reads a register as the guest does, as far as the table tells: statistics clear.
    pub(crate) fn read(&self, reg: Reg, n: usize) -> u32 {
        match (reg.row().access, self.pair(reg)) {
            (Access::Rc, _) => self.cell(reg, n).swap(0, Ordering::AcqRel),
            (Access::RcHigh, Some((pair, shift))) => {
                (pair.swap(0, Ordering::AcqRel) >> shift) as u32
            }
            (Access::Wo, _) => 0,
            _ => self.get_n(reg, n),
        }
    }

    /// Writes a register as the guest does, as far as the table tells.
    pub(crate) fn write(&self, reg: Reg, n: usize, value: u32) {
        let value = value & reg.row().mask;
        match reg.row().access {
            Access::Rw => self.set_n(reg, n, value),
            Access::W1c => {
                self.cell(reg, n).fetch_and(!value, Ordering::AcqRel);
            }
            Access::W1s => {
                self.cell(reg, n).fetch_or(value, Ordering::AcqRel);
            }
            Access::Ro | Access::Wo | Access::Rc | Access::RcLow | Access::RcHigh => {}
        }
    }

    /// Puts a saved value back, one half of a 64-bit statistic if that is what `reg` is. The mask is the caller's to
    /// apply.
    pub(crate) fn put(&self, reg: Reg, n: usize, value: u32) {
        match self.pair(reg) {
            None => self.set_n(reg, n, value),
            Some((pair, shift)) => {
                let rest = pair.load(Ordering::Acquire) & !(u64::from(u32::MAX) << shift);
                pair.store(rest | u64::from(value) << shift, Ordering::Release);
            }
        }
    }

    /// Returns registers to their reset values, as far as the reset reaches.
    pub(crate) fn reset(&self, reach: Domain) {
        for &reg in Reg::ALL.iter().filter(|reg| reg.row().domain <= reach) {
            for n in 0..reg.row().count.into() {
                self.set_n(reg, n, reg.row().reset);
            }
        }
        for pair in &self.octets {
            pair.store(0, Ordering::Release);
        }
    }

    /// The 64-bit statistic that a register is one half of, and the position of that half.
    #[inline]
    fn pair(&self, reg: Reg) -> Option<(&AtomicU64, u32)> {
        let (index, shift) = match reg {
            Reg::GORCL => (0, 0),
            Reg::GORCH => (0, 32),
            Reg::GOTCL => (1, 0),
            Reg::GOTCH => (1, 32),
            Reg::TORL => (2, 0),
            Reg::TORH => (2, 32),
            Reg::TOTL => (3, 0),
            Reg::TOTH => (3, 32),
            _ => return None,
        };
        Some((&self.octets[index], shift))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_at_its_offsets() {
        for &reg in Reg::ALL {
            let row = reg.row();
            for n in 0..usize::from(row.count) {
                assert_eq!(
                    Reg::at(row.offset + n as u32 * u32::from(row.stride)),
                    Some((reg, n)),
                    "{}",
                    row.name
                );
            }
            assert_eq!(
                row.reset & !row.mask & !set_by_device(reg),
                0,
                "{}",
                row.name
            );
        }
        assert_eq!(Reg::at(0x0004), Some((Reg::CTRL, 0)));
        for hole in [
            0x000C,
            0x0040,
            0x0200,
            0x5008,
            0x5480,
            0x9FFC,
            0xA000,
            0xFFFC,
            0x1_FFFC,
            u32::MAX,
        ] {
            assert_eq!(Reg::at(hole), None, "{hole:#x}");
        }
    }

    /// Bits that the device and not the driver sets.
    fn set_by_device(reg: Reg) -> u32 {
        match reg {
            Reg::STATUS => 0x281,
            Reg::MDIC => 0x1000_0000,
            Reg::PBA => 0xFFFF_0000,
            _ => 0,
        }
    }

    #[test]
    fn statistics_stick_and_clear_on_read() {
        let regs = Regs::default();
        regs.stat_add(Reg::GPRC, 5);
        regs.stat_add(Reg::GPRC, 6);
        assert_eq!(regs.read(Reg::GPRC, 0), 11);
        assert_eq!(regs.read(Reg::GPRC, 0), 0);
        regs.stat_add(Reg::MPC, u32::MAX - 1);
        regs.stat_add(Reg::MPC, 7);
        assert_eq!(regs.read(Reg::MPC, 0), u32::MAX);
        regs.write(Reg::MPC, 0, 3);
        assert_eq!(regs.read(Reg::MPC, 0), 0);
    }

    #[test]
    fn the_high_half_clears_both() {
        let regs = Regs::default();
        regs.stat_add64(Reg::GOTCL, 0x0000_0002_FFFF_FFFF);
        regs.stat_add64(Reg::GOTCL, 2);
        assert_eq!(regs.read(Reg::GOTCL, 0), 1);
        assert_eq!(
            regs.read(Reg::GOTCL, 0),
            1,
            "the low half alone clears nothing"
        );
        assert_eq!(regs.read(Reg::GOTCH, 0), 3);
        assert_eq!(regs.read(Reg::GOTCL, 0), 0);
        assert_eq!(regs.read(Reg::GOTCH, 0), 0);
        regs.stat_add64(Reg::TORL, u64::MAX - 1);
        regs.stat_add64(Reg::TORL, 9);
        assert_eq!(
            (regs.read(Reg::TORL, 0), regs.read(Reg::TORH, 0)),
            (u32::MAX, u32::MAX)
        );
    }

    #[test]
    fn no_count_is_lost_between_adding_and_clearing() {
        let regs = Regs::default();
        let mut frames = 0;
        std::thread::scope(|scope| {
            let adder = scope.spawn(|| {
                for _ in 0..100_000 {
                    regs.stat_add(Reg::GPTC, 1);
                }
            });
            while !adder.is_finished() {
                frames += regs.read(Reg::GPTC, 0);
            }
        });
        frames += regs.read(Reg::GPTC, 0);
        assert_eq!(frames, 100_000);
    }
}
