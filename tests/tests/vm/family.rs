//! The other members of the family, both in one guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use nic_emu_lab::{Lab, Suite};
use nic_emu_tests::HostOptions;
use nic_emu_tests::counters::{self, Counters, TapCounters};

use crate::kernels::Set;
use crate::stage::Stage;

/// Model and device ID, in the order of the interfaces.
const FAMILY: [(&str, &str); 2] = [("e1000-82545em", "100f"), ("e1000-82544gc", "100c")];
/// What a self-test may take: it waits for the link, four seconds at a time.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often a loopback test may be late: it gives the last frame of each round 20 ms.
const LATE: usize = 5;
/// STATUS.FD, STATUS.LU, and STATUS.SPEED for 1000 Mbit/s.
const STATUS_UP: u32 = 0x83;
/// RCTL.EN and RCTL.BAM.
const RCTL_ON: u32 = 0x8002;
/// Descriptors of a ring as the driver makes it.
const RING: u32 = 256;
/// Length of the FCS, which counters of bytes include.
const FCS: u64 = 4;

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
        .check("ethtool_82545em", |family| tools(family, 0))
        .check("ethtool_82544gc", |family| tools(family, 1))
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

/// What `ethtool` shows of one of them: its driver and its place, the EEPROM that is in the file, registers and statistics
/// that have moved by the frames which the network has seen.
fn tools(family: &mut Family, nic: usize) -> Result<String> {
    let driver = family.set.vm.ok(&format!(
        "ethtool -i eth{nic}; basename $(readlink /sys/class/net/eth{nic}/device)"
    ))?;
    let place = driver.lines().next_back().unwrap_or_default();
    for line in [
        "driver: e1000".to_owned(),
        format!("bus-info: {place}"),
        "supports-statistics: yes".to_owned(),
        "supports-test: yes".to_owned(),
        "supports-eeprom-access: yes".to_owned(),
        "supports-register-dump: yes".to_owned(),
    ] {
        let said = driver.lines().any(|l| l == line);
        ensure!(said, "ethtool -i does not say `{line}`: {driver}");
    }

    let eeprom = family.set.vm.ok(&format!(
        "ethtool -e eth{nic} raw on | hexdump -v -e '1/1 \"%02x\"'"
    ))?;
    let file = fs::read(Family::eeprom(family.dir.path(), nic))?;
    let file: String = file.iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(
        eeprom.len() == 256 && file.starts_with(&eeprom),
        "ethtool -e shows {eeprom}, and the file has {file}"
    );

    let before = Seen::of(family, nic)?;
    family.set.ping_few(nic)?;
    let after = Seen::of(family, nic)?;
    let grown = |name| after.nic.get(name) - before.nic.get(name);
    let tap = after.tap.since(&before.tap);
    let story = format!("{tap:?}, before {}, after {}", before.nic, after.nic);
    let sent = grown("tx_packets");
    ensure!(sent >= 4 && sent == tap.rx_packets, "{story}");
    ensure!(grown("tx_bytes") == tap.rx_bytes + FCS * sent, "{story}");
    // The network may have said something to others.
    let received = grown("rx_packets");
    ensure!((4..=tap.tx_packets).contains(&received), "{story}");
    let trouble = counters::ethtool_trouble(&after.nic);
    ensure!(trouble.is_empty(), "{trouble}");

    let [was, is] = [&before.dump, &after.dump];
    let (status, rctl) = (register(is, "STATUS")?, register(is, "RCTL")?);
    ensure!(status & 0xFF == STATUS_UP, "STATUS is {status:#x}");
    ensure!(rctl & RCTL_ON == RCTL_ON, "RCTL is {rctl:#x}");
    let moved = (RING + register(is, "RDH")? - register(was, "RDH")?) % RING;
    let want = received as u32 % RING;
    ensure!(moved == want, "RDH has moved by {moved}, not by {want}");
    let [head, tail] = ["TDH", "TDT"].map(|name| register(is, name));
    ensure!(head? == tail?, "frames wait in the ring: {is}");
    for name in ["RDLEN", "TDLEN"] {
        let len = register(is, name)?;
        ensure!(len == RING * 16, "{name} is {len}");
    }
    ensure!(
        is.contains("PHY type:                                M88"),
        "{is}"
    );
    Ok(format!("{sent} frames out, {received} in"))
}

/// What the guest and the network know of a NIC on which nothing happens.
struct Seen {
    nic: Counters,
    dump: String,
    tap: TapCounters,
}

impl Seen {
    fn of(family: &mut Family, nic: usize) -> Result<Self> {
        let tap = family.set.host.wire(nic).tap();
        let mut before = None;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let now = (
                counters::ethtool(&mut family.set.vm, &format!("eth{nic}"))?,
                counters::tap(family.set.host.netns(), &tap)?,
            );
            if before.as_ref() == Some(&now) {
                let dump = family.set.vm.ok(&format!("ethtool -d eth{nic}"))?;
                let (nic, tap) = now;
                return Ok(Self { nic, dump, tap });
            }
            before = Some(now);
        }
        bail!("it does not come to rest: {before:?}");
    }
}

/// A register that `ethtool -d` prints.
fn register(dump: &str, name: &str) -> Result<u32> {
    let found = dump.lines().find_map(|line| {
        let (_, rest) = line.strip_prefix("0x")?.split_once(": ")?;
        let mut words = rest.split_whitespace();
        let value = words.next_back()?.strip_prefix("0x")?;
        (words.next()? == name).then(|| u32::from_str_radix(value, 16).ok())?
    });
    found.with_context(|| format!("no {name} in {dump}"))
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
