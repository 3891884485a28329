//! The interrupt line, and how often each eventfd must have been signalled.

use vfio_user::wire::{SetIrqs, irq_index, set_irqs_flags as flags};
use zerocopy::FromBytes;

use super::{Outcome, invalid};
use crate::fds::Fd;
use rustix::io::Errno;

/// State of INTx.
#[derive(Debug, Default)]
pub(crate) struct Irqs {
    level: bool,
    masked: bool,
    disabled: bool,
    /// The client was told and has not yet said that the line may rise again.
    up: bool,
    trigger: Option<usize>,
    resample: Option<usize>,
    /// Signals that each eventfd must have got since it was looked at.
    pub(crate) signals: Vec<u64>,
}

impl Irqs {
    pub(crate) fn level(&self) -> bool {
        self.level
    }

    pub(crate) fn set_level(&mut self, level: bool) {
        self.level = level;
        self.look();
    }

    pub(crate) fn set_disabled(&mut self, disabled: bool) {
        self.disabled = disabled;
        self.up &= !disabled;
        self.look();
    }

    /// Which eventfd, if any, the client signals at the end of an interrupt.
    pub(crate) fn resample(&self) -> Option<usize> {
        self.resample
    }

    pub(crate) fn resampled(&mut self) {
        self.up = false;
        self.look();
    }

    pub(crate) fn disconnect(&mut self) {
        (self.trigger, self.resample, self.masked, self.up) = (None, None, false, false);
    }

    pub(crate) fn set(&mut self, payload: &[u8], fds: &[Fd], held: &mut u64) -> Outcome {
        let Ok((request, bools)) = SetIrqs::read_from_prefix(payload) else {
            return invalid();
        };
        let (action, data) = (request.flags & flags::ACTION, request.flags & flags::DATA);
        let total = u64::from(request.index == irq_index::INTX);
        let (start, count) = (u64::from(request.start), u64::from(request.count));
        let disable =
            (request.flags, start, count) == (flags::ACTION_TRIGGER | flags::DATA_NONE, 0, 0);
        let sound = request.argsz >= 20
            && request.flags & !(flags::ACTION | flags::DATA) == 0
            && action.count_ones() == 1
            && data.count_ones() == 1
            && start < total
            && start + count <= total
            && (count > 0 || disable)
            && (fds.is_empty() || (data == flags::DATA_EVENTFD && fds.len() as u64 == count))
            && (data != flags::DATA_BOOL || bools.len() as u64 == count);
        if !sound {
            return invalid();
        }
        if disable {
            *held += u64::from(self.trigger.is_some());
            self.disconnect();
            self.look();
        } else if data == flags::DATA_EVENTFD {
            let event = match fds {
                [] => None,
                [Fd::Event(event)] => Some(*event),
                _ => return invalid(),
            };
            match action {
                flags::ACTION_TRIGGER => {
                    *held += u64::from(self.trigger.is_some());
                    self.trigger = event;
                    self.resampled();
                }
                flags::ACTION_UNMASK => self.resample = event,
                _ if event.is_some() => return Outcome::Errors(vec![Errno::OPNOTSUPP]),
                _ => {}
            }
        } else if data == flags::DATA_NONE || bools[0] != 0 {
            match action {
                flags::ACTION_TRIGGER => self.signal(),
                flags::ACTION_UNMASK => {
                    self.masked = false;
                    self.resampled();
                }
                _ => {
                    *held += u64::from(!self.masked);
                    self.masked = true;
                }
            }
        }
        Outcome::Payload(Vec::new())
    }

    fn look(&mut self) {
        if self.level && !self.masked && !self.disabled && !self.up {
            self.up = true;
            self.signal();
        }
    }

    fn signal(&mut self) {
        if let Some(event) = self.trigger {
            self.signals[event] += 1;
        }
    }
}
