//! Work inside a network namespace without a program of its own.

use std::fs::File;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs `work` on a thread inside the named network namespace. Sockets that it opens stay there, whoever uses them
/// later.
///
/// # Errors
/// There is no such namespace, it may not be entered, or `work` fails.
pub fn inside<T: Send>(netns: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = format!("/run/netns/{netns}");
    let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    let entered = || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter network namespace {netns}"))?;
        work()
    };
    std::thread::scope(|scope| match scope.spawn(entered).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
