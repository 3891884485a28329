//! Opens the backends that NICs were configured with.

use std::collections::HashMap;

use anyhow::{Context, Result};
use net_backend::{Backend, Direction, Fault, FaultOptions, Null, Pcap, Tap, TapOptions, switch};

use crate::config::{self, Net, NicConfig};
use crate::error::UsageError;

/// Opens backends; remembers the switches that still wait for their other NIC.
#[derive(Default)]
pub(crate) struct Backends {
    waiting: HashMap<String, Backend>,
    joined: Vec<String>,
}

impl Backends {
    /// Opens the backend of one NIC, with its wrappers around it.
    ///
    /// # Errors
    ///
    /// One sentence for the operator: what, which, why, what to do.
    pub(crate) fn open(&mut self, nic: &NicConfig) -> Result<Backend> {
        let mut backend = match &nic.net {
            Net::Null => Null::new().into(),
            Net::Switch(name) => self.port(name)?,
            Net::Tap(options) => tap(options)?.into(),
        };
        if let Some(fault) = nic.fault {
            let config::Fault {
                loss,
                corrupt,
                delay,
                seed,
            } = fault;
            let options = FaultOptions {
                loss,
                corrupt,
                delay,
                seed,
                direction: Direction::Both,
            };
            backend = Fault::around(backend, options);
        }
        // Outermost: the capture shows what the guest sends and receives.
        if let Some(path) = &nic.pcap {
            backend = Pcap::around(backend, path)?;
        }
        Ok(backend)
    }

    /// Ends the opening.
    ///
    /// # Errors
    ///
    /// A switch that only one NIC named.
    pub(crate) fn finish(self) -> Result<()> {
        match self.waiting.keys().next() {
            None => Ok(()),
            Some(name) => {
                let what = format!(
                    "only one NIC is on switch {name}: give a second --nic with net=switch,switch={name}"
                );
                Err(UsageError(what).into())
            }
        }
    }

    fn port(&mut self, name: &str) -> Result<Backend> {
        if let Some(port) = self.waiting.remove(name) {
            self.joined.push(name.to_owned());
            return Ok(port);
        }
        if self.joined.iter().any(|joined| joined == name) {
            let what = format!(
                "a third NIC is on switch {name}, which has two ports: use TAPs with bridge=NAME for more"
            );
            return Err(UsageError(what).into());
        }
        let (here, there) = switch::pair().with_context(|| format!("cannot make switch {name}"))?;
        self.waiting.insert(name.to_owned(), there);
        Ok(here)
    }
}

fn tap(options: &config::Tap) -> Result<Tap> {
    let tap = TapOptions {
        ifname: options.ifname.clone().unwrap_or_else(|| "tap%d".into()),
        ip: options.ip,
        bridge: options.bridge.clone(),
        offload: options.offload,
        ..TapOptions::default()
    };
    match options.fd {
        None => Ok(Tap::create(&tap)?),
        Some(number) => {
            let fd = net_backend::inherit_fd(number)
                .with_context(|| format!("tap-fd={number} is not usable"))?;
            Ok(Tap::from_fd(fd, &tap)?)
        }
    }
}
