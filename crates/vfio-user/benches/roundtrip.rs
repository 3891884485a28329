//! How much the server adds to a socket: a region read's round trip against a bare ping-pong of messages of the same
//! sizes, both with an epoll loop; and against the same read from the crate `vfio_user`'s server. The client is the same
//! blocking code for all. They alternate in slices within one run. `cargo bench -p vfio-user --bench roundtrip`.
//!
//! Nearly all of a round trip is two sleeping processors being woken, one on each side, whoever serves. The crate's server
//! cannot but sleep. Ours never blocks, so its thread may look for the next request a little longer before it sleeps;
//! both ways are measured, and it is the second that has to be faster by a margin.

mod common;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{READ, at_most, bare, negotiated, ours, pin, processors, ratios, region_read, report};
use vfio_user_crate::{DmaMapFlags, DmaUnmapFlags, ServerBackend, ServerRegion};

const SLICES: usize = 60;
const TRIPS: u32 = 1000;
/// Header, region access, four bytes.
const REPLY: usize = READ + 4;
/// How long the polled server stays awake after a request.
const AWAKE: Duration = Duration::from_micros(100);
/// What the server may add at most to a bare socket, and what it must save against the crate's, as medians of the
/// slices' ratios.
const BARE_LIMIT: f64 = 1.3;
const CRATE_LIMIT: f64 = 0.7;

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let [near, far] = processors();
    pin(near);
    let (mut slept, served) = ours(&dir.path().join("slept.sock"), far, Duration::ZERO);
    let (mut polled, also_served) = ours(&dir.path().join("polled.sock"), far, AWAKE);
    let (mut bare, answered) = bare(READ, REPLY, far);
    let (mut theirs, rival) = theirs(&dir.path().join("theirs.sock"), far);

    let [slept_us, polled_us, bare_us, theirs_us] = common::slices(
        SLICES,
        [
            &mut || timed(&mut slept),
            &mut || timed(&mut polled),
            &mut || timed(&mut bare),
            &mut || timed(&mut theirs),
        ],
    );
    drop((slept, polled, bare, theirs));
    for thread in [served, also_served, answered, rival] {
        thread.join().unwrap();
    }

    println!(
        "{SLICES} slices of {TRIPS} round trips each, alternating; us, or ratios of a slice each"
    );
    report("our server, epoll", &slept_us);
    report("our server, polled", &polled_us);
    report("bare socket, epoll", &bare_us);
    report("crate vfio_user's server, blocking", &theirs_us);
    let to_bare = ratios(&slept_us, &bare_us);
    let to_crate = ratios(&polled_us, &theirs_us);
    report("ours to bare, both epoll", &to_bare);
    report("ours to the crate's, epoll", &ratios(&slept_us, &theirs_us));
    report("ours to the crate's, polled", &to_crate);
    let mut passed = at_most("against a bare socket", &to_bare, BARE_LIMIT);
    if near == far {
        println!("one processor only: there is nothing to be gained by staying awake");
    } else {
        passed &= at_most("polled, against the crate's server", &to_crate, CRATE_LIMIT);
    }
    if !passed {
        std::process::exit(1);
    }
}

/// Microseconds per round trip.
fn timed(stream: &mut UnixStream) -> f64 {
    let mut request = region_read();
    let mut reply = [0; REPLY];
    let start = Instant::now();
    for trip in 0..TRIPS {
        request[0] = trip as u8;
        stream.write_all(&request).unwrap();
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply[0], request[0]);
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(TRIPS)
}

struct Rival(u32);

impl ServerBackend for Rival {
    fn region_read(&mut self, _: u32, _: u64, data: &mut [u8]) -> io::Result<()> {
        if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            *data = self.0.to_le_bytes();
        }
        Ok(())
    }
    fn region_write(&mut self, _: u32, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn dma_map(
        &mut self,
        _: DmaMapFlags,
        _: u64,
        _: u64,
        _: u64,
        _: Option<File>,
    ) -> io::Result<()> {
        Ok(())
    }
    fn dma_unmap(&mut self, _: DmaUnmapFlags, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn reset(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn set_irqs(&mut self, _: u32, _: u32, _: u32, _: u32, _: Vec<File>) -> io::Result<()> {
        Ok(())
    }
}

/// The crate's server on processor `on`, and a stream to it.
fn theirs(path: &Path, on: usize) -> (UnixStream, JoinHandle<()>) {
    let region = || ServerRegion {
        region_info: Default::default(),
        sparse_areas: Vec::new(),
        mmap_fd: None,
    };
    let regions = (0..9).map(|_| region()).collect();
    let server = vfio_user_crate::Server::new(path, true, Vec::new(), regions).unwrap();
    let thread = std::thread::spawn(move || {
        pin(on);
        server.run(&mut Rival(0x1234_5678)).unwrap();
    });
    (negotiated(path), thread)
}
