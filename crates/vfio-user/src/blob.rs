//! The bytes of a migrated device: what it is, its configuration space, what its handler saved, a checksum.
//!
//! | bytes | |
//! |---|---|
//! | 8 | `vfiouser` |
//! | 4 | version of this layout: 1 |
//! | 12 | vendor, device, subsystem vendor and subsystem ID, class and revision |
//! | 4 | n: bytes of configuration space |
//! | n | configuration space |
//! | 4 + m | MSI-X table, after its length |
//! | 4 + m | masked and pending vectors, after their length |
//! | 4 + m | what [`Migration::save`](crate::Migration::save) has written, after its length |
//! | 4 | CRC-32 of all before |
//!
//! Numbers are little-endian. The first [`HEADER`] bytes are known while the device still runs: a destination that is
//! another device says so before the guest is stopped.

use crate::device::Device;
use crate::pci::reg;

const MAGIC: &[u8; 8] = b"vfiouser";
const VERSION: u32 = 1;

/// Bytes up to configuration space.
pub(crate) const HEADER: usize = MAGIC.len() + 4 + 12 + 4;

/// What a state consists of, the header apart.
pub(crate) struct Parts<'a> {
    pub(crate) config: &'a [u8],
    /// The MSI-X table.
    pub(crate) table: &'a [u8],
    /// Masks and pending bits.
    pub(crate) interrupts: &'a [u8],
    pub(crate) device: &'a [u8],
}

/// Appends the part that says which device this is.
pub(crate) fn header(device: &Device, to: &mut Vec<u8>) {
    let config = &device.config.reset;
    to.extend_from_slice(MAGIC);
    to.extend_from_slice(&VERSION.to_le_bytes());
    to.extend_from_slice(&config[reg::VENDOR_ID..][..4]);
    to.extend_from_slice(&config[reg::SUBSYSTEM_VENDOR_ID..][..4]);
    to.extend_from_slice(&config[reg::REVISION_ID..][..4]);
    to.extend_from_slice(&(device.config.size() as u32).to_le_bytes());
}

/// Appends the rest to a header.
pub(crate) fn body(parts: &Parts<'_>, to: &mut Vec<u8>) {
    let Parts {
        config,
        table,
        interrupts,
        device,
    } = parts;
    to.extend_from_slice(config);
    for part in [table, interrupts, device] {
        to.extend_from_slice(&(part.len() as u32).to_le_bytes());
        to.extend_from_slice(part);
    }
    let crc = crc32fast::hash(to);
    to.extend_from_slice(&crc.to_le_bytes());
}

/// Whether bytes, of which the header has come, are a state of such a device.
pub(crate) fn check_header(device: &Device, bytes: &[u8]) -> Result<(), String> {
    let mut ours = Vec::with_capacity(HEADER);
    header(device, &mut ours);
    let theirs = bytes.get(..HEADER).ok_or("it is cut off")?;
    if theirs == ours {
        return Ok(());
    }
    Err(match theirs[..12] == ours[..12] {
        true => format!("it is that of another device: {:x?}", &theirs[12..]),
        false => format!("it is none, or of another version: {:x?}", &theirs[..12]),
    })
}

/// Takes a whole state apart.
pub(crate) fn parse<'a>(device: &Device, bytes: &'a [u8]) -> Result<Parts<'a>, String> {
    check_header(device, bytes)?;
    let cut = || "it is cut off".to_owned();
    let (all, crc) = bytes.split_last_chunk().ok_or_else(cut)?;
    let rest = all.get(HEADER..).ok_or_else(cut)?;
    let (config, mut rest) = rest
        .split_at_checked(device.config.size())
        .ok_or_else(cut)?;
    let mut next = || {
        let (len, more) = rest.split_first_chunk().ok_or_else(cut)?;
        let len = u32::from_le_bytes(*len) as usize;
        let (part, more) = more.split_at_checked(len).ok_or_else(cut)?;
        rest = more;
        Ok::<_, String>(part)
    };
    let parts = Parts {
        config,
        table: next()?,
        interrupts: next()?,
        device: next()?,
    };
    if !rest.is_empty() {
        return Err("there is more than it says".to_owned());
    }
    if crc32fast::hash(all) != u32::from_le_bytes(*crc) {
        return Err("its checksum is wrong".to_owned());
    }
    Ok(parts)
}
