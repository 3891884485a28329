//! One value, written by a control and read by queues without a lock.

use std::sync::Arc;

use arc_swap::ArcSwap;

/// The current version of a value that a control replaces as a whole and that queues read without a lock.
///
/// A reader that must not go on using an old version (a memory map after DMA_UNMAP) has to be told to load again;
/// this cell only makes the exchange itself safe.
#[derive(Debug)]
pub struct Published<T>(ArcSwap<T>);

impl<T> Published<T> {
    /// A cell that holds `value`.
    pub fn new(value: T) -> Self {
        Self(ArcSwap::from_pointee(value))
    }

    /// The version that is current now.
    pub fn load(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Replaces the value. Readers that loaded the old one keep it alive until they drop it.
    pub fn publish(&self, value: T) {
        self.0.store(Arc::new(value));
    }
}
