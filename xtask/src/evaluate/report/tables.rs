//! The figures in rows, one for each NIC.

use super::super::contestant::Contestant;
use super::super::record::{Bare, Run, Stream, Trips};
use super::super::stats::{Summary, digits};
use super::{Figures, Metric, load, ping, receive, receive_cpu, send, send_cpu};

/// A Markdown table: its header, and rows that start with a name.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let header: Vec<String> = header.iter().map(|&cell| cell.to_owned()).collect();
    let mut text = line(&header) + "|" + &"---|".repeat(header.len()) + "\n";
    for row in rows {
        text += &line(&row);
    }
    text.trim_end().to_owned()
}

/// Text that does not end a cell.
pub(super) fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

pub(super) fn figure(summary: Option<Summary>) -> String {
    summary.map_or_else(|| "\u{2013}".to_owned(), |summary| summary.to_string())
}

/// Without the spread.
fn median(summary: Option<Summary>) -> String {
    summary.map_or_else(
        || "\u{2013}".to_owned(),
        |s| format!("{:.*}", digits(s.median), s.median),
    )
}

/// A ratio.
pub(super) fn times(summary: Option<Summary>) -> String {
    summary.map_or_else(
        || "\u{2013}".to_owned(),
        |s| format!("**{:.2}** ({:.2} to {:.2})", s.median, s.min, s.max),
    )
}

/// Rows of one metric each per column, and its ratio to QEMU's e1000 and to virtio-net where these have run.
fn compared(figures: Figures<'_>, columns: &[(&str, Metric)]) -> String {
    let references: Vec<Contestant> = [Contestant::E1000, Contestant::VirtioNet]
        .into_iter()
        .filter(|&nic| figures.has(nic))
        .collect();
    let mut header = vec![String::new()];
    for (name, _) in columns {
        header.push((*name).to_owned());
        for reference in &references {
            header.push(format!("to {reference}"));
        }
    }
    let row = |nic: Contestant| {
        let mut row = vec![nic.to_string()];
        for (_, metric) in columns {
            row.push(figure(figures.of(nic, metric)));
            for &reference in &references {
                row.push(if reference == nic {
                    "1".to_owned()
                } else {
                    times(figures.ratio(nic, reference, metric))
                });
            }
        }
        row
    };
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    table(&header, figures.0.nics().into_iter().map(row))
}

pub(super) fn throughput(figures: Figures<'_>) -> String {
    compared(figures, &[("RX, Mbit/s", receive), ("TX, Mbit/s", send)])
}

pub(super) fn cpu(figures: Figures<'_>) -> String {
    compared(
        figures,
        &[("RX, s/GB", receive_cpu), ("TX, s/GB", send_cpu)],
    )
}

/// Shares of a processor during iperf3: QEMU's, the daemon's, both.
pub(super) fn busy(figures: Figures<'_>) -> Option<String> {
    let part = |nic, stream: fn(&Run) -> &Stream, part: fn(&Stream) -> f64| {
        let share = |run: &Run| {
            let stream = stream(run);
            (stream.cpu.elapsed > 0.0).then(|| 100.0 * part(stream) / stream.cpu.elapsed)
        };
        figure(figures.of(nic, share))
    };
    let row = |nic: Contestant| {
        let mut row = vec![nic.to_string()];
        for stream in [(|run| &run.receive) as fn(&Run) -> &Stream, |run| &run.send] {
            row.push(part(nic, stream, |s| s.cpu.qemu));
            row.push(part(nic, stream, |s| s.cpu.daemon));
            row.push(part(nic, stream, |s| s.cpu.qemu + s.cpu.daemon));
        }
        row
    };
    let header = [
        "", "RX: QEMU", "daemon", "both", "TX: QEMU", "daemon", "both",
    ];
    let timed = figures
        .0
        .runs
        .iter()
        .any(|run| run.receive.cpu.elapsed > 0.0);
    timed.then(|| table(&header, figures.0.nics().into_iter().map(row)))
}

/// One echo at a time.
pub(super) fn echoes(figures: Figures<'_>) -> String {
    let udp: Metric = |run| run.udp.map(|trips| trips.p50);
    if figures.0.runs.iter().any(|run| run.udp.is_some()) {
        compared(
            figures,
            &[("ping, median us", ping), ("UDP, median us", udp)],
        )
    } else {
        compared(figures, &[("ping, median us", ping)])
    }
}

/// Percentiles at each rate.
pub(super) fn latency(figures: Figures<'_>) -> Option<String> {
    let mut rows = Vec::new();
    for &rate in &figures.0.settings.rates {
        for nic in figures.0.nics() {
            let of = |value: fn(&Trips) -> f64| {
                figures.of(nic, |run| load(run, rate).map(|load| value(&load.trips)))
            };
            if of(|trips| trips.p50).is_none() {
                continue;
            }
            let median = |value| median(of(value));
            let medians = [
                median(|t| t.min),
                figure(of(|t| t.p50)),
                median(|t| t.p90),
                median(|t| t.p99),
                median(|t| t.max),
            ];
            let ratio = |to| {
                if to == nic {
                    return "1".to_owned();
                }
                times(figures.ratio(nic, to, |run| load(run, rate).map(|l| l.trips.p50)))
            };
            let mut row = vec![rate.to_string(), nic.to_string()];
            row.extend(medians);
            row.extend([ratio(Contestant::E1000), ratio(Contestant::VirtioNet)]);
            rows.push(row);
        }
    }
    let header = [
        "offered /s",
        "",
        "min, us",
        "median",
        "p90",
        "p99",
        "max",
        "median to QEMU e1000",
        "to QEMU virtio-net",
    ];
    (!rows.is_empty()).then(|| table(&header, rows))
}

/// Frames echoed at each rate.
pub(super) fn overload(figures: Figures<'_>) -> Option<String> {
    let rates = &figures.0.settings.rates;
    let mut header = vec![String::new()];
    for rate in rates {
        header.push(format!("echoed of {rate}/s, kpps"));
        header.push("share".to_owned());
        header.push("to QEMU e1000".to_owned());
    }
    let mut measured = false;
    let row = |nic| {
        let mut row = vec![Contestant::to_string(&nic)];
        for &rate in rates {
            let kpps = |run: &Run| load(run, rate).map(|load| load.echoed_kpps());
            let share = figures.of(nic, |run| load(run, rate).map(|l| l.echoed_share() * 100.0));
            measured |= share.is_some();
            row.push(figure(figures.of(nic, kpps)));
            row.push(share.map_or_else(
                || "\u{2013}".to_owned(),
                |share| format!("{:.0} %", share.median),
            ));
            row.push(if nic == Contestant::E1000 {
                "1".to_owned()
            } else {
                times(figures.ratio(nic, Contestant::E1000, kpps))
            });
        }
        row
    };
    let rows: Vec<Vec<String>> = figures.0.nics().into_iter().map(row).collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    measured.then(|| table(&header, rows))
}

pub(super) fn bare(figures: Figures<'_>) -> Option<String> {
    let rx: fn(&Bare) -> f64 = |bare| bare.receive_pps / 1e3;
    let tx: fn(&Bare) -> f64 = |bare| bare.send_pps / 1e3;
    let nics = figures.0.nics();
    let nics = nics
        .into_iter()
        .filter(|nic| figures.0.of(*nic).any(|run| run.bare.is_some()));
    let row = |nic| {
        let mut row = vec![Contestant::to_string(&nic)];
        for value in [rx, tx] {
            let metric = |run: &Run| run.bare.as_ref().map(value);
            row.push(figure(figures.of(nic, metric)));
            row.push(if nic == Contestant::E1000 {
                "1".to_owned()
            } else {
                times(figures.ratio(nic, Contestant::E1000, metric))
            });
        }
        row
    };
    let rows: Vec<_> = nics.map(row).collect();
    let header = ["", "RX, kpps", "to QEMU e1000", "TX, kpps", "to QEMU e1000"];
    (!rows.is_empty()).then(|| table(&header, rows))
}

/// Median processor seconds per gigabyte: QEMU, daemon, the rest of the machine.
pub(super) fn cpu_parts(
    figures: Figures<'_>,
    nic: Contestant,
    stream: fn(&Run) -> &Stream,
) -> Option<[f64; 3]> {
    let median = |part: fn(&Stream) -> f64| {
        let metric = |run: &Run| {
            let stream = stream(run);
            (stream.bytes > 0).then(|| part(stream) / super::gigabytes(stream))
        };
        figures.of(nic, metric).map(|summary| summary.median)
    };
    let (qemu, daemon) = (median(|s| s.cpu.qemu)?, median(|s| s.cpu.daemon)?);
    let rest = median(|s| s.cpu.whole() - s.cpu.parts())?;
    Some([qemu, daemon, rest])
}
