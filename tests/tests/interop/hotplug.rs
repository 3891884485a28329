//! A device that comes and goes while QEMU and the daemon stay.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest_driver::qtest::Qtest;
use guest_driver::{Config, E1000, Offload};
use libtest_mimic::Trial;
use nic_emu_lab::{Lab, Nic, QtestVm};
use nic_emu_tests::machine::{RAM, SLOT};
use nic_emu_tests::{Daemon, DaemonBuilder, soak};
use serde_json::json;

use crate::check;

const PATIENCE: Duration = Duration::from_secs(30);
/// ACPI's hot-plug registers of the machine `pc`: which bus, and which of its slots to eject.
const BUS_SELECT: u16 = 0xAE10;
const EJECT: u16 = 0xAE08;

pub(crate) fn checks(lab: &Lab) -> Vec<Trial> {
    vec![check(
        "interop::hotplug::again_and_again",
        lab,
        again_and_again,
    )]
}

/// What the daemon holds: open descriptors, and mappings of memory files.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    /// What they lead to, without the numbers of sockets and pipes.
    descriptors: Vec<String>,
    mappings: usize,
}

impl Held {
    fn by(daemon: &Daemon) -> Result<Self> {
        let process = format!("/proc/{}", daemon.pid());
        let maps = fs::read_to_string(format!("{process}/maps"))?;
        let descriptors = fs::read_dir(format!("{process}/fd"))?.flatten();
        let mut descriptors: Vec<_> = descriptors
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .map(|target| target.to_string_lossy().into_owned())
            .map(|target| target.split(":[").next().unwrap_or_default().to_owned())
            .collect();
        descriptors.sort();
        Ok(Self {
            descriptors,
            mappings: maps.lines().filter(|map| map.contains("memfd:")).count(),
        })
    }

    /// Whether this is what was held after the `first` round, or what may be after it.
    fn is_like(&self, first: Option<&Self>, before: &Self) -> bool {
        first.map_or_else(
            || {
                self.mappings == before.mappings
                    && self.descriptors.len() <= before.descriptors.len() + 1
            },
            |first| self == first,
        )
    }
}

/// The device is plugged in, sends, and is unplugged; the daemon holds as much after each time as after the first, and
/// then no more than an eventfd that it made when it first needed it.
fn again_and_again(lab: &Lab) -> Result<String> {
    let rounds = if soak() { 100 } else { 3 };
    let mut daemon = DaemonBuilder::new()?.nic("net=null").start(None)?;
    let before = Held::by(&daemon)?;
    let mut vm = QtestVm::start_machine(lab, "pc", &[])?;
    let mut device = Nic::vfio_user(daemon.socket(0)).device(0);
    device["addr"] = format!("{SLOT:#x}").into();
    let started = Instant::now();
    let (mut during, mut first) = (before.clone(), None);
    for round in 0..rounds {
        vm.qmp().execute("device_add", device.clone())?;
        let mut qtest = Qtest::new(vm.stream().try_clone()?, SLOT, RAM, 1);
        let mut nic = E1000::start(&mut qtest, Config::default())?;
        ensure!(nic.send(&[0xFF; 60], Offload::None), "the ring is full");
        ensure!(nic.flush(1_000_000_000), "round {round}: nothing is sent");
        during = Held::by(&daemon)?;

        vm.qmp().execute("device_del", json!({ "id": "nic0" }))?;
        qtest.outl(BUS_SELECT, 0);
        qtest.outl(EJECT, 1 << SLOT);
        let gone = vm.qmp().wait_event("DEVICE_DELETED", PATIENCE)?;
        gone.with_context(|| format!("round {round}: QEMU keeps the device"))?;
        let unplugged = Instant::now();
        let mut after = Held::by(&daemon)?;
        while !after.is_like(first.as_ref(), &before) && unplugged.elapsed() < PATIENCE {
            sleep(Duration::from_millis(5));
            after = Held::by(&daemon)?;
        }
        ensure!(
            after.is_like(first.as_ref(), &before),
            "round {round}: {before:?}, then {first:?}, now {after:?}"
        );
        first.get_or_insert(after);
    }
    // Else nothing was counted.
    ensure!(
        during.descriptors.len() > before.descriptors.len() && during.mappings > before.mappings,
        "{during:?} while attached, {before:?} before"
    );
    ensure!(vm.complaints().is_empty(), "QEMU says: {}", vm.complaints());
    daemon.check_alive()?;
    let ended = daemon.stop()?;
    ensure!(ended.status.success(), "{}", ended.status);
    Ok(format!(
        "{rounds} times in {:.1?}, {} descriptors after each",
        started.elapsed(),
        first.map_or(0, |first| first.descriptors.len())
    ))
}
