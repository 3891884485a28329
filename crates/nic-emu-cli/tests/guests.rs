//! Guests that come all at once, and one that takes its memory away.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;

use guest_driver::packet::plain;
use guest_driver::socket::Socket;
use guest_driver::{Config, E1000, Offload};
use nic_emu::e1000::bits::tctl;
use nic_emu::e1000::regs::Reg;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use vfio_user::client::Client;
use vfio_user::wire::dma_map_flags;

const PEER: [u8; 6] = [0x52, 0x54, 0, 0xAA, 0xBB, 0xCC];

/// A daemon process with some NICs that lead nowhere.
struct Daemon {
    dir: TempDir,
    child: Child,
}

impl Daemon {
    fn start(nics: usize) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_nic-emu-cli"));
        command.env_remove("RUST_LOG").arg("serve");
        for nic in 0..nics {
            let path = dir.path().join(nic.to_string());
            command.arg("--nic");
            command.arg(format!("socket-path={},net=null", path.display()));
        }
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let lines = stdout.lines().take(3 * nics).count();
        let daemon = Self { dir, child };
        assert_eq!(lines, 3 * nics, "not ready");
        daemon
    }

    fn socket(&self, nic: usize) -> PathBuf {
        self.dir.path().join(nic.to_string())
    }

    /// Ends it, which has to go well; what it has logged.
    fn terminate(mut self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it runs");
        let mut log = String::new();
        let mut stderr = self.child.stderr.take().expect("piped");
        stderr.read_to_string(&mut log).expect("UTF-8");
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "{status}: {log}");
        log
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends so many frames and waits until all are on their way.
fn send(nic: &mut E1000<Socket>, frames: u32) {
    for number in 0..frames {
        assert!(nic.send(&plain(PEER, nic.mac, 100, number), Offload::None));
        assert!(nic.flush(10_000_000_000), "frame {number} is not sent");
    }
}

#[test]
fn twenty_one_guests_attach_at_once() {
    const GUESTS: usize = 21;
    let daemon = Daemon::start(GUESTS);
    let barrier = Barrier::new(GUESTS);
    std::thread::scope(|scope| {
        for guest in 0..GUESTS {
            let (path, barrier) = (daemon.socket(guest), &barrier);
            scope.spawn(move || {
                barrier.wait();
                // Some of them do not share their memory.
                let bus = match guest % 3 {
                    0 => Socket::connect_remote(path),
                    _ => Socket::connect(path),
                };
                let mut nic =
                    E1000::start(bus.expect("a NIC"), Config::default()).expect("it works");
                send(&mut nic, 50);
            });
        }
    });
    let log = daemon.terminate();
    assert_eq!(
        log.matches("network: tx_frames=50 ").count(),
        GUESTS,
        "{log}"
    );
}

#[test]
fn a_guest_whose_memory_shrinks_harms_no_other() {
    const BASE: u64 = 1 << 32;
    const SIZE: u64 = 1 << 20;
    let daemon = Daemon::start(2);
    let bus = Socket::connect(daemon.socket(1)).expect("a NIC");
    let mut neighbour = E1000::start(bus, Config::default()).expect("it works");
    send(&mut neighbour, 5);

    // A file that nobody can seal.
    let memory = tempfile::tempfile().expect("a file");
    memory.set_len(SIZE).expect("our own");
    let mut client = Client::connect(daemon.socket(0)).expect("it listens");
    let both = dma_map_flags::READ | dma_map_flags::WRITE;
    client
        .dma_map(BASE, SIZE, Some((memory.as_fd(), 0)), both)
        .expect("memory that is there");
    let (command, decode_and_master) = (4, 7_u16);
    client
        .config_write(command, &decode_and_master.to_le_bytes())
        .expect("it answers");
    memory.set_len(0).expect("our own");
    let ring = [
        (Reg::TDBAL, BASE as u32),
        (Reg::TDBAH, (BASE >> 32) as u32),
        (Reg::TDLEN, 4096),
        (Reg::TCTL, tctl::EN),
        (Reg::TDT, 8),
    ];
    for (reg, value) in ring {
        client
            .region_write(0, reg.row().offset.into(), &value.to_le_bytes())
            .expect("it answers");
    }
    let mut status = [0; 4];
    client
        .region_read(0, Reg::STATUS.row().offset.into(), &mut status)
        .expect("it is served on");
    assert_ne!(u32::from_le_bytes(status), u32::MAX);

    send(&mut neighbour, 5);
    drop(neighbour);
    let log = daemon.terminate();
    assert_eq!(log.matches("has shrunk the file").count(), 1, "{log}");
}
