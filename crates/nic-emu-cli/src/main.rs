//! `nic-emu-cli`: arguments in, exit code out.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use nic_emu_cli::{Capabilities, Cli, Command, LinkState, Model, UsageError};
use tracing_subscriber::EnvFilter;
use vfio_user::ListenOptions;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.verbose);
    if let Err(error) = guest_mem::sigbus::install() {
        // All goes well without it, as long as no hypervisor shrinks what it shares.
        tracing::warn!(
            "a hypervisor that shrinks its guest's memory will end this process: {error}"
        );
    }
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One sentence, with its causes after colons; never a backtrace.
            eprintln!("nic-emu-cli: {error:#}");
            match error.downcast_ref::<UsageError>() {
                Some(_) => ExitCode::from(UsageError::EXIT_CODE),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    if cli.print_capabilities {
        let capabilities = serde_json::to_string_pretty(&Capabilities::current())?;
        return Ok(writeln!(std::io::stdout(), "{capabilities}")?);
    }
    match cli.command {
        None => Err(UsageError(Cli::command().render_usage().to_string()).into()),
        Some(Command::Models) => {
            for model in Model::ALL {
                writeln!(
                    std::io::stdout(),
                    "{:<8} {}",
                    model.name(),
                    model.description()
                )?;
            }
            Ok(())
        }
        Some(Command::Inspect(ask)) => {
            let text = nic_emu_cli::inspect(ask.nic.as_deref(), ask.control.as_deref(), ask.json)?;
            print(&text)
        }
        Some(Command::Link(ask)) => {
            let up = ask.state == LinkState::Up;
            let text = nic_emu_cli::set_link(&ask.nic, up, ask.control.as_deref())?;
            print(&text)
        }
        Some(Command::Serve(serve)) => {
            let group = serve
                .socket_group
                .as_deref()
                .map(nic_emu_cli::group_id)
                .transpose()?;
            let sockets = ListenOptions {
                mode: Some(serve.socket_mode),
                group,
            };
            let threads = serve.threads()?;
            let control = serve.control.clone().unwrap_or_default();
            nic_emu_cli::serve(&serve.nics()?, &sockets, &control, &threads)
        }
    }
}

/// Prints what was asked for; whoever has read enough of it may hang up.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Logs to standard error: RUST_LOG if it is set, else by the number of `-v`.
fn start_log(verbose: u8) {
    let level = ["info", "debug", "trace"][usize::from(verbose.min(2))];
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}
