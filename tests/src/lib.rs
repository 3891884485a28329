//! What tests, demo and benches with real guests share, and the cross-crate tests themselves (in `tests/`).
//!
//! A [`Host`] is one `nic-emu-cli` with its TAPs in a network namespace of its own; it boots guests onto its NICs. A
//! [`Pair`] is a guest and whatever its NIC leads to, and has the steps that show that the way between them is sound.

pub mod background;
pub mod calls;
pub mod cli;
pub mod counters;
pub mod counts;
pub mod daemon;
pub mod guest;
pub mod host;
pub mod inside;
pub mod instructions;
pub mod iperf;
pub mod latency;
#[cfg(feature = "machine")]
pub mod machine;
pub mod packets;
pub mod pair;
pub mod pinger;
pub mod processors;
pub mod profile;
pub mod reflector;
pub mod transfer;
pub mod wire;

pub use daemon::{Daemon, DaemonBuilder};
pub use host::{Host, HostOptions};
#[cfg(feature = "machine")]
pub use machine::Machine;
pub use pair::{Direction, Far, Pair};
pub use wire::Wire;

/// Whether the large counts were asked for (`cargo xtask test --soak`).
#[must_use]
pub fn soak() -> bool {
    std::env::var_os("NIC_EMU_SOAK").is_some_and(|value| value == "1")
}

/// Whether this process may make network namespaces and TAPs.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
