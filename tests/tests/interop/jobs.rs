//! The jobs of the guest, each with what must come of it. Same jobs for all machines.

use anyhow::{Context, Result, ensure};
use bare_guest::frame;
use nic_emu_lab::Lab;
use nic_emu_tests::machine::MAC;

use crate::running::{Ended, Setup, number};

/// The station that sends to the guest.
pub(crate) const PEER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// Frames on their way to the guest and back: fewer than its rings have descriptors, since QEMU's device drops what it
/// finds no buffer for.
const WINDOW: usize = 100;

/// The guest sleeps between its interrupts: the processors are needed elsewhere.
pub(crate) const OTHERS_TURN: &str = "halt=1";

/// Brings the device up.
pub(crate) fn probe(lab: &Lab, setup: Setup) -> Result<String> {
    let ended = setup.start(lab, "test=probe")?.run("end")?;
    let nic = ended.record("nic")?;
    let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
    ensure!(nic.values.get("mac") == Some(&mac), "{nic:?}");
    ensure!(matches!(number(nic, "line")?, 1..=15), "{nic:?}");
    Ok(format!("{mac} at input {}", number(nic, "line")?))
}

/// Times register accesses.
pub(crate) fn mmio(lab: &Lab, setup: Setup) -> Result<String> {
    let count = 2000;
    let command = format!("test=mmio count={count}");
    let ended = setup.start(lab, &command)?.run("end")?;
    let mut said = Vec::new();
    for op in ["read", "write", "write_read", "port"] {
        let is_op = |value: &String| value == op;
        let mut records = ended.records.iter();
        let record = records.find(|record| record.values.get("op").is_some_and(is_op));
        let record = record.with_context(|| format!("no {op} in {:?}", ended.records))?;
        ensure!(number(record, "count")? == count, "{record:?}");
        said.push(format!("{op} {} ns", number(record, "ns")? / count));
    }
    Ok(said.join(", "))
}

/// Sends `count` numbered frames of `size` bytes: all come, in order and as they were.
pub(crate) fn tx(lab: &Lab, setup: Setup, count: u32, size: usize) -> Result<(String, Ended)> {
    let command = format!("test=tx count={count} size={size}");
    let ended = setup.start(lab, &command)?.run("tx")?;
    let came = ended.frames.len();
    ensure!(came == count as usize, "{came} of {count} frames came");
    for (number, (frame, expected)) in ended
        .frames
        .iter()
        .zip(numbered(count, MAC, |_| size))
        .enumerate()
    {
        ensure!(*frame == expected, "frame {number} came as {frame:02x?}");
    }
    let tx = ended.record("tx")?;
    ensure!(number(tx, "frames")? == u64::from(count), "{tx:?}");
    let each = number(tx, "ns")? / u64::from(count);
    Ok((format!("{size} bytes: {each} ns a frame"), ended))
}

/// Receives `count` numbered frames of all sizes, sent as fast as the device takes them: all come, in order.
pub(crate) fn rx(lab: &Lab, setup: Setup, count: u32) -> Result<String> {
    let frames: Vec<_> = numbered(count, PEER, |number| 60 + number as usize % 1455).collect();
    let bytes: usize = frames.iter().map(Vec::len).sum();
    let command = format!("test=rx count={count} idle=10000");
    let ended = setup
        .start(lab, &command)?
        .run_with("rx", &frames, frames.len())?;
    let rx = ended.record("rx")?;
    ensure!(number(rx, "frames")? == u64::from(count), "{rx:?}");
    ensure!(number(rx, "bytes")? == bytes as u64, "not {bytes}: {rx:?}");
    ensure!(number(rx, "gaps")? == 0, "{rx:?}");
    let each = number(rx, "ns")? / u64::from(count);
    Ok(format!("{each} ns a frame"))
}

/// Has `count` frames of all sizes sent back: all come, in order, and nothing but the addresses has changed.
pub(crate) fn echo(lab: &Lab, setup: Setup, count: u32) -> Result<String> {
    let frames: Vec<_> = numbered(count, PEER, |number| 60 + number as usize * 7 % 1455).collect();
    let command = format!("test=echo count={count} idle=10000");
    let ended = setup
        .start(lab, &command)?
        .run_with("echo", &frames, WINDOW)?;
    let came = ended.frames.len();
    ensure!(came == frames.len(), "{came} of {count} frames came back");
    for (number, (back, mut frame)) in ended.frames.iter().zip(frames).enumerate() {
        frame[..6].copy_from_slice(&PEER);
        frame[6..12].copy_from_slice(&MAC);
        ensure!(*back == frame, "frame {number} came back as {back:02x?}");
    }
    let each = number(ended.record("echo")?, "ns")? / u64::from(count);
    Ok(format!("{each} ns a frame"))
}

/// Causes `count` interrupts, one by one: each comes, once, or with `keep` twice, as its cause is left standing the
/// first time. None is lost and none is stuck.
pub(crate) fn interrupts(
    lab: &Lab,
    setup: Setup,
    count: u64,
    keep: bool,
) -> Result<(String, Ended)> {
    let command = format!(
        "test=irq count={count} keep={} {OTHERS_TURN}",
        u8::from(keep)
    );
    let ended = setup.start(lab, &command)?.run("irq")?;
    let irq = ended.record("irq")?;
    ensure!(number(irq, "taken")? == count, "{irq:?}");
    let kept = if keep { count } else { 0 };
    ensure!(number(irq, "kept")? == kept, "{irq:?}");
    ensure!(number(irq, "stuck")? == 0, "{irq:?}");
    ensure!(number(irq, "pending")? == 0, "{irq:?}");
    let (each, spurious) = (number(irq, "ns")? / count / 1000, number(irq, "spurious")?);
    let said = format!("{count} interrupts, {each} us each, {spurious} without a cause");
    Ok((said, ended))
}

fn numbered(
    count: u32,
    source: [u8; 6],
    size: impl Fn(u32) -> usize,
) -> impl Iterator<Item = Vec<u8>> {
    (0..count).map(move |number| {
        let mut bytes = vec![0; size(number)];
        frame::fill(&mut bytes, source);
        bytes[frame::NUMBER..][..4].copy_from_slice(&number.to_le_bytes());
        bytes
    })
}
