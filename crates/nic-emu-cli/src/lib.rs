//! The daemon: NIC models, vfio-user and network backends joined.
//!
//! The program is a thin layer of arguments ([`Cli`]) in front of [`serve`]; tests run [`Shards`]
//! of [`Nic`]s in threads of their own.

mod args;
mod attach;
mod capabilities;
mod config;
mod cpus;
mod eeprom;
mod engine;
mod error;
mod flash;
mod keys;
mod loopback;
mod mac;
mod models;
mod net;
mod nic;
mod operator;
mod rom;
mod serve;
mod shard;
mod shards;
mod summary;
mod sync;
mod timers;
pub mod view;
mod waiting;

pub use args::{Cli, Command, Inspect, Link, LinkState, Serve};
pub use capabilities::Capabilities;
pub use config::{Fault, Listen, Net, NicConfig, Tap};
pub use cpus::Cpu;
pub use eeprom::EepromFile;
pub use error::UsageError;
pub use flash::FlashFile;
pub use keys::Keys;
pub use mac::{BadMac, MacAddr};
pub use models::Model;
pub use nic::{Nic, Report};
pub use operator::{inspect, set_link};
pub use rom::Rom;
pub use serve::{Control, Threads, group_id, serve};
pub use shard::Shard;
pub use shards::Shards;
pub use waiting::{Waits, WaitsSnapshot};
