//! Child processes that never outlive what started them.

use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Error, Result, sys};

/// A running program that is killed when this is dropped, and by the kernel when this process dies in whatever way.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts a command. Its stdin, stdout and stderr are what the command says; take them from [`Process::child`].
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be started.
    pub fn spawn(command: Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child =
            spawn_from_lasting_thread(command).map_err(Error::io(format!("start {name}")))?;
        Ok(Self { child, name })
    }

    /// The child process itself.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// [`Error::Io`] if the system cannot tell.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .map_err(Error::io(format!("wait for {}", self.name)))
    }

    /// Waits for its end; `None` if it still runs after `timeout`.
    ///
    /// # Errors
    /// [`Error::Io`] if the system cannot tell.
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + timeout;
        loop {
            let status = self.exited()?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks it to end, by SIGTERM.
    ///
    /// # Errors
    /// [`Error::Io`] if the signal cannot be sent.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Kills it and waits until it is gone.
    ///
    /// # Errors
    /// [`Error::Io`] if the system cannot tell.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::KILL)?;
        self.child
            .wait()
            .map_err(Error::io(format!("wait for {}", self.name)))
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        // Only a child that was not waited for yet surely still owns its number.
        if self.exited()?.is_some() {
            return Ok(());
        }
        let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) else {
            return Ok(());
        };
        kill_process(pid, signal).map_err(|e| Error::Io {
            what: format!("send a signal to {}", self.name),
            source: e.into(),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts a command from a thread that lasts as long as the process: the kernel's parent-death signal is sent when
/// the starting thread ends, and tests run in short-lived threads.
fn spawn_from_lasting_thread(mut command: Command) -> io::Result<Child> {
    static JOBS: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let jobs = JOBS.get_or_init(|| {
        let (jobs, todo) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in todo {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });
    sys::die_with_parent(&mut command);
    let (answer, answered) = mpsc::channel();
    let sent = jobs
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, answer));
    let gone = || io::Error::other("the starting thread is gone");
    sent.map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Process {
        let mut command = Command::new("sleep");
        command.arg("1000");
        Process::spawn(command).unwrap()
    }

    #[test]
    fn a_child_survives_the_thread_that_asked_for_it_but_not_its_owner() {
        let mut process = std::thread::spawn(sleeper).join().unwrap();
        assert!(process.wait(Duration::from_millis(100)).unwrap().is_none());
        let pid = process.pid();
        drop(process);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn termination_is_seen() {
        let mut process = sleeper();
        process.terminate().unwrap();
        assert!(
            process
                .wait(Duration::from_secs(5))
                .unwrap()
                .is_some_and(|s| !s.success())
        );
        process.terminate().unwrap();
        assert!(
            Process::spawn(Command::new("/nonexistent"))
                .unwrap_err()
                .to_string()
                .contains("/nonexistent")
        );
    }
}
