//! Reception against a driver that does not mean it: checklist items 9 to 12 and 14; CVE-2012-6075 (a frame longer than
//! its buffer), CVE-2020-28916 (null buffers), CVE-2021-3416 (loopback into oneself).

use guest_driver::desc::{Desc, EOP, IFCS, RS, legacy};
use guest_driver::packet::{pattern, plain};
use guest_driver::regs::{
    CTRL, FPD, ICR, ICS, IMC, IMS, ITR, RADV, RCTL, RDT, RDTR, STATUS, TADV, TDT, TIDV, ctrl, pci,
    rctl,
};
use guest_driver::{Bus, Config, Wire, phy};

use crate::{Nic, PEER, against, reopen, settle};

const SIZES: &[usize] = &[
    1, 13, 14, 17, 18, 59, 60, 1514, 1518, 1519, 1522, 1523, 2048, 9000, 16_380, 16_384,
];

/// Frames of every size, all of them for this station as far as they have an address.
fn inject_sizes(nic: &mut Nic) {
    let mac = nic.mac;
    for len in SIZES {
        nic.bus.cable.transmit(&plain(mac, PEER, *len, *len as u32));
    }
    settle(nic);
}

/// Gives every descriptor of the receive ring this buffer, and all but one of them to the device.
fn post_all(nic: &mut Nic, low: u64) {
    for index in 0..nic.rx.count {
        let at = nic.rx.addr(index);
        let desc = Desc { low, high: 0 };
        nic.bus.dma_write(at, &desc.to_bytes());
    }
    let head = nic.rx.head(&mut nic.bus);
    let tail = (head + nic.rx.count - 1) % nic.rx.count;
    nic.bus.write32(RDT, tail);
}

#[test]
fn frames_of_every_size_into_every_buffer_size() {
    against(|nic| {
        for code in 0..4 {
            for bsex in [0, rctl::BSEX] {
                for more in [0, rctl::LPE, rctl::SBP, rctl::LPE | rctl::SBP | rctl::SECRC] {
                    let config = Config {
                        rx_buffer: 16_384,
                        rx_count: 16,
                        ..Config::default()
                    };
                    reopen(nic, config);
                    // The reserved code among them.
                    let size = bsex | code << rctl::BSIZE_SHIFT;
                    nic.bus
                        .write32(RCTL, rctl::EN | rctl::BAM | rctl::UPE | size | more);
                    nic.bus.settle();
                    inject_sizes(nic);
                }
            }
        }
    });
}

/// However long the frame, a buffer gets no more than its size.
#[test]
fn nothing_is_written_behind_a_buffer() {
    against(|nic| {
        for size in [256, 512, 1024, 2048, 4096] {
            let config = Config {
                rx_buffer: size,
                rx_count: 64,
                rctl: rctl::LPE | rctl::UPE | rctl::SBP,
                ..Config::default()
            };
            reopen(nic, config);
            let (buffer, guard) = (nic.bus.alloc(size as usize, 4096), vec![0x5A; 32_768]);
            let behind = nic.bus.alloc(guard.len(), 1);
            assert_eq!(behind, buffer + u64::from(size));
            nic.bus.dma_write(behind, &guard);
            post_all(nic, buffer);
            inject_sizes(nic);
            let mut seen = vec![0; guard.len()];
            nic.bus.dma_read(behind, &mut seen);
            assert!(seen == guard, "written behind a buffer of {size} bytes");
        }
    });
}

#[test]
fn ring_of_null_buffers() {
    against(|nic| {
        post_all(nic, 0);
        for _ in 0..10 {
            inject_sizes(nic);
            nic.bus.write32(RDT, 5);
            nic.bus.write32(RDT, 60);
        }
    });
}

#[test]
fn receiver_goes_off_and_on_with_each_frame() {
    against(|nic| {
        let mac = nic.mac;
        for round in 0u32..300 {
            let mode = round << rctl::MO_SHIFT & (3 << rctl::MO_SHIFT);
            nic.bus.write32(RCTL, rctl::BAM | mode);
            nic.bus.cable.transmit(&plain(mac, PEER, 1000, round));
            nic.bus.write32(RCTL, rctl::EN | rctl::BAM | mode);
            nic.bus.write32(RDT, round.wrapping_mul(7) % 70);
        }
        settle(nic);
    });
}

/// The tail moves while a frame is being split over descriptors that run out.
#[test]
fn tail_moves_under_a_waiting_frame() {
    against(|nic| {
        let config = Config {
            rx_buffer: 256,
            rx_count: 64,
            rctl: rctl::LPE,
            ..Config::default()
        };
        for step in [1, 2, 3, 63] {
            reopen(nic, config);
            let mac = nic.mac;
            for seed in 0..5 {
                nic.bus.cable.transmit(&plain(mac, PEER, 16_000, seed));
            }
            let mut tail = 0;
            for round in 0..200 {
                tail = (tail + step) % 64;
                nic.bus.write32(RDT, tail);
                if round % 50 == 49 {
                    // Less than was given before.
                    nic.bus.write32(RDT, (tail + 60) % 64);
                    nic.bus.settle();
                }
            }
            settle(nic);
        }
    });
}

#[test]
fn reset_within_traffic() {
    against(|nic| {
        let frame = plain(PEER, nic.mac, 1514, 1);
        for round in 0..60 {
            let (mac, addr) = (nic.mac, nic.tx_buffers);
            nic.bus.dma_write(addr, &frame);
            for _ in 0..30 {
                nic.tx
                    .push(&mut nic.bus, legacy(addr, 1514, EOP | IFCS | RS));
                nic.bus.cable.transmit(&plain(mac, PEER, 1514, round));
            }
            nic.tx.kick(&mut nic.bus);
            let control = nic.bus.read32(CTRL);
            nic.bus.write32(CTRL, control | ctrl::RST);
            nic.bus.read32(STATUS);
            nic.bus.settle();
            // No write-back once the reset is over.
            let before = nic.tx.read(&mut nic.bus, 29);
            nic.bus.settle();
            assert_eq!(nic.tx.read(&mut nic.bus, 29), before);
            reopen(nic, Config::default());
        }
        settle(nic);
    });
}

/// What the device sends to itself it stores over the descriptors that it sends.
#[test]
fn loopback_into_the_own_transmit_ring() {
    against(|nic| {
        for (lbm, by_phy) in [(1, false), (2, false), (3, false), (3, true), (0, true)] {
            reopen(nic, Config::default());
            if by_phy {
                phy::write(&mut nic.bus, phy::BMCR, 0x4140).expect("the PHY answers");
            }
            nic.bus.write32(
                RCTL,
                rctl::EN | rctl::BAM | rctl::UPE | rctl::MPE | lbm << 6,
            );
            let ring = nic.tx.base;
            post_all(nic, ring);
            // Each frame is full of descriptors that send it again.
            let desc = legacy(nic.tx_buffers, 1008, EOP | IFCS | RS);
            let frame = desc.to_bytes().repeat(63);
            let addr = nic.tx_buffers;
            nic.bus.dma_write(addr, &frame);
            nic.bus.dma_write(ring, &frame);
            for tail in [63, 10, 62, 20] {
                nic.bus.write32(TDT, tail);
                settle(nic);
            }
            phy::write(&mut nic.bus, phy::BMCR, 0x1140).expect("the PHY answers");
        }
    });
}

#[test]
fn bus_mastering_goes_off_within_traffic() {
    against(|nic| {
        let on = nic.bus.config_read(pci::COMMAND, 2);
        let mac = nic.mac;
        for round in 0..100 {
            let addr = nic.tx_buffers;
            nic.tx.push(&mut nic.bus, legacy(addr, 60, EOP | IFCS | RS));
            nic.tx.kick(&mut nic.bus);
            nic.bus.cable.transmit(&plain(mac, PEER, 60, round));
            nic.bus
                .config_write(pci::COMMAND, 2, on & !pci::COMMAND_MASTER);
            nic.bus.cable.transmit(&plain(mac, PEER, 60, round));
            nic.tx.push(&mut nic.bus, legacy(addr, 60, EOP | IFCS | RS));
            nic.tx.kick(&mut nic.bus);
            // Off means off: what lies in memory stays as it is.
            nic.bus.settle();
            let index = nic.tx.tail + nic.tx.count - 1;
            let last = nic.tx.read(&mut nic.bus, index % 64);
            assert_eq!(last.high, legacy(addr, 60, EOP | IFCS | RS).high);
            let toggled = on ^ pci::COMMAND_INTX_DISABLE;
            nic.bus.config_write(pci::COMMAND, 2, toggled);
            nic.bus.config_write(pci::COMMAND, 2, on);
            nic.reap();
            settle(nic);
        }
    });
}

/// D3hot with live rings: no DMA, no registers, and D0 comes with a reset.
#[test]
fn power_state_changes_within_traffic() {
    against(|nic| {
        const PMCSR: u8 = 0xDC + 4;
        let mac = nic.mac;
        let command = nic.bus.config_read(pci::COMMAND, 2);
        for round in 0..20 {
            let addr = nic.tx_buffers;
            nic.tx.push(&mut nic.bus, legacy(addr, 60, EOP | IFCS | RS));
            nic.tx.kick(&mut nic.bus);
            nic.bus.cable.transmit(&plain(mac, PEER, 60, round));
            nic.bus.config_write(PMCSR, 2, 3);
            nic.bus.write32(TDT, 63);
            nic.bus.cable.transmit(&plain(mac, PEER, 60, round));
            nic.bus.settle();
            nic.bus.config_write(PMCSR, 2, 0);
            nic.bus.config_write(pci::COMMAND, 2, command);
            reopen(nic, Config::default());
        }
        settle(nic);
    });
}

/// Every cause at once under every timer at its longest, with frames coming in.
#[test]
fn causes_without_end() {
    against(|nic| {
        let mac = nic.mac;
        for register in [ITR, RDTR, RADV, TIDV, TADV] {
            nic.bus.write32(register, 0xFFFF);
        }
        nic.bus.write32(IMS, !0);
        for round in 0..500 {
            nic.bus.write32(ICS, !0);
            nic.bus.cable.transmit(&plain(mac, PEER, 60, round));
            nic.bus.write32(RDTR, FPD | 0xFFFF);
            nic.bus.write32(TIDV, FPD | 0xFFFF);
            if round % 3 == 0 {
                nic.bus.read32(ICR);
            }
            if round % 50 == 0 {
                nic.bus.write32(IMC, !0);
                nic.bus.write32(IMS, !0);
                nic.bus.interrupt();
            }
        }
        nic.bus.write32(ITR, 0);
        assert!(nic.bus.read32(ICR) != !0, "ICR reads as an absent device");
    });
}

/// Frames of which nothing is right.
#[test]
fn frames_of_noise() {
    against(|nic| {
        let config = Config {
            rctl: rctl::UPE | rctl::MPE | rctl::BAM | rctl::LPE | rctl::SBP,
            rxcsum: 0x3FF,
            ..Config::default()
        };
        reopen(nic, config);
        let mut buffer = vec![0; 1 << 16];
        for seed in 0u32..2000 {
            let mut frame = pattern(1 + seed as usize % 200, seed);
            // Often enough it looks like IP, with a header of any length.
            for (at, byte) in [(12, 8), (13, 0), (23, 6)] {
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            if seed % 3 == 0
                && let Some(place) = frame.get_mut(12..15)
            {
                place.copy_from_slice(&[0x86, 0xDD, 0x60]);
            }
            nic.bus.cable.transmit(&frame);
            nic.receive(&mut buffer);
        }
    });
}
