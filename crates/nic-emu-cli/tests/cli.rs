//! The program as an operator meets it: exit codes, sentences, sockets, signals.

mod support;

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use support::{Daemon, program};
use tempfile::TempDir;

fn run(args: &[&str]) -> Output {
    program().args(args).output().expect("the program starts")
}

/// One NIC, by the short arguments.
fn start(args: &[&str]) -> Daemon {
    Daemon::spawn(program().arg("serve").args(args), 1)
}

/// The output of a program that failed: exactly one line, which names `part`.
fn sentence(output: &Output, code: i32, part: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(part), "{text:?} does not say {part:?}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    assert!(
        !text.contains("backtrace") && !text.contains("panicked"),
        "{text}"
    );
}

fn socket(dir: &TempDir, name: &str) -> (PathBuf, String) {
    let path = dir.path().join(name);
    let text = path.to_str().expect("UTF-8").to_owned();
    (path, text)
}

#[test]
fn what_it_is_and_can() {
    let version = run(&["--version"]);
    assert_eq!(
        String::from_utf8_lossy(&version.stdout),
        format!("nic-emu-cli {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert!(String::from_utf8_lossy(&run(&["--help"]).stdout).contains("serve"));
    assert!(
        String::from_utf8_lossy(&run(&["serve", "--help"]).stdout).contains("socket-path=PATH")
    );
    assert!(String::from_utf8_lossy(&run(&["models"]).stdout).starts_with("e1000 "));
    let capabilities = run(&["--print-capabilities"]);
    let json: serde_json::Value = serde_json::from_slice(&capabilities.stdout).expect("JSON");
    assert_eq!(json["type"], "net");
    assert!(capabilities.status.success());
}

#[test]
fn a_command_line_that_cannot_be_meant_ends_with_2() {
    let nic = |keys: &str| run(&["serve", "--nic", keys]);
    sentence(&run(&["serve"]), 2, "--socket-path PATH");
    sentence(&run(&["serve", "--net", "null"]), 2, "socket-path=PATH");
    sentence(
        &run(&["serve", "--fd", "3", "--net", "bridge:br0"]),
        2,
        "bridge:br0",
    );
    sentence(
        &run(&["serve", "--fd", "3", "--net", "null", "--model", "ne2000"]),
        2,
        "ne2000",
    );
    sentence(
        &run(&["serve", "--fd", "3", "--net", "null", "--mac", "nonsense"]),
        2,
        "nonsense",
    );
    sentence(
        &run(&[
            "serve",
            "--fd",
            "3",
            "--net",
            "null",
            "--socket-group",
            "no-such",
        ]),
        2,
        "no-such",
    );
    sentence(
        &nic("socket-path=/tmp/x,net=null,colour=red"),
        2,
        "colour=red",
    );
    sentence(&nic("socket-path=/tmp/x,net=tap,ip=1.2.3"), 2, "ip=1.2.3");
    sentence(&nic("socket-path"), 2, "key=value");
    let dir = TempDir::new().unwrap();
    let (_, path) = socket(&dir, "a");
    sentence(
        &nic(&format!("socket-path={path},net=switch,switch=s")),
        2,
        "switch s",
    );
    assert_eq!(run(&["serve", "--no-such-option"]).status.code(), Some(2));
    assert_eq!(run(&[]).status.code(), Some(2));
}

#[test]
fn threads_that_cannot_be_meant_are_named() {
    let serve = |args: &str| {
        let nic = ["serve", "--fd", "99", "--net", "null"];
        let args: Vec<_> = nic.into_iter().chain(args.split(' ')).collect();
        run(&args)
    };
    for (args, part) in [
        ("--shards 0", "--shards 0 cannot be: give a number from 1"),
        ("--shards 1000000", "--shards 1000000 cannot be"),
        ("--shards 99999999999999999999", "cannot be"),
        ("--shards x", "--shards x cannot be"),
        ("--shards -1", "--shards -1 cannot be"),
        ("--shards ", "--shards  cannot be"),
        ("--shards 4", "one NIC keeps 3 threads busy at most"),
        (
            "--busy-poll x",
            "--busy-poll x cannot be: give a number from 0",
        ),
        ("--busy-poll -1", "--busy-poll -1 cannot be"),
        ("--busy-poll 1.5", "--busy-poll 1.5 cannot be"),
        ("--busy-poll 1000001", "to 1000000"),
        ("--cpus ", "is no list of processors"),
        ("--cpus x", "--cpus x is no list of processors"),
        ("--cpus 1-0", "--cpus 1-0 is no list of processors"),
        ("--cpus 0-", "--cpus 0- is no list of processors"),
        ("--cpus -1", "--cpus -1 is no list of processors"),
        ("--cpus 0-99999", "--cpus 0-99999 is no list of processors"),
        ("--cpus 1023", "names processor 1023, "),
        ("--cpus 99999", "names processor 99999, but there are 0"),
        ("--shards 2 --cpus 0,0", "processor 0 twice"),
        ("--shards 2 --cpus 0", "names 1 processor for 2 shards"),
    ] {
        // A machine may well leave processor 0 to others: then that is what is wrong.
        let output = serve(args);
        let said = String::from_utf8_lossy(&output.stderr);
        match said.contains("which this process may not use") {
            true => sentence(&output, 2, "--cpus names processor"),
            false => sentence(&output, 2, part),
        }
    }
    // What can be meant gets as far as the next mistake.
    for args in [
        "--shards 3",
        "--busy-poll 1000000",
        "--busy-poll 0 --shards 1",
    ] {
        sentence(&serve(args), 1, "fd=99");
    }
}

#[test]
fn what_cannot_be_set_up_ends_with_1() {
    let long = format!("/tmp/{}", "x".repeat(200));
    sentence(
        &run(&["serve", "--socket-path", &long, "--net", "null"]),
        1,
        "too long",
    );
    sentence(
        &run(&[
            "serve",
            "--socket-path",
            "/no/such/directory/a.sock",
            "--net",
            "null",
        ]),
        1,
        "/no/such/directory",
    );
    sentence(&run(&["serve", "--fd", "99", "--net", "null"]), 1, "fd=99");
    let dir = TempDir::new().unwrap();
    let (_, path) = socket(&dir, "a.sock");
    let long_name = "tap:a-name-of-sixteen";
    sentence(
        &run(&["serve", "--socket-path", &path, "--net", long_name]),
        1,
        "a-name-of-sixteen",
    );
    let file = dir.path().join("file");
    std::fs::write(&file, "not a socket").unwrap();
    sentence(
        &run(&[
            "serve",
            "--socket-path",
            file.to_str().unwrap(),
            "--net",
            "null",
        ]),
        1,
        "not a socket",
    );
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        "not a socket",
        "what is not ours is not touched"
    );
}

#[test]
fn one_station_address_is_one_nic() {
    let dir = TempDir::new().unwrap();
    let nic = |name| {
        format!(
            "socket-path={},net=null,mac=52:54:00:00:00:01",
            socket(&dir, name).1
        )
    };
    sentence(
        &run(&["serve", "--nic", &nic("a"), "--nic", &nic("b")]),
        2,
        "52:54:00:00:00:01",
    );
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing is left behind"
    );
}

#[test]
fn a_tap_without_permission_says_what_to_do() {
    use std::os::unix::process::CommandExt;
    let dir = TempDir::new().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let (_, path) = socket(&dir, "a.sock");
    // The binary may lie where nobody else may look.
    let copy = dir.path().join("nic-emu-cli");
    std::fs::copy(env!("CARGO_BIN_EXE_nic-emu-cli"), &copy).unwrap();
    let mut command = Command::new(copy);
    command
        .args(["serve", "--socket-path", &path, "--net", "tap:nic-emu-test"])
        .current_dir("/");
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    sentence(&command.output().unwrap(), 1, "run as root");
}

#[test]
fn a_daemon_comes_and_goes_cleanly() {
    let dir = TempDir::new().unwrap();
    let (path, text) = socket(&dir, "nic0.sock");
    let daemon = start(&[
        "--socket-path",
        &text,
        "--net",
        "null",
        "--socket-mode",
        "640",
    ]);
    assert!(
        daemon.announced[0].starts_with(&format!("ready: {text}")),
        "{:?}",
        daemon.announced
    );
    assert!(daemon.announced[1].contains("vfio-user-pci") && daemon.announced[1].contains(&text));
    assert!(daemon.announced[2].contains(&format!("--user-device socket={text}")));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);

    // A live socket is refused, and stays.
    sentence(
        &run(&["serve", "--socket-path", &text, "--net", "null"]),
        1,
        &text,
    );
    drop(UnixStream::connect(&path).expect("the first one still listens"));

    let log = daemon.terminate();
    assert!(log.contains("tx_bytes=0"), "{log}");
    assert!(!path.exists());
}

#[test]
fn a_stale_socket_is_replaced() {
    let dir = TempDir::new().unwrap();
    let (path, text) = socket(&dir, "nic0.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let daemon = start(&["--socket-path", &text, "--net", "null"]);
    UnixStream::connect(&path).unwrap();
    daemon.terminate();
}

#[test]
fn a_listening_socket_can_be_handed_over() {
    let dir = TempDir::new().unwrap();
    let (path, _) = socket(&dir, "mine.sock");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
    let fd = listener.as_raw_fd().to_string();
    let daemon = start(&["--fd", &fd, "--net", "null"]);
    UnixStream::connect(&path).unwrap();
    daemon.terminate();
    assert!(
        path.exists(),
        "a socket that was handed over is not ours to remove"
    );
}

#[test]
fn nics_of_one_process_have_addresses_of_their_own_that_stay() {
    let dir = TempDir::new().unwrap();
    let macs = || {
        let nic = |name| format!("socket-path={},net=switch,switch=s", socket(&dir, name).1);
        let daemon = Daemon::spawn(
            program().args(["serve", "--nic", &nic("a"), "--nic", &nic("b")]),
            2,
        );
        let ready: Vec<_> = daemon
            .announced
            .iter()
            .filter(|line| line.starts_with("ready: "))
            .cloned()
            .collect();
        daemon.terminate();
        ready
            .iter()
            .map(|line| line[line.rfind('(').unwrap()..].to_owned())
            .collect::<Vec<_>>()
    };
    let first = macs();
    assert_eq!(first.len(), 2);
    assert_ne!(first[0], first[1]);
    assert_eq!(first, macs());
}

#[test]
fn a_second_client_is_turned_away_at_once_and_the_next_is_served() {
    let dir = TempDir::new().unwrap();
    let (path, text) = socket(&dir, "nic0.sock");
    let daemon = start(&["--socket-path", &text, "--net", "null"]);
    for _ in 0..3 {
        let first = connect(&path);
        // The daemon has accepted the first one for sure once it has answered it.
        assert!(!version(&first).is_empty());
        let second = connect(&path);
        assert!(version(&second).is_empty(), "end of file at once");
    }
    let log = daemon.terminate();
    assert!(log.contains("refused a second hypervisor"), "{log}");
}

#[test]
fn a_daemon_short_of_descriptors_serves_again_when_it_has_some() {
    use rustix::process::{Resource, Rlimit, prlimit};
    let dir = TempDir::new().unwrap();
    let (path, text) = socket(&dir, "nic0.sock");
    let daemon = start(&["--socket-path", &text, "--net", "null"]);
    let pid = Some(daemon.pid());
    let none = Rlimit {
        current: Some(0),
        maximum: rustix::process::getrlimit(Resource::Nofile).maximum,
    };
    let before = prlimit(pid, Resource::Nofile, none).unwrap();
    let client = connect(&path);
    std::thread::sleep(Duration::from_millis(300));
    prlimit(pid, Resource::Nofile, before).unwrap();
    assert!(!version(&client).is_empty());
    let log = daemon.terminate();
    assert!(log.contains("cannot let a hypervisor in"), "{log}");
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

/// Proposes version 0.0 without capabilities; returns what comes back.
fn version(mut stream: &UnixStream) -> Vec<u8> {
    use std::io::Write;
    let mut message = Vec::new();
    message.extend(1_u16.to_le_bytes());
    message.extend(1_u16.to_le_bytes());
    message.extend(20_u32.to_le_bytes());
    message.extend([0; 12]);
    let _ = stream.write_all(&message);
    let mut reply = vec![0; 4096];
    let n = stream.read(&mut reply).unwrap_or(0);
    reply.truncate(n);
    reply
}
