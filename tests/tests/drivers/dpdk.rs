//! DPDK's driver for the e1000 (`net_e1000_em`), run by testpmd: each feature shown by frames that are sent to one port
//! and come out of the other.
//!
//! Two ways to the device: `uio_pci_generic`, which gives physical addresses, and `vfio-pci` behind an IOMMU of QEMU's, with
//! interrupts by pin and by message. The third, vfio without an IOMMU, needs a kernel with `CONFIG_VFIO_NOIOMMU`, and none of
//! Debian's has it.

use std::time::Instant;

use anyhow::{Result, ensure};
use guest_driver::Wire;
use guest_driver::packet::Packet;
use libtest_mimic::Trial;
use nic_emu_lab::Lab;
use nic_emu_tests::guest;

use crate::stage::Stage;
use crate::testpmd::{Binding, PATIENCE, PEER, Testpmd, counter, station};

/// A station that is neither port.
const STRANGER: [u8; 6] = [0x52, 0x54, 0, 0xDD, 0xEE, 0xFF];
const BROADCAST: [u8; 6] = [0xFF; 6];
/// Bytes of an FCS, which DPDK's counters of bytes include on this part.
const FCS: u64 = 4;

pub(crate) fn checks(lab: &Lab) -> Vec<Trial> {
    type Check = (&'static str, fn(&mut Testpmd) -> Result<String>);
    let uio: [Check; 9] = [
        ("forwarding", forwarding),
        ("link", link),
        ("statistics", statistics),
        ("filters", filters),
        ("vlan", vlan),
        ("transmit_checksums", transmit_checksums),
        ("receive_checksums", receive_checksums),
        ("jumbo", jumbo),
        ("generator", generator),
    ];
    // What depends on how memory and interrupts are reached.
    let vfio: [Check; 5] = [
        ("forwarding", forwarding),
        ("link", link),
        ("transmit_checksums", transmit_checksums),
        ("jumbo", jumbo),
        ("generator", generator),
    ];
    let vfio_msi: [Check; 2] = [("link", link), ("forwarding", forwarding)];
    let boot = {
        let lab = lab.clone();
        move || Testpmd::boot(&lab)
    };
    let mut stage = Stage::new("dpdk", boot);
    for (binding, checks) in [
        (Binding::Uio, uio.to_vec()),
        (Binding::Vfio, vfio.to_vec()),
        (Binding::VfioMsi, vfio_msi.to_vec()),
    ] {
        for (name, check) in checks {
            let name = format!("{binding}::{name}");
            stage = stage.check(&name, move |pmd: &mut Testpmd| {
                pmd.on(binding)?;
                check(pmd)
            });
        }
    }
    stage.last("given_back", given_back).trials()
}

/// Two ports, frames of every kind of length, each way.
fn forwarding(pmd: &mut Testpmd) -> Result<String> {
    pmd.configure("", "io")?;
    for from in [0, 1] {
        let mut frames = Vec::new();
        for len in [60, 61, 64, 127, 590, 1513, 1514] {
            for destination in [station(from as u8), STRANGER, BROADCAST] {
                frames.push((pmd.frame(destination, len), true));
            }
        }
        // More than the rings hold.
        for _ in 0..40 {
            let many: Vec<_> = (0..16).map(|_| (pmd.frame(STRANGER, 200), true)).collect();
            pmd.expect(from, &many)?;
        }
        pmd.expect(from, &frames)?;
    }
    Ok("661 frames each way".into())
}

/// A cable that is pulled and plugged in again is told by an interrupt, by pin or by message; ports stop and start.
fn link(pmd: &mut Testpmd) -> Result<String> {
    pmd.configure("", "io")?;
    let (kind, other) = match pmd.binding()? {
        Binding::Uio => ("uio_pci_generic", "vfio"),
        Binding::Vfio => ("vfio-intx", "vfio-msi"),
        Binding::VfioMsi => ("vfio-msi", "vfio-intx"),
    };
    let by_message = kind == "vfio-msi";
    let (interrupts, events, pins) = (pmd.interrupts(kind)?, pmd.events, pmd.pins()?);
    for _ in 0..2 {
        pmd.cables[0].set_carrier(false);
        pmd.link(0, false)?;
        pmd.cables[0].set_carrier(true);
        pmd.link(0, true)?;
        let frames = [(pmd.frame(STRANGER, 100), true)];
        pmd.expect(0, &frames)?;
    }
    let (interrupts, events) = (pmd.interrupts(kind)? - interrupts, pmd.events - events);
    let (others, pins) = (pmd.interrupts(other)?, pmd.pins()? - pins);
    ensure!(
        interrupts >= 4 && events >= 4 && others == 0,
        "the link has changed four times: {interrupts} {kind}, {others} {other}, {events} events"
    );
    ensure!(
        if by_message { pins == 0 } else { pins >= 4 },
        "{pins} times up went a pin, for {interrupts} {kind}"
    );
    for _ in 0..3 {
        pmd.configure("", "io")?;
        for from in [0, 1] {
            let frames = [(pmd.frame(STRANGER, 100), true)];
            pmd.expect(from, &frames)?;
        }
    }
    Ok(format!("{interrupts} {kind}, {pins} times by pin"))
}

/// What was sent is what is counted.
fn statistics(pmd: &mut Testpmd) -> Result<String> {
    pmd.configure("", "io")?;
    pmd.say("clear port stats all")?;
    let lengths = [60, 100, 1514, 700, 61];
    let frames: Vec<_> = lengths.map(|len| (pmd.frame(STRANGER, len), true)).into();
    pmd.expect(0, &frames)?;
    for _ in 0..3 {
        let damaged = pmd.frame(STRANGER, 80);
        pmd.cables[0].transmit_damaged(&damaged);
    }
    ensure!(
        pmd.rest(0)?.is_empty(),
        "a frame with a wrong FCS came through"
    );
    // And the two that mark the ends.
    let packets = lengths.len() as u64 + 2;
    let bytes = lengths.iter().sum::<usize>() as u64 + 2 * 60 + FCS * packets;
    for (port, name, want) in [
        (0, "RX-packets", packets),
        (0, "RX-bytes", bytes),
        (0, "RX-errors", 3),
        (0, "RX-missed", 0),
        (0, "TX-packets", 0),
        (1, "TX-packets", packets),
        (1, "TX-bytes", bytes),
        (1, "TX-errors", 0),
        (1, "RX-packets", 0),
    ] {
        let found = pmd.statistic(port, name)?;
        ensure!(
            found == want,
            "{name} of port {port} is {found}, not {want}"
        );
    }
    pmd.say("clear port stats all")?;
    ensure!(pmd.statistic(0, "RX-packets")? == 0, "not cleared");
    Ok(format!("{packets} packets, {bytes} bytes"))
}

/// Addresses of its own, groups, all groups, everything.
fn filters(pmd: &mut Testpmd) -> Result<String> {
    const GROUP: [u8; 6] = [0x01, 0x00, 0x5E, 0x00, 0x00, 0x05];
    const OTHER: [u8; 6] = [0x01, 0x00, 0x5E, 0x00, 0x13, 0x77];
    const SECOND: [u8; 6] = [0x02, 0x11, 0x22, 0x33, 0x44, 0x55];
    pmd.configure("", "io")?;
    let expect = |pmd: &mut Testpmd, lines: &str, want: [bool; 6]| {
        pmd.say(lines)?;
        let to = [station(0), BROADCAST, SECOND, STRANGER, GROUP, OTHER];
        let frames: Vec<_> = to
            .into_iter()
            .zip(want)
            .map(|(to, want)| (pmd.frame(to, 90), want))
            .collect();
        pmd.expect(0, &frames)
    };
    expect(
        pmd,
        "set promisc 0 off\nset allmulti 0 off",
        [true, true, false, false, false, false],
    )?;
    expect(
        pmd,
        "mac_addr add 0 02:11:22:33:44:55",
        [true, true, true, false, false, false],
    )?;
    expect(
        pmd,
        "mcast_addr add 0 01:00:5E:00:00:05",
        [true, true, true, false, true, false],
    )?;
    expect(
        pmd,
        "set allmulti 0 on",
        [true, true, true, false, true, true],
    )?;
    expect(
        pmd,
        "set allmulti 0 off\nmcast_addr remove 0 01:00:5E:00:00:05",
        [true, true, true, false, false, false],
    )?;
    expect(
        pmd,
        "mac_addr remove 0 02:11:22:33:44:55",
        [true, true, false, false, false, false],
    )?;
    // More groups than there are exact addresses.
    let groups: Vec<[u8; 6]> = (0..40).map(|n| [0x01, 0x00, 0x5E, 0, 7, n]).collect();
    for [a, b, c, d, e, f] in &groups {
        pmd.say(&format!(
            "mcast_addr add 0 {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"
        ))?;
    }
    let mut frames: Vec<_> = groups
        .iter()
        .map(|group| (pmd.frame(*group, 60), true))
        .collect();
    frames.push((pmd.frame(OTHER, 60), false));
    pmd.expect(0, &frames)?;
    pmd.say("mcast_addr flush 0")?;
    expect(pmd, "set promisc 0 on", [true; 6])?;
    Ok("unicast, 40 groups, allmulti, promiscuous".into())
}

/// Tags are filtered, stripped and inserted.
fn vlan(pmd: &mut Testpmd) -> Result<String> {
    pmd.configure("", "io")?;
    let tagged = |pmd: &mut Testpmd, vlan: u16| {
        let mut frame = pmd.frame(station(0), 120);
        let [high, low] = (0x6000 | vlan).to_be_bytes();
        frame.splice(12..12, [0x81, 0x00, high, low]);
        frame
    };
    let vlans = [1, 5, 100, 4095];
    let frames = |pmd: &mut Testpmd, want: [bool; 4]| -> Vec<_> {
        let pairs = vlans.into_iter().zip(want);
        pairs
            .map(|(vlan, want)| (tagged(pmd, vlan), want))
            .collect()
    };
    // Promiscuous, the driver leaves the filter on.
    let sent = frames(pmd, [true; 4]);
    pmd.expect(0, &sent)?;
    pmd.say("set promisc 0 off\nvlan set filter on 0\nrx_vlan add 5 0\nrx_vlan add 4095 0")?;
    let sent = frames(pmd, [false, true, false, true]);
    pmd.expect(0, &sent)?;
    pmd.say("rx_vlan rm 5 0")?;
    let sent = frames(pmd, [false, false, false, true]);
    pmd.expect(0, &sent)?;
    pmd.say("rx_vlan rm 4095 0\nvlan set filter off 0")?;
    let sent = frames(pmd, [true; 4]);
    pmd.expect(0, &sent)?;

    pmd.say("vlan set strip on 0")?;
    let sent: Vec<_> = frames(pmd, [true; 4]).into_iter().map(|f| f.0).collect();
    let bare: Vec<Vec<u8>> = sent
        .iter()
        .map(|frame| [&frame[..12], &frame[16..]].concat())
        .collect();
    ensure!(pmd.pass(0, &sent)? == bare, "tags are not stripped");
    pmd.say("vlan set strip off 0")?;

    // VLE is for those who have set CTRL.VME, which the driver does to strip tags.
    pmd.configure("tx_vlan set 1 77\nvlan set strip on 1", "mac")?;
    let sent: Vec<_> = (0..3).map(|_| pmd.frame(station(0), 100)).collect();
    let passed = pmd.pass(0, &sent)?;
    for (frame, sent) in passed.iter().zip(&sent) {
        ensure!(
            frame[12..16] == [0x81, 0, 0, 77] && frame[16..] == sent[12..],
            "no tag was inserted: {:02x?}",
            &frame[..20]
        );
    }
    ensure!(passed.len() == sent.len(), "{} came", passed.len());
    pmd.configure(
        "tx_vlan reset 1\nvlan set strip off 1\nset promisc all on",
        "io",
    )?;
    Ok(format!("{} tags", vlans.len()))
}

/// Packets of each protocol that have checksums to be made.
fn packets() -> Vec<Packet> {
    let mut packets = Vec::new();
    for tcp in [false, true] {
        for ipv6 in [false, true] {
            for len in [0, 1, 2, 777, 1400] {
                packets.push(Packet::new(
                    station(0),
                    PEER,
                    ipv6,
                    tcp,
                    len,
                    len as u32 + 1,
                ));
            }
        }
    }
    packets
}

/// The place of the checksum of TCP or UDP in a packet's frame.
fn field(packet: &Packet) -> usize {
    usize::from(packet.headers().l4) + if packet.tcp { 16 } else { 6 }
}

/// The NIC makes the checksums of what is sent.
fn transmit_checksums(pmd: &mut Testpmd) -> Result<String> {
    pmd.configure(
        "csum set ip hw 1\ncsum set udp hw 1\ncsum set tcp hw 1\ncsum mac-swap off 1",
        "csum",
    )?;
    let packets = packets();
    let mut sent = Vec::new();
    for packet in &packets {
        // The one who forwards makes all of them anew: they may be anything before.
        let mut frame = packet.finished();
        let at = field(packet);
        frame[at..at + 2].copy_from_slice(&[0x12, 0x34]);
        if !packet.ipv6 {
            frame[24..26].copy_from_slice(&[0x56, 0x78]);
        }
        frame.resize(frame.len().max(60), 0);
        sent.push(frame);
    }
    for frame in &sent {
        pmd.cables[0].transmit(frame);
    }
    let passed = pmd.rest(0)?;
    ensure!(passed.len() == packets.len(), "{} came", passed.len());
    for (frame, packet) in passed.iter().zip(&packets) {
        let mut want = packet.finished();
        want.resize(want.len().max(60), 0);
        ensure!(
            frame[12..] == want[12..],
            "wrong checksums in a packet of {} bytes, tcp {}, ipv6 {}: {:02x?} and not {:02x?}",
            packet.payload.len(),
            packet.tcp,
            packet.ipv6,
            &frame[12..60],
            &want[12..60]
        );
    }
    pmd.configure(
        "csum set ip sw 1\ncsum set udp sw 1\ncsum set tcp sw 1",
        "io",
    )?;
    Ok(format!("{} packets", packets.len()))
}

/// The NIC checks the checksums of what it receives.
fn receive_checksums(pmd: &mut Testpmd) -> Result<String> {
    let offloads = |state: &str| {
        ["ipv4_cksum", "udp_cksum", "tcp_cksum"]
            .map(|name| format!("port config 0 rx_offload {name} {state}"))
            .join("\n")
    };
    let mut said = Vec::new();
    for tuofl in [false, true] {
        pmd.configure(&offloads("on"), "csum")?;
        // The driver asks for IP's only (RXCSUM.IPOFL) and looks at both: on parts that start with TUOFL set it gets both.
        if tuofl {
            pmd.vm.ok(
                "read -r bar rest </sys/bus/pci/devices/0000:00:01.0/resource
                 devmem $((bar + 0x5000)) 32 0x300 && [ $(devmem $((bar + 0x5000))) = 0x00000300 ]",
            )?;
        }
        let (mut bad_ip, mut bad_l4) = (0, 0);
        for packet in packets().into_iter().filter(|p| !p.ipv6) {
            let good = packet.finished();
            let (mut ip, mut l4) = (good.clone(), good.clone());
            ip[24] ^= 0x01;
            bad_ip += 1;
            l4[field(&packet)] ^= 0x40;
            bad_l4 += u64::from(tuofl);
            for mut frame in [good, ip, l4] {
                frame.resize(frame.len().max(60), 0);
                pmd.cables[0].transmit(&frame);
            }
        }
        pmd.rest(0)?;
        let counted = pmd.say("stop")?;
        for (name, want) in [("Bad-ipcsum", bad_ip), ("Bad-l4csum", bad_l4)] {
            let found = counter(&counted, name)?;
            ensure!(found == want, "{name} is {found}, not {want}: {counted}");
        }
        said.push(format!("{bad_ip} wrong in IP, {bad_l4} above"));
    }
    pmd.configure(&offloads("off"), "io")?;
    Ok(said.join("; "))
}

/// Frames in several buffers, received and sent.
fn jumbo(pmd: &mut Testpmd) -> Result<String> {
    for mtu in [9000_usize, 16_110] {
        let mut lines = String::new();
        for port in [0, 1] {
            lines += &format!(
                "port config mtu {port} {mtu}\nport config {port} rx_offload scatter on\n\
                 port config {port} tx_offload multi_segs on\n"
            );
        }
        pmd.configure(&lines, "io")?;
        for from in [0, 1] {
            let lengths = [60, 1514, 1515, 2048, 2049, 4096, 8192, mtu + 13, mtu + 14];
            let frames: Vec<_> = lengths.map(|len| (pmd.frame(STRANGER, len), true)).into();
            pmd.expect(from, &frames)?;
        }
    }
    pmd.configure("port config mtu 0 1500\nport config mtu 1 1500", "io")?;
    let frames = [(1514, true), (1519, false), (9014, false), (60, true)]
        .map(|(len, want)| (pmd.frame(STRANGER, len), want));
    pmd.expect(0, &frames)?;
    Ok("up to 16124 bytes".into())
}

/// The driver sends by itself, as fast as it can: what the NICs count is what comes.
fn generator(pmd: &mut Testpmd) -> Result<String> {
    pmd.configure("", "io")?;
    pmd.say("stop\nclear port stats all\nset fwd txonly")?;
    while pmd.cables.iter_mut().any(|c| c.collect().is_some()) {}
    pmd.say("start")?;
    let mut seen = [0; 2];
    let deadline = Instant::now() + PATIENCE;
    while seen.iter().any(|&n| n < 3000) {
        ensure!(Instant::now() < deadline, "only {seen:?} frames came");
        collect(pmd, &mut seen)?;
    }
    pmd.say("stop")?;
    // What is in the rings still leaves.
    loop {
        let mut counted = [0; 2];
        for (port, counted) in counted.iter_mut().enumerate() {
            *counted = pmd.statistic(port, "TX-packets")?;
        }
        collect(pmd, &mut seen)?;
        if seen == counted {
            break;
        }
        ensure!(
            Instant::now() < deadline,
            "{seen:?} frames came, {counted:?} are counted"
        );
    }
    Ok(format!("{seen:?} frames"))
}

/// Counts what testpmd has made and sent.
fn collect(pmd: &mut Testpmd, seen: &mut [u64; 2]) -> Result<()> {
    for (cable, seen) in pmd.cables.iter_mut().zip(seen) {
        while let Some(frame) = cable.collect() {
            ensure!(frame.len() == 64, "a frame of {} bytes", frame.len());
            *seen += 1;
        }
    }
    Ok(())
}

/// Testpmd ends, and Linux's driver takes the devices.
fn given_back(mut pmd: Testpmd) -> Result<String> {
    pmd.on(Binding::Uio)?;
    pmd.quit()?;
    pmd.vm.ok("modprobe e1000")?;
    pmd.bind("e1000")?;
    pmd.vm.ok("ip link set eth0 up")?;
    guest::wait_carrier(&mut pmd.vm, "eth0")?;
    for _ in 0..10 {
        let frame = pmd.frame(station(0), 100);
        pmd.cables[0].transmit(&frame);
    }
    let deadline = Instant::now() + PATIENCE;
    let count = "cat /sys/class/net/eth0/statistics/rx_packets";
    while pmd.vm.ok(count)?.parse::<u64>()? < 10 {
        ensure!(Instant::now() < deadline, "Linux receives nothing");
    }
    // Of all that the IOMMU had mapped and unmapped, nothing was refused.
    let complaints = pmd.vm.complaints();
    ensure!(!complaints.contains("dma"), "QEMU says: {complaints}");
    Ok("Linux receives".into())
}
