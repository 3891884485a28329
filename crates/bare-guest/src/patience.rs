//! Waiting that comes to an end.

use crate::args::Args;
use crate::clock::Clock;

/// Looks at what is waited for between two looks at the clock.
const LOOKS: u32 = 64;

/// A moment after which a job gives up, moved on by everything that happens.
#[derive(Debug)]
pub struct Patience {
    clock: Clock,
    idle: u64,
    /// When time is up; none while something has just happened.
    end: Option<u64>,
    looked: u32,
    halt: bool,
}

impl Patience {
    /// As long as `args` allow, from now on.
    pub fn new(clock: Clock, args: &Args) -> Self {
        let idle = u64::from(args.idle) * 1_000_000;
        Self {
            clock,
            idle,
            end: Some(clock.now() + idle),
            looked: 0,
            halt: args.halt,
        }
    }

    /// Something has happened.
    #[inline]
    pub fn renew(&mut self) {
        self.looked = 0;
        self.end = None;
    }

    /// Nothing has happened: whether time is up. Costs next to nothing most times.
    #[inline]
    pub fn is_over(&mut self) -> bool {
        self.looked = self.looked.wrapping_add(1);
        if !self.looked.is_multiple_of(LOOKS) {
            core::hint::spin_loop();
            return false;
        }
        let now = self.clock.now();
        now >= *self.end.get_or_insert(now + self.idle)
    }

    /// Waits for interrupts until `done`; false if time is up before.
    pub fn wait(&mut self, mut done: impl FnMut() -> bool) -> bool {
        if self.halt {
            self.clock.machine().halt_until(done);
            return true;
        }
        while !done() {
            if self.is_over() {
                return false;
            }
        }
        self.renew();
        true
    }
}
