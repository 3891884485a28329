//! A `nic-emu-cli` of its own process, its NICs driven over their sockets.

mod guest;
mod pieces;
mod strace;
mod trip;
mod work;

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use guest_driver::E1000;
use guest_driver::e1000::Config;
use guest_driver::regs::rctl;
use nic_emu_lab::Netns;
use nic_emu_tests::{Daemon, DaemonBuilder};

use crate::processors;

pub use guest::Counted;
pub use pieces::{Both, Receive, Switched, Transmit, Wait};
pub use strace::Trace;
pub use trip::round_trips;
pub use work::{Work, receive, send};

/// The guest: a driver behind a socket that counts what it says.
pub type Guest = E1000<Counted>;

/// A daemon and the guests on its NICs.
pub struct Host {
    /// Its NICs' guests, in order. First, so that they leave before the daemon does.
    pub guests: Vec<Guest>,
    daemon: Daemon,
}

impl Host {
    /// Starts a daemon with these NICs (`net=null`) and more arguments (`--shards 2`), and opens each NIC with rings of
    /// `ring` descriptors. The daemon runs in that network namespace, if one is given, on these processors.
    ///
    /// # Errors
    ///
    /// It does not start, or a NIC does not get along with its driver.
    pub fn start(
        nics: &[&str],
        arguments: &[&str],
        ring: u32,
        netns: Option<&Netns>,
        cpus: &[usize],
    ) -> Result<Self> {
        let mut builder = DaemonBuilder::new()?;
        for (index, nic) in nics.iter().enumerate() {
            let [.., last] = crate::engine::MAC;
            let last = last + index as u8;
            builder = builder.nic(&format!("{nic},mac=52:54:00:12:34:{last:02x}"));
        }
        let daemon = builder.args(arguments).start(netns)?;
        processors::keep_on(daemon.pid(), cpus)?;
        let config = Config {
            tx_count: ring,
            rx_count: ring,
            rctl: rctl::BAM | rctl::SECRC,
            ..Config::default()
        };
        let guests = (0..nics.len())
            .map(|index| {
                let bus = Counted::connect(daemon.socket(index))?;
                E1000::start(bus, config).context("the driver does not take it for a NIC")
            })
            .collect::<Result<_>>()?;
        Ok(Self { daemon, guests })
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Processor time of all its threads so far: proc(5), `/proc/PID/task/TID/schedstat`.
    #[must_use]
    pub fn time(&self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid()));
        let time = |thread: fs::DirEntry| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        };
        let nanos = threads
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(time)
            .sum();
        Duration::from_nanos(nanos)
    }
}
