//! Behavioural models of Intel NICs, without I/O, clock or threads.
//!
//! A model is one [`Control`](e1000::Control) (registers, EEPROM, PHY, reset) and a set of queues (descriptors and
//! frames). They share nothing but atomics, so each of them may live on a thread of its own. Whoever drives them
//! passes bytes and the time in, and asks afterwards for the interrupt line and the next deadline.
//!
//! # Embedding one
//!
//! - **The bus**: [`Control::pci`](e1000::Control::pci) describes the function; configuration space is the embedder's.
//!   Accesses to the BARs go to [`read`](e1000::Control::read) and [`write`](e1000::Control::write), COMMAND.MASTER to
//!   [`set_bus_master`](e1000::Control::set_bus_master), resets and the way from D3hot to D0 to
//!   [`reset`](e1000::Control::reset). A [`Kick`](e1000::Kick) says which queues have something to do afterwards.
//! - **Memory**: a [`GuestMem`](guest_mem::GuestMem), of files that the hypervisor shares or of callbacks
//!   ([`Remote`](guest_mem::Remote)).
//! - **Frames out**: [`TxQueue::fetch`](e1000::tx::TxQueue::fetch) lends a burst,
//!   [`complete`](e1000::tx::TxQueue::complete) says how many of its frames have left. A frame may carry
//!   [requests](common::frame::Offload) that the guest expects of its NIC; [`Segments`](common::gso::Segments) grants
//!   them in software. A burst that is a [loopback](common::frame::TxBurst::loopback) goes to the same NIC's receiver.
//! - **Frames in**: while [`RxQueue::has_room`](e1000::rx::RxQueue::has_room), [`deliver`](e1000::rx::RxQueue::deliver)
//!   them, then [`finish`](e1000::rx::RxQueue::finish) the batch. With no room they are better left where they are
//!   until a `Kick::RX`.
//! - **The interrupt**: after each turn the line takes the level of [`Irq::poll`](e1000::irq::Irq::poll).
//! - **Time**: nothing but the `now` that calls carry. What is due by itself, and when, say
//!   [`Control::deadline`](e1000::Control::deadline) and [`Irq::deadline`](e1000::irq::Irq::deadline).
//!
//! From C, and with all of that in one object: the crate `nic-emu-c`.
//!
//! # Example
//!
//! `cargo run -p nic-emu --example loop`:
//!
//! ```
#![doc = include_str!("../examples/loop.rs")]
//! ```

pub mod common;
pub mod e1000;
pub mod pci;

mod interrupted;
mod sync;
mod time;

pub use interrupted::Interrupted;
pub use time::Time;
