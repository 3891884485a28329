//! How far inputs get: a fuzzer that is never let in tests nothing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::model::Outcome;

static INPUTS: AtomicU64 = AtomicU64::new(0);
static NEGOTIATED: AtomicU64 = AtomicU64::new(0);
static MESSAGES: AtomicU64 = AtomicU64::new(0);
static ACCEPTED: AtomicU64 = AtomicU64::new(0);

std::thread_local! { static FIRST: std::cell::Cell<bool> = const { std::cell::Cell::new(false) }; }

/// Another input is run. Says how it went, now and then, if `loud`.
pub fn input(loud: bool) {
    FIRST.set(true);
    let inputs = INPUTS.fetch_add(1, Relaxed) + 1;
    if loud && (inputs.is_power_of_two() || inputs.is_multiple_of(1 << 14)) {
        eprintln!("stats: {}", summary());
    }
}

/// A client was let in by negotiation, or a saved state accepted; counted once per input.
pub(crate) fn negotiated() {
    NEGOTIATED.fetch_add(FIRST.replace(false).into(), Relaxed);
}

/// A message was executed.
pub(crate) fn message(outcome: &Outcome) {
    MESSAGES.fetch_add(1, Relaxed);
    ACCEPTED.fetch_add(
        matches!(outcome, Outcome::Payload(_) | Outcome::WithFds(..)).into(),
        Relaxed,
    );
}

/// What was counted, in a line.
#[must_use]
pub fn summary() -> String {
    let [inputs, negotiated, messages, accepted] =
        [&INPUTS, &NEGOTIATED, &MESSAGES, &ACCEPTED].map(|count| count.load(Relaxed) as f64);
    format!(
        "{inputs} inputs, {:.1} % let in, {:.1} messages then, {:.1} % of them sound",
        100.0 * negotiated / inputs.max(1.0),
        messages / inputs.max(1.0),
        100.0 * accepted / messages.max(1.0),
    )
}
