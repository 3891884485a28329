//! Frames that wait for whoever reads the TAP.

use anyhow::{Result, ensure};
use nic_emu_lab::Netns;

use super::link::Link;
use super::pace::BATCH;
use crate::counters;

/// Room for what the host's own stack sends meanwhile.
const OTHERS: u32 = 1024;

/// Puts `count` frames of 60 bytes to the station `guest` into the queue of a TAP, which is made that long.
///
/// # Errors
/// There is no such TAP, this process may not use it, or the queue did not take all of them.
pub fn fill(netns: &Netns, tap: &str, guest: [u8; 6], count: u32) -> Result<()> {
    netns.ip(&format!("link set {tap} txqueuelen {}", count + OTHERS))?;
    let link = Link::raw(netns.name(), tap, guest)?;
    let before = counters::tap(netns, tap)?;
    let (mut sent, mut refused) = (0, 0);
    while sent < u64::from(count) {
        let next = (u64::from(count) - sent).min(BATCH as u64);
        refused += link.send(0, sent, next as usize)?;
        sent += next;
    }
    let dropped = counters::tap(netns, tap)?.since(&before).tx_dropped;
    ensure!(
        refused == 0 && dropped == 0,
        "of {count} frames the queue of {tap} refused {refused} and dropped {dropped}"
    );
    Ok(())
}
