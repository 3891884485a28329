//! Interrupts: the line, the vectors, and how often each eventfd must have been signalled.

use rustix::io::Errno;
use vfio_user::wire::{SetIrqs, irq_index, set_irqs_flags as flags};
use zerocopy::FromBytes;

use super::config::Config;
use super::{Outcome, invalid};
use crate::device::{MSI_VECTORS, MSIX_VECTORS};
use crate::fds::Fd;

/// INTx.
#[derive(Clone, Debug, Default)]
struct Line {
    level: bool,
    masked: bool,
    disabled: bool,
    /// The client was told and has not yet said that the line may rise again.
    up: bool,
    trigger: Option<usize>,
}

/// A message, or a notice.
#[derive(Clone, Debug, Default)]
struct Vector {
    pending: bool,
    by_client: bool,
    by_guest: bool,
    trigger: Option<usize>,
}

/// What configuration space lets through.
#[derive(Clone, Debug, Default)]
struct Mode {
    msi: Option<u8>,
    msix: bool,
    msix_masked: bool,
    masters: bool,
}

#[derive(Debug)]
pub(crate) struct Irqs {
    line: Line,
    /// Of MSI, MSI-X, ERR and REQ.
    vectors: [Vec<Vector>; 4],
    mode: Mode,
    resample: Option<usize>,
    /// Signals that each eventfd must have got since it was looked at.
    pub(crate) signals: Vec<u64>,
}

impl Irqs {
    pub(crate) fn new() -> Self {
        Self {
            line: Line::default(),
            vectors: [MSI_VECTORS, MSIX_VECTORS, 1, 1].map(|count| vec![Vector::default(); count]),
            mode: Mode::default(),
            resample: None,
            signals: Vec::new(),
        }
    }

    pub(crate) fn level(&self) -> bool {
        self.line.level
    }

    pub(crate) fn set_level(&mut self, level: bool) {
        self.line.level = level;
        self.look();
    }

    /// Which eventfd, if any, the client signals at the end of an interrupt.
    pub(crate) fn resample(&self) -> Option<usize> {
        self.resample
    }

    pub(crate) fn resampled(&mut self) {
        self.line.up = false;
        self.look();
    }

    /// Configuration space changed.
    pub(crate) fn set_mode(&mut self, config: &Config) {
        let mode = Mode {
            msi: config.msi(),
            msix: config.msix(),
            msix_masked: config.msix_masked(),
            masters: config.masters(),
        };
        let forget = [
            self.mode.msi.is_some() && mode.msi.is_none(),
            self.mode.msix && !mode.msix,
        ];
        for (vectors, forget) in self.vectors.iter_mut().zip(forget) {
            vectors
                .iter_mut()
                .for_each(|vector| vector.pending &= !forget);
        }
        let disabled = config.intx_disabled() || mode.msi.is_some() || mode.msix;
        self.line.up &= !disabled;
        self.line.disabled = disabled;
        self.mode = mode;
        for (n, vector) in self.vectors[0].iter_mut().enumerate() {
            vector.by_guest = config.msi_mask() >> n & 1 != 0;
        }
        self.look();
    }

    /// The mask bit of an MSI-X vector was written.
    pub(crate) fn mask_msix(&mut self, vector: usize, masked: bool) {
        self.vectors[1][vector].by_guest = masked;
        self.look();
    }

    pub(crate) fn pending(&self, index: u32) -> u8 {
        let vectors = self.vectors[index as usize - 1].iter().enumerate();
        vectors.fold(0, |bits, (n, vector)| bits | u8::from(vector.pending) << n)
    }

    /// Vectors that the device may use.
    pub(crate) fn messages(&self) -> u32 {
        match (self.mode.msix, self.mode.msi) {
            (true, _) => MSIX_VECTORS as u32,
            (false, Some(order)) => 1 << order,
            (false, None) => 0,
        }
    }

    /// The device raises a message.
    pub(crate) fn raise(&mut self, vector: u32) {
        let (index, vector) = match (self.mode.msix, self.mode.msi) {
            (true, _) => (1, vector as usize),
            (false, Some(order)) => (0, vector as usize & ((1 << order) - 1)),
            (false, None) => return,
        };
        self.pend(index, vector);
    }

    /// The device has failed, or wants to be let go of.
    pub(crate) fn notify(&mut self, index: u32) {
        self.pend(index as usize - 1, 0);
    }

    fn pend(&mut self, index: usize, vector: usize) {
        if let Some(vector) = self.vectors[index].get_mut(vector) {
            vector.pending = true;
        }
        self.look();
    }

    pub(crate) fn disconnect(&mut self) {
        (0..irq_index::COUNT).for_each(|index| self.disable(index));
        self.vectors
            .iter_mut()
            .flatten()
            .for_each(|vector| vector.pending = false);
    }

    /// Masked and pending vectors of MSI and MSI-X, as words.
    pub(crate) fn save(&self) -> Vec<u8> {
        let word = |list: &[Vector], of: fn(&Vector) -> bool| {
            let bits = list.iter().enumerate();
            bits.fold(0_u64, |bits, (n, vector)| bits | u64::from(of(vector)) << n)
        };
        let words = self.vectors[..2]
            .iter()
            .flat_map(|list| [word(list, |v| v.by_guest), word(list, |v| v.pending)]);
        words.flat_map(u64::to_le_bytes).collect()
    }

    /// Goes on with what was saved; configuration space has been restored.
    pub(crate) fn restore(&mut self, saved: &[u8]) {
        let words: Vec<_> = saved
            .chunks(8)
            .map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")))
            .collect();
        for (list, words) in self.vectors.iter_mut().zip(words.chunks(2)) {
            for (n, vector) in list.iter_mut().enumerate() {
                vector.by_guest = words[0] >> n & 1 != 0;
                vector.pending = words[1] >> n & 1 != 0;
            }
        }
        self.look();
    }

    fn disable(&mut self, index: u32) {
        if index == irq_index::INTX {
            (
                self.line.trigger,
                self.line.masked,
                self.line.up,
                self.resample,
            ) = (None, false, false, None);
        } else {
            for vector in &mut self.vectors[index as usize - 1] {
                (vector.trigger, vector.by_client) = (None, false);
            }
        }
        self.look();
    }

    pub(crate) fn set(&mut self, payload: &[u8], fds: &[Fd], held: &mut u64) -> Outcome {
        let Ok((request, bools)) = SetIrqs::read_from_prefix(payload) else {
            return invalid();
        };
        let index = request.index;
        let (action, data) = (request.flags & flags::ACTION, request.flags & flags::DATA);
        let total = match index {
            irq_index::INTX => 1,
            index => self
                .vectors
                .get(index as usize - 1)
                .map_or(0, |vectors| vectors.len() as u64),
        };
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
            && (data != flags::DATA_BOOL || bools.len() as u64 == count)
            && (index < irq_index::ERR || action == flags::ACTION_TRIGGER);
        if !sound {
            return invalid();
        }
        let numbers = start as usize..(start + count) as usize;
        if disable {
            *held += 1;
            self.disable(index);
        } else if data == flags::DATA_EVENTFD {
            let events: Option<Vec<_>> = fds
                .iter()
                .map(|fd| match fd {
                    Fd::Event(event) => Some(*event),
                    _ => None,
                })
                .collect();
            let Some(events) = events else {
                return invalid();
            };
            match (action, index) {
                (flags::ACTION_TRIGGER, _) => {
                    let mut replaced = false;
                    for (i, number) in numbers.enumerate() {
                        let trigger = match index {
                            irq_index::INTX => &mut self.line.trigger,
                            index => &mut self.vectors[index as usize - 1][number].trigger,
                        };
                        replaced |= trigger.is_some();
                        *trigger = events.get(i).copied();
                        self.line.up &= index != irq_index::INTX;
                    }
                    *held += u64::from(replaced);
                    self.look();
                }
                (flags::ACTION_UNMASK, irq_index::INTX) => self.resample = events.first().copied(),
                _ if !events.is_empty() => return Outcome::Errors(vec![Errno::OPNOTSUPP]),
                _ => {}
            }
        } else {
            let meant = |i: usize| data == flags::DATA_NONE || bools[i] != 0;
            for (_, number) in numbers.enumerate().filter(|(i, _)| meant(*i)) {
                self.act(action, index, number);
            }
            *held += u64::from(action == flags::ACTION_MASK);
        }
        Outcome::Payload(Vec::new())
    }

    fn act(&mut self, action: u32, index: u32, number: usize) {
        let mask = action == flags::ACTION_MASK;
        if action == flags::ACTION_TRIGGER {
            let trigger = match index {
                irq_index::INTX => self.line.trigger,
                index => self.vectors[index as usize - 1][number].trigger,
            };
            self.signal(trigger);
        } else if index == irq_index::INTX {
            self.line.masked = mask;
            self.line.up &= mask;
        } else {
            self.vectors[index as usize - 1][number].by_client = mask;
        }
        self.look();
    }

    /// Delivers what can be delivered.
    fn look(&mut self) {
        let Line {
            level,
            masked,
            disabled,
            up,
            trigger,
        } = self.line;
        if level && !masked && !disabled && !up {
            self.line.up = true;
            self.signal(trigger);
        }
        let Mode {
            msi,
            msix,
            msix_masked,
            masters,
        } = self.mode;
        let open = [
            msi.is_some() && !msix && masters,
            msix && !msix_masked && masters,
            true,
            true,
        ];
        for (index, open) in open.into_iter().enumerate() {
            for number in 0..self.vectors[index].len() {
                let vector = &mut self.vectors[index][number];
                let free = !vector.by_client && !vector.by_guest && vector.trigger.is_some();
                if open && free && std::mem::take(&mut vector.pending) {
                    let trigger = vector.trigger;
                    self.signal(trigger);
                }
            }
        }
    }

    fn signal(&mut self, trigger: Option<usize>) {
        if let Some(event) = trigger {
            self.signals[event] += 1;
        }
    }
}
