//! A server on a real socket, against the ways of real clients.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::idle::{Nothing, server};
use common::{LEVEL, Rig, access, event_fd, memfd, message, proposal, signal, wait, words};
use vfio_user::client::{Client, ClientError, Dialect};
use vfio_user::wire::{dma_map_flags, region_index, set_irqs_flags as set};
use vfio_user::{Accepted, Command, ResetKind};

const SOON: Duration = Duration::from_secs(20);
const NEVER: Duration = Duration::from_millis(50);
const BOTH: u32 = dma_map_flags::READ | dma_map_flags::WRITE;

/// QEMU's start-up on a PC with KVM, as its client does it message by message.
#[test]
fn qemu_starts_up() {
    let rig = Rig::start();
    let mut client = Client::connect(&rig.path).unwrap();
    let ram = memfd(0x20_0000);
    client
        .dma_map(0, 0xc_0000, Some((ram.as_fd(), 0)), BOTH)
        .unwrap();
    client
        .dma_map(0xc_0000, 0x2_0000, None, dma_map_flags::READ)
        .unwrap();
    client
        .dma_map(0x10_0000, 0x10_0000, Some((ram.as_fd(), 0x10_0000)), BOTH)
        .unwrap();
    let info = client.device_info().unwrap();
    assert!(info.flags & 2 != 0 && info.num_regions >= 8 && info.num_irqs >= 3);
    for index in [0, 1, 2, 3, 4, 5, 7] {
        client.region_info(index).unwrap();
    }
    assert!(client.irq_info(3).is_err());
    let config: [u8; 256] = client.config_read(0).unwrap();
    assert_eq!(config[..4], [0x34, 0x12, 0x78, 0x56]);
    let rom: [u8; 4] = client.config_read(0x30).unwrap();
    client
        .config_write(0x30, &0xffff_f800_u32.to_le_bytes())
        .unwrap();
    assert_eq!(
        client.config_read(0x30).unwrap(),
        0xffff_0000_u32.to_le_bytes()
    );
    client.config_write(0x30, &rom).unwrap();
    for bar in (0x10..0x28).step_by(4) {
        client.config_read::<4>(bar).unwrap();
    }
    assert_eq!(client.config_read(0x3d).unwrap(), [1]);

    let (trigger, resample) = (event_fd(), event_fd());
    let wire = |client: &mut Client| {
        let eventfd = set::DATA_EVENTFD;
        client
            .set_irq(0, eventfd | set::ACTION_TRIGGER, Some(trigger.as_fd()))
            .unwrap();
        client
            .set_irq(0, set::DATA_NONE | set::ACTION_MASK, None)
            .unwrap();
        client
            .set_irq(0, eventfd | set::ACTION_UNMASK, Some(resample.as_fd()))
            .unwrap();
        client
            .set_irq(0, set::DATA_NONE | set::ACTION_UNMASK, None)
            .unwrap();
    };
    wire(&mut client);
    // Machine reset.
    client
        .set_irq(0, set::DATA_NONE | set::ACTION_MASK, None)
        .unwrap();
    client
        .set_irq(0, set::DATA_NONE | set::ACTION_UNMASK, None)
        .unwrap();
    client.disable_irqs(0).unwrap();
    let command: [u8; 2] = client.config_read(4).unwrap();
    client.config_write(4, &[command[0] & !7, 0]).unwrap();
    client.reset().unwrap();
    wire(&mut client);
    for bar in (0x10..0x28).step_by(4) {
        client.config_write(bar, &[0; 4]).unwrap();
    }
    // Firmware: the whole of memory is replaced, then the device is used.
    client.dma_unmap(0, 0xc_0000).unwrap();
    client.dma_unmap(0xc_0000, 0x2_0000).unwrap();
    client.dma_unmap(0x10_0000, 0x10_0000).unwrap();
    client
        .dma_map(0, 0x20_0000, Some((ram.as_fd(), 0)), BOTH)
        .unwrap();
    rig.mem.load().write(0xf_fff0, &[1; 32]).unwrap();
    client.config_write(4, &[7, 0]).unwrap();
    // 3 interrupts by the resample eventfd: no message passes.
    client.region_write_posted(0, LEVEL, &[1]).unwrap();
    for _ in 0..3 {
        assert_eq!(wait(&trigger, SOON), Some(1));
        assert_eq!(wait(&trigger, NEVER), None, "once until the guest's EOI");
        signal(&resample);
    }
    assert_eq!(wait(&trigger, SOON), Some(1));
    client.region_write_posted(0, LEVEL, &[0]).unwrap();
    let mut back = [1];
    client.region_read(0, LEVEL, &mut back).unwrap();
    assert_eq!(back, [0], "posted writes come before a later read");
    signal(&resample);
    assert_eq!(wait(&trigger, NEVER), None);
    // Unplug.
    client.disable_irqs(0).unwrap();
    client.dma_unmap(0, 0x20_0000).unwrap();
    drop(client);
    rig.until("told of the disconnect", |ram| {
        ram.resets == [ResetKind::Message, ResetKind::Disconnected]
    });
    // device_add connects anew.
    Client::connect(&rig.path).unwrap();
}

/// Many requests in flight, as QEMU sends the maps of one memory transaction.
#[test]
fn pipelined_requests_are_answered_in_order() {
    let rig = Rig::start();
    let mut client = Client::connect(&rig.path).unwrap();
    let ram = memfd(0x10_0000);
    let mut sent = Vec::new();
    for page in 0..100_u64 {
        let mut map = words(&[32, 3]);
        for word in [page << 12, page << 12, 0x1000] {
            map.extend(word.to_le_bytes());
        }
        sent.push(client.send(2, 0, &[&map], &[ram.as_fd()]).unwrap());
        sent.push(client.send(9, 0, &[&access(7, 0, 4)], &[]).unwrap());
    }
    for id in sent {
        let reply = client.receive().unwrap();
        assert_eq!((reply.header.id, reply.header.error), (id, 0));
    }
    rig.mem.load().write(0x6_3000, &[1; 0x1000]).unwrap();
}

/// cloud-hypervisor's order and habits.
#[test]
fn cloud_hypervisor_starts_up() {
    let rig = Rig::start();
    let client = Client::builder().dialect(Dialect::CloudHypervisor);
    let mut client = client.connect(&rig.path).unwrap();
    let info = client.device_info().unwrap();
    for index in 0..info.num_regions {
        client.region(index).unwrap();
    }
    client.machine_reset(&info).unwrap();
    // What it does with a device that offers no reset.
    client.reset().unwrap();
    for at in (0..256).step_by(4) {
        client.config_read::<4>(at).unwrap();
    }
    assert_eq!(client.irq_info(0).unwrap().count, 1);
    let trigger = event_fd();
    client.irq_eventfds(0, 0, &[trigger.as_fd()]).unwrap();
    let ram = memfd(0x10_0000);
    client
        .dma_map(0, 0x10_0000, Some((ram.as_fd(), 0)), BOTH)
        .unwrap();
    client.config_write(4, &[7, 0]).unwrap();
    // Each write is followed by UNMASK, which asks for a line that is up once more.
    for (level, signals) in [(0, None), (1, Some(2)), (0, None)] {
        client.region_write(0, LEVEL, &[level]).unwrap();
        assert_eq!(wait(&trigger, NEVER), signals);
    }
}

/// The client that cloud-hypervisor is built on, as published.
#[test]
fn the_rust_vmm_client_works() {
    let rig = Rig::start();
    let mut client = vfio_user_crate::Client::new(&rig.path).unwrap();
    assert_eq!(client.region(0).unwrap().size, 0x1000);
    assert_eq!(client.region(7).unwrap().size, 256);
    assert_eq!(client.get_irq_info(0).unwrap().count, 1);
    let ram = memfd(0x10_0000);
    client
        .dma_map(0, 0x1000, 0x10_0000 - 0x1000, ram.as_raw_fd())
        .unwrap();
    rig.mem.load().write(0x1000, b"DMA").unwrap();
    let mut back = [0; 3];
    rustix::io::pread(&ram, &mut back, 0).unwrap();
    assert_eq!(&back, b"DMA");
    let trigger = event_fd();
    let flags = set::DATA_EVENTFD | set::ACTION_TRIGGER;
    client
        .set_irqs(0, flags, 0, 1, &[trigger.as_raw_fd()])
        .unwrap();
    client.region_write(7, 4, &[7, 0]).unwrap();
    client.region_write(0, LEVEL, &[1]).unwrap();
    assert_eq!(wait(&trigger, SOON), Some(1));
    let mut byte = [0];
    client.region_read(0, LEVEL, &mut byte).unwrap();
    assert_eq!(byte, [1]);
    client.dma_unmap(0x1000, 0x10_0000 - 0x1000).unwrap();
    client.reset().unwrap();
    rig.until("reset", |ram| ram.resets == [ResetKind::Message]);
    client.shutdown().unwrap();
    rig.until("disconnected", |ram| ram.resets.len() == 2);
}

/// SPDK: no JSON, id always 0, payloads as long as its buffers, descriptors with DMA_UNMAP, no interrupts.
#[test]
fn spdk_starts_up() {
    let rig = Rig::start();
    let client = Client::builder().dialect(Dialect::Spdk);
    let mut client = client.connect(&rig.path).unwrap();
    let info = client.device_info().unwrap();
    for index in 0..info.num_regions {
        client.region(index).unwrap();
    }
    let ram = memfd(0x40_0000);
    let iova = 0x7f00_0020_0000;
    client
        .dma_map(iova, 0x20_0000, Some((ram.as_fd(), 0x20_0000)), BOTH)
        .unwrap();
    client.config_write(4, &[6, 0]).unwrap();
    client.region_write(0, 0x20, &[1, 2, 3, 4]).unwrap();
    let mut back = [0; 4];
    client.region_read(0, 0x20, &mut back).unwrap();
    assert_eq!(back, [1, 2, 3, 4]);
    rig.mem.load().write(iova, b"queue").unwrap();
    client.dma_unmap(iova, 0x20_0000).unwrap();
    assert!(rig.mem.load().write(iova, b"queue").is_err());
}

#[test]
fn a_second_client_is_turned_away_at_once() {
    let rig = Rig::start();
    let mut first = Client::connect(&rig.path).unwrap();
    let error = Client::connect(&rig.path).unwrap_err();
    let waited = matches!(&error, ClientError::Socket(e) if e.kind() == ErrorKind::TimedOut);
    assert!(!waited, "{error}");
    first.config_read::<4>(0).unwrap();
    assert_eq!(*rig.shared.refused.lock().unwrap(), 1);
}

#[test]
fn a_killed_client_makes_room_for_the_next() {
    let rig = Rig::start();
    for _ in 0..100 {
        let mut client = Client::connect(&rig.path).unwrap();
        client.config_write(4, &[7, 0]).unwrap();
        let ram = memfd(0x1000);
        client
            .dma_map(0, 0x1000, Some((ram.as_fd(), 0)), BOTH)
            .unwrap();
        // Half a message is on its way when it dies.
        client.stream().write_all(&[9; 13]).unwrap();
    }
    let mut client = Client::connect(&rig.path).unwrap();
    assert_eq!(client.config_read(4).unwrap(), [0, 0], "starts over");
    assert!(rig.mem.load().write(0, &[0]).is_err());
    let ram = rig.shared.ram.lock().unwrap();
    assert_eq!(ram.resets, [ResetKind::Disconnected; 100]);
    assert_eq!(ram.commands.last(), Some(&Command::empty()));
}

#[test]
fn a_client_may_leave_at_any_point() {
    let rig = Rig::start();
    let bytes = [
        message(1, 1, 0, &proposal()),
        message(2, 4, 0, &words(&[16, 0, 0, 0])),
        message(3, 13, 0, &[]),
    ]
    .concat();
    for cut in 0..bytes.len() {
        let mut stream = UnixStream::connect(&rig.path).unwrap();
        // Turned away if the server has not seen the one before leave: not the case, it looks.
        stream.write_all(&bytes[..cut]).unwrap();
    }
    Client::connect(&rig.path).unwrap();
}

#[test]
fn framing_lost_closes_and_the_next_client_is_served() {
    let rig = Rig::start();
    let mut client = Client::connect(&rig.path).unwrap();
    client.stream().write_all(&[0xff; 16]).unwrap();
    // Flags say No_reply, so there is no error reply before the end.
    let end = client.receive().unwrap_err();
    assert!(matches!(end, ClientError::Socket(_)), "{end}");
    Client::connect(&rig.path).unwrap();
    assert!(rig.shared.closed.lock().unwrap()[0].contains("bytes"));
}

#[test]
fn descriptors_that_do_not_fit_refuse_their_message_only() {
    let rig = Rig::start();
    let mut client = Client::connect(&rig.path).unwrap();
    let fds: Vec<_> = (0..40).map(|_| event_fd()).collect();
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let error = client.set_irqs(0, 0x24, 0, 1, &fds).unwrap_err();
    assert!(matches!(error, ClientError::Refused { errno: 22, .. }));
    client.config_read::<4>(0).unwrap();
}

#[test]
fn descriptors_go_to_their_own_message_of_a_batch() {
    let rig = Rig::start();
    let mut client = Client::connect(&rig.path).unwrap();
    let (old, new) = (event_fd(), event_fd());
    let assign = words(&[20, 0x24, 0, 0, 1]);
    // The server sleeps on the lock meanwhile, and finds everything at once.
    let lock = rig.shared.ram.lock().unwrap();
    client.send(9, 0, &[&access(7, 0, 4)], &[]).unwrap();
    client.send(8, 0, &[&assign], &[old.as_fd()]).unwrap();
    client.send(8, 0, &[&assign], &[new.as_fd()]).unwrap();
    client.send(9, 0, &[&access(7, 0, 4)], &[]).unwrap();
    drop(lock);
    for _ in 0..4 {
        assert_eq!(client.receive().unwrap().header.error, 0);
    }
    rig.irqs.set_level(true);
    assert_eq!(wait(&new, SOON), Some(1));
    assert_eq!(wait(&old, NEVER), None);
}

#[test]
fn no_reply_leaves_while_queues_have_not_passed_the_epoch() {
    let rig = Rig::start();
    let mut client = Client::connect(&rig.path).unwrap();
    client.set_timeout(Duration::from_millis(100)).unwrap();
    rig.hold(true);
    client.send(13, 0, &[], &[]).unwrap();
    client.send(9, 0, &[&access(7, 0, 4)], &[]).unwrap();
    assert!(client.receive().is_err(), "held");
    rig.until("executed", |ram| ram.resets == [ResetKind::Message]);
    rig.hold(false);
    client.set_timeout(SOON).unwrap();
    assert_eq!(client.receive().unwrap().header.command, 13);
    assert_eq!(client.receive().unwrap().header.command, 9);
}

#[test]
fn a_client_that_leaves_while_replies_are_held_is_noticed() {
    let rig = Rig::start();
    let mut client = Client::connect(&rig.path).unwrap();
    rig.hold(true);
    client.send(13, 0, &[], &[]).unwrap();
    // More than the server lets wait, less than fills the socket behind that.
    for _ in 0..400 {
        client.send(9, 0, &[&access(7, 0, 256)], &[]).unwrap();
    }
    drop(client);
    rig.until("noticed", |ram| {
        ram.resets.last() == Some(&ResetKind::Disconnected)
    });
    rig.hold(false);
    Client::connect(&rig.path).unwrap();
}

/// A client that does not read: the server stops listening to it, tears no header, and goes on when it does.
#[test]
fn a_slow_client_gets_every_reply_whole() {
    let rig = Rig::start();
    let mut client = Client::connect(&rig.path).unwrap();
    client.stream().set_nonblocking(true).unwrap();
    let mut sent = 0;
    let mut idle = 0;
    while idle < 20 {
        let request = message(sent as u16, 9, 0, &access(7, 0, 256));
        match client.stream().write(&request) {
            Ok(n) => {
                assert_eq!(n, request.len());
                sent += 1;
                idle = 0;
            }
            Err(_) => {
                idle += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        assert!(sent < 1_000_000, "bounded");
    }
    client.stream().set_nonblocking(false).unwrap();
    for id in 0..sent {
        // One read for the header, and it is all there, as QEMU expects.
        let mut header = [0; 16];
        assert_eq!(client.stream().read(&mut header).unwrap(), 16, "torn");
        assert_eq!(u16::from_le_bytes([header[0], header[1]]), id as u16);
        let mut rest = [0; 16 + 256];
        client.stream().read_exact(&mut rest).unwrap();
    }
    let mut data = [0; 2];
    client
        .region_read(region_index::CONFIG, 0, &mut data)
        .unwrap();
    assert_eq!(data, [0x34, 0x12]);
}

#[test]
fn a_flood_of_posted_writes_starves_nobody() {
    let rig = Rig::start();
    let other = Rig::start();
    let mut flood = Client::connect(&rig.path).unwrap();
    flood.config_write(4, &[7, 0]).unwrap();
    let mut client = Client::connect(&other.path).unwrap();
    for i in 0..50_000_u32 {
        let at = u64::from(i % 64) * 4;
        flood.region_write_posted(0, at, &i.to_le_bytes()).unwrap();
        if i % 1000 == 0 {
            client.config_read::<4>(0).unwrap();
        }
    }
    let mut last = [0; 4];
    flood.region_read(0, 49_999 % 64 * 4, &mut last).unwrap();
    assert_eq!(u32::from_le_bytes(last), 49_999);
    assert_eq!(rig.shared.ram.lock().unwrap().writes, 50_000);
}

/// QEMU 11.1 aborts if its connection is reset while it writes: a client is to read an end of file, whatever it had
/// sent before.
#[test]
fn what_was_left_unread_does_not_reset_the_client() {
    let (mut server, path) = server("unread");
    let connect = || {
        let mut stream = UnixStream::connect(&path).unwrap();
        // Nobody has read this when the connection ends.
        stream.write_all(&[0; 10_000]).unwrap();
        stream
    };
    let mut first = connect();
    assert!(matches!(server.on_listener(&mut Nothing), Accepted::Client));
    let mut second = connect();
    assert!(matches!(
        server.on_listener(&mut Nothing),
        Accepted::Refused
    ));
    server.close(&mut Nothing);
    for stream in [&mut first, &mut second] {
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }
}
