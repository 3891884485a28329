//! Network backends for emulated NICs: TAP, switch, null, capture, faults.
//!
//! A [`Backend`] is the far end of a NIC's cable. Its [`Sender`] is lent the frames that a transmit queue fetched, still
//! in guest memory, and its [`Receiver`] lends out the frames it received; two threads may have one each. None of them has a thread or waits for anything: whoever drives them
//! watches their descriptors and deadlines.

mod backend;
mod fault;
mod held;
mod netlink;
mod null;
mod pcap;
pub mod switch;
mod sync;
mod sys;
mod tap;
#[cfg(test)]
mod testing;
mod vnet;

pub use backend::{Backend, Counters, Meter, Receiver, Room, RxBuf, Sender, Way};
pub use fault::{Direction, Fault, FaultOptions};
pub use netlink::IpPrefix;
pub use null::Null;
pub use pcap::Pcap;
pub use sys::inherit_fd;
pub use tap::{Tap, TapError, TapOptions};
