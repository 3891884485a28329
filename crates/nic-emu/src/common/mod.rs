//! What the models of more than one NIC family share.

pub mod checksum;
pub mod eeprom;
pub mod filter;
pub mod flash;
pub mod frame;
pub mod gso;
pub mod moderation;
pub mod phy;
pub mod ring;
pub mod stats;

// Not inside: the model check has the file by itself.
#[cfg(test)]
mod moderation_tests;
