//! Lines that come over a socket, with a deadline for each.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// How long one read waits before the deadline is looked at.
const SLICE: Duration = Duration::from_millis(50);

/// A socket that speaks in lines.
#[derive(Debug)]
pub(crate) struct Lines {
    stream: BufReader<UnixStream>,
    line: Vec<u8>,
    /// Whose it is, for errors.
    whose: &'static str,
}

/// What has come.
pub(crate) enum Heard {
    /// A line, with its end.
    Line(Vec<u8>),
    /// Nothing before the deadline.
    Nothing,
    /// The end.
    End,
}

impl Lines {
    pub(crate) fn new(stream: UnixStream, whose: &'static str) -> Result<Self> {
        stream
            .set_read_timeout(Some(SLICE))
            .map_err(Error::io(format!("set up {whose}")))?;
        Ok(Self {
            stream: BufReader::new(stream),
            line: Vec::new(),
            whose,
        })
    }

    /// Writes these bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.stream.get_mut().write_all(bytes);
        written.map_err(Error::io(format!("write to {}", self.whose)))
    }

    /// Waits for the next line.
    pub(crate) fn next(&mut self, deadline: Instant) -> Result<Heard> {
        loop {
            // A timeout in the middle of a line keeps what was read in `line`.
            match self.stream.read_until(b'\n', &mut self.line) {
                Ok(0) => return Ok(Heard::End),
                Ok(_) if self.line.ends_with(b"\n") => {
                    return Ok(Heard::Line(std::mem::take(&mut self.line)));
                }
                Ok(_) => {}
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) =>
                {
                    if Instant::now() >= deadline {
                        return Ok(Heard::Nothing);
                    }
                }
                Err(e) => return Err(Error::io(format!("read from {}", self.whose))(e)),
            }
        }
    }
}
