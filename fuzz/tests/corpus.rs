//! Everything that the fuzzer kept, and everything that once went wrong, run again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nic_emu_fuzz::{TARGETS, leaks};

/// The targets count the descriptors of this process, so they take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Files of a folder in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    files.sort();
    files
}

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn replay(folder: &str) -> usize {
    let _turn = turn();
    let mut replayed = 0;
    for (name, target) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(folder)
            .join(name);
        for path in files(&folder) {
            let data = fs::read(&path).expect("a readable file");
            eprintln!("{}", path.display());
            target(&data);
            replayed += 1;
        }
    }
    leaks::mappings();
    replayed
}

#[test]
fn the_corpus_is_handled_as_the_model_says() {
    assert!(replay("corpus") > 0, "no corpus");
}

#[test]
fn what_once_went_wrong_does_not_again() {
    replay("regressions");
}

#[test]
fn the_corpus_stays_small() {
    let _turn = turn();
    for (name, _) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(name);
        let sizes: Vec<_> = files(&folder)
            .iter()
            .map(|path| fs::metadata(path).map_or(0, |m| m.len()))
            .collect();
        assert!(!sizes.is_empty(), "{name}: no corpus");
        assert!(
            sizes.len() <= 1000 && sizes.iter().sum::<u64>() <= 300 << 10,
            "{name}: merge it"
        );
    }
}
