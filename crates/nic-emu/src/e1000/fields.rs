//! The bit fields of the registers by name, for whoever shows them to people.
//!
//! Names as in the 8254x manual, chapter 13, where drivers agree with it. Registers that are a single number have none.

use super::bits::{
    cause, ctrl, ctrl_ext, eecd, eerd, mdic, rah, rctl, rxcsum, status, tctl, wuc, wufc,
};
use super::regs::Reg;

/// Bits of a register that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name in the manual.
    pub name: &'static str,
    /// The bits, side by side.
    pub mask: u32,
}

impl Field {
    /// What the field holds in a register of this value.
    pub fn of(self, value: u32) -> u32 {
        (value & self.mask) >> self.mask.trailing_zeros()
    }

    /// Whether it is a switch, a single bit.
    pub fn is_flag(self) -> bool {
        self.mask.is_power_of_two()
    }
}

macro_rules! fields {
    ($($name:ident = $mask:expr),+ $(,)?) => {
        &[ $( Field { name: stringify!($name), mask: $mask }, )+ ]
    };
}

/// The causes of ICR, ICS, IMS and IMC.
pub const CAUSES: &[Field] = fields![
    TXDW = cause::TXDW,
    TXQE = cause::TXQE,
    LSC = cause::LSC,
    RXSEQ = cause::RXSEQ,
    RXDMT0 = cause::RXDMT0,
    RXO = cause::RXO,
    RXT0 = cause::RXT0,
    MDAC = cause::MDAC,
    RXCFG = cause::RXCFG,
    PHYINT = cause::PHYINT,
    GPI = 0b11 << 13,
    TXD_LOW = cause::TXD_LOW,
    SRPD = cause::SRPD,
];

const CTRL: &[Field] = fields![
    FD = ctrl::FD,
    LRST = ctrl::LRST,
    ASDE = ctrl::ASDE,
    SLU = ctrl::SLU,
    ILOS = ctrl::ILOS,
    SPEED = ctrl::SPEED,
    FRCSPD = ctrl::FRCSPD,
    FRCDPLX = ctrl::FRCDPX,
    SDP0_DATA = 1 << 18,
    SDP1_DATA = 1 << 19,
    ADVD3WUC = 1 << 20,
    EN_PHY_PWR_MGMT = 1 << 21,
    SDP0_IODIR = 1 << 22,
    SDP1_IODIR = 1 << 23,
    RST = ctrl::RST,
    RFCE = ctrl::RFCE,
    TFCE = ctrl::TFCE,
    VME = ctrl::VME,
    PHY_RST = ctrl::PHY_RST,
];

const STATUS: &[Field] = fields![
    FD = status::FD,
    LU = status::LU,
    FUNCTION_ID = 0b11 << 2,
    TXOFF = status::TXOFF,
    TBIMODE = 1 << 5,
    SPEED = 0b11 << status::SPEED_SHIFT,
    ASDV = 0b11 << status::ASDV_SHIFT,
    PCI66 = 1 << 11,
    BUS64 = 1 << 12,
    PCIX_MODE = 1 << 13,
    PCIXSPD = 0b11 << 14,
];

const EECD: &[Field] = fields![
    SK = eecd::SK,
    CS = eecd::CS,
    DI = eecd::DI,
    DO = eecd::DO,
    FWE = eecd::FWE,
    REQ = eecd::REQ,
    GNT = eecd::GNT,
    PRES = eecd::PRES,
];

const EERD: &[Field] = fields![
    START = eerd::START,
    DONE = eerd::DONE,
    ADDR = 0xFF << eerd::ADDR_SHIFT,
    DATA = 0xFFFF << eerd::DATA_SHIFT,
];

const CTRL_EXT: &[Field] = fields![
    GPI_EN = 0xF,
    SDP_DATA = 0xF << 4,
    SDP_IODIR = 0xF << 8,
    ASDCHK = 1 << 12,
    EE_RST = ctrl_ext::EE_RST,
    IPS = 1 << 14,
    SPD_BYPS = 1 << 15,
    RO_DIS = 1 << 17,
    DRV_LOAD = 1 << 28,
];

const MANC: &[Field] = fields![
    SMBUS_EN = 1 << 0,
    ASF_EN = 1 << 1,
    R_ON_FORCE = 1 << 2,
    RMCP_EN = 1 << 8,
    PORT_0298_EN = 1 << 9,
    IPV4_EN = 1 << 10,
    IPV6_EN = 1 << 11,
    SNAP_EN = 1 << 12,
    ARP_EN = 1 << 13,
    NEIGHBOR_EN = 1 << 14,
    ARP_RES_EN = 1 << 15,
    TCO_RESET = 1 << 16,
    RCV_TCO_EN = 1 << 17,
    REPORT_STATUS = 1 << 18,
    EN_MAC_ADDR_FILTER = 1 << 20,
    EN_MNG2HOST = 1 << 21,
    EN_IP_ADDR_FILTER = 1 << 22,
];

const MDIC: &[Field] = fields![
    DATA = mdic::DATA,
    REG = 0x1F << mdic::REG_SHIFT,
    PHY = 0x1F << mdic::PHY_SHIFT,
    OP = 0b11 << mdic::OP_SHIFT,
    R = mdic::READY,
    I = mdic::INT_EN,
    E = mdic::ERROR,
];

const LEDCTL: &[Field] = fields![
    LED0_MODE = 0xF,
    LED0_IVRT = 1 << 6,
    LED0_BLINK = 1 << 7,
    LED1_MODE = 0xF << 8,
    LED1_IVRT = 1 << 14,
    LED1_BLINK = 1 << 15,
    LED2_MODE = 0xF << 16,
    LED2_IVRT = 1 << 22,
    LED2_BLINK = 1 << 23,
    LED3_MODE = 0xF << 24,
    LED3_IVRT = 1 << 30,
    LED3_BLINK = 1 << 31,
];

/// The conditions under which an LED is lit, by the number in its MODE field (8254x manual, LEDCTL).
pub const LED_MODES: [&str; 16] = [
    "LINK_10/1000",
    "LINK_100/1000",
    "LINK_UP",
    "ACTIVITY",
    "LINK/ACTIVITY",
    "LINK_10",
    "LINK_100",
    "LINK_1000",
    "PCIX_MODE",
    "FULL_DUPLEX",
    "COLLISION",
    "BUS_SPEED",
    "BUS_SIZE",
    "PAUSED",
    "LED_ON",
    "LED_OFF",
];

const RCTL: &[Field] = fields![
    EN = rctl::EN,
    SBP = rctl::SBP,
    UPE = rctl::UPE,
    MPE = rctl::MPE,
    LPE = rctl::LPE,
    LBM = rctl::LBM,
    RDMTS = rctl::RDMTS,
    MO = rctl::MO,
    BAM = rctl::BAM,
    BSIZE = rctl::BSIZE,
    VFE = rctl::VFE,
    CFIEN = rctl::CFIEN,
    CFI = rctl::CFI,
    DPF = rctl::DPF,
    PMCF = rctl::PMCF,
    BSEX = rctl::BSEX,
    SECRC = rctl::SECRC,
];

const TCTL: &[Field] = fields![
    EN = tctl::EN,
    PSP = tctl::PSP,
    CT = 0xFF << 4,
    COLD = 0x3FF << 12,
    RTLC = 1 << 24,
    NRTU = 1 << 25,
];

const DESCRIPTOR_CONTROL: &[Field] = fields![
    PTHRESH = 0x3F,
    HTHRESH = 0x3F << 8,
    WTHRESH = 0x3F << 16,
    GRAN = 1 << 24,
    LWTHRESH = 0x7F << 25,
];

const WAKE_UP: &[Field] = fields![
    LNKC = wufc::LNKC,
    MAG = wufc::MAG,
    EX = wufc::EX,
    MC = wufc::MC,
    BC = wufc::BC,
    ARP = wufc::ARP,
    IPV4 = wufc::IPV4,
    IPV6 = wufc::IPV6,
    FLX = 0xF * wufc::FLX0,
];

/// The fields of a register from the lowest bit up; bits that no field has are reserved. None for a plain number.
pub fn of(reg: Reg) -> &'static [Field] {
    match reg {
        Reg::CTRL => CTRL,
        Reg::STATUS => STATUS,
        Reg::EECD => EECD,
        Reg::EERD => EERD,
        Reg::CTRL_EXT => CTRL_EXT,
        Reg::MDIC => MDIC,
        Reg::MANC => MANC,
        Reg::LEDCTL => LEDCTL,
        Reg::PBA => fields![RXA = 0xFFFF, TXA = 0xFFFF << 16],
        Reg::ICR | Reg::ICS | Reg::IMS | Reg::IMC => CAUSES,
        Reg::RCTL => RCTL,
        Reg::FCRTL => fields![RTL = 0x1FFF << 3, XONE = 1 << 31],
        Reg::FCRTH => fields![RTH = 0x1FFF << 3],
        Reg::RXDCTL | Reg::TXDCTL => DESCRIPTOR_CONTROL,
        Reg::TCTL => TCTL,
        Reg::TIPG => fields![IPGT = 0x3FF, IPGR1 = 0x3FF << 10, IPGR2 = 0x3FF << 20],
        Reg::TSPMT => fields![TSMT = 0xFFFF, TSPBP = 0xFFFF << 16],
        Reg::RXCSUM => fields![
            PCSS = rxcsum::PCSS,
            IPOFL = rxcsum::IPOFL,
            TUOFL = rxcsum::TUOFL
        ],
        Reg::RAH => fields![ADDR = 0xFFFF, ASEL = rah::ASEL, AV = rah::AV],
        Reg::WUC => fields![
            APME = wuc::APME,
            PME_EN = wuc::PME_EN,
            PME_STATUS = wuc::PME_STATUS,
            APMPME = wuc::APMPME
        ],
        Reg::WUFC | Reg::WUS => WAKE_UP,
        _ => &[],
    }
}

/// The names of the interrupt causes in `causes`, from the lowest bit up.
pub fn causes(causes: u32) -> impl Iterator<Item = &'static str> {
    let set = move |field: &&Field| field.of(causes) != 0;
    CAUSES.iter().filter(set).map(|field| field.name)
}

/// The names of the wake-up filters in a value of WUFC or WUS, from the lowest bit up; the flexible ones are one.
pub fn wake_up_filters(filters: u32) -> impl Iterator<Item = &'static str> {
    let set = move |field: &&Field| field.of(filters) != 0;
    WAKE_UP.iter().filter(set).map(|field| field.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_in_order_side_by_side_and_not_on_each_other() {
        for &reg in Reg::ALL {
            let mut above = 0;
            for field in of(reg) {
                let name = (reg.row().name, field.name);
                assert_ne!(field.mask, 0, "{name:?}");
                assert!(field.mask.trailing_zeros() >= above, "{name:?} overlaps");
                above = 32 - field.mask.leading_zeros();
                let width = above - field.mask.trailing_zeros();
                assert_eq!(field.mask.count_ones(), width, "{name:?} has a gap");
            }
        }
    }

    #[test]
    fn a_value_is_taken_apart() {
        // CTRL as the manual resets it, and what Linux makes of RCTL.
        let shown = |reg, value| -> Vec<_> {
            let set = of(reg).iter().filter(|field| field.of(value) != 0);
            set.map(|field| (field.name, field.of(value))).collect()
        };
        let ctrl = [
            ("FD", 1),
            ("SLU", 1),
            ("SPEED", 2),
            ("SDP0_DATA", 1),
            ("ADVD3WUC", 1),
        ];
        assert_eq!(shown(Reg::CTRL, 0x0014_0241), ctrl);
        assert_eq!(
            shown(Reg::RCTL, 0x0402_8002),
            [("EN", 1), ("BAM", 1), ("BSIZE", 2), ("SECRC", 1)]
        );
        assert_eq!(shown(Reg::TIPG, 10 | 8 << 10 | 6 << 20).len(), 3);
        assert!(of(Reg::TCTL)[0].is_flag() && !of(Reg::TCTL)[2].is_flag());
        let names: Vec<_> = causes(cause::LSC | cause::RXT0).collect();
        assert_eq!(names, ["LSC", "RXT0"]);
        assert_eq!(causes(0).count(), 0);
    }
}
