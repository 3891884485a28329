//! How much the server adds to a socket: a region read's round trip against a bare ping-pong of messages of the same
//! sizes, both with an epoll loop on the server's side and a blocking client. The two alternate in slices within one
//! run, so that both see the same machine. `cargo bench -p vfio-user`.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use vfio_user::client::Client;
use vfio_user::{
    Bar, Device, Epoll, Event, Handler, ListenOptions, Listener, Region, ResetKind, Server,
};

const SLICES: usize = 60;
const TRIPS: u32 = 1000;
/// Header, region access, four bytes in the reply.
const REQUEST: usize = 32;
const REPLY: usize = 36;
/// What the server may add at most, as ratio of the medians' slices.
const LIMIT: f64 = 1.5;

struct Register(u32);

impl Handler for Register {
    fn read(&mut self, _: Region, _: u64, data: &mut [u8]) {
        data.copy_from_slice(&self.0.to_le_bytes());
    }
    fn write(&mut self, _: Region, _: u64, _: &[u8]) {}
    fn reset(&mut self, _: ResetKind) {}
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("device.sock");
    let device = Device::builder().bar(0, Bar::memory32(0x1000));
    let listener = Listener::bind(&path, &ListenOptions::default()).unwrap();
    let server = Server::new(listener, device.build().unwrap());
    let [near, far] = processors();
    let served = std::thread::spawn(move || {
        pin(far);
        serve(server);
    });
    pin(near);
    let mut client = Client::connect(&path).unwrap();
    client.config_write(4, &[2, 0]).unwrap();
    let mut ours = client.stream().try_clone().unwrap();
    let (mut bare, answered) = pong(far);

    let mut region_read = message();
    let mut ping = region_read;
    let (mut ratios, mut trips, mut bare_trips) = (Vec::new(), Vec::new(), Vec::new());
    for slice in 0..=SLICES {
        // Alternating order, so that neither profits from being second.
        let (a, b) = if slice % 2 == 0 {
            let a = timed(&mut ours, &mut region_read);
            (a, timed(&mut bare, &mut ping))
        } else {
            let b = timed(&mut bare, &mut ping);
            (timed(&mut ours, &mut region_read), b)
        };
        if slice > 0 {
            ratios.push(a / b);
            trips.push(a);
            bare_trips.push(b);
        }
    }
    drop((client, ours, bare));
    served.join().unwrap();
    answered.join().unwrap();

    for list in [&mut ratios, &mut trips, &mut bare_trips] {
        list.sort_by(f64::total_cmp);
    }
    println!("{SLICES} slices of {TRIPS} round trips each, alternating");
    report("region read, us", &trips);
    report("bare socket, us", &bare_trips);
    report("ratio", &ratios);
    let verdict = if median(&ratios) <= LIMIT {
        "PASS"
    } else {
        "FAIL"
    };
    println!(
        "{verdict}: median ratio {:.3}, limit {LIMIT}",
        median(&ratios)
    );
    if verdict == "FAIL" {
        std::process::exit(1);
    }
}

/// Two processors that we may run on, the same one twice if there is no other.
fn processors() -> [usize; 2] {
    let allowed = sched_getaffinity(None).unwrap();
    let mut allowed = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
    let first = allowed.next().unwrap();
    [first, allowed.next_back().unwrap_or(first)]
}

/// Keeps this thread on one processor: where two threads run decides how long one takes to wake the other, far more
/// than what either does.
fn pin(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).unwrap();
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

fn report(what: &str, sorted: &[f64]) {
    let (min, max) = (sorted[0], sorted[sorted.len() - 1]);
    println!(
        "{what:16} median {:.3}  min {min:.3}  max {max:.3}",
        median(sorted)
    );
}

/// A REGION_READ of four bytes at 0 of BAR0.
fn message() -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    bytes[2] = 9;
    bytes[4] = REQUEST as u8;
    bytes[28] = 4;
    bytes
}

/// Microseconds per round trip. The same client code for both.
fn timed(stream: &mut UnixStream, request: &mut [u8; REQUEST]) -> f64 {
    let start = Instant::now();
    let mut reply = [0; REPLY];
    for _ in 0..TRIPS {
        request[0] = request[0].wrapping_add(1);
        stream.write_all(request).unwrap();
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply[0], request[0]);
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(TRIPS)
}

/// The whole event loop, until the client leaves.
fn serve(mut server: Server) {
    let mut register = Register(0x1234_5678);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let mut events = Vec::with_capacity(4);
    let mut seen = server.epoch();
    loop {
        let (epoll, token) = (epoll.as_fd(), 0);
        server.update_watches(&mut Epoll { epoll, token }).unwrap();
        epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), None).unwrap();
        for event in events.drain(..) {
            let event = Event::from_epoll(event.data.u64(), event.flags).unwrap();
            if server.on_event(event, &mut register).is_err() {
                return;
            }
        }
        while server.epoch() != seen {
            seen = server.epoch();
            server.pass_epoch(seen, &mut register).unwrap();
        }
    }
}

/// Answers each request with as many bytes as a region read has, after the same wait.
fn pong(processor: usize) -> (UnixStream, JoinHandle<()>) {
    let (near, far) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || {
        pin(processor);
        far.set_nonblocking(true).unwrap();
        let far: OwnedFd = far.into();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        epoll::add(
            &epoll,
            &far,
            epoll::EventData::new_u64(0),
            epoll::EventFlags::IN,
        )
        .unwrap();
        let mut events = Vec::with_capacity(4);
        let mut far = UnixStream::from(far);
        let mut buffer = [0; 8192];
        loop {
            epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None).unwrap();
            events.clear();
            match far.read(&mut buffer).unwrap() {
                0 => return,
                n => assert_eq!(n, REQUEST),
            }
            far.write_all(&buffer[..REPLY]).unwrap();
        }
    });
    near.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    (near, thread)
}
