//! Something that any thread may have done, but only one at a time, and nobody waits.

use crate::sync::{AtomicU8, SeqCst};

const FREE: u8 = 0;
/// Somebody is at it.
const TAKEN: u8 = 1;
/// Somebody is at it, and somebody else came meanwhile.
const AGAIN: u8 = 2;

/// Who finds it taken leaves a mark, and who has it does it again.
#[derive(Debug, Default)]
pub(crate) struct Turns(AtomicU8);

impl Turns {
    /// Has `work` done: when this returns, or on another thread soon after, at least once from the beginning.
    pub(crate) fn have_done(&self, mut work: impl FnMut()) {
        if self.0.swap(AGAIN, SeqCst) != FREE {
            return;
        }
        // As often as others come, which takes each of them much longer than this does.
        loop {
            // A swap, not a store: it sees what was done before the mark that it wipes.
            self.0.swap(TAKEN, SeqCst);
            work();
            if self.0.compare_exchange(TAKEN, FREE, SeqCst, SeqCst).is_ok() {
                return;
            }
        }
    }
}
