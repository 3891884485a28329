//! Targets `state` and `e1000`: the saved state of an 82540EM, and what a driver may do to one.

use std::sync::OnceLock;

use nic_emu::e1000::state::State;
use serde_json::Value;

use crate::input::Input;
use crate::nic::{Nic, assert_same};
use crate::stats;

/// A driver that does anything.
pub(crate) fn drive(data: &[u8]) {
    stats::negotiated();
    let mut nic = Nic::new();
    nic.run(&mut Input::new(data));
    nic.check_registers();
}

/// A state from anybody, and a driver behind it.
///
/// The first byte chooses: what follows is the state; or it changes bytes of a good one; or numbers in a good one.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.u8();
    let good = &good_states()[usize::from(choice >> 2) % good_states().len()];
    let state = match choice & 3 {
        0 => input.rest().to_vec(),
        1 => with_other_bytes(good, &mut input),
        _ => match with_other_numbers(good, &mut input) {
            Some(state) => state,
            None => return,
        },
    };
    let mut nic = Nic::new();
    if nic.load(&state).is_err() {
        return;
    }
    stats::negotiated();
    nic.check_registers();
    // What was put right on the way in needs no putting right any more.
    let saved = nic.save();
    let mut other = Nic::new();
    other.load(&saved).expect("what was saved can be restored");
    assert_same(&saved, &other.save());
    nic.run(&mut input);
    nic.check_registers();
}

/// States of NICs that have done this and that.
fn good_states() -> &'static [Vec<u8>] {
    static STATES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    STATES.get_or_init(|| {
        let scripts: [&[u8]; 3] = [
            &[],
            // A receiver with eight descriptors, and a packet whose end is not there yet.
            &[
                8, 0, 0, 0, 0, 0, 7, 0, 9, 0, 0, 0, 0, 64, 0, 12, 64, 0, 0, 0xff,
            ],
            // Frames that are longer than all buffers, the last of which is held.
            &[
                8, 0, 0x20, 0, 0, 0, 12, 0xff, 0x3f, 0, 0xff, 12, 0xff, 0x3f, 0, 0xff, 12, 0xff,
                0x3f, 0, 0xff,
            ],
        ];
        let state = |script: &[u8]| {
            let mut nic = Nic::new();
            nic.run(&mut Input::new(script));
            nic.save()
        };
        let kept: [&[u8]; 4] = [
            include_bytes!("../../tests/golden/82540em-1.bin"),
            include_bytes!("../../tests/golden/82540em-2.bin"),
            include_bytes!("../../tests/golden/82540em-3.bin"),
            include_bytes!("../../tests/golden/82540em-4.bin"),
        ];
        let kept = kept.map(<[u8]>::to_vec);
        scripts.into_iter().map(state).chain(kept).collect()
    })
}

/// Changes some bytes, and perhaps the length.
fn with_other_bytes(good: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..input.u8() & 0xf {
        let at = usize::from(input.u16()) % bytes.len();
        bytes[at] = input.u8();
    }
    match input.u8() {
        0xf0..=0xf7 => bytes.truncate(usize::from(input.u16())),
        0xf8..=0xff => {
            let len = usize::from(input.u8());
            bytes.extend_from_slice(input.bytes(len));
        }
        _ => {}
    }
    bytes
}

/// Changes some numbers. None if they fit no longer.
fn with_other_numbers(good: &[u8], input: &mut Input<'_>) -> Option<Vec<u8>> {
    let state = State::decode(good).expect("a good state");
    let mut value = serde_json::to_value(&state).expect("a state is plain data");
    let mut leaves = Vec::new();
    collect(&mut value, &mut leaves);
    for _ in 0..1 + (input.u8() & 0x1f) {
        let count = leaves.len();
        let leaf = &mut leaves[usize::from(input.u16()) % count];
        let new = match input.u8() & 7 {
            0 => input.u64(),
            1 => input.u8().into(),
            2 => input.u16().into(),
            _ => input.u32().into(),
        };
        **leaf = match **leaf {
            Value::Bool(_) => Value::Bool(new & 1 != 0),
            Value::Null => Value::Null,
            _ => new.into(),
        };
    }
    let state: State = serde_json::from_value(value).ok()?;
    let mut bytes = Vec::new();
    state.encode(&mut bytes);
    Some(bytes)
}

/// All that has no parts. Of long lists only the beginning.
fn collect<'v>(value: &'v mut Value, leaves: &mut Vec<&'v mut Value>) {
    match value {
        Value::Array(list) => list
            .iter_mut()
            .take(300)
            .for_each(|value| collect(value, leaves)),
        Value::Object(map) => map.values_mut().for_each(|value| collect(value, leaves)),
        leaf => leaves.push(leaf),
    }
}
