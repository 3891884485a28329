//! Counters in one line, for logs.

use std::fmt::{self, Display};

use net_backend::Counters;
use nic_emu::e1000::CountersSnapshot;

/// What the guest's side of a NIC has counted: frames and bytes always, anything that went wrong if it did.
pub(crate) fn guest(counters: &CountersSnapshot) -> impl Display {
    let usual = ["tx_frames", "tx_bytes", "rx_frames", "rx_bytes"];
    Line(
        counters
            .iter()
            .filter(|(name, value)| usual.contains(name) || *value > 0)
            .collect(),
    )
}

/// What the network's side of a NIC has counted.
pub(crate) fn network(counters: &Counters) -> impl Display {
    let usual = [
        "tx_frames",
        "tx_segments",
        "tx_bytes",
        "rx_frames",
        "rx_segments",
        "rx_bytes",
    ];
    Line(
        all(counters)
            .into_iter()
            .filter(|(name, value)| usual.contains(name) || *value > 0)
            .collect(),
    )
}

/// Each counter of the network's side by its name.
pub(crate) fn all(counters: &Counters) -> [(&'static str, u64); 11] {
    let c = counters;
    [
        ("tx_frames", c.tx_frames),
        ("tx_segments", c.tx_segments),
        ("tx_bytes", c.tx_bytes),
        ("rx_frames", c.rx_frames),
        ("rx_segments", c.rx_segments),
        ("rx_bytes", c.rx_bytes),
        ("tx_dropped", c.tx_dropped),
        ("rx_dropped", c.rx_dropped),
        ("lost", c.lost),
        ("corrupted", c.corrupted),
        ("delayed", c.delayed),
    ]
}

struct Line(Vec<(&'static str, u64)>);

impl Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (name, value)) in self.0.iter().enumerate() {
            let space = if n == 0 { "" } else { " " };
            write!(f, "{space}{name}={value}")?;
        }
        Ok(())
    }
}
