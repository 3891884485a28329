//! Throughput by iperf3, with the client in the guest.

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nic_emu_lab::{Netns, Process, Vm};
use serde_json::Value;

use crate::pair::Direction;

/// What the guest's client does.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// From or to the guest.
    pub direction: Direction,
    /// `None`: TCP. Otherwise UDP at this many Mbit/s.
    pub udp_mbit: Option<u32>,
    /// Seconds that count; one more goes before.
    pub seconds: u32,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Throughput {
    /// Mbit/s of payload at the receiver.
    pub mbit: f64,
    /// TCP segments sent again.
    pub retransmits: u64,
    /// Share of UDP datagrams lost, in percent.
    pub lost_percent: f64,
    /// UDP datagrams lost.
    pub lost: u64,
}

/// Each server listens on a port of its own: the guest's old connections to it may linger.
fn next_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    5201 + NEXT.fetch_add(1, Ordering::Relaxed) % 20_000
}

/// An iperf3 server for one client; killed when this is dropped.
#[derive(Debug)]
pub struct Server {
    _process: Option<Process>,
    port: u16,
}

impl Server {
    /// Starts one in a network namespace of this machine and waits until it listens.
    ///
    /// # Errors
    /// It does not start.
    pub fn on_host(netns: &Netns) -> Result<Self> {
        let port = next_port();
        let mut command = netns.tool("iperf3")?;
        command.args(["-s", "-1", "--forceflush", "-p", &port.to_string()]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = Process::spawn(command)?;
        let stdout = process.child().stdout.take().context("no stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        if !lines
            .by_ref()
            .map_while(Result::ok)
            .any(|line| line.contains("Server listening"))
        {
            bail!("iperf3 does not listen");
        }
        // Nobody wants the rest, but without a reader it would end the server.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Ok(Self {
            _process: Some(process),
            port,
        })
    }

    /// Starts one in a guest.
    ///
    /// # Errors
    /// The guest is gone, or the server does not listen.
    pub fn in_guest(vm: &mut Vm) -> Result<Self> {
        let port = next_port();
        let script = format!(
            "iperf3 -s -1 -p {port} >/dev/null 2>&1 &
             n=0; until ss -ltn | grep -q ':{port} '; do n=$((n + 1)); [ $n -gt 100 ] && exit 1; usleep 100000; done"
        );
        let started = vm.run(&script)?;
        ensure!(started.success(), "iperf3 does not listen in the guest");
        Ok(Self {
            _process: None,
            port,
        })
    }
}

/// Runs one client in the guest against a server at `to`.
///
/// # Errors
/// The client fails, or nothing arrives.
pub fn run(vm: &mut Vm, to: IpAddr, server: &Server, load: Load) -> Result<Throughput> {
    let Load {
        direction,
        udp_mbit,
        seconds,
    } = load;
    let mut script = format!(
        "iperf3 -J -i 0 -O 1 -c {to} -p {} -t {seconds}",
        server.port
    );
    if direction == Direction::Receive {
        script += " -R";
    }
    if let Some(mbit) = udp_mbit {
        script += &format!(" -u -l 1400 -b {mbit}M");
    }
    let output = vm.run_for(&script, Duration::from_secs(u64::from(seconds) + 40))?;
    let json: Value = serde_json::from_str(&output.stdout)
        .with_context(|| format!("iperf3 said: {}", output.stderr))?;
    if let Some(error) = json["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let end = &json["end"];
    // Of UDP, `sum_received` is what the receiver has seen; in older versions `sum` alone is complete.
    let received = &end["sum_received"];
    let bits = received["bits_per_second"]
        .as_f64()
        .context("iperf3 reports no throughput")?;
    let of_udp = |name: &str| {
        received[name]
            .as_f64()
            .or(end["sum"][name].as_f64())
            .unwrap_or(0.0)
    };
    let throughput = Throughput {
        mbit: bits / 1e6,
        retransmits: end["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
        lost_percent: of_udp("lost_percent"),
        lost: of_udp("lost_packets") as u64,
    };
    ensure!(
        throughput.mbit > 0.1,
        "iperf3 moved nothing: {throughput:?}"
    );
    Ok(throughput)
}
