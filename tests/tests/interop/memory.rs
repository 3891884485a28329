//! Guest memory that the device cannot share: QEMU has a private copy of the file (`share=off`), or there is no file at
//! all. Frames pass nevertheless, by messages, and the operator is told what it costs.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nic_emu_lab::{Lab, Memory, Nic};
use nic_emu_tests::{DaemonBuilder, cli};

use crate::running::{PATIENCE, Setup, Whose};
use crate::{check, jobs};

pub(crate) fn checks(lab: &Lab) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (kind, memory) in [("share_off", Memory::Private), ("no_file", Memory::Plain)] {
        let setup = Setup {
            memory,
            ..Setup::new(Whose::Ours)
        };
        let mut add = |name: &str, run: fn(&Lab, Setup) -> Result<String>| {
            let name = format!("interop::memory::{kind}::{name}");
            trials.push(check(name, lab, move |lab| run(lab, setup)));
        };
        add("tx", |lab, setup| Ok(jobs::tx(lab, setup, 1000, 1514)?.0));
        add("rx", |lab, setup| jobs::rx(lab, setup, 1000));
        add("echo", |lab, setup| jobs::echo(lab, setup, 500));
        add("interrupts", |lab, setup| {
            Ok(jobs::interrupts(lab, setup, 200, true)?.0)
        });
        add("the_daemon_warns", |lab, setup| {
            warned(lab, setup.memory, 1)
        });
    }
    let name = "interop::memory::shared::the_daemon_does_not_warn";
    trials.push(check(name, lab, |lab| warned(lab, Memory::Shared, 0)));
    trials
}

/// The daemon says `times` that memory should be shared, and how.
fn warned(lab: &Lab, memory: Memory, times: usize) -> Result<String> {
    let daemon = DaemonBuilder::new()?.nic("net=null").start(None)?;
    let guest = lab.bare(cli::bare_guest()?).memory(memory);
    let guest = guest.nic(Nic::vfio_user(daemon.socket(0)));
    guest.start("test=tx count=200")?.finish(PATIENCE)?;
    let log = daemon.stop()?.log;
    let warnings: Vec<_> = log
        .lines()
        .filter(|line| line.contains("share=on"))
        .collect();
    ensure!(
        warnings.len() == times,
        "{} warnings in:\n{log}",
        warnings.len()
    );
    Ok(warnings.join("; "))
}
