//! The kernel's profiler, from Debian's package: it samples what processes are at, in their own code and in the kernel.

use std::process::Command;

use crate::apt::Apt;
use crate::kernel::Suite;
use crate::tools::Tools;
use crate::{Lab, Result, unpack};

const PACKAGES: [&str; 1] = ["linux-perf"];
/// Of the packages that it depends on, its libraries will do: the interpreters among them are for scripts.
const MEMBERS: [&str; 4] = [
    "./usr/bin/perf",
    "./usr/lib64/*",
    "./usr/lib/x86_64-linux-gnu/*.so*",
    "./lib64/*",
];

/// The unpacked tree of perf.
#[derive(Clone, Debug)]
pub struct Perf {
    tools: Tools,
}

/// The tree, unpacked.
pub(crate) fn ensure(lab: &Lab) -> Result<Perf> {
    let root = lab.part("perf", &PACKAGES.join(" "), 300, |dir| {
        let apt = Apt::open(lab)?;
        for deb in apt.fetch_with_dependencies("perf", Suite::Trixie, &PACKAGES)? {
            unpack::members(&deb, dir, &MEMBERS)?;
        }
        apt.forget("perf")
    })?;
    Ok(Perf {
        tools: Tools::at(root),
    })
}

impl Perf {
    /// A command that runs perf, whose arguments are to be added: through the tree's own loader, and with neither settings
    /// nor debugging information of elsewhere.
    ///
    /// # Errors
    /// [`Error::NotInPackage`](crate::Error::NotInPackage).
    pub fn command(&self) -> Result<Command> {
        let mut command = self.tools.command("perf")?;
        command
            .env("PERF_CONFIG", "/dev/null")
            .env("LC_ALL", "C")
            .env_remove("DEBUGINFOD_URLS");
        Ok(command)
    }
}
