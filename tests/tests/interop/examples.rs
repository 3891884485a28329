//! The examples of the crate `vfio-user` as devices of a QEMU under qtest: what a guest would do with them is done by
//! hand.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use guest_driver::Bus;
use guest_driver::qtest::Qtest;
use guest_driver::regs::pci;
use libtest_mimic::Trial;
use nic_emu_lab::{Accel, Lab, Nic, Process, QtestVm};
use nic_emu_tests::cli;
use nic_emu_tests::machine::{RAM, SLOT};
use tempfile::TempDir;

use crate::check;
use crate::jobs::OTHERS_TURN;
use crate::relay::{REGION_WRITE, Relay, SET_IRQS};
use crate::running::{self, number};

/// What anything may take that happens at once, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long nothing must happen where nothing may.
const QUIET: Duration = Duration::from_millis(50);

pub(crate) fn checks(lab: &Lab) -> Vec<Trial> {
    vec![
        check("interop::counter::interrupts_at_ten", lab, counter),
        check("interop::msix::every_vector", lab, every_vector),
        check("interop::msix::masked_vectors", lab, masked_vectors),
        check("interop::msix::in_a_guest", lab, |lab| {
            msix_in_a_guest(lab, Accel::Tcg, 1000)
        }),
        check("interop::msix::function_mask", lab, function_mask),
        check(
            "interop::msix::masked_from_the_start",
            lab,
            masked_from_the_start,
        ),
    ]
}

/// An example that serves.
struct Served {
    socket: PathBuf,
    _server: Process,
    _folder: TempDir,
}

impl Served {
    fn start(example: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("socket");
        let mut server = Command::new(cli::example(example)?);
        server
            .arg(&socket)
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let mut server = Process::spawn(server)?;
        let started = Instant::now();
        while !socket.exists() {
            ensure!(server.exited()?.is_none(), "{example} has ended");
            ensure!(started.elapsed() < PATIENCE, "{example} does not listen");
            sleep(Duration::from_millis(2));
        }
        Ok(Self {
            socket,
            _server: server,
            _folder: folder,
        })
    }
}

/// An example that serves, and a QEMU with its device.
struct Attached {
    qtest: Qtest,
    // QEMU leaves before its device does.
    _vm: QtestVm,
    _served: Served,
}

impl Attached {
    fn start(lab: &Lab, example: &str) -> Result<Self> {
        let served = Served::start(example)?;
        let mut device = Nic::vfio_user(&served.socket).device(0);
        device["addr"] = format!("{SLOT:#x}").into();
        let vm = QtestVm::start(lab, &["-device", &device.to_string()])?;
        let mut qtest = Qtest::new(vm.stream().try_clone()?, SLOT, RAM, 0);
        let command = qtest.config_read(pci::COMMAND, 2);
        qtest.config_write(pci::COMMAND, 2, command | pci::COMMAND_MASTER);
        Ok(Self {
            qtest,
            _vm: vm,
            _served: served,
        })
    }
}

/// Waits until `done`.
fn until(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let started = Instant::now();
    while !done() {
        if started.elapsed() > PATIENCE {
            bail!("{what}: not within {PATIENCE:?}");
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Nine writes and no interrupt; the tenth raises the pin, and reading the count lowers it.
fn counter(lab: &Lab) -> Result<String> {
    let mut attached = Attached::start(lab, "counter")?;
    let qtest = &mut attached.qtest;
    for round in 1..=3 {
        for _ in 0..9 {
            qtest.write32(0, 0);
        }
        sleep(QUIET);
        ensure!(!qtest.interrupt(), "an interrupt too early");
        qtest.write32(0, 0);
        until("an interrupt at the tenth write", || qtest.interrupt())?;
        let count = qtest.read32(0);
        ensure!(count == 10 * round, "{count} after {} writes", 10 * round);
        until("the pin goes down", || !qtest.interrupt())?;
    }
    Ok("30 writes, 3 interrupts".into())
}

/// Vectors of the example `msix`.
const VECTORS: u32 = 32;
/// Its registers, in BAR 0.
const RAISE_MASK: u32 = 0x80;
const MESSAGES: u32 = 0x84;
const SENT: u32 = 0x88;
/// Where its table and its pending bits are.
const TABLE_BAR: u8 = 1;
const PBA: u32 = 0x800;

/// Capability id of MSI-X, and bits of its control word.
const CAP_MSIX: u32 = 0x11;
const ENABLE: u32 = 1 << 15;
const FUNCTION_MASK: u32 = 1 << 14;

/// The example `msix`, its vectors programmed to write to words of RAM.
struct Msix {
    attached: Attached,
    control: u8,
    words: u64,
}

impl Msix {
    /// Programs all vectors, masked or not, and leaves MSI-X disabled.
    fn start(lab: &Lab, masked: bool) -> Result<Self> {
        let mut attached = Attached::start(lab, "msix")?;
        let qtest = &mut attached.qtest;
        let mut at = qtest.config_read(pci::CAPABILITIES, 1) as u8;
        while at != 0 && qtest.config_read(at, 1) != CAP_MSIX {
            at = qtest.config_read(at + 1, 1) as u8;
        }
        ensure!(at != 0, "the device has no MSI-X capability");
        let (size, table, pba) = (
            qtest.config_read(at + 2, 2),
            qtest.config_read(at + 4, 4),
            qtest.config_read(at + 8, 4),
        );
        let expected = (VECTORS - 1, TABLE_BAR.into(), PBA | u32::from(TABLE_BAR));
        let found = (size & 0x7FF, table, pba);
        ensure!(found == expected, "{found:#x?} is not {expected:#x?}");
        let words = qtest.alloc(VECTORS as usize * 4, 4096);
        let mut msix = Self {
            attached,
            control: at + 2,
            words,
        };
        for vector in 0..VECTORS {
            let entry = [
                (words + u64::from(4 * vector)) as u32,
                0,
                message(vector),
                u32::from(masked),
            ];
            for (word, value) in (0..).zip(entry) {
                msix.qtest()
                    .bar_write32(TABLE_BAR, 16 * vector + 4 * word, value);
            }
        }
        Ok(msix)
    }

    fn qtest(&mut self) -> &mut Qtest {
        &mut self.attached.qtest
    }

    fn set_control(&mut self, bits: u32) {
        let control = self.control;
        self.qtest().config_write(control, 2, bits);
    }

    fn mask(&mut self, vector: u32, masked: bool) {
        let control = 16 * vector + 12;
        self.qtest().bar_write32(TABLE_BAR, control, masked.into());
    }

    fn pending(&mut self) -> u32 {
        self.qtest().bar_read32(TABLE_BAR, PBA)
    }

    fn ring(&mut self, vector: u32) {
        self.qtest().write32(4 * vector, 1);
    }

    /// Takes the messages that have come: bit `v` for vector `v`.
    fn take(&mut self) -> Result<u32> {
        let words = self.words;
        let mut bytes = [0; VECTORS as usize * 4];
        self.qtest().dma_read(words, &mut bytes);
        let mut came = 0;
        for (vector, bytes) in (0..).zip(bytes.as_chunks().0) {
            match u32::from_le_bytes(*bytes) {
                0 => continue,
                value if value == message(vector) => came |= 1 << vector,
                value => bail!("vector {vector} has written {value:#x}"),
            }
            let word = words + u64::from(4 * vector);
            self.qtest().dma_write(word, &[0; 4]);
        }
        Ok(came)
    }

    /// Waits for the messages of exactly these vectors.
    fn expect(&mut self, vectors: u32) -> Result<()> {
        let mut came = 0;
        let waited = until("the messages", || match self.take() {
            Ok(more) => {
                came |= more;
                came & vectors == vectors
            }
            Err(_) => true,
        });
        waited.with_context(|| format!("vectors {came:#x} of {vectors:#x} came"))?;
        ensure!(came == vectors, "vectors {came:#x} came, not {vectors:#x}");
        Ok(())
    }

    /// Holds that nothing comes.
    fn expect_nothing(&mut self) -> Result<()> {
        sleep(QUIET);
        let came = self.take()?;
        ensure!(came == 0, "vectors {came:#x} came although masked");
        Ok(())
    }
}

/// A guest that takes the messages as interrupts, `count` of them, one after the other. Once they are set up, not a
/// message of the protocol is about them; masking one holds it back.
pub(crate) fn msix_in_a_guest(lab: &Lab, accel: Accel, count: u64) -> Result<String> {
    let served = Served::start("msix")?;
    let relay = Relay::start(&served.socket)?;
    let guest = lab.bare(cli::bare_guest()?).accel(accel);
    let guest = guest.nic(Nic::vfio_user(relay.socket()));
    let mut guest = guest.start(&format!("test=msix count={count} {OTHERS_TURN}"))?;
    guest.record("ready", running::PATIENCE)?;
    let before = relay.passed();
    let msix = guest.record("msix", running::PATIENCE)?;
    let passed = relay.passed().since(&before).commands;
    let masked = guest.record("masked", running::PATIENCE)?;
    guest.finish(running::PATIENCE)?;
    for key in ["taken", "handled"] {
        ensure!(number(&msix, key)? == count, "{msix:?}");
    }
    for key in ["held", "delivered"] {
        ensure!(
            number(&masked, key)? == number(&masked, "count")?,
            "{masked:?}"
        );
    }
    // The first may have passed before we looked.
    ensure!(passed[REGION_WRITE] > count / 2, "doorbells: {passed:?}");
    ensure!(
        passed[SET_IRQS] == 0,
        "messages about interrupts: {passed:?}"
    );
    let each = number(&msix, "ns")? / count / 1000;
    Ok(format!(
        "{count} of {VECTORS} vectors, {each} us each, 0 SET_IRQS"
    ))
}

/// What a vector writes.
fn message(vector: u32) -> u32 {
    0xC0DE_0000 | vector
}

fn every_vector(lab: &Lab) -> Result<String> {
    let mut msix = Msix::start(lab, false)?;
    ensure!(msix.qtest().read32(MESSAGES) == 0, "enabled too early");
    msix.set_control(ENABLE);
    let usable = msix.qtest().read32(MESSAGES);
    ensure!(usable == VECTORS, "{usable} vectors may be used");
    for vector in 0..VECTORS {
        msix.ring(vector);
        msix.expect(1 << vector)?;
        let rung = msix.qtest().read32(4 * vector);
        ensure!(rung == 1, "doorbell {vector} has rung {rung} times");
    }
    msix.qtest().write32(RAISE_MASK, !0);
    msix.expect(!0)?;
    ensure!(msix.pending() == 0, "pending: {:#x}", msix.pending());
    let sent = msix.qtest().read32(SENT);
    ensure!(sent == 2 * VECTORS, "{sent} interrupts were sent");
    msix.set_control(0);
    ensure!(msix.qtest().read32(MESSAGES) == 0, "not disabled");
    Ok(format!("{sent} messages of {VECTORS} vectors"))
}

/// What is raised while a vector is masked comes when it is unmasked: once. QEMU does not tell the device when a vector
/// is masked while in use; it keeps the interrupt itself (and leaves it out of the pending bits, which it asks us for).
fn masked_vectors(lab: &Lab) -> Result<String> {
    let mut msix = Msix::start(lab, false)?;
    msix.set_control(ENABLE);
    for vector in [0, 5, 31] {
        msix.mask(vector, true);
        msix.ring(vector);
        msix.ring(vector);
        msix.ring(vector ^ 1);
        msix.expect(1 << (vector ^ 1))?;
        msix.expect_nothing()?;
        msix.mask(vector, false);
        msix.expect(1 << vector)?;
        msix.expect_nothing()?;
    }
    ensure!(msix.pending() == 0, "pending: {:#x}", msix.pending());
    Ok("held back and delivered".into())
}

fn function_mask(lab: &Lab) -> Result<String> {
    let mut msix = Msix::start(lab, false)?;
    msix.set_control(ENABLE);
    msix.ring(3);
    msix.expect(1 << 3)?;
    let vectors = 0x8001_0250;
    msix.set_control(ENABLE | FUNCTION_MASK);
    msix.qtest().write32(RAISE_MASK, vectors);
    msix.expect_nothing()?;
    let pending = msix.pending();
    ensure!(pending == vectors, "{pending:#x} pend, not {vectors:#x}");
    msix.set_control(ENABLE);
    msix.expect(vectors)?;
    ensure!(msix.pending() == 0, "pending: {:#x}", msix.pending());
    Ok(format!("{} at once", vectors.count_ones()))
}

/// Vectors that were masked when MSI-X was enabled have no eventfd yet: the device itself has to keep what is raised.
fn masked_from_the_start(lab: &Lab) -> Result<String> {
    let mut msix = Msix::start(lab, true)?;
    msix.set_control(ENABLE);
    let vectors = 0x0000_1081;
    msix.qtest().write32(RAISE_MASK, vectors);
    msix.expect_nothing()?;
    let pending = msix.pending();
    ensure!(pending == vectors, "{pending:#x} pend, not {vectors:#x}");
    for vector in [7, 0, 12] {
        msix.mask(vector, false);
        msix.expect(1 << vector)?;
    }
    ensure!(msix.pending() == 0, "pending: {:#x}", msix.pending());
    Ok("kept by the device".into())
}
