//! Frames, a backend and a network namespace for tests.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use guest_mem::GuestSlice;
use nic_emu::Time;
use nic_emu::common::frame::{Csum, Features, Gso, GsoKind, Offload, RxFrame, TxBurst, TxFrame};
use nic_emu::common::gso::Segments;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::BorrowedFd;

use crate::backend::{Backend, Receiver, RxBuf, Sender};

pub(crate) const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
pub(crate) const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

/// RFC 1071, word by word: written apart from the one under test.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn pseudo(frame: &[u8]) -> Vec<u8> {
    let mut bytes = frame[26..34].to_vec();
    bytes.extend([0, frame[23]]);
    bytes.extend(((frame.len() - 34) as u16).to_be_bytes());
    bytes
}

/// Whether both checksums of an untagged IPv4 frame without options are right.
pub(crate) fn checksums_fit(frame: &[u8]) -> bool {
    let len = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let frame = &frame[..14 + len];
    checksum(&[&frame[14..34]]) == 0 && checksum(&[&pseudo(frame), &frame[34..]]) == 0
}

fn ipv4(from: ([u8; 6], Ipv4Addr), to: ([u8; 6], Ipv4Addr), protocol: u8, l4: &[u8]) -> Vec<u8> {
    let mut frame = [to.0, from.0].concat();
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((20 + l4.len() as u16).to_be_bytes());
    frame.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
    frame.extend(from.1.octets());
    frame.extend(to.1.octets());
    let sum = checksum(&[&frame[14..34]]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend(l4);
    frame
}

/// A complete UDP frame.
pub(crate) fn udp(
    from: ([u8; 6], Ipv4Addr),
    to: ([u8; 6], Ipv4Addr),
    ports: [u16; 2],
    payload: &[u8],
) -> Vec<u8> {
    let mut l4: Vec<u8> = ports.iter().flat_map(|p| p.to_be_bytes()).collect();
    l4.extend((8 + payload.len() as u16).to_be_bytes());
    l4.extend([0, 0]);
    l4.extend(payload);
    let mut frame = ipv4(from, to, 17, &l4);
    let sum = checksum(&[&pseudo(&frame), &frame[34..]]);
    frame[40..42].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The same frame with its UDP checksum left to do.
pub(crate) fn leave_udp_checksum(frame: &[u8]) -> (Vec<u8>, Offload) {
    let mut frame = frame.to_vec();
    let seed = !checksum(&[&pseudo(&frame)]);
    frame[40..42].copy_from_slice(&seed.to_be_bytes());
    let csum = Some(Csum {
        start: 34,
        offset: 6,
    });
    let offload = Offload {
        csum,
        ..Offload::default()
    };
    (frame, offload)
}

/// A TCP super-frame from A to B with its segmentation and checksums left to do.
pub(crate) fn tcp_super(seq: u32, mss: u16, payload: &[u8]) -> (Vec<u8>, Offload) {
    let mut l4 = vec![0x10, 0x00, 0x20, 0x00];
    l4.extend(seq.to_be_bytes());
    // Acknowledgement 1; 20 bytes of header, ACK and PSH, window.
    l4.extend([0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    l4.extend(payload);
    let addr = |last| Ipv4Addr::new(10, 9, 0, last);
    let mut frame = ipv4((MAC_A, addr(1)), (MAC_B, addr(2)), 6, &l4);
    let seed = !checksum(&[&pseudo(&frame)]);
    frame[50..52].copy_from_slice(&seed.to_be_bytes());
    let offload = Offload {
        csum: Some(Csum {
            start: 34,
            offset: 16,
        }),
        gso: Some(Gso {
            kind: GsoKind::TcpV4,
            hdr_len: 54,
            mss,
        }),
        bad_fcs: false,
    };
    (frame, offload)
}

/// Checks that `frames` are complete, and returns their TCP payload in the order of sequence numbers from `seq`.
pub(crate) fn tcp_payload(seq: u32, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut payload = Vec::new();
    for frame in frames {
        assert!(checksums_fit(frame), "bad checksum in {frame:02x?}");
        let at = u32::from_be_bytes(frame[38..42].try_into().unwrap());
        assert_eq!(at, seq + payload.len() as u32);
        payload.extend(&frame[54..]);
    }
    payload
}

/// Bytes that differ from place to place.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// A burst of frames in host memory, each in three pieces.
pub(crate) fn burst(frames: &[(Vec<u8>, Offload)]) -> TxBurst<'_> {
    let mut burst = TxBurst::new();
    for (frame, offload) in frames {
        let (head, body) = frame.split_at(frame.len().min(60));
        let (a, b) = body.split_at(body.len() / 3);
        let body = [a, b].map(GuestSlice::from_bytes);
        assert!(burst.push_frame(head, &body, *offload));
    }
    burst
}

/// Sends frames without requests, which must all be taken.
pub(crate) fn send(backend: &mut dyn Sender, frames: &[Vec<u8>], now: Time) {
    let plain: Vec<_> = frames
        .iter()
        .map(|f| (f.clone(), Offload::default()))
        .collect();
    for plain in plain.chunks(32) {
        assert_eq!(backend.send(&burst(plain), now), plain.len());
    }
}

/// Receives all that is there now, as it would be on a wire.
pub(crate) fn drain(backend: &mut dyn Receiver, now: Time) -> Vec<Vec<u8>> {
    let mut buf = RxBuf::new();
    let mut frames = Vec::new();
    while let Some(frame) = backend.recv(&mut buf, now) {
        frames.extend(on_the_wire(frame.into()));
    }
    frames
}

/// What a frame becomes when nobody puts off anything any longer.
pub(crate) fn on_the_wire(frame: TxFrame<'_>) -> Vec<Vec<u8>> {
    let mut segments = Segments::new(frame).expect("a sound request");
    let mut buffer = vec![0; segments.max_len()];
    let mut next = || {
        segments
            .next_into(&mut buffer)
            .map(|len| buffer[..len].to_vec())
    };
    std::iter::from_fn(&mut next).collect()
}

/// Whether `fd` becomes readable; gives up after a time that is long even for a busy machine.
pub(crate) fn readable(fd: BorrowedFd<'_>) -> bool {
    readable_within(fd, Duration::from_secs(10))
}

/// Whether `fd` is readable within `time`.
pub(crate) fn readable_within(fd: BorrowedFd<'_>, time: Duration) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let time = time.try_into().unwrap();
    poll(&mut fds, Some(&time)).unwrap() > 0
}

/// What a [`Recorder`] has seen, and has in store.
pub(crate) struct Record {
    pub(crate) sent: Vec<(Vec<u8>, Offload)>,
    pub(crate) store: VecDeque<Vec<u8>>,
    /// Frames that it takes before it is full.
    pub(crate) room: usize,
}

/// A backend that keeps what is sent.
pub(crate) struct Recorder(Arc<Mutex<Record>>);

impl Recorder {
    pub(crate) fn backend() -> (Backend, Arc<Mutex<Record>>) {
        let record = Arc::new(Mutex::new(Record {
            sent: Vec::new(),
            store: VecDeque::new(),
            room: usize::MAX,
        }));
        let backend = Backend {
            name: "recorder".into(),
            tx: Box::new(Self(record.clone())),
            rx: Box::new(Self(record.clone())),
            counters: Arc::default(),
        };
        (backend, record)
    }
}

impl Sender for Recorder {
    fn features(&self) -> Features {
        Features::ALL
    }

    fn send(&mut self, burst: &TxBurst<'_>, _now: Time) -> usize {
        let mut record = self.0.lock().unwrap();
        let taken = burst.len().min(record.room);
        record.room -= taken;
        for frame in burst.frames().take(taken) {
            let mut bytes = vec![0; frame.len()];
            frame.copy_to(&mut bytes).unwrap();
            record.sent.push((bytes, frame.offload));
        }
        taken
    }
}

impl Receiver for Recorder {
    fn recv<'b>(&mut self, buf: &'b mut RxBuf, _now: Time) -> Option<RxFrame<'b>> {
        let bytes = self.0.lock().unwrap().store.pop_front()?;
        let data = &mut buf.frame()[..bytes.len()];
        data.copy_from_slice(&bytes);
        Some(RxFrame::new(data))
    }
}

/// Set in the environment of tests that run as root of a user namespace.
pub(crate) const IN_USER_NAMESPACE: &str = "NET_BACKEND_TEST_IN_USER_NAMESPACE";

/// Runs `test` on a thread with a network namespace of its own, which vanishes afterwards.
///
/// An ordinary user gets it by running this one test again in a user namespace.
pub(crate) fn in_netns<F: FnOnce() + Send + 'static>(test: F) {
    let name = std::any::type_name::<F>();
    std::thread::spawn(move || {
        if enter_netns().is_ok() {
            return test();
        }
        assert!(
            std::env::var_os(IN_USER_NAMESPACE).is_none(),
            "no network namespace even in a user namespace"
        );
        let name = name
            .trim_start_matches("net_backend::")
            .trim_end_matches("::{{closure}}");
        let status = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(IN_USER_NAMESPACE, "1")
            .status()
            .expect("tests of TAPs need root, or `unshare`");
        assert!(
            status.success(),
            "tests of TAPs need root or user namespaces"
        );
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Puts the calling thread into a new, empty network namespace.
#[expect(
    deprecated,
    reason = "its successor is unsafe because of flags for memory and files; this one is for the network alone"
)]
pub(crate) fn enter_netns() -> rustix::io::Result<()> {
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET)
}
