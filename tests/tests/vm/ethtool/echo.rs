//! A guest on a cable that sends back what its driver takes in.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use guest_driver::Wire;
use guest_driver::packet::plain;
use nic_emu_lab::{Lab, Nic, Suite, Vm};
use nic_emu_tests::counters::{self, Counters};
use nic_emu_tests::guest;
use nic_emu_tests::machine::{Cable, Daemon, MAC};
use serde_json::json;

/// The station at the other end of the cable.
pub(super) const PEER: [u8; 6] = [0x52, 0x54, 0, 0xAA, 0xBB, 0xCC];
/// A station that is neither.
pub(super) const STRANGER: [u8; 6] = [0x52, 0x54, 0, 0xDD, 0xEE, 0xFF];
/// Everybody.
pub(super) const BROADCAST: [u8; 6] = [0xFF; 6];
/// Ethertypes of frames that come back: local experiments, VLANs, flow control.
const ECHOED: [[u8; 2]; 3] = [[0x88, 0xB5], [0x81, 0x00], [0x88, 0x08]];
/// What an answer may take: the machine may have other work.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A frame, and whether it has to come back.
pub(super) type Expected = (Vec<u8>, bool);

/// A guest whose `eth0` is our NIC, with the cable in our hands.
///
/// Whatever of the [`ECHOED`] ethertypes the driver hands to the kernel, the kernel hands to the driver again, byte for
/// byte and in order, wherever it was addressed to.
pub(super) struct Echo {
    pub(super) vm: Vm,
    pub(super) cable: Cable,
    _daemon: Daemon,
    bar: u64,
    seed: u32,
}

impl Echo {
    pub(super) fn boot(lab: &Lab, suite: Suite) -> Result<Self> {
        let (daemon, mut cables) = Daemon::start(&[MAC]);
        let mut vm = lab
            .vm(suite)
            .nic(Nic::vfio_user(daemon.socket(0)))
            .start()?;
        guest::identify(&mut vm, "eth0")?;
        // IPv6 would join groups and send reports of its own.
        vm.ok("modprobe -a sch_ingress cls_matchall act_mirred
               echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
               ip addr add 10.77.0.2/24 dev eth0
               ip neigh add 10.77.0.1 lladdr 52:54:00:aa:bb:cc dev eth0 nud permanent
               tc qdisc add dev eth0 clsact
               for protocol in 0x88b5 802.1q 0x8808; do
                   tc filter add dev eth0 ingress protocol $protocol matchall action mirred egress mirror dev eth0 || exit 1
               done
               ip link set eth0 up")?;
        let resource = vm.ok("head -n 1 /sys/class/net/eth0/device/resource")?;
        let bar = resource
            .split_whitespace()
            .next()
            .and_then(|first| u64::from_str_radix(first.trim_start_matches("0x"), 16).ok())
            .with_context(|| format!("no BAR0 in {resource}"))?;
        let mut echo = Self {
            vm,
            cable: cables.remove(0),
            _daemon: daemon,
            bar,
            seed: 0,
        };
        echo.ready()?;
        Ok(echo)
    }

    /// Waits until the interface has a carrier again.
    pub(super) fn ready(&mut self) -> Result<()> {
        guest::wait_carrier(&mut self.vm, "eth0")
    }

    /// Runs a command that may reset the device, and waits until the interface is back.
    pub(super) fn set(&mut self, script: &str) -> Result<String> {
        let said = self.vm.ok(script)?;
        self.ready()?;
        Ok(said)
    }

    /// A frame of `len` bytes to `destination`, unlike all others.
    pub(super) fn frame(&mut self, destination: [u8; 6], len: usize) -> Vec<u8> {
        self.seed += 1;
        plain(destination, PEER, len, self.seed)
    }

    /// The same with a VLAN tag; 4 bytes longer.
    pub(super) fn tagged(&mut self, destination: [u8; 6], tci: u16, len: usize) -> Vec<u8> {
        let mut frame = self.frame(destination, len);
        let [high, low] = tci.to_be_bytes();
        frame.splice(12..12, [0x81, 0x00, high, low]);
        frame
    }

    /// Sends frames and returns what came back of them.
    pub(super) fn echoes<'f>(
        &mut self,
        frames: impl IntoIterator<Item = &'f Vec<u8>>,
    ) -> Result<Vec<Vec<u8>>> {
        for frame in frames {
            self.cable.transmit(frame);
        }
        self.rest()
    }

    /// What has come back, or will, of all frames sent so far.
    pub(super) fn rest(&mut self) -> Result<Vec<Vec<u8>>> {
        // Nothing overtakes on the way there and back: when this one is here, so are those before it.
        let last = self.frame(MAC, 60);
        self.cable.transmit(&last);
        let mut echoes = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.cable.collect() {
                Some(frame) if frame.starts_with(&last) => return Ok(echoes),
                Some(frame) if ECHOED.iter().any(|kind| frame[12..14] == *kind) => {
                    echoes.push(frame);
                }
                Some(_) => {}
                None => sleep(Duration::from_millis(1)),
            }
        }
        let nic = counters::ethtool(&mut self.vm, "eth0")?.nonzero(|_| true);
        bail!("a frame to the guest's own address did not come back; the guest counts {nic}");
    }

    /// Makes sure that of these frames just those come back, unchanged, that have to.
    pub(super) fn expect(&mut self, frames: &[Expected]) -> Result<()> {
        let echoes = self.echoes(frames.iter().map(|(frame, _)| frame))?;
        let want: Vec<_> = frames
            .iter()
            .filter(|(_, back)| *back)
            .map(|(f, _)| f)
            .collect();
        if echoes.iter().eq(want.iter().copied()) {
            return Ok(());
        }
        let wrong = frames.iter().enumerate();
        let wrong: Vec<_> = wrong
            .filter(|(_, (frame, back))| echoes.contains(frame) != *back)
            .map(|(at, (frame, back))| {
                format!(
                    "frame {at} ({} bytes, {:02x?}) {}",
                    frame.len(),
                    &frame[..18.min(frame.len())],
                    if *back { "is missing" } else { "came back" }
                )
            })
            .collect();
        let kinds: Vec<_> = echoes
            .iter()
            .map(|e| format!("{} bytes {:02x?}", e.len(), &e[..18.min(e.len())]))
            .collect();
        let nic = self.counters()?.nonzero(|_| true);
        bail!(
            "{} of {} frames came back, {} should have: {}; all that came: {}; the guest counts {nic}",
            echoes.len(),
            frames.len(),
            want.len(),
            wrong.join(", "),
            kinds.join(", ")
        );
    }

    /// Ordinary frames pass both ways.
    pub(super) fn expect_traffic(&mut self) -> Result<()> {
        let frames: Vec<_> = [60, 61, 64, 590, 1514]
            .map(|len| (self.frame(MAC, len), true))
            .into();
        self.expect(&frames)
    }

    /// `ethtool -S`.
    pub(super) fn counters(&mut self) -> Result<Counters> {
        counters::ethtool(&mut self.vm, "eth0")
    }

    /// What `ip -s link` shows, such as `rx_bytes`: all bytes that the driver has handed to the kernel.
    pub(super) fn statistic(&mut self, name: &str) -> Result<u64> {
        let said = self
            .vm
            .ok(&format!("cat /sys/class/net/eth0/statistics/{name}"))?;
        said.parse()
            .with_context(|| format!("{name} of eth0 is {said}"))
    }

    /// Reads a register behind the driver's back.
    pub(super) fn register(&mut self, offset: u64) -> Result<u32> {
        let line = format!("xp /1xw {:#x}", self.bar + offset);
        let said = self
            .vm
            .qmp()
            .execute("human-monitor-command", json!({ "command-line": line }))?;
        let said = said.as_str().unwrap_or_default();
        said.split_once(": 0x")
            .and_then(|(_, value)| u32::from_str_radix(value.trim(), 16).ok())
            .with_context(|| format!("QEMU cannot read {offset:#x}: {said}"))
    }

    /// The registers that `ethtool -d` prints, by name.
    pub(super) fn dump(&mut self) -> Result<BTreeMap<String, u32>> {
        let said = self.vm.ok("ethtool -d eth0")?;
        let registers: BTreeMap<_, _> = said
            .lines()
            .filter_map(|line| {
                let (_, rest) = line.strip_prefix("0x")?.split_once(": ")?;
                let name = rest.split_whitespace().next()?;
                let value = rest.split_whitespace().next_back()?.strip_prefix("0x")?;
                Some((name.to_owned(), u32::from_str_radix(value, 16).ok()?))
            })
            .collect();
        ensure!(
            registers.len() > 9,
            "ethtool -d prints few registers: {said}"
        );
        Ok(registers)
    }

    /// What a tool says after `key:` (in the last such line).
    pub(super) fn says(&mut self, command: &str, key: &str) -> Result<String> {
        let said = self.vm.ok(command)?;
        said.lines()
            .rev()
            .find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(':'))
            .map(|value| value.trim().to_owned())
            .with_context(|| format!("`{command}` says nothing of {key}: {said}"))
    }
}

/// One of `now`'s counters less what it was before.
pub(super) fn grown(now: &Counters, before: &Counters, name: &str) -> u64 {
    now.get(name) - before.get(name)
}
