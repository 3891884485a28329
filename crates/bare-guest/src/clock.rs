//! Time: the time stamp counter, measured against the timer of ACPI.

use crate::machine::Machine;

/// The ACPI timer, where the firmware of QEMU's PCs puts it: 24 bits.
const PM_TIMER: u16 = 0x608;
const PM_TIMER_HZ: u64 = 3_579_545;
const PM_TIMER_MASK: u32 = 0xFF_FFFF;
/// What the counter is measured over: 20 ms.
const SPAN: u32 = (PM_TIMER_HZ / 50) as u32;

/// A clock in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    machine: Machine,
    /// Ticks of the time stamp counter in a millisecond.
    pub khz: u64,
}

impl Clock {
    /// Measures how fast the counter runs.
    pub fn new(machine: Machine) -> Self {
        let start = Moment::now(machine);
        let since = |moment: &Moment| moment.timer.wrapping_sub(start.timer) & PM_TIMER_MASK;
        let end = loop {
            let moment = Moment::now(machine);
            if since(&moment) >= SPAN {
                break moment;
            }
        };
        let ticks = end.counter - start.counter;
        let khz = ticks * PM_TIMER_HZ / u64::from(since(&end)) / 1000;
        Self {
            machine,
            khz: khz.max(1),
        }
    }

    /// The machine it belongs to.
    pub fn machine(&self) -> Machine {
        self.machine
    }

    /// Nanoseconds since the counter was 0.
    #[inline]
    pub fn now(&self) -> u64 {
        let ticks = self.machine.tsc();
        // In two steps, as their product does not fit for long.
        ticks / self.khz * 1_000_000 + ticks % self.khz * 1_000_000 / self.khz
    }

    /// Waits.
    pub fn wait(&self, ns: u64) {
        let start = self.now();
        while self.now() - start < ns {
            self.machine.pause();
        }
    }
}

/// What both show at the same time.
struct Moment {
    counter: u64,
    timer: u32,
}

impl Moment {
    /// The best of some tries: the timer is read between two looks at the counter, and whatever holds the processor up
    /// there keeps those apart.
    fn now(machine: Machine) -> Self {
        let mut best = (u64::MAX, 0, 0);
        for _ in 0..8 {
            let before = machine.tsc();
            let timer = machine.inl(PM_TIMER);
            let apart = machine.tsc() - before;
            if apart < best.0 {
                best = (apart, before + apart / 2, timer);
            }
        }
        let (_, counter, timer) = best;
        Self { counter, timer }
    }
}
