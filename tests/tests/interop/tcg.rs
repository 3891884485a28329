//! The same guest on our 82540EM and on QEMU's own, translated by QEMU.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nic_emu_lab::Lab;

use crate::relay::REGION_WRITE;
use crate::running::{Setup, Whose};
use crate::{check, jobs};

pub(crate) fn checks(lab: &Lab) -> Vec<Trial> {
    let mut trials = Vec::new();
    for whose in [Whose::Ours, Whose::Qemus] {
        let setup = Setup::new(whose);
        let mut add = |name: &str, run: fn(&Lab, Setup) -> Result<String>| {
            let name = format!("interop::tcg::{whose}::{name}");
            trials.push(check(name, lab, move |lab| run(lab, setup)));
        };
        add("probe", jobs::probe);
        add("mmio", jobs::mmio);
        add("tx_short", |lab, setup| {
            Ok(jobs::tx(lab, setup, 5000, 60)?.0)
        });
        add("tx_long", |lab, setup| {
            Ok(jobs::tx(lab, setup, 2000, 1514)?.0)
        });
        add("rx", |lab, setup| match setup.whose {
            Whose::Ours => jobs::rx(lab, setup, 5000),
            // What finds no buffer is dropped, as by hardware: no more than there are.
            Whose::Qemus => jobs::rx(lab, setup, 150),
        });
        add("echo", |lab, setup| jobs::echo(lab, setup, 2000));
        add("interrupts", |lab, setup| {
            Ok(jobs::interrupts(lab, setup, 500, false)?.0)
        });
        add("interrupts_left_standing", |lab, setup| {
            Ok(jobs::interrupts(lab, setup, 500, true)?.0)
        });
    }
    for (name, posted) in [("on", true), ("off", false)] {
        let name = format!("interop::posted_writes::{name}");
        trials.push(check(name, lab, move |lab| posted_writes(lab, posted)));
    }
    trials
}

/// Writes for which QEMU awaits no reply, and the same device with those switched off (`x-no-posted-writes`).
fn posted_writes(lab: &Lab, posted: bool) -> Result<String> {
    let setup = Setup {
        counted: true,
        posted,
        ..Setup::new(Whose::Ours)
    };
    let (_, tx) = jobs::tx(lab, setup, 2000, 200)?;
    let (_, irq) = jobs::interrupts(lab, setup, 500, false)?;
    let mut said = Vec::new();
    for (name, passed) in [("tx", tx.passed), ("irq", irq.passed)] {
        let writes = passed.commands[REGION_WRITE];
        let expected = if posted { writes } else { 0 };
        ensure!(
            writes > 0 && passed.posted == expected,
            "{} of {writes} writes of {name} were posted",
            passed.posted
        );
        said.push(format!("{name}: {} of {writes} writes", passed.posted));
    }
    Ok(said.join(", "))
}
