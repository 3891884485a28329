//! The little of rtnetlink that a TAP needs: look at an interface, set it up, follow its carrier.
//!
//! Formats: `linux/netlink.h`, `linux/rtnetlink.h`, `linux/if_link.h`, `linux/if_addr.h`. All integers are in host order.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

use crate::sys::{self, Instruction};

const NLMSG_HDRLEN: usize = 16;
const IFINFOMSG_LEN: usize = 16;
const IFADDRMSG_LEN: usize = 8;
/// Notifications tell less than answers do.
const EVENT_MAX: usize = 8 * 1024;
/// Messages of one interface with many queues and virtual functions are larger than a page.
const MESSAGE_MAX: usize = 32 * 1024;
/// Notifications looked at per call: the descriptor stays readable if there are more.
const EVENTS_PER_CALL: usize = 64;

/// An address with the length of its network's prefix, `10.1.0.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPrefix {
    /// The host's own address on the TAP.
    pub addr: IpAddr,
    /// Length of the prefix in bits: up to 32 or 128.
    pub len: u8,
}

/// What the kernel says about one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    /// `IFF_*`
    pub(crate) flags: u32,
    pub(crate) name: Vec<u8>,
    pub(crate) hwaddr: Vec<u8>,
    pub(crate) master: Option<u32>,
    pub(crate) mtu: Option<u32>,
    pub(crate) txqueuelen: Option<u32>,
}

impl Link {
    /// Set up by the administrator.
    pub(crate) fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP as u32 != 0
    }

    /// Up, and the cable is in.
    ///
    /// `IFF_LOWER_UP` changes with the carrier, where `IFF_RUNNING` follows up to a second later.
    pub(crate) fn has_carrier(&self) -> bool {
        let wanted = (libc::IFF_UP | libc::IFF_LOWER_UP) as u32;
        self.flags & wanted == wanted
    }
}

/// A socket for requests; each waits for its answer, which the kernel has ready when the request returns.
pub(crate) struct Requests {
    socket: OwnedFd,
    sequence: u32,
}

impl Requests {
    /// Opens one in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self {
            socket: open(SocketFlags::CLOEXEC, 0)?,
            sequence: 0,
        })
    }

    /// `RTM_GETLINK` by name. `ENODEV` if there is none.
    pub(crate) fn link_by_name(&mut self, name: &str) -> io::Result<Link> {
        let mut message = Message::link(libc::RTM_GETLINK, 0, 0, 0);
        message.attribute(libc::IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
        self.link(message)
    }

    fn link(&mut self, message: Message) -> io::Result<Link> {
        let mut found = None;
        self.request(message, 0, |kind, body| {
            if kind == libc::RTM_NEWLINK {
                found = parse_link(body);
            }
        })?;
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// Sets the administrative state to up.
    pub(crate) fn set_up(&mut self, index: u32) -> io::Result<()> {
        let up = libc::IFF_UP as u32;
        self.acknowledged(Message::link(libc::RTM_SETLINK, index, up, up))
    }

    /// Sets one 32-bit attribute of an interface: `IFLA_MASTER`, `IFLA_MTU`, `IFLA_TXQLEN`.
    pub(crate) fn set_link_u32(&mut self, index: u32, kind: u16, value: u32) -> io::Result<()> {
        let mut message = Message::link(libc::RTM_SETLINK, index, 0, 0);
        message.attribute(kind, &value.to_ne_bytes());
        self.acknowledged(message)
    }

    /// `RTM_NEWADDR`. `EEXIST` if the interface has that address already.
    pub(crate) fn add_address(&mut self, index: u32, ip: IpPrefix) -> io::Result<()> {
        let mut message = Message::address(libc::RTM_NEWADDR, index, ip);
        match ip.addr {
            IpAddr::V4(addr) => {
                message.attribute(libc::IFA_LOCAL, &addr.octets());
                message.attribute(libc::IFA_ADDRESS, &addr.octets());
            }
            IpAddr::V6(addr) => message.attribute(libc::IFA_ADDRESS, &addr.octets()),
        }
        message.header_flags(libc::NLM_F_CREATE as u16 | libc::NLM_F_EXCL as u16);
        self.acknowledged(message)
    }

    /// Whether the interface has that very address and prefix.
    pub(crate) fn has_address(&mut self, index: u32, ip: IpPrefix) -> io::Result<bool> {
        let message = Message::address(libc::RTM_GETADDR, 0, IpPrefix { len: 0, ..ip });
        let mut found = false;
        self.request(message, libc::NLM_F_DUMP as u16, |kind, body| {
            found |= kind == libc::RTM_NEWADDR && parse_address(body) == Some((index, ip));
        })?;
        Ok(found)
    }

    fn acknowledged(&mut self, message: Message) -> io::Result<()> {
        self.request(message, 0, |_, _| {})
    }

    /// Sends a request, hands each part of the answer to `each`, and returns when the kernel says that this was all.
    fn request(
        &mut self,
        mut message: Message,
        flags: u16,
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.sequence += 1;
        message.header_flags(flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16);
        let request = message.finish(self.sequence);
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.socket, request, SendFlags::empty(), &kernel)?;
        let mut buf = vec![0; MESSAGE_MAX];
        loop {
            let (len, _) = recv(&self.socket, &mut buf[..], RecvFlags::empty())?;
            for part in Messages(&buf[..len]) {
                if part.sequence != self.sequence {
                    continue;
                }
                match i32::from(part.kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => return errno(part.body),
                    _ => each(part.kind, part.body),
                }
            }
        }
    }
}

/// Follows one interface's carrier.
pub(crate) struct Carrier {
    socket: OwnedFd,
    index: u32,
    up: bool,
    /// The socket overflowed: what it said before may be outdated.
    lost_news: bool,
}

impl Carrier {
    /// Subscribes to the changes of interface `index` in the calling thread's network namespace.
    pub(crate) fn follow(index: u32) -> io::Result<Self> {
        let socket = open(
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            libc::RTMGRP_LINK as u32,
        )?;
        sys::attach_filter(socket.as_fd(), &only(index))?;
        let mut carrier = Self {
            socket,
            index,
            up: false,
            lost_news: false,
        };
        // Asked after subscribing, so that no change falls in between.
        carrier.ask()?;
        carrier.poll();
        Ok(carrier)
    }

    /// Readable when there may be news.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes in what has arrived; the carrier now.
    pub(crate) fn poll(&mut self) -> bool {
        let mut buf = [0; EVENT_MAX];
        for _ in 0..EVENTS_PER_CALL {
            match recv(&self.socket, &mut buf[..], RecvFlags::empty()) {
                Ok((len, _)) => {
                    if let Some(up) = judge(self.index, &buf[..len]) {
                        self.up = up;
                    }
                }
                Err(Errno::NOBUFS) => self.lost_news = true,
                Err(Errno::INTR) => {}
                // Only now is there room for an answer, and nothing older behind it.
                Err(Errno::AGAIN) if self.lost_news => {
                    self.lost_news = self.ask().is_err();
                    if self.lost_news {
                        break;
                    }
                }
                Err(_) => break,
            }
        }
        self.up
    }

    fn ask(&self) -> io::Result<()> {
        let mut message = Message::link(libc::RTM_GETLINK, self.index, 0, 0);
        message.header_flags(libc::NLM_F_REQUEST as u16);
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.socket, message.finish(0), SendFlags::empty(), &kernel)?;
        Ok(())
    }
}

/// What the messages in `datagram` say last about the carrier of interface `index`, if anything.
fn judge(index: u32, datagram: &[u8]) -> Option<bool> {
    let mut up = None;
    for message in Messages(datagram) {
        match message.kind {
            libc::RTM_NEWLINK => {
                if let Some(link) = parse_link(message.body).filter(|l| l.index == index) {
                    up = Some(link.has_carrier());
                }
            }
            libc::RTM_DELLINK => {
                // A bridge announces a port that leaves it with the same message, in its own family.
                let unspec = message.body.first() == Some(&(libc::AF_UNSPEC as u8));
                if unspec && parse_link(message.body).is_some_and(|l| l.index == index) {
                    up = Some(false);
                }
            }
            // The answer to `ask` when the interface is gone.
            kind if i32::from(kind) == libc::NLMSG_ERROR && errno(message.body).is_err() => {
                up = Some(false);
            }
            _ => {}
        }
    }
    up
}

/// A filter that lets pass what concerns one interface, and errors: with many TAPs in one namespace each would otherwise
/// be woken for all the others.
fn only(index: u32) -> [Instruction; 6] {
    let op = |code: u32, jt, jf, k| Instruction {
        code: code as u16,
        jt,
        jf,
        k,
    };
    // BPF loads in network order, netlink is in host order.
    let error = u32::from((libc::NLMSG_ERROR as u16).to_be());
    let type_offset = 4;
    let index_offset = (NLMSG_HDRLEN + 4) as u32;
    [
        op(
            libc::BPF_LD | libc::BPF_H | libc::BPF_ABS,
            0,
            0,
            type_offset,
        ),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 2, 0, error),
        op(
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            0,
            0,
            index_offset,
        ),
        op(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            index.to_be(),
        ),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

fn open(flags: SocketFlags, groups: u32) -> io::Result<OwnedFd> {
    // No protocol number is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// A request under construction.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16) -> Self {
        let mut bytes = vec![0; NLMSG_HDRLEN];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        Self(bytes)
    }

    /// With `struct ifinfomsg`.
    fn link(kind: u16, index: u32, flags: u32, change: u32) -> Self {
        let mut message = Self::new(kind);
        message.0.extend_from_slice(&[0; 4]);
        for word in [index, flags, change] {
            message.0.extend_from_slice(&word.to_ne_bytes());
        }
        message
    }

    /// With `struct ifaddrmsg`. An IPv6 address is usable at once, without a search for duplicates: the guest on the
    /// other end may not be there yet to answer.
    fn address(kind: u16, index: u32, ip: IpPrefix) -> Self {
        let (family, flags) = match ip.addr {
            IpAddr::V4(_) => (libc::AF_INET, 0),
            IpAddr::V6(_) => (libc::AF_INET6, libc::IFA_F_NODAD as u8),
        };
        let mut message = Self::new(kind);
        message
            .0
            .extend_from_slice(&[family as u8, ip.len, flags, 0]);
        message.0.extend_from_slice(&index.to_ne_bytes());
        message
    }

    fn header_flags(&mut self, flags: u16) {
        let old = u16::from_ne_bytes([self.0[6], self.0[7]]);
        self.0[6..8].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = 4 + value.len() as u16;
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(align(self.0.len()), 0);
    }

    fn finish(&mut self, sequence: u32) -> &[u8] {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.0
    }
}

/// One message of a datagram.
struct Part<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

/// The messages of a datagram; ends at the first one whose length is wrong.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        let len = u32_at(self.0, 0)? as usize;
        let part = Part {
            kind: u16_at(self.0, 4)?,
            sequence: u32_at(self.0, 8)?,
            body: self.0.get(NLMSG_HDRLEN..len)?,
        };
        self.0 = self.0.get(align(len)..).unwrap_or_default();
        Some(part)
    }
}

/// The attributes behind a fixed header; ends at the first one whose length is wrong.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)?;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(align(len)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// The body of `RTM_NEWLINK`. `None` if it is cut short.
fn parse_link(body: &[u8]) -> Option<Link> {
    let mut link = Link {
        index: u32_at(body, 4)?,
        flags: u32_at(body, 8)?,
        ..Link::default()
    };
    for (kind, value) in Attributes(body.get(IFINFOMSG_LEN..)?) {
        match kind {
            libc::IFLA_IFNAME => link.name = value.strip_suffix(b"\0").unwrap_or(value).to_vec(),
            libc::IFLA_ADDRESS => link.hwaddr = value.to_vec(),
            libc::IFLA_MASTER => link.master = u32_at(value, 0),
            libc::IFLA_MTU => link.mtu = u32_at(value, 0),
            libc::IFLA_TXQLEN => link.txqueuelen = u32_at(value, 0),
            _ => {}
        }
    }
    Some(link)
}

/// The body of `RTM_NEWADDR`: interface and address. `None` if it is cut short.
fn parse_address(body: &[u8]) -> Option<(u32, IpPrefix)> {
    let len = *body.get(1)?;
    let index = u32_at(body, 4)?;
    let mut address = None;
    let mut local = None;
    for (kind, value) in Attributes(body.get(IFADDRMSG_LEN..)?) {
        match kind {
            libc::IFA_ADDRESS => address = ip(value),
            libc::IFA_LOCAL => local = ip(value),
            _ => {}
        }
    }
    let addr = local.or(address)?;
    Some((index, IpPrefix { addr, len }))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// The result in the body of `NLMSG_ERROR` and `NLMSG_DONE`: zero or a negative error number.
fn errno(body: &[u8]) -> io::Result<()> {
    match u32_at(body, 0).map_or(0, |n| n as i32) {
        n @ ..0 => Err(io::Error::from_raw_os_error(n.saturating_neg())),
        _ => Ok(()),
    }
}

fn align(len: usize) -> usize {
    len.saturating_add(3) & !3
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let b = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let b = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*b))
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
