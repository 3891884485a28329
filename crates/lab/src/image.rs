//! The guest image: an initrd with NIC modules, tools and the command channel's other end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cpio::Archive;
use crate::tools::Tools;
use crate::{Error, Lab, Result, Suite, modules};

const INIT: &str = include_str!("guest/init.sh");
const AGENT: &str = include_str!("guest/agent.sh");
const HOTPLUG: &str = include_str!("guest/hotplug.sh");

/// Programs that come from packages rather than as busybox applets. The shell is one of them because busybox's own
/// prefers applets (its `ip` and `ping` among them) to whatever PATH says.
const PROGRAMS: [&str; 9] = [
    "bridge", "dash", "ethtool", "ip", "iperf3", "lspci", "ping", "ss", "tc",
];
/// What glibc loads by itself when a thread is cancelled, as iperf3 does at its end; no program names it.
const LIBGCC: &str = "usr/lib/x86_64-linux-gnu/libgcc_s.so.1";
/// PCI vendors whose devices `lspci` shall know by name: Intel, QEMU's (1234, 1af4, 1b36).
const PCI_VENDORS: [&str; 4] = ["8086", "1234", "1af4", "1b36"];
const PCI_IDS: &str = "usr/share/misc/pci.ids";

/// The suite's image, built.
pub(crate) fn ensure(lab: &Lab, suite: Suite) -> Result<PathBuf> {
    // Before the part's lock is taken: these are parts of their own.
    let (tools, kernel) = (lab.tools()?, lab.kernel(suite)?);
    let recipe = format!("{} {:016x}", kernel.release(), fingerprint());
    let dir = lab.part(&format!("image-{suite}"), &recipe, 50, |dir| {
        let image = build(&tools, kernel.release(), &kernel.modules())?;
        fs::write(dir.join("initrd"), image).map_err(Error::write(dir, "write the guest image"))
    })?;
    Ok(dir.join("initrd"))
}

/// That image with `archive` behind it: what `recipe` is the recipe of.
pub(crate) fn with(
    lab: &Lab,
    suite: Suite,
    name: &str,
    recipe: &str,
    archive: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<PathBuf> {
    let ordinary = lab.image(suite)?;
    let stamp = ordinary.with_file_name(".complete");
    let before =
        fs::read_to_string(&stamp).map_err(Error::io(format!("read {}", stamp.display())))?;
    let recipe = format!("{} {recipe}", before.trim_end());
    let dir = lab.part(&format!("image-{suite}-{name}"), &recipe, 80, |dir| {
        let mut image =
            fs::read(&ordinary).map_err(Error::io(format!("read {}", ordinary.display())))?;
        image.extend(archive()?);
        fs::write(dir.join("initrd"), image).map_err(Error::write(dir, "write the guest image"))
    })?;
    Ok(dir.join("initrd"))
}

/// Changes with whatever of the lab's own goes into the image (FNV-1a).
fn fingerprint() -> u64 {
    let parts = [INIT, AGENT, HOTPLUG, LIBGCC]
        .into_iter()
        .chain(PROGRAMS)
        .chain(PCI_VENDORS)
        .chain(modules::WANTED);
    let bytes = parts.flat_map(|p| p.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

fn build(tools: &Tools, release: &str, modules: &Path) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).map_err(Error::io(format!("read {}", path.display())));
    let mut archive = Archive::default();
    for folder in [
        "proc", "sys", "dev", "tmp", "run", "root", "etc", "mnt", "var/run", "usr/sbin",
    ] {
        archive.folder(folder);
    }
    // One folder for all programs, found under each usual name.
    for (link, target) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/bin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib"),
    ] {
        archive.symlink(link, target);
    }
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("usr/lib/lab/agent", 0o755, AGENT.as_bytes());
    archive.file("usr/lib/lab/hotplug", 0o755, HOTPLUG.as_bytes());
    archive.file("etc/passwd", 0o644, b"root::0:0:root:/root:/bin/sh\n");
    archive.file("etc/group", 0o644, b"root:x:0:\n");
    archive.file("etc/hosts", 0o644, b"127.0.0.1 localhost\n");

    let busybox = tools.path("busybox")?;
    archive.file("usr/bin/busybox", 0o755, &read(&busybox)?);
    for applet in applets(&busybox)?
        .iter()
        .filter(|a| !PROGRAMS.contains(&a.as_str()) && !["busybox", "sh"].contains(&a.as_str()))
    {
        archive.symlink(&format!("usr/bin/{applet}"), "busybox");
    }
    archive.symlink("usr/bin/sh", "dash");
    let mut libraries = vec![tools.root().join(LIBGCC)];
    for program in PROGRAMS {
        let path = tools.path(program)?;
        archive.file(&format!("usr/bin/{program}"), 0o755, &read(&path)?);
        libraries.extend(tools.libraries(&path)?);
    }
    libraries.sort();
    libraries.dedup();
    for library in libraries {
        let name = library
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        archive.file(&format!("usr/lib/{name}"), 0o755, &read(&library)?);
    }
    let ids = String::from_utf8_lossy(&read(&tools.root().join(PCI_IDS))?).into_owned();
    archive.file(PCI_IDS, 0o644, excerpt_pci_ids(&ids).as_bytes());

    let entries =
        fs::read_dir(modules).map_err(Error::io(format!("read {}", modules.display())))?;
    let mut entries: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        archive.file(
            &format!("usr/lib/modules/{release}/{name}"),
            0o644,
            &read(&path)?,
        );
    }
    Ok(archive.finish())
}

/// The names that busybox answers to.
fn applets(busybox: &Path) -> Result<Vec<String>> {
    let out = Command::new(busybox)
        .arg("--list")
        .output()
        .map_err(Error::io("start the lab's busybox"))?;
    Ok(String::from_utf8_lossy(&out.stdout)
        .lines()
        .map(str::to_owned)
        .collect())
}

/// Keeps of `pci.ids` the vendors that guests meet and all classes: `lspci` reads the whole file each time.
fn excerpt_pci_ids(ids: &str) -> String {
    let mut keep = false;
    let mut kept = String::new();
    for line in ids.lines() {
        if line.starts_with("C ") {
            keep = true;
        } else if !line.starts_with(['\t', '#']) && !line.is_empty() {
            keep = PCI_VENDORS.iter().any(|v| line.starts_with(v));
        }
        if keep && !line.starts_with('#') {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_excerpt_keeps_known_vendors_and_classes() {
        let ids = "# comment\n0e11  Compaq\n\t0001  Bridge\n8086  Intel Corporation\n\t100e  82540EM\n\t\t1af4 1100  QEMU\n\
            9004  Adaptec\n\tffff  X\n\n# classes\nC 02  Network controller\n\t00  Ethernet controller\n";
        assert_eq!(
            excerpt_pci_ids(ids),
            "8086  Intel Corporation\n\t100e  82540EM\n\t\t1af4 1100  QEMU\n\
             C 02  Network controller\n\t00  Ethernet controller\n"
        );
    }
}
