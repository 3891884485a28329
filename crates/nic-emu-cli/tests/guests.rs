//! Guests that come all at once, one that takes its memory away, and one that does not take what it is sent.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;

use guest_driver::bus::until;
use guest_driver::packet::plain;
use guest_driver::socket::Socket;
use guest_driver::{Bus, Config, E1000, Offload};
use nic_emu::e1000::bits::{ctrl, fcrtl, tctl};
use nic_emu::e1000::regs::Reg;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use vfio_user::client::Client;
use vfio_user::wire::dma_map_flags;

const PEER: [u8; 6] = [0x52, 0x54, 0, 0xAA, 0xBB, 0xCC];

/// A daemon process with some NICs.
struct Daemon {
    dir: TempDir,
    child: Child,
}

impl Daemon {
    /// NICs that lead nowhere.
    fn start(nics: usize) -> Self {
        Self::with(&vec!["net=null"; nics])
    }

    /// NICs with these keys.
    fn with(nics: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_nic-emu-cli"));
        command.env_remove("RUST_LOG").arg("serve");
        for (nic, keys) in nics.iter().enumerate() {
            let path = dir.path().join(nic.to_string());
            command.arg("--nic");
            command.arg(format!("socket-path={},{keys}", path.display()));
        }
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let lines = stdout.lines().take(3 * nics.len()).count();
        let daemon = Self { dir, child };
        assert_eq!(lines, 3 * nics.len(), "not ready");
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

/// Two guests on one cable; the second one has 7 buffers, and loses what does not fit them and its FIFO.
fn sender_and_slow_receiver() -> (Daemon, E1000<Socket>, E1000<Socket>) {
    let daemon = Daemon::with(&["net=switch,switch=a", "net=switch,switch=a,rx-overrun=drop"]);
    let start = |nic, rx_count| {
        let bus = Socket::connect(daemon.socket(nic)).expect("a NIC");
        let config = Config {
            tx_count: 256,
            rx_count,
            ..Config::default()
        };
        E1000::start(bus, config).expect("it works")
    };
    let (sender, receiver) = (start(0, 64), start(1, 8));
    (daemon, sender, receiver)
}

const FRAME: usize = 1000;

/// Takes all frames with these numbers out, in order.
fn take(nic: &mut E1000<Socket>, from: [u8; 6], numbers: std::ops::Range<u32>) {
    let mut bytes = vec![0; 2048];
    for number in numbers {
        let deadline = nic.bus.now() + 60_000_000_000;
        while nic.receive(&mut bytes).is_none() {
            assert!(nic.bus.now() < deadline, "frame {number} is missing");
        }
        // The driver gives buffers back by eight.
        nic.rx.kick(&mut nic.bus);
        let want = plain(nic.mac, from, FRAME, number);
        assert!(bytes[..FRAME] == want[..], "frame {number} is another");
    }
}

fn register(nic: &mut E1000<Socket>, reg: Reg) -> u32 {
    nic.bus.read32(reg.offset())
}

#[test]
fn what_finds_no_room_is_lost_and_counted() {
    const SENT: u32 = 100;
    // 48 KiB, less than one frame.
    const WAIT: u32 = (48 << 10) / (FRAME as u32 + 4);
    const KEPT: u32 = 7 + WAIT;
    let (daemon, mut sender, mut receiver) = sender_and_slow_receiver();
    for number in 0..SENT {
        let frame = plain(receiver.mac, sender.mac, FRAME, number);
        assert!(sender.send(&frame, Offload::None));
        assert!(sender.flush(60_000_000_000), "frame {number} is not sent");
    }
    let mut arrived = 0;
    let all = until(&mut receiver.bus, 60_000_000_000, |bus| {
        arrived += bus.read32(Reg::TPR.offset());
        arrived == SENT
    });
    assert!(all, "only {arrived} arrived");
    assert_eq!(register(&mut receiver, Reg::MPC), SENT - KEPT);
    assert_eq!(register(&mut receiver, Reg::RNBC), SENT - 7);
    assert_eq!(register(&mut receiver, Reg::GPRC), KEPT);
    take(&mut receiver, sender.mac, 0..KEPT);
    assert!(receiver.receive(&mut [0; 2048]).is_none());
    drop((sender, receiver));
    let log = daemon.terminate();
    assert!(log.contains("rx_no_descriptor=45"), "{log}");
}

#[test]
fn with_flow_control_the_sender_waits_and_nothing_is_lost() {
    const SENT: u32 = 200;
    let (_daemon, mut sender, mut receiver) = sender_and_slow_receiver();
    for (nic, bits) in [(&mut sender, ctrl::RFCE), (&mut receiver, ctrl::TFCE)] {
        let set = [
            (Reg::FCAL, 0x00c2_8001),
            (Reg::FCAH, 0x0100),
            (Reg::FCT, 0x8808),
            (Reg::FCTTV, 0xffff),
            (Reg::FCRTL, 4 << 10 | fcrtl::XONE),
            (Reg::FCRTH, 8 << 10),
        ];
        for (reg, value) in set {
            nic.bus.write32(reg.offset(), value);
        }
        let before = register(nic, Reg::CTRL);
        nic.bus.write32(Reg::CTRL.offset(), before | bits);
    }
    for number in 0..SENT {
        let frame = plain(receiver.mac, sender.mac, FRAME, number);
        assert!(sender.send(&frame, Offload::None));
    }
    let heard = until(&mut sender.bus, 60_000_000_000, |bus| {
        bus.read32(Reg::XOFFRXC.offset()) > 0
    });
    assert!(heard, "no XOFF came");
    take(&mut receiver, sender.mac, 0..SENT);
    assert!(sender.flush(60_000_000_000));
    assert_eq!(register(&mut receiver, Reg::MPC), 0);
    assert_eq!(register(&mut receiver, Reg::GPRC), SENT);
    assert!(register(&mut receiver, Reg::XOFFTXC) > 0);
    assert!(register(&mut receiver, Reg::XONTXC) > 0);
    assert_eq!(register(&mut sender, Reg::GPRC), 0, "pause frames are none");
}
