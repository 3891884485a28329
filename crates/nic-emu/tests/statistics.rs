//! Every statistics register after frames of every kind, against a count that knows nothing of the model: it is made here,
//! frame by frame, by the words of the manual (8254x Software Developer's Manual, 13.7).

mod support;

use std::collections::BTreeMap;

use nic_emu::common::frame::{Csum, Gso, GsoKind, RxCsum, RxFrame, RxMeta};
use nic_emu::e1000::regs::{Access, Reg, State};
use nic_emu::e1000::rx::Overrun;
use support::packets::Flow;
use support::*;

const EN: u32 = 1 << 1;
const SBP: u32 = 1 << 2;
const UPE: u32 = 1 << 3;
const MPE: u32 = 1 << 4;
const LPE: u32 = 1 << 5;
const BAM: u32 = 1 << 15;
const BSIZE_16K: u32 = 1 << 25 | 1 << 16;
const VFE: u32 = 1 << 18;
const CFIEN: u32 = 1 << 19;
const CFI: u32 = 1 << 20;
const DPF: u32 = 1 << 22;
const PMCF: u32 = 1 << 23;
const SECRC: u32 = 1 << 26;
const RFCE: u32 = 1 << 27;
const VME: u32 = 1 << 30;
const PSP: u32 = 1 << 3;

const BROADCAST: [u8; 6] = [0xff; 6];
const OTHER: [u8; 6] = [0x02, 9, 9, 9, 9, 9];
const GROUP: [u8; 6] = [0x01, 0, 0x5e, 0x12, 0x34, 0x56];
const STRANGE_GROUP: [u8; 6] = [0x01, 0, 0x5e, 0x12, 0x35, 0x99];
const PAUSE: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 1];
/// That of the last receive address.
const LAST: [u8; 6] = [0x02, 15, 15, 15, 15, 15];

/// What the registers should hold; a pair under the name of its low half.
#[derive(Default)]
struct Expected(BTreeMap<&'static str, u64>);

impl Expected {
    fn add(&mut self, register: &'static str, n: u64) {
        *self.0.entry(register).or_default() += n;
    }

    fn bin(&mut self, bins: [&'static str; 6], wire: u64) {
        let upper = [64, 127, 255, 511, 1023, u64::MAX];
        let bin = upper.iter().position(|&most| wire <= most).unwrap();
        self.add(bins[bin], 1);
    }

    /// A frame without errors that left the transmitter, `wire` bytes long.
    fn sent(&mut self, dst: [u8; 6], wire: u64) {
        self.add("TPT", 1);
        self.add("TOTL", wire);
        if dst == BROADCAST {
            self.add("BPTC", 1);
        } else if dst[0] & 1 == 1 {
            self.add("MPTC", 1);
        }
        if wire >= 64 {
            self.add("GPTC", 1);
            self.add("GOTCL", wire);
            self.bin(
                ["PTC64", "PTC127", "PTC255", "PTC511", "PTC1023", "PTC1522"],
                wire,
            );
        }
    }

    /// A frame that came while the receiver was on, `wire` bytes long.
    fn arrived(&mut self, wire: u64) {
        self.add("TPR", 1);
        self.add("TORL", wire);
    }

    /// One that has passed the filters, and what is wrong with it.
    fn passed(&mut self, dst: [u8; 6], wire: u64, most: u64, bad: bool) {
        let error = match (wire < 64, wire > most, bad) {
            (true, _, false) => Some("RUC"),
            (true, _, true) => Some("RFC"),
            (_, true, false) => Some("ROC"),
            (_, true, true) => Some("RJC"),
            _ => None,
        };
        if let Some(error) = error {
            self.add(error, 1);
            self.add("RLEC", 1);
        }
        if bad && wire >= 64 {
            self.add("CRCERRS", 1);
        }
        if bad || error.is_some() {
            return;
        }
        self.add("GPRC", 1);
        self.add("GORCL", wire);
        if dst == BROADCAST {
            self.add("BPRC", 1);
        } else if dst[0] & 1 == 1 {
            self.add("MPRC", 1);
        }
        self.bin(
            ["PRC64", "PRC127", "PRC255", "PRC511", "PRC1023", "PRC1522"],
            wire,
        );
    }

    /// Reads everything and compares; all are 0 then.
    fn check(self, nic: &mut Nic, moved: &mut BTreeMap<&'static str, u64>) {
        let statistics = || {
            Reg::ALL.iter().copied().filter(|reg| {
                matches!(
                    reg.row().access,
                    Access::Rc | Access::RcLow | Access::RcHigh
                )
            })
        };
        for name in self.0.keys() {
            assert!(statistics().any(|reg| reg.row().name == *name), "{name}");
        }
        for reg in statistics() {
            let row = reg.row();
            let want = match row.access {
                // The half above it was checked and has cleared nothing yet.
                Access::RcHigh => {
                    let low = row.name.replace('H', "L");
                    self.0.get(low.as_str()).copied().unwrap_or(0) >> 32
                }
                _ => self.0.get(row.name).copied().unwrap_or(0) & u64::from(u32::MAX),
            };
            assert_eq!(u64::from(nic.get(reg)), want, "{}", row.name);
            *moved.entry(row.name).or_default() |= want;
        }
        for reg in statistics() {
            assert_eq!(nic.get(reg), 0, "{} was read", reg.row().name);
        }
    }
}

fn frame(dst: [u8; 6], len: usize, ethertype: u16) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len.max(14)).map(|at| at as u8).collect();
    frame[..6].copy_from_slice(&dst);
    frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
    frame.truncate(len);
    frame
}

fn tagged(dst: [u8; 6], len: usize, tci: u16) -> Vec<u8> {
    let mut frame = frame(dst, len, 0x8100);
    frame[14..16].copy_from_slice(&tci.to_be_bytes());
    frame
}

fn control(dst: [u8; 6], opcode: u16, quanta: u16) -> Vec<u8> {
    let mut frame = frame(dst, 60, 0x8808);
    frame[14..16].copy_from_slice(&opcode.to_be_bytes());
    frame[16..18].copy_from_slice(&quanta.to_be_bytes());
    frame
}

/// A driver that gives its descriptors back at once.
fn keep_up(nic: &mut Nic) {
    while nic.collect().is_some() {}
    nic.refill();
}

fn give(nic: &mut Nic, data: &[u8], bad_fcs: bool) {
    let meta = RxMeta {
        bad_fcs,
        ..RxMeta::default()
    };
    nic.deliver(RxFrame { data, meta });
    keep_up(nic);
}

/// As the network has it: what a backend gives is padded, unless it is no frame at all.
fn wire(len: usize) -> u64 {
    (if len < 14 { len } else { len.max(60) } + 4) as u64
}

/// What finds no room is lost: a frame is counted the moment it comes.
fn receiver(rctl: u32) -> Nic {
    let mut nic = Nic::new();
    nic.rx.set_overrun(Overrun::Drop);
    nic.receive(64, rctl | BSIZE_16K);
    let slot = |dst: [u8; 6]| (u16::from_le_bytes([dst[4], dst[5]]) >> 4) as u32;
    let hash = slot(GROUP);
    assert_ne!(hash >> 5, slot(STRANGE_GROUP) >> 5);
    nic.set_n(Reg::MTA, (hash >> 5).into(), 1 << (hash & 31));
    nic.set_n(Reg::VFTA, 0, 1 << 5);
    nic
}

const LENGTHS: &[usize] = &[
    6, 13, 14, 59, 60, 61, 123, 124, 251, 252, 507, 508, 1019, 1020, 1514, 1518, 1519, 1600, 9000,
    16380, 16381,
];

fn received(moved: &mut BTreeMap<&'static str, u64>) {
    for rctl in [
        EN | BAM,
        EN | BAM | LPE,
        EN | BAM | SBP | SECRC,
        EN | BAM | SBP | LPE,
        EN | UPE,
        EN | MPE | SECRC,
        EN | VFE | BAM,
        EN,
    ] {
        let mut nic = receiver(rctl);
        let mut want = Expected::default();
        let most = if rctl & LPE != 0 { 16384 } else { 1522 };
        for &len in LENGTHS {
            for dst in [MAC, OTHER, BROADCAST, GROUP, STRANGE_GROUP] {
                for bad in [false, true] {
                    give(&mut nic, &frame(dst, len, 0x0800), bad);
                    want.arrived(wire(len));
                    let passes = match dst {
                        MAC => true,
                        OTHER => rctl & UPE != 0,
                        BROADCAST => rctl & (BAM | MPE) != 0,
                        GROUP => true,
                        _ => rctl & MPE != 0,
                    };
                    if passes {
                        want.passed(dst, wire(len), most, bad);
                    }
                }
            }
        }
        for tci in [0x0005, 0x0006, 0x2005] {
            give(&mut nic, &tagged(MAC, 100, tci), false);
            want.arrived(104);
            if rctl & VFE == 0 || tci & 0xfff == 5 {
                want.passed(MAC, 104, most, false);
            }
        }
        // Counted with its tag, though the driver gets it without.
        nic.set(Reg::CTRL, 1 << 6 | VME);
        give(&mut nic, &tagged(MAC, 64, 5), false);
        want.arrived(68);
        want.passed(MAC, 68, most, false);
        // Of a receiver that is off, or cut off, nothing is known.
        nic.set(Reg::RCTL, 0);
        give(&mut nic, &frame(MAC, 100, 0x0800), false);
        nic.set(Reg::RCTL, rctl | BSIZE_16K);
        nic.control.set_bus_master(false);
        give(&mut nic, &frame(MAC, 100, 0x0800), false);
        nic.control.set_bus_master(true);
        want.check(&mut nic, moved);
    }
}

/// Every length there is, every third damaged.
fn received_of_all_lengths(moved: &mut BTreeMap<&'static str, u64>) {
    let mut nic = receiver(EN | LPE | SBP | SECRC);
    let mut want = Expected::default();
    for len in 14..=16385 {
        let bad = len % 3 == 0;
        give(&mut nic, &frame(MAC, len, 0x0800), bad);
        want.arrived(wire(len));
        want.passed(MAC, wire(len), 16384, bad);
    }
    want.check(&mut nic, moved);
}

/// What decides on addresses and tags: the last receive address, each part of an address that the hash may be of, CFI.
fn filtered(moved: &mut BTreeMap<&'static str, u64>) {
    for (mo, shift) in [(0, 4), (1, 3), (2, 2), (3, 0)] {
        let mut nic = receiver(EN | mo << 12);
        nic.set_n(Reg::RAL, 15, u32::from_le_bytes([2, 15, 15, 15]));
        nic.set_n(Reg::RAH, 15, 1 << 31 | 0x0f0f);
        let hash = (u32::from(GROUP[5]) << 8 | u32::from(GROUP[4])) >> shift & 0xfff;
        for word in 0..128 {
            nic.set_n(Reg::MTA, word, 0);
        }
        nic.set_n(Reg::MTA, (hash >> 5).into(), 1 << (hash & 31));
        let mut want = Expected::default();
        // Groups that differ from that one in a single bit.
        let groups = (0..16).map(|bit| {
            let mut group = GROUP;
            group[4 + bit / 8] ^= 1 << (bit % 8);
            // Of those bits only the hashed ones matter.
            (group, !(shift..shift + 12).contains(&bit))
        });
        for (dst, passes) in groups.chain([(GROUP, true), (LAST, true), (OTHER, false)]) {
            give(&mut nic, &frame(dst, 100, 0x0800), false);
            want.arrived(104);
            if passes {
                want.passed(dst, 104, 1522, false);
            }
        }
        nic.set_n(Reg::RAH, 15, 0x0f0f);
        give(&mut nic, &frame(LAST, 100, 0x0800), false);
        want.arrived(104);
        want.check(&mut nic, moved);
    }
    for rctl in [VFE, VFE | CFIEN, VFE | CFIEN | CFI, CFIEN | CFI] {
        let mut nic = receiver(EN | rctl);
        let mut want = Expected::default();
        for tci in [0x0005, 0x1005, 0x0006, 0x1006, 0xf005] {
            give(&mut nic, &tagged(MAC, 100, tci), false);
            want.arrived(104);
            let cfi = rctl & CFIEN == 0 || (tci & 0x1000 != 0) == (rctl & CFI != 0);
            if rctl & VFE == 0 || tci & 0xfff == 5 && cfi {
                want.passed(MAC, 104, 1522, false);
            }
        }
        // Without a tag there is nothing to judge.
        give(&mut nic, &frame(MAC, 100, 0x0800), false);
        want.arrived(104);
        want.passed(MAC, 104, 1522, false);
        want.check(&mut nic, moved);
    }
}

fn flow_control(moved: &mut BTreeMap<&'static str, u64>) {
    for (rctl, ctrl) in [
        (EN, 0),
        (EN | DPF, RFCE),
        (EN | PMCF, RFCE),
        (EN | MPE | PMCF | DPF, 0),
    ] {
        let mut nic = receiver(rctl);
        nic.set(Reg::CTRL, 1 << 6 | ctrl);
        let mut want = Expected::default();
        for dst in [MAC, PAUSE, OTHER, GROUP] {
            for (opcode, quanta) in [(1, 0), (1, 7), (2, 7)] {
                give(&mut nic, &control(dst, opcode, quanta), false);
                want.arrived(64);
                let passes = dst == MAC || dst == GROUP || (dst == PAUSE && rctl & MPE != 0);
                match (dst == MAC || dst == PAUSE, opcode, quanta) {
                    (true, 1, 0) => want.add("XONRXC", 1),
                    (true, 1, _) => want.add("XOFFRXC", 1),
                    (true, _, _) => {
                        want.add("FCRUC", 1);
                        if rctl & PMCF != 0 && passes {
                            want.passed(dst, 64, 1522, false);
                        }
                    }
                    (false, _, _) if passes => want.passed(dst, 64, 1522, false),
                    (false, _, _) => {}
                }
            }
        }
        // Damaged, it orders nothing.
        give(&mut nic, &control(MAC, 1, 7), true);
        want.arrived(64);
        want.passed(MAC, 64, 1522, true);
        // As FCAL, FCAH and FCT name them.
        nic.set(Reg::FCAL, u32::from_le_bytes([3, 0, 0, 0]));
        nic.set(Reg::FCAH, u32::from_le_bytes([0, 1, 0, 0]));
        nic.set(Reg::FCT, 0x9999);
        let mut named = control([3, 0, 0, 0, 0, 1], 1, 1);
        named[12..14].copy_from_slice(&0x9999u16.to_be_bytes());
        give(&mut nic, &named, false);
        want.arrived(64);
        want.add("XOFFRXC", 1);
        // Sent, they count among all frames and nowhere else; without a time they are XON.
        nic.set(Reg::CTRL, 1 << 6 | 1);
        for (time, counter) in [(7, "XOFFTXC"), (0, "XONTXC")] {
            nic.set(Reg::FCTTV, time);
            nic.set(Reg::TCTL, 1 << 1 | 1 << 22);
            assert_eq!(nic.run().len(), 1);
            for (name, count) in [(counter, 1), ("TPT", 1), ("TOTL", 64)] {
                want.add(name, count);
            }
        }
        want.check(&mut nic, moved);
    }
}

/// What comes faster than the driver takes it: into the ring, then into the FIFO, then nowhere.
fn overrun(moved: &mut BTreeMap<&'static str, u64>) {
    for rxa in [8, 16, 48, 64, 0xffff] {
        let mut nic = receiver(EN);
        nic.set(Reg::PBA, rxa);
        let mut want = Expected::default();
        let room = rxa.min(64) * 1024;
        let kept = u64::from(room) / 1000;
        for n in 0..200 {
            assert!(nic.rx.has_room(), "the network is not held up");
            nic.give(&frame(MAC, 996, 0x0800));
            want.arrived(1000);
            if n < 63 + kept {
                want.passed(MAC, 1000, 1522, false);
            } else {
                want.add("MPC", 1);
            }
            if n >= 63 {
                want.add("RNBC", 1);
            }
            assert_eq!(nic.get(Reg::ICR) & RXO != 0, n >= 63 + kept, "{n}");
        }
        want.check(&mut nic, moved);
        for n in 0..63 + kept {
            let got = nic.collect();
            assert_eq!(got.map(|got| got.bytes.len()), Some(1000), "{n}");
            if n % 32 == 31 {
                nic.refill();
                nic.resume();
            }
        }
        assert_eq!(nic.collect(), None);
        Expected::default().check(&mut nic, moved);
    }
}

/// Many segments at once are as many frames.
fn super_frames_received(moved: &mut BTreeMap<&'static str, u64>) {
    let flow = Flow::TCP4;
    let meta = RxMeta {
        csum: RxCsum::Partial(Csum {
            start: flow.l4() as u16,
            offset: 16,
        }),
        gso: Some(Gso {
            kind: GsoKind::TcpV4,
            hdr_len: flow.headers() as u16,
            mss: 700,
        }),
        bad_fcs: false,
    };
    let mut want = Expected::default();
    let mut nic = receiver(EN | UPE);
    nic.rx.set_overrun(Overrun::Hold);
    for payload in [1, 700, 701, 1400, 20_000, 60_000] {
        let data = flow.unfinished(9, 1, 0x18, &vec![1; payload], false);
        nic.deliver(RxFrame { data: &data, meta });
        keep_up(&mut nic);
        while !nic.resume() {
            keep_up(&mut nic);
        }
        // The ring takes 63; those that follow wait as if they were still on the network.
        let segments = payload.div_ceil(700);
        for at in 0..segments {
            let len = flow.headers() + (payload - at * 700).min(700);
            want.arrived(wire(len));
            want.passed(data[..6].try_into().unwrap(), wire(len), 1522, false);
        }
    }
    want.check(&mut nic, moved);
}

fn transmitted(moved: &mut BTreeMap<&'static str, u64>) {
    for tctl in [EN, EN | PSP] {
        let shortest = if tctl & PSP != 0 { 60 } else { 0 };
        let mut nic = Nic::new();
        nic.set(Reg::TCTL, tctl);
        nic.set(Reg::CTRL, 1 << 6 | VME);
        let mut want = Expected::default();
        for &len in LENGTHS.iter().filter(|len| (14..=16288).contains(*len)) {
            for dst in [OTHER, BROADCAST, GROUP] {
                let bytes = frame(dst, len, 0x0800);
                let on_wire = (len.max(shortest) + 4) as u64;
                nic.legacy(0, &bytes, EOP | IFCS | RS);
                nic.send();
                want.sent(dst, on_wire);
                // In two pieces, without a report.
                let (start, end) = bytes.split_at(len / 2);
                nic.data(0, start, IFCS, 0);
                nic.data(0x8000, end, EOP | IFCS, 0);
                nic.send();
                want.sent(dst, on_wire);
                // With a tag, and then with an FCS of its own.
                nic.legacy(0, &bytes, EOP | IFCS | VLE);
                nic.send();
                want.sent(dst, ((len + 4).max(shortest) + 4) as u64);
                if len >= 18 {
                    nic.legacy(0, &bytes, EOP);
                    nic.send();
                    want.sent(dst, ((len - 4).max(shortest) + 4) as u64);
                }
            }
        }
        // Every length there is.
        for len in (14..=16288).filter(|_| tctl & PSP != 0) {
            nic.legacy(0, &frame(GROUP, len, 0x0800), EOP | IFCS);
            nic.send();
            want.sent(GROUP, (len.max(shortest) + 4) as u64);
        }
        // What is no frame leaves no trace.
        nic.legacy(0, &[0; 13], EOP | IFCS);
        nic.legacy(0, &[], EOP | IFCS);
        nic.legacy(0, &[0; 16300], EOP | IFCS);
        nic.send();

        let flow = Flow::TCP4;
        for (payload, mss) in [(1, 1000), (1000, 1000), (2500, 1000), (30_003, 10)] {
            let packet = flow.unfinished(1, 1, 0x18, &vec![7; payload], true);
            let headers = flow.headers();
            nic.context(
                [14, 24, 33],
                [34, 50, 0],
                TCP | IPV4 | TSE | payload as u32,
                headers as u32,
                mss as u32,
            );
            nic.data(0, &packet, TSE | EOP | IFCS, TXSM | IXSM);
            let sent: usize = nic.send().iter().map(|sent| sent.wire.len()).sum();
            let segments = payload.div_ceil(mss);
            if segments > 2048 {
                assert_eq!(sent, 0);
                want.add("TSCTFC", 1);
                continue;
            }
            assert_eq!(sent, segments);
            for at in 0..segments {
                let len = headers + (payload - at * mss).min(mss);
                let dst = packet[..6].try_into().unwrap();
                want.sent(dst, (len.max(shortest) + 4) as u64);
            }
            want.add("TSCTC", u64::from(segments > 0));
        }
        want.check(&mut nic, moved);
    }
}

#[test]
fn every_statistic_is_what_an_independent_count_says() {
    let mut moved = BTreeMap::new();
    received(&mut moved);
    received_of_all_lengths(&mut moved);
    filtered(&mut moved);
    flow_control(&mut moved);
    overrun(&mut moved);
    super_frames_received(&mut moved);
    transmitted(&mut moved);
    // What the coverage table says of them is so. High halves would take 4 GiB: see below.
    for reg in Reg::ALL {
        let row = reg.row();
        if matches!(row.access, Access::Rc | Access::RcLow) {
            let behaves = moved[row.name] != 0;
            assert_eq!(behaves, row.state == State::Behaves, "{}", row.name);
        }
    }
}

#[test]
fn pairs_carry_and_everything_sticks() {
    let mut nic = receiver(EN);
    let regs = nic.shared().regs.clone();
    for reg in [Reg::GORCL, Reg::TORL] {
        regs.stat_add64(reg, 0xFFFF_FFFF - 50);
    }
    give(&mut nic, &frame(MAC, 96, 0x0800), false);
    for (low, high) in [(Reg::GORCL, Reg::GORCH), (Reg::TORL, Reg::TORH)] {
        assert_eq!((nic.get(low), nic.get(high)), (49, 1));
        assert_eq!((nic.get(low), nic.get(high)), (0, 0));
    }
    for reg in [Reg::GPRC, Reg::TPR, Reg::PRC127] {
        regs.stat_add(reg, u32::MAX - 1);
    }
    for reg in [Reg::GORCL, Reg::TORL] {
        regs.stat_add64(reg, u64::MAX - 1);
    }
    (0..3).for_each(|_| give(&mut nic, &frame(MAC, 96, 0x0800), false));
    for reg in [
        Reg::GPRC,
        Reg::TPR,
        Reg::PRC127,
        Reg::GORCL,
        Reg::GORCH,
        Reg::TORL,
        Reg::TORH,
    ] {
        assert_eq!(nic.get(reg), u32::MAX, "{}", reg.row().name);
        if !matches!(reg, Reg::GORCL | Reg::TORL) {
            assert_eq!(nic.get(reg), 0, "{}", reg.row().name);
        }
    }
}
