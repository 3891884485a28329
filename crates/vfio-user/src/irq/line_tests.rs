use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::line::*;
use crate::irq::testing::{count, fd};

fn wired() -> (Line, Arc<OwnedFd>) {
    let table = Line::default();
    let fd = fd();
    table.set_trigger(Some(fd.clone()));
    (table, fd)
}

#[test]
fn signals_the_rising_edge_once() {
    let (table, fd) = wired();
    table.set_level(true);
    table.set_level(true);
    assert_eq!(count(&fd), 1);
    // Down and up again before the guest's EOI: the line is still up there.
    table.set_level(false);
    table.set_level(true);
    assert_eq!(count(&fd), 0);
}

#[test]
fn signals_again_after_resample_and_unmask_while_asserted() {
    let (table, fd) = wired();
    table.set_level(true);
    count(&fd);
    table.resampled();
    assert_eq!(count(&fd), 1);
    table.unmask();
    assert_eq!(count(&fd), 1);
    table.set_level(false);
    table.resampled();
    table.unmask();
    assert_eq!(count(&fd), 0);
    table.set_level(true);
    assert_eq!(count(&fd), 1);
}

#[test]
fn holds_back_while_masked_or_disabled() {
    let (table, fd) = wired();
    table.mask();
    table.set_level(true);
    table.resampled();
    assert_eq!(count(&fd), 0, "resample does not unmask");
    table.unmask();
    assert_eq!(count(&fd), 1);
    table.set_disabled(true);
    table.resampled();
    assert_eq!(count(&fd), 0);
    table.set_disabled(false);
    assert_eq!(count(&fd), 1);
}

#[test]
fn a_new_eventfd_gets_a_pending_level() {
    let (table, old) = wired();
    table.set_level(true);
    count(&old);
    let new = fd();
    table.set_trigger(Some(new.clone()));
    assert_eq!((count(&old), count(&new)), (0, 1));
    table.disable_index();
    let newest = fd();
    table.set_trigger(Some(newest.clone()));
    assert_eq!((count(&new), count(&newest)), (0, 1));
    assert_eq!(Arc::strong_count(&new), 1, "the old eventfd is let go");
}

#[test]
fn no_edge_is_lost_while_the_eventfd_is_exchanged() {
    // The raiser and the control run against each other; whatever happens, when the line is up at the end,
    // the newest eventfd was signalled after it was installed.
    for _ in 0..2000 {
        let (table, _) = wired();
        let newest = fd();
        std::thread::scope(|scope| {
            scope.spawn(|| table.set_level(true));
            table.set_trigger(Some(newest.clone()));
        });
        assert!(count(&newest) >= 1);
    }
}
