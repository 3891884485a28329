//! What raising an interrupt costs beside the write to the client's eventfd that it ends in: an MSI-X message against a
//! bare write. Nobody waits on the eventfds, which makes the write as cheap as it gets and the rest as visible. The two
//! alternate in slices within one run. `cargo bench -p vfio-user --bench interrupt`.

use std::hint::black_box;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::write;
use vfio_user::wire::{Header, RegionAccess, SetIrqs, command, set_irqs_flags as set};
use vfio_user::{Bar, Device, Handler, Region, ResetKind, Session};
use zerocopy::IntoBytes;

const SLICES: usize = 200;
const RAISES: u32 = 5000;
/// The median ratio that a message may have at most.
const LIMIT: f64 = 1.2;
const VECTORS: u32 = 32;

struct Nothing;

impl Handler for Nothing {
    fn read(&mut self, _: Region, _: u64, _: &mut [u8]) {}
    fn write(&mut self, _: Region, _: u64, _: &[u8]) {}
    fn reset(&mut self, _: ResetKind) {}
}

fn main() {
    let mut messages = attached();
    messages.config_write(4, &[6]);
    messages.config_write(0x42, &[0, 0x80]);
    messages.wire(2, VECTORS);
    let irqs = messages.session.irqs();
    let bare = event_fd();

    let write_bare = |_| {
        let _ = black_box(write(black_box(&bare), &1_u64.to_ne_bytes()));
    };
    let raise = |i| irqs.raise(black_box(i % VECTORS));
    let (mut bare_times, mut times, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for slice in 0..=SLICES {
        // Alternating order, so that neither profits from being second.
        let (bare, ours) = if slice % 2 == 0 {
            let bare = timed(write_bare);
            (bare, timed(raise))
        } else {
            let ours = timed(raise);
            (timed(write_bare), ours)
        };
        if slice > 0 {
            bare_times.push(bare);
            times.push(ours);
            ratios.push(ours / bare);
        }
    }
    assert_eq!(irqs.raised(), (SLICES as u64 + 1) * u64::from(RAISES));

    println!("{SLICES} slices of {RAISES} interrupts each, alternating");
    report("MSI-X message, ns", times);
    report("bare write, ns", bare_times);
    let ratio = report("ratio", ratios);
    let verdict = if ratio <= LIMIT { "PASS" } else { "FAIL" };
    println!("{verdict}: median ratio {ratio:.3}, limit {LIMIT}");
    if verdict == "FAIL" {
        std::process::exit(1);
    }
}

/// Nanoseconds per call.
fn timed(work: impl Fn(u32)) -> f64 {
    let start = Instant::now();
    (0..RAISES).for_each(work);
    start.elapsed().as_secs_f64() * 1e9 / f64::from(RAISES)
}

/// Prints the median with the tenth and ninetieth percentile; returns the median.
fn report(what: &str, mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = |percent: usize| values[(values.len() - 1) * percent / 100];
    println!(
        "{what:22} median {:8.3}  p10 {:8.3}  p90 {:8.3}",
        at(50),
        at(10),
        at(90)
    );
    at(50)
}

/// A session whose client has negotiated.
struct Attached {
    session: Session,
    /// The eventfds; the client's end, were there one.
    _fds: Vec<OwnedFd>,
}

fn attached() -> Attached {
    let device = Device::builder()
        .bar(0, Bar::memory32(0x1000))
        .msix(VECTORS, 0, 0, 0, 0x800)
        .build()
        .unwrap();
    let mut attached = Attached {
        session: Session::new(device),
        _fds: Vec::new(),
    };
    attached.request(command::VERSION, &[0; 4], None);
    attached
}

impl Attached {
    fn config_write(&mut self, offset: u64, data: &[u8]) {
        let access = RegionAccess {
            offset,
            region: 7,
            count: data.len() as u32,
        };
        let payload = [access.as_bytes(), data].concat();
        self.request(command::REGION_WRITE, &payload, None);
    }

    /// Gives an eventfd to each of the interrupts of an index.
    fn wire(&mut self, index: u32, count: u32) {
        for start in 0..count {
            let request = SetIrqs {
                argsz: size_of::<SetIrqs>() as u32,
                flags: set::ACTION_TRIGGER | set::DATA_EVENTFD,
                index,
                start,
                count: 1,
            };
            let fd = event_fd();
            let theirs = fd.try_clone().unwrap();
            self.request(command::DEVICE_SET_IRQS, request.as_bytes(), Some(theirs));
            self._fds.push(fd);
        }
    }

    fn request(&mut self, command: u16, payload: &[u8], fd: Option<OwnedFd>) {
        let header = Header {
            command,
            size: (size_of::<Header>() + payload.len()) as u32,
            ..Default::default()
        };
        let bytes = [header.as_bytes(), payload].concat();
        self.session.space()[..bytes.len()].copy_from_slice(&bytes);
        self.session.received(bytes.len(), fd, false);
        self.session.process(&mut Nothing).unwrap();
        self.session.pass_epoch(self.session.epoch());
        // Flags and error of the reply.
        assert_eq!(self.session.output()[8..16], [1, 0, 0, 0, 0, 0, 0, 0]);
        let n = self.session.output().len();
        self.session.sent(n);
    }
}

fn event_fd() -> OwnedFd {
    eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap()
}
