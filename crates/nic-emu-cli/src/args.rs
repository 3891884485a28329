//! The command line.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::config::NicConfig;
use crate::cpus;
use crate::error::UsageError;
use crate::keys::Keys;
use crate::serve::{Control, Threads};

/// Most threads that NICs can be dealt out to.
pub(crate) const MAX_SHARDS: u16 = 1024;
/// Longest busy-poll in microseconds.
const MAX_BUSY_POLL: u64 = 1_000_000;

/// Exports emulated NICs to hypervisors over vfio-user.
///
/// A hypervisor (QEMU >= 10.1, cloud-hypervisor) attaches to the socket of a NIC; its guest finds an Intel NIC on
/// its PCI bus and needs no driver of ours. The guest's memory should be shared: QEMU's
/// memory-backend-memfd,share=on or cloud-hypervisor's --memory shared=on. Without that, the device
/// asks the hypervisor for it message by message, which is slow.
#[derive(Debug, Parser)]
#[command(
    name = "nic-emu-cli",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Say more on stderr; twice for everything. RUST_LOG, if set, decides instead.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,

    /// Print what this program can do as JSON, in the convention of vhost-user programs, and exit.
    #[arg(long)]
    pub print_capabilities: bool,

    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve one or more NICs until SIGTERM or SIGINT.
    Serve(Box<Serve>),
    /// List the NICs that can be emulated.
    Models,
    /// Show a NIC of a running daemon: link, rings, filters, LEDs, counters, registers. The NIC does not notice.
    Inspect(Inspect),
    /// Take the link of a NIC of a running daemon down, or let it be up again.
    Link(Link),
}

/// Options of `inspect`.
#[derive(Debug, Args)]
#[command(after_long_help = INSPECT_HELP)]
pub struct Inspect {
    /// The NIC: the path of its socket, or its file name if only one NIC has it. Lists the NICs without.
    #[arg(value_name = "NAME-or-SOCKET")]
    pub nic: Option<String>,

    /// Print JSON for programs.
    #[arg(long)]
    pub json: bool,

    /// The daemon's control socket, if it is not where all of them are.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
}

/// Options of `link`.
#[derive(Debug, Args)]
pub struct Link {
    /// The NIC: the path of its socket, or its file name if only one NIC has it.
    #[arg(value_name = "NAME-or-SOCKET")]
    pub nic: String,

    /// What is to become of its link. Up, it follows the network's side again.
    pub state: LinkState,

    /// The daemon's control socket, if it is not where all of them are.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
}

/// What a link is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LinkState {
    /// As the network's side is.
    Up,
    /// Down, whatever the network's side is.
    Down,
}

/// Options of `serve`.
#[derive(Debug, Args)]
#[command(after_long_help = KEYS_HELP)]
pub struct Serve {
    /// UNIX socket for the hypervisor to connect to. A stale one is replaced, a live one is not.
    #[arg(long, value_name = "PATH", conflicts_with = "fd")]
    socket_path: Option<PathBuf>,

    /// Inherited listening UNIX socket, instead of a path.
    #[arg(long, value_name = "N")]
    fd: Option<i32>,

    /// Where frames go: tap:NAME, switch:NAME or null.
    #[arg(long, value_name = "NET")]
    net: Option<String>,

    /// Which NIC the guest sees; see `nic-emu-cli models`.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,

    /// The NIC's address; without it one that stays the same for the same socket path.
    #[arg(long, value_name = "MAC")]
    mac: Option<String>,

    /// An expansion ROM for the guest's firmware, such as iPXE's for 8086:100e.
    #[arg(long, value_name = "FILE")]
    rom: Option<PathBuf>,

    /// One NIC by flat keys; may be repeated for several NICs in one process. See below.
    #[arg(long, value_name = "KEY=VALUE,...")]
    nic: Vec<String>,

    /// Permissions of the sockets, octal.
    #[arg(long, value_name = "MODE", default_value = "600", value_parser = parse_mode)]
    pub socket_mode: u32,

    /// Group of the sockets, a name or a number.
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<String>,

    /// Where `inspect` and `link` ask this daemon, or none. Without it a socket in nic-emu/ below $XDG_RUNTIME_DIR or
    /// /run, where they find it by themselves. Only the daemon's user and root may ask.
    #[arg(long, value_name = "PATH|none")]
    pub control: Option<Control>,

    /// After each event, look for the next one for so many microseconds before going to sleep (at most a second). Cuts
    /// round trips and raises throughput where there is a processor to spare; 100 is a good start.
    #[arg(
        long,
        value_name = "MICROSECONDS",
        default_value = "0",
        allow_hyphen_values = true
    )]
    busy_poll: String,

    /// Threads for the NICs. With 2 or more, one NIC sends on one and receives on another; with 3 or more, its register
    /// accesses are answered on a third.
    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        allow_hyphen_values = true
    )]
    shards: String,

    /// The processors of the --shards, one for each in this order: numbers and ranges such as 2,3,8-11. Without it they
    /// run wherever the kernel likes.
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    cpus: Option<String>,
}

const INSPECT_HELP: &str = "\
The state is read without the guest's register accesses: clear-on-read registers keep what they hold.

Example (shortened):
  $ nic-emu-cli inspect nic0
  /run/nic0.sock: e1000 52:54:00:12:34:56, process 4711
    hypervisor connected, memory shared
    link       up, 1000 Mb/s full duplex
    interrupts quiet, pending none, enabled TXDW LSC RXDMT0 RXT0, 5120 sent, 51.2 us apart
    transmit   on, 256 descriptors at 0x3f54000, head 81, tail 81, 0 to send
    receive    on, 256 descriptors at 0x3f55000, head 16, tail 14, 254 free with 2048 bytes each
    filter     52:54:00:12:34:56 (RAR 0)
    filters    multicast hashes 2, VLANs 1, modes BAM IPOFL TUOFL
    LED 0      on (LINK_UP)
  statistics registers (the others are 0)
    GPRC             4711  good frames received that passed the filters
  registers
    00000 CTRL      581c0241  FD SLU SPEED=0x2 SDP0_DATA SDP1_DATA ADVD3WUC RFCE TFCE VME

  $ nic-emu-cli inspect nic0 --json | jq .link.up
  true";

const KEYS_HELP: &str = "\
Keys of --nic:
  socket-path=PATH      where the hypervisor connects, or fd=N for an inherited listening socket
  net=tap               a TAP: ifname=NAME (made if there is none, and removed again), or tap-fd=N;
                        ip=10.1.0.1/24 gives the host's side an address, bridge=br0 makes it a port;
                        offload=off has the host cut super-frames and make checksums itself
  net=switch            switch=NAME joins the two NICs of this process that name the same switch
  net=null              frames vanish
  model=e1000           which NIC the guest sees
  rom=FILE              an expansion ROM for the guest's firmware, such as iPXE's for 8086:100e
  eeprom=FILE           keeps what the guest writes to its EEPROM; made if it is not there
  flash=FILE            a flash behind BAR1 that is the expansion ROM, and keeps what the guest programs;
                        made if it is not there
  msi=on                offers the guest interrupts by message
  mac=52:54:00:12:34:56 its address
  rx-overrun=hold       frames that the guest is too slow for wait in the network; with drop they are
                        lost once the NIC's receive FIFO is full, as on the wire
  pcap=FILE             captures frames both ways
  fault-loss=0.01       loses this share of the frames
  fault-corrupt=0.01    flips a bit in this share of the frames
  fault-delay=5ms       holds every frame back
  fault-seed=N          makes the same faults again

Examples:
  nic-emu-cli serve --socket-path /run/nic0.sock --net tap:tap0
  nic-emu-cli serve --nic socket-path=/run/a.sock,net=switch,switch=s \\
                    --nic socket-path=/run/b.sock,net=switch,switch=s
  nic-emu-cli serve --shards 3 --cpus 2,3,4 --socket-path /run/nic0.sock --net tap:tap0";

impl Serve {
    /// The NICs asked for: each `--nic`, and the one that the short options describe.
    ///
    /// # Errors
    ///
    /// The first thing that cannot be meant.
    pub fn nics(&self) -> Result<Vec<NicConfig>, UsageError> {
        let mut nics = Vec::new();
        for text in &self.nic {
            nics.push(NicConfig::from_keys(Keys::parse(text)?)?);
        }
        if let Some(short) = self.short()? {
            nics.push(NicConfig::from_keys(short)?);
        }
        if nics.is_empty() {
            let what =
                "serve needs a NIC: --socket-path PATH --net tap:NAME, or --nic KEY=VALUE,...";
            return Err(UsageError(what.into()));
        }
        Ok(nics)
    }

    /// How the daemon's threads are to run.
    ///
    /// # Errors
    ///
    /// Numbers that are none or out of range; processors that are no list, do not exist, or may not be used.
    pub fn threads(&self) -> Result<Threads, UsageError> {
        let busy_poll = number("--busy-poll", &self.busy_poll, 0..=MAX_BUSY_POLL)?;
        Ok(Threads {
            busy_poll: Duration::from_micros(busy_poll),
            shards: number("--shards", &self.shards, 1..=MAX_SHARDS.into())? as usize,
            cpus: match &self.cpus {
                Some(list) => cpus::parse(list)?,
                None => Vec::new(),
            },
        })
    }

    /// The short options as keys.
    fn short(&self) -> Result<Option<Keys>, UsageError> {
        let mut keys = Keys::default();
        if let Some(path) = &self.socket_path {
            let path = path
                .to_str()
                .ok_or_else(|| UsageError("--socket-path is not UTF-8".into()))?;
            keys.add("socket-path", path)?;
        }
        if let Some(rom) = &self.rom {
            let rom = rom
                .to_str()
                .ok_or_else(|| UsageError("--rom is not UTF-8".into()))?;
            keys.add("rom", rom)?;
        }
        if let Some(fd) = self.fd {
            keys.add("fd", &fd.to_string())?;
        }
        if let Some(net) = &self.net {
            NicConfig::add_short_net(&mut keys, net)?;
        }
        for (key, value) in [("model", &self.model), ("mac", &self.mac)] {
            if let Some(value) = value {
                keys.add(key, value)?;
            }
        }
        Ok((keys != Keys::default()).then_some(keys))
    }
}

/// The number that an option was given.
fn number(option: &str, text: &str, range: RangeInclusive<u64>) -> Result<u64, UsageError> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        let (least, most) = range.into_inner();
        UsageError(format!(
            "{option} {text:.40} cannot be: give a number from {least} to {most}"
        ))
    })
}

fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "give three octal digits such as 660".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    fn serve(args: &[&str]) -> Result<Vec<NicConfig>, UsageError> {
        let args = ["nic-emu-cli", "serve"].iter().chain(args);
        match Cli::try_parse_from(args).expect("clap accepts").command {
            Some(Command::Serve(serve)) => serve.nics(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn short_options_and_keys_describe_nics_together() {
        let nics = serve(&[
            "--nic",
            "fd=3,net=null",
            "--socket-path",
            "/a",
            "--net",
            "tap:t0",
            "--nic",
            "fd=4,net=null",
        ]);
        assert_eq!(nics.unwrap().len(), 3);
        assert!(serve(&[]).is_err());
        assert!(serve(&["--net", "null"]).is_err());
    }
}
