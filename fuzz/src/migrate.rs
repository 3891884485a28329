//! A device that moves, perhaps damaged on the way.

use vfio_user::wire::{
    DeviceState, Feature, MigData, command, device_state, feature, feature_flags,
};
use zerocopy::IntoBytes;

use crate::input::Input;
use crate::peer::Peer;

impl Peer {
    /// The device is saved, and what was saved, or something like it, comes back.
    pub(crate) fn migrate(&mut self, input: &mut Input<'_>) {
        let how = input.u8();
        if how & 1 != 0 {
            self.set_state(device_state::PRE_COPY);
        }
        self.set_state(device_state::STOP_COPY);
        self.settle();
        self.captured.clear();
        let size = 64 * (1 + u32::from(input.u8()));
        let request = MigData {
            argsz: 8 + size,
            size,
        };
        let mut before = usize::MAX;
        // As long as there is more, and not much longer than that.
        for _ in 0..1 << 13 {
            if self.captured.len() == before {
                break;
            }
            before = self.captured.len();
            self.send(command::MIG_DATA_READ, request.as_bytes());
            self.settle();
        }
        let mut state = std::mem::take(&mut self.captured);
        for _ in 0..how >> 1 & 3 {
            if !state.is_empty() {
                let at = usize::from(input.u16()) % state.len();
                state[at] = input.u8();
            }
        }
        if how & 8 != 0 {
            state.truncate(usize::from(input.u16()));
        }
        if how & 16 != 0
            && let Some((all, crc)) = state.split_last_chunk_mut::<4>()
        {
            *crc = crc32fast::hash(all).to_le_bytes();
        }
        self.set_state(device_state::RESUMING);
        for piece in state.chunks(64 * (1 + usize::from(input.u8()))) {
            let request = MigData {
                argsz: 8 + piece.len() as u32,
                size: piece.len() as u32,
            };
            self.send(
                command::MIG_DATA_WRITE,
                &[request.as_bytes(), piece].concat(),
            );
        }
        if how & 32 == 0 {
            self.set_state(device_state::RUNNING);
        }
        self.check();
    }

    fn set_state(&mut self, state: u32) {
        let request = Feature {
            argsz: 16,
            flags: feature::MIG_DEVICE_STATE | feature_flags::SET,
        };
        let state = DeviceState { state, reserved: 0 };
        self.send(
            command::DEVICE_FEATURE,
            &[request.as_bytes(), state.as_bytes()].concat(),
        );
    }
}
