//! The daemon's work on a ring full of frames, from the doorbell to the last descriptor.

use std::time::{Duration, Instant};

use guest_driver::desc::{Desc, RX_DD, RxStatus};
use guest_driver::{Bus, Offload};

use super::{Guest, Host};
use crate::slices::Contender;
use crate::tap::Feeder;

/// A ring full of frames is done by then, or never.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the guest waits for the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Looks again at once, on a processor that nobody else needs.
    Awake,
    /// Sleeps for a moment in between, some 70 us.
    Asleep,
}

impl Wait {
    fn until(self, mut done: impl FnMut() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < PATIENCE, "the daemon finishes its work");
            match self {
                Wait::Awake => std::hint::spin_loop(),
                Wait::Asleep => std::thread::sleep(Duration::from_micros(20)),
            }
        }
    }
}

/// Fills the transmit ring; the doorbell is not rung yet.
fn fill(guest: &mut Guest, packet: &[u8]) -> u64 {
    let mut frames = 0;
    while guest.queue(packet, Offload::None) {
        frames += 1;
    }
    frames
}

/// Takes received frames out without giving their buffers back; returns how many there were.
fn take(guest: &mut Guest) -> u64 {
    let mut frames = 0;
    loop {
        let index = guest.rx.clean;
        let status = RxStatus::from(guest.rx.read(&mut guest.bus, index)).status;
        if index == guest.rx.tail || status & RX_DD == 0 {
            return frames;
        }
        guest.rx.clean = guest.rx.after(index);
        frames += 1;
    }
}

/// Gives all buffers back; the device does not know yet.
fn give_back(guest: &mut Guest) {
    while guest.rx.free() > 0 {
        let low = guest.rx_buffer(guest.rx.tail);
        guest.rx.push(&mut guest.bus, Desc { low, high: 0 });
    }
}

/// Sends.
pub struct Transmit<'h> {
    host: &'h mut Host,
    packet: Vec<u8>,
    frames: u64,
}

impl<'h> Transmit<'h> {
    /// This packet, from the first NIC.
    pub fn new(host: &'h mut Host, packet: &[u8]) -> Self {
        Self {
            host,
            packet: packet.to_owned(),
            frames: 0,
        }
    }
}

impl Contender for Transmit<'_> {
    fn prepare(&mut self) {
        self.frames = fill(&mut self.host.guests[0], &self.packet);
    }

    fn run(&mut self) -> u64 {
        let guest = &mut self.host.guests[0];
        guest.tx.kick(&mut guest.bus);
        Wait::Awake.until(|| guest.reap() == 0);
        self.frames
    }
}

/// Receives from a TAP.
pub struct Receive<'h> {
    host: &'h mut Host,
    feeder: &'h Feeder,
    frames: u64,
}

impl<'h> Receive<'h> {
    /// By the first NIC, whose TAP the feeder feeds.
    pub fn new(host: &'h mut Host, feeder: &'h Feeder) -> Self {
        let frames = empty(&mut host.guests[0], feeder);
        Self {
            host,
            feeder,
            frames,
        }
    }
}

/// Lets a guest that has all its buffers posted receive as many frames, so that the device has none afterwards.
fn empty(guest: &mut Guest, feeder: &Feeder) -> u64 {
    let frames = u64::from(guest.rx.count) - 1;
    feeder.fill(frames);
    let mut taken = 0;
    Wait::Asleep.until(|| {
        taken += take(guest);
        taken == frames
    });
    frames
}

impl Contender for Receive<'_> {
    fn prepare(&mut self) {
        self.feeder.fill(self.frames);
        give_back(&mut self.host.guests[0]);
    }

    fn run(&mut self) -> u64 {
        let guest = &mut self.host.guests[0];
        guest.rx.kick(&mut guest.bus);
        let mut taken = 0;
        Wait::Awake.until(|| {
            taken += take(guest);
            taken == self.frames
        });
        taken
    }
}

/// Sends and receives on a TAP at the same time.
pub struct Both<'h> {
    host: &'h mut Host,
    feeder: &'h Feeder,
    packet: Vec<u8>,
    frames: u64,
}

impl<'h> Both<'h> {
    /// By the first NIC, whose TAP the feeder feeds.
    pub fn new(host: &'h mut Host, feeder: &'h Feeder, packet: &[u8]) -> Self {
        let frames = empty(&mut host.guests[0], feeder);
        Self {
            host,
            feeder,
            packet: packet.to_owned(),
            frames,
        }
    }
}

impl Contender for Both<'_> {
    fn prepare(&mut self) {
        self.feeder.fill(self.frames);
        let guest = &mut self.host.guests[0];
        give_back(guest);
        assert_eq!(fill(guest, &self.packet), self.frames, "the ring was empty");
    }

    fn run(&mut self) -> u64 {
        let guest = &mut self.host.guests[0];
        guest.rx.kick(&mut guest.bus);
        guest.tx.kick(&mut guest.bus);
        let mut taken = 0;
        // The daemon has two threads, and may need both processors.
        Wait::Asleep.until(|| {
            taken += take(guest);
            guest.reap() == 0 && taken == self.frames
        });
        2 * self.frames
    }
}

/// Sends from the first NIC to the second.
pub struct Switched<'h> {
    host: &'h mut Host,
    packet: Vec<u8>,
    frames: u64,
}

impl<'h> Switched<'h> {
    /// This packet.
    pub fn new(host: &'h mut Host, packet: &[u8]) -> Self {
        Self {
            host,
            packet: packet.to_owned(),
            frames: 0,
        }
    }
}

impl Contender for Switched<'_> {
    fn prepare(&mut self) {
        let [from, to] = &mut self.host.guests[..] else {
            panic!("two NICs on a switch");
        };
        give_back(to);
        to.rx.kick(&mut to.bus);
        // The doorbell is a posted write; a read comes after it.
        to.bus.settle();
        self.frames = fill(from, &self.packet);
    }

    fn run(&mut self) -> u64 {
        let [from, to] = &mut self.host.guests[..] else {
            panic!("two NICs on a switch");
        };
        from.tx.kick(&mut from.bus);
        let mut taken = 0;
        Wait::Awake.until(|| {
            taken += take(to);
            taken == self.frames
        });
        Wait::Awake.until(|| from.reap() == 0);
        taken
    }
}
