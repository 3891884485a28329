//! The processors that threads run on, and the time that this process takes there.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Processor time that this process has used.
#[must_use]
pub fn own_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// The processors that this thread may use.
///
/// # Errors
///
/// The kernel does not say.
pub fn allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect())
}

/// Keeps this thread, and those that it starts from now on, on these processors.
///
/// # Errors
///
/// There are no such processors.
pub fn stay_on(cpus: &[usize]) -> io::Result<()> {
    Ok(sched_setaffinity(None, &set(cpus))?)
}

/// The same for all threads that another process has, and those that they start.
///
/// # Errors
///
/// There are no such processors, or the process is gone.
pub fn keep_on(pid: u32, cpus: &[usize]) -> io::Result<()> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let id = thread?.file_name().to_str().and_then(|id| id.parse().ok());
        sched_setaffinity(id.and_then(Pid::from_raw), &set(cpus))?;
    }
    Ok(())
}

fn set(cpus: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu);
    }
    set
}
