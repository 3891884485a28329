//! What threads share interrupts by. The model check replaces it by its own.

pub(crate) use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

pub(crate) use arc_swap::ArcSwapOption;
