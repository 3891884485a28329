//! libnic-emu for C: an 82540EM as one object with callbacks, as a static and as a shared library.
//!
//! `include/nic_emu.h` is made of this crate and is what a C program reads; `examples/loop.c` is one. The object is
//! `device::Nic`: control and queues of the model with everything that an event loop would do for them, in safe Rust. Two
//! files know of C: `api` has the functions, `host` calls the callbacks.

pub mod api;
mod describe;
mod device;
mod host;
pub mod types;
