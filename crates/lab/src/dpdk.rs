//! DPDK from packages, and the guest image that has its `testpmd`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::{Apt, Package, missing_tool};
use crate::cpio::Archive;
use crate::kernel::Suite;
use crate::tools::Tools;
use crate::{Error, Lab, Result, image, unpack};

/// The package with `dpdk-testpmd`. To install it would bring a compiler and the headers of everything.
const PACKAGE: &str = "dpdk-dev";
/// What testpmd needs beyond its package's dependencies: the packages of [`PLUGINS`].
const DRIVERS: [&str; 2] = ["librte-net-e1000-25", "librte-mempool-ring25"];
const PROGRAM: &str = "dpdk-testpmd";
/// What DPDK loads by itself from its folder of drivers, and no program names.
const PLUGINS: [&str; 2] = ["librte_net_e1000.so", "librte_mempool_ring.so"];
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// The suite's guest image with `testpmd` in it: the ordinary one, and a second archive behind it.
pub(crate) fn image(lab: &Lab, suite: Suite) -> Result<PathBuf> {
    let recipe = format!("{PACKAGE} {}", PLUGINS.join(" "));
    let tree = tree(lab)?;
    image::with(lab, suite, "dpdk", &recipe, || archive(&tree))
}

/// The program with the libraries that it needs, unpacked.
fn tree(lab: &Lab) -> Result<Tools> {
    let recipe = format!("{PACKAGE} {}", DRIVERS.join(" "));
    let root = lab.part("dpdk", &recipe, 200, |dir| {
        let apt = Apt::open(lab)?;
        let packages: Vec<Package> = apt
            .would_install(Suite::Trixie, &[PACKAGE])?
            .into_iter()
            .filter(|p| p.name == PACKAGE)
            .collect();
        let mut needed = DRIVERS.map(str::to_owned).to_vec();
        for deb in apt.fetch_exactly("dpdk", &packages)? {
            unpack::package(&deb, dir)?;
            needed.extend(libraries(&depends(&deb)?));
        }
        let needed: Vec<&str> = needed.iter().map(String::as_str).collect();
        for deb in apt.fetch_with_dependencies("dpdk", Suite::Trixie, &needed)? {
            unpack::package(&deb, dir)?;
        }
        apt.forget("dpdk")
    })?;
    Ok(Tools::at(root))
}

/// What a package says it depends on.
fn depends(deb: &Path) -> Result<String> {
    let out = Command::new("dpkg-deb")
        .arg("-f")
        .arg(deb)
        .arg("Depends")
        .output()
        .map_err(|e| missing_tool("dpkg-deb", e))?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The shared libraries among a package's dependencies.
fn libraries(depends: &str) -> Vec<String> {
    depends
        .split(',')
        .filter_map(|one| one.split_whitespace().next())
        .filter(|name| name.starts_with("lib") && !name.ends_with("-dev"))
        .map(str::to_owned)
        .collect()
}

fn archive(tree: &Tools) -> Result<Vec<u8>> {
    let program = tree.path(PROGRAM)?;
    let mut archive = Archive::default();
    archive.file(&format!("usr/bin/{PROGRAM}"), 0o755, &read(&program)?);
    let mut libraries = tree.libraries(&program)?;
    let plugins = plugins(tree)?;
    for plugin in &plugins {
        libraries.extend(tree.libraries(plugin)?);
        let inside = plugin.strip_prefix(tree.root()).unwrap_or(plugin);
        archive.file(&inside.to_string_lossy(), 0o755, &read(plugin)?);
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
    Ok(archive.finish())
}

/// The drivers to load, in the folder that DPDK was built to look into (`dpdk/pmds-25.0`).
fn plugins(tree: &Tools) -> Result<Vec<PathBuf>> {
    let above = tree.root().join(LIBRARIES).join("dpdk");
    let entries = fs::read_dir(&above).map_err(Error::io(format!("read {}", above.display())))?;
    let mut files = Vec::new();
    for folder in entries.flatten().map(|e| e.path()) {
        let inside =
            fs::read_dir(&folder).map_err(Error::io(format!("read {}", folder.display())))?;
        files.extend(inside.flatten().map(|e| e.path()));
    }
    let wanted = |plugin: &str| {
        let mut named: Vec<&PathBuf> = files
            .iter()
            .filter(|path| !path.is_symlink() && base_name(path).starts_with(plugin))
            .collect();
        named.sort();
        named.pop().cloned().ok_or_else(|| Error::NotInPackage {
            what: plugin.into(),
            set: "DPDK".into(),
            dir: above.clone(),
        })
    };
    PLUGINS.into_iter().map(wanted).collect()
}

fn base_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(Error::io(format!("read {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shared_libraries_are_taken_of_the_dependencies() {
        let depends = "libdpdk-dev (>= 24.11.4), python3, ibverbs-providers (>= 23~), libbsd0 (>= 0.0),\n \
            librte-eal25 (>= 24.11~rc2), zlib1g (>= 1:1.1.4)";
        assert_eq!(libraries(depends), ["libbsd0", "librte-eal25"]);
        assert!(libraries("").is_empty());
    }
}
