//! The client library against our own server: all it can ask, in each dialect.

mod common;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::full::{LEVEL, Serving, WINDOW};
use common::peer::Peer;
use common::{event_fd, memfd, signal, wait};
use guest_mem::{Access, GuestMem, Mapping};
use rustix::io::Errno;
use vfio_user::ResetKind;
use vfio_user::client::{Client, ClientError, Dialect};
use vfio_user::wire::{
    Header, MmapArea, command, device_state, dma_map_flags, header_flags, irq_index,
    migration_flags, region_index, set_irqs_flags as set,
};
use zerocopy::IntoBytes;

const SOON: Duration = Duration::from_secs(20);
const NEVER: Duration = Duration::from_millis(50);
const BOTH: u32 = dma_map_flags::READ | dma_map_flags::WRITE;
const RAM: u64 = 1 << 32;
const RAM_SIZE: u64 = 1 << 20;

fn connect(serving: &Serving, dialect: Dialect) -> Client {
    let client = Client::builder().dialect(dialect);
    client.connect(&serving.path).unwrap()
}

/// RAM of the client that has no file.
fn own_memory() -> GuestMem {
    let mapping = Arc::new(Mapping::anonymous(RAM_SIZE).unwrap());
    let memory = GuestMem::builder().map(RAM, RAM_SIZE, mapping, 0, Access::ReadWrite);
    memory.build().unwrap()
}

/// A server that a test plays by itself, and a client of it.
fn played(dialect: Dialect, act: impl FnOnce(Client) + Send + 'static) -> (Peer, impl FnOnce()) {
    let (near, far) = UnixStream::pair().unwrap();
    let actor = thread::spawn(move || {
        let client = Client::builder()
            .dialect(dialect)
            .memory(Arc::new(own_memory()))
            .timeout(2 * SOON);
        act(client.attach(near).unwrap());
    });
    let mut server = Peer::raw(far);
    let version = server.next();
    let size = version.payload.len().min(7);
    let reply = version.header.reply(size);
    let payload = &b"\0\0\0\0{}\0"[..size];
    server.send_bytes(&[reply.as_bytes(), payload].concat(), &[]);
    (server, move || actor.join().unwrap())
}

/// The client may have given up by now.
fn answer(server: &mut Peer, to: &Header, payload: &[u8]) {
    let reply = to.reply(payload.len());
    server.try_send(&[reply.as_bytes(), payload].concat(), &[]);
}

/// Everything that all the clients do, in their order, and what came of it.
#[test]
fn each_dialect_can_use_the_device() {
    for dialect in Dialect::ALL {
        let serving = Serving::start();
        let mut client = connect(&serving, dialect);
        let info = client.device_info().unwrap();
        assert_eq!((info.num_regions, info.num_irqs), (9, 5));
        for index in 0..info.num_regions {
            let details = client.region(index).unwrap();
            assert_eq!(details.areas.len(), usize::from(index == 2), "{dialect:?}");
        }
        assert_eq!(client.config_read(0).unwrap(), [0x34, 0x12, 0x78, 0x56]);
        client.machine_reset(&info).unwrap();
        let resets = match dialect {
            Dialect::CloudHypervisor => vec![],
            _ => vec![ResetKind::Message],
        };
        assert_eq!(serving.seen().resets, resets, "{dialect:?}");

        let file = memfd(0x10_0000);
        client
            .dma_map(0, 0x8_0000, Some((file.as_fd(), 0x1000)), BOTH)
            .unwrap();
        client.config_write(4, &[6, 0]).unwrap();
        serving.mem.load().write(0x10, b"DMA").unwrap();
        let mut back = [0; 3];
        rustix::io::pread(&file, &mut back, 0x1010).unwrap();
        assert_eq!(&back, b"DMA");

        let trigger = event_fd();
        client
            .irq_eventfds(irq_index::INTX, 0, &[trigger.as_fd()])
            .unwrap();
        client.region_write(0, 0x100, &[1, 2, 3, 4]).unwrap();
        client.region_write_posted(0, 0x104, &[5, 6, 7]).unwrap();
        let many: [(u32, u64, &[u8]); 2] = [(0, 0x107, &[8]), (0, 0x108, &[9, 10])];
        client.region_write_multi(&many).unwrap();
        let mut data = [0; 10];
        client.region_read(0, 0x100, &mut data).unwrap();
        assert_eq!(data, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);

        client.region_write(0, LEVEL, &[1]).unwrap();
        let asked = match dialect {
            // Unmasked after the access, and the line is still up.
            Dialect::CloudHypervisor => 2,
            _ => 1,
        };
        assert_eq!(wait(&trigger, SOON), Some(asked), "{dialect:?}");
        client.disable_irqs(irq_index::INTX).unwrap();
        client.dma_unmap(0, 0x8_0000).unwrap();
        assert!(serving.mem.load().write(0x10, &[0]).is_err());
        client.reset().unwrap();
        assert_eq!(serving.seen().resets.last(), Some(&ResetKind::Message));
    }
}

#[test]
fn memory_of_the_client_is_read_and_written_by_message() {
    for (dialect, twin) in [
        (Dialect::Qemu, false),
        (Dialect::LibvfioUser, false),
        (Dialect::LibvfioUser, true),
    ] {
        let serving = Serving::start();
        let memory = own_memory();
        let mut client = Client::builder()
            .dialect(dialect)
            .twin_socket(twin)
            .max_data(4096)
            .memory(Arc::new(memory.clone()))
            .connect(&serving.path)
            .unwrap();
        assert_eq!(client.twin().is_some(), twin);
        client.dma_map(RAM, RAM_SIZE, None, BOTH).unwrap();
        client.config_write(4, &[6, 0]).unwrap();
        memory.write(RAM + 1, &[7; 10_000]).unwrap();
        let mem = serving.mem.clone();
        let queue = thread::spawn(move || {
            let mem = mem.load();
            let mut data = vec![0; 10_000];
            mem.read(RAM + 1, &mut data).unwrap();
            assert_eq!(data, [7; 10_000]);
            mem.write(RAM + 20_001, &data).unwrap();
            mem.write(RAM + 20_001, &[8]).unwrap();
            mem.flush().unwrap();
            assert!(mem.read(RAM + RAM_SIZE, &mut [0]).is_err());
        });
        // While the client asks for something of its own, and while it does not.
        let start = Instant::now();
        while !queue.is_finished() && start.elapsed() < SOON {
            client.config_read::<4>(0).unwrap();
            client.serve(Duration::from_millis(1)).unwrap();
        }
        queue.join().unwrap();
        // Each way in pieces of 4096 bytes, and the single one.
        assert_eq!(client.answered(), 3 + 3 + 1);
        let mut data = vec![0; 10_001];
        memory.read(RAM + 20_000, &mut data).unwrap();
        assert_eq!((data[0], data[1]), (0, 8));
        assert!(data[2..].iter().all(|byte| *byte == 7));
    }
}

#[test]
fn memory_that_is_not_there_is_enodev_and_too_much_e2big() {
    let (mut server, done) = played(Dialect::LibvfioUser, |mut client| {
        client.serve(4 * SOON).unwrap_err();
    });
    let dma = |address: u64, count: u64| [address.to_ne_bytes(), count.to_ne_bytes()].concat();
    let long = [dma(RAM, 9), vec![0; 8]].concat();
    for (command, payload, errno) in [
        (command::DMA_READ, dma(RAM, 16), 0),
        (command::DMA_READ, dma(0, 16), 19),
        (command::DMA_READ, dma(RAM + RAM_SIZE - 1, 2), 19),
        (command::DMA_READ, dma(u64::MAX, 2), 19),
        (command::DMA_READ, dma(RAM, (1 << 20) + 1), 7),
        (command::DMA_READ, dma(RAM, u64::MAX), 7),
        (command::DMA_READ, vec![0; 15], 22),
        (command::DMA_WRITE, long, 22),
        (command::DMA_WRITE, dma(RAM, 1 << 40), 7),
        (command::REGION_READ, vec![0; 16], 38),
        (99, vec![], 38),
    ] {
        let reply = server.ask(command, &payload, &[]);
        assert_eq!(reply.header.error, errno, "{command} {payload:?}");
        assert_eq!(reply.payload.is_empty(), errno != 0);
    }
    // Nobody waits for a reply to this one.
    let write = [dma(RAM, 1), vec![9]].concat();
    let bytes = common::message(5, command::DMA_WRITE, header_flags::NO_REPLY, &write);
    server.send_bytes(&bytes, &[]);
    let reply = server.ask(command::DMA_READ, &dma(RAM, 1), &[]);
    assert_eq!(reply.payload[16], 9);
    drop(server);
    done();
}

/// The trap that QEMU is: it answers nothing while it waits for a reply.
#[test]
fn qemu_answers_its_device_only_when_idle() {
    for dialect in [Dialect::Qemu, Dialect::LibvfioUser] {
        let (mut server, done) = played(dialect, |mut client| {
            client.config_write(4, &[4, 0]).unwrap();
            client.config_read::<4>(0).unwrap();
        });
        let write = server.next();
        let echo = write.payload[..16].to_vec();
        answer(&mut server, &write.header, &echo);
        let read = server.next();
        assert_eq!(read.header.command, command::REGION_READ);
        let asked = [RAM.to_ne_bytes(), 4_u64.to_ne_bytes()].concat();
        server.send(command::DMA_READ, &asked, &[]);
        if dialect == Dialect::Qemu {
            server.hears_nothing();
        } else {
            assert_eq!(server.next().header.command, command::DMA_READ);
        }
        let data = [&read.payload[..], &[0; 4]].concat();
        answer(&mut server, &read.header, &data);
        if dialect == Dialect::Qemu {
            let late = server.next();
            assert_eq!(
                (late.header.command, late.header.error),
                (command::DMA_READ, 0)
            );
        }
        done();
    }
}

#[test]
fn qemu_refuses_dma_without_bus_mastering() {
    let (mut server, done) = played(Dialect::Qemu, |mut client| {
        client.serve(4 * SOON).unwrap_err();
    });
    let asked = [RAM.to_ne_bytes(), 4_u64.to_ne_bytes()].concat();
    let reply = server.ask(command::DMA_READ, &asked, &[]);
    assert_eq!(reply.header.error, Errno::NODEV.raw_os_error() as u32);
    drop(server);
    done();
}

#[test]
fn clients_that_answer_no_dma_take_it_for_a_reply() {
    for dialect in [Dialect::CloudHypervisor, Dialect::Spdk] {
        let (mut server, done) = played(dialect, |mut client| {
            let error = client.config_read::<4>(0).unwrap_err();
            assert!(matches!(error, ClientError::Protocol(_)), "{error}");
        });
        server.next();
        server.send(command::DMA_READ, &[0; 16], &[]);
        done();
    }
}

#[test]
fn mapped_regions_are_the_devices_memory() {
    let serving = Serving::start();
    let mut client = connect(&serving, Dialect::LibvfioUser);
    let region = client.region(2).unwrap();
    let (offset, size) = (WINDOW, 0x1000);
    assert_eq!(region.areas, [MmapArea { offset, size }]);
    let mapping = Arc::new(region.map(&region.areas[0]).unwrap());
    let window = GuestMem::builder().map(0, size, mapping, 0, Access::ReadWrite);
    let window = window.build().unwrap();
    window.write(8, b"doorbell").unwrap();
    let mut seen = [0; 8];
    serving.window.read(WINDOW + 8, &mut seen).unwrap();
    assert_eq!(&seen, b"doorbell");
    client.config_write(4, &[2, 0]).unwrap();
    client.region_read(2, WINDOW + 8, &mut seen).unwrap();
    assert_eq!(&seen, b"doorbell", "by message the same");
    assert!(client.region(0).unwrap().file.is_none());
}

/// QEMU posts writes only as long as nothing of the device is mapped.
#[test]
fn a_mappable_region_ends_posted_writes() {
    let (mut server, done) = played(Dialect::Qemu, |mut client| {
        client.region_write_posted(0, 0, &[1]).unwrap();
        client.region(2).unwrap();
        client.region_write_posted(0, 0, &[1]).unwrap();
    });
    assert_eq!(server.next().header.flags, header_flags::NO_REPLY);
    let info = server.next();
    let payload = common::words(&[32, 7, 2, 0, 0x1000, 0, 0, 0]);
    answer(&mut server, &info.header, &payload);
    let write = server.next();
    assert_eq!(write.header.flags, 0);
    answer(&mut server, &write.header, &write.payload[..16]);
    done();
}

#[test]
fn cloud_hypervisor_asks_again_with_the_same_id() {
    let (mut server, done) = played(Dialect::CloudHypervisor, |mut client| {
        client.region(0).unwrap();
        client.config_read::<4>(0).unwrap();
    });
    let first = server.next();
    let payload = common::words(&[64, 7, 0, 0, 0x1000, 0, 0, 0]);
    answer(&mut server, &first.header, &payload);
    let second = server.next();
    assert_eq!(second.header, first.header);
    assert_eq!(second.payload[..4], 64_u32.to_le_bytes());
    let payload = common::words(&[32, 3, 0, 0, 0x1000, 0, 0, 0]);
    answer(&mut server, &second.header, &payload);
    let read = server.next();
    assert_eq!(read.header.id, first.header.id + 1);
    let data = [&read.payload[..], &[0; 4]].concat();
    answer(&mut server, &read.header, &data);
    done();
}

#[test]
fn eventfds_for_writes() {
    let serving = Serving::start();
    let mut client = connect(&serving, Dialect::LibvfioUser);
    let io = client.io_fds(0).unwrap();
    assert_eq!((io.subregions.len(), io.fds.len()), (2, 1), "shared");
    assert_eq!(io.subregions[1].datamatch, 7);
    signal(io.fd(&io.subregions[0]).unwrap());
    assert_eq!(wait(&serving.doorbell, SOON), Some(1));
    assert!(client.io_fds(4).unwrap().subregions.is_empty());
    assert!(matches!(
        client.io_fds(1),
        Err(ClientError::Refused { errno: 22, .. })
    ));
}

#[test]
fn vectors_in_as_many_messages_as_the_server_needs() {
    for dialect in [Dialect::Qemu, Dialect::CloudHypervisor] {
        let serving = Serving::start();
        let mut client = connect(&serving, dialect);
        assert_eq!(client.irq_info(irq_index::MSIX).unwrap().count, 20);
        let fds: Vec<_> = (0..20).map(|_| event_fd()).collect();
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        client.irq_eventfds(irq_index::MSIX, 0, &borrowed).unwrap();
        client.trigger_irqs(irq_index::MSIX, 3, 2).unwrap();
        let mut flags = [false; 20];
        flags[19] = true;
        client
            .set_irqs_where(irq_index::MSIX, set::ACTION_TRIGGER, 0, &flags)
            .unwrap();
        for (vector, fd) in fds.iter().enumerate() {
            let raised = [3, 4, 19].contains(&vector).then_some(1);
            assert_eq!(wait(fd, Duration::ZERO), raised, "{vector}");
        }
        client.disable_irqs(irq_index::MSIX).unwrap();
        let beyond = client.irq_eventfds(irq_index::MSIX, 5, &borrowed);
        assert!(matches!(
            beyond,
            Err(ClientError::Refused { errno: 22, .. })
        ));
    }
}

#[test]
fn a_device_is_saved_and_restored() {
    let serving = Serving::start();
    let mut client = connect(&serving, Dialect::LibvfioUser);
    client.config_write(4, &[6, 0]).unwrap();
    client.region_write(0, 0x20, b"the state").unwrap();
    let flags = client.migration_flags().unwrap();
    assert_ne!(flags & migration_flags::STOP_COPY, 0);
    assert_eq!(client.device_state().unwrap(), device_state::RUNNING);
    client.set_device_state(device_state::STOP_COPY).unwrap();
    assert!(serving.seen().stopped);
    let state = client.read_state(1 << 20).unwrap();
    client.set_device_state(device_state::STOP).unwrap();
    drop(client);

    let other = Serving::start();
    let mut client = connect(&other, Dialect::Qemu);
    client.set_device_state(device_state::RESUMING).unwrap();
    client.write_state(&state).unwrap();
    client.set_device_state(device_state::RUNNING).unwrap();
    let mut back = [0; 9];
    client.region_read(0, 0x20, &mut back).unwrap();
    assert_eq!(&back, b"the state");
    assert!(!other.seen().stopped);
    assert!(
        client.migration_read(100).is_err(),
        "nothing is being saved"
    );
    client.set_device_state(device_state::STOP_COPY).unwrap();
    assert!(matches!(client.read_state(100), Err(ClientError::TooLong)));
    client.config_read::<4>(0).unwrap();
}

#[test]
fn written_pages_are_reported() {
    let serving = Serving::start();
    let mut client = connect(&serving, Dialect::LibvfioUser);
    let file = memfd(0x20_0000);
    for at in [0, 0x10_0000] {
        client
            .dma_map(at, 0x10_0000, Some((file.as_fd(), at)), BOTH)
            .unwrap();
    }
    client.config_write(4, &[6, 0]).unwrap();
    assert_eq!(client.dma_logging_start(4096, &[]).unwrap(), 4096);
    serving.mem.load().write(0x2ffe, &[1; 4]).unwrap();
    serving.mem.load().write(0x8_0000, &[1]).unwrap();
    serving.mem.load().write(0x1f_ffff, &[1]).unwrap();
    let bits = client.dma_logging_report(0, 0x10_0000, 4096).unwrap();
    assert_eq!(bits, [0b1100, 0, 1, 0]);
    let bits = client.dma_logging_report(0, 0x10_0000, 4096).unwrap();
    assert_eq!(bits, [0; 4], "told once");
    let bits = client.dma_unmap_dirty(0x10_0000, 0x10_0000, 4096).unwrap();
    assert_eq!(bits, [0, 0, 0, 1 << 63]);
    let gone = client.dma_logging_report(0x10_0000, 0x1000, 4096);
    assert!(matches!(gone, Err(ClientError::Refused { errno: 2, .. })));
    client.dma_logging_stop().unwrap();
    assert!(client.dma_logging_report(0, 0x1000, 4096).is_err());
    client.dma_unmap_all().unwrap();
    assert!(serving.mem.load().read(0, &mut [0]).is_err());
    assert!(matches!(
        client.dma_logging_report(0, u64::MAX, 1),
        Err(ClientError::TooLong)
    ));
}

/// More than fits the sockets in either direction, so that both sides have to take turns.
#[test]
fn many_requests_under_way() {
    for dialect in Dialect::ALL {
        let serving = Serving::start();
        let mut client = connect(&serving, dialect);
        let mut tickets = Vec::new();
        for round in 0..2000_u32 {
            let data = round.to_ne_bytes();
            let write = client.submit_write(region_index::CONFIG, 0x3c, &data[..1]);
            let read = client.submit_read(region_index::CONFIG, 0, 256);
            tickets.push((round, write.unwrap(), read.unwrap()));
        }
        // The latest first, unless they are told apart by order only.
        if dialect != Dialect::Spdk {
            tickets.reverse();
        }
        for (round, write, read) in tickets {
            client.collect(write).unwrap();
            let answer = client.collect(read).unwrap();
            assert_eq!(answer.payload.len(), 16 + 256);
            assert_eq!(answer.payload[16 + 0x3c], round as u8);
        }
    }
}

#[test]
fn more_under_way_than_anybody_wants() {
    let serving = Serving::start();
    let mut client = connect(&serving, Dialect::LibvfioUser);
    let mut tickets = Vec::new();
    let full = loop {
        match client.submit_read(region_index::CONFIG, 0, 4) {
            Ok(ticket) => tickets.push(ticket),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, ClientError::TooMany));
    for ticket in tickets {
        client.collect(ticket).unwrap();
    }
    client.config_read::<4>(0).unwrap();
}

/// What comes after the time limit ends QEMU's connection; the others let it pass.
#[test]
fn late_replies() {
    for dialect in [Dialect::Qemu, Dialect::LibvfioUser] {
        let (mut server, done) = played(dialect, move |mut client| {
            client.set_timeout(Duration::from_millis(500)).unwrap();
            let start = Instant::now();
            let error = client.config_read::<4>(0).unwrap_err();
            assert!(start.elapsed() >= Duration::from_millis(500));
            assert!(
                matches!(&error, ClientError::Socket(e) if e.kind() == std::io::ErrorKind::TimedOut),
                "{error}"
            );
            client.set_timeout(SOON).unwrap();
            let next = client.config_read::<4>(0);
            match dialect {
                Dialect::Qemu => assert!(matches!(next, Err(ClientError::Protocol(_)))),
                _ => assert_eq!(next.unwrap(), [7; 4]),
            }
        });
        let (first, second) = (server.next(), server.next());
        for (request, byte) in [(first, 1), (second, 7)] {
            let data = [&request.payload[..], &[byte; 4]].concat();
            answer(&mut server, &request.header, &data);
        }
        done();
    }
}

#[test]
fn ids_by_the_custom_of_each() {
    let ids = |dialect| {
        let (mut server, done) = played(dialect, |mut client| {
            for _ in 0..70_000 {
                client
                    .send(command::REGION_WRITE, header_flags::NO_REPLY, &[], &[])
                    .unwrap();
            }
        });
        let ids: Vec<u16> = (0..70_000).map(|_| server.next().header.id).collect();
        done();
        ids
    };
    assert!(ids(Dialect::Spdk).iter().all(|id| *id == 0));
    let counted = ids(Dialect::LibvfioUser);
    assert!(
        counted
            .windows(2)
            .all(|pair| pair[1] == pair[0].wrapping_add(1))
    );
    let shared = ids(Dialect::Qemu);
    assert!(shared.windows(2).any(|pair| pair[1] < pair[0]), "wraps");
}

/// The header of an error reply is all there is: whoever waits for data waits for ever.
#[test]
fn cloud_hypervisor_would_hang_on_an_error() {
    let (mut server, done) = played(Dialect::CloudHypervisor, |mut client| {
        let error = client.config_read::<4>(0).unwrap_err();
        assert!(matches!(error, ClientError::Protocol(_)), "{error}");
    });
    let read = server.next();
    server.send_bytes(read.header.error_reply(5).as_bytes(), &[]);
    done();
}

/// Nobody accepts, and there is no room to wait in.
#[test]
fn connecting_has_a_limit_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("full");
    let _listener = vfio_user::Listener::bind(&path, &vfio_user::ListenOptions::default());
    let start = Instant::now();
    let mut waiting = Vec::new();
    loop {
        let client = UnixStream::connect(&path).unwrap();
        client.set_nonblocking(true).unwrap();
        waiting.push(client);
        // One more than fits would wait here for ever, so the last one is found out by a client with a limit.
        let limit = Duration::from_millis(20);
        let error = Client::builder().timeout(limit).connect(&path).unwrap_err();
        let ClientError::Socket(error) = error else {
            panic!("{error}");
        };
        // It waited for a place, or for an answer to its proposal.
        match error.kind() {
            std::io::ErrorKind::WouldBlock => return,
            kind => assert_eq!(kind, std::io::ErrorKind::TimedOut),
        }
        assert!(start.elapsed() < Duration::from_secs(20), "no end of room");
    }
}

#[test]
fn nobody_serves() {
    let dir = tempfile::tempdir().unwrap();
    let error = Client::connect(dir.path().join("nobody")).unwrap_err();
    assert!(matches!(error, ClientError::Socket(_)));
    let serving = Serving::start();
    let mut client = connect(&serving, Dialect::Qemu);
    client.set_timeout(NEVER).unwrap();
    assert!(client.set_timeout(Duration::ZERO).is_err());
    drop(serving);
    let error = client.config_read::<4>(0).unwrap_err();
    assert!(matches!(error, ClientError::Socket(_)));
    assert!(client.config_read::<4>(0).is_err());
}
