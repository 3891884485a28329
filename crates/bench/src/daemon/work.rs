//! A guest at work, with doorbells and interrupts as a real driver has them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use guest_driver::regs::ITR;
use guest_driver::{Bus, Offload};

use super::Host;
use super::guest::on_interrupt;
use crate::tap::Feeder;

/// What Linux's driver sets for bulk traffic: 20,000 interrupts a second at most, in units of 256 ns.
const THROTTLE: u32 = 195;

/// What so many frames have cost.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Frames.
    pub frames: u64,
    /// Time.
    pub took: Duration,
    /// Processor time of the daemon.
    pub processor: Duration,
    /// Messages to the daemon.
    pub messages: u64,
    /// Interrupts of the daemon.
    pub interrupts: u64,
}

/// Measures what `work` costs.
fn measure(host: &mut Host, work: impl FnOnce(&mut Host) -> Result<u64>) -> Result<Work> {
    let guest = &mut host.guests[0];
    guest.bus.write32(ITR, THROTTLE);
    guest.enable_interrupts(!0);
    let (messages, interrupts) = (guest.bus.messages, guest.bus.interrupts);
    let (start, time) = (Instant::now(), host.time());
    let frames = work(host)?;
    let took = start.elapsed();
    let processor = host.time().saturating_sub(time);
    let guest = &mut host.guests[0];
    let work = Work {
        frames,
        took,
        processor,
        messages: guest.bus.messages - messages,
        interrupts: guest.bus.interrupts - interrupts,
    };
    guest.disable_interrupts();
    Ok(work)
}

/// Sends `frames` copies of a packet, each with a doorbell of its own; sleeps until an interrupt when the ring is full.
///
/// # Errors
///
/// The daemon does not do its part.
pub fn send(host: &mut Host, packet: &[u8], frames: u64) -> Result<Work> {
    measure(host, |host| {
        let guest = &mut host.guests[0];
        for _ in 0..frames {
            while !guest.send(packet, Offload::None) {
                on_interrupt(guest, |guest| guest.reap())?;
            }
        }
        while guest.reap() > 0 {
            on_interrupt(guest, |guest| guest.reap())?;
        }
        Ok(frames)
    })
}

/// Receives at least `frames` frames that a host sends into the TAP as fast as it can.
///
/// # Errors
///
/// The daemon does not do its part.
pub fn receive(host: &mut Host, feeder: &Feeder, frames: u64) -> Result<Work> {
    measure(host, |host| {
        let guest = &mut host.guests[0];
        let enough = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    feeder.fill(32);
                }
            });
            let mut received = 0;
            let mut done = Ok(());
            while received < frames && done.is_ok() {
                done = on_interrupt(guest, |guest| {
                    while guest.receive(&mut [0; 64]).is_some() {
                        received += 1;
                    }
                });
            }
            enough.store(true, Ordering::Relaxed);
            done.map(|()| received)
        })
    })
}
