//! Runs inputs through a target, as the fuzzer does: `cargo run -p nic-emu-fuzz --example replay -- stream FILE...`

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let Some(target) = args.next().and_then(|target| target.into_string().ok()) else {
        eprintln!("which target? then the files");
        return ExitCode::from(2);
    };
    for path in args {
        match std::fs::read(&path) {
            Ok(data) => nic_emu_fuzz::run(&target, &data),
            Err(error) => {
                eprintln!("{} cannot be read: {error}", path.display());
                return ExitCode::FAILURE;
            }
        }
        eprintln!("{}: nothing wrong", path.display());
    }
    ExitCode::SUCCESS
}
