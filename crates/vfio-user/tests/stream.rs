//! Any bytes, cut anywhere, with any descriptors: no panic, no stall, the same answers.

mod common;

use common::{Desk, access, event_fd, memfd, message, proposal, words};
use proptest::prelude::*;
use vfio_user::client::Reply;

/// A stream of valid requests, each with the descriptors that go with it.
fn requests() -> Vec<(Vec<u8>, usize)> {
    let map = [&words(&[32, 3])[..], &[0; 16], &0x1000_u64.to_le_bytes()].concat();
    let unmap = [&words(&[24, 0])[..], &[0; 8], &0x1000_u64.to_le_bytes()].concat();
    let posted = [&access(0, 0, 4)[..], &[1, 2, 3, 4]].concat();
    let command = [&access(7, 4, 2)[..], &[7, 0]].concat();
    [
        (1, 0, proposal(), 0),
        (2, 0, map, 1),
        (10, 0, command, 0),
        (10, 0x10, posted, 0),
        (9, 0, access(0, 0, 4).to_vec(), 0),
        (8, 0, words(&[20, 0x24, 0, 0, 1]), 1),
        (5, 0, words(&[32, 0, 7, 0, 0, 0, 0, 0]), 0),
        (3, 0, unmap, 0),
        (19, 0, vec![1, 2, 3], 0),
        (13, 0, vec![], 0),
    ]
    .into_iter()
    .zip(1..)
    .map(|((command, flags, payload, fds), id)| (message(id, command, flags, &payload), fds))
    .collect()
}

fn descriptor(request: &[u8]) -> std::os::fd::OwnedFd {
    match request[2] {
        2 => memfd(0x1000),
        _ => event_fd(),
    }
}

/// Feeds `pieces` of the stream as reads of their own. A kernel ends a read after the bytes that came with
/// descriptors; here these come with the end of their message.
fn serve(cut: impl Fn(usize) -> bool) -> Vec<Reply> {
    let mut desk = Desk::new();
    let (mut replies, mut pending, mut position) = (Vec::new(), Vec::new(), 0);
    for (request, fds) in requests() {
        for (i, byte) in request.iter().enumerate() {
            pending.push(*byte);
            position += 1;
            let fds = match i + 1 == request.len() {
                true => (0..fds).map(|_| descriptor(&request)).collect(),
                false => Vec::new(),
            };
            if !fds.is_empty() || cut(position) {
                replies.extend(desk.feed(&pending, fds).unwrap());
                pending.clear();
            }
        }
    }
    replies.extend(desk.feed(&pending, Vec::new()).unwrap());
    replies
}

fn expected() -> Vec<Reply> {
    let replies = serve(|_| false);
    let errors: Vec<u16> = replies
        .iter()
        .filter(|r| r.header.error != 0)
        .map(|r| r.header.id)
        .collect();
    assert_eq!(errors, [9], "only the unknown command fails");
    assert_eq!(replies.len(), requests().len() - 1, "one is posted");
    assert_eq!(replies[3].payload[16..], [1, 2, 3, 4]);
    replies
}

#[test]
fn a_cut_at_any_byte_changes_nothing() {
    let expected = expected();
    let total: usize = requests().iter().map(|(bytes, _)| bytes.len()).sum();
    for at in 0..=total {
        assert_eq!(serve(|position| position == at), expected, "cut at {at}");
    }
    assert_eq!(serve(|_| true), expected, "byte by byte");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cuts_at_many_bytes_change_nothing(cuts in prop::collection::btree_set(0_usize..700, 0..50)) {
        prop_assert_eq!(serve(|position| cuts.contains(&position)), expected());
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..5000), ready: bool) {
        let mut desk = if ready { Desk::ready() } else { Desk::new() };
        let _ = desk.feed(&bytes, Vec::new());
        desk.session.disconnect(&mut desk.ram);
    }

    #[test]
    fn random_requests_are_answered_or_close(
        requests in prop::collection::vec(
            (0_u16..24, prop::sample::select(vec![0_u32, 0, 0, 0x10, 1, 0x21]),
             prop::collection::vec(prop_oneof![
                 4 => 0_u32..40, 1 => Just(u32::MAX), 1 => Just(0x1000), 1 => any::<u32>()], 0..12),
             0_usize..4),
            1..40),
        hold: bool,
    ) {
        let mut desk = Desk::ready();
        desk.hold = hold;
        for (id, (command, flags, payload, fds)) in requests.iter().enumerate() {
            let fds: Vec<_> = (0..*fds)
                .map(|i| if i % 2 == 0 { memfd(0x2000) } else { event_fd() })
                .collect();
            if hold && !desk.session.wants_input() {
                break;
            }
            let bytes = message(id as u16, *command, *flags, &words(payload));
            let replies = desk.feed(&bytes, fds).unwrap();
            if !hold {
                let wanted = usize::from(flags & 0x10 == 0);
                prop_assert_eq!(replies.len(), wanted, "command {} flags {:#x}", command, flags);
            }
        }
        desk.session.pass_epoch(desk.session.epoch());
        desk.hold = false;
        let mut rest = Vec::new();
        desk.collect(&mut rest);
        // The session is still in step.
        while desk.session.can_continue() {
            desk.session.process(&mut desk.ram).unwrap();
            desk.collect(&mut rest);
        }
        let info = desk.ask(4, &words(&[16, 0, 0, 0]));
        prop_assert_eq!(info.payload, words(&[16, 3, 9, 5]));
    }
}
