//! A device inside QEMU, without a guest, its cable a UNIX socket.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use guest_driver::qtest::Qtest;
use guest_driver::{Bus, Wire};
use nic_emu_lab::{Lab, QtestVm, Result};
use serde_json::json;

/// Slot of the device under test on the q35's root bus.
pub(super) const SLOT: u8 = 4;
/// RAM of the lab's machines for qtest.
pub(super) const RAM: u64 = 128 << 20;
/// QEMU's e1000 keeps its receiver closed for this long after each write of RCTL.
const RECEIVER_DELAY: u64 = 1_000_000_000;

/// QEMU's own e1000.
pub struct Qemu {
    bus: Qtest,
    wire: UnixStream,
    /// Bytes of frames that have not been taken yet, each frame behind its length.
    inbox: Vec<u8>,
    vm: QtestVm,
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
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("wire");
        let listener = UnixListener::bind(&path).expect("a socket to listen on");
        let [a, b, c, d, e, f] = super::MAC;
        let vm = QtestVm::start(
            lab,
            &[
                "-netdev",
                &format!(
                    "stream,id=wire,server=off,addr.type=unix,addr.path={}",
                    path.display()
                ),
                "-device",
                &format!(
                    "e1000,id=nic,netdev=wire,romfile=,addr={SLOT:#x},\
                     mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"
                ),
            ],
        )?;
        let (wire, _) = listener.accept().expect("QEMU connects before it answers");
        wire.set_nonblocking(true).expect("a socket");
        let stream = vm.stream().try_clone().expect("a descriptor");
        Ok(Self {
            bus: Qtest::new(stream, SLOT, RAM, RECEIVER_DELAY),
            wire,
            inbox: Vec::new(),
            vm,
        })
    }

    fn read_wire(&mut self) -> io::Result<()> {
        let mut chunk = [0; 1 << 14];
        loop {
            match self.wire.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.inbox.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Bus for Qemu {
    guest_driver::delegate_bus!(self => self.bus);
}

impl Wire for Qemu {
    fn transmit(&mut self, frame: &[u8]) {
        let length = (frame.len() as u32).to_be_bytes();
        let mut rest = &[&length, frame].concat()[..];
        while !rest.is_empty() {
            match self.wire.write(rest) {
                Ok(n) => rest = &rest[n..],
                // QEMU reads in its main loop, which a command makes it run.
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.bus.settle(),
                Err(error) => panic!("QEMU's end of the cable is gone: {error}"),
            }
        }
    }

    fn collect(&mut self) -> Option<Vec<u8>> {
        self.read_wire().expect("QEMU holds its end of the cable");
        let (length, rest) = self.inbox.split_first_chunk()?;
        let length = u32::from_be_bytes(*length) as usize;
        let frame = rest.get(..length)?.to_vec();
        self.inbox.drain(..4 + length);
        Some(frame)
    }

    fn set_carrier(&mut self, up: bool) {
        let arguments = json!({ "name": "nic", "up": up });
        self.vm
            .qmp()
            .execute("set_link", arguments)
            .expect("QEMU sets the link");
    }
}
