use super::*;
use proptest::prelude::*;

fn new(size: usize) -> Flash {
    let bytes = (0..size).map(|at| (at / SECTOR) as u8 ^ at as u8).collect();
    Flash::new(bytes).unwrap()
}

fn send(flash: &mut Flash, writes: &[(u64, u8)]) {
    for &(address, byte) in writes {
        flash.write(address, &[byte]);
    }
}

fn command(flash: &mut Flash, byte: u8) {
    send(flash, &[(0x5555, 0xAA), (0x2AAA, 0x55), (0x5555, byte)]);
}

fn program(flash: &mut Flash, address: u64, byte: u8) {
    command(flash, 0xA0);
    flash.write(address, &[byte]);
}

fn erase_sector(flash: &mut Flash, address: u64) {
    command(flash, 0x80);
    let unlock = [(0x5555, 0xAA), (0x2AAA, 0x55)];
    send(flash, &unlock);
    flash.write(address, &[0x30]);
}

fn byte(flash: &Flash, address: u64) -> u8 {
    let mut to = [0];
    flash.read(address, &mut to);
    to[0]
}

#[test]
fn the_four_sizes_identify_themselves() {
    for (size, device) in SIZES.into_iter().zip([0xD4, 0xD5, 0xD6, 0xD7]) {
        let mut flash = new(size);
        let before = flash.bytes().to_vec();
        command(&mut flash, 0x90);
        let mut id = [0; 4];
        flash.read(0, &mut id);
        assert_eq!(id, [0xBF, device, 0xBF, device]);
        // By the three writes, and by the one.
        command(&mut flash, 0xF0);
        assert_eq!(byte(&flash, 1), before[1]);
        command(&mut flash, 0x90);
        assert_eq!(byte(&flash, 1), device);
        flash.write(0x1234, &[0xF0]);
        assert_eq!(byte(&flash, 1), before[1]);
        assert_eq!(flash.take_change(), None);
    }
    for size in [0, 1, SECTOR, (64 << 10) - 1, 96 << 10, 1 << 20] {
        assert_eq!(Flash::new(vec![0; size]), None);
    }
}

#[test]
fn programming_only_clears_bits_and_erasing_only_its_sector() {
    let mut flash = new(128 << 10);
    let mut expected = flash.bytes().to_vec();
    program(&mut flash, 0x1_2345, 0x0F);
    expected[0x1_2345] &= 0x0F;
    assert_eq!(
        flash.take_change(),
        Some((0x1_2345, &expected[0x1_2345..0x1_2346]))
    );
    program(&mut flash, 0x1_2345, 0xFF);
    assert_eq!(flash.take_change(), None, "no bit was 1 to become 0");
    // Not one more than was announced.
    flash.write(0x1_2346, &[0]);
    erase_sector(&mut flash, 0x1_2FFF);
    expected[0x1_2000..0x1_3000].fill(0xFF);
    assert!(flash.take_change() == Some((0x1_2000, &expected[0x1_2000..0x1_3000])));
    assert!(flash.bytes() == expected);
    program(&mut flash, 0x1_2345, 0x5A);
    assert_eq!(byte(&flash, 0x1_2345), 0x5A);
    // What is programmed may look like a command.
    program(&mut flash, 0x1_2000, 0xAA);
    program(&mut flash, 0x1_2001, 0xF0);
    assert_eq!(flash.bytes()[0x1_2000..0x1_2002], [0xAA, 0xF0]);

    command(&mut flash, 0x80);
    command(&mut flash, 0x10);
    assert!(flash.bytes().iter().all(|&byte| byte == ERASED));
    assert_eq!(flash.take_change().unwrap().1.len(), 128 << 10);
}

/// Every command with one of its writes left out, wrong, or to a wrong address does nothing, and the next one works.
#[test]
fn what_is_no_command_does_nothing() {
    let unlock = [(0x5555, 0xAA), (0x2AAA, 0x55)];
    let erase = [&unlock[..], &[(0x5555, 0x80)], &unlock[..]].concat();
    let commands = [
        [&unlock[..], &[(0x5555, 0xA0), (0x101, 0)]].concat(),
        [&erase[..], &[(0x3000, 0x30)]].concat(),
        [&erase[..], &[(0x5555, 0x10)]].concat(),
    ];
    let before = new(64 << 10);
    for right in commands {
        let last = right.len() - 1;
        for at in 0..last {
            let mut wrong = vec![right.clone(); 3];
            wrong[0].remove(at);
            wrong[1][at].0 ^= 1;
            wrong[2][at].1 ^= 1;
            for wrong in wrong {
                let mut flash = before.clone();
                send(&mut flash, &wrong);
                assert!(flash.bytes() == before.bytes(), "{wrong:x?}");
                flash.write(0, &[0xF0]);
                send(&mut flash, &right);
                assert!(flash.bytes() != before.bytes(), "{wrong:x?}");
            }
        }
    }
}

#[test]
fn addresses_beyond_the_chip_come_back_to_it() {
    let flash = new(64 << 10);
    for address in [1 << 16, 1 << 32, u64::MAX << 16] {
        let (mut here, mut there) = ([0; 16], [1; 16]);
        flash.read(0x1234, &mut here);
        flash.read(address + 0x1234, &mut there);
        assert_eq!(here, there);
    }
    let mut end = [0; 3];
    flash.read(u64::MAX, &mut end);
    let bytes = flash.bytes();
    assert_eq!(end, [bytes[0xFFFF], bytes[0], bytes[1]]);
}

#[test]
fn what_is_saved_is_short_and_comes_back() {
    let mut flash = Flash::new(vec![ERASED; 512 << 10]).unwrap();
    program(&mut flash, 0x7_FFFF, 0x12);
    program(&mut flash, 0x1001, 0x34);
    command(&mut flash, 0x90);
    send(&mut flash, &[(0x5555, 0xAA), (0x2AAA, 0x55)]);
    let saved = flash.save();
    assert!(saved.is_possible());
    assert_eq!(postcard::to_allocvec(&saved).unwrap().len(), 8204);
    let mut other = new(512 << 10);
    other.restore(&saved);
    assert!(other.take_change().unwrap() == (0, flash.bytes()));
    assert_eq!(byte(&other, 0), 0xBF);
    // In the middle of a command.
    send(&mut other, &[(0x5555, 0xF0)]);
    assert_eq!(byte(&other, 0x1001), 0x34);
    other.restore(&saved);
    assert_eq!(other.take_change(), None, "it is the same");
    other.reset();
    assert_eq!(byte(&other, 0x7_FFFF), 0x12);
}

#[test]
fn states_that_no_flash_has_are_known() {
    let saved = new(64 << 10).save();
    assert!(saved.is_possible());
    let with = |change: fn(&mut SavedFlash)| {
        let mut saved = saved.clone();
        change(&mut saved);
        saved.is_possible()
    };
    assert!(!with(|saved| saved.size += 1));
    assert!(!with(|saved| saved.sectors[3].0 = 16));
    assert!(!with(|saved| {
        saved.sectors[3].1.pop();
    }));
    assert!(!with(|saved| saved.sectors.push((0, vec![0; SECTOR]))));
}

proptest! {
    /// Whatever is written, what has changed is what is said to have changed.
    #[test]
    fn changes_are_told(writes in proptest::collection::vec(
        (prop_oneof![Just(0x5555u64), Just(0x2AAA), any::<u64>()],
         prop_oneof![Just(0xAAu8), Just(0x55), Just(0xA0), Just(0x80), Just(0x30), Just(0x10), any::<u8>()]), 0..200)) {
        let mut flash = new(64 << 10);
        let mut kept = flash.bytes().to_vec();
        for (address, byte) in writes {
            flash.write(address, &[byte]);
            if let Some((at, bytes)) = flash.take_change() {
                kept[at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
        prop_assert!(kept == flash.bytes());
    }
}
