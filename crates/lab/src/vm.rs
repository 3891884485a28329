//! A running guest.

use std::fs;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::channel::{Channel, Output};
use crate::machine::{Accel, Memory};
use crate::netns::words;
use crate::run::{RunDir, accept, check_alive, greet, launch};
use crate::{Error, Lab, Nic, Process, Qmp, Result, Suite};

/// What a command in the guest may take unless said otherwise.
const COMMAND: Duration = Duration::from_secs(60);

/// Kernel arguments that every guest gets: quiet, and without what costs time under emulation.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet loglevel=4 panic=0 mitigations=off random.trust_cpu=on \
    tsc=reliable no_timer_check nokaslr audit=0 selinux=0 apparmor=0 cryptomgr.notests pci=noaer";

/// What a guest image has beyond the ordinary one.
#[derive(Clone, Copy, Debug)]
enum Extra {
    Dpdk,
    Flashrom,
}

/// A VM to be started; from [`Lab::vm`].
#[derive(Clone, Debug)]
pub struct VmBuilder {
    lab: Lab,
    suite: Suite,
    extra: Option<Extra>,
    by_firmware: bool,
    memory_mib: u32,
    cpus: u32,
    accel: Accel,
    memory: Memory,
    nics: Vec<Nic>,
    root_ports: usize,
    arguments: Vec<String>,
    kernel_arguments: Vec<String>,
    autoload: bool,
    netns: Option<String>,
    boot_timeout: Duration,
}

impl VmBuilder {
    pub(crate) fn new(lab: Lab, suite: Suite) -> Self {
        Self {
            lab,
            suite,
            extra: None,
            by_firmware: false,
            memory_mib: 512,
            cpus: 1,
            accel: Accel::default(),
            memory: Memory::default(),
            nics: Vec::new(),
            root_ports: 0,
            arguments: Vec::new(),
            kernel_arguments: Vec::new(),
            autoload: true,
            netns: None,
            boot_timeout: Duration::from_secs(120),
        }
    }

    /// Adds DPDK's `dpdk-testpmd` and its e1000 driver to the guest.
    #[must_use]
    pub fn dpdk(mut self) -> Self {
        self.extra = Some(Extra::Dpdk);
        self
    }

    /// Adds flashrom to the guest.
    #[must_use]
    pub fn flashrom(mut self) -> Self {
        self.extra = Some(Extra::Flashrom);
        self
    }

    /// Leaves it to the firmware to find a kernel, such as on the network. The guest is up once that is one of the lab's
    /// with its image and the arguments of [`VmBuilder::append`].
    #[must_use]
    pub fn by_firmware(mut self) -> Self {
        self.by_firmware = true;
        self
    }

    /// Guest memory in MiB; 512 unless said otherwise.
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Where the guest's memory is; shared unless said otherwise.
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// Number of virtual CPUs; 1 unless said otherwise.
    #[must_use]
    pub fn cpus(mut self, count: u32) -> Self {
        self.cpus = count;
        self
    }

    /// What executes the guest's instructions; TCG unless said otherwise.
    #[must_use]
    pub fn accel(mut self, accel: Accel) -> Self {
        self.accel = accel;
        self
    }

    /// Adds a NIC. The N-th (from 0) has the device id `nicN` and, with its driver loaded, is `ethN` in the guest.
    #[must_use]
    pub fn nic(mut self, nic: Nic) -> Self {
        self.nics.push(nic);
        self
    }

    /// Adds PCIe root ports `rp0`, `rp1`, ... to plug NICs into while the guest runs ([`Vm::plug`]).
    #[must_use]
    pub fn root_ports(mut self, count: usize) -> Self {
        self.root_ports = count;
        self
    }

    /// Adds an argument for QEMU.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds an argument for the guest's kernel.
    #[must_use]
    pub fn kernel_arg(mut self, argument: impl Into<String>) -> Self {
        self.kernel_arguments.push(argument.into());
        self
    }

    /// Whether the guest loads the drivers of its PCI devices by itself (`true` unless said otherwise). If not,
    /// `modprobe e1000` does it.
    #[must_use]
    pub fn autoload(mut self, autoload: bool) -> Self {
        self.autoload = autoload;
        self
    }

    /// Runs QEMU in a named network namespace, where the TAPs of its own NICs are ([`crate::Netns::name`]).
    #[must_use]
    pub fn netns(mut self, name: impl Into<String>) -> Self {
        self.netns = Some(name.into());
        self
    }

    /// How long the guest may take from power-on to its command channel; 2 minutes unless said otherwise.
    #[must_use]
    pub fn boot_timeout(mut self, timeout: Duration) -> Self {
        self.boot_timeout = timeout;
        self
    }

    /// Starts the VM and waits until its command channel answers.
    ///
    /// # Errors
    /// Those of [`Lab::prepare`]; [`Error::QemuExited`], [`Error::GuestPanic`] or [`Error::GuestTimeout`].
    pub fn start(self) -> Result<Vm> {
        let timeout = self.boot_timeout;
        let mut vm = self.spawn()?;
        vm.wait_rebooted(timeout)?;
        vm.boot_time = Some(vm.started.elapsed());
        Ok(vm)
    }

    /// Starts the VM without waiting for the guest; [`Vm::wait_rebooted`] waits for its first boot too.
    ///
    /// # Errors
    /// As [`VmBuilder::start`], without those of the guest.
    pub fn spawn(self) -> Result<Vm> {
        let kernel = self.lab.kernel(self.suite)?;
        let initrd = match self.extra {
            None => self.lab.image(self.suite)?,
            Some(Extra::Dpdk) => self.lab.dpdk_image(self.suite)?,
            Some(Extra::Flashrom) => self.lab.flashrom_image(self.suite)?,
        };
        let run = RunDir::new()?;
        let mut qemu = self.lab.qemu()?.command();
        qemu.args(self.machine_arguments());
        if !self.by_firmware {
            qemu.arg("-kernel")
                .arg(kernel.vmlinux())
                .arg("-initrd")
                .arg(initrd);
            qemu.arg("-append").arg(self.append());
        }
        let socket = |name: &str| format!("unix:{}", run.path(name).display());
        qemu.arg("-serial")
            .arg(format!("file:{}", run.path("console").display()));
        qemu.args(["-serial", &socket("channel"), "-qmp", &socket("qmp")]);
        for port in 0..self.root_ports {
            qemu.arg("-device").arg(format!(
                "pcie-root-port,id=rp{port},chassis={},slot={port}",
                port + 1
            ));
        }
        for (index, nic) in self.nics.iter().enumerate() {
            qemu.args(nic.arguments(index));
        }
        qemu.args(&self.arguments);

        // We listen and QEMU connects: nothing that the guest says is lost before somebody is there to hear it.
        let (channel, qmp) = (run.listen("channel")?, run.listen("qmp")?);
        let command_line = words(&qemu);
        let started = Instant::now();
        let mut process = launch(&self.lab, self.netns.as_deref(), qemu, &run)?;
        let channel = Channel::new(accept(&channel, &mut process, &run)?)?;
        let qmp = greet(accept(&qmp, &mut process, &run)?, &mut process, &run)?;
        Ok(Vm {
            process,
            channel,
            qmp,
            run,
            command_line,
            nics: self.nics.len(),
            seen: 0,
            started,
            boot_time: None,
        })
    }

    fn machine_arguments(&self) -> Vec<String> {
        let kind = "q35,usb=off,vmport=off,graphics=off";
        let mut arguments = self.memory.machine(kind, self.memory_mib);
        arguments.extend(self.accel.arguments());
        arguments.extend(["-smp".into(), self.cpus.to_string()]);
        arguments.extend(["-nodefaults", "-no-user-config", "-display", "none"].map(str::to_owned));
        arguments
    }

    /// The arguments that the guest's kernel gets.
    #[must_use]
    pub fn append(&self) -> String {
        let mut append = KERNEL_ARGUMENTS.to_owned();
        if !self.autoload {
            append.push_str(" lab.autoload=0");
        }
        for argument in &self.kernel_arguments {
            append.push(' ');
            append.push_str(argument);
        }
        append
    }
}

/// A running VM. QEMU is killed when it is dropped; if that happens in a panic, the console's end is printed.
#[derive(Debug)]
pub struct Vm {
    // First, so that QEMU is gone before its files are.
    process: Process,
    channel: Channel,
    qmp: Qmp,
    run: RunDir,
    command_line: String,
    nics: usize,
    seen: u64,
    started: Instant,
    boot_time: Option<Duration>,
}

impl Vm {
    /// Runs a shell script in the guest, for up to a minute. Output of processes that it leaves in the background is
    /// not waited for.
    ///
    /// # Errors
    /// [`Error::CommandTimeout`], [`Error::Rebooted`], or that the guest is gone. A failing script is no error.
    pub fn run(&mut self, script: &str) -> Result<Output> {
        self.run_for(script, COMMAND)
    }

    /// As [`Vm::run`], for up to `timeout` (counted in whole seconds).
    ///
    /// # Errors
    /// As [`Vm::run`].
    pub fn run_for(&mut self, script: &str, timeout: Duration) -> Result<Output> {
        if Channel::fits(script) {
            return self.request(script, b"", timeout);
        }
        let path = "/run/lab/long-script";
        self.write_file(path, script.as_bytes())?;
        self.request(&format!(". {path}"), b"", timeout)
    }

    /// Runs a shell script that must succeed and returns its stdout without the last line's end.
    ///
    /// # Errors
    /// As [`Vm::run`], and [`Error::CommandFailed`].
    pub fn ok(&mut self, script: &str) -> Result<String> {
        self.ok_for(script, COMMAND)
    }

    /// As [`Vm::ok`], for up to `timeout`.
    ///
    /// # Errors
    /// As [`Vm::ok`].
    pub fn ok_for(&mut self, script: &str, timeout: Duration) -> Result<String> {
        let Output {
            code,
            stdout,
            stderr,
        } = self.run_for(script, timeout)?;
        if code != 0 {
            let output = format!("{} {}", stderr.trim(), stdout.trim())
                .trim()
                .to_owned();
            return Err(Error::CommandFailed {
                command: script.into(),
                code,
                output,
            });
        }
        Ok(stdout.trim_end_matches('\n').to_owned())
    }

    /// Writes a file in the guest over the command channel. Slow (tens of KiB a second): for scripts and the like.
    ///
    /// # Errors
    /// As [`Vm::ok`].
    pub fn write_file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.ok(&format!(": >'{path}'"))?;
        for chunk in Channel::chunks(content) {
            let script = format!("cat >>'{path}'");
            let output = self.request(&script, chunk, COMMAND)?;
            if !output.success() {
                return Err(Error::CommandFailed {
                    command: script,
                    code: output.code,
                    output: output.stderr,
                });
            }
        }
        Ok(())
    }

    /// Restarts the guest from inside and waits until it is back.
    ///
    /// # Errors
    /// As [`Vm::wait_rebooted`].
    pub fn reboot(&mut self, timeout: Duration) -> Result<()> {
        self.channel.send("reboot -f", b"", COMMAND)?;
        self.wait_rebooted(timeout)
    }

    /// Waits until the guest has come up once more than was waited for so far: after `system_reset`, or
    /// [`VmBuilder::spawn`].
    ///
    /// # Errors
    /// [`Error::GuestTimeout`], [`Error::GuestPanic`], [`Error::QemuExited`].
    pub fn wait_rebooted(&mut self, timeout: Duration) -> Result<()> {
        let (process, run) = (&mut self.process, &self.run);
        let up = self
            .channel
            .wait_boot(self.seen + 1, Instant::now() + timeout, &mut || {
                watch(process, run)
            })?;
        if !up {
            return Err(self.timeout("come up", timeout));
        }
        self.seen = self.channel.boots();
        Ok(())
    }

    /// Switches the guest off from inside and waits until QEMU has ended.
    ///
    /// # Errors
    /// [`Error::GuestTimeout`].
    pub fn poweroff(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.channel.send("poweroff -f", b"", COMMAND)?;
        self.wait_exit(timeout)
    }

    /// Waits until QEMU has ended.
    ///
    /// # Errors
    /// [`Error::GuestTimeout`].
    pub fn wait_exit(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.process
            .wait(timeout)?
            .ok_or_else(|| self.timeout("end", timeout))
    }

    /// Kills QEMU (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(|_| ())
    }

    /// QEMU's monitor.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// Plugs a vfio-user NIC into the running guest (with its `bus` set to a free root port, such as `rp0`). Returns
    /// its device id, for [`Vm::unplug`].
    ///
    /// # Errors
    /// [`Error::Qmp`].
    pub fn plug(&mut self, nic: &Nic) -> Result<String> {
        let device = nic.device(self.nics);
        self.qmp.execute("device_add", device)?;
        self.nics += 1;
        Ok(format!("nic{}", self.nics - 1))
    }

    /// Unplugs a NIC and waits until the guest has let go of it.
    ///
    /// # Errors
    /// [`Error::Qmp`], or [`Error::GuestTimeout`] if the guest keeps it.
    pub fn unplug(&mut self, id: &str, timeout: Duration) -> Result<()> {
        self.qmp.execute("device_del", json!({ "id": id }))?;
        let deadline = Instant::now() + timeout;
        while let Some(data) = self.qmp.wait_event(
            "DEVICE_DELETED",
            deadline.saturating_duration_since(Instant::now()),
        )? {
            if data["device"] == id {
                return Ok(());
            }
        }
        Err(self.timeout(&format!("let go of {id}"), timeout))
    }

    /// QEMU's command line, for reports.
    #[must_use]
    pub fn command_line(&self) -> &str {
        &self.command_line
    }

    /// QEMU's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// From QEMU's start to the command channel's first answer; `None` after [`VmBuilder::spawn`].
    #[must_use]
    pub fn boot_time(&self) -> Option<Duration> {
        self.boot_time
    }

    /// All that the guest's console has shown so far.
    #[must_use]
    pub fn console(&self) -> String {
        let bytes = fs::read(self.run.path("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of what QEMU has said on stderr so far.
    #[must_use]
    pub fn complaints(&self) -> String {
        self.run.tail("stderr")
    }

    fn request(&mut self, script: &str, stdin: &[u8], timeout: Duration) -> Result<Output> {
        let (process, run) = (&mut self.process, &self.run);
        check_alive(process, run)?;
        let output = self
            .channel
            .run(script, stdin, timeout, &mut || watch(process, run))?;
        output.ok_or_else(|| self.timeout(&format!("answer `{script}`"), timeout))
    }

    fn timeout(&self, what: &str, after: Duration) -> Error {
        Error::GuestTimeout {
            what: what.into(),
            after,
            console: self.run.tail("console"),
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("end of the guest's console:\n{}", self.run.tail("console"));
        }
    }
}

/// An error if QEMU has ended or the guest's kernel has panicked.
fn watch(process: &mut Process, run: &RunDir) -> Result<()> {
    check_alive(process, run)?;
    let console = run.tail("console");
    if console.contains("Kernel panic - not syncing") {
        Err(Error::GuestPanic(console))
    } else {
        Ok(())
    }
}
