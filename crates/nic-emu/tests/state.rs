//! A NIC that is saved and restored in the middle of whatever it does goes on as if nothing had happened; and no bytes
//! whatsoever are a state that harms.

mod support;

use nic_emu::Time;
use nic_emu::common::frame::{Csum, Gso, GsoKind, RxCsum, RxFrame, RxMeta};
use nic_emu::e1000::ResetKind;
use nic_emu::e1000::regs::Reg;
use nic_emu::e1000::rx::Delivered;
use nic_emu::e1000::state::{InvalidState, MAX_STATE, State};
use proptest::prelude::*;
use support::packets::{Flow, broadcast};
use support::*;

const EN: u32 = 1 << 1;
const UPE: u32 = 1 << 3;
const LPE: u32 = 1 << 5;
const BAM: u32 = 1 << 15;

/// One step of a driver, of the network, or of time.
#[derive(Clone, Debug)]
enum Step {
    Write(u32, u32),
    Read(u32),
    Port(u64, u32),
    /// A command to the EEPROM, cut off after so many clocks.
    Eeprom(u32, usize),
    Phy(u32, u32, u32),
    Legacy {
        len: usize,
        cmd: u32,
    },
    Data {
        at: u64,
        len: usize,
        cmd: u32,
        popts: u8,
    },
    Context {
        tso: bool,
        mss: u32,
    },
    /// Any descriptor at all.
    Raw(u64, u64),
    /// TDT: the driver lets the NIC look.
    Send,
    Accept(usize),
    Frame(usize),
    SuperFrame {
        payload: usize,
        mss: u16,
    },
    /// RDT moves so far.
    Refill(u32),
    Wait(u64),
    Cable(bool),
    Reset(bool),
}

fn register() -> impl Strategy<Value = u32> {
    prop_oneof![
        8 => prop::sample::select(Reg::ALL).prop_flat_map(|reg| {
            let row = reg.row();
            (0..u32::from(row.count)).prop_map(move |n| row.offset + n * u32::from(row.stride))
        }),
        1 => 0x1_0000..0x2_0000_u32,
        1 => 0..0xA000_u32,
    ]
}

/// Registers that keep traffic going rather than break the rings.
fn useful() -> impl Strategy<Value = Step> {
    let timers = prop::sample::select(vec![Reg::ITR, Reg::RDTR, Reg::RADV, Reg::TIDV, Reg::TADV]);
    prop_oneof![
        (timers, 0..2000_u32).prop_map(|(reg, value)| Step::Write(reg.offset(), value)),
        any::<u32>().prop_map(|mask| Step::Write(Reg::IMS.offset(), mask)),
        any::<u32>().prop_map(|mask| Step::Write(Reg::IMC.offset(), mask)),
        any::<u32>().prop_map(|mask| Step::Write(Reg::ICS.offset(), mask & 0xff)),
        Just(Step::Read(Reg::ICR.offset())),
        (0..8_u32).prop_map(|mode| {
            let flags = [BAM, LPE, UPE].iter().enumerate();
            let set = flags
                .filter(|(i, _)| mode >> i & 1 == 1)
                .map(|(_, bit)| bit);
            Step::Write(Reg::RCTL.offset(), set.sum::<u32>() | EN)
        }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let cmd = || {
        (any::<u8>(), any::<bool>()).prop_map(|(bits, end)| {
            let cmd = u32::from(bits) << 24 & !(DEXT | EOP);
            if end { cmd | EOP | IFCS } else { cmd }
        })
    };
    prop_oneof![
        4 => useful(),
        2 => (register(), any::<u32>()).prop_map(|(at, value)| Step::Write(at & !3, value)),
        3 => register().prop_map(Step::Read),
        1 => (0..2_u64, register()).prop_map(|(port, value)| Step::Port(4 * port, value)),
        2 => (any::<u32>(), 1..30_usize).prop_map(|(bits, clocks)| Step::Eeprom(bits, clocks)),
        2 => (0..4_u32, 0..32_u32, any::<u16>()).prop_map(|(op, reg, data)| Step::Phy(op, reg, data.into())),
        6 => (0..3000_usize, cmd()).prop_map(|(len, cmd)| Step::Legacy { len, cmd }),
        4 => (0..0x8000_u64, 0..5000_usize, cmd(), 0..4_u8)
            .prop_map(|(at, len, cmd, popts)| Step::Data { at, len, cmd, popts }),
        2 => (any::<bool>(), 0..3000_u32).prop_map(|(tso, mss)| Step::Context { tso, mss }),
        1 => any::<(u64, u64)>().prop_map(|(addr, word)| Step::Raw(addr, word)),
        6 => Just(Step::Send),
        1 => (0..4_usize).prop_map(Step::Accept),
        8 => prop_oneof![0..200_usize, 1400..1600_usize, 9000..9100_usize].prop_map(Step::Frame),
        2 => (1..20_000_usize, 500..2000_u16).prop_map(|(payload, mss)| Step::SuperFrame { payload, mss }),
        3 => (0..64_u32).prop_map(Step::Refill),
        5 => prop_oneof![0..3000_u64, 0..3_000_000_u64].prop_map(Step::Wait),
        1 => any::<bool>().prop_map(Step::Cable),
        1 => any::<bool>().prop_map(Step::Reset),
    ]
}

/// What can be seen from outside of a step.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    value: u32,
    sent: Vec<Sent>,
    delivered: Option<Delivered>,
    line: bool,
    link: bool,
    /// Time to the next deadlines.
    irq: Option<u64>,
    control: Option<u64>,
}

fn read(nic: &mut Nic, at: u32) -> u32 {
    let mut bytes = [0; 4];
    nic.control.read(0, at.into(), &mut bytes, nic.now);
    u32::from_le_bytes(bytes)
}

fn write(nic: &mut Nic, at: u32, value: u32) {
    nic.control
        .write(0, at.into(), &value.to_le_bytes(), nic.now);
}

/// Whether the driver can put a descriptor into the ring that it has programmed.
fn has_ring(nic: &Nic) -> bool {
    let regs = &nic.shared().regs;
    regs.get(Reg::TDLEN) >= 16 && regs.get_u64(Reg::TDBAL, Reg::TDBAH) < RAM - (1 << 20)
}

fn act(nic: &mut Nic, step: &Step) -> Seen {
    let (mut value, mut sent, mut delivered) = (0, Vec::new(), None);
    match *step {
        Step::Legacy { .. } | Step::Data { .. } | Step::Context { .. } | Step::Raw(..)
            if !has_ring(nic) => {}
        Step::Write(at, new) => write(nic, at, new),
        Step::Read(at) => value = read(nic, at),
        Step::Port(port, new) => {
            nic.control.write(2, port, &new.to_le_bytes(), nic.now);
            let mut bytes = [0; 4];
            nic.control.read(2, 4, &mut bytes, nic.now);
            value = u32::from_le_bytes(bytes);
        }
        Step::Eeprom(bits, clocks) => {
            // Half of them with the start bit of a READ or a WRITE.
            write(nic, Reg::EECD.offset(), 0);
            for n in 0..clocks {
                let di = (bits >> (n % 32) & 1) << 2;
                for sk in [0, 1] {
                    write(nic, Reg::EECD.offset(), 1 << 6 | 1 << 1 | di | sk);
                    value = value << 1 | (read(nic, Reg::EECD.offset()) >> 3 & 1);
                }
            }
        }
        Step::Phy(op, reg, data) => {
            write(
                nic,
                Reg::MDIC.offset(),
                op << 26 | 1 << 21 | reg << 16 | data,
            );
            value = read(nic, Reg::MDIC.offset());
        }
        Step::Legacy { len, cmd } => {
            nic.push(TX_DATA, len as u32 | cmd, 0);
        }
        Step::Data {
            at,
            len,
            cmd,
            popts,
        } => {
            nic.push(TX_DATA + at, len as u32 | DATA | cmd, u32::from(popts) << 8);
        }
        Step::Context { tso, mss } => {
            let flags = TCP | IPV4 | if tso { TSE } else { 0 };
            nic.context([14, 24, 33], [34, 50, 0], flags, 54, mss);
        }
        Step::Raw(addr, word) => {
            nic.push(addr, word as u32, (word >> 32) as u32);
        }
        Step::Send => sent = nic.send(),
        Step::Accept(frames) => nic.accept = [0, 1, 3, usize::MAX][frames],
        Step::Frame(len) => delivered = nic.rx.has_room().then(|| nic.give(&broadcast(len))),
        Step::SuperFrame { payload, mss } => {
            let flow = Flow::TCP4;
            let bytes = flow.unfinished(5, 6, 0x18, &vec![9; payload], false);
            let meta = RxMeta {
                csum: RxCsum::Partial(Csum {
                    start: 34,
                    offset: 16,
                }),
                gso: Some(Gso {
                    kind: GsoKind::TcpV4,
                    hdr_len: 54,
                    mss,
                }),
                bad_fcs: false,
            };
            let frame = RxFrame { data: &bytes, meta };
            delivered = nic.rx.has_room().then(|| nic.deliver(frame));
        }
        Step::Refill(by) => {
            let ring = (read(nic, Reg::RDLEN.offset()) / 16).max(1);
            let tail = (read(nic, Reg::RDT.offset()) + by) % ring;
            write(nic, Reg::RDT.offset(), tail);
            value = nic.resume().into();
        }
        Step::Wait(nanos) => {
            nic.now = nic.now.plus_nanos(nanos);
            nic.control.run_timers(nic.now);
        }
        Step::Cable(up) => {
            nic.control.set_link(up, nic.now);
        }
        Step::Reset(bus) => match bus {
            true => drop(nic.control.reset(ResetKind::Bus, nic.now)),
            false => write(nic, Reg::CTRL.offset(), 1 << 26),
        },
    }
    let now = nic.now;
    let left = |at: Option<Time>| at.map(|at| at.0.saturating_sub(now.0));
    Seen {
        value,
        sent,
        delivered,
        line: nic.shared().irq.poll(now),
        link: nic.control.link(),
        irq: left(nic.shared().irq.deadline()),
        control: left(nic.control.deadline()),
    }
}

/// A NIC with rings, the cable in, and in its send buffers the head of a TSO packet.
fn nic() -> Nic {
    let mut nic = Nic::new();
    nic.control.set_link(true, nic.now);
    let bytes = Flow::TCP4.unfinished(1, 2, 0x18, &[7; 40_000], true);
    nic.mem.write(TX_DATA, &bytes).unwrap();
    nic
}

fn ram_of(nic: &Nic) -> Vec<u8> {
    let mut bytes = vec![0; RAM as usize];
    nic.mem.read(0, &mut bytes).unwrap();
    bytes
}

proptest! {
    #![proptest_config(cases(256))]

    /// Two NICs do the same; one of them is saved and restored in another, with another past and another clock.
    #[test]
    fn a_restored_nic_does_the_same_as_one_that_never_was(
        steps in prop::collection::vec(step(), 1..80),
        at: prop::sample::Index,
        past in prop::collection::vec(step(), 0..10),
        start in 1_000_000_000..1_u64 << 40,
    ) {
        let at = at.index(steps.len() + 1);
        let (mut stayed, mut moved) = (nic(), nic());
        let mut cable = true;
        for (n, step) in steps.iter().enumerate() {
            if n == at {
                moved = move_to_another(moved, &past, start, cable);
            }
            prop_assert_eq!(act(&mut stayed, step), act(&mut moved, step), "step {}: {:?}", n, step);
            prop_assert_eq!(stayed.state(), moved.state(), "after step {}: {:?}", n, step);
            if let Step::Cable(up) = step {
                cable = *up;
            }
        }
        prop_assert!(ram_of(&stayed) == ram_of(&moved), "the same memory");
    }
}

fn move_to_another(mut from: Nic, past: &[Step], start: u64, cable: bool) -> Nic {
    let bytes = from.save();
    let mut to = nic();
    to.now = Time(start);
    for step in past {
        act(&mut to, step);
    }
    to.control.set_link(cable, to.now);
    to.load(&bytes).unwrap();
    to.take_driver(&from);
    assert_eq!(to.save(), bytes, "saved again it is the same");
    to
}

#[test]
fn the_cable_is_that_of_the_new_place() {
    let mut nic = nic();
    act(&mut nic, &Step::Wait(2_000_000));
    assert!(nic.control.link());
    nic.get(Reg::ICR);
    let bytes = nic.save();

    let mut pulled = Nic::bare();
    pulled.load(&bytes).unwrap();
    assert!(!pulled.control.link());
    assert_eq!(pulled.get(Reg::ICR) & 4, 4, "LSC: the guest is told");
    assert_eq!(pulled.get(Reg::STATUS) & 2, 0);

    let mut plugged = Nic::bare();
    plugged.control.set_link(true, plugged.now);
    plugged.load(&bytes).unwrap();
    assert!(plugged.control.link());
    assert_eq!(plugged.get(Reg::ICR) & 4, 0, "no news");
}

#[test]
fn the_eeprom_of_the_next_owner_is_that_of_the_new_place() {
    let mut nic = nic();
    let mut other = Nic::bare();
    let mac = |nic: &mut Nic| {
        nic.set(Reg::EERD, 1);
        nic.get(Reg::EERD) >> 16
    };
    // EWEN, then WRITE 0xABCD to word 0.
    for (bits, clocks) in [(0b1_0011_0000_u64, 9), (0b1_0100_0000 << 16 | 0xABCD, 25)] {
        nic.set(Reg::EECD, 0);
        for di in (0..clocks).rev().map(|n| (bits >> n & 1) as u32) {
            for sk in [0, 1] {
                nic.set(Reg::EECD, 1 << 1 | di << 2 | sk);
            }
        }
        nic.set(Reg::EECD, 0);
    }
    assert_eq!(mac(&mut nic), 0xABCD);
    let before = mac(&mut other);
    other.load(&nic.save()).unwrap();
    assert_eq!(mac(&mut other), 0xABCD);
    other.control.reset(ResetKind::Bus, other.now);
    assert_eq!(mac(&mut other), 0xABCD);
    other.control.reset(ResetKind::PowerOn, other.now);
    assert_eq!(mac(&mut other), before);
}

#[test]
fn a_reset_before_the_queues_were_restored_wins() {
    let mut nic = nic();
    nic.legacy(0, &broadcast(100), 0);
    nic.send();
    let state = State::decode(&nic.save()).unwrap();
    let mut other = Nic::bare();
    other.control.restore(&state.control, other.now);
    let generation = other.shared().generation();
    other.control.reset(ResetKind::Bus, other.now);
    other.tx.restore(&state.tx, generation);
    other.rx.restore(&state.rx, generation);
    let fresh = Nic::bare().state();
    assert_eq!((other.tx.save(), other.rx.save()), (fresh.tx, fresh.rx));
}

#[test]
fn bytes_that_are_cut_off_or_too_many_are_no_state() {
    let mut nic = nic();
    nic.legacy(0, &broadcast(100), 0);
    nic.send();
    let mut bytes = nic.save();
    for end in 0..bytes.len() {
        assert_eq!(
            State::decode(&bytes[..end]),
            Err(InvalidState::Malformed),
            "{end}"
        );
    }
    bytes.push(0);
    assert_eq!(State::decode(&bytes), Err(InvalidState::Malformed));
    bytes.resize(MAX_STATE + 1, 0);
    assert_eq!(
        State::decode(&bytes),
        Err(InvalidState::TooLong(MAX_STATE + 1))
    );
    bytes.clear();
    bytes.push(1);
    assert_eq!(
        State::decode(&bytes),
        Err(InvalidState::Malformed),
        "a version to come"
    );
}

/// A NIC whose state has everything that a state can have.
fn busy(held: &RxFrame<'_>) -> Nic {
    let mut nic = nic();
    nic.set(Reg::TIDV, 5000);
    nic.set(Reg::ITR, 0xffff);
    nic.set(Reg::IMS, 0x1_ffff);
    write(&mut nic, 0x1_0004, 5);
    act(
        &mut nic,
        &Step::Context {
            tso: true,
            mss: 1000,
        },
    );
    act(
        &mut nic,
        &Step::Data {
            at: 0,
            len: 54,
            cmd: TSE | IDE | RS,
            popts: 3,
        },
    );
    act(&mut nic, &Step::Send);
    act(&mut nic, &Step::Eeprom(0b0110, 7));
    nic.receive(8, EN | BAM | UPE | LPE);
    nic.set(Reg::RDT, 1);
    assert_eq!(nic.deliver(*held), Delivered::Held);
    nic
}

proptest! {
    #![proptest_config(cases(400))]

    /// Checklist of bad inputs, item 17: whatever of the others a state can bring about.
    #[test]
    fn no_bytes_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        dull in any::<bool>(),
        plain in any::<bool>(),
        steps in prop::collection::vec(step(), 0..12),
    ) {
        let frame = broadcast(5000);
        let bytes = Flow::TCP4.unfinished(5, 6, 0x18, &[9; 5000], false);
        let meta = RxMeta {
            csum: RxCsum::Partial(Csum { start: 34, offset: 16 }),
            gso: Some(Gso { kind: GsoKind::TcpV4, hdr_len: 54, mss: 1000 }),
            bad_fcs: false,
        };
        let held = if plain { RxFrame::new(&frame) } else { RxFrame { data: &bytes, meta } };
        let mut bytes = busy(&held).save();
        // The packet buffer and the held frame are most of the state and the dullest part of it.
        let tail = bytes.len() - 200;
        for (at, value) in changes {
            let at = if dull { tail + at.index(200) } else { at.index(1500) };
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let mut nic = nic();
        let fresh = nic.state();
        if nic.load(&bytes).is_err() {
            prop_assert_eq!(nic.state(), fresh, "untouched");
        }
        nic.resume();
        for step in &steps {
            act(&mut nic, step);
        }
        let again = nic.save();
        prop_assert!(State::decode(&again).is_ok());
        act(&mut nic, &Step::Reset(true));
        nic.control.set_bus_master(true);
        let mut new = Nic::new();
        prop_assert_eq!(nic.tx.save(), new.tx.save());
        prop_assert_eq!(nic.rx.save(), new.rx.save());
    }

    #[test]
    fn noise_is_no_state(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = State::decode(&bytes);
        let mut versioned = vec![0];
        versioned.extend(bytes);
        if let Ok(state) = State::decode(&versioned) {
            let mut nic = nic();
            nic.control.restore(&state.control, nic.now);
        }
    }
}
