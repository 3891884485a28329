//! perf, the lab's, as `cargo xtask bench profile` uses it: it sees what the daemon and QEMU are at.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use libtest_mimic::{Completion, Failed, Trial};
use nic_emu_lab::{Lab, Nic};
use nic_emu_tests::profile::{Recording, Tally, Use, Work};
use nic_emu_tests::{DaemonBuilder, cli, is_root};

use crate::running::PATIENCE;

pub(crate) fn checks(lab: &Lab) -> Vec<Trial> {
    let lab = lab.clone();
    let trial = Trial::ignorable_test("interop::profile", move || {
        if !is_root() {
            return Ok(Completion::ignored_with("needs root, to sample processors"));
        }
        let said = profile(&lab).map_err(|error| Failed::from(format!("{error:#}")))?;
        eprintln!("    interop::profile: {said}");
        Ok(Completion::Completed)
    });
    vec![trial]
}

/// A guest that sends without an end, until a sample of each kind was taken.
fn profile(lab: &Lab) -> Result<String> {
    let daemon = DaemonBuilder::new()?.nic("net=null").start(None)?;
    let guest = lab.bare(cli::bare_guest()?);
    let guest = guest.nic(Nic::vfio_user(daemon.socket(0)));
    let mut guest = guest.start("test=tx count=1000000000 size=60")?;
    guest.record("ready", PATIENCE)?;

    let (perf, started) = (lab.perf()?, Instant::now());
    let pids = [daemon.pid(), guest.pid()];
    let before = Use::now(daemon.pid())?;
    let mut samples = Vec::new();
    loop {
        let mut recording = Recording::start(&perf, &pids, 4000, Duration::from_millis(500))?;
        recording.wait()?;
        samples.extend(recording.samples(&perf)?);
        let of = |pid| Tally::of(samples.iter().filter(move |sample| sample.pid == pid));
        let (ours, qemu) = (of(pids[0]), of(pids[1]));
        let has = |tally: &Tally, kinds: &[Work]| {
            tally.work().iter().any(|(work, _)| kinds.contains(work))
        };
        let seen = has(&ours, &[Work::Model, Work::Daemon])
            && has(&ours, &[Work::Epoll, Work::SocketReceive, Work::Scheduling])
            && has(&qemu, &[Work::Guest, Work::Hypervisor]);
        if seen {
            let threads = Use::now(daemon.pid())?.since(&before);
            let (name, ran) = threads
                .first()
                .map(|thread| (&*thread.name, thread.ran))
                .unzip();
            return Ok(format!(
                "{} samples of the daemon, {} of QEMU; {name:?} ran {ran:.1?} %",
                ours.samples, qemu.samples
            ));
        }
        if started.elapsed() > PATIENCE {
            bail!("{:?} of the daemon, {:?} of QEMU", ours.work(), qemu.work());
        }
    }
}
