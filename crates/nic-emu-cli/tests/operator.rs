//! `inspect` and `link` on a running daemon with guests at work.

mod support;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use guest_driver::packet::plain;
use guest_driver::socket::Socket;
use guest_driver::{Bus, Config, E1000, Offload};
use nic_emu::e1000::bits::{cause, status};
use nic_emu::e1000::regs::Reg;
use serde_json::{Value, json};
use support::Daemon;
use tempfile::TempDir;

/// A folder for everything: sockets, and the control sockets below it.
struct Lab {
    dir: TempDir,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        Self { dir }
    }

    fn program(&self) -> Command {
        let mut command = support::program();
        command.env("XDG_RUNTIME_DIR", self.dir.path());
        command
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A daemon whose NICs have these file names and this network.
    fn serve(&self, names: &[&str], net: &str, more: &[&str]) -> Daemon {
        let mut command = self.program();
        command.arg("serve").args(more);
        for name in names {
            let path = self.socket(name);
            let nic = format!("socket-path={},net={net}", path.display());
            command.args(["--nic", &nic]);
        }
        Daemon::spawn(&mut command, names.len())
    }

    fn control(&self, daemon: &Daemon) -> PathBuf {
        let file = format!("nic-emu/nic-emu-cli.{}.ctl", daemon.pid().as_raw_nonzero());
        self.dir.path().join(file)
    }

    fn run(&self, args: &[&str]) -> Output {
        self.program().args(args).output().expect("it starts")
    }

    /// What it prints; it has to go well.
    fn says(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {errors}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn inspect(&self, name: &str) -> Value {
        serde_json::from_str(&self.says(&["inspect", name, "--json"])).expect("JSON")
    }

    /// The one sentence with which it fails.
    fn complains(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert_eq!(text.trim_end().lines().count(), 1, "{text}");
        text
    }
}

fn guest(path: &Path) -> E1000<Socket> {
    let bus = Socket::connect(path).expect("a NIC");
    E1000::start(bus, Config::default()).expect("it works")
}

fn read(nic: &mut E1000<Socket>, reg: Reg) -> u32 {
    nic.bus.read32(reg.row().offset)
}

fn wait(what: &str, mut until: impl FnMut() -> bool) {
    let start = Instant::now();
    while !until() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn register<'v>(view: &'v Value, name: &str) -> &'v Value {
    let registers = view["registers"].as_array().expect("a list");
    let found = registers.iter().find(|register| register["name"] == name);
    found.unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn guests_at_work_do_not_notice_and_lose_nothing() {
    const FRAMES: u32 = 3000;
    const LOOKS: u32 = 20;
    let lab = Lab::new();
    let daemon = lab.serve(&["a.sock", "b.sock"], "switch,switch=s", &[]);
    let (looks, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    let (mut a, mut b) = (guest(&lab.socket("a.sock")), guest(&lab.socket("b.sock")));
    let to = b.mac;
    // A cause that nobody enables: whoever clears it has read ICR.
    b.bus.write32(Reg::ICS.row().offset, cause::MDAC);
    let (sent, received) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sent = 0;
            // On until it has been looked at often enough, under way.
            while sent < FRAMES || (looks.load(SeqCst) < LOOKS && !stop.load(SeqCst)) {
                let frame = plain(to, a.mac, 60 + (sent % 1000) as usize, sent);
                wait("room to send", || {
                    a.reap();
                    a.send(&frame, Offload::None)
                });
                sent += 1;
            }
            assert!(a.flush(10_000_000_000));
            stop.store(true, SeqCst);
            sent
        });
        let receiver = scope.spawn(|| {
            let (mut received, mut buffer) = (0, [0; 2048]);
            let mut quiet = Instant::now();
            while !stop.load(SeqCst) || quiet.elapsed() < Duration::from_millis(300) {
                if let Some(frame) = b.receive(&mut buffer) {
                    let len = 60 + (received % 1000) as usize;
                    let want = plain(to, buffer[6..12].try_into().unwrap(), len, received);
                    assert_eq!(buffer[..frame.len], want[..], "frame {received}");
                    received += 1;
                    quiet = Instant::now();
                }
            }
            received
        });
        let mut before = 0;
        for look in 0..LOOKS {
            let name = if look % 4 == 0 { "a.sock" } else { "b" };
            let view = lab.inspect(name);
            assert_eq!(view["hypervisor"]["memory"], "shared", "{view}");
            if name == "b" {
                let now = view["statistics"]["GPRC"].as_u64().expect("a number");
                assert!(now >= before, "cleared: {now} after {before}");
                before = now;
            }
            looks.fetch_add(1, SeqCst);
        }
        let sent = sender.join().expect("all sent");
        (sent, receiver.join().expect("all there"))
    });
    assert_eq!(received, sent);

    let view = lab.inspect("b");
    assert_eq!(view["statistics"]["GPRC"], sent);
    assert_eq!(view["counters"]["rx_frames"], sent);
    assert_eq!(view["network"]["counters"]["rx_frames"], sent);
    assert_eq!(view["network"]["name"], "switch");
    assert_eq!(view["link"]["up"], true);
    assert_eq!(view["receive"]["descriptors"], 64);
    assert_eq!(view["receive"]["enabled"], true);
    assert_eq!(view["filters"]["modes"], json!(["BAM"]));
    let mac = to.map(|byte| format!("{byte:02x}")).join(":");
    assert_eq!(view["filters"]["addresses"][0]["mac"], mac);
    assert!(view["statistics"]["GORC"].as_u64() > Some(60 * u64::from(sent)));
    let pending = view["interrupts"]["pending"].as_array().expect("a list");
    assert!(pending.contains(&json!("MDAC")), "{pending:?}");
    let other = lab.inspect("a.sock");
    assert_eq!(other["statistics"]["GPTC"], sent);
    assert_eq!(other["transmit"]["with_nic"], 0);
    assert_eq!(other["transmit"]["head"], a.tx.tail);

    let text = lab.says(&["inspect", "b"]);
    for part in [
        "hypervisor connected, memory shared",
        "link       up, 1000 Mb/s full duplex",
        "on, 64 descriptors at 0x",
        "BAM",
        "good frames received that passed the filters",
        "LED 0",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    // And now the guest looks, and clears.
    assert_eq!(read(&mut b, Reg::GPRC), sent);
    assert_eq!(read(&mut b, Reg::GPRC), 0);
    assert_ne!(read(&mut b, Reg::ICR) & cause::MDAC, 0);
    let view = lab.inspect("b");
    assert_eq!(view["statistics"]["GPRC"], 0);
    assert_eq!(view["counters"]["rx_frames"], sent);
    let ctrl = register(&view, "CTRL");
    assert_eq!(ctrl["value"], read(&mut b, Reg::CTRL));
    assert!(ctrl["fields"].as_array().is_some_and(|all| !all.is_empty()));
    daemon.terminate();
}

#[test]
fn a_link_goes_down_and_up_and_the_driver_sees_it() {
    let lab = Lab::new();
    let daemon = lab.serve(&["a.sock", "b.sock"], "switch,switch=s", &[]);
    let (mut a, mut b) = (guest(&lab.socket("a.sock")), guest(&lab.socket("b.sock")));
    let mut buffer = [0; 2048];
    let mut arrives = |a: &mut E1000<Socket>, b: &mut E1000<Socket>, seed| {
        let frame = plain(b.mac, a.mac, 100, seed);
        assert!(a.send(&frame, Offload::None) && a.flush(10_000_000_000));
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(500) {
            if let Some(got) = b.receive(&mut buffer) {
                assert_eq!(buffer[..got.len], frame[..]);
                return true;
            }
        }
        false
    };
    assert!(arrives(&mut a, &mut b, 1));
    for round in 0..2 {
        // Once with the one that sends, once with the one that receives.
        let name = if round == 0 { "a" } else { "b.sock" };
        let touched = if round == 0 { &mut a } else { &mut b };
        touched.enable_interrupts(cause::LSC);
        touched.causes();
        wait("quiet", || !touched.bus.interrupt());

        assert!(
            lab.says(&["link", name, "down"])
                .contains("the link is down")
        );
        assert_eq!(read(touched, Reg::STATUS) & status::LU, 0, "at once");
        wait("an interrupt", || touched.bus.interrupt());
        assert_ne!(touched.causes() & cause::LSC, 0);
        let text = lab.says(&["inspect", name]);
        assert!(text.contains("down: taken down by the operator"), "{text}");
        // Again changes nothing.
        lab.says(&["link", name, "down"]);
        let touched = if round == 0 { &mut a } else { &mut b };
        assert_eq!(touched.causes() & cause::LSC, 0);

        assert!(!arrives(&mut a, &mut b, 2), "there is no cable");

        assert!(lab.says(&["link", name, "up"]).contains("may be up"));
        let touched = if round == 0 { &mut a } else { &mut b };
        wait("link", || read(touched, Reg::STATUS) & status::LU != 0);
        wait("an interrupt", || touched.bus.interrupt());
        assert_ne!(touched.causes() & cause::LSC, 0);
        touched.disable_interrupts();
        assert!(arrives(&mut a, &mut b, 3), "what came meanwhile is gone");
    }
    assert_eq!(lab.inspect("a")["counters"]["tx_unplugged"], 1);
    let log = daemon.terminate();
    assert_eq!(
        log.matches("an operator takes the link down").count(),
        2,
        "{log}"
    );
}

#[test]
fn memory_that_is_asked_for_shows_as_such() {
    let lab = Lab::new();
    let daemon = lab.serve(&["nic0.sock"], "null", &[]);
    let idle = lab.inspect("nic0");
    assert_eq!(idle["hypervisor"]["connected"], false);
    assert_eq!(idle["hypervisor"]["memory"], "none");
    assert_eq!(idle["queues_apart"], false);
    let bus = Socket::connect_remote(lab.socket("nic0.sock")).expect("a NIC");
    let mut nic = E1000::start(bus, Config::default()).expect("it works");
    for number in 0..20 {
        assert!(nic.send(
            &plain([2, 0, 0, 0, 0, 1], nic.mac, 100, number),
            Offload::None
        ));
        assert!(nic.flush(10_000_000_000));
    }
    let view = lab.inspect("nic0");
    assert_eq!(view["hypervisor"]["memory"], "remote");
    assert_eq!(view["queues_apart"], true);
    assert!(view["hypervisor"]["dma_messages"]["reads"].as_u64() >= Some(20));
    assert_eq!(view["network"]["counters"]["tx_frames"], 20);

    // Its queues wait for us, who do not answer: nobody else does.
    assert!(nic.send(&plain([2, 0, 0, 0, 0, 1], nic.mac, 100, 20), Offload::None));
    let view = lab.inspect("nic0");
    assert_eq!(view["hypervisor"]["connected"], true);
    assert_eq!(view["network"]["counters"]["tx_frames"], 20);
    assert!(nic.flush(10_000_000_000));
    drop(nic);
    daemon.terminate();
}

#[test]
fn names_are_found_among_daemons_or_one_sentence_says_why_not() {
    let lab = Lab::new();
    let text = lab.complains(&["inspect", "nic0"]);
    assert!(text.contains("no daemon answers"), "{text}");
    std::fs::create_dir(lab.socket("one")).unwrap();
    std::fs::create_dir(lab.socket("two")).unwrap();
    let one = lab.serve(&["one/nic0.sock", "one/nic1.sock"], "null", &[]);
    let two = lab.serve(&["two/nic0.sock"], "null", &[]);
    let paths =
        ["one/nic0.sock", "two/nic0.sock"].map(|name| lab.socket(name).display().to_string());

    let text = lab.complains(&["inspect", "nic0"]);
    assert!(paths.iter().all(|path| text.contains(path)), "{text}");
    assert!(
        lab.complains(&["link", "nic0", "down"])
            .contains("may mean")
    );
    for path in &paths {
        assert_eq!(lab.inspect(path)["name"], path.as_str());
    }
    assert_eq!(lab.inspect("nic1")["pid"], one.pid().as_raw_nonzero().get());
    let control = lab.control(&two).display().to_string();
    let view = lab.says(&["inspect", "nic0", "--control", &control, "--json"]);
    assert!(view.contains(&paths[1]));
    assert!(
        lab.complains(&["inspect", "nic7"])
            .contains("there is no NIC nic7")
    );
    assert_eq!(lab.says(&["inspect"]).lines().count(), 3);
    assert_eq!(
        lab.run(&["link", "nic1", "sideways"]).status.code(),
        Some(2)
    );

    // One that is killed leaves its socket behind; nobody minds, and the next daemon clears it away.
    let left = lab.control(&one);
    drop(one);
    assert!(left.exists());
    assert_eq!(lab.inspect("nic0")["name"], paths[1].as_str());
    let three = lab.serve(&["nic3.sock"], "null", &[]);
    assert!(!left.exists());

    // A place of one's own, or none.
    let own = lab.socket("own.ctl");
    let four = lab.serve(
        &["nic4.sock"],
        "null",
        &["--control", own.to_str().unwrap()],
    );
    assert!(lab.complains(&["inspect", "nic4"]).contains("no NIC nic4"));
    assert!(
        lab.says(&["inspect", "nic4", "--control", own.to_str().unwrap()])
            .contains("nic4.sock")
    );
    let mode = std::fs::metadata(&own).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let five = lab.serve(&["nic5.sock"], "null", &["--control", "none"]);
    assert!(!lab.control(&five).exists());
    let text = lab.complains(&["inspect", "nic5", "--control", "/no/such.ctl"]);
    assert!(text.contains("/no/such.ctl"), "{text}");
    let used = lab
        .program()
        .args([
            "serve",
            "--fd",
            "9",
            "--net",
            "null",
            "--control",
            own.to_str().unwrap(),
        ])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&used.stderr).contains("own.ctl"));
    for daemon in [two, three, four, five] {
        daemon.terminate();
    }
    assert!(!own.exists());
    let folder = std::fs::read_dir(lab.socket("nic-emu")).unwrap();
    assert_eq!(folder.count(), 0, "all removed at the end");
}

/// The counts of one shard in what `inspect` says.
fn waits(view: &Value, shard: usize, name: &str) -> u64 {
    view["shards"][shard][name].as_u64().expect("a count")
}

#[test]
fn how_the_shards_wait_is_shown() {
    let lab = Lab::new();
    for more in [&["--shards", "3"][..], &["--busy-poll", "100"]] {
        let daemon = lab.serve(&["nic0.sock"], "null", more);
        let mut nic = guest(&lab.socket("nic0.sock"));
        let before = lab.inspect("nic0");
        let frame = plain([0xFF; 6], nic.mac, 100, 0);
        for _ in 0..10 {
            assert!(nic.send(&frame, Offload::None));
            assert!(nic.flush(60_000_000_000));
        }
        let after = lab.inspect("nic0");
        let shards = after["shards"].as_array().expect("a list").len();
        assert_eq!(shards, if more[0] == "--shards" { 3 } else { 1 });
        let events = |view| (0..shards).map(|n| waits(view, n, "events")).sum::<u64>();
        assert!(events(&after) > events(&before), "{after}");
        for shard in 0..shards {
            let count = |name| waits(&after, shard, name);
            assert!(count("found") <= count("looks"), "{after}");
            assert!(count("woken") + count("due") <= count("sleeps"), "{after}");
        }
        if shards == 1 {
            assert!(waits(&after, 0, "looks") > waits(&before, 0, "looks"));
        }
        let text = lab.says(&["inspect", "nic0"]);
        let line = |shard: usize| format!("\n  shard {shard}    slept ");
        assert!(
            (0..shards).all(|shard| text.contains(&line(shard))),
            "{text}"
        );
        assert!(!text.contains(&line(shards)), "{text}");
        drop(nic);
        daemon.terminate();
    }
}

/// Sends these bytes and reads until the daemon has nothing more to say.
fn throw(control: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(control).expect("it listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    // It may hang up in the middle.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply);
    String::from_utf8(reply).expect("JSON is UTF-8")
}

#[test]
fn hostile_bytes_get_errors_and_the_daemon_lives_on() {
    let lab = Lab::new();
    let daemon = lab.serve(&["nic0.sock"], "null", &[]);
    let control = lab.control(&daemon);
    let mut nic = guest(&lab.socket("nic0.sock"));
    let name = lab.socket("nic0.sock").display().to_string();
    let good: Vec<String> = [
        json!({ "jsonrpc": "2.0", "id": 7, "method": "list" }),
        json!({ "jsonrpc": "2.0", "id": [1, "x"], "method": "inspect", "params": { "nic": name } }),
        json!({ "id": null, "method": "link", "params": { "nic": name, "up": true } }),
    ]
    .iter()
    .map(|request| format!("{request}\n"))
    .collect();

    for (bytes, part) in [
        (&b"\n"[..], "-32700"),
        (b"{\n", "-32700"),
        (b"\xFF\xFE\n", "-32700"),
        (b"[]\n", "-32600"),
        (b"{\"method\":3}\n", "-32600"),
        (b"{\"method\":\"reboot\"}\n", "-32601"),
        (b"{\"method\":\"inspect\"}\n", "-32602"),
        (
            b"{\"method\":\"inspect\",\"params\":{\"nic\":\"x\"}}\n",
            "no NIC x",
        ),
        (
            b"{\"method\":\"link\",\"params\":{\"nic\":\"x\",\"up\":true}}\n",
            "no NIC x",
        ),
        (b"no end of line", ""),
    ] {
        let reply = throw(&control, bytes);
        assert!(reply.contains(part), "{reply}");
        assert_eq!(
            reply.lines().count(),
            usize::from(!part.is_empty()),
            "{reply}"
        );
    }
    assert!(throw(&control, &[b'x'; 1 << 20]).contains("at most 4096 bytes"));
    assert!(throw(&control, "[".repeat(4000).as_bytes()).is_empty());
    assert!(throw(&control, ("[".repeat(4000) + "\n").as_bytes()).contains("-32700"));
    let all = throw(&control, good.concat().as_bytes());
    let ids: Vec<Value> = all
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["id"].take())
        .collect();
    assert_eq!(ids, [json!(7), json!([1, "x"]), Value::Null]);

    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for round in 0..600 {
        let mut bytes = good[random(good.len())].clone().into_bytes();
        for _ in 0..=random(6) {
            let at = random(bytes.len());
            match random(5) {
                0 => bytes[at] = random(256) as u8,
                1 => bytes[at] ^= 1 << random(8),
                2 => bytes.truncate(at + 1),
                3 => _ = bytes.remove(at),
                _ => bytes.insert(at, b"{}[]\",:\n0e"[random(10)]),
            }
            if bytes.is_empty() {
                bytes.push(b'\n');
            }
        }
        for line in throw(&control, &bytes).lines() {
            let reply: Value = serde_json::from_str(line).expect("JSON");
            let error = reply.get("error").is_some();
            assert_ne!(
                error,
                reply.get("result").is_some(),
                "round {round}: {line}"
            );
        }
    }
    // The damage may have spelt a wish to take the link down.
    lab.says(&["link", "nic0", "up"]);
    wait("link", || read(&mut nic, Reg::STATUS) & status::LU != 0);
    assert!(nic.send(&plain([2, 0, 0, 0, 0, 1], nic.mac, 100, 1), Offload::None));
    assert!(nic.flush(10_000_000_000));
    assert_eq!(lab.inspect("nic0")["network"]["counters"]["tx_frames"], 1);

    // Who says nothing keeps others waiting for a while only, and nobody from ending.
    let _idle = UnixStream::connect(&control).unwrap();
    assert_eq!(lab.inspect("nic0")["name"], name.as_str());
    let _idle = UnixStream::connect(&control).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    drop(nic);
    let log = daemon.terminate();
    assert!(
        start.elapsed() < Duration::from_millis(2500),
        "{:?}",
        start.elapsed()
    );
    assert!(
        !log.contains("panicked") && !log.contains("internal error"),
        "{log}"
    );
    assert!(!control.exists());
}
