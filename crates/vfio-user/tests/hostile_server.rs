//! The client library against servers that do everything wrong. Whatever comes is an error in time: no panic, no endless
//! wait, no memory for what was never asked.

mod common;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use common::peer::{Got, Peer};
use common::{event_fd, memfd, words};
use proptest::prelude::*;
use vfio_user::client::{Client, ClientError, Dialect, Result};
use vfio_user::wire::{
    HEADER, Header, IoFd, LoggingRange, MAX_MESSAGE, command, feature, header_flags,
};
use zerocopy::IntoBytes;

/// For what must be answered, on a busy machine too.
const LIMIT: Duration = Duration::from_secs(10);
/// For what never is.
const SHORT: Duration = Duration::from_millis(300);

/// Has a client do something against a server that does what it is told; what came of it for the client.
fn against<T: Send + 'static>(
    dialect: Dialect,
    act: impl FnOnce(&mut Client) -> Result<T> + Send + 'static,
    script: impl FnOnce(&mut Peer),
) -> Result<T> {
    against_within(LIMIT, dialect, act, script)
}

fn against_within<T: Send + 'static>(
    limit: Duration,
    dialect: Dialect,
    act: impl FnOnce(&mut Client) -> Result<T> + Send + 'static,
    script: impl FnOnce(&mut Peer),
) -> Result<T> {
    let (near, far) = UnixStream::pair().unwrap();
    let actor = thread::spawn(move || {
        let client = Client::builder().dialect(dialect);
        let mut client = client.attach(near)?;
        client.set_timeout(limit)?;
        let start = Instant::now();
        let result = act(&mut client);
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "it takes its time"
        );
        result
    });
    let mut server = Peer::raw(far);
    let version = server.next();
    let payload = b"\0\0\0\0{\"capabilities\":{\"write_multiple\":true,\"max_msg_fds\":16}}\0";
    let size = version.payload.len().min(payload.len());
    let reply = version.header.reply(size);
    server.send_bytes(&[reply.as_bytes(), &payload[..size]].concat(), &[]);
    script(&mut server);
    drop(server);
    actor.join().expect("no panic")
}

type Act = fn(&mut Client) -> Result<()>;
type Bend = fn(&mut Header);

/// All requests that have a reply.
const ACTS: &[(&str, Act)] = &[
    ("device info", |client| client.device_info().map(drop)),
    ("region info", |client| client.region_info(0).map(drop)),
    ("region", |client| {
        let region = client.region(2)?;
        for area in &region.areas {
            region.map(area)?;
        }
        Ok(())
    }),
    ("io fds", |client| {
        let io = client.io_fds(0)?;
        let without = |fd: &IoFd| io.fd(fd).is_none() && fd.fd_index != u32::MAX;
        assert!(!io.subregions.iter().any(without));
        Ok(())
    }),
    ("irq info", |client| client.irq_info(0).map(drop)),
    ("set irqs", |client| client.disable_irqs(0)),
    ("read", |client| client.config_read::<8>(0).map(drop)),
    ("write", |client| client.config_write(0, &[1, 2, 3])),
    ("map", |client| client.dma_map(0, 4096, None, 3)),
    ("unmap", |client| client.dma_unmap(0, 4096)),
    ("dirty unmap", |client| {
        assert_eq!(client.dma_unmap_dirty(0, 0x80_000, 4096)?.len(), 2);
        Ok(())
    }),
    ("state", |client| client.device_state().map(drop)),
    ("set state", |client| client.set_device_state(1)),
    ("logging", |client| {
        let (iova, length) = (0, 4096);
        let ranges = [LoggingRange { iova, length }];
        client.dma_logging_start(4096, &ranges).map(drop)
    }),
    ("report", |client| {
        assert_eq!(client.dma_logging_report(0, 0x80_000, 4096)?.len(), 2);
        Ok(())
    }),
    ("saving", |client| client.read_state(1000).map(drop)),
    ("restoring", |client| client.write_state(&[1; 100])),
    ("reset", |client| client.reset()),
];

/// What a server answers that does nothing wrong.
fn good(request: &Got) -> (Vec<u8>, Vec<OwnedFd>) {
    let payload = &request.payload;
    match request.header.command {
        command::DEVICE_GET_INFO => (words(&[16, 3, 9, 5]), vec![]),
        command::DEVICE_GET_REGION_INFO if payload[8] == 0 => {
            (words(&[32, 3, 0, 0, 0x1000, 0, 0, 0]), vec![])
        }
        command::DEVICE_GET_REGION_INFO => {
            let fixed = words(&[64, 15, 2, 32, 0x4000, 0, 0x1000, 0]);
            let sparse = words(&[0x1_0001, 0, 1, 0, 0x1000, 0, 0x2000, 0]);
            match payload[0] {
                32 => (words(&[64, 7, 2, 0, 0x4000, 0, 0x1000, 0]), vec![]),
                _ => ([fixed, sparse].concat(), vec![memfd(0x4000)]),
            }
        }
        command::DEVICE_GET_REGION_IO_FDS => {
            let io = words(&[96, 0, 0, 2, 8, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
            let other = words(&[16, 0, 4, 0, u32::MAX, 0, 0, 0, 0, 0]);
            ([io, other].concat(), vec![event_fd()])
        }
        command::DEVICE_GET_IRQ_INFO => (words(&[16, 7, 0, 1]), vec![]),
        command::REGION_READ => ([&payload[..], &[5; 8]].concat(), vec![]),
        command::REGION_WRITE => (payload[..16].to_vec(), vec![]),
        command::DMA_UNMAP if payload.len() > 24 => ([&payload[..], &[1; 16]].concat(), vec![]),
        command::DMA_UNMAP => (payload.clone(), vec![]),
        command::DEVICE_FEATURE => match u32::from(payload[4]) {
            feature::DMA_LOGGING_REPORT => ([&payload[..], &[1; 16]].concat(), vec![]),
            feature::MIG_DEVICE_STATE if payload.len() == 8 => {
                ([&payload[..], &words(&[2, 0])].concat(), vec![])
            }
            _ => (payload.clone(), vec![]),
        },
        command::MIG_DATA_READ => ([words(&[11, 3]), vec![1; 3]].concat(), vec![]),
        _ => (vec![], vec![]),
    }
}

fn borrowed(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}

/// Answers all requests; `bend` may change the last answer. False once the client has gone.
fn serve(server: &mut Peer, bend: &mut dyn FnMut(&mut Vec<u8>, &mut Vec<OwnedFd>) -> bool) {
    while let Some(request) = server.try_next() {
        // A reply answers what looked like a command once it was bent.
        if request.header.flags & (header_flags::NO_REPLY | header_flags::REPLY) != 0 {
            continue;
        }
        let (payload, mut fds) = good(&request);
        let reply = request.header.reply(payload.len());
        let mut bytes = [reply.as_bytes(), &payload].concat();
        let more = bend(&mut bytes, &mut fds);
        if !bytes.is_empty() && !server.try_send(&bytes, &borrowed(&fds)) {
            return;
        }
        if !more {
            return;
        }
    }
}

#[test]
fn what_is_right_is_taken() {
    for (what, act) in ACTS {
        for dialect in Dialect::ALL {
            let result = against(dialect, *act, |server| serve(server, &mut |_, _| true));
            result.unwrap_or_else(|error| panic!("{what}, {dialect:?}: {error}"));
        }
    }
}

#[test]
fn an_end_at_every_byte() {
    for (what, act) in ACTS {
        let mut cut = 0;
        loop {
            let mut whole = 0;
            let result = against(Dialect::LibvfioUser, *act, |server| {
                serve(server, &mut |bytes, _| {
                    whole = bytes.len();
                    bytes.truncate(cut);
                    false
                });
            });
            if cut == whole {
                break;
            }
            let error = result.expect_err("half an answer");
            assert!(
                matches!(error, ClientError::Socket(_)),
                "{what} {cut}: {error}"
            );
            cut += 1;
        }
    }
}

/// Any byte of any answer with other values: an error or not, but in time and without a panic.
#[test]
fn every_byte_bent() {
    thread::scope(|scope| {
        for (what, act) in ACTS {
            scope.spawn(move || bend_every_byte(what, *act));
        }
    });
}

fn bend_every_byte(what: &str, act: Act) {
    let mut at = 0;
    let mut whole = 1;
    while at < whole {
        for value in [0_u8, 1, 0x40, 0xff] {
            let limit = Duration::from_millis(40);
            let result = against_within(limit, Dialect::LibvfioUser, act, |server| {
                // Both answers where there are two; then it closes, since much of this means waiting.
                let mut answers = 0;
                serve(server, &mut |bytes, _| {
                    whole = whole.max(bytes.len());
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = value;
                    }
                    answers += 1;
                    answers < 2
                });
            });
            if let Err(ClientError::Refused { errno, .. }) = result {
                assert!(errno > 0, "{what} {at}: refused without a reason");
            }
        }
        at += 1;
    }
}

#[test]
fn ids_types_and_sizes_that_are_wrong() {
    let bends: [(&str, Bend); 9] = [
        ("id", |header| header.id = header.id.wrapping_add(1)),
        ("command", |header| header.command += 1),
        ("neither", |header| header.flags = 2),
        ("type", |header| header.flags = 0xf),
        ("size 0", |header| header.size = 0),
        ("size 15", |header| header.size = 15),
        ("too long", |header| header.size = MAX_MESSAGE as u32 + 1),
        ("longest", |header| header.size = u32::MAX),
        ("longer", |header| header.size += 4096),
    ];
    for (what, bend) in bends {
        for dialect in Dialect::ALL {
            let result = against_within(
                SHORT,
                dialect,
                |client| {
                    let first = client.config_read::<8>(0);
                    // No step is made with a server that is out of step.
                    assert!(client.config_read::<8>(0).is_err());
                    first
                },
                |server| {
                    let request = server.next();
                    let (payload, _) = good(&request);
                    let mut header = request.header.reply(payload.len());
                    bend(&mut header);
                    let longer = [&payload[..], &[0; 4096]].concat();
                    server.try_send(&[header.as_bytes(), &longer].concat(), &[]);
                    server.try_next();
                },
            );
            let error = result.unwrap_err();
            let protocol = matches!(error, ClientError::Protocol(_));
            assert!(protocol, "{what} {dialect:?}: {error}");
        }
    }
}

#[test]
fn descriptors_that_nobody_asked_for_are_closed() {
    let fd = event_fd();
    let before = open_files();
    for (what, act) in ACTS {
        for count in [1, 2, 16, 17, 100] {
            let result = against(Dialect::Qemu, *act, |server| {
                serve(server, &mut |_, fds| {
                    while fds.len() < count {
                        fds.push(fd.try_clone().unwrap());
                    }
                    true
                });
            });
            let may = match *what {
                "region info" | "region" => 1,
                "io fds" => 16,
                _ => 0,
            };
            assert_eq!(result.is_ok(), count <= may, "{what} {count}: {result:?}");
        }
    }
    // Other tests run as well: what leaks, leaks for every one of the above.
    assert!(open_files() < before + 50);
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn proposals_answered_with_nonsense() {
    let many = format!("\0\0\0\0{{\"capabilities\":{}\0", "[".repeat(190));
    let huge = vec![0; 100_000];
    for (what, payload) in [
        ("nothing", &b""[..]),
        ("half a version", b"\0\0\0"),
        ("another major", b"\x01\0\0\0"),
        ("a newer minor", b"\0\0\x63\0"),
        ("no NUL", b"\0\0\0\0{}"),
        ("no JSON", b"\0\0\0\0{\0"),
        ("no UTF-8", b"\0\0\0\0\xff\xff\0"),
        (
            "many descriptors",
            b"\0\0\0\0{\"capabilities\":{\"max_msg_fds\":17}}\0",
        ),
        (
            "an invented twin",
            b"\0\0\0\0{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":0}}}\0",
        ),
        ("deep", many.as_bytes()),
        ("long", &huge),
    ] {
        for dialect in [Dialect::Qemu, Dialect::LibvfioUser] {
            let result = negotiate(dialect, false, payload, &[]);
            assert!(
                matches!(result, Err(ClientError::Protocol(_))),
                "{what}: {result:?}"
            );
        }
        for dialect in [Dialect::CloudHypervisor, Dialect::Spdk] {
            let _ = negotiate(dialect, false, payload, &[]);
        }
    }
    // QEMU receives into the buffer of its proposal.
    let long = format!("\0\0\0\0{{{}}}\0", " ".repeat(200));
    assert!(negotiate(Dialect::Qemu, false, long.as_bytes(), &[]).is_err());
    assert!(negotiate(Dialect::LibvfioUser, false, long.as_bytes(), &[]).is_ok());
}

#[test]
fn twin_sockets_that_are_none() {
    let json = |index: u32| {
        format!(
            "\0\0\0\0{{\"capabilities\":{{\"twin_socket\":{{\"supported\":true,\"fd_index\":{index}}}}}}}\0"
        )
    };
    let (good, _far) = UnixStream::pair().unwrap();
    let file = memfd(0x1000);
    let attempt = |index, fds: &[BorrowedFd<'_>]| {
        negotiate(Dialect::LibvfioUser, true, json(index).as_bytes(), fds)
    };
    attempt(0, &[good.as_fd()]).unwrap();
    attempt(0, &[]).unwrap_err();
    attempt(1, &[good.as_fd()]).unwrap_err();
    attempt(0, &[file.as_fd()]).unwrap_err();
    attempt(0, &[good.as_fd(), good.as_fd()]).unwrap_err();
    let unannounced = negotiate(Dialect::LibvfioUser, true, b"\0\0\0\0{}\0", &[good.as_fd()]);
    unannounced.unwrap_err();
}

fn negotiate(dialect: Dialect, twin: bool, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let (near, far) = UnixStream::pair().unwrap();
    let client = Client::builder().dialect(dialect).twin_socket(twin);
    let actor = thread::spawn(move || client.timeout(LIMIT).attach(near).map(drop));
    let mut server = Peer::raw(far);
    let version = server.next();
    let reply = version.header.reply(payload.len());
    server.try_send(&[reply.as_bytes(), payload].concat(), fds);
    actor.join().expect("no panic")
}

#[test]
fn regions_that_cannot_be() {
    let region = |size: u32, offset: u32, file: u64, caps: Vec<u8>| {
        let argsz = 32 + caps.len() as u32;
        against(
            Dialect::LibvfioUser,
            |client| {
                let region = client.region(2)?;
                for area in &region.areas {
                    region.map(area)?;
                }
                Ok(())
            },
            |server| {
                let fd = memfd(file);
                while let Some(request) = server.try_next() {
                    let fixed = words(&[argsz, 15, 2, 32, size, 0, offset, 0]);
                    let mut payload = [fixed, caps.clone()].concat();
                    payload.truncate(
                        u32::from_le_bytes(request.payload[..4].try_into().unwrap()) as usize
                    );
                    let reply = request.header.reply(payload.len());
                    server.try_send(&[reply.as_bytes(), &payload].concat(), &[fd.as_fd()]);
                }
            },
        )
    };
    let sparse = |areas: &[[u32; 4]]| {
        let head = words(&[0x1_0001, 0, areas.len() as u32, 0]);
        [head, words(areas.as_flattened())].concat()
    };
    let page = [0x1000, 0, 0x1000, 0];
    region(0x4000, 0, 0x4000, sparse(&[page])).unwrap();
    region(0x4000, 0, 0x4000, sparse(&[page, [0, 0, 0x1000, 0]])).unwrap();
    for (what, result) in [
        (
            "behind the region",
            region(0x1000, 0, 0x4000, sparse(&[page])),
        ),
        (
            "behind the file",
            region(0x4000, 0x4000, 0x4000, sparse(&[page])),
        ),
        (
            "unaligned",
            region(0x4000, 0, 0x4000, sparse(&[[1, 0, 0x1000, 0]])),
        ),
        ("empty", region(0x4000, 0, 0x4000, sparse(&[[0; 4]]))),
        (
            "wrapping",
            region(
                0x4000,
                0,
                0x4000,
                sparse(&[[0x1000, 0, 0xffff_f000, u32::MAX]]),
            ),
        ),
        (
            "missing areas",
            region(
                0x4000,
                0,
                0x4000,
                words(&[0x1_0001, 0, 2, 0, 0, 0, 0x1000, 0]),
            ),
        ),
        (
            "all areas missing",
            region(0x4000, 0, 0x4000, words(&[0x1_0001, 0, u32::MAX, 0])),
        ),
        (
            "half a capability",
            region(0x4000, 0, 0x4000, vec![1, 0, 1, 0]),
        ),
        (
            "in a circle",
            region(0x4000, 0, 0x4000, words(&[0x1_0007, 32])),
        ),
        (
            "far away",
            region(0x4000, 0, 0x4000, words(&[0x1_0007, 0xffff_fff0])),
        ),
        (
            "into the fixed part",
            region(0x4000, 0, 0x4000, words(&[0x1_0007, 4])),
        ),
        ("endless", region(0x4000, 0, 0x4000, vec![0; 100_000])),
    ] {
        assert!(result.is_err(), "{what}");
    }
}

#[test]
fn a_saved_state_without_end() {
    let result = against(
        Dialect::LibvfioUser,
        |client| client.read_state(1 << 20),
        |server| {
            while let Some(request) = server.try_next() {
                let size = &request.payload[4..8];
                let len = u32::from_le_bytes(size.try_into().unwrap()) as usize;
                let payload = [&request.payload[..], &vec![0; len]].concat();
                let reply = request.header.reply(payload.len());
                server.try_send(&[reply.as_bytes(), &payload].concat(), &[]);
            }
        },
    );
    assert!(matches!(result, Err(ClientError::TooLong)), "{result:?}");
}

/// Commands instead of the reply, until the time is over or there are too many of them.
#[test]
fn a_flood_of_commands() {
    for dialect in [Dialect::Qemu, Dialect::LibvfioUser] {
        for payload in [16, 1 << 19] {
            let result = against_within(
                SHORT,
                dialect,
                |client| client.config_read::<4>(0),
                |server| {
                    server.next();
                    let write = vec![0; payload];
                    let flags = header_flags::NO_REPLY;
                    let bytes = common::message(7, command::DMA_WRITE, flags, &write);
                    let start = Instant::now();
                    while server.try_send(&bytes, &[]) {
                        assert!(start.elapsed() < Duration::from_secs(10));
                    }
                },
            );
            result.unwrap_err();
        }
    }
}

/// A server that asks without reading the answers.
#[test]
fn a_server_that_does_not_read() {
    let start = Instant::now();
    let result = against_within(
        SHORT,
        Dialect::LibvfioUser,
        |client| client.config_read::<4>(0),
        |server| {
            server.next();
            let ask = common::message(7, command::DMA_READ, 0, &[0; 16]);
            while start.elapsed() < Duration::from_secs(10) && server.try_send(&ask, &[]) {}
        },
    );
    assert!(matches!(result, Err(ClientError::Socket(_))), "{result:?}");
}

/// One byte at a time, each just in time: the limit is one for the whole request.
#[test]
fn a_dribble() {
    let start = Instant::now();
    let result = against_within(
        SHORT,
        Dialect::LibvfioUser,
        |client| client.config_read::<64>(0),
        |server| {
            let request = server.next();
            let reply = request.header.reply(16 + 64);
            for byte in reply.as_bytes().iter().chain(&[0; 80]) {
                thread::sleep(SHORT / 4);
                if !server.try_send(&[*byte], &[]) {
                    break;
                }
            }
        },
    );
    assert!(matches!(result, Err(ClientError::Socket(_))), "{result:?}");
    assert!(start.elapsed() < LIMIT);
}

/// QEMU reads a header at once or not at all.
#[test]
fn headers_in_pieces() {
    for dialect in [Dialect::Qemu, Dialect::LibvfioUser] {
        let result = against(
            dialect,
            |client| client.config_read::<4>(0),
            |server| {
                let request = server.next();
                let reply = request.header.reply(20);
                let bytes = [reply.as_bytes(), &request.payload, &[3; 4]].concat();
                server.try_send(&bytes[..HEADER - 1], &[]);
                thread::sleep(SHORT / 4);
                server.try_send(&bytes[HEADER - 1..], &[]);
            },
        );
        match dialect {
            Dialect::Qemu => assert!(matches!(result, Err(ClientError::Protocol(_)))),
            _ => assert_eq!(result.unwrap(), [3; 4]),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 200, ..ProptestConfig::default() })]

    /// Whatever comes: an error or an answer, and no panic.
    #[test]
    fn random_bytes(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        header in any::<bool>(),
        size in prop_oneof![16_u32..200, Just(u32::MAX), Just(1 << 20)],
        flags in prop::sample::select(vec![0_u32, 1, 0x10, 0x21, 0xff]),
        act in 0..ACTS.len(),
        dialect in prop::sample::select(Dialect::ALL.to_vec()),
    ) {
        let (_, act) = ACTS[act];
        let _ = against_within(Duration::from_millis(20), dialect, act, |server| {
            let Some(request) = server.try_next() else { return };
            let reply = Header { flags, size, ..request.header };
            let front = if header { reply.as_bytes() } else { &[] };
            server.try_send(&[front, &bytes].concat(), &[]);
        });
    }
}
