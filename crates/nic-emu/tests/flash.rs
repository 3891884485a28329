//! The flash of a card as its driver reaches it: by BAR1, by the I/O BAR, and as expansion ROM.

use nic_emu::Time;
use nic_emu::common::flash::{ERASED, Flash};
use nic_emu::e1000::state::State;
use nic_emu::e1000::{
    self, Config, Control, FLASH_BAR, IO_BAR, Kick, Part, REGISTER_BAR, ResetKind,
};
use nic_emu::pci::{Bar, BarKind};

const SIZE: usize = 256 << 10;
const EECD: u64 = 0x10;
const DISABLED: u32 = 0x10;
const ENABLED: u32 = 0x20;
const NOW: Time = Time(0);

fn bytes() -> Vec<u8> {
    (0..SIZE).map(|at| (at ^ at >> 8) as u8 | 1).collect()
}

fn with(part: Part, flash: Option<Vec<u8>>) -> Control {
    let mut config = Config::of(part, [0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    config.flash = flash.map(|bytes| Flash::new(bytes).unwrap());
    e1000::new(&config).0
}

fn new() -> Control {
    with(Part::default(), Some(bytes()))
}

fn eecd(nic: &mut Control, value: u32) {
    nic.write(REGISTER_BAR, EECD, &value.to_le_bytes(), NOW);
}

fn read(nic: &mut Control, bar: u8, offset: u64, len: usize) -> Vec<u8> {
    let mut to = vec![0x5A; len];
    nic.read(bar, offset, &mut to, NOW);
    to
}

fn unlock(nic: &mut Control, command: u8) {
    for (at, byte) in [(0x5555, 0xAA), (0x2AAA, 0x55), (0x5555, command)] {
        assert_eq!(nic.write(FLASH_BAR, at, &[byte], NOW), Kick::empty());
    }
}

fn program(nic: &mut Control, at: u64, byte: u8) {
    unlock(nic, 0xA0);
    nic.write(FLASH_BAR, at, &[byte], NOW);
}

#[test]
fn the_window_is_there_with_a_flash_only_and_of_its_size() {
    for part in Part::ALL {
        let bare = with(part, None);
        assert!(bare.pci().bars.iter().all(|bar| bar.index != FLASH_BAR));
        assert_eq!((bare.pci().rom, bare.flash()), (None, None));
        let nic = with(part, Some(bytes()));
        let window = Bar {
            index: FLASH_BAR,
            kind: BarKind::Mem32,
            size: SIZE as u32,
        };
        assert!(nic.pci().bars.contains(&window));
        assert_eq!(nic.pci().rom, Some(SIZE as u32));
        let others = |nic: &Control| {
            let bars = nic.pci().bars.iter();
            bars.filter(|bar| bar.index != FLASH_BAR)
                .copied()
                .collect::<Vec<_>>()
        };
        assert_eq!(others(&nic), others(&bare));
    }
    // Nobody answers there.
    let mut bare = with(Part::default(), None);
    assert_eq!(read(&mut bare, FLASH_BAR, 0, 4), [0; 4]);
    assert!(!bare.read_rom(0, &mut [0; 4]));
    assert_eq!(bare.write(FLASH_BAR, 0, &[0xF0], NOW), Kick::empty());
    assert_eq!(bare.counters().flash_protected, 0);
}

#[test]
fn reads_have_any_size_and_place() {
    let (mut nic, bytes) = (new(), bytes());
    for (at, len) in [
        (0, 1),
        (1, 2),
        (3, 4),
        (0x3_FFF9, 7),
        (0x1_2345, 8),
        (0x101, 4096),
    ] {
        assert!(read(&mut nic, FLASH_BAR, at as u64, len) == bytes[at..at + len]);
        let mut rom = vec![0; len];
        assert!(nic.read_rom(at as u64, &mut rom));
        assert!(rom == bytes[at..at + len]);
    }
    let odd = nic.counters().odd_accesses;
    assert_eq!(odd, 0, "the flash is a matter of bytes");
}

#[test]
fn the_io_window_reaches_all_of_it() {
    let (mut nic, bytes) = (new(), bytes());
    let ioaddr = |nic: &mut Control, at: u32| nic.write(IO_BAR, 0, &at.to_le_bytes(), NOW);
    for at in [0, 5, 0x1_2344, 0x3_FFFC] {
        ioaddr(&mut nic, 0x8_0000 + at as u32);
        assert_eq!(read(&mut nic, IO_BAR, 4, 4), bytes[at..at + 4]);
        assert_eq!(read(&mut nic, IO_BAR, 6, 1), bytes[at + 2..at + 3]);
    }
    eecd(&mut nic, ENABLED);
    for (at, byte) in [
        (0x5555, 0xAA),
        (0x2AAA, 0x55),
        (0x5555, 0xA0),
        (0x3_1234, 0),
    ] {
        ioaddr(&mut nic, 0x8_0000 + at);
        nic.write(IO_BAR, 4, &[byte], NOW);
    }
    assert_eq!(nic.flash().unwrap()[0x3_1234], 0);
    // Beside the window there are registers, and nothing.
    ioaddr(&mut nic, EECD as u32);
    assert_eq!(read(&mut nic, IO_BAR, 4, 4)[0] & 0x30, ENABLED as u8);
    for at in [0x7_FFFC, 0x10_0000, u32::MAX] {
        ioaddr(&mut nic, at);
        assert_eq!(read(&mut nic, IO_BAR, 4, 4), [0; 4]);
        nic.write(IO_BAR, 4, &[0; 4], NOW);
    }
    assert_eq!(nic.take_flash_change().map(|(at, _)| at), Some(0x3_1234));
}

#[test]
fn writes_need_eecd() {
    let mut nic = new();
    for fwe in [DISABLED, 0, DISABLED | ENABLED] {
        eecd(&mut nic, fwe);
        let before = nic.counters().flash_protected;
        program(&mut nic, 0x100, 0);
        assert_eq!(nic.take_flash_change(), None);
        assert_eq!(nic.counters().flash_protected, before + 4);
    }
    eecd(&mut nic, ENABLED);
    program(&mut nic, 0x101, 0);
    assert_eq!(nic.take_flash_change(), Some((0x101, &[0][..])));
    // A reset of the MAC takes the permission away, one of the bus what was begun as well.
    unlock(&mut nic, 0xA0);
    nic.write(REGISTER_BAR, 0, &(1u32 << 26).to_le_bytes(), NOW);
    nic.write(FLASH_BAR, 0x102, &[0], NOW);
    assert_eq!(nic.take_flash_change(), None);
    eecd(&mut nic, ENABLED);
    nic.write(FLASH_BAR, 0x102, &[0], NOW);
    assert_eq!(nic.take_flash_change(), Some((0x102, &[0][..])));
    for kind in [ResetKind::Bus, ResetKind::PowerOn] {
        unlock(&mut nic, 0x90);
        unlock(&mut nic, 0xA0);
        nic.reset(kind, NOW);
        eecd(&mut nic, ENABLED);
        nic.write(FLASH_BAR, 0x103, &[0], NOW);
        assert_eq!(nic.take_flash_change(), None);
        assert_eq!(read(&mut nic, FLASH_BAR, 0x100, 3), [bytes()[0x100], 0, 0]);
    }
}

#[test]
fn it_moves_with_its_nic() {
    let save = |nic: &mut Control| {
        let (_, mut tx, mut rx) = e1000::new(&Config::new([0; 6]));
        let state = State {
            control: nic.save(NOW),
            tx: tx.save(),
            rx: rx.save(),
        };
        let mut bytes = Vec::new();
        state.encode(&mut bytes);
        State::decode(&bytes).unwrap()
    };
    let mut nic = new();
    eecd(&mut nic, ENABLED);
    program(&mut nic, 0x3_FFFF, 0);
    unlock(&mut nic, 0xA0);
    let state = save(&mut nic);
    assert_eq!(state.flash_size(), Some(SIZE));
    let mut other = with(Part::default(), Some(vec![ERASED; SIZE]));
    let _ = other.restore(&state.control, NOW);
    assert!(other.flash() == nic.flash());
    let (at, changed) = other.take_flash_change().unwrap();
    assert!((at, Some(changed)) == (0, nic.flash()));
    other.write(FLASH_BAR, 7, &[0], NOW);
    assert_eq!(other.take_flash_change(), Some((7, &[0][..])));
    assert_eq!(save(&mut with(Part::default(), None)).flash_size(), None);
}
