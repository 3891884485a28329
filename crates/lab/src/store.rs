//! The lab's folder: where things lie, who may change it, what is complete.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::bare::BareBuilder;
use crate::counting::{self, Counting};
use crate::perf::{self, Perf};
use crate::qemu::Qemu;
use crate::tools::Tools;
use crate::vm::VmBuilder;
use crate::{Error, Kernel, Result, Suite, dpdk, flashrom, image, kernel, qemu, tools};

/// Changes when what the lab unpacks or builds changes its shape: older folders are then made anew.
const LAYOUT: &str = "1";

/// The lab: a folder that holds QEMU, kernels, tools and guest images, each fetched when first asked for.
///
/// Cheap to clone. Several processes may use one folder: whoever changes it holds its lock file, and each part
/// appears under its final name only when complete.
#[derive(Clone, Debug)]
pub struct Lab {
    dir: PathBuf,
    qemu: Arc<OnceLock<Qemu>>,
    cpus: Option<String>,
}

impl Lab {
    /// Opens the lab in `$NIC_EMU_LAB_DIR`, else `$CARGO_TARGET_DIR/lab`, else `target/lab` of this workspace.
    /// Fetches nothing yet.
    ///
    /// # Errors
    /// [`Error::UnsupportedArch`], or [`Error::Io`] if the folder cannot be made.
    pub fn open() -> Result<Self> {
        let env = |name| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let dir = env("NIC_EMU_LAB_DIR")
            .or_else(|| env("CARGO_TARGET_DIR").map(|d| d.join("lab")))
            .unwrap_or_else(|| {
                let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
                manifest
                    .ancestors()
                    .nth(2)
                    .unwrap_or(manifest)
                    .join("target/lab")
            });
        Self::open_in(dir)
    }

    /// Opens the lab in a given folder.
    ///
    /// # Errors
    /// As [`Lab::open`].
    pub fn open_in(dir: impl AsRef<Path>) -> Result<Self> {
        if std::env::consts::ARCH != "x86_64" {
            return Err(Error::UnsupportedArch(std::env::consts::ARCH));
        }
        let dir = dir.as_ref();
        fs::create_dir_all(dir).map_err(Error::write(
            dir,
            format!("make the lab's folder {}", dir.display()),
        ))?;
        let dir = dir
            .canonicalize()
            .map_err(Error::io(format!("resolve {}", dir.display())))?;
        Ok(Self {
            dir,
            qemu: Arc::default(),
            cpus: None,
        })
    }

    /// The lab's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Fetches and builds all that VMs of these suites need, so that later calls need no network.
    ///
    /// # Errors
    /// Whatever keeps it from getting there, one sentence each.
    pub fn prepare(&self, suites: &[Suite]) -> Result<()> {
        self.qemu()?;
        self.tools()?;
        suites
            .iter()
            .try_for_each(|&suite| self.image(suite).map(|_| ()))
    }

    /// The hypervisor: the system's if it is new enough and has the vfio-user client, else the fetched one.
    ///
    /// # Errors
    /// As [`Lab::prepare`].
    pub fn qemu(&self) -> Result<Qemu> {
        let found = match self.qemu.get() {
            Some(found) => found,
            None => {
                let found = qemu::find(self)?;
                self.qemu.get_or_init(|| found)
            }
        };
        Ok(found.clone().on_cpus(self.cpus.as_deref()))
    }

    /// The same lab, whose guests run on these processors alone, QEMU's other threads included: a list as `taskset -c`
    /// takes it.
    #[must_use]
    pub fn on_cpus(mut self, list: &str) -> Self {
        self.cpus = Some(list.to_owned());
        self
    }

    /// The newest kernel of a suite.
    ///
    /// # Errors
    /// As [`Lab::prepare`].
    pub fn kernel(&self, suite: Suite) -> Result<Kernel> {
        kernel::ensure(self, suite)
    }

    /// The guest image (initrd) that goes with a suite's kernel.
    ///
    /// # Errors
    /// As [`Lab::prepare`].
    pub fn image(&self, suite: Suite) -> Result<PathBuf> {
        image::ensure(self, suite)
    }

    /// The same with flashrom.
    ///
    /// # Errors
    /// As [`Lab::prepare`].
    pub fn flashrom_image(&self, suite: Suite) -> Result<PathBuf> {
        flashrom::image(self, suite)
    }

    /// The same with DPDK's `dpdk-testpmd`.
    ///
    /// # Errors
    /// As [`Lab::prepare`].
    pub fn dpdk_image(&self, suite: Suite) -> Result<PathBuf> {
        dpdk::image(self, suite)
    }

    /// The unpacked host-side tools.
    ///
    /// # Errors
    /// As [`Lab::prepare`].
    pub fn tools(&self) -> Result<Tools> {
        tools::ensure(self)
    }

    /// Programs that count instructions and system calls of others. Not part of [`Lab::prepare`].
    ///
    /// # Errors
    /// As [`Lab::prepare`].
    pub fn counting(&self) -> Result<Counting> {
        counting::ensure(self)
    }

    /// The kernel's profiler. Not part of [`Lab::prepare`].
    ///
    /// # Errors
    /// As [`Lab::prepare`].
    pub fn perf(&self) -> Result<Perf> {
        perf::ensure(self)
    }

    /// A command that runs `ip`, `tc`, `bridge`, `ss`, `ping`, `iperf3`, `ethtool` or `busybox` on the host, whether
    /// the machine has it installed or not.
    ///
    /// # Errors
    /// As [`Lab::prepare`], or [`Error::NotInPackage`] for a name the lab does not carry.
    pub fn host_tool(&self, name: &str) -> Result<std::process::Command> {
        self.tools()?.command(name)
    }

    /// A VM with this suite's kernel, to be configured and started.
    #[must_use]
    pub fn vm(&self, suite: Suite) -> VmBuilder {
        VmBuilder::new(self.clone(), suite)
    }

    /// A guest that is this image and has no operating system, to be configured and started.
    #[must_use]
    pub fn bare(&self, image: impl Into<PathBuf>) -> BareBuilder {
        BareBuilder::new(self.clone(), image.into())
    }

    /// Returns `dir/name` complete for `recipe`, building it under the lock if it is not there yet.
    ///
    /// `build` fills an empty folder, which takes its final name only when `build` succeeded, so that an interrupted
    /// run leaves nothing half made behind. It is not started with less than `mib` MiB free on the disk: apt is known
    /// to hang rather than fail on a full one.
    pub(crate) fn part(
        &self,
        name: &str,
        recipe: &str,
        mib: u64,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let path = self.dir.join(name);
        let stamp = format!("layout {LAYOUT}\n{recipe}\n");
        let complete = || fs::read_to_string(path.join(".complete")).is_ok_and(|s| s == stamp);
        if complete() {
            return Ok(path);
        }
        let _lock = self.lock()?;
        if complete() {
            return Ok(path);
        }
        let scratch = self.dir.join(format!("{name}.new"));
        remove_all(&scratch)?;
        let disk = rustix::fs::statvfs(&self.dir).map_err(|e| Error::Io {
            what: format!("ask for the free space of {}", self.dir.display()),
            source: e.into(),
        })?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) >> 20 < mib {
            return Err(Error::DiskFull(self.dir.clone()));
        }
        fs::create_dir_all(&scratch).map_err(Error::write(
            &self.dir,
            format!("make {}", scratch.display()),
        ))?;
        build(&scratch)?;
        fs::write(scratch.join(".complete"), stamp).map_err(Error::write(
            &self.dir,
            format!("write to {}", scratch.display()),
        ))?;
        remove_all(&path)?;
        fs::rename(&scratch, &path).map_err(Error::write(
            &self.dir,
            format!("put {} in place", path.display()),
        ))?;
        Ok(path)
    }

    /// Waits for the right to change the folder; ends with the returned file.
    fn lock(&self) -> Result<File> {
        let path = self.dir.join("lock");
        let file = File::create(&path)
            .map_err(Error::write(&self.dir, format!("open {}", path.display())))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).map_err(|e| {
            Error::Io {
                what: format!("lock {}", path.display()),
                source: e.into(),
            }
        })?;
        Ok(file)
    }
}

/// Removes a folder with all that is in it; that it is not there is fine.
pub(crate) fn remove_all(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::Io {
            what: format!("remove {}", path.display()),
            source: e,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_built_once_per_recipe_and_only_kept_when_complete() {
        let tmp = tempfile::tempdir().unwrap();
        let lab = Lab::open_in(tmp.path()).unwrap();
        let mut built = 0;
        let mut make = |recipe: &str| {
            lab.part("thing", recipe, 0, |dir| {
                built += 1;
                fs::write(dir.join("content"), recipe).unwrap();
                Ok(())
            })
            .unwrap()
        };
        make("a");
        make("a");
        let path = make("b");
        assert_eq!(built, 2);
        assert_eq!(fs::read_to_string(path.join("content")).unwrap(), "b");

        let failed = lab.part("thing", "c", 0, |dir| {
            fs::write(dir.join("content"), "half").unwrap();
            Err(Error::NoMirror)
        });
        assert!(failed.is_err());
        let full = lab.part("thing", "d", u64::MAX, |_| Ok(()));
        assert!(matches!(full, Err(Error::DiskFull(_))));
        assert_eq!(
            fs::read_to_string(path.join("content")).unwrap(),
            "b",
            "a failed build leaves the old part"
        );
    }

    #[test]
    fn two_builders_of_one_part_take_turns() {
        let tmp = tempfile::tempdir().unwrap();
        let built = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    // An own `Lab` each, as in separate processes: only the lock file is shared.
                    let lab = Lab::open_in(tmp.path()).unwrap();
                    lab.part("thing", "r", 0, |_| {
                        built.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        std::thread::sleep(std::time::Duration::from_millis(20));
                        Ok(())
                    })
                    .unwrap();
                });
            }
        });
        assert_eq!(built.into_inner(), 1);
    }
}
