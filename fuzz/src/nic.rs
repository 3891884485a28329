//! An 82540EM with a little memory, driven by a script.

use std::sync::Arc;

use guest_mem::{Access, GuestMem, Mapping};
use nic_emu::Time;
use nic_emu::common::flash::{ERASED, Flash};
use nic_emu::common::frame::{Csum, Gso, GsoKind, RxCsum, RxFrame, RxMeta, TxBurst};
use nic_emu::common::gso::Segments;
use nic_emu::e1000::regs::{self, Reg};
use nic_emu::e1000::rx::{Overrun, RxQueue};
use nic_emu::e1000::state::{InvalidState, MAX_STATE, State};
use nic_emu::e1000::tx::{Fetch, TxQueue};
use nic_emu::e1000::{self, Config, Control, FLASH_BAR, Kick, ResetKind};

use crate::input::Input;
use crate::planted;

/// Bytes of memory, from address 0.
const RAM: u64 = 128 << 10;
/// Where scripts like to have rings and buffers.
const TX_RING: u32 = 0x1000;
const RX_RING: u32 = 0x2000;
const BUFFERS: u64 = 0x4000;
/// The station that it is.
const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
/// Bytes of its flash.
const FLASH: usize = 64 << 10;
/// Most steps of a script.
const STEPS: usize = 64;
/// Turns within which a transmitter that gets nothing new must come to its end: a ring of 65536 descriptors, of which
/// each turn does one burst or 256.
const TURNS: usize = 1 << 14;
/// Frames that a script may have sent before it ends.
const FRAMES: usize = 4096;

pub(crate) struct Nic {
    control: Control,
    tx: TxQueue,
    rx: RxQueue,
    mem: GuestMem,
    now: Time,
    /// The cable is in.
    plugged: bool,
    masters: bool,
    /// Frames that the backend takes of a burst.
    accept: usize,
    sent: usize,
}

impl Nic {
    /// As it comes, plugged in, on a bus that lets it do DMA.
    pub(crate) fn new() -> Self {
        std::thread_local! { static RAM_OF_ALL: Arc<Mapping> = Arc::new(Mapping::anonymous(RAM).expect("memory")); }
        let mapping = RAM_OF_ALL.with(Arc::clone);
        let mem = GuestMem::builder()
            .map(0, RAM, mapping, 0, Access::ReadWrite)
            .build()
            .expect("a map");
        mem.write(0, &vec![0; RAM as usize])
            .expect("our own memory");
        Self::with(mem, true, Time(1_000_000))
    }

    fn with(mem: GuestMem, plugged: bool, now: Time) -> Self {
        let mut config = Config::new(MAC);
        config.flash = Flash::new(vec![ERASED; FLASH]);
        let (mut control, tx, rx) = e1000::new(&config);
        control.set_bus_master(true);
        control.set_link(plugged, now);
        Self {
            control,
            tx,
            rx,
            mem,
            now,
            plugged,
            masters: true,
            accept: usize::MAX,
            sent: 0,
        }
    }

    /// Runs the script.
    pub(crate) fn run(&mut self, input: &mut Input<'_>) {
        for _ in 0..STEPS {
            if input.is_empty() || self.sent > FRAMES {
                break;
            }
            self.step(input);
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 18 {
            0..=3 => {
                let reg = input.pick(Reg::ALL);
                let n = u32::from(input.u8()) % u32::from(reg.row().count);
                let value = input.u32();
                self.set(reg, n, value);
            }
            4 => {
                let (offset, len) = (input.u32(), usize::from(input.u8() % 9));
                let bar = input.pick(&[0, 0, 2, 1]);
                let kick = self
                    .control
                    .write(bar, offset.into(), input.bytes(len), self.now);
                self.kick(kick);
            }
            5 => {
                let (offset, len) = (input.u32(), usize::from(input.u8() % 9));
                let mut bytes = [0; 8];
                let bar = input.pick(&[0, 0, 2, 1]);
                self.control
                    .read(bar, offset.into(), &mut bytes[..len.min(8)], self.now);
            }
            6 => {
                let reg = input.pick(Reg::ALL);
                let mut bytes = [0; 4];
                self.control
                    .read(0, reg.offset().into(), &mut bytes, self.now);
            }
            7 => self.set_up_transmitter(input),
            8 => self.set_up_receiver(input),
            9..=10 => self.describe(input),
            11 => {
                let at = u64::from(input.u32()) % (RAM + 64);
                let len = usize::from(input.u8());
                // Beyond the end there is nothing.
                let _ = self.mem.write(at, input.bytes(len));
            }
            12..=13 => self.receive(input),
            14 => {
                self.now = Time(self.now.0.saturating_add(u64::from(input.u32()) * 100));
                let kick = self.control.run_timers(self.now);
                self.kick(kick);
            }
            15 => match input.u8() & 7 {
                0 => {
                    let kick = self.control.reset(ResetKind::Bus, self.now);
                    self.kick(kick);
                }
                1 => _ = self.control.reset(ResetKind::PowerOn, self.now),
                2 => {
                    self.plugged = input.u8() & 1 != 0;
                    let kick = self.control.set_link(self.plugged, self.now);
                    self.kick(kick);
                }
                3 => {
                    self.masters = input.u8() & 1 != 0;
                    let kick = self.control.set_bus_master(self.masters);
                    self.kick(kick);
                }
                4 => self.rx.set_overrun(if input.u8() & 1 == 0 {
                    Overrun::Hold
                } else {
                    Overrun::Drop
                }),
                5 => self.accept = usize::from(input.u8()),
                _ => self.move_on(),
            },
            17 => self.sleep(input),
            _ => self.kick(Kick::TX | Kick::RX),
        }
        let _ = self.control.shared().irq.poll(self.now);
        let _ = (
            self.control.shared().irq.deadline(),
            self.control.deadline(),
        );
    }

    /// What a driver does to be woken, and what wakes it; and its flash.
    fn sleep(&mut self, input: &mut Input<'_>) {
        match input.u8() % 12 {
            0..=1 => {
                let bits = input.u8();
                let kick = self.control.write_pme(bits & 1 != 0, bits & 2 != 0);
                self.kick(kick);
            }
            // D3hot, and the way back.
            2 => {
                self.masters = false;
                let kick = self.control.set_bus_master(false);
                self.kick(kick);
            }
            3 => {
                let kick = self.control.reset(ResetKind::Bus, self.now);
                self.kick(kick);
            }
            4 => self.set(Reg::WUC, 0, u32::from(input.u8())),
            5 => {
                let value = u32::from(input.u16()) | u32::from(input.u8()) << 16;
                self.set(Reg::WUFC, 0, value);
            }
            6 => {
                let filter = u32::from(input.u8() & 3);
                let len = u32::from(input.u8() & 0x7F);
                self.set(Reg::FFLT, filter, len);
                for at in 0..len.min(16) {
                    self.set(Reg::FFMT, at, input.u8().into());
                    self.set(Reg::FFVT, at, 0x0101_0101 * u32::from(input.u8()));
                }
            }
            7 => {
                let kind = input.u8();
                let frame = waking(kind, input);
                self.give(&frame, RxMeta::default());
            }
            8 => {
                let value = [0x10, 0x20][usize::from(input.u8() & 1)];
                self.set(Reg::EECD, 0, value);
            }
            _ => {
                for _ in 0..1 + (input.u8() & 7) {
                    let at = input.pick(&[0x5555, 0x2AAA, 0x5555, 0x1234]);
                    let byte = input.pick(&[0xAA, 0x55, 0xA0, 0x80, 0x30, 0x10, 0x90, 0xF0]);
                    let kick = self.control.write(FLASH_BAR, at, &[byte], self.now);
                    assert_eq!(kick, Kick::empty());
                }
                if let Some((at, bytes)) = self.control.take_flash_change() {
                    assert!(at + bytes.len() <= FLASH);
                }
            }
        }
        let pme = self.control.pme();
        assert!(!pme.status || self.control.shared().regs.get(Reg::WUC) & 4 != 0);
    }

    fn set(&mut self, reg: Reg, n: u32, value: u32) {
        let offset = u64::from(reg.offset() + n * u32::from(reg.row().stride));
        let kick = self
            .control
            .write(0, offset, &value.to_le_bytes(), self.now);
        self.kick(kick);
    }

    fn kick(&mut self, kick: Kick) {
        if kick.contains(Kick::RX) {
            self.rx.resume(&self.mem, self.now);
            self.rx
                .finish(&self.mem, self.now)
                .expect("no epoch begins here");
        }
        if kick.contains(Kick::TX) {
            self.transmit();
        }
    }

    fn transmit(&mut self) {
        let mut burst = TxBurst::new();
        let mut buffer = Vec::new();
        for _ in 0..TURNS {
            let fetch = self.tx.fetch(&self.mem, &mut burst, self.now);
            assert_ne!(fetch, Fetch::Interrupted);
            assert!(fetch != Fetch::Frames || !burst.is_empty());
            let taken = burst.len().min(self.accept);
            for frame in burst.frames().take(taken) {
                assert!(
                    frame.head.len() >= 14 && frame.len() <= 70_000,
                    "{} bytes",
                    frame.len()
                );
                planted::sent(&self.control, &frame.offload);
                let mut segments = Segments::new(frame).expect("the model sends no nonsense");
                buffer.resize(segments.max_len(), 0);
                // All of it is cut up for the first frames only, which takes long.
                let most = if self.sent < 64 { usize::MAX } else { 1 };
                for _ in 0..most {
                    if segments.next_into(&mut buffer).is_none() {
                        break;
                    }
                }
                self.sent += 1;
            }
            let all = taken == burst.len();
            self.tx
                .complete(&self.mem, &mut burst, taken, self.now)
                .expect("no epoch begins here");
            if fetch != Fetch::More || !all || self.sent > FRAMES {
                return;
            }
        }
        panic!("the transmitter finds no end");
    }

    fn set_up_transmitter(&mut self, input: &mut Input<'_>) {
        self.set(Reg::TDBAL, 0, TX_RING);
        self.set(Reg::TDBAH, 0, 0);
        self.set(Reg::TDLEN, 0, 128 * (1 + u32::from(input.u8() & 7)));
        self.set(Reg::TDH, 0, 0);
        self.set(Reg::TDT, 0, 0);
        self.set(Reg::TCTL, 0, 0b1010);
    }

    fn set_up_receiver(&mut self, input: &mut Input<'_>) {
        let n = 8 * (1 + u32::from(input.u8() & 7));
        for i in 0..u64::from(n) {
            let at = u64::from(RX_RING) + 16 * i;
            self.mem
                .store_u64(at, BUFFERS + 0x400 * i)
                .expect("our own memory");
            self.mem.store_u64(at + 8, 0).expect("our own memory");
        }
        self.set(Reg::RDBAL, 0, RX_RING);
        self.set(Reg::RDBAH, 0, 0);
        self.set(Reg::RDLEN, 0, 16 * n);
        self.set(Reg::RDH, 0, 0);
        self.set(Reg::RDT, 0, n - 1);
        // Enabled and promiscuous, and whatever else.
        self.set(Reg::RCTL, 0, 0b1_1010 | input.u32());
    }

    /// Writes a few transmit descriptors where the tail is, and announces them.
    fn describe(&mut self, input: &mut Input<'_>) {
        let regs = self.control.shared().regs.clone();
        let base = regs.get_u64(Reg::TDBAL, Reg::TDBAH);
        let count = regs.get(Reg::TDLEN) / 16;
        let mut tail = regs.get(Reg::TDT);
        for _ in 0..1 + (input.u8() & 3) {
            if count == 0 {
                return;
            }
            tail %= count;
            let kind = input.u8();
            let (addr, command) = match kind & 3 {
                // A legacy one, a context, data, anything.
                0 => (
                    BUFFERS + u64::from(input.u16()),
                    u64::from(kind >> 2) << 24 | u64::from(input.u16()),
                ),
                1 => (
                    input.u64(),
                    1 << 29
                        | u64::from(kind >> 2) << 24
                        | input.u64() << 32
                        | u64::from(input.u16()),
                ),
                2 => (
                    BUFFERS + u64::from(input.u16()),
                    0x3 << 20
                        | u64::from(kind >> 2 | 0x20) << 24
                        | u64::from(input.u16())
                        | u64::from(input.u8()) << 40,
                ),
                _ => (input.u64(), input.u64()),
            };
            let at = base.wrapping_add(16 * u64::from(tail));
            let _ = self.mem.write(at, &addr.to_le_bytes());
            let _ = self.mem.write(at.wrapping_add(8), &command.to_le_bytes());
            tail = (tail + 1) % count;
        }
        self.set(Reg::TDT, 0, tail);
    }

    fn receive(&mut self, input: &mut Input<'_>) {
        let len = usize::from(input.u16()) & 0x3fff;
        let known = input.u8();
        let mut frame = input.bytes(usize::from(known)).to_vec();
        frame.resize(len.max(frame.len()), 0x5a);
        let kind = input.u8();
        let gso = match kind & 7 {
            0 => Some(GsoKind::TcpV4),
            1 => Some(GsoKind::TcpV6),
            _ => None,
        };
        let gso = gso.map(|kind| Gso {
            kind,
            hdr_len: input.u16(),
            mss: input.u16(),
        });
        // A backend that hands over a super-frame says where its checksum is.
        let csum = match kind >> 3 & 3 {
            0 if gso.is_none() => RxCsum::Unknown,
            1 if gso.is_none() => RxCsum::Valid,
            _ => RxCsum::Partial(Csum {
                start: input.u16(),
                offset: input.u16(),
            }),
        };
        let meta = RxMeta {
            csum,
            gso,
            bad_fcs: kind & 0x80 != 0,
        };
        self.give(&frame, meta);
    }

    fn give(&mut self, frame: &[u8], meta: RxMeta) {
        self.rx
            .deliver(&self.mem, RxFrame { data: frame, meta }, self.now);
        self.rx
            .finish(&self.mem, self.now)
            .expect("no epoch begins here");
    }

    /// The state, if the queues are between two turns.
    pub(crate) fn save(&mut self) -> Vec<u8> {
        assert!(self.tx.is_settled() && self.rx.is_settled());
        let control = self.control.save(self.now);
        let state = State {
            control,
            tx: self.tx.save(),
            rx: self.rx.save(),
        };
        let mut bytes = Vec::new();
        state.encode(&mut bytes);
        assert!(bytes.len() <= MAX_STATE, "a state of {} bytes", bytes.len());
        bytes
    }

    /// Goes on as what the bytes say.
    pub(crate) fn load(&mut self, bytes: &[u8]) -> Result<(), InvalidState> {
        let state = State::decode(bytes)?;
        let _ = self.control.restore(&state.control, self.now);
        let generation = self.control.shared().generation();
        self.tx.restore(&state.tx, generation);
        self.rx.restore(&state.rx, generation);
        Ok(())
    }

    /// Goes on as another NIC with the same state.
    fn move_on(&mut self) {
        let bytes = self.save();
        let mut other = Self {
            now: self.now,
            sent: self.sent,
            accept: self.accept,
            masters: self.masters,
            ..Self::with(self.mem.clone(), self.plugged, self.now)
        };
        other.control.set_bus_master(self.masters);
        other.load(&bytes).expect("what was saved can be restored");
        assert_same(&bytes, &other.save());
        *self = other;
        self.kick(Kick::TX | Kick::RX);
    }

    /// Registers hold nothing that a guest could not have written.
    pub(crate) fn check_registers(&self) {
        let regs = &self.control.shared().regs;
        for &reg in Reg::ALL {
            let row = reg.row();
            // These show more than what was written.
            let shows = matches!(reg, Reg::MDIC | Reg::EERD | Reg::EECD | Reg::PBA | Reg::WUC);
            if row.access == regs::Access::Rw && !shows {
                for n in 0..row.count.into() {
                    let value = regs.get_n(reg, n);
                    assert_eq!(
                        value & !row.mask & !row.reset,
                        0,
                        "{} holds {value:#x}",
                        row.name
                    );
                }
            }
        }
    }
}

/// A frame that may wake somebody, with anything changed.
fn waking(kind: u8, input: &mut Input<'_>) -> Vec<u8> {
    let mut frame = vec![0xFF; 6];
    if kind & 1 != 0 {
        frame.copy_from_slice(&MAC);
    }
    frame.extend_from_slice(&[0x52, 0x54, 0, 0xAA, 0xBB, 0xCC]);
    if kind & 2 != 0 {
        frame.extend_from_slice(&[0x81, 0, 0, 7]);
    }
    match kind >> 2 & 3 {
        0 => {
            frame.extend_from_slice(&[0x88, 0xB5]);
            frame.extend_from_slice(&[0xFF; 6]);
            frame.extend(MAC.repeat(16));
        }
        1 => frame.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]),
        2 => frame.extend_from_slice(&[8, 0, 0x45, 0]),
        _ => frame.extend_from_slice(&[0x86, 0xDD, 0x60, 0]),
    }
    let rest = usize::from(input.u8());
    frame.extend_from_slice(input.bytes(rest));
    frame.resize(frame.len().max(60), 0);
    for _ in 0..kind >> 6 {
        let at = usize::from(input.u8()) % frame.len();
        frame[at] = input.u8();
    }
    frame
}

/// Two states are the same; says where they differ.
pub(crate) fn assert_same(before: &[u8], after: &[u8]) {
    if before != after {
        let text = |bytes| format!("{:#?}", State::decode(bytes));
        let (before, after) = (text(before), text(after));
        let different = before.lines().zip(after.lines()).filter(|(a, b)| a != b);
        panic!(
            "the state changed on its way: {:?}",
            different.take(8).collect::<Vec<_>>()
        );
    }
}
