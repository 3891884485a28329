//! Wake-on-LAN, as `ethtool` sets it and as the driver leaves it behind when the guest goes to sleep.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use guest_driver::Wire;
use nic_emu_tests::machine::MAC;

use super::echo::{BROADCAST, Echo, PATIENCE, PEER};

/// WUC, WUPL and the first word of WUPM.
const WUC: u64 = 0x5800;
const WUPL: u64 = 0x5900;
const WUPM: u64 = 0x5a00;

/// All the way to sleep but for the last step, a second there, and back.
const SLEEP: &str = "
    echo 1 >/sys/module/suspend/parameters/pm_test_delay
    echo platform >/sys/power/pm_test
    echo freeze >/sys/power/state; slept=$?
    echo none >/sys/power/pm_test
    exit $slept";

/// A magic packet that comes while the guest sleeps is there when it wakes, and nothing that came before or after.
pub(super) fn wake(echo: &mut Echo) -> Result<String> {
    let supported = echo.says("ethtool eth0", "Supports Wake-on")?;
    ensure!(supported == "umbg", "Supports Wake-on is {supported}");
    for (asked, shown) in [("umbg", "umbg"), ("d", "d"), ("g", "g")] {
        echo.set(&format!("ethtool -s eth0 wol {asked}"))?;
        let says = echo.says("ethtool eth0", "Wake-on")?;
        ensure!(says == shown, "wol {asked}: Wake-on is {says}");
    }
    let kind = [0x08, 0x42];
    let stream = [&[0xff; 6][..], &MAC.repeat(16)].concat();
    let magic = [&BROADCAST[..], &PEER, &kind, &[9; 32], &stream].concat();
    let other = [&MAC[..], &PEER, &kind, &[9; 150]].concat();
    echo.cable.transmit(&magic);
    echo.expect_traffic()?;
    ensure!(echo.register(WUPL)? == 0, "awake, it listens");

    let (vm, cable) = (&mut echo.vm, &mut echo.cable);
    let slept = thread::scope(|scope| {
        let sleeper = scope.spawn(|| vm.run(SLEEP));
        let start = Instant::now();
        while !sleeper.is_finished() && start.elapsed() < PATIENCE {
            cable.transmit(&other);
            cable.transmit(&magic);
            while cable.collect().is_some() {}
            thread::sleep(Duration::from_millis(20));
        }
        sleeper.join().expect("it does not panic")
    })?;
    ensure!(slept.success(), "the guest does not sleep: {slept:?}");
    echo.ready()?;
    let kept = (echo.register(WUPL)?, echo.register(WUPM)?);
    let want = (magic.len() as u32, u32::MAX);
    ensure!(kept == want, "kept are {kept:x?} and not {want:x?}");
    ensure!(
        echo.register(WUC)? == 0,
        "WUC is {:#x}",
        echo.register(WUC)?
    );
    echo.expect_traffic()?;
    echo.set("ethtool -s eth0 wol d")?;
    Ok(format!(
        "umbg supported; {} bytes kept over a sleep",
        kept.0
    ))
}
