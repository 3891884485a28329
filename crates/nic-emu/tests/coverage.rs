//! `docs/coverage-82540em.md`, made from the table of registers. `UPDATE_DOCS=1 cargo test -p nic-emu --test coverage`
//! writes it anew.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use nic_emu::e1000::regs::{Access, BAR0_SIZE, Domain, PBM, Reg, Row, State};

const PATH: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../docs/coverage-82540em.md"
);

const HEAD: &str = "\
# Registers of the 82540EM

Made from the table in `crates/nic-emu/src/e1000/regs.rs` by the test `coverage` of `nic-emu`; change the table, not this
file. `UPDATE_DOCS=1 cargo test -p nic-emu --test coverage` writes it anew.

Access:

- `RW` holds what is written within the mask, and reads 0 elsewhere; `RO` takes no writes; `WO` reads 0
- `RC` is a statistic: it sticks at its maximum, a read clears it, it takes no writes; of a 64-bit pair `RC low` clears
  nothing and `RC high` clears both
- `W1C`: ones written clear; `W1S`: ones written set

State:

- **behaves**: something comes of it, or of its value
- *stored*: it holds what it has to hold, and nothing comes of it
- zero: it always reads 0, since what it would show never happens here

Drivers that read or write it on this part: **L** Linux `e1000` (**l**: only in its register dump), **F** FreeBSD `em`,
**D** DPDK `em`, **I** iPXE, **C** the crate `e1000-driver`. D and I are what QEMU's trace of every access showed while the tests of
`tests/tests/drivers` ran, and for I also IMS and IMC, which it writes when a boot program wants interrupts of it (UNDI).

CTRL.RST returns all registers to the reset values below, except those marked *kept*, which only a reset of the bus or
power-on does; those *kept by both* only power-on does (of WUC, that is PME_EN and PME_STATUS). Offsets are those of BAR0;
the I/O ports IOADDR and IODATA of BAR2 reach the same registers.

Everything else in BAR0 reads 0 and takes no writes. Only aligned accesses of 32 bits are defined by the manual; here a
read of another size or alignment gets its bytes out of the registers that it touches, each read once, and a write
reaches the registers that it covers whole and no others.
";

const NOTES: &str = "
## The other models

The 82545EM (8086:100f, revision 1) is the same with another subsystem (1001) and a PCI-X capability of 64 bits and
133 MHz. The 82544GC (8086:100c, revision 2, subsystem 1112) has the PHY of its time (0141:0C30) and lacks ITR, RADV,
TADV, RSRPD, LEDCTL, TSPMT, MANC and IP6AT, which read 0 there. The BARs of both are those of the 82540EM, as in QEMU; on real
cards BAR0 has 64 bits and the I/O ports are BAR4.

## What each driver needed

- **Linux** `e1000`: CTRL.RST through the I/O ports of the first I/O BAR, the EEPROM by EECD with a sum of BABA, the Marvell PHY
  at address 1 with BMSR latching a lost link, INTx as a level, DD on the last descriptor of a packet, an FCS in
  memory since it never sets SECRC, and masks that are exact for its offline test.
- **FreeBSD** `em`: SECRC, IPOFL and TUOFL, an ICR that never reads as all ones, contexts that are used again.
- **DPDK** `em`: CTRL.RST by memory, the exact PHY id, RFCTL that reads 0, buffers smaller than a frame. Its tests bind it with
  `vfio-pci` behind an IOMMU of the machine, and with `uio_pci_generic`; vfio without an IOMMU would need a kernel with
  `CONFIG_VFIO_NOIOMMU`, which none of Debian's is.
- **iPXE**: its address in RAL0 and RAH0 after CTRL.RST, the EEPROM by EERD only if that holds none (bit 1 has to read 0 there
  before bit 4 is looked at), bit 25 of RXDCTL and TXDCTL ignored or held, and rings of length 0 when it closes.
- **`e1000-driver`** (the crate): CTRL bit 22 in place of RST, which must reset nothing; it reads RDT and TDT back, and sends with
  RS and EOP but without IFCS.
- **guest-driver** of this project: TSO over IPv6 and of UDP, which none of the others use.

## Where sources disagree

| what | manual (317453) | drivers and other models | here |
|---|---|---|---|
| offsets of the 82542 (receive addresses at 0040, hash table at 0200, VLAN table at 0600, ...) | listed as aliases | no driver uses them on this part | read 0 |
| RFCTL, 5008 | not on this part | DPDK reads and writes it | reads 0 |
| registers of a second queue (2900, 3900, 3840, 3940) and ERT (2008) | not on this part | in Linux's dumps | read 0 |
| RPS in a transmit descriptor | 82544 only | Linux's loopback test sets it and not RS; QEMU reports for both | reports like RS |
| TCTL.NRTU, bit 25 | of the 82544 alone | VirtualBox holds neither it nor what is above RTLC, but SWXOFF; no driver sets it | reads 0, for all models; SWXOFF acts and reads 0 |
| TXDCTL.LWTHRESH 0 | TXD_LOW when the last descriptor is taken | no driver enables TXD_LOW | as the manual says |
| RXDCTL after reset | WTHRESH 1 | bhyve and gem5: GRAN as well | WTHRESH 1 |
| RXDCTL.WTHRESH, GRAN | write-backs are gathered | drivers look at DD only; DPDK and iPXE write the register | held, and no write-back is ever delayed |
| VET after reset | 8100 | bhyve, VirtualBox: 0; drivers write it | 8100 |
| statistics after reset | unknown, drivers have to read them once | Linux, FreeBSD and DPDK read them all at start | 0 |
| which read clears a 64-bit statistic | that of the high half clears both | DPDK relies on it for TOR and TOT; VirtualBox clears each half by itself | as the manual says |
| TPR, TOR while the receiver is off | not counted (so the family's later manuals) | | not counted |
| RLEC | undersize and oversize | DPDK counts it among errors in place of RUC and ROC; often taken for a length field that is wrong | as the manual says |
| CRCERRS of a frame that is too long | any of 64 bytes and more | Linux adds up CRCERRS and ROC but not RJC | counts, beside RJC |
| VLE and VLAN field of a segmented packet | in its first data descriptor | Linux, FreeBSD and DPDK set them in all; QEMU takes them from any that has VLE | in its first |
| packet checksum with RXCSUM.PCSS 0, as after reset | the sum of the whole frame | none of these drivers reads it; Linux and FreeBSD leave PCSS 0 | 0: it would be a pass over every frame, for nobody. From bytes 1 to 255 on as the manual says, of what is stored |
| whether the packet checksum is complemented | it is called the one's complement | the family's later manuals: unadjusted | not complemented |
| a wrong FCS in a packet without IFCS | is sent like a right one | QEMU sends any FCS as data; the crate `e1000-driver` never sets IFCS, so what it is given without an FCS is lost on the part | counted (`tx_bad_fcs`); a CRC error to a NIC, and no network takes it |
| what a packet without IFCS has its FCS compared with | the family's later manuals: IFCS must be set with padding, tags, checksums | | with what leaves: its tag, checksums and padding included |
| payload length of IPv6 segments | MSS + HDRLEN - IPCSS, which counts the IPv6 header | QEMU and gem5 as the manual; bhyve and the family's later manuals 40 less | 40 less, or nobody could receive them |
| CWR in the segments of a packet | untouched: only FIN and PSH are cleared | Linux without the hardware: in the first one only | in the first one only |
| SNAP before the headers of a packet to be segmented | a length field of 802.3 is not spoken of | no driver | refused, TSCTFC |
| segments of one packet | no bound | Linux makes 1365 at most | 2048; more are refused, TSCTFC |
| verdict on TCP and UDP over IPv6 | 3.2.9.4: needs RXCSUM.IPV6OFL, which the register has not; none by the 82544 | Linux names that bit and sets it nowhere, a Windows driver for PCIe parts only | TUOFL is enough; none by the 82544 |
| IPv6 extension headers before TCP and UDP, in that verdict | hop-by-hop options, destination options and routing are skipped, up to 64 bytes each | other models: no verdict at all | as the manual says; none on a packet whose routing header has segments left, since its checksum is about another destination |
| RXCSUM after reset | TUOFL 0 | DPDK offers TCP and UDP checksums, sets IPOFL only and leaves TUOFL as it finds it | 0, so DPDK hears of IP's only |
| VLE while CTRL.VME is off | no tag | DPDK sets VLE, but VME only where it strips tags | no tag |
| interrupts for a user's driver | | DPDK asks vfio for MSI-X even of a part that has none; `--vfio-intr=legacy` takes INTx | INTx |
| a pause frame when RFCE is off | its counters depend on RCTL.EN only | | counted, and goes on to the filters |
| an XOFF while the receive FIFO stays above FCRTH | sent once; later parts have a register for when to send it again | Linux sets FCTTV to the most | again when half of the announced time is over |
| destination, type and source of pause frames sent | FCAL, FCAH and FCT | Linux, FreeBSD and DPDK set them to what IEEE 802.3 says | FCAL, FCAH, FCT, and receive address 0 |
| pause frames with `rx-overrun=hold` | | | obeyed, and sent by SWXOFF; the FIFO asks for none, since the network waits by itself |
| what the other end of the cable can do | | QEMU: no pause frames | all speeds, pause frames both ways |
| LEDCTL after reset | 07068302 | QEMU's 82574 the same, its 82540EM 0602 | 07068302 |
| TSPMT after reset | not sure | no driver reads it | 0 |
| PM capability | D0, D3hot and D3cold with PME, 4 W | real parts: C822, PMCSR 2000, data 28 | as real parts; PME_En and PME_Status are those of WUC, and outlast resets of the bus as with auxiliary power. vfio-user has no PME# line: no VM is woken |
| power states in which wake-up filters listen | what counts is PME_En, D3 is only usual | | all; in D3 nothing else becomes of a frame, no DMA and no statistic |
| wake-up while RCTL.EN is off | by magic packets, before there is a driver | Linux switches the receiver on before it goes to sleep, FreeBSD leaves it off | by magic packets only |
| address of a magic packet | broadcast, receive address 0, or what the filters accept; its copies are of receive address 0 | | the same |
| wake-up by multicast with RCTL.MPE | groups of the hash table | Linux sets MPE for it | all groups |
| WUPL | length of the packet | Linux's igb takes that many bytes for the packet, without FCS | with padding, without FCS |
| a flexible filter of length 0 | not said | | passes whatever the address filters accept |
| VLAN tags and SNAP before what the ARP and IP filters look for | the text: skipped; the tables: by the 82541 and 82547 | | skipped |
| destination of packets for the ARP and IP filters | the text: broadcast for ARP, this station for IP; the tables: what the address filters accept | | what the address filters accept |
| magic packet to everybody with RCTL.BAM off | passes; of the 82544, it does not | | passes, for all models |
| WUC.APME after reset | from initialization control word 2 | Linux and FreeBSD: word 24, bit 10; of the 82544, word 0F (that word), bit 2 | as the drivers have it; off in the EEPROM as it comes |
| PCI-X capability | mode, burst and split transactions | real parts in a 33 MHz slot: command 0002, status 04400000 | the same; its command holds what is written |
| MSI capability | there | QEMU, VirtualBox and bhyve: none; Linux does not use it | with `msi=on` only, a message each time the line would rise |
| flash, BAR1, FLA | a window if a flash is fitted, which is the expansion ROM too | QEMU has its I/O ports there; no network driver needs it, flashrom programs it | with `flash=FILE` only: a parallel SST39VF behind BAR1, IOADDR 80000 and on, and the expansion ROM; its size is the file's, whatever EEPROM word 0F says; writes need EECD.FWE. FLA, for serial ones, holds its bits |
";

fn access(access: Access) -> &'static str {
    match access {
        Access::Rw => "RW",
        Access::Ro => "RO",
        Access::Wo => "WO",
        Access::Rc => "RC",
        Access::RcLow => "RC low",
        Access::RcHigh => "RC high",
        Access::W1c => "W1C",
        Access::W1s => "W1S",
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Behaves => "**behaves**",
        State::Stored => "*stored*",
        State::Zero => "zero",
    }
}

fn line(row: &Row) -> String {
    let offset = match row.count {
        1 => format!("{:04X}", row.offset),
        n => {
            let last = row.offset + u32::from(n - 1) * u32::from(row.stride);
            format!("{:04X}-{last:04X}, step {}", row.offset, row.stride)
        }
    };
    let kept = match row.domain {
        Domain::Mac => "",
        Domain::Wake => " *kept*",
        Domain::Power => " *kept by both*",
    };
    let counts = matches!(
        row.access,
        Access::Rc | Access::RcLow | Access::RcHigh | Access::Ro
    );
    let mask = match counts {
        true => String::new(),
        false => format!("{:08X}", row.mask),
    };
    format!(
        "| {offset} | {} | {} | {:08X}{kept} | {mask} | {} | {} | {} |\n",
        row.name,
        access(row.access),
        row.reset,
        state(row.state),
        row.users,
        row.doc
    )
}

/// The document as it has to be.
fn coverage() -> String {
    let mut rows: Vec<&Row> = Reg::ALL.iter().map(|reg| reg.row()).collect();
    rows.sort_by_key(|row| row.offset);
    let of = |state| rows.iter().filter(|row| row.state == state).count();
    let mut text = HEAD.to_owned();
    let _ = write!(
        text,
        "\nOf {} registers and arrays {} behave, {} are stored, {} read zero.\n\n",
        rows.len(),
        of(State::Behaves),
        of(State::Stored),
        of(State::Zero)
    );
    text += "| offset | name | access | reset | mask | state | drivers | |\n|---|---|---|---|---|---|---|---|\n";
    for row in rows {
        text += &line(row);
    }
    let _ = writeln!(
        text,
        "| {PBM:04X}-{:04X}, step 4 | PBM | RW | 00000000 *kept* | FFFFFFFF | *stored* | | packet buffer memory; not \
         looked at by either direction |",
        BAR0_SIZE - 4
    );
    text + NOTES
}

#[test]
fn the_coverage_table_is_up_to_date() {
    let want = coverage();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(Path::new(PATH), want).unwrap();
        return;
    }
    let found = fs::read_to_string(PATH).unwrap_or_default();
    assert!(
        found == want,
        "docs/coverage-82540em.md is stale: UPDATE_DOCS=1 cargo test -p nic-emu --test coverage"
    );
}

#[test]
fn every_driver_letter_is_explained() {
    for reg in Reg::ALL {
        let row = reg.row();
        assert!(
            row.users.chars().all(|letter| "LlFDIC".contains(letter)),
            "{}: {}",
            row.name,
            row.users
        );
        let zero = row.state == State::Zero;
        assert!(!zero || row.reset == 0, "{}", row.name);
    }
}
