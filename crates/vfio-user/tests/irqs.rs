//! GET_IRQ_INFO and SET_IRQS, clause by clause of what libvfio-user's tests ask, and what interrupts do meanwhile.

mod common;

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use common::{Desk, count, event_fd, memfd, words};
use rustix::io::Errno;
use vfio_user::{Bar, Device, IrqTable};

const INVAL: u32 = Errno::INVAL.raw_os_error() as u32;
const NOTSUP: u32 = Errno::OPNOTSUPP.raw_os_error() as u32;

const GET_IRQ_INFO: u16 = 7;
const SET_IRQS: u16 = 8;

const NONE: u32 = 1 << 0;
const BOOL: u32 = 1 << 1;
const EVENTFD: u32 = 1 << 2;
const MASK: u32 = 1 << 3;
const UNMASK: u32 = 1 << 4;
const TRIGGER: u32 = 1 << 5;

const INTX: u32 = 0;
const MSI: u32 = 1;
const MSIX: u32 = 2;
const ERR: u32 = 3;
const REQ: u32 = 4;

const VECTORS: u32 = 2048;
/// Where the capabilities are, and the table and the pending bits in BAR1.
const MSI_CAP: u64 = 0x50;
const MSIX_CAP: u64 = 0x70;
const PBA: u64 = 0x8000;

fn device() -> Device {
    Device::builder()
        .ids(0x1234, 0x5678)
        .bar(0, Bar::memory32(0x1000))
        .bar(1, Bar::memory32(0x1_0000))
        .intx(1)
        .at(MSI_CAP as u16)
        .msi_maskable(8)
        .at(MSIX_CAP as u16)
        .msix(VECTORS, 1, 0, 1, PBA as u32)
        .err_irq()
        .req_irq()
        .build()
        .unwrap()
}

fn desk() -> Desk {
    Desk::ready_of(device())
}

/// SET_IRQS; the errno.
fn set(desk: &mut Desk, flags: u32, index: u32, start: u32, count: u32, fds: &[&OwnedFd]) -> u32 {
    let fds = fds.iter().map(|fd| fd.try_clone().unwrap()).collect();
    let request = words(&[20, flags, index, start, count]);
    desk.ask_with(SET_IRQS, &request, fds).header.error
}

/// SET_IRQS with BOOL; the errno.
fn set_bools(desk: &mut Desk, action: u32, index: u32, start: u32, bools: &[u8]) -> u32 {
    let count = bools.len() as u32;
    let request = [&words(&[20, BOOL | action, index, start, count])[..], bools].concat();
    desk.ask(SET_IRQS, &request).header.error
}

fn enable_msix(desk: &mut Desk) -> Arc<IrqTable> {
    assert_eq!(desk.config_write(MSIX_CAP + 2, &[0xff, 0x87]), 0);
    let irqs = desk.session.irqs();
    assert_eq!(irqs.messages(), VECTORS);
    irqs
}

/// `N` eventfds wired to the vectors of `index` from 0.
fn wired<const N: usize>(desk: &mut Desk, index: u32) -> [OwnedFd; N] {
    let fds = std::array::from_fn(|_| event_fd());
    let refs: Vec<_> = fds.iter().collect();
    assert_eq!(set(desk, EVENTFD | TRIGGER, index, 0, N as u32, &refs), 0);
    fds
}

fn counts(fds: &[OwnedFd]) -> Vec<u64> {
    fds.iter().map(count).collect()
}

/// How many descriptors of this process are this eventfd.
fn open(fd: &OwnedFd) -> usize {
    let id = |fd: &str| {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
        let line = info.lines().find(|line| line.starts_with("eventfd-id"))?;
        Some(line.to_owned())
    };
    let wanted = id(&fd.as_raw_fd().to_string()).unwrap();
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    all.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        id(name.to_str().unwrap()).is_some_and(|id| id == wanted)
    })
    .count()
}

// GET_IRQ_INFO

#[test]
fn irq_info_short_is_invalid() {
    for len in [0, 12, 15] {
        let request = &words(&[16, 0, 0, 0])[..len];
        assert_eq!(desk().ask(GET_IRQ_INFO, request).header.error, INVAL);
    }
}

#[test]
fn irq_info_argsz_below_16_is_invalid() {
    let request = words(&[15, 0, 0, 0]);
    assert_eq!(desk().ask(GET_IRQ_INFO, &request).header.error, INVAL);
}

#[test]
fn irq_info_index_out_of_range_is_invalid() {
    for index in [5, u32::MAX] {
        let request = words(&[16, 0, index, 0]);
        assert_eq!(desk().ask(GET_IRQ_INFO, &request).header.error, INVAL);
    }
}

#[test]
fn irq_info_tells_flags_and_counts() {
    let mut desk = desk();
    let (eventfd, maskable, automasked, noresize) = (1, 2, 4, 8);
    for (index, flags, count) in [
        (INTX, eventfd | maskable | automasked, 1),
        (MSI, eventfd | maskable, 8),
        (MSIX, eventfd | maskable, VECTORS),
        (ERR, eventfd | noresize, 1),
        (REQ, eventfd | noresize, 1),
    ] {
        let reply = desk.ask(GET_IRQ_INFO, &words(&[16, 0, index, 0]));
        assert_eq!(reply.payload, words(&[16, flags, index, count]));
    }
}

#[test]
fn irq_info_of_err_is_an_error_without_one() {
    let mut desk = Desk::ready();
    let request = |index| words(&[16, 0, index, 0]);
    assert_eq!(desk.ask(GET_IRQ_INFO, &request(ERR)).header.error, INVAL);
    for index in [MSI, MSIX, REQ] {
        let reply = desk.ask(GET_IRQ_INFO, &request(index));
        assert_eq!(reply.payload, words(&[16, 0, index, 0]));
    }
}

// SET_IRQS, refused

#[test]
fn set_irqs_without_payload_is_invalid() {
    assert_eq!(desk().ask(SET_IRQS, &[]).header.error, INVAL);
}

#[test]
fn set_irqs_short_is_invalid() {
    let request = words(&[20, NONE | TRIGGER, MSIX, 0, 0]);
    assert_eq!(desk().ask(SET_IRQS, &request[..19]).header.error, INVAL);
}

#[test]
fn set_irqs_argsz_below_20_is_invalid() {
    let request = words(&[19, NONE | TRIGGER, MSIX, 0, 0]);
    assert_eq!(desk().ask(SET_IRQS, &request).header.error, INVAL);
}

#[test]
fn set_irqs_index_out_of_range_is_invalid() {
    for index in [5, u32::MAX] {
        assert_eq!(set(&mut desk(), NONE | TRIGGER, index, 0, 0, &[]), INVAL);
    }
}

#[test]
fn set_irqs_two_actions_are_invalid() {
    for actions in [MASK | UNMASK, MASK | TRIGGER, UNMASK | TRIGGER, 0] {
        assert_eq!(set(&mut desk(), NONE | actions, MSIX, 0, 1, &[]), INVAL);
    }
}

#[test]
fn set_irqs_two_data_types_are_invalid() {
    for data in [NONE | BOOL, NONE | EVENTFD, BOOL | EVENTFD, 0] {
        assert_eq!(set(&mut desk(), data | TRIGGER, MSIX, 0, 1, &[]), INVAL);
    }
}

#[test]
fn set_irqs_unknown_flags_are_invalid() {
    assert_eq!(
        set(&mut desk(), NONE | TRIGGER | 1 << 6, MSIX, 0, 1, &[]),
        INVAL
    );
}

#[test]
fn set_irqs_start_beyond_the_index_is_invalid() {
    for start in [VECTORS, VECTORS + 1, u32::MAX] {
        for count in [0, 1] {
            let errno = set(&mut desk(), NONE | TRIGGER, MSIX, start, count, &[]);
            assert_eq!(errno, INVAL);
        }
    }
}

#[test]
fn set_irqs_end_beyond_the_index_is_invalid() {
    for (start, count) in [(VECTORS - 1, 2), (0, VECTORS + 1), (1, VECTORS)] {
        for data in [NONE, EVENTFD] {
            let errno = set(&mut desk(), data | TRIGGER, MSIX, start, count, &[]);
            assert_eq!(errno, INVAL);
        }
    }
}

#[test]
fn set_irqs_overflowing_range_is_invalid() {
    for (start, count) in [(284, u32::MAX), (1, u32::MAX), (0, u32::MAX)] {
        let errno = set(&mut desk(), NONE | TRIGGER, MSIX, start, count, &[]);
        assert_eq!(errno, INVAL);
    }
}

#[test]
fn set_irqs_masking_of_err_and_req_is_invalid() {
    for index in [ERR, REQ] {
        for action in [MASK, UNMASK] {
            assert_eq!(set(&mut desk(), NONE | action, index, 0, 1, &[]), INVAL);
            assert_eq!(set(&mut desk(), EVENTFD | action, index, 0, 1, &[]), INVAL);
        }
    }
}

#[test]
fn set_irqs_more_than_one_err_or_req_is_invalid() {
    for index in [ERR, REQ] {
        assert_eq!(set(&mut desk(), NONE | TRIGGER, index, 0, 2, &[]), INVAL);
    }
}

#[test]
fn set_irqs_count_0_from_elsewhere_than_0_is_invalid() {
    assert_eq!(set(&mut desk(), NONE | TRIGGER, MSIX, 1, 0, &[]), INVAL);
}

#[test]
fn set_irqs_count_0_but_trigger_none_is_invalid() {
    for flags in [
        NONE | MASK,
        NONE | UNMASK,
        BOOL | TRIGGER,
        EVENTFD | TRIGGER,
        EVENTFD | UNMASK,
    ] {
        assert_eq!(set(&mut desk(), flags, MSIX, 0, 0, &[]), INVAL);
    }
}

#[test]
fn set_irqs_fds_with_bool_or_none_are_invalid() {
    let fd = event_fd();
    let mut desk = desk();
    assert_eq!(set(&mut desk, NONE | TRIGGER, MSIX, 0, 1, &[&fd]), INVAL);
    let request = [&words(&[20, BOOL | TRIGGER, MSIX, 0, 1])[..], &[1]].concat();
    let reply = desk.ask_with(SET_IRQS, &request, vec![event_fd()]);
    assert_eq!(reply.header.error, INVAL);
    assert_eq!(set(&mut desk, NONE | TRIGGER, MSIX, 0, 0, &[&fd]), INVAL);
}

#[test]
fn set_irqs_fds_other_than_count_are_invalid() {
    let (a, b) = (event_fd(), event_fd());
    let mut desk = desk();
    let flags = EVENTFD | TRIGGER;
    assert_eq!(set(&mut desk, flags, MSIX, 0, 1, &[&a, &b]), INVAL);
    assert_eq!(set(&mut desk, flags, MSIX, 0, 3, &[&a, &b]), INVAL);
    assert_eq!(set(&mut desk, flags, MSIX, 0, 2, &[&a, &b]), 0);
}

#[test]
fn set_irqs_bools_other_than_count_are_invalid() {
    let mut desk = desk();
    let head = words(&[20, BOOL | TRIGGER, MSIX, 0, 4]);
    for len in [0, 3, 5, 64] {
        let request = [&head[..], &vec![1; len]].concat();
        assert_eq!(desk.ask(SET_IRQS, &request).header.error, INVAL);
    }
    assert_eq!(set_bools(&mut desk, TRIGGER, MSIX, 0, &[1; 4]), 0);
}

#[test]
fn set_irqs_an_index_without_interrupts_is_invalid_even_to_disable() {
    let mut desk = Desk::ready();
    for index in [MSI, MSIX, ERR, REQ] {
        assert_eq!(set(&mut desk, NONE | TRIGGER, index, 0, 0, &[]), INVAL);
    }
    assert_eq!(set(&mut desk, NONE | TRIGGER, INTX, 0, 0, &[]), 0);
}

#[test]
fn set_irqs_takes_eventfds_only_and_all_or_none() {
    let mut desk = desk();
    let irqs = enable_msix(&mut desk);
    let (good, file) = (event_fd(), memfd(8));
    let errno = set(&mut desk, EVENTFD | TRIGGER, MSIX, 0, 2, &[&good, &file]);
    assert_eq!(errno, INVAL);
    irqs.raise(0);
    assert_eq!(count(&good), 0, "nothing was changed");
    assert_eq!(open(&good), 1, "and nothing kept");
    for index in [MSI, MSIX] {
        for action in [MASK, UNMASK] {
            let errno = set(&mut desk, EVENTFD | action, index, 0, 1, &[&good]);
            assert_eq!(errno, NOTSUP, "no eventfd masks a message");
        }
    }
    assert_eq!(set(&mut desk, EVENTFD | MASK, INTX, 0, 1, &[&good]), NOTSUP);
}

// SET_IRQS, done

#[test]
fn set_irqs_disables_all_of_an_index() {
    let mut desk = desk();
    let irqs = enable_msix(&mut desk);
    let fds: [_; 3] = wired(&mut desk, MSIX);
    assert_eq!(set(&mut desk, NONE | TRIGGER, MSIX, 0, 0, &[]), 0);
    for vector in 0..3 {
        irqs.raise(vector);
        assert!(irqs.is_pending(vector), "kept for who comes next");
    }
    assert_eq!(counts(&fds), [0; 3]);
    for index in [INTX, MSI, ERR, REQ] {
        assert_eq!(set(&mut desk, NONE | TRIGGER, index, 0, 0, &[]), 0);
    }
}

#[test]
fn set_irqs_without_fds_deassigns() {
    let mut desk = desk();
    let irqs = enable_msix(&mut desk);
    let fds: [_; 3] = wired(&mut desk, MSIX);
    assert_eq!(set(&mut desk, EVENTFD | TRIGGER, MSIX, 1, 1, &[]), 0);
    (0..3).for_each(|vector| irqs.raise(vector));
    assert_eq!(counts(&fds), [1, 0, 1]);
    // As QEMU does when MSI-X is enabled with all vectors masked, and as many times as it likes.
    for _ in 0..2 {
        assert_eq!(set(&mut desk, EVENTFD | TRIGGER, MSIX, 0, VECTORS, &[]), 0);
    }
}

#[test]
fn set_irqs_assigns_any_range() {
    let mut desk = desk();
    let irqs = enable_msix(&mut desk);
    let fds: Vec<_> = (0..16).map(|_| event_fd()).collect();
    let refs: Vec<_> = fds.iter().collect();
    let last = VECTORS - 16;
    assert_eq!(set(&mut desk, EVENTFD | TRIGGER, MSIX, last, 16, &refs), 0);
    (last..VECTORS).for_each(|vector| irqs.raise(vector));
    irqs.raise(last - 1);
    assert_eq!(counts(&fds), [1; 16]);
}

#[test]
fn set_irqs_reassigns_and_closes_the_old_fd() {
    let mut desk = desk();
    let irqs = enable_msix(&mut desk);
    let [old] = wired(&mut desk, MSIX);
    assert_eq!(open(&old), 2);
    let [new] = wired(&mut desk, MSIX);
    irqs.raise(0);
    assert_eq!((count(&old), count(&new)), (0, 1));
    assert_eq!((open(&old), open(&new)), (1, 2));
}

#[test]
fn set_irqs_trigger_none_signals_the_range() {
    let mut desk = desk();
    let fds: [_; 4] = wired(&mut desk, MSIX);
    assert_eq!(set(&mut desk, NONE | TRIGGER, MSIX, 1, 2, &[]), 0);
    assert_eq!(counts(&fds), [0, 1, 1, 0]);
    // Those without an eventfd are passed over.
    assert_eq!(set(&mut desk, NONE | TRIGGER, MSIX, 0, VECTORS, &[]), 0);
    assert_eq!(counts(&fds), [1; 4]);
    for index in [INTX, MSI, ERR, REQ] {
        let [fd] = wired(&mut desk, index);
        assert_eq!(set(&mut desk, NONE | TRIGGER, index, 0, 1, &[]), 0);
        assert_eq!(count(&fd), 1);
    }
}

#[test]
fn set_irqs_trigger_bool_signals_those_named() {
    let mut desk = desk();
    let fds: [_; 4] = wired(&mut desk, MSIX);
    assert_eq!(set_bools(&mut desk, TRIGGER, MSIX, 0, &[1, 0, 0, 2]), 0);
    assert_eq!(counts(&fds), [1, 0, 0, 1]);
    assert_eq!(set_bools(&mut desk, TRIGGER, MSIX, 1, &[0, 1]), 0);
    assert_eq!(counts(&fds), [0, 0, 1, 0]);
    assert_eq!(set_bools(&mut desk, TRIGGER, ERR, 0, &[0]), 0);
}

#[test]
fn set_irqs_mask_and_unmask_reach_the_vectors_named() {
    let mut desk = desk();
    let irqs = enable_msix(&mut desk);
    let fds: [_; 4] = wired(&mut desk, MSIX);
    assert_eq!(set(&mut desk, NONE | MASK, MSIX, 1, 2, &[]), 0);
    (0..4).for_each(|vector| irqs.raise(vector));
    assert_eq!(counts(&fds), [1, 0, 0, 1]);
    assert!(irqs.is_pending(1) && irqs.is_pending(2) && !irqs.is_pending(0));
    assert_eq!(set_bools(&mut desk, UNMASK, MSIX, 0, &[1, 0, 1]), 0);
    assert_eq!(counts(&fds), [0, 0, 1, 0], "delivered by the unmasking");
    assert_eq!(set(&mut desk, NONE | UNMASK, MSIX, 0, VECTORS, &[]), 0);
    assert_eq!(counts(&fds), [0, 1, 0, 0]);
    assert_eq!(set_bools(&mut desk, MASK, MSIX, 0, &[0, 0, 0, 1]), 0);
    // However often it was raised, it is pending once.
    (0..5).for_each(|_| irqs.raise(3));
    assert_eq!(set(&mut desk, NONE | UNMASK, MSIX, 3, 1, &[]), 0);
    assert_eq!(counts(&fds), [0, 0, 0, 1]);
    // Torn down, the mask is gone.
    assert_eq!(set(&mut desk, NONE | MASK, MSIX, 0, 4, &[]), 0);
    assert_eq!(set(&mut desk, NONE | TRIGGER, MSIX, 0, 0, &[]), 0);
    let [fd] = wired(&mut desk, MSIX);
    irqs.raise(0);
    assert_eq!(count(&fd), 1);
}

#[test]
fn a_reply_that_takes_an_eventfd_away_waits_for_the_epoch() {
    let mut desk = desk();
    let _fds: [_; 2] = wired(&mut desk, MSIX);
    let epoch = desk.session.epoch();
    let spare = event_fd();
    assert_eq!(set(&mut desk, EVENTFD | TRIGGER, MSIX, 9, 1, &[&spare]), 0);
    assert_eq!(desk.session.epoch(), epoch, "nothing was taken away");
    for (flags, count) in [
        (EVENTFD | TRIGGER, 2),
        (NONE | MASK, 1),
        (NONE | TRIGGER, 0),
    ] {
        let epoch = desk.session.epoch();
        assert_eq!(set(&mut desk, flags, MSIX, 0, count, &[]), 0);
        assert_eq!(desk.session.epoch(), epoch + 1, "{flags:#x}");
    }
}

#[test]
fn a_reply_that_forbids_messages_waits_for_the_epoch() {
    let mut desk = desk();
    enable_msix(&mut desk);
    let mut begins = |region, offset, byte: u8| {
        let epoch = desk.session.epoch();
        assert_eq!(desk.write(region, offset, &[byte]), 0);
        desk.session.epoch() != epoch
    };
    let (control, vector) = (MSIX_CAP + 3, 12);
    assert!(begins(7, control, 0xc0), "function mask");
    assert!(!begins(1, vector, 1), "nothing could be sent anyway");
    assert!(!begins(1, vector, 0));
    assert!(!begins(7, control, 0x80), "this permits");
    assert!(begins(1, vector, 1), "vector mask");
    assert!(!begins(1, vector, 1), "masked already");
    assert!(!begins(1, vector, 0));
    assert!(begins(7, 4, 3), "bus mastering");
    assert!(!begins(7, 4, 7));
    assert!(begins(7, control, 0), "MSI-X");
    assert!(!begins(7, 0x3c, 9), "nothing to do with it");
}

// What raises

#[test]
fn raising_out_of_range_does_nothing() {
    let mut desk = desk();
    let irqs = enable_msix(&mut desk);
    irqs.raise(VECTORS);
    irqs.raise(u32::MAX);
    assert!(!irqs.is_pending(VECTORS));
    assert_eq!(irqs.raised(), 0);
}

#[test]
fn raising_without_an_eventfd_stays_pending_until_there_is_one() {
    let mut desk = desk();
    let irqs = enable_msix(&mut desk);
    irqs.raise(1);
    assert!(irqs.is_pending(1));
    assert_eq!(desk.read(1, PBA, 8), 2_u64.to_le_bytes());
    let fds: [_; 2] = wired(&mut desk, MSIX);
    assert_eq!(counts(&fds), [0, 1]);
    assert!(!irqs.is_pending(1));
    assert_eq!(desk.read(1, PBA, 8), [0; 8]);
}

#[test]
fn messages_need_to_be_enabled() {
    let mut desk = desk();
    let irqs = desk.session.irqs();
    let [fd] = wired(&mut desk, MSIX);
    assert_eq!(irqs.messages(), 0);
    irqs.raise(0);
    assert!(!irqs.is_pending(0));
    enable_msix(&mut desk);
    assert_eq!(count(&fd), 0, "a message that was never sent");
    irqs.raise(0);
    assert_eq!(count(&fd), 1);
}

#[test]
fn messages_need_bus_mastering() {
    let mut desk = desk();
    let irqs = enable_msix(&mut desk);
    let [fd] = wired(&mut desk, MSIX);
    desk.config_write(4, &[3]);
    irqs.raise(0);
    assert_eq!((count(&fd), irqs.is_pending(0)), (0, true));
    desk.config_write(4, &[7]);
    assert_eq!((count(&fd), irqs.is_pending(0)), (1, false));
}

#[test]
fn the_function_mask_holds_all_vectors_back() {
    let mut desk = desk();
    let irqs = enable_msix(&mut desk);
    let fds: [_; 3] = wired(&mut desk, MSIX);
    desk.config_write(MSIX_CAP + 3, &[0xc0]);
    irqs.raise(0);
    irqs.raise(2);
    assert_eq!(counts(&fds), [0; 3]);
    assert_eq!(desk.read(1, PBA, 1), [0b101]);
    desk.config_write(MSIX_CAP + 3, &[0x80]);
    assert_eq!(counts(&fds), [1, 0, 1]);
}

#[test]
fn disabling_msix_forgets_what_was_pending() {
    let mut desk = desk();
    let irqs = enable_msix(&mut desk);
    irqs.raise(5);
    desk.config_write(MSIX_CAP + 3, &[0]);
    assert_eq!(desk.read(1, PBA, 8), [0; 8]);
    enable_msix(&mut desk);
    assert!(!irqs.is_pending(5));
}

#[test]
fn pending_bits_of_all_vectors_can_be_read_anyhow() {
    let mut desk = desk();
    let irqs = enable_msix(&mut desk);
    let pending = [0, 63, 64, 1000, VECTORS - 1];
    pending.iter().for_each(|vector| irqs.raise(*vector));
    let mut expected = [0_u8; 256];
    for vector in pending {
        expected[vector as usize / 8] |= 1 << (vector % 8);
    }
    assert_eq!(desk.read(1, PBA, 256), expected);
    for (at, byte) in expected.iter().enumerate() {
        assert_eq!(desk.read(1, PBA + at as u64, 1), [*byte]);
    }
    assert_eq!(desk.read(1, PBA + 7, 2), expected[7..9]);
    assert_eq!(desk.write(1, PBA, &[0; 8]), 0);
    assert_eq!(desk.read(1, PBA, 256), expected, "writes are dropped");
    assert_eq!(desk.ram.writes, 0, "the handler saw none of it");
}

#[test]
fn a_table_that_a_client_forwards_is_stored_and_its_mask_bits_count() {
    let mut desk = desk();
    let irqs = enable_msix(&mut desk);
    let fds: [_; 3] = wired(&mut desk, MSIX);
    let reset = words(&[0, 0, 0, 1]);
    assert_eq!(desk.read(1, 16, 16), reset);
    let entry = words(&[0xfee0_0000, 0, 0x41, 1]);
    assert_eq!(desk.write(1, 16, &entry), 0);
    assert_eq!(desk.read(1, 16, 16), entry);
    (0..3).for_each(|vector| irqs.raise(vector));
    assert_eq!(counts(&fds), [1, 0, 1], "others were never written");
    // Vector Control byte by byte, with reserved bits.
    assert_eq!(desk.write(1, 16 + 12, &[0xfe]), 0);
    assert_eq!(counts(&fds), [0, 1, 0]);
    assert_eq!(desk.read(1, 16 + 12, 4), [0; 4]);
    // A write over two entries.
    assert_eq!(desk.write(1, 12, &words(&[1, 1, 2, 3, 0xffff_ffff])), 0);
    assert_eq!(desk.read(1, 0, 32), words(&[0, 0, 0, 1, 1, 2, 3, 1]));
    (0..3).for_each(|vector| irqs.raise(vector));
    assert_eq!(counts(&fds), [0, 0, 1]);
    desk.ask(13, &[]);
    assert_eq!(desk.read(1, 16, 16), [0xff; 16], "memory is off");
    desk.config_write(4, &[7]);
    assert_eq!(desk.read(1, 16, 16), reset);
    assert_eq!(desk.ram.writes, 0, "the handler saw none of it");
}

#[test]
fn accesses_across_the_table_are_divided() {
    let device = Device::builder()
        .bar(0, Bar::memory32(0x1000))
        .msix(2, 0, 0x100, 0, 0x120)
        .build()
        .unwrap();
    let mut desk = Desk::ready_of(device);
    desk.ram.bytes.fill(0x77);
    assert_eq!(
        desk.read(0, 0xf8, 8 + 32 + 8 + 8),
        [
            &[0x77; 8][..],
            &words(&[0, 0, 0, 1, 0, 0, 0, 1]),
            &[0; 8],
            &[0x77; 8]
        ]
        .concat()
    );
    assert_eq!(desk.write(0, 0xf8, &[5; 8 + 32 + 8 + 8]), 0);
    assert_eq!(desk.ram.bytes[0xf8..0x100], [5; 8]);
    assert_eq!(desk.ram.bytes[0x100..0x128], [0x77; 0x28]);
    assert_eq!(desk.ram.bytes[0x128..0x130], [5; 8]);
}

#[test]
fn intx_is_quiet_while_messages_are_enabled() {
    let mut desk = desk();
    let irqs = desk.session.irqs();
    let [fd] = wired(&mut desk, INTX);
    irqs.set_level(true);
    assert_eq!(count(&fd), 1);
    for (cap, on, off) in [(MSIX_CAP + 3, 0x80, 0), (MSI_CAP + 2, 1, 0)] {
        desk.config_write(cap, &[on]);
        assert_eq!(set(&mut desk, NONE | UNMASK, INTX, 0, 1, &[]), 0);
        irqs.set_level(false);
        irqs.set_level(true);
        assert_eq!(count(&fd), 0);
        desk.config_write(cap, &[off]);
        assert_eq!(count(&fd), 1, "still asserted");
    }
}

#[test]
fn intx_unmask_with_an_eventfd_is_the_resample_eventfd() {
    let mut desk = desk();
    let irqs = desk.session.irqs();
    let ([trigger], resample) = (wired(&mut desk, INTX), event_fd());
    let errno = set(&mut desk, EVENTFD | UNMASK, INTX, 0, 1, &[&resample]);
    assert_eq!(errno, 0);
    irqs.set_level(true);
    assert_eq!(count(&trigger), 1);
    common::signal(&resample);
    desk.session.on_resample();
    assert_eq!((count(&trigger), count(&resample)), (1, 0));
    irqs.set_level(false);
    common::signal(&resample);
    desk.session.on_resample();
    assert_eq!(count(&trigger), 0);
    assert_eq!(set(&mut desk, EVENTFD | UNMASK, INTX, 0, 1, &[]), 0);
    assert!(desk.session.resample_fd().is_none());
}

#[test]
fn msi_vectors_share_what_the_guest_grants() {
    let mut desk = desk();
    let irqs = desk.session.irqs();
    let fds: [_; 4] = wired(&mut desk, MSI);
    for (order, shared, hit) in [(0, 1, 0), (1, 2, 1), (2, 4, 3)] {
        desk.config_write(MSI_CAP + 2, &[order << 4 | 1]);
        assert_eq!(irqs.messages(), shared);
        irqs.raise(7);
        let mut expected = [0; 4];
        expected[hit] = 1;
        assert_eq!(counts(&fds), expected);
    }
}

#[test]
fn msi_masks_and_pending_bits_are_in_configuration_space() {
    let mut desk = desk();
    let irqs = desk.session.irqs();
    let fds: [_; 8] = wired(&mut desk, MSI);
    desk.config_write(MSI_CAP + 2, &[3 << 4 | 1]);
    desk.config_write(MSI_CAP + 16, &[0b110]);
    (0..4).for_each(|vector| irqs.raise(vector));
    assert_eq!(counts(&fds), [1, 0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(desk.config_read(MSI_CAP + 20, 4), [0b110, 0, 0, 0]);
    desk.config_write(MSI_CAP + 16, &[0b010]);
    assert_eq!(counts(&fds), [0, 0, 1, 0, 0, 0, 0, 0]);
    assert_eq!(desk.config_read(MSI_CAP + 20, 4), [0b010, 0, 0, 0]);
}

#[test]
fn msix_goes_before_msi() {
    let mut desk = desk();
    let ([msi], [msix]) = (wired(&mut desk, MSI), wired(&mut desk, MSIX));
    desk.config_write(MSI_CAP + 2, &[1]);
    let irqs = enable_msix(&mut desk);
    irqs.raise(0);
    assert_eq!((count(&msi), count(&msix)), (0, 1));
}

#[test]
fn err_and_req_are_told_at_any_time() {
    let mut desk = desk();
    let irqs = desk.session.irqs();
    irqs.request_release();
    let ([err], [req]) = (wired(&mut desk, ERR), wired(&mut desk, REQ));
    assert_eq!((count(&err), count(&req)), (0, 1), "it was pending");
    irqs.raise_error();
    assert_eq!((count(&err), count(&req)), (1, 0));
    assert_eq!(set(&mut desk, EVENTFD | TRIGGER, ERR, 0, 1, &[]), 0);
    irqs.raise_error();
    assert_eq!(count(&err), 0);
    // A device without them says nothing.
    let none = Desk::ready();
    none.session.irqs().raise_error();
    none.session.irqs().request_release();
    assert_eq!(none.session.irqs().raised(), 0);
}

#[test]
fn a_disconnect_takes_everything_of_the_client_away() {
    let mut desk = desk();
    let irqs = enable_msix(&mut desk);
    let ([msix], [err]) = (wired(&mut desk, MSIX), wired(&mut desk, ERR));
    assert_eq!(set(&mut desk, NONE | MASK, MSIX, 1, 1, &[]), 0);
    irqs.raise(1);
    assert_eq!((open(&msix), open(&err)), (2, 2));
    desk.session.disconnect(&mut desk.ram);
    assert_eq!((open(&msix), open(&err)), (1, 1));
    irqs.raise(0);
    irqs.raise_error();
    assert_eq!((count(&msix), count(&err)), (0, 0));
    assert_eq!(irqs.messages(), 0);
}

#[test]
fn raised_counts_what_was_sent() {
    let mut desk = desk();
    let irqs = enable_msix(&mut desk);
    let _fds: [_; 2] = wired(&mut desk, MSIX);
    irqs.raise(0);
    irqs.raise(1);
    irqs.raise(1);
    irqs.raise(2);
    assert_eq!(irqs.raised(), 3);
}

#[test]
fn no_message_is_lost_while_eventfds_and_masks_change() {
    // A raiser against a control that closes the way in one of four manners, exchanges the eventfd, and opens it again.
    // In the end the message is in the old eventfd or in the new one, and pending no more.
    let mut desk = desk();
    let irqs = enable_msix(&mut desk);
    let mut old = event_fd();
    assert_eq!(set(&mut desk, EVENTFD | TRIGGER, MSIX, 3, 1, &[&old]), 0);
    for round in 0..2000 {
        let new = event_fd();
        std::thread::scope(|scope| {
            scope.spawn(|| irqs.raise(3));
            match round % 4 {
                0 => _ = set(&mut desk, EVENTFD | TRIGGER, MSIX, 3, 1, &[]),
                1 => _ = set(&mut desk, NONE | MASK, MSIX, 3, 1, &[]),
                2 => _ = desk.config_write(MSIX_CAP + 3, &[0xc0]),
                _ => _ = desk.write(1, 3 * 16 + 12, &[1]),
            }
            set(&mut desk, EVENTFD | TRIGGER, MSIX, 3, 1, &[&new]);
            set(&mut desk, NONE | UNMASK, MSIX, 3, 1, &[]);
            desk.config_write(MSIX_CAP + 3, &[0x80]);
            desk.write(1, 3 * 16 + 12, &[0]);
        });
        assert!(count(&old) + count(&new) >= 1, "round {round}");
        assert!(!irqs.is_pending(3), "round {round}");
        old = new;
    }
}
