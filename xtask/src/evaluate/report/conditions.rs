//! What the figures were measured with, and how many frames they rest on.

use clap::ValueEnum;

use super::super::contestant::Contestant;
use super::super::record::{Cpu, DISTURBANCE_LIMIT, Evaluation, Run, Settings};
use super::super::stats::Summary;
use super::tables;

/// Machine, versions, options and command lines.
pub(super) fn section(evaluation: &Evaluation) -> String {
    let settings = &evaluation.settings;
    let environment = &evaluation.environment;
    let machine = &environment.machine;
    let word = |name: &str| match &machine[name] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mitigations = machine["mitigations"].as_object();
    let mitigations = mitigations
        .into_iter()
        .flatten()
        .map(|(name, state)| format!("{name} ({})", state.as_str().unwrap_or_default()));
    let mitigations: Vec<String> = mitigations.collect();
    let mitigations = if mitigations.is_empty() {
        "none".to_owned()
    } else {
        mitigations.join("; ")
    };
    let counted: Vec<&Run> = settings
        .nics
        .iter()
        .flat_map(|&nic| evaluation.of(nic))
        .collect();
    let over = counted.iter().filter(|run| !run.is_undisturbed()).count();
    let spread = |value: &dyn Fn(&Run) -> Option<f64>| {
        let all = Summary::of(counted.iter().filter_map(|run| value(run)));
        all.map_or_else(|| "unknown".to_owned(), |all| format!("{all:.1}"))
    };
    let virtual_machine = if machine["virtual"] == true {
        ", itself virtual"
    } else {
        ""
    };
    let mut text = format!(
        "## Conditions\n\n\
         | | |\n|---|---|\n\
         | processor | {}, {} of them{virtual_machine} |\n\
         | memory | {} MiB |\n\
         | kernel | {} |\n\
         | idle driver, governor | {}, {} |\n\
         | frequency governor | {} |\n\
         | mitigations | {mitigations} |\n\
         | QEMU | {} |\n\
         | guest | Debian's kernel {} ({}), 1 processor, 512 MiB, {} |\n\
         | processors of | {} |\n\
         | TAP | {} |\n\
         | commit, date | {}, {} |\n\
         | command | `{}` |\n\
         | stolen time | {} % of a run |\n\
         | time that others used | {} % of a run |\n\
         | made again | {} of {} runs, for more than {DISTURBANCE_LIMIT} % of either; {over} count although they had more |\n\
         | getppid | {} ns |\n\
         | a word to another processor and back | {} ns |\n",
        word("processor"),
        word("processors"),
        word("memory_mib"),
        word("kernel"),
        word("idle_driver"),
        word("idle_governor"),
        word("frequency_governor"),
        environment.qemu,
        environment.guest_kernel,
        settings.suite,
        settings.accel,
        settings.placement.told(),
        tables::cell(&tap(evaluation)),
        environment.commit,
        environment.date,
        command(settings),
        spread(&|run| Some(run.steal_percent)),
        spread(&|run| Some(run.surroundings?.foreign_percent)),
        evaluation.runs.len() - counted.len(),
        evaluation.runs.len(),
        spread(&|run| Some(run.surroundings?.getppid_ns)),
        spread(&|run| run.surroundings?.ping_pong_ns),
    );
    text += "\nCommand lines of the first round (those of all runs are in the JSON):\n";
    for &nic in &settings.nics {
        if let Some(run) = evaluation.of(nic).next() {
            let daemon = run.daemon.iter().map(|line| format!("{line}\n"));
            let lines: String = daemon.chain([format!("{}\n", run.qemu)]).collect();
            text += &format!("\n{nic}\n\n```sh\n{lines}```\n");
        }
    }
    text.trim_end().to_owned()
}

fn tap(evaluation: &Evaluation) -> String {
    let run = evaluation.runs.first();
    run.map(|run| run.tap.to_string()).unwrap_or_default()
}

/// The command that asks for the same again, its defaults spelt out: they may change.
pub(super) fn command(settings: &Settings) -> String {
    let any = |list: &Option<String>| list.clone().unwrap_or_else(|| "any".to_owned());
    let rates: Vec<String> = settings.rates.iter().map(u32::to_string).collect();
    let mut command = format!(
        "cargo xtask evaluate --rounds {} --seconds {} --rates {} --rate-seconds {} --busy-poll {} \
         --busy-poll-anywhere {} --guest-cpus {} --daemon-cpu {} --suite {} --accel {}",
        settings.rounds,
        settings.seconds,
        rates.join(","),
        settings.rate_seconds,
        settings.busy_poll_us,
        settings.busy_poll_anywhere_us,
        any(&settings.placement.guest),
        any(&settings.placement.daemon),
        settings.suite,
        settings.accel
    );
    if settings.nics != Contestant::all(&settings.placement) {
        let nics = settings
            .nics
            .iter()
            .filter_map(ValueEnum::to_possible_value);
        let nics: Vec<String> = nics.map(|nic| nic.get_name().to_owned()).collect();
        command += &format!(" --nics {}", nics.join(","));
    }
    command
}

/// What the processor time beside QEMU's and the daemon's is.
pub(super) fn rest(evaluation: &Evaluation) -> String {
    let nics = evaluation.settings.nics.iter();
    let runs = nics.flat_map(|&nic| evaluation.of(nic));
    let all: Vec<Cpu> = runs
        .flat_map(|run| [run.receive.cpu, run.send.cpu])
        .collect();
    let mut text = if all.iter().all(|cpu| cpu.ours.is_some()) {
        "iperf3's other end, this command, the kernel's threads; all of it by what the kernel says each process has run"
    } else {
        "iperf3's other end and the host's kernel, by ticks, which overlook much of it"
    }
    .to_owned();
    let short = all.iter().filter(|cpu| cpu.is_short()).count();
    if short > 0 {
        text += &format!(
            "; **in {short} of {} streams all came to less than QEMU's and the daemon's part, which counts then**",
            all.len()
        );
    }
    text
}

/// How many frames a round's percentiles are taken of.
pub(super) fn offered(evaluation: &Evaluation) -> Option<String> {
    let settings = &evaluation.settings;
    let lowest = f64::from(*settings.rates.first()?) * f64::from(settings.rate_seconds);
    Some(format!(
        "Each rate lasts {} s in each round: at the lowest that is {lowest:.0} frames, of which {:.0} are longer than p99 \
         and one is the maximum; such a figure tells less than the curve, which has the frames of all {} rounds.",
        settings.rate_seconds,
        lowest / 100.0,
        settings.rounds
    ))
}
