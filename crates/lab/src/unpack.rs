//! Takes packages apart without installing them.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::apt::missing_tool;
use crate::{Error, Result};

/// Things in packages that nobody runs.
const DEAD_WEIGHT: [&str; 5] = [
    "./usr/share/doc",
    "./usr/share/man",
    "./usr/share/locale",
    "./usr/share/lintian",
    "./usr/share/bug",
];

/// Unpacks a whole package, without documentation, into `into`.
pub(crate) fn package(deb: &Path, into: &Path) -> Result<()> {
    let excludes = DEAD_WEIGHT.map(|path| format!("--exclude={path}"));
    untar(deb, into, excludes.iter().map(OsStr::new))
}

/// Unpacks those members of a package that match one of tar's wildcard `patterns`; that there is none is fine.
pub(crate) fn members(deb: &Path, into: &Path, patterns: &[&str]) -> Result<()> {
    untar(
        deb,
        into,
        ["--wildcards"].iter().chain(patterns).map(OsStr::new),
    )
}

fn untar<'a>(deb: &Path, into: &Path, args: impl Iterator<Item = &'a OsStr>) -> Result<()> {
    let mut dpkg = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| missing_tool("dpkg-deb", e))?;
    let mut tar = Command::new("tar");
    tar.args(["-x", "--no-same-owner", "-C"])
        .arg(into)
        .args(args)
        .env("LC_ALL", "C");
    if let Some(pipe) = dpkg.stdout.take() {
        tar.stdin(pipe);
    }
    let done = tar.output().map_err(|e| missing_tool("tar", e))?;
    drop(tar); // its end of the pipe, so that dpkg-deb cannot wait for a reader that is gone
    let source = dpkg.wait().map_err(Error::io("wait for dpkg-deb"))?;

    let complaints = String::from_utf8_lossy(&done.stderr);
    if complaints.contains("No space left") {
        return Err(Error::DiskFull(into.to_owned()));
    }
    let harmless = |l: &str| l.contains("Not found in archive") || l.contains("previous errors");
    let unpacked = done.status.success()
        || (done.status.code() == Some(2) && complaints.lines().all(harmless));
    if unpacked && source.success() {
        return Ok(());
    }
    let detail = complaints
        .lines()
        .find(|l| !harmless(l))
        .unwrap_or("the package is damaged")
        .to_owned();
    let status = if source.success() {
        done.status
    } else {
        source
    };
    Err(Error::Command {
        command: format!("dpkg-deb -x {}", deb.display()),
        status: status.to_string(),
        detail,
    })
}
