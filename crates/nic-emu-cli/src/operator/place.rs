//! Where control sockets are: a file for each daemon, named after its process, in a folder that only its owner writes.
//!
//! Their names tell them from sockets for hypervisors, which an operator may keep in the same folder and which nobody
//! but a hypervisor should connect to.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, geteuid, test_kill_process};
use vfio_user::{ListenOptions, Listener};

const PREFIX: &str = "nic-emu-cli.";
const SUFFIX: &str = ".ctl";

/// The folders that may hold control sockets, best first.
pub(super) fn folders() -> Vec<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    runtime
        .filter(|path| path.is_absolute())
        .into_iter()
        .chain([PathBuf::from("/run")])
        .map(|path| path.join("nic-emu"))
        .collect()
}

/// Listens at `path`, or in the first of the usual folders that can be used. Without a path to insist on, a daemon can
/// do without: then this says why, in the log.
///
/// # Errors
///
/// One sentence about `path`.
pub(crate) fn open(path: Option<&Path>) -> Result<Option<Listener>> {
    if let Some(path) = path {
        let listener = bind(path).context("no control socket")?;
        return Ok(Some(listener));
    }
    let mut why = String::new();
    for folder in folders() {
        match open_in(&folder) {
            Ok(listener) => return Ok(Some(listener)),
            Err(error) => why += &format!("; {error:#}"),
        }
    }
    tracing::info!("cannot be inspected while it runs: give --control PATH{why}");
    Ok(None)
}

fn open_in(folder: &Path) -> Result<Listener> {
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("cannot make {}", folder.display()));
        }
        _ => {}
    }
    if !is_trusted(folder, &[geteuid().as_raw()]) {
        bail!("{} belongs to somebody else", folder.display());
    }
    for (path, pid) in sockets(folder) {
        let is_gone = test_kill_process(pid) == Err(rustix::io::Errno::SRCH);
        let refuses =
            || connect(&path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if is_gone && refuses() {
            let _ = std::fs::remove_file(&path);
        }
    }
    let name = format!("{PREFIX}{}{SUFFIX}", std::process::id());
    Ok(bind(&folder.join(name))?)
}

fn bind(path: &Path) -> Result<Listener, vfio_user::ListenError> {
    let ours_only = ListenOptions {
        mode: Some(0o600),
        group: None,
    };
    Listener::bind(path, &ours_only)
}

/// Whether nobody but its owner, one of these, and the superuser can put anything into this folder.
fn is_trusted(folder: &Path, owners: &[u32]) -> bool {
    std::fs::symlink_metadata(folder)
        .is_ok_and(|meta| meta.is_dir() && owners.contains(&meta.uid()) && meta.mode() & 0o022 == 0)
}

/// The control sockets of a folder, alive or not, with the processes that made them.
pub(super) fn sockets(folder: &Path) -> Vec<(PathBuf, Pid)> {
    if !is_trusted(folder, &[0, geteuid().as_raw()]) {
        return Vec::new();
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.path(), pid_of(entry.file_name().to_str()?)?)))
        .collect()
}

fn pid_of(name: &str) -> Option<Pid> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let digits_only = digits.bytes().all(|byte| byte.is_ascii_digit());
    Pid::from_raw(digits.parse().ok().filter(|_| digits_only)?)
}

/// Connects without waiting for a daemon that accepts nobody.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_names_of_control_sockets_are_taken_for_such() {
        assert_eq!(pid_of("nic-emu-cli.4711.ctl"), Pid::from_raw(4711));
        for name in [
            "nic0.sock",
            "nic-emu-cli.ctl",
            "nic-emu-cli.+1.ctl",
            "nic-emu-cli.0.ctl",
            "nic-emu-cli.99999999999.ctl",
            "nic-emu-cli.1.ctl.bak",
            "nic-emu-cli..ctl",
        ] {
            assert_eq!(pid_of(name), None, "{name}");
        }
    }

    #[test]
    fn dead_sockets_are_cleared_away_and_living_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("nic-emu");
        // No process has this number.
        let dead = folder.join("nic-emu-cli.2147483647.ctl");
        let mine = open_in(&folder).unwrap();
        let [(path, pid)] = &sockets(&folder)[..] else {
            panic!("{:?}", sockets(&folder));
        };
        assert_eq!(*pid, rustix::process::getpid());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(path), mode(&folder)), (0o600, 0o700));
        drop(UnixListener::bind(&dead).unwrap());
        std::fs::write(folder.join("nic0.sock"), "not ours").unwrap();
        // The living one is ours, in the way of another one of this process; all else has been done by then.
        assert!(open_in(&folder).is_err());
        assert!(!dead.exists() && path.exists() && folder.join("nic0.sock").exists());
        let path = path.clone();
        drop(mine);
        assert!(!path.exists(), "removed at the end");
    }

    #[test]
    fn folders_that_others_write_are_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |mode| std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(mode));
        mode(0o777).unwrap();
        assert!(open_in(dir.path()).is_err());
        assert!(sockets(dir.path()).is_empty());
        mode(0o755).unwrap();
        assert!(open_in(dir.path()).is_ok());
    }
}
