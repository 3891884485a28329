//! The statistics registers, manual section 13.7.

use guest_driver::packet::plain;
use guest_driver::regs::{
    BPRC, BPTC, CRCERRS, GORCH, GORCL, GOTCH, GOTCL, GPRC, GPTC, MPC, MPRC, MPTC, PRC64, PTC64,
    RLEC, RNBC, ROC, RUC, TORH, TORL, TOTH, TOTL, TPR, TPT, TSCTFC, XOFFRXC, XONRXC, rctl,
};
use guest_driver::{Config, Offload};
use nic_emu_tests::Machine;

use crate::support::{
    BROADCAST, Check, Nic, Outcome, PEER, receives, receives_nothing, send, sends, start,
};
use crate::{checks, ensure_eq};

pub(crate) fn all() -> Vec<Check> {
    checks!("statistics": zero_after_reset, received_frames, sent_frames, kinds_of_address,
        receive_size_bins, transmit_size_bins, octets_received, octets_sent, reading_clears,
        high_half_clears_both, writes_are_ignored, filtered_frames_are_not_good, oversize,
        every_register_clears_on_read, length_errors, errors_of_others_do_not_count,
        a_receiver_that_is_off_counts_nothing, pause_frames_are_no_good_frames)
}

/// A device in traffic, with all statistics read once.
fn fresh(m: &mut dyn Machine) -> Result<Nic<'_>, String> {
    let config = Config {
        rctl: rctl::BAM | rctl::MPE,
        ..Config::default()
    };
    let nic = start(m, config)?;
    for register in (CRCERRS..=TSCTFC).step_by(4) {
        nic.bus.read32(register);
    }
    Ok(nic)
}

fn receive_one(nic: &mut Nic<'_>, destination: [u8; 6], len: usize) -> Outcome {
    let frame = plain(destination, PEER, len, len as u32);
    receives(nic, &frame)?;
    nic.bus.settle();
    Ok(())
}

fn send_one(nic: &mut Nic<'_>, destination: [u8; 6], len: usize) -> Outcome {
    let frame = plain(destination, nic.mac, len, len as u32);
    send(nic, &frame, Offload::None)?;
    sends(nic, &[frame])
}

fn expect(nic: &mut Nic<'_>, values: &[(&str, u32, u32)]) -> Outcome {
    for (name, register, want) in values {
        ensure_eq!(nic.bus.read32(*register), *want, "{name}");
    }
    Ok(())
}

fn zero_after_reset(m: &mut dyn Machine) -> Outcome {
    for register in (CRCERRS..=TSCTFC).step_by(4) {
        ensure_eq!(m.read32(register), 0, "register {register:#06x}");
    }
    Ok(())
}

fn received_frames(m: &mut dyn Machine) -> Outcome {
    let mut nic = fresh(m)?;
    let mac = nic.mac;
    for len in [60, 100, 1514] {
        receive_one(&mut nic, mac, len)?;
    }
    expect(
        &mut nic,
        &[
            ("GPRC", GPRC, 3),
            ("TPR", TPR, 3),
            ("BPRC", BPRC, 0),
            ("MPRC", MPRC, 0),
            ("GPTC", GPTC, 0),
            ("MPC", MPC, 0),
            ("RNBC", RNBC, 0),
        ],
    )
}

fn sent_frames(m: &mut dyn Machine) -> Outcome {
    let mut nic = fresh(m)?;
    for len in [60, 100, 1514] {
        send_one(&mut nic, PEER, len)?;
    }
    expect(
        &mut nic,
        &[
            ("GPTC", GPTC, 3),
            ("TPT", TPT, 3),
            ("BPTC", BPTC, 0),
            ("MPTC", MPTC, 0),
            ("GPRC", GPRC, 0),
        ],
    )
}

fn kinds_of_address(m: &mut dyn Machine) -> Outcome {
    let mut nic = fresh(m)?;
    let group = [0x01, 0, 0x5E, 1, 2, 3];
    let mac = nic.mac;
    for (destination, count) in [(mac, 1), (BROADCAST, 2), (group, 3)] {
        for _ in 0..count {
            receive_one(&mut nic, destination, 100)?;
        }
    }
    for (destination, count) in [(PEER, 1), (BROADCAST, 2), (group, 3)] {
        for _ in 0..count {
            send_one(&mut nic, destination, 100)?;
        }
    }
    expect(
        &mut nic,
        &[
            ("GPRC", GPRC, 6),
            ("BPRC", BPRC, 2),
            ("MPRC", MPRC, 3),
            ("GPTC", GPTC, 6),
            ("BPTC", BPTC, 2),
            ("MPTC", MPTC, 3),
        ],
    )
}

/// Frame lengths without FCS, and how many of them fall into each bin.
const LENGTHS: &[usize] = &[
    60, 61, 123, 124, 200, 251, 252, 507, 508, 1019, 1020, 1514, 60,
];
const BINS: [(&str, u32); 6] = [
    ("64", 2),
    ("65 to 127", 2),
    ("128 to 255", 3),
    ("256 to 511", 2),
    ("512 to 1023", 2),
    ("1024 and more", 2),
];

fn receive_size_bins(m: &mut dyn Machine) -> Outcome {
    let mut nic = fresh(m)?;
    let mac = nic.mac;
    for len in LENGTHS {
        receive_one(&mut nic, mac, *len)?;
    }
    for (register, (name, want)) in (PRC64..).step_by(4).zip(BINS) {
        ensure_eq!(nic.bus.read32(register), want, "frames of {name} bytes");
    }
    Ok(())
}

fn transmit_size_bins(m: &mut dyn Machine) -> Outcome {
    let mut nic = fresh(m)?;
    for len in LENGTHS {
        send_one(&mut nic, PEER, *len)?;
    }
    for (register, (name, want)) in (PTC64..).step_by(4).zip(BINS) {
        ensure_eq!(nic.bus.read32(register), want, "frames of {name} bytes");
    }
    Ok(())
}

/// From the destination address to the FCS, whether that is stripped or not.
fn octets_received(m: &mut dyn Machine) -> Outcome {
    for secrc in [0, rctl::SECRC] {
        let config = Config {
            rctl: rctl::BAM | secrc,
            ..Config::default()
        };
        let mut nic = start(&mut *m, config)?;
        for register in [GORCH, TORH] {
            nic.bus.read32(register);
        }
        let mac = nic.mac;
        receive_one(&mut nic, mac, 60)?;
        receive_one(&mut nic, mac, 1000)?;
        expect(
            &mut nic,
            &[
                ("GORCL", GORCL, 1068),
                ("GORCH", GORCH, 0),
                ("TORL", TORL, 1068),
                ("TORH", TORH, 0),
            ],
        )?;
    }
    Ok(())
}

fn octets_sent(m: &mut dyn Machine) -> Outcome {
    let mut nic = fresh(m)?;
    send_one(&mut nic, PEER, 60)?;
    send_one(&mut nic, PEER, 1000)?;
    expect(
        &mut nic,
        &[
            ("GOTCL", GOTCL, 1068),
            ("GOTCH", GOTCH, 0),
            ("TOTL", TOTL, 1068),
            ("TOTH", TOTH, 0),
        ],
    )
}

fn reading_clears(m: &mut dyn Machine) -> Outcome {
    let mut nic = fresh(m)?;
    send_one(&mut nic, PEER, 100)?;
    expect(
        &mut nic,
        &[
            ("GPTC", GPTC, 1),
            ("GPTC again", GPTC, 0),
            ("TPT", TPT, 1),
            ("TPT again", TPT, 0),
        ],
    )
}

fn high_half_clears_both(m: &mut dyn Machine) -> Outcome {
    let mut nic = fresh(m)?;
    send_one(&mut nic, PEER, 100)?;
    expect(
        &mut nic,
        &[
            ("GOTCL", GOTCL, 104),
            ("GOTCL again", GOTCL, 104),
            ("GOTCH", GOTCH, 0),
            ("GOTCL after the high half", GOTCL, 0),
            ("TOTH", TOTH, 0),
            ("TOTL after the high half", TOTL, 0),
        ],
    )
}

fn writes_are_ignored(m: &mut dyn Machine) -> Outcome {
    let nic = fresh(m)?;
    for register in (CRCERRS..=TSCTFC).step_by(4) {
        nic.bus.write32(register, 0x55);
        ensure_eq!(
            nic.bus.read32(register),
            0,
            "register {register:#06x} after a write"
        );
    }
    Ok(())
}

fn filtered_frames_are_not_good(m: &mut dyn Machine) -> Outcome {
    let mut nic = fresh(m)?;
    nic.bus.transmit(&plain([2, 9, 9, 9, 9, 9], PEER, 100, 1));
    receives_nothing(&mut nic)?;
    expect(&mut nic, &[("GPRC", GPRC, 0)])
}

fn oversize(m: &mut dyn Machine) -> Outcome {
    let mut nic = fresh(m)?;
    let mac = nic.mac;
    nic.bus.transmit(&plain(mac, PEER, 1519, 1));
    receives_nothing(&mut nic)?;
    expect(
        &mut nic,
        &[("ROC", ROC, 1), ("GPRC", GPRC, 0), ("RUC", RUC, 0)],
    )
}

/// RLEC counts what is too long beside what is too short.
fn length_errors(m: &mut dyn Machine) -> Outcome {
    let mut nic = fresh(m)?;
    let mac = nic.mac;
    nic.bus.transmit(&plain(mac, PEER, 1519, 1));
    receives_nothing(&mut nic)?;
    expect(&mut nic, &[("RLEC", RLEC, 1), ("TPR", TPR, 1)])
}

fn errors_of_others_do_not_count(m: &mut dyn Machine) -> Outcome {
    let mut nic = fresh(m)?;
    nic.bus.transmit(&plain([2, 9, 9, 9, 9, 9], PEER, 1519, 1));
    receives_nothing(&mut nic)?;
    expect(&mut nic, &[("ROC", ROC, 0), ("RLEC", RLEC, 0)])
}

fn a_receiver_that_is_off_counts_nothing(m: &mut dyn Machine) -> Outcome {
    let mut nic = fresh(m)?;
    let mac = nic.mac;
    nic.write_rctl(0);
    nic.bus.transmit(&plain(mac, PEER, 100, 1));
    receives_nothing(&mut nic)?;
    expect(
        &mut nic,
        &[("TPR", TPR, 0), ("GPRC", GPRC, 0), ("MPC", MPC, 0)],
    )
}

/// They come in, unless RFCE and DPF are set, and count for themselves.
fn pause_frames_are_no_good_frames(m: &mut dyn Machine) -> Outcome {
    let mut nic = fresh(m)?;
    let mut frame = plain([0x01, 0x80, 0xC2, 0, 0, 1], PEER, 60, 1);
    frame[12..18].copy_from_slice(&[0x88, 0x08, 0, 1, 0, 9]);
    receives(&mut nic, &frame)?;
    nic.bus.settle();
    expect(
        &mut nic,
        &[
            ("XOFFRXC", XOFFRXC, 1),
            ("XONRXC", XONRXC, 0),
            ("TPR", TPR, 1),
            ("GPRC", GPRC, 0),
        ],
    )
}

/// Linux adds up what it reads every two seconds: what does not clear is counted again and again.
fn every_register_clears_on_read(m: &mut dyn Machine) -> Outcome {
    let mut nic = fresh(m)?;
    let mac = nic.mac;
    receive_one(&mut nic, mac, 100)?;
    nic.bus.transmit(&plain(mac, PEER, 1519, 1));
    receives_nothing(&mut nic)?;
    send_one(&mut nic, PEER, 100)?;
    // Pairs clear with their high halves, which come second.
    for register in (CRCERRS..=TSCTFC).step_by(4) {
        nic.bus.read32(register);
    }
    for register in (CRCERRS..=TSCTFC).step_by(4) {
        ensure_eq!(
            nic.bus.read32(register),
            0,
            "register {register:#06x} read again"
        );
    }
    Ok(())
}
