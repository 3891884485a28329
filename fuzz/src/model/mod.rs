//! What a server has to answer, worked out a second time and as plainly as possible.

mod bar;
mod config;
mod feature;
mod info;
mod irqs;
mod memory;
mod migration;

use rustix::io::Errno;
use vfio_user::Session;
use vfio_user::wire::{
    Header, MAX_DATA, MAX_FDS, MultiWrite, RegionAccess, command, header_flags, region_index,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::device::{AREA, BAR0, BAR1, BAR2, BAR4, MSIX_VECTORS, PBA, ROM, pattern};
use crate::fds::{Fd, Pool};
pub(crate) use irqs::Irqs;
pub(crate) use memory::{Entry, Memory};

use bar::Bar4;
use config::{Config, Written};
use migration::Migration;

/// What a reply has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// This, without error.
    Payload(Vec<u8>),
    /// The same, with so many descriptors.
    WithFds(Vec<u8>, usize),
    /// An error, one of these.
    Errors(Vec<Errno>),
    /// The answer to a proposal, with the second socket if it was asked for.
    Version {
        /// Whether it was.
        twin: bool,
    },
    /// There is none, or an error.
    Perhaps,
}

/// A message, as the server gets to see it.
#[derive(Clone, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) header: Header,
    pub(crate) payload: &'a [u8],
    pub(crate) fds: &'a [Fd],
    pub(crate) lost: bool,
}

/// The server's state, as far as a client can tell.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) memory: Memory,
    pub(crate) irqs: Irqs,
    pub(crate) migration: Migration,
    config: Config,
    bar0: Vec<u8>,
    bar1: [u8; BAR1],
    bar4: Bar4,
    /// The MSI-X table.
    table: Vec<u8>,
    /// What the client takes with a message: descriptors, bytes of data.
    pub(crate) max_fds: usize,
    pub(crate) max_data: usize,
    /// Replies so far that had to wait for queues; there may have been more.
    pub(crate) held: u64,
    pub(crate) resets: u64,
}

impl Model {
    pub(crate) fn new() -> Self {
        let mut model = Self {
            memory: Memory::default(),
            irqs: Irqs::new(),
            migration: Migration::default(),
            config: Config::new(),
            bar0: vec![0; BAR0],
            bar1: [0; BAR1],
            bar4: Bar4::new(),
            table: vec![0; 16 * MSIX_VECTORS],
            max_fds: 1,
            max_data: MAX_DATA,
            held: 0,
            resets: 0,
        };
        model.reset_table();
        model
    }

    /// Executes a message that comes after negotiation.
    pub(crate) fn execute(&mut self, message: &Message<'_>, pool: &Pool) -> Outcome {
        let Message {
            header,
            payload,
            fds,
            ..
        } = message;
        if header.flags & header_flags::TYPE == header_flags::REPLY {
            return Outcome::Perhaps;
        }
        if header.flags & header_flags::TYPE != 0 || message.lost || fds.len() > MAX_FDS {
            return invalid();
        }
        if self.migration.forbids(header.command) {
            return invalid();
        }
        match header.command {
            command::DMA_MAP => match FromBytes::read_from_prefix(payload) {
                Ok((request, _)) if fds.len() <= 1 => {
                    self.memory.map(&request, fds.first(), pool, &mut self.held)
                }
                _ => invalid(),
            },
            command::DMA_UNMAP => self.memory.unmap(payload, &mut self.held),
            command::DEVICE_GET_INFO => info::device(payload),
            command::DEVICE_GET_REGION_INFO => info::region(payload, self.max_fds),
            command::DEVICE_GET_REGION_IO_FDS => info::io_fds(payload, self.max_fds),
            command::DEVICE_GET_IRQ_INFO => info::irq(payload),
            command::DEVICE_SET_IRQS => self.irqs.set(payload, fds, &mut self.held),
            command::REGION_READ => self.region_read(payload),
            command::REGION_WRITE => match RegionAccess::read_from_prefix(payload) {
                Ok((access, data)) if self.write(&access, data) => done(&access),
                _ => invalid(),
            },
            command::REGION_WRITE_MULTI => self.write_multi(payload),
            command::DEVICE_FEATURE => self.feature(payload),
            command::MIG_DATA_READ => self.read_state(payload),
            command::MIG_DATA_WRITE => self.write_state(payload),
            command::DEVICE_RESET => {
                self.migration = Migration::default();
                self.reset();
                Outcome::Payload(Vec::new())
            }
            _ => invalid(),
        }
    }

    /// Whether I/O and memory are decoded, and the device may do DMA.
    pub(crate) fn command(&self) -> [bool; 3] {
        let config = &self.config;
        [
            config.decodes_io(),
            config.decodes_memory(),
            config.masters(),
        ]
    }

    /// The client is gone.
    pub(crate) fn disconnect(&mut self) {
        self.memory = Memory::default();
        self.irqs.disconnect();
        self.migration = Migration::default();
        self.reset();
        self.held = 0;
        (self.max_fds, self.max_data) = (1, MAX_DATA);
    }

    /// Takes over what is in the memory that clients map: nobody knows how far a client has got that left early.
    pub(crate) fn forget_area(&mut self, session: &Session) {
        let area = session.region_mem(4).expect("a mappable region");
        area.read(AREA.start as u64, &mut self.bar4.bytes[AREA])
            .expect("its memory");
    }

    fn reset(&mut self) {
        self.resets += 1;
        self.reset_table();
        self.bar0.fill(0);
        self.bar1.fill(0);
        self.bar4.clear_device();
        self.irqs.set_level(false);
        self.config.reset();
        self.irqs.set_mode(&self.config);
        self.held += 1;
    }

    fn reset_table(&mut self) {
        for (vector, entry) in self.table.chunks_mut(16).enumerate() {
            entry.fill(0);
            entry[12] = 1;
            self.irqs.mask_msix(vector, false);
        }
    }

    fn region_read(&mut self, payload: &[u8]) -> Outcome {
        let Ok((access, _)) = RegionAccess::read_from_prefix(payload) else {
            return invalid();
        };
        let count = access.count as usize;
        if count > MAX_DATA {
            return invalid();
        }
        let mut reply = access.as_bytes().to_vec();
        reply.resize(reply.len() + count, 0xff);
        let data = &mut reply[size_of::<RegionAccess>()..];
        if inside(&access) {
            let at = access.offset as usize;
            let patterned = |data: &mut [u8]| {
                data.iter_mut()
                    .zip(access.offset..)
                    .for_each(|(byte, at)| *byte = pattern(at));
            };
            let [io, memory, _] = self.command();
            match access.region {
                0 if memory => data.copy_from_slice(&self.bar0[at..][..count]),
                1 if io => data.copy_from_slice(&self.bar1[at..][..count]),
                2 if memory => patterned(data),
                4 if memory => {
                    for (at, byte) in (at..).zip(data) {
                        *byte = match at {
                            _ if at < self.table.len() => self.table[at],
                            PBA => self.irqs.pending(2),
                            _ if (PBA..PBA + 8).contains(&at) => 0,
                            _ => self.bar4.bytes[at],
                        };
                    }
                }
                region_index::ROM => patterned(data),
                region_index::CONFIG => {
                    self.config
                        .read(at, data, self.irqs.level(), self.irqs.pending(1))
                }
                _ => {}
            }
        }
        Outcome::Payload(reply)
    }

    /// True if the write is a sound one, whatever comes of it.
    fn write(&mut self, access: &RegionAccess, data: &[u8]) -> bool {
        if data.len() != access.count as usize || data.len() > MAX_DATA || !inside(access) {
            return false;
        }
        if data.is_empty() {
            return true;
        }
        let at = access.offset as usize;
        let [io, memory, mastered] = self.command();
        match access.region {
            0 if memory => {
                self.bar0[at..][..data.len()].copy_from_slice(data);
                self.irqs.set_level(self.bar0[0] & 1 != 0);
            }
            1 if io => self.bar1[at..][..data.len()].copy_from_slice(data),
            4 if memory => self.write_bar4(at, data),
            region_index::CONFIG => match self.config.write(at, data) {
                Written::Refused => return false,
                Written::Reset => self.reset(),
                Written::Stored => {
                    self.irqs.set_mode(&self.config);
                    self.held += u64::from(mastered && !self.config.masters());
                }
            },
            _ => {}
        }
        true
    }

    fn write_bar4(&mut self, at: usize, data: &[u8]) {
        let range = at..at + data.len();
        for (at, new) in range.clone().zip(data) {
            match at {
                _ if at < self.table.len() => {
                    self.table[at] = match at % 16 {
                        12 => new & 1,
                        13..=15 => 0,
                        _ => *new,
                    };
                }
                _ if (PBA..PBA + 8).contains(&at) => {}
                _ => self.bar4.bytes[at] = *new,
            }
        }
        for vector in 0..MSIX_VECTORS {
            let control = 16 * vector + 12;
            if range.contains(&control) {
                self.irqs.mask_msix(vector, self.table[control] != 0);
            }
        }
    }

    fn write_multi(&mut self, payload: &[u8]) -> Outcome {
        let Ok((count, writes)) = u64::read_from_prefix(payload) else {
            return invalid();
        };
        if count > (writes.len() / size_of::<MultiWrite>()) as u64 {
            return invalid();
        }
        let mut all = true;
        for write in writes
            .chunks_exact(size_of::<MultiWrite>())
            .take(count as usize)
        {
            let write = MultiWrite::read_from_bytes(write).expect("a chunk of that size");
            let data = write.data.get(..write.access.count as usize);
            all &= data.is_some_and(|data| self.write(&write.access, data));
        }
        if all {
            Outcome::Payload(count.as_bytes().to_vec())
        } else {
            invalid()
        }
    }
}

/// Bytes of a region.
fn size_of_region(index: u32) -> u64 {
    match index {
        0 => BAR0 as u64,
        1 => BAR1 as u64,
        2 => BAR2,
        4 => BAR4 as u64,
        region_index::ROM => ROM as u64,
        region_index::CONFIG => config::SIZE as u64,
        _ => 0,
    }
}

fn inside(access: &RegionAccess) -> bool {
    let end = u128::from(access.offset) + u128::from(access.count);
    access.region < region_index::COUNT && end <= size_of_region(access.region).into()
}

fn done(payload: &(impl IntoBytes + Immutable)) -> Outcome {
    Outcome::Payload(payload.as_bytes().to_vec())
}

pub(crate) fn invalid() -> Outcome {
    Outcome::Errors(vec![Errno::INVAL])
}
