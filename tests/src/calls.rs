//! System calls of a running program, counted by the kernel's word: each stops its thread until a tracer has seen it.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

const PATIENCE: Duration = Duration::from_secs(20);

/// How often each call was begun: its name, and for calls on a descriptor what that is (`read tun`, `write eventfd`). Of
/// eventfds, a `write waker` is for another thread of the program, once that has read it before.
pub type Calls = BTreeMap<String, u64>;

/// Those of the calls named `epoll_wait` that have a deadline. No call by itself.
pub const WITH_DEADLINE: &str = "of those with a deadline";

/// A program whose system calls are counted, until it ends.
#[derive(Debug)]
pub struct Traced {
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    calls: Calls,
    /// Of each thread that waits in epoll now and then, whether it does.
    asleep: BTreeMap<i32, bool>,
    /// Of each eventfd that the program has written or read: how its threads wake each other, if it has read it.
    eventfds: BTreeMap<String, Eventfd>,
    /// Threads stay where they are.
    held: bool,
    over: Option<String>,
}

/// An eventfd by which threads of the program wake each other, or tell somebody else.
#[derive(Debug, Default)]
struct Eventfd {
    is_read: bool,
    /// Written since it was last read.
    set: bool,
}

impl State {
    /// Every event loop sleeps without a deadline, and none is about to be woken by another.
    fn is_asleep(&self) -> bool {
        !self.asleep.is_empty()
            && self.asleep.values().all(|&asleep| asleep)
            && !self.eventfds.values().any(|it| it.is_read && it.set)
    }

    /// Notes a call on an eventfd, and says what it is called: reads are wake-ups among threads, as are writes of what is
    /// read, and other writes are for somebody else.
    fn on_eventfd(&mut self, name: &str, id: String) -> String {
        let eventfd = self.eventfds.entry(id).or_default();
        eventfd.set = name == "write";
        eventfd.is_read |= name == "read";
        match eventfd.is_read && eventfd.set {
            true => "write waker".into(),
            false => format!("{name} eventfd"),
        }
    }
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Traced {
    /// Counts from now on what all threads of process `pid` do.
    ///
    /// # Errors
    /// The process may not be traced.
    pub fn new(pid: u32) -> Result<Self> {
        let seen = Arc::<Seen>::default();
        let pid = i32::try_from(pid)?;
        let (started, start) = std::sync::mpsc::channel();
        let tracer = Tracer {
            pid,
            seen: Arc::clone(&seen),
            inside: BTreeMap::new(),
        };
        // A tracer is a thread: only the one that has attached may resume.
        std::thread::Builder::new()
            .name("tracer".into())
            .spawn(move || {
                let attached = tracer.attach();
                let failed = attached.is_err();
                let _ = started.send(attached);
                if !failed {
                    tracer.run();
                }
            })?;
        start.recv().context("no tracer")?.context("cannot trace")?;
        Ok(Self { seen })
    }

    /// What was called until now, as soon as every event loop of the program sleeps without a deadline. Of eventfds by
    /// which its threads wake each other that is known once each has been used.
    ///
    /// # Errors
    /// They do not go to sleep, or the program has ended.
    pub fn asleep(&self) -> Result<Calls> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.seen.lock();
        while !state.is_asleep() {
            if let Some(over) = &state.over {
                anyhow::bail!("{over}");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "it does not sleep: {:?}", state.calls);
            let waited = self.seen.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(state.calls.clone())
    }

    /// Keeps each thread where it is from its next call on, until this is called with `false`.
    pub fn hold(&self, held: bool) {
        self.seen.lock().held = held;
        self.seen.changed.notify_all();
    }
}

/// What `after` has more than `before`.
#[must_use]
pub fn between(before: &Calls, after: &Calls) -> Calls {
    let more = |(name, &n): (&String, &u64)| {
        let n = n - before.get(name).copied().unwrap_or(0);
        (n > 0).then(|| (name.clone(), n))
    };
    after.iter().filter_map(more).collect()
}

struct Tracer {
    pid: i32,
    seen: Arc<Seen>,
    /// The call that each thread is in.
    inside: BTreeMap<i32, String>,
}

impl Tracer {
    fn attach(&self) -> io::Result<()> {
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.pid))? {
            let name = task?.file_name();
            let Some(tid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            request(libc::PTRACE_SEIZE, tid, 0, options as usize)?;
            request(libc::PTRACE_INTERRUPT, tid, 0, 0)?;
        }
        Ok(())
    }

    fn run(mut self) {
        loop {
            let mut status = 0;
            // Only what this thread traces, not the children of others.
            let flags = libc::__WALL | libc::__WNOTHREAD;
            // SAFETY: `status` may be written.
            let tid = unsafe { libc::waitpid(-1, &raw mut status, flags) };
            if tid < 0 {
                self.seen.lock().over = Some("the program has ended".into());
                self.seen.changed.notify_all();
                return;
            }
            if !libc::WIFSTOPPED(status) {
                self.seen.lock().asleep.remove(&tid);
                continue;
            }
            let signal = libc::WSTOPSIG(status);
            let deliver = if signal == libc::SIGTRAP | 0x80 {
                self.call(tid);
                0
            } else if status >> 16 != 0 || signal == libc::SIGTRAP {
                0
            } else {
                signal
            };
            let state = self.seen.lock();
            let wait = self.seen.changed.wait_while(state, |state| state.held);
            drop(wait.unwrap_or_else(PoisonError::into_inner));
            // Fails if the thread is gone, which is told next.
            let _ = request(libc::PTRACE_SYSCALL, tid, 0, deliver as usize);
        }
    }

    /// A thread is at the begin or at the end of a call.
    fn call(&mut self, tid: i32) {
        let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
        let size = size_of::<libc::ptrace_syscall_info>();
        let to = info.as_mut_ptr() as usize;
        if request(libc::PTRACE_GET_SYSCALL_INFO, tid, size, to).is_err() {
            return;
        }
        // SAFETY: plain integers, all of them initialised.
        let info = unsafe { info.assume_init() };
        let mut state = self.seen.lock();
        if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
            // SAFETY: that is what this kind of stop has filled in.
            let entry = unsafe { info.u.entry };
            let mut name = self.name(entry.nr as i64, entry.args[0]);
            if let Some(call) = name.strip_suffix(" eventfd") {
                name = state.on_eventfd(call, self.eventfd(entry.args[0]));
            }
            if name == "epoll_wait" {
                // A look is none: it has a timeout, be it of nothing, which a sleep without end has not.
                let sleeps = entry.nr as i64 != libc::SYS_epoll_pwait2 || entry.args[3] == 0;
                state.asleep.insert(tid, sleeps);
                if !sleeps {
                    *state.calls.entry(WITH_DEADLINE.into()).or_default() += 1;
                }
            }
            *state.calls.entry(name.clone()).or_default() += 1;
            self.inside.insert(tid, name);
        } else if self.inside.remove(&tid).as_deref() == Some("epoll_wait") {
            state.asleep.insert(tid, false);
        }
        self.seen.changed.notify_all();
    }

    fn name(&self, number: i64, fd: u64) -> String {
        let name = match number {
            libc::SYS_epoll_wait | libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 => "epoll_wait",
            libc::SYS_epoll_ctl => "epoll_ctl",
            libc::SYS_sched_yield => "sched_yield",
            libc::SYS_recvmsg | libc::SYS_recvfrom => "receive",
            libc::SYS_sendmsg | libc::SYS_sendto => "send",
            libc::SYS_read | libc::SYS_readv => return format!("read {}", self.file(fd)),
            libc::SYS_write | libc::SYS_writev => return format!("write {}", self.file(fd)),
            _ => return format!("number {number}"),
        };
        name.into()
    }

    /// What a descriptor of the program is.
    fn file(&self, fd: u64) -> String {
        let link = std::fs::read_link(format!("/proc/{}/fd/{fd}", self.pid)).unwrap_or_default();
        let link = link.to_string_lossy();
        let last = link.rsplit('/').next().unwrap_or_default();
        let kind = last.trim_start_matches("anon_inode:");
        kind.trim_matches(['[', ']']).to_owned()
    }
}

impl Tracer {
    /// Which eventfd a descriptor of the program is.
    fn eventfd(&self, fd: u64) -> String {
        let info = format!("/proc/{}/fdinfo/{fd}", self.pid);
        let info = std::fs::read_to_string(info).unwrap_or_default();
        let id = info
            .lines()
            .find_map(|line| line.strip_prefix("eventfd-id:"));
        id.unwrap_or("?").trim().to_owned()
    }
}

fn request(what: libc::c_uint, tid: i32, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: the only request here that writes to our memory is the one for what a call is, with room for it.
    match unsafe { libc::ptrace(what, tid, address, data) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
