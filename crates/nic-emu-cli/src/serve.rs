//! From the description of NICs to NICs that are served.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result};
use nic_emu::e1000;
use signal_hook::consts::{SIGINT, SIGTERM};
use vfio_user::{ListenOptions, Listener};

use crate::attach;
use crate::config::{Listen, NicConfig};
use crate::cpus::Cpu;
use crate::eeprom::EepromFile;
use crate::error::UsageError;
use crate::flash::FlashFile;
use crate::mac::MacAddr;
use crate::net::Backends;
use crate::nic::{Nic, Report};
use crate::operator::{self, Server, Watched};
use crate::rom::Rom;
use crate::shards::{PARTS, Shards};
use crate::summary;

/// Where operators ask the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Control {
    /// Below `$XDG_RUNTIME_DIR` or `/run`, if that can be written.
    #[default]
    Usual,
    /// At this path.
    At(PathBuf),
    /// Nowhere.
    None,
}

impl std::str::FromStr for Control {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "none" => Self::None,
            path => Self::At(path.into()),
        })
    }
}

/// How the daemon's threads run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Threads {
    /// How long each looks for further events after one, before it sleeps.
    pub busy_poll: Duration,
    /// How many there are for the NICs; one if it is 0.
    pub shards: usize,
    /// The processor of each of those; empty if they run wherever the kernel likes.
    pub cpus: Vec<Cpu>,
}

impl Threads {
    /// Whether this can be meant for so many NICs.
    fn check(&self, nics: usize) -> Result<(), UsageError> {
        let (shards, useful) = (self.shards.max(1), PARTS * nics);
        if shards > useful {
            let nics = match nics {
                1 => "one NIC keeps".into(),
                _ => format!("{nics} NICs keep"),
            };
            return Err(UsageError(format!(
                "--shards {shards} is more than is of use: {nics} {useful} threads busy at most, one with registers and \
                 one with each queue"
            )));
        }
        let cpus = self.cpus.len();
        if cpus != 0 && cpus != shards {
            let have = if cpus == 1 { "processor" } else { "processors" };
            let want = if shards == 1 { "shard" } else { "shards" };
            return Err(UsageError(format!(
                "--cpus names {cpus} {have} for {shards} {want}: name one for each (see --shards)"
            )));
        }
        Ok(())
    }
}

/// Serves `nics` in this thread until SIGTERM or SIGINT, then says what they have counted.
///
/// # Errors
///
/// One sentence for the operator about the first thing that could not be set up; nothing is left behind then.
pub fn serve(
    nics: &[NicConfig],
    sockets: &ListenOptions,
    control: &Control,
    threads: &Threads,
) -> Result<()> {
    threads.check(nics.len())?;
    let stop = stop_on_signals().context("cannot handle signals")?;
    let shards = Shards::new(stop, threads.shards).context("cannot make an event loop")?;
    let mut shards = shards.busy_poll(threads.busy_poll).on_cpus(&threads.cpus);
    let mut announced = Vec::new();
    let insisted = match control {
        Control::At(path) => operator::open(Some(path))?,
        Control::Usual | Control::None => None,
    };
    let mut watched = Vec::new();
    for (nic, path) in open(nics, sockets)? {
        let (joint, mac) = (nic.joint().clone(), nic.mac());
        announced.push((nic.name().to_owned(), mac, path));
        let door = shards.place(nic).context("cannot watch a NIC")?;
        watched.push(Watched { joint, mac, door });
    }
    let control = match control {
        Control::Usual => operator::open(None)?,
        Control::At(_) | Control::None => insisted,
    };
    let operators = match control {
        None => None,
        Some(listener) => {
            let server = Server::start(listener, watched, shards.waits());
            Some(server.context("cannot answer operators")?)
        }
    };
    announce(&announced);
    let reports = shards.run().context("the event loop ended")?;
    drop(operators);
    for report in &reports {
        say(report);
    }
    Ok(())
}

/// Opens the backends and the sockets, so that clients can connect; each NIC comes with the path of its socket.
fn open(nics: &[NicConfig], sockets: &ListenOptions) -> Result<Vec<(Nic, Option<PathBuf>)>> {
    let mut backends = Backends::default();
    let mut opened = Vec::new();
    let (mut addresses, mut files): (Vec<(MacAddr, String)>, Vec<PathBuf>) = Default::default();
    for config in nics {
        let backend = backends.open(config)?;
        let (listener, path) = listen(&config.listen, sockets)?;
        let name = match (&path, &config.listen) {
            (Some(path), _) => path.display().to_string(),
            (None, Listen::Fd(fd)) => format!("fd {fd}"),
            (None, Listen::Path(path)) => path.display().to_string(),
        };
        let mac = config.mac.unwrap_or_else(|| MacAddr::for_identity(&name));
        let (mut model, eeprom) = model(config, mac)?;
        let mut flash = None;
        if let Some(path) = &config.flash {
            let (opened, chip) = FlashFile::open(path)?;
            model.flash = Some(chip);
            flash = Some(opened);
        }
        // As it was given: what a guest has made of its own address is no reason to be out of service.
        if let Some((_, other)) = addresses.iter().find(|(other, _)| *other == mac) {
            let what = format!(
                "{name} and {other} have the same address {mac}: give each NIC a mac of its own"
            );
            return Err(UsageError(what).into());
        }
        addresses.push((mac, name.clone()));
        if let Some(file) = &eeprom {
            if files.iter().any(|other| other == file.path()) {
                let what = format!("{} is the EEPROM of two NICs", file.path().display());
                return Err(UsageError(what).into());
            }
            files.push(file.path().to_owned());
        }
        if let Some(file) = &flash {
            if files.iter().any(|other| other == file.path()) {
                let what = format!("{} is the flash of two NICs", file.path().display());
                return Err(UsageError(what).into());
            }
            files.push(file.path().to_owned());
        }
        let rom = config.rom.as_deref().map(Rom::load).transpose()?;
        let mut nic = Nic::of(name, &model, rom, listener, backend).overrun(config.rx_overrun);
        if let Some(file) = eeprom {
            if config.mac.is_some_and(|mac| mac != nic.mac()) {
                let (name, kept, file) = (nic.name(), nic.mac(), file.path().display());
                tracing::warn!(nic = name, "its EEPROM in {file} has the address {kept}");
            }
            nic = nic.keep_eeprom(file);
        }
        if let Some(file) = flash {
            nic = nic.keep_flash(file);
        }
        opened.push((nic, path));
    }
    backends.finish()?;
    Ok(opened)
}

/// What the model is to be, and the file that keeps its EEPROM.
fn model(config: &NicConfig, mac: MacAddr) -> Result<(e1000::Config, Option<EepromFile>)> {
    let mut model = e1000::Config::of(config.model.part(), mac.0);
    model.msi = config.msi;
    let mut file = None;
    if let Some(path) = &config.eeprom {
        let (opened, words) = EepromFile::open(path, model.eeprom_image())?;
        model.eeprom = Some(words);
        file = Some(opened);
    }
    Ok((model, file))
}

fn listen(listen: &Listen, sockets: &ListenOptions) -> Result<(Listener, Option<PathBuf>)> {
    match listen {
        Listen::Path(path) => {
            // Absolute, so that the address derived from it does not depend on where we were started.
            let path = std::path::absolute(path).context("the current directory is gone")?;
            Ok((Listener::bind(&path, sockets)?, Some(path)))
        }
        Listen::Fd(number) => {
            let fd = net_backend::inherit_fd(*number)
                .with_context(|| format!("fd={number} is not usable"))?;
            let path = rustix::net::getsockname(fd.as_fd())
                .ok()
                .and_then(|address| {
                    let address = rustix::net::SocketAddrUnix::try_from(address).ok()?;
                    Some(PathBuf::from(address.path()?.to_str().ok()?))
                });
            Ok((Listener::from_fd(fd)?, path))
        }
    }
}

/// The group that a name or a number stands for.
///
/// # Errors
///
/// There is no such group.
pub fn group_id(group: &str) -> Result<u32, UsageError> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let found = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == group).then(|| fields.nth(1)?.parse().ok())?
    });
    found.ok_or_else(|| {
        UsageError(format!(
            "there is no group {group}: give a name of /etc/group or a number"
        ))
    })
}

/// A socket that becomes readable at the first SIGTERM or SIGINT; a second one ends the process at once.
fn stop_on_signals() -> io::Result<UnixStream> {
    let (stop, ours) = UnixStream::pair()?;
    let again = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&again))?;
        signal_hook::flag::register(signal, Arc::clone(&again))?;
        signal_hook::low_level::pipe::register(signal, ours.try_clone()?)?;
    }
    Ok(stop)
}

/// Says on standard output that the sockets can be connected to, and how.
fn announce(nics: &[(String, MacAddr, Option<PathBuf>)]) {
    let mut text = String::new();
    for (name, mac, path) in nics {
        text += &format!("ready: {name} ({mac})\n");
        if let Some(path) = path {
            text += &attach_lines(path);
        }
    }
    // Whoever started us may not listen; that is no reason to end.
    let _ = io::stdout()
        .write_all(text.as_bytes())
        .and_then(|()| io::stdout().flush());
}

fn attach_lines(path: &Path) -> String {
    format!(
        "  QEMU:             {}\n  cloud-hypervisor: {}\n",
        attach::qemu(path),
        attach::cloud_hypervisor(path)
    )
}

fn say(report: &Report) {
    tracing::info!(
        nic = report.name,
        "ended; guest: {}; network: {}",
        summary::guest(&report.model),
        summary::network(&report.backend)
    );
}
