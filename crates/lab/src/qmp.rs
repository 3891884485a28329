//! QEMU's monitor protocol (docs/interop/qmp-spec): one JSON object per line.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lines::{Heard, Lines};
use crate::{Error, Result};

/// How long QEMU may take to answer a command.
const PATIENCE: Duration = Duration::from_secs(30);
/// Events that are kept for [`Qmp::wait_event`]; older ones are forgotten.
const EVENTS: usize = 1024;

/// A monitor of a running QEMU.
#[derive(Debug)]
pub struct Qmp {
    lines: Lines,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Greets QEMU on a connected socket.
    ///
    /// # Errors
    /// [`Error::Qmp`] if the other side is no QEMU.
    pub fn new(stream: UnixStream) -> Result<Self> {
        let mut qmp = Self {
            lines: Lines::new(stream, "QEMU's monitor")?,
            events: VecDeque::new(),
        };
        let greeting = qmp.message(Instant::now() + PATIENCE)?;
        if greeting.as_ref().is_none_or(|g| g.get("QMP").is_none()) {
            return Err(refused("greeting", format!("it said {greeting:?}")));
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command, such as `("device_del", json!({"id": "nic0"}))`, and returns what it returns.
    ///
    /// # Errors
    /// [`Error::Qmp`] with QEMU's description.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = format!(
            "{}\n",
            json!({ "execute": command, "arguments": arguments })
        );
        self.lines.write(request.as_bytes())?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Some(mut message) = self.message(deadline)? else {
                return Err(refused(command, format!("no answer within {PATIENCE:?}")));
            };
            if let Some(value) = message.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = message.get("error") {
                let detail = error
                    .get("desc")
                    .and_then(Value::as_str)
                    .map_or_else(|| error.to_string(), str::to_owned);
                return Err(refused(command, detail));
            }
            self.keep(message);
        }
    }

    /// Waits for an event, such as `DEVICE_DELETED`, that came since it was last waited for; returns its data.
    /// `None` if it did not come in time.
    ///
    /// # Errors
    /// [`Error::Io`] if QEMU is gone.
    pub fn wait_event(&mut self, name: &str, timeout: Duration) -> Result<Option<Value>> {
        let deadline = Instant::now() + timeout;
        let is_it = |e: &Value| e.get("event").and_then(Value::as_str) == Some(name);
        loop {
            if let Some(at) = self.events.iter().position(is_it) {
                let mut event = self.events.remove(at).unwrap_or_default();
                return Ok(Some(
                    event.get_mut("data").map(Value::take).unwrap_or_default(),
                ));
            }
            match self.message(deadline)? {
                Some(message) => self.keep(message),
                None => return Ok(None),
            }
        }
    }

    fn keep(&mut self, message: Value) {
        if message.get("event").is_some() {
            self.events.push_back(message);
            if self.events.len() > EVENTS {
                self.events.pop_front();
            }
        }
    }

    /// The next message; `None` at the deadline.
    fn message(&mut self, deadline: Instant) -> Result<Option<Value>> {
        match self.lines.next(deadline)? {
            Heard::Line(line) => {
                let parsed = serde_json::from_slice(&line);
                parsed
                    .map(Some)
                    .map_err(|e| refused("message", e.to_string()))
            }
            Heard::Nothing => Ok(None),
            Heard::End => Err(refused("connection", "it was closed".into())),
        }
    }
}

fn refused(command: &str, detail: String) -> Error {
    Error::Qmp {
        command: command.into(),
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};

    #[test]
    fn answers_errors_and_events_are_told_apart() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let script = [
            "{\"QMP\": {\"version\": {}}}\n",
            "{\"return\": {}}\n",
            "{\"event\": \"RESET\", \"data\": {\"guest\": true}}\n{\"return\": {\"status\": \"running\"}}\n",
            "{\"error\": {\"class\": \"DeviceNotFound\", \"desc\": \"Device 'x' not found\"}}\n",
        ];
        let qemu = std::thread::spawn(move || {
            let mut theirs = BufReader::new(theirs);
            let mut asked = Vec::new();
            for (turn, answer) in script.iter().enumerate() {
                if turn > 0 {
                    let mut line = String::new();
                    theirs.read_line(&mut line).unwrap();
                    asked.push(serde_json::from_str::<Value>(&line).unwrap()["execute"].clone());
                }
                theirs.get_mut().write_all(answer.as_bytes()).unwrap();
            }
            asked
        });
        let mut qmp = Qmp::new(ours).unwrap();
        assert_eq!(
            qmp.execute("query-status", json!({})).unwrap()["status"],
            "running"
        );
        let error = qmp.execute("device_del", json!({"id": "x"})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "QEMU refused `device_del`: Device 'x' not found"
        );
        assert_eq!(
            qmp.wait_event("RESET", PATIENCE).unwrap().unwrap()["guest"],
            true
        );
        assert_eq!(
            qemu.join().unwrap(),
            ["qmp_capabilities", "query-status", "device_del"]
        );
        assert!(
            qmp.wait_event("RESET", Duration::ZERO).is_err(),
            "QEMU is gone"
        );
    }
}
