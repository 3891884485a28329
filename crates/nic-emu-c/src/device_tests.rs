//! Budgets, back-pressure and loopback of a NIC with its host in the same test. What C sees is tested from C.

use std::sync::Mutex;

use guest_mem::DmaError;
use nic_emu::e1000::regs::Reg;
use proptest::prelude::*;

use super::*;

const TX_RING: usize = 0x1000;
const RX_RING: usize = 0x8000;
const TX_DATA: usize = 0x1_0000;
const RX_DATA: usize = 0x2_0000;
const RAM: usize = 0x4_0000;

/// Memory, a network with so much room, and what has happened.
#[derive(Debug)]
pub(crate) struct FakeHost {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    ram: Vec<u8>,
    room: usize,
    sent: Vec<Vec<u8>>,
    line: bool,
    ready: usize,
    pme: Vec<bool>,
}

impl FakeHost {
    pub(crate) fn new() -> Arc<FakeHost> {
        Arc::new(FakeHost {
            state: Mutex::new(State {
                ram: vec![0; RAM],
                room: usize::MAX,
                sent: Vec::new(),
                line: false,
                ready: 0,
                pme: Vec::new(),
            }),
        })
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().expect("nobody panics"))
    }

    fn put(&self, at: usize, bytes: &[u8]) {
        self.with(|state| state.ram[at..at + bytes.len()].copy_from_slice(bytes));
    }

    fn descriptor(&self, at: usize, addr: usize, word: u64) {
        self.put(at, &(addr as u64).to_le_bytes());
        self.put(at + 8, &word.to_le_bytes());
    }

    fn sent(&self) -> usize {
        self.with(|state| state.sent.len())
    }
}

impl Remote for FakeHost {
    fn read(&self, addr: u64, to: &mut [u8]) -> Result<(), DmaError> {
        self.with(|state| {
            let from = state.ram.get(addr as usize..).unwrap_or_default();
            let from = from.get(..to.len()).ok_or(DmaError::Unreachable { addr })?;
            to.copy_from_slice(from);
            Ok(())
        })
    }

    fn write(&self, addr: u64, from: &[u8]) -> Result<(), DmaError> {
        self.with(|state| {
            let to = state.ram.get_mut(addr as usize..).unwrap_or_default();
            let to = to
                .get_mut(..from.len())
                .ok_or(DmaError::Unreachable { addr })?;
            to.copy_from_slice(from);
            Ok(())
        })
    }

    fn flush(&self) -> Result<(), DmaError> {
        Ok(())
    }

    fn blocks(&self) -> bool {
        false
    }
}

impl Host for FakeHost {
    fn transmit(&self, frame: &[u8]) -> bool {
        self.with(|state| {
            let taken = state.room > 0;
            if taken {
                state.room -= 1;
                state.sent.push(frame.to_vec());
            }
            taken
        })
    }

    fn interrupt(&self, level: bool) {
        self.with(|state| {
            assert_ne!(state.line, level, "only changes are told");
            state.line = level;
        });
    }

    fn receive_ready(&self) {
        self.with(|state| state.ready += 1);
    }

    fn pme(&self, asserted: bool) {
        self.with(|state| state.pme.push(asserted));
    }
}

fn set(nic: &mut Nic, reg: Reg, value: u32) {
    nic.write(0, reg.row().offset.into(), &value.to_le_bytes(), Time::ZERO);
}

/// A NIC with rings of 512 transmit and 8 receive descriptors.
fn nic() -> (Nic, Arc<FakeHost>) {
    let host = FakeHost::new();
    let mut nic = Nic::new(&Config::new([2, 0, 0, 0, 0, 1]), host.clone());
    nic.set_bus_master(true, Time::ZERO);
    for (reg, value) in [
        (Reg::TDBAL, TX_RING),
        (Reg::TDLEN, 512 * 16),
        (Reg::TCTL, 1 << 1),
        (Reg::RDBAL, RX_RING),
        (Reg::RDLEN, 8 * 16),
        (Reg::RDT, 7),
    ] {
        set(&mut nic, reg, value as u32);
    }
    for n in 0..8 {
        host.descriptor(RX_RING + 16 * n, RX_DATA + 2048 * n, 0);
    }
    (nic, host)
}

/// EOP, IFCS and RS.
const LEGACY: u64 = 0x0B << 24;

#[test]
fn pme_is_told_when_it_changes() {
    let (mut nic, host) = nic();
    let told = |host: &FakeHost| host.with(|state| std::mem::take(&mut state.pme));
    set(&mut nic, Reg::WUFC, 1);
    set(&mut nic, Reg::CTRL, 1 << 6);
    nic.set_link(true, Time::ZERO);
    while let Some(deadline) = nic.deadline() {
        nic.run_timers(deadline);
    }
    assert!(nic.control().link());
    assert_eq!(told(&host), [], "nobody wants to be woken");

    let now = nic.now;
    nic.write_pme(true, true, now);
    assert_eq!(told(&host), []);
    nic.set_link(false, now);
    assert_eq!(told(&host), [true]);
    nic.reset(ResetKind::Bus, now);
    assert_eq!(told(&host), [], "it outlasts this");
    let other_host = FakeHost::new();
    let mut other = Nic::new(&Config::new([2, 0, 0, 0, 0, 1]), other_host.clone());
    other.restore(&nic.save(now), now).expect("a state");
    assert_eq!(told(&other_host), [true]);
    other.reset(ResetKind::PowerOn, now);
    assert_eq!(told(&other_host), [false]);

    nic.write_pme(false, false, now);
    assert_eq!(told(&host), [false]);
    nic.write_pme(true, false, now);
    assert_eq!(told(&host), [true], "the status was there all the time");
    nic.write_pme(true, true, now);
    assert_eq!(told(&host), [false]);
}

#[test]
fn a_full_ring_takes_several_calls() {
    let (mut nic, host) = nic();
    for n in 0..511 {
        host.descriptor(TX_RING + 16 * n, TX_DATA, LEGACY | 60);
    }
    set(&mut nic, Reg::TDT, 511);
    let sent = host.sent();
    assert!((32..511).contains(&sent), "{sent}");
    assert_eq!(nic.deadline(), Some(Time::ZERO));
    nic.run_timers(Time::ZERO);
    assert_eq!(host.sent(), 511);
    assert_eq!(nic.deadline(), None);
}

#[test]
fn a_super_frame_that_was_taken_in_part_goes_on_where_it_was() {
    let (mut nic, host) = nic();
    // 14 + 20 + 20 bytes of headers, 5000 of payload, in segments of 1000.
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend([
        0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    frame.extend([0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 1, 0]);
    frame.extend([0; 4]);
    frame.extend((0..5000_u32).map(|n| (n / 1000) as u8));
    host.put(TX_DATA, &frame);
    // The context: IP checksum at 24 from 14 to 33, TCP's at 50 from 34, MSS 1000; then the data, to be segmented.
    let offsets = 14 | 24 << 8 | 33 << 16 | 34 << 32 | 50 << 40;
    let context = 0x2700_0000_u64 | 5000 | (54 << 8 | 1000 << 16) << 32;
    host.descriptor(TX_RING, offsets, context);
    let data = 0x2F10_0000_u64 | frame.len() as u64 | 3 << 40;
    host.descriptor(TX_RING + 16, TX_DATA, data);
    host.with(|state| state.room = 2);
    set(&mut nic, Reg::TDT, 2);
    assert_eq!(host.sent(), 2);
    assert_eq!(nic.control().shared().regs.get(Reg::TDH), 0);
    // Nothing is due: the host has to say when it has room.
    assert_eq!(nic.deadline(), None);
    nic.run_timers(Time::ZERO);
    assert_eq!(host.sent(), 2);

    host.with(|state| state.room = usize::MAX);
    nic.transmit_ready(Time::ZERO);
    assert_eq!(nic.control().shared().regs.get(Reg::TDH), 2);
    host.with(|state| {
        let numbers: Vec<_> = state.sent.iter().map(|frame| frame[54]).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
        for frame in &state.sent {
            assert_eq!(frame.len(), 1054);
            assert_eq!(nic_emu::common::checksum::sum(&frame[14..34]), 0xFFFF);
        }
    });
}

#[test]
fn loopback_reaches_the_receiver_and_not_the_host() {
    let (mut nic, host) = nic();
    // EN, UPE and LBM.
    set(&mut nic, Reg::RCTL, 1 << 1 | 1 << 3 | 1 << 6);
    host.put(TX_DATA, &[6; 60]);
    for n in 0..9 {
        host.descriptor(TX_RING + 16 * n, TX_DATA, LEGACY | 60);
    }
    // Two more than there are buffers: those are lost, nothing waits.
    set(&mut nic, Reg::TDT, 9);
    let regs = &nic.control().shared().regs;
    assert_eq!(regs.get(Reg::TDH), 9);
    assert_eq!(regs.get(Reg::RDH), 7);
    assert_eq!(host.sent(), 0);
    host.with(|state| assert_eq!(state.ram[RX_DATA..][..60], [6; 60]));
}

/// The host gets no FCS, and would take the frame for a good one.
#[test]
fn a_frame_with_a_wrong_fcs_ends_before_the_host() {
    let (mut nic, host) = nic();
    host.put(TX_DATA, &[6; 64]);
    let without_ifcs = LEGACY & !(1 << 25) | 64;
    host.descriptor(TX_RING, TX_DATA, without_ifcs);
    host.descriptor(TX_RING + 16, TX_DATA, LEGACY | 64);
    set(&mut nic, Reg::TDT, 2);
    assert_eq!(host.sent(), 1);
    assert_eq!(nic.control().counters().tx_bad_fcs, 1);
}

#[test]
fn reception_pauses_and_says_when_it_goes_on() {
    let (mut nic, host) = nic();
    set(&mut nic, Reg::RCTL, 1 << 1 | 1 << 3);
    for _ in 0..7 {
        assert!(nic.receive(&[2; 60], Time::ZERO));
    }
    assert!(!nic.can_receive());
    assert!(!nic.receive(&[2; 60], Time::ZERO));
    // Something else happens.
    set(&mut nic, Reg::RDTR, 0);
    host.with(|state| assert_eq!(state.ready, 0));
    set(&mut nic, Reg::RDT, 2);
    host.with(|state| assert_eq!(state.ready, 1));
    assert!(nic.receive(&[2; 60], Time::ZERO));
    // It is told once, and not without need.
    set(&mut nic, Reg::RDT, 4);
    host.with(|state| assert_eq!(state.ready, 1));

    // A receiver that is switched off takes everything.
    while nic.receive(&[2; 60], Time::ZERO) {}
    set(&mut nic, Reg::RCTL, 0);
    host.with(|state| assert_eq!(state.ready, 2));
    assert!(nic.receive(&[2; 60], Time::ZERO));
}

#[test]
fn descriptions_fit_their_types() {
    use crate::types::{NIC_EMU_CAPABILITY_LEN, NIC_EMU_NAME_LEN, NicEmuPci};
    let (nic, _) = nic();
    let function = nic.control().pci();
    let pci = NicEmuPci::from(function);
    assert_eq!(pci.capability_count as usize, function.capabilities.len());
    for capability in function.capabilities {
        assert!(capability.bytes.len() <= NIC_EMU_CAPABILITY_LEN);
    }
    for (name, _) in nic.control().counters().iter() {
        assert!(name.len() < NIC_EMU_NAME_LEN, "{name}");
    }
}

#[test]
fn a_held_frame_outlives_a_migration() {
    let (mut nic, host) = nic();
    // EN, UPE, LPE: a frame of 16000 bytes takes eight buffers of 2 KiB, and there are seven.
    set(&mut nic, Reg::RCTL, 1 << 1 | 1 << 3 | 1 << 5);
    assert!(nic.receive(&[2; 16_000], Time::ZERO));
    assert!(!nic.can_receive());
    assert_eq!(nic.control().shared().regs.get(Reg::RDH), 7);
    let state = nic.save(Time::ZERO);
    let mut other = Nic::new(&Config::new([2, 0, 0, 0, 0, 2]), host.clone());
    other.restore(&state, Time::ZERO).expect("a state");
    // Whatever comes first, bus mastering comes later.
    other.run_timers(Time::ZERO);
    other.set_bus_master(true, Time::ZERO);
    set(&mut other, Reg::RDT, 2);
    assert!(other.can_receive());
    // Counted where it came in, and its last buffer filled here: once around the ring of eight.
    assert_eq!(nic.control().counters().rx_frames, 1);
    assert_eq!(other.control().shared().regs.get(Reg::RDH), 0);
    assert_eq!(other.control().counters().rx_disabled, 0);
}

/// What a guest, the bus and the network may do, in any order.
#[derive(Clone, Debug)]
enum Deed {
    /// To one of the registers with an effect on the queues.
    Set(usize, u32),
    Write(u8, u64, Vec<u8>),
    Read(u8, u64, usize),
    Memory(usize, Vec<u8>),
    Receive(usize),
    BusMaster(bool),
    Link(bool),
    Reset(bool),
    Time(u64),
    Room(usize),
    SaveAndRestore,
}

const REGISTERS: [Reg; 14] = [
    Reg::CTRL,
    Reg::RCTL,
    Reg::TCTL,
    Reg::TDBAL,
    Reg::TDLEN,
    Reg::TDH,
    Reg::TDT,
    Reg::RDBAL,
    Reg::RDLEN,
    Reg::RDH,
    Reg::RDT,
    Reg::IMS,
    Reg::ITR,
    Reg::RDTR,
];

fn deed() -> impl Strategy<Value = Deed> {
    let bytes = || prop::collection::vec(any::<u8>(), 1..64);
    let value = prop_oneof![any::<u32>(), 0..64_u32, Just(TX_RING as u32)];
    prop_oneof![
        8 => (0..REGISTERS.len(), value).prop_map(|(reg, value)| Deed::Set(reg, value)),
        1 => (0..4_u8, 0..0x2_1000_u64, bytes()).prop_map(|(bar, at, data)| Deed::Write(bar, at, data)),
        1 => (0..4_u8, any::<u64>(), 0..9_usize).prop_map(|(bar, at, len)| Deed::Read(bar, at, len)),
        4 => (0..RAM - 64, bytes()).prop_map(|(at, data)| Deed::Memory(at, data)),
        4 => (TX_RING..TX_RING + 256, bytes()).prop_map(|(at, data)| Deed::Memory(at, data)),
        4 => (0..20_000_usize).prop_map(Deed::Receive),
        1 => any::<bool>().prop_map(Deed::BusMaster),
        1 => any::<bool>().prop_map(Deed::Link),
        1 => any::<bool>().prop_map(Deed::Reset),
        2 => (0..4_000_000_000_u64).prop_map(Deed::Time),
        2 => (0..200_usize).prop_map(Deed::Room),
        1 => Just(Deed::SaveAndRestore),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Nothing panics, the line is what the model says, and what was refused is announced.
    #[test]
    fn anything_may_happen_in_any_order(deeds in prop::collection::vec(deed(), 1..100)) {
        let (mut nic, host) = nic();
        host.with(|state| state.room = 100);
        let mut now = Time::ZERO;
        let mut waiting = false;
        for deed in deeds {
            let ready = host.with(|state| state.ready);
            match deed {
                Deed::Set(reg, value) => set(&mut nic, REGISTERS[reg], value),
                Deed::Write(bar, at, data) => nic.write(bar, at, &data, now),
                Deed::Read(bar, at, len) => nic.read(bar, at, &mut [0; 8][..len], now),
                Deed::Memory(at, data) => host.put(at, &data),
                Deed::Receive(len) => {
                    waiting = !nic.receive(&vec![0xFF; len], now);
                    continue;
                }
                Deed::BusMaster(on) => nic.set_bus_master(on, now),
                Deed::Link(up) => nic.set_link(up, now),
                Deed::Reset(true) => nic.reset(ResetKind::PowerOn, now),
                Deed::Reset(false) => nic.reset(ResetKind::Bus, now),
                Deed::Time(nanos) => {
                    now = now.plus_nanos(nanos);
                    nic.run_timers(now);
                }
                Deed::Room(room) => {
                    host.with(|state| {
                        state.room = room;
                        state.sent.clear();
                    });
                    nic.transmit_ready(now);
                }
                Deed::SaveAndRestore => {
                    nic.run_timers(now);
                    let state = nic.save(now);
                    prop_assert!(nic.restore(&state, now).is_ok());
                    prop_assert!(nic.save(now) == state);
                    nic.run_timers(now);
                }
            }
            let told = host.with(|state| state.ready) > ready;
            prop_assert!(!told || waiting);
            waiting &= !told;
            prop_assert!(!waiting || !nic.can_receive());
            let line = nic.control().shared().irq.poll(now);
            prop_assert_eq!(host.with(|state| state.line), line);
        }
    }
}
