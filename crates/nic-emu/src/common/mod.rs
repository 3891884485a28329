//! What is the same in every family of NICs.

pub mod checksum;
pub mod frame;
