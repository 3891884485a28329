//! A client without manners, and the judge of what it is answered.

use std::collections::VecDeque;

use serde_json::Value;
use vfio_user::wire::{
    HEADER, Header, MAX_DATA, MAX_FDS, MAX_MESSAGE, Version, command, header_flags,
};
use vfio_user::{Closed, Session};
use zerocopy::{FromBytes, IntoBytes};

use crate::bus::Bus;
use crate::device::{self, AREA, Memory};
use crate::fds::{Made, Pool};
use crate::framer::{Framer, Next, Whole};
use crate::model::{Message, Model, Outcome, invalid};
use crate::{leaks, planted, stats};

/// Bytes of replies after which no further request may be executed, and the largest reply on top.
const MAX_WAITING: usize = (64 << 10) + MAX_MESSAGE + 4096;

/// Bytes that a server may send in one piece.
const MAX_PIECE: usize = 32 << 10;

/// What a client may propose beside the version: nothing, what QEMU proposes, a second socket, little room.
const PROPOSALS: [&str; 4] = [
    "",
    "{\"capabilities\":{\"pgsizes\":4096,\"max_msg_fds\":16,\"max_dma_maps\":65535,\"max_data_xfer_size\":1048576,\
     \"migration\":{\"max_bitmap_size\":268435456,\"pgsize\":4096},\"write_multiple\":true}}\0",
    "{\"capabilities\":{\"max_msg_fds\":2,\"twin_socket\":{\"supported\":true}}}\0",
    "{\"capabilities\":{\"max_msg_fds\":0,\"max_data_xfer_size\":24}}\0",
];

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
    pub(crate) pool: &'static Pool,
    pub(crate) session: Session,
    pub(crate) device: Memory,
    pub(crate) model: Model,
    pub(crate) bus: Bus,
    pub(crate) made: Made,
    /// Files of the client have shrunk.
    pub(crate) shrunk: bool,
    framer: Framer,
    negotiated: bool,
    /// A length that cannot be stands in the stream.
    unframed: Option<u32>,
    awaited: VecDeque<Awaited>,
    output: Vec<u8>,
    /// Descriptors that came with the message that `output` begins with.
    output_fds: usize,
    /// Epoch at which the connection began.
    base: u64,
    passed: u64,
    /// What MIG_DATA_READ has brought since this was last emptied.
    pub(crate) captured: Vec<u8>,
}

impl Peer {
    fn new() -> Self {
        planted::begin();
        let session = Session::new(device::description());
        let area = session.region_mem(4).expect("a mappable region");
        area.write(AREA.start as u64, &vec![0; AREA.len()])
            .expect("its memory");
        Self {
            pool: Pool::get(),
            device: Memory::new(session.irqs()),
            session,
            model: Model::new(),
            bus: Bus::default(),
            made: Made::default(),
            shrunk: false,
            framer: Framer::default(),
            negotiated: false,
            unframed: None,
            awaited: VecDeque::new(),
            output: Vec::new(),
            output_fds: 0,
            base: 0,
            passed: 0,
            captured: Vec::new(),
        }
    }

    /// Runs `script` with a peer, which goes without leaving anything behind.
    pub(crate) fn run(script: impl FnOnce(&mut Self)) {
        guest_mem::sigbus::install().expect("a signal handler");
        // Whatever lives as long as the fuzzer exists before descriptors are counted.
        Pool::get();
        drop(device::description());
        let open = leaks::descriptors();
        let mut peer = Self::new();
        script(&mut peer);
        peer.check();
        peer.disconnect();
        drop(peer);
        leaks::check(open);
    }

    /// Proposes what some client proposes.
    pub(crate) fn hello(&mut self, which: u8) {
        let json = PROPOSALS[usize::from(which) % PROPOSALS.len()].as_bytes();
        let version = Version { major: 0, minor: 0 };
        let header = Header {
            command: command::VERSION,
            size: (HEADER + size_of::<Version>() + json.len()) as u32,
            ..Default::default()
        };
        self.feed(
            &[header.as_bytes(), version.as_bytes(), json].concat(),
            &[],
            false,
        );
    }

    /// Sends bytes, with descriptors at the first that is received of them.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], choices: &[u8], mut lost: bool) {
        let mut theirs = Vec::new();
        let mut fds = Vec::new();
        for choice in choices {
            let (fd, their) = self.pool.make(*choice, &mut self.made);
            fds.push(fd);
            theirs.push(their);
        }
        self.model.irqs.signals.resize(self.made.events.len(), 0);
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

    /// Sends bytes on the second socket, if there is one.
    pub(crate) fn feed_twin(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.session.twin_fd().is_some() {
            let space = self.session.twin_space();
            assert!(!space.is_empty(), "no room for input on the second socket");
            let (now, later) = bytes.split_at(bytes.len().min(space.len()));
            space[..now.len()].copy_from_slice(now);
            self.session.twin_received(now.len(), [], false);
            bytes = later;
            match self.session.process_twin() {
                Ok(()) => {}
                Err(Closed::Framing(_)) => self.disconnect(),
                Err(other) => panic!("closed for no reason: {other}"),
            }
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

    /// Goes on with what had to wait, if it need not wait any more.
    fn go_on(&mut self) {
        if self.session.can_continue() {
            self.process();
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
        let json = version.map_or(&[][..], |(_, json)| json);
        if refused {
            assert!(!sound || !json.is_empty(), "a sound proposal was refused");
            self.await_reply(*header, invalid());
            return;
        }
        assert!(sound, "this is no proposal: {header:?}");
        self.negotiated = true;
        stats::negotiated();
        let text = json.strip_suffix(&[0]).unwrap_or(b"{}");
        let json: Value = serde_json::from_slice(text).expect("a proposal that was accepted");
        let number = |key| json["capabilities"][key].as_u64();
        self.model.max_fds = number("max_msg_fds").map_or(1, |n| MAX_FDS.min(n as usize));
        self.model.max_data =
            number("max_data_xfer_size").map_or(MAX_DATA, |n| n.min(MAX_DATA as u64) as usize);
        let twin =
            json["capabilities"]["twin_socket"]["supported"] == true && self.model.max_fds > 0;
        self.await_reply(*header, Outcome::Version { twin });
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
        self.pass(back);
        self.go_on();
    }

    fn pass(&mut self, back: u64) {
        let epoch = self.session.epoch().saturating_sub(back).max(self.passed);
        self.session.pass_epoch(epoch);
        self.passed = epoch;
    }

    /// Receives up to `limit` bytes of what may leave.
    pub(crate) fn receive(&mut self, limit: usize) {
        self.take_output(limit);
        self.go_on();
    }

    fn take_output(&mut self, limit: usize) {
        let twin = self.session.twin_output().to_vec();
        self.session.twin_sent(twin.len());
        self.bus.take(&twin);
        let mut received = 0;
        while self.session.has_output() && received < limit {
            let piece = self.session.output();
            assert!(!piece.is_empty() && piece.len() <= MAX_PIECE);
            let n = piece.len().min(limit - received);
            self.output.extend_from_slice(&piece[..n]);
            let fds = self.session.output_fds().len();
            if fds > 0 {
                assert_eq!(
                    self.output.len(),
                    n,
                    "descriptors in the middle of a message"
                );
                self.output_fds = fds;
            }
            self.session.sent(n);
            received += n;
            self.judge_output();
        }
        assert!(
            received <= MAX_WAITING,
            "{received} bytes of replies were waiting"
        );
    }

    fn judge_output(&mut self) {
        let output = std::mem::take(&mut self.output);
        let mut rest = &output[..];
        while let Ok((header, behind)) = Header::read_from_prefix(rest) {
            let size = header.size as usize;
            assert!(
                (HEADER..=MAX_MESSAGE + 64).contains(&size),
                "a reply of {size} bytes"
            );
            let Some(payload) = behind.get(..size - HEADER) else {
                break;
            };
            if header.flags & header_flags::TYPE == 0 {
                self.bus.take(&rest[..size]);
            } else {
                let fds = std::mem::take(&mut self.output_fds);
                self.judge(&header, payload, fds);
            }
            rest = &behind[size - HEADER..];
        }
        self.output = rest.to_vec();
    }

    fn judge(&mut self, header: &Header, payload: &[u8], fds: usize) {
        let is_due = |awaited: &Awaited| {
            (awaited.header.id, awaited.header.command) == (header.id, header.command)
        };
        // What need not be answered is an error if it is.
        let failed = header.flags & header_flags::ERROR != 0;
        while let Some(front) = self.awaited.front()
            && front.outcome == Outcome::Perhaps
            && !(is_due(front) && failed)
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
        if failed {
            assert!(
                payload.is_empty() && header.error != 0,
                "an error is a header with a reason"
            );
            assert!(header.error < 4096, "{} is no errno", header.error);
        } else {
            assert_eq!(header.error, 0);
        }
        if request.command == command::MIG_DATA_READ && !failed {
            self.captured
                .extend_from_slice(payload.get(8..).unwrap_or_default());
        }
        let (expected, expected_fds) = match outcome {
            Outcome::Perhaps => return,
            Outcome::Errors(errors) => {
                let ours = errors
                    .iter()
                    .any(|e| e.raw_os_error().unsigned_abs() == header.error);
                assert!(
                    failed && ours,
                    "{request:?} was answered {header:?} rather than {errors:?}"
                );
                return;
            }
            Outcome::Version { twin } => {
                let (version, json) = Version::read_from_prefix(payload).expect("a version");
                assert!(!failed && version.major == 0 && (twin || header.size <= request.size));
                assert!(json.is_empty() || json.ends_with(&[0]));
                assert_eq!(fds, usize::from(twin), "the second socket");
                return;
            }
            Outcome::Payload(expected) => (expected, 0),
            Outcome::WithFds(expected, fds) => (expected, fds),
        };
        assert!(
            !failed && payload == expected,
            "{request:?} was answered {header:?} {:x?} rather than {:x?}",
            &payload[..payload.len().min(256)],
            &expected[..expected.len().min(256)]
        );
        assert_eq!(fds, expected_fds, "descriptors with {request:?}");
    }

    /// Lets everything happen that was held up.
    pub(crate) fn settle(&mut self) {
        loop {
            self.pass(0);
            self.take_output(usize::MAX);
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
        self.awaited
            .retain(|awaited| awaited.outcome != Outcome::Perhaps);
        assert!(
            self.awaited.is_empty(),
            "no reply to {:?}",
            self.awaited.front()
        );
        assert_eq!(self.unframed, None, "a broken stream goes on");
        assert!(self.output.is_empty(), "half a reply");
    }

    /// No message has begun.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.framer.is_empty()
    }

    /// The client goes, and another may come.
    pub(crate) fn disconnect(&mut self) {
        self.take_output(usize::MAX);
        let in_step = self.session.wants_input();
        self.session.disconnect(&mut self.device);
        self.model.disconnect();
        if !in_step {
            // What the model has foreseen was partly never executed.
            self.model.resets = self.device.resets;
            self.model.forget_area(&self.session);
            self.take_signals();
            self.model.irqs.signals.fill(0);
        }
        self.bus.clear();
        self.framer = Framer::default();
        self.negotiated = false;
        self.unframed = None;
        self.awaited.clear();
        self.output.clear();
        self.output_fds = 0;
        self.base = self.session.epoch();
        assert!(!self.session.has_output() && self.session.wants_input());
        assert!(self.session.resample_fd().is_none() && self.session.twin_fd().is_none());
        let published = self.session.mem();
        assert!(
            !format!("{:?}", published.load()).contains("0x"),
            "memory of a client that is gone"
        );
    }
}
