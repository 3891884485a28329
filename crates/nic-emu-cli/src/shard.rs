//! The event loop: one thread, one epoll, one timer heap, the NICs that it owns.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};

use net_backend::RxBuf;
use nic_emu::Time;
use rustix::event::{Timespec, epoll};
use rustix::time::{ClockId, clock_gettime};

use crate::nic::{Nic, Report, Source};

/// Events taken from the kernel at once.
const EVENTS: usize = 64;
/// Epoll data of the descriptor that ends the loop.
const STOP: u64 = u64::MAX;

/// A thread's worth of NICs.
pub struct Shard {
    epoll: OwnedFd,
    nics: Vec<Slot>,
    timers: crate::timers::Timers,
    /// NICs that have work left from their last turn, in the order in which they get the next one.
    busy: Vec<usize>,
    rx_buf: RxBuf,
    stop: UnixStream,
}

/// A NIC and what the loop remembers about it. A NIC whose turn panicked is gone; its number is not used again.
struct Slot {
    nic: Option<Nic>,
    name: String,
    queued: bool,
}

impl Shard {
    /// A shard without NICs, which runs until `stop` becomes readable.
    ///
    /// # Errors
    ///
    /// The kernel has no descriptor or memory left for an epoll.
    pub fn new(stop: UnixStream) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            &stop,
            epoll::EventData::new_u64(STOP),
            epoll::EventFlags::IN,
        )?;
        let timers = crate::timers::Timers::default();
        Ok(Self {
            epoll,
            nics: Vec::new(),
            timers,
            busy: Vec::new(),
            rx_buf: RxBuf::new(),
            stop,
        })
    }

    /// Takes over a NIC; its socket is served from the next turn of the loop on.
    ///
    /// # Errors
    ///
    /// A descriptor of the NIC cannot be waited for.
    pub fn add(&mut self, mut nic: Nic) -> io::Result<()> {
        nic.start(self.epoll.as_fd(), self.nics.len())?;
        self.nics.push(Slot {
            name: nic.name().to_owned(),
            nic: Some(nic),
            queued: false,
        });
        Ok(())
    }

    /// Serves the NICs until told to stop; returns what each has counted.
    ///
    /// # Errors
    ///
    /// The kernel refuses to wait, which leaves nothing to do but to end.
    pub fn run(mut self) -> io::Result<Vec<Report>> {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let timeout = self.timeout();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let now = monotonic();
            for event in events.drain(..) {
                let data = event.data.u64();
                if data == STOP {
                    drop(self.stop);
                    return Ok(self
                        .nics
                        .into_iter()
                        .filter_map(|slot| slot.nic.map(Nic::close))
                        .collect());
                }
                let (nic, source) = Source::of_token(data);
                self.with(nic, |nic, _, epoll| {
                    nic.handle(source, event.flags, now, epoll)
                });
                self.enqueue(nic);
            }
            while let Some(nic) = self.timers.pop_due(now) {
                self.enqueue(nic);
            }
            self.turns(now);
        }
    }

    /// Gives each NIC that has something to do one turn.
    fn turns(&mut self, now: Time) {
        for nic in std::mem::take(&mut self.busy) {
            self.nics[nic].queued = false;
            let more = self
                .with(nic, |nic, rx_buf, epoll| nic.turn(now, rx_buf, epoll))
                .unwrap_or(false);
            if more {
                self.enqueue(nic);
            }
            let deadline = self.nics[nic].nic.as_ref().and_then(Nic::deadline);
            self.timers.set(nic, deadline);
        }
    }

    fn enqueue(&mut self, nic: usize) {
        let Some(slot) = self.nics.get_mut(nic) else {
            return;
        };
        if slot.nic.is_some() && !slot.queued {
            slot.queued = true;
            self.busy.push(nic);
        }
    }

    /// Lets a NIC do something. If that panics, the NIC is closed and the others run on: whatever made it panic
    /// came from its guest, its client or its network.
    fn with<T>(
        &mut self,
        nic: usize,
        f: impl FnOnce(&mut Nic, &mut RxBuf, std::os::fd::BorrowedFd<'_>) -> io::Result<T>,
    ) -> Option<T> {
        let slot = self.nics.get_mut(nic)?;
        let device = slot.nic.as_mut()?;
        let (rx_buf, epoll) = (&mut self.rx_buf, self.epoll.as_fd());
        // The NIC is dropped if it panics, so nobody sees the state that it was left in.
        match catch_unwind(AssertUnwindSafe(|| f(device, rx_buf, epoll))) {
            Ok(Ok(value)) => return Some(value),
            Ok(Err(error)) => tracing::error!(
                nic = slot.name,
                "closed, its descriptors cannot be watched: {error}"
            ),
            Err(_) => tracing::error!(
                nic = slot.name,
                "closed after an internal error; please report it"
            ),
        }
        let lost = slot.nic.take();
        // Its sockets and its backend go too; should that panic as well, they stay open.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(lost)));
        self.timers.set(nic, None);
        None
    }

    /// How long to sleep: not at all with work left, else until the next deadline, if there is one.
    fn timeout(&mut self) -> Option<Timespec> {
        if !self.busy.is_empty() {
            return Some(Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            });
        }
        let wait = self.timers.next()?.0.saturating_sub(monotonic().0);
        Some(Timespec {
            tv_sec: (wait / 1_000_000_000) as i64,
            tv_nsec: (wait % 1_000_000_000) as i64,
        })
    }
}

/// The time that all models here are told.
fn monotonic() -> Time {
    let now = clock_gettime(ClockId::Monotonic);
    Time(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}
