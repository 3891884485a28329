//! A device inside QEMU, without a guest, its cable a UNIX socket.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use guest_driver::qtest::Qtest;
use guest_driver::{Bus, Wire};
use nic_emu_lab::{Lab, QtestVm, Result};
use serde_json::json;

/// Slot of the device under test on the q35's root bus.
pub const SLOT: u8 = 4;
/// RAM of the lab's machines for qtest.
pub const RAM: u64 = 128 << 20;
/// QEMU's e1000 keeps its receiver closed for this long after each write of RCTL.
const RECEIVER_DELAY: u64 = 1_000_000_000;

/// QEMU's own e1000.
pub struct Qemu {
    bus: Qtest,
    wire: StreamCable,
    vm: QtestVm,
}

/// The test's end of a cable to one of QEMU's own NICs.
pub struct StreamCable {
    wire: UnixStream,
    /// Bytes of frames that have not been taken yet, each frame behind its length.
    inbox: Vec<u8>,
}

/// Where such a cable will be plugged in.
pub struct StreamSocket {
    folder: tempfile::TempDir,
    listener: UnixListener,
}

impl StreamSocket {
    /// Makes room for one.
    ///
    /// # Panics
    ///
    /// If there is no room for a socket.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let listener = UnixListener::bind(folder.path().join("wire"));
        Self {
            listener: listener.expect("a socket to listen on"),
            folder,
        }
    }

    /// What QEMU's `-netdev` takes, with the id `wire`.
    pub fn netdev(&self) -> String {
        let path = self.folder.path().join("wire");
        let path = path.display();
        format!("stream,id=wire,server=off,addr.type=unix,addr.path={path}")
    }

    /// The cable, once QEMU has started.
    ///
    /// # Panics
    ///
    /// If the system refuses the connection.
    pub fn accept(self) -> StreamCable {
        let (wire, _) = self.listener.accept().expect("QEMU connects as it starts");
        wire.set_nonblocking(true).expect("a socket");
        let inbox = Vec::new();
        StreamCable { wire, inbox }
    }
}

impl Default for StreamSocket {
    fn default() -> Self {
        Self::new()
    }
}

impl StreamCable {
    /// Sends a frame to the NIC; while QEMU does not take it, calls `wait`.
    ///
    /// # Panics
    ///
    /// If QEMU has let go of its end.
    pub fn transmit(&mut self, frame: &[u8], mut wait: impl FnMut()) {
        let length = (frame.len() as u32).to_be_bytes();
        let mut rest = &[&length, frame].concat()[..];
        while !rest.is_empty() {
            match self.wire.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => wait(),
                Err(error) => panic!("QEMU's end of the cable is gone: {error}"),
            }
        }
    }

    /// The next frame that the NIC has sent, if there is one. What it had sent before QEMU ended is still there.
    ///
    /// # Panics
    ///
    /// If the system refuses to read.
    pub fn collect(&mut self) -> Option<Vec<u8>> {
        let mut chunk = [0; 1 << 14];
        loop {
            match self.wire.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => self.inbox.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("QEMU's end of the cable is gone: {error}"),
            }
        }
        let (length, rest) = self.inbox.split_first_chunk()?;
        let length = u32::from_be_bytes(*length) as usize;
        let frame = rest.get(..length)?.to_vec();
        self.inbox.drain(..4 + length);
        Some(frame)
    }
}

impl Qemu {
    /// Starts QEMU with an e1000 that has the usual address.
    ///
    /// # Errors
    ///
    /// Those of [`QtestVm::start`].
    ///
    /// # Panics
    ///
    /// If there is no room for a socket.
    pub fn start(lab: &Lab) -> Result<Self> {
        let socket = StreamSocket::new();
        let vm = QtestVm::start(
            lab,
            &[
                "-netdev",
                &socket.netdev(),
                "-device",
                &format!("{},addr={SLOT:#x}", e1000_on_wire()),
            ],
        )?;
        let stream = vm.stream().try_clone().expect("a descriptor");
        Ok(Self {
            bus: Qtest::new(stream, SLOT, RAM, RECEIVER_DELAY),
            wire: socket.accept(),
            vm,
        })
    }
}

/// What QEMU's `-device` takes for its own e1000, with the id `nic` and the usual address, at a [`StreamSocket`].
pub fn e1000_on_wire() -> String {
    let [a, b, c, d, e, f] = super::MAC;
    format!("e1000,id=nic,netdev=wire,romfile=,mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

impl Bus for Qemu {
    guest_driver::delegate_bus!(self => self.bus);
}

impl Wire for Qemu {
    /// QEMU reads in its main loop, which a command makes it run.
    fn transmit(&mut self, frame: &[u8]) {
        self.wire.transmit(frame, || self.bus.settle());
    }

    fn collect(&mut self) -> Option<Vec<u8>> {
        self.wire.collect()
    }

    fn set_carrier(&mut self, up: bool) {
        let arguments = json!({ "name": "nic", "up": up });
        self.vm
            .qmp()
            .execute("set_link", arguments)
            .expect("QEMU sets the link");
    }
}
