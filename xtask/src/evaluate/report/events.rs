//! What traffic costs: interrupts of the guest, accesses to the NIC's registers, vfio-user messages.
//!
//! A frame is not the same to every driver: with TSO one that e1000e or virtio-net counts has the bytes of a dozen that
//! igb or e1000 count. So events of streams are told for as many bytes as a full frame has, and only those of small
//! frames, which nobody cuts or joins, per frame.

use super::super::contestant::Contestant;
use super::super::figures::Row;
use super::super::record::{Events, Run};
use super::super::stats::Summary;
use super::Figures;
use super::tables::{figure, table};

/// Bytes of a full frame, about.
pub(super) const FULL: f64 = 1500.0;

type Count = fn(&Events) -> Option<u64>;

/// What is counted.
pub(super) const KINDS: [&str; 3] = ["interrupts", "register accesses", "vfio-user messages"];
const COUNTS: [Count; 3] = [|e| e.interrupts, |e| e.accesses, |e| e.messages];

/// What is counted in a situation.
type Situation = (&'static str, fn(&Run) -> Option<Events>);

const STREAMS: [Situation; 2] = [
    ("RX", |run| run.receive.events),
    ("TX", |run| run.send.events),
];
const SMALL: [Situation; 3] = [
    ("echo, low load", |run| run.loads.first()?.events),
    ("bare guest RX", |run| run.bare?.receive_events),
    ("bare guest TX", |run| run.bare?.send_events),
];

/// For as many bytes as a full frame has.
fn per_full(events: &Events, count: Count) -> Option<f64> {
    Some(count(events)? as f64 * FULL / events.bytes as f64)
}

fn per_frame(events: &Events, count: Count) -> Option<f64> {
    Some(count(events)? as f64 / events.frames as f64)
}

type Per = fn(&Events, Count) -> Option<f64>;

/// Of all rounds that have counted; what is divided by nothing is left out.
fn spread(
    figures: Figures<'_>,
    nic: Contestant,
    (_, events): Situation,
    value: impl Fn(&Events) -> Option<f64>,
) -> Option<Summary> {
    figures.of(nic, |run| {
        value(&events(run)?).filter(|value| value.is_finite())
    })
}

/// The section's text after its heading, with the picture of this name; `None` if nothing was counted.
pub(super) fn section(figures: Figures<'_>, picture: &str) -> Option<String> {
    let streams = rows(figures, &STREAMS, per_full);
    let small = rows(figures, &SMALL, per_frame);
    let mut parts = Vec::new();
    if !streams.is_empty() {
        parts.push(format!(
            "During iperf3, for {FULL:.0} bytes of both directions, which is a full frame's worth. Frames would compare \
             badly: what a driver counts as one differs (last column), since one with TSO hands over many segments at \
             once, and some count them as one.\n\n![events for {FULL:.0} bytes]({picture})\n\n{}",
            table(
                &header("bytes of a frame, as the driver counts"),
                streams
            )
        ));
    }
    if !small.is_empty() {
        parts.push(format!(
            "Small frames, which nobody cuts or joins: events per frame, of both directions.\n\n{}",
            table(&header("bytes of a frame"), small)
        ));
    }
    (!parts.is_empty()).then(|| {
        format!(
            "Interrupts of the guest, accesses to the NIC's registers, and vfio-user messages. Counted in stretches of \
             their own, since QEMU's log of accesses slows the guest down.\n\n{}",
            parts.join("\n\n")
        )
    })
}

fn header(bytes: &str) -> Vec<&str> {
    let mut header = vec!["", ""];
    header.extend(KINDS);
    header.extend(["of these, the guest waits for", bytes]);
    header
}

fn rows(figures: Figures<'_>, situations: &[Situation], per: Per) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for &situation in situations {
        for nic in figures.0.nics() {
            let of = |count| spread(figures, nic, situation, |e| per(e, count));
            let counted = COUNTS.map(of);
            if counted.iter().all(Option::is_none) {
                continue;
            }
            let mut row = vec![situation.0.to_owned(), nic.to_string()];
            row.extend(counted.map(figure));
            row.push(figure(of(|e| e.waits)));
            let bytes = |e: &Events| Some(e.bytes as f64 / e.frames as f64);
            row.push(figure(spread(figures, nic, situation, bytes)));
            rows.push(row);
        }
    }
    rows
}

/// The picture's rows: streams, with a bar for each kind.
pub(super) fn bars(figures: Figures<'_>) -> Vec<Row> {
    let row = |situation: Situation, nic: Contestant| Row {
        name: format!("{nic}, {}", situation.0),
        bars: COUNTS
            .map(|count| spread(figures, nic, situation, |e| per_full(e, count)))
            .to_vec(),
    };
    STREAMS
        .into_iter()
        .flat_map(|situation| {
            let nics = figures.0.nics().into_iter();
            nics.map(move |nic| row(situation, nic))
        })
        .collect()
}
