//! A guest on a NIC whose maker is the only thing that differs from run to run: ours or QEMU's, on a TAP that is made
//! anew and looks the same for all.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use nic_emu_lab::{Accel, Lab, Netns, Nic, Suite, Vm, VmBuilder};
use nic_emu_tests::host::namespace;
use nic_emu_tests::{Daemon, DaemonBuilder, Far, Pair, Wire, guest};
use serde_json::{Value, json};

use crate::placement::Placement;

/// The NIC's address, whoever makes it.
pub(crate) const MAC: &str = "52:54:00:12:34:56";
/// The link between TAP and guest.
pub(crate) const WIRE: Wire = Wire(0);
const QUEUE_LENGTH: u32 = 1000;

/// Who plays the NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Maker {
    /// `nic-emu-cli serve` with these further arguments.
    NicEmu(Vec<String>),
    /// QEMU, with its device of this name.
    Qemu(String),
}

/// A network namespace with a TAP in it.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) netns: Netns,
    pub(crate) tap: String,
}

impl Ground {
    /// Makes both, the TAP with the host's address and up.
    pub(crate) fn new(lab: &Lab) -> Result<Self> {
        let netns = namespace(lab)?;
        let tap = WIRE.tap();
        // Whoever attaches decides the flags anew; they are read back and must be the same for all.
        netns.ip(&format!("tuntap add dev {tap} mode tap vnet_hdr"))?;
        netns.ip(&format!("addr add {}/24 dev {tap}", WIRE.first().v4))?;
        netns.ip(&format!("link set {tap} txqueuelen {QUEUE_LENGTH} up"))?;
        Ok(Self { netns, tap })
    }

    /// Starts our daemon on the TAP.
    pub(crate) fn daemon(&self, arguments: &[String], placement: &Placement) -> Result<Daemon> {
        let mut daemon = DaemonBuilder::new()?
            .nic(&format!("net=tap,ifname={},mac={MAC}", self.tap))
            .args(arguments);
        if let Some(list) = &placement.daemon {
            daemon = daemon.on_cpus(list);
        }
        daemon.start(Some(&self.netns))
    }

    /// What decides how fast a TAP is: its flags and queue length, as they are while it is in use.
    pub(crate) fn tap_facts(&self) -> Result<Value> {
        let printed = self
            .netns
            .ip(&format!("-d -j link show dev {}", self.tap))?;
        let json: Value = serde_json::from_str(&printed).context("`ip -j` printed no JSON")?;
        let data = &json[0]["linkinfo"]["info_data"];
        Ok(
            json!({ "flags": data, "txqueuelen": json[0]["txqlen"], "mtu": json[0]["mtu"], "qdisc": json[0]["qdisc"] }),
        )
    }
}

/// A Debian guest that has booted on such a NIC and has its link up.
#[derive(Debug)]
pub(crate) struct Stage {
    // In this order: the guest is gone before its NIC, and both before their namespace.
    pub(crate) vm: Vm,
    pub(crate) daemon: Option<Daemon>,
    pub(crate) ground: Ground,
    pub(crate) tap_facts: Value,
}

impl Stage {
    /// Boots a guest and gives it its address. QEMU gets these further arguments.
    pub(crate) fn boot(
        lab: &Lab,
        suite: Suite,
        accel: Accel,
        placement: &Placement,
        maker: &Maker,
        arguments: impl IntoIterator<Item = String>,
    ) -> Result<Self> {
        let ground = Ground::new(lab)?;
        let guest = placement.lab(lab.clone()).vm(suite).accel(accel);
        let guest = arguments.into_iter().fold(guest, VmBuilder::arg);
        let (mut vm, daemon) = match maker {
            Maker::NicEmu(arguments) => {
                let daemon = ground.daemon(arguments, placement)?;
                let vm = guest.nic(Nic::vfio_user(daemon.socket(0))).start()?;
                (vm, Some(daemon))
            }
            Maker::Qemu(device) => {
                let nic = Nic::tap(device, &ground.tap, MAC);
                (guest.netns(ground.netns.name()).nic(nic).start()?, None)
            }
        };
        let tap_facts = ground.tap_facts()?;
        guest::configure(&mut vm, "eth0", WIRE.second())?;
        Ok(Self {
            vm,
            daemon,
            ground,
            tap_facts,
        })
    }

    /// The way between the guest and this machine.
    pub(crate) fn pair(&mut self) -> Pair<'_> {
        Pair {
            vm: &mut self.vm,
            own: WIRE.second(),
            far: Far::Host(&self.ground.netns),
            to: WIRE.first(),
        }
    }

    /// Command lines of QEMU and, where there is one, of our daemon.
    pub(crate) fn command_lines(&self, lab: &Lab) -> (String, Option<String>) {
        let daemon = self.daemon.as_ref();
        (
            portable(lab, self.vm.command_line()),
            daemon.map(|daemon| portable(lab, daemon.command_line())),
        )
    }
}

/// A command line without what belongs to one machine or one run alone: where the lab and temporary files lie.
pub(crate) fn portable(lab: &Lab, line: &str) -> String {
    replaced(line, lab.dir(), &std::env::temp_dir())
}

fn replaced(line: &str, lab: &Path, temporary: &Path) -> String {
    let path = |path: &Path| path.display().to_string();
    line.replace(&path(lab), "target/lab")
        .replace(&format!("{}/", path(temporary)), "$TMPDIR/")
}

/// An error if two TAPs were not set up alike: then their figures do not compare.
pub(crate) fn ensure_same_tap<'a>(
    taps: impl IntoIterator<Item = (&'a str, &'a Value)>,
) -> Result<()> {
    let mut taps = taps.into_iter();
    let Some((first, expected)) = taps.next() else {
        return Ok(());
    };
    for (who, tap) in taps {
        ensure!(
            tap == expected,
            "the TAPs differ: {expected} with {first}, {tap} with {who}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_lose_their_machine() {
        let line = "/tmp/lab/qemu/bin/q -qmp unix:/tmp/nic-emu-vm-x/qmp";
        assert_eq!(
            replaced(line, Path::new("/tmp/lab"), Path::new("/tmp")),
            "target/lab/qemu/bin/q -qmp unix:$TMPDIR/nic-emu-vm-x/qmp"
        );
    }

    #[test]
    fn unlike_taps_are_refused() {
        let (one, other) = (json!({ "mtu": 1500 }), json!({ "mtu": 1400 }));
        assert!(ensure_same_tap([("a", &one), ("b", &one)]).is_ok());
        let error = ensure_same_tap([("a", &one), ("b", &other)]).unwrap_err();
        assert!(error.to_string().contains("with b"), "{error}");
        assert!(ensure_same_tap([]).is_ok());
    }
}
