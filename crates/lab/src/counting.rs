//! Programs that count what another one does: instructions, system calls.

use std::path::Path;
use std::process::Command;

use crate::apt::Apt;
use crate::kernel::Suite;
use crate::tools::Tools;
use crate::{Lab, Result, unpack};

const PACKAGES: [&str; 2] = ["valgrind", "strace"];
/// Where valgrind's own programs are, below the tree's root.
const VALGRIND: &str = "usr/libexec/valgrind";

/// The unpacked tree of valgrind and strace.
#[derive(Clone, Debug)]
pub struct Counting {
    tools: Tools,
}

/// The tree, unpacked.
pub(crate) fn ensure(lab: &Lab) -> Result<Counting> {
    let root = lab.part("counting", &PACKAGES.join(" "), 300, |dir| {
        let apt = Apt::open(lab)?;
        for deb in apt.fetch_with_dependencies("counting", Suite::Trixie, &PACKAGES)? {
            unpack::package(&deb, dir)?;
        }
        apt.forget("counting")
    })?;
    Ok(Counting {
        tools: Tools::at(root),
    })
}

impl Counting {
    /// A command that runs `program` under callgrind, with more of its options; the program's arguments are to be added.
    ///
    /// # Errors
    /// [`Error::NotInPackage`](crate::Error::NotInPackage).
    pub fn callgrind(&self, options: &[&str], program: &Path) -> Result<Command> {
        let folder = self.tools.root().join(VALGRIND);
        // The launcher would look for its programs where the package would be installed. This one is linked statically.
        let mut command = Command::new(folder.join("callgrind-amd64-linux"));
        command
            .env("VALGRIND_LIB", &folder)
            .env("VALGRIND_LAUNCHER", self.tools.path("valgrind")?)
            .arg("--tool=callgrind")
            .args(options)
            .arg(program);
        Ok(command)
    }

    /// strace, through the tree's own loader.
    ///
    /// # Errors
    /// [`Error::NotInPackage`](crate::Error::NotInPackage).
    pub fn strace(&self) -> Result<Command> {
        self.tools.command("strace")
    }
}
