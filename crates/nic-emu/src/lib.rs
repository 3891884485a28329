//! Behavioural models of Intel NICs, without I/O, clock or threads.
//!
//! A model is one [`Control`](e1000::Control) (registers, EEPROM, PHY, reset) and a set of queues (descriptors and
//! frames). They share nothing but atomics, so each of them may live on a thread of its own. Whoever drives them
//! passes bytes and the time in, and asks afterwards for the interrupt line and the next deadline.

pub mod common;
pub mod e1000;
pub mod pci;

mod interrupted;
mod time;

pub use interrupted::Interrupted;
pub use time::Time;
