//! A model with a guest, its queues called directly.

mod bus;
#[cfg(feature = "native")]
mod contenders;
#[cfg(feature = "native")]
mod duplex;

use std::io;
use std::sync::Arc;

use guest_driver::desc::{self, Desc};
use guest_driver::e1000::Config;
use guest_driver::regs::rctl;
use guest_driver::{E1000, Offload};
use guest_mem::GuestMem;
use nic_emu::Time;
use nic_emu::common::frame::{RxFrame, TxBurst};
use nic_emu::e1000::rx::{Delivered, RxQueue};
use nic_emu::e1000::tx::{Fetch, TxQueue};
use nic_emu::e1000::{self, Shared};

pub use bus::ControlBus;
#[cfg(feature = "native")]
pub use contenders::{Receive, Source, Switched, Transmit};
#[cfg(feature = "native")]
pub use duplex::{Duplex, OnOne, OnTwo};

/// Bursts that the daemon sends, and frames that it receives, before it looks at anything else.
pub const TX_BURSTS_PER_TURN: usize = 8;
/// See [`TX_BURSTS_PER_TURN`].
pub const RX_FRAMES_PER_TURN: usize = 128;

/// The station address of the NIC.
pub const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

/// The guest: a driver that reaches the registers, and RAM, but makes no queue work.
pub type Guest = E1000<ControlBus>;

/// A NIC that a guest has opened, both rings as long as asked for.
pub struct Engine {
    /// The guest.
    pub guest: Guest,
    /// Its transmit queue.
    pub tx: Box<TxQueue>,
    /// Its receive queue.
    pub rx: Box<RxQueue>,
    /// Guest RAM as the queues see it.
    pub mem: GuestMem,
    /// What queues and registers share.
    pub shared: Arc<Shared>,
}

impl Engine {
    /// A NIC with rings of `ring` descriptors (a multiple of 8), all receive buffers posted, interrupts unmasked.
    ///
    /// # Errors
    ///
    /// The kernel has no memory left.
    ///
    /// # Panics
    ///
    /// If the driver and the model do not get along.
    pub fn new(ring: u32) -> io::Result<Self> {
        let (control, tx, rx) = e1000::new(&e1000::Config::new(MAC));
        let shared = control.shared().clone();
        let bus = ControlBus::new(control)?;
        let mem = bus.mem().clone();
        let config = Config {
            tx_count: ring,
            rx_count: ring,
            rctl: rctl::BAM | rctl::SECRC,
            ..Config::default()
        };
        let mut guest = E1000::start(bus, config).expect("a model that its driver takes for one");
        guest.enable_interrupts(!0);
        Ok(Self {
            guest,
            tx: Box::new(tx),
            rx: Box::new(rx),
            mem,
            shared,
        })
    }

    /// The guest fills its transmit ring with this packet and rings the doorbell; returns how often it fitted.
    pub fn post(&mut self, packet: &[u8], offload: Offload) -> u64 {
        let guest = &mut self.guest;
        guest.causes();
        let mut posted = 0;
        while guest.queue(packet, offload) {
            posted += 1;
        }
        guest.tx.kick(&mut guest.bus);
        posted
    }

    /// The guest takes all that was received out of its ring and gives the buffers back; returns the number of frames.
    pub fn reap(&mut self) -> u64 {
        let guest = &mut self.guest;
        guest.causes();
        let mut seen = 0;
        while guest.receive(&mut [0; 64]).is_some() {
            seen += 1;
        }
        guest.rx.kick(&mut guest.bus);
        seen
    }
}

/// Sends what the ring holds, with `send` for the backend: fetch, send, complete, and the decision about the interrupt
/// once a turn. Returns how many frames left.
///
/// # Panics
///
/// If guest memory does not work.
#[inline(never)]
pub fn transmit(
    tx: &mut TxQueue,
    mem: &GuestMem,
    shared: &Shared,
    clock: impl Fn() -> Time,
    mut send: impl FnMut(&TxBurst<'_>, Time) -> usize,
) -> u64 {
    let mut sent = 0;
    loop {
        let now = clock();
        let mut more = true;
        for _ in 0..TX_BURSTS_PER_TURN {
            let mut burst = TxBurst::new();
            let fetch = tx.fetch(mem, &mut burst, now);
            let taken = match burst.is_empty() {
                true => 0,
                false => send(&burst, now),
            };
            tx.complete(mem, &mut burst, taken, now).sound();
            sent += taken as u64;
            if fetch != Fetch::More {
                more = false;
                break;
            }
        }
        shared.irq.poll(now);
        if !more {
            return sent;
        }
    }
}

/// A batch of received frames, in turns as the daemon has them; `next` gets the queue and delivers one frame, or says
/// that there is none. Returns how many the guest has got.
///
/// # Panics
///
/// If guest memory does not work.
#[inline(never)]
pub fn receive(
    rx: &mut RxQueue,
    mem: &GuestMem,
    shared: &Shared,
    clock: impl Fn() -> Time,
    mut next: impl FnMut(&mut dyn FnMut(RxFrame<'_>), Time) -> bool,
) -> u64 {
    let mut placed = 0;
    loop {
        let now = clock();
        let mut budget = RX_FRAMES_PER_TURN;
        rx.resume(mem, now);
        let mut deliver = |rx: &mut RxQueue, frame: RxFrame<'_>| {
            placed += u64::from(rx.deliver(mem, frame, now) == Delivered::Placed);
        };
        while budget > 0 && rx.has_room() {
            if !next(&mut |frame| deliver(rx, frame), now) {
                break;
            }
            budget -= 1;
        }
        rx.finish(mem, now).sound();
        shared.irq.poll(now);
        if budget > 0 {
            return placed;
        }
    }
}

/// What a queue says at the end of its work: nothing in the older commits into which this file is put to be counted.
trait Sound {
    fn sound(self);
}

impl Sound for () {
    fn sound(self) {}
}

impl<E: std::fmt::Debug> Sound for Result<(), E> {
    fn sound(self) {
        self.expect("no epoch concerns memory that is mapped");
    }
}

/// A descriptor as a driver posts one, for the floors: address, length, end of packet, report status.
#[must_use]
pub fn transmit_descriptor(addr: u64, len: u16) -> Desc {
    desc::legacy(addr, len, desc::EOP | desc::IFCS | desc::RS)
}
