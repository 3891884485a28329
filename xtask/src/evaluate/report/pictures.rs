//! The pictures and their file names.

use super::super::contestant::Contestant;
use super::super::figures::{Bars, Curve, Distribution, Row, Stacks};
use super::super::record::{Load, Run};
use super::super::svg::COLOURS;
use super::tables::cpu_parts;
use super::{Figures, events, load, receive, receive_cpu, send, send_cpu};

pub(super) const THROUGHPUT: &str = "throughput.svg";
pub(super) const CPU: &str = "cpu.svg";
pub(super) const OVERLOAD: &str = "overload.svg";
pub(super) const EVENTS: &str = "events.svg";
pub(super) const BARE: &str = "bare.svg";

pub(super) fn latency_name(rate: u32) -> String {
    format!("latency-{rate}.svg")
}

/// All for which there are figures, by file name.
pub(super) fn all(figures: Figures<'_>) -> Vec<(String, String)> {
    let mut pictures = vec![
        (THROUGHPUT.to_owned(), throughput(figures)),
        (CPU.to_owned(), cpu(figures)),
    ];
    for &rate in &figures.0.settings.rates {
        let picture = latency(figures, rate);
        pictures.extend(picture.map(|picture| (latency_name(rate), picture)));
    }
    let others = [
        (OVERLOAD, overload(figures)),
        (EVENTS, event_bars(figures)),
        (BARE, bare(figures)),
    ];
    let others = others
        .into_iter()
        .filter_map(|(name, picture)| Some((name.to_owned(), picture?)));
    pictures.extend(others);
    pictures
}

fn spread(figures: Figures<'_>) -> String {
    match figures.0.settings.rounds {
        1 => "one round".to_owned(),
        rounds => format!("bars: median of {rounds} rounds; whiskers: lowest and highest"),
    }
}

fn throughput(figures: Figures<'_>) -> String {
    let row = |nic: Contestant| Row {
        name: nic.to_string(),
        bars: vec![figures.of(nic, receive), figures.of(nic, send)],
    };
    Bars {
        title: "iperf3 over one TCP connection",
        subtitle: &spread(figures),
        scale: "Mbit/s, logarithmic",
        series: &["RX: the guest receives", "TX: the guest sends"],
        rows: figures.0.nics().into_iter().map(row).collect(),
        marks: Vec::new(),
    }
    .draw()
}

fn cpu(figures: Figures<'_>) -> String {
    let mut rows = Vec::new();
    for nic in figures.0.nics() {
        let parts = cpu_parts(figures, nic, |run| &run.receive);
        rows.extend(parts.map(|parts| {
            let sum = figures.of(nic, receive_cpu);
            (format!("{nic}, RX"), parts.to_vec(), sum)
        }));
        let parts = cpu_parts(figures, nic, |run| &run.send);
        rows.extend(parts.map(|parts| {
            let sum = figures.of(nic, send_cpu);
            (format!("{nic}, TX"), parts.to_vec(), sum)
        }));
    }
    Stacks {
        title: "Processor time for a gigabyte",
        subtitle: &spread(figures),
        scale: "seconds of processor time per gigabyte through the TAP",
        parts: &["QEMU with the guest", "nic-emu-cli", "the rest"],
        rows,
    }
    .draw()
}

fn latency(figures: Figures<'_>, rate: u32) -> Option<String> {
    let curve = |nic: Contestant| {
        let loads: Vec<&Load> = figures
            .0
            .of(nic)
            .filter_map(|run| load(run, rate))
            .collect();
        let points = distribution(&loads);
        (!points.is_empty()).then(|| Curve {
            name: nic.to_string(),
            colour: nic as usize % COLOURS,
            dash: usize::from(nic == Contestant::NicEmuPoll),
            points,
        })
    };
    let curves: Vec<Curve> = figures.0.nics().into_iter().filter_map(curve).collect();
    (!curves.is_empty()).then(|| {
        Distribution {
            title: &format!("Round trips of 60 byte frames, {rate} offered a second"),
            subtitle: "all frames of all rounds",
            scale: "round trip in \u{b5}s, logarithmic",
            share: "share of the frames offered",
            curves,
        }
        .draw()
    })
}

/// Of the frames offered in all rounds together, the share that was back after so many microseconds.
pub(super) fn distribution(loads: &[&Load]) -> Vec<(f64, f64)> {
    let offered: u64 = loads.iter().map(|load| load.sent).sum();
    let mut buckets: Vec<(f64, u64)> = loads
        .iter()
        .flat_map(|load| load.histogram.iter().copied())
        .collect();
    buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let mut back = 0;
    let mut points: Vec<(f64, f64)> = Vec::new();
    for (us, count) in buckets {
        back += count;
        let share = back as f64 / offered.max(1) as f64;
        match points.last_mut() {
            Some(last) if last.0 == us => last.1 = share,
            _ => points.push((us, share)),
        }
    }
    points
}

fn overload(figures: Figures<'_>) -> Option<String> {
    let rates = &figures.0.settings.rates;
    let row = |nic: Contestant| Row {
        name: nic.to_string(),
        bars: rates
            .iter()
            .map(|&rate| {
                let kpps = |run: &Run| load(run, rate).map(Load::echoed_kpps);
                figures.of(nic, kpps)
            })
            .collect(),
    };
    let rows: Vec<Row> = figures.0.nics().into_iter().map(row).collect();
    let series: Vec<String> = rates
        .iter()
        .map(|&rate| format!("{} kpps offered", f64::from(rate) / 1e3))
        .collect();
    let series: Vec<&str> = series.iter().map(String::as_str).collect();
    any(&rows).then(|| {
        Bars {
            title: "Frames echoed of those offered",
            subtitle: &(spread(figures) + "; dotted: offered"),
            scale: "thousand frames of 60 bytes echoed a second, logarithmic",
            series: &series,
            rows,
            marks: rates.iter().map(|&rate| f64::from(rate) / 1e3).collect(),
        }
        .draw()
    })
}

fn event_bars(figures: Figures<'_>) -> Option<String> {
    let rows = events::bars(figures);
    any(&rows).then(|| {
        Bars {
            title: "What a full frame's worth costs during iperf3",
            subtitle: &spread(figures),
            scale: &format!("events for {:.0} bytes, logarithmic", events::FULL),
            series: &events::KINDS,
            rows,
            marks: Vec::new(),
        }
        .draw()
    })
}

fn bare(figures: Figures<'_>) -> Option<String> {
    let row = |nic: Contestant| {
        let of = |value: fn(&super::super::record::Bare) -> f64| {
            figures.of(nic, |run| run.bare.as_ref().map(value))
        };
        Row {
            name: nic.to_string(),
            bars: vec![of(|b| b.receive_pps / 1e3), of(|b| b.send_pps / 1e3)],
        }
    };
    let nics = figures.0.nics().into_iter().filter(|nic| nic.is_82540em());
    let rows: Vec<Row> = nics.map(row).collect();
    any(&rows).then(|| {
        Bars {
            title: "A guest without an operating system",
            subtitle: &spread(figures),
            scale: "thousand frames of 60 bytes a second through the TAP, logarithmic",
            series: &["RX: the guest receives", "TX: the guest sends"],
            rows,
            marks: Vec::new(),
        }
        .draw()
    })
}

fn any(rows: &[Row]) -> bool {
    rows.iter().any(|row| row.bars.iter().any(Option::is_some))
}
