//! Sender and receiver.

use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::ledger::Ledger;
use super::link::{Link, now};
use super::pace::Pace;
use super::sys::Batch;
use super::{Load, Trips};

/// How long a guest may take to send the very first frame back.
const WARM_UP: Duration = Duration::from_secs(20);
/// How often such a frame is sent.
const KNOCK: Duration = Duration::from_millis(50);
/// How long frames may go on coming back once the last was sent, beside the silence after them.
const LATEST: Duration = Duration::from_secs(10);

pub(super) fn run(link: &Link, load: &Load) -> Result<Trips> {
    warm_up(link)?;
    let (session, total) = (next_session(), load.frames());
    let mut ledger = Ledger::new(session, total)?;
    scope(|scope| {
        let sender = scope.spawn(|| send_all(link, session, load.rate, total));
        let mut batch = Batch::new();
        let (mut overlooked, mut last) = (0, now());
        let mut silent_since = Instant::now();
        let mut sent_at = None;
        loop {
            link.wait(Duration::from_millis(20))?;
            let (count, lost) = link.receive(&mut batch, |arrival| {
                let before = ledger.received;
                ledger.arrived(arrival.bytes, arrival.at);
                if ledger.received > before {
                    last = last.max(arrival.at);
                }
            })?;
            overlooked = lost.unwrap_or(overlooked);
            if count > 0 {
                silent_since = Instant::now();
            }
            if !sender.is_finished() {
                continue;
            }
            let sent_at = *sent_at.get_or_insert_with(Instant::now);
            let silent = silent_since.max(sent_at).elapsed() > load.silence;
            if ledger.is_complete() || silent || sent_at.elapsed() > LATEST + load.silence {
                break;
            }
        }
        let sender = sender.join();
        let sent = sender.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(Trips {
            sent: total,
            refused: sent.refused,
            received: ledger.received,
            duplicates: ledger.duplicates,
            strangers: ledger.strangers,
            overlooked,
            sending: sent.took,
            receiving: Duration::from_nanos(last.saturating_sub(sent.started)),
            histogram: ledger.histogram,
        })
    })
}

/// A number that the last measurements did not have: their frames may still be under way.
fn next_session() -> u16 {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// Sends single frames until one comes back, and waits for the silence after it.
fn warm_up(link: &Link) -> Result<()> {
    let session = next_session();
    let mut ledger = Ledger::new(session, u64::MAX >> 44)?;
    let mut batch = Batch::new();
    let started = Instant::now();
    let mut sent = 0;
    while ledger.received == 0 {
        if started.elapsed() > WARM_UP {
            bail!("of {sent} frames none came back in {WARM_UP:?}");
        }
        link.send(session, sent, 1)?;
        sent += 1;
        link.wait(KNOCK)?;
        link.receive(&mut batch, |arrival| {
            ledger.arrived(arrival.bytes, arrival.at);
        })?;
    }
    // The other ones.
    while ledger.received < sent && link.wait(KNOCK)? {
        link.receive(&mut batch, |arrival| {
            ledger.arrived(arrival.bytes, arrival.at);
        })?;
    }
    Ok(())
}

/// What the sender has to say.
struct Sent {
    /// CLOCK_MONOTONIC in ns.
    started: u64,
    took: Duration,
    refused: u64,
}

fn send_all(link: &Link, session: u16, rate: u32, total: u64) -> Result<Sent> {
    let pace = Pace::new(rate, total);
    let started = now();
    let elapsed = || Duration::from_nanos(now() - started);
    let (mut sent, mut refused) = (0, 0);
    while sent < total {
        let at = elapsed();
        match pace.due(at, sent) {
            0 => sleep(pace.next(at, sent).saturating_sub(elapsed())),
            due => {
                refused += link.send(session, sent, due)?;
                sent += due as u64;
            }
        }
    }
    Ok(Sent {
        started,
        took: elapsed(),
        refused,
    })
}
