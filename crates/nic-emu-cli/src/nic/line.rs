//! The interrupt line of a NIC, brought up to date by whichever thread has completed work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::SeqCst};

use nic_emu::Time;
use nic_emu::e1000::Shared;
use vfio_user::IrqTable;

const FREE: u8 = 0;
/// Somebody is at it.
const TAKEN: u8 = 1;
/// Somebody is at it, and somebody else came meanwhile.
const AGAIN: u8 = 2;

/// Joins the model's interrupt logic with the hypervisor's eventfds.
///
/// To ask the model for the level and to tell the hypervisor are two steps, and between them another thread could take
/// both: then the older answer would stay. So one thread at a time does it, without anybody waiting: who finds the
/// line taken leaves a mark, and who has it does it again.
#[derive(Debug)]
pub(crate) struct Line {
    shared: Arc<Shared>,
    irqs: Arc<IrqTable>,
    state: AtomicU8,
    /// The latest time at which anybody came, in ns.
    now: AtomicU64,
}

impl Line {
    pub(crate) fn new(shared: Arc<Shared>, irqs: Arc<IrqTable>) -> Self {
        Self {
            shared,
            irqs,
            state: AtomicU8::new(FREE),
            now: AtomicU64::new(0),
        }
    }

    /// Shows the guest the line as it is now; when this returns, or on another thread soon after.
    pub(crate) fn update(&self, now: Time) {
        self.now.fetch_max(now.0, SeqCst);
        if self.state.swap(AGAIN, SeqCst) != FREE {
            return;
        }
        // As often as others come, which takes each of them a batch of work.
        loop {
            self.state.store(TAKEN, SeqCst);
            let now = Time(self.now.load(SeqCst));
            self.irqs.set_level(self.shared.irq.poll(now));
            if self
                .state
                .compare_exchange(TAKEN, FREE, SeqCst, SeqCst)
                .is_ok()
            {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nic_emu::e1000::bits::cause;
    use nic_emu::e1000::{Config, Control, REGISTER_BAR, regs::Reg};

    fn write(control: &mut Control, reg: Reg, value: u32) {
        let offset = u64::from(reg.row().offset);
        control.write(REGISTER_BAR, offset, &value.to_le_bytes(), Time(1));
    }

    /// One thread raises, one acknowledges as a guest does, and now and then both pause: then the hypervisor's idea of
    /// the line is the model's.
    #[test]
    fn when_all_is_quiet_the_line_is_where_it_belongs() {
        const ROUNDS: u64 = 20_000;
        let (mut control, _, _) = nic_emu::e1000::new(&Config::new([2, 0, 0, 0, 0, 1]));
        let shared = control.shared().clone();
        let irqs = Arc::<IrqTable>::default();
        let line = Line::new(shared.clone(), irqs.clone());
        write(&mut control, Reg::IMS, cause::RXT0 | cause::TXDW);

        // The round in which the raiser is to raise, and the last one that it has ended.
        let (round, ended) = (AtomicU64::new(1), AtomicU64::new(0));
        let mut wrong = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut mine = 1;
                while mine <= ROUNDS {
                    shared.irq.raise(cause::RXT0);
                    line.update(Time(mine));
                    if round.load(SeqCst) != mine {
                        ended.store(mine, SeqCst);
                        mine += 1;
                        while round.load(SeqCst) < mine {
                            std::thread::yield_now();
                        }
                    }
                }
            });
            for now in 1..=ROUNDS {
                let mut icr = [0; 4];
                let offset = u64::from(Reg::ICR.row().offset);
                control.read(REGISTER_BAR, offset, &mut icr, Time(now));
                line.update(Time(now));
                // Zero: pause.
                round.store(0, SeqCst);
                while ended.load(SeqCst) != now {
                    std::thread::yield_now();
                }
                let pending = shared.regs.get(Reg::ICR) & shared.regs.get(Reg::IMS) != 0;
                if irqs.level() != pending {
                    wrong.push(now);
                }
                round.store(now + 1, SeqCst);
            }
        });
        assert!(wrong.is_empty(), "rounds {wrong:?}");
    }
}
