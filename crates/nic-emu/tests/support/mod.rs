//! A driver's view of a NIC in one process: RAM, rings laid out by hand, and a backend that collects frames.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "shared by several test programs, each of which uses a part"
)]

pub mod packets;
pub mod remote;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use guest_mem::{Access, GuestMem, Mapping};
use nic_emu::Time;
use nic_emu::common::frame::{Offload, RxFrame, TxBurst};
use nic_emu::common::gso::Segments;
use nic_emu::e1000::regs::Reg;
use nic_emu::e1000::rx::{Delivered, RxQueue};
use nic_emu::e1000::state::{InvalidState, MAX_STATE, State};
use nic_emu::e1000::tx::{Fetch, TxQueue};
use nic_emu::e1000::{self, Control, Part, Shared};
use proptest::prelude::ProptestConfig;
use remote::Fake;

pub const RAM: u64 = 4 << 20;
pub const TX_RING: u64 = 0x1_0000;
pub const RX_RING: u64 = 0x2_0000;
pub const TX_DATA: u64 = 0x10_0000;
pub const RX_DATA: u64 = 0x20_0000;
pub const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

pub const EOP: u32 = 1 << 24;
pub const IFCS: u32 = 1 << 25;
pub const IC: u32 = 1 << 26;
pub const TSE: u32 = 1 << 26;
pub const RS: u32 = 1 << 27;
pub const RPS: u32 = 1 << 28;
pub const VLE: u32 = 1 << 30;
pub const IDE: u32 = 1 << 31;
pub const DEXT: u32 = 1 << 29;
pub const DATA: u32 = DEXT | 1 << 20;
pub const TCP: u32 = 1 << 24;
pub const IPV4: u32 = 1 << 25;
pub const IXSM: u8 = 1;
pub const TXSM: u8 = 2;

pub const TXDW: u32 = 1;
pub const TXQE: u32 = 2;
pub const RXDMT0: u32 = 1 << 4;
pub const RXO: u32 = 1 << 6;
pub const RXT0: u32 = 1 << 7;

/// A frame as the backend got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub bytes: Vec<u8>,
    pub offload: Offload,
    /// What goes on the wire.
    pub wire: Vec<Vec<u8>>,
    pub loopback: bool,
}

/// A frame as the driver finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub bytes: Vec<u8>,
    pub status: u8,
    pub errors: u8,
    pub special: u16,
    pub descriptors: usize,
}

pub struct Nic {
    pub control: Control,
    pub tx: TxQueue,
    pub rx: RxQueue,
    /// The driver's memory, and the same as the device reaches it.
    pub mem: GuestMem,
    pub dma: GuestMem,
    /// Whom the device has to ask for it, if it is not mapped.
    pub fake: Option<Arc<Fake>>,
    pub now: Time,
    /// How many frames the backend takes per burst.
    pub accept: usize,
    next: u32,
    /// Next descriptor for the driver to look at.
    clean: u32,
}

pub fn ram() -> GuestMem {
    let mapping = Arc::new(Mapping::anonymous(RAM).unwrap());
    GuestMem::builder()
        .map(0, RAM, mapping, 0, Access::ReadWrite)
        .build()
        .unwrap()
}

/// How the device reaches its memory, in the tests of this program: `remote` includes those of others, under names that
/// say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Mapped,
    /// By asking.
    Asked,
    /// By asking, while the memory map changes again and again.
    Interrupted,
}

/// As many random cases, fewer where they have been tried under other conditions before.
pub fn cases(cases: u32) -> ProptestConfig {
    let cases = match reach() {
        Reach::Mapped => cases,
        Reach::Asked | Reach::Interrupted => cases / 4,
    };
    ProptestConfig {
        cases,
        ..ProptestConfig::default()
    }
}

fn reach() -> Reach {
    let module = module_path!();
    if module.contains("asked_") {
        Reach::Asked
    } else if module.contains("interrupted_") {
        Reach::Interrupted
    } else {
        Reach::Mapped
    }
}

impl Nic {
    /// Bus master on, receiver and transmitter off, no rings.
    pub fn bare() -> Self {
        Self::of(Part::default())
    }

    /// The same of another member of the family.
    pub fn of(part: Part) -> Self {
        let (mut control, tx, rx) = e1000::new(&e1000::Config::of(part, MAC));
        control.set_bus_master(true);
        let mut nic = Self {
            control,
            tx,
            rx,
            mem: GuestMem::empty(),
            dma: GuestMem::empty(),
            fake: None,
            now: Time(1_000_000),
            accept: usize::MAX,
            next: 0,
            clean: 0,
        };
        nic.set_memory(ram());
        nic
    }

    /// Gives the guest other memory.
    pub fn set_memory(&mut self, mem: GuestMem) {
        self.dma = mem.clone();
        self.mem = mem;
        let reach = reach();
        if reach != Reach::Mapped {
            let fake = self.ask();
            if reach == Reach::Interrupted {
                fake.interrupt_often();
            }
        }
    }

    /// From now on the device has to ask for its memory.
    pub fn ask(&mut self) -> Arc<Fake> {
        let fake = Fake::new(self.mem.clone());
        self.dma = fake.mem(RAM);
        self.fake = Some(fake.clone());
        fake
    }

    /// No more epochs: for tests that drive a queue step by step.
    pub fn calm(&self) {
        if let Some(fake) = &self.fake {
            fake.calm();
        }
    }

    fn pass_epoch(&self) {
        self.fake.as_ref().expect("who is asked").pass_epoch();
    }

    /// With rings of 64 descriptors; the receive ring has 63 buffers of 2048 bytes.
    pub fn new() -> Self {
        let mut nic = Self::bare();
        nic.set(Reg::TDBAL, TX_RING as u32);
        nic.set(Reg::TDLEN, 64 * 16);
        nic.set(Reg::TCTL, 1 << 1);
        nic.receive(64, 1 << 1 | 1 << 15);
        nic
    }

    /// Stops the NIC and saves it.
    pub fn save(&mut self) -> Vec<u8> {
        let dma = self.dma.clone();
        while self.tx.stop(&dma, self.now).is_err() || self.rx.stop(&dma, self.now).is_err() {
            self.pass_epoch();
        }
        let mut bytes = Vec::new();
        self.state().encode(&mut bytes);
        assert!(bytes.len() <= MAX_STATE);
        bytes
    }

    /// The state of the stopped NIC.
    pub fn state(&mut self) -> State {
        State {
            control: self.control.save(self.now),
            tx: self.tx.save(),
            rx: self.rx.save(),
        }
    }

    /// Continues what has been saved.
    pub fn load(&mut self, bytes: &[u8]) -> Result<(), InvalidState> {
        let state = State::decode(bytes)?;
        self.control.restore(&state.control, self.now);
        let generation = self.shared().generation();
        self.tx.restore(&state.tx, generation);
        self.rx.restore(&state.rx, generation);
        Ok(())
    }

    /// Gets the driver and the memory of another NIC.
    pub fn take_driver(&mut self, other: &Nic) {
        self.mem = other.mem.clone();
        self.dma = other.dma.clone();
        self.fake = other.fake.clone();
        self.accept = other.accept;
        self.next = other.next;
        self.clean = other.clean;
        let master = other.shared().bus_master.load(Ordering::Relaxed);
        self.control.set_bus_master(master);
    }

    pub fn shared(&self) -> &Arc<Shared> {
        self.control.shared()
    }

    /// Sets up the receive ring with all but one of `n` descriptors.
    pub fn receive(&mut self, n: u32, rctl: u32) {
        assert!(n <= 256);
        let room = if n > 64 { 0x2000 } else { 0x4000 };
        for i in 0..n {
            self.mem
                .store_u64(RX_RING + 16 * u64::from(i), RX_DATA + room * u64::from(i))
                .unwrap();
            self.mem
                .store_u64(RX_RING + 16 * u64::from(i) + 8, 0)
                .unwrap();
        }
        self.set(Reg::RDBAL, RX_RING as u32);
        self.set(Reg::RDLEN, n * 16);
        self.set(Reg::RDH, 0);
        self.set(Reg::RDT, n - 1);
        self.set(Reg::RCTL, rctl);
        self.clean = 0;
    }

    pub fn set(&mut self, reg: Reg, value: u32) {
        self.set_n(reg, 0, value);
    }

    pub fn set_n(&mut self, reg: Reg, n: u64, value: u32) {
        let row = reg.row();
        let offset = u64::from(row.offset) + n * u64::from(row.stride);
        self.control
            .write(0, offset, &value.to_le_bytes(), self.now);
    }

    /// Reads a register as the guest does, with the side effects.
    pub fn get(&mut self, reg: Reg) -> u32 {
        let mut bytes = [0; 4];
        self.control
            .read(0, u64::from(reg.row().offset), &mut bytes, self.now);
        u32::from_le_bytes(bytes)
    }

    /// Lets transmission start at descriptor `index`.
    pub fn start_at(&mut self, index: u32) {
        self.next = index;
        self.set(Reg::TDH, index);
        self.set(Reg::TDT, index);
    }

    /// Tells the NIC of the descriptors.
    pub fn kick(&mut self) {
        self.set(Reg::TDT, self.next);
    }

    /// Puts a transmit descriptor behind those before.
    pub fn push(&mut self, addr: u64, low: u32, high: u32) -> u32 {
        let index = self.next;
        let n = self.shared().regs.get(Reg::TDLEN) / 16;
        let at = self.tx_ring() + 16 * u64::from(index);
        self.mem.store_u64(at, addr).unwrap();
        self.mem
            .store_u64(at + 8, u64::from(high) << 32 | u64::from(low))
            .unwrap();
        self.next = (self.next + 1) % n;
        index
    }

    fn tx_ring(&self) -> u64 {
        self.shared().regs.get_u64(Reg::TDBAL, Reg::TDBAH)
    }

    /// Puts a context descriptor.
    pub fn context(&mut self, ip: [u32; 3], l4: [u32; 3], tucmd: u32, hdr_len: u32, mss: u32) {
        let pack = |r: [u32; 3]| r[0] | r[1] << 8 | r[2] << 16;
        let addr = u64::from(pack(l4)) << 32 | u64::from(pack(ip));
        self.push(addr, DEXT | tucmd, hdr_len << 8 | mss << 16);
    }

    /// Puts a buffer with `bytes` at `TX_DATA + offset` and its legacy descriptor.
    pub fn legacy(&mut self, offset: u64, bytes: &[u8], cmd: u32) -> u32 {
        self.mem.write(TX_DATA + offset, bytes).unwrap();
        self.push(TX_DATA + offset, bytes.len() as u32 | cmd, 0)
    }

    /// The same with a data descriptor.
    pub fn data(&mut self, offset: u64, bytes: &[u8], cmd: u32, popts: u8) -> u32 {
        self.mem.write(TX_DATA + offset, bytes).unwrap();
        let low = bytes.len() as u32 | DATA | cmd;
        self.push(TX_DATA + offset, low, u32::from(popts) << 8)
    }

    /// Tells the NIC of the descriptors and lets it send all it can.
    pub fn send(&mut self) -> Vec<Sent> {
        self.set(Reg::TDT, self.next);
        self.run()
    }

    /// Lets the NIC send all it can. Fails if that does not end.
    pub fn run(&mut self) -> Vec<Sent> {
        let mut all = Vec::new();
        let mem = self.dma.clone();
        let mut burst = TxBurst::new();
        for _ in 0..2000 {
            let fetch = self.tx.fetch(&mem, &mut burst, self.now);
            if fetch == Fetch::Interrupted {
                assert!(burst.is_empty());
                self.pass_epoch();
                continue;
            }
            let taken = burst.len().min(self.accept);
            let loopback = burst.loopback();
            for frame in burst.frames().take(taken) {
                let mut bytes = vec![0; frame.len()];
                assert_eq!(frame.copy_to(&mut bytes), Some(bytes.len()));
                assert!(frame.head.len() >= 14 && bytes.len() <= 70_000);
                let mut segments = Segments::new(frame).expect("the model sends no nonsense");
                let mut buffer = vec![0; segments.max_len()];
                let mut wire = Vec::new();
                while let Some(len) = segments.next_into(&mut buffer) {
                    wire.push(buffer[..len].to_vec());
                }
                all.push(Sent {
                    bytes,
                    offload: frame.offload,
                    wire,
                    loopback,
                });
            }
            let short = taken < burst.len();
            assert!(fetch != Fetch::Frames || !burst.is_empty());
            let mut told = self.tx.complete(&mem, &mut burst, taken, self.now);
            while told.is_err() {
                assert!(!self.tx.is_settled());
                self.pass_epoch();
                told = self.tx.settle(&mem, self.now);
            }
            assert!(self.tx.is_settled());
            if fetch != Fetch::More || short {
                return all;
            }
        }
        panic!("the transmitter finds no end");
    }

    /// Status byte of a transmit descriptor.
    pub fn tx_status(&self, index: u32) -> u8 {
        self.word(self.tx_ring() + 16 * u64::from(index) + 12) as u8
    }

    pub fn word(&self, addr: u64) -> u32 {
        let mut bytes = [0; 4];
        self.mem.read(addr, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    pub fn deliver(&mut self, frame: RxFrame<'_>) -> Delivered {
        let mem = self.dma.clone();
        let delivered = self.rx.deliver(&mem, frame, self.now);
        match (self.finish(&mem, false), delivered) {
            (true, Delivered::Interrupted) => Delivered::Placed,
            (false, Delivered::Interrupted) => Delivered::Held,
            (_, delivered) => delivered,
        }
    }

    /// Ends a batch, whatever comes in between. Whether no frame is held any more.
    fn finish(&mut self, mem: &GuestMem, mut placed: bool) -> bool {
        while self.rx.finish(mem, self.now).is_err() {
            assert!(!self.rx.has_room() || self.rx.enabled());
            self.pass_epoch();
            placed = self.rx.resume(mem, self.now);
        }
        assert!(self.rx.is_settled());
        placed
    }

    pub fn give(&mut self, bytes: &[u8]) -> Delivered {
        self.deliver(RxFrame::new(bytes))
    }

    /// After RDT moved.
    pub fn resume(&mut self) -> bool {
        let mem = self.dma.clone();
        let done = self.rx.resume(&mem, self.now);
        self.finish(&mem, done)
    }

    /// The next whole frame in the receive ring, as a driver collects it; buffers are not given back.
    pub fn collect(&mut self) -> Option<Received> {
        let n = self.shared().regs.get(Reg::RDLEN) / 16;
        let mut bytes = Vec::new();
        for descriptors in 1..=n as usize {
            let at = RX_RING + 16 * u64::from(self.clean);
            let mut words = [0; 2];
            self.mem.read_u64s(at, &mut words).unwrap();
            if words[1] >> 32 & 1 == 0 {
                assert!(bytes.is_empty(), "a frame without an end");
                return None;
            }
            let len = (words[1] & 0xffff) as usize;
            let start = bytes.len();
            bytes.resize(start + len, 0);
            self.mem.read(words[0], &mut bytes[start..]).unwrap();
            self.mem.store_u64(at + 8, 0).unwrap();
            self.clean = (self.clean + 1) % n;
            if words[1] >> 33 & 1 == 1 {
                return Some(Received {
                    bytes,
                    status: (words[1] >> 32) as u8,
                    errors: (words[1] >> 40) as u8,
                    special: (words[1] >> 48) as u16,
                    descriptors,
                });
            }
        }
        panic!("a ring without an end of packet");
    }

    /// Gives the driver's collected descriptors back.
    pub fn refill(&mut self) {
        let n = self.shared().regs.get(Reg::RDLEN) / 16;
        self.set(Reg::RDT, (self.clean + n - 1) % n);
    }
}
