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
//! What is served: everything that the named hypervisors send from start-up to shutdown. Not served, and answered
//! with errors: migration, dirty page tracking, regions that the client maps, DMA by message.

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
