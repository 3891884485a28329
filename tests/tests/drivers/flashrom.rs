//! flashrom, which programs the boot ROMs of cards, on the flash of ours.
//!
//! It knows the parallel flash of Intel's older cards (8255x, `nicintel`), whose window is BAR2. The commands of the chip are
//! the same, so the guest is made to believe in such a card: what sysfs says of ours is covered by files with the other ID,
//! and with BAR1 in the place of BAR2. Everything that flashrom then does to the chip, it does through our BAR1.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Failed, Trial};
use nic_emu_lab::{Lab, Nic, Suite, Vm};
use nic_emu_tests::{Host, HostOptions};

const SUITE: Suite = Suite::Trixie;
/// What flashrom may take for 128 KiB, byte by byte, its delays and our machine emulated.
const PATIENCE: Duration = Duration::from_secs(240);
const SIZE: usize = 128 << 10;
/// EECD.FWE: writes disabled, enabled.
const FWE: [u32; 2] = [0x10, 0x20];

pub(crate) fn checks(lab: &Lab) -> Vec<Trial> {
    let lab = lab.clone();
    vec![Trial::test("flashrom::programs_the_flash", move || {
        let said = programs_the_flash(&lab).map_err(|error| Failed::from(format!("{error:#}")))?;
        eprintln!("    flashrom::programs_the_flash: {said}");
        Ok(())
    })]
}

/// Takes the card from its driver, and puts the face of an 82559 on it.
const COVER: &str = r"
set -e
card=$(dirname /sys/bus/pci/devices/*/net/eth0)
card=$(dirname $card)
slot=$(basename $card)
echo $slot >/sys/bus/pci/drivers/e1000/unbind
printf '\006' | dd of=/sys/bus/pci/devices/$slot/config bs=1 seek=4 conv=notrunc 2>/dev/null
card=/sys/bus/pci/devices/$slot
mkdir -p /tmp/cover && cd /tmp/cover
echo 0x1229 >device
cat $card/config >config
printf '\051\022' | dd of=config bs=1 seek=2 conv=notrunc 2>/dev/null
dd if=$card/config of=config bs=1 skip=20 seek=24 count=4 conv=notrunc 2>/dev/null
for file in device config; do mount --bind /tmp/cover/$file $card/$file; done
sed -n '1,2s/ .*//p' $card/resource
";

fn programs_the_flash(lab: &Lab) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("flash.bin");
    let options = HostOptions {
        keys: format!("flash={}", file.display()),
        ..HostOptions::default()
    };
    let host = Host::start(lab, &options)?;
    let nic = Nic::vfio_user(host.socket(0));
    let mut vm = lab
        .vm(SUITE)
        .flashrom()
        .nic(nic)
        .kernel_arg("iomem=relaxed")
        .start()?;
    let bars = vm.ok(COVER)?;
    let (registers, window) = bars.split_once('\n').context("two windows")?;
    let flashrom = |vm: &mut Vm, what: &str| {
        let command = format!("cd /tmp && flashrom -p nicintel {what} 2>&1");
        vm.run_for(&command, PATIENCE)
    };
    let allow = |vm: &mut Vm, fwe| vm.ok(&format!("devmem $(({registers} + 0x10)) 32 {fwe}"));

    // Without EECD's consent the chip hears no command, not even the question who it is.
    allow(&mut vm, FWE[0])?;
    let said = flashrom(&mut vm, "-c SST39VF010")?;
    ensure!(!said.success(), "it is found: {}", said.stdout);
    allow(&mut vm, FWE[1])?;
    let said = flashrom(&mut vm, "")?.stdout;
    ensure!(said.contains("SST39VF010"), "what it finds: {said}");

    // What is erased need only be programmed. Erasing is done by hand below: asked for the first sector, the packaged flashrom
    // 1.4.0 has the last write of the command, which names the sector, arrive in the sixth.
    vm.ok(
        "cd /tmp && head -c 131072 /dev/zero | tr '\\0' '\\377' >write.bin
        put() { dd of=write.bin bs=1 seek=$(($1)) conv=notrunc 2>/dev/null; }
        printf 'by flashrom' | put 0x123
        head -c 2000 /dev/zero | put 0x8000
        printf 'end' | put 0x1fffd",
    )?;
    let said = flashrom(&mut vm, "-c SST39VF010 -w write.bin")?;
    ensure!(
        said.success() && said.stdout.contains("VERIFIED"),
        "it does not write: {}",
        said.stdout
    );
    let mut after = vec![0xFF; SIZE];
    after[0x123..0x12E].copy_from_slice(b"by flashrom");
    after[0x8000..0x87D0].fill(0);
    after[SIZE - 3..].copy_from_slice(b"end");
    ensure!(fs::read(&file)? == after, "the file has other bytes");
    let said = flashrom(&mut vm, "-c SST39VF010 -r read.bin")?;
    ensure!(said.success(), "it does not read: {}", said.stdout);
    vm.ok("cmp /tmp/read.bin /tmp/write.bin")?;

    let erase = format!(
        "write() {{ devmem $(({window} + $1)) 8 $2; }}
        unlock() {{ write 0x5555 0xAA; write 0x2AAA 0x55; }}
        unlock; write 0x5555 0x80; unlock; write"
    );
    vm.ok(&format!("{erase} 0x8123 0x30"))?;
    after[0x8000..0x9000].fill(0xFF);
    ensure!(
        fs::read(&file)? == after,
        "it is not that sector which is erased"
    );
    vm.ok(&format!("{erase} 0x5555 0x10"))?;
    ensure!(fs::read(&file)? == vec![0xFF; SIZE], "not all is erased");
    Ok("found, programmed, verified and read; erased by hand".into())
}
