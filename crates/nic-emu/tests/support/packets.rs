//! Packets built from scratch, without any code of the model.

use proptest::prelude::*;

/// An IP flow from which packets are made.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub v6: bool,
    pub udp: bool,
    /// 32-bit words of TCP options.
    pub options: usize,
    pub vlan: Option<u16>,
}

impl Flow {
    pub const TCP4: Self = Self {
        v6: false,
        udp: false,
        options: 0,
        vlan: None,
    };
    pub const TCP6: Self = Self {
        v6: true,
        ..Self::TCP4
    };
    pub const UDP4: Self = Self {
        udp: true,
        ..Self::TCP4
    };
    pub const UDP6: Self = Self {
        v6: true,
        ..Self::UDP4
    };

    pub fn l3(&self) -> usize {
        14 + if self.vlan.is_some() { 4 } else { 0 }
    }

    pub fn l4(&self) -> usize {
        self.l3() + if self.v6 { 40 } else { 20 }
    }

    pub fn headers(&self) -> usize {
        self.l4() + if self.udp { 8 } else { 20 + 4 * self.options }
    }

    /// Offset of the L4 checksum.
    pub fn field(&self) -> usize {
        self.l4() + if self.udp { 6 } else { 16 }
    }

    /// A complete frame with correct checksums.
    pub fn packet(&self, seq: u32, id: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
        let protocol = if self.udp { 17 } else { 6 };
        let l4_len = (self.headers() - self.l4() + payload.len()) as u16;
        let mut f = Vec::new();
        f.extend(super::MAC);
        f.extend([0x52, 0x54, 0, 0xaa, 0xbb, 0xcc]);
        if let Some(tci) = self.vlan {
            f.extend([0x81, 0]);
            f.extend(tci.to_be_bytes());
        }
        let addresses: Vec<u8>;
        if self.v6 {
            addresses = (1..33).collect();
            f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            f.extend(l4_len.to_be_bytes());
            f.extend([protocol, 64]);
        } else {
            addresses = vec![10, 0, 0, 1, 10, 0, 0, 2];
            f.extend([8, 0, 0x45, 0]);
            f.extend((20 + l4_len).to_be_bytes());
            f.extend(id.to_be_bytes());
            f.extend([0x40, 0, 64, protocol, 0, 0]);
        }
        f.extend(&addresses);
        if !self.v6 {
            let at = self.l3() + 10;
            let value = !sum(&f[self.l3()..]);
            f[at..at + 2].copy_from_slice(&value.to_be_bytes());
        }
        f.extend([0x10, 0, 0x20, 0]);
        if self.udp {
            f.extend(l4_len.to_be_bytes());
            f.extend([0, 0]);
        } else {
            f.extend(seq.to_be_bytes());
            f.extend([
                1,
                2,
                3,
                4,
                ((5 + self.options) as u8) << 4,
                flags,
                0xff,
                0xff,
                0,
                0,
                0,
                0,
            ]);
            f.extend(std::iter::repeat_n(1, 4 * self.options));
        }
        f.extend(payload);
        let mut all = addresses;
        all.extend([0, protocol]);
        all.extend(l4_len.to_be_bytes());
        all.extend(&f[self.l4()..]);
        let value = match !sum(&all) {
            0 if self.udp => 0xffff,
            value => value,
        };
        let at = self.field();
        f[at..at + 2].copy_from_slice(&value.to_be_bytes());
        f
    }

    /// The same with the checksums left to do: IP field 0, L4 field the pseudo header's sum, which has `l4_len` in it
    /// (0 for segmentation, where the IP length stays 0 as well).
    pub fn unfinished(&self, seq: u32, id: u16, flags: u8, payload: &[u8], tso: bool) -> Vec<u8> {
        let mut f = self.packet(seq, id, flags, payload);
        let l4_len = (f.len() - self.l4()) as u16;
        let (l3, field) = (self.l3(), self.field());
        let addresses = if self.v6 {
            l3 + 8..l3 + 40
        } else {
            l3 + 12..l3 + 20
        };
        let mut pseudo = f[addresses].to_vec();
        pseudo.extend([0, if self.udp { 17 } else { 6 }]);
        pseudo.extend(if tso { [0, 0] } else { l4_len.to_be_bytes() });
        f[field..field + 2].copy_from_slice(&sum(&pseudo).to_be_bytes());
        if self.v6 {
            if tso {
                f[l3 + 4..l3 + 6].fill(0);
            }
        } else {
            f[l3 + 10..l3 + 12].fill(0);
            if tso {
                f[l3 + 2..l3 + 4].fill(0);
            }
        }
        f
    }

    /// What a NIC makes of a TSO packet.
    pub fn segments(
        &self,
        seq: u32,
        id: u16,
        flags: u8,
        payload: &[u8],
        mss: usize,
    ) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let mut at = 0;
        while at < payload.len() {
            let end = (at + mss).min(payload.len());
            let mut flags = flags;
            if end < payload.len() {
                flags &= !0x09;
            }
            let id = id.wrapping_add(out.len() as u16);
            out.push(self.packet(seq.wrapping_add(at as u32), id, flags, &payload[at..end]));
            at = end;
        }
        out
    }

    /// Equal, except that in the L4 checksum 0 and 0xffff are one number.
    pub fn same(&self, a: &[u8], b: &[u8]) -> bool {
        let f = self.field();
        let field = |x: &[u8]| u16::from_be_bytes([x[f], x[f + 1]]) % 0xffff;
        a.len() == b.len() && a[..f] == b[..f] && a[f + 2..] == b[f + 2..] && field(a) == field(b)
    }
}

pub fn flows() -> impl Strategy<Value = Flow> {
    (any::<bool>(), any::<bool>(), 0usize..11).prop_map(|(v6, udp, options)| Flow {
        v6,
        udp,
        options: if udp { 0 } else { options },
        vlan: None,
    })
}

/// The 16-bit one's complement sum, word by word.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// CRC-32 of IEEE 802.3, bit by bit.
pub fn crc(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
        }
    }
    !crc
}

/// A broadcast frame of `len` bytes that differs everywhere.
pub fn broadcast(len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|i| (i * 7 + i / 256) as u8).collect();
    let addresses = len.min(6);
    frame[..addresses].fill(0xff);
    if len >= 14 {
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    }
    frame
}

/// What lies in the guest's buffers for a frame.
pub fn stored(frame: &[u8], secrc: bool) -> Vec<u8> {
    let mut out = frame.to_vec();
    out.resize(frame.len().max(60), 0);
    if !secrc {
        let fcs = crc(&out);
        out.extend(fcs.to_le_bytes());
    }
    out
}
