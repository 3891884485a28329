//! Intel 82540EM ("e1000", 8086:100e).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub mod bits;
pub mod counters;
pub mod desc;
pub mod irq;
pub mod mmio;
pub mod regs;
pub mod rx;
pub mod tx;

pub use counters::{Counters, CountersSnapshot};
use irq::Irq;
use regs::Regs;

/// What control and queues of one NIC share: atomics, nothing else.
#[derive(Debug)]
pub struct Shared {
    /// The registers.
    pub regs: Arc<Regs>,
    /// Interrupt causes, mask, throttle and line.
    pub irq: Irq,
    /// PCI COMMAND.MASTER: without it, no DMA.
    pub bus_master: AtomicBool,
    /// STATUS.LU: the guest has link.
    pub link: AtomicBool,
    /// BMCR.14: the PHY returns what is sent, with or without link.
    pub phy_loopback: AtomicBool,
    /// Moves with each reset: a queue that sees a new value drops what it holds.
    generation: AtomicU64,
    /// For whoever watches.
    pub counters: Counters,
}

impl Shared {
    pub(crate) fn new() -> Shared {
        let regs = Arc::new(Regs::default());
        Shared {
            irq: Irq::new(regs.clone()),
            regs,
            bus_master: AtomicBool::new(false),
            link: AtomicBool::new(false),
            phy_loopback: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            counters: Counters::default(),
        }
    }

    /// The number of resets so far.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}
