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
//!         // Here queues load `server.mem()` again (on this thread: its `nonblocking()` view) and drop the old map.
//!         let _ = server.pass_epoch(seen, &mut handler);
//!     }
//!     // Here queues work, and `server.irqs().set_level(..)` tells what they ask of the guest.
//! }
//! # }
//! ```
//!
//! # Memory, and the threads that use it
//!
//! [`Server::mem`] is the guest's memory as the client described it. Ranges that came with a file are mapped, and any
//! thread may use them. Ranges without a file are read and written by asking the client (DMA_READ, DMA_WRITE), and
//! whoever does that waits for an answer that arrives through the server. So a queue on the server's own thread uses
//! [`GuestMem::nonblocking`](guest_mem::GuestMem::nonblocking), in which such ranges are unreachable; a queue on a
//! thread of its own uses all, [flushes](guest_mem::GuestMem::flush) what it wrote before it interrupts the guest, and
//! gives way when it is [interrupted](guest_mem::DmaError::Interrupted) by an epoch. [`Server::memory`] tells which it
//! is for most of the memory: a hypervisor that does not share memory is slow, and its operator is told what to do.
//!
//! Hypervisors send a file for memory that they do not share, too (QEMU without `share=on`), and do not say so. With
//! clients that answer DMA_READ this is found out when the guest enables bus mastering, by comparing a few pages; such
//! a file is not used any further.
//!
//! # Migration
//!
//! A device whose handler has a [`Migration`] can be moved to another server by a client that asks for it: it is
//! stopped, its state read in pieces, written to a device of the same description elsewhere, and continued there. The
//! server keeps the states of the protocol, saves configuration space and what is pending of MSI and MSI-X, and checks
//! that the bytes are whole; what else the device knows is the handler's. A transition that stops the device is answered
//! when all queues have passed its epoch, and nothing is executed before: [`Migration::save`] finds them at rest. Bytes
//! that are no state of this device leave it in the ERROR state of the protocol until it is reset; nobody else notices.
//!
//! Meanwhile the client may have all pages logged that the device writes through [`Server::mem`].
//!
//! # Where it differs from libvfio-user
//!
//! What the tests of libvfio-user (the C library of the protocol's authors) ask of a server is done, except where a
//! hypervisor in use would suffer, or a guest on real hardware would see something else:
//!
//! * The answer to VERSION is never longer than the proposal, which QEMU could not receive; the protocol's defaults hold
//!   for what does not fit. Only clients that ask for a second socket get a longer one.
//! * The same memory mapped again succeeds, as there; other overlaps are refused with EINVAL as there, where the
//!   specification names EEXIST. A client may have [`wire::MAX_DMA_MAPS`] maps of 512 files; ENOSPC if its files are
//!   more, or larger than 8 TiB together. A file that is not a regular one is refused with EINVAL.
//! * A reply that nobody asked for is refused with EINVAL as long as the client was not asked anything; later ones are
//!   ignored, since answers may come late.
//! * A read outside a region, of a region that the device does not have or of a BAR that is not decoded reads as ones;
//!   it is not refused, since cloud-hypervisor waits for ever for the data of a refused read.
//! * Interrupts of INTx are announced as maskable and auto-masked, and those of MSI and MSI-X as maskable: they are.
//! * Without [ERR](DeviceBuilder::err_irq), GET_IRQ_INFO for it is refused: QEMU warns about a count of 0.
//! * An eventfd that comes with UNMASK for INTx is kept, and lets the line rise again when it is signalled.
//! * A message that is [raised](IrqTable::raise) while its vector is masked or has no eventfd is not refused but stays
//!   pending, and one of a vector that does not exist is ignored.
//! * A reset is let through in every state of a migration: it is the only way out of ERROR.
//! * A feature that does not exist, or of a device that cannot be migrated, is answered ENOTTY, as Linux answers.
//! * The page size of a dirty log is a hint: below 4096 it becomes that, and the reply says so. Any part of what is mapped
//!   can be reported, memory without a descriptor included.
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
