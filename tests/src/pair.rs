//! A guest and whatever its NIC leads to.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use nic_emu_lab::{Netns, Vm};

use crate::iperf::{self, Load, Throughput};
use crate::transfer::{self, Transfer};
use crate::wire::Ends;
use crate::{iperf::Server, pinger};

/// Seen from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The guest receives.
    Receive,
    /// The guest sends.
    Send,
}

/// The other end.
#[derive(Debug)]
pub enum Far<'a> {
    /// A TAP of this machine, in a namespace.
    Host(&'a Netns),
    /// Another guest.
    Guest(&'a mut Vm),
}

/// A guest, the other end of its NIC's way, and both their addresses.
#[derive(Debug)]
pub struct Pair<'a> {
    /// The guest.
    pub vm: &'a mut Vm,
    /// Its addresses.
    pub own: Ends,
    /// The other end.
    pub far: Far<'a>,
    /// The other end's addresses.
    pub to: Ends,
}

impl Pair<'_> {
    /// Pings with each payload size in turn, over IPv4 or IPv6: from the host where there is one, by a pinger that
    /// compares every byte; else from guest to guest.
    ///
    /// # Errors
    /// An echo was lost or damaged.
    pub fn ping(&mut self, v6: bool, sizes: impl IntoIterator<Item = usize>) -> Result<String> {
        let pick = |ends: Ends| -> IpAddr { if v6 { ends.v6.into() } else { ends.v4.into() } };
        match &mut self.far {
            Far::Host(netns) => {
                let trips = pinger::ping(netns.name(), pick(self.own), sizes)?;
                let (min, median) = (
                    trips.min().as_secs_f64() * 1e3,
                    trips.median().as_secs_f64() * 1e3,
                );
                Ok(format!(
                    "{} of {0}, min {min:.2} ms, median {median:.2} ms",
                    trips.count()
                ))
            }
            Far::Guest(_) => {
                let sizes: Vec<usize> = sizes.into_iter().collect();
                for size in &sizes {
                    let script = format!("ping -q -c 1 -W 3 -s {size} {}", pick(self.to));
                    let output = self.vm.run(&script)?;
                    let arrived = output.success() && output.stdout.contains(" 0% packet loss");
                    ensure!(arrived, "echo with {size} bytes: {}", output.stdout.trim());
                }
                Ok(format!("{} of {0}", sizes.len()))
            }
        }
    }

    /// Transfers a file of `mib` MiB to the guest and back, and compares SHA-256 each time; returns both ways.
    ///
    /// # Errors
    /// A connection fails, or a file differs.
    pub fn files(&mut self, mib: usize) -> Result<[Transfer; 2]> {
        match &mut self.far {
            Far::Host(netns) => {
                let to = self.to.v4.into();
                let there = transfer::host_to_guest(netns, to, self.vm, mib)
                    .context("file to the guest")?;
                let back =
                    transfer::guest_to_host(self.vm, netns, to).context("file from the guest")?;
                Ok([there, back])
            }
            Far::Guest(other) => {
                let (own, to) = (self.own.v4.into(), self.to.v4.into());
                let there = transfer::guest_to_guest(other, self.vm, own, mib)
                    .context("file to the guest")?;
                let back = transfer::guest_to_guest(self.vm, other, to, mib)
                    .context("file from the guest")?;
                Ok([there, back])
            }
        }
    }

    /// iperf3 over TCP.
    ///
    /// # Errors
    /// It fails or moves nothing.
    pub fn tcp(&mut self, direction: Direction, seconds: u32) -> Result<Throughput> {
        self.iperf(Load {
            direction,
            udp_mbit: None,
            seconds,
        })
    }

    /// iperf3 over UDP with datagrams of 1400 bytes at `mbit` Mbit/s.
    ///
    /// # Errors
    /// It fails or moves nothing.
    pub fn udp(&mut self, direction: Direction, mbit: u32, seconds: u32) -> Result<Throughput> {
        self.iperf(Load {
            direction,
            udp_mbit: Some(mbit),
            seconds,
        })
    }

    fn iperf(&mut self, load: Load) -> Result<Throughput> {
        let server = match &mut self.far {
            Far::Host(netns) => Server::on_host(netns)?,
            Far::Guest(other) => Server::in_guest(other)?,
        };
        iperf::run(self.vm, self.to.v4.into(), &server, load)
    }
}
