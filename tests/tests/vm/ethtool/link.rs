//! Speed, duplex, pause frames, frame sizes, and the cable itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest_driver::Wire;
use nic_emu_tests::machine::MAC;

use super::echo::{Echo, Expected, PATIENCE, grown};

/// CTRL, and its bits RFCE and TFCE.
const CTRL: u64 = 0x0000;
const RFCE: u32 = 1 << 27;
const TFCE: u32 = 1 << 28;
/// STATUS, and its bit that says that the transmitter is paused.
const STATUS: u64 = 0x0008;
const TXOFF: u32 = 1 << 4;
/// Where pause frames are sent (IEEE 802.3 annex 31B).
const PAUSE: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 1];

/// Frames as long as the MTU allows pass, and longer ones where the part can't tell them from those.
pub(super) fn jumbo(echo: &mut Echo) -> Result<String> {
    let cases: [(usize, &[(usize, bool)]); 5] = [
        // Without RCTL.LPE: 1522 bytes with FCS.
        (
            1500,
            &[(1514, true), (1518, true), (1519, false), (4000, false)],
        ),
        // With LPE: 16384 bytes with FCS. Buffers of 4096 bytes.
        (
            9000,
            &[
                (60, true),
                (1519, true),
                (4092, true),
                (4093, true),
                (4096, true),
                (4097, true),
                (8188, true),
                (9014, true),
            ],
        ),
        (
            16110,
            &[
                (60, true),
                (9014, true),
                (12288, true),
                (16000, true),
                (16124, true),
                // The longest that the part sends.
                (16288, true),
            ],
        ),
        (2000, &[(60, true), (1519, true), (2014, true)]),
        (1500, &[(1518, true), (1519, false), (16000, false)]),
    ];
    for (mtu, sizes) in cases {
        echo.set(&format!("ip link set eth0 mtu {mtu}"))?;
        let frames: Vec<Expected> = sizes
            .iter()
            .map(|(len, passes)| (echo.frame(MAC, *len), *passes))
            .collect();
        let before = echo.counters()?;
        echo.expect(&frames).with_context(|| format!("MTU {mtu}"))?;
        let now = echo.counters()?;
        let long = grown(&now, &before, "rx_long_length_errors");
        let refused = sizes.iter().filter(|(_, passes)| !passes).count();
        ensure!(
            long == refused as u64,
            "MTU {mtu}: {long} frames were too long, not {refused}"
        );
        if mtu == 16110 {
            longest(echo)?;
        }
    }
    let refused = echo.vm.run("ip link set eth0 mtu 16111")?;
    ensure!(!refused.success(), "an MTU of 16111 was taken");
    Ok("MTU 9000, 16110, 2000".into())
}

/// Frames of 16384 bytes with FCS are received, longer ones aren't. Sending them back is more than the part can.
fn longest(echo: &mut Echo) -> Result<()> {
    let before = (echo.counters()?, echo.statistic("rx_packets")?);
    let frames = [16380, 16380, 16381].map(|len| echo.frame(MAC, len));
    let back = echo.echoes(&frames)?.len();
    let taken_in = echo.statistic("rx_packets")? - before.1;
    let long = grown(&echo.counters()?, &before.0, "rx_long_length_errors");
    ensure!(
        (back, taken_in, long) == (0, 3, 1),
        "of frames of 16384, 16384 and 16385 bytes {back} came back, {taken_in} frames were taken in, {long} refused"
    );
    Ok(())
}

/// Forced and negotiated speed and duplex: the device, the driver and the tool agree, and frames pass.
pub(super) fn speed(echo: &mut Echo) -> Result<String> {
    let modes = [
        ("autoneg off speed 100 duplex full", "100Mb/s", "Full", 0x43),
        ("autoneg off speed 10 duplex half", "10Mb/s", "Half", 0x02),
        ("autoneg off speed 100 duplex half", "100Mb/s", "Half", 0x42),
        ("autoneg off speed 10 duplex full", "10Mb/s", "Full", 0x03),
        ("autoneg on advertise 0x008", "100Mb/s", "Full", 0x43),
        ("autoneg on advertise 0x001", "10Mb/s", "Half", 0x02),
        ("autoneg on advertise 0x02f", "1000Mb/s", "Full", 0x83),
    ];
    for (mode, speed, duplex, status) in modes {
        echo.set(&format!("ethtool -s eth0 {mode}"))?;
        for (key, want) in [
            ("Speed", speed),
            ("Duplex", duplex),
            ("Link detected", "yes"),
        ] {
            let shown = echo.says("ethtool eth0", key)?;
            ensure!(shown == want, "{mode}: {key} is {shown}");
        }
        let shown = echo.dump()?.get("STATUS").copied().unwrap_or_default();
        ensure!(shown & 0xc3 == status, "{mode}: STATUS is {shown:#x}");
        echo.expect_traffic().with_context(|| mode.to_owned())?;
    }
    echo.set("ethtool -r eth0")?;
    echo.expect_traffic().context("negotiated again")?;
    let refused = echo
        .vm
        .run("ethtool -s eth0 autoneg off speed 1000 duplex half")?;
    ensure!(!refused.success(), "1000 Mbit/s at half duplex were taken");
    // The driver forgets that it negotiates before it refuses, and forces the mode before this one at its next reset.
    echo.set("ethtool -s eth0 autoneg on advertise 0x02f")?;
    echo.expect_traffic().context("after a mode refused")?;
    Ok(format!("{} modes", modes.len()))
}

/// `ethtool -A` sets what it says, negotiated or not; pause frames are counted, obeyed if they are to be, and reach the
/// guest only where their address does.
pub(super) fn pause(echo: &mut Echo) -> Result<String> {
    for (on, sending) in [(true, true), (true, false), (false, true), (false, false)] {
        let word = |on| if on { "on" } else { "off" };
        let (rx, tx) = (word(on), word(sending));
        echo.set(&format!(
            "ethtool -A eth0 autoneg off rx {rx} tx {tx} || [ $? = 79 ]"
        ))?;
        for (key, want) in [("RX", rx), ("TX", tx)] {
            let shown = echo.says("ethtool -a eth0", key)?;
            ensure!(shown == want, "rx {rx} tx {tx}: {key} is {shown}");
        }
        let ctrl = echo.register(CTRL)?;
        ensure!(
            (ctrl & RFCE != 0, ctrl & TFCE != 0) == (on, sending),
            "rx {rx} tx {tx}: CTRL is {ctrl:#x}"
        );
        let before = echo.counters()?;
        let xoff = echo.pause_frame(0xffff);
        let xon = echo.pause_frame(0);
        // In this order: an XOFF would hold back what follows.
        echo.expect(&[
            (xoff.clone(), false),
            (xon.clone(), false),
            (xoff, false),
            (xon, false),
        ])?;
        let now = echo.counters()?;
        let counted = (
            grown(&now, &before, "rx_flow_control_xoff"),
            grown(&now, &before, "rx_flow_control_xon"),
        );
        // Received is received, obeyed or not.
        ensure!(
            counted == (2, 2),
            "rx {rx}: XOFF and XON counted {counted:?}"
        );
        echo.holds_back(on)?;
        // The driver leaves RCTL.DPF clear: who takes in everything sees pause frames too.
        echo.vm.ok("ip link set eth0 promisc on")?;
        let (xoff, xon) = (echo.pause_frame(0xffff), echo.pause_frame(0));
        echo.expect(&[(xoff, true), (xon, true)])
            .context("promiscuous")?;
        echo.vm.ok("ip link set eth0 promisc off")?;
        echo.expect_traffic()?;
    }
    // The other end can do all of it.
    for (rx, tx) in [("on", "on"), ("on", "off"), ("off", "on"), ("off", "off")] {
        echo.set(&format!(
            "ethtool -A eth0 autoneg on rx {rx} tx {tx} || [ $? = 79 ]"
        ))?;
        // The driver says so in its registers once it has seen the link up, from a worker of its own.
        let start = Instant::now();
        loop {
            let ctrl = echo.register(CTRL)?;
            if (ctrl & RFCE != 0, ctrl & TFCE != 0) == (rx == "on", tx == "on") {
                break;
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "negotiated rx {rx} tx {tx}: CTRL is {ctrl:#x}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    Ok("counted, obeyed, negotiated, and filtered by address".into())
}

/// Pulling the cable is seen at once, and frames pass when it is back.
pub(super) fn cable(echo: &mut Echo) -> Result<String> {
    for _ in 0..3 {
        echo.cable.set_carrier(false);
        let deadline = Instant::now() + PATIENCE;
        while echo.vm.ok("cat /sys/class/net/eth0/carrier")? == "1" {
            ensure!(
                Instant::now() < deadline,
                "the guest does not see that the cable is out"
            );
        }
        echo.cable.set_carrier(true);
        echo.ready()?;
        echo.expect_traffic()?;
    }
    Ok("three times".into())
}

impl Echo {
    /// After an XOFF nothing leaves the guest before its time is over, if it has to `obey`.
    fn holds_back(&mut self, obey: bool) -> Result<()> {
        const LONGEST: Duration = Duration::from_nanos(0xffff * 512);
        let (xoff, frame) = (self.pause_frame(0xffff), self.frame(MAC, 100));
        let start = Instant::now();
        self.cable.transmit(&xoff);
        // By then the NIC has it, and the pause has begun no earlier than `start`.
        let deadline = start + PATIENCE;
        let paused = loop {
            let paused = self.register(STATUS)? & TXOFF != 0;
            if paused || !obey || Instant::now() > deadline {
                break paused;
            }
            // The machine was too slow to see it.
            self.cable.transmit(&xoff);
        };
        ensure!(paused == obey, "STATUS.TXOFF is {paused}");
        let echoes = self.echoes([&frame])?;
        ensure!(echoes == [frame], "{echoes:02x?}");
        ensure!(
            !obey || start.elapsed() >= LONGEST,
            "a frame came back after {:?}",
            start.elapsed()
        );
        Ok(())
    }

    fn pause_frame(&mut self, quanta: u16) -> Vec<u8> {
        let mut frame = self.frame(PAUSE, 60);
        frame[12..16].copy_from_slice(&[0x88, 0x08, 0x00, 0x01]);
        frame[16..18].copy_from_slice(&quanta.to_be_bytes());
        frame[18..].fill(0);
        frame
    }
}
