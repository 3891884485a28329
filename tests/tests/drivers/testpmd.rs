//! DPDK's testpmd in a guest, its prompt in our hands, and so are the cables of its ports.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use guest_driver::Wire;
use guest_driver::packet::plain;
use nic_emu::e1000::Config;
use nic_emu_cli::Nic;
use nic_emu_lab::{Lab, Suite, Vm};
use nic_emu_tests::machine::{Cable, Daemon, MAC};
use serde_json::json;

/// The station at the other end of each cable.
pub(super) const PEER: [u8; 6] = [0x52, 0x54, 0, 0xAA, 0xBB, 0xCC];
/// What anything may take: the machine may have other work, and the driver's polling is emulated.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
const PROMPT: &str = "testpmd> ";
/// Where the prompt is in the guest: a terminal, so that nothing waits in a buffer.
const TERMINAL: &str = "/dev/ttyS2";

/// How the guest's kernel lends the devices to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    /// `uio_pci_generic`: registers by sysfs, physical addresses, INTx by INTX_DISABLE.
    Uio,
    /// `vfio-pci` behind an IOMMU of QEMU's, INTx.
    Vfio,
    /// The same, and the NICs send their interrupts as messages.
    VfioMsi,
}

impl std::fmt::Display for Binding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Uio => "uio",
            Self::Vfio => "vfio",
            Self::VfioMsi => "vfio_msi",
        })
    }
}

/// A guest with two of our NICs, and testpmd on both.
pub(super) struct Testpmd {
    pub(super) vm: Vm,
    pub(super) cables: Vec<Cable>,
    binding: Option<Binding>,
    terminal: UnixStream,
    /// What testpmd has said and nobody has looked at.
    heard: String,
    /// How often it has said that the link of a port has changed.
    pub(super) events: usize,
    seed: u32,
    _folder: tempfile::TempDir,
    _daemon: Daemon,
}

impl Testpmd {
    /// Boots the guest with an IOMMU, which lets physical addresses through unless vfio says otherwise. The NICs could
    /// interrupt by messages, and do if they are asked to.
    pub(super) fn boot(lab: &Lab) -> Result<Self> {
        let with_msi = |name, model: &Config, listener, plug| {
            let mut model = model.clone();
            model.msi = true;
            Nic::of(name, &model, None, listener, plug)
        };
        let (daemon, cables) = Daemon::of(1, &[station(0), station(1)], with_msi);
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("terminal");
        let listener = UnixListener::bind(&path)?;
        let mut vm = lab.vm(Suite::Trixie).dpdk().cpus(2).autoload(false);
        vm = vm
            .arg("-serial")
            .arg(format!("unix:{}", path.display()))
            .arg("-device")
            .arg("intel-iommu,caching-mode=on")
            .kernel_arg("intel_iommu=on iommu=pt");
        for nic in 0..cables.len() {
            vm = vm.nic(nic_emu_lab::Nic::vfio_user(daemon.socket(nic)));
        }
        let mut vm = vm.start()?;
        let (terminal, _) = listener.accept()?;
        terminal.set_read_timeout(Some(Duration::from_millis(100)))?;
        // DPDK loads no drivers from below a folder that anybody may write to, as the root of an initramfs.
        vm.ok("chmod 755 / && echo 64 >/proc/sys/vm/nr_hugepages")?;
        Ok(Self {
            vm,
            cables,
            binding: None,
            terminal,
            heard: String::new(),
            events: 0,
            seed: 0,
            _folder: folder,
            _daemon: daemon,
        })
    }

    /// Runs testpmd on devices that are bound like this, if it does not yet.
    pub(super) fn on(&mut self, binding: Binding) -> Result<()> {
        if self.binding == Some(binding) {
            return Ok(());
        }
        if self.binding.is_some() {
            self.quit()?;
        }
        // DPDK 24.11 asks for MSI-X of a device that has none, unless it is told.
        let (driver, how) = match binding {
            Binding::Uio => ("uio_pci_generic", ""),
            Binding::Vfio => ("vfio-pci", "--vfio-intr=legacy"),
            Binding::VfioMsi => ("vfio-pci", "--vfio-intr=msi"),
        };
        self.vm
            .ok("modprobe -a uio_pci_generic vfio_pci vfio_iommu_type1")?;
        self.bind(driver)?;
        self.vm.ok(&format!(
            "setsid dpdk-testpmd -l 0,1 --in-memory {how} -- -i --total-num-mbufs=4096 \
             <{TERMINAL} >{TERMINAL} 2>&1 &"
        ))?;
        self.prompt("its start")?;
        self.binding = Some(binding);
        Ok(())
    }

    /// How testpmd has the devices.
    pub(super) fn binding(&self) -> Result<Binding> {
        self.binding.context("testpmd does not run")
    }

    /// Gives the devices to a driver of the kernel.
    pub(super) fn bind(&mut self, driver: &str) -> Result<()> {
        self.vm.ok(&format!(
            "for device in /sys/bus/pci/devices/*; do
                 [ $(cat $device/device) = 0x100e ] || continue
                 [ -e $device/driver ] && echo ${{device##*/}} >$device/driver/unbind
                 echo {driver} >$device/driver_override
                 echo ${{device##*/}} >/sys/bus/pci/drivers_probe
                 [ -e $device/driver ] || exit 1
             done"
        ))?;
        Ok(())
    }

    /// Interrupts that the driver has got so far, as what the kernel calls them.
    pub(super) fn interrupts(&mut self, kind: &str) -> Result<u64> {
        let said = self
            .vm
            .ok(&format!("grep -F {kind} /proc/interrupts || true"))?;
        let counts = said
            .lines()
            .flat_map(|l| l.split_whitespace().skip(1).take(2));
        Ok(counts.filter_map(|n| n.parse::<u64>().ok()).sum())
    }

    /// How often the pins of PCI functions have gone up so far: the inputs of the I/O APIC that are theirs, 16 to 23.
    pub(super) fn pins(&mut self) -> Result<u64> {
        let line = json!({ "command-line": "info irq" });
        let said = self.vm.qmp().execute("human-monitor-command", line)?;
        let said = said.as_str().unwrap_or_default();
        let (_, inputs) = said
            .split_once("for ioapic:")
            .with_context(|| format!("QEMU counts no pins: {said}"))?;
        let counts = inputs.lines().filter_map(|line| {
            let (input, count) = line.trim().split_once(": ")?;
            let (input, count) = (input.parse::<u64>().ok()?, count.parse::<u64>().ok()?);
            (input >= 16).then_some(count)
        });
        Ok(counts.sum())
    }

    /// Ends testpmd, so that it can be started with other arguments.
    pub(super) fn quit(&mut self) -> Result<()> {
        self.binding = None;
        self.terminal.write_all(b"quit\n")?;
        self.hear("Bye...")?;
        self.vm.ok("n=0; while pidof dpdk-testpmd >/dev/null; do
                 n=$((n + 1)); [ $n -gt 300 ] && exit 1; usleep 100000
             done")?;
        Ok(())
    }

    /// Says some lines to testpmd, each at its prompt; returns what it answered.
    pub(super) fn say(&mut self, lines: &str) -> Result<String> {
        let mut answers = String::new();
        for line in lines.lines().map(str::trim).filter(|l| !l.is_empty()) {
            self.terminal.write_all(format!("{line}\n").as_bytes())?;
            let answer = self.prompt(line)?;
            for wrong in ["Bad arguments", "Command not found", "Ambiguous command"] {
                ensure!(!answer.contains(wrong), "testpmd: {wrong}: {line}");
            }
            answers += &answer;
        }
        Ok(answers)
    }

    /// Waits for the prompt; returns what was said before it.
    fn prompt(&mut self, after: &str) -> Result<String> {
        self.hear(PROMPT).with_context(|| format!("after {after}"))
    }

    /// Waits until testpmd says this; returns what it said before.
    pub(super) fn hear(&mut self, what: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some((said, rest)) = self.heard.split_once(what) {
                let said = said.to_owned();
                self.heard = rest.to_owned();
                return Ok(said);
            }
            if Instant::now() > deadline {
                bail!("testpmd does not say `{what}`: {}", self.heard);
            }
            self.listen()?;
        }
    }

    /// Stops the ports, says these lines and starts the ports again, with this way to forward.
    pub(super) fn configure(&mut self, lines: &str, forward: &str) -> Result<()> {
        self.say("stop\nport stop all")?;
        // Of what was on its way, nothing more comes.
        for cable in &mut self.cables {
            while cable.collect().is_some() {}
        }
        self.say(lines)?;
        let said = self.say(&format!("port start all\nset fwd {forward}\nstart"))?;
        ensure!(!said.contains("Fail"), "testpmd: {said}");
        self.link(0, true)?;
        self.link(1, true)
    }

    /// Waits until testpmd says that the link of a port is up, or down.
    pub(super) fn link(&mut self, port: usize, up: bool) -> Result<()> {
        let want = if up { "up" } else { "down" };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.say("show port summary all")?;
            let line = said.lines().find(|l| l.starts_with(&format!("{port} ")));
            let state = line.and_then(|l| l.split_whitespace().nth(4));
            if state == Some(want) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let interrupts = self.vm.ok("cat /proc/interrupts")?;
                bail!("the link of port {port} is not {want}: {said}{interrupts}");
            }
            sleep(Duration::from_millis(100));
        }
    }

    /// A counter of `show port stats`.
    pub(super) fn statistic(&mut self, port: usize, name: &str) -> Result<u64> {
        let said = self.say(&format!("show port stats {port}"))?;
        counter(&said, name)
    }

    /// A frame of `len` bytes, unlike all others.
    pub(super) fn frame(&mut self, destination: [u8; 6], len: usize) -> Vec<u8> {
        self.seed += 1;
        plain(destination, PEER, len, self.seed)
    }

    /// Sends frames to one port and returns what has come out of the other one.
    pub(super) fn pass(&mut self, from: usize, frames: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        for frame in frames {
            self.cables[from].transmit(frame);
        }
        self.rest(from)
    }

    /// What comes out at the other end of what was sent to a port so far.
    pub(super) fn rest(&mut self, from: usize) -> Result<Vec<Vec<u8>>> {
        // Nothing overtakes on the way: when this one is here, so are those before it. Some ways to forward change the
        // addresses.
        let last = self.frame(station(from as u8), 60);
        self.cables[from].transmit(&last);
        let mut passed = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.cables[1 - from].collect() {
                Some(frame) if frame.ends_with(&last[14..]) => return Ok(passed),
                Some(frame) => passed.push(frame),
                None => sleep(Duration::from_millis(1)),
            }
        }
        let said = self.say("show port stats all")?;
        bail!("a frame to port {from} did not come through: {said}")
    }

    /// Makes sure that of these frames just those come through, unchanged, that have to.
    pub(super) fn expect(&mut self, from: usize, frames: &[(Vec<u8>, bool)]) -> Result<()> {
        let sent: Vec<Vec<u8>> = frames.iter().map(|(frame, _)| frame.clone()).collect();
        let passed = self.pass(from, &sent)?;
        let want: Vec<&Vec<u8>> = frames.iter().filter(|f| f.1).map(|f| &f.0).collect();
        if passed.iter().eq(want.iter().copied()) {
            return Ok(());
        }
        let came: Vec<String> = passed.iter().map(|f| describe(f)).collect();
        let want: Vec<String> = want.into_iter().map(|f| describe(f)).collect();
        bail!("{came:?} came through port {from}, and {want:?} should have");
    }

    /// Takes in what testpmd says within a moment.
    fn listen(&mut self) -> Result<()> {
        let mut chunk = [0; 4096];
        match self.terminal.read(&mut chunk) {
            Ok(0) => bail!("QEMU has ended; testpmd's last words: {}", self.heard),
            Ok(n) => {
                let said = String::from_utf8_lossy(&chunk[..n]).replace('\r', "");
                self.heard += &said;
                // This comes at any time, even in the middle of a word.
                for port in 0..self.cables.len() {
                    let event = format!("\nPort {port}: link state change event\n");
                    self.events += self.heard.matches(&event).count();
                    self.heard = self.heard.replace(&event, "");
                }
                Ok(())
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(()),
            Err(e) => Err(e).context("testpmd's terminal"),
        }
    }
}

/// The address of a port.
pub(super) fn station(port: u8) -> [u8; 6] {
    let mut address = MAC;
    address[5] += port;
    address
}

/// The number behind `NAME:` in what testpmd prints.
pub(super) fn counter(said: &str, name: &str) -> Result<u64> {
    let (_, rest) = said
        .split_once(&format!("{name}:"))
        .with_context(|| format!("no {name} in {said}"))?;
    let word = rest.split_whitespace().next().unwrap_or_default();
    word.parse()
        .with_context(|| format!("{name} is {word} in {said}"))
}

fn describe(frame: &[u8]) -> String {
    format!(
        "{} bytes {:02x?}",
        frame.len(),
        &frame[..18.min(frame.len())]
    )
}
