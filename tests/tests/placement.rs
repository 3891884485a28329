//! The parts of a NIC on one, two and three threads, and guest memory that the queues have to ask for.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use guest_driver::packet::plain;
use guest_driver::regs::{CTRL, GPRC, GPTC, ICR, IMS, RCTL, RDH, RDT, TDH, TDT, TPR, TPT, ctrl};
use guest_driver::socket::{RAM_BASE, RAM_SIZE, Socket};
use guest_driver::{Bus, Config, E1000, Offload, Wire};
use nic_emu_tests::machine::{Cable, Daemon, MAC, Served};
use vfio_user::client::{Client, Dialect};
use vfio_user::wire::dma_map_flags;

type Nic = E1000<Served>;

const PEER: [u8; 6] = [0x52, 0x54, 0, 0xAA, 0xBB, 0xCC];
const PATIENCE: Duration = Duration::from_secs(60);
/// Number of a frame by which to see that frames pass.
const PROBE: u32 = u32::MAX;
/// RCTL.LBM: what is sent is received.
const LBM_MAC: u32 = 1 << 6;
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

/// A NIC as its guest brings it up. As soon as the guest can know that its receiver is on, it is: the first frame that is
/// sent then arrives, however many threads there are.
fn start(bus: Socket, cable: Cable) -> Nic {
    let mut nic = E1000::start(Served::over(bus, cable), Config::default()).expect("it works");
    let first = frame(nic.mac, PEER, PROBE);
    nic.bus.transmit(&first);
    let start = Instant::now();
    let mut buffer = vec![0; 1 << 16];
    loop {
        assert!(start.elapsed() < PATIENCE, "the first frame is lost");
        if let Some(got) = nic.receive(&mut buffer) {
            assert_eq!(&buffer[..got.len], first);
            return nic;
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

fn each_way(ram: Ram, shards: usize) {
    let (daemon, mut cables) = Daemon::on_shards(shards, &[MAC]);
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
    each_way(Ram::Shared, 1);
}

#[test]
fn frames_pass_with_both_queues_on_threads_of_their_own() {
    each_way(Ram::Shared, 2);
}

#[test]
fn frames_pass_with_three_threads_for_one_nic() {
    each_way(Ram::Shared, 3);
}

#[test]
fn frames_pass_with_memory_that_qemu_is_asked_for() {
    each_way(Ram::Asked(Dialect::Qemu, false), 1);
}

#[test]
fn frames_pass_with_memory_that_libvfio_user_is_asked_for() {
    each_way(Ram::Asked(Dialect::LibvfioUser, false), 2);
}

#[test]
fn frames_pass_with_memory_that_is_asked_for_over_a_twin_socket() {
    each_way(Ram::Asked(Dialect::LibvfioUser, true), 3);
}

/// A guest that starts over, again and again, under traffic: it finds the registers as a reset leaves them, whatever other
/// threads were at, and every frame that is sent once it may know that it receives.
fn resets(shards: usize) {
    let (daemon, mut cables) = Daemon::on_shards(shards, &[MAC]);
    let mut bus = Served::over(connect(&daemon, 0, Ram::Shared), cables.remove(0));
    for round in 0..60 {
        let mut nic = start_over(bus, round);
        // In the middle of it.
        for number in 0..200 {
            nic.queue(&frame(PEER, nic.mac, number), Offload::None);
            if number % 4 == 0 {
                nic.bus.cable.transmit(&frame(nic.mac, PEER, number));
            }
        }
        nic.tx.kick(&mut nic.bus);
        nic.bus.write32(CTRL, ctrl::RST);
        for register in [TDH, TDT, RDH, RDT, TPT, TPR, GPTC, GPRC, IMS, ICR] {
            let value = nic.bus.read32(register);
            assert_eq!(value, 0, "register {register:#x} after reset {round}");
        }
        bus = nic.bus;
    }
    drop(bus);
    assert_eq!(daemon.stop().len(), 1, "the NIC was closed by a panic");
}

fn start_over(bus: Served, round: u32) -> Nic {
    let mut nic = E1000::start(bus, Config::default()).expect("it works");
    let first = frame(nic.mac, PEER, PROBE - round);
    nic.bus.transmit(&first);
    let start = Instant::now();
    let mut buffer = vec![0; 1 << 16];
    loop {
        assert!(
            start.elapsed() < PATIENCE,
            "the first frame of {round} is lost"
        );
        match nic.receive(&mut buffer) {
            Some(got) => {
                assert_eq!(&buffer[..got.len], first, "round {round}");
                break;
            }
            None => std::thread::yield_now(),
        }
    }
    while nic.bus.collect().is_some() {}
    nic
}

#[test]
fn a_reset_leaves_nothing_behind_on_one_thread() {
    resets(1);
}

#[test]
fn a_reset_leaves_nothing_behind_on_two_threads() {
    resets(2);
}

#[test]
fn a_reset_leaves_nothing_behind_on_three_threads() {
    resets(3);
}

/// What a NIC sends to itself goes from one thread to the other, all of it, and a NIC that stops has it all.
fn to_itself(shards: usize) {
    let (daemon, mut cables) = Daemon::on_shards(shards, &[MAC]);
    let mut nic = start(connect(&daemon, 0, Ram::Shared), cables.remove(0));
    let control = nic.bus.read32(RCTL);
    nic.bus.write32(RCTL, control | LBM_MAC);
    let mut buffer = vec![0; 1 << 16];
    let (mut sent, mut received) = (0, 0);
    let start = Instant::now();
    while received < 2000 {
        assert!(start.elapsed() < PATIENCE, "{received} of {sent}");
        // No more than there are buffers for: what finds none is lost.
        while sent < 2000
            && sent - received < 20
            && nic.queue(&frame(nic.mac, nic.mac, sent), Offload::None)
        {
            sent += 1;
        }
        nic.tx.kick(&mut nic.bus);
        nic.reap();
        while let Some(got) = nic.receive(&mut buffer) {
            let (got, wanted) = (&buffer[..got.len], frame(nic.mac, nic.mac, received));
            assert!(got == wanted, "{} for {received}", number(got));
            received += 1;
        }
    }
    drop(nic);
    assert_eq!(daemon.stop().len(), 1, "the NIC was closed by a panic");
}

#[test]
fn a_nic_hears_itself_on_one_thread() {
    to_itself(1);
}

#[test]
fn a_nic_hears_itself_on_two_threads() {
    to_itself(2);
}

#[test]
fn a_nic_hears_itself_on_three_threads() {
    to_itself(3);
}

#[test]
fn queues_move_out_for_one_guest_and_home_for_the_next() {
    move_out_and_home(1, 1);
}

#[test]
fn queues_move_out_of_three_threads_and_home() {
    move_out_and_home(3, 2);
}

/// Threads are named after NICs: NIC `index`, of which no other test has one that moves.
fn move_out_and_home(shards: usize, index: usize) {
    let addresses = [PEER, [0x52, 0x54, 0, 0xAA, 0xBB, 0xCD], MAC];
    let (daemon, mut cables) = Daemon::on_shards(shards, &addresses[..=index]);
    let name = format!("nic{index}");
    let mut cable = cables.remove(index);
    for _ in 0..5 {
        for (ram, apart) in [
            (Ram::Asked(Dialect::LibvfioUser, false), 1),
            (Ram::Shared, 0),
        ] {
            let mut nic = start(connect(&daemon, index, ram), cable);
            stream(&mut nic, 50, |_| ());
            let start = Instant::now();
            while threads(&name) != apart {
                assert!(start.elapsed() < PATIENCE, "{ram:?}");
            }
            cable = nic.bus.unplug();
        }
    }
    assert_eq!(
        daemon.stop().len(),
        1 + index,
        "a NIC was closed by a panic"
    );
}
