//! Addresses and names of the link between a TAP and a guest's NIC.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The N-th link: everything about it follows from its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire(pub u8);

impl Wire {
    /// Name of the TAP.
    #[must_use]
    pub fn tap(self) -> String {
        format!("tap{}", self.0)
    }

    /// Addresses of the near end: the host's side of the TAP, or the first guest where two are joined.
    #[must_use]
    pub fn first(self) -> Ends {
        self.end(1)
    }

    /// Addresses of the guest.
    #[must_use]
    pub fn second(self) -> Ends {
        self.end(2)
    }

    fn end(self, host: u8) -> Ends {
        let v6 = Ipv6Addr::new(0xfd77, 0, 0, self.0.into(), 0, 0, 0, host.into());
        Ends {
            v4: Ipv4Addr::new(10, 77, self.0, host),
            v6,
        }
    }
}

/// The addresses of one end; their prefixes have 24 and 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Ends {
    /// Both.
    #[must_use]
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}
