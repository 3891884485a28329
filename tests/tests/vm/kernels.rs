//! What each kernel's driver must be able to do.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use nic_emu_lab::{Error, Lab, Suite, Vm};
use nic_emu_tests::counters::{self, ethtool_trouble, snmp_trouble};
use nic_emu_tests::counts::{Parties, Reading};
use nic_emu_tests::guest;
use nic_emu_tests::iperf::Throughput;
use nic_emu_tests::latency::{self, Load};
use nic_emu_tests::pinger::{FRAGMENTED_SIZES, TWELVE_SIZES};
use nic_emu_tests::{Direction, Host, HostOptions, reflector, soak};

use crate::stage::Stage;

/// What a boot may take.
const BOOT: Duration = Duration::from_secs(120);
/// A client that comes second has to know by then.
const REFUSAL: Duration = Duration::from_secs(5);

/// A guest and its host. The guest goes first.
pub(crate) struct Set {
    pub(crate) vm: Vm,
    pub(crate) host: Host,
}

impl Set {
    pub(crate) fn new(lab: &Lab, suite: Suite, options: &HostOptions) -> Result<Self> {
        let host = Host::start(lab, options)?;
        let vm = host.boot(suite, &(0..options.nics.into()).collect::<Vec<_>>())?;
        Ok(Self { vm, host })
    }

    pub(crate) fn ping_few(&mut self, nic: usize) -> Result<String> {
        let mut pair = self.host.pair(&mut self.vm, nic);
        pair.ping(false, [56, 1472])?;
        pair.ping(true, [56, 1452])
    }
}

pub(crate) fn checks(lab: &Lab, suite: Suite) -> Vec<Trial> {
    // Every payload size once, on the newest kernel; soaking, on all and more often.
    let every_size = suite == Suite::TrixieBackports || soak();
    let rounds = if soak() { 20 } else { 1 };
    let make = {
        let lab = lab.clone();
        move || Set::new(&lab, suite, &HostOptions::default())
    };
    let traffic = Stage::new(format!("{suite}::traffic"), make.clone())
        .check("driver", |set| {
            let (pci, _) = guest::identify(&mut set.vm, "eth0")?;
            Ok(pci)
        })
        .check("ping", move |set| ping(set, every_size, rounds))
        .check("tcp", |set| {
            let mut pair = set.host.pair(&mut set.vm, 0);
            let seconds = if soak() { 120 } else { 5 };
            let receive = pair
                .tcp(Direction::Receive, seconds)
                .context("guest receives")?;
            let send = pair.tcp(Direction::Send, seconds).context("guest sends")?;
            Ok(format!(
                "receives {:.0} Mbit/s, sends {:.0} Mbit/s",
                receive.mbit, send.mbit
            ))
        })
        .check("udp", udp)
        .check("files", move |set| {
            let mut said = String::new();
            for _ in 0..rounds {
                let [there, back] = set.host.pair(&mut set.vm, 0).files(64)?;
                said = format!(
                    "64 MiB to the guest at {:.0}, back at {:.0} Mbit/s",
                    there.mbit(),
                    back.mbit()
                );
            }
            Ok(said)
        })
        .check("no_errors", no_errors)
        .last("nothing_lost", nothing_lost)
        .trials();
    let mut life = Stage::new(format!("{suite}::life"), make)
        .check("down_and_up", |set| {
            let times = if soak() { 200 } else { 10 };
            for time in 1..=times {
                set.vm.ok("ip link set eth0 down && ip link set eth0 up")?;
                guest::wait_carrier(&mut set.vm, "eth0")?;
                set.ping_few(0)
                    .with_context(|| format!("after time {time}"))?;
            }
            Ok(format!("{times} times"))
        })
        .check("reflects", reflects)
        .check("driver_reloaded", |set| {
            let times = if soak() { 50 } else { 1 };
            for _ in 0..times {
                set.vm
                    .ok("rmmod e1000 && ! [ -e /sys/class/net/eth0 ] && modprobe e1000")?;
                set.host.configure(&mut set.vm, 0, 0)?;
                set.ping_few(0)?;
            }
            Ok(format!("{times} times"))
        })
        .check("reboot", |set| {
            let times = if soak() { 10 } else { 1 };
            for _ in 0..times {
                set.vm.reboot(BOOT)?;
                set.host.configure(&mut set.vm, 0, 0)?;
                set.ping_few(0)?;
            }
            Ok(format!("{times} times, same socket"))
        });
    if suite == Suite::TrixieBackports {
        life = life.check("offloads", offloads).check("selftest", selftest);
    }
    let life = life
        .check("second_client_refused", move |set| {
            second_client_refused(set, suite)
        })
        .last("killed_and_started_again", move |mut set| {
            set.vm.kill()?;
            set.vm = set.host.boot(suite, &[0])?;
            set.ping_few(0)?;
            set.host.daemon().check_alive()?;
            set.vm.poweroff(Duration::from_secs(20))?;
            sigterm(set.host)
        })
        .trials();
    traffic.into_iter().chain(life).collect()
}

fn ping(set: &mut Set, every_size: bool, rounds: usize) -> Result<String> {
    let mut pair = set.host.pair(&mut set.vm, 0);
    let mut said = String::new();
    for _ in 0..rounds {
        for v6 in [false, true] {
            let whole = if every_size {
                (0..=1472).collect()
            } else {
                TWELVE_SIZES.to_vec()
            };
            let version = if v6 { "IPv6" } else { "IPv4" };
            let trips = pair.ping(v6, whole).context(version)?;
            pair.ping(v6, FRAGMENTED_SIZES)
                .with_context(|| format!("{version}, fragmented"))?;
            said += &format!("{version} {trips}; ");
        }
    }
    Ok(said.trim_end_matches("; ").to_owned())
}

fn udp(set: &mut Set) -> Result<String> {
    let seconds = if soak() { 60 } else { 3 };
    let mut said = Vec::new();
    for (direction, word) in [(Direction::Receive, "receives"), (Direction::Send, "sends")] {
        let before = overflows(set)?;
        let udp = set.host.pair(&mut set.vm, 0).udp(direction, 20, seconds);
        let udp = udp.with_context(|| format!("guest {word}"))?;
        // When a processor is away for a moment, sockets and the TAP's queue overflow, and say so. Nobody else loses.
        let overflowed = overflows(set)? - before;
        let Throughput {
            mbit,
            lost,
            lost_percent,
            ..
        } = udp;
        ensure!(
            lost <= overflowed,
            "guest {word}: {lost} datagrams were lost, {overflowed} of them by sockets and TAP"
        );
        ensure!(
            lost_percent < 50.0,
            "guest {word}: {lost_percent:.1} % of the datagrams were lost"
        );
        said.push(format!(
            "{word} {mbit:.0} Mbit/s, {lost} lost by sockets and TAP"
        ));
    }
    Ok(said.join("; "))
}

/// Datagrams that found no room in a socket or in the TAP's queue.
fn overflows(set: &mut Set) -> Result<u64> {
    let guest = counters::snmp_of_guest(&mut set.vm)?.get("UdpRcvbufErrors");
    let host = counters::snmp_of_host(set.host.netns())?.get("UdpRcvbufErrors");
    let tap = counters::tap(set.host.netns(), &set.host.wire(0).tap())?.tx_dropped;
    Ok(guest + host + tap)
}

/// No checksum, length or CRC errors, no frame missed, on either side.
fn no_errors(set: &mut Set) -> Result<String> {
    set.ping_few(0)?;
    let nic = counters::ethtool(&mut set.vm, "eth0")?;
    let troubles = [
        ("ethtool -S in the guest", ethtool_trouble(&nic)),
        (
            "/proc/net/snmp of the guest",
            snmp_trouble(&counters::snmp_of_guest(&mut set.vm)?),
        ),
        (
            "/proc/net/snmp of the host",
            snmp_trouble(&counters::snmp_of_host(set.host.netns())?),
        ),
    ];
    for (place, trouble) in &troubles {
        ensure!(trouble.is_empty(), "{place} shows {trouble}");
    }
    Ok(format!(
        "{} packets in, {} out",
        nic.get("rx_packets"),
        nic.get("tx_packets")
    ))
}

/// Every frame that one side has counted, the other has, or its loss is counted with the reason.
fn nothing_lost(mut set: Set) -> Result<String> {
    set.ping_few(0)?;
    let nic = quiet(&mut set.vm)?;
    let tap = counters::tap(set.host.netns(), &set.host.wire(0).tap())?;
    let (ended, _netns) = set.host.stop()?;
    let report = &ended.reports[0];
    let (model, backend) = (&report.model, &report.backend);
    let story = || format!("guest: {nic}\nmodel: {model}\nbackend: {backend}\nTAP: {tap:?}");
    let same = |what: &str, one: u64, other: u64| {
        ensure!(one == other, "{what}: {one} and {other}; {}", story());
        Ok(())
    };
    ensure!(
        nic.get("rx_packets") > 100 && nic.get("tx_packets") > 100,
        "no traffic was seen: {}",
        story()
    );

    same(
        "frames from the guest, backend and TAP",
        backend.get("tx_frames"),
        tap.rx_packets,
    )?;
    same(
        "segments from the guest, backend and GPTC",
        backend.get("tx_segments"),
        nic.get("tx_packets"),
    )?;
    same(
        "frames to the guest, TAP and backend",
        tap.tx_packets,
        backend.get("rx_frames"),
    )?;
    same(
        "frames to the guest, model and GPRC",
        model.get("rx_frames"),
        nic.get("rx_packets"),
    )?;
    let refused: u64 = [
        "rx_filtered",
        "rx_disabled",
        "rx_oversize",
        "rx_no_descriptor",
    ]
    .map(|name| model.get(name))
    .iter()
    .sum();
    same(
        "frames to the guest, backend and model with drops",
        backend.get("rx_segments"),
        model.get("rx_frames") + refused,
    )?;

    let drops = model.nonzero(|name| {
        [
            "rx_oversize",
            "rx_no_descriptor",
            "tx_malformed",
            "dma_unreachable",
        ]
        .contains(&name)
    });
    ensure!(drops.is_empty(), "dropped: {drops}; {}", story());
    let drops = backend.nonzero(|name| {
        name.contains("dropped") || ["lost", "corrupted", "delayed"].contains(&name)
    });
    ensure!(
        drops.is_empty(),
        "the backend dropped: {drops}; {}",
        story()
    );
    ensure!(
        tap.rx_dropped == 0,
        "the TAP dropped frames of the guest; {}",
        story()
    );
    Ok(format!(
        "{} segments out, {} frames in, {refused} not for this guest",
        nic.get("tx_packets"),
        nic.get("rx_packets")
    ))
}

/// `ethtool -S` once nothing moves any more.
fn quiet(vm: &mut Vm) -> Result<counters::Counters> {
    let mut before = counters::ethtool(vm, "eth0")?;
    for _ in 0..15 {
        sleep(Duration::from_secs(2));
        let now = counters::ethtool(vm, "eth0")?;
        if now == before {
            return Ok(now);
        }
        before = now;
    }
    bail!("the guest's counters do not come to rest: {before}");
}

/// What latency is measured with: the guest's kernel sends every frame back by XDP, and every datagram by our program;
/// and what that costs is counted by all parties.
fn reflects(set: &mut Set) -> Result<String> {
    // Fewer than wait anywhere on the way, whoever has the processors meanwhile.
    const FRAMES: u64 = 200;
    let load = Load::new(FRAMES as u32, 1).patient(Duration::from_secs(20));
    let wire = set.host.wire(0);
    let (host, own) = (wire.first().v4, wire.second().v4);
    let echo = reflector::udp_echo(&mut set.vm, set.host.netns(), host, own)?;
    let datagrams = latency::datagrams(set.host.netns(), echo, &load)?;
    set.vm.ok("killall udp-echo")?;

    let address = reflector::address(&mut set.vm, "eth0")?;
    reflector::attach(&mut set.vm, "eth0")?;
    let before = read_counts(set)?;
    let frames = latency::frames(set.host.netns(), &wire.tap(), address, &load)?;
    let counts = read_counts(set)?.since(&before);
    reflector::detach(&mut set.vm, "eth0")?;
    set.ping_few(0).context("after the reflector")?;

    for trips in [&datagrams, &frames] {
        let exact = (trips.sent, trips.received, trips.duplicates) == (FRAMES, FRAMES, 0);
        ensure!(exact && trips.overlooked == 0, "{trips}");
    }
    // One frame at least has gone before, to find out whether any comes back; and the network may say something itself.
    let least = FRAMES + 1;
    let messages = counts.messages.context("no messages")?;
    ensure!(
        counts.frames.rx >= least && counts.frames.tx >= least,
        "{counts:?}"
    );
    // The guest masks its interrupts and uncovers them at each, and tells of each frame; it may do so for several at once.
    ensure!(
        counts.interrupts > 0 && messages.interrupts > 0,
        "{counts:?}"
    );
    ensure!(
        messages.posted_writes > 0 && messages.reads > 0 && messages.total() >= counts.interrupts,
        "{counts:?}"
    );
    Ok(format!(
        "frames: {frames}; datagrams: {datagrams}; {} interrupts, {messages:?}",
        counts.interrupts
    ))
}

fn read_counts(set: &mut Set) -> Result<Reading> {
    let daemon = &*set.host.daemon();
    Parties {
        vm: &mut set.vm,
        ifname: "eth0",
        daemon: Some((daemon, 0)),
        trace: None,
    }
    .read()
}

/// TCP arrives whole both ways whatever the device leaves to the guest.
fn offloads(set: &mut Set) -> Result<String> {
    let settings = [
        "tso off",
        "sg off",
        "tx off",
        "rx on",
        "gro off",
        "rxvlan off",
        "tx on sg on tso on gro on rxvlan on",
    ];
    for setting in settings {
        set.vm.ok(&format!("ethtool -K eth0 {setting}"))?;
        guest::wait_carrier(&mut set.vm, "eth0")?;
        let files = set.host.pair(&mut set.vm, 0).files(2);
        files.with_context(|| setting.to_owned())?;
    }
    let trouble = snmp_trouble(&counters::snmp_of_guest(&mut set.vm)?);
    ensure!(
        trouble.is_empty(),
        "/proc/net/snmp of the guest shows {trouble}"
    );
    Ok(format!("{} settings", settings.len()))
}

/// The self-test leaves a device that works, with the network that it had. What it tests is judged elsewhere.
fn selftest(set: &mut Set) -> Result<String> {
    let tested = set.vm.run_for("ethtool -t eth0 offline", BOOT)?;
    ensure!(tested.stdout.contains("Register test"), "{}", tested.stderr);
    guest::wait_carrier(&mut set.vm, "eth0")?;
    set.ping_few(0)
}

/// The one that is served notices nothing, the other knows at once.
fn second_client_refused(set: &mut Set, suite: Suite) -> Result<String> {
    let started = Instant::now();
    let second = set.host.guest(suite, &[0]).spawn();
    let refused = second.and_then(|mut vm| vm.wait_exit(REFUSAL).map(|_| vm.ok("true")));
    let why = match refused {
        Err(why @ Error::QemuExited { .. }) | Ok(Err(why @ Error::QemuExited { .. })) => {
            why.to_string()
        }
        other => bail!("a second QEMU was not refused: {other:?}"),
    };
    let took = started.elapsed();
    ensure!(
        took < REFUSAL + Duration::from_secs(5),
        "a second QEMU was refused only after {took:?}"
    );
    set.ping_few(0)
        .context("the first guest, after a second client")?;
    Ok(format!(
        "after {took:.1?}: {}",
        why.lines().next().unwrap_or_default()
    ))
}

/// SIGTERM leaves nothing behind.
pub(crate) fn sigterm(host: Host) -> Result<String> {
    ensure!(host.has_tap(0), "there is no TAP");
    let tap = host.wire(0).tap();
    // That the sockets are gone is checked there.
    let (ended, netns) = host.stop()?;
    ensure!(
        ended.status.code() == Some(0),
        "nic-emu-cli ended with {}:\n{}",
        ended.status,
        ended.log
    );
    ensure!(
        netns.ip(&format!("link show dev {tap}")).is_err(),
        "{tap} is still there after nic-emu-cli has ended"
    );
    Ok("socket and TAP are gone".into())
}
