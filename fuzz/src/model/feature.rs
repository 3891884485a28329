//! DEVICE_FEATURE.

use rustix::io::Errno;
use vfio_user::wire::{DeviceState, Feature, feature, feature_flags as flags, migration_flags};
use zerocopy::{FromBytes, IntoBytes};

use super::{Model, Outcome, invalid};

impl Model {
    pub(super) fn feature(&mut self, payload: &[u8]) -> Outcome {
        let Ok((request, data)) = Feature::read_from_prefix(payload) else {
            return invalid();
        };
        let number = request.flags & flags::NUMBER;
        let operation = request.flags & !flags::NUMBER;
        let gets = [
            feature::MIGRATION,
            feature::MIG_DEVICE_STATE,
            feature::DMA_LOGGING_REPORT,
        ]
        .contains(&number);
        let sets = [
            feature::MIG_DEVICE_STATE,
            feature::DMA_LOGGING_START,
            feature::DMA_LOGGING_STOP,
        ]
        .contains(&number);
        if !gets && !sets {
            return Outcome::Errors(vec![Errno::NOTTY]);
        }
        let mut allowed = flags::PROBE;
        allowed |= if gets { flags::GET } else { 0 };
        allowed |= if sets { flags::SET } else { 0 };
        let room = u64::from(request.argsz);
        if operation & !allowed != 0 || room < 8 {
            return invalid();
        }
        let got = |data: &[u8]| match room >= 8 + data.len() as u64 {
            true => {
                let reply = Feature {
                    argsz: 8 + data.len() as u32,
                    flags: request.flags,
                };
                Outcome::Payload([reply.as_bytes(), data].concat())
            }
            false => invalid(),
        };
        if operation == flags::GET {
            return match number {
                feature::MIGRATION => {
                    got((migration_flags::STOP_COPY | migration_flags::PRE_COPY).as_bytes())
                }
                feature::MIG_DEVICE_STATE => got(DeviceState {
                    state: self.migration.state,
                    reserved: 0,
                }
                .as_bytes()),
                _ => match self.memory.report(data, room - 8) {
                    Ok(data) => got(&data),
                    Err(errors) => Outcome::Errors(errors),
                },
            };
        }
        if room < payload.len() as u64 || operation & flags::PROBE == 0 && operation != flags::SET {
            return invalid();
        }
        let mut reply = payload.to_vec();
        if operation == flags::SET {
            let result = match number {
                feature::MIG_DEVICE_STATE => match DeviceState::read_from_prefix(data) {
                    Ok((wanted, _)) => self.set_state(wanted.state),
                    Err(_) => Err(Errno::INVAL),
                },
                feature::DMA_LOGGING_START => {
                    self.memory
                        .start_logging(data, &mut self.held)
                        .map(|start| {
                            reply[8..8 + size_of_val(&start)].copy_from_slice(start.as_bytes());
                        })
                }
                _ => {
                    self.memory.stop_logging(&mut self.held);
                    Ok(())
                }
            };
            if let Err(errno) = result {
                return Outcome::Errors(vec![errno]);
            }
        }
        Outcome::Payload(reply)
    }
}
