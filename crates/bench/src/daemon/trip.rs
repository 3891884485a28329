//! How long a lone frame takes there and back.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use guest_driver::Offload;
use hdrhistogram::Histogram;

use super::{Guest, Host};

/// A frame that has not come by then is lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends a frame from the first NIC to the second, and back as soon as it is there, `trips` times; both guests look for it
/// awake. Each takes two doorbells, two wake-ups of the daemon if it sleeps, and no interrupt. Nanoseconds.
///
/// # Errors
///
/// A frame is lost.
pub fn round_trips(host: &mut Host, frames: [&[u8]; 2], trips: u32) -> Result<Histogram<u64>> {
    let mut histogram = Histogram::new(3)?;
    let [a, b] = &mut host.guests[..] else {
        anyhow::bail!("two NICs on a switch");
    };
    // The first ones make buffers.
    for trip in 0..trips + 10 {
        let start = Instant::now();
        one_way(a, b, frames[0])?;
        one_way(b, a, frames[1])?;
        let took = start.elapsed();
        if trip >= 10 {
            histogram.record(took.as_nanos() as u64)?;
        }
    }
    Ok(histogram)
}

fn one_way(from: &mut Guest, to: &mut Guest, frame: &[u8]) -> Result<()> {
    ensure!(
        from.send(frame, Offload::None),
        "the ring has room for a lone frame"
    );
    let start = Instant::now();
    while to.receive(&mut [0; 64]).is_none() {
        ensure!(start.elapsed() < PATIENCE, "a frame is lost");
        std::hint::spin_loop();
    }
    Ok(())
}
