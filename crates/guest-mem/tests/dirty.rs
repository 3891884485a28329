//! The log of written pages: what it refuses, what it costs, and that it loses nothing under way.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use guest_mem::{Access, DirtyLog, GuestMem, LogError, MAX_PAGES, Mapping};

const PAGE: u64 = 4096;

#[test]
fn logs_that_make_no_sense_are_refused() {
    let new = |ranges: &[(u64, u64)], page| DirtyLog::new(ranges, page).err();
    for page in [0, 1, 2048, 4097, 3 << 12] {
        assert_eq!(new(&[(0, PAGE)], page), Some(LogError::PageSize(page)));
    }
    assert_eq!(new(&[(5, 0)], PAGE), Some(LogError::BadRange(5)));
    assert_eq!(
        new(&[(PAGE, u64::MAX)], PAGE),
        Some(LogError::BadRange(PAGE))
    );
    let overlap = [(PAGE, PAGE), (0, PAGE + 1)];
    assert_eq!(new(&overlap, PAGE), Some(LogError::BadRange(PAGE)));
    assert_eq!(new(&[(0, u64::MAX)], PAGE), Some(LogError::TooLarge));
    let halves = [
        (0, MAX_PAGES / 2 * PAGE),
        (1 << 60, MAX_PAGES / 2 * PAGE + 1),
    ];
    assert_eq!(new(&halves, PAGE), Some(LogError::TooLarge));
    assert_eq!(new(&[(0, u64::MAX)], 1 << 63), None);
    assert_eq!(new(&[(u64::MAX, 1)], PAGE), None);
    assert_eq!(new(&[], PAGE), None);
}

#[test]
fn reports_that_make_no_sense_take_nothing() {
    let log = DirtyLog::new(&[(PAGE, 64 * PAGE), (100 * PAGE, PAGE)], PAGE).unwrap();
    log.mark(PAGE, 64 * PAGE);
    let mut bits = [0; 2];
    assert_eq!(
        log.report(PAGE, 0, &mut bits),
        Err(LogError::BadRange(PAGE))
    );
    assert_eq!(
        log.report(PAGE, u64::MAX, &mut bits),
        Err(LogError::BadRange(PAGE))
    );
    assert_eq!(
        log.report(0, 2 * PAGE, &mut bits),
        Err(LogError::NotLogged(0))
    );
    let beyond = log.report(PAGE, 64 * PAGE + 1, &mut bits);
    assert_eq!(beyond, Err(LogError::NotLogged(PAGE)));
    assert_eq!(log.report(PAGE, PAGE, &mut []), Err(LogError::ShortBitmap));
    log.report(PAGE, 64 * PAGE, &mut bits).unwrap();
    assert_eq!(bits, [u64::MAX, 0]);
    log.report(PAGE, 64 * PAGE, &mut bits).unwrap();
    assert_eq!(bits, [0, 0]);
}

#[test]
fn marks_beyond_the_ranges_are_ignored() {
    let log = DirtyLog::new(&[(4 * PAGE, PAGE), (6 * PAGE, PAGE)], PAGE).unwrap();
    log.mark(0, 4 * PAGE);
    log.mark(5 * PAGE, PAGE);
    log.mark(7 * PAGE, u64::MAX);
    log.mark(4 * PAGE, 0);
    let mut bits = [0];
    for page in [4, 6] {
        log.report(page * PAGE, PAGE, &mut bits).unwrap();
        assert_eq!(bits, [0]);
    }
    log.mark(0, u64::MAX);
    for page in [4, 6] {
        log.report(page * PAGE, PAGE, &mut bits).unwrap();
        assert_eq!(bits, [1]);
    }
}

#[test]
fn larger_pages_take_fewer_bits() {
    let log = DirtyLog::new(&[(0, 1 << 30)], 2 << 20).unwrap();
    assert_eq!(log.page_size(), 2 << 20);
    log.mark((2 << 20) - 1, 2);
    log.mark(1 << 29, 1);
    let mut bits = [0; 8];
    log.report(0, 1 << 30, &mut bits).unwrap();
    assert_eq!(bits, [3, 0, 0, 0, 1, 0, 0, 0]);
}

/// The largest log there is costs address space, and memory only for what is marked.
#[test]
fn an_untouched_log_costs_no_memory() {
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
        pages * PAGE
    };
    let before = resident();
    let log = DirtyLog::new(&[(0, MAX_PAGES * PAGE)], PAGE).unwrap();
    log.mark(3 << 40, 1);
    assert!(resident() < before + (8 << 20), "128 MiB if it were filled");
    let mut bits = [0];
    log.report(3 << 40, 64 * PAGE, &mut bits).unwrap();
    assert_eq!(bits, [1]);
}

/// Whatever a writer wrote is in some copy of its page that was made after a report said that it was dirty: the last
/// copy of each page equals the page.
#[test]
fn no_write_is_lost_between_mark_and_report() {
    const PAGES: u64 = 8;
    const ROUNDS: u64 = 2000;
    let ram = Arc::new(Mapping::anonymous(PAGES * PAGE).unwrap());
    let log = Arc::new(DirtyLog::new(&[(0, PAGES * PAGE)], PAGE).unwrap());
    let mem = GuestMem::builder()
        .map(0, PAGES * PAGE, ram, 0, Access::ReadWrite)
        .dirty_log(log.clone())
        .build()
        .unwrap();
    let collect = |copy: &mut [u64; PAGES as usize]| {
        let mut bits = [0];
        log.report(0, PAGES * PAGE, &mut bits).unwrap();
        for page in 0..PAGES {
            if bits[0] >> page & 1 == 1 {
                let word = &mut copy[page as usize..][..1];
                mem.read_u64s(page * PAGE, word).unwrap();
            }
        }
    };
    // In each round a burst of writes meets as many reports as there is time for, and then one more.
    let (begin, rounds) = mpsc::channel();
    let written = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for now in rounds {
                for n in 0..PAGES * (now % 8 + 1) {
                    mem.store_u64(n % PAGES * PAGE, now << 32 | n).unwrap();
                }
                written.store(now, Ordering::Release);
            }
        });
        let begin = begin;
        let mut copy = [0; PAGES as usize];
        for now in 1..=ROUNDS {
            begin.send(now).unwrap();
            while written.load(Ordering::Acquire) < now {
                collect(&mut copy);
            }
            collect(&mut copy);
            for page in 0..PAGES {
                let mut word = [0];
                mem.read_u64s(page * PAGE, &mut word).unwrap();
                assert_eq!(copy[page as usize], word[0], "page {page} in round {now}");
            }
        }
    });
}

fn report(log: &DirtyLog, iova: u64, pages: u64) -> u64 {
    let mut bits = [0];
    log.report(iova, pages << 12, &mut bits).unwrap();
    bits[0]
}

#[test]
fn a_log_goes_on_over_a_change_of_the_map() {
    let old = DirtyLog::new(&[(0, 0x4000), (0x1_0000, 0x4000)], 4096).unwrap();
    old.mark(0x1000, 1);
    old.mark(0x1_0000, 1);
    let new = old.continued(&[(0, 0x4000), (0x8000, 0x4000)]).unwrap();
    assert_eq!(new.page_size(), 4096);
    old.mark(0x2000, 1);
    new.mark(0x3000, 1);
    new.mark(0x8000, 1);
    assert_eq!(report(&new, 0, 4), 0b1110, "by whomever it was noted");
    assert_eq!(report(&old, 0, 4), 0, "and taken once");
    assert_eq!(report(&new, 0x8000, 4), 1);
    let gone = LogError::NotLogged(0x1_0000);
    assert_eq!(new.report(0x1_0000, 4096, &mut [0]), Err(gone));
    assert_eq!(report(&old, 0x1_0000, 4), 1, "who still has it knows");
    let back = new.continued(&[(0, 0x4000), (0x1_0000, 0x4000)]).unwrap();
    assert_eq!(report(&back, 0x1_0000, 4), 0, "what comes back is clean");
}

#[test]
fn a_range_of_another_size_is_another_range() {
    let old = DirtyLog::new(&[(0, 0x4000)], 4096).unwrap();
    old.mark(0, 0x4000);
    let new = old.continued(&[(0, 0x2000)]).unwrap();
    assert_eq!(report(&new, 0, 2), 0);
    assert_eq!(old.continued(&[(0, 0)]).err(), Some(LogError::BadRange(0)));
    assert_eq!(
        old.continued(&[(0, 8 << 40)]).err(),
        Some(LogError::TooLarge)
    );
}
