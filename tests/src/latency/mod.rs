//! Round trips of small frames through a guest: an open-loop generator and what comes back.
//!
//! A sender and a receiver, each a thread of this process, work on the near end of a guest's NIC: on a TAP by raw
//! Ethernet frames of 60 bytes ([`frames`]), or through the host's IP stack by datagrams that make frames of the same
//! size ([`datagrams`]). Each carries its number and when it was sent. The sender keeps to the rate whatever comes back,
//! so a guest that cannot follow loses frames and does not slow the measurement down. Arrivals are timed by the kernel
//! as they leave the TAP, so it does not matter when the receiver gets a processor.
//!
//! The guest's part is in [`reflector`](crate::reflector).

mod fill;
mod flood;
mod ledger;
mod link;
mod pace;
mod run;
mod stamp;
mod sys;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use nic_emu_lab::Netns;

pub use fill::fill;
pub use flood::Flood;
pub use link::{ETHERTYPE, FRAME};

/// Unless said otherwise: what frames wait in queues on the way takes a guest that is overloaded less.
const SILENCE: Duration = Duration::from_millis(500);

/// What is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Frames a second.
    pub rate: u32,
    /// For how long.
    pub duration: Duration,
    /// How long a silence after the last frame was sent means that whatever is still missing is lost.
    pub silence: Duration,
}

impl Load {
    /// `rate` frames a second for `seconds`.
    #[must_use]
    pub fn new(rate: u32, seconds: u32) -> Self {
        Self {
            rate,
            duration: Duration::from_secs(seconds.into()),
            silence: SILENCE,
        }
    }

    /// As long as `silence` may pass before what is missing counts as lost: for those who lose nothing, on a machine that is
    /// busy with other things.
    #[must_use]
    pub fn patient(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }

    /// Frames in all.
    #[must_use]
    pub fn frames(&self) -> u64 {
        (u128::from(self.rate) * self.duration.as_nanos() / 1_000_000_000) as u64
    }
}

/// What came of it.
#[derive(Clone)]
pub struct Trips {
    /// Frames offered; each was either handed to the TAP or refused by its full queue.
    pub sent: u64,
    /// Those of them that found the TAP's queue full, as far as the kernel says so to the sender. The TAP counts all
    /// ([`crate::counters::TapCounters::tx_dropped`]).
    pub refused: u64,
    /// Frames that came back, each counted once.
    pub received: u64,
    /// Frames that came back again.
    pub duplicates: u64,
    /// Frames that came in but are not of this measurement, or damaged.
    pub strangers: u64,
    /// Frames that came back but found no room in our socket. If there are any, the figures are wrong.
    pub overlooked: u64,
    /// From the first frame sent to the last.
    pub sending: Duration,
    /// From the first frame sent to the last that came back.
    pub receiving: Duration,
    /// Round trips in ns, three significant digits.
    pub histogram: Histogram<u64>,
}

impl Trips {
    /// Share of the frames that did not come back, 0 to 1.
    #[must_use]
    pub fn loss(&self) -> f64 {
        1.0 - self.received as f64 / self.sent.max(1) as f64
    }

    /// Frames a second that were offered in fact.
    #[must_use]
    pub fn offered_rate(&self) -> f64 {
        self.sent as f64 / self.sending.as_secs_f64().max(1e-9)
    }

    /// Frames a second that came back.
    #[must_use]
    pub fn received_rate(&self) -> f64 {
        self.received as f64 / self.receiving.as_secs_f64().max(1e-9)
    }

    /// The round trip that a share of `quantile` (0 to 1) does not exceed.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.histogram.value_at_quantile(quantile))
    }

    /// The cumulative distribution: round trips, and the share of what came back that took no longer.
    #[must_use]
    pub fn distribution(&self) -> Vec<(Duration, f64)> {
        let total = self.histogram.len().max(1) as f64;
        let mut until = 0;
        let point = |step: hdrhistogram::iterators::IterationValue<u64>| {
            until += step.count_at_value();
            let trip = Duration::from_nanos(step.value_iterated_to());
            (trip, until as f64 / total)
        };
        self.histogram.iter_recorded().map(point).collect()
    }
}

impl fmt::Display for Trips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |quantile| self.quantile(quantile).as_secs_f64() * 1e6;
        write!(
            f,
            "{} sent ({:.0}/s), {} received ({:.0}/s), {} refused, {} twice, {} strangers, {} overlooked; us: min {:.0}, \
             p50 {:.0}, p90 {:.0}, p99 {:.0}, max {:.0}",
            self.sent,
            self.offered_rate(),
            self.received,
            self.received_rate(),
            self.refused,
            self.duplicates,
            self.strangers,
            self.overlooked,
            us(0.0),
            us(0.5),
            us(0.9),
            us(0.99),
            us(1.0),
        )
    }
}

/// Without the histogram's thousands of numbers.
impl fmt::Debug for Trips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Offers raw frames to the guest with the address `guest` on the TAP `tap`, and collects those that its
/// [reflector](crate::reflector::attach) sends back. Waits first until one has come back.
///
/// # Errors
/// There is no such TAP, this process may not use it, or nothing comes back at all.
pub fn frames(netns: &Netns, tap: &str, guest: [u8; 6], load: &Load) -> Result<Trips> {
    let link = link::Link::raw(netns.name(), tap, guest)?;
    run::run(&link, load)
}

/// Offers UDP datagrams to the guest's [echo](crate::reflector::udp_echo) at `to`; each makes a frame of 60 bytes.
/// Waits first until one has come back.
///
/// # Errors
/// There is no way there, or nothing comes back at all.
pub fn datagrams(netns: &Netns, to: SocketAddr, load: &Load) -> Result<Trips> {
    let link = link::Link::udp(netns.name(), to)?;
    run::run(&link, load)
}
