//! The listening socket: where clients find the device.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with, sockopt,
};
use thiserror::Error;

/// Connections that may wait to be accepted: clients that start all at once.
const BACKLOG: i32 = 16;

/// Who may connect to a socket file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenOptions {
    /// Permissions, as in `chmod`; connecting takes the write bit. Left to the umask if none are given.
    pub mode: Option<u32>,
    /// Group id that the file is given to.
    pub group: Option<u32>,
}

/// Why a socket cannot be listened on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The kernel takes 107 bytes.
    #[error("socket path {0} is too long: {len} bytes, the system takes 107; choose a shorter one", len = .0.as_os_str().len())]
    TooLong(PathBuf),
    /// A server listens there.
    #[error(
        "socket path {0} is in use: another process listens on it; stop it or choose another path"
    )]
    InUse(PathBuf),
    /// Something else than a socket is there.
    #[error("{0} exists and is not a socket; remove it or choose another path")]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("cannot {action} socket path {path}: {source}")]
    System {
        /// What failed.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The descriptor handed over is not what it should be.
    #[error("file descriptor {0} is not a listening UNIX stream socket")]
    NotListening(i32),
}

/// A listening socket. Removes its file when dropped, if it made it and it is still there. Specification, "Socket".
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    file: Option<SocketFile>,
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl Listener {
    /// Listens on a new socket at `path`. A socket file on which nobody listens any more is replaced.
    ///
    /// # Errors
    ///
    /// See [`ListenError`].
    pub fn bind(path: impl AsRef<Path>, options: &ListenOptions) -> Result<Self, ListenError> {
        let path = path.as_ref();
        let system = |action| {
            let path = path.to_owned();
            move |errno: Errno| ListenError::System {
                action,
                path,
                source: errno.into(),
            }
        };
        let address =
            SocketAddrUnix::new(path).map_err(|_| ListenError::TooLong(path.to_owned()))?;
        make_way(path, &address)?;
        let socket = stream_socket().map_err(system("create"))?;
        if let Some(mode) = options.mode {
            // The file gets the socket's permissions, less the umask: it is at no time open to more than it should.
            fchmod(&socket, Mode::from_raw_mode(mode)).map_err(system("set the mode of"))?;
        }
        bind(&socket, &address).map_err(system("create"))?;
        let meta = std::fs::symlink_metadata(path).map_err(|source| ListenError::System {
            action: "inspect",
            path: path.to_owned(),
            source,
        })?;
        let listener = Self {
            socket,
            file: Some(SocketFile {
                path: path.to_owned(),
                id: (meta.dev(), meta.ino()),
            }),
        };
        // Nobody can connect before `listen`, so nobody slips in before the group is right.
        if let Some(group) = options.group {
            std::os::unix::fs::chown(path, None, Some(group)).map_err(|source| {
                ListenError::System {
                    action: "set the group of",
                    path: path.to_owned(),
                    source,
                }
            })?;
        }
        if let Some(mode) = options.mode {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(path, mode).map_err(|source| ListenError::System {
                action: "set the mode of",
                path: path.to_owned(),
                source,
            })?;
        }
        listen(&listener.socket, BACKLOG).map_err(system("listen on"))?;
        Ok(listener)
    }

    /// Takes over a socket that listens already. Its file, if any, is left to whoever made it.
    ///
    /// # Errors
    ///
    /// [`ListenError::NotListening`] for anything else.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, ListenError> {
        use std::os::fd::AsRawFd;
        let refused = |_| ListenError::NotListening(fd.as_raw_fd());
        let fits = sockopt::socket_domain(&fd).map_err(refused)? == AddressFamily::UNIX
            && sockopt::socket_type(&fd).map_err(refused)? == SocketType::STREAM
            && sockopt::socket_acceptconn(&fd).map_err(refused)?;
        if !fits {
            return Err(ListenError::NotListening(fd.as_raw_fd()));
        }
        rustix::io::ioctl_fionbio(&fd, true).map_err(refused)?;
        Ok(Self {
            socket: fd,
            file: None,
        })
    }

    /// The next client, none if nobody waits.
    pub(crate) fn accept(&self) -> io::Result<Option<OwnedFd>> {
        match accept_with(&self.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(socket) => Ok(Some(socket)),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some(SocketFile { path, id }) = &self.file else {
            return;
        };
        // Not if somebody has put another file there meanwhile.
        let ours =
            std::fs::symlink_metadata(path).is_ok_and(|meta| (meta.dev(), meta.ino()) == *id);
        if ours {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Removes a socket file that a dead server left behind.
fn make_way(path: &Path, address: &SocketAddrUnix) -> Result<(), ListenError> {
    let system = |source: io::Error| ListenError::System {
        action: "inspect",
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system(error)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(ListenError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    let probe = stream_socket().map_err(|errno| system(errno.into()))?;
    match connect(&probe, address) {
        Err(Errno::CONNREFUSED) => {
            std::fs::remove_file(path).map_err(|source| ListenError::System {
                action: "remove the stale",
                path: path.to_owned(),
                source,
            })
        }
        Err(Errno::NOENT) => Ok(()),
        Ok(()) | Err(Errno::AGAIN) => Err(ListenError::InUse(path.to_owned())),
        Err(errno) => Err(system(errno.into())),
    }
}

fn stream_socket() -> rustix::io::Result<OwnedFd> {
    socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("vfio-user-{name}-{}", std::process::id()))
    }

    #[test]
    fn a_live_socket_is_refused_and_a_stale_one_replaced() {
        let path = path("stale");
        let first = Listener::bind(&path, &ListenOptions::default()).unwrap();
        let second = Listener::bind(&path, &ListenOptions::default());
        assert!(matches!(second, Err(ListenError::InUse(_))));
        // What is left after a kill: the file without the socket.
        drop(std::os::unix::net::UnixListener::bind(path.with_extension("dead")).unwrap());
        let dead = Listener::bind(path.with_extension("dead"), &ListenOptions::default());
        assert!(dead.is_ok());
        drop((first, dead));
        assert!(!path.exists() && !path.with_extension("dead").exists());
    }

    #[test]
    fn other_files_and_long_paths_are_refused() {
        let path = path("file");
        std::fs::write(&path, "precious").unwrap();
        let listener = Listener::bind(&path, &ListenOptions::default());
        assert!(matches!(listener, Err(ListenError::NotASocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
        let long = Listener::bind("/tmp/".repeat(30), &ListenOptions::default());
        assert!(long.unwrap_err().to_string().contains("107"));
        let missing = Listener::bind("/nonexistent/x.sock", &ListenOptions::default());
        assert!(matches!(missing, Err(ListenError::System { .. })));
    }

    #[test]
    fn the_mode_is_what_was_asked_for() {
        let path = path("mode");
        let options = ListenOptions {
            mode: Some(0o662),
            group: None,
        };
        let _listener = Listener::bind(&path, &options).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o662);
    }

    #[test]
    fn only_listening_sockets_are_taken_over() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(Listener::from_fd(a.into()).is_err());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(Listener::from_fd(file.into()).is_err());
        let path = path("handed");
        let listening = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(Listener::from_fd(listening.into()).unwrap());
        assert!(path.exists(), "not ours to remove");
        std::fs::remove_file(&path).unwrap();
    }
}
