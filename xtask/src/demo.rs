//! `cargo xtask demo`: a guest on an emulated NIC, for everybody to see.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nic_emu_lab::{Lab, Nic, Suite, Vm};
use nic_emu_tests::counters::{self, ethtool_trouble, snmp_trouble};
use nic_emu_tests::pinger::{FRAGMENTED_SIZES, TWELVE_SIZES};
use nic_emu_tests::{
    Daemon, DaemonBuilder, Direction, Far, Host, HostOptions, Pair, Wire, cli, guest, is_root,
};

use crate::report::Report;

const SECONDS: u32 = 10;
const FILE_MIB: usize = 64;

/// Options of `demo`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Kernel of the guest: the newest of this Debian suite.
    #[arg(long, value_name = "SUITE", default_value = "trixie-backports")]
    suite: Suite,

    /// Let two guests talk to each other through the switch of one nic-emu-cli, as is done without root.
    #[arg(long)]
    two_guests: bool,

    /// Keys that break the NIC: shows that the demo would notice.
    #[arg(long, value_name = "KEYS", hide = true)]
    fault: Option<String>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut report = Report::new();
    let shown = if options.two_guests || !is_root() {
        report.tell("two guests on one nic-emu-cli, joined by its switch: no root needed");
        two_guests(options, &mut report)
    } else {
        report.tell("one guest on one nic-emu-cli, whose TAP is in a network namespace of its own");
        one_guest(options, &mut report)
    };
    println!("\n{}", report.table());
    let seconds = report.elapsed().as_secs();
    match shown {
        Ok(()) => println!("The demo has passed, in {seconds} s."),
        Err(error) => {
            println!("The demo has {error:#}");
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn one_guest(options: &Options, report: &mut Report) -> Result<()> {
    let lab = prepare(options, report)?;
    let host_options = HostOptions {
        keys: options.fault.clone().unwrap_or_default(),
        ..HostOptions::default()
    };
    let mut host = report.step("nic-emu-cli", || {
        let mut host = Host::start(&lab, &host_options)?;
        let said = introduced(host.daemon());
        Ok((said, host))
    })?;
    let mut vm = report.step("boot", || {
        let vm = host.guest(options.suite, &[0]).start()?;
        Ok((booted(&lab, options.suite, &vm)?, vm))
    })?;
    identify(report, &mut vm)?;
    report.step("link", || {
        host.configure(&mut vm, 0, 0)?;
        Ok(("up".into(), ()))
    })?;
    let pair = host.pair(&mut vm, 0);
    traffic(report, pair)?;
    errors(report, &mut vm)?;
    report.step("end", || {
        host.daemon().check_alive()?;
        let (ended, _netns) = host.stop()?;
        ensure!(
            ended.status.success(),
            "nic-emu-cli ended with {}",
            ended.status
        );
        Ok(("SIGTERM: socket and TAP are gone".into(), ()))
    })
}

fn two_guests(options: &Options, report: &mut Report) -> Result<()> {
    let lab = prepare(options, report)?;
    let fault = options
        .fault
        .as_ref()
        .map(|keys| format!(",{keys}"))
        .unwrap_or_default();
    let daemon = report.step("nic-emu-cli", || {
        let keys = format!("net=switch,switch=demo{fault}");
        let daemon = DaemonBuilder::new()?.nic(&keys).nic(&keys).start(None)?;
        let said = introduced(&daemon);
        Ok((said, daemon))
    })?;
    let boot = |nic| {
        let vm = lab
            .vm(options.suite)
            .nic(Nic::vfio_user(daemon.socket(nic)))
            .start()?;
        Ok((booted(&lab, options.suite, &vm)?, vm))
    };
    let mut other = report.step("boot other guest", || boot(0))?;
    let mut vm = report.step("boot", || boot(1))?;
    identify(report, &mut vm)?;
    let wire = Wire(0);
    report.step("link", || {
        guest::configure(&mut other, "eth0", wire.first()).context("the other guest")?;
        guest::configure(&mut vm, "eth0", wire.second())?;
        Ok(("up, in both".into(), ()))
    })?;
    traffic(
        report,
        Pair {
            vm: &mut vm,
            own: wire.second(),
            far: Far::Guest(&mut other),
            to: wire.first(),
        },
    )?;
    errors(report, &mut vm)?;
    report.step("end", || {
        let ended = daemon.stop()?;
        ensure!(
            ended.status.success(),
            "nic-emu-cli ended with {}",
            ended.status
        );
        Ok(("SIGTERM: sockets are gone".into(), ()))
    })
}

fn prepare(options: &Options, report: &mut Report) -> Result<Lab> {
    report.step("build nic-emu-cli", || {
        Ok((format!("{}", cli::nic_emu_cli()?.display()), ()))
    })?;
    report.step("lab", || {
        let lab = Lab::open()?;
        lab.prepare(&[options.suite])?;
        let (qemu, kernel) = (lab.qemu()?, lab.kernel(options.suite)?);
        let whose = if qemu.is_system() {
            "this machine's"
        } else {
            "fetched"
        };
        Ok((
            format!(
                "QEMU {} ({whose}), kernel {}",
                qemu.version(),
                kernel.release()
            ),
            lab,
        ))
    })
}

fn introduced(daemon: &Daemon) -> String {
    format!(
        "{}\n{}",
        daemon.command_line(),
        daemon.announced().trim_end()
    )
}

fn booted(lab: &Lab, suite: Suite, vm: &Vm) -> Result<String> {
    let took = vm.boot_time().unwrap_or_default();
    Ok(format!(
        "Linux {} is up after {took:.1?}",
        lab.kernel(suite)?.release()
    ))
}

fn identify(report: &mut Report, vm: &mut Vm) -> Result<()> {
    let driver = report.step("lspci -nn", || guest::identify(vm, "eth0"))?;
    // The rest is what this driver has no word for.
    let told = |line: &&str| {
        ["driver:", "version:", "bus-info:"]
            .iter()
            .any(|field| line.starts_with(field))
    };
    let driver: Vec<_> = driver.lines().filter(told).collect();
    report.step("ethtool -i eth0", || Ok((driver.join("\n"), ())))
}

fn traffic(report: &mut Report, mut pair: Pair<'_>) -> Result<()> {
    for (name, v6) in [("ping IPv4", false), ("ping IPv6", true)] {
        report.step(name, || {
            let trips = pair.ping(v6, TWELVE_SIZES).context("0 to 1472 bytes")?;
            pair.ping(v6, FRAGMENTED_SIZES).context("fragmented")?;
            Ok((
                format!("{trips}; and {} fragmented ones", FRAGMENTED_SIZES.len()),
                (),
            ))
        })?;
    }
    report.step("file to guest and back", || {
        let [there, back] = pair.files(FILE_MIB)?;
        let said = format!(
            "{FILE_MIB} MiB, equal SHA-256; {:.0} and {:.0} Mbit/s",
            there.mbit(),
            back.mbit()
        );
        Ok((said, ()))
    })?;
    for (name, direction) in [
        ("iperf3, guest receives", Direction::Receive),
        ("iperf3, guest sends", Direction::Send),
    ] {
        report.step(name, || {
            let tcp = pair.tcp(direction, SECONDS)?;
            Ok((format!("{:.0} Mbit/s", tcp.mbit), ()))
        })?;
    }
    Ok(())
}

fn errors(report: &mut Report, vm: &mut Vm) -> Result<()> {
    report.step("error counters", || {
        let nic = ethtool_trouble(&counters::ethtool(vm, "eth0")?);
        ensure!(nic.is_empty(), "ethtool -S shows {nic}");
        let ip = snmp_trouble(&counters::snmp_of_guest(vm)?);
        ensure!(ip.is_empty(), "/proc/net/snmp shows {ip}");
        Ok(("all 0 in ethtool -S and /proc/net/snmp".into(), ()))
    })
}
