//! DMA memory for buses that own the guest's RAM.

use std::sync::Arc;

use guest_mem::{Access, GuestMem, Mapping};

/// One range of guest RAM, given out from the bottom up.
#[derive(Clone)]
pub struct Ram {
    mem: GuestMem,
    next: u64,
    end: u64,
}

impl Ram {
    /// RAM in `mapping`, seen by the device from address `base` on.
    ///
    /// # Panics
    ///
    /// If the range wraps around the address space.
    pub fn new(mapping: Mapping, base: u64) -> Self {
        let len = mapping.len();
        let mem = GuestMem::builder()
            .map(base, len, Arc::new(mapping), 0, Access::ReadWrite)
            .build()
            .expect("one writable range that fits its mapping");
        Self {
            mem,
            next: base,
            end: base + len,
        }
    }

    /// The memory as a device sees it.
    pub fn mem(&self) -> &GuestMem {
        &self.mem
    }

    /// Gives out `len` bytes at a multiple of `align`.
    ///
    /// # Panics
    ///
    /// If there are none left: tests and benchmarks know what they need.
    pub fn alloc(&mut self, len: usize, align: u64) -> u64 {
        let addr = self.next.next_multiple_of(align);
        self.next = addr + len as u64;
        assert!(self.next <= self.end, "the guest is out of DMA memory");
        addr
    }

    /// Copies out of RAM; an aligned descriptor or word is read whole.
    ///
    /// # Panics
    ///
    /// If the range is no RAM.
    pub fn read(&self, addr: u64, to: &mut [u8]) {
        if addr.is_multiple_of(8)
            && let Ok(descriptor) = <&mut [u8; 16]>::try_from(&mut *to)
        {
            // The second word holds the status: read first, so that the rest is not older.
            let [mut low, mut high] = [[0]; 2];
            self.mem
                .read_u64s(addr + 8, &mut high)
                .and_then(|()| self.mem.read_u64s(addr, &mut low))
                .expect("a driver reads its own memory");
            let bytes = u128::from(low[0]) | u128::from(high[0]) << 64;
            *descriptor = bytes.to_le_bytes();
            return;
        }
        self.mem
            .read(addr, to)
            .expect("a driver reads its own memory");
    }

    /// Copies into RAM.
    ///
    /// # Panics
    ///
    /// If the range is no RAM.
    pub fn write(&self, addr: u64, from: &[u8]) {
        self.mem
            .write(addr, from)
            .expect("a driver writes its own memory");
    }
}
