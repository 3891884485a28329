//! Dirty page logging, clause by clause: what libvfio-user's tests demand (`test_dirty_pages.py`, `test_dma_unmap.py`,
//! `test_migration.py`), and that the log is exactly what a device wrote, whatever happens to the memory map meanwhile.

mod common;

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use common::{Desk, errno, memfd, message, words};
use proptest::prelude::*;
use rustix::io::Errno;
use vfio_user::client::Reply;
use vfio_user::wire::{command, feature, feature_flags};
use zerocopy::IntoBytes;

const INVAL: u32 = Errno::INVAL.raw_os_error() as u32;
const NOENT: u32 = Errno::NOENT.raw_os_error() as u32;
const NOSPC: u32 = Errno::NOSPC.raw_os_error() as u32;

const PAGE: u64 = 4096;
/// Where memory is, and how many pages of it.
const BASE: u64 = 0x10 * PAGE;
const PAGES: u64 = 0x20;

fn quads(words: &[u64]) -> Vec<u8> {
    words.as_bytes().to_vec()
}

fn map_with(desk: &mut Desk, iova: u64, size: u64, fd: Option<OwnedFd>) -> u32 {
    let payload = [words(&[32, 3]), quads(&[0, iova, size])].concat();
    let fds = fd.into_iter().collect();
    desk.ask_with(command::DMA_MAP, &payload, fds).header.error
}

fn map(desk: &mut Desk, iova: u64, size: u64) {
    assert_eq!(map_with(desk, iova, size, Some(memfd(size))), 0);
}

fn unmap_message(argsz: u32, flags: u32, iova: u64, size: u64) -> Vec<u8> {
    [words(&[argsz, flags]), quads(&[iova, size])].concat()
}

/// A device with memory at [`BASE`].
fn ready() -> Desk {
    let mut desk = Desk::ready();
    map(&mut desk, BASE, PAGES * PAGE);
    desk
}

fn start_message(page_size: u64, ranges: &[u64]) -> Vec<u8> {
    let data = [
        quads(&[page_size]),
        words(&[ranges.len() as u32 / 2, 0]),
        quads(ranges),
    ]
    .concat();
    let flags = feature_flags::SET | feature::DMA_LOGGING_START;
    [words(&[8 + data.len() as u32, flags]), data].concat()
}

fn start(desk: &mut Desk, page_size: u64, ranges: &[u64]) -> Reply {
    desk.ask(command::DEVICE_FEATURE, &start_message(page_size, ranges))
}

fn stop(desk: &mut Desk) -> u32 {
    let flags = feature_flags::SET | feature::DMA_LOGGING_STOP;
    errno(desk, command::DEVICE_FEATURE, &words(&[8, flags]))
}

fn report_message(room: u64, iova: u64, length: u64, page_size: u64) -> Vec<u8> {
    let flags = feature_flags::GET | feature::DMA_LOGGING_REPORT;
    [
        words(&[8 + 24 + room as u32, flags]),
        quads(&[iova, length, page_size]),
    ]
    .concat()
}

fn try_report(desk: &mut Desk, iova: u64, length: u64, page_size: u64) -> Result<Vec<u64>, u32> {
    let room = match page_size {
        0 => 8,
        _ => length.div_ceil(page_size).div_ceil(64) * 8,
    };
    let request = report_message(room, iova, length, page_size);
    let reply = desk.ask(command::DEVICE_FEATURE, &request);
    if reply.header.error != 0 {
        return Err(reply.header.error);
    }
    assert_eq!(reply.payload[..request.len()], request[..]);
    let (words, _) = reply.payload[request.len()..].as_chunks();
    assert_eq!(words.len() as u64 * 8, room);
    Ok(words.iter().copied().map(u64::from_ne_bytes).collect())
}

fn report(desk: &mut Desk, page_size: u64) -> u64 {
    match &try_report(desk, BASE, PAGES * PAGE, page_size).unwrap()[..] {
        &[bits] => bits,
        more => panic!("{more:?}"),
    }
}

/// The device writes pages, as queues do: through the published map.
fn write(desk: &Desk, page: u64, pages: u64) {
    let data = vec![7; (pages * PAGE) as usize];
    let mem = desk.session.mem().load();
    mem.write(BASE + page * PAGE, &data).unwrap();
}

#[test]
fn logging_page_size_0_is_einval() {
    let mut desk = ready();
    for bad in [0, 3, PAGE + 1, 3 * PAGE, u64::MAX] {
        assert_eq!(start(&mut desk, bad, &[]).header.error, INVAL, "{bad:#x}");
    }
    assert_eq!(
        try_report(&mut desk, BASE, PAGE, PAGE),
        Err(INVAL),
        "not started"
    );
}

#[test]
fn logging_page_size_other_than_the_one_in_use_is_einval() {
    let mut desk = ready();
    assert_eq!(start(&mut desk, PAGE, &[]).header.error, 0);
    write(&desk, 0, 1);
    assert_eq!(
        start(&mut desk, PAGE, &[]).header.error,
        0,
        "once more changes nothing"
    );
    assert_eq!(start(&mut desk, PAGE / 2, &[]).header.error, INVAL);
    assert_eq!(start(&mut desk, PAGE * 2, &[]).header.error, INVAL);
    assert_eq!(report(&mut desk, PAGE), 1);
}

#[test]
fn logging_page_size_is_a_hint_and_the_reply_tells_what_became_of_it() {
    for (asked, used) in [(512, PAGE), (PAGE, PAGE), (4 * PAGE, 4 * PAGE)] {
        let mut desk = ready();
        let reply = start(&mut desk, asked, &[BASE, PAGE]);
        assert_eq!(reply.payload, start_message(used, &[BASE, PAGE]));
    }
}

#[test]
fn logging_of_ranges_that_cannot_be_is_einval() {
    let mut desk = ready();
    for bad in [[BASE, 0], [u64::MAX, 2], [2, u64::MAX]] {
        assert_eq!(start(&mut desk, PAGE, &bad).header.error, INVAL, "{bad:x?}");
    }
    let mut cut = start_message(PAGE, &[BASE, PAGE, BASE + PAGE, PAGE]);
    cut.truncate(cut.len() - 1);
    assert_eq!(errno(&mut desk, command::DEVICE_FEATURE, &cut), INVAL);
    let mut many = start_message(PAGE, &[]);
    many[16..20].fill(0xff);
    assert_eq!(errno(&mut desk, command::DEVICE_FEATURE, &many), INVAL);
    let short = &start_message(PAGE, &[])[..23];
    assert_eq!(errno(&mut desk, command::DEVICE_FEATURE, short), INVAL);
    // What is not mapped (yet) may be asked for: hypervisors name the whole of their address space.
    assert_eq!(start(&mut desk, PAGE, &[0, 1 << 40]).header.error, 0);
}

#[test]
fn report_of_an_unknown_range_is_enoent() {
    let mut desk = ready();
    assert_eq!(start(&mut desk, PAGE, &[]).header.error, 0);
    for (iova, length) in [
        (0xdead_beef, PAGE),
        (BASE - 1, PAGE),
        (BASE, PAGES * PAGE + 1),
        (BASE + PAGES * PAGE, 1),
        (u64::MAX - 1, 1),
    ] {
        assert_eq!(
            try_report(&mut desk, iova, length, PAGE),
            Err(NOENT),
            "{iova:#x}"
        );
    }
    assert_eq!(report(&mut desk, PAGE), 0);
}

#[test]
fn report_with_a_bad_page_size_or_length_is_einval() {
    let mut desk = ready();
    assert_eq!(start(&mut desk, PAGE, &[]).header.error, 0);
    for (length, page_size) in [(PAGE, 0), (PAGE, 3), (PAGE, PAGE + 1), (0, PAGE)] {
        assert_eq!(
            try_report(&mut desk, BASE, length, page_size),
            Err(INVAL),
            "{length} {page_size}"
        );
    }
    let short = &report_message(8, BASE, PAGE, PAGE)[..31];
    assert_eq!(errno(&mut desk, command::DEVICE_FEATURE, short), INVAL);
}

#[test]
fn report_with_a_bad_argsz_is_einval() {
    let mut desk = ready();
    assert_eq!(start(&mut desk, PAGE, &[]).header.error, 0);
    let exact = report_message(8, BASE, PAGES * PAGE, PAGE);
    let less = report_message(7, BASE, PAGES * PAGE, PAGE);
    assert_eq!(errno(&mut desk, command::DEVICE_FEATURE, &less), INVAL);
    assert_eq!(errno(&mut desk, command::DEVICE_FEATURE, &exact), 0);
    // One bit per byte of a terabyte would not fit into any message.
    let vast = report_message(1 << 30, BASE, 1 << 40, 1);
    assert_eq!(errno(&mut desk, command::DEVICE_FEATURE, &vast), INVAL);
}

#[test]
fn only_writes_are_logged_and_a_report_takes_them() {
    let mut desk = ready();
    write(&desk, 0, 3);
    assert_eq!(start(&mut desk, PAGE, &[]).header.error, 0);
    assert_eq!(report(&mut desk, PAGE), 0, "what was written before is not");
    let mut bytes = [0; 64];
    desk.session.mem().load().read(BASE, &mut bytes).unwrap();
    assert_eq!(report(&mut desk, PAGE), 0);
    for (page, pages, bits) in [
        (0, 1, 0b1),
        (7, 1, 0x80),
        (0, 7, 0x7f),
        (0, 8, 0xff),
        (0, 9, 0x1ff),
        (7, 2, 0x180),
        (15, 1, 0x8000),
        (31, 1, 1 << 31),
        (0, 32, 0xffff_ffff),
    ] {
        write(&desk, page, pages);
        assert_eq!(report(&mut desk, PAGE), bits);
        assert_eq!(report(&mut desk, PAGE), 0);
    }
    desk.session
        .mem()
        .load()
        .write(BASE + PAGE - 1, &[1, 2])
        .unwrap();
    desk.session
        .mem()
        .load()
        .store_u64(BASE + 9 * PAGE, 5)
        .unwrap();
    assert_eq!(report(&mut desk, PAGE), 0b10_0000_0011, "a byte is enough");
}

#[test]
fn a_report_in_other_page_sizes_replicates_and_combines() {
    let mut desk = ready();
    assert_eq!(start(&mut desk, PAGE, &[]).header.error, 0);
    let dirty = |desk: &Desk| {
        write(desk, 0, 1);
        write(desk, 6, 4);
    };
    for (page_size, bits) in [
        (PAGE, 0b11_1100_0001),
        (PAGE / 2, 0b1111_1111_0000_0000_0011),
        (PAGE * 2, 0b1_1001),
        (PAGE * 16, 0b1),
        (1 << 24, 1),
    ] {
        dirty(&desk);
        assert_eq!(report(&mut desk, page_size), bits, "{page_size:#x}");
        assert_eq!(report(&mut desk, page_size), 0);
    }
    dirty(&desk);
    let part = try_report(&mut desk, BASE + 6 * PAGE, 2 * PAGE, PAGE).unwrap();
    assert_eq!(part, [0b11], "a part of a range");
    assert_eq!(
        report(&mut desk, PAGE),
        0b11_0000_0001,
        "and the rest of it"
    );
}

#[test]
fn logging_stops_and_starts_anew() {
    let mut desk = ready();
    assert_eq!(stop(&mut desk), 0, "nothing to stop is fine");
    assert_eq!(start(&mut desk, PAGE, &[]).header.error, 0);
    write(&desk, 0, 1);
    assert_eq!(stop(&mut desk), 0);
    assert_eq!(stop(&mut desk), 0);
    assert_eq!(try_report(&mut desk, BASE, PAGE, PAGE), Err(INVAL));
    write(&desk, 1, 1);
    assert_eq!(
        start(&mut desk, 2 * PAGE, &[]).header.error,
        0,
        "any page size again"
    );
    assert_eq!(report(&mut desk, PAGE), 0);
}

#[test]
fn starting_and_stopping_wait_for_the_queues() {
    let mut desk = ready();
    desk.hold = true;
    for payload in [
        start_message(PAGE, &[]),
        words(&[8, feature_flags::SET | feature::DMA_LOGGING_STOP]),
    ] {
        let before = desk.session.epoch();
        let replies = desk
            .feed(
                &message(1, command::DEVICE_FEATURE, 0, &payload),
                Vec::new(),
            )
            .unwrap();
        assert!(replies.is_empty() && desk.session.epoch() > before);
        desk.hold = false;
        let mut replies = Vec::new();
        desk.collect(&mut replies);
        assert_eq!(replies.len(), 1);
        desk.hold = true;
    }
}

#[test]
fn logging_ends_with_the_client() {
    let mut desk = ready();
    assert_eq!(start(&mut desk, PAGE, &[]).header.error, 0);
    desk.session.disconnect(&mut desk.ram);
    assert_eq!(errno(&mut desk, command::VERSION, &common::proposal()), 0);
    map(&mut desk, BASE, PAGES * PAGE);
    assert_eq!(try_report(&mut desk, BASE, PAGE, PAGE), Err(INVAL));
}

#[test]
fn memory_that_is_mapped_later_is_logged_as_well() {
    let mut desk = ready();
    assert_eq!(start(&mut desk, PAGE, &[]).header.error, 0);
    write(&desk, 1, 1);
    let next = BASE + PAGES * PAGE;
    map(&mut desk, next, PAGES * PAGE);
    write(&desk, 2, 1);
    desk.session.mem().load().write(next + PAGE, &[1]).unwrap();
    let bits = try_report(&mut desk, BASE, 2 * PAGES * PAGE, PAGE).unwrap();
    assert_eq!(bits, [0b110 | 1 << (PAGES + 1)], "across both");
}

#[test]
fn what_a_queue_writes_through_the_old_map_is_not_lost() {
    let mut desk = ready();
    assert_eq!(start(&mut desk, PAGE, &[]).header.error, 0);
    desk.hold = true;
    let old = desk.session.mem().load();
    old.write(BASE, &[1]).unwrap();
    let next = BASE + PAGES * PAGE;
    let request = [words(&[32, 3]), quads(&[0, next, PAGE])].concat();
    let mut batch = message(1, command::DMA_MAP, 0, &request);
    batch.extend(message(
        2,
        command::DEVICE_FEATURE,
        0,
        &report_message(8, BASE, PAGES * PAGE, PAGE),
    ));
    assert!(desk.feed(&batch, vec![memfd(PAGE)]).unwrap().is_empty());
    old.write(BASE + 5 * PAGE, &[1]).unwrap();
    desk.session.mem().load().write(next - PAGE, &[1]).unwrap();
    drop(old);
    desk.hold = false;
    let mut replies = Vec::new();
    desk.collect(&mut replies);
    desk.session.process(&mut desk.ram).unwrap();
    desk.collect(&mut replies);
    assert_eq!(replies.len(), 2);
    let bits: [u8; 8] = replies[1].payload[32..].try_into().unwrap();
    assert_eq!(u64::from_ne_bytes(bits), 1, "when it was asked");
    assert_eq!(report(&mut desk, PAGE), 1 << 5 | 1 << (PAGES - 1));
}

#[test]
fn unmapping_tells_the_dirty_pages() {
    let mut desk = ready();
    assert_eq!(start(&mut desk, PAGE, &[]).header.error, 0);
    write(&desk, 3, 2);
    let request = [unmap_message(48, 1, BASE, PAGES * PAGE), quads(&[PAGE, 8])].concat();
    let reply = desk.ask(command::DMA_UNMAP, &request);
    assert_eq!(reply.header.error, 0);
    assert_eq!(reply.payload, [request, quads(&[0b1_1000])].concat());
    assert_eq!(try_report(&mut desk, BASE, PAGE, PAGE), Err(NOENT));
}

#[test]
fn unmapping_tells_what_is_written_until_queues_have_let_go() {
    let mut desk = ready();
    assert_eq!(start(&mut desk, PAGE, &[]).header.error, 0);
    desk.hold = true;
    let old = desk.session.mem().load();
    let request = [unmap_message(48, 1, BASE, PAGES * PAGE), quads(&[PAGE, 8])].concat();
    let replies = desk
        .feed(&message(1, command::DMA_UNMAP, 0, &request), Vec::new())
        .unwrap();
    assert!(replies.is_empty());
    old.write(BASE + 4 * PAGE, &[1]).unwrap();
    desk.hold = false;
    let mut replies = Vec::new();
    desk.collect(&mut replies);
    assert_eq!(replies[0].payload, [request, quads(&[1 << 4])].concat());
}

#[test]
fn unmapping_with_a_bad_bitmap_is_einval() {
    let mut desk = ready();
    let with = |argsz, flags, iova, size, bitmap: [u64; 2]| {
        [unmap_message(argsz, flags, iova, size), quads(&bitmap)].concat()
    };
    let good = with(48, 1, BASE, PAGES * PAGE, [PAGE, 8]);
    assert_eq!(
        errno(&mut desk, command::DMA_UNMAP, &good),
        INVAL,
        "not tracking"
    );
    assert_eq!(start(&mut desk, PAGE, &[]).header.error, 0);
    for (what, request) in [
        ("argsz", with(47, 1, BASE, PAGES * PAGE, [PAGE, 8])),
        (
            "argsz above the limit",
            with((1 << 20) + 1, 1, BASE, PAGES * PAGE, [PAGE, 8]),
        ),
        ("no header", unmap_message(48, 1, BASE, PAGES * PAGE)),
        ("page size 0", with(48, 1, BASE, PAGES * PAGE, [0, 8])),
        (
            "odd page size",
            with(48, 1, BASE, PAGES * PAGE, [PAGE + 1, 8]),
        ),
        ("size too small", with(48, 1, BASE, PAGES * PAGE, [PAGE, 0])),
        (
            "size too large",
            with(56, 1, BASE, PAGES * PAGE, [PAGE, 16]),
        ),
        (
            "size overflows",
            with(40, 1, BASE, PAGES * PAGE, [PAGE, u64::MAX - 40 + 8]),
        ),
        ("ALL and dirty", with(48, 3, 0, 0, [PAGE, 8])),
        ("empty", with(48, 1, BASE, 0, [PAGE, 0])),
    ] {
        assert_eq!(
            errno(&mut desk, command::DMA_UNMAP, &request),
            INVAL,
            "{what}"
        );
    }
    let part = with(48, 1, BASE + PAGE, PAGE, [PAGE, 8]);
    assert_eq!(errno(&mut desk, command::DMA_UNMAP, &part), NOENT);
    assert_eq!(errno(&mut desk, command::DMA_UNMAP, &good), 0);
}

/// An IOMMU of QEMU's drops ranges in which some pages are mapped, or none: what is not was not written.
#[test]
fn unmapping_a_range_with_gaps_tells_the_dirty_pages() {
    let mut desk = Desk::ready();
    let entries = [(1, 2), (3, 1), (8, 1), (20, 4)];
    for (page, pages) in entries {
        map(&mut desk, BASE + page * PAGE, pages * PAGE);
    }
    assert_eq!(start(&mut desk, PAGE, &[]).header.error, 0);
    for page in [2, 3, 8, 20, 23] {
        write(&desk, page, 1);
    }
    let unmap = |desk: &mut Desk, page: u64, pages: u64, bits: u64| {
        let size = pages.div_ceil(64) * 8;
        let range = unmap_message(40 + size as u32, 1, BASE + page * PAGE, pages * PAGE);
        let request = [range, quads(&[PAGE, size])].concat();
        let reply = desk.ask(command::DMA_UNMAP, &request);
        assert_eq!(reply.header.error, 0);
        assert_eq!(reply.payload[40..], quads(&[bits]));
    };
    unmap(&mut desk, 9, 11, 0);
    unmap(&mut desk, 0, 16, 1 << 2 | 1 << 3 | 1 << 8);
    unmap(&mut desk, 0, 16, 0);
    // Nothing of the last one has been touched.
    let last = try_report(&mut desk, BASE + 20 * PAGE, 4 * PAGE, PAGE);
    assert_eq!(last, Ok(vec![0b1001]));
}

/// Entries that are smaller than a page of the log, with gaps between them: as with reports, a page is told as a whole.
#[test]
fn unmapping_parts_of_a_page_tells_the_page() {
    let mut desk = Desk::ready();
    for part in [0, 2, 3] {
        map(&mut desk, BASE + part * PAGE, PAGE);
    }
    assert_eq!(start(&mut desk, 4 * PAGE, &[]).header.error, 0);
    write(&desk, 2, 1);
    let range = unmap_message(48, 1, BASE, 3 * PAGE);
    let request = [range, quads(&[PAGE, 8])].concat();
    let reply = desk.ask(command::DMA_UNMAP, &request);
    assert_eq!(reply.payload[40..], quads(&[0b111]));
}

#[test]
fn memory_that_comes_back_is_clean() {
    let mut desk = ready();
    assert_eq!(start(&mut desk, PAGE, &[]).header.error, 0);
    write(&desk, 3, 2);
    let plain = unmap_message(24, 0, BASE, PAGES * PAGE);
    assert_eq!(desk.ask(command::DMA_UNMAP, &plain).payload, plain);
    map(&mut desk, BASE, PAGES * PAGE);
    assert_eq!(report(&mut desk, PAGE), 0);
    write(&desk, 1, 1);
    let all = unmap_message(24, 2, 0, 0);
    assert_eq!(desk.ask(command::DMA_UNMAP, &all).payload, all);
    assert_eq!(try_report(&mut desk, BASE, PAGE, PAGE), Err(NOENT));
    map(&mut desk, BASE, PAGES * PAGE);
    assert_eq!(report(&mut desk, PAGE), 0);
}

#[test]
fn the_same_map_again_changes_nothing() {
    let mut desk = Desk::ready();
    let file = memfd(PAGES * PAGE);
    let again =
        |desk: &mut Desk| map_with(desk, BASE, PAGES * PAGE, Some(file.try_clone().unwrap()));
    assert_eq!(again(&mut desk), 0);
    assert_eq!(start(&mut desk, PAGE, &[]).header.error, 0);
    write(&desk, 3, 1);
    assert_eq!(again(&mut desk), 0);
    assert_eq!(report(&mut desk, PAGE), 0b1000);
}

#[test]
fn more_memory_than_can_be_logged_is_enospc() {
    let mut desk = Desk::ready();
    assert_eq!(map_with(&mut desk, 0, 8 << 40, None), 0);
    assert_eq!(start(&mut desk, PAGE, &[]).header.error, NOSPC);
    assert_eq!(
        start(&mut desk, 1 << 20, &[]).header.error,
        0,
        "in larger pages it can"
    );
    let mut desk = ready();
    assert_eq!(start(&mut desk, PAGE, &[]).header.error, 0);
    write(&desk, 3, 1);
    assert_eq!(map_with(&mut desk, 1 << 40, 8 << 40, None), NOSPC);
    assert_eq!(report(&mut desk, PAGE), 0b1000, "nothing has changed");
    assert_eq!(try_report(&mut desk, 1 << 40, PAGE, PAGE), Err(NOENT));
}

#[derive(Clone, Debug)]
enum Step {
    Write {
        at: u64,
        len: u64,
    },
    Report {
        page: u64,
        pages: u64,
    },
    /// The second half of memory goes and comes.
    Remap,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = PAGES * PAGE;
    let step = prop_oneof![
        6 => (0..bytes, 1..5 * PAGE).prop_map(move |(at, len)| Step::Write { at, len: len.min(bytes - at) }),
        2 => (0..PAGES).prop_flat_map(|page| (Just(page), 1..=PAGES - page))
            .prop_map(|(page, pages)| Step::Report { page, pages }),
        1 => Just(Step::Remap),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_exactly_what_was_written(steps in steps()) {
        let half = PAGES / 2;
        let mut desk = Desk::ready();
        map(&mut desk, BASE, half * PAGE);
        map(&mut desk, BASE + half * PAGE, half * PAGE);
        prop_assert_eq!(start(&mut desk, PAGE, &[]).header.error, 0);
        let mut dirty = BTreeSet::new();
        for step in steps {
            match step {
                Step::Write { at, len } => {
                    desk.session.mem().load().write(BASE + at, &vec![1; len as usize]).unwrap();
                    dirty.extend(at / PAGE..=(at + len - 1) / PAGE);
                }
                Step::Report { page, pages } => {
                    let bits = try_report(&mut desk, BASE + page * PAGE, pages * PAGE, PAGE).unwrap();
                    for n in 0..64 {
                        let expected = n < pages && dirty.remove(&(page + n));
                        prop_assert_eq!(bits[0] >> n & 1 == 1, expected, "page {}", page + n);
                    }
                }
                Step::Remap => {
                    let second = BASE + half * PAGE;
                    let request = [unmap_message(48, 1, second, half * PAGE), quads(&[PAGE, 8])].concat();
                    let reply = desk.ask(command::DMA_UNMAP, &request);
                    let bits = u64::from_ne_bytes(reply.payload[40..].try_into().unwrap());
                    for n in 0..64 {
                        let expected = n < half && dirty.remove(&(half + n));
                        prop_assert_eq!(bits >> n & 1 == 1, expected);
                    }
                    map(&mut desk, second, half * PAGE);
                }
            }
        }
    }
}
