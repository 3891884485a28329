//! A driver that others wrote, the crate `e1000-driver`, on our 82540EM and on QEMU's own: what it sends and receives, and
//! what it shows of both devices.
//!
//! Three of its ways are its own. It sets no IFCS, so the part takes the last four bytes of each frame for the FCS that the
//! driver has brought (8254x manual, 3.3.3.1), and if they are none, whoever receives the frame drops it; QEMU's sends them
//! on as data. It overwrites the address from the EEPROM by
//! a constant. And it leaves the upper halves of both ring addresses as the reset left them.

use anyhow::{Result, ensure};
use guest_driver::packet::{fcs, plain};
use libtest_mimic::Trial;
use nic_emu_lab::Lab;
use nic_emu_tests::machine::MAC;

use crate::check;
use crate::jobs::PEER;
use crate::running::{Setup, Whose, number};

/// Whom the driver makes the device, in whatever machine.
const STATION: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x55];
/// Fewer on their way than its rings have descriptors.
const WINDOW: usize = 100;
const RXT0: u64 = 1 << 7;

pub(crate) fn checks(lab: &Lab) -> Vec<Trial> {
    [Whose::Ours, Whose::Qemus]
        .into_iter()
        .flat_map(|whose| {
            let name = |what| format!("interop::peer::{whose}::{what}");
            [
                check(name("echo"), lab, move |lab| echo(lab, whose)),
                check(name("without_fcs"), lab, move |lab| without_fcs(lab, whose)),
            ]
        })
        .collect()
}

/// Who takes the driver's word for it and gives it frames without an FCS is heard on QEMU's device, and by nobody on ours,
/// as on the part.
fn without_fcs(lab: &Lab, whose: Whose) -> Result<String> {
    let frames: Vec<_> = (0..WINDOW)
        .map(|number| plain(STATION, PEER, 60 + number * 14, number as u32))
        .collect();
    let setup = Setup {
        peer: true,
        ..Setup::new(whose)
    };
    let running = setup.start(lab, &format!("count={WINDOW} idle=20000 fcs=0"))?;
    let ended = running.run_with("echo", &frames, WINDOW)?;
    let echo = ended.record("echo")?;
    ensure!(number(echo, "frames")? == WINDOW as u64, "{echo:?}");
    let expected = match whose {
        Whose::Ours => 0,
        Whose::Qemus => WINDOW,
    };
    let came = ended.frames.len();
    ensure!(came == expected, "{came} frames came back, not {expected}");
    Ok(format!("{came} of {WINDOW} frames came back"))
}

/// Frames of all sizes to the driver's address and to all come back, in order; those to the address in the EEPROM, which
/// lie between them, do not.
fn echo(lab: &Lab, whose: Whose) -> Result<String> {
    let count = 600;
    let expected: Vec<_> = (0..count)
        .map(|number| {
            let to = if number % 3 == 0 { [0xFF; 6] } else { STATION };
            plain(to, PEER, 60 + number * 11 % 1455, number as u32)
        })
        .collect();
    // Whoever counts on frames that come back must not count those: they are behind the last of each window.
    let mut frames = Vec::new();
    for (number, frame) in expected.iter().enumerate() {
        frames.push(frame.clone());
        if number % 100 == 50 {
            frames.push(plain(MAC, PEER, 100, number as u32));
        }
    }
    let strays = frames.len() - expected.len();
    let setup = Setup {
        peer: true,
        ..Setup::new(whose)
    };
    let running = setup.start(lab, &format!("count={count} idle=20000"))?;
    let ended = running.run_with("echo", &frames, WINDOW + strays)?;

    let came = ended.frames.len();
    ensure!(came == count, "{came} of {count} frames came back");
    for (number, (back, mut frame)) in ended.frames.iter().zip(expected).enumerate() {
        frame[..6].copy_from_slice(&PEER);
        frame[6..12].copy_from_slice(&STATION);
        if whose == Whose::Qemus {
            frame.extend(fcs(&frame));
        }
        ensure!(*back == frame, "frame {number} came back as {back:02x?}");
    }
    let echo = ended.record("echo")?;
    ensure!(number(echo, "refused")? == 0, "{echo:?}");
    // Received frames leave their cause.
    let causes = hexadecimal(echo.values.get("causes"));
    ensure!(causes.is_some_and(|causes| causes & RXT0 != 0), "{echo:?}");
    Ok(format!("{count} frames, {strays} for another station"))
}

fn hexadecimal(value: Option<&String>) -> Option<u64> {
    u64::from_str_radix(value?.strip_prefix("0x")?, 16).ok()
}
