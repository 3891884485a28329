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

const NOT_READABLE: &str = "reads as 0: kept by nobody";
const NO_FCS: &str = "counts the FCS in the length and stores nothing";
const NO_VERDICT: &str = "checks nothing and always sets IXSM";
const NO_RESET: &str = "CTRL.RST clears itself and resets nothing";
const FIRST_AT_ONCE: &str = "delays only what follows an interrupt; the first is never delayed";
const NO_STATISTIC: &str = "some statistics read as 0 and are not counted";
const NO_PORTS: &str = "I/O ports read as 0 and take nothing";
const IPV6_LENGTH: &str = "writes an IPv6 payload length that counts the IPv6 header";
const EMPTY_SEGMENT: &str = "sends the headers once more behind the last full segment";
const ANY_CONTEXT: &str = "follows a context whatever the packet is, and sends what comes of it";
const NO_POWER: &str = "has no power management, and holds wake-up registers without effect";
const NO_PADDING: &str = "leaves short frames short";

/// Where, which check, why.
pub(crate) const KNOWN_DIFFERENCES: &[(On, &str, &str)] = &[
    (
        On::Direct,
        "pci::intx_disable",
        "COMMAND beyond bus mastering belongs to the transport, and there is none here",
    ),
    (On::Qemu, "pci::subsystem", "has QEMU's own subsystem ids"),
    (On::Qemu, "pci::latency", "MIN_GNT is left 0"),
    (On::Qemu, "pci::io_bar_is_bar2", "the I/O BAR is BAR1"),
    (On::Qemu, "pci::power_management", "has no capabilities"),
    (
        On::Qemu,
        "pci::bus_master_gates_tx",
        "fetches descriptors all the same, gets zeros, and moves its head past them",
    ),
    (
        On::Qemu,
        "registers::pba_after_reset",
        "does not derive the upper half of PBA",
    ),
    (
        On::Qemu,
        "registers::receive_addresses_hold",
        "RAH holds all bits",
    ),
    (On::Qemu, "registers::io_window_reads", NO_PORTS),
    (On::Qemu, "registers::io_window_writes", NO_PORTS),
    (On::Qemu, "registers::mask_of_fcal", NOT_READABLE),
    (On::Qemu, "registers::mask_of_fcah", NOT_READABLE),
    (On::Qemu, "registers::mask_of_fct", NOT_READABLE),
    (On::Qemu, "registers::mask_of_vet", "holds all 32 bits"),
    (On::Qemu, "registers::mask_of_fcrth", NOT_READABLE),
    (On::Qemu, "registers::mask_of_fcttv", NOT_READABLE),
    (On::Qemu, "registers::mask_of_tipg", NOT_READABLE),
    (
        On::Qemu,
        "registers::mask_of_rdbal",
        "holds the low four bits of ring addresses, and ignores them",
    ),
    (
        On::Qemu,
        "registers::mask_of_tdbal",
        "holds the low four bits of ring addresses, and ignores them",
    ),
    (On::Qemu, "registers::mask_of_txcw", NOT_READABLE),
    (On::Qemu, "registers::mask_of_tidv", NOT_READABLE),
    (On::Qemu, "registers::ait_holds", NOT_READABLE),
    (On::Qemu, "registers::rxcsum_holds", NOT_READABLE),
    (On::Qemu, "registers::rxdctl_holds", NOT_READABLE),
    (On::Qemu, "registers::fcrtl_holds", NOT_READABLE),
    (
        On::Qemu,
        "eeprom::subsystem_is_that_of_config_space",
        "the EEPROM says one thing and config space another",
    ),
    (
        On::Qemu,
        "phy::status_of_a_link",
        "negotiation counts as complete only once it was restarted",
    ),
    (
        On::Qemu,
        "phy::link_bit_latches_low",
        "the link bit shows what is",
    ),
    (
        On::Qemu,
        "phy::power_down_takes_the_link",
        "power-down is a bit without effect",
    ),
    (
        On::Qemu,
        "interrupts::all_ones_are_never_read",
        "ICR latches causes that no part has",
    ),
    (
        On::Qemu,
        "interrupts::causes_of_later_parts_are_ignored",
        "ICR latches causes that no part has",
    ),
    (
        On::Qemu,
        "interrupts::itr_zero_does_not_wait",
        "spaces interrupts by 128 us at least",
    ),
    (On::Qemu, "interrupts::tidv_delays", FIRST_AT_ONCE),
    (On::Qemu, "interrupts::tadv_caps_tidv", FIRST_AT_ONCE),
    (On::Qemu, "interrupts::rdtr_delays", FIRST_AT_ONCE),
    (On::Qemu, "interrupts::rdtr_restarts", FIRST_AT_ONCE),
    (On::Qemu, "interrupts::radv_caps_rdtr", FIRST_AT_ONCE),
    (On::Qemu, "interrupts::rdtr_flush_fires_now", FIRST_AT_ONCE),
    (On::Qemu, "interrupts::tidv_flush_fires_now", FIRST_AT_ONCE),
    (On::Qemu, "transmit::short_frames_are_padded", NO_PADDING),
    (
        On::Qemu,
        "transmit::fcs_of_the_driver",
        "takes a driver's FCS for data: IFCS is ignored",
    ),
    (
        On::Qemu,
        "transmit::null_address_sends_nothing",
        "sends a frame of no bytes",
    ),
    (
        On::Qemu,
        "checksum::legacy_insertion",
        "ignores IC of legacy descriptors",
    ),
    (
        On::Qemu,
        "checksum::field_outside_of_sum",
        "writes a checksum only into what it is the sum of",
    ),
    (
        On::Qemu,
        "segmentation::tcp_over_ipv6_segments",
        IPV6_LENGTH,
    ),
    (
        On::Qemu,
        "segmentation::short_last_segment_of_ipv6",
        IPV6_LENGTH,
    ),
    (On::Qemu, "segmentation::exact_multiple", EMPTY_SEGMENT),
    (On::Qemu, "segmentation::one_byte_segments", EMPTY_SEGMENT),
    (On::Qemu, "segmentation::counts_packets", NO_STATISTIC),
    (On::Qemu, "udp_segmentation::over_ipv6", IPV6_LENGTH),
    (On::Qemu, "udp_segmentation::exact_multiple", EMPTY_SEGMENT),
    (On::Qemu, "ipv6_segmentation::behind_options", IPV6_LENGTH),
    (
        On::Qemu,
        "ipv6_segmentation::udp_behind_options",
        IPV6_LENGTH,
    ),
    (
        On::Qemu,
        "ipv6_segmentation::header_over_descriptors_of_ipv6",
        IPV6_LENGTH,
    ),
    (
        On::Qemu,
        "ipv6_segmentation::tail_writes_in_between_of_ipv6",
        IPV6_LENGTH,
    ),
    (
        On::Qemu,
        "ipv6_segmentation::exact_multiple_of_ipv6",
        IPV6_LENGTH,
    ),
    (On::Qemu, "ipv6_segmentation::largest_packet", IPV6_LENGTH),
    (On::Qemu, "segmentation_contexts::udp_for_tcp", ANY_CONTEXT),
    (
        On::Qemu,
        "segmentation_contexts::ipv4_for_ipv6",
        ANY_CONTEXT,
    ),
    (
        On::Qemu,
        "segmentation_contexts::ipv6_for_ipv4",
        ANY_CONTEXT,
    ),
    (On::Qemu, "segmentation_contexts::cut_headers", ANY_CONTEXT),
    (
        On::Qemu,
        "segmentation_contexts::empty_segments",
        ANY_CONTEXT,
    ),
    (On::Qemu, "receive::short_frames_are_padded", NO_PADDING),
    (On::Qemu, "receive::fcs_is_stored", NO_FCS),
    (On::Qemu, "receive::fcs_over_descriptors", NO_FCS),
    (
        On::Qemu,
        "receive::starts_at_once",
        "receives nothing for a second after each write of RCTL",
    ),
    (
        On::Qemu,
        "receive::waits_for_descriptors",
        "a write of RDT lets in all that waits, and what finds no descriptor then is lost",
    ),
    (
        On::Qemu,
        "receive::large_frame_waits_for_descriptors",
        "takes a frame when there is one descriptor, and loses it if it needs more",
    ),
    (On::Qemu, "verdict::good_tcp_and_udp", NO_VERDICT),
    (On::Qemu, "verdict::good_over_ipv6", NO_VERDICT),
    (On::Qemu, "verdict::bad_checksums", NO_VERDICT),
    (On::Qemu, "verdict::ip_only", NO_VERDICT),
    (
        On::Qemu,
        "filters::multicast_promiscuous_takes_broadcast",
        "broadcast needs BAM, whatever MPE says",
    ),
    (
        On::Qemu,
        "filters::table_is_not_for_unicast",
        "looks unicast addresses up in the multicast table",
    ),
    (On::Qemu, "filters::vlan_cfi", "ignores CFIEN"),
    (On::Qemu, "reset::by_memory", NO_RESET),
    (On::Qemu, "reset::by_io_port", NO_PORTS),
    (On::Qemu, "reset::reloads_the_address", NO_RESET),
    (On::Qemu, "reset::drops_the_line", NO_RESET),
    (On::Qemu, "reset::clears_statistics", NO_RESET),
    (On::Qemu, "reset::drops_half_a_packet", NO_RESET),
    (On::Qemu, "statistics::kinds_of_address", NO_STATISTIC),
    (On::Qemu, "statistics::receive_size_bins", NO_STATISTIC),
    (On::Qemu, "statistics::transmit_size_bins", NO_STATISTIC),
    (On::Qemu, "statistics::octets_sent", NO_STATISTIC),
    (On::Qemu, "statistics::octets_received", NO_STATISTIC),
    (On::Qemu, "statistics::high_half_clears_both", NO_STATISTIC),
    (On::Qemu, "statistics::oversize", NO_STATISTIC),
    (On::Qemu, "statistics::length_errors", NO_STATISTIC),
    (
        On::Qemu,
        "statistics::pause_frames_are_no_good_frames",
        NO_STATISTIC,
    ),
    (On::Qemu, "wake::pmcsr_and_wuc_share_their_bits", NO_POWER),
    (On::Qemu, "wake::magic_packet", NO_POWER),
    (On::Qemu, "wake::magic_packet_to_everybody", NO_POWER),
    (On::Qemu, "wake::own_address", NO_POWER),
    (On::Qemu, "wake::broadcast", NO_POWER),
    (On::Qemu, "wake::multicast_by_table", NO_POWER),
    (On::Qemu, "wake::arp_request", NO_POWER),
    (On::Qemu, "wake::ipv4_packet", NO_POWER),
    (On::Qemu, "wake::ipv6_packet", NO_POWER),
    (On::Qemu, "wake::flexible_filter", NO_POWER),
    (On::Qemu, "wake::link_change", NO_POWER),
    (On::Qemu, "wake::others_sleep_on", NO_POWER),
    (On::Qemu, "wake::first_packet_is_kept", NO_POWER),
    (On::Qemu, "wake::nothing_without_pme_en", NO_POWER),
    (On::Qemu, "wake::d3_receives_nothing", NO_POWER),
];

/// Why `check` is known to fail there, if it is.
pub(crate) fn difference(on: On, check: &str) -> Option<&'static str> {
    KNOWN_DIFFERENCES
        .iter()
        .find(|known| known.0 == on && known.1 == check)
        .map(|known| known.2)
}
