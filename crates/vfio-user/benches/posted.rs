//! How many posted writes a second the server executes when they arrive in batches, as they do once a guest writes
//! faster than the device's thread wakes up; and how that compares with receiving the same bytes and doing nothing with
//! them. The two alternate in slices within one run. `cargo bench -p vfio-user --bench posted`.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::{READ, at_least, bare, ours, pin, processors, ratios, region_read, report};

const SLICES: usize = 40;
/// Messages that are sent at once; a doorbell each.
const BATCH: usize = 200;
const BATCHES: usize = 500;
/// Header, region access, four bytes.
const WRITE: usize = READ + 4;
/// Millions of messages a second, in the median slice.
const LIMIT: f64 = 2.0;

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let [near, far] = processors();
    pin(near);
    let (mut ours, served) = ours(&dir.path().join("ours.sock"), far, Duration::ZERO);
    let (mut bare, received) = bare(BATCHES * BATCH * WRITE + READ, WRITE, far);

    let mut before = None;
    let [ours_rate, bare_rate] = common::slices(
        SLICES,
        [
            &mut || {
                let (rate, register) = timed(&mut ours);
                // Every write of the slice has been executed, none twice.
                if let Some(before) = before.replace(register ^ 0x1234_5678) {
                    let executed = (register ^ 0x1234_5678_u32).wrapping_sub(before);
                    assert_eq!(executed as usize, BATCHES * BATCH);
                }
                rate
            },
            &mut || timed(&mut bare).0,
        ],
    );
    drop((ours, bare));
    served.join().unwrap();
    received.join().unwrap();

    println!("{SLICES} slices of {BATCHES} batches of {BATCH} writes each, alternating");
    report("posted writes, million/s", &ours_rate);
    report("the same bytes received, million/s", &bare_rate);
    report("ratio", &ratios(&ours_rate, &bare_rate));
    if !at_least("posted writes, million/s", &ours_rate, LIMIT) {
        std::process::exit(1);
    }
}

/// Million messages a second, from the first byte that is sent until a read behind the last one is answered; and what
/// was read.
fn timed(stream: &mut UnixStream) -> (f64, u32) {
    let mut write = [0; WRITE];
    write[2] = 10;
    write[4] = WRITE as u8;
    write[8] = 1 << 4;
    write[17] = 1;
    write[28] = 4;
    let batch = write.repeat(BATCH);
    let mut reply = [0; WRITE];
    let start = Instant::now();
    for _ in 0..BATCHES {
        stream.write_all(&batch).unwrap();
    }
    stream.write_all(&region_read()).unwrap();
    stream.read_exact(&mut reply).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    let [.., a, b, c, d] = reply;
    let register = u32::from_le_bytes([a, b, c, d]);
    ((BATCHES * BATCH) as f64 / seconds / 1e6, register)
}
