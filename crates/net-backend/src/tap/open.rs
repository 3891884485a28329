//! Opening a TAP and setting its interface up.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Shared, Tap, TapError, TapReceiver, TapSender};
use crate::netlink::{Carrier, IpPrefix, Link, Requests};
use crate::sys;
use crate::vnet;

/// The interface carries Ethernet frames, with a virtio header before each and nothing else.
const FLAGS: i32 = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// What the kernel may leave to us. All kernels since 2.6.27 know these; UDP segmentation came with 6.2.
const OFFLOAD: u32 = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;

/// How to set a TAP up.
#[derive(Clone, Debug)]
pub struct TapOptions {
    /// Name of the interface, up to 15 bytes; the kernel replaces a `%d` by a free number. Created if there is none.
    /// Not looked at with an inherited descriptor.
    pub ifname: String,
    /// An address for the host's side.
    pub ip: Option<IpPrefix>,
    /// A bridge to put it on.
    pub bridge: Option<String>,
    /// Largest packet in bytes, without Ethernet header; 1500 in a new one.
    pub mtu: Option<u32>,
    /// Frames that the host queues for the guest; 1000 in a new one.
    pub txqueuelen: Option<u32>,
    /// The host may leave checksums and the cutting of TCP super-frames to us, which is the default. Otherwise what it
    /// hands over is complete, and of the MTU's size.
    pub offload: bool,
}

impl Default for TapOptions {
    fn default() -> Self {
        Self {
            ifname: String::new(),
            ip: None,
            bridge: None,
            mtu: None,
            txqueuelen: None,
            offload: true,
        }
    }
}

impl Tap {
    /// Attaches to the TAP of that name, or makes one, in the calling thread's network namespace. A TAP made here
    /// vanishes on drop.
    ///
    /// Brings the interface up. Needs no privilege for a TAP made beforehand for this user, as long as the other
    /// options ask for nothing new.
    ///
    /// # Errors
    ///
    /// Each [`TapError`] is for the operator: one sentence that says what to do.
    pub fn create(options: &TapOptions) -> Result<Self, TapError> {
        let name = &options.ifname;
        check_name(name)?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let tun =
            rustix::fs::open("/dev/net/tun", flags, Mode::empty()).map_err(
                |errno| match errno {
                    Errno::NOENT | Errno::NODEV | Errno::NXIO => TapError::NoDriver(name.clone()),
                    Errno::ACCESS | Errno::PERM => TapError::NoAccess(name.clone()),
                    errno => os(name, "open /dev/net/tun")(errno.into()),
                },
            )?;
        let name =
            sys::tun_set_iff(tun.as_fd(), name, FLAGS).map_err(
                |error| match Errno::from_io_error(&error) {
                    Some(Errno::PERM | Errno::ACCESS) => TapError::NoPermission(name.clone()),
                    Some(Errno::BUSY) => TapError::InUse(name.clone()),
                    Some(Errno::INVAL) => TapError::NotATap(name.clone()),
                    _ => os(name, "TUNSETIFF")(error),
                },
            )?;
        Self::attach(tun, name, options)
    }

    /// Takes over an open TAP from whoever started this process. `options.ifname` is not looked at.
    ///
    /// The interface may be in another network namespace. Then its carrier is not seen, and the link is always up.
    ///
    /// # Errors
    ///
    /// As [`Tap::create`].
    pub fn from_fd(tun: OwnedFd, options: &TapOptions) -> Result<Self, TapError> {
        let interface = sys::tun_get_iff(tun.as_fd()).map_err(|_| TapError::NotATapFd)?;
        if interface.flags & (FLAGS | libc::IFF_TUN) != FLAGS {
            return Err(TapError::WrongFlags(interface.name));
        }
        rustix::io::ioctl_fionbio(&tun, true)
            .map_err(|errno| os(&interface.name, "FIONBIO")(errno.into()))?;
        Self::attach(tun, interface.name, options)
    }

    fn attach(tun: OwnedFd, name: String, options: &TapOptions) -> Result<Self, TapError> {
        sys::tun_set_vnet_hdr_size(tun.as_fd(), vnet::LEN).map_err(os(&name, "TUNSETVNETHDRSZ"))?;
        sys::tun_set_vnet_le(tun.as_fd()).map_err(os(&name, "TUNSETVNETLE"))?;
        let offload = if options.offload { OFFLOAD } else { 0 };
        sys::tun_set_offload(tun.as_fd(), offload).map_err(os(&name, "TUNSETOFFLOAD"))?;

        let mac = sys::tun_hwaddr(tun.as_fd()).map_err(os(&name, "SIOCGIFHWADDR"))?;
        let mut requests = Requests::open().map_err(os(&name, "open a netlink socket"))?;
        // In another namespace there may be another interface of that name.
        let link = requests
            .link_by_name(&name)
            .ok()
            .filter(|link| link.hwaddr == mac);
        let carrier = match &link {
            Some(link) => {
                configure(&mut requests, link, &name, options)?;
                let carrier = Carrier::follow(link.index);
                Some(carrier.map_err(os(&name, "subscribe to link changes"))?)
            }
            None if options.configures() => return Err(TapError::OtherNamespace(name)),
            None => {
                tracing::info!(
                    "TAP {name} is in another network namespace: the guest's link will not follow its carrier"
                );
                None
            }
        };
        let room = tun
            .try_clone()
            .map_err(os(&name, "duplicate its descriptor"))?;
        let tap = Arc::new(Shared {
            tun,
            name: name.clone(),
            gone: AtomicBool::new(false),
            counters: Arc::default(),
        });
        Ok(Self {
            name,
            index: link.map(|link| link.index),
            tx: TapSender {
                tap: tap.clone(),
                room,
                joined: Box::new([0; super::JOINED]),
                scratch: Vec::new(),
            },
            rx: TapReceiver { tap, carrier },
        })
    }
}

impl TapOptions {
    /// Whether the interface is to be changed.
    fn configures(&self) -> bool {
        self.ip.is_some()
            || self.bridge.is_some()
            || self.mtu.is_some()
            || self.txqueuelen.is_some()
    }
}

/// Makes the interface what `options` ask for. What is so already needs no privilege.
fn configure(
    requests: &mut Requests,
    link: &Link,
    name: &str,
    options: &TapOptions,
) -> Result<(), TapError> {
    if let Some(mtu) = options.mtu.filter(|&mtu| link.mtu != Some(mtu)) {
        requests
            .set_link_u32(link.index, libc::IFLA_MTU, mtu)
            .map_err(step(name, format!("ip link set {name} mtu {mtu}")))?;
    }
    if let Some(len) = options
        .txqueuelen
        .filter(|&len| link.txqueuelen != Some(len))
    {
        requests
            .set_link_u32(link.index, libc::IFLA_TXQLEN, len)
            .map_err(step(name, format!("ip link set {name} txqueuelen {len}")))?;
    }
    if let Some(bridge) = &options.bridge {
        enslave(requests, link, name, bridge)?;
    }
    if let Some(ip) = options.ip {
        let IpPrefix { addr, len } = ip;
        if len > if addr.is_ipv4() { 32 } else { 128 } {
            return Err(TapError::BadPrefix(addr, len));
        }
        let command = format!("ip address add {addr}/{len} dev {name}");
        let failed = step(name, command);
        if !matches!(requests.has_address(link.index, ip), Ok(true)) {
            requests.add_address(link.index, ip).map_err(failed)?;
        }
    }
    if !link.is_up()
        && let Err(error) = requests.set_up(link.index)
    {
        match Errno::from_io_error(&error) {
            Some(Errno::PERM | Errno::ACCESS) => tracing::warn!(
                "TAP {name} is down and we may not change that: the guest has no link until `ip link set {name} up`"
            ),
            _ => return Err(step(name, format!("ip link set {name} up"))(error)),
        }
    }
    Ok(())
}

/// Puts the interface on a bridge.
fn enslave(requests: &mut Requests, link: &Link, name: &str, bridge: &str) -> Result<(), TapError> {
    let no_bridge = || TapError::NoBridge(bridge.to_owned());
    check_name(bridge).map_err(|_| no_bridge())?;
    let master = requests
        .link_by_name(bridge)
        .map_err(|_| no_bridge())?
        .index;
    if link.master == Some(master) {
        return Ok(());
    }
    requests
        .set_link_u32(link.index, libc::IFLA_MASTER, master)
        .map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::OPNOTSUPP | Errno::INVAL) => {
                TapError::NotABridge(bridge.to_owned(), name.to_owned())
            }
            _ => step(name, format!("ip link set {name} master {bridge}"))(error),
        })
}

/// What the kernel takes as an interface's name, see `dev_valid_name`.
fn check_name(name: &str) -> Result<(), TapError> {
    let bad = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
    if name.is_empty()
        || name.len() >= sys::IFNAMSIZ
        || name == "."
        || name == ".."
        || name.contains(bad)
    {
        return Err(TapError::BadName(name.to_owned()));
    }
    Ok(())
}

/// The error of a step that `command` would do as well.
fn step(name: &str, command: String) -> impl FnOnce(io::Error) -> TapError {
    move |error| match Errno::from_io_error(&error) {
        Some(Errno::PERM | Errno::ACCESS) => TapError::MayNot {
            name: name.to_owned(),
            command,
        },
        _ => os(name, &format!("`{command}`"))(error),
    }
}

fn os(name: &str, step: &str) -> impl FnOnce(io::Error) -> TapError {
    let (name, step) = (name.to_owned(), step.to_owned());
    move |source| TapError::Os { name, step, source }
}
