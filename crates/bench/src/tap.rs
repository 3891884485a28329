//! A TAP in a network namespace of its own, and who fills its queue.

use std::fs::File;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use net_backend::{Backend, IpPrefix, Tap, TapOptions};
use nic_emu_lab::Netns;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Bytes of the header before each frame: a `virtio_net_hdr` without mergeable buffers.
pub const VNET_HEADER: usize = 10;
/// Bytes before the payload of a UDP frame: Ethernet, IPv4, UDP.
const HEADERS: usize = 14 + 20 + 8;
/// Shortest frame to fill a queue with.
pub const SHORTEST: usize = 60;

/// The host's own address on network `number`.
#[must_use]
pub fn own(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, number, 1)
}

/// Everybody on network `number`: no neighbour has to be found.
fn everybody(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, number, 255)
}

/// The discard service.
const PORT: u16 = 9;

/// Puts this thread, and threads that it starts from now on, into a new network namespace, which vanishes with the last
/// of them.
///
/// # Errors
///
/// We may not.
pub fn enter_namespace() -> Result<()> {
    unshare().context("cannot make a network namespace: run this as root")?;
    keep_quiet()
}

/// The same with a namespace that has a name, for a daemon to be started in as well.
///
/// # Errors
///
/// We may not.
pub fn enter(netns: &Netns) -> Result<()> {
    let path = Path::new("/run/netns").join(netns.name());
    let file = File::open(&path).with_context(|| format!("no {}", path.display()))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
    keep_quiet()
}

/// Switches IPv6 off in this namespace: nobody says anything unasked.
fn keep_quiet() -> Result<()> {
    for which in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
        // A kernel without IPv6 has nothing to switch off.
        if std::fs::exists(&path)? {
            std::fs::write(&path, "1").with_context(|| format!("cannot write to {path}"))?;
        }
    }
    Ok(())
}

#[expect(
    deprecated,
    reason = "its successor is unsafe because of flags for memory and files; this one is for the network alone"
)]
fn unshare() -> rustix::io::Result<()> {
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET)
}

/// A TAP of our own, its host's side up and with its address on network 0.
///
/// # Errors
///
/// We may not, or this machine has no TAPs.
pub fn open(ifname: &str) -> Result<Backend> {
    let options = TapOptions {
        ifname: ifname.to_owned(),
        ip: Some(IpPrefix {
            addr: own(0).into(),
            len: 24,
        }),
        ..TapOptions::default()
    };
    Ok(Tap::create(&options)?.into())
}

/// Its descriptor, for whoever reads and writes it without us.
///
/// # Errors
///
/// The process has none left.
pub fn descriptor(tap: &Backend) -> Result<OwnedFd> {
    let fd = tap.rx.fd().context("the TAP is gone")?;
    Ok(fd.try_clone_to_owned()?)
}

/// A host that sends frames of one size out of the TAP.
pub struct Feeder {
    socket: UdpSocket,
    payload: Vec<u8>,
}

impl Feeder {
    /// Frames of `size` bytes on network `number`.
    ///
    /// # Errors
    ///
    /// The TAP of this namespace is not up, or the size is below [`SHORTEST`].
    pub fn new(number: u8, size: usize) -> Result<Self> {
        ensure!(size >= SHORTEST, "no Ethernet frame has {size} bytes");
        let socket = UdpSocket::bind((own(number), 0)).context("the TAP has no address")?;
        socket.set_broadcast(true)?;
        socket.connect((everybody(number), PORT))?;
        Ok(Self {
            socket,
            payload: vec![0x5A; size - HEADERS],
        })
    }

    /// Sends so many; as long as the queue has room, they are in it afterwards.
    ///
    /// # Panics
    ///
    /// If the kernel does not take one.
    pub fn fill(&self, frames: u64) {
        for _ in 0..frames {
            let sent = self.socket.send(&self.payload);
            assert_eq!(sent.ok(), Some(self.payload.len()), "a frame is sent");
        }
    }
}
