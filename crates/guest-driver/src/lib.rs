//! Plays the guest: a small driver of the 82540EM, and the buses it runs over.
//!
//! The driver ([`E1000`]) does what a real one does in probe, open, traffic and close, over anything that implements
//! [`Bus`]. Its registers and descriptors ([`regs`], [`desc`]) are written down from the manual a second time, on
//! purpose: a model and a driver that share one table share its misreadings too.
//!
//! With the feature `std` (default) come the buses: [`direct`] calls a model in this process and owns its time,
//! [`socket`] is a vfio-user client with shared memory, [`qtest`] drives a device inside QEMU without a guest. Each of
//! them also implements [`Wire`], the far end of the network cable.

#![no_std]

#[cfg(feature = "std")]
extern crate std;

pub mod bus;
pub mod desc;
pub mod e1000;
pub mod eeprom;
pub mod fcs;
pub mod phy;
pub mod regs;
pub mod ring;

#[cfg(feature = "std")]
pub mod direct;
#[cfg(feature = "std")]
pub mod packet;
#[cfg(feature = "std")]
pub mod qtest;
#[cfg(feature = "std")]
pub mod ram;
#[cfg(feature = "std")]
pub mod socket;
#[cfg(feature = "std")]
pub mod wire;

pub use bus::{Bar, Bus, until};
pub use e1000::{Config, E1000, Error, Offload, Received};
#[cfg(feature = "std")]
pub use wire::Wire;
