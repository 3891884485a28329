//! `instructions CASE PIECES`: sends or receives so many rings full of frames, in functions whose instructions valgrind
//! can count by themselves (`cargo xtask bench instructions`). Prints the number of frames.
//!
//! Uses nothing but the model and the driver, whose interfaces older commits have, too.

use std::process::ExitCode;

use guest_driver::{Offload, packet};
use nic_emu::Time;
use nic_emu::common::frame::RxFrame;
use nic_emu_bench::engine::{Engine, MAC, receive, transmit};

/// Descriptors of a ring, as Linux has them.
const RING: u32 = 256;
const ELSEWHERE: [u8; 6] = [0x02, 0, 0, 0, 0, 0x77];

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (case, pieces) = (words.next(), words.next());
    let size = |case: &str| case.split_once('.').and_then(|(_, size)| size.parse().ok());
    let (Some(case), Some(pieces)) = (case, pieces.and_then(|pieces| pieces.parse().ok())) else {
        eprintln!("usage: instructions tx.BYTES|rx.BYTES PIECES");
        return ExitCode::from(2);
    };
    let frames = match (case.split('.').next(), size(&case)) {
        (Some("tx"), Some(size)) => send(size, pieces),
        (Some("rx"), Some(size)) => deliver(size, pieces),
        _ => {
            eprintln!("{case} is neither tx.BYTES nor rx.BYTES");
            return ExitCode::from(2);
        }
    };
    println!("{frames}");
    ExitCode::SUCCESS
}

fn send(size: usize, pieces: u64) -> u64 {
    let mut nic = Engine::new(RING).expect("memory");
    let frame = packet::plain(ELSEWHERE, MAC, size, 1);
    let mut frames = 0;
    for piece in 0..pieces {
        let posted = nic.post(&frame, Offload::None);
        let sent = counted_transmit(&mut nic, Time(piece));
        assert_eq!(sent, posted, "all frames leave");
        frames += sent;
    }
    frames
}

fn deliver(size: usize, pieces: u64) -> u64 {
    let mut nic = Engine::new(RING).expect("memory");
    let frame = packet::plain(MAC, ELSEWHERE, size, 1);
    let mut frames = 0;
    for piece in 0..pieces {
        nic.reap();
        let placed = counted_receive(&mut nic, &frame, Time(piece));
        assert_eq!(placed, u64::from(RING) - 1, "all frames arrive");
        frames += placed;
    }
    frames
}

/// The network takes all frames at once: what is counted is the model.
#[inline(never)]
fn counted_transmit(nic: &mut Engine, now: Time) -> u64 {
    let Engine {
        tx, mem, shared, ..
    } = nic;
    transmit(tx, mem, shared, || now, |burst, _| burst.len())
}

/// The frame is in host memory.
#[inline(never)]
fn counted_receive(nic: &mut Engine, frame: &[u8], now: Time) -> u64 {
    let Engine {
        rx, mem, shared, ..
    } = nic;
    receive(
        rx,
        mem,
        shared,
        || now,
        |deliver, _| {
            deliver(RxFrame::new(frame));
            true
        },
    )
}
