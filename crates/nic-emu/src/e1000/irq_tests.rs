use std::sync::Arc;

use super::bits::cause;
use super::irq::*;
use super::regs::{Reg, Regs};
use crate::Time;

fn irq() -> (Arc<Regs>, Irq) {
    let regs = Arc::new(Regs::default());
    (regs.clone(), Irq::new(regs))
}

#[test]
fn line_is_cause_and_mask() {
    let (_, irq) = irq();
    irq.raise(cause::RXT0);
    assert!(!irq.poll(Time(0)));
    irq.enable(cause::TXDW);
    assert!(!irq.poll(Time(0)));
    irq.enable(cause::RXT0);
    assert!(irq.poll(Time(0)), "unmasking uncovers a pending cause");
    irq.disable(cause::RXT0);
    assert!(!irq.poll(Time(0)), "IMC drops the line");
    irq.enable(cause::RXT0);
    assert!(irq.poll(Time(0)));
    irq.clear(cause::RXT0, Time(0));
    assert!(!irq.poll(Time(0)), "so does writing ICR");
    irq.raise(cause::TXDW | cause::TXQE);
    assert!(irq.poll(Time(0)));
    assert_eq!(
        irq.acknowledge(Time(0)),
        cause::TXDW | cause::TXQE,
        "masked causes show too"
    );
    assert!(!irq.poll(Time(0)), "and so does reading it");
    assert_eq!(irq.acknowledge(Time(0)), 0);
}

#[test]
fn throttle_spaces_assertions_and_leaves_a_lone_one_alone() {
    let (regs, irq) = irq();
    regs.set(Reg::ITR, 100);
    irq.enable(cause::RXT0);
    irq.raise(cause::RXT0);
    assert_eq!(irq.deadline(), Some(Time(0)));
    assert!(irq.poll(Time(1_000_000)), "the first one is not delayed");
    assert_eq!(
        irq.deadline(),
        None,
        "asserted: only the guest can change that"
    );
    assert_eq!(irq.acknowledge(Time(1_000_100)), cause::RXT0);
    irq.raise(cause::RXT0);
    assert!(!irq.poll(Time(1_000_200)));
    assert_eq!(irq.deadline(), Some(Time(1_025_600)));
    assert!(!irq.poll(Time(1_025_599)));
    assert!(irq.poll(Time(1_025_600)));
    irq.acknowledge(Time(1_025_700));
    assert!(!irq.poll(Time(1_025_700)));
    irq.raise(cause::RXT0);
    assert!(
        irq.poll(Time(1_051_200)),
        "as late as the interval wants: at once"
    );
}

#[test]
fn a_new_interval_counts_at_once() {
    let (regs, irq) = irq();
    regs.set(Reg::ITR, 0xFFFF);
    irq.enable(cause::RXT0);
    irq.raise(cause::RXT0);
    assert!(irq.poll(Time(0)));
    irq.acknowledge(Time(1));
    irq.raise(cause::RXT0);
    assert_eq!(irq.deadline(), Some(Time(0xFFFF * 256)));
    regs.set(Reg::ITR, 0);
    assert!(irq.poll(Time(2)));
}

#[test]
fn a_cause_after_the_acknowledge_is_a_new_assertion_even_without_a_poll_between() {
    let (regs, irq) = irq();
    regs.set(Reg::ITR, 100);
    irq.enable(cause::RXT0);
    irq.raise(cause::RXT0);
    assert!(irq.poll(Time(0)));
    irq.acknowledge(Time(10));
    irq.raise(cause::RXT0);
    assert!(!irq.poll(Time(10)));
    assert_eq!(irq.deadline(), Some(Time(25_600)));
}

#[test]
fn receive_delay_restarts_up_to_the_absolute_one() {
    let (regs, irq) = irq();
    regs.set(Reg::RDTR, 10);
    regs.set(Reg::RADV, 25);
    irq.enable(cause::RXT0);
    for frame in 0..3 {
        irq.raise_rx_delayed(Time(frame * 8_000));
        assert!(!irq.poll(Time(frame * 8_000 + 7_999)));
    }
    assert_eq!(
        irq.deadline(),
        Some(Time(25 * 1024)),
        "the absolute delay comes first"
    );
    assert!(!irq.poll(Time(25 * 1024 - 1)));
    assert!(irq.poll(Time(25 * 1024)));
    assert_eq!(irq.acknowledge(Time(25 * 1024)), cause::RXT0);
    irq.raise_rx_delayed(Time(100_000));
    assert_eq!(irq.deadline(), Some(Time(100_000 + 10 * 1024)));
}

#[test]
fn without_a_relative_delay_there_is_none() {
    let (regs, irq) = irq();
    regs.set(Reg::RADV, 25);
    regs.set(Reg::TADV, 25);
    irq.raise_rx_delayed(Time(0));
    irq.raise_tx_delayed(Time(0));
    assert_eq!(irq.acknowledge(Time(0)), cause::RXT0 | cause::TXDW);
}

#[test]
fn any_assertion_takes_delayed_causes_along() {
    let (regs, irq) = irq();
    regs.set(Reg::TIDV, 1000);
    regs.set(Reg::RDTR, 1000);
    irq.enable(cause::LSC | cause::TXDW);
    irq.raise_tx_delayed(Time(0));
    irq.raise_rx_delayed(Time(0));
    irq.raise(cause::LSC);
    assert!(irq.poll(Time(1)));
    assert_eq!(
        irq.acknowledge(Time(1)),
        cause::LSC | cause::TXDW | cause::RXT0
    );
    assert_eq!(irq.deadline(), None, "nothing is left to fire");
}

#[test]
fn a_masked_delayed_cause_wakes_nobody_and_is_there_when_looked_at() {
    let (regs, irq) = irq();
    regs.set(Reg::TIDV, 10);
    irq.raise_tx_delayed(Time(0));
    assert_eq!(irq.deadline(), None);
    assert_eq!(irq.causes(Time(10_239)), 0);
    assert_eq!(irq.causes(Time(10_240)), cause::TXDW);
    assert_eq!(irq.causes(Time(10_240)), cause::TXDW, "ICS does not clear");
}

#[test]
fn delay_and_throttle_add_up_to_the_later_one() {
    let (regs, irq) = irq();
    regs.set(Reg::ITR, 1000);
    regs.set(Reg::RDTR, 1);
    irq.enable(cause::RXT0 | cause::LSC);
    irq.raise(cause::LSC);
    assert!(irq.poll(Time(0)));
    irq.acknowledge(Time(5));
    irq.raise_rx_delayed(Time(100));
    assert_eq!(irq.deadline(), Some(Time(256_000)));
    assert!(!irq.poll(Time(255_999)));
    assert!(irq.poll(Time(256_000)));
}

#[test]
fn flush_fires_what_waits_and_nothing_else() {
    let (regs, irq) = irq();
    irq.flush_rx();
    irq.flush_tx();
    assert_eq!(irq.acknowledge(Time(0)), 0);
    regs.set(Reg::RDTR, 0xFFFF);
    regs.set(Reg::TIDV, 0xFFFF);
    irq.raise_rx_delayed(Time(0));
    irq.raise_tx_delayed(Time(0));
    irq.flush_rx();
    assert_eq!(irq.acknowledge(Time(0)), cause::RXT0);
    irq.flush_tx();
    assert_eq!(irq.acknowledge(Time(0)), cause::TXDW);
}

#[test]
fn causes_that_do_not_exist_are_not_latched() {
    let (regs, irq) = irq();
    irq.enable(u32::MAX);
    irq.raise(u32::MAX);
    assert_eq!(
        (regs.get(Reg::IMS), regs.get(Reg::ICR)),
        (ALL_CAUSES, ALL_CAUSES)
    );
    assert!(irq.poll(Time(u64::MAX)));
    irq.reset();
    assert!(!irq.poll(Time(u64::MAX)));
}

#[test]
fn the_far_end_of_time_does_no_harm() {
    let (regs, irq) = irq();
    for reg in [Reg::ITR, Reg::RDTR, Reg::RADV, Reg::TIDV, Reg::TADV] {
        regs.set(reg, 0xFFFF);
    }
    irq.enable(ALL_CAUSES);
    for now in [0, 1, u64::MAX - 1, u64::MAX] {
        irq.raise_rx_delayed(Time(now));
        irq.raise_tx_delayed(Time(now));
        irq.raise(cause::LSC);
        irq.poll(Time(now));
        irq.deadline();
        irq.acknowledge(Time(now));
    }
}
