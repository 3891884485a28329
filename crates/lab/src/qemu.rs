//! The hypervisor: the system's or a fetched one.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;

use crate::apt::Apt;
use crate::kernel::Suite;
use crate::tools::Tools;
use crate::{Error, Lab, Result, unpack};

const PROGRAM: &str = "qemu-system-x86_64";
/// The first release with the vfio-user client.
const OLDEST: (u32, u32) = (10, 1);

/// Where a QEMU's firmware and ROMs are.
const FOLDERS: [&str; 3] = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"];

/// A QEMU that has the vfio-user client.
#[derive(Clone, Debug)]
pub struct Qemu {
    source: Source,
    version: String,
    cpus: Option<String>,
}

#[derive(Clone, Debug)]
enum Source {
    System,
    Unpacked(Tools),
}

impl Qemu {
    /// A command that starts it, without arguments of the VM.
    #[must_use]
    pub fn command(&self) -> Command {
        let qemu = self.program();
        let Some(cpus) = &self.cpus else {
            return qemu;
        };
        let mut command = Command::new("taskset");
        command.args(["-c", cpus]).arg(qemu.get_program());
        command.args(qemu.get_args());
        for (name, value) in qemu.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    pub(crate) fn on_cpus(mut self, list: Option<&str>) -> Self {
        self.cpus = list.map(str::to_owned);
        self
    }

    fn program(&self) -> Command {
        let Source::Unpacked(tree) = &self.source else {
            return Command::new(PROGRAM);
        };
        let root = tree.root();
        // `find` has seen the program there.
        let mut command = tree
            .command(PROGRAM)
            .unwrap_or_else(|_| Command::new(PROGRAM));
        for firmware in FOLDERS {
            command.arg("-L").arg(root.join(firmware));
        }
        command.env(
            "QEMU_MODULE_DIR",
            root.join("usr/lib/x86_64-linux-gnu/qemu"),
        );
        command
    }

    /// Its version, such as `11.1.3`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether it is the machine's own rather than a fetched one.
    #[must_use]
    pub fn is_system(&self) -> bool {
        matches!(self.source, Source::System)
    }

    /// The folder of a fetched QEMU.
    #[must_use]
    pub fn root(&self) -> Option<PathBuf> {
        match &self.source {
            Source::System => None,
            Source::Unpacked(tree) => Some(tree.root().to_owned()),
        }
    }

    /// Where one of the files lies that come with it, such as `pxe-e1000.rom`.
    ///
    /// # Errors
    /// [`Error::NotInPackage`].
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        let root = self.root().unwrap_or_else(|| PathBuf::from("/"));
        FOLDERS
            .iter()
            .map(|folder| root.join(folder).join(name))
            .find(|path| path.exists())
            .ok_or_else(|| Error::NotInPackage {
                what: name.into(),
                set: "QEMU".into(),
                dir: root.clone(),
            })
    }

    fn probe(source: Source) -> Result<Option<Self>> {
        let mut qemu = Self {
            source,
            version: String::new(),
            cpus: None,
        };
        let print = |arg: &[&str]| match qemu.command().args(arg).output() {
            Ok(out) => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
            // A folder of PATH that this user may not search is "permission denied" if the program is nowhere else.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                Ok(String::new())
            }
            Err(e) => Err(Error::Io {
                what: format!("start {PROGRAM}"),
                source: e,
            }),
        };
        let Some((text, number)) = parse_version(&print(&["--version"])?) else {
            return Ok(None);
        };
        let fits = number >= OLDEST && print(&["-device", "help"])?.contains("\"vfio-user-pci\"");
        qemu.version = text;
        Ok(fits.then_some(qemu))
    }
}

/// Finds the system's QEMU if it will do, else unpacks one.
pub(crate) fn find(lab: &Lab) -> Result<Qemu> {
    if let Some(qemu) = Qemu::probe(Source::System)? {
        return Ok(qemu);
    }
    let package = "qemu-system-x86";
    let root = lab.part("qemu", package, 350, |dir| {
        let apt = Apt::open(lab)?;
        for deb in apt.fetch_with_dependencies("qemu", Suite::TrixieBackports, &[package])? {
            unpack::package(&deb, dir)?;
        }
        apt.forget("qemu")
    })?;
    let missing = Error::NotInPackage {
        what: format!("a QEMU >= {}.{} with vfio-user-pci", OLDEST.0, OLDEST.1),
        set: Suite::TrixieBackports.name().into(),
        dir: root.clone(),
    };
    Qemu::probe(Source::Unpacked(Tools::at(root)))?.ok_or(missing)
}

/// The version in words and its first two numbers, from `QEMU emulator version 11.1.3 (Debian ...)`.
fn parse_version(printed: &str) -> Option<(String, (u32, u32))> {
    let word = printed
        .lines()
        .next()?
        .split("version ")
        .nth(1)?
        .split_whitespace()
        .next()?;
    let mut numbers = word.split('.').map(|n| n.parse().ok());
    Some((word.to_owned(), (numbers.next()??, numbers.next()??)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        let version = |text| parse_version(text).unwrap().1;
        assert!(
            version("QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)\nCopyright")
                >= OLDEST
        );
        assert!(version("QEMU emulator version 10.1.0") >= OLDEST);
        assert!(version("QEMU emulator version 10.0.3 (Debian 1:10.0.3)") < OLDEST);
        assert!(version("QEMU emulator version 7.2.19 (Debian 1:7.2+dfsg-7+deb12u15)") < OLDEST);
        assert!(parse_version("").is_none());
        assert!(parse_version("something else").is_none());
    }
}
