//! The latency generator against the reflector on the far end of a pair of virtual interfaces: what it says of frames
//! that come back, get lost or come twice is exact. Needs root; the guest's part of it is in `vm/`.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::Result;
use nic_emu_lab::{Lab, Netns};
use nic_emu_tests::host::namespace;
use nic_emu_tests::inside::inside;
use nic_emu_tests::latency::{self, Load};
use nic_emu_tests::{is_root, reflector};

const GUEST: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const NEAR: &str = "near";
/// As many frames as wait anywhere on the way, whoever has the processors meanwhile.
const FEW: Load = Load {
    rate: 1000,
    duration: Duration::from_millis(200),
    silence: Duration::from_secs(20),
};

/// A namespace with both ends of a pair, which stand for a TAP and a guest's NIC.
fn pair(lab: &Lab) -> Result<Netns> {
    let netns = namespace(lab)?;
    netns.ip(&format!("link add {NEAR} type veth peer name far"))?;
    netns.ip("addr add 10.77.0.1/24 dev near")?;
    netns.ip("link set near up")?;
    netns.ip("link set far up")?;
    Ok(netns)
}

/// Puts the reflector on the far end; false if this machine lets nobody load programs.
fn reflect(netns: &Netns) -> Result<bool> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("reflector.o");
    fs::write(&path, reflector::object())?;
    let path = path.display();
    let loaded = netns.ip(&format!(
        "link set dev far xdpgeneric obj {path} sec {}",
        reflector::SECTION
    ));
    match loaded {
        Err(error) if error.to_string().contains("not permitted") => {
            eprintln!("skipped: {error}");
            Ok(false)
        }
        loaded => Ok(loaded.map(|_| true)?),
    }
}

#[test]
fn frames_that_come_back_are_counted_once_each() -> Result<()> {
    if !is_root() {
        eprintln!("skipped: needs root");
        return Ok(());
    }
    let netns = pair(&Lab::open()?)?;
    if !reflect(&netns)? {
        return Ok(());
    }
    let trips = latency::frames(&netns, NEAR, GUEST, &FEW)?;
    println!("{trips:?}");
    assert_eq!(
        (trips.sent, trips.received, trips.duplicates),
        (200, 200, 0)
    );
    assert_eq!(
        (trips.strangers, trips.overlooked, trips.refused),
        (0, 0, 0)
    );
    assert_eq!(trips.histogram.len(), 200);
    Ok(())
}

#[test]
fn datagrams_that_come_twice_or_never_are_told_apart() -> Result<()> {
    if !is_root() {
        eprintln!("skipped: needs root");
        return Ok(());
    }
    let netns = namespace(&Lab::open()?)?;
    let echo = inside(netns.name(), || Ok(UdpSocket::bind(("127.0.0.1", 0))?))?;
    let to = echo.local_addr()?;
    // Of the frames of a measurement, which are numbered, every tenth is kept and every fifth of the others doubled.
    let stop = inside(netns.name(), || Ok(UdpSocket::bind(("127.0.0.1", 0))?))?;
    let echoer = std::thread::spawn(move || -> Result<()> {
        let mut bytes = [0; 64];
        loop {
            let (len, from) = echo.recv_from(&mut bytes)?;
            if len == 0 {
                return Ok(());
            }
            // The first measurement only finds out whether anything comes back.
            let number = bytes[9];
            match number % 10 {
                9 => {}
                4 => {
                    echo.send_to(&bytes[..len], from)?;
                    echo.send_to(&bytes[..len], from)?;
                }
                _ => {
                    echo.send_to(&bytes[..len], from)?;
                }
            }
        }
    });
    let trips = latency::datagrams(&netns, to, &FEW.patient(Duration::from_secs(3)))?;
    stop.send_to(&[], to)?;
    echoer.join().expect("the echo does not panic")?;
    assert_eq!(
        (trips.sent, trips.received, trips.duplicates),
        (200, 180, 20)
    );
    assert_eq!((trips.strangers, trips.overlooked), (0, 0));
    assert!((trips.loss() - 0.1).abs() < 1e-9);
    Ok(())
}
