//! Guest memory as one queue sees it.

use std::sync::Arc;

use guest_mem::{GuestMem, Published};

/// The map that the queue uses until it passes an epoch.
pub(super) struct Memory {
    published: Arc<Published<GuestMem>>,
    now: Arc<GuestMem>,
    /// The queue may wait for memory that the hypervisor has to be asked for: it has a thread of its own.
    may_wait: bool,
}

impl Memory {
    pub(super) fn new(published: Arc<Published<GuestMem>>) -> Self {
        Self {
            published,
            now: Arc::new(GuestMem::empty()),
            may_wait: false,
        }
    }

    /// Says whether the queue may wait.
    pub(super) fn set_may_wait(&mut self, may_wait: bool) {
        self.may_wait = may_wait;
        self.load();
    }

    /// Lets go of the old map and takes over the newest.
    pub(super) fn load(&mut self) {
        let mem = self.published.load();
        self.now = match self.may_wait {
            true => mem,
            false => Arc::new(mem.nonblocking()),
        };
    }

    /// The map.
    pub(super) fn get(&self) -> Arc<GuestMem> {
        self.now.clone()
    }
}
