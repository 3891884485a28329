//! What the log of dirty pages says of an 82540EM at work, against what has changed in its guest's memory.

use std::time::{Duration, Instant};

use guest_driver::packet::plain;
use guest_driver::regs::{GPRC, GPTC};
use guest_driver::socket::RAM_BASE;
use guest_driver::{Bus, Config, E1000, Offload, Wire};
use nic_emu_tests::machine::{MAC, Served};
use vfio_user::wire::device_state;

const PEER: [u8; 6] = [0x52, 0x54, 0, 0xAA, 0xBB, 0xCC];
const PATIENCE: Duration = Duration::from_secs(60);
const PAGE: u64 = 4096;
/// All that the driver has allocated, and as much again.
const WATCHED: u64 = 4 << 20;
const SENT: u32 = 10;
const RECEIVED: u32 = 40;

fn snapshot(nic: &E1000<Served>) -> Vec<u8> {
    let mut bytes = vec![0; WATCHED as usize];
    nic.bus.bus.ram().read(RAM_BASE, &mut bytes).expect("RAM");
    bytes
}

fn report(nic: &mut E1000<Served>) -> Vec<u64> {
    let bitmap = nic
        .bus
        .bus
        .client()
        .dma_logging_report(RAM_BASE, WATCHED, PAGE)
        .expect("it is logged");
    (0..WATCHED / PAGE)
        .filter(|page| bitmap[(page / 64) as usize] >> (page % 64) & 1 != 0)
        .collect()
}

/// Waits until a counter that is cleared by reading has come to `count`.
fn count(nic: &mut E1000<Served>, register: u32, count: u32) {
    let (start, mut seen) = (Instant::now(), 0);
    while seen < count {
        assert!(start.elapsed() < PATIENCE, "{seen} of {count} frames");
        seen += nic.bus.read32(register);
    }
    assert_eq!(seen, count);
}

/// Brings a NIC up; when this returns, its receiver is known to be on and what came before is gone.
fn start() -> E1000<Served> {
    let start = Instant::now();
    let mut nic = E1000::start(Served::start(), Config::default()).expect("it works");
    let mut buffer = vec![0; 1 << 16];
    while nic.receive(&mut buffer).is_none() {
        assert!(start.elapsed() < PATIENCE, "nothing is received");
        nic.bus.transmit(&plain(MAC, PEER, 60, 0));
        nic.bus.wait(10_000_000);
    }
    while nic.receive(&mut buffer).is_some() {
        nic.bus.wait(10_000_000);
    }
    for cleared_by_reading in [GPRC, GPTC] {
        nic.bus.read32(cleared_by_reading);
    }
    nic
}

#[test]
fn the_log_is_the_pages_that_were_written() {
    let mut nic = start();
    // All that the driver writes, it writes before.
    for number in 0..SENT {
        let frame = plain(PEER, nic.mac, 100 + 100 * number as usize, number);
        assert!(nic.queue(&frame, Offload::None));
    }
    let client = nic.bus.bus.client();
    assert_eq!(client.dma_logging_start(PAGE, &[]).expect("it logs"), PAGE);
    assert_eq!(report(&mut nic), [0; 0], "nothing has happened yet");
    let before = snapshot(&nic);

    nic.tx.kick(&mut nic.bus);
    for number in 1..=RECEIVED {
        let frame = plain(nic.mac, PEER, 60 + 30 * number as usize, number);
        nic.bus.transmit(&frame);
    }
    count(&mut nic, GPTC, SENT);
    count(&mut nic, GPRC, RECEIVED);
    // No queue touches memory any more.
    let client = nic.bus.bus.client();
    client.set_device_state(device_state::STOP).expect("stops");

    let (logged, after) = (report(&mut nic), snapshot(&nic));
    let pages = before
        .chunks(PAGE as usize)
        .zip(after.chunks(PAGE as usize));
    let written: Vec<u64> = (0..)
        .zip(pages)
        .filter_map(|(page, (before, after))| (before != after).then_some(page))
        .collect();
    assert_eq!(logged, written);
    // Both rings, and two buffers to a page.
    assert!(written.len() as u32 >= 2 + RECEIVED / 2, "{written:?}");
    assert_eq!(report(&mut nic), [0; 0], "a page is told once");
}
