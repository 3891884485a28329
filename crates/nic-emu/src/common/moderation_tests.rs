use super::moderation::*;
use crate::Time;

#[test]
fn every_event_restarts_the_delay_up_to_the_cap() {
    let timer = DelayTimer::default();
    assert_eq!(timer.deadline(), None);
    timer.start(Time(1000), 100, Some(250));
    assert_eq!(timer.deadline(), Some(Time(1100)));
    timer.start(Time(1090), 100, Some(250));
    assert_eq!(timer.deadline(), Some(Time(1190)));
    timer.start(Time(1180), 100, Some(250));
    assert_eq!(timer.deadline(), Some(Time(1250)));
    assert!(!timer.expire(Time(1249)));
    assert!(timer.expire(Time(1250)));
    assert!(!timer.expire(Time(9999)));
    timer.start(Time(2000), 100, Some(250));
    assert_eq!(timer.deadline(), Some(Time(2100)));
}

#[test]
fn without_a_cap_a_steady_stream_holds_the_timer_off() {
    let timer = DelayTimer::default();
    for i in 0..1000 {
        timer.start(Time(i * 99), 100, None);
        assert!(!timer.expire(Time(i * 99 + 98)));
    }
    assert!(timer.expire(Time(999 * 99 + 100)));
}

#[test]
fn flush_reports_a_waiting_event_once() {
    let timer = DelayTimer::default();
    assert!(!timer.flush());
    timer.start(Time(u64::MAX), u64::MAX, Some(u64::MAX));
    assert!(timer.flush());
    assert!(!timer.flush());
}

#[test]
fn throttle_counts_from_the_last_assertion() {
    let throttle = Throttle::default();
    assert_eq!(throttle.ready_at(5000), Time::ZERO);
    throttle.asserted(Time(100));
    assert_eq!(throttle.ready_at(5000), Time(5100));
    assert_eq!(throttle.ready_at(0), Time(100));
    throttle.reset();
    assert_eq!(throttle.ready_at(5000), Time::ZERO);
}
