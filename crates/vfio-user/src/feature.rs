//! DEVICE_FEATURE: migration and dirty page logging (specification, "VFIO_USER_DEVICE_FEATURE").

use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use crate::handler::Handler;
use crate::session::{State, parse};
use crate::wire::feature_flags::{GET, NUMBER, PROBE, SET};
use crate::wire::{DeviceState, Feature, Header, feature, migration_flags};

impl State {
    /// A feature that the device does not have is answered ENOTTY, as Linux does; an operation that a feature does not
    /// have, and sizes that do not fit, EINVAL.
    pub(crate) fn device_feature(
        &mut self,
        header: &Header,
        payload: &[u8],
        handler: &mut (impl Handler + ?Sized),
    ) -> Result<(), Errno> {
        let (request, data) = Feature::read_from_prefix(payload).map_err(|_| Errno::INVAL)?;
        let number = request.flags & NUMBER;
        let operations = request.flags & !NUMBER;
        let supported = match number {
            feature::MIGRATION | feature::DMA_LOGGING_REPORT => GET,
            feature::MIG_DEVICE_STATE => GET | SET,
            feature::DMA_LOGGING_START | feature::DMA_LOGGING_STOP => SET,
            _ => return Err(Errno::NOTTY),
        };
        if handler.migration().is_none() {
            return Err(Errno::NOTTY);
        }
        let room = request.argsz as usize;
        if operations & !(supported | PROBE) != 0 || room < size_of::<Feature>() {
            return Err(Errno::INVAL);
        }
        let changed = match (number, operations) {
            (_, probe) if probe & PROBE != 0 => None,
            (feature::MIGRATION, GET) => {
                let flags = migration_flags::STOP_COPY | migration_flags::PRE_COPY;
                return self.feature_data(header, request, flags.as_bytes());
            }
            (feature::MIG_DEVICE_STATE, GET) => {
                let state = DeviceState {
                    state: self.migration.state().to_wire(),
                    reserved: 0,
                };
                return self.feature_data(header, request, state.as_bytes());
            }
            (feature::DMA_LOGGING_REPORT, GET) => {
                return self.logging_report(header, request, data);
            }
            // The reply is the request, and has to find room.
            (_, SET) if room < payload.len() => return Err(Errno::INVAL),
            (feature::MIG_DEVICE_STATE, SET) => {
                self.set_device_state(parse::<DeviceState>(data)?.state, handler)?;
                None
            }
            (feature::DMA_LOGGING_START, SET) => Some(self.start_logging(data)?),
            (feature::DMA_LOGGING_STOP, SET) => {
                self.stop_logging();
                None
            }
            _ => return Err(Errno::INVAL),
        };
        if room < payload.len() {
            return Err(Errno::INVAL);
        }
        match changed {
            None => self.reply(header, payload),
            Some(start) => {
                let mut reply = payload.to_vec();
                reply[size_of::<Feature>()..][..size_of_val(&start)]
                    .copy_from_slice(start.as_bytes());
                self.reply(header, &reply[..]);
            }
        }
        Ok(())
    }

    /// The reply to a GET, if the client has room for it.
    pub(crate) fn feature_data(
        &mut self,
        header: &Header,
        request: Feature,
        data: &[u8],
    ) -> Result<(), Errno> {
        let size = size_of::<Feature>() + data.len();
        if (request.argsz as usize) < size {
            return Err(Errno::INVAL);
        }
        let reply = Feature {
            argsz: size as u32,
            flags: request.flags,
        };
        if header.wants_reply() {
            self.outbox.push(&header.reply(size), &reply);
            self.outbox.extend(data.len()).copy_from_slice(data);
        }
        Ok(())
    }
}
