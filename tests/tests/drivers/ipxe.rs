//! iPXE's driver: a guest that finds it in the NIC's expansion ROM boots its kernel from the network.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Failed, Trial};
use nic_emu_lab::{Lab, Nic, Process, Suite};
use nic_emu_tests::pinger::TWELVE_SIZES;
use nic_emu_tests::{Host, HostOptions};

/// What a boot from the network may take: firmware, 40 MB over HTTP, and the kernel unpacks itself, all emulated.
const BOOT: Duration = Duration::from_secs(300);
const SUITE: Suite = Suite::Trixie;

pub(crate) fn checks(lab: &Lab) -> Vec<Trial> {
    type Check = (&'static str, fn(&Lab) -> Result<String>);
    let checks: [Check; 1] = [("rom_of_the_daemon", rom_of_the_daemon)];
    let trial = |(name, check): Check| {
        let lab = lab.clone();
        Trial::test(format!("ipxe::{name}"), move || {
            let said = check(&lab).map_err(|error| Failed::from(format!("{error:#}")))?;
            eprintln!("    ipxe::{name}: {said}");
            Ok(())
        })
    };
    checks.into_iter().map(trial).collect()
}

/// `rom=FILE` of the daemon.
fn rom_of_the_daemon(lab: &Lab) -> Result<String> {
    let rom = lab.qemu()?.file("pxe-e1000.rom")?;
    let options = HostOptions {
        keys: format!("rom={}", rom.display()),
        ..HostOptions::default()
    };
    let host = Host::start(lab, &options)?;
    let near = host.wire(0).first().v4;
    let folder = tempfile::tempdir()?;
    let vm = lab
        .vm(SUITE)
        .memory_mib(1024)
        .nic(Nic::vfio_user(host.socket(0)))
        .kernel_arg("lab.booted=by-ipxe")
        .by_firmware()
        .boot_timeout(BOOT);

    let served = folder.path().join("http");
    fs::create_dir(&served)?;
    symlink(lab.kernel(SUITE)?.vmlinuz(), served.join("vmlinuz"))?;
    symlink(lab.image(SUITE)?, served.join("initrd"))?;
    let script = format!(
        "#!ipxe\nkernel http://{near}/vmlinuz {}\ninitrd http://{near}/initrd\nboot\n",
        vm.append()
    );
    fs::write(served.join("boot.ipxe"), script)?;
    let leases = folder.path().join("leases");
    fs::write(&leases, "")?;
    let [a, b, c, _] = near.octets();
    let config = folder.path().join("udhcpd.conf");
    fs::write(
        &config,
        format!(
            "interface {}\nstart {a}.{b}.{c}.50\nend {a}.{b}.{c}.60\noption subnet 255.255.255.0\n\
             boot_file http://{near}/boot.ipxe\nlease_file {}\npidfile {}\n",
            host.wire(0).tap(),
            leases.display(),
            folder.path().join("pid").display()
        ),
    )?;
    let mut http = host.netns().tool("busybox")?;
    http.args(["httpd", "-f", "-p", &format!("{near}:80"), "-h"])
        .arg(&served);
    let _http = Process::spawn(http)?;
    let mut dhcp = host.netns().tool("busybox")?;
    dhcp.args(["udhcpd", "-f"]).arg(&config);
    let _dhcp = Process::spawn(dhcp)?;

    let mut vm = vm.start()?;
    let cmdline = vm.ok("cat /proc/cmdline")?;
    ensure!(
        cmdline.contains("lab.booted=by-ipxe"),
        "the guest runs with {cmdline}"
    );
    ensure!(
        !vm.command_line().contains("-kernel"),
        "QEMU gave the kernel"
    );
    let console = vm.console();
    ensure!(console.contains("iPXE"), "iPXE said nothing: {console}");
    let took = vm.boot_time().context("it has booted")?;
    // The next driver finds the NIC as it should.
    host.configure(&mut vm, 0, 0)?;
    host.pair(&mut vm, 0).ping(false, TWELVE_SIZES)?;
    Ok(format!("up after {took:.0?}"))
}
