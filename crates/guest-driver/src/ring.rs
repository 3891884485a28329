//! A descriptor ring in DMA memory.

use crate::bus::Bus;
use crate::desc::Desc;

/// Where a ring's registers are: all five lie at the same distances in the receive and the transmit unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// RDBAL and what follows.
    Rx,
    /// TDBAL and what follows.
    Tx,
}

impl Side {
    fn register(self, distance: u32) -> u32 {
        distance
            + match self {
                Side::Rx => crate::regs::RDBAL,
                Side::Tx => crate::regs::TDBAL,
            }
    }
}

/// A ring of `count` descriptors; the driver fills at `tail` and reaps at `clean`.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    side: Side,
    /// DMA address of descriptor 0.
    pub base: u64,
    /// Number of descriptors, a multiple of 8.
    pub count: u32,
    /// Next descriptor to fill; what the tail register holds after [`Ring::kick`].
    pub tail: u32,
    /// Next descriptor to reap.
    pub clean: u32,
}

impl Ring {
    /// Allocates a ring and tells the device: length, address, then head and tail 0, in the order Linux uses.
    pub fn new<B: Bus + ?Sized>(bus: &mut B, side: Side, count: u32) -> Self {
        let base = bus.alloc(count as usize * Desc::SIZE, 4096);
        let ring = Self {
            side,
            base,
            count,
            tail: 0,
            clean: 0,
        };
        bus.write32(side.register(0x08), count * Desc::SIZE as u32);
        bus.write32(side.register(0x04), (base >> 32) as u32);
        bus.write32(side.register(0x00), base as u32);
        bus.write32(side.register(0x18), 0);
        bus.write32(side.register(0x10), 0);
        ring
    }

    /// Descriptor after `index`.
    pub fn after(&self, index: u32) -> u32 {
        // A division would cost a tight loop more than all the rest.
        let next = index + 1;
        if next == self.count { 0 } else { next }
    }

    /// Descriptors that may be filled; one is always kept back, since equal head and tail mean an empty ring.
    pub fn free(&self) -> u32 {
        (self.clean + self.count - self.tail - 1) % self.count
    }

    /// Stores a descriptor at the tail, unseen by the device before [`Ring::kick`]; returns its index.
    pub fn push<B: Bus + ?Sized>(&mut self, bus: &mut B, desc: Desc) -> u32 {
        let index = self.tail;
        bus.dma_write(self.addr(index), &desc.to_bytes());
        self.tail = self.after(index);
        index
    }

    /// Writes the tail register.
    pub fn kick<B: Bus + ?Sized>(&self, bus: &mut B) {
        bus.write32(self.side.register(0x18), self.tail);
    }

    /// Reads the head register.
    pub fn head<B: Bus + ?Sized>(&self, bus: &mut B) -> u32 {
        bus.read32(self.side.register(0x10))
    }

    /// Descriptor `index` as it stands in memory.
    pub fn read<B: Bus + ?Sized>(&self, bus: &mut B, index: u32) -> Desc {
        let mut bytes = [0; Desc::SIZE];
        bus.dma_read(self.addr(index), &mut bytes);
        Desc::from_bytes(bytes)
    }

    /// DMA address of descriptor `index`.
    pub fn addr(&self, index: u32) -> u64 {
        self.base + u64::from(index) * Desc::SIZE as u64
    }
}
