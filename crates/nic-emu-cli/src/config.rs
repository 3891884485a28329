//! What one NIC is to be: the meaning of the flat keys.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use net_backend::IpPrefix;
use nic_emu::e1000::rx::Overrun;

use crate::error::UsageError;
use crate::keys::Keys;
use crate::mac::MacAddr;
use crate::models::Model;

/// Everything that an operator can say about one NIC.
#[derive(Clone, Debug, PartialEq)]
pub struct NicConfig {
    /// Where the hypervisor connects.
    pub listen: Listen,
    /// Which NIC the guest sees.
    pub model: Model,
    /// The address in its EEPROM; derived from the socket if not given.
    pub mac: Option<MacAddr>,
    /// Where frames go.
    pub net: Net,
    /// The file that holds its EEPROM; without one it is new each time.
    pub eeprom: Option<PathBuf>,
    /// The expansion ROM that the guest's firmware finds.
    pub rom: Option<PathBuf>,
    /// The file that holds its flash, if it is to have one.
    pub flash: Option<PathBuf>,
    /// The MSI capability is there.
    pub msi: bool,
    /// What happens to frames that come faster than the guest takes them.
    pub rx_overrun: Overrun,
    /// Captures frames both ways into this pcap file.
    pub pcap: Option<PathBuf>,
    /// Loses, corrupts and delays frames.
    pub fault: Option<Fault>,
}

/// Where the hypervisor connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A UNIX socket that we make at this path.
    Path(PathBuf),
    /// A listening UNIX socket that we inherited.
    Fd(RawFd),
}

/// Where frames go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Net {
    /// A TAP interface.
    Tap(Tap),
    /// Nowhere.
    Null,
    /// The other NIC of this process that names the same switch.
    Switch(String),
}

/// A TAP interface: by name, or inherited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// Name; the kernel chooses one if it is not given.
    pub ifname: Option<String>,
    /// An inherited descriptor of a TAP that is already set up.
    pub fd: Option<RawFd>,
    /// Address and prefix length for the host's side.
    pub ip: Option<IpPrefix>,
    /// The bridge that the TAP becomes a port of.
    pub bridge: Option<String>,
    /// The host may leave checksums and segmentation to us.
    pub offload: bool,
}

/// Faults, in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fault {
    /// Share of frames lost, 0 to 1.
    pub loss: f64,
    /// Share of frames in which one bit is flipped, 0 to 1.
    pub corrupt: f64,
    /// Time that every frame is held back.
    pub delay: Duration,
    /// The same seed gives the same faults.
    pub seed: u64,
}

/// For the message about a key that is none of them.
pub(crate) const KEYS: &str = "socket-path, fd, net, model, mac, eeprom, flash, rom, msi, rx-overrun, pcap, fault-loss, fault-corrupt, fault-delay, fault-seed, \
                    with net=tap also ifname, tap-fd, ip, bridge, offload, and with net=switch also switch";

impl NicConfig {
    /// Reads the keys of one NIC.
    ///
    /// # Errors
    ///
    /// The first thing that is missing, malformed, unknown or contradictory.
    pub fn from_keys(mut keys: Keys) -> Result<Self, UsageError> {
        let listen = match (
            keys.take("socket-path"),
            keys.take_as("fd", "the number of a listening socket")?,
        ) {
            (Some(path), None) if !path.is_empty() => Listen::Path(path.into()),
            (None, Some(fd)) if fd >= 0 => Listen::Fd(fd),
            (None, Some(_)) => return Err(UsageError("fd must not be negative".into())),
            (Some(_), Some(_)) => {
                return Err(UsageError("give either socket-path or fd, not both".into()));
            }
            _ => {
                return Err(UsageError(
                    "give socket-path=PATH, where the hypervisor will connect, or fd=N".into(),
                ));
            }
        };
        let model = match keys.take("model") {
            None => Model::default(),
            Some(name) => name.parse()?,
        };
        let mac = keys.take_as(
            "mac",
            "the address of one station, such as 52:54:00:12:34:56",
        )?;
        let eeprom = keys.take("eeprom").map(PathBuf::from);
        let rom = keys.take("rom").map(PathBuf::from);
        let flash = keys.take("flash").map(PathBuf::from);
        if rom.is_some() && flash.is_some() {
            let what = "a flash is an expansion ROM itself: give either rom or flash, not both";
            return Err(UsageError(what.into()));
        }
        let msi = keys.take_switch("msi", false)?;
        let net = Net::from_keys(&mut keys)?;
        let rx_overrun = match keys.take("rx-overrun").as_deref() {
            None | Some("hold") => Overrun::Hold,
            Some("drop") => Overrun::Drop,
            Some(other) => {
                return Err(UsageError(format!(
                    "rx-overrun={other} is unknown: give hold or drop"
                )));
            }
        };
        let pcap = keys.take("pcap").map(PathBuf::from);
        let fault = Fault::from_keys(&mut keys)?;
        keys.finish(KEYS)?;
        Ok(Self {
            listen,
            model,
            mac,
            net,
            eeprom,
            rom,
            flash,
            msi,
            rx_overrun,
            pcap,
            fault,
        })
    }

    /// Translates the short form of a network, `tap:NAME`, `null` or `switch:NAME`, into keys.
    ///
    /// # Errors
    ///
    /// Neither of these.
    pub fn add_short_net(keys: &mut Keys, net: &str) -> Result<(), UsageError> {
        match net.split_once(':') {
            Some(("tap", name)) if !name.is_empty() => {
                keys.add("net", "tap")?;
                keys.add("ifname", name)
            }
            Some(("switch", name)) if !name.is_empty() => {
                keys.add("net", "switch")?;
                keys.add("switch", name)
            }
            None if matches!(net, "null" | "tap") => keys.add("net", net),
            _ => Err(UsageError(format!(
                "--net {net} is unknown: give tap:NAME, switch:NAME or null"
            ))),
        }
    }
}

impl Net {
    fn from_keys(keys: &mut Keys) -> Result<Self, UsageError> {
        match keys.take("net").as_deref() {
            Some("tap") => {
                let fd = keys.take_as("tap-fd", "the number of an open TAP")?;
                let tap = Tap {
                    ifname: keys.take("ifname"),
                    fd,
                    ip: ip_prefix(keys)?,
                    bridge: keys.take("bridge"),
                    offload: keys.take_switch("offload", true)?,
                };
                if tap.fd.is_some() && tap.ifname.is_some() {
                    return Err(UsageError("give either ifname or tap-fd, not both".into()));
                }
                Ok(Self::Tap(tap))
            }
            Some("null") => Ok(Self::Null),
            Some("switch") => match keys.take("switch") {
                Some(name) => Ok(Self::Switch(name)),
                None => Err(UsageError(
                    "net=switch needs switch=NAME; two NICs that name the same are joined".into(),
                )),
            },
            Some(other) => Err(UsageError(format!(
                "net={other} is unknown: give tap, switch or null"
            ))),
            None => Err(UsageError(
                "say where frames go: net=tap,ifname=NAME, net=switch,switch=NAME or net=null"
                    .into(),
            )),
        }
    }
}

impl Fault {
    fn from_keys(keys: &mut Keys) -> Result<Option<Self>, UsageError> {
        let share = "a share from 0 to 1";
        let loss: Option<f64> = keys.take_as("fault-loss", share)?;
        let corrupt: Option<f64> = keys.take_as("fault-corrupt", share)?;
        let delay = keys
            .take("fault-delay")
            .map(|text| duration(&text))
            .transpose()?;
        let seed: Option<u64> = keys.take_as("fault-seed", "a number")?;
        if loss.is_none() && corrupt.is_none() && delay.is_none() {
            return match seed {
                None => Ok(None),
                Some(_) => Err(UsageError(
                    "fault-seed needs fault-loss, fault-corrupt or fault-delay".into(),
                )),
            };
        }
        let fault = Self {
            loss: loss.unwrap_or(0.0),
            corrupt: corrupt.unwrap_or(0.0),
            delay: delay.unwrap_or_default(),
            seed: seed.unwrap_or(0),
        };
        for (key, value) in [("fault-loss", fault.loss), ("fault-corrupt", fault.corrupt)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(UsageError(format!(
                    "{key}={value} is not valid: give {share}"
                )));
            }
        }
        Ok(Some(fault))
    }
}

fn ip_prefix(keys: &mut Keys) -> Result<Option<IpPrefix>, UsageError> {
    let Some(text) = keys.take("ip") else {
        return Ok(None);
    };
    let parse = || -> Option<IpPrefix> {
        let (addr, len) = text.split_once('/')?;
        let prefix = IpPrefix {
            addr: addr.parse().ok()?,
            len: len.parse().ok()?,
        };
        let longest = if prefix.addr.is_ipv4() { 32 } else { 128 };
        (prefix.len <= longest).then_some(prefix)
    };
    let bad = || {
        UsageError(format!(
            "ip={text} is not valid: give an address and a prefix such as 10.1.0.1/24"
        ))
    };
    parse().map(Some).ok_or_else(bad)
}

/// A time span with its unit, `250us`, `5ms` or `1s`, of at most ten seconds.
fn duration(text: &str) -> Result<Duration, UsageError> {
    let bad = || {
        UsageError(format!(
            "fault-delay={text} is not valid: give 250us, 5ms or 1s, at most 10s"
        ))
    };
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().map_err(|_| bad())?;
    let unit = match &text[digits.len()..] {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        _ => return Err(bad()),
    };
    let micros = number
        .checked_mul(unit)
        .filter(|&micros| micros <= 10_000_000)
        .ok_or_else(bad)?;
    Ok(Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nic(text: &str) -> Result<NicConfig, UsageError> {
        NicConfig::from_keys(Keys::parse(text)?)
    }

    #[test]
    fn all_keys_are_understood() {
        let config = nic("socket-path=/run/nic0.sock,net=tap,ifname=tap0,ip=10.1.0.1/24,bridge=br0,offload=off,\
                          mac=52:54:00:12:34:56,model=e1000-82545em,eeprom=/var/lib/a.bin,rom=/usr/lib/a.rom,msi=on,rx-overrun=drop,pcap=/tmp/a.pcap,fault-loss=0.5,fault-delay=250us,\
                          fault-seed=7")
        .unwrap();
        assert_eq!(config.listen, Listen::Path("/run/nic0.sock".into()));
        let tap = Tap {
            ifname: Some("tap0".into()),
            fd: None,
            ip: Some(IpPrefix {
                addr: [10, 1, 0, 1].into(),
                len: 24,
            }),
            bridge: Some("br0".into()),
            offload: false,
        };
        assert_eq!(config.net, Net::Tap(tap));
        assert_eq!(config.mac.unwrap().to_string(), "52:54:00:12:34:56");
        assert_eq!(config.model, Model::E1000_82545Em);
        assert_eq!(config.eeprom, Some("/var/lib/a.bin".into()));
        assert_eq!(config.rom, Some("/usr/lib/a.rom".into()));
        let fitted = nic("fd=3,net=null,flash=/a.bin").unwrap();
        assert_eq!((config.flash, fitted.flash), (None, Some("/a.bin".into())));
        assert!(config.msi && !nic("fd=3,net=null,msi=off").unwrap().msi);
        assert_eq!(config.rx_overrun, Overrun::Drop);
        assert_eq!(config.pcap, Some("/tmp/a.pcap".into()));
        let fault = Fault {
            loss: 0.5,
            corrupt: 0.0,
            delay: Duration::from_micros(250),
            seed: 7,
        };
        assert_eq!(config.fault, Some(fault));
    }

    #[test]
    fn short_forms_say_the_same() {
        for (short, long) in [
            ("tap:t0", "net=tap,ifname=t0"),
            ("null", "net=null"),
            ("switch:s", "net=switch,switch=s"),
        ] {
            let mut keys = Keys::parse("fd=3").unwrap();
            NicConfig::add_short_net(&mut keys, short).unwrap();
            assert_eq!(NicConfig::from_keys(keys), nic(&format!("fd=3,{long}")));
        }
        for bad in ["tap:", "bridge:br0", "", "null:", "switch"] {
            assert!(
                NicConfig::add_short_net(&mut Keys::default(), bad).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("net=null", "socket-path"),
            ("socket-path=/a", "net="),
            ("socket-path=/a,fd=3,net=null", "not both"),
            ("fd=-1,net=null", "negative"),
            ("fd=3,net=user", "net=user"),
            ("fd=3,net=null,ifname=tap0", "ifname=tap0"),
            ("fd=3,net=tap,ifname=a,tap-fd=4", "not both"),
            ("fd=3,net=null,mac=ff:ff:ff:ff:ff:ff", "mac=ff"),
            ("fd=3,net=null,model=ne2000", "ne2000"),
            ("fd=3,net=tap,ip=10.1.0.1", "ip=10.1.0.1"),
            ("fd=3,net=tap,ip=10.1.0.1/33", "ip=10.1.0.1/33"),
            ("fd=3,net=null,rx-overrun=wait", "rx-overrun=wait"),
            ("fd=3,net=tap,offload=yes", "offload=yes"),
            ("fd=3,net=null,offload=on", "offload=on"),
            ("fd=3,net=null,msi=yes", "msi=yes"),
            ("fd=3,net=null,rom=/a,flash=/b", "not both"),
            ("fd=3,net=null,fault-loss=2", "fault-loss=2"),
            ("fd=3,net=null,fault-delay=1h", "fault-delay=1h"),
            ("fd=3,net=null,fault-seed=1", "fault-seed"),
            ("fd=x,net=null", "fd=x"),
        ] {
            let error = nic(text).unwrap_err().0;
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,80}", delay in ".{0,8}") {
            let _ = nic(&text);
            let _ = nic(&format!("fd=3,net=null,fault-delay={delay}"));
        }
    }
}
