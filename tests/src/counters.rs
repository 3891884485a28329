//! Counters of all parties along a frame's way: daemon, guest's driver, IP stacks, TAP.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, ensure};
use nic_emu_lab::{Netns, Vm};

use crate::inside::inside;

/// Counters by name; one that is not there counts as 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(pub BTreeMap<String, u64>);

impl Counters {
    /// One counter's value.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Those whose name fits and that are not 0.
    pub fn nonzero<'a>(&'a self, fits: impl Fn(&str) -> bool + 'a) -> Counters {
        let found = self
            .0
            .iter()
            .filter(|(name, value)| **value != 0 && fits(name));
        Self(found.map(|(name, value)| (name.clone(), *value)).collect())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, value)) in self.0.iter().enumerate() {
            write!(f, "{}{name} {value}", if at > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// What a NIC of `nic-emu-cli` says at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The NIC's name: its socket's path.
    pub name: String,
    /// Counters of the model.
    pub model: Counters,
    /// Counters of the backend.
    pub backend: Counters,
}

/// Finds the `ended; guest: ...; network: ...` lines in a daemon's log.
#[must_use]
pub fn parse_reports(log: &str) -> Vec<Report> {
    let line = |line: &str| {
        let (model, rest) = line
            .split_once("ended; guest: ")?
            .1
            .split_once("; network: ")?;
        let (backend, name) = rest.rsplit_once(" nic=")?;
        let name = name.trim().trim_matches('"').to_owned();
        Some(Report {
            name,
            model: named_numbers(model),
            backend: named_numbers(backend),
        })
    };
    log.lines().filter_map(line).collect()
}

/// Each number with the name before it: `a 1, b: 2, c=3`.
fn named_numbers(text: &str) -> Counters {
    let mut counters = BTreeMap::new();
    let mut name = "";
    for word in text
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
    {
        match word.parse() {
            Ok(value) if !name.is_empty() => drop(counters.insert(name.to_owned(), value)),
            _ => name = word,
        }
    }
    Counters(counters)
}

/// `ethtool -S` of a guest's NIC.
///
/// # Errors
/// The guest is gone, or the NIC has no statistics.
pub fn ethtool(vm: &mut Vm, ifname: &str) -> Result<Counters> {
    let printed = vm.ok(&format!("ethtool -S {ifname}"))?;
    let pairs = printed
        .lines()
        .filter_map(|line| line.trim().split_once(": "));
    let counters: BTreeMap<_, _> = pairs
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect();
    ensure!(
        !counters.is_empty(),
        "ethtool -S {ifname} shows no counter: {printed}"
    );
    Ok(Counters(counters))
}

/// `/proc/net/snmp` and `snmp6` of a guest, as `TcpInErrs`, `Ip6InReceives`.
///
/// # Errors
/// The guest is gone.
pub fn snmp_of_guest(vm: &mut Vm) -> Result<Counters> {
    Ok(parse_snmp(&vm.ok("cat /proc/net/snmp /proc/net/snmp6")?))
}

/// The same of a network namespace of this machine.
///
/// # Errors
/// The namespace may not be entered.
pub fn snmp_of_host(netns: &Netns) -> Result<Counters> {
    let read = |path| std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    let text = inside(netns.name(), || {
        Ok(read("/proc/thread-self/net/snmp")? + &read("/proc/thread-self/net/snmp6")?)
    })?;
    Ok(parse_snmp(&text))
}

/// `snmp` has pairs of lines, names and values, behind the protocol's name; `snmp6` one name and value a line.
fn parse_snmp(text: &str) -> Counters {
    let mut counters = BTreeMap::new();
    let mut names: Option<(&str, &str)> = None;
    for line in text.lines() {
        match (line.split_once(": "), names.take()) {
            (Some((group, values)), Some((same, names))) if group == same => {
                let pairs = names.split_whitespace().zip(values.split_whitespace());
                counters.extend(pairs.filter_map(|(name, value)| {
                    Some((format!("{group}{name}"), value.parse().ok()?))
                }));
            }
            (Some(header), _) => names = Some(header),
            (None, _) => {
                let mut words = line.split_whitespace();
                if let (Some(name), Some(Ok(value))) = (words.next(), words.next().map(str::parse))
                {
                    counters.insert(name.to_owned(), value);
                }
            }
        }
    }
    Counters(counters)
}

/// Counters of `ethtool -S` that show a damaged frame, a wrong length or checksum, or a lost frame.
#[must_use]
pub fn ethtool_trouble(counters: &Counters) -> Counters {
    counters.nonzero(|name| {
        let bad = [
            "error",
            "crc",
            "dropped",
            "missed",
            "no_buffer",
            "abort",
            "underrun",
            "late_coll",
            "timeout_count",
        ];
        bad.iter().any(|part| name.contains(part))
    })
}

/// Counters of the IP stacks that show a damaged packet.
#[must_use]
pub fn snmp_trouble(counters: &Counters) -> Counters {
    counters.nonzero(|name| {
        let bad = [
            "InCsumErrors",
            "InHdrErrors",
            "TcpInErrs",
            "InTruncatedPkts",
            "ReasmFails",
            "IcmpInErrors",
        ];
        bad.iter().any(|part| name.ends_with(part))
    })
}

/// What the TAP's interface has counted, from the host's view: `rx` is what the NIC sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapCounters {
    /// Frames that the NIC sent, a super-frame counted once.
    pub rx_packets: u64,
    /// Their bytes, without FCS.
    pub rx_bytes: u64,
    /// Frames of the NIC that were thrown away.
    pub rx_dropped: u64,
    /// Frames handed to the NIC, a super-frame counted once.
    pub tx_packets: u64,
    /// Their bytes, without FCS.
    pub tx_bytes: u64,
    /// Frames thrown away since the NIC's queue was full.
    pub tx_dropped: u64,
}

impl TapCounters {
    /// What has come after `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            rx_packets: self.rx_packets.saturating_sub(before.rx_packets),
            rx_bytes: self.rx_bytes.saturating_sub(before.rx_bytes),
            rx_dropped: self.rx_dropped.saturating_sub(before.rx_dropped),
            tx_packets: self.tx_packets.saturating_sub(before.tx_packets),
            tx_bytes: self.tx_bytes.saturating_sub(before.tx_bytes),
            tx_dropped: self.tx_dropped.saturating_sub(before.tx_dropped),
        }
    }
}

/// Reads the counters of a TAP.
///
/// # Errors
/// There is no such interface.
pub fn tap(netns: &Netns, ifname: &str) -> Result<TapCounters> {
    let printed = netns.ip(&format!("-s -j link show dev {ifname}"))?;
    let json: serde_json::Value =
        serde_json::from_str(&printed).context("`ip -j` printed no JSON")?;
    let stats = &json[0]["stats64"];
    let value = |side: &str, name: &str| {
        stats[side][name]
            .as_u64()
            .with_context(|| format!("no {side} {name} in {printed}"))
    };
    Ok(TapCounters {
        rx_packets: value("rx", "packets")?,
        rx_bytes: value("rx", "bytes")?,
        rx_dropped: value("rx", "dropped")?,
        tx_packets: value("tx", "packets")?,
        tx_bytes: value("tx", "bytes")?,
        tx_dropped: value("tx", "dropped")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_found_in_a_log() {
        let log = "2026-11-23T01:02:03Z  INFO a hypervisor has connected nic=\"/a.sock\"\n\
            2026-11-23T01:02:04Z  INFO ended; guest: tx_frames 12, rx_frames: 3; network: Counters { tx_segments: 40, \
            lost: 0 } nic=\"/a.sock\"\n";
        let reports = parse_reports(log);
        assert_eq!(reports.len(), 1);
        assert_eq!(reports[0].name, "/a.sock");
        assert_eq!(
            (
                reports[0].model.get("tx_frames"),
                reports[0].model.get("rx_frames")
            ),
            (12, 3)
        );
        assert_eq!(
            (
                reports[0].backend.get("tx_segments"),
                reports[0].backend.get("rx_frames")
            ),
            (40, 0)
        );
    }

    #[test]
    fn both_forms_of_snmp_are_read() {
        let text = "Ip: Forwarding InHdrErrors\nIp: 2 7\nTcp: MaxConn InErrs\nTcp: -1 5\nIp6InReceives   \t9\n";
        let counters = parse_snmp(text);
        assert_eq!(counters.get("IpInHdrErrors"), 7);
        assert_eq!(counters.get("TcpInErrs"), 5);
        assert_eq!(counters.get("Ip6InReceives"), 9);
        assert_eq!(
            snmp_trouble(&counters).to_string(),
            "IpInHdrErrors 7, TcpInErrs 5"
        );
    }

    #[test]
    fn trouble_is_told_from_traffic() {
        let text = [
            ("rx_packets", 5),
            ("rx_crc_errors", 1),
            ("rx_csum_offload_good", 4),
            ("tx_errors", 0),
        ];
        let counters = Counters(text.map(|(name, value)| (name.to_owned(), value)).into());
        assert_eq!(ethtool_trouble(&counters).to_string(), "rx_crc_errors 1");
    }
}
