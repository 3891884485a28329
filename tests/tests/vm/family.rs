//! The other members of the family, both in one guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nic_emu_lab::{Lab, Suite};
use nic_emu_tests::HostOptions;

use crate::kernels::Set;
use crate::stage::Stage;

/// Model and device ID, in the order of the interfaces.
const FAMILY: [(&str, &str); 2] = [("e1000-82545em", "100f"), ("e1000-82544gc", "100c")];
/// What a self-test may take: it waits for the link, four seconds at a time.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often a loopback test may be late: it gives the last frame of each round 20 ms.
const LATE: usize = 5;

struct Family {
    set: Set,
    // Behind the daemon that uses what is in it.
    dir: tempfile::TempDir,
}

impl Family {
    fn boot(lab: &Lab) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let keys = |nic: usize| {
            let eeprom = Self::eeprom(dir.path(), nic);
            format!("model={},msi=on,eeprom={}", FAMILY[nic].0, eeprom.display())
        };
        let options = HostOptions {
            nics: 2,
            keys_of: vec![keys(0), keys(1)],
            ..HostOptions::default()
        };
        let set = Set::new(lab, Suite::TrixieBackports, &options)?;
        Ok(Self { set, dir })
    }

    fn eeprom(dir: &Path, nic: usize) -> PathBuf {
        dir.join(format!("{nic}.bin"))
    }
}

pub(crate) fn checks(lab: &Lab) -> Vec<Trial> {
    let lab = lab.clone();
    Stage::new("family", move || Family::boot(&lab))
        .check("ids", |family| {
            let said = family
                .set
                .vm
                .ok("lspci -nn; ethtool -i eth0; ethtool -i eth1")?;
            for (_, id) in FAMILY {
                ensure!(said.contains(&format!("[8086:{id}]")), "no {id}: {said}");
            }
            ensure!(said.matches("driver: e1000\n").count() == 2, "{said}");
            Ok("both with e1000".into())
        })
        .check("traffic", traffic)
        .check("selftest", |family| {
            for (nic, (model, _)) in FAMILY.iter().enumerate() {
                selftest(family, nic).context(*model)?;
            }
            traffic(family)
        })
        .check("eeprom", |family| {
            for (nic, (model, id)) in FAMILY.iter().enumerate() {
                write_eeprom(family, nic, id).context(*model)?;
            }
            Ok("what ethtool -E writes is in the file".into())
        })
        .trials()
}

fn traffic(family: &mut Family) -> Result<String> {
    for (nic, (model, _)) in FAMILY.iter().enumerate() {
        family.set.ping_few(nic).context(*model)?;
    }
    Ok("ping on both".into())
}

fn selftest(family: &mut Family, nic: usize) -> Result<()> {
    let vm = &mut family.set.vm;
    let mut said = String::new();
    for _ in 0..=LATE {
        let output = vm.run_for(&format!("ethtool -t eth{nic} offline"), PATIENCE)?;
        said = output.stdout + &output.stderr;
        if !said.contains("Loopback test  (offline)\t 14") {
            break;
        }
    }
    let passed = said.lines().filter(|line| line.ends_with("\t 0")).count();
    ensure!(
        said.contains("The test result is PASS") && passed == 5,
        "{said}"
    );
    nic_emu_tests::guest::wait_carrier(vm, &format!("eth{nic}"))
}

/// Changes a byte; the driver sees to the checksum.
fn write_eeprom(family: &mut Family, nic: usize, id: &str) -> Result<()> {
    let file = fs::read(Family::eeprom(family.dir.path(), nic))?;
    let (at, value) = (0x60, !file[0x60]);
    family.set.vm.ok(&format!(
        "ethtool -E eth{nic} magic 0x{id}8086 offset {at} value {value}"
    ))?;
    let now = fs::read(Family::eeprom(family.dir.path(), nic))?;
    ensure!(now[at] == value, "the file has {:#x}", now[at]);
    let sum = now.chunks_exact(2).fold(0u16, |sum, pair| {
        sum.wrapping_add(u16::from_le_bytes([pair[0], pair[1]]))
    });
    ensure!(sum == 0xBABA, "the sum is {sum:#x}");
    let shown = family.set.vm.ok(&format!(
        "ethtool -e eth{nic} offset {at} length 1 | tail -n 1"
    ))?;
    ensure!(
        shown.trim_end().ends_with(&format!("{value:02x}")),
        "{shown}"
    );
    Ok(())
}
