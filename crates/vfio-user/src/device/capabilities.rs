//! Capabilities: where they go in configuration space, and how they are linked.
//!
//! Source: PCI Local Bus Specification 3.0, section 6.7 and appendix H; PCI Power Management Interface Specification
//! 1.2, section 3.2; PCI Express Base Specification 3.0, sections 7.8 and 7.9.

use super::BuildError;
use crate::pci::{CONFIG_SIZE, Template, cap, reg};

/// Where the capabilities of a function begin, of all and of Express functions.
const FIRST: usize = 0x40;
const FIRST_EXTENDED: usize = 0x100;

/// A capability on its way to a place. All three lists have the same length.
#[derive(Clone, Debug, Default)]
pub(super) struct Capability {
    pub(super) at: Option<u16>,
    pub(super) bytes: Vec<u8>,
    /// Bits that a write stores.
    pub(super) writable: Vec<u8>,
    /// Bits that writing 1 clears.
    pub(super) clears: Vec<u8>,
}

impl Capability {
    /// `len` bytes of a capability, all of them zero and read-only but the id.
    fn new(id: u8, len: usize) -> Self {
        let mut bytes = vec![0; len];
        bytes[0] = id;
        Self {
            at: None,
            bytes,
            writable: vec![0; len],
            clears: vec![0; len],
        }
    }

    /// Bytes as given; the mask may be of a wrong length, which placing it notices.
    pub(super) fn raw(at: Option<u16>, bytes: Vec<u8>, writable: Vec<u8>) -> Self {
        let mut clears = vec![0; bytes.len()];
        if bytes.first() == Some(&cap::PM)
            && let Some(clears) = clears.get_mut(5)
        {
            // PME_Status.
            *clears = 0x80;
        }
        Self {
            at,
            bytes,
            writable,
            clears,
        }
    }

    fn set(mut self, at: usize, bytes: &[u8]) -> Self {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn writable(mut self, at: usize, bits: &[u8]) -> Self {
        self.writable[at..at + bits.len()].copy_from_slice(bits);
        self
    }

    /// Version 1.2, D0 and D3hot, no PME; leaving D3hot resets.
    pub(super) fn power_management() -> Self {
        Self::new(cap::PM, 8).set(2, &[3]).writable(4, &[0b11])
    }

    /// 64-bit addresses; per-vector masking if `maskable`.
    pub(super) fn msi(vectors: u32, maskable: bool) -> Self {
        let order = vectors.trailing_zeros() as u8;
        let msi = Self::new(cap::MSI, if maskable { 24 } else { 16 })
            .set(2, &[order << 1 | 1 << 7, u8::from(maskable)])
            // Enable, Multiple Message Enable, address, data.
            .writable(2, &[0x71])
            .writable(4, &[0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])
            .writable(12, &[0xff, 0xff]);
        match maskable {
            true => msi.writable(16, &(u32::MAX >> (32 - vectors)).to_le_bytes()),
            false => msi,
        }
    }

    pub(super) fn msix(vectors: u32, table: (usize, u64), pba: (usize, u64)) -> Self {
        // The BAR's number takes the place of the offset's low bits.
        let place = |(bar, offset): (usize, u64)| (offset as u32 | bar as u32).to_le_bytes();
        Self::new(cap::MSIX, 12)
            .set(2, &(vectors as u16 - 1).to_le_bytes())
            // Function Mask and Enable.
            .writable(3, &[0xc0])
            .set(4, &place(table))
            .set(8, &place(pba))
    }

    /// An endpoint of version 2 with function level reset, on a link of 2.5 GT/s and one lane.
    pub(super) fn express() -> Self {
        let mut express = Self::new(cap::EXPRESS, 60)
            .set(2, &[0x02, 0x00])
            // Role-Based Error Reporting, Function Level Reset Capability.
            .set(4, &(1_u32 << 15 | 1 << 28).to_le_bytes())
            // Relaxed Ordering, No Snoop, reads of up to 512 bytes.
            .set(8, &0x2810_u16.to_le_bytes())
            // All but the bit that resets, which is never stored.
            .writable(8, &[0xff, 0x7f])
            .set(12, &0x11_u32.to_le_bytes())
            .writable(16, &[0xcb, 0x00])
            .set(18, &0x11_u16.to_le_bytes())
            // Completion Timeout Disable.
            .set(36, &[0x10])
            .writable(40, &[0x1f])
            .set(44, &[0x02])
            .set(48, &[0x01]);
        // The errors in Device Status.
        express.clears[10] = 0x0f;
        express
    }

    /// Id 9: a length byte, then `bytes`, read-only.
    pub(super) fn vendor(bytes: &[u8]) -> Self {
        let len = 3 + bytes.len();
        // A length beyond a byte does not fit in the space either.
        Self::new(cap::VENDOR, len)
            .set(2, &[len as u8])
            .set(3, bytes)
    }

    /// The header is filled in; the link in it by [`link_extended`].
    pub(super) fn extended(id: u16, version: u8, bytes: &[u8], writable: &[u8]) -> Self {
        let header = u32::from(id) | u32::from(version & 0xf) << 16;
        let with = |header: u32, rest: &[u8]| [&header.to_le_bytes()[..], rest].concat();
        Self {
            at: None,
            bytes: with(header, bytes),
            writable: with(0, writable),
            clears: vec![0; 4 + bytes.len()],
        }
    }
}

/// Finds a place for each capability, in the order of the list but explicit places first.
fn place(
    capabilities: &[Capability],
    space: std::ops::Range<usize>,
    least: impl Fn(&Capability) -> usize,
) -> Result<Vec<usize>, BuildError> {
    let mut taken = vec![false; space.end];
    let mut places = vec![0; capabilities.len()];
    for (place, capability) in places.iter_mut().zip(capabilities) {
        let Some(offset) = capability.at else {
            continue;
        };
        let at = usize::from(offset);
        let end = at + capability.bytes.len();
        if at < space.start
            || !at.is_multiple_of(4)
            || end > space.end
            || taken[at..end].contains(&true)
        {
            return Err(BuildError::Capability(offset));
        }
        taken[at..end].fill(true);
        *place = at;
    }
    for (place, capability) in places.iter_mut().zip(capabilities) {
        let len = capability.bytes.len();
        if *place == 0 {
            *place = space
                .clone()
                .step_by(4)
                .find(|at| taken.get(*at..at + len).is_some_and(|t| !t.contains(&true)))
                .ok_or(BuildError::NoRoom(len))?;
            taken[*place..*place + len].fill(true);
        }
        if len < least(capability) || capability.writable.len() != len {
            return Err(BuildError::Capability(*place as u16));
        }
    }
    Ok(places)
}

/// Places the capabilities in the first 256 bytes and links them in the order of the list.
pub(super) fn link(capabilities: &[Capability], config: &mut Template) -> Result<(), BuildError> {
    let least = |capability: &Capability| match capability.bytes.first() {
        Some(&cap::PM) => 8,
        _ => 2,
    };
    let places = place(capabilities, FIRST..CONFIG_SIZE, least)?;
    let mut link = reg::CAPABILITIES;
    for (at, capability) in places.into_iter().zip(capabilities) {
        put(config, at, capability);
        config.reset[at + 1] = 0;
        // Nobody rewrites the list itself.
        config.writable[at..at + 2].fill(0);
        let id = capability.bytes[0];
        let slot = match id {
            cap::PM => Some(&mut config.pm),
            cap::MSI => Some(&mut config.msi),
            cap::MSIX => Some(&mut config.msix),
            cap::EXPRESS => Some(&mut config.express),
            _ => None,
        };
        if slot.is_some_and(|slot| slot.replace(at).is_some()) {
            return Err(BuildError::Acting(id));
        }
        config.reset[link] = at as u8;
        config.reset[reg::STATUS] |= 1 << 4;
        link = at + 1;
    }
    Ok(())
}

/// Places the extended capabilities, the first at 0x100, and links them in the order of the list.
pub(super) fn link_extended(
    capabilities: &[Capability],
    config: &mut Template,
) -> Result<(), BuildError> {
    let Some(first) = capabilities.first() else {
        return Ok(());
    };
    let mut capabilities = capabilities.to_vec();
    // The list begins there and nowhere else.
    if first.at.is_some_and(|at| usize::from(at) != FIRST_EXTENDED) {
        return Err(BuildError::Capability(first.at.unwrap_or_default()));
    }
    capabilities[0].at = Some(FIRST_EXTENDED as u16);
    let places = place(&capabilities, FIRST_EXTENDED..config.size(), |_| 4)?;
    let next = places.iter().skip(1).copied().chain([0]);
    for ((at, next), capability) in places.iter().zip(next).zip(&capabilities) {
        put(config, *at, capability);
        config.writable[*at..at + 4].fill(0);
        config.reset[at + 2] |= (next << 4) as u8;
        config.reset[at + 3] = (next >> 4) as u8;
    }
    Ok(())
}

fn put(config: &mut Template, at: usize, capability: &Capability) {
    let range = at..at + capability.bytes.len();
    config.reset[range.clone()].copy_from_slice(&capability.bytes);
    config.clears[range.clone()].copy_from_slice(&capability.clears);
    config.writable[range.clone()].copy_from_slice(&capability.writable);
    for at in range {
        config.writable[at] &= !config.clears[at];
    }
}
