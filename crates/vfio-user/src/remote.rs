//! Guest memory that only the client can reach: DMA_READ and DMA_WRITE.
//!
//! A queue on a thread of its own asks and waits here; the thread that owns the connection is woken by an eventfd,
//! sends what was asked, and hands answers back. Writes are not waited for, except in [`Remote::flush`] and when too
//! many are under way.
//!
//! A client may leave questions unanswered while one of our replies is held back (QEMU does), and a reply is held
//! back until queues have passed an epoch. So an epoch interrupts whoever waits: see [`RemoteMemory::interrupt`].

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use guest_mem::{DmaError, Remote};
use rustix::event::{EventfdFlags, eventfd};
use tracing::debug;
use zerocopy::{FromBytes, IntoBytes};

use crate::irq;
use crate::outbox::Outbox;
use crate::wire::{DmaAccess, HEADER, Header, command, header_flags};

/// How long a client may take to answer. One that needs longer is not asked again before it has answered something.
const PATIENCE: Duration = Duration::from_secs(5);

/// Writes, and bytes of them, that may be under way before the next one waits. So few fit into a socket's buffer, such
/// that replies are not kept waiting by them.
const WRITES: usize = 256;
const WRITE_BYTES: usize = 64 << 10;

/// Bytes of writes beyond which one is lost that may not wait, because an epoch has begun.
const MOST_WRITE_BYTES: usize = 8 << 20;

/// Questions under way, those included that nobody waits for any more.
const MOST: usize = 1 << 12;

/// What DMA by message came to, over all clients. Specification, "VFIO_USER_DMA_READ".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DmaMessages {
    /// DMA_READ messages that were answered with data.
    pub reads: u64,
    /// DMA_WRITE messages that were answered with success.
    pub writes: u64,
    /// Messages that were answered with an error, or with something else than was asked.
    pub refused: u64,
    /// Messages that were not answered in time, or not before the client left.
    pub lost: u64,
}

/// Asks the connected client for memory, on behalf of queues on other threads.
#[derive(Debug, Default)]
pub(crate) struct RemoteMemory {
    inner: Mutex<Inner>,
    /// Something changed that a waiting queue may wait for.
    changed: Condvar,
    /// Tells the owner of the connection that there is something to send.
    wake: OnceLock<OwnedFd>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Counts clients, so that nobody takes an answer for that of the next one.
    client: u64,
    connected: bool,
    bus_master: bool,
    /// An epoch has begun that queues have not passed.
    interrupted: bool,
    /// Did not answer in time, nor since.
    silent: bool,
    /// Was asked something.
    asked: bool,
    /// Bytes of data that may be in a message.
    limit: usize,
    next_id: u16,
    transfers: BTreeMap<u16, Transfer>,
    writes: usize,
    write_bytes: usize,
    /// Whole messages that the owner of the connection has not taken yet.
    pending: Vec<u8>,
    /// The owner knows that there are some.
    woken: bool,
    counters: DmaMessages,
}

#[derive(Debug)]
enum Transfer {
    /// A queue waits for the data.
    Read(DmaAccess),
    /// The data, or none if the client refused; a queue is about to take them.
    Answered(Option<Vec<u8>>),
    /// So many bytes.
    Write(usize),
    /// The session itself wants to know.
    Probe(DmaAccess),
    /// Nobody wants to know any more.
    Late,
}

/// Whose a reply from the client is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// Somebody's, who has it now; or it came late.
    Taken,
    /// That to a [`probe`](RemoteMemory::probe), with the data unless it was refused.
    Probe(u16, Option<&'a [u8]>),
    /// This client was never asked anything.
    Unasked,
}

impl RemoteMemory {
    /// From now on it can be told when there is something to send.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        if self.wake.get().is_none() {
            let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
            let _ = self.wake.set(fd);
        }
        Ok(())
    }

    /// Readable when there is something to send.
    pub(crate) fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        self.wake.get().map(AsFd::as_fd)
    }

    /// A client is there that takes and sends up to `limit` bytes of data with a message.
    pub(crate) fn connect(&self, limit: usize) {
        let mut inner = self.lock();
        inner.connected = true;
        inner.limit = limit;
    }

    /// The client is gone.
    pub(crate) fn disconnect(&self) {
        let mut inner = self.lock();
        *inner = Inner {
            client: inner.client + 1,
            interrupted: inner.interrupted,
            counters: Inner::settled(&inner),
            ..Inner::default()
        };
        self.changed.notify_all();
    }

    /// The device may use the bus, or no longer.
    pub(crate) fn set_bus_master(&self, enabled: bool) {
        self.lock().bus_master = enabled;
    }

    /// An epoch begins: whoever waits for the client returns, and so do those who come.
    pub(crate) fn interrupt(&self) {
        self.lock().interrupted = true;
        self.changed.notify_all();
    }

    /// The newest epoch has passed.
    pub(crate) fn resume(&self) {
        self.lock().interrupted = false;
    }

    /// Moves what queues have asked for to the end of `to`.
    pub(crate) fn take_pending(&self, to: &mut Outbox) {
        let mut inner = self.lock();
        if std::mem::take(&mut inner.woken)
            && let Some(fd) = self.wake.get()
        {
            irq::drain(fd);
        }
        to.append(&inner.pending);
        inner.pending.clear();
        inner.pending.shrink_to(WRITE_BYTES);
    }

    /// Reads for the session itself, which is told by [`answered`](Self::answered); none if that cannot be now. The
    /// caller takes what is pending then.
    pub(crate) fn probe(&self, address: u64, count: usize) -> Option<u16> {
        let mut inner = self.lock();
        if !inner.can_ask() || count > inner.limit {
            return None;
        }
        let access = DmaAccess {
            address,
            count: count as u64,
        };
        Some(inner.send(command::DMA_READ, &access, &[], Transfer::Probe(access)))
    }

    /// The client sent a reply.
    pub(crate) fn answered<'a>(&self, header: &Header, payload: &'a [u8]) -> Answer<'a> {
        let mut inner = self.lock();
        if !inner.asked {
            return Answer::Unasked;
        }
        let Some(transfer) = inner.transfers.remove(&header.id) else {
            debug!(id = header.id, "a reply to nothing");
            return Answer::Taken;
        };
        inner.silent = false;
        let refused = header.flags & header_flags::ERROR != 0;
        let data = |access: &DmaAccess| match DmaAccess::read_from_prefix(payload) {
            Ok((echo, data)) if !refused && header.command == command::DMA_READ => {
                let data = data.get(..access.count as usize)?;
                (echo == *access).then_some(data)
            }
            _ => None,
        };
        let answer = match &transfer {
            Transfer::Read(access) => {
                let data = data(access);
                inner.count(data.is_some(), |counters| &mut counters.reads);
                let answered = Transfer::Answered(data.map(<[u8]>::to_vec));
                inner.transfers.insert(header.id, answered);
                Answer::Taken
            }
            Transfer::Probe(access) => {
                let data = data(access);
                inner.count(data.is_some(), |counters| &mut counters.reads);
                return Answer::Probe(header.id, data);
            }
            Transfer::Write(bytes) => {
                inner.writes -= 1;
                inner.write_bytes -= bytes;
                let done = !refused && header.command == command::DMA_WRITE;
                inner.count(done, |counters| &mut counters.writes);
                Answer::Taken
            }
            Transfer::Answered(_) => {
                // Told twice; the first one counts, and whoever waits is about to take it.
                inner.transfers.insert(header.id, transfer);
                Answer::Taken
            }
            Transfer::Late => Answer::Taken,
        };
        if refused {
            debug!(
                command = header.command,
                errno = header.error,
                "the client refused"
            );
        }
        self.changed.notify_all();
        answer
    }

    /// What was counted so far.
    pub(crate) fn counters(&self) -> DmaMessages {
        self.lock().counters
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, inner: &mut Inner) {
        if !std::mem::replace(&mut inner.woken, true)
            && let Some(fd) = self.wake.get()
        {
            // The counter cannot be full: it is signalled once per emptying.
            let _ = rustix::io::write(fd, &1_u64.to_ne_bytes());
        }
    }

    /// Waits until `done` says what came of it, for as long as it makes sense to wait.
    fn wait<'s, T>(
        &'s self,
        mut inner: MutexGuard<'s, Inner>,
        mut done: impl FnMut(&mut Inner) -> Option<T>,
    ) -> (Result<T, Stop>, MutexGuard<'s, Inner>) {
        let client = inner.client;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if inner.client == client
                && let Some(result) = done(&mut inner)
            {
                return (Ok(result), inner);
            }
            if inner.interrupted {
                return (Err(Stop::Interrupted), inner);
            }
            if inner.client != client {
                return (Err(Stop::Gone), inner);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                inner.silent = true;
                debug!("the client does not answer");
                return (Err(Stop::Silent), inner);
            }
            inner = match self.changed.wait_timeout(inner, left) {
                Ok((inner, _)) => inner,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Reads at most as much as fits into one message.
    fn read_once(&self, address: u64, to: &mut [u8]) -> Result<(), DmaError> {
        let unreachable = DmaError::Unreachable { addr: address };
        let mut inner = self.lock();
        if inner.interrupted {
            return Err(DmaError::Interrupted);
        }
        if !inner.can_ask() {
            return Err(unreachable);
        }
        let client = inner.client;
        let access = DmaAccess {
            address,
            count: to.len() as u64,
        };
        let id = inner.send(command::DMA_READ, &access, &[], Transfer::Read(access));
        self.wake(&mut inner);
        let (answer, mut inner) = self.wait(inner, |inner| match inner.transfers.remove(&id) {
            Some(Transfer::Answered(data)) => Some(data),
            Some(other) => {
                inner.transfers.insert(id, other);
                None
            }
            None => Some(None),
        });
        match answer {
            Ok(Some(data)) => {
                to.copy_from_slice(&data);
                Ok(())
            }
            Ok(None) => Err(unreachable),
            Err(stop) => {
                if inner.client == client {
                    inner.transfers.insert(id, Transfer::Late);
                }
                inner.counters.lost += u64::from(stop == Stop::Silent);
                match stop {
                    Stop::Interrupted => Err(DmaError::Interrupted),
                    Stop::Gone | Stop::Silent => Err(unreachable),
                }
            }
        }
    }

    /// Writes at most as much as fits into one message.
    fn write_once(&self, address: u64, from: &[u8]) -> Result<(), DmaError> {
        let unreachable = DmaError::Unreachable { addr: address };
        let mut inner = self.lock();
        if !inner.has_room(from.len()) {
            let waited;
            (waited, inner) = self.wait(inner, |inner| inner.has_room(from.len()).then_some(()));
            match waited {
                // Who is interrupted goes on: the write must not be lost.
                Ok(()) | Err(Stop::Interrupted) => {}
                Err(Stop::Gone) => return Err(unreachable),
                Err(Stop::Silent) => inner.give_writes_up(),
            }
        }
        if !inner.can_ask() || inner.write_bytes > MOST_WRITE_BYTES {
            return Err(unreachable);
        }
        let access = DmaAccess {
            address,
            count: from.len() as u64,
        };
        let bytes = from.len();
        inner.writes += 1;
        inner.write_bytes += bytes;
        inner.send(command::DMA_WRITE, &access, from, Transfer::Write(bytes));
        self.wake(&mut inner);
        Ok(())
    }
}

/// Why waiting came to nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    Interrupted,
    Gone,
    Silent,
}

impl Remote for RemoteMemory {
    fn read(&self, addr: u64, to: &mut [u8]) -> Result<(), DmaError> {
        let limit = self.lock().limit.max(1);
        let mut at = addr;
        for piece in to.chunks_mut(limit) {
            self.read_once(at, piece)?;
            at = at.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }

    fn write(&self, addr: u64, from: &[u8]) -> Result<(), DmaError> {
        let limit = self.lock().limit.max(1);
        let mut at = addr;
        for piece in from.chunks(limit) {
            self.write_once(at, piece)?;
            at = at.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), DmaError> {
        let inner = self.lock();
        if inner.writes == 0 {
            return Ok(());
        }
        let (waited, mut inner) = self.wait(inner, |inner| (inner.writes == 0).then_some(()));
        match waited {
            Ok(()) => Ok(()),
            Err(Stop::Interrupted) => Err(DmaError::Interrupted),
            Err(Stop::Gone) => Err(DmaError::Unreachable { addr: 0 }),
            Err(Stop::Silent) => {
                inner.give_writes_up();
                Err(DmaError::Unreachable { addr: 0 })
            }
        }
    }

    fn blocks(&self) -> bool {
        true
    }
}

impl Inner {
    fn can_ask(&self) -> bool {
        self.connected
            && self.bus_master
            && !self.silent
            && self.limit > 0
            && self.transfers.len() < MOST
    }

    /// Whether another write may follow those under way.
    fn has_room(&self, bytes: usize) -> bool {
        self.writes == 0 || (self.writes < WRITES && self.write_bytes + bytes <= WRITE_BYTES)
    }

    fn send(&mut self, command: u16, access: &DmaAccess, data: &[u8], transfer: Transfer) -> u16 {
        while self.transfers.contains_key(&self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        self.asked = true;
        self.transfers.insert(id, transfer);
        let header = Header {
            id,
            command,
            // At most MAX_MESSAGE, which `limit` sees to.
            size: (HEADER + size_of::<DmaAccess>() + data.len()) as u32,
            flags: 0,
            error: 0,
        };
        for part in [header.as_bytes(), access.as_bytes(), data] {
            self.pending.extend_from_slice(part);
        }
        id
    }

    fn count(&mut self, done: bool, which: impl Fn(&mut DmaMessages) -> &mut u64) {
        match done {
            true => *which(&mut self.counters) += 1,
            false => self.counters.refused += 1,
        }
    }

    /// Nobody waits any more for what was written.
    fn give_writes_up(&mut self) {
        self.counters = self.settled();
        for transfer in self.transfers.values_mut() {
            if matches!(transfer, Transfer::Write(_)) {
                *transfer = Transfer::Late;
            }
        }
        self.writes = 0;
        self.write_bytes = 0;
    }

    /// The counters if nothing that was written is answered any more.
    fn settled(&self) -> DmaMessages {
        DmaMessages {
            lost: self.counters.lost + self.writes as u64,
            ..self.counters
        }
    }
}

#[cfg(test)]
mod tests;
