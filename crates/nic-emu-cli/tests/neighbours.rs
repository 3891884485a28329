//! NICs of one process do not suffer from one another.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use net_backend::{Backend, Null, Sender};
use nic_emu::Time;
use nic_emu::common::frame::TxBurst;
use nic_emu_cli::{MacAddr, Nic, Report, Shards};
use tempfile::TempDir;
use vfio_user::{ListenOptions, Listener};

/// A backend with a bug.
struct Broken;

impl Sender for Broken {
    fn send(&mut self, _: &TxBurst<'_>, _: Time) -> usize {
        0
    }
    fn deadline(&self) -> Option<Time> {
        Some(Time(0))
    }
    fn run_timers(&mut self, _: Time) {
        panic!("on purpose");
    }
}

fn broken() -> Backend {
    Backend {
        name: "broken".into(),
        tx: Box::new(Broken),
        ..Null::new().into()
    }
}

/// Runs shards with these NICs, named by their sockets, until the returned end is closed.
fn run(nics: Vec<(&Path, Backend)>, count: usize) -> (UnixStream, thread::JoinHandle<Vec<Report>>) {
    let (stop, ours) = UnixStream::pair().unwrap();
    let mut shards = Shards::new(stop, count).unwrap();
    for (path, backend) in nics {
        let name = path.display().to_string();
        let listener = Listener::bind(path, &ListenOptions::default()).unwrap();
        let mac = MacAddr::for_identity(&name);
        let nic = Nic::new(name, mac, listener, backend);
        shards.add(nic).unwrap();
    }
    (ours, thread::spawn(|| shards.run().unwrap()))
}

/// Connects and proposes version 0.0; returns what comes back, nothing at end of file.
fn greet(path: &Path) -> Vec<u8> {
    let Ok(mut stream) = UnixStream::connect(path) else {
        return Vec::new();
    };
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut version = vec![1, 0, 1, 0, 20, 0, 0, 0];
    version.resize(20, 0);
    let _ = stream.write_all(&version);
    let mut reply = vec![0; 4096];
    let n = stream.read(&mut reply).unwrap_or(0);
    reply.truncate(n);
    reply
}

fn a_panic_closes_one_nic(shards: usize) {
    let dir = TempDir::new().unwrap();
    let (broken, sound) = (dir.path().join("broken"), dir.path().join("sound"));
    let nics: Vec<(&Path, Backend)> = vec![(&broken, self::broken()), (&sound, Null::new().into())];
    let (stop, shard) = run(nics, shards);
    assert!(!greet(&sound).is_empty());
    // The NIC's first turn follows its first event. The client sees the end of the connection.
    while !greet(&broken).is_empty() {}
    for _ in 0..10 {
        assert!(!greet(&sound).is_empty());
    }
    assert!(!broken.exists(), "nobody waits at a dead NIC's socket");
    drop(stop);
    let reports = shard.join().expect("the shard itself did not panic");
    let names: Vec<_> = reports.into_iter().map(|report| report.name).collect();
    assert_eq!(names, [sound.display().to_string()]);
}

#[test]
fn a_panic_closes_one_nic_and_the_others_run_on() {
    a_panic_closes_one_nic(1);
}

#[test]
fn a_panic_on_one_of_two_threads_closes_one_nic_and_the_others_run_on() {
    a_panic_closes_one_nic(2);
}

#[test]
fn a_panic_on_one_of_three_threads_closes_one_nic_and_the_others_run_on() {
    a_panic_closes_one_nic(3);
}
