//! The flash of a NIC in a file: the bytes of the chip, of which each is written where and when the guest writes it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nic_emu::common::flash::{ERASED, Flash, SIZES};
use rustix::fs::OFlags;

use crate::error::UsageError;

/// What a flash has that is not there yet: 128 KiB.
const NEW: usize = SIZES[1];

/// The file that holds what a flash stores.
#[derive(Debug)]
pub struct FlashFile {
    path: PathBuf,
    file: File,
}

impl FlashFile {
    /// Opens `path` and gives the flash that it holds: a new one, erased, if there was no such file.
    ///
    /// # Errors
    ///
    /// It cannot be read, written or made, or is no file of the size of a flash.
    pub fn open(path: &Path) -> Result<(Self, Flash)> {
        let named = || format!("the flash file {}", path.display());
        let flags = OFlags::NONBLOCK.bits() as i32;
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(flags);
        let cannot = || format!("cannot open {}", named());
        let opened = match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(&mut options, path).with_context(|| format!("cannot make {}", named()))?
            }
            opened => opened.with_context(cannot)?,
        };
        let (file, flash) = read(opened)
            .with_context(cannot)?
            .with_context(|| format!("{} is not usable", named()))?;
        let path = fs::canonicalize(path).with_context(named)?;
        Ok((Self { path, file }, flash))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts these bytes at this place of it.
    ///
    /// # Errors
    ///
    /// The disk does not take it.
    pub fn save(&self, at: usize, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at as u64)
    }
}

fn make(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let mut file = options.create_new(true).open(path)?;
    let written = file.write_all(&vec![ERASED; NEW]);
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written.map(|()| file)
}

fn read(file: File) -> io::Result<Result<(File, Flash), UsageError>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Err(UsageError("it is no file".into())));
    }
    let mut bytes = vec![0; *SIZES.last().unwrap_or(&0)];
    let size = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    let flash = match bytes.get_mut(..size) {
        Some(bytes) => {
            file.read_exact_at(bytes, 0)?;
            Flash::new(bytes.to_vec())
        }
        None => None,
    };
    Ok(flash.map(|flash| (file, flash)).ok_or_else(|| {
        let [sizes @ .., last] = SIZES.map(|size| (size >> 10).to_string());
        let (sizes, size) = (sizes.join(", "), metadata.len());
        UsageError(format!(
            "it has {size} bytes, and a flash has {sizes} or {last} KiB: fill it up with bytes of ff"
        ))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_there_the_next_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flash.bin");
        let (file, flash) = FlashFile::open(&path).unwrap();
        assert_eq!(flash.bytes(), [ERASED; 128 << 10]);
        file.save(0x1_2345, &[1, 2, 3]).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let (again, flash) = FlashFile::open(&link).unwrap();
        assert_eq!(again.path(), file.path());
        assert_eq!(flash.bytes()[0x1_2344..0x1_2349], [0xFF, 1, 2, 3, 0xFF]);
        for size in SIZES {
            fs::write(&path, vec![7; size]).unwrap();
            assert_eq!(FlashFile::open(&path).unwrap().1.size(), size);
        }
    }

    #[test]
    fn what_is_no_flash_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |path: &Path, part: &str| {
            let error = format!("{:#}", FlashFile::open(path).unwrap_err());
            assert!(error.contains(part), "{error}");
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        };
        for size in [0, 1, 128, (64 << 10) + 1, 1 << 20, 1 << 40] {
            let path = dir.path().join(size.to_string());
            File::create(&path).unwrap().set_len(size).unwrap();
            refused(&path, &format!("{size} bytes"));
            refused(&path, "64, 128, 256 or 512 KiB");
        }
        refused(dir.path(), "cannot open");
        refused(Path::new("/dev/zero"), "no file");
        refused(&dir.path().join("none/flash.bin"), "cannot make");
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        refused(&fifo, "no file");
    }
}
