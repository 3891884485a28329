//! An expansion ROM for the guest's firmware, such as iPXE.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

/// What the region of a ROM may have at least and at most (PCI Local Bus Specification 3.0, 6.2.5.2).
const SIZES: std::ops::RangeInclusive<usize> = 2048..=16 << 20;
/// What an image of a ROM starts with (there, 6.3.1.1).
const SIGNATURE: [u8; 2] = [0x55, 0xAA];

/// The bytes of an expansion ROM, as many as its BAR decodes: a power of two.
#[derive(Clone, PartialEq, Eq)]
pub struct Rom(Arc<[u8]>);

impl Rom {
    /// Reads the ROM from a file, which is not looked at again.
    ///
    /// # Errors
    ///
    /// One sentence: the file cannot be read, is no ROM, or is too large for one.
    pub fn load(path: &Path) -> Result<Self> {
        let read = || -> Result<Self> {
            // To open a pipe would be to wait for its writer.
            let kind = std::fs::metadata(path).context("cannot open it")?;
            ensure!(kind.is_file(), "it is no regular file");
            let file = File::open(path).context("cannot open it")?;
            let mut bytes = Vec::new();
            // One byte more than there may be: a file can grow while it is read.
            file.take(*SIZES.end() as u64 + 1)
                .read_to_end(&mut bytes)
                .context("cannot read it")?;
            Self::new(bytes)
        };
        read().with_context(|| format!("rom={} is not usable", path.display()))
    }

    /// A ROM with these bytes; what is missing to a power of two reads as ones, as an empty flash does.
    ///
    /// # Errors
    ///
    /// It is no ROM, or too large for one.
    pub fn new(mut bytes: Vec<u8>) -> Result<Self> {
        if !bytes.starts_with(&SIGNATURE) {
            bail!("it is no expansion ROM: it does not start with 55 aa");
        }
        ensure!(
            bytes.len() <= *SIZES.end(),
            "an expansion ROM has at most 16 MiB"
        );
        let size = bytes.len().next_power_of_two().max(*SIZES.start());
        bytes.resize(size, 0xFF);
        Ok(Self(bytes.into()))
    }

    /// Bytes that its BAR decodes.
    pub fn size(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// Fills `to` from `offset`; what is beyond the end reads as ones.
    pub fn read(&self, offset: u64, to: &mut [u8]) {
        to.fill(0xFF);
        let from = usize::try_from(offset).ok().and_then(|at| self.0.get(at..));
        for (to, from) in to.iter_mut().zip(from.unwrap_or_default()) {
            *to = *from;
        }
    }
}

impl std::fmt::Debug for Rom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rom({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(len: usize) -> Vec<u8> {
        let mut bytes = vec![0x11; len];
        bytes[..2].copy_from_slice(&SIGNATURE);
        bytes
    }

    #[test]
    fn a_rom_is_filled_up_to_a_power_of_two() {
        for (len, size) in [(2, 2048), (2048, 2048), (2049, 4096), (109_056, 131_072)] {
            let rom = Rom::new(image(len)).unwrap();
            assert_eq!(rom.size(), size);
            let mut end = [0; 4];
            rom.read(len as u64 - 1, &mut end);
            assert_eq!(end[1..], [0xFF; 3], "{len}");
        }
    }

    #[test]
    fn reads_beyond_the_end_give_ones() {
        let rom = Rom::new(image(2048)).unwrap();
        for offset in [2048, 4096, u64::MAX] {
            let mut to = [0; 3];
            rom.read(offset, &mut to);
            assert_eq!(to, [0xFF; 3]);
        }
        let mut to = [0; 4];
        rom.read(0, &mut to);
        assert_eq!(to, [0x55, 0xAA, 0x11, 0x11]);
    }

    #[test]
    fn files_that_are_no_rom_are_refused_in_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.rom");
        let says = |content: Option<Vec<u8>>, part: &str| {
            match content {
                Some(content) => std::fs::write(&path, content).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let error = format!("{:#}", Rom::load(&path).unwrap_err());
            assert!(
                error.contains(part) && error.contains("some.rom"),
                "{error}"
            );
        };
        says(Some(Vec::new()), "55 aa");
        says(Some(vec![0x55]), "55 aa");
        says(Some(b"\x7fELF".to_vec()), "55 aa");
        says(Some(image((16 << 20) + 1)), "at most 16 MiB");
        says(None, "cannot open it");
        let error = format!("{:#}", Rom::load(folder.path()).unwrap_err());
        assert!(error.contains("no regular file"), "{error}");
        std::fs::write(&path, image(16 << 20)).unwrap();
        assert_eq!(Rom::load(&path).unwrap().size(), 16 << 20);
    }
}
