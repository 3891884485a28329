//! What the thesis found, in its chapter 6, to stand beside what is found here.

use super::super::stats::{Standing, Summary};

/// Frames a second that the thesis calls low load.
pub(super) const LOW_LOAD: u32 = 10_000;

/// The thesis's ratios to one NIC, as far as it tells them.
pub(super) struct Column {
    pub(super) head: &'static str,
    pub(super) receive: &'static str,
    pub(super) send: &'static str,
    /// Round trips at [`LOW_LOAD`].
    pub(super) median: &'static str,
    pub(super) shortest: &'static str,
}

/// Its e1000 to QEMU's: 6.3.2 and 6.4.2. QEMU's received 66 % more.
pub(super) const AGAINST_E1000: Column = Column {
    head: "the thesis's nic-emu",
    receive: "0.60",
    send: "nearly 1",
    median: "about 1",
    shortest: "much longer",
};

/// Both of its e1000 to virtio-net: 6.3.2 and 6.4.2. A factor of 6 to 13.
pub(super) const AGAINST_VIRTIO: Column = Column {
    head: "both e1000 in the thesis",
    receive: "0.08 to 0.17",
    send: "0.08 to 0.17",
    median: "much longer",
    shortest: "much longer (nic-emu)",
};

/// What it says to the first question, and how that compares.
pub(super) fn impact(receive: &Summary, send: &Summary, shortest: Option<Summary>) -> String {
    let place = |ratio: &Summary, above: &'static str, below: &'static str| match ratio.standing() {
        Standing::Above { .. } => above,
        Standing::Below { .. } => below,
        Standing::Level => "level",
    };
    let mut text = format!(
        "The thesis's answer (chapter 6, other machines): QEMU's e1000 received 66 % more than its own, which is 0.60x, \
         both sent at nearly the same rate, and at low load its own had the longer shortest round trip, because of \
         vfio-user, and an average like QEMU's. Its conclusion was that the main drawback is latency. Here RX is {} \
         ({:.2}x after 0.60x), TX {} ({:.2}x after nearly 1x)",
        place(receive, "ahead", "behind"),
        receive.median,
        place(send, "ahead", "behind"),
        send.median,
    );
    if let Some(shortest) = shortest {
        text += &format!(
            ", and the shortest round trip {} ({:.2}x)",
            place(&shortest, "still longer", "shorter"),
            shortest.median
        );
    }
    text + "."
}

/// What it says to the second question.
pub(super) const VIABLE: &str = "The thesis's answer: \"we can confidently say that it is not\": virtio-net had 6 to 13 \
    times the throughput of either e1000, and lower latencies. \
    That was on a 12-core server, with older versions of everything.";
