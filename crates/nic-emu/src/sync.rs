//! The atomics of what queues and control share. The model check replaces them by its own.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
