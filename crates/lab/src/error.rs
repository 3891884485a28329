//! What can go wrong, one sentence each.

use std::path::PathBuf;
use std::time::Duration;

/// Result of everything in the lab.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the lab could not do it; each prints as one sentence that says what to do where something can be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The packages and guests are x86-64 only.
    #[error("the lab needs an x86-64 machine, this one is {0}: run it on amd64")]
    UnsupportedArch(&'static str),
    /// `apt-get` or another tool of a Debian base system is not installed.
    #[error(
        "`{0}` was not found: the lab fetches QEMU and kernels with apt and needs a Debian-like machine"
    )]
    NoApt(String),
    /// The machine's apt configuration names no Debian archive.
    #[error(
        "apt's sources name no Debian archive: add one to /etc/apt, or set NIC_EMU_LAB_MIRROR to its URI"
    )]
    NoMirror,
    /// No keyring to check the archive's signatures with.
    #[error(
        "no Debian archive keyring below /usr/share/keyrings: install the package debian-archive-keyring"
    )]
    NoKeyring,
    /// The mirror did not answer.
    #[error(
        "the package archive cannot be reached ({0}): check the network or proxy and run again, downloads resume"
    )]
    Unreachable(String),
    /// A signature or checksum did not match; nothing of it is used.
    #[error(
        "the package archive failed its signature or checksum check ({0}): nothing of it was used"
    )]
    Signature(String),
    /// Out of disk space.
    #[error(
        "no space left on the disk of {0}: free about 1 GB, or point NIC_EMU_LAB_DIR to another disk"
    )]
    DiskFull(PathBuf),
    /// apt failed in some other way.
    #[error("apt could not {what}: {detail}")]
    Apt {
        /// What was asked of it.
        what: String,
        /// Its own first error line.
        detail: String,
    },
    /// A package does not hold what the lab looks for in it.
    #[error("{what} was not found in the packages of {set}: delete {dir} and run again")]
    NotInPackage {
        /// The missing file or module.
        what: String,
        /// The set of packages.
        set: String,
        /// The folder they were unpacked to.
        dir: PathBuf,
    },
    /// A host program failed.
    #[error("`{command}` failed ({status}): {detail}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status in words.
        status: String,
        /// The last lines it printed on stderr.
        detail: String,
    },
    /// An operation on a file, socket or process failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// QEMU ended although it should run.
    #[error("QEMU ended ({status}): {detail}")]
    QemuExited {
        /// Its exit status in words.
        status: String,
        /// What it printed on stderr, and the end of the guest's console.
        detail: String,
    },
    /// The guest's kernel panicked.
    #[error("the guest's kernel panicked; end of its console:\n{0}")]
    GuestPanic(String),
    /// The guest did not answer in time.
    #[error("the guest did not {what} within {after:?}; end of its console:\n{console}")]
    GuestTimeout {
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
        /// The last lines of the guest's console.
        console: String,
    },
    /// A command ran longer than allowed and was killed in the guest.
    #[error("`{command}` ran longer than {after:?} in the guest and was killed")]
    CommandTimeout {
        /// The command.
        command: String,
        /// The time it was given.
        after: Duration,
    },
    /// A command in the guest failed where success was expected.
    #[error("`{command}` ended with code {code} in the guest: {output}")]
    CommandFailed {
        /// The command.
        command: String,
        /// Its exit code.
        code: i32,
        /// Its stderr and stdout.
        output: String,
    },
    /// The guest restarted while a command ran.
    #[error("the guest restarted while `{0}` ran")]
    Rebooted(String),
    /// The command channel carried something that is not its protocol.
    #[error("the guest's command channel is out of step: {0}")]
    Channel(String),
    /// QEMU's monitor refused a command.
    #[error("QEMU refused `{command}`: {detail}")]
    Qmp {
        /// The QMP command.
        command: String,
        /// QEMU's description.
        detail: String,
    },
    /// Network namespaces need root.
    #[error("network namespace {0} cannot be made: run as root")]
    NeedRoot(String),
}

impl Error {
    /// For `map_err` on I/O: `what` completes "cannot ...".
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }

    /// As [`Error::io`] for writes below `dir`, where a full disk is its own error.
    pub(crate) fn write(
        dir: &std::path::Path,
        what: impl Into<String>,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let (dir, what) = (dir.to_owned(), what.into());
        move |source| match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Error::DiskFull(dir)
            }
            _ => Error::Io { what, source },
        }
    }
}
