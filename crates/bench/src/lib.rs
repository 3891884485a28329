//! Drives NICs natively, with [`guest_driver`] playing the guest, and measures them beside their floors.
//!
//! The guest's side is replayed outside of the timed part: descriptors are posted and doorbells rung first, so that what
//! is measured is the work of the device. In [`engine`] the model's queues are called the way the daemon calls them,
//! without a socket; in [`daemon`] they are those of a `nic-emu-cli` of its own process. The [`floor`]s are what the same frames cost at the least. Both run in turns of some milliseconds
//! ([`slices`]), so that a ratio compares what the machine was like at that moment.
//!
//! `cargo xtask bench native` runs it.

#[cfg(feature = "native")]
pub mod daemon;
#[cfg(feature = "engine")]
pub mod engine;
#[cfg(feature = "native")]
pub mod floor;
#[cfg(feature = "native")]
pub mod native;
#[cfg(feature = "report")]
pub mod options;
#[cfg(feature = "native")]
pub mod processors;
#[cfg(feature = "report")]
pub mod report;
#[cfg(feature = "native")]
pub mod slices;
#[cfg(feature = "report")]
pub mod stats;
#[cfg(feature = "native")]
pub mod tap;
