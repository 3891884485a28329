//! A client without manners, and the judge of what it is answered.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use guest_mem::{Access, GuestMem};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{read, write};
use vfio_user::wire::{HEADER, Header, MAX_MESSAGE, Version, command, header_flags};
use vfio_user::{Closed, Command, Session};
use zerocopy::{FromBytes, IntoBytes};

use crate::device::{self, Memory};
use crate::fds::{PAGE, Pool, mark};
use crate::framer::{Framer, Next, Whole};
use crate::model::{Entry, Message, Model, Outcome, invalid};
use crate::{leaks, planted, stats};

/// Bytes of replies after which no further request may be executed, and the largest reply on top.
const MAX_WAITING: usize = (64 << 10) + MAX_MESSAGE + 4096;

/// Bytes that a server may send in one piece.
const MAX_PIECE: usize = 32 << 10;

/// A reply that is due.
#[derive(Debug)]
struct Awaited {
    header: Header,
    outcome: Outcome,
    /// Epoch that must have passed.
    epoch: u64,
}

/// A session with a device behind it, and everything that is known about the two.
pub(crate) struct Peer {
    pool: &'static Pool,
    session: Session,
    device: Memory,
    pub(crate) model: Model,
    /// Our ends of the eventfds that were made.
    events: Vec<OwnedFd>,
    framer: Framer,
    negotiated: bool,
    /// A length that cannot be stands in the stream.
    unframed: Option<u32>,
    awaited: VecDeque<Awaited>,
    output: Vec<u8>,
    /// Epoch at which the connection began.
    base: u64,
    passed: u64,
}

impl Peer {
    fn new() -> Self {
        planted::begin();
        let session = Session::new(device::description());
        Self {
            pool: Pool::get(),
            device: Memory::new(session.irqs()),
            session,
            model: Model::new(),
            events: Vec::new(),
            framer: Framer::default(),
            negotiated: false,
            unframed: None,
            awaited: VecDeque::new(),
            output: Vec::new(),
            base: 0,
            passed: 0,
        }
    }

    /// Runs `script` with a peer, which goes without leaving anything behind.
    pub(crate) fn run(script: impl FnOnce(&mut Self)) {
        Pool::get();
        let open = leaks::descriptors();
        let mut peer = Self::new();
        script(&mut peer);
        peer.check();
        peer.disconnect();
        drop(peer);
        leaks::check(open);
    }

    /// Proposes what QEMU proposes, without JSON.
    pub(crate) fn hello(&mut self) {
        let version = Version { major: 0, minor: 0 };
        let header = Header {
            command: command::VERSION,
            size: (HEADER + size_of::<Version>()) as u32,
            ..Default::default()
        };
        self.feed(
            &[header.as_bytes(), version.as_bytes()].concat(),
            &[],
            false,
        );
    }

    /// Sends bytes, with descriptors at the first that is received of them.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], choices: &[u8], mut lost: bool) {
        let mut theirs = Vec::new();
        let mut fds = Vec::new();
        for choice in choices {
            let (fd, their) = self.pool.make(*choice, &mut self.events);
            fds.push(fd);
            theirs.push(their);
        }
        self.model.irqs.signals.resize(self.events.len(), 0);
        while !bytes.is_empty() {
            if !self.session.wants_input() {
                self.settle();
            }
            let space = self.session.space();
            assert!(
                !space.is_empty(),
                "no room for input although it is welcome"
            );
            let (now, later) = bytes.split_at(bytes.len().min(space.len()));
            space[..now.len()].copy_from_slice(now);
            self.session.received(now.len(), theirs.drain(..), lost);
            self.framer.push(now, &fds, lost);
            fds.clear();
            lost = false;
            bytes = later;
            self.process();
        }
    }

    fn process(&mut self) {
        let closed = self.session.process(&mut self.device).err();
        self.foresee(closed.as_ref());
        match closed {
            None => {}
            Some(Closed::Framing(size)) => {
                assert_eq!(self.unframed, Some(size), "the stream was in order");
                self.disconnect();
            }
            Some(Closed::Negotiation(_)) => self.disconnect(),
            Some(other) => panic!("closed for no reason: {other}"),
        }
    }

    /// Works out what has to be answered to what was sent.
    fn foresee(&mut self, closed: Option<&Closed>) {
        while self.unframed.is_none() {
            match self.framer.next() {
                Next::Incomplete => break,
                Next::Unframed(header) => {
                    self.unframed = Some(header.size);
                    self.await_reply(header, invalid());
                }
                Next::Message(whole) if !self.negotiated => {
                    let refused = matches!(closed, Some(Closed::Negotiation(_)));
                    self.foresee_version(&whole, refused);
                    if refused {
                        break;
                    }
                }
                Next::Message(Whole {
                    header,
                    payload,
                    fds,
                    lost,
                }) => {
                    let message = Message {
                        header,
                        payload: &payload,
                        fds: &fds,
                        lost,
                    };
                    let outcome = self.model.execute(&message, self.pool);
                    planted::saw(&header, &payload, &outcome);
                    stats::message(&outcome);
                    self.await_reply(header, outcome);
                }
            }
        }
    }

    fn foresee_version(&mut self, whole: &Whole, refused: bool) {
        let Whole {
            header,
            payload,
            fds,
            lost,
        } = whole;
        let version = Version::read_from_prefix(payload).ok();
        let sound = header.command == command::VERSION
            && header.flags & header_flags::TYPE == 0
            && fds.is_empty()
            && !lost
            && version.is_some_and(|(version, _)| version.major == 0);
        let plain = version.is_some_and(|(_, json)| json.is_empty());
        if refused {
            assert!(!sound || !plain, "a sound proposal was refused");
            self.await_reply(*header, invalid());
        } else {
            assert!(sound, "this is no proposal: {header:?}");
            self.negotiated = true;
            stats::negotiated();
            self.await_reply(*header, Outcome::Version);
        }
    }

    fn await_reply(&mut self, header: Header, outcome: Outcome) {
        if header.wants_reply() {
            let epoch = self.base + self.model.held;
            self.awaited.push_back(Awaited {
                header,
                outcome,
                epoch,
            });
        }
    }

    /// Lets queues pass some of the epochs that have begun.
    pub(crate) fn pass_epoch(&mut self, back: u64) {
        let epoch = self.session.epoch().saturating_sub(back).max(self.passed);
        self.session.pass_epoch(epoch);
        self.passed = epoch;
    }

    /// Receives up to `limit` bytes of what may leave.
    pub(crate) fn receive(&mut self, limit: usize) -> usize {
        let mut received = 0;
        while self.session.has_output() && received < limit {
            let piece = self.session.output();
            assert!(!piece.is_empty() && piece.len() <= MAX_PIECE);
            let n = piece.len().min(limit - received);
            self.output.extend_from_slice(&piece[..n]);
            self.session.sent(n);
            received += n;
        }
        assert!(
            received <= MAX_WAITING,
            "{received} bytes of replies were waiting"
        );
        let output = std::mem::take(&mut self.output);
        let mut rest = &output[..];
        while let Ok((header, behind)) = Header::read_from_prefix(rest) {
            let size = header.size as usize;
            assert!(
                (HEADER..=MAX_MESSAGE).contains(&size),
                "a reply of {size} bytes"
            );
            let Some(payload) = behind.get(..size - HEADER) else {
                break;
            };
            rest = &behind[size - HEADER..];
            self.judge(&header, payload);
        }
        self.output = rest.to_vec();
        received
    }

    fn judge(&mut self, header: &Header, payload: &[u8]) {
        let is_due = |awaited: &Awaited| {
            (awaited.header.id, awaited.header.command) == (header.id, header.command)
        };
        while let Some(Awaited {
            outcome: Outcome::Perhaps,
            ..
        }) = self.awaited.front()
            && !self.awaited.front().is_some_and(is_due)
        {
            self.awaited.pop_front();
        }
        let awaited = self.awaited.pop_front().filter(is_due);
        let Awaited {
            header: request,
            outcome,
            epoch,
        } = awaited.expect("a reply to what was asked next");
        assert!(
            self.passed >= epoch,
            "{request:?} was answered before queues had let go"
        );
        assert_eq!(header.flags & !header_flags::ERROR, header_flags::REPLY);
        let failed = header.flags & header_flags::ERROR != 0;
        if failed {
            assert!(
                payload.is_empty() && header.error != 0,
                "an error is a header with a reason"
            );
            assert!(header.error < 4096, "{} is no errno", header.error);
        } else {
            assert_eq!(header.error, 0);
        }
        match outcome {
            Outcome::Any | Outcome::Perhaps => {}
            Outcome::Refused => assert!(failed, "{request:?} was not refused"),
            Outcome::Errors(errors) => assert!(
                failed
                    && errors
                        .iter()
                        .any(|e| e.raw_os_error().unsigned_abs() == header.error),
                "{request:?} was answered {header:?} rather than {errors:?}"
            ),
            Outcome::Payload(expected) => assert!(
                !failed && payload == expected,
                "{request:?} was answered {header:?} {payload:x?} rather than {expected:x?}"
            ),
            Outcome::Version => {
                let (version, json) = Version::read_from_prefix(payload).expect("a version");
                assert!(!failed && version.major == 0 && header.size <= request.size);
                assert!(json.is_empty() || json.ends_with(&[0]));
            }
        }
    }

    /// Lets everything happen that was held up.
    pub(crate) fn settle(&mut self) {
        loop {
            self.pass_epoch(0);
            self.receive(usize::MAX);
            assert!(!self.session.has_output());
            if !self.session.can_continue() {
                break;
            }
            self.process();
        }
        assert!(
            self.session.wants_input(),
            "stalled with nothing to wait for"
        );
    }

    /// The client looks at everything.
    pub(crate) fn check(&mut self) {
        self.settle();
        self.awaited
            .retain(|awaited| awaited.outcome != Outcome::Perhaps);
        assert!(
            self.awaited.is_empty(),
            "no reply to {:?}",
            self.awaited.front()
        );
        assert_eq!(self.unframed, None, "a broken stream goes on");
        assert!(self.output.is_empty(), "half a reply");
        assert_eq!(self.device.resets, self.model.resets, "resets");
        assert_eq!(
            self.device.irqs.level(),
            self.model.irqs.level(),
            "interrupt line"
        );
        let (command, bits) = (self.device.command, self.model.command());
        for (flag, bit) in [Command::IO, Command::MEMORY, Command::BUS_MASTER]
            .into_iter()
            .zip(bits)
        {
            assert_eq!(command.contains(flag), bit, "{flag:?}");
        }
        let counts = self.take_signals();
        assert_eq!(counts, self.model.irqs.signals, "signals of the eventfds");
        self.model.irqs.signals.fill(0);
        let published = self.session.mem();
        self.check_memory(&published.load());
    }

    /// How often each eventfd was signalled.
    fn take_signals(&self) -> Vec<u64> {
        let take = |fd| {
            let mut count = [0; 8];
            fcntl_setfl(fd, OFlags::NONBLOCK).expect("our own eventfd");
            read(fd, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
        };
        self.events.iter().map(take).collect()
    }

    fn check_memory(&self, mem: &GuestMem) {
        // Memory without a file is reached by asking for it.
        let reach = |addr: u64, len: u64, access| mem.check(addr, len, access).is_ok();
        let entries = &self.model.memory.entries;
        for entry in entries {
            let last = entry.iova + (entry.size - 1);
            assert!(reach(entry.iova, entry.size, Access::Read), "{entry:x?}");
            for addr in [entry.iova, last] {
                assert_eq!(
                    reach(addr, 1, Access::ReadWrite),
                    entry.writable,
                    "{entry:x?}"
                );
            }
            for outside in [entry.iova.checked_sub(1), last.checked_add(1)]
                .into_iter()
                .flatten()
            {
                let inside = |e: &Entry| e.iova <= outside && outside - e.iova < e.size;
                assert_eq!(
                    reach(outside, 1, Access::Read),
                    entries.iter().any(inside),
                    "{outside:#x}"
                );
            }
            if let Some((file, offset)) = entry.file
                && offset.is_multiple_of(PAGE)
                && entry.size >= 8
                && offset + PAGE <= self.pool.files[file].size
            {
                let mut found = [0; 8];
                mem.read(entry.iova, &mut found)
                    .expect("a file that is mapped");
                assert_eq!(
                    u64::from_ne_bytes(found),
                    mark(file, offset / PAGE),
                    "{entry:x?}"
                );
            }
        }
    }

    /// The client signals the end of an interrupt.
    pub(crate) fn resample(&mut self) {
        self.settle();
        if let Some(event) = self.model.irqs.resample() {
            fcntl_setfl(&self.events[event], OFlags::NONBLOCK).expect("our own eventfd");
            write(&self.events[event], &1_u64.to_ne_bytes()).expect("room in an eventfd");
            self.model.irqs.signals[event] = 0;
            self.model.irqs.resampled();
        }
        assert_eq!(
            self.session.resample_fd().is_some(),
            self.model.irqs.resample().is_some()
        );
        self.session.on_resample();
    }

    /// The client goes, and another may come.
    pub(crate) fn disconnect(&mut self) {
        self.receive(usize::MAX);
        let in_step = self.session.wants_input();
        self.session.disconnect(&mut self.device);
        self.model.disconnect();
        if !in_step {
            // What the model has foreseen was partly never executed.
            self.model.resets = self.device.resets;
            self.take_signals();
            self.model.irqs.signals.fill(0);
        }
        self.framer = Framer::default();
        self.negotiated = false;
        self.unframed = None;
        self.awaited.clear();
        self.output.clear();
        self.base = self.session.epoch();
        assert!(!self.session.has_output() && self.session.wants_input());
        assert!(self.session.resample_fd().is_none());
        let published = self.session.mem();
        assert!(
            !format!("{:?}", published.load()).contains("0x"),
            "memory of a client that is gone"
        );
    }
}
