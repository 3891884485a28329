//! The frames that jobs send and expect.

/// IEEE 802's first ethertype for local experiments.
pub const ETHERTYPE: [u8; 2] = [0x88, 0xB5];
/// Where the number of a frame stands, 4 bytes, little-endian.
pub const NUMBER: usize = 14;
/// An ethertype of frames that only say whether any come through (IEEE 802's second for local experiments).
pub const KNOCK: [u8; 2] = [0x88, 0xB6];
/// The shortest frame without FCS.
pub const MIN: usize = 60;
/// The longest frame without FCS.
pub const MAX: usize = 1514;

/// Fills `frame` for a broadcast of number 0 from `source`: the bytes behind the number count up from 18.
pub fn fill(frame: &mut [u8], source: [u8; 6]) {
    for (index, byte) in frame.iter_mut().enumerate() {
        *byte = index as u8;
    }
    frame[..6].fill(0xFF);
    frame[6..12].copy_from_slice(&source);
    frame[12..14].copy_from_slice(&ETHERTYPE);
    frame[NUMBER..NUMBER + 4].fill(0);
}
