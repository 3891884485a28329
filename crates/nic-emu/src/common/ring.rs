//! Rings of descriptors in guest memory.

/// Bytes per descriptor.
pub const DESC: u64 = 16;

/// Place and size of a ring, as its registers have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    base: u64,
    len: u32,
}

impl Ring {
    /// A ring of `bytes` bytes at DMA address `base`; none if not even one descriptor fits.
    #[inline]
    pub fn new(base: u64, bytes: u32) -> Option<Self> {
        let len = bytes / DESC as u32;
        (len > 0).then_some(Self { base, len })
    }

    /// Number of descriptors, not 0.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Descriptors from `head` up to and without `tail`: those that the device owns. None are if either does not lie
    /// in the ring.
    #[inline]
    pub fn owned(&self, head: u32, tail: u32) -> u32 {
        if head >= self.len || tail >= self.len {
            return 0;
        }
        if tail >= head {
            tail - head
        } else {
            tail + self.len - head
        }
    }

    /// The index after `index`.
    #[inline]
    pub fn next(&self, index: u32) -> u32 {
        if index + 1 >= self.len { 0 } else { index + 1 }
    }

    /// Number of descriptors from `index` to the end of the ring.
    #[inline]
    pub fn run(&self, index: u32) -> u32 {
        self.len.saturating_sub(index)
    }

    /// DMA address of descriptor `index`. A ring at the top of the address space goes on at its bottom, as the bus
    /// would have it.
    #[inline]
    pub fn addr(&self, index: u32) -> u64 {
        self.base.wrapping_add(u64::from(index) * DESC)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_ring_without_a_descriptor() {
        assert_eq!(Ring::new(0x1000, 0), None);
        assert_eq!(Ring::new(0x1000, 15), None);
        assert_eq!(Ring::new(0x1000, 16).map(|r| r.len()), Some(1));
    }

    proptest! {
        #[test]
        fn owned_is_the_number_of_steps_to_the_tail(bytes in 16u32..0x2000, head: u16, tail: u16) {
            let ring = Ring::new(u64::MAX - 100, bytes).unwrap();
            let (mut at, tail) = (u32::from(head), u32::from(tail));
            let owned = ring.owned(at, tail);
            prop_assert!(owned < ring.len());
            for _ in 0..owned {
                prop_assert_ne!(at, tail);
                let _ = ring.addr(at);
                at = ring.next(at);
            }
            if u32::from(head) < ring.len() && tail < ring.len() {
                prop_assert_eq!(at, tail);
            } else {
                prop_assert_eq!(owned, 0);
            }
        }
    }
}
