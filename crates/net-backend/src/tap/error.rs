//! What an operator can get wrong about a TAP, in one sentence each.

use std::io;

/// Why a TAP could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The name is empty, too long, or holds characters that the kernel refuses.
    #[error(
        "{0:?} cannot be the name of a TAP: use 1 to 15 characters without spaces, slashes and colons"
    )]
    BadName(String),
    /// The address has more prefix bits than its family has bits.
    #[error("the prefix length of {0}/{1} is too large: use at most 32 for IPv4 and 128 for IPv6")]
    BadPrefix(std::net::IpAddr, u8),
    /// No `/dev/net/tun`, or nobody behind it.
    #[error(
        "cannot open /dev/net/tun for TAP {0}: the kernel has no TUN/TAP driver here; load it with `modprobe tun`, or \
         give the container that device"
    )]
    NoDriver(String),
    /// The device node itself is closed to this user.
    #[error(
        "open /dev/net/tun: no permission, which TAP {0} needs; run as root, or open the device to this user, as usual \
         with `chmod 666 /dev/net/tun`"
    )]
    NoAccess(String),
    /// Neither allowed to create it nor its owner.
    #[error(
        "no permission to create or open TAP {0}; run as root, or create it beforehand with \
         `ip tuntap add dev {0} mode tap user $USER`"
    )]
    NoPermission(String),
    /// Somebody else has attached to it.
    #[error("TAP {0} is in use by another process or NIC; end that one, or choose another name")]
    InUse(String),
    /// An interface of that name is something else.
    #[error(
        "interface {0} exists but is no TAP with one queue; choose another name, or make it with \
         `ip tuntap add dev {0} mode tap`"
    )]
    NotATap(String),
    /// The descriptor is something else.
    #[error(
        "the inherited file descriptor is no TAP; hand over one of /dev/net/tun after TUNSETIFF"
    )]
    NotATapFd,
    /// The descriptor was opened with other flags.
    #[error(
        "the inherited TAP {0} was opened with the wrong flags; open it with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR"
    )]
    WrongFlags(String),
    /// No interface of the bridge's name.
    #[error("bridge {0} does not exist; create it with `ip link add {0} type bridge`")]
    NoBridge(String),
    /// An interface of the bridge's name is something else.
    #[error("interface {0} is no bridge, so TAP {1} cannot be put on it; name a bridge")]
    NotABridge(String, String),
    /// The interface would have to be configured by somebody with more rights.
    #[error("no permission to configure TAP {name}; run as root, or run `{command}` beforehand")]
    MayNot {
        /// The TAP.
        name: String,
        /// What does the missing step.
        command: String,
    },
    /// The interface cannot be configured from here.
    #[error(
        "TAP {0} is in another network namespace, where it cannot be given an address, a bridge or an MTU; do that \
         there, and leave these options out"
    )]
    OtherNamespace(String),
    /// The rest.
    #[error("TAP {name}: {step} failed: {source}")]
    Os {
        /// The TAP.
        name: String,
        /// What was tried.
        step: String,
        /// The kernel's answer.
        source: io::Error,
    },
}
