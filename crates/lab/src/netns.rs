//! Network namespaces for tests and demos.

use std::ffi::OsStr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Error, Lab, Result};

/// A named network namespace of one's own, with `lo` up; removed when this is dropped. Needs root.
#[derive(Debug)]
pub struct Netns {
    lab: Lab,
    name: String,
}

impl Netns {
    /// Makes a namespace with a name that no other process uses, starting with `prefix`.
    ///
    /// # Errors
    /// [`Error::NeedRoot`], or [`Error::Command`] with what `ip` said.
    pub fn new(lab: &Lab, prefix: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{prefix}-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NeedRoot(name));
        }
        let mut add = lab.host_tool("ip")?;
        add.args(["netns", "add", &name]);
        checked(add)?;
        let netns = Self {
            lab: lab.clone(),
            name,
        };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The namespace's name, as in `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs a program of the machine inside.
    ///
    /// # Errors
    /// As [`Lab::host_tool`].
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        enter(&self.lab, &self.name, &Command::new(program))
    }

    /// A command that runs one of the lab's tools inside.
    ///
    /// # Errors
    /// As [`Lab::host_tool`].
    pub fn tool(&self, name: &str) -> Result<Command> {
        enter(&self.lab, &self.name, &self.lab.host_tool(name)?)
    }

    /// Runs `ip ARGUMENTS` inside (arguments separated by blanks) and returns what it printed.
    ///
    /// # Errors
    /// [`Error::Command`] with what `ip` said.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let mut command = self.lab.host_tool("ip")?;
        command
            .args(["-n", &self.name])
            .args(arguments.split_whitespace());
        checked(command)
    }

    /// Runs a lab tool inside to its end and returns what it printed.
    ///
    /// # Errors
    /// [`Error::Command`] if it fails.
    pub fn run(&self, tool: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.tool(tool)?;
        command.args(arguments);
        checked(command)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Ok(mut command) = self.lab.host_tool("ip") {
            let _ = command.args(["netns", "del", &self.name]).output();
        }
    }
}

/// `command` with its arguments and environment, to be run in the namespace `name`.
pub(crate) fn enter(lab: &Lab, name: &str, command: &Command) -> Result<Command> {
    let mut inside = lab.host_tool("ip")?;
    inside
        .args(["netns", "exec", name])
        .arg(command.get_program())
        .args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => inside.env(key, value),
            None => inside.env_remove(key),
        };
    }
    Ok(inside)
}

/// A command line in words, for people and reports.
pub(crate) fn words(command: &Command) -> String {
    let quote = |word: &OsStr| {
        let word = word.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word.into_owned()
        } else {
            format!("'{word}'")
        }
    };
    let all = std::iter::once(command.get_program()).chain(command.get_args());
    all.map(quote).collect::<Vec<_>>().join(" ")
}

fn checked(mut command: Command) -> Result<String> {
    let line = words(&command);
    let out = command
        .output()
        .map_err(Error::io(format!("start `{line}`")))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let detail = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    Err(Error::Command {
        command: line,
        status: out.status.to_string(),
        detail,
    })
}
