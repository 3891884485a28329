//! What ends a frame on the wire.

/// The FCS of a frame in wire order: IEEE 802.3 clause 3.2.9, bit by bit.
pub fn fcs(frame: &[u8]) -> [u8; 4] {
    let mut crc = !0u32;
    for byte in frame {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { 0xEDB8_8320 } else { 0 };
        }
    }
    (!crc).to_le_bytes()
}
