//! The one thing that needs `unsafe`: a step between fork and exec.

#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

/// Makes the process that `command` starts die when the *thread* that starts it ends.
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent: Pid = getpid();
    let bind = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have ended before the call above: then no signal will ever come.
        if getppid() == Some(parent) {
            Ok(())
        } else {
            Err(io::Error::from(io::ErrorKind::BrokenPipe))
        }
    };
    // SAFETY: between fork and exec only async-signal-safe work is allowed. `bind` makes the system calls prctl and
    // getppid, neither allocates nor takes a lock, and its captured state is a plain number.
    unsafe { command.pre_exec(bind) };
}
