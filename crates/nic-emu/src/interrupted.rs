//! Work that a change of the memory map has stopped.

use std::fmt;

/// The memory map is about to change, and a [`Remote`](guest_mem::Remote) answers nobody until all queues know it.
///
/// What was under way is kept, to the last frame. The queue's owner lets the epoch pass, loads the new map and calls
/// the queue again: the call that says so, or any later one, goes on where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a change of the memory map has to pass first")
    }
}

impl std::error::Error for Interrupted {}
