//! Target `session`: requests that make sense, or nearly, in any order, several at a time.

use vfio_user::wire::{
    DeviceInfo, DmaMap, DmaUnmap, Feature, HEADER, Header, IrqInfo, MigData, MultiWrite,
    RegionAccess, RegionInfo, RegionIoFds, SetIrqs, command, dma_map_flags, dma_unmap_flags,
    feature, feature_flags, header_flags, region_index, set_irqs_flags as irqs,
};
use zerocopy::{Immutable, IntoBytes};

use crate::device::PM;
use crate::fds::PAGE;
use crate::input::Input;
use crate::peer::Peer;

/// Most steps of a script.
const STEPS: usize = 96;

/// The target.
pub(crate) fn run(data: &[u8]) {
    Peer::run(|peer| {
        peer.hello();
        let mut script = Script {
            input: Input::new(data),
            batch: Vec::new(),
            id: 0,
        };
        for _ in 0..STEPS {
            if script.input.is_empty() {
                break;
            }
            script.step(peer);
        }
        script.flush(peer, &[]);
    });
}

struct Script<'a> {
    input: Input<'a>,
    /// Requests that are sent together with the next.
    batch: Vec<u8>,
    id: u16,
}

impl Script<'_> {
    fn step(&mut self, peer: &mut Peer) {
        match self.input.u8() % 24 {
            0..=3 => self.map(peer),
            4..=5 => self.unmap(peer),
            6..=8 => self.set_irqs(peer),
            9..=10 => self.read(peer),
            11..=12 => self.write(peer),
            13 => self.configure(peer),
            14 => self.write_multi(peer),
            15 => self.request(peer, command::DEVICE_RESET, &[], &[]),
            16 => self.ask(peer),
            17 => self.feature(peer),
            18 => self.migration_data(peer),
            19 => {
                self.flush(peer, &[]);
                peer.pass_epoch(u64::from(self.input.u8() & 3));
            }
            20 => _ = peer.receive(self.input.u16().into()),
            21 => {
                self.flush(peer, &[]);
                peer.check();
            }
            22 => {
                self.flush(peer, &[]);
                peer.resample();
            }
            _ => {
                if self.input.rarely() {
                    self.flush(peer, &[]);
                    peer.disconnect();
                    peer.hello();
                }
            }
        }
    }

    /// A request, sent at once or with the next ones.
    fn request(&mut self, peer: &mut Peer, command: u16, parts: &[&[u8]], fds: &[u8]) {
        let how = self.input.u8();
        let mut payload = parts.concat();
        if how & 0xf0 == 0xf0 {
            let len = usize::from(self.input.u8());
            payload.resize(len, 0);
        }
        self.id = self.id.wrapping_add(1);
        let header = Header {
            id: self.id,
            command,
            size: (HEADER + payload.len()) as u32,
            flags: if how & 3 == 3 {
                header_flags::NO_REPLY
            } else {
                0
            },
            error: 0,
        };
        if !fds.is_empty() {
            self.flush(peer, &[]);
        }
        self.batch.extend_from_slice(header.as_bytes());
        self.batch.extend_from_slice(&payload);
        if !fds.is_empty() || how & 4 == 0 {
            self.flush(peer, fds);
        }
    }

    fn flush(&mut self, peer: &mut Peer, fds: &[u8]) {
        peer.feed(&std::mem::take(&mut self.batch), fds, false);
    }

    /// A number of pages that is small, or next to the end of all addresses.
    fn pages(&mut self) -> u64 {
        match self.input.u8() {
            0xff => self.input.u64(),
            0xfe => 0_u64.wrapping_sub(PAGE * u64::from(self.input.u8())),
            0xfd => 1 << (self.input.u8() & 63),
            n => PAGE * u64::from(n & 0x3f),
        }
    }

    fn map(&mut self, peer: &mut Peer) {
        let all = dma_map_flags::READ | dma_map_flags::WRITE;
        let request = DmaMap {
            argsz: self.argsz::<DmaMap>(),
            flags: self.input.pick(&[
                all,
                all,
                dma_map_flags::READ,
                dma_map_flags::WRITE,
                0,
                7,
                11,
                16 | all,
            ]),
            offset: self.pages(),
            iova: self.pages(),
            size: self.pages(),
        };
        let choice = self.input.u8();
        let fds = match choice & 3 {
            0 => &[][..],
            // A file of memory, mostly.
            1 | 2 => &[choice & 0xfc][..],
            _ => &[choice >> 2, choice][..1 + usize::from(choice >> 7)],
        };
        self.request(peer, command::DMA_MAP, &[request.as_bytes()], fds);
    }

    fn unmap(&mut self, peer: &mut Peer) {
        let entries = &peer.model.memory.entries;
        let choice = usize::from(self.input.u8());
        let (flags, iova, size) = match entries.get(choice % (entries.len() + 1)) {
            Some(entry) if choice < 0xf0 => (0, entry.iova, entry.size),
            _ if choice & 1 == 0 => (dma_unmap_flags::ALL, 0, 0),
            _ => (
                self.input.pick(&[0, 1, 2, 3, 4]),
                self.pages(),
                self.pages(),
            ),
        };
        let argsz = self.argsz::<DmaUnmap>();
        let request = DmaUnmap {
            argsz,
            flags,
            iova,
            size,
        };
        let fds: &[u8] = if self.input.rarely() { &[0] } else { &[] };
        self.request(peer, command::DMA_UNMAP, &[request.as_bytes()], fds);
    }

    fn set_irqs(&mut self, peer: &mut Peer) {
        let action =
            self.input
                .pick(&[irqs::ACTION_TRIGGER, irqs::ACTION_UNMASK, irqs::ACTION_MASK]);
        let data = self
            .input
            .pick(&[irqs::DATA_EVENTFD, irqs::DATA_NONE, irqs::DATA_BOOL]);
        let odd = self.input.u8();
        let (index, start) = if odd < 0x80 {
            (0, 0)
        } else {
            (u32::from(odd >> 3 & 7), u32::from(odd & 7))
        };
        let count = self.input.pick(&[1, 1, 1, 0, 2, 3, 32, u32::MAX]);
        let request = SetIrqs {
            argsz: self.argsz::<SetIrqs>(),
            flags: action | data | if odd == 0x7f { self.input.u32() } else { 0 },
            index,
            start,
            count,
        };
        let few = count.min(20) as usize;
        let mut bools = self
            .input
            .bytes(if data == irqs::DATA_BOOL { few } else { 0 })
            .to_vec();
        bools.resize(if data == irqs::DATA_BOOL { few } else { 0 }, 1);
        let fds = self
            .input
            .bytes(if data == irqs::DATA_EVENTFD { few } else { 0 });
        // An eventfd, mostly.
        let fds: Vec<_> = fds
            .iter()
            .map(|fd| if *fd < 0xf0 { fd | 2 } else { *fd })
            .collect();
        self.request(
            peer,
            command::DEVICE_SET_IRQS,
            &[request.as_bytes(), &bools],
            &fds,
        );
    }

    fn access(&mut self) -> RegionAccess {
        let region = self.input.pick(&[0, 0, 0, 7, 7, 1, 2, 6, 3, 5, 8, 9]);
        let count = self
            .input
            .pick(&[1, 2, 4, 8, 0, 3, 16, 64, 256, 4096, 1 << 20, (1 << 20) + 1]);
        let offset = match self.input.u8() {
            0xff => self.input.u64(),
            0xfe => self.input.u32().into(),
            0xfd => 256 - u64::from(self.input.u8()),
            0xfc => 4096 - u64::from(self.input.u8()),
            n if region == region_index::CONFIG => n.into(),
            n => u64::from(n) * 4,
        };
        RegionAccess {
            offset,
            region,
            count,
        }
    }

    fn data(&mut self, count: u32) -> Vec<u8> {
        let mut data = self.input.bytes((count as usize).min(64)).to_vec();
        data.resize((count as usize).min(1 << 20), 0x5a);
        if self.input.rarely() {
            data.pop();
        }
        data
    }

    fn read(&mut self, peer: &mut Peer) {
        let access = self.access();
        self.request(peer, command::REGION_READ, &[access.as_bytes()], &[]);
    }

    fn write(&mut self, peer: &mut Peer) {
        let access = self.access();
        let data = self.data(access.count);
        self.request(
            peer,
            command::REGION_WRITE,
            &[access.as_bytes(), &data],
            &[],
        );
    }

    /// A write to a register of configuration space that acts.
    fn configure(&mut self, peer: &mut Peer) {
        let (offset, count) = self.input.pick(&[
            (4, 2),
            (4, 4),
            (5, 1),
            (PM + 4, 2),
            (PM + 4, 1),
            (0x10, 4),
            (0x18, 8),
        ]);
        let access = RegionAccess {
            offset: offset as u64,
            region: region_index::CONFIG,
            count,
        };
        let data = self.input.u64().to_le_bytes();
        self.request(
            peer,
            command::REGION_WRITE,
            &[access.as_bytes(), &data[..count as usize]],
            &[],
        );
    }

    fn write_multi(&mut self, peer: &mut Peer) {
        let n = self.input.u8() & 7;
        let mut count = u64::from(n);
        let mut writes = Vec::new();
        for _ in 0..n {
            let access = RegionAccess {
                count: u32::from(self.input.u8() % 10),
                ..self.access()
            };
            let data = self.input.u64().to_le_bytes();
            writes.extend_from_slice(MultiWrite { access, data }.as_bytes());
        }
        if self.input.rarely() {
            count = self.input.u64();
        }
        self.request(
            peer,
            command::REGION_WRITE_MULTI,
            &[count.as_bytes(), &writes],
            &[],
        );
    }

    fn argsz<T>(&mut self) -> u32 {
        match self.input.u8() {
            0xff => self.input.u32(),
            0xfe => size_of::<T>() as u32 - 1,
            n => size_of::<T>() as u32 + u32::from(n >> 7) * 64,
        }
    }

    fn ask(&mut self, peer: &mut Peer) {
        let index = u32::from(self.input.u8() % 11);
        let odd = u32::from(self.input.rarely());
        match self.input.u8() & 3 {
            0 => {
                let argsz = self.argsz::<DeviceInfo>();
                self.plain(
                    peer,
                    command::DEVICE_GET_INFO,
                    &DeviceInfo {
                        argsz,
                        ..Default::default()
                    },
                );
            }
            1 => {
                let argsz = self.argsz::<RegionInfo>();
                self.plain(
                    peer,
                    command::DEVICE_GET_REGION_INFO,
                    &RegionInfo {
                        argsz,
                        index,
                        ..Default::default()
                    },
                );
            }
            2 => {
                let argsz = self.argsz::<IrqInfo>();
                self.plain(
                    peer,
                    command::DEVICE_GET_IRQ_INFO,
                    &IrqInfo {
                        argsz,
                        index,
                        ..Default::default()
                    },
                );
            }
            _ => {
                let argsz = self.argsz::<RegionIoFds>();
                let request = RegionIoFds {
                    argsz,
                    flags: odd,
                    index,
                    count: odd,
                };
                self.plain(peer, command::DEVICE_GET_REGION_IO_FDS, &request);
            }
        }
    }

    fn feature(&mut self, peer: &mut Peer) {
        let number = self.input.pick(&[
            feature::MIG_DEVICE_STATE,
            feature::MIGRATION,
            feature::DMA_LOGGING_START,
            feature::DMA_LOGGING_STOP,
            feature::DMA_LOGGING_REPORT,
            3,
        ]);
        let operation = self.input.pick(&[
            feature_flags::GET,
            feature_flags::SET,
            feature_flags::PROBE,
            0,
        ]);
        let argsz = self.argsz::<Feature>();
        let request = Feature {
            argsz,
            flags: number | operation,
        };
        let rest = self.input.bytes(16);
        self.request(
            peer,
            command::DEVICE_FEATURE,
            &[request.as_bytes(), rest],
            &[],
        );
    }

    fn migration_data(&mut self, peer: &mut Peer) {
        let size = u32::from(self.input.u8());
        let request = MigData {
            argsz: self.argsz::<MigData>(),
            size,
        };
        let (number, data) = match self.input.u8() & 1 {
            0 => (command::MIG_DATA_READ, &[][..]),
            _ => (command::MIG_DATA_WRITE, self.input.bytes(size as usize)),
        };
        self.request(peer, number, &[request.as_bytes(), data], &[]);
    }

    fn plain(&mut self, peer: &mut Peer, command: u16, request: &(impl IntoBytes + Immutable)) {
        self.request(peer, command, &[request.as_bytes()], &[]);
    }
}
