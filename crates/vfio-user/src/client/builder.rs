//! Connecting and negotiating.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_type};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use zerocopy::{FromBytes, IntoBytes};

use super::capabilities::Capabilities;
use super::dialect::Dialect;
use super::exchange::{Exchange, Expected};
use super::link::Link;
use super::memory::{Memory, Served};
use super::{Client, ClientError, Result};
use crate::wire::{MAX_DATA, MAX_FDS, Version, command};

/// How long a request may take, unless somebody says otherwise: what QEMU waits.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Most bytes of an answer to VERSION where the dialect has no limit.
const MOST_CAPABILITIES: usize = 4096;

/// What a client is to be like. Made by [`Client::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    dialect: Dialect,
    timeout: Duration,
    twin: bool,
    max_data: usize,
    memory: Option<Arc<dyn Memory>>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            dialect: Dialect::default(),
            timeout: TIMEOUT,
            twin: false,
            max_data: MAX_DATA,
            memory: None,
        }
    }
}

impl Builder {
    /// Whose habits to have; [`Dialect::Qemu`] unless told otherwise.
    #[must_use]
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// How long a request may take; 5 s unless told otherwise, as QEMU's `x-msg-timeout`.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Proposes a socket of their own for the server's commands (`twin_socket`), whatever the dialect says of it.
    /// Specification, "VFIO_USER_VERSION".
    #[must_use]
    pub fn twin_socket(mut self, propose: bool) -> Self {
        self.twin = propose;
        self
    }

    /// Most bytes of one DMA_READ or DMA_WRITE, proposed as `max_data_xfer_size`; 1 MiB unless told otherwise.
    /// Specification, "Message sizes".
    #[must_use]
    pub fn max_data(mut self, bytes: usize) -> Self {
        self.max_data = bytes.min(MAX_DATA);
        self
    }

    /// What answers DMA_READ and DMA_WRITE. Without it they are refused with ENODEV.
    #[must_use]
    pub fn memory(mut self, memory: Arc<dyn Memory>) -> Self {
        self.memory = Some(memory);
        self
    }

    /// Connects to the socket at `path` and negotiates. Specification, "Connection Initiation".
    ///
    /// # Errors
    ///
    /// If nobody serves there (in time), or versions differ.
    pub fn connect(self, path: impl AsRef<Path>) -> Result<Client> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // Where nobody accepts, connecting waits as long as sending may.
        set_socket_timeout(&socket, Timeout::Send, Some(self.timeout))?;
        net::connect(&socket, &SocketAddrUnix::new(path.as_ref())?)?;
        self.attach(socket.into())
    }

    /// Negotiates on a socket that is connected.
    ///
    /// # Errors
    ///
    /// If the server refuses, or answers what the dialect does not take.
    pub fn attach(self, stream: UnixStream) -> Result<Client> {
        let manners = self.dialect.manners();
        let json = manners.proposal(MAX_FDS, self.max_data, self.twin);
        let minor = manners.minor;
        let mut client = self.begin(stream)?;
        client.negotiate(Version { major: 0, minor }, &json)?;
        Ok(client)
    }

    /// A client on a socket that is connected, before negotiation: for [`Client::negotiate`].
    ///
    /// # Errors
    ///
    /// If the time limit cannot be set.
    pub fn begin(self, stream: UnixStream) -> Result<Client> {
        let manners = self.dialect.manners();
        let mut client = Client {
            main: Link::new(stream),
            twin: None,
            manners,
            timeout: self.timeout,
            exchange: Exchange::new(manners),
            served: Served::new(self.max_data, manners.checks_bus_master),
            server: Capabilities::unannounced(manners.default_fds),
            broken: None,
            out: Vec::new(),
            line: false,
            mappable: false,
            files: Vec::new(),
        };
        client.served.memory = self.memory;
        client.set_timeout(self.timeout)?;
        Ok(client)
    }
}

impl Client {
    /// A client that is yet to be described.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Connects to the socket at `path` and negotiates as QEMU does.
    ///
    /// # Errors
    ///
    /// If nobody serves there, or versions differ.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder().connect(path)
    }

    /// A client on a connected socket, before negotiation.
    ///
    /// # Errors
    ///
    /// If the time limit cannot be set.
    pub fn from_stream(stream: UnixStream) -> Result<Self> {
        Self::builder().begin(stream)
    }

    /// Answers the device's DMA_READ and DMA_WRITE from `memory` from now on; none refuses them with ENODEV.
    pub fn set_memory(&mut self, memory: Option<Arc<dyn Memory>>) {
        self.served.memory = memory;
    }

    /// Proposes a version and capabilities (JSON with its NUL, or nothing); returns the server's. Specification,
    /// "VFIO_USER_VERSION".
    ///
    /// # Errors
    ///
    /// If it refuses, or answers what the dialect does not take. QEMU's: a longer message than was sent, a newer
    /// version, capabilities that make no sense.
    pub fn negotiate(&mut self, version: Version, json: &str) -> Result<(Version, String)> {
        let payload = [version.as_bytes(), json.as_bytes()].concat();
        let expected = Expected {
            payload: match self.manners.version_in_place {
                true => payload.len(),
                false => MOST_CAPABILITIES,
            },
            fds: usize::from(json.contains("\"twin_socket\"")),
        };
        let ticket = self.submit_parts(command::VERSION, &[&payload], &[], expected)?;
        let answer = self.collect(ticket)?;
        let (theirs, json) = Version::read_from_prefix(&answer.payload)
            .map_err(|_| self.fail(ClientError::Protocol("no version")))?;
        if theirs.major != version.major || theirs.minor > version.minor {
            return Err(self.fail(ClientError::Protocol("the answer exceeds the proposal")));
        }
        if self.manners.reads_capabilities {
            self.server = Capabilities::parse(json, self.manners.default_fds)
                .map_err(|why| self.fail(ClientError::Protocol(why)))?;
        }
        self.adopt_twin(answer.fds)?;
        let json = String::from_utf8_lossy(json.strip_suffix(&[0]).unwrap_or(json));
        Ok((theirs, json.into_owned()))
    }

    /// Takes the socket for the server's commands, if it was announced.
    fn adopt_twin(&mut self, fds: Vec<OwnedFd>) -> Result<()> {
        let broken = |client: &mut Self, why| Err(client.fail(ClientError::Protocol(why)));
        match (self.server.twin, fds.into_iter().next()) {
            (None, None) => Ok(()),
            (Some(0), Some(fd)) => match socket_type(&fd) {
                Ok(SocketType::STREAM) => {
                    self.twin = Some(Link::new(fd.into()));
                    Ok(())
                }
                _ => broken(self, "the twin socket is no stream socket"),
            },
            (Some(_), _) => broken(self, "the twin socket does not come along"),
            (None, Some(_)) => broken(self, "unexpected descriptors"),
        }
    }
}
