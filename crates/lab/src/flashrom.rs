//! flashrom from its package, and the guest image that has it.

use std::fs;
use std::path::PathBuf;

use crate::apt::Apt;
use crate::cpio::Archive;
use crate::kernel::Suite;
use crate::tools::Tools;
use crate::{Error, Lab, Result, image, unpack};

const PACKAGE: &str = "flashrom";

/// The suite's guest image with flashrom in it: the ordinary one, and a second archive behind it.
pub(crate) fn image(lab: &Lab, suite: Suite) -> Result<PathBuf> {
    let tree = tree(lab)?;
    image::with(lab, suite, PACKAGE, PACKAGE, || archive(&tree))
}

/// The program with the libraries that it needs, unpacked.
fn tree(lab: &Lab) -> Result<Tools> {
    let root = lab.part(PACKAGE, PACKAGE, 60, |dir| {
        let apt = Apt::open(lab)?;
        for deb in apt.fetch_with_dependencies(PACKAGE, Suite::Trixie, &[PACKAGE])? {
            unpack::package(&deb, dir)?;
        }
        apt.forget(PACKAGE)
    })?;
    Ok(Tools::at(root))
}

fn archive(tree: &Tools) -> Result<Vec<u8>> {
    let program = tree.path(PACKAGE)?;
    let mut archive = Archive::default();
    let read =
        |path: &PathBuf| fs::read(path).map_err(Error::io(format!("read {}", path.display())));
    archive.file("usr/bin/flashrom", 0o755, &read(&program)?);
    for library in tree.libraries(&program)? {
        let name = library.file_name().and_then(|n| n.to_str());
        let name = format!("usr/lib/{}", name.unwrap_or_default());
        archive.file(&name, 0o755, &read(&library)?);
    }
    Ok(archive.finish())
}
