//! Where a device is known to differ from the part, and why. Seen with QEMU 11.1.

use std::fmt;

/// What the checks run over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    /// The model called directly.
    Direct,
    /// The model behind a vfio-user socket.
    Socket,
    /// As `Socket`, its parts on two threads.
    TwoThreads,
    /// As `Socket`, its parts on three threads.
    ThreeThreads,
    /// The model behind a vfio-user socket, with QEMU as its client.
    Attached,
    /// QEMU's own e1000.
    Qemu,
}

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            On::Direct => "direct",
            On::Socket => "socket",
            On::TwoThreads => "two_threads",
            On::ThreeThreads => "three_threads",
            On::Attached => "attached",
            On::Qemu => "qemu",
        })
    }
}

const NO_TRANSPORT: &str =
    "COMMAND beyond bus mastering and STATUS belong to the transport, and there is none here";
const NOT_READABLE: &str = "reads as 0: kept by nobody";
const NO_FCS_OF_DRIVERS: &str = "takes a driver's FCS for data: IFCS is ignored";
const NO_FCS: &str = "counts the FCS in the length and stores nothing";
const NO_VERDICT: &str = "checks nothing and always sets IXSM";
const NO_RESET: &str = "CTRL.RST clears itself and resets nothing";
const FIRST_AT_ONCE: &str = "delays only what follows an interrupt; the first is never delayed";
const NO_STATISTIC: &str = "some statistics read as 0 and are not counted";
const NO_PORTS: &str = "I/O ports read as 0 and take nothing";
/// As the manual's formula has it (3.5.9.1), and later ones of the family do not; nobody could receive it.
const IPV6_LENGTH: &str = "counts the IPv6 header in the payload length of its segments";
const EMPTY_SEGMENT: &str = "sends the headers once more behind the last full segment";
const ANY_CONTEXT: &str = "follows a context whatever the packet is, and sends what comes of it";
const NO_POWER: &str = "has no power management, and holds wake-up registers without effect";
const NO_PADDING: &str = "leaves short frames short";

/// What checks of power management say where there is none.
const NO_CAPABILITIES: &str = "STATUS 0x0 knows no capability list";

/// Where, which check, what it says there (a part of its message that is the same on every machine), why.
pub(crate) const KNOWN_DIFFERENCES: &[(On, &str, &str, &str)] = &[
    (
        On::Direct,
        "pci::intx_disable",
        "the line is high with INTx disabled",
        NO_TRANSPORT,
    ),
    (
        On::Direct,
        "pci::status_shows_the_line",
        "STATUS.INTERRUPT is false with a cause",
        NO_TRANSPORT,
    ),
    (
        On::Direct,
        "pci::memory_off_hides_registers",
        "registers answer with memory off",
        NO_TRANSPORT,
    ),
    (
        On::Direct,
        "pci::io_off_hides_ports",
        "I/O ports answer with I/O off",
        NO_TRANSPORT,
    ),
    (
        On::Qemu,
        "pci::io_off_hides_ports",
        "VET, written by I/O port: 0x8100 and not 0x88a8",
        NO_PORTS,
    ),
    (
        On::Qemu,
        "pci::subsystem",
        "subsystem: 0x11001af4 and not 0x1e8086",
        "has QEMU's own subsystem ids",
    ),
    (
        On::Qemu,
        "pci::latency",
        "MIN_GNT, MAX_LAT: 0x0 and not 0xff",
        "MIN_GNT is left 0",
    ),
    (
        On::Qemu,
        "pci::io_bar_is_bar2",
        "BAR2 is None",
        "the I/O BAR is BAR1",
    ),
    (
        On::Qemu,
        "pci::power_management",
        NO_CAPABILITIES,
        "has no capabilities",
    ),
    (
        On::Qemu,
        "pci::bus_master_gates_tx",
        "frame 0: no frame was sent",
        "fetches descriptors all the same, gets zeros, and moves its head past them",
    ),
    (
        On::Qemu,
        "registers::pba_after_reset",
        "PBA after a write of 40: 0x28 and not 0x180028",
        "does not derive the upper half of PBA",
    ),
    (
        On::Qemu,
        "registers::receive_addresses_hold",
        "register 0x5404 after 0x5a5a5a5a: 0x5a5a5a5a and not 0x25a5a",
        "RAH holds all bits",
    ),
    (
        On::Qemu,
        "registers::io_window_reads",
        "IOADDR: 0x0 and not 0x8",
        NO_PORTS,
    ),
    (
        On::Qemu,
        "registers::io_window_writes",
        "VET written by I/O port: 0x8100 and not 0x88a8",
        NO_PORTS,
    ),
    (
        On::Qemu,
        "registers::mask_of_fcal",
        "register 0x0028 after 0x5a5a5a5a: 0x0 and not 0x5a5a5a5a",
        NOT_READABLE,
    ),
    (
        On::Qemu,
        "registers::mask_of_fcah",
        "register 0x002c after 0x5a5a5a5a: 0x0 and not 0x5a5a",
        NOT_READABLE,
    ),
    (
        On::Qemu,
        "registers::mask_of_fct",
        "register 0x0030 after 0x5a5a5a5a: 0x0 and not 0x5a5a",
        NOT_READABLE,
    ),
    (
        On::Qemu,
        "registers::mask_of_vet",
        "register 0x0038 after 0x5a5a5a5a: 0x5a5a5a5a and not 0x5a5a",
        "holds all 32 bits",
    ),
    (
        On::Qemu,
        "registers::mask_of_fcrth",
        "register 0x2168 after 0x00005a58: 0x0 and not 0x5a58",
        NOT_READABLE,
    ),
    (
        On::Qemu,
        "registers::mask_of_fcttv",
        "register 0x0170 after 0x00005a5a: 0x0 and not 0x5a5a",
        NOT_READABLE,
    ),
    (
        On::Qemu,
        "registers::mask_of_tipg",
        "register 0x0410 after 0x1a5a5a5a: 0x0 and not 0x1a5a5a5a",
        NOT_READABLE,
    ),
    (
        On::Qemu,
        "registers::mask_of_rdbal",
        "register 0x2800 after 0x5a5a5a5a: 0x5a5a5a5a and not 0x5a5a5a50",
        "holds the low four bits of ring addresses, and ignores them",
    ),
    (
        On::Qemu,
        "registers::mask_of_tdbal",
        "register 0x3800 after 0x5a5a5a5a: 0x5a5a5a5a and not 0x5a5a5a50",
        "holds the low four bits of ring addresses, and ignores them",
    ),
    (
        On::Qemu,
        "registers::mask_of_txcw",
        "register 0x0178 after 0x00005a5a: 0x0 and not 0x5a5a",
        NOT_READABLE,
    ),
    (
        On::Qemu,
        "registers::mask_of_tidv",
        "register 0x3820 after 0x00005a5a: 0x0 and not 0x5a5a",
        NOT_READABLE,
    ),
    (
        On::Qemu,
        "registers::ait_holds",
        "register 0x0458: 0x0 and not 0x4",
        NOT_READABLE,
    ),
    (
        On::Qemu,
        "registers::rxcsum_holds",
        "register 0x5000: 0x0 and not 0x300",
        NOT_READABLE,
    ),
    (
        On::Qemu,
        "registers::rxdctl_holds",
        "register 0x2828: 0x0 and not 0x1010000",
        NOT_READABLE,
    ),
    (
        On::Qemu,
        "registers::fcrtl_holds",
        "register 0x2160: 0x0 and not 0x80008f78",
        NOT_READABLE,
    ),
    (
        On::Qemu,
        "every_register::reset_values",
        "other values after power-up: CTRL EECD LEDCTL RXDCTL MANC;",
        "has defaults of its own",
    ),
    (
        On::Qemu,
        "every_register::masks",
        "other bits hold: CTRL EERD CTRL_EXT FLA FCAL FCAH FCT VET FCTTV TXCW LEDCTL RCTL FCRTL FCRTH RDBAL RXDCTL RSRPD RXCSUM RDFH RDFT RDFHS RDFTS RDFPC TCTL TIPG AIT TDBAL TIDV TXDCTL TSPMT TDFH TDFT TDFHS TDFTS TDFPC RAH[1] RAH[15] WUC WUFC MANC IPAV IP4AT[0] IP6AT[0] WUPM[31] FFLT[0] FFMT[0] FFVT[0] PBM[0];",
        "holds bits that the part has not, and keeps other registers not at all",
    ),
    (
        On::Qemu,
        "every_register::after_reset",
        "other values after CTRL.RST: CTRL EECD EERD VET LEDCTL PBA ITR RDBAL RDBAH RDLEN RDH RDT RDTR RXDCTL RADV TCTL TDBAL TDBAH TDLEN TDH TDT TXDCTL TADV MTA[0] MTA[127] RAL[1] RAH[1] RAL[15] RAH[15] VFTA[0] VFTA[127] WUC WUFC MANC IPAV IP4AT[0] IP6AT[0] WUPM[31] FFLT[0] FFMT[0] FFVT[0] PBM[0];",
        NO_RESET,
    ),
    (
        On::Qemu,
        "eeprom::subsystem_is_that_of_config_space",
        "subsystem: Some(\n    0x100e8086",
        "the EEPROM says one thing and config space another",
    ),
    (
        On::Qemu,
        "phy::status_of_a_link",
        "BMSR: 0x794d and not 0x796d",
        "negotiation counts as complete only once it was restarted",
    ),
    (
        On::Qemu,
        "phy::link_bit_latches_low",
        "link bit at the first read: 0x4 and not 0x0",
        "the link bit shows what is",
    ),
    (
        On::Qemu,
        "phy::power_down_takes_the_link",
        "LU with the PHY powered down: 0x2 and not 0x0",
        "power-down is a bit without effect",
    ),
    (
        On::Qemu,
        "interrupts::all_ones_are_never_read",
        "ICR reads as all ones",
        "ICR latches causes that no part has",
    ),
    (
        On::Qemu,
        "interrupts::causes_of_later_parts_are_ignored",
        "the line is high with nothing but bit 24",
        "ICR latches causes that no part has",
    ),
    (
        On::Qemu,
        "interrupts::itr_zero_does_not_wait",
        "the line is low with a cause and no ITR",
        "spaces interrupts by 128 us at least",
    ),
    (
        On::Qemu,
        "interrupts::tidv_delays",
        "an interrupt after 0 ns, 5120000 to 5170000 expected",
        FIRST_AT_ONCE,
    ),
    (
        On::Qemu,
        "interrupts::tadv_caps_tidv",
        "an interrupt after 0 ns, 5120000 to 5170000 expected",
        FIRST_AT_ONCE,
    ),
    (
        On::Qemu,
        "interrupts::rdtr_delays",
        " ns, 5120000 to 5320000 expected",
        FIRST_AT_ONCE,
    ),
    (
        On::Qemu,
        "interrupts::rdtr_restarts",
        " ns, 20480000 to 20680000 expected",
        FIRST_AT_ONCE,
    ),
    (
        On::Qemu,
        "interrupts::radv_caps_rdtr",
        " ns, 5120000 to 5320000 expected",
        FIRST_AT_ONCE,
    ),
    (
        On::Qemu,
        "interrupts::rdtr_flush_fires_now",
        "the line is high before the flush",
        FIRST_AT_ONCE,
    ),
    (
        On::Qemu,
        "interrupts::tidv_flush_fires_now",
        "the line is high before the flush",
        FIRST_AT_ONCE,
    ),
    (
        On::Qemu,
        "transmit::short_frames_are_padded",
        "frame 0: 14 bytes and not 60",
        NO_PADDING,
    ),
    (
        On::Qemu,
        "transmit::fcs_of_the_driver",
        "frame 0: 104 bytes and not 100",
        NO_FCS_OF_DRIVERS,
    ),
    (
        On::Qemu,
        "transmit::wrong_fcs_of_the_driver",
        "frame 0: 104 bytes and not 100",
        NO_FCS_OF_DRIVERS,
    ),
    (
        On::Qemu,
        "transmit::null_address_sends_nothing",
        "a frame of 0 bytes was sent",
        "sends a frame of no bytes",
    ),
    (
        On::Qemu,
        "checksum::legacy_insertion",
        "frame 0: byte 40 is 0x43 and not 0x93",
        "ignores IC of legacy descriptors",
    ),
    (
        On::Qemu,
        "checksum::field_outside_of_sum",
        "14 to 33: frame 0: byte 100 is 0x1f and not 0xd0",
        "writes a checksum only into what it is the sum of",
    ),
    (
        On::Qemu,
        "segmentation::tcp_over_ipv6_segments",
        "frame 0: byte 19 is 0xd0 and not 0xa8",
        IPV6_LENGTH,
    ),
    (
        On::Qemu,
        "segmentation::short_last_segment_of_ipv6",
        "1429 bytes: frame 0: byte 19 is 0xd0 and not 0xa8",
        IPV6_LENGTH,
    ),
    (
        On::Qemu,
        "segmentation::exact_multiple",
        "a frame of 54 bytes was sent",
        EMPTY_SEGMENT,
    ),
    (
        On::Qemu,
        "segmentation::one_byte_segments",
        "a frame of 54 bytes was sent",
        EMPTY_SEGMENT,
    ),
    (
        On::Qemu,
        "segmentation::counts_packets",
        "TSCTC: 0x0 and not 0x1",
        NO_STATISTIC,
    ),
    (
        On::Qemu,
        "udp_segmentation::over_ipv6",
        "5000 bytes: frame 0: byte 19 is 0xdc and not 0xb4",
        IPV6_LENGTH,
    ),
    (
        On::Qemu,
        "udp_segmentation::exact_multiple",
        "3000 bytes: a frame of 42 bytes was sent",
        EMPTY_SEGMENT,
    ),
    (
        On::Qemu,
        "ipv6_segmentation::behind_options",
        "frame 0: byte 19 is 0x2c and not 0x04",
        IPV6_LENGTH,
    ),
    (
        On::Qemu,
        "ipv6_segmentation::udp_behind_options",
        "frame 0: byte 18 is 0x04 and not 0x03",
        IPV6_LENGTH,
    ),
    (
        On::Qemu,
        "ipv6_segmentation::header_over_descriptors_of_ipv6",
        "pieces [14, 30, 15, 16, 700]: frame 0: byte 18 is 0x04 and not 0x03",
        IPV6_LENGTH,
    ),
    (
        On::Qemu,
        "ipv6_segmentation::tail_writes_in_between_of_ipv6",
        "pieces [74, 700, 1300, 999]: frame 0: byte 18 is 0x04 and not 0x03",
        IPV6_LENGTH,
    ),
    (
        On::Qemu,
        "ipv6_segmentation::exact_multiple_of_ipv6",
        "2856 bytes: frame 0: byte 19 is 0xd0 and not 0xa8",
        IPV6_LENGTH,
    ),
    (
        On::Qemu,
        "ipv6_segmentation::largest_packet",
        "65475 bytes: frame 0: byte 19 is 0xd0 and not 0xa8",
        IPV6_LENGTH,
    ),
    (
        On::Qemu,
        "segmentation_contexts::udp_for_tcp",
        "a frame of 1042 bytes was sent",
        ANY_CONTEXT,
    ),
    (
        On::Qemu,
        "segmentation_contexts::ipv4_for_ipv6",
        "a frame of 1074 bytes was sent",
        ANY_CONTEXT,
    ),
    (
        On::Qemu,
        "segmentation_contexts::ipv6_for_ipv4",
        "a frame of 1054 bytes was sent",
        ANY_CONTEXT,
    ),
    (
        On::Qemu,
        "segmentation_contexts::cut_headers",
        "a frame of 1061 bytes was sent",
        ANY_CONTEXT,
    ),
    (
        On::Qemu,
        "segmentation_contexts::empty_segments",
        "a frame of 42 bytes was sent",
        ANY_CONTEXT,
    ),
    (
        On::Qemu,
        "receive::short_frames_are_padded",
        "14 bytes and not 60",
        NO_PADDING,
    ),
    (
        On::Qemu,
        "receive::fcs_is_stored",
        "FCS of 60 bytes: Some(\n    [\n        0x0",
        NO_FCS,
    ),
    (
        On::Qemu,
        "receive::fcs_over_descriptors",
        "FCS of 507 bytes: Some(\n    [\n        0x0",
        NO_FCS,
    ),
    (
        On::Qemu,
        "receive::starts_at_once",
        "nothing was received at once",
        "receives nothing for a second after each write of RCTL",
    ),
    (
        On::Qemu,
        "receive::waits_for_descriptors",
        "no frame was received",
        "a write of RDT lets in all that waits, and what finds no descriptor then is lost",
    ),
    (
        On::Qemu,
        "receive::large_frame_waits_for_descriptors",
        "no frame was received",
        "takes a frame when there is one descriptor, and loses it if it needs more",
    ),
    (
        On::Qemu,
        "verdict::good_tcp_and_udp",
        "status, TCP true: 0x4 and not 0x60",
        NO_VERDICT,
    ),
    (
        On::Qemu,
        "verdict::good_over_ipv6",
        "status, TCP true: 0x4 and not 0x20",
        NO_VERDICT,
    ),
    (
        On::Qemu,
        "verdict::bad_checksums",
        "status, TCP true: 0x4 and not 0x60",
        NO_VERDICT,
    ),
    (
        On::Qemu,
        "verdict::ip_only",
        "status with IPOFL: 0x4 and not 0x40",
        NO_VERDICT,
    ),
    (
        On::Qemu,
        "filters::multicast_promiscuous_takes_broadcast",
        "MPE: a frame to [ff, ff, ff, ff, ff, ff] was dropped",
        "broadcast needs BAM, whatever MPE says",
    ),
    (
        On::Qemu,
        "filters::table_is_not_for_unicast",
        "full table: a frame to [2, 9, 9, 9, 9, 9] came in",
        "looks unicast addresses up in the multicast table",
    ),
    (
        On::Qemu,
        "filters::vlan_cfi",
        "CFI 0 wanted: a frame with tag 0x1005 came in",
        "ignores CFIEN",
    ),
    (
        On::Qemu,
        "reset::by_memory",
        "RCTL after reset: 0x8002 and not 0x0",
        NO_RESET,
    ),
    (
        On::Qemu,
        "reset::by_io_port",
        "RCTL after reset: 0x8002 and not 0x0",
        NO_PORTS,
    ),
    (
        On::Qemu,
        "reset::reloads_the_address",
        "RAL0: [\n    0x2",
        NO_RESET,
    ),
    (
        On::Qemu,
        "reset::drops_the_line",
        "the line is high after reset",
        NO_RESET,
    ),
    (
        On::Qemu,
        "reset::clears_statistics",
        "GPTC after reset: 0x1 and not 0x0",
        NO_RESET,
    ),
    (
        On::Qemu,
        "reset::drops_half_a_packet",
        "frame 0: 300 bytes and not 200",
        NO_RESET,
    ),
    (
        On::Qemu,
        "statistics::kinds_of_address",
        "BPRC: 0x0 and not 0x2",
        NO_STATISTIC,
    ),
    (
        On::Qemu,
        "statistics::receive_size_bins",
        "frames of 64 bytes: 0x0 and not 0x2",
        NO_STATISTIC,
    ),
    (
        On::Qemu,
        "statistics::transmit_size_bins",
        "frames of 64 bytes: 0x0 and not 0x2",
        NO_STATISTIC,
    ),
    (
        On::Qemu,
        "statistics::octets_sent",
        "GOTCL: 0x0 and not 0x42c",
        NO_STATISTIC,
    ),
    (
        On::Qemu,
        "statistics::octets_received",
        "GORCL: 0x0 and not 0x42c",
        NO_STATISTIC,
    ),
    (
        On::Qemu,
        "statistics::high_half_clears_both",
        "GOTCL: 0x0 and not 0x68",
        NO_STATISTIC,
    ),
    (
        On::Qemu,
        "statistics::oversize",
        "ROC: 0x0 and not 0x1",
        NO_STATISTIC,
    ),
    (
        On::Qemu,
        "statistics::length_errors",
        "RLEC: 0x0 and not 0x1",
        NO_STATISTIC,
    ),
    (
        On::Qemu,
        "statistics::pause_frames_are_no_good_frames",
        "XOFFRXC: 0x0 and not 0x1",
        NO_STATISTIC,
    ),
    (
        On::Qemu,
        "wake::pmcsr_and_wuc_share_their_bits",
        NO_CAPABILITIES,
        NO_POWER,
    ),
    (On::Qemu, "wake::magic_packet", NO_CAPABILITIES, NO_POWER),
    (
        On::Qemu,
        "wake::magic_packet_to_everybody",
        NO_CAPABILITIES,
        NO_POWER,
    ),
    (On::Qemu, "wake::own_address", NO_CAPABILITIES, NO_POWER),
    (On::Qemu, "wake::broadcast", NO_CAPABILITIES, NO_POWER),
    (
        On::Qemu,
        "wake::multicast_by_table",
        NO_CAPABILITIES,
        NO_POWER,
    ),
    (On::Qemu, "wake::arp_request", NO_CAPABILITIES, NO_POWER),
    (On::Qemu, "wake::ipv4_packet", NO_CAPABILITIES, NO_POWER),
    (On::Qemu, "wake::ipv6_packet", NO_CAPABILITIES, NO_POWER),
    (On::Qemu, "wake::flexible_filter", NO_CAPABILITIES, NO_POWER),
    (On::Qemu, "wake::link_change", NO_CAPABILITIES, NO_POWER),
    (On::Qemu, "wake::others_sleep_on", NO_CAPABILITIES, NO_POWER),
    (
        On::Qemu,
        "wake::first_packet_is_kept",
        NO_CAPABILITIES,
        NO_POWER,
    ),
    (
        On::Qemu,
        "wake::nothing_without_pme_en",
        NO_CAPABILITIES,
        NO_POWER,
    ),
    (
        On::Qemu,
        "wake::d3_receives_nothing",
        NO_CAPABILITIES,
        NO_POWER,
    ),
];

/// What `check` is known to say there, and why, if it is known to fail.
pub(crate) fn difference(on: On, check: &str) -> Option<(&'static str, &'static str)> {
    KNOWN_DIFFERENCES
        .iter()
        .find(|known| known.0 == on && known.1 == check)
        .map(|known| (known.2, known.3))
}
