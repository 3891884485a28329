//! Packets that are none: checklist items 5 to 8; CVE-2015-6815 and CVE-2021-20257 (contexts by which nothing is ever
//! consumed), CVE-2016-2857 and CVE-2022-23087 (checksums beyond the packet and the headers), CVE-2020-16092 (fragment
//! sequences), CVE-2017-10235 and the VirtualBox escape of 2018 (a length that goes below zero).

use guest_driver::desc::{
    Context, DEXT, DTYP_DATA, Desc, EOP, IC, IFCS, IXSM, RPS, RS, TSE, TUCMD_IP, TUCMD_TCP, TXSM,
    VLE, data, legacy, with_tag,
};
use guest_driver::packet::{Packet, pattern, plain};
use guest_driver::regs::{CTRL, TCTL, ctrl, tctl};
use guest_driver::{Bus, Config};

use crate::{Nic, PEER, against, reopen, settle, transmit};

/// A good TCP packet in memory; its address and length.
fn good(nic: &mut Nic, ipv6: bool, payload: usize) -> (u64, u32) {
    let packet = Packet::new(PEER, nic.mac, ipv6, true, payload, 1);
    let (frame, _) = packet.for_segmentation(1448);
    let addr = nic.tx_buffers;
    nic.bus.dma_write(addr, &frame);
    (addr, frame.len() as u32)
}

const ALL: u32 = EOP | IFCS | RS | TSE;

#[test]
fn segmentation_that_makes_no_sense() {
    against(|nic| {
        let (addr, len) = good(nic, false, 2000);
        for mss in [0, 1, 7, 536, 1999, 2000, 2001, 0xFFFF] {
            for hdrlen in [0, 1, 13, 14, 33, 53, 54, 55, 239, 240, 255] {
                for paylen in [0, 1, 1999, 2000, 2001, 0xF_FFFF] {
                    let context = Context {
                        ipcss: 14,
                        ipcso: 24,
                        ipcse: 33,
                        tucss: 34,
                        tucso: 50,
                        tucse: 0,
                        paylen,
                        hdrlen,
                        mss,
                        tucmd: TSE | TUCMD_TCP | TUCMD_IP,
                    };
                    transmit(nic, &[context.desc(), data(addr, len, ALL, IXSM | TXSM)]);
                }
            }
        }
    });
}

/// MSS and HDRLEN of 0: each step consumed nothing.
#[test]
fn segmentation_by_an_empty_context() {
    against(|nic| {
        let (addr, len) = good(nic, false, 2000);
        for tucmd in [TSE, TSE | TUCMD_TCP, TSE | TUCMD_TCP | TUCMD_IP] {
            let context = Context {
                tucmd,
                ..Context::default()
            };
            transmit(nic, &[context.desc(), data(addr, len, ALL, IXSM | TXSM)]);
            transmit(nic, &[context.desc(), data(addr, 0xF_FFFF, ALL, TXSM)]);
        }
    });
}

/// The largest packet in the smallest segments, over and over: much work for few descriptors.
#[test]
fn one_byte_segments() {
    against(|nic| {
        let (addr, _) = good(nic, false, 4000);
        let context = Context {
            ipcss: 14,
            ipcso: 24,
            ipcse: 33,
            tucss: 34,
            tucso: 50,
            paylen: 60_000,
            hdrlen: 54,
            mss: 1,
            tucmd: TSE | TUCMD_TCP | TUCMD_IP,
            ..Context::default()
        };
        for _ in 0..3 {
            transmit(nic, &[context.desc(), data(addr, 60_054, ALL, IXSM | TXSM)]);
        }
    });
}

#[test]
fn checksums_beyond_the_packet() {
    against(|nic| {
        let frame = plain(PEER, nic.mac, 101, 2);
        let addr = nic.tx_buffers;
        nic.bus.dma_write(addr, &frame);
        for start in [0, 13, 14, 99, 100, 101, 102, 255] {
            for offset in [0, 12, 98, 99, 100, 101, 255] {
                for end in [0, 1, 13, 99, 100, 101, 0xFFFF] {
                    let context = Context {
                        ipcss: start,
                        ipcso: offset,
                        ipcse: end,
                        tucss: start,
                        tucso: offset,
                        tucse: end,
                        ..Context::default()
                    };
                    let packet = data(addr, 101, EOP | IFCS | RS, IXSM | TXSM);
                    transmit(nic, &[context.desc(), packet]);
                }
            }
            let mut old = legacy(addr, 101, EOP | IFCS | RS | IC);
            old.high |= u64::from(start) << 40 | u64::from(start) << 16;
            transmit(nic, &[old]);
        }
    });
}

/// Checksums of a segment may not reach beyond its headers, nor lie in headers that are not there.
#[test]
fn checksums_of_segments_beyond_the_headers() {
    against(|nic| {
        for ipv6 in [false, true] {
            let (addr, len) = good(nic, ipv6, 1500);
            for (ipcss, tucss) in [(14, 34), (34, 14), (200, 220), (255, 255), (0, 0), (50, 14)] {
                for field in [0, 24, 50, 53, 54, 200, 255] {
                    let context = Context {
                        ipcss,
                        ipcso: field,
                        ipcse: 0xFFFF,
                        tucss,
                        tucso: field,
                        tucse: 3,
                        paylen: len - 54,
                        hdrlen: 54,
                        mss: 700,
                        // IPv4 is claimed of IPv6, too.
                        tucmd: TSE | TUCMD_TCP | TUCMD_IP,
                    };
                    transmit(nic, &[context.desc(), data(addr, len, ALL, IXSM | TXSM)]);
                }
            }
        }
    });
}

#[test]
fn lengths_of_nothing_and_of_everything() {
    against(|nic| {
        let addr = nic.tx_buffers;
        nic.bus.dma_write(addr, &pattern(1 << 17, 3));
        let end = EOP | IFCS | RS;
        for len in [0, 1, 13, 14, 59, 60, 1515, 9000, 16_383, 16_385, 65_535] {
            transmit(nic, &[legacy(addr, len, end)]);
            transmit(nic, &[data(addr, u32::from(len), end, 0)]);
            transmit(nic, &[data(addr, u32::from(len), EOP, IXSM | TXSM)]);
        }
        transmit(nic, &[data(addr, 0xF_FFFF, end, 0)]);
        transmit(
            nic,
            &[data(0, 0, end, 0), legacy(0, 0, end), legacy(0, 0, EOP)],
        );
        let many: Vec<Desc> = (0..40).map(|_| data(addr, 0xFFFF, IFCS, 0)).collect();
        transmit(nic, &many);
        transmit(nic, &[data(addr, 100, end, 0)]);
    });
}

/// A ring full of pieces and no end, again and again: what is kept of the packet must be bounded.
#[test]
fn packet_without_an_end() {
    against(|nic| {
        let addr = nic.tx_buffers;
        for desc in [
            data(addr, 4096, IFCS, 0),
            legacy(addr, 0xFFFF, IFCS),
            data(addr, 1, IFCS, IXSM),
            data(addr, 0, 0, 0),
            data(addr, 0xF_FFFF, TSE, TXSM),
        ] {
            for _ in 0..100 {
                transmit(nic, &[desc; 63]);
            }
            transmit(nic, &[data(addr, 10, EOP | IFCS | RS, 0)]);
        }
    });
}

#[test]
fn four_thousand_fragments() {
    against(|nic| {
        let config = Config {
            tx_count: 4096,
            ..Config::default()
        };
        reopen(nic, config);
        let addr = nic.tx_buffers;
        for (len, cmd) in [(1, 0), (15, 0), (64, 0), (1, TSE)] {
            let mut descs = vec![data(addr, len, IFCS | cmd, 0); 4090];
            descs[4089] = data(addr, len, IFCS | EOP | RS | cmd, 0);
            transmit(nic, &descs);
        }
    });
}

#[test]
fn reserved_types() {
    against(|nic| {
        let addr = nic.tx_buffers;
        for kind in 2..16 {
            let reserved = |cmd| Desc {
                low: addr,
                high: u64::from(100 | DEXT | (kind * DTYP_DATA) | cmd),
            };
            transmit(
                nic,
                &[
                    reserved(EOP | RS),
                    reserved(0),
                    data(addr, 60, EOP | IFCS | RS, 0),
                    reserved(TSE | EOP),
                ],
            );
        }
    });
}

/// Legacy, data and context descriptors, with and without TSE, in every order within one packet.
#[test]
fn mixed_types_within_a_packet() {
    against(|nic| {
        let (addr, _) = good(nic, false, 3000);
        let context = Context {
            ipcss: 14,
            ipcso: 24,
            ipcse: 33,
            tucss: 34,
            tucso: 50,
            paylen: 1000,
            hdrlen: 54,
            mss: 100,
            tucmd: TSE | TUCMD_TCP | TUCMD_IP,
            ..Context::default()
        };
        let parts = [
            legacy(addr, 60, IFCS),
            data(addr, 60, IFCS, IXSM | TXSM),
            data(addr, 600, IFCS | TSE, IXSM | TXSM),
            context.desc(),
            Context::default().desc(),
            legacy(addr, 60, IFCS | IC),
        ];
        for first in parts {
            for second in parts {
                for third in parts {
                    let last = [
                        legacy(addr, 60, EOP | IFCS | RS),
                        data(addr, 60, EOP | IFCS | RPS | TSE, TXSM),
                    ];
                    for last in last {
                        transmit(nic, &[first, second, third, last]);
                    }
                }
            }
        }
    });
}

/// The sequence of the VirtualBox escape: `max - sent` went below zero when a second context made MSS smaller.
#[test]
fn context_that_shrinks_under_a_packet() {
    against(|nic| {
        let addr = nic.tx_buffers;
        let context = |hdrlen, mss| Context {
            hdrlen,
            mss,
            paylen: 0,
            tucmd: TSE | TUCMD_TCP | TUCMD_IP,
            ..Context::default()
        };
        for (first, second) in [(0x3010, 0xF), (0x4188, 1), (0xFFFF, 0)] {
            transmit(
                nic,
                &[
                    context(0, first).desc(),
                    data(addr, 0x10, TSE, TXSM),
                    data(addr, 0, TSE | EOP, 0),
                    context(0, second).desc(),
                    data(addr, 0x4188, TSE | EOP | RS, 0),
                ],
            );
        }
    });
}

#[test]
fn tag_on_a_packet_that_is_too_short() {
    against(|nic| {
        let control = nic.bus.read32(CTRL);
        nic.bus.write32(CTRL, control | ctrl::VME);
        let addr = nic.tx_buffers;
        for len in [0, 1, 11, 12, 13, 14] {
            for split in 0..=len {
                let end = EOP | IFCS | RS | VLE;
                transmit(
                    nic,
                    &[
                        data(addr, split, IFCS, 0),
                        with_tag(data(addr, len - split, end, 0), 0x123),
                    ],
                );
            }
        }
    });
}

/// The driver's own FCS, of packets that have no room for one.
#[test]
fn short_packets_with_an_fcs() {
    against(|nic| {
        let addr = nic.tx_buffers;
        for len in 0..20 {
            transmit(nic, &[legacy(addr, len, EOP | RS)]);
            transmit(nic, &[data(addr, u32::from(len), EOP | RS | TSE, TXSM)]);
        }
    });
}

#[test]
fn transmitter_goes_off_in_the_middle() {
    against(|nic| {
        let addr = nic.tx_buffers;
        let on = nic.bus.read32(TCTL);
        for round in 0..200 {
            nic.tx.push(&mut nic.bus, data(addr, 500, IFCS, 0));
            nic.tx.kick(&mut nic.bus);
            nic.bus.write32(TCTL, on & !tctl::EN);
            nic.tx
                .push(&mut nic.bus, data(addr, 500, IFCS | EOP | RS, 0));
            nic.tx.kick(&mut nic.bus);
            nic.bus.write32(TCTL, on);
            if round % 20 == 19 {
                reopen(nic, Config::default());
            }
        }
        settle(nic);
    });
}
