//! Guests that come all at once, one that takes its memory away, and one that does not take what it is sent.

mod support;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Barrier;

use guest_driver::bus::until;
use guest_driver::eeprom;
use guest_driver::packet::plain;
use guest_driver::socket::Socket;
use guest_driver::{Bus, Config, E1000, Offload};
use nic_emu::e1000::bits::{ctrl, fcrtl, status, tctl};
use nic_emu::e1000::regs::Reg;
use rustix::event::{EventfdFlags, eventfd};
use support::Served;
use vfio_user::client::Client;
use vfio_user::wire::{dma_map_flags, irq_index, region_index};

const PEER: [u8; 6] = [0x52, 0x54, 0, 0xAA, 0xBB, 0xCC];

/// Sends so many frames and waits until all are on their way.
fn send(nic: &mut E1000<Socket>, frames: u32) {
    for number in 0..frames {
        assert!(nic.send(&plain(PEER, nic.mac, 100, number), Offload::None));
        assert!(nic.flush(10_000_000_000), "frame {number} is not sent");
    }
}

#[test]
fn twenty_one_guests_attach_at_once() {
    const GUESTS: usize = 21;
    let daemon = Served::with(&["net=null"; GUESTS]);
    let barrier = Barrier::new(GUESTS);
    std::thread::scope(|scope| {
        for guest in 0..GUESTS {
            let (path, barrier) = (daemon.socket(guest), &barrier);
            scope.spawn(move || {
                barrier.wait();
                // Some of them do not share their memory.
                let bus = match guest % 3 {
                    0 => Socket::connect_remote(path),
                    _ => Socket::connect(path),
                };
                let mut nic =
                    E1000::start(bus.expect("a NIC"), Config::default()).expect("it works");
                send(&mut nic, 50);
            });
        }
    });
    let log = daemon.terminate();
    assert_eq!(
        log.matches("network: tx_frames=50 ").count(),
        GUESTS,
        "{log}"
    );
}

#[test]
fn a_guest_whose_memory_shrinks_harms_no_other() {
    const BASE: u64 = 1 << 32;
    const SIZE: u64 = 1 << 20;
    let daemon = Served::with(&["net=null"; 2]);
    let bus = Socket::connect(daemon.socket(1)).expect("a NIC");
    let mut neighbour = E1000::start(bus, Config::default()).expect("it works");
    send(&mut neighbour, 5);

    // A file that nobody can seal.
    let memory = tempfile::tempfile().expect("a file");
    memory.set_len(SIZE).expect("our own");
    let mut client = Client::connect(daemon.socket(0)).expect("it listens");
    let both = dma_map_flags::READ | dma_map_flags::WRITE;
    client
        .dma_map(BASE, SIZE, Some((memory.as_fd(), 0)), both)
        .expect("memory that is there");
    let (command, decode_and_master) = (4, 7_u16);
    client
        .config_write(command, &decode_and_master.to_le_bytes())
        .expect("it answers");
    memory.set_len(0).expect("our own");
    let ring = [
        (Reg::TDBAL, BASE as u32),
        (Reg::TDBAH, (BASE >> 32) as u32),
        (Reg::TDLEN, 4096),
        (Reg::TCTL, tctl::EN),
        (Reg::TDT, 8),
    ];
    for (reg, value) in ring {
        client
            .region_write(0, reg.row().offset.into(), &value.to_le_bytes())
            .expect("it answers");
    }
    let mut status = [0; 4];
    client
        .region_read(0, Reg::STATUS.row().offset.into(), &mut status)
        .expect("it is served on");
    assert_ne!(u32::from_le_bytes(status), u32::MAX);

    send(&mut neighbour, 5);
    drop(neighbour);
    let log = daemon.terminate();
    assert_eq!(log.matches("has shrunk the file").count(), 1, "{log}");
}

/// Two guests on one cable; the second one has 7 buffers, and loses what does not fit them and its FIFO.
fn sender_and_slow_receiver() -> (Served, E1000<Socket>, E1000<Socket>) {
    let daemon = Served::with(&["net=switch,switch=a", "net=switch,switch=a,rx-overrun=drop"]);
    let start = |nic, rx_count| {
        let bus = Socket::connect(daemon.socket(nic)).expect("a NIC");
        let config = Config {
            tx_count: 32,
            rx_count,
            ..Config::default()
        };
        E1000::start(bus, config).expect("it works")
    };
    let (sender, receiver) = (start(0, 64), start(1, 8));
    (daemon, sender, receiver)
}

const FRAME: usize = 1000;

/// Takes all frames with these numbers out, in order.
fn take(nic: &mut E1000<Socket>, from: [u8; 6], numbers: std::ops::Range<u32>) {
    let mut bytes = vec![0; 2048];
    for number in numbers {
        let deadline = nic.bus.now() + 60_000_000_000;
        while nic.receive(&mut bytes).is_none() {
            assert!(nic.bus.now() < deadline, "frame {number} is missing");
        }
        // The driver gives buffers back by eight.
        nic.rx.kick(&mut nic.bus);
        let want = plain(nic.mac, from, FRAME, number);
        assert!(bytes[..FRAME] == want[..], "frame {number} is another");
    }
}

fn register(nic: &mut E1000<Socket>, reg: Reg) -> u32 {
    nic.bus.read32(reg.offset())
}

#[test]
fn what_finds_no_room_is_lost_and_counted() {
    const SENT: u32 = 100;
    // 48 KiB, less than one frame.
    const WAIT: u32 = (48 << 10) / (FRAME as u32 + 4);
    const KEPT: u32 = 7 + WAIT;
    let (daemon, mut sender, mut receiver) = sender_and_slow_receiver();
    for number in 0..SENT {
        let frame = plain(receiver.mac, sender.mac, FRAME, number);
        assert!(sender.send(&frame, Offload::None));
        assert!(sender.flush(60_000_000_000), "frame {number} is not sent");
    }
    let mut arrived = 0;
    let all = until(&mut receiver.bus, 60_000_000_000, |bus| {
        arrived += bus.read32(Reg::TPR.offset());
        arrived == SENT
    });
    assert!(all, "only {arrived} arrived");
    assert_eq!(register(&mut receiver, Reg::MPC), SENT - KEPT);
    assert_eq!(register(&mut receiver, Reg::RNBC), SENT - 7);
    assert_eq!(register(&mut receiver, Reg::GPRC), KEPT);
    take(&mut receiver, sender.mac, 0..KEPT);
    assert!(receiver.receive(&mut [0; 2048]).is_none());
    drop((sender, receiver));
    let log = daemon.terminate();
    assert!(log.contains("rx_no_descriptor=45"), "{log}");
}

#[test]
fn with_flow_control_the_sender_waits_and_nothing_is_lost() {
    const SENT: u32 = 200;
    let (_daemon, mut sender, mut receiver) = sender_and_slow_receiver();
    for (nic, bits) in [(&mut sender, ctrl::RFCE), (&mut receiver, ctrl::TFCE)] {
        let set = [
            (Reg::FCAL, 0x00c2_8001),
            (Reg::FCAH, 0x0100),
            (Reg::FCT, 0x8808),
            (Reg::FCTTV, 0xffff),
            (Reg::FCRTL, 4 << 10 | fcrtl::XONE),
            (Reg::FCRTH, 8 << 10),
        ];
        for (reg, value) in set {
            nic.bus.write32(reg.offset(), value);
        }
        // At 10 Mb/s a pause lasts for more than three seconds: nobody misses its end.
        let forced = ctrl::FRCSPD | ctrl::FRCDPX | ctrl::FD | bits;
        let before = register(nic, Reg::CTRL) & !ctrl::SPEED;
        nic.bus.write32(Reg::CTRL.offset(), before | forced);
    }
    let (mut posted, mut arrived, mut taken, mut paused) = (0, 0, 0, false);
    while taken < SENT {
        // What is posted leaves at once if nothing forbids it, and faster than an XOFF comes back: one by one then.
        if posted < SENT && (paused || posted == arrived) {
            let frame = plain(receiver.mac, sender.mac, FRAME, posted);
            posted += u32::from(sender.send(&frame, Offload::None));
        }
        arrived += register(&mut receiver, Reg::TPR);
        paused = register(&mut sender, Reg::STATUS) & status::TXOFF != 0;
        if paused || posted == SENT {
            take(&mut receiver, sender.mac, taken..taken + 1);
            taken += 1;
        }
    }
    assert_eq!(register(&mut receiver, Reg::MPC), 0);
    assert_eq!(register(&mut receiver, Reg::GPRC), SENT);
    assert!(register(&mut receiver, Reg::XOFFTXC) > 0);
    assert!(register(&mut receiver, Reg::XONTXC) > 0);
    assert!(register(&mut sender, Reg::XOFFRXC) > 1);
    assert_eq!(register(&mut sender, Reg::GPRC), 0, "pause frames are none");
}

/// Writes a word as `ethtool -E` has the driver do it.
fn write_eeprom(nic: &mut E1000<Socket>, word: u8, value: u16) {
    let none = |answer| assert_eq!(answer, Some(0));
    none(eeprom::command(&mut nic.bus, 0b100, 0b11_0000, 0));
    none(eeprom::write_word(&mut nic.bus, word, value));
    none(eeprom::command(&mut nic.bus, 0b100, 0, 0));
}

#[test]
fn an_eeprom_in_a_file_outlives_the_daemon() {
    let kept = tempfile::tempdir().expect("a folder");
    let file = kept.path().join("eeprom.bin");
    let keys = format!("net=null,mac=52:54:00:00:00:09,eeprom={}", file.display());
    let start = |daemon: &Served| {
        let bus = Socket::connect(daemon.socket(0)).expect("a NIC");
        E1000::start(bus, Config::default()).expect("it works")
    };
    let daemon = Served::with(&[&keys]);
    let mut nic = start(&daemon);
    assert_eq!(nic.mac, [0x52, 0x54, 0, 0, 0, 9]);
    write_eeprom(&mut nic, 0x30, 0xBEEF);
    assert_eq!(eeprom::read_word(&mut nic.bus, 0x30), Some(0xBEEF));
    // Another address, and the sum that goes with both.
    write_eeprom(&mut nic, 2, 0x0A00);
    write_eeprom(&mut nic, 0x3F, 0);
    let sum = eeprom::checksum(&mut nic.bus).expect("it answers");
    write_eeprom(&mut nic, 0x3F, eeprom::CHECKSUM.wrapping_sub(sum));
    drop(nic);
    // The next hypervisor finds it, and so does the next daemon.
    let nic = start(&daemon);
    assert_eq!(nic.mac, [0x52, 0x54, 0, 0, 0, 10]);
    drop(nic);
    daemon.terminate();
    let daemon = Served::with(&[&keys]);
    let mut nic = start(&daemon);
    assert_eq!(nic.mac, [0x52, 0x54, 0, 0, 0, 10]);
    assert_eq!(eeprom::read_word(&mut nic.bus, 0x30), Some(0xBEEF));
    drop(nic);
    let log = daemon.terminate();
    assert!(log.contains("has the address 52:54:00:00:00:0a"), "{log}");
    assert_eq!(std::fs::read(&file).expect("it is there").len(), 128);
}

/// The messages that have come so far.
fn messages(fd: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    match rustix::io::read(fd, &mut count) {
        Ok(8) => u64::from_ne_bytes(count),
        _ => 0,
    }
}

#[test]
fn a_guest_that_enables_msi_gets_messages_and_no_line() {
    const MSI: u8 = 0xF0;
    let daemon = Served::with(&["net=null,msi=on", "net=null"]);
    let bus = Socket::connect(daemon.socket(0)).expect("a NIC");
    let mut nic = E1000::start(bus, Config::default()).expect("it works");
    assert_eq!(nic.bus.config_read(MSI, 4), 0x0080_0005);
    let fds = [irq_index::INTX, irq_index::MSI].map(|index| {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let fd = eventfd(0, flags).expect("a descriptor");
        let client = nic.bus.client();
        client
            .irq_eventfds(index, 0, &[fd.as_fd()])
            .expect("it takes it");
        fd
    });
    let wait = |nic: &mut E1000<Socket>, fd: &OwnedFd| {
        let came = until(&mut nic.bus, 60_000_000_000, |_| messages(fd) == 1);
        assert!(came, "no interrupt");
    };
    nic.enable_interrupts(0xFFFF);
    nic.causes();
    nic.bus.write32(Reg::ICS.offset(), 1);
    wait(&mut nic, &fds[0]);
    nic.causes();
    let client = nic.bus.client();
    client
        .unmask_irqs(irq_index::INTX, 0, 1)
        .expect("it answers");
    // MSI on: the cause is a message.
    nic.bus.config_write(MSI + 2, 2, 0x0081);
    for _ in 0..3 {
        nic.bus.write32(Reg::ICS.offset(), 1);
        wait(&mut nic, &fds[1]);
        // More of the same, before the guest has looked, is none.
        nic.bus.write32(Reg::ICS.offset(), 2);
        assert_eq!(nic.causes() & 3, 3);
    }
    assert_eq!((messages(&fds[0]), messages(&fds[1])), (0, 0));
    // And off again, with a cause there: the line.
    nic.bus.write32(Reg::ICS.offset(), 1);
    wait(&mut nic, &fds[1]);
    nic.bus.config_write(MSI + 2, 2, 0x0080);
    wait(&mut nic, &fds[0]);

    // Who has not asked for the capability has none.
    let mut other = Socket::connect(daemon.socket(1)).expect("a NIC");
    assert_eq!(other.config_read(0xE4, 4), 0x0002_0007);
    assert_eq!(other.config_read(MSI, 4), 0);
}

/// Programs a byte of the flash behind BAR1.
fn program_flash(nic: &mut Socket, at: u64, byte: u8) {
    for (at, byte) in [(0x5555, 0xAA), (0x2AAA, 0x55), (0x5555, 0xA0), (at, byte)] {
        let write = nic.client().region_write(1, at, &[byte]);
        write.expect("it answers");
    }
}

#[test]
fn a_flash_in_a_file_outlives_the_daemon_and_is_the_rom() {
    let kept = tempfile::tempdir().expect("a folder");
    let file = kept.path().join("flash.bin");
    let keys = format!("net=null,flash={}", file.display());
    let daemon = Served::with(&[&keys, "net=null"]);
    let mut nic = Socket::connect(daemon.socket(0)).expect("a NIC");
    let size = nic.bar(1).map(|bar| (bar.io, bar.size));
    assert_eq!(size, Some((false, 128 << 10)));
    let mut plain = Socket::connect(daemon.socket(1)).expect("a NIC");
    assert_eq!(plain.bar(1), None);
    assert_eq!(plain.config_read(0x14, 4), 0);

    program_flash(&mut nic, 0x1_2345, 0x12);
    nic.config_write(4, 2, 7);
    nic.write32(Reg::EECD.offset(), 0x20);
    program_flash(&mut nic, 0x1_2346, 0x34);
    let mut read = [0; 4];
    for region in [1, region_index::ROM] {
        let done = nic.client().region_read(region, 0x1_2344, &mut read);
        done.expect("it answers");
        assert_eq!(read, [0xFF, 0xFF, 0x34, 0xFF], "region {region}");
    }
    // It is in the file at once, whatever becomes of the daemon.
    let stored = std::fs::read(&file).expect("it is there");
    assert_eq!(stored.len(), 128 << 10);
    assert_eq!(stored[0x1_2344..0x1_2348], read);
    drop((nic, plain));
    daemon.terminate();
    let daemon = Served::with(&[&keys]);
    let mut nic = Socket::connect(daemon.socket(0)).expect("a NIC");
    let done = nic.client().region_read(1, 0x1_2344, &mut read);
    done.expect("it answers");
    assert_eq!(read, [0xFF, 0xFF, 0x34, 0xFF]);
}
