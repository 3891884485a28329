//! Guest kernels from packages.

use std::fs;
use std::path::{Path, PathBuf};

use crate::apt::{Apt, Package};
use crate::tools::Tools;
use crate::{Error, Lab, Result, modules, store, unpack};

/// Which Debian suite a kernel comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Suite {
    /// Debian 12: Linux 6.1.
    Bookworm,
    /// Debian 13: Linux 6.12.
    Trixie,
    /// Debian 13's backports: Linux 7.3 and its successors.
    TrixieBackports,
}

impl Suite {
    /// All of them, oldest first.
    pub const ALL: [Self; 3] = [Self::Bookworm, Self::Trixie, Self::TrixieBackports];

    /// The suite's name in a package archive.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::TrixieBackports => "trixie-backports",
        }
    }
}

impl std::fmt::Display for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Suite {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|s| s.name() == name)
            .ok_or_else(|| format!("unknown suite `{name}`: one of {}", known()))
    }
}

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    dir: PathBuf,
    release: String,
}

impl Kernel {
    /// What `uname -r` prints in the guest, such as `6.12.107+deb13-amd64`.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The kernel as an uncompressed ELF file. QEMU enters it by its PVH note, which saves the guest from
    /// decompressing it (seconds under TCG).
    #[must_use]
    pub fn vmlinux(&self) -> PathBuf {
        self.dir.join("vmlinux")
    }

    /// The kernel as packaged (a bzImage).
    #[must_use]
    pub fn vmlinuz(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// The folder with the guest's modules (`*.ko`, `modules.dep`, `modules.alias`).
    #[must_use]
    pub fn modules(&self) -> PathBuf {
        self.dir.join("modules")
    }
}

/// What is taken from a kernel package; the rest of its 400 MB is not even unpacked.
const MEMBERS: [&str; 13] = [
    "./boot/vmlinuz-*",
    "*/modules.builtin",
    "*/lib/modules/*/vmlinuz",
    "*/kernel/drivers/net/ethernet/intel/*",
    "*/kernel/drivers/net/virtio_net.ko*",
    "*/kernel/drivers/net/net_failover.ko*",
    "*/kernel/drivers/virtio/*",
    "*/kernel/drivers/dca/*",
    "*/kernel/drivers/i2c/algos/*",
    "*/kernel/drivers/uio/*",
    "*/kernel/drivers/vfio/*",
    "*/kernel/virt/lib/*",
    "*/kernel/net/*",
];

/// The suite's newest kernel, unpacked.
pub(crate) fn ensure(lab: &Lab, suite: Suite) -> Result<Kernel> {
    let tools = lab.tools()?;
    let name = format!("kernel-{suite}");
    let dir = lab.part(&name, &modules::WANTED.join(" "), 400, |dir| {
        let apt = Apt::open(lab)?;
        let packages: Vec<Package> = apt
            .would_install(suite, &["linux-image-amd64"])?
            .into_iter()
            .filter(|p| holds_kernel(&p.name))
            .collect();
        let tree = dir.join("tree");
        fs::create_dir(&tree).map_err(Error::write(dir, "make a folder for the kernel"))?;
        for deb in apt.fetch_exactly(&name, &packages)? {
            unpack::members(&deb, &tree, &MEMBERS)?;
        }
        let missing = |what: &str| Error::NotInPackage {
            what: what.into(),
            set: name.clone(),
            dir: dir.to_owned(),
        };
        let files = files_below(&tree)?;
        let vmlinuz = files
            .iter()
            .find(|p| base_name(p).starts_with("vmlinuz"))
            .ok_or_else(|| missing("vmlinuz"))?;
        let release = files
            .iter()
            .find_map(|p| release_of(p))
            .ok_or_else(|| missing("a module"))?;
        fs::write(dir.join("release"), release)
            .map_err(Error::write(dir, "write the kernel's release"))?;
        let image = fs::read(vmlinuz).map_err(Error::io(format!("read {}", vmlinuz.display())))?;
        let vmlinux = decompress_bz_image(&tools, &image, &tree.join("payload"))?;
        fs::write(dir.join("vmlinux"), vmlinux).map_err(Error::write(dir, "write the kernel"))?;
        fs::rename(vmlinuz, dir.join("vmlinuz")).map_err(Error::write(dir, "keep the kernel"))?;
        modules::select(&tools, &files, &dir.join("modules"))?;
        store::remove_all(&tree)?;
        apt.forget(&name)
    })?;
    let release =
        fs::read_to_string(dir.join("release")).map_err(Error::io("read the kernel's release"))?;
    Ok(Kernel { dir, release })
}

/// Whether a package of an installation is one that has kernel files: since 7.x `linux-image-VERSION` is empty and
/// they are in `linux-binary-VERSION`, `linux-modules-VERSION` and (lists of modules) `linux-base-VERSION`.
fn holds_kernel(package: &str) -> bool {
    [
        "linux-image-",
        "linux-binary-",
        "linux-modules-",
        "linux-base-",
    ]
    .iter()
    .filter_map(|prefix| package.strip_prefix(prefix))
    .any(|version| version.starts_with(|c: char| c.is_ascii_digit()))
}

fn release_of(module: &Path) -> Option<String> {
    let mut parts = module.components().map(|c| c.as_os_str());
    parts.find(|p| *p == "modules")?;
    parts.next()?.to_str().map(str::to_owned)
}

fn base_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default()
}

fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)
            .map_err(Error::io(format!("read {}", folder.display())))?
            .flatten()
        {
            match entry.file_type() {
                Ok(t) if t.is_dir() => folders.push(entry.path()),
                Ok(t) if t.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    Ok(files)
}

/// The vmlinux inside a bzImage.
fn decompress_bz_image(tools: &Tools, image: &[u8], scratch: &Path) -> Result<Vec<u8>> {
    let payload = bz_image_payload(image).ok_or_else(|| Error::Apt {
        what: "find the kernel in vmlinuz".into(),
        detail: "it is no bzImage of boot protocol 2.08 or later".into(),
    })?;
    let tool = match payload {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        _ => "xz", // says itself what is wrong
    };
    fs::write(scratch, payload).map_err(Error::write(scratch, "write the kernel's payload"))?;
    decompress(tools, tool, scratch)
}

/// The compressed payload of a bzImage (Documentation/arch/x86/boot.rst: `payload_offset` counts from the
/// protected-mode code; `payload_length` includes the uncompressed size in its last four bytes).
fn bz_image_payload(image: &[u8]) -> Option<&[u8]> {
    let word =
        |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    if image.get(0x202..0x206)? != b"HdrS" || word(0x206)? & 0xffff < 0x208 {
        return None;
    }
    let setup_sectors = usize::from(*image.get(0x1f1)?);
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    image.get(start..start.checked_add(word(0x24c)?.checked_sub(4)?)?)
}

/// Decompresses a file with a tool that knows `-dc`.
pub(crate) fn decompress(tools: &Tools, tool: &str, file: &Path) -> Result<Vec<u8>> {
    let out = tools
        .command(tool)?
        .arg("-dc")
        .arg(file)
        .output()
        .map_err(Error::io(format!("start the lab's {tool}")))?;
    if out.status.success() {
        return Ok(out.stdout);
    }
    Err(Error::Command {
        command: format!("{tool} -dc {}", file.display()),
        status: out.status.to_string(),
        detail: String::from_utf8_lossy(&out.stderr).trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_known_by_name() {
        for suite in Suite::ALL {
            assert_eq!(suite.name().parse(), Ok(suite));
        }
        assert!("sid".parse::<Suite>().unwrap_err().contains("bookworm"));
    }

    #[test]
    fn only_versioned_packages_hold_a_kernel() {
        assert!(holds_kernel("linux-image-6.1.0-50-amd64"));
        assert!(holds_kernel("linux-binary-7.3.4+deb13-amd64"));
        assert!(!holds_kernel("linux-image-amd64"));
        assert!(!holds_kernel("linux-modules-amd64"));
        assert!(holds_kernel("linux-base-7.3.4+deb13-amd64"));
        assert!(!holds_kernel("linux-base-amd64"));
        assert!(!holds_kernel("linux-base"));
    }

    #[test]
    fn the_release_is_the_folder_of_the_modules() {
        let path = Path::new("/t/usr/lib/modules/7.3.4+deb13-amd64/kernel/net/x.ko.xz");
        assert_eq!(release_of(path).as_deref(), Some("7.3.4+deb13-amd64"));
        assert_eq!(release_of(Path::new("/t/boot/vmlinuz-1")), None);
    }

    #[test]
    fn a_bz_image_is_cut_at_its_payload() {
        let mut image = vec![0; 0x2000];
        image[0x1f1] = 3; // setup sectors
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&0x10_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&9_u32.to_le_bytes());
        image[0x810..0x819].copy_from_slice(b"abcde\x05\0\0\0");
        assert_eq!(bz_image_payload(&image), Some(&b"abcde"[..]));
        image[0x24c..0x250].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(bz_image_payload(&image), None);
        assert_eq!(bz_image_payload(b"MZ"), None);
    }
}
