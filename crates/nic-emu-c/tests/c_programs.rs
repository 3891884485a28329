//! C programs that embed a NIC, compiled against the static and the shared library, and run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The libraries as they are now, in the folder of targets that this test was built in.
struct Libraries {
    fixed: PathBuf,
    shared: PathBuf,
}

fn libraries() -> &'static Libraries {
    static BUILT: OnceLock<Libraries> = OnceLock::new();
    BUILT.get_or_init(build)
}

fn build() -> Libraries {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("it is in the folder of targets");
    let output = Command::new(env!("CARGO"))
        .args(["build", "--package", "nic-emu-c", "--lib", "--locked"])
        .args(["--message-format", "json-render-diagnostics"])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let files: Vec<PathBuf> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "nic_emu_c")
        .flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default())
        .filter_map(|file| file.as_str().map(PathBuf::from))
        .collect();
    let named = |name: &str| {
        let found = files.iter().find(|file| file.ends_with(name));
        found
            .unwrap_or_else(|| panic!("no {name} in {files:?}"))
            .clone()
    };
    Libraries {
        fixed: named("libnic_emu_c.a"),
        shared: named("libnic_emu_c.so"),
    }
}

/// Compiles `source`, links it with `library`, runs it; its output.
fn run(source: &str, library: &Path, linkage: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let stem = Path::new(source).file_stem().expect("a file").display();
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{stem}-{linkage}"));
    let compiled = Command::new("cc")
        .args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"])
        .arg("-I")
        .arg(root.join("include"))
        .arg(root.join(source))
        .arg(library)
        .args(["-lpthread", "-ldl", "-lm", "-lgcc_s", "-o"])
        .arg(&program)
        .output()
        .expect("cc runs");
    let errors = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{errors}");

    let output = Command::new(&program)
        .env("LD_LIBRARY_PATH", library.parent().expect("a file"))
        .output()
        .expect("it was just made");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    said
}

#[test]
fn example_runs_with_the_static_library() {
    let said = run("examples/loop.c", &libraries().fixed, "static");
    assert!(said.contains("back in our own memory"), "{said}");
}

#[test]
fn example_runs_with_the_shared_library() {
    let said = run("examples/loop.c", &libraries().shared, "shared");
    assert!(said.contains("back in our own memory"), "{said}");
}

#[test]
fn misuse_is_answered_with_a_status() {
    let said = run("tests/misuse.c", &libraries().fixed, "static");
    assert!(said.ends_with("all as the header says\n"), "{said}");
}
