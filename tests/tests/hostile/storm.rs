//! Anything, anywhere, in any order; the seed of a round that fails is printed.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use guest_driver::desc::Desc;
use guest_driver::packet::pattern;
use guest_driver::regs::{
    CTRL, ICS, IMC, IMS, ITR, RADV, RCTL, RDBAH, RDBAL, RDH, RDLEN, RDT, RDTR, RXCSUM, TADV, TCTL,
    TDBAH, TDBAL, TDH, TDLEN, TDT, TIDV, VET, ctrl,
};
use guest_driver::{Bus, Config, Wire};

use crate::{BAD_ADDRESSES, Nic, on_shards, reopen, settle};

/// Registers that make a difference to rings.
const REGISTERS: &[u32] = &[
    CTRL, RCTL, TCTL, ICS, IMS, IMC, ITR, RDTR, RADV, TIDV, TADV, RXCSUM, VET, RDBAL, RDBAH, RDLEN,
    RDH, RDT, TDBAL, TDBAH, TDLEN, TDH, TDT, RDT, TDT, RDT, TDT,
];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn of<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Rounds on one connection; each takes new memory for its rings.
const ROUNDS: u64 = 200;

#[test]
fn anything_anywhere() {
    storm(1);
}

#[test]
fn anything_anywhere_on_two_threads() {
    storm(2);
}

#[test]
fn anything_anywhere_on_three_threads() {
    storm(3);
}

fn storm(shards: usize) {
    let storms = if nic_emu_tests::soak() { 50 } else { 1 };
    let rounds = if nic_emu_tests::soak() { ROUNDS } else { 40 };
    for storm in 0..storms {
        on_shards(shards, |nic| {
            for seed in 1 + storm * ROUNDS..=storm * ROUNDS + rounds {
                let result = catch_unwind(AssertUnwindSafe(|| round(nic, &mut Random(seed))));
                if let Err(panic) = result {
                    eprintln!("storm of seed {seed}");
                    resume_unwind(panic);
                }
            }
        });
    }
}

fn round(nic: &mut Nic, random: &mut Random) {
    reopen(nic, Config::default());
    for index in 0..64 {
        let (tx, rx) = (descriptor(nic, random), descriptor(nic, random));
        let at = (nic.tx.addr(index), nic.rx.addr(index));
        nic.bus.dma_write(at.0, &tx.to_bytes());
        if random.below(3) == 0 {
            nic.bus.dma_write(at.1, &rx.to_bytes());
        }
    }
    for _ in 0..60 {
        match random.below(6) {
            0 => {
                let len = 1 + random.below(2000);
                let mut frame = pattern(len, random.next() as u32);
                let known = len.min(6);
                frame[..known].copy_from_slice(&nic.mac[..known]);
                nic.bus.cable.transmit(&frame);
            }
            1 => {
                let tail = random.below(66) as u32;
                nic.bus.write32(random.of(&[TDT, RDT]), tail);
            }
            _ => {
                let value = random.next() as u32 >> random.below(32);
                let register = random.of(REGISTERS);
                // A reset now and then is enough.
                let keep = if random.below(8) > 0 { !ctrl::RST } else { !0 };
                nic.bus.write32(register, value & keep);
            }
        }
    }
    settle(nic);
}

/// A descriptor with something right about it.
fn descriptor(nic: &Nic, random: &mut Random) -> Desc {
    let low = match random.below(4) {
        0 => random.of(BAD_ADDRESSES),
        1 => random.next(),
        _ => nic.tx_buffers + random.below(100_000) as u64,
    };
    let mut high = random.next();
    if random.below(2) == 0 {
        // A length of a few hundred bytes, and no upper bits of it.
        high &= !0xF_FC00;
    }
    Desc { low, high }
}
