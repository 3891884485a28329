//! The guest under KVM, where interrupts pass through the kernel. A KVM without the processor's help interprets its
//! guest, which is slow; what must not be lost must not be lost there either.

use std::sync::OnceLock;

use anyhow::{Result, ensure};
use libtest_mimic::{Completion, Failed, Trial};
use nic_emu_lab::{Accel, Lab, Nic};
use nic_emu_tests::cli;

use crate::examples::msix_in_a_guest;
use crate::jobs;
use crate::relay::{REGION_READ, SET_IRQS};
use crate::running::{PATIENCE, Setup, Whose};

pub(crate) fn checks(lab: &Lab) -> Vec<Trial> {
    vec![
        trial("interrupts", lab, |lab| interrupts(lab, false)),
        trial("interrupts_left_standing", lab, |lab| interrupts(lab, true)),
        trial("msix", lab, |lab| msix_in_a_guest(lab, Accel::Kvm, 3000)),
        trial("traffic", lab, |lab| jobs::echo(lab, ours(), 500)),
    ]
}

fn trial(name: &str, lab: &Lab, run: fn(&Lab) -> Result<String>) -> Trial {
    let (name, lab) = (format!("interop::kvm::{name}"), lab.clone());
    let told = name.clone();
    Trial::ignorable_test(name, move || {
        if let Err(reason) = runs_guests(&lab) {
            return Ok(Completion::ignored_with(reason));
        }
        let said = run(&lab).map_err(|error| Failed::from(format!("{error:#}")))?;
        eprintln!("    {told}: {said}");
        Ok(Completion::Completed)
    })
}

/// Whether this machine's KVM runs the guest, found out by doing so; if not, why.
fn runs_guests(lab: &Lab) -> Result<(), String> {
    static RUNS: OnceLock<Result<(), String>> = OnceLock::new();
    let boot = || -> Result<()> {
        let builder = lab.bare(cli::bare_guest()?).accel(Accel::Kvm);
        let nic = Nic::Unplugged {
            model: "e1000".into(),
            mac: "52:54:00:12:34:56".into(),
        };
        builder.nic(nic).start("test=probe")?.finish(PATIENCE)?;
        Ok(())
    };
    let tried = || {
        boot().map_err(|error| format!("no KVM that runs a guest: {error:#}").replace('\n', "; "))
    };
    RUNS.get_or_init(tried).clone()
}

fn ours() -> Setup {
    Setup {
        accel: Accel::Kvm,
        ..Setup::new(Whose::Ours)
    }
}

/// Thousands of interrupts, and not one message about them. With `keep` each of them comes a second time because the
/// end of the first was signalled to the device (its resample eventfd), whose line was still up.
fn interrupts(lab: &Lab, keep: bool) -> Result<String> {
    let count = if keep { 1000 } else { 3000 };
    let setup = Setup {
        counted: true,
        ..ours()
    };
    let (said, ended) = jobs::interrupts(lab, setup, count, keep)?;
    let passed = ended.passed.commands;
    ensure!(
        passed[SET_IRQS] == 0,
        "{} messages about {count} interrupts",
        passed[SET_IRQS]
    );
    ensure!(
        passed[REGION_READ] > count / 2,
        "{} reads for {count} interrupts: the messages were not counted",
        passed[REGION_READ]
    );
    Ok(format!("{said}, {} SET_IRQS", passed[SET_IRQS]))
}
