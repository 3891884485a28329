//! The atomics of what threads share. The model check replaces them by its own.

pub(crate) use std::sync::atomic::{AtomicBool, Ordering, fence};
