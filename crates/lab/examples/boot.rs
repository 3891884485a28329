//! Boots a guest and runs commands in it:
//!
//! ```text
//! cargo run -p nic-emu-lab --example boot -- SUITE [--vfio-user SOCKET | --qemu MODEL]... [-- COMMAND...]
//! ```

use std::process::ExitCode;

use nic_emu_lab::{Lab, Nic, Suite};

const USAGE: &str = "usage: boot bookworm|trixie|trixie-backports [--vfio-user SOCKET | --qemu MODEL]... [-- COMMAND...]";

fn main() -> ExitCode {
    match boot() {
        Ok(code) => code,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn boot() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let suite: Suite = arguments.next().ok_or(USAGE)?.parse()?;
    let lab = Lab::open()?;
    let mut builder = lab.vm(suite);
    for count in 0_u8.. {
        let Some(argument) = arguments.next() else {
            break;
        };
        let mut value = || arguments.next().ok_or(USAGE);
        builder = match argument.as_str() {
            "--vfio-user" => builder.nic(Nic::vfio_user(value()?)),
            "--qemu" => builder.nic(Nic::Unplugged {
                model: value()?,
                mac: format!("52:54:00:00:00:{count:02x}"),
            }),
            "--" => break,
            _ => return Err(USAGE.into()),
        };
    }
    let mut vm = builder.start()?;
    eprintln!("{}", vm.command_line());
    eprintln!("up after {:.1?}", vm.boot_time().unwrap_or_default());
    let mut code = 0;
    for command in arguments {
        let output = vm.run(&command)?;
        print!("{}", output.stdout);
        eprint!("{}", output.stderr);
        code = output.code;
    }
    Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from))
}
