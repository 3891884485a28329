//! Requests under way, and the replies that came.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};

use super::dialect::{Ids, Manners};
use super::{ClientError, Result};
use crate::inbox::Message;
use crate::wire::{command, header_flags};

/// Requests that may be under way, with the replies that nobody has collected.
const MOST: usize = 4096;

/// The counter that QEMU has for all its devices together.
static SHARED: AtomicU16 = AtomicU16::new(0);

/// A request whose reply is yet to be collected. Not to be copied: there is one reply.
/// Specification, "Command Concurrency".
#[derive(Debug)]
#[must_use = "a reply that is not collected takes up room"]
pub struct Ticket {
    serial: u64,
}

/// What a request was answered with.
#[derive(Debug, Default)]
pub struct Answer {
    /// The payload of the reply.
    pub payload: Vec<u8>,
    /// Descriptors that came with it.
    pub fds: Vec<OwnedFd>,
}

/// What a reply may look like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// Most bytes of its payload.
    pub(super) payload: usize,
    /// Most descriptors.
    pub(super) fds: usize,
}

#[derive(Debug)]
struct Pending {
    serial: u64,
    id: u16,
    command: u16,
    expected: Expected,
    /// Nobody waits for it any more.
    abandoned: bool,
}

/// Both queues, and where ids come from.
#[derive(Debug)]
pub(super) struct Exchange {
    manners: &'static Manners,
    next_id: u16,
    next_serial: u64,
    pending: VecDeque<Pending>,
    arrived: VecDeque<(u64, Result<Answer>)>,
}

impl Exchange {
    pub(super) fn new(manners: &'static Manners) -> Self {
        Self {
            manners,
            next_id: 0,
            next_serial: 0,
            pending: VecDeque::new(),
            arrived: VecDeque::new(),
        }
    }

    /// An id for a message, by the custom of the dialect.
    pub(super) fn id(&mut self) -> u16 {
        match self.manners.ids {
            Ids::Zero => 0,
            Ids::Shared => SHARED.fetch_add(1, Ordering::Relaxed),
            Ids::Counted => {
                let id = self.next_id;
                self.next_id = id.wrapping_add(1);
                id
            }
        }
    }

    /// The next id is the one that was given out last.
    pub(super) fn repeat_id(&mut self) {
        self.next_id = self.next_id.wrapping_sub(1);
    }

    /// Whether there is room for one more request.
    pub(super) fn has_room(&self) -> bool {
        self.pending.len() + self.arrived.len() < MOST
    }

    /// Whether no reply is waited for.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.iter().all(|pending| pending.abandoned)
    }

    /// A request is about to be sent.
    pub(super) fn expect(&mut self, id: u16, command: u16, expected: Expected) -> Ticket {
        let serial = self.next_serial;
        self.next_serial += 1;
        self.pending.push_back(Pending {
            serial,
            id,
            command,
            expected,
            abandoned: false,
        });
        Ticket { serial }
    }

    /// A reply came in.
    pub(super) fn reply(&mut self, message: Message<'_>) -> Result<()> {
        let header = message.header;
        let found = self
            .pending
            .iter()
            .position(|pending| (pending.id, pending.command) == (header.id, header.command));
        let pending = found
            .and_then(|at| self.pending.remove(at))
            .ok_or(ClientError::Protocol("unexpected reply"))?;
        if message.fds_lost || message.fds.len() > pending.expected.fds {
            return Err(ClientError::Protocol("unexpected descriptors"));
        }
        if message.payload.len() > pending.expected.payload {
            return Err(ClientError::Protocol("a reply is longer than asked for"));
        }
        let refused = header.flags & header_flags::ERROR != 0;
        if refused && self.manners.waits_for_data && header.command == command::REGION_READ {
            return Err(ClientError::Protocol("data are waited for that never come"));
        }
        if pending.abandoned {
            return Ok(());
        }
        let result = match refused {
            true => Err(ClientError::Refused {
                command: header.command,
                errno: errno(header.error),
            }),
            false => Ok(Answer {
                payload: message.payload.to_vec(),
                fds: message.fds.into_iter().collect(),
            }),
        };
        self.arrived.push_back((pending.serial, result));
        Ok(())
    }

    /// The reply to a request, once it has come.
    pub(super) fn take(&mut self, ticket: &Ticket) -> Option<Result<Answer>> {
        let at = self
            .arrived
            .iter()
            .position(|(serial, _)| *serial == ticket.serial)?;
        self.arrived.remove(at).map(|(_, result)| result)
    }

    /// Whether the request is still under way.
    pub(super) fn is_pending(&self, ticket: &Ticket) -> bool {
        self.pending
            .iter()
            .any(|pending| pending.serial == ticket.serial)
    }

    /// Nobody waits for the reply any more.
    pub(super) fn abandon(&mut self, ticket: &Ticket) {
        let same = |pending: &Pending| pending.serial == ticket.serial;
        if self.manners.late_reply_is_fatal {
            self.pending.retain(|pending| !same(pending));
        } else if let Some(pending) = self.pending.iter_mut().find(|pending| same(pending)) {
            pending.abandoned = true;
        }
    }
}

/// An error always has a reason, even if the server does not know it.
fn errno(error: u32) -> i32 {
    match error {
        1..=4095 => error.cast_signed(),
        _ => rustix::io::Errno::IO.raw_os_error(),
    }
}
