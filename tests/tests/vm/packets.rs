//! A guest without an operating system through a TAP: what its frames cost is counted to the last access.

use anyhow::{Result, ensure};
use libtest_mimic::{Failed, Trial};
use nic_emu_lab::{Lab, Nic};
use nic_emu_tests::counts::{Mmio, Trace};
use nic_emu_tests::host::namespace;
use nic_emu_tests::packets::{self, Way};
use nic_emu_tests::{DaemonBuilder, Wire, cli};

const MAC: &str = "52:54:00:12:34:56";
const FRAMES: u32 = 5000;
/// The guest tells its NIC of as many at once, and of the rest.
const BATCH: u32 = 32;

pub(crate) fn checks(lab: &Lab) -> Vec<Trial> {
    [("nic_emu", true), ("qemu", false)]
        .map(|(name, ours)| {
            let lab = lab.clone();
            Trial::test(format!("packets::{name}"), move || {
                let said =
                    counted(&lab, ours).map_err(|error| Failed::from(format!("{error:#}")))?;
                eprintln!("    packets::{name}: {said}");
                Ok(())
            })
        })
        .into()
}

/// Sends and receives through nic-emu's NIC or QEMU's.
fn counted(lab: &Lab, ours: bool) -> Result<String> {
    let netns = namespace(lab)?;
    let tap = Wire(0).tap();
    netns.ip(&format!("tuntap add dev {tap} mode tap vnet_hdr"))?;
    netns.ip(&format!("link set {tap} up"))?;
    let daemon = match ours {
        true => {
            let keys = format!("net=tap,ifname={tap},mac={MAC}");
            Some(DaemonBuilder::new()?.nic(&keys).start(Some(&netns))?)
        }
        false => None,
    };
    let nic = match &daemon {
        Some(daemon) => Nic::vfio_user(daemon.socket(0)),
        None => Nic::tap("e1000", &tap, MAC),
    };
    let boot = || -> Result<_> {
        let trace = Trace::new()?;
        let bare = lab.bare(cli::bare_guest()?).netns(netns.name());
        let arguments = trace.arguments_at_once();
        let bare = arguments
            .into_iter()
            .fold(bare.nic(nic.clone()), |bare, argument| bare.arg(argument));
        Ok((bare, trace))
    };
    let way = |trace| Way {
        netns: &netns,
        tap: &tap,
        daemon: daemon.as_ref().map(|daemon| (daemon, 0)),
        trace: Some(trace),
    };

    let (bare, trace) = boot()?;
    let sent = packets::send(bare, &way(&trace), FRAMES)?;
    let doorbells = u64::from(FRAMES.div_ceil(BATCH));
    ensure!(sent.frames == u64::from(FRAMES), "{sent:?}");
    ensure!(sent.tap.rx_packets == u64::from(FRAMES), "{sent:?}");
    let only_doorbells = Mmio {
        writes: doorbells,
        ..Mmio::default()
    };
    ensure!(
        sent.mmio == Some(only_doorbells),
        "not {doorbells}: {sent:?}"
    );
    if let Some(messages) = sent.messages {
        let (posted, waits) = (messages.posted_writes, messages.waits());
        ensure!(
            (posted, waits, messages.interrupts) == (doorbells, 0, 0),
            "{sent:?}"
        );
    }

    let (bare, trace) = boot()?;
    let received = packets::receive(bare, &way(&trace), FRAMES)?;
    ensure!(received.frames == u64::from(FRAMES), "{received:?}");
    ensure!(received.tap.tx_packets >= u64::from(FRAMES), "{received:?}");
    // At its end it reads how many it has missed, and need not give back the last buffers.
    let mmio = received.mmio.unwrap_or_default();
    ensure!(
        mmio.reads == 1 && mmio.writes + 1 >= doorbells,
        "{received:?}"
    );
    if let Some(messages) = received.messages {
        let (reads, posted) = (messages.reads, messages.posted_writes);
        ensure!((reads, posted) == (mmio.reads, mmio.writes), "{received:?}");
    }
    Ok(format!(
        "sends {:.0}, receives {:.0} frames a second",
        sent.rate(),
        received.rate()
    ))
}
