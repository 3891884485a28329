//! The registers that the interrupt logic has to do with, in the model checker's atomics.

use loom::sync::atomic::{AtomicU32, Ordering};

pub(crate) use nic_emu::e1000::regs::Reg;

#[derive(Debug, Default)]
pub(crate) struct Regs([AtomicU32; 7]);

impl Regs {
    pub(crate) fn cell(&self, reg: Reg, _: usize) -> &AtomicU32 {
        use Reg::{ICR, IMS, ITR, RADV, RDTR, TADV, TIDV};
        let all = [ICR, IMS, ITR, RADV, RDTR, TADV, TIDV];
        &self.0[all.iter().position(|&it| it == reg).expect("one of these")]
    }

    pub(crate) fn get(&self, reg: Reg) -> u32 {
        self.cell(reg, 0).load(Ordering::Acquire)
    }

    pub(crate) fn set(&self, reg: Reg, value: u32) {
        self.cell(reg, 0).store(value, Ordering::Release);
    }
}
