//! The host's end of the command channel: runs shell scripts in the guest over its second serial port.
//!
//! The protocol is described at the top of `guest/agent.sh`.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// How much of a script or of its stdin goes into one request. The port has no flow control: the guest's tty holds
/// 4 KiB before it would lose bytes.
const CHUNK: usize = 2048;
/// What a command may print at most before the channel is considered out of step.
const OUTPUT_LIMIT: usize = 64 << 20;
/// How long the guest may take beyond a command's own time, under TCG on a busy machine.
const GRACE: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(100);

/// What a command in the guest did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit code as the shell sees it: 128 + N if signal N ended it.
    pub code: i32,
    /// What it printed on stdout.
    pub stdout: String,
    /// What it printed on stderr.
    pub stderr: String,
}

impl Output {
    /// Whether the exit code is 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == 0
    }
}

/// Called while waiting, about ten times a second; an error ends the wait with that error.
pub(crate) type Watch<'a> = &'a mut dyn FnMut() -> Result<()>;

/// A command channel to one guest.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    received: Vec<u8>,
    next_id: u64,
    boots: u64,
}

enum Line {
    Ready,
    Done {
        id: u64,
        code: i32,
        stdout: usize,
        stderr: usize,
    },
}

impl Channel {
    /// A channel over a connected socket, whose other end is the guest's serial port.
    ///
    /// # Errors
    /// [`Error::Io`] if the socket takes no timeout.
    pub fn new(stream: UnixStream) -> Result<Self> {
        stream
            .set_read_timeout(Some(TICK))
            .map_err(Error::io("set up the command channel"))?;
        stream
            .set_write_timeout(Some(GRACE))
            .map_err(Error::io("set up the command channel"))?;
        Ok(Self {
            stream,
            received: Vec::new(),
            next_id: 1,
            boots: 0,
        })
    }

    /// How often the guest has said that it is up, as far as was read.
    #[must_use]
    pub fn boots(&self) -> u64 {
        self.boots
    }

    /// Waits until the guest has come up for the `boots`-th time. Returns whether it did before the deadline.
    pub(crate) fn wait_boot(
        &mut self,
        boots: u64,
        deadline: Instant,
        watch: Watch<'_>,
    ) -> Result<bool> {
        while self.boots < boots {
            match self.line(deadline, watch)? {
                Some(Line::Ready) => self.boots += 1,
                Some(Line::Done { stdout, stderr, .. }) => {
                    // The late end of a command that nobody waits for any more.
                    self.bytes(stdout + stderr, deadline, watch)?;
                }
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Runs a script with the given stdin and waits for its end. `None`: the guest did not answer in time.
    pub(crate) fn run(
        &mut self,
        script: &str,
        stdin: &[u8],
        timeout: Duration,
        watch: Watch<'_>,
    ) -> Result<Option<Output>> {
        let started = Instant::now();
        let id = self.send(script, stdin, timeout)?;
        let deadline = started + timeout + GRACE;
        loop {
            match self.line(deadline, watch)? {
                None => return Ok(None),
                Some(Line::Ready) => {
                    self.boots += 1;
                    return Err(Error::Rebooted(script.into()));
                }
                Some(Line::Done {
                    id: done,
                    code,
                    stdout,
                    stderr,
                }) => {
                    let Some(printed) = self.bytes(stdout + stderr, deadline, watch)? else {
                        return Ok(None);
                    };
                    if done != id {
                        continue;
                    }
                    if code == 137 && started.elapsed() >= timeout {
                        return Err(Error::CommandTimeout {
                            command: script.into(),
                            after: timeout,
                        });
                    }
                    let (out, err) = printed.split_at(stdout);
                    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                    return Ok(Some(Output {
                        code,
                        stdout: text(out),
                        stderr: text(err),
                    }));
                }
            }
        }
    }

    /// Sends a script without waiting for its end; returns its number.
    pub(crate) fn send(&mut self, script: &str, stdin: &[u8], timeout: Duration) -> Result<u64> {
        let id = self.next_id;
        self.next_id += 1;
        let seconds = timeout.as_secs_f64().ceil().max(1.0);
        let mut request = format!("{id} {seconds} {} {}\n", script.len(), stdin.len()).into_bytes();
        request.extend(script.as_bytes());
        request.extend(stdin);
        self.stream
            .write_all(&request)
            .map_err(Error::io("send a command to the guest"))?;
        Ok(id)
    }

    /// Whether a script fits into one request.
    pub(crate) fn fits(script: &str) -> bool {
        script.len() <= CHUNK
    }

    /// The pieces in which a longer text must be sent.
    pub(crate) fn chunks(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
        bytes.chunks(CHUNK)
    }

    /// The next line of the protocol; what else comes (such as noise of the firmware) is skipped.
    fn line(&mut self, deadline: Instant, watch: Watch<'_>) -> Result<Option<Line>> {
        loop {
            if let Some(end) = self.received.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                let Some((_, line)) = line.split_once("@lab ") else {
                    continue;
                };
                return match parse_line(line.trim_end()) {
                    Some(line) => Ok(Some(line)),
                    None => Err(Error::Channel(format!(
                        "the guest said `{}`",
                        line.trim_end()
                    ))),
                };
            }
            if self.received.len() > OUTPUT_LIMIT {
                return Err(Error::Channel("no end of line from the guest".into()));
            }
            if !self.receive(deadline, watch)? {
                return Ok(None);
            }
        }
    }

    fn bytes(
        &mut self,
        count: usize,
        deadline: Instant,
        watch: Watch<'_>,
    ) -> Result<Option<Vec<u8>>> {
        while self.received.len() < count {
            if !self.receive(deadline, watch)? {
                return Ok(None);
            }
        }
        Ok(Some(self.received.drain(..count).collect()))
    }

    /// Takes in what has arrived; `false` if nothing did before the deadline.
    fn receive(&mut self, deadline: Instant, watch: Watch<'_>) -> Result<bool> {
        let mut piece = [0; 16384];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => {
                    // The watch knows best why QEMU has closed its end; give it the time to end.
                    std::thread::sleep(TICK);
                    watch()?;
                    return Err(Error::Channel("QEMU closed it".into()));
                }
                Ok(count) => {
                    self.received.extend(&piece[..count]);
                    return Ok(true);
                }
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) =>
                {
                    watch()?;
                    if Instant::now() >= deadline {
                        return Ok(false);
                    }
                }
                Err(e) => {
                    std::thread::sleep(TICK);
                    watch()?;
                    return Err(Error::Io {
                        what: "read from the guest's command channel".into(),
                        source: e,
                    });
                }
            }
        }
    }
}

fn parse_line(line: &str) -> Option<Line> {
    let mut words = line.split_whitespace();
    match words.next()? {
        "ready" => Some(Line::Ready),
        "done" => {
            let (id, code) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            let mut size = || {
                words
                    .next()?
                    .parse()
                    .ok()
                    .filter(|&n: &usize| n <= OUTPUT_LIMIT)
            };
            Some(Line::Done {
                id,
                code,
                stdout: size()?,
                stderr: size()?,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    const SECOND: Duration = Duration::from_secs(1);

    /// A channel, and the guest's end of it played by `guest`.
    fn with_guest(guest: impl FnOnce(BufReader<UnixStream>) + Send + 'static) -> Channel {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || guest(BufReader::new(theirs)));
        Channel::new(ours).unwrap()
    }

    fn request(guest: &mut BufReader<UnixStream>) -> (String, String, Vec<u8>) {
        let mut header = String::new();
        guest.read_line(&mut header).unwrap();
        let fields: Vec<usize> = header
            .split_whitespace()
            .map(|w| w.parse().unwrap())
            .collect();
        let mut script = vec![0; fields[2]];
        guest.read_exact(&mut script).unwrap();
        let mut stdin = vec![0; fields[3]];
        guest.read_exact(&mut stdin).unwrap();
        (
            fields[0].to_string(),
            String::from_utf8(script).unwrap(),
            stdin,
        )
    }

    fn say(guest: &mut BufReader<UnixStream>, text: &str) {
        guest.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn fine() -> Result<()> {
        Ok(())
    }

    #[test]
    fn a_command_returns_code_and_both_outputs() {
        let mut channel = with_guest(|mut guest| {
            say(&mut guest, "SeaBIOS noise\r\n\x1b[2J@lab ready 1234\n");
            let (id, script, stdin) = request(&mut guest);
            assert_eq!(
                (script.as_str(), stdin.as_slice()),
                ("cat\nexit 3", &b"in\n\0"[..])
            );
            say(&mut guest, &format!("@lab done {id} 3 4 6\nout\n"));
            std::thread::sleep(Duration::from_millis(30));
            say(&mut guest, "@lab \n");
            request(&mut guest);
        });
        assert!(
            channel
                .wait_boot(1, Instant::now() + SECOND, &mut fine)
                .unwrap()
        );
        let output = channel
            .run("cat\nexit 3", b"in\n\0", SECOND, &mut fine)
            .unwrap()
            .unwrap();
        assert_eq!(
            output,
            Output {
                code: 3,
                stdout: "out\n".into(),
                stderr: "@lab \n".into()
            }
        );
        assert!(!output.success());
    }

    #[test]
    fn late_answers_to_earlier_commands_are_skipped() {
        let mut channel = with_guest(|mut guest| {
            request(&mut guest);
            let (id, ..) = request(&mut guest);
            say(
                &mut guest,
                &format!("@lab done 1 0 5 0\nstale@lab done {id} 0 5 0\nfresh"),
            );
            request(&mut guest);
        });
        channel.send("slow", b"", SECOND).unwrap();
        let output = channel
            .run("quick", b"", SECOND, &mut fine)
            .unwrap()
            .unwrap();
        assert_eq!(output.stdout, "fresh");
    }

    #[test]
    fn a_restart_ends_the_command_and_counts() {
        let mut channel = with_guest(|mut guest| {
            say(&mut guest, "@lab ready a\n");
            request(&mut guest);
            say(&mut guest, "@lab ready b\n");
            request(&mut guest);
        });
        assert!(
            channel
                .wait_boot(1, Instant::now() + SECOND, &mut fine)
                .unwrap()
        );
        assert!(matches!(
            channel.run("x", b"", SECOND, &mut fine),
            Err(Error::Rebooted(_))
        ));
        assert_eq!(channel.boots(), 2);
    }

    #[test]
    fn silence_ends_at_the_deadline_and_a_watch_ends_it_earlier() {
        let mut channel = with_guest(|mut guest| {
            request(&mut guest);
        });
        assert!(
            !channel
                .wait_boot(1, Instant::now() + Duration::from_millis(150), &mut fine)
                .unwrap()
        );
        let mut dead = || Err(Error::GuestPanic("oops".into()));
        let ended = channel.wait_boot(1, Instant::now() + 60 * SECOND, &mut dead);
        assert!(matches!(ended, Err(Error::GuestPanic(_))));
    }

    #[test]
    fn nonsense_and_hangup_are_errors() {
        for said in [
            "@lab done 1\n",
            "@lab done 1 0 99999999999 0\n",
            "@lab what\n",
            "",
        ] {
            let mut channel = with_guest(move |mut guest| say(&mut guest, said));
            let ended = channel.wait_boot(1, Instant::now() + SECOND, &mut fine);
            assert!(matches!(ended, Err(Error::Channel(_))), "{said}");
        }
    }
}
