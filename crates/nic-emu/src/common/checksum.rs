//! The Internet checksum (RFC 1071): the 16-bit one's complement sum.

/// A sum in progress over bytes that may come in pieces of any length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Sum of little-endian words, congruent modulo 0xffff; a 64-bit one's complement number.
    acc: u64,
    /// An odd number of bytes has been added: the next one is the second of its word.
    odd: bool,
}

impl Sum {
    /// Nothing added yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes that follow those added before.
    pub fn add(&mut self, bytes: &[u8]) {
        let sum = sum_le(bytes);
        // One's complement sums do not depend on byte order, up to a swap (RFC 1071, 2): an odd start is a swap.
        let sum = if self.odd { sum.rotate_left(8) } else { sum };
        let (acc, carry) = self.acc.overflowing_add(sum);
        self.acc = acc + u64::from(carry);
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// Adds a 16-bit number, as if its two big-endian bytes stood at an even place.
    pub fn add_u16(&mut self, value: u16) {
        let (acc, carry) = self.acc.overflowing_add(u64::from(value.to_be()));
        self.acc = acc + u64::from(carry);
    }

    /// The sum folded to 16 bits, not complemented, in host order.
    pub fn fold(self) -> u16 {
        let mut acc = self.acc;
        acc = (acc & 0xffff_ffff) + (acc >> 32);
        acc = (acc & 0xffff) + ((acc >> 16) & 0xffff) + (acc >> 32);
        acc = (acc & 0xffff) + (acc >> 16);
        acc = (acc & 0xffff) + (acc >> 16);
        u16::from_be(acc as u16)
    }
}

/// The one's complement sum of `bytes`, folded and not complemented. 0xffff means a valid checksum if the
/// field is among the bytes.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum = Sum::new();
    sum.add(bytes);
    sum.fold()
}

/// The sum of two folded sums.
pub fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

/// What `field` (a complemented checksum) becomes when a 16-bit number it covers changes (RFC 1624, equation 3).
pub fn update(field: u16, from: u16, to: u16) -> u16 {
    !add(add(!field, !from), to)
}

/// The value for a checksum field in which 0 means "none" (UDP): 0 is sent as its twin 0xffff.
pub fn never_zero(field: u16) -> u16 {
    if field == 0 { 0xffff } else { field }
}

/// Sum of the little-endian 32-bit words of `bytes`, the last one padded with zeros. Cannot overflow: no slice has
/// 2^34 bytes here, and if it had, the sum would be wrong and nothing else.
fn sum_le(bytes: &[u8]) -> u64 {
    let mut lanes = [0u64; 8];
    let mut blocks = bytes.chunks_exact(32);
    for block in &mut blocks {
        // Eight independent lanes of 32-bit words in 64-bit sums: no carries, and the compiler makes vectors of it.
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane = lane.wrapping_add(u64::from(u32::from_le_bytes(*word)));
        }
    }
    let mut total = lanes.iter().fold(0u64, |sum, lane| sum.wrapping_add(*lane));
    let (words, rest) = blocks.remainder().as_chunks::<4>();
    for word in words {
        total = total.wrapping_add(u64::from(u32::from_le_bytes(*word)));
    }
    let last = rest.iter().rev();
    total.wrapping_add(last.fold(0, |word, &byte| word << 8 | u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// 0 and 0xffff are one number; the naive sum gives 0 only for all zeros, and so must ours.
    #[test]
    fn zero_is_only_the_sum_of_zeros() {
        assert_eq!(sum(&[]), 0);
        assert_eq!(sum(&[0; 100]), 0);
        assert_eq!(sum(&[0xff; 100]), 0xffff);
    }

    #[test]
    fn rfc_1071_example() {
        assert_eq!(
            sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            0xddf2
        );
    }

    proptest! {
        #[test]
        fn any_split_sums_like_the_naive_loop(
            bytes in prop::collection::vec(any::<u8>(), 0..3000),
            cuts in prop::collection::vec(0usize..3000, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut sum = Sum::new();
            let mut from = 0;
            for cut in cuts {
                sum.add(&bytes[from..cut]);
                from = cut;
            }
            sum.add(&bytes[from..]);
            prop_assert_eq!(sum.fold(), naive(&bytes));
        }

        #[test]
        fn update_equals_a_new_sum(mut bytes in prop::collection::vec(any::<u8>(), 20), to: u16) {
            let before = !sum(&bytes);
            let from = u16::from_be_bytes([bytes[4], bytes[5]]);
            bytes[4..6].copy_from_slice(&to.to_be_bytes());
            let after = update(before, from, to);
            // Equal as one's complement numbers.
            prop_assert_eq!(after % 0xffff, !sum(&bytes) % 0xffff);
        }
    }
}
