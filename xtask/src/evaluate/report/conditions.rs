//! What the figures were measured with, and how many frames they rest on.

use clap::ValueEnum;

use super::super::contestant::Contestant;
use super::super::record::{Evaluation, Run, STEAL_LIMIT, Settings};
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
    let steal = Summary::of(counted.iter().map(|run| run.steal_percent));
    let over = counted
        .iter()
        .filter(|run| run.steal_percent > STEAL_LIMIT)
        .count();
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
         | stolen time | {} % of a run; {} of {} runs were made again for more than {STEAL_LIMIT} %, {over} count although they had more |\n",
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
        steal.map_or_else(|| "unknown".to_owned(), |steal| format!("{steal:.1}")),
        evaluation.runs.len() - counted.len(),
        evaluation.runs.len(),
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
        "cargo xtask evaluate --rounds {} --seconds {} --rates {} --rate-seconds {} --busy-poll {} --guest-cpus {} \
         --daemon-cpu {} --suite {} --accel {}",
        settings.rounds,
        settings.seconds,
        rates.join(","),
        settings.rate_seconds,
        settings.busy_poll_us,
        any(&settings.placement.guest),
        any(&settings.placement.daemon),
        settings.suite,
        settings.accel
    );
    if settings.nics != Contestant::ALL {
        let nics = settings
            .nics
            .iter()
            .filter_map(ValueEnum::to_possible_value);
        let nics: Vec<String> = nics.map(|nic| nic.get_name().to_owned()).collect();
        command += &format!(" --nics {}", nics.join(","));
    }
    command
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
