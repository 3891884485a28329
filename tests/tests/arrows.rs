//! The crates depend on one another the way ARCHITECTURE.md draws it.

use std::collections::BTreeMap;
use std::process::Command;

/// Which crates of the workspace each crate may depend on, build and development dependencies aside.
const ARROWS: &[(&str, &[&str])] = &[
    ("guest-mem", &[]),
    ("nic-emu", &["guest-mem"]),
    ("nic-emu-c", &["guest-mem", "nic-emu"]),
    ("vfio-user", &["guest-mem"]),
    ("net-backend", &["guest-mem", "nic-emu"]),
    (
        "nic-emu-cli",
        &["guest-mem", "net-backend", "nic-emu", "vfio-user"],
    ),
    ("guest-driver", &["guest-mem", "nic-emu", "vfio-user"]),
    ("bare-guest", &["guest-driver"]),
    ("nic-emu-lab", &[]),
    ("udp-echo", &[]),
    (
        "nic-emu-bench",
        &[
            "guest-driver",
            "guest-mem",
            "net-backend",
            "nic-emu",
            "nic-emu-lab",
            "nic-emu-tests",
            "vfio-user",
        ],
    ),
];

#[test]
fn crates_depend_on_one_another_as_drawn() {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
            "--manifest-path",
        ])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let names: Vec<_> = packages
        .iter()
        .filter_map(|package| package["name"].as_str())
        .collect();
    let arrows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    for package in packages {
        let name = package["name"].as_str().expect("name");
        let Some(allowed) = arrows.get(name) else {
            continue;
        };
        let dependencies = package["dependencies"].as_array().expect("dependencies");
        let ours = dependencies
            .iter()
            .filter(|dependency| dependency["kind"].is_null())
            .filter_map(|dependency| dependency["name"].as_str())
            .filter(|dependency| names.contains(dependency));
        for dependency in ours {
            assert!(
                allowed.contains(&dependency),
                "{name} may not depend on {dependency}"
            );
        }
    }
    for name in arrows.keys() {
        assert!(names.contains(name), "{name} is not in the workspace");
    }
}
