//! The bytes of a migrated device: what it is, its configuration space, what its handler saved, a checksum.
//!
//! | bytes | |
//! |---|---|
//! | 8 | `vfiouser` |
//! | 4 | version of this layout: 1 |
//! | 12 | vendor, device, subsystem vendor and subsystem ID, class and revision |
//! | 4 | n: bytes of configuration space |
//! | n | configuration space |
//! | 4 | m: bytes of the device |
//! | m | what [`Migration::save`] has written |
//! | 4 | CRC-32 of all before |
//!
//! Numbers are little-endian. The first [`HEADER`] bytes are known while the device still runs: a destination that is
//! another device says so before the guest is stopped.

use crate::device::Device;
use crate::handler::Migration;
use crate::pci::reg;

const MAGIC: &[u8; 8] = b"vfiouser";
const VERSION: u32 = 1;

/// Bytes up to configuration space.
pub(crate) const HEADER: usize = MAGIC.len() + 4 + 12 + 4;

/// What a state consists of.
pub(crate) struct Parts<'a> {
    pub(crate) config: &'a [u8],
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
    to.extend_from_slice(&(config.len() as u32).to_le_bytes());
}

/// Appends the rest to a header.
pub(crate) fn body(config: &[u8], device: &mut dyn Migration, to: &mut Vec<u8>) {
    to.extend_from_slice(config);
    let at = to.len();
    to.extend_from_slice(&[0; 4]);
    device.save(to);
    let len = (to.len() - at - 4) as u32;
    to[at..at + 4].copy_from_slice(&len.to_le_bytes());
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
    let (config, rest) = rest
        .split_at_checked(device.config.reset.len())
        .ok_or_else(cut)?;
    let (len, state) = rest.split_first_chunk().ok_or_else(cut)?;
    if state.len() != u32::from_le_bytes(*len) as usize {
        return Err("its length is not what it says".to_owned());
    }
    if crc32fast::hash(all) != u32::from_le_bytes(*crc) {
        return Err("its checksum is wrong".to_owned());
    }
    Ok(Parts {
        config,
        device: state,
    })
}
