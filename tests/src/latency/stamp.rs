//! What each frame carries.

/// Bytes of a stamp: what an Ethernet frame of 60 bytes has room for in UDP over IPv4.
pub(super) const STAMP: usize = 18;

/// Whose frame it is, which, and when it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The measurement.
    pub(super) session: u16,
    /// Number within the measurement.
    pub(super) number: u64,
    /// CLOCK_MONOTONIC in ns.
    pub(super) sent: u64,
}

impl Stamp {
    /// In network order, as frames are.
    pub(super) fn bytes(&self) -> [u8; STAMP] {
        let mut bytes = [0; STAMP];
        bytes[..2].copy_from_slice(&self.session.to_be_bytes());
        bytes[2..10].copy_from_slice(&self.number.to_be_bytes());
        bytes[10..].copy_from_slice(&self.sent.to_be_bytes());
        bytes
    }

    /// Of what begins with one; none if it is too short.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (session, rest) = bytes.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (sent, _) = rest.split_first_chunk()?;
        Some(Self {
            session: u16::from_be_bytes(*session),
            number: u64::from_be_bytes(*number),
            sent: u64::from_be_bytes(*sent),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_the_way_and_padding_but_not_a_cut() {
        let stamp = Stamp {
            session: 0xABCD,
            number: 1 << 40,
            sent: u64::MAX - 1,
        };
        let mut padded = stamp.bytes().to_vec();
        padded.extend([0; 28]);
        assert_eq!(Stamp::parse(&padded), Some(stamp));
        assert_eq!(Stamp::parse(&padded[..STAMP - 1]), None);
    }
}
