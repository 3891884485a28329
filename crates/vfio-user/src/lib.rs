//! A vfio-user server for emulated PCI devices, and a client.
//!
//! A hypervisor (QEMU >= 10.1, cloud-hypervisor) attaches a PCI device over a UNIX socket. This crate is the
//! device's end: describe what the device *is* with [`Device::builder`], say what it *does* by implementing
//! [`Handler`], and drive a [`Server`] from an event loop. It never blocks, never starts a thread, and allocates
//! nothing per message while a guest runs.
//!
//! ```no_run
//! # use std::os::fd::AsFd;
//! # use rustix::event::epoll;
//! # use vfio_user::*;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # struct Nothing;
//! # impl Handler for Nothing {
//! #     fn read(&mut self, _: Region, _: u64, _: &mut [u8]) {}
//! #     fn write(&mut self, _: Region, _: u64, _: &[u8]) {}
//! #     fn reset(&mut self, _: ResetKind) {}
//! # }
//! # let mut handler = Nothing;
//! let device = Device::builder()
//!     .ids(0x1234, 0x11e8)
//!     .class(0xff_00_00)
//!     .bar(0, Bar::memory32(0x1000))
//!     .intx(1)
//!     .build()?;
//! let listener = Listener::bind("/run/device.sock", &ListenOptions::default())?;
//! let mut server = Server::new(listener, device);
//! let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
//! let mut events = Vec::with_capacity(16);
//! let mut seen = server.epoch();
//! loop {
//!     server.update_watches(&mut Epoll { epoll: epoll.as_fd(), token: 0 })?;
//!     epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None)?;
//!     for event in events.drain(..) {
//!         if let Some(event) = Event::from_epoll(event.data.u64(), event.flags) {
//!             // `Closed` is worth a line in the log; the server listens on.
//!             let _ = server.on_event(event, &mut handler);
//!         }
//!     }
//!     while server.epoch() != seen {
//!         seen = server.epoch();
//!         // Here queues load `server.mem()` again and drop the old map.
//!         let _ = server.pass_epoch(seen, &mut handler);
//!     }
//!     // Here queues work, and `server.irqs().set_level(..)` tells what they ask of the guest.
//! }
//! # }
//! ```
//!
//! # Where it differs from libvfio-user
//!
//! What the tests of libvfio-user (the C library of the protocol's authors) ask of a server is done, except where a
//! hypervisor in use would suffer, or a guest on real hardware would see something else:
//!
//! * A read outside a region, of a region that the device does not have or of a BAR that is not decoded reads as ones;
//!   it is not refused, since cloud-hypervisor waits for ever for the data of a refused read.
//! * Interrupts of INTx are announced as maskable and auto-masked, and those of MSI and MSI-X as maskable: they are.
//! * Without [ERR](DeviceBuilder::err_irq), GET_IRQ_INFO for it is refused: QEMU warns about a count of 0.
//! * An eventfd that comes with UNMASK for INTx is kept, and lets the line rise again when it is signalled.
//! * A message that is [raised](IrqTable::raise) while its vector is masked or has no eventfd is not refused but stays
//!   pending, and one of a vector that does not exist is ignored.
//! * Bits of configuration space that cannot be written ignore what is written, those of power management included;
//!   MSI-X's control can be written by accesses of any size.

mod access;
mod blob;
pub mod client;
mod config;
mod conn;
mod device;
mod dirty;
mod dma;
mod event;
mod feature;
mod handler;
mod inbox;
mod info;
mod io_fds;
mod irq;
mod listener;
mod migration;
mod msix;
mod outbox;
mod pci;
mod remote;
mod server;
mod session;
mod set_irqs;
mod share;
mod version;
pub mod wire;

pub use device::{Bar, BuildError, Device, DeviceBuilder};
pub use dma::Memory;
pub use event::{Epoll, Event, Interest, Poller, Source};
pub use handler::{Handler, InvalidState, Migration, Region, ResetKind};
pub use irq::IrqTable;
pub use listener::{ListenError, ListenOptions, Listener};
pub use migration::MAX_STATE;
pub use pci::{CONFIG_SIZE, CONFIG_SIZE_EXPRESS, Command, reg};
pub use remote::DmaMessages;
pub use server::{Accepted, Server};
pub use session::{Closed, Session};
