//! What a frame costs the daemon in system calls: one of its own, and a few for the batch that it comes in, on however many
//! threads a NIC is. And that it does nothing without a reason.

use std::fs;
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest_driver::e1000::{Config, E1000, Offload};
use guest_driver::packet::Packet;
use guest_driver::regs::{RCTL, RDTR, STATUS, WUFC, cause, pci, rctl, wufc};
use guest_driver::socket::Socket;
use guest_driver::{Bus, desc, packet};
use nic_emu_lab::{Lab, Netns};
use nic_emu_tests::calls::{Calls, Traced, WITH_DEADLINE, between};
use nic_emu_tests::host::namespace;
use nic_emu_tests::inside::inside;
use nic_emu_tests::{Daemon, DaemonBuilder, Wire, is_root};

const WIRE: Wire = Wire(0);
const MAC: &str = "52:54:00:12:34:56";
/// What a batch costs beside its frames: the doorbell or a last look at the TAP, the interrupt, and going to sleep again.
const PER_BATCH: u64 = 3;
/// The control may wake a queue before it has looked and after: each time it writes, and the queue reads and sleeps again.
const WAKES: u64 = 2;
const PER_WAKE: u64 = 3;
/// A NIC is on one thread, two or three.
const SHARDS: [&str; 3] = ["1", "2", "3"];
/// TCP payload of a segment.
const MSS: u16 = 1448;
const PATIENCE: Duration = Duration::from_secs(20);
/// PMCSR in configuration space.
const PMCSR: u8 = 0xDC + pci::PMCSR;
/// How long nothing may happen.
const QUIET: Duration = Duration::from_millis(500);

/// A daemon under observation, a driver without a guest, and the host's side of the TAP.
struct Rig {
    driver: E1000<Socket>,
    traced: Traced,
    to_guest: UdpSocket,
    // In this order: the daemon, then its namespace.
    daemon: Daemon,
    _netns: Netns,
}

/// A namespace with our side of the TAP, and a daemon on it that is run with these options.
fn daemon(options: &[&str]) -> Result<(Netns, Daemon)> {
    let netns = namespace(&Lab::open()?)?;
    let (tap, host, guest) = (WIRE.tap(), WIRE.first().v4, WIRE.second().v4);
    netns.ip(&format!("tuntap add dev {tap} mode tap vnet_hdr"))?;
    // Nobody but us is to send anything.
    inside(netns.name(), || {
        let path = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", WIRE.tap());
        fs::write(&path, "1").with_context(|| path.clone())
    })?;
    netns.ip(&format!("addr add {host}/24 dev {tap}"))?;
    netns.ip(&format!("link set {tap} up"))?;
    netns.ip(&format!(
        "neigh add {guest} lladdr {MAC} dev {tap} nud permanent"
    ))?;
    let daemon = DaemonBuilder::new()?
        .nic(&format!("net=tap,ifname={tap},mac={MAC}"))
        // Nobody but NICs has anything to do.
        .args(&["--control", "none"])
        .args(options)
        .start(Some(&netns))?;
    Ok((netns, daemon))
}

fn rig(options: &[&str]) -> Result<Rig> {
    let (netns, daemon) = daemon(options)?;
    let config = Config {
        tx_count: 128,
        rx_count: 128,
        ..Config::default()
    };
    let bus = Socket::connect(daemon.socket(0))?;
    let mut driver = E1000::start(bus, config).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    driver.enable_interrupts(cause::TXDW | cause::RXT0);
    let to_guest = inside(netns.name(), || Ok(UdpSocket::bind((WIRE.first().v4, 0))?))?;
    to_guest.connect((WIRE.second().v4, 9))?;
    let traced = Traced::new(daemon.pid())?;
    Ok(Rig {
        driver,
        traced,
        to_guest,
        daemon,
        _netns: netns,
    })
}

impl Rig {
    /// Does once what is counted later: then it is known which eventfds are for whom.
    fn warm_up(&mut self) -> Result<()> {
        self.transmit(1)?;
        self.receive(1)?;
        self.driver.bus.write32(RDTR, 1000);
        self.receive_later()?;
        self.driver.bus.write32(RDTR, 0);
        self.quiet()?;
        Ok(())
    }

    /// Acknowledges interrupts, so that the next one is a new one, and waits until the daemon sleeps.
    fn quiet(&mut self) -> Result<Calls> {
        self.driver.causes();
        self.driver.bus.interrupt();
        self.driver.bus.settle();
        self.traced.asleep()
    }

    /// Sends frames by one doorbell; returns what they cost.
    fn transmit(&mut self, count: usize) -> Result<Calls> {
        let before = self.quiet()?;
        let frame = packet::plain([2; 6], self.driver.mac, 60, 1);
        for _ in 0..count {
            ensure!(self.driver.queue(&frame, Offload::None), "no room");
        }
        self.driver.tx.kick(&mut self.driver.bus);
        ensure!(self.driver.flush(PATIENCE.as_nanos() as u64), "not sent");
        Ok(between(&before, &self.traced.asleep()?))
    }

    /// Sends super-frames by one doorbell; returns what they cost.
    fn transmit_large(&mut self, count: usize) -> Result<Calls> {
        let before = self.quiet()?;
        let (frame, offload) = large([2; 6], self.driver.mac).for_segmentation(MSS);
        for _ in 0..count {
            ensure!(self.driver.queue(&frame, offload), "no room");
        }
        self.driver.tx.kick(&mut self.driver.bus);
        ensure!(self.driver.flush(PATIENCE.as_nanos() as u64), "not sent");
        Ok(between(&before, &self.traced.asleep()?))
    }

    /// Has frames wait in the TAP while the daemon is held, and returns what they cost.
    fn receive(&mut self, count: u32) -> Result<Calls> {
        let before = self.quiet()?;
        self.traced.hold(true);
        for _ in 0..count {
            self.to_guest.send(&[0; 1000])?;
        }
        self.traced.hold(false);
        self.arrived(&before, &vec![1000 + 42; count as usize])
    }

    /// Waits for frames of these lengths; returns what they have cost since `before`.
    fn arrived(&mut self, before: &Calls, lengths: &[usize]) -> Result<Calls> {
        let ring = &self.driver.rx;
        let last = (ring.clean + lengths.len() as u32 - 1) % ring.count;
        let deadline = Instant::now() + PATIENCE;
        while !self.has_arrived(last) {
            ensure!(
                Instant::now() < deadline,
                "not received: {}",
                self.daemon.log()
            );
            self.driver.bus.wait(20_000);
        }
        let cost = between(before, &self.traced.asleep()?);
        let mut buffer = [0; 2048];
        for &len in lengths {
            let frame = self
                .driver
                .receive(&mut buffer)
                .context("a frame is missing")?;
            ensure!(
                frame.len == len,
                "a stranger's frame of {} bytes",
                frame.len
            );
        }
        Ok(cost)
    }

    /// Receives a frame of which the guest is told later; returns what it cost until then.
    fn receive_later(&mut self) -> Result<Calls> {
        let before = self.quiet()?;
        self.driver.bus.take_trigger();
        self.to_guest.send(&[0; 1000])?;
        let deadline = Instant::now() + PATIENCE;
        while !self.driver.bus.take_trigger() {
            ensure!(Instant::now() < deadline, "no interrupt");
            self.driver.bus.wait(20_000);
        }
        self.arrived(&before, &[1000 + 42])
    }

    /// Whether the frame of this descriptor is in the guest's memory.
    fn has_arrived(&mut self, descriptor: u32) -> bool {
        let desc = self.driver.rx.read(&mut self.driver.bus, descriptor);
        desc::RxStatus::from(desc).status & desc::RX_DD != 0
    }
}

fn of(calls: &Calls, name: &str) -> u64 {
    calls.get(name).copied().unwrap_or(0)
}

/// A packet of nine segments and a half.
fn large(destination: [u8; 6], source: [u8; 6]) -> Packet {
    let len = usize::from(MSS) * 19 / 2;
    Packet::new(destination, source, false, true, len, 1)
}

/// A batch of so many frames, each of which is one call of this name, and one interrupt.
fn check(cost: &Calls, frame: &str, frames: u64, shards: &str) {
    let what = format!("{frames} of {frame} on {shards} threads: {cost:?}");
    assert_eq!(of(cost, "write eventfd"), 1, "{what}");
    let wakes = of(cost, "write waker");
    assert_eq!(of(cost, "read eventfd"), wakes, "{what}");
    assert!(wakes <= if shards == "1" { 0 } else { WAKES }, "{what}");
    let of_those = of(cost, WITH_DEADLINE);
    let all = cost.values().sum::<u64>() - of_those;
    assert!(all <= frames + PER_BATCH + PER_WAKE * wakes, "{what}");
    // The last look at a TAP finds nothing.
    let looks = u64::from(frame == "read tun");
    assert_eq!(of(cost, frame), frames + looks, "{what}");
}

#[test]
fn a_frame_costs_one_system_call_and_a_batch_a_few() -> Result<()> {
    if !is_root() {
        eprintln!("skipped: needs root");
        return Ok(());
    }
    for shards in SHARDS {
        let mut rig = rig(&["--shards", shards])?;
        rig.warm_up()?;
        for count in [1, 8, 64, 100] {
            let cost = rig.transmit(count)?;
            check(&cost, "write tun", count as u64, shards);
            let cost = rig.receive(count as u32)?;
            check(&cost, "read tun", count as u64, shards);
        }
    }
    Ok(())
}

#[test]
fn so_does_a_super_frame() -> Result<()> {
    if !is_root() {
        eprintln!("skipped: needs root");
        return Ok(());
    }
    for shards in SHARDS {
        let mut rig = rig(&["--shards", shards])?;
        rig.warm_up()?;
        for count in [1, 4, 8] {
            let cost = rig.transmit_large(count)?;
            check(&cost, "write tun", count as u64, shards);
        }
    }
    Ok(())
}

/// As often as epoll returns, there was a message, a frame, another thread, or a deadline, and never two of them.
fn check_returns(cost: &Calls, reasons: u64, shards: &str) {
    let wakes = of(cost, "read eventfd");
    let due = of(cost, WITH_DEADLINE);
    let what = format!("on {shards} threads: {cost:?}");
    assert_eq!(of(cost, "epoll_wait"), reasons + wakes + due, "{what}");
    assert!(shards != "1" || wakes == 0, "{what}");
}

#[test]
fn epoll_returns_for_messages_frames_and_deadlines_alone() -> Result<()> {
    const TIMES: u64 = 5;
    if !is_root() {
        eprintln!("skipped: needs root");
        return Ok(());
    }
    for shards in SHARDS {
        let mut rig = rig(&["--shards", shards])?;
        rig.warm_up()?;
        let before = rig.quiet()?;
        for _ in 0..TIMES {
            rig.driver.bus.read32(STATUS);
            rig.traced.asleep()?;
        }
        let cost = between(&before, &rig.traced.asleep()?);
        assert_eq!(of(&cost, "receive"), TIMES, "{cost:?}");
        assert_eq!(of(&cost, WITH_DEADLINE), 0, "{cost:?}");
        check_returns(&cost, TIMES, shards);
        for _ in 0..TIMES {
            let cost = rig.transmit(1)?;
            assert_eq!(of(&cost, "receive"), 1, "{cost:?}");
            check_returns(&cost, 1, shards);
            let cost = rig.receive(1)?;
            assert_eq!(of(&cost, WITH_DEADLINE), 0, "{cost:?}");
            check_returns(&cost, 1, shards);
        }
        // The time is long, so that the control is told before it is over.
        rig.driver.bus.write32(RDTR, 0xFFFF);
        for _ in 0..TIMES {
            let cost = rig.receive_later()?;
            assert_eq!(of(&cost, "receive"), 0, "{cost:?}");
            check_returns(&cost, 1, shards);
            // One thread sleeps until then, unless it hears of it when it is over.
            let due = of(&cost, WITH_DEADLINE);
            assert!(due == 1 || (due == 0 && shards == "3"), "{cost:?}");
        }
    }
    Ok(())
}

/// Nothing in all this time, which nobody has to be awake for.
fn nothing(traced: &Traced, what: &str) -> Result<()> {
    let before = traced.asleep()?;
    thread::sleep(QUIET);
    let cost = between(&before, &traced.asleep()?);
    ensure!(cost.is_empty(), "{what}: {cost:?}");
    Ok(())
}

#[test]
fn idle_it_does_nothing_at_all() -> Result<()> {
    if !is_root() {
        eprintln!("skipped: needs root");
        return Ok(());
    }
    let (_netns, lonely) = daemon(&["--busy-poll", "1000"])?;
    nothing(&Traced::new(lonely.pid())?, "without a hypervisor")?;

    for shards in SHARDS {
        idle(rig(&["--shards", shards])?)?;
    }
    Ok(())
}

/// A daemon whose guest does this and that.
fn idle(mut rig: Rig) -> Result<()> {
    rig.warm_up()?;
    rig.quiet()?;
    nothing(&rig.traced, "with one that asks nothing")?;
    rig.transmit(10)?;
    rig.receive(10)?;
    rig.quiet()?;
    nothing(&rig.traced, "after traffic")?;
    // A receiver that is off: what the network sends is nobody's business.
    rig.driver.bus.write32(RCTL, 0);
    rig.quiet()?;
    rig.to_guest.send(&[0; 1000])?;
    nothing(&rig.traced, "with the receiver off")?;
    // Asleep: only what may wake the guest is somebody's business, and only once.
    rig.driver.bus.write32(RCTL, rctl::EN);
    rig.driver.bus.write32(WUFC, wufc::EX);
    rig.driver.bus.config_write(PMCSR, 2, pci::D3HOT);
    rig.driver.bus.settle();
    rig.traced.asleep()?;
    rig.to_guest.send(&[0; 1000])?;
    nothing(&rig.traced, "in D3")?;
    let armed = pci::D3HOT | pci::PME_EN;
    rig.driver.bus.config_write(PMCSR, 2, armed);
    rig.driver.bus.settle();
    let status = |rig: &mut Rig| rig.driver.bus.config_read(PMCSR, 2) & pci::PME_STATUS;
    ensure!(status(&mut rig) == 0, "woken by what came before");
    rig.to_guest.send(&[0; 1000])?;
    let deadline = Instant::now() + PATIENCE;
    while status(&mut rig) == 0 {
        ensure!(Instant::now() < deadline, "no frame wakes it");
        thread::sleep(Duration::from_millis(1));
    }
    rig.traced.asleep()?;
    rig.to_guest.send(&[0; 1000])?;
    nothing(&rig.traced, "in D3, and woken")
}

#[test]
fn with_busy_poll_it_stays_awake_for_its_time_and_then_sleeps() -> Result<()> {
    if !is_root() {
        eprintln!("skipped: needs root");
        return Ok(());
    }
    let mut rig = rig(&["--busy-poll", "1000000"])?;
    let before = rig.quiet()?;
    // Each call stops twice until the tracer has its turn, too: much at once on a busy machine.
    let deadline = Instant::now() + 3 * PATIENCE;
    loop {
        // It looks again at least once, unless it does not get a processor for all of its time.
        rig.driver.bus.settle();
        let cost = between(&before, &rig.traced.asleep()?);
        if of(&cost, "sched_yield") > 0 {
            break;
        }
        ensure!(Instant::now() < deadline, "it did not look again: {cost:?}");
    }
    nothing(&rig.traced, "after its time awake")
}
