//! Many hypervisors at once on one daemon.

use std::sync::Barrier;
use std::thread::scope;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest_driver::qtest::Qtest;
use guest_driver::regs::{STATUS, pci, status};
use guest_driver::{Bus, until};
use libtest_mimic::Trial;
use nic_emu_lab::{Lab, Nic, QtestVm};
use nic_emu_tests::DaemonBuilder;
use nic_emu_tests::machine::{RAM, SLOT};

use crate::check;

/// As many as once took down a server that was too slow for its clients' patience (SPDK's issue 2392).
const GUESTS: usize = 21;

pub(crate) fn checks(lab: &Lab) -> Vec<Trial> {
    vec![check("interop::crowd::all_at_once", lab, all_at_once)]
}

/// All of them attach at the same time, QEMU giving up on any message after 5 s. Each finds its own device, and keeps it
/// while the others are there.
fn all_at_once(lab: &Lab) -> Result<String> {
    let builder = (0..GUESTS).try_fold(DaemonBuilder::new()?, |builder, index| {
        anyhow::Ok(builder.nic(&format!("net=null,mac=52:54:00:00:00:{index:02x}")))
    });
    let mut daemon = builder?.start(None)?;
    // Found once, not by each.
    lab.qemu()?;
    let (start, attached) = (Barrier::new(GUESTS), Barrier::new(GUESTS));
    let longest = scope(|scope| -> Result<Duration> {
        let guests: Vec<_> = (0..GUESTS)
            .map(|index| {
                let socket = daemon.socket(index);
                let (start, attached) = (&start, &attached);
                scope.spawn(move || -> Result<Duration> {
                    let mut device = Nic::vfio_user(socket).device(0);
                    device["addr"] = format!("{SLOT:#x}").into();
                    start.wait();
                    let began = Instant::now();
                    let vm = QtestVm::start(lab, &["-device", &device.to_string()]);
                    let took = began.elapsed();
                    // Whoever fails keeps nobody waiting.
                    attached.wait();
                    look(&vm?, index as u8)?;
                    Ok(took)
                })
            })
            .collect();
        let mut longest = Duration::ZERO;
        for (index, guest) in guests.into_iter().enumerate() {
            let took = guest.join().expect("a guest's thread does not panic");
            longest = longest.max(took.with_context(|| format!("guest {index}"))?);
        }
        Ok(longest)
    })?;
    daemon.check_alive()?;
    daemon.stop()?;
    Ok(format!(
        "{GUESTS} guests, the slowest up after {longest:.1?}"
    ))
}

/// The guest's device answers, is the one meant for it, and QEMU has nothing to complain about.
fn look(vm: &QtestVm, index: u8) -> Result<()> {
    let mut qtest = Qtest::new(vm.stream().try_clone()?, SLOT, RAM, 0);
    let id = qtest.config_read(pci::ID, 4);
    ensure!(id == 0x100E_8086, "the device is {id:#x}");
    let mac = guest_driver::e1000::probe(&mut qtest)?;
    ensure!(
        mac == [0x52, 0x54, 0, 0, 0, index],
        "its address is {mac:02x?}"
    );
    let complaints = vm.complaints();
    ensure!(complaints.is_empty(), "QEMU says: {complaints}");
    let up = until(&mut qtest, 1, |bus| bus.read32(STATUS) & status::LU != 0);
    ensure!(up, "its link is down");
    Ok(())
}
