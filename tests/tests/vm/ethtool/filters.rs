//! Which frames reach the driver.

use anyhow::{Context, Result, ensure};
use nic_emu_tests::machine::MAC;

use super::echo::{BROADCAST, Echo, Expected, PEER, STRANGER};

/// Exact filters that the driver leaves to groups and further addresses: RAR1..14.
const EXACT: usize = 14;

/// A group of its own for each number, and with another `alias` one that has the same place in the hash table.
fn group(number: u8, alias: u8) -> [u8; 6] {
    // MO is 0: the last 12 bits of the address are the hash.
    [0x01, 0x00, 0x5e, alias, 0x07, number]
}

fn colons(address: [u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}

/// Joined groups pass and others don't, within the exact filters and beyond them.
pub(super) fn multicast(echo: &mut Echo) -> Result<String> {
    // More than the exact filters hold, counting those that the kernel has joined by itself.
    const JOINED: u8 = 20;
    let all = |echo: &mut Echo, passes: &dyn Fn(u8) -> bool| {
        let frames: Vec<Expected> = (0..JOINED + 4)
            .map(|number| (echo.frame(group(number, 1), 90), passes(number)))
            .collect();
        echo.expect(&frames)
    };
    all(echo, &|_| false).context("before any was joined")?;

    let join = |from: u8, to: u8, verb: &str| -> String {
        (from..to)
            .map(|number| {
                format!(
                    "ip maddr {verb} {} dev eth0 || exit 1\n",
                    colons(group(number, 1))
                )
            })
            .collect()
    };
    echo.vm.ok(&join(0, 5, "add"))?;
    all(echo, &|number| number < 5).context("five groups")?;
    let aliases = |echo: &mut Echo| -> Result<usize> {
        let frames: Vec<_> = (0..JOINED)
            .map(|number| echo.frame(group(number, 2), 90))
            .collect();
        Ok(echo.echoes(&frames)?.len())
    };
    let passed = aliases(echo)?;
    ensure!(
        passed == 0,
        "{passed} groups passed that only share their hash with exact filters"
    );

    let before = echo.counters()?.get("rx_multicast");
    echo.vm.ok(&join(5, JOINED, "add"))?;
    all(echo, &|number| number < JOINED).context("twenty groups")?;
    let counted = echo.counters()?.get("rx_multicast") - before;
    ensure!(
        counted == u64::from(JOINED),
        "{counted} multicast frames counted, {JOINED} passed"
    );
    // The hash table has those that found no exact filter, and with each of them all of the same hash.
    let members = echo.vm.ok("ip maddr show dev eth0")?;
    let members = members
        .lines()
        .filter(|line| line.trim().starts_with("link"))
        .count();
    let hashed = members.saturating_sub(EXACT);
    ensure!(hashed > 2, "{members} groups are joined");
    let passed = aliases(echo)?;
    ensure!(
        passed == hashed,
        "{passed} groups passed by their hash alone, {hashed} of {members} are in the table"
    );

    echo.vm.ok(&join(2, JOINED, "del"))?;
    all(echo, &|number| number < 2).context("two groups left")?;
    echo.vm.ok(&join(0, 2, "del"))?;
    all(echo, &|_| false).context("none left")?;
    Ok(format!("{JOINED} groups, {hashed} by hash"))
}

/// Promiscuous and all-multicast mode.
pub(super) fn promiscuous(echo: &mut Echo) -> Result<String> {
    let modes = [
        ("promisc on", true, true),
        ("promisc off", false, false),
        ("allmulticast on", false, true),
        ("allmulticast off", false, false),
    ];
    for (mode, foreign, groups) in modes {
        echo.vm.ok(&format!("ip link set eth0 {mode}"))?;
        let frames = [
            (MAC, true),
            (STRANGER, foreign),
            (PEER, foreign),
            (group(77, 3), groups),
            ([0x33, 0x33, 0, 0, 0x12, 0x34], groups),
            (BROADCAST, true),
        ];
        let frames = frames.map(|(to, passes)| (echo.frame(to, 70), passes));
        echo.expect(&frames).with_context(|| mode.to_owned())?;
    }
    Ok("promiscuous, all multicast".into())
}

/// Further addresses of the guest: exactly these as long as they fit, all when they don't.
pub(super) fn unicast(echo: &mut Echo) -> Result<String> {
    let address = |number: u8| [0x52, 0x54, 0x00, 0x77, 0x00, number];
    for (count, every) in [(3, false), (20, true), (0, false)] {
        let script: String = (0..20u8)
            .map(|number| {
                let verb = if number < count { "add" } else { "del" };
                let address = colons(address(number));
                format!("bridge fdb {verb} {address} dev eth0 self 2>/dev/null\n")
            })
            .collect();
        echo.vm.ok(&(script + "true"))?;
        let mut frames: Vec<Expected> = (0..20)
            .map(|number| (echo.frame(address(number), 80), number < count))
            .collect();
        frames.push((echo.frame(STRANGER, 80), every));
        frames.push((echo.frame(MAC, 80), true));
        echo.expect(&frames)
            .with_context(|| format!("{count} further addresses"))?;
    }
    Ok("3 and 20 further addresses".into())
}

/// The VLAN filter: off without VLANs, on with them, off in promiscuous mode.
pub(super) fn vlan(echo: &mut Echo) -> Result<String> {
    let some = |echo: &mut Echo, when: &str, passes: &dyn Fn(u16) -> bool| -> Result<()> {
        let mut frames = Vec::new();
        for vid in [1, 5, 7, 31, 32, 37, 0x805, 4094] {
            frames.push((echo.tagged(MAC, vid, 100), passes(vid)));
            frames.push((echo.tagged(BROADCAST, vid, 100), passes(vid)));
        }
        frames.push((echo.frame(MAC, 100), true));
        frames.push((echo.tagged(STRANGER, 5, 100), false));
        echo.expect(&frames).with_context(|| when.to_owned())?;
        // Priority and CFI do not matter.
        let urgent = [5, 7].map(|vid| echo.tagged(MAC, 0xf000 | vid, 100));
        let back = echo.echoes(&urgent)?.len();
        let want = usize::from(passes(5)) + usize::from(passes(7));
        ensure!(
            back == want,
            "{when}: {back} of two frames with priority came back"
        );
        Ok(())
    };
    // A reset clears CTRL.VME, and as long as there is no VLAN the driver does not set it again, though it goes on
    // asking the device for tags.
    echo.set("ethtool -K eth0 rxvlan off && ethtool -K eth0 rxvlan on")?;
    some(echo, "no VLAN", &|_| true)?;
    echo.vm.ok("modprobe 8021q
        for vid in 5 37 4094; do
            ip link add link eth0 name eth0.$vid type vlan id $vid && ip link set eth0.$vid up || exit 1
        done")?;
    some(echo, "VLANs 5, 37, 4094", &|vid| {
        [5, 37, 4094].contains(&vid)
    })?;
    let taken = |echo: &mut Echo, vid: u16| -> Result<u64> {
        let path = format!("/sys/class/net/eth0.{vid}/statistics/rx_packets");
        Ok(echo.vm.ok(&format!("cat {path}"))?.trim().parse()?)
    };
    for vid in [5, 37, 4094] {
        let taken = taken(echo, vid)?;
        let sent = if vid == 5 { 3 } else { 2 };
        ensure!(taken == sent, "eth0.{vid} has {taken} of {sent} frames");
    }

    echo.vm.ok("ip link set eth0 promisc on")?;
    let frames = [5, 7, 37, 4094].map(|vid| (echo.tagged(STRANGER, vid, 100), true));
    echo.expect(&frames).context("promiscuous")?;
    echo.vm.ok("ip link set eth0 promisc off")?;
    some(echo, "no longer promiscuous", &|vid| {
        [5, 37, 4094].contains(&vid)
    })?;

    echo.vm.ok("ip link del eth0.37")?;
    some(echo, "VLANs 5, 4094", &|vid| [5, 4094].contains(&vid))?;
    echo.vm
        .ok("ip link del eth0.5; ip link del eth0.4094; rmmod 8021q")?;
    some(echo, "no VLAN any more", &|_| true)?;
    Ok("three VLANs".into())
}
