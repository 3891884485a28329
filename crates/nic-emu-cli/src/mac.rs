//! Ethernet addresses on the command line.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// An Ethernet address of one station.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The address of a NIC for which none was given: locally administered, the same for the same `identity`
    /// (the path of the NIC's socket) at every start, and as good as never the same for two of them.
    pub fn for_identity(identity: &str) -> Self {
        let hash = Sha256::digest(identity.as_bytes());
        let mut mac = [0; 6];
        mac.copy_from_slice(&hash[..6]);
        // IEEE 802: bit 0 of the first byte is group, bit 1 is local.
        mac[0] = (mac[0] & !0b01) | 0b10;
        Self(mac)
    }
}

/// The text is not the address of one station.
#[derive(Debug, PartialEq, Eq)]
pub struct BadMac;

impl FromStr for MacAddr {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let mut mac = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut mac {
            let two_digits =
                |part: &&str| part.len() == 2 && part.bytes().all(|c| c.is_ascii_hexdigit());
            let part = parts.next().filter(two_digits).ok_or(BadMac)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| BadMac)?;
        }
        let group = mac[0] & 1 != 0;
        if parts.next().is_some() || group || mac == [0; 6] {
            Err(BadMac)
        } else {
            Ok(Self(mac))
        }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_local_stable_and_unique() {
        let all: std::collections::HashSet<_> = (0..10_000)
            .map(|n| MacAddr::for_identity(&format!("/run/nic{n}.sock")))
            .collect();
        assert_eq!(all.len(), 10_000);
        assert!(all.iter().all(|mac| mac.0[0] & 3 == 2));
        assert_eq!(
            MacAddr::for_identity("/run/nic0.sock").to_string(),
            "1a:1b:61:ef:fc:78"
        );
    }

    #[test]
    fn text_is_six_bytes_of_one_station() {
        assert_eq!(
            "52:54:00:12:34:56".parse(),
            Ok(MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]))
        );
        assert_eq!(
            "52-54-00-AB-cd-ef".parse(),
            Ok(MacAddr([0x52, 0x54, 0, 0xab, 0xcd, 0xef]))
        );
        for bad in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
            "5:54:00:12:34:56",
            "+2:54:00:12:34:56",
            "52:54:00:12:34:5g",
        ] {
            assert_eq!(bad.parse::<MacAddr>(), Err(BadMac), "{bad}");
        }
    }
}
