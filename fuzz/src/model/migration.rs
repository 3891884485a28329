//! The states of a device that migrates, and its state in bytes.

use rustix::io::Errno;
use vfio_user::MAX_STATE;
use vfio_user::wire::{MAX_DATA, MigData, command, device_state as state};
use zerocopy::{FromBytes, IntoBytes};

use super::{Model, Outcome, invalid};
use crate::device::{MSIX_VECTORS, SAVED};

/// Bytes of a saved state up to configuration space.
const HEADER: usize = 28;

/// Direct transitions.
const STEPS: &[(u32, &[u32])] = &[
    (
        state::STOP,
        &[state::RUNNING, state::STOP_COPY, state::RESUMING],
    ),
    (state::RUNNING, &[state::STOP, state::PRE_COPY]),
    (state::STOP_COPY, &[state::STOP]),
    (state::RESUMING, &[state::STOP]),
    (state::PRE_COPY, &[state::RUNNING, state::STOP_COPY]),
];

#[derive(Debug)]
pub(crate) struct Migration {
    pub(crate) state: u32,
    outgoing: Vec<u8>,
    taken: usize,
    complete: bool,
    incoming: Vec<u8>,
}

impl Default for Migration {
    fn default() -> Self {
        Self {
            state: state::RUNNING,
            outgoing: Vec::new(),
            taken: 0,
            complete: false,
            incoming: Vec::new(),
        }
    }
}

impl Migration {
    /// Whether a stopped device refuses a request.
    pub(crate) fn forbids(&self, number: u16) -> bool {
        let harmless = [
            command::REGION_READ,
            command::REGION_WRITE,
            command::REGION_WRITE_MULTI,
            command::DEVICE_FEATURE,
            command::MIG_DATA_READ,
            command::DEVICE_RESET,
        ];
        matches!(self.state, state::STOP | state::STOP_COPY) && !harmless.contains(&number)
    }

    pub(crate) fn runs(&self) -> bool {
        matches!(self.state, state::RUNNING | state::PRE_COPY)
    }

    fn enter(&mut self, state: u32) {
        *self = Self {
            state,
            ..Self::default()
        };
    }
}

/// The shortest way, of which only the ends may be a state in which data flow out.
fn path(from: u32, to: u32) -> Option<Vec<u32>> {
    let mut paths = vec![vec![from]];
    while !paths.is_empty() {
        let path = paths.remove(0);
        let last = path[path.len() - 1];
        if last == to {
            return Some(path[1..].to_vec());
        }
        if path.len() > 1 && matches!(last, state::PRE_COPY | state::STOP_COPY) {
            continue;
        }
        let steps = STEPS
            .iter()
            .find(|(state, _)| *state == last)
            .map_or(&[][..], |(_, steps)| steps);
        for step in steps.iter().filter(|step| !path.contains(step)) {
            paths.push([&path[..], &[*step]].concat());
        }
    }
    None
}

impl Model {
    pub(super) fn set_state(&mut self, target: u32) -> Result<(), Errno> {
        let from = self.migration.state;
        let known = STEPS.iter().any(|(state, _)| *state == target);
        if !known || (from, target) == (state::STOP_COPY, state::PRE_COPY) {
            return Err(Errno::INVAL);
        }
        for next in path(from, target).ok_or(Errno::INVAL)? {
            self.step(next)?;
        }
        Ok(())
    }

    fn step(&mut self, next: u32) -> Result<(), Errno> {
        let before = self.migration.state;
        match (before, next) {
            (state::RUNNING, state::STOP) | (state::PRE_COPY, state::STOP_COPY) => self.held += 1,
            (state::RESUMING, state::STOP) if !self.migration.incoming.is_empty() => {
                let bytes = std::mem::take(&mut self.migration.incoming);
                if !self.load(&bytes) {
                    self.migration.enter(state::ERROR);
                    return Err(Errno::INVAL);
                }
                self.held += 1;
            }
            _ => {}
        }
        if (before, next) == (state::PRE_COPY, state::STOP_COPY) {
            self.migration.state = next;
        } else {
            self.migration.enter(next);
            if matches!(next, state::PRE_COPY | state::STOP_COPY) {
                self.migration.outgoing = self.header();
            }
        }
        Ok(())
    }

    pub(super) fn read_state(&mut self, payload: &[u8]) -> Outcome {
        let Some((request, _)) = self.mig_data(payload) else {
            return invalid();
        };
        if self.migration.state == state::STOP_COPY && !self.migration.complete {
            let body = self.body();
            let outgoing = &mut self.migration.outgoing;
            outgoing.extend_from_slice(&body);
            let crc = crc32fast::hash(outgoing);
            outgoing.extend_from_slice(&crc.to_le_bytes());
            self.migration.complete = true;
        } else if !matches!(self.migration.state, state::STOP_COPY | state::PRE_COPY) {
            return invalid();
        }
        let Migration {
            outgoing, taken, ..
        } = &mut self.migration;
        let rest = &outgoing[*taken..];
        let data = &rest[..rest.len().min(request.size as usize)];
        *taken += data.len();
        let reply = MigData {
            argsz: 8 + data.len() as u32,
            size: data.len() as u32,
        };
        Outcome::Payload([reply.as_bytes(), data].concat())
    }

    pub(super) fn write_state(&mut self, payload: &[u8]) -> Outcome {
        let Some((request, data)) = self.mig_data(payload) else {
            return invalid();
        };
        let Some(data) = data.get(..request.size as usize) else {
            return invalid();
        };
        if self.migration.state != state::RESUMING {
            return invalid();
        }
        let header = self.header();
        let incoming = &mut self.migration.incoming;
        let before = incoming.len();
        incoming.extend_from_slice(data);
        let wrong = before < HEADER && incoming.len() >= HEADER && !incoming.starts_with(&header);
        if wrong || incoming.len() > MAX_STATE {
            self.migration.enter(state::ERROR);
            return invalid();
        }
        Outcome::Payload(Vec::new())
    }

    fn mig_data<'a>(&self, payload: &'a [u8]) -> Option<(MigData, &'a [u8])> {
        let (request, data) = MigData::read_from_prefix(payload).ok()?;
        let fits = request.size as usize <= self.max_data.min(MAX_DATA)
            && u64::from(request.argsz) >= 8 + u64::from(request.size);
        fits.then_some((request, data))
    }

    /// What is known of a state before the device stops.
    fn header(&self) -> Vec<u8> {
        let mut header = b"vfiouser\x01\0\0\0".to_vec();
        let config = self.config.after_reset();
        for at in [0, 0x2c, 8] {
            header.extend_from_slice(&config[at..at + 4]);
        }
        header.extend_from_slice(&(config.len() as u32).to_le_bytes());
        header
    }

    fn body(&self) -> Vec<u8> {
        let mut body = self.config.bytes().to_vec();
        let mut saved = self.bar0[..SAVED].to_vec();
        saved[SAVED - 1] &= 0x7f;
        for part in [&self.table[..], &self.irqs.save(), &saved] {
            body.extend_from_slice(&(part.len() as u32).to_le_bytes());
            body.extend_from_slice(part);
        }
        body
    }

    /// Takes over a state. False if it is none; then nothing has changed, or the device is as after a reset.
    fn load(&mut self, bytes: &[u8]) -> bool {
        let config_len = self.config.bytes().len();
        let mut rest = match bytes.strip_prefix(&self.header()[..]) {
            Some(rest) if rest.len() >= config_len + 4 => rest,
            _ => return false,
        };
        let crc = crc32fast::hash(&bytes[..bytes.len() - 4]).to_le_bytes();
        let mut next = |len| {
            let part = rest.get(..len)?;
            rest = &rest[len..];
            Some(part)
        };
        let mut parts = Vec::new();
        let config = next(config_len);
        for len in [16 * MSIX_VECTORS, 32] {
            match next(4)
                .map(|bytes| u32::from_le_bytes(bytes.try_into().expect("4 bytes")) as usize)
            {
                Some(said) if said == len => parts.extend(next(len)),
                _ => return false,
            }
        }
        let Some(said) =
            next(4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("4 bytes")) as usize)
        else {
            return false;
        };
        let device = next(said);
        let (Some(config), [table, irqs], Some(device)) = (config, &parts[..], device) else {
            return false;
        };
        if rest != crc {
            return false;
        }
        self.bar0.fill(0);
        self.bar1.fill(0);
        self.bar4.clear_device();
        let sound = device.len() == SAVED && device[SAVED - 1] < 0x80;
        if sound {
            self.bar0[..SAVED].copy_from_slice(device);
        }
        self.irqs.set_level(self.bar0[0] & 1 != 0);
        if sound {
            self.config.restore(config);
            self.irqs.set_mode(&self.config);
            self.table.copy_from_slice(table);
            for entry in self.table.chunks_mut(16) {
                entry[12] &= 1;
                entry[13..].fill(0);
            }
            self.irqs.restore(irqs);
        } else {
            self.reset_table();
            self.config.reset();
            self.irqs.set_mode(&self.config);
        }
        sound
    }
}
