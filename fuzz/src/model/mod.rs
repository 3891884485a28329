//! What a server has to answer, worked out a second time and as plainly as possible.

mod config;
mod irqs;
mod memory;

use rustix::io::Errno;
use vfio_user::wire::{
    self, DeviceInfo, Header, IrqInfo, MAX_DATA, MAX_FDS, MultiWrite, RegionAccess, RegionInfo,
    command, header_flags, irq_flags, irq_index, region_flags, region_index,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::device::{BAR0, BAR1, BAR2, ROM, pattern};
use crate::fds::{Fd, Pool};
pub(crate) use irqs::Irqs;
pub(crate) use memory::{Entry, Memory};

use config::Config;

/// What a reply has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// This, without error.
    Payload(Vec<u8>),
    /// An error, one of these.
    Errors(Vec<Errno>),
    /// An error, whichever.
    Refused,
    /// The answer to a proposal.
    Version,
    /// The model has no opinion.
    Any,
    /// As above, and perhaps there is no reply at all.
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
    config: Config,
    bar0: Vec<u8>,
    bar1: [u8; BAR1],
    /// Replies so far that had to wait for queues.
    pub(crate) held: u64,
    pub(crate) resets: u64,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            memory: Memory::default(),
            irqs: Irqs::default(),
            config: Config::new(),
            bar0: vec![0; BAR0],
            bar1: [0; BAR1],
            held: 0,
            resets: 0,
        }
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
        match header.command {
            command::VERSION => invalid(),
            command::DMA_MAP => self.dma_map(payload, fds, pool),
            command::DMA_UNMAP => self.dma_unmap(payload),
            command::DEVICE_GET_INFO => device_info(payload),
            command::DEVICE_GET_REGION_INFO => region_info(payload),
            command::DEVICE_GET_IRQ_INFO => irq_info(payload),
            command::DEVICE_SET_IRQS => {
                let held = &mut self.held;
                self.irqs.set(payload, fds, held)
            }
            command::REGION_READ => self.region_read(payload, header.wants_reply()),
            command::REGION_WRITE => match RegionAccess::read_from_prefix(payload) {
                Ok((access, data)) if self.write(&access, data) => done(&access),
                _ => invalid(),
            },
            command::REGION_WRITE_MULTI => self.write_multi(payload),
            command::DEVICE_RESET => {
                self.reset();
                Outcome::Payload(Vec::new())
            }
            command::DEVICE_GET_REGION_IO_FDS => Outcome::Any,
            _ => Outcome::Refused,
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
        self.reset();
        self.held = 0;
    }

    fn reset(&mut self) {
        self.resets += 1;
        self.bar0.fill(0);
        self.bar1.fill(0);
        self.irqs.set_level(false);
        self.config.reset();
        self.irqs.set_disabled(self.config.intx_disabled());
        self.held += 1;
    }

    fn dma_map(&mut self, payload: &[u8], fds: &[Fd], pool: &Pool) -> Outcome {
        match wire::DmaMap::read_from_prefix(payload) {
            Ok((request, _)) if fds.len() <= 1 => {
                self.memory.map(&request, fds.first(), pool, &mut self.held)
            }
            _ => invalid(),
        }
    }

    fn dma_unmap(&mut self, payload: &[u8]) -> Outcome {
        match wire::DmaUnmap::read_from_prefix(payload) {
            Ok((request, _)) => self.memory.unmap(&request, &mut self.held),
            Err(_) => invalid(),
        }
    }

    fn region_read(&mut self, payload: &[u8], wants_reply: bool) -> Outcome {
        let Ok((access, _)) = RegionAccess::read_from_prefix(payload) else {
            return invalid();
        };
        let count = access.count as usize;
        if count > MAX_DATA {
            return invalid();
        }
        if !wants_reply {
            return Outcome::Any;
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
            match access.region {
                0 if self.config.decodes_memory() => {
                    data.copy_from_slice(&self.bar0[at..][..count])
                }
                1 if self.config.decodes_io() => data.copy_from_slice(&self.bar1[at..][..count]),
                2 if self.config.decodes_memory() => patterned(data),
                region_index::ROM => patterned(data),
                region_index::CONFIG => self.config.read(at, data, self.irqs.level()),
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
        match access.region {
            0 if self.config.decodes_memory() => {
                self.bar0[at..][..data.len()].copy_from_slice(data);
                self.irqs.set_level(self.bar0[0] & 1 != 0);
            }
            1 if self.config.decodes_io() => {
                self.bar1[at..][..data.len()].copy_from_slice(data);
            }
            region_index::CONFIG => {
                let mastered = self.config.masters();
                if self.config.write(at, data) {
                    self.reset();
                } else {
                    self.irqs.set_disabled(self.config.intx_disabled());
                    self.held += u64::from(mastered && !self.config.masters());
                }
            }
            _ => {}
        }
        true
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
        region_index::ROM => ROM as u64,
        region_index::CONFIG => 256,
        _ => 0,
    }
}

fn inside(access: &RegionAccess) -> bool {
    let end = u128::from(access.offset) + u128::from(access.count);
    access.region < region_index::COUNT && end <= size_of_region(access.region).into()
}

fn device_info(payload: &[u8]) -> Outcome {
    match DeviceInfo::read_from_prefix(payload) {
        Ok((request, _)) if request.argsz >= 16 => done(&DeviceInfo {
            argsz: 16,
            flags: wire::device_flags::RESET | wire::device_flags::PCI,
            num_regions: region_index::COUNT,
            num_irqs: irq_index::COUNT,
        }),
        _ => invalid(),
    }
}

fn region_info(payload: &[u8]) -> Outcome {
    match RegionInfo::read_from_prefix(payload) {
        Ok((request, _)) if request.argsz >= 32 && request.index < region_index::COUNT => {
            let size = size_of_region(request.index);
            done(&RegionInfo {
                argsz: 32,
                flags: match request.index {
                    _ if size == 0 => 0,
                    region_index::ROM => region_flags::READ,
                    _ => region_flags::READ | region_flags::WRITE,
                },
                index: request.index,
                cap_offset: 0,
                size,
                offset: if size == 0 {
                    0
                } else {
                    u64::from(request.index) << 40
                },
            })
        }
        _ => invalid(),
    }
}

fn irq_info(payload: &[u8]) -> Outcome {
    match IrqInfo::read_from_prefix(payload) {
        Ok((request, _))
            if request.argsz >= 16
                && request.index < irq_index::COUNT
                && request.index != irq_index::ERR =>
        {
            let intx = request.index == irq_index::INTX;
            let flags = irq_flags::EVENTFD | irq_flags::MASKABLE | irq_flags::AUTOMASKED;
            done(&IrqInfo {
                argsz: 16,
                flags: if intx { flags } else { 0 },
                index: request.index,
                count: intx.into(),
            })
        }
        _ => invalid(),
    }
}

fn done(payload: &(impl IntoBytes + zerocopy::Immutable)) -> Outcome {
    Outcome::Payload(payload.as_bytes().to_vec())
}

pub(crate) fn invalid() -> Outcome {
    Outcome::Errors(vec![Errno::INVAL])
}
