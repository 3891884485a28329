//! The map as its users see it: translation, bounds, all or nothing.

use std::os::fd::AsFd;
use std::sync::Arc;

use guest_mem::{Access, BuildError, DmaError, GuestMem, Mapping, Published};
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

const PAGE: u64 = 4096;

fn ram(len: u64) -> Arc<Mapping> {
    Arc::new(Mapping::anonymous(len).unwrap())
}

/// Two ranges that touch, one behind a hole, one read-only, one unreachable.
fn five_ranges() -> GuestMem {
    let low = ram(2 * PAGE);
    GuestMem::builder()
        .map(0x0, PAGE, low.clone(), PAGE, Access::ReadWrite)
        .map(PAGE, PAGE, low, 0, Access::ReadWrite)
        .map(0x10_0000, PAGE, ram(PAGE), 0, Access::ReadWrite)
        .map(0x20_0000, PAGE, ram(PAGE), 0, Access::Read)
        .unreachable(0x30_0000, PAGE, Access::ReadWrite)
        .build()
        .unwrap()
}

#[test]
fn an_access_may_cross_ranges_that_touch() {
    let mem = five_ranges();
    let data: Vec<u8> = (0..=255).collect();
    mem.write(PAGE - 100, &data).unwrap();
    let mut back = [0; 256];
    mem.read(PAGE - 100, &mut back).unwrap();
    assert_eq!(back[..], data[..]);
    let mut pieces = Vec::new();
    mem.slices(PAGE - 100, 256, Access::Read, |s| pieces.push(s.len()))
        .unwrap();
    assert_eq!(pieces, [100, 156]);
}

#[test]
fn a_write_that_reaches_a_hole_writes_nothing() {
    let mem = five_ranges();
    let addr = 2 * PAGE - 8;
    assert_eq!(
        mem.write(addr, &[0xff; 16]),
        Err(DmaError::Unreachable { addr })
    );
    let mut back = [1; 8];
    mem.read(addr, &mut back).unwrap();
    assert_eq!(back, [0; 8]);
}

#[test]
fn read_only_and_unreachable_ranges_refuse() {
    let mem = five_ranges();
    assert!(mem.read(0x20_0000, &mut [0; 16]).is_ok());
    assert!(mem.write(0x20_0000, &[0; 16]).is_err());
    assert!(mem.store_u64(0x20_0000, 1).is_err());
    assert!(mem.store_u8(0x20_0000, 1).is_err());
    assert!(mem.read(0x30_0000, &mut [0; 16]).is_err());
    assert!(mem.write(0x30_0000, &[0; 16]).is_err());
}

#[test]
fn words_are_little_endian_and_may_be_unaligned() {
    let mem = five_ranges();
    mem.store_u64(0x10_0000, 0x0807_0605_0403_0201).unwrap();
    mem.store_u32(0x10_0009, 0x0c0b_0a09).unwrap();
    let mut bytes = [0; 13];
    mem.read(0x10_0000, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 10, 11, 12]);
    let mut words = [0; 2];
    mem.read_u64s(0x10_0001, &mut words).unwrap();
    assert_eq!(words[0], 0x0008_0706_0504_0302);
    mem.read_u64s(PAGE - 8, &mut words).unwrap();
}

#[test]
fn words_are_looked_up_only_where_all_of_them_can_be_written_in_place() {
    let mem = five_ranges();
    let words = mem.words(0x10_0000, 2).unwrap();
    words.store(0, 0x0807_0605_0403_0201);
    words.store(1, u64::MAX);
    words.store_high(1, 0x0c0b_0a09);
    assert_eq!(words.load(1), 0x0c0b_0a09_ffff_ffff);
    let mut bytes = [0; 16];
    mem.read(0x10_0000, &mut bytes).unwrap();
    let expected = [1, 2, 3, 4, 5, 6, 7, 8, 255, 255, 255, 255, 9, 10, 11, 12];
    assert_eq!(bytes, expected);
    assert!(mem.words(0x10_0004, 1).is_none(), "not aligned");
    assert!(mem.words(0x20_0000, 1).is_none(), "read only");
    assert!(mem.words(0x30_0000, 1).is_none(), "not reachable");
    assert!(mem.words(0x10_0000, 1 << 40).is_none(), "not so many");
    assert!(mem.words(u64::MAX - 7, usize::MAX).is_none());
}

#[test]
#[should_panic]
fn there_is_no_word_behind_those_looked_up() {
    five_ranges().words(0x10_0000, 2).unwrap().store(2, 0);
}

#[test]
fn accesses_at_the_top_of_the_address_space_do_not_wrap() {
    let mem = GuestMem::builder()
        .map(0, PAGE, ram(PAGE), 0, Access::ReadWrite)
        .map(u64::MAX - PAGE + 1, PAGE, ram(PAGE), 0, Access::ReadWrite)
        .build()
        .unwrap();
    assert!(mem.write(u64::MAX, &[1]).is_ok());
    assert!(mem.write(u64::MAX, &[1, 2]).is_err());
    assert!(mem.store_u64(u64::MAX - 3, 1).is_err());
    assert!(mem.read_u64s(u64::MAX - 7, &mut [0; 2]).is_err());
}

#[test]
fn maps_that_make_no_sense_are_refused() {
    let build = |start, len, offset| {
        GuestMem::builder()
            .map(start, len, ram(PAGE), offset, Access::ReadWrite)
            .build()
            .err()
    };
    assert_eq!(build(0x1000, 0, 0), Some(BuildError::BadRange(0x1000)));
    assert_eq!(build(0, 0, 0), Some(BuildError::BadRange(0)));
    assert_eq!(build(u64::MAX, 2, 0), Some(BuildError::BadRange(u64::MAX)));
    assert_eq!(build(0, PAGE + 1, 0), Some(BuildError::BadMapping(0)));
    assert_eq!(build(0, 1, u64::MAX), Some(BuildError::BadMapping(0)));
    let twice = GuestMem::builder()
        .unreachable(0, 0x2000, Access::Read)
        .unreachable(0x1fff, 0x1000, Access::Read)
        .build();
    assert_eq!(twice.err(), Some(BuildError::Overlap(0x1fff)));
}

#[test]
fn a_file_is_shared_from_any_offset_and_sealed_against_shrinking() {
    let file = memfd_create("ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, 2 * PAGE).unwrap();
    let whole = Arc::new(Mapping::of_file(file.as_fd(), 0, 2 * PAGE, true).unwrap());
    let odd = Arc::new(Mapping::of_file(file.as_fd(), PAGE + 24, 100, false).unwrap());
    assert_eq!(odd.len(), 100);
    let mem = GuestMem::builder()
        .map(0, 2 * PAGE, whole, 0, Access::ReadWrite)
        .map(0x10_0000, 100, odd, 0, Access::Read)
        .build()
        .unwrap();
    mem.write(PAGE + 24, b"seen").unwrap();
    let mut back = [0; 4];
    mem.read(0x10_0000, &mut back).unwrap();
    assert_eq!(&back, b"seen");
    assert!(
        ftruncate(&file, PAGE).is_err(),
        "shrinking would end in SIGBUS"
    );
    assert!(Mapping::of_file(file.as_fd(), PAGE, PAGE + 1, true).is_err());
    assert!(Mapping::of_file(file.as_fd(), u64::MAX, 2, true).is_err());
    assert!(Mapping::of_file(file.as_fd(), 8, 0, true).is_err());
}

#[test]
fn a_snapshot_outlives_the_map_that_replaced_it() {
    let published = Published::new(five_ranges());
    let held = published.load();
    published.publish(GuestMem::empty());
    assert!(held.write(0, &[1]).is_ok());
    assert!(published.load().write(0, &[1]).is_err());
}

proptest! {
    /// Whatever is asked for, the answer equals that of a byte-wise model and nothing beyond it changes.
    #[test]
    fn agrees_with_a_bytewise_model(addr in 0u64..3 * PAGE, data in proptest::collection::vec(any::<u8>(), 0..5000)) {
        let mem = five_ranges();
        let fits = addr + data.len() as u64 <= 2 * PAGE || data.is_empty();
        prop_assert_eq!(mem.write(addr, &data).is_ok(), fits);
        let mut all = vec![0; 2 * PAGE as usize];
        mem.read(0, &mut all).unwrap();
        for (i, byte) in all.into_iter().enumerate() {
            let at = (i as u64).checked_sub(addr).and_then(|at| data.get(at as usize));
            prop_assert_eq!(byte, if fits { at.copied().unwrap_or(0) } else { 0 });
        }
    }
}
