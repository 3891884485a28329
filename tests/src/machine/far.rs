//! What is behind a NIC's TAP, by frames: another TAP, on the same bridge.

use std::fs;

use anyhow::{Context, Result};
use net_backend::{Backend, RxBuf, Tap, TapOptions};
use nic_emu::Time;
use nic_emu::common::frame::{Offload, TxBurst};
use nic_emu_lab::Netns;

use crate::inside::inside;

const BRIDGE: &str = "bridge0";
const FAR: &str = "far0";

/// The test's end.
pub struct FarTap {
    port: Backend,
    buffer: RxBuf,
}

impl FarTap {
    /// Puts the TAP `near` of that namespace on a new bridge, and another one beside it. Nobody but us sends anything there.
    ///
    /// # Errors
    /// The namespace's interfaces cannot be set up.
    pub fn plug(netns: &Netns, near: &str) -> Result<Self> {
        // Not those either that are still to come.
        inside(netns.name(), || {
            let path = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
            fs::write(path, "1").context(path)?;
            let path = format!("/proc/sys/net/ipv6/conf/{near}/disable_ipv6");
            fs::write(&path, "1").context(path)
        })?;
        netns.ip(&format!(
            "link add {BRIDGE} type bridge forward_delay 0 mcast_snooping 0"
        ))?;
        netns.ip(&format!("link set {BRIDGE} up"))?;
        netns.ip(&format!("link set {near} master {BRIDGE} up"))?;
        let options = TapOptions {
            ifname: FAR.into(),
            bridge: Some(BRIDGE.into()),
            ..TapOptions::default()
        };
        let tap = inside(netns.name(), || Ok(Tap::create(&options)?))?;
        Ok(Self {
            port: tap.into(),
            buffer: RxBuf::new(),
        })
    }

    /// Sends a frame to the NIC.
    ///
    /// # Panics
    /// The TAP does not take it.
    pub fn transmit(&mut self, frame: &[u8]) {
        let (head, rest) = frame.split_at(frame.len().min(60));
        let rest = [guest_mem::GuestSlice::from_bytes(rest)];
        let mut burst = TxBurst::new();
        assert!(burst.push_frame(head, &rest, Offload::default()));
        assert_eq!(self.port.tx.send(&burst, Time(0)), 1, "the TAP is full");
    }

    /// Takes the next frame of the NIC, if there is one: as how many segments it counts.
    pub fn collect(&mut self) -> Option<usize> {
        let frame = self.port.rx.recv(&mut self.buffer, Time(0))?;
        Some(frame.segments())
    }
}
