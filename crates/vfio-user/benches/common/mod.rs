//! What the benchmarks share: pinned threads, slices that take turns, and a server to measure.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each benchmark uses a part of it"
)]

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use vfio_user::client::{Client, Dialect};
use vfio_user::{
    Bar, Device, Epoll, Event, Handler, ListenOptions, Listener, Region, ResetKind, Server,
};

/// A REGION_READ: header and region access. Its reply has as many bytes, and the data.
pub const READ: usize = 32;

/// Two processors that we may run on, the same one twice if there is no other.
pub fn processors() -> [usize; 2] {
    let allowed = sched_getaffinity(None).unwrap();
    let mut allowed = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
    let first = allowed.next().unwrap();
    [first, allowed.next_back().unwrap_or(first)]
}

/// Keeps this thread on one processor: where two threads run decides how long one takes to wake the other, far more
/// than what either does.
pub fn pin(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).unwrap();
}

/// Measures each of `contenders` once a slice, each time in another order, so that all see the same machine and none
/// profits from its place. Results by contender, then slice; the first slice is thrown away.
pub fn slices<const N: usize>(
    slices: usize,
    contenders: [&mut dyn FnMut() -> f64; N],
) -> [Vec<f64>; N] {
    let mut results = [const { Vec::new() }; N];
    for slice in 0..=slices {
        for turn in 0..N {
            let which = match slice % 2 {
                0 => (slice / 2 + turn) % N,
                _ => (slice / 2 + N - 1 - turn) % N,
            };
            let result = contenders[which]();
            if slice > 0 {
                results[which].push(result);
            }
        }
    }
    results
}

/// The value below which `percent` of a hundred lie.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) * percent / 100]
}

pub fn report(what: &str, values: &[f64]) {
    let [low, median, high] = [10, 50, 90].map(|percent| percentile(values, percent));
    println!("{what:34} median {median:.3}  p10 {low:.3}  p90 {high:.3}");
}

/// Of two contenders, slice by slice.
pub fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(a, b)| a / b).collect()
}

/// Whether the median is within a limit, in words.
pub fn at_most(what: &str, values: &[f64], limit: f64) -> bool {
    let median = percentile(values, 50);
    let passed = median <= limit;
    let verdict = if passed { "PASS" } else { "FAIL" };
    println!("{verdict}: {what}: median {median:.3}, at most {limit}");
    passed
}

/// The reverse of [`at_most`].
pub fn at_least(what: &str, values: &[f64], limit: f64) -> bool {
    let median = percentile(values, 50);
    let passed = median >= limit;
    let verdict = if passed { "PASS" } else { "FAIL" };
    println!("{verdict}: {what}: median {median:.3}, at least {limit}");
    passed
}

/// One register that can be read, and counts what is written to it.
pub struct Register {
    pub value: u32,
    pub writes: u32,
    pub reads: u32,
}

impl Handler for Register {
    fn read(&mut self, _: Region, _: u64, data: &mut [u8]) {
        data.copy_from_slice(&(self.value ^ self.writes).to_le_bytes());
        self.reads = self.reads.wrapping_add(1);
    }
    fn write(&mut self, _: Region, _: u64, _: &[u8]) {
        self.writes = self.writes.wrapping_add(1);
    }
    fn reset(&mut self, _: ResetKind) {}
}

/// Our server on processor `on`, and a stream to it that has negotiated and may reach BAR0. It looks for more for as long
/// as `awake` after each request before it sleeps.
pub fn ours(path: &Path, on: usize, awake: Duration) -> (UnixStream, JoinHandle<()>) {
    let device = Device::builder().bar(0, Bar::memory32(0x1000));
    let listener = Listener::bind(path, &ListenOptions::default()).unwrap();
    let server = Server::new(listener, device.build().unwrap());
    let thread = std::thread::spawn(move || {
        pin(on);
        serve(server, awake);
    });
    (negotiated(path), thread)
}

/// A stream to the server at `path`, with memory decoding switched on.
pub fn negotiated(path: &Path) -> UnixStream {
    let client = Client::builder().dialect(Dialect::CloudHypervisor);
    let mut client = client.connect(path).unwrap();
    client.config_write(4, &[2, 0]).unwrap();
    client.stream().try_clone().unwrap()
}

/// The whole event loop, until the client leaves.
fn serve(mut server: Server, awake: Duration) {
    let mut register = Register {
        value: 0x1234_5678,
        writes: 0,
        reads: 0,
    };
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
        if !awake.is_zero() && !poll(&mut server, &mut register, awake) {
            return;
        }
        while server.epoch() != seen {
            seen = server.epoch();
            server.pass_epoch(seen, &mut register).unwrap();
        }
    }
}

/// Executes what comes until nothing has for a while, without sleeping. False once the client has left.
fn poll(server: &mut Server, register: &mut Register, awake: Duration) -> bool {
    let mut last = Instant::now();
    while last.elapsed() < awake {
        let before = register.reads;
        if server.on_readable(register).is_err() {
            return false;
        }
        if register.reads != before {
            last = Instant::now();
        }
    }
    true
}

/// A bare socket with the same event loop: replies `reply` bytes whenever `request` have come in.
pub fn bare(request: usize, reply: usize, on: usize) -> (UnixStream, JoinHandle<()>) {
    let (near, far) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || {
        pin(on);
        far.set_nonblocking(true).unwrap();
        let far: OwnedFd = far.into();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let data = epoll::EventData::new_u64(0);
        epoll::add(&epoll, &far, data, epoll::EventFlags::IN).unwrap();
        let mut events = Vec::with_capacity(4);
        let mut far = UnixStream::from(far);
        // As large as the server's.
        let mut buffer = [0; 8192];
        let mut came = 0;
        loop {
            epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None).unwrap();
            events.clear();
            match far.read(&mut buffer).unwrap() {
                0 => return,
                n => came += n,
            }
            if came >= request {
                came -= request;
                far.write_all(&buffer[..reply]).unwrap();
            }
        }
    });
    near.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    (near, thread)
}

/// A REGION_READ of four bytes at 0 of BAR0.
pub fn region_read() -> [u8; READ] {
    let mut bytes = [0; READ];
    bytes[2] = 9;
    bytes[4] = READ as u8;
    bytes[28] = 4;
    bytes
}
