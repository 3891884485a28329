//! What a server may leave behind when its client goes: nothing.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Inputs between two looks at the list of mappings, which is long.
const RARELY: u32 = 64;

/// Descriptors that this process has open.
pub(crate) fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// After an input: as many descriptors as before it, and no memory of a client.
pub(crate) fn check(descriptors_before: usize) {
    static INPUTS: AtomicU32 = AtomicU32::new(0);
    assert_eq!(
        descriptors(),
        descriptors_before,
        "descriptors were left open"
    );
    if INPUTS.fetch_add(1, Relaxed).is_multiple_of(RARELY) {
        mappings();
    }
}

/// No memory of a client is mapped.
///
/// # Panics
///
/// If some is.
pub fn mappings() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let left: Vec<_> = maps
        .lines()
        .filter(|line| line.contains("memfd:fuzz"))
        .collect();
    assert!(left.is_empty(), "still mapped: {left:?}");
}
