//! Migration, clause by clause: what libvfio-user's tests demand (`test_migration.py`, `test_quiesce.py`), what the
//! specification says beyond, and what may be expected of bytes that anybody may have made up.

mod common;

use common::moving::*;
use common::{Desk, POISON, access, errno, message, words};
use rustix::io::Errno;
use vfio_user::wire::{command, device_state, feature, feature_flags};
use vfio_user::{Command, ResetKind};

const NOTTY: u32 = Errno::NOTTY.raw_os_error() as u32;
const PROBE: u32 = feature_flags::PROBE;

/// A device whose client can take only so many bytes at once.
fn narrow(max_data: u32) -> Desk {
    let mut desk = Desk::new();
    let json = format!("{{\"capabilities\":{{\"max_data_xfer_size\":{max_data}}}}}\0");
    let proposal = [&[0; 4], json.as_bytes()].concat();
    assert_eq!(errno(&mut desk, command::VERSION, &proposal), 0);
    desk
}

/// The paths themselves are tested where they are found; this is what a device sees of them.
#[test]
fn shortest_path_state_transitions() {
    let runs = |state| matches!(state, RUNNING | PRE_COPY);
    for (from, to) in STATES.iter().flat_map(|from| STATES.map(|to| (*from, to))) {
        if (from, to) == (STOP_COPY, PRE_COPY) {
            continue;
        }
        let mut desk = Desk::ready();
        assert_eq!(state(&mut desk), RUNNING);
        assert_eq!(set_state(&mut desk, from), 0);
        desk.ram.moves.clear();
        assert_eq!(set_state(&mut desk, to), 0, "{from} to {to}");
        assert_eq!(state(&mut desk), to);
        let moves: &[&str] = match (runs(from), runs(to)) {
            (true, false) => &["stop"],
            (false, true) => &["run"],
            _ => &[],
        };
        assert_eq!(desk.ram.moves, moves, "{from} to {to}");
    }
}

#[test]
fn stop_copy_to_pre_copy_is_einval() {
    let mut desk = Desk::ready();
    assert_eq!(set_state(&mut desk, STOP_COPY), 0);
    assert_eq!(set_state(&mut desk, PRE_COPY), INVAL);
    assert_eq!(state(&mut desk), STOP_COPY);
}

#[test]
fn an_unknown_state_is_einval() {
    let mut desk = Desk::ready();
    for from in STATES {
        assert_eq!(set_state(&mut desk, from), 0);
        let p2p = [device_state::RUNNING_P2P, device_state::PRE_COPY_P2P];
        for unknown in [ERROR, p2p[0], p2p[1], 8, 0xabcd, u32::MAX] {
            assert_eq!(set_state(&mut desk, unknown), INVAL, "{unknown:#x}");
            assert_eq!(state(&mut desk), from);
        }
        assert_eq!(set_state(&mut desk, RUNNING), 0);
    }
}

#[test]
fn what_the_device_refuses_fails_the_transition() {
    let mut desk = Desk::ready();
    desk.ram.bytes[7] = POISON;
    let bytes = save(&mut desk);
    let mut other = Desk::ready();
    assert_eq!(load(&mut other, &bytes), INVAL);
    assert_eq!(other.ram.moves, ["stop", "load"]);
    assert_eq!(state(&mut other), ERROR);
    assert_eq!(
        other.ram.commands.last(),
        Some(&Command::empty()),
        "as after a reset"
    );
}

#[test]
fn mig_data_read_in_a_wrong_state_is_einval() {
    let mut desk = Desk::ready();
    for from in STATES {
        assert_eq!(set_state(&mut desk, from), 0);
        let expected = match from {
            STOP_COPY | PRE_COPY => 0,
            _ => INVAL,
        };
        assert_eq!(read(&mut desk, 4).header.error, expected, "{from}");
        assert_eq!(set_state(&mut desk, RUNNING), 0);
    }
}

#[test]
fn mig_data_read_too_long_is_einval() {
    let mut desk = narrow(4);
    assert_eq!(set_state(&mut desk, PRE_COPY), 0);
    assert_eq!(read(&mut desk, 5).header.error, INVAL);
    assert_eq!(read(&mut desk, 4).payload.len(), 12);
    let mut desk = Desk::ready();
    assert_eq!(set_state(&mut desk, STOP_COPY), 0);
    assert_eq!(read(&mut desk, (1 << 20) + 1).header.error, INVAL);
    assert_eq!(read(&mut desk, u32::MAX - 8).header.error, INVAL);
    assert_eq!(read(&mut desk, 1 << 20).header.error, 0);
}

#[test]
fn mig_data_read_too_short_is_einval() {
    let mut desk = Desk::ready();
    assert_eq!(set_state(&mut desk, STOP_COPY), 0);
    let short = &words(&[12, 4])[..7];
    assert_eq!(errno(&mut desk, command::MIG_DATA_READ, short), INVAL);
    let no_room = words(&[11, 4]);
    assert_eq!(errno(&mut desk, command::MIG_DATA_READ, &no_room), INVAL);
    assert_eq!(
        errno(&mut desk, command::MIG_DATA_READ, &words(&[12, 4])),
        0
    );
}

#[test]
fn mig_data_write_in_a_wrong_state_is_einval() {
    let mut desk = Desk::ready();
    for from in STATES {
        assert_eq!(set_state(&mut desk, from), 0);
        let expected = if from == RESUMING { 0 } else { INVAL };
        assert_eq!(write(&mut desk, b"vfio"), expected, "{from}");
        assert_eq!(errno(&mut desk, command::DEVICE_RESET, &[]), 0);
    }
}

#[test]
fn mig_data_write_too_long_is_einval() {
    let mut desk = narrow(4);
    assert_eq!(set_state(&mut desk, RESUMING), 0);
    assert_eq!(write(&mut desk, b"vfiou"), INVAL);
    assert_eq!(state(&mut desk), RESUMING, "nothing was taken");
    assert_eq!(write(&mut desk, b"vfio"), 0);
}

#[test]
fn mig_data_write_too_short_is_einval() {
    let mut desk = Desk::ready();
    assert_eq!(set_state(&mut desk, RESUMING), 0);
    for payload in [
        &words(&[12, 4])[..],
        &words(&[12])[..],
        &[&words(&[12, 4])[..], b"vfi"].concat(),
    ] {
        assert_eq!(errno(&mut desk, command::MIG_DATA_WRITE, payload), INVAL);
    }
    let no_room = [&words(&[11, 4])[..], b"vfio"].concat();
    assert_eq!(errno(&mut desk, command::MIG_DATA_WRITE, &no_room), INVAL);
    assert_eq!(state(&mut desk), RESUMING);
}

#[test]
fn feature_migration_tells_stop_copy_and_pre_copy() {
    let mut desk = Desk::ready();
    let reply = desk.ask(
        command::DEVICE_FEATURE,
        &feature(16, GET | feature::MIGRATION, &[]),
    );
    assert_eq!(
        reply.payload,
        feature(16, GET | feature::MIGRATION, &[5, 0, 0, 0, 0, 0, 0, 0])
    );
    let roomy = desk.ask(
        command::DEVICE_FEATURE,
        &feature(100, GET | feature::MIGRATION, &[]),
    );
    assert_eq!(roomy.payload, reply.payload, "argsz is what there is");
}

#[test]
fn feature_short_is_einval() {
    let mut desk = Desk::ready();
    for len in 0..8 {
        let short = &feature(16, GET | feature::MIGRATION, &[])[..len];
        assert_eq!(errno(&mut desk, command::DEVICE_FEATURE, short), INVAL);
    }
    for len in 8..16 {
        assert_eq!(
            errno(
                &mut desk,
                command::DEVICE_FEATURE,
                &set_message(STOP)[..len]
            ),
            INVAL
        );
    }
    assert_eq!(state(&mut desk), RUNNING);
}

#[test]
fn feature_bad_argsz_is_einval() {
    let mut desk = Desk::ready();
    let state = words(&[STOP, 0]);
    for (argsz, flags, data) in [
        (2, PROBE | feature::MIGRATION, &[][..]),
        (7, PROBE | feature::MIGRATION, &[]),
        (8, GET | feature::MIGRATION, &[]),
        (15, GET | feature::MIGRATION, &[]),
        (15, GET | feature::MIG_DEVICE_STATE, &[]),
        (8, SET | feature::MIG_DEVICE_STATE, &state),
        (15, SET | feature::MIG_DEVICE_STATE, &state),
    ] {
        let payload = feature(argsz, flags, data);
        assert_eq!(
            errno(&mut desk, command::DEVICE_FEATURE, &payload),
            INVAL,
            "{argsz} {flags:#x}"
        );
    }
    assert!(desk.ram.moves.is_empty());
}

#[test]
fn feature_unsupported_op_is_einval() {
    let mut desk = Desk::ready();
    for flags in [
        feature::MIGRATION,
        SET | feature::MIGRATION,
        GET | SET | feature::MIG_DEVICE_STATE,
        PROBE | GET | SET | feature::MIGRATION,
        PROBE | SET | feature::MIGRATION,
        GET | feature::DMA_LOGGING_START,
        GET | feature::DMA_LOGGING_STOP,
        SET | feature::DMA_LOGGING_REPORT,
        1 << 19 | GET | feature::MIGRATION,
    ] {
        let payload = feature(64, flags, &[0; 56]);
        assert_eq!(
            errno(&mut desk, command::DEVICE_FEATURE, &payload),
            INVAL,
            "{flags:#x}"
        );
    }
}

#[test]
fn feature_probe_echoes_what_is_supported() {
    let mut desk = Desk::ready();
    for flags in [
        PROBE | feature::MIGRATION,
        PROBE | GET | feature::MIGRATION,
        PROBE | GET | SET | feature::MIG_DEVICE_STATE,
        PROBE | SET | feature::DMA_LOGGING_START,
        PROBE | SET | feature::DMA_LOGGING_STOP,
        PROBE | GET | feature::DMA_LOGGING_REPORT,
    ] {
        let payload = feature(8, flags, &[]);
        let reply = desk.ask(command::DEVICE_FEATURE, &payload);
        assert_eq!(
            (reply.header.error, reply.payload),
            (0, payload),
            "{flags:#x}"
        );
    }
    assert!(desk.ram.moves.is_empty());
}

#[test]
fn features_that_are_not_there_are_enotty() {
    let mut desk = Desk::ready();
    for number in [0, 3, 4, 5, 9, 0xffff] {
        assert_eq!(
            errno(
                &mut desk,
                command::DEVICE_FEATURE,
                &feature(8, PROBE | number, &[])
            ),
            NOTTY
        );
    }
    desk.ram.migratable = false;
    for number in [1, 2, 6, 7, 8] {
        assert_eq!(
            errno(
                &mut desk,
                command::DEVICE_FEATURE,
                &feature(8, PROBE | number, &[])
            ),
            NOTTY
        );
    }
    assert_eq!(
        errno(&mut desk, command::DEVICE_FEATURE, &set_message(STOP)),
        NOTTY
    );
    assert_eq!(read(&mut desk, 4).header.error, INVAL);
    assert_eq!(write(&mut desk, b"vfio"), INVAL);
}

#[test]
fn in_stop_only_reads_writes_features_and_mig_data_read_are_let_through() {
    for stopped in [STOP, STOP_COPY] {
        let mut desk = Desk::ready();
        assert_eq!(set_state(&mut desk, stopped), 0);
        let map: &[u8] = &[
            &words(&[32, 3])[..],
            &[0; 8],
            &[0, 0, 1, 0, 0, 0, 0, 0],
            &[0, 0, 1, 0, 0, 0, 0, 0],
        ]
        .concat();
        let unmap_all = words(&[24, 2, 0, 0, 0, 0]);
        let requests = [
            (command::DMA_MAP, map.to_vec()),
            (command::DMA_UNMAP, unmap_all),
            (command::DEVICE_GET_INFO, words(&[16, 0, 0, 0])),
            (
                command::DEVICE_GET_REGION_INFO,
                words(&[32, 0, 0, 0, 0, 0, 0, 0]),
            ),
            (command::DEVICE_GET_IRQ_INFO, words(&[16, 0, 0, 0])),
            (command::DEVICE_SET_IRQS, words(&[20, 0x21, 0, 0, 0])),
        ];
        for (command, payload) in &requests {
            assert_eq!(
                errno(&mut desk, *command, payload),
                INVAL,
                "{command} in {stopped}"
            );
        }
        assert_eq!(errno(&mut desk, command::REGION_READ, &access(0, 0, 4)), 0);
        let write = [&access(0, 0, 1)[..], &[5]].concat();
        assert_eq!(errno(&mut desk, command::REGION_WRITE, &write), 0);
        let many = [&1_u64.to_le_bytes()[..], &access(0, 1, 1), &[6; 8]].concat();
        assert_eq!(errno(&mut desk, command::REGION_WRITE_MULTI, &many), 0);
        assert_eq!(desk.ram.bytes[..2], [5, 6]);
        assert_eq!(state(&mut desk), stopped);
        let expected = if stopped == STOP_COPY { 0 } else { INVAL };
        assert_eq!(read(&mut desk, 4).header.error, expected);
        assert_eq!(set_state(&mut desk, RUNNING), 0);
        for (command, payload) in &requests {
            assert_eq!(
                errno(&mut desk, *command, payload),
                0,
                "{command} once it runs"
            );
        }
    }
}

#[test]
fn a_reset_is_let_through_in_every_state_and_leads_to_running() {
    for from in STATES {
        let mut desk = Desk::ready();
        assert_eq!(set_state(&mut desk, from), 0);
        desk.ram.moves.clear();
        assert_eq!(errno(&mut desk, command::DEVICE_RESET, &[]), 0, "{from}");
        assert_eq!(state(&mut desk), RUNNING);
        assert_eq!(desk.ram.resets, [ResetKind::Message]);
        let runs = matches!(from, RUNNING | PRE_COPY);
        assert_eq!(
            desk.ram.moves.len(),
            usize::from(!runs),
            "{from}: it runs (again)"
        );
    }
}

#[test]
fn error_is_left_by_a_reset_only() {
    let mut desk = Desk::ready();
    assert_eq!(set_state(&mut desk, RESUMING), 0);
    assert_eq!(write(&mut desk, &[0; 64]), INVAL);
    assert_eq!(state(&mut desk), ERROR);
    for target in 0..9 {
        assert_eq!(set_state(&mut desk, target), INVAL, "{target}");
    }
    assert_eq!(read(&mut desk, 4).header.error, INVAL);
    assert_eq!(write(&mut desk, b"vfio"), INVAL);
    assert_eq!(errno(&mut desk, command::REGION_READ, &access(0, 0, 4)), 0);
    assert_eq!(state(&mut desk), ERROR);
    assert_eq!(errno(&mut desk, command::DEVICE_RESET, &[]), 0);
    assert_eq!(state(&mut desk), RUNNING);
    assert_eq!(desk.ram.moves, ["stop", "run"]);
}

/// Replies leave in order, and none before its epoch.
#[test]
fn a_transition_that_stops_the_device_waits_for_its_queues() {
    let mut desk = Desk::ready();
    desk.hold = true;
    let before = desk.session.epoch();
    let stop = message(1, command::DEVICE_FEATURE, 0, &set_message(STOP_COPY));
    let read = message(2, command::MIG_DATA_READ, 0, &words(&[8 + 64, 64]));
    let replies = desk.feed(&[stop, read].concat(), Vec::new()).unwrap();
    assert!(replies.is_empty(), "held");
    assert!(desk.session.epoch() > before);
    assert_eq!(
        desk.ram.moves,
        ["stop"],
        "nothing is saved before queues have stopped"
    );
    assert!(!desk.session.wants_input() && !desk.session.can_continue());
    desk.session.pass_epoch(before);
    assert!(!desk.session.can_continue(), "an older one does not count");

    desk.hold = false;
    desk.session.pass_epoch(desk.session.epoch());
    assert!(desk.session.can_continue());
    desk.session.process(&mut desk.ram).unwrap();
    let mut replies = Vec::new();
    desk.collect(&mut replies);
    let ids: Vec<_> = replies
        .iter()
        .map(|reply| (reply.header.id, reply.header.error))
        .collect();
    assert_eq!(ids, [(1, 0), (2, 0)]);
    assert_eq!(desk.ram.moves, ["stop", "save"]);
    assert!(desk.session.wants_input());
}

#[test]
fn a_client_that_goes_while_the_device_is_stopped_leaves_it_running() {
    for from in STATES {
        let mut desk = Desk::ready();
        desk.hold = true;
        let _ = desk.feed(
            &message(1, command::DEVICE_FEATURE, 0, &set_message(from)),
            Vec::new(),
        );
        desk.hold = false;
        desk.session.disconnect(&mut desk.ram);
        desk.ram.moves.retain(|&step| step == "run");
        let runs = matches!(from, RUNNING | PRE_COPY);
        assert_eq!(desk.ram.moves.len(), usize::from(!runs), "{from}");
        assert!(desk.session.wants_input());
        assert_eq!(errno(&mut desk, command::VERSION, &common::proposal()), 0);
        assert_eq!(state(&mut desk), RUNNING);
    }
}
