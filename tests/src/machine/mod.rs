//! Machines without a guest: a device, its cable, and a driver's hands on it.
//!
//! [`Direct`](guest_driver::direct::Direct) is the model by itself, [`Served`] the model behind a socket,
//! [`Attached`] the same with QEMU as its client, and [`Qemu`] QEMU's own device.

mod attached;
mod far;
mod qemu;
mod served;

pub use attached::Attached;
pub use far::FarTap;
pub use qemu::{Qemu, RAM, SLOT, StreamCable, StreamSocket, e1000_on_wire};
pub use served::{Cable, Daemon, Served};

use guest_driver::{Bus, Wire};

/// A device with its cable.
pub trait Machine: Bus + Wire {}

impl<T: Bus + Wire> Machine for T {}

/// The station address of the device under test.
pub const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
