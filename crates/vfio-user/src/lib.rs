//! A vfio-user server for emulated PCI devices, and a [client](client).
//!
//! A hypervisor can leave the emulation of a PCI device to another process. The guest sees an ordinary PCI function;
//! what it does to the function's registers, the hypervisor (the *client*) tells that process (the *server*) over a
//! UNIX socket, by the protocol vfio-user. QEMU (10.1 and newer), cloud-hypervisor and SPDK speak it. This crate is the
//! server's end, and for tests and drivers in user space the client's as well.
//!
//! Describe what the device *is* with [`Device::builder`]: ids, BARs, capabilities, interrupts. Say what it *does* by
//! implementing [`Handler`]: what a read of a register returns, what a write sets off. Drive a [`Server`] from an event
//! loop. This crate never blocks, never starts a thread, and allocates nothing per message while a guest runs.
//!
//! # A whole device
//!
//! A register that counts the writes to it and interrupts at every tenth, in `examples/counter.rs`:
//!
//! ```no_run
#![doc = include_str!("../examples/counter.rs")]
//! ```
//!
//! It needs the crate `rustix`, version 1, with its feature `event`: what [`Epoll`] and [`Event`] are made for. Another
//! event loop implements [`Poller`] and makes [`Event`]s itself. A loop's own descriptors (timers, a backend, the other end
//! of an [ioeventfd](DeviceBuilder::ioeventfd)) are watched with data whose three lowest bits are 5, 6 or 7, and
//! [`Event::from_epoll`] leaves them alone. `examples/msix.rs` has 32 vectors of MSI-X.
//!
//! # The life of a device
//!
//! A [`Listener`] is bound, and the server waits. The client connects, *negotiates* a version and capabilities (this is
//! done before you hear of it), tells where the guest's memory is, asks what the device has, and hands over eventfds
//! for its interrupts. Then the guest's firmware finds the function, sizes its BARs and switches it on: configuration
//! space is kept by the server, the device is told of what matters by [`Handler::command`]. From there on it is reads
//! and writes.
//!
//! A [reset](Handler::reset) can come at any time and from four sides ([`ResetKind`]). When the client leaves, all that
//! was its own goes with it (memory, eventfds, configuration space), the device is reset, and the server listens on:
//! the device outlives its clients, one at a time. A client that breaks the framing of messages is disconnected
//! ([`Closed`]); for any other mistake it gets an errno and the connection goes on. Nothing that a client sends can do
//! more than that.
//!
//! Handlers cannot fail. Whatever a guest does has a result in hardware, and so it has here.
//!
//! # Threads
//!
//! A server belongs to one thread, as many servers as you like to one event loop: descriptors are handed out by
//! [`Server::update_watches`], events handed back to [`Server::on_event`], and no call waits for anything. While a
//! request is executed a CPU of the guest stands still, often with a lock held that stops all others: handlers take
//! microseconds.
//!
//! What other threads need is shared behind `Arc`s that stay the same for the life of the device: the guest's memory
//! ([`Server::mem`]) and the interrupts ([`Server::irqs`]). A device that moves data has *queues*, which run wherever
//! you like, started by register writes, and use both.
//!
//! # Epochs
//!
//! Some replies tell the client that something is not in use any more: to DMA_UNMAP, that the memory may be given to
//! somebody else; to a reset, that the device has come to rest. Queues on other threads cannot be stopped within the
//! request. So such a request begins an *epoch* ([`Server::epoch`] counts them), and its reply, with all that follow,
//! is held back until the owner of the queues calls [`Server::pass_epoch`]. Before that each queue has dropped the
//! memory map it was using and loaded the new one, and has noticed that it was reset or stopped. A device without
//! queues passes at once, as in the example, with [`Server::pass_epochs`]. Clients wait about 5 seconds for a reply, then give the device up: pass
//! quickly, and never make it wait for the client.
//!
//! # Memory
//!
//! [`Server::mem`] is the guest's memory as the client described it, an immutable snapshot that is replaced with every
//! change ([`guest_mem`]). Ranges that came with a file are mapped, and any thread may use them. Ranges without a file
//! are read and written by asking the client (DMA_READ, DMA_WRITE), and whoever does that waits for an answer that
//! arrives through the server. So a queue on the server's own thread uses
//! [`GuestMem::nonblocking`](guest_mem::GuestMem::nonblocking), in which such ranges are unreachable; a queue on a
//! thread of its own uses all, [flushes](guest_mem::GuestMem::flush) what it wrote before it interrupts the guest, and
//! gives way when it is [interrupted](guest_mem::DmaError::Interrupted) by an epoch. [`Server::memory`] tells which it
//! is for most of the memory: a hypervisor that does not share memory is slow, and its operator is told what to do.
//!
//! Hypervisors send a file for memory that they do not share, too (QEMU without `share=on`), and do not say so. With
//! clients that answer DMA_READ this is found out when the guest enables bus mastering, by comparing a few pages; such
//! a file is not used any further. A process whose clients may truncate the files they share installs
//! [`guest_mem::sigbus`].
//!
//! # Interrupts
//!
//! [`IrqTable`] raises them from any thread, without a lock. INTx is a *level*: [`set_level`](IrqTable::set_level) says
//! whether the device asks for attention, and the table knows when to signal, hold back and signal again. MSI and MSI-X
//! are messages: [`raise`](IrqTable::raise). One that is masked, or has no eventfd yet, stays pending and is delivered
//! later, never lost. Which of the two a guest uses is its choice, so a device with both asks
//! [`messages`](IrqTable::messages) and does the one or the other.
//!
//! # Memory of the device
//!
//! A BAR can be backed by a file in whole or in part ([`mappable`](DeviceBuilder::mappable)), which clients map into
//! the guest: accesses cost nothing then, and tell nothing. The device looks at the memory by itself
//! ([`Server::region_mem`]), in a loop or on a timer. The price: QEMU stops posting writes to all of the device's BARs.
//!
//! The other way to save messages, an eventfd that a client signals in place of a write
//! ([`ioeventfd`](DeviceBuilder::ioeventfd)), is offered to whoever asks; none of the hypervisors below does, so a device
//! has to take the same writes by message.
//!
//! # Migration
//!
//! A device that returns something from [`Handler::migration`] can be saved, moved and restored, by whoever speaks the
//! protocol's migration messages (the [client](client) here does; QEMU 11.1 does not, and moves a guest *without* its
//! device's state, saying nothing). The server keeps the states, saves configuration space and pending interrupts, logs
//! which pages the device writes, and checks what it restores; the device saves and loads the rest. A state is hostile
//! input like any other.
//!
//! # What clients differ in
//!
//! | | QEMU | cloud-hypervisor | SPDK |
//! |---|---|---|---|
//! | writes to memory BARs | posted, in batches | wait for the reply | wait for the reply |
//! | answers DMA_READ, DMA_WRITE | when it waits for nothing itself | no | no |
//! | memory without a file | passes it on as such | keeps it to itself | keeps it to itself |
//! | INTx | with KVM resampled by eventfd; else UNMASK after the first access | UNMASK after each access | does not use interrupts |
//! | an error to a read | the guest reads ones | waits for ever | is an error |
//! | several areas to map of one BAR | yes | yes | the first only |
//!
//! None of this concerns a device; it is why replies are what they are. [`client::Dialect`] has it as a table, for
//! tests. Where the server differs from libvfio-user, the C library of the protocol's authors, and which test shows
//! which clause, is in `docs/vfio-user.md` of the repository.
//!
//! # The specification
//!
//! Names here are those of the specification, `docs/interop/vfio-user.rst` of QEMU: what is said of REGION_READ is
//! found there under the heading "VFIO_USER_REGION_READ", and so on for all messages. [`wire`] has their layouts.

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
mod messages;
mod migration;
mod msix;
mod outbox;
mod pci;
mod remote;
mod server;
mod session;
mod set_irqs;
mod share;
mod sync;
mod version;
pub mod wire;

pub use device::{Bar, BuildError, Device, DeviceBuilder};
pub use dma::Memory;
pub use event::{Epoll, Event, Interest, Poller, Source};
pub use handler::{Handler, InvalidState, Migration, Pme, Region, ResetKind};
pub use irq::IrqTable;
pub use listener::{ListenError, ListenOptions, Listener};
pub use messages::Messages;
pub use migration::MAX_STATE;
pub use pci::{CONFIG_SIZE, CONFIG_SIZE_EXPRESS, Command, reg};
pub use remote::DmaMessages;
pub use server::{Accepted, Server};
pub use session::{Closed, Session};
