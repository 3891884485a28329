//! Frames that nobody sends back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use anyhow::Result;
use nic_emu_lab::Netns;

use super::link::{Link, now};
use super::pace::Pace;

/// Frames of 60 bytes into a TAP, from a thread, until this is dropped or told to [stop](Flood::stop).
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<Result<u64>>>,
}

impl Flood {
    /// Begins, with `rate` frames a second to the station `guest`.
    ///
    /// # Errors
    /// There is no such TAP, or this process may not use it.
    pub fn start(netns: &Netns, tap: &str, guest: [u8; 6], rate: u32) -> Result<Self> {
        let link = Link::raw(netns.name(), tap, guest)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sender = spawn(move || {
            let pace = Pace::new(rate, u64::MAX);
            let started = now();
            let elapsed = || Duration::from_nanos(now() - started);
            let mut sent = 0;
            while !stopped.load(Relaxed) {
                let at = elapsed();
                match pace.due(at, sent) {
                    0 => sleep(pace.next(at, sent).saturating_sub(elapsed())),
                    due => {
                        link.send(0, sent, due)?;
                        sent += due as u64;
                    }
                }
            }
            Ok(sent)
        });
        Ok(Self {
            stop,
            sender: Some(sender),
        })
    }

    /// Ends, and returns how many frames were offered.
    ///
    /// # Errors
    /// The sender had to give up before.
    pub fn stop(mut self) -> Result<u64> {
        self.end().unwrap_or(Ok(0))
    }

    fn end(&mut self) -> Option<Result<u64>> {
        self.stop.store(true, Relaxed);
        let ended = self.sender.take()?.join();
        Some(ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            drop(self.end());
        }
    }
}
