//! Target `session`: requests that make sense, or nearly, in any order, several at a time.

use vfio_user::wire::{
    DeviceInfo, DeviceState, DirtyBitmap, DmaMap, DmaUnmap, Feature, HEADER, Header, IrqInfo,
    LoggingRange, LoggingReport, LoggingStart, MigData, MultiWrite, RegionAccess, RegionInfo,
    RegionIoFds, SetIrqs, command, dma_map_flags, dma_unmap_flags, feature, feature_flags,
    header_flags, region_index, set_irqs_flags as irqs,
};
use zerocopy::{Immutable, IntoBytes};

use crate::device::{EXPRESS, MSI, MSIX, PM};
use crate::fds::PAGE;
use crate::input::Input;
use crate::peer::Peer;

/// Most steps of a script.
const STEPS: usize = 96;

/// The target.
pub(crate) fn run(data: &[u8]) {
    Peer::run(|peer| {
        let mut input = Input::new(data);
        peer.hello(input.u8());
        let mut script = Script {
            input,
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
        match self.input.u8() & 0x1f {
            0..=2 => self.map(peer),
            3 => self.unmap(peer),
            4..=6 => self.set_irqs(peer),
            7..=8 => self.read(peer),
            9..=10 => self.write(peer),
            11..=12 => self.configure(peer),
            13 => self.write_multi(peer),
            14 => self.request(peer, command::DEVICE_RESET, &[], &[]),
            15 => self.ask(peer),
            16..=17 => self.feature(peer),
            18 => self.migration_data(peer),
            19..=20 => self.log(peer),
            21 => peer.receive(self.input.u16().into()),
            other => {
                self.flush(peer, &[]);
                self.act(peer, other);
            }
        }
    }

    /// What is no request.
    fn act(&mut self, peer: &mut Peer, action: u8) {
        match action {
            22 => peer.check(),
            23 => peer.resample(),
            24 => peer.pass_epoch(u64::from(self.input.u8() & 3)),
            25 | 26 => peer.raise(self.input.u8()),
            27 => peer.device_writes(&mut self.input),
            28 => peer.device_reads(&mut self.input),
            29 => peer.answer_one(&mut self.input),
            30 => peer.migrate(&mut self.input),
            _ if self.input.u8() & 3 == 0 => peer.shrink(4096 * u64::from(self.input.u8() & 1)),
            _ if self.input.rarely() => {
                peer.disconnect();
                peer.hello(self.input.u8());
            }
            _ => {}
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
            1 => &[choice & 0xfc][..],
            2 => &[choice & 0xf0 | 0b1101][..],
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
        let index = u32::from(odd) % 5;
        let start = if odd < 0x80 {
            0
        } else {
            u32::from(odd >> 3 & 3)
        };
        let count = self.input.pick(&[1, 1, 2, 3, 4, 0, 32, u32::MAX]);
        let request = SetIrqs {
            argsz: self.argsz::<SetIrqs>(),
            flags: action | data | if odd == 0x7f { self.input.u32() } else { 0 },
            index: if odd == 0xff { self.input.u32() } else { index },
            start,
            count,
        };
        let few = count.min(20) as usize;
        let (bools, fds) = match data {
            irqs::DATA_BOOL => (few, 0),
            irqs::DATA_EVENTFD => (0, few),
            _ => (0, 0),
        };
        let mut bools = vec![1; bools];
        for (bool, given) in bools.iter_mut().zip(self.input.bytes(few)) {
            *bool = *given & 1;
        }
        let fds = if self.input.u8() & 7 == 7 { 0 } else { fds };
        // Eventfds, mostly.
        let fds: Vec<_> = self
            .input
            .bytes(fds)
            .iter()
            .map(|fd| if *fd < 0xf8 { fd | 2 } else { *fd })
            .collect();
        self.request(
            peer,
            command::DEVICE_SET_IRQS,
            &[request.as_bytes(), &bools],
            &fds,
        );
    }

    fn access(&mut self) -> RegionAccess {
        let region = self.input.pick(&[0, 0, 4, 4, 7, 7, 1, 2, 6, 3, 5, 8, 9]);
        let count = self
            .input
            .pick(&[1, 2, 4, 8, 0, 3, 16, 64, 256, 4096, 1 << 20, (1 << 20) + 1]);
        let offset = match self.input.u8() {
            0xff => self.input.u64(),
            0xfe => self.input.u32().into(),
            0xfd => 256 - u64::from(self.input.u8()),
            0xfc => 4096 - u64::from(self.input.u8()),
            // The edges of what is special in BAR 4.
            n @ 0xf0..=0xf7 => {
                [0x30, 0x800, 0x808, 0x1000, 0x3000, 0x4000, 12, 28][usize::from(n & 7)]
                    - u64::from(self.input.u8() % 12)
            }
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
        let (offset, values): (usize, &[u16]) = self.input.pick(&[
            (4, &[7, 6, 3, 0, 0x407]),
            (PM + 4, &[3, 0, 1]),
            (MSI + 2, &[1, 0x11, 0x21, 0x31, 0]),
            (MSI + 16, &[0, 1, 0xf]),
            (MSIX + 2, &[0x8000, 0xc000, 0x4000, 0]),
            (EXPRESS + 8, &[0x8000, 0x2810, 0xffff]),
            (0x10, &[0xffff, 0]),
            (0x104, &[0xffff, 0]),
        ]);
        let odd = self.input.u8();
        let value = match odd {
            0xf0.. => self.input.u16(),
            n => values[usize::from(n) % values.len()],
        };
        let offset = offset as u64 + u64::from(odd == 0xe0);
        let access = RegionAccess {
            offset,
            region: region_index::CONFIG,
            count: 2,
        };
        self.request(
            peer,
            command::REGION_WRITE,
            &[access.as_bytes(), &value.to_le_bytes()],
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
            feature::MIG_DEVICE_STATE,
            feature::MIGRATION,
            feature::DMA_LOGGING_START,
            feature::DMA_LOGGING_STOP,
            feature::DMA_LOGGING_REPORT,
            3,
        ]);
        let operation = self.input.pick(&[
            feature_flags::SET,
            feature_flags::SET,
            feature_flags::GET,
            feature_flags::GET | feature_flags::PROBE,
            feature_flags::SET | feature_flags::PROBE,
            feature_flags::GET | feature_flags::SET,
            0,
        ]);
        let state = DeviceState {
            state: u32::from(self.input.u8() & 7),
            reserved: 0,
        };
        let len = usize::from(self.input.u8() & 0x1f);
        let more = self.input.bytes(len);
        let argsz = self.argsz::<[u8; 16]>().saturating_add(len as u32);
        let request = Feature {
            argsz,
            flags: number | operation,
        };
        self.request(
            peer,
            command::DEVICE_FEATURE,
            &[request.as_bytes(), state.as_bytes(), more],
            &[],
        );
    }

    /// Dirty pages.
    fn log(&mut self, peer: &mut Peer) {
        let entries = &peer.model.memory.entries;
        let choice = usize::from(self.input.u8());
        let (iova, length) = match entries.get(choice % (entries.len() + 1)) {
            Some(entry) => (entry.iova, entry.size),
            None => (self.pages(), self.pages()),
        };
        let length = if self.input.rarely() {
            length / 2
        } else {
            length
        };
        let page_size = 1 << self.input.pick(&[12, 12, 12, 13, 16, 21, 11, 0, 63]);
        let argsz = match self.input.u8() {
            0xff => self.input.u16().into(),
            _ => 1 << 16,
        };
        let head = |number| Feature {
            argsz,
            flags: number,
        };
        match self.input.u8() & 7 {
            0..=1 => {
                let start = LoggingStart {
                    page_size,
                    num_ranges: 1,
                    reserved: 0,
                };
                let range = LoggingRange { iova, length };
                let feature = head(feature::DMA_LOGGING_START | feature_flags::SET);
                let parts = [feature.as_bytes(), start.as_bytes(), range.as_bytes()];
                self.request(peer, command::DEVICE_FEATURE, &parts, &[]);
            }
            2 => {
                let feature = head(feature::DMA_LOGGING_STOP | feature_flags::SET);
                self.plain(peer, command::DEVICE_FEATURE, &feature);
            }
            3 => {
                let request = DmaUnmap {
                    argsz,
                    flags: dma_unmap_flags::GET_DIRTY_BITMAP,
                    iova,
                    size: length,
                };
                let size = 8 * length.div_ceil(page_size).div_ceil(64);
                let bitmap = DirtyBitmap {
                    pgsize: page_size,
                    size,
                };
                self.request(
                    peer,
                    command::DMA_UNMAP,
                    &[request.as_bytes(), bitmap.as_bytes()],
                    &[],
                );
            }
            _ => {
                let report = LoggingReport {
                    iova,
                    length,
                    page_size,
                };
                let feature = head(feature::DMA_LOGGING_REPORT | feature_flags::GET);
                self.request(
                    peer,
                    command::DEVICE_FEATURE,
                    &[feature.as_bytes(), report.as_bytes()],
                    &[],
                );
            }
        }
    }

    fn migration_data(&mut self, peer: &mut Peer) {
        let size = u32::from(self.input.u8());
        let argsz = self.argsz::<MigData>().saturating_add(size);
        let request = MigData { argsz, size };
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
