//! What tests do to interfaces, so that they need no `ip`.

use super::*;

impl Requests {
    pub(crate) fn set_down(&mut self, index: u32) -> io::Result<()> {
        self.acknowledged(Message::link(
            libc::RTM_SETLINK,
            index,
            0,
            libc::IFF_UP as u32,
        ))
    }

    /// Pulls the cable out of a TAP, or puts it in.
    pub(crate) fn set_carrier(&mut self, index: u32, up: bool) -> io::Result<()> {
        let mut message = Message::link(libc::RTM_SETLINK, index, 0, 0);
        message.attribute(libc::IFLA_CARRIER, &[u8::from(up)]);
        self.acknowledged(message)
    }

    pub(crate) fn delete_link(&mut self, index: u32) -> io::Result<()> {
        self.acknowledged(Message::link(libc::RTM_DELLINK, index, 0, 0))
    }

    /// Makes a bridge; it is up.
    pub(crate) fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        let up = libc::IFF_UP as u32;
        let mut message = Message::link(libc::RTM_NEWLINK, 0, up, up);
        message.attribute(libc::IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
        // IFLA_INFO_KIND = 1, nested.
        let mut kind = Message(Vec::new());
        kind.attribute(1, b"bridge\0");
        message.attribute(libc::IFLA_LINKINFO, &kind.0);
        message.header_flags((libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16);
        self.acknowledged(message)
    }
}
