//! What is done inside a guest.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nic_emu_lab::Vm;

use crate::wire::Ends;

/// How long a link may take to come up: autonegotiation, and the driver looks every two seconds.
const CARRIER: Duration = Duration::from_secs(15);

/// Gives the guest's interface its addresses, sets it up and waits for the carrier.
///
/// # Errors
/// There is no such interface, or no carrier.
pub fn configure(vm: &mut Vm, ifname: &str, ends: Ends) -> Result<()> {
    let Ends { v4, v6 } = ends;
    // Silent unless asked: counters are compared later.
    vm.ok(&format!(
        "cd /proc/sys/net/ipv6/conf/{ifname} && echo 0 >accept_ra && echo 0 >router_solicitations
         echo 1 >keep_addr_on_down
         ip addr add {v4}/24 dev {ifname} && ip addr add {v6}/64 dev {ifname} nodad && ip link set {ifname} up"
    ))
    .with_context(|| format!("cannot set up {ifname} of the guest"))?;
    wait_carrier(vm, ifname)
}

/// Waits until the interface has a carrier.
///
/// # Errors
/// It has none after a while.
pub fn wait_carrier(vm: &mut Vm, ifname: &str) -> Result<()> {
    let script = format!(
        "n=0; until [ \"$(cat /sys/class/net/{ifname}/carrier 2>/dev/null)\" = 1 ]; do
             n=$((n + 1)); [ $n -gt {} ] && exit 1; usleep 100000
         done",
        CARRIER.as_millis() / 100
    );
    let output = vm.run_for(&script, CARRIER * 3)?;
    ensure!(
        output.success(),
        "{ifname} of the guest has no carrier after {CARRIER:?}"
    );
    Ok(())
}

/// Checks that the guest's interface is an 82540EM with the driver `e1000`; returns its line of `lspci -nn`, and the
/// first lines of `ethtool -i`.
///
/// # Errors
/// It is something else.
pub fn identify(vm: &mut Vm, ifname: &str) -> Result<(String, String)> {
    let slot = vm.ok(&format!(
        "basename $(readlink /sys/class/net/{ifname}/device)"
    ))?;
    let pci = vm.ok(&format!("lspci -nn -s {slot}"))?;
    ensure!(pci.contains("[8086:100e]"), "{ifname} is no 82540EM: {pci}");
    let driver = vm.ok(&format!("ethtool -i {ifname}"))?;
    ensure!(
        driver.lines().any(|line| line == "driver: e1000"),
        "the driver of {ifname} is not e1000: {driver}"
    );
    Ok((pci, driver))
}
