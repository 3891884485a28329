//! The commands of the project: demo, test, fuzz, bench, evaluate.

mod bench;
mod demo;
mod evaluate;
mod fuzz;
mod machine;
mod placement;
mod report;
mod stage;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What people and CI run.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot a Debian guest on an emulated NIC and show that it works: about a minute, after the first downloads.
    Demo(demo::Options),
    /// Run all tests, with real guests: needs root, about 10 minutes on two cores, after the first downloads.
    Test(test::Options),
    /// Look for inputs that break something, guided by the code they reach: needs a C++ compiler.
    Fuzz(fuzz::Options),
    /// Compare nic-emu with QEMU's NICs, in guests, and write a report: needs root, about three quarters of an hour.
    Evaluate(evaluate::Options),
    /// Measure.
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // --help goes to stdout and is no error.
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => {
            let text = error.to_string();
            if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
                eprint!("{text}");
            } else {
                let sentence = text
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .trim_start_matches("error: ");
                eprintln!("{sentence}; see `cargo xtask help`");
            }
            return ExitCode::from(2);
        }
    };
    let done = match cli.command {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Evaluate(options) => evaluate::run(&options),
        Command::Bench(bench) => bench::run(&bench),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
