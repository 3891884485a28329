//! More than one guest, NIC or owner.

use std::fs::{self, OpenOptions};
use std::thread::{scope, sleep};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Completion, Failed, Trial};
use nic_emu_lab::{Accel, Lab, Memory, Nic, Suite, Vm};
use nic_emu_tests::{Direction, Host, HostOptions, guest};

use crate::kernels::{Set, sigterm};
use crate::stage::Stage;

/// Two guests on one daemon.
struct Two {
    vms: [Vm; 2],
    host: Host,
}

pub(crate) fn checks(lab: &Lab) -> Vec<Trial> {
    let mut trials = Vec::new();
    let with = |lab: &Lab, options: HostOptions| {
        let lab = lab.clone();
        move || Set::new(&lab, Suite::TrixieBackports, &options)
    };
    let one_lab = lab.clone();
    trials.extend(
        Stage::new("sigterm", move || {
            Host::start(&one_lab, &HostOptions::default())
        })
        .last("without_client", sigterm)
        .trials(),
    );
    trials.extend(
        Stage::new(
            "two_nics",
            with(
                lab,
                HostOptions {
                    nics: 2,
                    ..HostOptions::default()
                },
            ),
        )
        .check("of_one_guest", |set| {
            for nic in 0..2 {
                guest::identify(&mut set.vm, &format!("eth{nic}"))?;
                set.ping_few(nic).with_context(|| format!("NIC {nic}"))?;
                let mbit = set
                    .host
                    .pair(&mut set.vm, nic)
                    .tcp(Direction::Send, 3)?
                    .mbit;
                ensure!(mbit > 1.0, "NIC {nic} sends {mbit:.1} Mbit/s");
            }
            Ok("ping and TCP on both".into())
        })
        .trials(),
    );
    trials.extend(
        Stage::new(
            "unprivileged",
            with(
                lab,
                HostOptions {
                    unprivileged: true,
                    ..HostOptions::default()
                },
            ),
        )
        .check("on_a_tap_made_before", unprivileged)
        .trials(),
    );
    trials.extend(
        Stage::new("sigterm", with(lab, HostOptions::default()))
            .last("under_traffic", sigterm_under_traffic)
            .trials(),
    );
    let two_lab = lab.clone();
    trials.extend(
        Stage::new("two_guests", move || Two::new(&two_lab))
            .check("on_one_process", Two::ping)
            .check("at_once", Two::at_once)
            .last("neighbour_undisturbed", Two::neighbour_undisturbed)
            .trials(),
    );
    let killed_lab = lab.clone();
    trials.extend(
        Stage::new("daemon_killed", move || {
            Host::start(&killed_lab, &HostOptions::default())
        })
        .last("device_del_and_device_add", replugged)
        .trials(),
    );
    for (name, memory) in [("share_off", Memory::Private), ("no_file", Memory::Plain)] {
        let lab = lab.clone();
        let stage = Stage::new("memory", move || not_shared(&lab, memory));
        trials.extend(stage.check(name, traffic_of_messages).trials());
    }
    let kvm_lab = lab.clone();
    trials.push(Trial::ignorable_test("kvm::traffic", move || {
        if !has_kvm() {
            return Ok(Completion::ignored_with(
                "this machine has no KVM that runs guests in hardware",
            ));
        }
        let said = kvm(&kvm_lab).map_err(|error| Failed::from(format!("{error:#}")))?;
        eprintln!("    kvm::traffic: {said}");
        Ok(Completion::Completed)
    }));
    trials
}

/// Whether this machine can run guests in hardware. A KVM without the processor's help interprets their instructions,
/// and does not know all.
fn has_kvm() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let helps = flags
        .split_whitespace()
        .any(|flag| flag == "vmx" || flag == "svm");
    helps
        && OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok()
}

fn kvm(lab: &Lab) -> Result<String> {
    let host = Host::start(lab, &HostOptions::default())?;
    let mut vm = host
        .guest(Suite::TrixieBackports, &[0])
        .accel(Accel::Kvm)
        .start()?;
    host.configure(&mut vm, 0, 0)?;
    let mut set = Set { vm, host };
    set.ping_few(0)?;
    let mut pair = set.host.pair(&mut set.vm, 0);
    let (receive, send) = (
        pair.tcp(Direction::Receive, 5)?.mbit,
        pair.tcp(Direction::Send, 5)?.mbit,
    );
    pair.files(64)?;
    Ok(format!(
        "receives {receive:.0} Mbit/s, sends {send:.0} Mbit/s"
    ))
}

fn unprivileged(set: &mut Set) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{}/status", set.host.daemon().pid()))?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    };
    let words = |name| {
        field(name)
            .unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
    };
    ensure!(
        words("Uid") == ["65534"; 4],
        "the daemon runs as uid {:?}",
        words("Uid")
    );
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd"] {
        ensure!(
            words(set) == ["0000000000000000"],
            "the daemon has {set} {:?}",
            words(set)
        );
    }
    set.ping_few(0)?;
    let mut pair = set.host.pair(&mut set.vm, 0);
    let (receive, send) = (
        pair.tcp(Direction::Receive, 3)?.mbit,
        pair.tcp(Direction::Send, 3)?.mbit,
    );
    pair.files(64)?;
    Ok(format!(
        "uid 65534, no capability; receives {receive:.0} Mbit/s, sends {send:.0} Mbit/s"
    ))
}

impl Two {
    fn new(lab: &Lab) -> Result<Self> {
        let host = Host::start(
            lab,
            &HostOptions {
                nics: 2,
                ..HostOptions::default()
            },
        )?;
        let vms = [
            host.boot(Suite::TrixieBackports, &[0])?,
            host.boot(Suite::Trixie, &[1])?,
        ];
        Ok(Self { vms, host })
    }

    fn ping(&mut self) -> Result<String> {
        let mut said = Vec::new();
        for (nic, vm) in self.vms.iter_mut().enumerate() {
            said.push(
                self.host
                    .pair(vm, nic)
                    .ping(false, [0, 56, 1472, 8192])
                    .with_context(|| format!("guest {nic}"))?,
            );
        }
        Ok(said.join("; "))
    }

    fn at_once(&mut self) -> Result<String> {
        let host = &self.host;
        let mut said = Vec::new();
        for direction in [Direction::Receive, Direction::Send] {
            let [one, other] = &mut self.vms;
            let (one, other) = scope(|scope| {
                let one = scope.spawn(|| host.pair(one, 0).tcp(direction, 4));
                let other = host.pair(other, 1).tcp(direction, 4);
                (one.join(), other)
            });
            let Ok(one) = one else {
                bail!("a client panicked")
            };
            let (one, other) = (one.context("guest 0")?.mbit, other.context("guest 1")?.mbit);
            ensure!(one > 1.0 && other > 1.0, "{one:.1} and {other:.1} Mbit/s");
            said.push(format!("{direction:?} {one:.0} and {other:.0} Mbit/s"));
        }
        Ok(said.join("; "))
    }

    /// One guest is pinged while the other's QEMU is killed.
    fn neighbour_undisturbed(self) -> Result<String> {
        let Self {
            vms: [mut one, mut other],
            mut host,
        } = self;
        let pinged = scope(|scope| {
            let pinger = scope.spawn(|| host.pair(&mut other, 1).ping(false, [56; 3000]));
            sleep(Duration::from_secs(1));
            one.kill()?;
            match pinger.join() {
                Ok(result) => result,
                Err(_) => bail!("the pinger panicked"),
            }
        })?;
        host.daemon().check_alive()?;
        Ok(pinged)
    }
}

/// A daemon that ends as it should leaves a QEMU that runs on, with a NIC that is dead.
fn sigterm_under_traffic(set: Set) -> Result<String> {
    let Set { mut vm, host } = set;
    vm.ok("ping -q -f 10.77.0.1 >/dev/null 2>&1 &")?;
    sleep(Duration::from_secs(1));
    sigterm(host)?;
    sleep(Duration::from_secs(1));
    vm.ok("true").context("QEMU, after nic-emu-cli has ended")?;
    Ok("QEMU runs on".into())
}

/// After the daemon was killed the guest's NIC is dead; how to get it back is told in the README.
fn replugged(host: Host) -> Result<String> {
    let nic = Nic::VfioUser {
        socket: host.socket(0).to_owned(),
        bus: Some("rp0".into()),
    };
    let mut vm = host
        .guest(Suite::TrixieBackports, &[])
        .root_ports(1)
        .start()?;
    let id = vm.plug(&nic)?;
    wait_interface(&mut vm)?;
    host.configure(&mut vm, 0, 0)?;
    host.pair(&mut vm, 0).ping(false, [56])?;

    // QEMU 11.1 aborts if messages to the daemon are still on their way when that is killed, and the connection is
    // reset instead of closed. Nothing on our side can help that; a driver that is up asks for the link every two seconds.
    vm.ok("ip link set eth0 down")?;
    sleep(Duration::from_secs(1));
    let host = host.kill_and_restart()?;
    let unplugged = vm.unplug(&id, Duration::from_secs(60));
    // If QEMU is gone, this is what says why.
    vm.ok("true")
        .context("QEMU, after its NIC's daemon was killed")?;
    unplugged.context("device_del of a NIC whose daemon was killed")?;
    vm.plug(&nic)?;
    wait_interface(&mut vm)?;
    host.configure(&mut vm, 0, 0)?;
    let mut set = Set { vm, host };
    set.ping_few(0)?;
    Ok("pings again".into())
}

/// A guest whose memory the daemon cannot map.
fn not_shared(lab: &Lab, memory: Memory) -> Result<Set> {
    let host = Host::start(lab, &HostOptions::default())?;
    let guest = host.guest(Suite::TrixieBackports, &[0]);
    let mut vm = guest.memory(memory).start()?;
    host.configure(&mut vm, 0, 0)?;
    Ok(Set { vm, host })
}

/// Slower, as the device has to ask for every piece of memory, but all of it; and the operator is told.
fn traffic_of_messages(set: &mut Set) -> Result<String> {
    set.ping_few(0)?;
    let mut pair = set.host.pair(&mut set.vm, 0);
    let (receive, send) = (
        pair.tcp(Direction::Receive, 3)?.mbit,
        pair.tcp(Direction::Send, 3)?.mbit,
    );
    pair.files(4)?;
    let log = set.host.daemon().log();
    ensure!(log.contains("share=on"), "the daemon does not warn:\n{log}");
    Ok(format!(
        "receives {receive:.1} Mbit/s, sends {send:.1} Mbit/s"
    ))
}

fn wait_interface(vm: &mut Vm) -> Result<()> {
    vm.ok("n=0; until [ -e /sys/class/net/eth0 ]; do n=$((n + 1)); [ $n -gt 200 ] && exit 1; usleep 100000; done")
        .context("the guest does not find its new NIC")?;
    Ok(())
}
