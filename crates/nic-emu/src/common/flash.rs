//! Parallel flash of 64 to 512 KiB on a bus of bytes: the SST39VF512, 010, 020 and 040, as fitted to cards with a boot ROM.
//!
//! Reads give what is stored. Writes are commands, which all but the last begin with AA to 5555 and 55 to 2AAA, of whose
//! addresses the chip looks at 15 bits (data sheet, table 4):
//!
//! | then | |
//! |---|---|
//! | A0 to 5555, a byte to its place | the byte is programmed: bits that are 1 there may become 0 |
//! | 80 to 5555, AA and 55 again, 30 to a sector of 4 KiB | the sector is erased to ones |
//! | 80 to 5555, AA and 55 again, 10 to 5555 | all is erased |
//! | 90 to 5555 | reads give the identification: BF at even addresses, the device at odd ones |
//! | F0 to 5555, or F0 to anywhere with no AA before it | reads give what is stored |
//!
//! Programming and erasing are over at once, so a driver that polls the toggle bit or the data finds them done. What is no
//! command has no effect, and the next one starts anew.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// What the chips have in bytes, the smallest and the largest; the others are the powers of two between.
pub const SIZES: [usize; 4] = [64 << 10, 128 << 10, 256 << 10, 512 << 10];

/// Bytes that are erased together.
pub const SECTOR: usize = 4 << 10;

/// A byte that is erased.
pub const ERASED: u8 = 0xFF;

/// SST.
const MANUFACTURER: u8 = 0xBF;
/// The smallest one's identification; each larger one has the next.
const DEVICE: u8 = 0xD4;

/// The addresses of commands, and the bits of an address by which the chip knows them.
const FIRST: usize = 0x5555;
const SECOND: usize = 0x2AAA;
const COMMAND_ADDRESS: usize = 0x7FFF;

/// Which write of a command comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// The first.
    #[default]
    Idle,
    /// 55, after AA.
    Unlocking,
    /// The command.
    Command,
    /// The byte to be programmed.
    Program,
    /// AA again, after the command to erase.
    Erase,
    /// 55 again.
    EraseUnlocking,
    /// What to erase.
    EraseWhat,
}

/// The state of a flash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFlash {
    size: u32,
    phase: Phase,
    identifies: bool,
    /// Those sectors in which something is not erased, by number.
    sectors: Vec<(u16, Vec<u8>)>,
}

impl SavedFlash {
    /// Bytes of the chip.
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// Whether a flash can have this state.
    pub fn is_possible(&self) -> bool {
        let sectors = self.size() / SECTOR;
        SIZES.contains(&self.size())
            && self.sectors.len() <= sectors
            && self
                .sectors
                .iter()
                .all(|(n, bytes)| usize::from(*n) < sectors && bytes.len() == SECTOR)
    }
}

/// A flash: what it stores, and how far a command is.
#[derive(Clone, PartialEq, Eq)]
pub struct Flash {
    bytes: Box<[u8]>,
    phase: Phase,
    identifies: bool,
    changed: Option<Range<usize>>,
}

impl Flash {
    /// A flash that stores these bytes. None if there is none of this size.
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        SIZES.contains(&bytes.len()).then(|| Self {
            bytes: bytes.into(),
            phase: Phase::Idle,
            identifies: false,
            changed: None,
        })
    }

    /// Bytes that it stores.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// What it stores.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where what it stores has changed since the last call, and what is there now.
    pub fn take_change(&mut self) -> Option<(usize, &[u8])> {
        let range = self.changed.take()?;
        Some((range.start, &self.bytes[range]))
    }

    /// Fills `to` from an address on, byte by byte. There are no more address lines than the chip has.
    pub fn read(&self, address: u64, to: &mut [u8]) {
        for (n, to) in to.iter_mut().enumerate() {
            let at = self.at(address, n);
            *to = match (self.identifies, at & 1) {
                (false, _) => self.bytes[at],
                (true, 0) => MANUFACTURER,
                (true, _) => DEVICE + self.number(),
            };
        }
    }

    /// Writes bytes, one after the other.
    pub fn write(&mut self, address: u64, from: &[u8]) {
        for (n, &byte) in from.iter().enumerate() {
            self.write_byte(self.at(address, n), byte);
        }
    }

    /// Reads give what is stored, and what was begun of a command is forgotten: as at power-on.
    pub fn reset(&mut self) {
        self.phase = Phase::Idle;
        self.identifies = false;
    }

    /// Its state.
    pub fn save(&self) -> SavedFlash {
        let sectors = self.bytes.chunks(SECTOR).zip(0..);
        SavedFlash {
            size: self.bytes.len() as u32,
            phase: self.phase,
            identifies: self.identifies,
            sectors: sectors
                .filter(|(bytes, _)| bytes.iter().any(|&byte| byte != ERASED))
                .map(|(bytes, n)| (n, bytes.to_vec()))
                .collect(),
        }
    }

    /// Takes over a possible state of a chip of this size; sectors that are not there are not taken.
    pub fn restore(&mut self, saved: &SavedFlash) {
        let mut bytes = vec![ERASED; self.bytes.len()];
        for (n, sector) in &saved.sectors {
            let at = usize::from(*n) * SECTOR;
            if let Some(to) = bytes.get_mut(at..at + sector.len()) {
                to.copy_from_slice(sector);
            }
        }
        if *bytes != *self.bytes {
            self.changed = Some(0..bytes.len());
            self.bytes = bytes.into();
        }
        self.phase = saved.phase;
        self.identifies = saved.identifies;
    }

    /// Which of the sizes it has.
    fn number(&self) -> u8 {
        (self.bytes.len() / SIZES[0]).trailing_zeros() as u8
    }

    fn at(&self, address: u64, n: usize) -> usize {
        (address as usize).wrapping_add(n) % self.bytes.len()
    }

    fn write_byte(&mut self, at: usize, byte: u8) {
        let command = (at & COMMAND_ADDRESS, byte);
        self.phase = match (self.phase, command) {
            (Phase::Program, _) => {
                self.change(at..at + 1, |old| old & byte);
                Phase::Idle
            }
            (Phase::EraseWhat, (_, 0x30)) => {
                let sector = at & !(SECTOR - 1);
                self.change(sector..sector + SECTOR, |_| ERASED);
                Phase::Idle
            }
            (Phase::EraseWhat, (FIRST, 0x10)) => {
                self.change(0..self.bytes.len(), |_| ERASED);
                Phase::Idle
            }
            (Phase::Idle, (FIRST, 0xAA)) => Phase::Unlocking,
            (Phase::Unlocking, (SECOND, 0x55)) => Phase::Command,
            (Phase::Command, (FIRST, 0xA0)) => Phase::Program,
            (Phase::Command, (FIRST, 0x80)) => Phase::Erase,
            (Phase::Erase, (FIRST, 0xAA)) => Phase::EraseUnlocking,
            (Phase::EraseUnlocking, (SECOND, 0x55)) => Phase::EraseWhat,
            (Phase::Command, (FIRST, 0x90)) => {
                self.identifies = true;
                Phase::Idle
            }
            (Phase::Command, (FIRST, 0xF0)) | (Phase::Idle, (_, 0xF0)) => {
                self.identifies = false;
                Phase::Idle
            }
            _ => Phase::Idle,
        };
    }

    fn change(&mut self, range: Range<usize>, to: impl Fn(u8) -> u8) {
        let mut changed = false;
        for byte in &mut self.bytes[range.clone()] {
            let new = to(*byte);
            changed |= new != *byte;
            *byte = new;
        }
        if changed {
            let before = self.changed.take().unwrap_or(range.clone());
            self.changed = Some(before.start.min(range.start)..before.end.max(range.end));
        }
    }
}

impl fmt::Debug for Flash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flash")
            .field("size", &self.bytes.len())
            .field("phase", &self.phase)
            .field("identifies", &self.identifies)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "flash_tests.rs"]
mod tests;
