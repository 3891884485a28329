//! Target `stream`: bytes and descriptors, in any order and cut anywhere.
//!
//! The first byte chooses: either all that follows is the stream, cut at random, or it is a script of messages whose
//! headers, descriptors and lengths are more or less plausible.

use vfio_user::wire::{HEADER, Header, command, header_flags};
use zerocopy::IntoBytes;

use crate::input::Input;
use crate::peer::Peer;

/// Most steps of a script.
const STEPS: usize = 64;

/// The target.
pub(crate) fn run(data: &[u8]) {
    Peer::run(|peer| {
        let mut input = Input::new(data);
        match input.u8() % 5 {
            0 => raw(peer, &mut input),
            mode => {
                if mode > 1 {
                    peer.hello(mode);
                }
                for _ in 0..STEPS {
                    if input.is_empty() {
                        break;
                    }
                    step(peer, &mut input);
                }
            }
        }
    });
}

/// What is left is the stream, cut into pieces whose lengths a simple generator makes up.
fn raw(peer: &mut Peer, input: &mut Input<'_>) {
    let cut = usize::from(input.u8());
    let mut rest = input.rest();
    let mut state = cut;
    while !rest.is_empty() {
        state = state.wrapping_mul(25_173).wrapping_add(13_849) & 0xffff;
        let n = if cut == 0 {
            rest.len()
        } else {
            1 + state % cut
        };
        let (now, later) = rest.split_at(n.min(rest.len()));
        // Some come with an eventfd.
        let fds: &[u8] = if state & 0xf000 == 0 { &[2] } else { &[] };
        peer.feed(now, fds, false);
        rest = later;
    }
}

fn step(peer: &mut Peer, input: &mut Input<'_>) {
    match input.u8() & 0xf {
        0 => {
            let n = usize::from(input.u8());
            let fds = usize::from(input.u8() & 3);
            let fds = input.bytes(fds);
            peer.feed(input.bytes(n), fds, false);
        }
        1 => peer.pass_epoch(u64::from(input.u8() & 7)),
        2 => peer.receive(input.u8().into()),
        3 => peer.check(),
        4 if input.rarely() => peer.disconnect(),
        5 => peer.resample(),
        6 => peer.hello(input.u8()),
        7 => {
            let n = usize::from(input.u8());
            peer.feed_twin(input.bytes(n));
        }
        8 => peer.answer_one(input),
        _ => message(peer, input),
    }
}

fn message(peer: &mut Peer, input: &mut Input<'_>) {
    let kind = input.u8();
    let number = match kind & 0x1f {
        0x1f => input.u16(),
        number => number.into(),
    };
    let no_reply = if kind & 0x80 != 0 {
        header_flags::NO_REPLY
    } else {
        0
    };
    let how = input.u8();
    let fds = match how & 0xf {
        few @ 0..=3 => few,
        4 => 17,
        5 => 40,
        _ => 0,
    };
    let fds = input.bytes(fds.into());
    let len = usize::from(input.u8());
    let mut body = input.bytes(len).to_vec();
    if how & 0x20 != 0
        && let Some(argsz) = body.first_chunk_mut()
    {
        // Most payloads begin with their size.
        *argsz = (len as u32).max(32).to_le_bytes();
    }
    let lie = if how & 0xf0 == 0xf0 { input.u32() } else { 0 };
    let header = Header {
        id: u16::from(how).wrapping_mul(257),
        command: number,
        size: match lie & 3 {
            1 => lie,
            2 => (HEADER + body.len()) as u32 + (lie >> 2 & 0xff),
            _ => (HEADER + body.len()) as u32,
        },
        flags: no_reply | if lie & 3 == 3 { lie >> 2 } else { 0 },
        error: 0,
    };
    // A size that is not one of a message ends it all, and that has been seen after a while.
    let bytes = [header.as_bytes(), &body].concat();
    let cut = if how & 0x10 == 0 {
        0
    } else {
        usize::from(input.u8()).min(bytes.len())
    };
    let (first, second) = bytes.split_at(cut);
    if first.is_empty() {
        peer.feed(second, fds, false);
    } else {
        peer.feed(first, fds, false);
        peer.feed(second, &[], input.u8() == 0xff);
    }
    if number == command::DEVICE_RESET {
        peer.pass_epoch(1);
    }
}
