//! Finds or builds the programs that tests run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};

/// The workspace's folder.
#[must_use]
pub fn workspace() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// A release build of `nic-emu-cli`: the one that `NIC_EMU_CLI` names, else built now, once per process.
///
/// # Errors
/// It does not build.
pub fn nic_emu_cli() -> Result<&'static Path> {
    static BUILT: Built = OnceLock::new();
    named_or_built(&BUILT, "NIC_EMU_CLI", || {
        let mut build = cargo();
        build.args(["build", "--release", "--package", "nic-emu-cli"]);
        build.stderr(Stdio::inherit());
        executable(build, "nic-emu-cli")
    })
}

/// A release build of the native benchmark, built now.
///
/// # Errors
/// It does not build.
pub fn nic_emu_bench() -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--release", "--package", "nic-emu-bench"]);
    build.stderr(Stdio::inherit());
    executable(build, "nic-emu-bench")
}

/// A release build of the program whose instructions are counted, built now: from this workspace, or from a copy of it.
///
/// # Errors
/// It does not build.
pub fn instructions(workspace: &Path) -> Result<PathBuf> {
    let mut build = cargo();
    build.current_dir(workspace);
    build.args(["build", "--release", "--package", "nic-emu-bench"]);
    build.args(["--no-default-features", "--features", "engine"]);
    build.args(["--bin", "instructions"]);
    build.stderr(Stdio::inherit());
    executable(build, "instructions")
}

/// The guest without an operating system, ready for [`nic_emu_lab::Lab::bare`]: the image that `NIC_EMU_BARE_GUEST`
/// names, else built now, once per process.
///
/// # Errors
/// It does not build.
pub fn bare_guest() -> Result<&'static Path> {
    static BUILT: Built = OnceLock::new();
    named_or_built(&BUILT, "NIC_EMU_BARE_GUEST", || {
        image("bare-guest", "image")
    })
}

/// The same with a driver that others wrote, which is under the GPL: for use here, to be handed to nobody. It is built
/// now, once per process, unless `NIC_EMU_PEER_GUEST` names it.
///
/// # Errors
/// It does not build.
pub fn peer_guest() -> Result<&'static Path> {
    static BUILT: Built = OnceLock::new();
    named_or_built(&BUILT, "NIC_EMU_PEER_GUEST", || image("peer-guest", "peer"))
}

fn image(name: &str, feature: &str) -> Result<PathBuf> {
    let build = |flags: &str| {
        let mut build = cargo();
        build.args(["build", "--package", "bare-guest", "--bin", name]);
        build.args(["--features", feature]);
        // With a target of its own name, flags do not reach build scripts.
        build.args(["--profile", "bare", "--target", "x86_64-unknown-linux-gnu"]);
        build.env("CARGO_ENCODED_RUSTFLAGS", flags);
        executable(build, name)
    };
    // Without SSE it also runs where KVM interprets its guest. Compilers warn that they may refuse that some day.
    build("-Ctarget-feature=-sse").or_else(|_| build(""))
}

/// The UDP echo for guests, which needs no library there: built now, once per process.
///
/// # Errors
/// It does not build.
pub fn udp_echo() -> Result<&'static Path> {
    static BUILT: Built = OnceLock::new();
    named_or_built(&BUILT, "NIC_EMU_UDP_ECHO", || {
        let mut build = cargo();
        build.args(["build", "--release", "--package", "udp-echo"]);
        build.args(["--target", "x86_64-unknown-linux-gnu"]);
        let flags = ["-Ctarget-feature=+crt-static", "-Cstrip=symbols"];
        build.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1F"));
        executable(build, "udp-echo")
    })
}

/// The example `name` of the crate `vfio-user`, built now.
///
/// # Errors
/// It does not build.
pub fn example(name: &str) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--package", "vfio-user", "--example", name]);
    executable(build, name)
}

/// A `cargo` command in this workspace: the cargo that started us, if one did.
#[must_use]
pub fn cargo() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace());
    command
}

type Built = OnceLock<Result<PathBuf, String>>;

fn named_or_built(
    built: &'static Built,
    variable: &str,
    build: impl FnOnce() -> Result<PathBuf>,
) -> Result<&'static Path> {
    let built = built.get_or_init(|| match std::env::var_os(variable) {
        Some(path) if !path.is_empty() => Ok(path.into()),
        _ => build().map_err(|error| format!("{error:#}")),
    });
    match built {
        Ok(path) => Ok(path),
        Err(error) => bail!("{error}"),
    }
}

/// Runs a build and finds the program of this name that came out of it.
fn executable(mut build: Command, name: &str) -> Result<PathBuf> {
    build.args(["--locked", "--message-format", "json-render-diagnostics"]);
    let output = build.output().context("cannot start cargo")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} does not build\n{said}");
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut executables = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let ours = message["target"]["name"] == name;
        ours.then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    executables
        .next_back()
        .with_context(|| format!("cargo built {name} but did not say where it is"))
}
