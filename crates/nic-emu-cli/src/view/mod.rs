//! A running NIC as an operator sees it: plain data, the same on the control socket and on the screen.
//!
//! Everything about the guest's side comes from atomics that are loaded, never through the register accesses of a guest:
//! nothing is cleared, and the NIC does not notice. Each value is of its own moment, so two of a moving NIC may be a few
//! frames apart.

mod read;
mod text;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// All there is to know about one NIC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// Its name in logs, mostly the path of its socket.
    pub name: String,
    /// The daemon's process.
    pub pid: u32,
    /// Name of the model: `e1000`.
    pub model: String,
    /// The address in its EEPROM as it was made; the guest may use another one, see `filters`.
    pub mac: String,
    /// What the hypervisor is to it; none if the NIC was too busy to say.
    pub hypervisor: Option<Hypervisor>,
    /// Whether its queues run on a thread of their own; none if they were too busy to say.
    pub queues_apart: Option<bool>,
    /// It stands still, for a migration.
    pub stopped: bool,
    /// The guest's link and what it follows.
    pub link: Link,
    /// Interrupts.
    pub interrupts: Interrupts,
    /// The transmit ring.
    pub transmit: Ring,
    /// The receive ring.
    pub receive: Ring,
    /// What the receiver lets through.
    pub filters: Filters,
    /// Wake-up, if it is asked for or has something to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake_up: Option<WakeUp>,
    /// The four LEDs of the card.
    pub leds: Vec<Led>,
    /// The statistics registers: what the guest finds there when it reads them next. Halves of 64-bit ones are joined.
    pub statistics: BTreeMap<String, u64>,
    /// What the model has counted since the daemon started.
    pub counters: BTreeMap<String, u64>,
    /// How each of the daemon's shards has waited: `sleeps`, those `woken` by an event or `due` by a deadline, `looks`
    /// without sleeping and those that `found` something, `events`.
    #[serde(default)]
    pub shards: Vec<BTreeMap<String, u64>>,
    /// The network's side; none if the queues were too busy to say.
    pub network: Option<Network>,
    /// All readable registers, in the manual's order; of arrays, the elements that are not 0.
    pub registers: Vec<Register>,
}

/// The hypervisor's part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hypervisor {
    /// One is connected.
    pub connected: bool,
    /// `shared`, `remote` (asked for message by message) or `none`.
    pub memory: String,
    /// DMA by message: `reads`, `writes`, `refused`, `lost`.
    pub dma_messages: BTreeMap<String, u64>,
    /// Messages of hypervisors: `reads` and `writes` for which a processor of the guest waits, `posted_writes` for which
    /// none does, `set_irqs`, `others`.
    #[serde(default)]
    pub messages: BTreeMap<String, u64>,
}

/// The guest's link. It is up if the cable is in, the operator lets it, and the guest has the PHY and the MAC up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// STATUS.LU.
    pub up: bool,
    /// The cable of the network's side is in.
    pub cable: bool,
    /// The operator has not taken it down (`nic-emu-cli link`).
    pub operator: bool,
    /// Mb/s, from STATUS.
    pub speed: u32,
    /// From STATUS.
    pub full_duplex: bool,
}

/// Causes, mask and line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupts {
    /// The line is asserted.
    pub asserted: bool,
    /// Interrupts sent to hypervisors so far.
    pub sent: u64,
    /// Names of the causes in ICR.
    pub pending: Vec<String>,
    /// Names of the causes in IMS.
    pub enabled: Vec<String>,
    /// Least time between two interrupts (ITR) in ns, 0 for none.
    pub interval_ns: u64,
}

/// One descriptor ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    /// RCTL.EN or TCTL.EN.
    pub enabled: bool,
    /// Guest-physical address.
    pub base: u64,
    /// Bytes.
    pub length: u32,
    /// Descriptors that fit into `length`.
    pub descriptors: u32,
    /// The NIC's position.
    pub head: u32,
    /// The driver's position.
    pub tail: u32,
    /// Descriptors that the driver has handed to the NIC: to be sent, or free for reception.
    pub with_nic: u32,
    /// Bytes that a receive buffer holds; none for transmission.
    pub buffer: Option<u32>,
}

/// What the receiver lets through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filters {
    /// The valid receive addresses.
    pub addresses: Vec<Address>,
    /// Bits set in the multicast hash table.
    pub multicast_bits: u32,
    /// VLANs set in the VLAN filter table, which matters with mode VFE.
    pub vlans: u32,
    /// Names of the bits of RCTL that let more or less through.
    pub modes: Vec<String>,
}

/// What would wake the machine, and what would have. Nothing does: there is no PME# line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakeUp {
    /// Names of the filters that are on: those of WUFC with PME_En, MAG with WUC.APME.
    pub filters: Vec<String>,
    /// Names of the filters in WUS, which passed the packet that is kept, or the change of the link.
    pub passed: Vec<String>,
    /// PME_Status.
    pub status: bool,
}

/// A receive address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Which of the sixteen.
    pub entry: u32,
    /// `52:54:00:12:34:56`.
    pub mac: String,
    /// RAH.ASEL: 0 compares the destination, 1 the source.
    pub select: u32,
}

/// One LED.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Led {
    /// The condition under which it is on.
    pub mode: String,
    /// Whether it is on; none if that comes and goes with traffic, or with what the host bus was.
    pub lit: Option<bool>,
    /// It blinks while it is on.
    pub blinks: bool,
    /// It is on when it would be off.
    pub inverted: bool,
}

/// The network's side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// `tap0`, `null`.
    pub name: String,
    /// What it has counted.
    pub counters: BTreeMap<String, u64>,
}

/// A register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// Name in the manual, with the number of the element for arrays: `CTRL`, `RAL[0]`.
    pub name: String,
    /// Where it lies in BAR0.
    pub offset: u32,
    /// What it holds.
    pub value: u32,
    /// Its bit fields, if it has any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Field>,
}

/// A bit field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Name in the manual.
    pub name: String,
    /// What it holds, shifted down.
    pub value: u32,
    /// It is a single bit.
    pub flag: bool,
}
