//! Fuzz targets: plain functions of bytes that panic when the product does not do what it should.
//!
//! `cargo xtask fuzz` hands them to libFuzzer, which looks for inputs that reach new code. What it keeps in `corpus/` and
//! what once went wrong, in `regressions/`, is replayed by the tests of this crate on every run of the test suite.
//!
//! A target is more than "it did not crash": the `model` works out a second time, and naively, what a server has to
//! answer, and what the memory map, the interrupt line and the eventfds must look like.

mod actions;
mod bus;
mod check;
mod device;
mod fds;
mod framer;
mod input;
pub mod leaks;
mod migrate;
mod model;
mod nic;
mod peer;
mod planted;
mod session;
mod state;
pub mod stats;
mod stream;

/// A target: takes any bytes and panics if something is wrong.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("stream", stream::run),
    ("session", session::run),
    ("state", state::run),
    ("e1000", state::drive),
];

/// Runs the target called `name`, as the fuzzer does.
///
/// # Panics
///
/// If there is no such target, and if it finds something.
pub fn run(name: &str, data: &[u8]) {
    let found = TARGETS.iter().find(|(target, _)| *target == name);
    let (_, target) = found.unwrap_or_else(|| panic!("there is no target {name}"));
    stats::input(true);
    target(data);
}
