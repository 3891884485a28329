//! Where the line of a NIC comes from, and where it goes.

use std::sync::Arc;

use nic_emu::Time;
use nic_emu::e1000::Shared;
use vfio_user::IrqTable;

use super::line::{self, Listener, Logic};

/// From the model to the hypervisor.
pub(super) type Line = line::Line<Arc<Shared>, Arc<IrqTable>>;

impl Logic for Arc<Shared> {
    fn poll(&self, now: Time) -> bool {
        self.irq.poll(now)
    }

    fn assertions(&self) -> u64 {
        self.irq.assertions()
    }
}

impl Listener for Arc<IrqTable> {
    fn set_level(&self, level: bool) {
        IrqTable::set_level(self, level);
    }

    fn takes_messages(&self) -> bool {
        self.messages() > 0
    }

    fn message(&self) {
        self.raise(0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

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
        const ROUNDS: u64 = 5000;
        let (mut control, _, _) = nic_emu::e1000::new(&Config::new([2, 0, 0, 0, 0, 1]));
        let shared = control.shared().clone();
        let irqs = Arc::<IrqTable>::default();
        let line = Line::new(shared.clone(), irqs.clone());
        write(&mut control, Reg::IMS, cause::RXT0 | cause::TXDW);

        // Odd while the raiser is to raise, even for a pause; and the last pause that it has begun.
        let (phase, paused) = (AtomicU64::new(0), AtomicU64::new(0));
        let mut wrong = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                loop {
                    match phase.load(SeqCst) {
                        now if now > 2 * ROUNDS => break,
                        now if now % 2 == 0 => paused.store(now, SeqCst),
                        now => {
                            shared.irq.raise(cause::RXT0);
                            line.update(Time(now));
                        }
                    }
                    // A turn has system calls. Nothing but updates would keep the other thread in there for ever.
                    std::thread::yield_now();
                }
            });
            for round in 1..=ROUNDS {
                phase.store(2 * round - 1, SeqCst);
                for _ in 0..10 {
                    let mut icr = [0; 4];
                    let offset = u64::from(Reg::ICR.row().offset);
                    control.read(REGISTER_BAR, offset, &mut icr, Time(round));
                    line.update(Time(round));
                    std::thread::yield_now();
                }
                phase.store(2 * round, SeqCst);
                while paused.load(SeqCst) != 2 * round {
                    std::thread::yield_now();
                }
                let pending = shared.regs.get(Reg::ICR) & shared.regs.get(Reg::IMS) != 0;
                if irqs.level() != pending {
                    wrong.push(round);
                }
            }
            phase.store(2 * ROUNDS + 1, SeqCst);
        });
        assert!(wrong.is_empty(), "rounds {wrong:?}");
    }
}
