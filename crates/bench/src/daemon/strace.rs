//! Counts another process's system calls.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail};
use nic_emu_lab::Lab;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

/// An strace that is attached to a process, and makes it much slower.
pub struct Trace {
    strace: Child,
    table: NamedTempFile,
}

impl Trace {
    /// Attaches to all threads of a process.
    ///
    /// # Errors
    ///
    /// It cannot be fetched, or may not attach.
    pub fn attach(lab: &Lab, pid: u32) -> Result<Self> {
        let table = NamedTempFile::new()?;
        let mut command = lab.counting()?.strace()?;
        command
            .args(["-f", "-c", "-U", "calls,name", "-o"])
            .arg(table.path());
        command.args(["-p", &pid.to_string()]);
        let mut strace = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start strace")?;
        let said = strace.stderr.take().context("strace says nothing")?;
        let mut said = BufReader::new(said);
        let mut line = String::new();
        said.read_line(&mut line)?;
        if !line.contains("attached") {
            said.read_to_string(&mut line)?;
            strace.wait()?;
            bail!("strace cannot attach: {}", line.trim());
        }
        // What else it says must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Ok(Self { strace, table })
    }

    /// Detaches; how often each system call was made.
    ///
    /// # Errors
    ///
    /// It does not end as it should.
    pub fn end(mut self) -> Result<BTreeMap<String, u64>> {
        let pid = Pid::from_child(&self.strace);
        kill_process(pid, Signal::INT)?;
        self.strace.wait()?;
        let table = fs::read_to_string(self.table.path())?;
        let calls = parse(&table);
        anyhow::ensure!(!calls.is_empty(), "strace has counted nothing");
        Ok(calls)
    }
}

/// Lines of a count and a name.
fn parse(table: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (calls, name) = (words.next()?.parse().ok()?, words.next()?);
        (name != "total").then(|| (name.to_owned(), calls))
    };
    table.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_calls() {
        let table = "    calls syscall\n--------- ----------------\n    12345 epoll_wait\n       7 \
            recvmsg\n--------- ----------------\n    12352 total\n";
        let calls: Vec<_> = parse(table).into_iter().collect();
        assert_eq!(calls, [("epoll_wait".into(), 12345), ("recvmsg".into(), 7)]);
    }
}
