//! Migration: the states of a device that is moved to another server, and its state in bytes (specification,
//! "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE", "VFIO_USER_MIG_DATA_READ", "VFIO_USER_MIG_DATA_WRITE").
//!
//! A transition that stops the device begins an epoch, and nothing further is executed before that has passed: what
//! follows may ask for a state in which no queue moves any more.
//!
//! Bytes come from anybody. Those that are no state of this device leave it in the ERROR state, out of which only a
//! reset leads.

use rustix::io::Errno;
use tracing::{debug, warn};
use zerocopy::FromBytes;

use crate::blob::{self, Parts};
use crate::handler::Handler;
use crate::session::State;
use crate::wire::{Header, MAX_DATA, MigData, command, device_state};

/// Most bytes of a state that a client may send.
pub const MAX_STATE: usize = 16 << 20;

/// `enum vfio_device_mig_state`, without the peer-to-peer states that vfio-user does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum DeviceState {
    Error,
    Stop,
    #[default]
    Running,
    StopCopy,
    Resuming,
    PreCopy,
}

impl DeviceState {
    pub(crate) fn to_wire(self) -> u32 {
        match self {
            Self::Error => device_state::ERROR,
            Self::Stop => device_state::STOP,
            Self::Running => device_state::RUNNING,
            Self::StopCopy => device_state::STOP_COPY,
            Self::Resuming => device_state::RESUMING,
            Self::PreCopy => device_state::PRE_COPY,
        }
    }

    /// A state that may be asked for.
    fn from_wire(state: u32) -> Option<Self> {
        match state {
            device_state::STOP => Some(Self::Stop),
            device_state::RUNNING => Some(Self::Running),
            device_state::STOP_COPY => Some(Self::StopCopy),
            device_state::RESUMING => Some(Self::Resuming),
            device_state::PRE_COPY => Some(Self::PreCopy),
            _ => None,
        }
    }

    /// The next state on the shortest way to another one that does not lead through PRE_COPY or STOP_COPY.
    fn towards(self, target: Self) -> Option<Self> {
        use DeviceState::{Error, PreCopy, Resuming, Running, Stop, StopCopy};
        match (self, target) {
            (Error, _) | (_, Error) | (StopCopy, PreCopy) => None,
            (Stop, PreCopy) => Some(Running),
            (Stop, direct) => Some(direct),
            (Running, StopCopy | Resuming) => Some(Stop),
            (Running, direct) => Some(direct),
            (PreCopy, StopCopy) => Some(StopCopy),
            (PreCopy, _) => Some(Running),
            (StopCopy | Resuming, _) => Some(Stop),
        }
    }

    fn runs(self) -> bool {
        matches!(self, Self::Running | Self::PreCopy)
    }
}

/// Where a device is on its way, and the bytes that travel.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    state: DeviceState,
    /// What a saving session has produced, of which `taken` bytes are read.
    outgoing: Vec<u8>,
    taken: usize,
    /// `outgoing` has everything, not only what a running device can tell.
    complete: bool,
    /// What a resuming session was given.
    incoming: Vec<u8>,
}

impl Machine {
    pub(crate) fn state(&self) -> DeviceState {
        self.state
    }

    /// Whether a request is refused because the device is stopped: what reads its state may come, what changes its
    /// surroundings may not. A reset always may.
    pub(crate) fn forbids(&self, message: u16) -> bool {
        matches!(self.state, DeviceState::Stop | DeviceState::StopCopy)
            && !matches!(
                message,
                command::REGION_READ
                    | command::REGION_WRITE
                    | command::REGION_WRITE_MULTI
                    | command::DEVICE_FEATURE
                    | command::MIG_DATA_READ
                    | command::DEVICE_RESET
            )
    }

    fn end_session(&mut self) {
        *self = Self {
            state: self.state,
            ..Self::default()
        };
    }
}

impl State {
    /// MIG_DEVICE_STATE: goes to a state, over others if need be.
    pub(crate) fn set_device_state(
        &mut self,
        target: u32,
        handler: &mut (impl Handler + ?Sized),
    ) -> Result<(), Errno> {
        let target = DeviceState::from_wire(target).ok_or(Errno::INVAL)?;
        while self.migration.state != target {
            let next = self.migration.state.towards(target);
            self.step(next.ok_or(Errno::INVAL)?, handler)?;
        }
        Ok(())
    }

    /// One of the specification's direct transitions.
    fn step(
        &mut self,
        next: DeviceState,
        handler: &mut (impl Handler + ?Sized),
    ) -> Result<(), Errno> {
        use DeviceState::{PreCopy, Resuming, Running, Stop, StopCopy};
        let before = self.migration.state;
        let device = handler.migration().ok_or(Errno::NOTTY)?;
        match (before, next) {
            (Running, Stop) | (PreCopy, StopCopy) => {
                device.stop();
                self.wait_for_queues();
            }
            (Stop, Running) => device.run(),
            (Resuming, Stop) => self.finish_resuming(handler)?,
            _ => {}
        }
        match next {
            // A session that goes on, with what the running device could not tell.
            StopCopy if before == PreCopy => {}
            StopCopy | PreCopy => {
                self.migration.end_session();
                blob::header(&self.device, &mut self.migration.outgoing);
            }
            Running | Stop | Resuming | DeviceState::Error => self.migration.end_session(),
        }
        debug!(?before, ?next, "device state");
        self.migration.state = next;
        Ok(())
    }

    /// A new epoch, before whose end no further request is executed.
    pub(crate) fn wait_for_queues(&mut self) {
        self.begin_epoch();
        self.wait = Some(self.epoch());
    }

    /// Takes over what a client has sent. Nothing at all is no state either, but no bad one: the device is what it was.
    fn finish_resuming(&mut self, handler: &mut (impl Handler + ?Sized)) -> Result<(), Errno> {
        let bytes = std::mem::take(&mut self.migration.incoming);
        if bytes.is_empty() {
            return Ok(());
        }
        if let Err(why) = self.load(&bytes, handler) {
            return Err(self.fail_resuming(&why));
        }
        // Queues have taken over their part before the client hears of it.
        self.wait_for_queues();
        Ok(())
    }

    fn load(&mut self, bytes: &[u8], handler: &mut (impl Handler + ?Sized)) -> Result<(), String> {
        let parts = blob::parse(&self.device, bytes)?;
        let mut ours = Vec::new();
        self.irqs.save(&mut ours);
        if parts.table.len() != self.msix.bytes().len() || parts.interrupts.len() != ours.len() {
            return Err("it has another number of interrupts".to_owned());
        }
        let device = handler.migration().ok_or("the device cannot be migrated")?;
        if let Err(invalid) = device.load(parts.device) {
            self.config.reset(&self.device.config);
            self.msix.reset(&self.irqs);
            self.config_changed(handler);
            return Err(invalid.to_string());
        }
        self.config.restore(&self.device.config, parts.config);
        let enabled = self.config.pme_enabled(&self.device.config);
        handler.write_pme(enabled, false);
        self.msix.restore(parts.table);
        self.config_changed(handler);
        self.irqs.restore(parts.interrupts);
        Ok(())
    }

    fn fail_resuming(&mut self, why: &str) -> Errno {
        warn!("the client's state of the device is not usable: {why}");
        self.migration.end_session();
        self.migration.state = DeviceState::Error;
        Errno::INVAL
    }

    /// A reset of the machine, or another client: the device runs, and nothing of a migration is left.
    pub(crate) fn restart(&mut self, handler: &mut (impl Handler + ?Sized)) {
        let Machine { state, .. } = std::mem::take(&mut self.migration);
        if !state.runs()
            && let Some(device) = handler.migration()
        {
            device.run();
        }
    }

    /// MIG_DATA_READ: the next bytes of the state. Less than asked for: there are no more; while the device runs, until
    /// it is stopped.
    pub(crate) fn mig_data_read(
        &mut self,
        header: &Header,
        payload: &[u8],
        handler: &mut (impl Handler + ?Sized),
    ) -> Result<(), Errno> {
        let (request, _) = self.mig_data(payload)?;
        let machine = &mut self.migration;
        match machine.state {
            DeviceState::PreCopy => {}
            DeviceState::StopCopy if machine.complete => {}
            DeviceState::StopCopy => {
                let device = handler.migration().ok_or(Errno::NOTTY)?;
                let (mut interrupts, mut state) = (Vec::new(), Vec::new());
                self.irqs.save(&mut interrupts);
                device.save(&mut state);
                let config = self.config.saved(&self.device.config, handler.pme());
                let parts = Parts {
                    config: &config,
                    table: self.msix.bytes(),
                    interrupts: &interrupts,
                    device: &state,
                };
                blob::body(&parts, &mut machine.outgoing);
                machine.complete = true;
            }
            _ => return Err(Errno::INVAL),
        }
        let rest = &machine.outgoing[machine.taken..];
        let data = &rest[..rest.len().min(request.size as usize)];
        machine.taken += data.len();
        if header.wants_reply() {
            let reply = MigData {
                argsz: (size_of::<MigData>() + data.len()) as u32,
                size: data.len() as u32,
            };
            self.outbox
                .push(&header.reply(reply.argsz as usize), &reply);
            self.outbox.extend(data.len()).copy_from_slice(data);
        }
        Ok(())
    }

    /// MIG_DATA_WRITE: more bytes of a state. Whether they make one shows as soon as their header is complete, and then
    /// when RESUMING is left.
    pub(crate) fn mig_data_write(&mut self, header: &Header, payload: &[u8]) -> Result<(), Errno> {
        let (request, data) = self.mig_data(payload)?;
        let data = data.get(..request.size as usize).ok_or(Errno::INVAL)?;
        let incoming = &mut self.migration.incoming;
        if self.migration.state != DeviceState::Resuming {
            return Err(Errno::INVAL);
        }
        if incoming.len() + data.len() > MAX_STATE {
            return Err(self.fail_resuming("it is too long"));
        }
        let before = incoming.len();
        incoming.extend_from_slice(data);
        if (before..incoming.len()).contains(&(blob::HEADER - 1))
            && let Err(why) = blob::check_header(&self.device, incoming)
        {
            return Err(self.fail_resuming(&why));
        }
        self.reply(header, &[0_u8; 0]);
        Ok(())
    }

    /// The fixed part of both messages, and what follows.
    fn mig_data<'a>(&self, payload: &'a [u8]) -> Result<(MigData, &'a [u8]), Errno> {
        let (request, data) = MigData::read_from_prefix(payload).map_err(|_| Errno::INVAL)?;
        let size = request.size as usize;
        // What is too much for either side is too much both ways, as in libvfio-user.
        let most = self.client.max_data.min(MAX_DATA);
        if size > most || (request.argsz as usize) < size_of::<MigData>() + size {
            return Err(Errno::INVAL);
        }
        Ok((request, data))
    }
}

#[cfg(test)]
mod tests {
    use super::DeviceState::{self, Error, PreCopy, Resuming, Running, Stop, StopCopy};

    const ALL: [DeviceState; 6] = [Error, Stop, Running, StopCopy, Resuming, PreCopy];

    /// The specification's direct transitions.
    fn direct(from: DeviceState) -> &'static [DeviceState] {
        match from {
            Error => &[],
            Stop => &[Running, StopCopy, Resuming],
            Running => &[Stop, PreCopy],
            StopCopy | Resuming => &[Stop],
            PreCopy => &[Running, StopCopy],
        }
    }

    /// The shortest path, by trying all.
    fn search(from: DeviceState, to: DeviceState) -> Option<Vec<DeviceState>> {
        let mut paths = vec![vec![from]];
        while let Some(path) = (!paths.is_empty()).then(|| paths.remove(0)) {
            let last = path[path.len() - 1];
            if last == to {
                return Some(path[1..].to_vec());
            }
            if path.len() > 1 && matches!(last, PreCopy | StopCopy) {
                continue;
            }
            for &next in direct(last).iter().filter(|next| !path.contains(next)) {
                paths.push([&path[..], &[next]].concat());
            }
        }
        None
    }

    #[test]
    fn every_path_is_the_shortest() {
        for from in ALL {
            for to in ALL {
                if from == to {
                    continue;
                }
                let mut path = Vec::new();
                let mut at = from;
                while at != to
                    && let Some(next) = at.towards(to)
                {
                    assert!(direct(at).contains(&next), "{at:?} to {next:?}");
                    path.push(next);
                    at = next;
                }
                let expected = match (from, to) {
                    (StopCopy, PreCopy) => None,
                    _ => search(from, to),
                };
                assert_eq!((at == to).then_some(path), expected, "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn states_keep_their_numbers() {
        for (number, state) in [
            (1, Stop),
            (2, Running),
            (3, StopCopy),
            (4, Resuming),
            (6, PreCopy),
        ] {
            assert_eq!(state.to_wire(), number);
            assert_eq!(DeviceState::from_wire(number), Some(state));
        }
        for number in [0, 5, 7, 8, 0xabcd, u32::MAX] {
            assert_eq!(DeviceState::from_wire(number), None);
        }
    }
}
