//! The device's own accesses to the guest's memory, and a client that answers them well or badly.

use std::thread;
use std::time::{Duration, Instant};

use guest_mem::DmaError;
use vfio_user::wire::{DmaAccess, HEADER, Header, MAX_MESSAGE, command, header_flags};
use vfio_user::{DmaMessages, Session};
use zerocopy::{FromBytes, IntoBytes};

use crate::device::pattern;
use crate::fds::PAGE;
use crate::input::Input;
use crate::model::Entry;
use crate::peer::Peer;

/// Writes that may be under way, and bytes of them: fewer than make a queue wait.
const WRITES: usize = 128;
const WRITE_BYTES: usize = 16 << 10;

/// Bytes of one access.
const LONGEST: usize = 96;

/// How long a queue may take to notice anything.
const PATIENCE: Duration = Duration::from_secs(4);

/// Where the device's accesses and their answers stand.
#[derive(Debug, Default)]
pub(crate) struct Bus {
    /// Commands of the server that wait for an answer, as they came.
    asked: Vec<(Header, DmaAccess, Vec<u8>)>,
    /// The beginning of one.
    partial: Vec<u8>,
    /// Writes without an answer.
    writes: usize,
    write_bytes: usize,
    /// Answers that were good, over all clients.
    good: DmaMessages,
    /// The client has answered something that is not so: where its memory is, nobody knows any more.
    pub(crate) lied: bool,
}

/// How a client answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Good,
    Refusal,
    Short,
    WrongCommand,
    WrongAddress,
    Never,
    /// Only after an epoch has begun and passed.
    Late,
}

impl Bus {
    /// Takes commands of the server.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.partial);
        let mut rest = &bytes[..];
        while let Ok((header, behind)) = Header::read_from_prefix(rest) {
            let size = header.size as usize;
            assert!(
                (HEADER..=MAX_MESSAGE).contains(&size),
                "a command of {size} bytes"
            );
            let Some(payload) = behind.get(..size - HEADER) else {
                break;
            };
            rest = &behind[size - HEADER..];
            if header.flags & header_flags::TYPE != 0 {
                // A complaint about what came on the second socket.
                assert_eq!(
                    (header.flags, payload.len()),
                    (header_flags::REPLY | header_flags::ERROR, 0)
                );
                continue;
            }
            let (access, data) = DmaAccess::read_from_prefix(payload).expect("an access");
            match header.command {
                command::DMA_READ => assert!(data.is_empty()),
                command::DMA_WRITE => assert_eq!(data.len() as u64, access.count),
                other => panic!("command {other} for a client"),
            }
            assert!(access.count > 0 && header.flags == 0);
            self.asked.push((header, access, data.to_vec()));
        }
        self.partial = rest.to_vec();
    }

    /// The client is gone; what was counted stays.
    pub(crate) fn clear(&mut self) {
        *self = Self {
            good: self.good,
            ..Self::default()
        };
    }

    /// Nothing was counted that did not happen.
    pub(crate) fn check(&self, session: &Session) {
        let counted = session.dma_messages();
        assert_eq!(
            counted.writes, self.good.writes,
            "writes that were answered"
        );
        assert!(counted.reads >= self.good.reads);
    }
}

impl Peer {
    /// The device writes somewhere.
    pub(crate) fn device_writes(&mut self, input: &mut Input<'_>) {
        self.settle();
        let Some((entry, at, len)) = self.place(input) else {
            return;
        };
        let remote = entry.file.is_none();
        if remote && (self.bus.writes + len > WRITES || self.bus.write_bytes + len > WRITE_BYTES) {
            return;
        }
        let data: Vec<u8> = (at..).take(len).map(pattern).collect();
        let published = self.session.mem();
        let written = published.load().write(at, &data);
        let reachable = entry.writable && (!remote || self.asks());
        assert_eq!(written.is_ok(), reachable, "{written:?} {entry:x?}");
        if !reachable {
            return;
        }
        self.model.memory.written(at, len as u64);
        if remote {
            let before = self.bus.asked.len();
            self.listen();
            let pieces = &self.bus.asked[before..];
            let expected = data
                .chunks(self.model.max_data)
                .zip((at..).step_by(self.model.max_data));
            assert!(
                pieces
                    .iter()
                    .map(|(_, access, data)| (&data[..], access.address))
                    .eq(expected),
                "{pieces:x?} for {len} bytes at {at:#x}"
            );
            self.bus.writes += pieces.len();
            self.bus.write_bytes += len;
        } else if !self.shrunk {
            let mut back = vec![0; len];
            published
                .load()
                .read(at, &mut back)
                .expect("what was written");
            assert_eq!(back, data);
        }
        if self.bus.writes == 0 {
            assert_eq!(published.load().flush(), Ok(()));
        }
    }

    /// A queue on a thread of its own reads somewhere, and the client answers it somehow.
    pub(crate) fn device_reads(&mut self, input: &mut Input<'_>) {
        self.settle();
        let Some((entry, at, len)) = self.place(input) else {
            return;
        };
        if entry.file.is_some() || self.bus.lied {
            return;
        }
        let plan = self.plan(input);
        let may_ask = self.asks();
        let published = self.session.mem();
        let mem = published.load();
        let mut data = vec![0; len];
        let result = thread::scope(|scope| {
            let queue = scope.spawn(|| mem.read(at, &mut data));
            let started = Instant::now();
            while !queue.is_finished() {
                assert!(started.elapsed() < PATIENCE, "nobody tells the queue");
                self.listen();
                let mine =
                    |access: &DmaAccess| access.address >= at && access.address < at + len as u64;
                let asked = |(header, access, _): &(Header, DmaAccess, Vec<u8>)| {
                    header.command == command::DMA_READ && mine(access)
                };
                match self.bus.asked.iter().position(asked) {
                    Some(found) if plan == Answer::Never || plan == Answer::Late => {
                        // An epoch ends the waiting; the answer comes when nobody wants it any more.
                        let late = self.bus.asked.remove(found);
                        self.send(command::DEVICE_RESET, &[]);
                        while !queue.is_finished() {
                            assert!(
                                started.elapsed() < PATIENCE,
                                "an epoch does not end the waiting"
                            );
                            thread::yield_now();
                        }
                        if plan == Answer::Late {
                            let good = self.bus.good;
                            self.answer(&late, Answer::Good);
                            self.bus.good = good;
                        }
                    }
                    Some(found) => {
                        let asked = self.bus.asked.remove(found);
                        self.answer(&asked, plan);
                    }
                    None => thread::yield_now(),
                }
            }
            queue.join().expect("a queue that does not panic")
        });
        match (plan, may_ask) {
            (_, false) => assert!(
                matches!(result, Err(DmaError::Unreachable { .. })),
                "{result:?}"
            ),
            (Answer::Good, _) => {
                assert_eq!(result, Ok(()));
                assert!(data.iter().zip(at..).all(|(byte, at)| *byte == pattern(at)));
            }
            (Answer::Never | Answer::Late, _) => assert_eq!(result, Err(DmaError::Interrupted)),
            _ => assert!(
                matches!(result, Err(DmaError::Unreachable { .. })),
                "{plan:?} {result:?}"
            ),
        }
    }

    /// The client answers one of the commands that wait.
    pub(crate) fn answer_one(&mut self, input: &mut Input<'_>) {
        self.settle();
        if self.bus.asked.is_empty() {
            return;
        }
        let which = usize::from(input.u8()) % self.bus.asked.len();
        let plan = self.plan(input);
        let asked = self.bus.asked.remove(which);
        self.answer(&asked, plan);
        if plan == Answer::Good && input.rarely() {
            // Once more, to nobody.
            self.reply(&asked.0, asked.1.as_bytes());
        }
    }

    fn plan(&self, input: &mut Input<'_>) -> Answer {
        input.pick(&[
            Answer::Good,
            Answer::Good,
            Answer::Refusal,
            Answer::Short,
            Answer::WrongCommand,
            Answer::WrongAddress,
            Answer::Never,
            Answer::Late,
        ])
    }

    /// Answers a command.
    fn answer(&mut self, (header, access, data): &(Header, DmaAccess, Vec<u8>), plan: Answer) {
        let is_read = header.command == command::DMA_READ;
        let shared = self.model.memory.entries.iter().any(|entry| {
            entry.file.is_some()
                && entry.iova <= access.address
                && access.address - entry.iova < entry.size
        });
        if !is_read && !matches!(plan, Answer::Never | Answer::Late) {
            self.bus.writes -= 1;
            self.bus.write_bytes -= data.len();
        }
        let mut payload = access.as_bytes().to_vec();
        if is_read {
            let mut data: Vec<_> = (access.address..)
                .take(access.count as usize)
                .map(pattern)
                .collect();
            if shared && plan == Answer::Good {
                // Every other client says what is so.
                match header.id % 2 {
                    0 => _ = self.session.mem().load().read(access.address, &mut data),
                    _ => self.bus.lied = true,
                }
            }
            payload.extend(data);
        }
        let good = u64::from(plan == Answer::Good);
        if is_read {
            self.bus.good.reads += good;
        } else {
            // A write needs no more than the word that it was done.
            self.bus.good.writes += u64::from(matches!(
                plan,
                Answer::Good | Answer::Short | Answer::WrongAddress
            ));
        }
        let mut header = Header {
            flags: header_flags::REPLY,
            ..*header
        };
        match plan {
            Answer::Good => {}
            Answer::Refusal => {
                header.flags |= header_flags::ERROR;
                header.error = 5;
                payload.clear();
            }
            Answer::Short => payload.truncate(payload.len() / 2),
            Answer::WrongCommand => header.command ^= command::DMA_READ ^ command::DMA_WRITE,
            Answer::WrongAddress => payload[0] ^= 1,
            Answer::Never | Answer::Late => return,
        }
        self.reply(&header, &payload);
    }

    fn reply(&mut self, header: &Header, payload: &[u8]) {
        let header = Header {
            size: (HEADER + payload.len()) as u32,
            flags: header.flags | header_flags::REPLY,
            ..*header
        };
        let bytes = [header.as_bytes(), payload].concat();
        match self.session.twin_fd() {
            Some(_) => self.feed_twin(&bytes),
            None => self.feed(&bytes, &[], false),
        }
    }

    /// Sends a request.
    pub(crate) fn send(&mut self, number: u16, payload: &[u8]) {
        let header = Header {
            command: number,
            size: (HEADER + payload.len()) as u32,
            ..Default::default()
        };
        self.feed(&[header.as_bytes(), payload].concat(), &[], false);
    }

    /// Takes what queues have asked for.
    fn listen(&mut self) {
        self.session.on_dma_requests();
        self.receive(usize::MAX);
    }

    /// Whether the client can be asked for memory.
    fn asks(&self) -> bool {
        let [_, _, masters] = self.model.command();
        masters && self.model.max_data > 0
    }

    /// Some bytes of an entry; in a file not those that mark a page.
    fn place(&self, input: &mut Input<'_>) -> Option<(Entry, u64, usize)> {
        let entries = &self.model.memory.entries;
        if entries.is_empty() || self.bus.lied {
            return None;
        }
        let entry = entries[usize::from(input.u8()) % entries.len()];
        let mut offset = (u64::from(input.u16()) * 16).min(entry.size - 1);
        let mut len = 1 + usize::from(input.u8()) % LONGEST;
        if let Some((_, start)) = entry.file {
            let at = (start + offset) % PAGE;
            offset += 8_u64.saturating_sub(at);
            len = len.min((PAGE - (start + offset) % PAGE) as usize);
        }
        if offset >= entry.size {
            return None;
        }
        len = len.min(usize::try_from(entry.size - offset).unwrap_or(len));
        Some((entry, entry.iova + offset, len))
    }
}
