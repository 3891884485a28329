//! The report: `README.md` with the answers, tables and pictures, all made from the stored figures.

mod answers;
mod conditions;
mod events;
mod goals;
mod pictures;
mod places;
mod tables;
mod thesis;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::contestant::Contestant;
use super::record::{Evaluation, Load, Run, Stream};
use super::stats::Summary;

/// The report's file.
pub(crate) const INDEX: &str = "README.md";

/// A figure of a run; `None` where it was not measured.
type Metric = fn(&Run) -> Option<f64>;

/// The stored figures, by NIC and metric.
#[derive(Clone, Copy, Debug)]
struct Figures<'a>(&'a Evaluation);

impl Figures<'_> {
    /// Over all rounds.
    fn of(self, nic: Contestant, metric: impl Fn(&Run) -> Option<f64>) -> Option<Summary> {
        Summary::of(self.0.of(nic).filter_map(metric))
    }

    /// One NIC's to another's, of the rounds in which both have run.
    fn ratio(
        self,
        nic: Contestant,
        to: Contestant,
        metric: impl Fn(&Run) -> Option<f64>,
    ) -> Option<Summary> {
        Summary::of(self.ratios(nic, to, metric))
    }

    /// The same, round by round.
    fn ratios(
        self,
        nic: Contestant,
        to: Contestant,
        metric: impl Fn(&Run) -> Option<f64>,
    ) -> Vec<f64> {
        let round = |round| {
            let [over, under] = [nic, to].map(|nic| metric(self.0.run(nic, round)?));
            Some(over? / under?)
        };
        (0..self.0.settings.rounds).filter_map(round).collect()
    }

    fn has(self, nic: Contestant) -> bool {
        self.0.of(nic).next().is_some()
    }
}

fn receive(run: &Run) -> Option<f64> {
    Some(run.receive.mbit)
}

fn send(run: &Run) -> Option<f64> {
    Some(run.send.mbit)
}

fn ping(run: &Run) -> Option<f64> {
    Some(run.ping.p50)
}

/// The median round trip at the lowest rate.
fn low_latency(run: &Run) -> Option<f64> {
    run.loads.first().map(|load| load.trips.p50)
}

/// The load at a rate.
fn load(run: &Run, rate: u32) -> Option<&Load> {
    run.loads.iter().find(|load| load.rate == rate)
}

/// Processor seconds of all that a gigabyte through the TAP takes.
fn cpu(stream: &Stream) -> Option<f64> {
    (stream.bytes > 0).then(|| stream.cpu.whole() / gigabytes(stream))
}

fn gigabytes(stream: &Stream) -> f64 {
    stream.bytes as f64 / 1e9
}

fn receive_cpu(run: &Run) -> Option<f64> {
    cpu(&run.receive)
}

fn send_cpu(run: &Run) -> Option<f64> {
    cpu(&run.send)
}

/// Writes the report and its pictures.
pub(crate) fn write(evaluation: &Evaluation, folder: &Path) -> Result<()> {
    ensure!(
        !evaluation.runs.is_empty(),
        "there is no run to report about"
    );
    let put = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    for (name, picture) in pictures::all(Figures(evaluation)) {
        put(&name, &picture)?;
    }
    put(INDEX, &text(evaluation))
}

/// What is printed at the end.
pub(crate) fn summary(evaluation: &Evaluation) -> String {
    let figures = Figures(evaluation);
    format!(
        "\n{}\n{}",
        tables::throughput(figures),
        goals::table(figures)
    )
}

fn text(evaluation: &Evaluation) -> String {
    let figures = Figures(evaluation);
    let settings = &evaluation.settings;
    let mut sections = vec![
        head(evaluation),
        answers::impact(figures),
        answers::viable(figures),
        goals::section(figures),
    ];
    sections.extend(places::section(figures));
    sections.push(format!(
        "## Throughput\n\niperf3 over one TCP connection, {} s in each direction, payload.\n\n![iperf3 throughput]({})\n\n{}",
        settings.seconds,
        pictures::THROUGHPUT,
        tables::throughput(figures)
    ));
    sections.push(latency_section(figures));
    let mut processors = format!(
        "## Processor time\n\nWhat a gigabyte through the TAP takes during iperf3: QEMU (with the \
         guest's own work), our daemon, and the rest ({}).\n\n\
         ![processor time per gigabyte]({})\n\n{}",
        conditions::rest(evaluation),
        pictures::CPU,
        tables::cpu(figures)
    );
    if let Some(busy) = tables::busy(figures) {
        processors += &format!(
            "\n\nHow busy QEMU and the daemon were meanwhile, in percent of one processor (iperf3's beginning and end \
             are included):\n\n{busy}"
        );
    }
    sections.push(processors);
    if let Some(text) = events::section(figures, pictures::EVENTS) {
        sections.push(format!("## What a frame costs\n\n{text}"));
    }
    if let Some(table) = tables::bare(figures) {
        sections.push(format!(
            "## Without an operating system\n\n`crates/bare-guest` polls its rings and does nothing else: what the NIC \
             and its hypervisor can do. It runs on whatever processors there are: one that it shared with a daemon \
             would be its own nearly all of the time. Frames of 60 bytes through the TAP.\n\n![frames per second]({})\n\n{table}",
            pictures::BARE
        ));
    }
    sections.push(conditions::section(evaluation));
    sections.join("\n\n") + "\n"
}

fn head(evaluation: &Evaluation) -> String {
    let settings = &evaluation.settings;
    let environment = &evaluation.environment;
    let mut text = format!(
        "# Evaluation\n\nMade by `cargo xtask evaluate` on {} from commit {} ([with which options](#conditions)); figures: \
         [evaluation.json](evaluation.json). It repeats \
         chapter 6 of the thesis that this project grew out of: a NIC model in a process of its own beside the NICs \
         that QEMU has built in, on the same guest kernel and the same TAP. {} of {} rounds, each a fresh boot on every \
         NIC, in changing order. **Figures are medians (lowest to highest round); ratios are of two runs of the same \
         round.**",
        environment.date,
        environment.commit,
        evaluation.complete_rounds(),
        settings.rounds
    );
    if settings.rounds < 7 {
        text += "\n\n**Fewer than seven rounds: take every figure here as a hint.**";
    }
    if settings.accel == "tcg" {
        text += "\n\nThe guest runs under TCG, QEMU's translator, on one virtual processor: it is the guest that is slow. \
                 NICs that make the guest do less work (virtio-net, and those with TSO and large receive buffers) gain \
                 more here than what they save the host, and absolute figures say nothing about a server. There, \
                 the same command with `--accel kvm` measures what this cannot.";
    }
    text += &format!("\n\nProcessors: {}.", settings.placement.told());
    if settings.placement.daemon.is_some() && settings.placement.guest == settings.placement.daemon
    {
        text += " That is how an operator places them who gives a guest a processor of its own: a register access wakes up \
                 three threads one after the other, and on another processor, asleep by then, each takes many times as long.";
    }
    if let Some(kvm) = &environment.kvm {
        text += &format!("\n\n**Under KVM, but {kvm}.**");
    }
    text
}

fn latency_section(figures: Figures<'_>) -> String {
    let settings = &figures.0.settings;
    let mut text = "## Latency\n\nFrames of 60 bytes, sent at a fixed rate whatever comes back. The guest sends them back \
        below its IP stack, by generic XDP (XDP_TX), for every driver alike. Curves are shares of the \
        frames that were *offered*: one that ends below 100 % has lost the rest."
        .to_owned();
    if let Some(told) = conditions::offered(figures.0) {
        text += &format!(" {told}");
    }
    text += " Generator, guest and NIC share this machine, unlike in the thesis (two hosts, joined by 100 Gbit/s NICs and a \
             bridge): there is no wire and no physical NIC in a round trip here, but the generator takes processor time \
             from the same machine, and its own lateness is part of what it measures.";
    for &rate in &settings.rates {
        if figures.0.runs.iter().any(|run| load(run, rate).is_some()) {
            text += &format!(
                "\n\n![latency at {rate} frames a second]({})",
                pictures::latency_name(rate)
            );
        }
    }
    if let Some(table) = tables::latency(figures) {
        text += &format!("\n\n{table}");
    }
    text += &format!(
        "\n\nOne echo at a time, no other load:\n\n{}",
        tables::echoes(figures)
    );
    if figures.has(Contestant::E1000) {
        text += "\n\nQEMU's e1000 lets at least 128 us pass from one interrupt to the next, whatever the driver has asked \
                 for; nic-emu's keeps to the driver's registers (Linux asks for 50 us at its shortest). A lone frame \
                 that comes after a pause is not delayed by either. When frames come closer than 128 us, QEMU's e1000 \
                 takes several of them with each interrupt: that makes their round trips longer and the guest's work \
                 less, and under overload it is the guest's work that decides how many are echoed.";
    }
    if let Some(table) = tables::overload(figures) {
        text += &format!(
            "\n\n### Offered and echoed\n\n![offered and echoed frames]({})\n\n{table}",
            pictures::OVERLOAD
        );
    }
    text
}

#[cfg(test)]
mod tests;
