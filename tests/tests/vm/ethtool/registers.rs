//! Self-test, dumps, statistics, ring sizes and the identifying LED.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use guest_driver::Wire;
use nic_emu_tests::machine::MAC;
use nic_emu_tests::soak;

use super::echo::{BROADCAST, Echo, PATIENCE, STRANGER, grown};

/// LEDCTL (8254x manual 13.4.14).
const LEDCTL: u64 = 0x0e00;
/// STATUS.FD, STATUS.LU, and STATUS.SPEED for 1000 Mbit/s.
const STATUS_UP: u32 = 0x83;
/// RCTL.EN and RCTL.BAM.
const RCTL_ON: u32 = 0x8002;
/// What all words of the EEPROM add up to (8254x manual 5.6.35).
const EEPROM_SUM: u16 = 0xbaba;
/// How often in all, or as often as is asked for, a test is repeated in which the loopback test ends with 14: all frames
/// came back as they should, but the guest took more than two ticks of its clock to compare them, since the machine had
/// other work.
const LATE: usize = 5;
/// Length of the FCS, which counters of bytes include.
const FCS: u64 = 4;

/// All five tests pass, again and again, nothing of the loopback test leaks to the cable, and traffic passes after it.
pub(super) fn selftest(echo: &mut Echo) -> Result<String> {
    let times = if soak() { 20 } else { 2 };
    let mut late = 0;
    for time in 1..=times {
        while echo.cable.collect().is_some() {}
        let mut said = tested(echo)?;
        while late < times.max(LATE) && said.contains("Loopback test  (offline)\t 14") {
            late += 1;
            said = tested(echo)?;
        }
        let passed = said.lines().filter(|line| line.ends_with("\t 0")).count();
        ensure!(
            said.contains("The test result is PASS") && passed == 5,
            "time {time}: {said}"
        );
        while let Some(frame) = echo.cable.collect() {
            ensure!(
                frame.len() != 1024,
                "a frame of the loopback test was sent: {:02x?}",
                &frame[..16]
            );
        }
        echo.expect_traffic()
            .with_context(|| format!("after time {time}"))?;
    }
    Ok(format!(
        "five tests, {times} times; {late} more when the guest was late"
    ))
}

/// What `ethtool -t` says.
fn tested(echo: &mut Echo) -> Result<String> {
    let output = echo.vm.run_for("ethtool -t eth0 offline", PATIENCE * 3)?;
    echo.ready()?;
    Ok(output.stdout + &output.stderr)
}

/// The EEPROM has the address by which frames reach the guest, and the checksum.
pub(super) fn eeprom(echo: &mut Echo) -> Result<String> {
    let said = echo
        .vm
        .ok("ethtool -e eth0 raw on | hexdump -v -e '1/1 \"%02x \"'")?;
    let bytes: Vec<u8> = said
        .split_whitespace()
        .filter_map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    ensure!(bytes.len() == 128, "the EEPROM has {} bytes", bytes.len());
    ensure!(
        bytes[..6] == MAC,
        "the EEPROM's address is {:02x?}",
        &bytes[..6]
    );
    let sum = bytes.chunks_exact(2).fold(0u16, |sum, word| {
        sum.wrapping_add(u16::from_le_bytes([word[0], word[1]]))
    });
    ensure!(sum == EEPROM_SUM, "the EEPROM's words add up to {sum:#06x}");
    let shown = echo
        .vm
        .ok("ethtool -P eth0; cat /sys/class/net/eth0/address")?;
    let own = "52:54:00:12:34:56";
    ensure!(shown.matches(own).count() == 2, "the address is {shown}");
    let to_own = echo.frame(MAC, 100);
    let to_other = echo.frame(STRANGER, 100);
    echo.expect(&[(to_own, true), (to_other, false)])?;
    Ok("address and checksum".into())
}

/// Each counter of `ethtool -S` grows by what was sent and seen.
pub(super) fn statistics(echo: &mut Echo) -> Result<String> {
    let before = echo.counters()?;
    let wrong_before = echo.statistic("rx_errors")?;
    let sizes = [60, 61, 64, 123, 124, 252, 508, 1020, 1514, 1518];
    let mut frames = Vec::new();
    for (at, len) in sizes.into_iter().enumerate() {
        let to = if at % 3 == 0 { BROADCAST } else { MAC };
        frames.push(echo.frame(to, len));
    }
    let oversize: Vec<_> = (0..3).map(|_| echo.frame(MAC, 1519)).collect();
    let foreign: Vec<_> = (0..5).map(|_| echo.frame(STRANGER, 80)).collect();
    let damaged: Vec<_> = (0..7).map(|_| echo.frame(MAC, 200)).collect();
    for frame in &damaged {
        echo.cable.transmit_damaged(frame);
    }
    let back = echo.echoes(frames.iter().chain(&oversize).chain(&foreign))?;
    ensure!(
        back == frames,
        "{} of {} frames came back",
        back.len(),
        frames.len()
    );

    let now = echo.counters()?;
    let wrong_now = echo.statistic("rx_errors")? - wrong_before;
    ensure!(wrong_now == 10, "ip -s shows {wrong_now} errors of 10");
    // The last one that tells us that all are back counts too.
    let sent = frames.len() as u64 + 1;
    let bytes = frames.iter().map(|f| f.len() as u64 + FCS).sum::<u64>() + 60 + FCS;
    let broadcasts = sizes.len().div_ceil(3) as u64;
    let expected = [
        ("rx_packets", sent),
        ("tx_packets", sent),
        ("rx_bytes", bytes),
        ("tx_bytes", bytes),
        ("rx_broadcast", broadcasts),
        ("tx_broadcast", broadcasts),
        ("rx_multicast", 0),
        ("tx_multicast", 0),
        ("rx_crc_errors", 7),
        ("rx_long_length_errors", 3),
        ("rx_length_errors", 3),
        // RXERRC, unlike what `ip -s` shows by this name.
        ("rx_errors", 0),
        ("rx_no_buffer_count", 0),
        ("rx_missed_errors", 0),
        ("tx_errors", 0),
    ];
    for (name, by) in expected {
        let grew = grown(&now, &before, name);
        ensure!(grew == by, "{name} grew by {grew}, not by {by}; now: {now}");
    }
    ensure!(
        now.get("tx_timeout_count") == 0,
        "the transmitter hung: {now}"
    );
    Ok(format!("{} counters of {sent} frames", expected.len()))
}

/// `ethtool -d` shows a running device, and rings that move with the frames.
pub(super) fn dump(echo: &mut Echo) -> Result<String> {
    let before = echo.dump()?;
    let get = |dump: &std::collections::BTreeMap<String, u32>, name: &str| {
        let value = dump.get(name).copied();
        value.with_context(|| format!("ethtool -d shows no {name}: {dump:x?}"))
    };
    let status = get(&before, "STATUS")?;
    ensure!(status & 0xff == STATUS_UP, "STATUS is {status:#x}");
    let rctl = get(&before, "RCTL")?;
    ensure!(rctl & RCTL_ON == RCTL_ON, "RCTL is {rctl:#x}");
    for (ring, len) in [("RDLEN", 256 * 16), ("TDLEN", 256 * 16)] {
        let shown = get(&before, ring)?;
        ensure!(shown == len, "{ring} is {shown}");
    }
    let frames: Vec<_> = (0..30).map(|_| (echo.frame(MAC, 60), true)).collect();
    echo.expect(&frames)?;
    let after = echo.dump()?;
    // One descriptor for each frame, and for the one that follows them.
    for head in ["RDH", "TDH"] {
        let moved = (256 + get(&after, head)? - get(&before, head)?) % 256;
        ensure!(moved == 31, "{head} has moved by {moved} for 31 frames");
    }
    Ok(format!("{} registers", after.len()))
}

/// Rings of every size carry frames in order, many times round.
pub(super) fn rings(echo: &mut Echo) -> Result<String> {
    for count in [80, 4096, 256] {
        echo.set(&format!("ethtool -G eth0 rx {count} tx {count}"))?;
        let shown = (
            echo.says("ethtool -g eth0", "RX")?,
            echo.says("ethtool -g eth0", "TX")?,
        );
        ensure!(
            shown == (count.to_string(), count.to_string()),
            "ethtool -g shows {shown:?} after -G {count}"
        );
        let registers = echo.dump()?;
        for ring in ["RDLEN", "TDLEN"] {
            let len = registers.get(ring).copied();
            ensure!(
                len == Some(count * 16),
                "{ring} is {len:?} for {count} descriptors"
            );
        }
        for _ in 0..3 {
            let frames: Vec<_> = (0..100)
                .map(|at| (echo.frame(MAC, 60 + at * 14), true))
                .collect();
            echo.expect(&frames)
                .with_context(|| format!("rings of {count}"))?;
        }
    }
    let refused = echo.vm.run("ethtool -G eth0 rx 8192")?;
    ensure!(!refused.success(), "a ring of 8192 was taken");
    Ok("80, 4096, 256 descriptors".into())
}

/// `ethtool -p` lets the LEDs blink while frames pass, and leaves them as they were.
pub(super) fn blink(echo: &mut Echo) -> Result<String> {
    let before = echo.register(LEDCTL)?;
    echo.vm
        .ok("(ethtool -p eth0 2; echo $? >/run/blinked) >/dev/null 2>&1 &")?;
    let mut seen = BTreeSet::new();
    let deadline = Instant::now() + PATIENCE;
    while echo
        .vm
        .ok("cat /run/blinked 2>/dev/null || true")?
        .is_empty()
    {
        for _ in 0..10 {
            seen.insert(echo.register(LEDCTL)?);
            sleep(Duration::from_millis(10));
        }
        echo.expect_traffic()?;
        if Instant::now() > deadline {
            bail!("ethtool -p does not end; LEDCTL was {seen:x?}");
        }
    }
    let code = echo.vm.ok("cat /run/blinked; rm /run/blinked")?;
    ensure!(code == "0", "ethtool -p ended with {code}");
    let after = echo.register(LEDCTL)?;
    ensure!(
        after == before,
        "LEDCTL was {before:#x} and is {after:#x} afterwards"
    );
    seen.remove(&before);
    ensure!(!seen.is_empty(), "LEDCTL stayed {before:#x}");
    Ok(format!("LEDCTL {before:x}, then {seen:x?}"))
}
