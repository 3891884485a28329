//! RAM of one VM as seen by an emulated device.
//!
//! A [`GuestMem`] is an immutable snapshot of the memory map: sorted ranges of DMA addresses, each backed by a
//! [`Mapping`] of a file that the hypervisor shares, by a [`Remote`] that has to be asked, or known and unreachable. The owner of the map builds a new
//! snapshot for each change and hands it out through [`Published`]; whoever does DMA holds a snapshot, and with it
//! the mappings, for as long as it uses them.
//!
//! Guest RAM changes under our feet: the guest's CPUs and other devices write to it at any time. So nothing here
//! ever gives out a `&[u8]` into it. Bytes are copied in and out, or lent as [`GuestSlice`]s whose only use is to
//! be copied or to be handed to a system call as an iovec. Fetch once, judge the copy; publish a status word last,
//! with one of the `store_*` functions.
//!
//! This is the only crate of the workspace that dereferences guest pointers.

mod access;
mod build;
mod dirty;
mod map;
mod mapping;
mod published;
mod remote;
pub mod sigbus;

pub use access::GuestSlice;
pub use build::{BuildError, Builder};
pub use dirty::{DirtyLog, LogError, MAX_PAGES, MIN_PAGE_SIZE};
pub use map::{Access, GuestMem, Reach, Words};
pub use mapping::Mapping;
pub use published::Published;
pub use remote::{DmaError, Remote};
