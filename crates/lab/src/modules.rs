//! Chooses a kernel's modules for the guest and writes the tables that `modprobe` reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::kernel::decompress;
use crate::tools::Tools;
use crate::{Error, Result};

/// The modules that guests can load; what these depend on comes along.
pub(crate) const WANTED: [&str; 14] = [
    "e1000",
    "e1000e",
    "igb",
    "iavf",
    "virtio_pci",
    "virtio_net",
    "8021q",
    "pktgen",
    "sch_ingress",
    "cls_matchall",
    "act_mirred",
    "uio_pci_generic",
    "vfio_pci",
    "vfio_iommu_type1",
];

/// Copies the wanted modules out of `files` to `into`, uncompressed, with `modules.dep`, `modules.alias` and
/// `modules.builtin`. A wanted module that this kernel has built in is left out.
pub(crate) fn select(tools: &Tools, files: &[PathBuf], into: &Path) -> Result<()> {
    fs::create_dir_all(into).map_err(Error::write(into, "make a folder for modules"))?;
    let builtin = match files.iter().find(|path| path.ends_with("modules.builtin")) {
        Some(path) => {
            fs::read_to_string(path).map_err(Error::io(format!("read {}", path.display())))?
        }
        None => String::new(),
    };
    let built_in: BTreeSet<String> = builtin
        .lines()
        .filter_map(|line| module_name(Path::new(line)))
        .collect();
    let by_name: BTreeMap<String, &PathBuf> = files
        .iter()
        .filter_map(|path| Some((module_name(path)?, path)))
        .collect();
    let mut dep = String::new();
    let mut alias = String::new();
    let mut direct: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut todo: Vec<String> = WANTED.map(str::to_owned).to_vec();
    while let Some(name) = todo.pop() {
        if direct.contains_key(&name) || built_in.contains(&name) {
            continue;
        }
        let path = by_name.get(&name).ok_or_else(|| Error::NotInPackage {
            what: format!("the module {name}"),
            set: "the kernel".into(),
            dir: into.to_owned(),
        })?;
        let object = match path.extension().and_then(|e| e.to_str()) {
            Some("xz") => decompress(tools, "xz", path)?,
            Some("zst") => decompress(tools, "zstd", path)?,
            _ => fs::read(path).map_err(Error::io(format!("read {}", path.display())))?,
        };
        let info = modinfo(&object);
        for pattern in info.iter().filter_map(|line| line.strip_prefix("alias=")) {
            let _ = writeln!(alias, "alias {pattern} {name}");
        }
        let depends = info
            .iter()
            .filter_map(|line| line.strip_prefix("depends="))
            .flat_map(|list| list.split(','));
        let depends: Vec<String> = depends
            .filter(|d| !d.is_empty())
            .map(|d| d.replace('-', "_"))
            .collect();
        todo.extend(depends.iter().cloned());
        fs::write(into.join(format!("{name}.ko")), object)
            .map_err(Error::write(into, "write a module"))?;
        direct.insert(name, depends);
    }
    for name in direct.keys() {
        let _ = write!(dep, "{name}.ko:");
        for needed in closure(&direct, name)
            .iter()
            .filter(|n| !built_in.contains(*n))
        {
            let _ = write!(dep, " {needed}.ko");
        }
        dep.push('\n');
    }
    fs::write(into.join("modules.dep"), dep).map_err(Error::write(into, "write modules.dep"))?;
    fs::write(into.join("modules.builtin"), builtin)
        .map_err(Error::write(into, "write modules.builtin"))?;
    fs::write(into.join("modules.alias"), alias).map_err(Error::write(into, "write modules.alias"))
}

/// All that `name` depends on, directly or not; what must be loaded first stands last, as in depmod's table.
fn closure(direct: &BTreeMap<String, Vec<String>>, name: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut todo = vec![name];
    while let Some(next) = todo.pop() {
        for needed in direct.get(next).into_iter().flatten().map(String::as_str) {
            // Whoever is needed again, and deeper, moves to the end.
            found.retain(|f| f != needed);
            found.push(needed.to_owned());
            todo.push(needed);
        }
    }
    found
}

/// The module's name as the kernel knows it: `i2c-algo-bit.ko.xz` is `i2c_algo_bit`.
fn module_name(path: &Path) -> Option<String> {
    let (name, suffix) = path.file_name()?.to_str()?.split_once(".ko")?;
    matches!(suffix, "" | ".xz" | ".zst" | ".gz").then(|| name.replace('-', "_"))
}

/// The `key=value` strings in the section `.modinfo` of a 64-bit little-endian ELF object; empty if there is none.
fn modinfo(object: &[u8]) -> Vec<&str> {
    section(object, b".modinfo")
        .unwrap_or_default()
        .split(|&b| b == 0)
        .filter_map(|line| std::str::from_utf8(line).ok().filter(|l| !l.is_empty()))
        .collect()
}

fn section<'a>(object: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let half = |at: usize| {
        Some(usize::from(u16::from_le_bytes(
            object.get(at..at + 2)?.try_into().ok()?,
        )))
    };
    let word =
        |at: usize| Some(u32::from_le_bytes(object.get(at..at + 4)?.try_into().ok()?) as usize);
    let xword = |at: usize| {
        usize::try_from(u64::from_le_bytes(object.get(at..at + 8)?.try_into().ok()?)).ok()
    };
    if object.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, entry_size, count, names) = (xword(0x28)?, half(0x3a)?, half(0x3c)?, half(0x3e)?);
    let header = |index: usize| {
        table
            .checked_add(index.checked_mul(entry_size)?)
            .filter(|&at| at < object.len())
    };
    let body = |at: usize| {
        let start = xword(at + 0x18)?;
        object.get(start..start.checked_add(xword(at + 0x20)?)?)
    };
    let strings = body(header(names)?)?;
    (0..count).filter_map(header).find_map(|at| {
        let rest = strings.get(word(at)?..)?;
        (rest.split(|&b| b == 0).next() == Some(name))
            .then(|| body(at))
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF object with the sections `.modinfo` (1) and `.shstrtab` (2).
    fn object(modinfo: &[u8]) -> Vec<u8> {
        let strings = b"\0.modinfo\0.shstrtab\0";
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf.extend(modinfo);
        elf.extend(strings);
        let table = elf.len();
        for (name, start, len) in [
            (0, 0, 0),
            (1, 64, modinfo.len()),
            (11, 64 + modinfo.len(), strings.len()),
        ] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&(name as u32).to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(start as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(len as u64).to_le_bytes());
            elf.extend(header);
        }
        elf[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
        elf[0x3a..0x3c].copy_from_slice(&64_u16.to_le_bytes());
        elf[0x3c..0x3e].copy_from_slice(&3_u16.to_le_bytes());
        elf[0x3e..0x40].copy_from_slice(&2_u16.to_le_bytes());
        elf
    }

    #[test]
    fn modinfo_is_found_by_section_name() {
        let elf = object(b"license=GPL\0alias=pci:v00008086d0000100E*\0depends=dca,i2c-algo-bit\0");
        assert_eq!(
            modinfo(&elf),
            [
                "license=GPL",
                "alias=pci:v00008086d0000100E*",
                "depends=dca,i2c-algo-bit"
            ]
        );
    }

    #[test]
    fn damaged_objects_have_no_modinfo() {
        let elf = object(b"license=GPL\0");
        for len in 0..elf.len() {
            assert!(modinfo(&elf[..len]).len() <= 1);
        }
        assert!(modinfo(b"").is_empty());
        assert!(modinfo(&[0xff; 200]).is_empty());
    }

    #[test]
    fn names_lose_dashes_and_suffixes() {
        assert_eq!(
            module_name(Path::new("/x/i2c-algo-bit.ko.xz")).as_deref(),
            Some("i2c_algo_bit")
        );
        assert_eq!(
            module_name(Path::new("/x/e1000.ko")).as_deref(),
            Some("e1000")
        );
        assert_eq!(module_name(Path::new("/x/modules.builtin")), None);
    }

    #[test]
    fn selection_brings_dependencies_and_tables() {
        let tmp = tempfile::tempdir().unwrap();
        let mut files = Vec::new();
        let mut module = |name: &str, info: &[u8]| {
            let path = tmp.path().join(format!("{name}.ko"));
            fs::write(&path, object(info)).unwrap();
            files.push(path);
        };
        for name in WANTED.iter().filter(|n| !["igb", "virtio_pci"].contains(n)) {
            module(name, b"depends=\0");
        }
        module("igb", b"alias=pci:v8086*\0depends=dca,i2c-algo-bit\0");
        let builtin = tmp.path().join("modules.builtin");
        fs::write(&builtin, "kernel/drivers/virtio/virtio_pci.ko\n").unwrap();
        module("dca", b"depends=base\0");
        module("i2c-algo-bit", b"depends=base\0");
        module("base", b"depends=\0");
        module("unrelated", b"depends=\0");
        files.push(builtin);
        let into = tmp.path().join("out");
        select(&Tools::at("/nonexistent".into()), &files, &into).unwrap();
        let dep = fs::read_to_string(into.join("modules.dep")).unwrap();
        let igb = dep.lines().find(|l| l.starts_with("igb.ko:")).unwrap();
        assert!(
            igb.ends_with(" base.ko")
                && igb.contains(" dca.ko")
                && igb.contains(" i2c_algo_bit.ko"),
            "{igb}"
        );
        assert_eq!(
            fs::read_to_string(into.join("modules.alias")).unwrap(),
            "alias pci:v8086* igb\n"
        );
        assert!(!dep.contains("virtio_pci"), "it is built in");
        assert!(into.join("i2c_algo_bit.ko").exists() && !into.join("unrelated.ko").exists());

        files.retain(|p| !p.ends_with("base.ko"));
        let error = select(&Tools::at("/nonexistent".into()), &files, &into).unwrap_err();
        assert!(error.to_string().contains("module base"), "{error}");
    }
}
