//! A daemon with its TAPs in a network namespace of its own, and guests on it.

use std::path::Path;

use anyhow::{Context, Result};
use nic_emu_lab::{Lab, Netns, Nic, Suite, Vm, VmBuilder};

use crate::daemon::{Daemon, DaemonBuilder, Ended};
use crate::guest;
use crate::pair::{Far, Pair};
use crate::wire::Wire;

/// What a [`Host`] is to be.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// Number of NICs, the N-th on [`Wire`] N.
    pub nics: u8,
    /// More keys for each NIC.
    pub keys: String,
    /// More keys for the N-th NIC.
    pub keys_of: Vec<String>,
    /// The TAPs are made before, and the daemon runs as nobody.
    pub unprivileged: bool,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            nics: 1,
            keys: String::new(),
            keys_of: Vec::new(),
            unprivileged: false,
        }
    }
}

/// One `nic-emu-cli` and its namespace.
#[derive(Debug)]
pub struct Host {
    // First, so that it is gone before its namespace is.
    daemon: Daemon,
    netns: Netns,
    lab: Lab,
    nics: u8,
}

impl Host {
    /// Makes the namespace and starts the daemon in it.
    ///
    /// # Errors
    /// Not root, or the daemon does not become ready.
    pub fn start(lab: &Lab, options: &HostOptions) -> Result<Self> {
        let netns = namespace(lab)?;
        let mut builder = DaemonBuilder::new()?;
        for wire in (0..options.nics).map(Wire) {
            let (tap, v4) = (wire.tap(), wire.first().v4);
            let mut keys = format!("net=tap,ifname={tap}");
            if options.unprivileged {
                netns.ip(&format!("tuntap add dev {tap} mode tap user 65534"))?;
                netns.ip(&format!("addr add {v4}/24 dev {tap}"))?;
                netns.ip(&format!("link set {tap} up"))?;
            } else {
                keys += &format!(",ip={v4}/24");
            }
            if !options.keys.is_empty() {
                keys = format!("{keys},{}", options.keys);
            }
            if let Some(more) = options.keys_of.get(usize::from(wire.0)) {
                keys = format!("{keys},{more}");
            }
            builder = builder.nic(&keys);
        }
        if options.unprivileged {
            builder = builder.unprivileged();
        }
        let daemon = builder.start(Some(&netns))?;
        let host = Self {
            daemon,
            netns,
            lab: lab.clone(),
            nics: options.nics,
        };
        host.add_v6()?;
        Ok(host)
    }

    /// A guest to be started, with these of the NICs.
    #[must_use]
    pub fn guest(&self, suite: Suite, nics: &[usize]) -> VmBuilder {
        let guest = self.lab.vm(suite);
        nics.iter().fold(guest, |guest, &nic| {
            guest.nic(Nic::vfio_user(self.daemon.socket(nic)))
        })
    }

    /// Boots a guest with these of the NICs and sets their interfaces up: the first one is `eth0`, and so on.
    ///
    /// # Errors
    /// The guest does not come up, or has no link.
    pub fn boot(&self, suite: Suite, nics: &[usize]) -> Result<Vm> {
        let mut vm = self
            .guest(suite, nics)
            .start()
            .with_context(|| format!("nic-emu-cli:\n{}", self.daemon.log()))?;
        for (eth, &nic) in nics.iter().enumerate() {
            self.configure(&mut vm, eth, nic)?;
        }
        Ok(vm)
    }

    /// Sets the interface `ethN` of a guest up for a NIC of ours.
    ///
    /// # Errors
    /// There is no such interface, or no carrier.
    pub fn configure(&self, vm: &mut Vm, eth: usize, nic: usize) -> Result<()> {
        guest::configure(vm, &format!("eth{eth}"), self.wire(nic).second())
    }

    /// The N-th NIC's link.
    #[must_use]
    pub fn wire(&self, nic: usize) -> Wire {
        Wire(u8::try_from(nic).unwrap_or(u8::MAX))
    }

    /// The way between a guest and this host's TAP of a NIC.
    #[must_use]
    pub fn pair<'a>(&'a self, vm: &'a mut Vm, nic: usize) -> Pair<'a> {
        let wire = self.wire(nic);
        Pair {
            vm,
            own: wire.second(),
            far: Far::Host(&self.netns),
            to: wire.first(),
        }
    }

    /// The daemon.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// Where the N-th NIC's hypervisor connects.
    #[must_use]
    pub fn socket(&self, nic: usize) -> &Path {
        self.daemon.socket(nic)
    }

    /// Where the TAPs are.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Whether the N-th TAP is there.
    #[must_use]
    pub fn has_tap(&self, nic: usize) -> bool {
        self.netns
            .ip(&format!("link show dev {}", self.wire(nic).tap()))
            .is_ok()
    }

    /// Ends the daemon by SIGTERM; the namespace stays until the returned one is dropped.
    ///
    /// # Errors
    /// It does not end as it should.
    pub fn stop(self) -> Result<(Ended, Netns)> {
        Ok((self.daemon.stop()?, self.netns))
    }

    /// Kills the daemon and starts the same again on the same sockets' paths, as an operator would.
    ///
    /// # Errors
    /// The new one does not become ready.
    pub fn kill_and_restart(self) -> Result<Self> {
        let Self {
            daemon,
            netns,
            lab,
            nics,
        } = self;
        let daemon = daemon.kill_and_restart(Some(&netns))?;
        let host = Self {
            daemon,
            netns,
            lab,
            nics,
        };
        host.add_v6()?;
        Ok(host)
    }

    fn add_v6(&self) -> Result<()> {
        for wire in (0..self.nics).map(Wire) {
            self.netns.ip(&format!(
                "addr replace {}/64 dev {} nodad",
                wire.first().v6,
                wire.tap()
            ))?;
        }
        Ok(())
    }
}

/// A network namespace for tests; those that a killed run has left behind are removed.
///
/// # Errors
/// Not root.
pub fn namespace(lab: &Lab) -> Result<Netns> {
    const PREFIX: &str = "nic-emu";
    for entry in std::fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name
            .strip_prefix("nic-emu-")
            .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // Another process may do the same at this moment.
            let _ = lab.host_tool("ip")?.args(["netns", "del", &name]).output();
        }
    }
    Ok(Netns::new(lab, PREFIX)?)
}
