//! Every register that holds something, register by register: the value after reset and the bits that stick, written down
//! here from the manual (317453) and what its drivers and other models demand, not taken from the model's own table.

use guest_driver::regs::{CTRL, ctrl};
use guest_driver::until;
use nic_emu_tests::Machine;

use crate::support::{Check, Outcome, probe};
use crate::{checks, ensure, ensure_eq};

pub(crate) fn all() -> Vec<Check> {
    checks!("every_register": reset_values, masks, after_reset, statistics_take_no_writes)
}

/// A register, or one element of an array, as it should be.
struct Want {
    name: &'static str,
    offset: u32,
    reset: u32,
    /// Bits that hold what is written; the others of `reset` stay.
    mask: u32,
    /// Bits that act when written or show what is elsewhere: neither written nor compared here.
    live: u32,
    /// Whether CTRL.RST leaves it as it is.
    kept: bool,
    /// Where it says so. "Linux -t": the register test of `ethtool -t`, which the silicon passes.
    source: &'static str,
}

const fn row(name: &'static str, offset: u32, reset: u32, mask: u32, source: &'static str) -> Want {
    Want {
        name,
        offset,
        reset,
        mask,
        live: 0,
        kept: false,
        source,
    }
}

const fn live(live: u32, want: Want) -> Want {
    Want { live, ..want }
}

const fn kept(want: Want) -> Want {
    Want { kept: true, ..want }
}

const LINUX: &str = "Linux -t";
const ABSENT: &str = "not on this part";

#[rustfmt::skip] // a table
const REGISTERS: &[Want] = &[
    // General. CTRL: without RST, which acts.
    live(1 << 26, row("CTRL", 0x0000, 0x0014_0241, 0xDBFC_1BE9, "13.4.1 with Linux's SWDPIN and SWDPIO; reset as VirtualBox and QEMU, and FD")),
    // DO and GNT show what is; PRES is set, SIZE says 64 words.
    live(1 << 3 | 1 << 7, row("EECD", 0x0010, 0x0000_0110, 0x0000_0077, "13.4.3")),
    // The address; START, DONE and the data act.
    live(0xFFFF_0000 | 1 | 1 << 4, row("EERD", 0x0014, 0, 0x0000_FF00, "13.4.4, small format")),
    // Without EE_RST, which acts.
    live(1 << 13, row("CTRL_EXT", 0x0018, 0, 0x1003_DFFF, "13.4.6 with DRV_LOAD of the drivers")),
    // SO, GNT, BUSY and ERASE show what is.
    live(1 << 3 | 1 << 5 | 3 << 30, row("FLA", 0x001C, 0, 0x0000_0017, "13.4.5")),
    row("FCAL", 0x0028, 0, 0xFFFF_FFFF, LINUX),
    row("FCAH", 0x002C, 0, 0x0000_FFFF, LINUX),
    row("FCT", 0x0030, 0, 0x0000_FFFF, LINUX),
    row("VET", 0x0038, 0x0000_8100, 0x0000_FFFF, "Linux -t; reset 13.4.11"),
    row("FCTTV", 0x0170, 0, 0x0000_FFFF, LINUX),
    row("TXCW", 0x0178, 0, 0xC000_FFFF, LINUX),
    row("RXCW", 0x0180, 0, 0, "13.4.14, of no use with copper"),
    row("LEDCTL", 0x0E00, 0x0706_8302, 0xCFCF_CFCF, "13.4.15: mode, invert and blink of each"),
    // The upper half follows from the lower: registers::pba_after_reset.
    live(0xFFFF_0000, row("PBA", 0x1000, 0x0000_0030, 0x0000_FFFF, "13.4.16: RXA; Linux and FreeBSD write 40")),
    row("ITR", 0x00C4, 0, 0x0000_FFFF, "13.4.18 INTERVAL"),

    // Receive
    row("RCTL", 0x0100, 0, 0x06DF_B3FF, "Linux -t, and bit 0"),
    row("FCRTL", 0x2160, 0, 0x8000_FFF8, "13.4.23: RTL and XONE"),
    row("FCRTH", 0x2168, 0, 0x0000_FFF8, LINUX),
    row("RDBAL", 0x2800, 0, 0xFFFF_FFF0, LINUX),
    row("RDBAH", 0x2804, 0, 0xFFFF_FFFF, LINUX),
    row("RDLEN", 0x2808, 0, 0x000F_FF80, LINUX),
    row("RDH", 0x2810, 0, 0x0000_FFFF, LINUX),
    row("RDT", 0x2818, 0, 0x0000_FFFF, LINUX),
    row("RDTR", 0x2820, 0, 0x0000_FFFF, LINUX),
    row("RXDCTL", 0x2828, 0x0001_0000, 0x013F_3F3F, "manual: PTHRESH, HTHRESH, WTHRESH 1, GRAN"),
    row("RADV", 0x282C, 0, 0x0000_FFFF, "13.4.31"),
    row("RSRPD", 0x2C00, 0, 0x0000_0FFF, "13.4.32 SIZE"),
    row("RXCSUM", 0x5000, 0, 0x0000_03FF, "manual: PCSS, IPOFL, TUOFL"),
    row("RDFH", 0x2410, 0, 0x0000_1FFF, "13.8.1"),
    row("RDFT", 0x2418, 0, 0x0000_1FFF, "13.8.2"),
    row("RDFHS", 0x2420, 0, 0x0000_1FFF, "13.8.3"),
    row("RDFTS", 0x2428, 0, 0x0000_1FFF, "13.8.4"),
    row("RDFPC", 0x2430, 0, 0x0000_1FFF, "13.8.5"),

    // Transmit. TCTL: without SWXOFF, which acts. NRTU is of the 82544 alone, and VirtualBox does not hold it either.
    live(1 << 22, row("TCTL", 0x0400, 0, 0x013F_FFFA, "13.4.33: EN, PSP, CT, COLD, RTLC")),
    row("TIPG", 0x0410, 0, 0x3FFF_FFFF, LINUX),
    row("AIT", 0x0458, 0, 0x0000_FFFF, "13.4.35"),
    row("TDBAL", 0x3800, 0, 0xFFFF_FFF0, LINUX),
    row("TDBAH", 0x3804, 0, 0xFFFF_FFFF, LINUX),
    row("TDLEN", 0x3808, 0, 0x000F_FF80, LINUX),
    row("TDH", 0x3810, 0, 0x0000_FFFF, "13.4.39"),
    row("TDT", 0x3818, 0, 0x0000_FFFF, "13.4.40"),
    row("TIDV", 0x3820, 0, 0x0000_FFFF, LINUX),
    row("TXDCTL", 0x3828, 0, 0xFF3F_3F3F, "manual and VirtualBox: PTHRESH, HTHRESH, WTHRESH, GRAN, LWTHRESH"),
    row("TADV", 0x382C, 0, 0x0000_FFFF, "manual: IDV"),
    row("TSPMT", 0x3830, 0, 0xFFFF_FFFF, "manual: TSMT and TSPBP"),
    row("TDFH", 0x3410, 0, 0x0000_1FFF, "13.8.6"),
    row("TDFT", 0x3418, 0, 0x0000_1FFF, "13.8.7"),
    row("TDFHS", 0x3420, 0, 0x0000_1FFF, "13.8.8"),
    row("TDFTS", 0x3428, 0, 0x0000_1FFF, "13.8.9"),
    row("TDFPC", 0x3430, 0, 0x0000_1FFF, "13.8.10"),

    // Filters: first and last of the tables, as far as they are not the station's own address.
    row("MTA[0]", 0x5200, 0, 0xFFFF_FFFF, LINUX),
    row("MTA[127]", 0x53FC, 0, 0xFFFF_FFFF, LINUX),
    row("RAL[1]", 0x5408, 0, 0xFFFF_FFFF, LINUX),
    row("RAH[1]", 0x540C, 0, 0x8003_FFFF, LINUX),
    row("RAL[15]", 0x5478, 0, 0xFFFF_FFFF, "13.5.2: there are 16, of which Linux uses 15"),
    row("RAH[15]", 0x547C, 0, 0x8003_FFFF, "13.5.3: there are 16, of which Linux uses 15"),
    row("VFTA[0]", 0x5600, 0, 0xFFFF_FFFF, "13.5.4"),
    row("VFTA[127]", 0x57FC, 0, 0xFFFF_FFFF, "13.5.4"),

    // Wake-up and management. WUC: without PME_Status, which is cleared by a one.
    kept(live(1 << 2, row("WUC", 0x5800, 0, 0x0000_000B, "13.6.1: APME, PME_En, APMPME"))),
    kept(row("WUFC", 0x5808, 0, 0x000F_80FF, "13.6.2: eight filters, IgnoreTCO, four flexible")),
    row("WUS", 0x5810, 0, 0, "13.6.3: set by packets only"),
    kept(row("MANC", 0x5820, 0, 0xFFFF_FFFF, "Linux's names for all bits")),
    kept(row("IPAV", 0x5838, 0, 0x0001_000F, "13.6.4: V40 to V43, V60")),
    kept(row("IP4AT[0]", 0x5840, 0, 0xFFFF_FFFF, "13.6.5")),
    kept(row("IP4AT[3]", 0x5858, 0, 0xFFFF_FFFF, "13.6.5")),
    kept(row("IP6AT[0]", 0x5880, 0, 0xFFFF_FFFF, "13.6.6")),
    kept(row("IP6AT[3]", 0x588C, 0, 0xFFFF_FFFF, "13.6.6")),
    row("WUPL", 0x5900, 0, 0, "13.6.7: set by packets only"),
    row("WUPM[0]", 0x5A00, 0, 0, "13.6.8: set by packets only"),
    row("WUPM[31]", 0x5A7C, 0, 0, "13.6.8: set by packets only"),
    kept(row("FFLT[0]", 0x5F00, 0, 0x0000_07FF, "13.6.9: 11 bits of length")),
    kept(row("FFLT[3]", 0x5F18, 0, 0x0000_07FF, "13.6.9: 11 bits of length")),
    kept(row("FFMT[0]", 0x9000, 0, 0x0000_000F, "13.6.10: a bit a filter")),
    kept(row("FFMT[127]", 0x93F8, 0, 0x0000_000F, "13.6.10: a bit a filter")),
    kept(row("FFVT[0]", 0x9800, 0, 0xFFFF_FFFF, "13.6.11: a byte a filter")),
    kept(row("FFVT[127]", 0x9BF8, 0, 0xFFFF_FFFF, "13.6.11: a byte a filter")),

    kept(row("PBM[0]", 0x1_0000, 0, 0xFFFF_FFFF, "manual: 64 KiB of memory")),
    kept(row("PBM[16383]", 0x1_FFFC, 0, 0xFFFF_FFFF, "manual: 64 KiB of memory")),

    // What drivers touch, or earlier and later parts have, and this one has not.
    row("0040", 0x0040, 0, 0, ABSENT),
    row("0108", 0x0108, 0, 0, ABSENT),
    row("0200", 0x0200, 0, 0, ABSENT),
    row("0420", 0x0420, 0, 0, ABSENT),
    row("0600", 0x0600, 0, 0, ABSENT),
    row("ERT", 0x2008, 0, 0, ABSENT),
    row("2900", 0x2900, 0, 0, ABSENT),
    row("TARC0", 0x3840, 0, 0, ABSENT),
    row("3900", 0x3900, 0, 0, ABSENT),
    row("TARC1", 0x3940, 0, 0, ABSENT),
    row("402C", 0x402C, 0, 0, ABSENT),
    row("4100", 0x4100, 0, 0, ABSENT),
    row("RFCTL", 0x5008, 0, 0, ABSENT),
    row("RAL[16]", 0x5480, 0, 0, ABSENT),
    row("8000", 0x8000, 0, 0, ABSENT),
    row("FFFC", 0xFFFC, 0, 0, ABSENT),
];

/// Fails with the names of all registers that are not as they should be, in one line, and what of each.
fn judge(what: &str, wrong: &[(&Want, String)]) -> Outcome {
    let names: Vec<_> = wrong.iter().map(|(want, _)| want.name).collect();
    let detail: Vec<_> = wrong
        .iter()
        .map(|(want, seen)| format!("{} ({}): {seen}", want.name, want.source))
        .collect();
    ensure!(
        wrong.is_empty(),
        "{what}: {}; {}",
        names.join(" "),
        detail.join("; ")
    );
    Ok(())
}

/// What is wrong with the value of a register, if anything.
fn compare<'w>(
    m: &mut dyn Machine,
    register: &'w Want,
    want: u32,
    when: &str,
) -> Option<(&'w Want, String)> {
    let got = m.read32(register.offset) & !register.live;
    let want = want & !register.live;
    (got != want).then(|| (register, format!("{got:#010x} and not {want:#010x} {when}")))
}

/// Before any driver was there.
fn reset_values(m: &mut dyn Machine) -> Outcome {
    let wrong: Vec<_> = REGISTERS
        .iter()
        .filter_map(|register| compare(m, register, register.reset, "after power-up"))
        .collect();
    judge("other values after power-up", &wrong)
}

/// Writes what `pattern` has for the bits that may be written, and says what the register should be then.
fn write(m: &mut dyn Machine, register: &Want, pattern: u32) -> u32 {
    m.write32(register.offset, pattern & !register.live);
    pattern & register.mask | register.reset & !register.mask
}

fn masks(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    let mut wrong = Vec::new();
    for register in REGISTERS {
        let differs = [0x5A5A_5A5A, 0xA5A5_A5A5, !0, 0]
            .into_iter()
            .find_map(|pattern| {
                let want = write(m, register, pattern);
                compare(m, register, want, &format!("after {pattern:#010x}"))
            });
        wrong.extend(differs);
    }
    judge("other bits hold", &wrong)
}

/// CTRL.RST returns all to their reset values but what wake-up and management need, and the packet buffer.
fn after_reset(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    // Both units stay off: what has begun is not the matter here. CTRL goes last, whose link would change.
    let units = [0x0100, 0x0400, CTRL];
    for register in REGISTERS
        .iter()
        .filter(|want| !units.contains(&want.offset))
    {
        write(m, register, 0xA5A5_A5A5);
    }
    m.write32(CTRL, ctrl::RST);
    m.wait(1_000);
    ensure!(
        until(m, 20_000_000, |m| m.read32(CTRL) & ctrl::RST == 0),
        "CTRL.RST stays"
    );
    let mut wrong = Vec::new();
    for register in REGISTERS {
        let want = match register.kept {
            true => 0xA5A5_A5A5 & register.mask,
            false => register.reset,
        };
        wrong.extend(compare(m, register, want, "after CTRL.RST"));
    }
    judge("other values after CTRL.RST", &wrong)
}

/// All that is counted, where nothing was.
fn statistics_take_no_writes(m: &mut dyn Machine) -> Outcome {
    probe(m)?;
    for offset in (0x4000..0x4100).step_by(4) {
        m.write32(offset, !0);
        ensure_eq!(m.read32(offset), 0, "statistic {offset:#06x} after a write");
    }
    Ok(())
}
