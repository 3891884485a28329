//! Control and queues of a NIC on one thread or on two, and guest memory that the queues have to ask for.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use guest_driver::packet::plain;
use guest_driver::socket::{RAM_BASE, RAM_SIZE, Socket};
use guest_driver::{Config, E1000, Offload, Wire};
use nic_emu_cli::Placement;
use nic_emu_tests::machine::{Cable, Daemon, MAC, Served};
use vfio_user::client::{Client, Dialect};
use vfio_user::wire::dma_map_flags;

type Nic = E1000<Served>;

const PEER: [u8; 6] = [0x52, 0x54, 0, 0xAA, 0xBB, 0xCC];
const PATIENCE: Duration = Duration::from_secs(60);
/// Number of a frame by which to see that frames pass.
const PROBE: u32 = u32::MAX;
/// Behind RAM.
const ELSEWHERE: u64 = RAM_BASE + RAM_SIZE + (1 << 30);

/// How a guest's memory can be reached.
#[derive(Clone, Copy, Debug)]
enum Ram {
    Shared,
    Asked(Dialect, bool),
}

fn connect(daemon: &Daemon, index: usize, ram: Ram) -> Socket {
    match ram {
        Ram::Shared => Socket::connect(daemon.socket(index)),
        Ram::Asked(dialect, twin) => {
            let stream = UnixStream::connect(daemon.socket(index)).expect("it listens");
            let client = Client::builder().dialect(dialect).twin_socket(twin);
            Socket::attach_remote(client.attach(stream).expect("it answers"))
        }
    }
    .expect("a NIC")
}

fn frame(destination: [u8; 6], source: [u8; 6], number: u32) -> Vec<u8> {
    let mut frame = plain(destination, source, 60 + number as usize % 1400, number);
    frame[20..24].copy_from_slice(&number.to_be_bytes());
    frame
}

fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[20..24].try_into().expect("four bytes"))
}

/// A NIC as its guest brings it up. When this returns, whoever has its queues has heard that it receives.
fn start(bus: Socket, cable: Cable) -> Nic {
    let start = Instant::now();
    let mut nic = E1000::start(Served::over(bus, cable), Config::default()).expect("it works");
    let mut buffer = vec![0; 1 << 16];
    loop {
        assert!(start.elapsed() < PATIENCE, "nothing is received");
        nic.bus.cable.transmit(&frame(nic.mac, PEER, PROBE));
        let sent = Instant::now();
        while sent.elapsed() < Duration::from_millis(20) {
            if nic.receive(&mut buffer).is_some() {
                return nic;
            }
        }
    }
}

/// `frames` each way, all at once; `meanwhile` is called between any two looks at what has arrived. All of them arrive,
/// once, whole and in order.
fn stream(nic: &mut Nic, frames: u32, mut meanwhile: impl FnMut(&mut Nic)) {
    let start = Instant::now();
    let mut buffer = vec![0; 1 << 16];
    let (mut queued, mut sent, mut given, mut received) = (0, 0, 0, 0);
    while sent < frames || received < frames {
        assert!(
            start.elapsed() < PATIENCE,
            "{sent} of {frames} were sent, {received} received"
        );
        while queued < frames && nic.queue(&frame(PEER, nic.mac, queued), Offload::None) {
            queued += 1;
        }
        nic.tx.kick(&mut nic.bus);
        nic.reap();
        while let Some(got) = nic.bus.collect() {
            assert_eq!(
                got,
                frame(PEER, nic.mac, sent),
                "{} for {sent}",
                number(&got)
            );
            sent += 1;
        }
        // The cable takes so many before somebody receives.
        while given < frames && given - received < 64 {
            nic.bus.cable.transmit(&frame(nic.mac, PEER, given));
            given += 1;
        }
        while let Some(got) = nic.receive(&mut buffer) {
            let got = &buffer[..got.len];
            if number(got) == PROBE {
                continue;
            }
            assert_eq!(
                got,
                frame(nic.mac, PEER, received),
                "{} for {received}",
                number(got)
            );
            received += 1;
        }
        meanwhile(nic);
    }
}

/// Threads of this process with this name.
fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("we have threads");
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|comm| comm.trim_end() == name).count()
}

fn each_way(ram: Ram, placement: Placement) {
    let (daemon, mut cables) = Daemon::placed(&[MAC], placement);
    let mut nic = start(connect(&daemon, 0, ram), cables.remove(0));
    stream(&mut nic, 500, |_| ());
    // Another range comes and goes: each time an epoch, which interrupts whatever the queues ask just then.
    let (mut mapped, mut last, mut epochs) = (false, Instant::now(), 0);
    stream(&mut nic, 500, |nic| {
        if last.elapsed() < Duration::from_millis(2) {
            return;
        }
        last = Instant::now();
        epochs += 1;
        let client = nic.bus.bus.client();
        match mapped {
            false => client.dma_map(ELSEWHERE, 0x1000, None, dma_map_flags::READ),
            true => client.dma_unmap(ELSEWHERE, 0x1000),
        }
        .expect("the memory map may change");
        mapped = !mapped;
    });
    assert!(epochs > 0);
    drop(nic);
    let reports = daemon.stop();
    assert_eq!(reports.len(), 1, "the NIC was closed by a panic");
    assert_eq!(reports[0].model.dma_unreachable, 0);
}

#[test]
fn frames_pass_with_everything_on_one_thread() {
    each_way(Ram::Shared, Placement::Together);
}

#[test]
fn frames_pass_with_queues_on_a_thread_of_their_own() {
    each_way(Ram::Shared, Placement::Apart);
}

#[test]
fn frames_pass_with_memory_that_qemu_is_asked_for() {
    each_way(Ram::Asked(Dialect::Qemu, false), Placement::Together);
}

#[test]
fn frames_pass_with_memory_that_libvfio_user_is_asked_for() {
    each_way(Ram::Asked(Dialect::LibvfioUser, false), Placement::Together);
}

#[test]
fn frames_pass_with_memory_that_is_asked_for_over_a_twin_socket() {
    each_way(Ram::Asked(Dialect::LibvfioUser, true), Placement::Together);
}

#[test]
fn queues_move_out_for_one_guest_and_home_for_the_next() {
    let (daemon, mut cables) = Daemon::start(&[PEER, MAC]);
    // The second NIC: threads of other tests are named after the first one of their daemons.
    let mut cable = cables.remove(1);
    for _ in 0..5 {
        for (ram, apart) in [
            (Ram::Asked(Dialect::LibvfioUser, false), 1),
            (Ram::Shared, 0),
        ] {
            let mut nic = start(connect(&daemon, 1, ram), cable);
            stream(&mut nic, 50, |_| ());
            assert_eq!(threads("nic1"), apart, "{ram:?}");
            cable = nic.bus.unplug();
        }
    }
    assert_eq!(daemon.stop().len(), 2, "a NIC was closed by a panic");
}
