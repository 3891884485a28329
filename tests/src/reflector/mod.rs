//! What answers in a guest: frames below its IP stack (XDP), or datagrams above it.

mod elf;
mod program;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nic_emu_lab::{Netns, Vm};

use crate::cli;
use crate::inside::inside;

/// The section of the object that has the program.
pub const SECTION: &str = "xdp";
/// Where the echo listens.
const ECHO: u16 = 7;
const OBJECT: &str = "/run/reflector.o";
const PROGRAM: &str = "/run/udp-echo";
/// What handing a program to the guest may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// An object file with an XDP program that sends frames of [our EtherType](crate::latency::ETHERTYPE) back to where they
/// came from, and lets everything else pass. For `ip link set dev IF xdpgeneric obj FILE sec xdp`.
#[must_use]
pub fn object() -> Vec<u8> {
    elf::object(SECTION, &program::reflector(crate::latency::ETHERTYPE))
}

/// Has an interface of the guest send our frames back: by generic XDP, which works with any driver.
///
/// # Errors
/// The guest's kernel does not take the program.
pub fn attach(vm: &mut Vm, ifname: &str) -> Result<()> {
    vm.write_file(OBJECT, &object())?;
    vm.ok(&format!(
        "ip link set dev {ifname} xdpgeneric obj {OBJECT} sec {SECTION}"
    ))
    .context("the guest's kernel does not take our XDP program")?;
    let shown = vm.ok(&format!("ip link show dev {ifname}"))?;
    ensure!(shown.contains("xdpgeneric"), "no XDP program: {shown}");
    Ok(())
}

/// Ends what [`attach`] began.
///
/// # Errors
/// There is no such interface.
pub fn detach(vm: &mut Vm, ifname: &str) -> Result<()> {
    vm.ok(&format!("ip link set dev {ifname} xdpgeneric off"))?;
    Ok(())
}

/// The station address of an interface of the guest.
///
/// # Errors
/// There is no such interface.
pub fn address(vm: &mut Vm, ifname: &str) -> Result<[u8; 6]> {
    let text = vm.ok(&format!("cat /sys/class/net/{ifname}/address"))?;
    let bytes: Result<Vec<u8>, _> = text
        .trim()
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect();
    let bytes = bytes.ok().and_then(|bytes| bytes.try_into().ok());
    bytes.with_context(|| format!("{text:?} is no address"))
}

/// Starts a UDP echo in the guest, whose program comes over the network from `host`, an address in `netns`; returns
/// where it listens, given the guest's own address.
///
/// # Errors
/// It does not build, there is no way to the guest, or it does not start.
pub fn udp_echo(vm: &mut Vm, netns: &Netns, host: Ipv4Addr, guest: Ipv4Addr) -> Result<SocketAddr> {
    let path = cli::udp_echo()?;
    let program = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let listener = inside(netns.name(), || Ok(TcpListener::bind((host, 0))?))?;
    let port = listener.local_addr()?.port();
    let sender = std::thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.write_all(&program)?;
        Ok(())
    });
    let fetch = format!("nc {host} {port} </dev/null >{PROGRAM} && chmod +x {PROGRAM}");
    vm.ok_for(&fetch, PATIENCE)
        .context("the guest cannot fetch the echo")?;
    match sender.join() {
        Ok(sent) => sent.context("cannot send the echo to the guest")?,
        Err(panic) => std::panic::resume_unwind(panic),
    }
    vm.ok(&format!(
        "{PROGRAM} {ECHO} >/dev/null 2>/run/udp-echo.log &
         n=0
         until ss -lun | grep -q ':{ECHO} '; do
             n=$((n + 1)); [ $n -gt 200 ] && cat /run/udp-echo.log >&2 && exit 1; usleep 50000
         done"
    ))
    .context("the echo does not start")?;
    Ok((guest, ECHO).into())
}
