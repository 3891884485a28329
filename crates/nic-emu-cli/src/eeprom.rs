//! The EEPROM of a NIC in a file: 64 words, least significant byte first, as `ethtool -e eth0 raw on` has them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nic_emu::common::eeprom::WORDS;
use rustix::fs::OFlags;

use crate::error::UsageError;

const BYTES: usize = 2 * WORDS;

/// The file that holds what a guest has written to an EEPROM.
#[derive(Debug)]
pub struct EepromFile {
    path: PathBuf,
    /// Where new contents are written before they take the place of the old ones.
    draft: PathBuf,
}

impl EepromFile {
    /// Opens `path` and tells what it holds: `new` if there was no such file.
    ///
    /// # Errors
    ///
    /// It cannot be read or made, or is no file of 128 bytes.
    pub fn open(path: &Path, new: [u16; WORDS]) -> Result<(Self, [u16; WORDS])> {
        let named = || format!("the EEPROM file {}", path.display());
        let flags = OFlags::NONBLOCK.bits() as i32;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let words = match opened {
            Ok(file) => {
                let cannot = || format!("cannot read {}", named());
                Some(read(file).with_context(cannot)?.with_context(cannot)?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot open {}", named())),
        };
        // Of a link, what it leads to is replaced.
        let path = match words {
            Some(_) => fs::canonicalize(path),
            None => std::path::absolute(path),
        }
        .with_context(named)?;
        let mut draft = path.clone().into_os_string();
        draft.push(".new");
        let draft = draft.into();
        let file = Self { path, draft };
        if words.is_none() {
            file.save(&new)
                .with_context(|| format!("cannot make {}", named()))?;
        }
        Ok((file, words.unwrap_or(new)))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes this what it holds: all of it or, if that fails, what it held before.
    ///
    /// # Errors
    ///
    /// The folder or the disk does not take it.
    pub fn save(&self, words: &[u16; WORDS]) -> io::Result<()> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let saved = write(&self.draft, &bytes).and_then(|()| {
            if let Ok(old) = fs::metadata(&self.path) {
                fs::set_permissions(&self.draft, old.permissions())?;
            }
            fs::rename(&self.draft, &self.path)
        });
        if saved.is_err() {
            let _ = fs::remove_file(&self.draft);
        }
        saved
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // What is left of a draft that was never finished is nobody's.
    let _ = fs::remove_file(path);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)?
        .write_all(bytes)
}

fn read(file: File) -> io::Result<Result<[u16; WORDS], UsageError>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Err(UsageError("it is no file".into())));
    }
    let mut bytes = Vec::new();
    file.take(BYTES as u64 + 1).read_to_end(&mut bytes)?;
    let (words, rest) = bytes.as_chunks();
    Ok(match (<[[u8; 2]; WORDS]>::try_from(words), rest) {
        (Ok(words), []) => Ok(words.map(u16::from_le_bytes)),
        _ => Err(UsageError(format!(
            "it has {} bytes and not the {BYTES} of an EEPROM",
            metadata.len()
        ))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: [u16; WORDS] = [0x1234; WORDS];

    #[test]
    fn contents_come_back_and_a_new_file_is_a_new_eeprom() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("eeprom.bin");
        let (file, words) = EepromFile::open(&path, NEW).unwrap();
        assert_eq!(words, NEW);
        assert_eq!(fs::read(&path).unwrap()[..2], [0x34, 0x12]);
        let mut other = NEW;
        other[63] = 0xBEEF;
        file.save(&other).unwrap();
        assert_eq!(EepromFile::open(&path, NEW).unwrap().1, other);
        // Through a link, which stays one.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        EepromFile::open(&link, NEW).unwrap().0.save(&NEW).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(EepromFile::open(&path, other).unwrap().1, NEW);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no drafts");
    }

    #[test]
    fn what_is_no_eeprom_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |path: &Path, part: &str| {
            let error = format!("{:#}", EepromFile::open(path, NEW).unwrap_err());
            assert!(error.contains(part), "{error}");
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        };
        for size in [0, 1, 127, 129, 64 << 10] {
            let path = dir.path().join(size.to_string());
            fs::write(&path, vec![0; size]).unwrap();
            refused(&path, &format!("{size} bytes"));
        }
        let huge = dir.path().join("huge");
        File::create(&huge).unwrap().set_len(1 << 40).unwrap();
        refused(&huge, "not the 128");
        refused(dir.path(), "no file");
        refused(Path::new("/dev/zero"), "no file");
        refused(&dir.path().join("none/eeprom.bin"), "cannot make");
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
