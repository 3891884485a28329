//! The evaluation runs, and its report can be made anew from what it has stored.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use nic_emu_lab::Lab;
use serde_json::Value;

fn evaluate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("evaluate")
        .args(arguments)
        .output()
        .expect("xtask starts")
}

/// Texts of a report's folder by name.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).expect("there is a folder");
    let file = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.expect("it can be read");
        let text = fs::read_to_string(entry.path()).expect("it is text");
        (entry.file_name().to_string_lossy().into_owned(), text)
    };
    entries.map(file).collect()
}

#[test]
fn a_short_round_becomes_a_report() {
    let folder = tempfile::tempdir().expect("there is room");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (made, again) = (path("made"), path("again"));
    let run = evaluate(&["--quick", "--output", &made]);
    let said = String::from_utf8_lossy(&run.stderr);
    println!("{said}");
    assert!(run.status.success());
    assert!(said.contains("round 1 of 1, QEMU e1000: RX "), "{said}");
    assert!(said.contains("fewer than 7 rounds"), "{said}");

    let files_made = files(Path::new(&made));
    let names: Vec<&str> = files_made.keys().map(String::as_str).collect();
    let pictures = [
        "cpu.svg",
        "latency-1000.svg",
        "overload.svg",
        "throughput.svg",
    ];
    let [readme, figures] = ["README.md", "evaluation.json"];
    assert_eq!(
        names,
        [&[readme, pictures[0], figures][..], &pictures[1..]].concat()
    );
    let json: Value = serde_json::from_str(&files_made[figures]).expect("it is JSON");
    let runs = json["runs"].as_array().expect("there are runs");
    assert_eq!(runs.len(), 2);
    for (run, nic) in runs.iter().zip(["nic-emu", "e1000"]) {
        assert_eq!(run["nic"], nic);
        assert_eq!(run["tap"], runs[0]["tap"]);
        let positive = [
            "/receive/mbit",
            "/send/mbit",
            "/receive/bytes",
            "/receive/cpu/qemu",
            "/ping/p50",
            "/udp/p50",
            "/loads/0/echoed",
            "/loads/0/trips/p50",
        ];
        for value in positive {
            let number = run.pointer(value).and_then(Value::as_f64);
            assert!(number.is_some_and(|n| n > 0.0), "{value}: {number:?}");
        }
    }
    let text = &files_made[readme];
    for part in [
        "## How big is the impact of moving device emulation into userspace?",
        "## Is an emulated e1000 viable instead of virtio?",
        "nic-emu-cli serve",
        "| nic-emu e1000 |",
    ] {
        assert!(text.contains(part), "{part}");
    }
    let lab = Lab::open().expect("there is a lab");
    let machines_own = lab.dir().display().to_string();
    assert!(!files_made[figures].contains(&machines_own));

    let from = format!("{made}/{figures}");
    let run = evaluate(&["--from", &from, "--output", &again]);
    assert!(run.status.success());
    let files_again = files(Path::new(&again));
    for (name, text) in &files_made {
        assert!(files_again.get(name) == Some(text), "{name} differs");
    }
    assert_eq!(files_again.len(), files_made.len());
}

#[test]
fn mistakes_are_told_in_a_sentence() {
    let folder = tempfile::tempdir().expect("there is room");
    let empty = folder.path().display().to_string();
    for (arguments, sentence) in [
        (&["--rates", "0"][..], "invalid value '0' for '--rates"),
        (
            &["--nics", "rtl8139"],
            "invalid value 'rtl8139' for '--nics",
        ),
        (&["--nics", "igb,igb"], "QEMU igb is named twice in --nics"),
        (
            &["--guest-cpus", "0-99999"],
            "`0-99999`: no processors that this process may use",
        ),
        (&["--daemon-cpu", "x"], "`x`: no processors"),
        (&["--quick", "--rounds", "3"], "cannot be used with"),
        (&["--resume", "--output", &empty], "nothing to resume"),
        (
            &["--from", "/nonexistent.json"],
            "cannot read /nonexistent.json",
        ),
    ] {
        let run = evaluate(arguments);
        assert!(!run.status.success(), "{arguments:?}");
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(said.contains(sentence), "{arguments:?}: {said}");
    }
    assert_eq!(files(folder.path()).len(), 0);
}
