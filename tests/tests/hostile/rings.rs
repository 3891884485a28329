//! Rings that are none: checklist items 1 to 4, and CVE-2016-1981 (heads beyond the ring), CVE-2023-3019 (DMA to the
//! device's own registers), the zero ring length.

use guest_driver::desc::{Desc, EOP, IFCS, RS, legacy};
use guest_driver::packet::plain;
use guest_driver::regs::{
    RCTL, RDBAH, RDBAL, RDH, RDLEN, RDT, TCTL, TDBAH, TDBAL, TDH, TDLEN, TDT, rctl,
};
use guest_driver::{Bus, Config, Wire};

use crate::{BAD_ADDRESSES, NOWHERE, Nic, PEER, RAM_END, TOP, against, reopen, settle};

/// Fills the transmit ring with good frames, so that a wrong head or tail has something to send.
fn fill(nic: &mut Nic) {
    let frame = plain(PEER, nic.mac, 60, 1);
    let addr = nic.tx_buffers;
    nic.bus.dma_write(addr, &frame);
    for index in 0..nic.tx.count {
        let desc = legacy(addr, 60, EOP | IFCS | RS);
        let at = nic.tx.addr(index);
        nic.bus.dma_write(at, &desc.to_bytes());
    }
}

fn inject(nic: &mut Nic, frames: u32) {
    let mac = nic.mac;
    for seed in 0..frames {
        nic.bus.cable.transmit(&plain(mac, PEER, 100, seed));
    }
}

const POSITIONS: &[u32] = &[0, 1, 62, 63, 64, 65, 0x7FFF, 0xFFFF, 0xFFFF_FFFF];

#[test]
fn transmit_heads_and_tails_beyond_the_ring() {
    against(|nic| {
        fill(nic);
        for head in POSITIONS {
            for tail in POSITIONS {
                nic.bus.write32(TDH, *head);
                nic.bus.write32(TDT, *tail);
                settle(nic);
            }
        }
    });
}

#[test]
fn receive_heads_and_tails_beyond_the_ring() {
    against(|nic| {
        for head in POSITIONS {
            for tail in POSITIONS {
                nic.bus.write32(RDH, *head);
                nic.bus.write32(RDT, *tail);
                inject(nic, 3);
                settle(nic);
            }
            nic.bus.write32(RCTL, 0);
            nic.bus.write32(RCTL, rctl::EN | rctl::BAM);
        }
    });
}

#[test]
fn ring_lengths_of_nothing_and_of_a_megabyte() {
    against(|nic| {
        for len in [0, 16, 127, 128, 0xF_FF80, 0xFFFF_FFFF] {
            fill(nic);
            nic.bus.write32(TDLEN, len);
            nic.bus.write32(RDLEN, len);
            for tail in [1, 7, 8, 0xFFF7, 0xFFFF] {
                nic.bus.write32(TDH, 0);
                nic.bus.write32(TDT, tail);
                nic.bus.write32(RDH, 0);
                nic.bus.write32(RDT, tail);
                inject(nic, 2);
                settle(nic);
            }
            reopen(nic, Config::default());
        }
    });
}

fn set_base(nic: &mut Nic, low: u32, high: u32, base: u64) {
    nic.bus.write32(low, base as u32);
    nic.bus.write32(high, (base >> 32) as u32);
}

#[test]
fn rings_where_no_memory_is() {
    against(|nic| {
        for base in BAD_ADDRESSES {
            set_base(nic, TDBAL, TDBAH, *base);
            set_base(nic, RDBAL, RDBAH, *base);
            nic.bus.write32(TDT, 63);
            inject(nic, 3);
            settle(nic);
            reopen(nic, Config::default());
        }
    });
}

#[test]
fn ring_across_the_end_of_memory() {
    against(|nic| {
        for base in [RAM_END - 16, RAM_END - 512, RAM_END - 1008] {
            set_base(nic, TDBAL, TDBAH, base);
            set_base(nic, RDBAL, RDBAH, base);
            nic.bus.write32(TDT, 63);
            inject(nic, 70);
            settle(nic);
            reopen(nic, Config::default());
        }
    });
}

/// The device writes back descriptors that it is still to read as the other ring's.
#[test]
fn both_rings_are_the_same_memory() {
    against(|nic| {
        let base = nic.tx.base;
        fill(nic);
        set_base(nic, RDBAL, RDBAH, base);
        for tail in [10, 30, 63] {
            nic.bus.write32(TDT, tail);
            inject(nic, 20);
            settle(nic);
        }
    });
}

/// Frames are stored over the very descriptors that say where to.
#[test]
fn receive_buffers_lie_over_the_rings() {
    against(|nic| {
        let (tx, rx) = (nic.tx.base, nic.rx.base);
        for target in [rx, rx + 8, tx, tx + 1000] {
            for index in 0..nic.rx.count {
                let desc = Desc {
                    low: target,
                    high: 0,
                };
                let at = nic.rx.addr(index);
                nic.bus.dma_write(at, &desc.to_bytes());
            }
            inject(nic, 50);
            nic.bus.write32(TDT, 63);
            settle(nic);
            reopen(nic, Config::default());
        }
    });
}

#[test]
fn transmit_buffers_where_no_memory_is() {
    against(|nic| {
        for addr in BAD_ADDRESSES {
            for len in [1, 16, 60, 1514, 0xFFFF] {
                let desc = legacy(*addr, len, EOP | IFCS | RS);
                crate::transmit(nic, &[desc]);
            }
        }
    });
}

#[test]
fn receive_buffers_where_no_memory_is() {
    against(|nic| {
        for low in BAD_ADDRESSES {
            for index in 0..nic.rx.count {
                let at = nic.rx.addr(index);
                let desc = Desc { low: *low, high: 0 };
                nic.bus.dma_write(at, &desc.to_bytes());
            }
            inject(nic, 10);
            settle(nic);
            reopen(nic, Config::default());
        }
    });
}

/// A ring that wraps around the end of the address space.
#[test]
fn ring_at_the_top_of_the_address_space() {
    against(|nic| {
        for base in [TOP, u64::MAX, NOWHERE] {
            set_base(nic, TDBAL, TDBAH, base);
            set_base(nic, RDBAL, RDBAH, base);
            nic.bus.write32(TDLEN, 0xF_FF80);
            nic.bus.write32(RDLEN, 0xF_FF80);
            nic.bus.write32(TDT, 0xFFFF);
            nic.bus.write32(RDT, 0xFFFF);
            let on = nic.bus.read32(TCTL);
            for _ in 0..3 {
                nic.bus.write32(TCTL, on);
                inject(nic, 3);
                settle(nic);
            }
            reopen(nic, Config::default());
        }
    });
}
