//! Programs for guest and host, from packages: the same versions on every machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::Apt;
use crate::kernel::Suite;
use crate::{Error, Lab, Result, unpack};

const PACKAGES: [&str; 9] = [
    "dash",
    "busybox-static",
    "ethtool",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "pciutils",
    "xz-utils",
    "zstd",
];

/// An unpacked tree of packages whose programs run by its own loader and libraries, whatever the host has.
#[derive(Clone, Debug)]
pub struct Tools {
    root: PathBuf,
}

/// The tools' tree, unpacked.
pub(crate) fn ensure(lab: &Lab) -> Result<Tools> {
    let root = lab.part("tools", &PACKAGES.join(" "), 200, |dir| {
        let apt = Apt::open(lab)?;
        for deb in apt.fetch_with_dependencies("tools", Suite::Trixie, &PACKAGES)? {
            unpack::package(&deb, dir)?;
        }
        apt.forget("tools")
    })?;
    Ok(Tools { root })
}

impl Tools {
    /// A tree that was unpacked to `root`.
    pub(crate) fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder that the packages were unpacked to.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a program lies in the tree.
    ///
    /// # Errors
    /// [`Error::NotInPackage`].
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        ["usr/bin", "usr/sbin", "bin", "sbin"]
            .iter()
            .map(|d| self.root.join(d).join(name))
            .find(|p| p.exists())
            .ok_or_else(|| Error::NotInPackage {
                what: name.into(),
                set: "the lab".into(),
                dir: self.root.clone(),
            })
    }

    /// A command that runs a program of the tree through the tree's own loader.
    ///
    /// # Errors
    /// [`Error::NotInPackage`].
    pub fn command(&self, name: &str) -> Result<Command> {
        let program = self.path(name)?;
        let mut command = self.loader();
        command.arg(program);
        Ok(command)
    }

    /// The shared libraries that a program of the tree loads, its loader included.
    pub(crate) fn libraries(&self, program: &Path) -> Result<Vec<PathBuf>> {
        let out = self
            .loader()
            .arg("--list")
            .arg(program)
            .output()
            .map_err(Error::io("start the lab's loader"))?;
        let listed = String::from_utf8_lossy(&out.stdout);
        // A static program (busybox) is listed as nothing.
        Ok(parse_loader_list(&listed)
            .filter(|p| p.starts_with(&self.root))
            .collect())
    }

    fn loader(&self) -> Command {
        let mut command = Command::new(self.root.join("usr/lib64/ld-linux-x86-64.so.2"));
        command
            .arg("--library-path")
            .arg(self.root.join("usr/lib/x86_64-linux-gnu"));
        command
    }
}

/// `NAME => PATH (ADDRESS)` and `PATH (ADDRESS)` lines of the loader.
fn parse_loader_list(listed: &str) -> impl Iterator<Item = PathBuf> + '_ {
    listed.lines().filter_map(|line| {
        let path = line.split(" => ").last()?.rsplit_once(" (")?.0.trim();
        path.starts_with('/').then(|| PathBuf::from(path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_list_names_files() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibm.so.6 => /t/usr/lib/libm.so.6 (0x00007f)\n\
            \t/t/usr/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tstatically linked\n";
        let paths: Vec<_> = parse_loader_list(listed).collect();
        assert_eq!(
            paths,
            [
                Path::new("/t/usr/lib/libm.so.6"),
                Path::new("/t/usr/lib64/ld-linux-x86-64.so.2")
            ]
        );
    }
}
