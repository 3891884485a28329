//! Memory that has to be asked for: the tests of both directions once more, and what only concerns such memory.

#![allow(
    clippy::duplicate_mod,
    reason = "the same tests under other conditions"
)]

#[path = "receive.rs"]
mod asked_receive;
#[path = "transmit.rs"]
mod asked_transmit;
#[path = "hostile.rs"]
mod interrupted_hostile;
#[path = "receive.rs"]
mod interrupted_receive;
#[path = "transmit.rs"]
mod interrupted_transmit;
