//! A guest moves from daemon to daemon and back, all of them on one TAP, with traffic both ways.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use guest_driver::packet;
use guest_driver::socket::Socket;
use guest_driver::{Bus, Config, E1000, Offload};
use net_backend::{Backend, IpPrefix, Tap, TapOptions};
use nic_emu_cli::MacAddr;
use rustix::process::{Pid, Signal, kill_process};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
/// Where the host listens, and where it sends to: elsewhere, for it hears its own broadcasts.
const PORT: u16 = 7000;
const GUEST_PORT: u16 = 7001;
const PATIENCE: Duration = Duration::from_secs(60);
const MOVES: usize = 20;
/// Frames that the guest sends and receives between two moves, at least.
const BETWEEN: u32 = 100;

/// A daemon process with one NIC on an open TAP.
struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    fn start(dir: &Path, name: &str, tap: i32, shards: usize) -> Self {
        let socket = dir.join(name);
        let mac = MacAddr([0x52, 0x54, 0, 1, 2, 3]);
        let nic = format!(
            "socket-path={},net=tap,tap-fd={tap},mac={mac}",
            socket.display()
        );
        let mut child = Command::new(env!("CARGO_BIN_EXE_nic-emu-cli"))
            .args(["serve", "--nic", &nic, "--shards", &shards.to_string()])
            .env("RUST_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        assert_eq!(stdout.lines().take(3).count(), 3, "not ready");
        Self { child, socket }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let status = self.child.wait().expect("it ends");
        assert!(std::thread::panicking() || status.success(), "{status}");
    }
}

/// A UDP packet from the guest to the host with this number. Its checksum is left out, as IPv4 permits.
fn datagram(mac: [u8; 6], number: u32) -> Vec<u8> {
    let mut frame = vec![0xFF; 6];
    frame.extend(mac);
    frame.extend([8, 0, 0x45, 0, 0, 20 + 8 + 4, 0, 1, 0, 0, 64, 17, 0, 0]);
    frame.extend(GUEST.octets());
    frame.extend(HOST.octets());
    let sum = !packet::sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    for word in [GUEST_PORT, PORT, 8 + 4, 0] {
        frame.extend(word.to_be_bytes());
    }
    frame.extend(number.to_be_bytes());
    frame
}

/// The number in a UDP packet to the guest, if it is one.
fn number(frame: &[u8]) -> Option<u32> {
    let udp = frame.get(12..14)? == [8, 0] && *frame.get(23)? == 17;
    let ours = udp && frame.get(36..38)? == GUEST_PORT.to_be_bytes();
    let number = frame.get(42..46)?.try_into().ok()?;
    ours.then_some(u32::from_be_bytes(number))
}

/// What the host sends and has received. Both sides stop at what the other has not yet seen, so that no queue on the way
/// is ever full: what is lost is lost in a daemon.
#[derive(Default)]
struct Progress {
    to_guest: AtomicU32,
    seen_by_guest: AtomicU32,
    seen_by_host: AtomicU32,
    /// The guest receives.
    begun: AtomicBool,
    over: AtomicBool,
}

/// Sends numbered packets to the guest all the time.
fn send_to_guest(socket: &UdpSocket, progress: &Progress) {
    while !progress.over.load(SeqCst) {
        let next = progress.to_guest.load(SeqCst);
        let seen = progress.seen_by_guest.load(SeqCst);
        if seen == 0 {
            // On a busy machine the receiver may not be on yet, and these may be thrown away.
            std::thread::sleep(Duration::from_millis(5));
        }
        if progress.begun.load(SeqCst) && (seen == 0 || next - seen < 200) {
            let all = Ipv4Addr::new(10, 1, 0, 255);
            socket
                .send_to(&next.to_be_bytes(), (all, GUEST_PORT))
                .expect("the host can send");
            progress.to_guest.store(next + 1, SeqCst);
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// Receives what the guest sends: all of it, in order.
fn receive_from_guest(socket: &UdpSocket, progress: &Progress) {
    let mut buffer = [0; 64];
    while !progress.over.load(SeqCst) {
        if let Ok((4, from)) = socket.recv_from(&mut buffer) {
            assert_eq!(from.ip(), GUEST);
            let got = u32::from_be_bytes(buffer[..4].try_into().expect("four bytes"));
            assert_eq!(got, progress.seen_by_host.load(SeqCst), "from the guest");
            progress.seen_by_host.store(got + 1, SeqCst);
        }
    }
}

/// The guest, moving between `daemons`, which have to ask for its memory if it is not `shared`.
fn guest(daemons: &[Daemon], shared: bool, progress: &Progress) {
    let bus = match shared {
        true => Socket::connect(&daemons[0].socket),
        false => Socket::connect_remote(&daemons[0].socket),
    };
    let bus = bus.expect("a NIC");
    let mut nic = E1000::start(bus, Config::default()).expect("it works");
    // What came before the receiver was on is thrown away: let that be over.
    nic.bus.wait(20_000_000);
    progress.begun.store(true, SeqCst);
    let mut buffer = vec![0; 1 << 16];
    let (mut sent, mut expected) = (0, None::<u32>);
    let mut daemons: VecDeque<_> = daemons.iter().collect();
    for round in 0..=MOVES {
        let (start, sent_before) = (Instant::now(), sent);
        let mut received = 0;
        while sent - sent_before < BETWEEN || received < BETWEEN {
            assert!(
                start.elapsed() < PATIENCE,
                "round {round}: sent {sent}, seen {}; received {received}",
                progress.seen_by_host.load(SeqCst)
            );
            while sent - progress.seen_by_host.load(SeqCst) < 50
                && nic.queue(&datagram(nic.mac, sent), Offload::None)
            {
                sent += 1;
            }
            nic.tx.kick(&mut nic.bus);
            nic.reap();
            while let Some(got) = nic.receive(&mut buffer) {
                let Some(number) = number(&buffer[..got.len]) else {
                    continue;
                };
                // The first one is whichever came after the receiver was on.
                assert_eq!(
                    number,
                    *expected.get_or_insert(number),
                    "round {round}: to the guest"
                );
                expected = Some(number + 1);
                progress.seen_by_guest.store(number + 1, SeqCst);
                received += 1;
            }
        }
        // In the middle of it, with frames in both rings and in the TAP.
        let state = nic.bus.save().expect("it can be saved");
        std::thread::sleep(Duration::from_millis(5));
        daemons.rotate_left(1);
        nic.bus
            .restore(&daemons[0].socket, &state)
            .expect("it can be restored");
    }
    let start = Instant::now();
    while progress.seen_by_host.load(SeqCst) != sent {
        assert!(start.elapsed() < PATIENCE, "the last frames are lost");
        nic.bus.wait(1_000_000);
    }
}

/// Between two daemons with so many shards each.
fn moves_under_traffic(shared: bool, shards: [usize; 2]) {
    let moved = std::thread::spawn(move || {
        #[expect(
            deprecated,
            reason = "this thread opens nothing that it shares with others"
        )]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET)
            .expect("tests of TAPs need root");
        let tap = Tap::create(&TapOptions {
            ip: Some(IpPrefix {
                addr: HOST.into(),
                len: 24,
            }),
            ifname: "tap0".into(),
            ..TapOptions::default()
        })
        .expect("a TAP");
        let tap = Backend::from(tap);
        let fd = tap
            .rx
            .fd()
            .expect("an open TAP")
            .try_clone_to_owned()
            .expect("a descriptor");
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty()).expect("a flag");

        let dir = tempfile::tempdir().expect("a folder");
        let start = |name, shards| Daemon::start(dir.path(), name, fd.as_raw_fd(), shards);
        let daemons = [start("a.sock", shards[0]), start("b.sock", shards[1])];
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("a socket");
        socket.set_broadcast(true).expect("an option");
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("an option");
        let progress = Progress::default();
        std::thread::scope(|scope| {
            scope.spawn(|| send_to_guest(&socket, &progress));
            scope.spawn(|| receive_from_guest(&socket, &progress));
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                guest(&daemons, shared, &progress);
            }));
            progress.over.store(true, SeqCst);
            if let Err(panic) = result {
                std::panic::resume_unwind(panic);
            }
        });
    });
    moved.join().expect("it works");
}

#[test]
fn a_guest_that_moves_under_traffic_loses_no_frame() {
    moves_under_traffic(true, [1, 1]);
}

/// The queues stand still on threads of their own, and go on elsewhere.
#[test]
fn a_guest_whose_queues_have_threads_of_their_own_loses_no_frame() {
    moves_under_traffic(true, [2, 3]);
}

#[test]
fn nor_does_one_that_comes_from_a_single_thread() {
    moves_under_traffic(true, [1, 3]);
}

#[test]
fn a_guest_that_does_not_share_its_memory_loses_no_frame_either() {
    moves_under_traffic(false, [1, 2]);
}
