//! What was seen, as text and as JSON.

use nic_emu_tests::profile::{Tally, Thread};
use serde_json::{Value, json};

use super::Row;
use super::load::Seen;

/// Threads that use less than this, in percent, are not worth a line.
const BUSY: f64 = 0.1;
/// Functions with a smaller share, in percent, are not worth a line of the JSON.
const WORTH: f64 = 0.3;
/// A function's name is cut after so many characters of a table.
const WIDTH: usize = 90;

/// How a daemon waits.
pub(super) fn daemon(poll_us: u32) -> String {
    match poll_us {
        0 => "sleeps".to_owned(),
        us => format!("--busy-poll {us}"),
    }
}

/// Tables for people.
pub(super) fn text(rows: &[Row], top: usize) -> String {
    rows.iter().map(|row| load(row, top)).collect()
}

fn load(row: &Row, top: usize) -> String {
    let seen = &row.seen;
    let mut text = format!(
        "\n{}, daemon {}: {:.0} Mbit/s, {:.0} frames/s through the TAP; {:.0} messages/s, QEMU waits for {:.0} of them; \
         {:.0} interrupts/s; {}, others use {:.1} % of one; {:.1} % stolen\n\n",
        row.load.label(),
        daemon(row.poll_us),
        seen.mbit,
        seen.frames,
        seen.messages,
        seen.waits,
        seen.interrupts,
        processors(&seen.processors),
        others(seen),
        seen.steal,
    );
    text += &format!(
        "  {:24}  {:>6}  {:>9}  {:>9}  {:>11}\n",
        "thread", "runs", "would run", "sleeps/s", "preempted/s"
    );
    for (who, threads) in [
        ("daemon", &seen.daemon_threads),
        ("QEMU", &seen.qemu_threads),
    ] {
        for thread in threads.iter().filter(|thread| thread.ran >= BUSY) {
            text += &format!(
                "  {:24}  {:5.1}%  {:8.1}%  {:9.0}  {:11.0}\n",
                format!("{who}: {}", thread.name),
                thread.ran,
                thread.waited,
                thread.slept,
                thread.preempted,
            );
        }
    }
    for (who, tally) in [("daemon", &seen.daemon), ("QEMU", &seen.qemu)] {
        text += &format!("\n  {who}'s processor time, {} samples\n", tally.samples);
        for (work, share) in tally.work().into_iter().filter(|(_, share)| *share >= BUSY) {
            text += &format!("  {share:5.1}%  {}\n", work.label());
        }
    }
    text += "\n  functions of the daemon's samples\n";
    for ((work, name), share) in seen.daemon.functions().into_iter().take(top) {
        let name: String = name.chars().take(WIDTH).collect();
        text += &format!("  {share:5.1}%  {name} ({})\n", work.label());
    }
    text
}

/// How busy the busiest processors were.
fn processors(busy: &[f64]) -> String {
    let mut busy: Vec<_> = busy.iter().enumerate().collect();
    busy.sort_by(|one, other| other.1.total_cmp(one.1));
    let busiest = busy.iter().take(4);
    let told: Vec<_> = busiest
        .map(|(number, busy)| format!("processor {number} is {busy:.1} % busy"))
        .collect();
    told.join(", ")
}

/// What neither QEMU nor the daemon used, in percent of one processor: the other end of the traffic, perf, and whatever
/// else the machine does, which makes both wait.
fn others(seen: &Seen) -> f64 {
    let threads = seen.daemon_threads.iter().chain(&seen.qemu_threads);
    let ours: f64 = threads.map(|thread| thread.ran).sum();
    (seen.processors.iter().sum::<f64>() - ours).max(0.0)
}

/// Figures for programs.
pub(super) fn figures(seen: &Seen) -> Value {
    json!({
        "seconds": rounded(seen.seconds),
        "steal_percent": rounded(seen.steal),
        "processors_busy_percent": seen.processors.iter().map(|busy| rounded(*busy)).collect::<Vec<_>>(),
        "others_percent": rounded(others(seen)),
        "frames_a_second": rounded(seen.frames),
        "mbit": rounded(seen.mbit),
        "messages_a_second": rounded(seen.messages),
        "waits_a_second": rounded(seen.waits),
        "interrupts_a_second": rounded(seen.interrupts),
        "daemon": process(&seen.daemon, &seen.daemon_threads),
        "qemu": process(&seen.qemu, &seen.qemu_threads),
    })
}

fn process(tally: &Tally, threads: &[Thread]) -> Value {
    let threads = threads.iter().filter(|thread| thread.ran >= BUSY / 10.0);
    let work = tally.work().into_iter();
    let functions = tally.functions().into_iter();
    let functions = functions.take_while(|(_, share)| *share >= WORTH);
    json!({
        "samples": tally.samples,
        "sampled_ms": rounded(tally.ns as f64 / 1e6),
        "threads": threads.map(|thread| json!({
            "name": thread.name,
            "ran_percent": rounded(thread.ran),
            "waited_percent": rounded(thread.waited),
            "slept_a_second": rounded(thread.slept),
            "preempted_a_second": rounded(thread.preempted),
        })).collect::<Vec<_>>(),
        "work": work.map(|(work, share)| json!({
            "what": work.label(),
            "percent": rounded(share),
        })).collect::<Vec<_>>(),
        "functions": functions.map(|((work, name), share)| json!({
            "name": name,
            "in": work.label(),
            "percent": rounded(share),
        })).collect::<Vec<_>>(),
    })
}

/// Two digits are more than anybody can trust.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
