//! The bits of the registers, one module per register, names as in the manual.

#![allow(
    missing_docs,
    reason = "the manual's names say what they are; what the model makes of them stands where it does so"
)]

/// CTRL.
pub mod ctrl {
    pub const FD: u32 = 1 << 0;
    pub const LRST: u32 = 1 << 3;
    pub const ASDE: u32 = 1 << 5;
    pub const SLU: u32 = 1 << 6;
    pub const ILOS: u32 = 1 << 7;
    pub const SPEED_SHIFT: u32 = 8;
    pub const SPEED: u32 = 0b11 << SPEED_SHIFT;
    pub const FRCSPD: u32 = 1 << 11;
    pub const FRCDPX: u32 = 1 << 12;
    pub const RST: u32 = 1 << 26;
    pub const RFCE: u32 = 1 << 27;
    pub const TFCE: u32 = 1 << 28;
    pub const VME: u32 = 1 << 30;
    pub const PHY_RST: u32 = 1 << 31;
}

/// STATUS.
pub mod status {
    pub const FD: u32 = 1 << 0;
    pub const LU: u32 = 1 << 1;
    pub const TXOFF: u32 = 1 << 4;
    pub const SPEED_SHIFT: u32 = 6;
    pub const ASDV_SHIFT: u32 = 8;
}

/// EECD.
pub mod eecd {
    pub const SK: u32 = 1 << 0;
    pub const CS: u32 = 1 << 1;
    pub const DI: u32 = 1 << 2;
    pub const DO: u32 = 1 << 3;
    pub const FWE: u32 = 0b11 << 4;
    pub const FWE_DISABLED: u32 = 0b01 << 4;
    pub const FWE_ENABLED: u32 = 0b10 << 4;
    pub const REQ: u32 = 1 << 6;
    pub const GNT: u32 = 1 << 7;
    pub const PRES: u32 = 1 << 8;
}

/// EERD, in the small format of the 82540.
pub mod eerd {
    pub const START: u32 = 1 << 0;
    pub const DONE: u32 = 1 << 4;
    pub const ADDR_SHIFT: u32 = 8;
    pub const DATA_SHIFT: u32 = 16;
}

/// CTRL_EXT.
pub mod ctrl_ext {
    pub const EE_RST: u32 = 1 << 13;
}

/// MDIC.
pub mod mdic {
    pub const DATA: u32 = 0xFFFF;
    pub const REG_SHIFT: u32 = 16;
    pub const PHY_SHIFT: u32 = 21;
    pub const OP_SHIFT: u32 = 26;
    pub const OP_WRITE: u32 = 0b01;
    pub const OP_READ: u32 = 0b10;
    pub const READY: u32 = 1 << 28;
    pub const INT_EN: u32 = 1 << 29;
    pub const ERROR: u32 = 1 << 30;
}

/// ICR, ICS, IMS and IMC: the interrupt causes.
pub mod cause {
    pub const TXDW: u32 = 1 << 0;
    pub const TXQE: u32 = 1 << 1;
    pub const LSC: u32 = 1 << 2;
    pub const RXSEQ: u32 = 1 << 3;
    pub const RXDMT0: u32 = 1 << 4;
    pub const RXO: u32 = 1 << 6;
    pub const RXT0: u32 = 1 << 7;
    pub const MDAC: u32 = 1 << 9;
    pub const RXCFG: u32 = 1 << 10;
    pub const PHYINT: u32 = 1 << 12;
    pub const TXD_LOW: u32 = 1 << 15;
    pub const SRPD: u32 = 1 << 16;
}

/// RCTL.
pub mod rctl {
    pub const EN: u32 = 1 << 1;
    pub const SBP: u32 = 1 << 2;
    pub const UPE: u32 = 1 << 3;
    pub const MPE: u32 = 1 << 4;
    pub const LPE: u32 = 1 << 5;
    pub const LBM_SHIFT: u32 = 6;
    pub const LBM: u32 = 0b11 << LBM_SHIFT;
    pub const RDMTS_SHIFT: u32 = 8;
    pub const RDMTS: u32 = 0b11 << RDMTS_SHIFT;
    pub const MO_SHIFT: u32 = 12;
    pub const MO: u32 = 0b11 << MO_SHIFT;
    pub const BAM: u32 = 1 << 15;
    pub const BSIZE_SHIFT: u32 = 16;
    pub const BSIZE: u32 = 0b11 << BSIZE_SHIFT;
    pub const VFE: u32 = 1 << 18;
    pub const CFIEN: u32 = 1 << 19;
    pub const CFI: u32 = 1 << 20;
    pub const DPF: u32 = 1 << 22;
    pub const PMCF: u32 = 1 << 23;
    pub const BSEX: u32 = 1 << 25;
    pub const SECRC: u32 = 1 << 26;
}

/// TCTL.
pub mod tctl {
    pub const EN: u32 = 1 << 1;
    pub const PSP: u32 = 1 << 3;
    pub const SWXOFF: u32 = 1 << 22;
}

/// FCRTL.
pub mod fcrtl {
    pub const RTL: u32 = 0xFFF8;
    pub const XONE: u32 = 1 << 31;
}

/// RDTR and TIDV.
pub mod delay {
    /// Flush partial descriptor block: the waiting interrupt fires now. Reads 0.
    pub const FPD: u32 = 1 << 31;
}

/// TXDCTL.
pub mod txdctl {
    pub const LWTHRESH_SHIFT: u32 = 25;
}

/// RXCSUM.
pub mod rxcsum {
    pub const PCSS: u32 = 0xFF;
    pub const IPOFL: u32 = 1 << 8;
    pub const TUOFL: u32 = 1 << 9;
}

/// RAH.
pub mod rah {
    pub const ASEL_SHIFT: u32 = 16;
    pub const ASEL: u32 = 0b11 << ASEL_SHIFT;
    pub const AV: u32 = 1 << 31;
}

/// WUC.
pub mod wuc {
    pub const APME: u32 = 1 << 0;
    pub const PME_EN: u32 = 1 << 1;
    pub const PME_STATUS: u32 = 1 << 2;
    pub const APMPME: u32 = 1 << 3;
}

/// WUFC and WUS: the wake-up filters.
pub mod wufc {
    pub const LNKC: u32 = 1 << 0;
    pub const MAG: u32 = 1 << 1;
    pub const EX: u32 = 1 << 2;
    pub const MC: u32 = 1 << 3;
    pub const BC: u32 = 1 << 4;
    pub const ARP: u32 = 1 << 5;
    pub const IPV4: u32 = 1 << 6;
    pub const IPV6: u32 = 1 << 7;
    /// The first of the four flexible filters.
    pub const FLX0: u32 = 1 << 16;
    /// All filters of packets.
    pub const PACKETS: u32 = 0x000F_00FE;
}

/// IPAV.
pub mod ipav {
    /// The first of the four IPv4 addresses.
    pub const V40: u32 = 1 << 0;
    pub const V60: u32 = 1 << 16;
}
