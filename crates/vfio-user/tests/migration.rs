//! Migration, clause by clause: what libvfio-user's tests demand (`test_migration.py`, `test_quiesce.py`), what the
//! specification says beyond, and what may be expected of bytes that anybody may have made up.

mod common;

use common::{Desk, POISON, access, device, errno, message, words};
use proptest::prelude::*;
use rustix::io::Errno;
use vfio_user::client::Reply;
use vfio_user::wire::{command, device_state, feature, feature_flags};
use vfio_user::{Bar, Command, Device, MAX_STATE, ResetKind};

const INVAL: u32 = Errno::INVAL.raw_os_error() as u32;
const NOTTY: u32 = Errno::NOTTY.raw_os_error() as u32;

const ERROR: u32 = device_state::ERROR;
const STOP: u32 = device_state::STOP;
const RUNNING: u32 = device_state::RUNNING;
const STOP_COPY: u32 = device_state::STOP_COPY;
const RESUMING: u32 = device_state::RESUMING;
const PRE_COPY: u32 = device_state::PRE_COPY;
const STATES: [u32; 5] = [STOP, RUNNING, STOP_COPY, RESUMING, PRE_COPY];

const GET: u32 = feature_flags::GET;
const SET: u32 = feature_flags::SET;
const PROBE: u32 = feature_flags::PROBE;

fn feature(argsz: u32, flags: u32, data: &[u8]) -> Vec<u8> {
    [&words(&[argsz, flags])[..], data].concat()
}

fn set_message(state: u32) -> Vec<u8> {
    feature(16, SET | feature::MIG_DEVICE_STATE, &words(&[state, 0]))
}

fn set_state(desk: &mut Desk, state: u32) -> u32 {
    let payload = set_message(state);
    let reply = desk.ask(command::DEVICE_FEATURE, &payload);
    if reply.header.error == 0 {
        assert_eq!(reply.payload, payload, "the reply is the request");
    }
    reply.header.error
}

fn state(desk: &mut Desk) -> u32 {
    let payload = feature(16, GET | feature::MIG_DEVICE_STATE, &[]);
    let reply = desk.ask(command::DEVICE_FEATURE, &payload);
    assert_eq!(reply.payload[..8], feature(16, GET | 2, &[])[..]);
    assert_eq!(reply.payload[12..], [0; 4]);
    u32::from_le_bytes(reply.payload[8..12].try_into().unwrap())
}

fn read(desk: &mut Desk, size: u32) -> Reply {
    desk.ask(command::MIG_DATA_READ, &words(&[8 + size, size]))
}

/// Reads until less than asked for comes.
fn read_all(desk: &mut Desk, size: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let reply = read(desk, size);
        assert_eq!(reply.header.error, 0);
        let n = reply.payload.len() as u32 - 8;
        assert_eq!(reply.payload[..8], words(&[8 + n, n])[..]);
        bytes.extend_from_slice(&reply.payload[8..]);
        if n < size {
            return bytes;
        }
    }
}

fn write(desk: &mut Desk, data: &[u8]) -> u32 {
    let size = data.len() as u32;
    let payload = [&words(&[8 + size, size])[..], data].concat();
    errno(desk, command::MIG_DATA_WRITE, &payload)
}

/// The state of a device that is stopped for it.
fn save(desk: &mut Desk) -> Vec<u8> {
    assert_eq!(set_state(desk, STOP_COPY), 0);
    read_all(desk, 1000)
}

/// Gives a device a state; the errno with which it was refused at last.
fn load(desk: &mut Desk, bytes: &[u8]) -> u32 {
    assert_eq!(set_state(desk, RESUMING), 0);
    for piece in bytes.chunks(1 << 16) {
        let errno = write(desk, piece);
        if errno != 0 {
            return errno;
        }
    }
    set_state(desk, RUNNING)
}

/// A device whose client can take only so many bytes at once.
fn narrow(max_data: u32) -> Desk {
    let mut desk = Desk::new();
    let json = format!("{{\"capabilities\":{{\"max_data_xfer_size\":{max_data}}}}}\0");
    let proposal = [&[0; 4], json.as_bytes()].concat();
    assert_eq!(errno(&mut desk, command::VERSION, &proposal), 0);
    desk
}

#[test]
fn shortest_path_state_transitions() {
    // What a device sees of the way from a state (row) to another: it stops, it runs.
    let ways: [(u32, [(u32, &[&str]); 5]); 5] = [
        (
            STOP,
            [
                (STOP, &[]),
                (RUNNING, &["run"]),
                (STOP_COPY, &[]),
                (RESUMING, &[]),
                (PRE_COPY, &["run"]),
            ],
        ),
        (
            RUNNING,
            [
                (STOP, &["stop"]),
                (RUNNING, &[]),
                (STOP_COPY, &["stop"]),
                (RESUMING, &["stop"]),
                (PRE_COPY, &[]),
            ],
        ),
        (
            STOP_COPY,
            [
                (STOP, &[]),
                (RUNNING, &["run"]),
                (STOP_COPY, &[]),
                (RESUMING, &[]),
                (STOP, &[]),
            ],
        ),
        (
            RESUMING,
            [
                (STOP, &[]),
                (RUNNING, &["run"]),
                (STOP_COPY, &[]),
                (RESUMING, &[]),
                (PRE_COPY, &["run"]),
            ],
        ),
        (
            PRE_COPY,
            [
                (STOP, &["stop"]),
                (RUNNING, &[]),
                (STOP_COPY, &["stop"]),
                (RESUMING, &["stop"]),
                (PRE_COPY, &[]),
            ],
        ),
    ];
    for (from, targets) in ways {
        for (to, moves) in targets {
            let mut desk = Desk::ready();
            assert_eq!(state(&mut desk), RUNNING);
            assert_eq!(set_state(&mut desk, from), 0);
            desk.ram.moves.clear();
            assert_eq!(set_state(&mut desk, to), 0, "{from} to {to}");
            assert_eq!(state(&mut desk), to);
            assert_eq!(desk.ram.moves, moves, "{from} to {to}");
        }
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

#[test]
fn a_short_read_is_the_end_of_the_stream() {
    let mut desk = Desk::ready();
    let whole = save(&mut desk);
    assert_eq!(
        read(&mut desk, 100).payload,
        words(&[8, 0]),
        "and so is nothing"
    );
    assert_eq!(desk.ram.moves, ["stop", "save"], "saved once");
    for size in [1, 7, 28, 4096, 1 << 20] {
        assert_eq!(set_state(&mut desk, STOP), 0);
        assert_eq!(set_state(&mut desk, STOP_COPY), 0);
        assert_eq!(
            read_all(&mut desk, size),
            whole,
            "a new session is from the start"
        );
    }
}

#[test]
fn pre_copy_tells_the_header_first() {
    let mut desk = Desk::ready();
    let whole = save(&mut desk);
    assert_eq!(set_state(&mut desk, RUNNING), 0);
    assert_eq!(set_state(&mut desk, PRE_COPY), 0);
    desk.ram.moves.clear();
    let header = read_all(&mut desk, 1000);
    assert_eq!(header, whole[..header.len()]);
    assert!(header.len() >= 24, "who it is");
    assert!(desk.ram.moves.is_empty(), "the device goes on");
    assert_eq!(set_state(&mut desk, STOP_COPY), 0);
    let rest = read_all(&mut desk, 1000);
    assert_eq!([header, rest].concat(), whole);
    assert_eq!(desk.ram.moves, ["stop", "save"]);
}

#[test]
fn a_header_that_nobody_read_while_it_ran_comes_with_the_rest() {
    let mut desk = Desk::ready();
    let whole = save(&mut desk);
    assert_eq!(set_state(&mut desk, RUNNING), 0);
    assert_eq!(set_state(&mut desk, PRE_COPY), 0);
    assert_eq!(read(&mut desk, 5).payload[8..], whole[..5]);
    assert_eq!(set_state(&mut desk, STOP_COPY), 0);
    assert_eq!(read_all(&mut desk, 100), whole[5..]);
}

#[test]
fn a_device_goes_on_where_it_was() {
    let mut desk = Desk::ready();
    for (n, byte) in desk.ram.bytes.iter_mut().enumerate() {
        *byte = (n % 200) as u8;
    }
    // BAR0, interrupt line and COMMAND; D3 shows that the power state moves too.
    for (at, value) in [
        (0x10, 0xfebc_0000_u32),
        (0x3c, 0x0000_000b),
        (4, 0x0000_0006),
        (0xe0, 3),
    ] {
        let write = [&access(7, at, 4)[..], &value.to_le_bytes()].concat();
        assert_eq!(errno(&mut desk, command::REGION_WRITE, &write), 0);
    }
    let bytes = save(&mut desk);
    let config = desk.ask(command::REGION_READ, &access(7, 0, 256)).payload;

    let mut other = Desk::ready();
    assert_eq!(load(&mut other, &bytes), 0);
    assert_eq!(other.ram.moves, ["stop", "load", "run"]);
    assert_eq!(other.ram.bytes, desk.ram.bytes);
    assert_eq!(
        other.ask(command::REGION_READ, &access(7, 0, 256)).payload,
        config
    );
    assert_eq!(
        other.ram.commands.last(),
        Some(&Command::INTX_DISABLE),
        "as in D3"
    );
    let d0 = [&access(7, 0xe0, 1)[..], &[0]].concat();
    assert_eq!(errno(&mut other, command::REGION_WRITE, &d0), 0);
    assert_eq!(other.ram.resets, [ResetKind::PowerState]);
}

#[test]
fn command_is_told_to_the_device() {
    let mut desk = Desk::ready();
    let bytes = save(&mut desk);
    let mut other = Desk::new();
    assert_eq!(errno(&mut other, command::VERSION, &common::proposal()), 0);
    assert_eq!(load(&mut other, &bytes), 0);
    let all = Command::IO | Command::MEMORY | Command::BUS_MASTER;
    assert_eq!(other.ram.commands, [all]);
}

#[test]
fn nothing_written_is_nothing_loaded() {
    let mut desk = Desk::ready();
    desk.ram.bytes[3] = 9;
    assert_eq!(load(&mut desk, &[]), 0);
    assert_eq!(
        (desk.ram.bytes[3], &desk.ram.moves[..]),
        (9, &["stop", "run"][..])
    );
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

#[test]
fn a_state_that_is_cut_off_anywhere_is_an_error() {
    let bytes = save(&mut Desk::ready());
    let mut desk = Desk::ready();
    let ends = (1..64).chain([
        256,
        284,
        285,
        400,
        4000,
        bytes.len() - 5,
        bytes.len() - 4,
        bytes.len() - 1,
    ]);
    for end in ends {
        assert_eq!(load(&mut desk, &bytes[..end]), INVAL, "{end} bytes");
        assert_eq!(state(&mut desk), ERROR);
        assert_eq!(errno(&mut desk, command::DEVICE_RESET, &[]), 0);
    }
    assert!(!desk.ram.moves.contains(&"load"));
    assert_eq!(
        load(&mut desk, &[&bytes[..], &[0]].concat()),
        INVAL,
        "a byte too many"
    );
    assert_eq!(errno(&mut desk, command::DEVICE_RESET, &[]), 0);
    assert_eq!(load(&mut desk, &bytes), 0);
}

#[test]
fn a_state_that_is_too_long_is_an_error_and_bounded() {
    let mut desk = Desk::ready();
    let mut bytes = save(&mut Desk::ready());
    bytes.resize(1 << 20, 0);
    assert_eq!(set_state(&mut desk, RESUMING), 0);
    for _ in 0..MAX_STATE >> 20 {
        assert_eq!(write(&mut desk, &bytes), 0);
    }
    assert_eq!(write(&mut desk, &[0]), INVAL);
    assert_eq!(state(&mut desk), ERROR);
}

#[test]
fn a_state_of_another_device_is_refused_by_its_header() {
    let mut desk = Desk::ready();
    assert_eq!(set_state(&mut desk, PRE_COPY), 0);
    let header = read_all(&mut desk, 1000);
    let others = [
        Device::builder().ids(0x1234, 0x5679),
        Device::builder()
            .ids(0x1234, 0x5678)
            .class(0x02_00_00)
            .revision(4),
        Device::builder()
            .ids(0x1234, 0x5678)
            .class(0x02_00_00)
            .revision(3)
            .subsystem(1, 2),
        Device::builder()
            .ids(0x1234, 0x5678)
            .class(0x02_00_00)
            .revision(3)
            .express(),
    ];
    for other in others {
        let mut other = Desk::ready_of(other.build().unwrap());
        assert_eq!(set_state(&mut other, RESUMING), 0);
        assert_eq!(write(&mut other, &header), INVAL);
        assert_eq!(state(&mut other), ERROR);
    }
    let mut same = Desk::ready_of(device());
    assert_eq!(set_state(&mut same, RESUMING), 0);
    assert_eq!(write(&mut same, &header), 0);
}

/// MSI-X: the table where the server keeps it, what the guest masks, what is pending.
#[test]
fn interrupts_that_are_pending_go_along() {
    let device = || {
        Device::builder()
            .ids(1, 2)
            .bar(0, Bar::memory32(0x1000))
            .bar(1, Bar::memory32(0x4000))
            .msix(70, 1, 0, 1, 0x2000)
            .build()
            .unwrap()
    };
    let enable = |desk: &mut Desk| {
        let list = desk.ask(command::REGION_READ, &access(7, 0x34, 1)).payload[16];
        let write = [&access(7, u64::from(list) + 2, 2)[..], &[0, 0x80]].concat();
        assert_eq!(errno(desk, command::REGION_WRITE, &write), 0);
    };
    let mut desk = Desk::ready_of(device());
    enable(&mut desk);
    for (vector, control) in [(0, 0_u32), (65, 1), (66, 1)] {
        let at = 16 * vector;
        let entry = words(&[0xfee0_0000, 0, vector as u32, control]);
        let write = [&access(1, at, 16)[..], &entry].concat();
        assert_eq!(errno(&mut desk, command::REGION_WRITE, &write), 0);
    }
    let irqs = desk.session.irqs();
    irqs.raise(65);
    irqs.raise(3);
    assert!(irqs.is_pending(65) && irqs.is_pending(3));
    let table = desk
        .ask(command::REGION_READ, &access(1, 0, 70 * 16))
        .payload;
    let pending = desk
        .ask(command::REGION_READ, &access(1, 0x2000, 16))
        .payload;
    let bytes = save(&mut desk);

    let mut other = Desk::ready_of(device());
    assert_eq!(load(&mut other, &bytes), 0);
    assert_eq!(
        other
            .ask(command::REGION_READ, &access(1, 0, 70 * 16))
            .payload,
        table
    );
    assert_eq!(
        other
            .ask(command::REGION_READ, &access(1, 0x2000, 16))
            .payload,
        pending
    );
    let irqs = other.session.irqs();
    assert!(irqs.is_pending(65) && irqs.is_pending(3) && !irqs.is_pending(66));
    let fds: Vec<_> = (0..5).map(|_| common::event_fd()).collect();
    let assign = |other: &mut Desk, first: u32, from: usize, n: u32| {
        let send = fds[from..from + n as usize]
            .iter()
            .map(|fd| fd.try_clone().unwrap())
            .collect();
        let request = words(&[20, 0x24, 2, first, n]);
        assert_eq!(
            other
                .ask_with(command::DEVICE_SET_IRQS, &request, send)
                .header
                .error,
            0
        );
    };
    assign(&mut other, 3, 0, 1);
    assign(&mut other, 65, 1, 2);
    let told: Vec<_> = fds
        .iter()
        .map(|fd| common::wait(fd, std::time::Duration::ZERO).is_some())
        .collect();
    assert_eq!(
        told,
        [true, false, false, false, false],
        "the guest masks 65"
    );
    let unmask = [&access(1, 65 * 16 + 12, 4)[..], &[0; 4]].concat();
    assert_eq!(errno(&mut other, command::REGION_WRITE, &unmask), 0);
    assert!(common::wait(&fds[1], std::time::Duration::ZERO).is_some());

    let fewer = Device::builder()
        .ids(1, 2)
        .bar(0, Bar::memory32(0x1000))
        .bar(1, Bar::memory32(0x4000))
        .msix(69, 1, 0, 1, 0x2000);
    let mut fewer = Desk::ready_of(fewer.build().unwrap());
    assert_eq!(load(&mut fewer, &bytes), INVAL);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_state_with_any_byte_changed_is_an_error(at: prop::sample::Index, flip in 1_u8..) {
        let mut bytes = save(&mut Desk::ready());
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let mut desk = Desk::ready();
        desk.ram.bytes[0] = 1;
        prop_assert_eq!(load(&mut desk, &bytes), INVAL);
        prop_assert_eq!(state(&mut desk), ERROR);
        prop_assert_eq!(desk.ram.bytes[0], 1, "the device has not seen it");
        prop_assert_eq!(errno(&mut desk, command::DEVICE_RESET, &[]), 0);
        prop_assert_eq!(state(&mut desk), RUNNING);
    }

    #[test]
    fn no_configuration_space_does_what_a_guest_could_not(config: [u8; 32], rest: u8) {
        let mut desk = Desk::ready();
        let mut bytes = save(&mut desk);
        let pristine = desk.ask(command::REGION_READ, &access(7, 0, 256)).payload;
        let end = bytes.len() - 4;
        bytes[28..28 + 256].fill(rest);
        bytes[28..28 + 32].copy_from_slice(&config);
        bytes[28 + 0xdc..28 + 0xe4].copy_from_slice(&config[..8]);
        let crc = crc32fast::hash(&bytes[..end]).to_le_bytes();
        bytes[end..].copy_from_slice(&crc);
        let mut other = Desk::ready();
        prop_assert_eq!(load(&mut other, &bytes), 0);
        let now = other.ask(command::REGION_READ, &access(7, 0, 256)).payload;
        prop_assert_eq!(&now[16..20], &pristine[16..20], "vendor and device");
        prop_assert_eq!(now[16 + 0xe0] & 3 != 1 && now[16 + 0xe0] & 3 != 2, true, "no D1, no D2");
        // The same bits, written by a guest, leave the same space.
        let write = [&access(7, 0, 256)[..], &now[16..]].concat();
        let mut guest = Desk::new();
        prop_assert_eq!(errno(&mut guest, command::VERSION, &common::proposal()), 0);
        prop_assert_eq!(errno(&mut guest, command::REGION_WRITE, &write), 0);
        let written = guest.ask(command::REGION_READ, &access(7, 0, 256)).payload;
        prop_assert_eq!(&written[..], &now[..]);
    }
}
