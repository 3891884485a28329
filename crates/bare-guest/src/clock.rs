//! Time: the time stamp counter, measured against the interval timer.

use crate::machine::Machine;

/// Clock of the 8254, Hz.
const PIT_HZ: u64 = 1_193_182;
/// What the counter is measured over: 20 ms.
const PIT_TICKS: u64 = PIT_HZ / 50;
const PIT_CHANNEL_2: u16 = 0x42;
const PIT_COMMAND: u16 = 0x43;
/// Gate (bit 0) of channel 2 and the speaker (bit 1).
const GATE: u16 = 0x61;
/// Output of channel 2, in the same port.
const OUTPUT: u8 = 1 << 5;

/// A clock in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    machine: Machine,
    /// Ticks of the time stamp counter in a millisecond.
    pub khz: u64,
}

impl Clock {
    /// Measures how fast the counter runs: the least of three, since whatever comes in between makes it look faster.
    pub fn new(machine: Machine) -> Self {
        let ticks = (0..3).map(|_| measure(machine)).min().unwrap_or_default();
        let khz = (ticks * PIT_HZ / PIT_TICKS / 1000).max(1);
        Self { machine, khz }
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

/// Ticks of the time stamp counter in [`PIT_TICKS`].
fn measure(machine: Machine) -> u64 {
    let gate = machine.inb(GATE) & !0b11;
    machine.outb(GATE, gate);
    // Channel 2, low and high byte, mode 0: the output rises when the count has run down.
    machine.outb(PIT_COMMAND, 0b1011_0000);
    machine.outb(PIT_CHANNEL_2, PIT_TICKS as u8);
    machine.outb(PIT_CHANNEL_2, (PIT_TICKS >> 8) as u8);
    machine.outb(GATE, gate | 1);
    let start = machine.tsc();
    while machine.inb(GATE) & OUTPUT == 0 {
        machine.pause();
    }
    let ticks = machine.tsc() - start;
    machine.outb(GATE, gate);
    ticks
}
