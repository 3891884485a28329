//! What a sample was taken in: a system call, by the functions of Linux that its chain of callers has, or a part of the
//! process itself, by the crate of its function.

use std::collections::BTreeMap;

use super::samples::{Frame, Sample};

/// What a thread was at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    /// The kernel: a read of the TAP.
    TapRead,
    /// The kernel: a write to the TAP, as far as that itself goes.
    TapWrite,
    /// The kernel: what the host's network stack does with a frame before the write to the TAP returns.
    NetworkStack,
    /// The kernel: a receive call of a socket.
    SocketReceive,
    /// The kernel: a send call of a socket.
    SocketSend,
    /// The kernel: a write to an eventfd, an interrupt, or a read of one.
    Eventfd,
    /// The kernel: epoll, apart from going to sleep in it.
    Epoll,
    /// The kernel: poll and ppoll, apart from going to sleep in them.
    Poll,
    /// The kernel: futexes, apart from going to sleep in them.
    Futex,
    /// The kernel: from one thread to another, whether this one goes to sleep, yields or is preempted.
    Scheduling,
    /// The kernel: interrupts that came while the thread ran, mostly on behalf of others.
    Interrupts,
    /// The kernel: page faults.
    PageFault,
    /// The kernel: other system calls, and the way into and out of those above.
    OtherCalls,
    /// The daemon: the model of the NIC.
    Model,
    /// The daemon: the server of vfio-user.
    Transport,
    /// The daemon: TAPs, switches and other backends.
    Backend,
    /// The daemon: the guest's memory.
    GuestMemory,
    /// The daemon: its loop, and what connects its parts.
    Daemon,
    /// The daemon: Rust's standard library and other crates, where they were not made part of their callers.
    Crates,
    /// The guest's instructions, as the hypervisor has translated them.
    Guest,
    /// The hypervisor's program.
    Hypervisor,
    /// The C library, most of it copying and the callers' side of system calls.
    Libc,
    /// Other libraries, and what belongs to no file.
    Libraries,
}

impl Work {
    /// In words.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::TapRead => "kernel: TAP read",
            Self::TapWrite => "kernel: TAP write",
            Self::NetworkStack => "kernel: network stack behind a TAP write",
            Self::SocketReceive => "kernel: socket receive",
            Self::SocketSend => "kernel: socket send",
            Self::Eventfd => "kernel: eventfd",
            Self::Epoll => "kernel: epoll",
            Self::Poll => "kernel: poll",
            Self::Futex => "kernel: futex",
            Self::Scheduling => "kernel: scheduling",
            Self::Interrupts => "kernel: interrupts",
            Self::PageFault => "kernel: page faults",
            Self::OtherCalls => "kernel: other calls, entry and exit",
            Self::Model => "nic-emu: model",
            Self::Transport => "nic-emu: vfio-user",
            Self::Backend => "nic-emu: backend",
            Self::GuestMemory => "nic-emu: guest memory",
            Self::Daemon => "nic-emu: loop",
            Self::Crates => "nic-emu: std and other crates",
            Self::Guest => "guest, translated",
            Self::Hypervisor => "hypervisor",
            Self::Libc => "C library",
            Self::Libraries => "other libraries",
        }
    }

    /// What this sample was taken in.
    #[must_use]
    pub fn of(sample: &Sample) -> Self {
        match sample.kernel().next() {
            Some(_) => in_kernel(sample),
            None => sample.user().map_or(Self::Libraries, in_process),
        }
    }
}

/// Functions of Linux, some of which every version of the last ten years has, and what they stand for: the first row of
/// which one is among the callers counts, whatever the order of the callers.
const CALLS: [(Work, &[&str]); 10] = [
    (
        Work::Scheduling,
        &[
            "__schedule",
            "schedule",
            "__x64_sys_sched_yield",
            "do_sched_yield",
        ],
    ),
    (Work::PageFault, &["asm_exc_page_fault", "exc_page_fault"]),
    (Work::TapRead, &["tun_chr_read_iter", "tun_do_read"]),
    (Work::TapWrite, &["tun_chr_write_iter", "tun_get_user"]),
    (Work::Eventfd, &["eventfd_write", "eventfd_read"]),
    (
        Work::SocketReceive,
        &[
            "__x64_sys_recvmsg",
            "__x64_sys_recvfrom",
            "__sys_recvmsg",
            "__sys_recvfrom",
            "sock_recvmsg",
            "sock_read_iter",
        ],
    ),
    (
        Work::SocketSend,
        &[
            "__x64_sys_sendmsg",
            "__x64_sys_sendto",
            "__sys_sendmsg",
            "__sys_sendto",
            "__sock_sendmsg",
            "sock_sendmsg",
            "sock_write_iter",
        ],
    ),
    (
        Work::Epoll,
        &[
            "__x64_sys_epoll_wait",
            "__x64_sys_epoll_pwait",
            "__x64_sys_epoll_pwait2",
            "do_epoll_wait",
            "ep_poll",
        ],
    ),
    (
        Work::Poll,
        &["__x64_sys_ppoll", "__x64_sys_poll", "do_sys_poll"],
    ),
    (Work::Futex, &["__x64_sys_futex", "do_futex"]),
];
/// What a write to a TAP calls to hand a frame on.
const NETWORK_STACK: [&str; 5] = [
    "__netif_receive_skb",
    "netif_receive_skb",
    "netif_receive_skb_list",
    "do_softirq",
    "napi_gro_receive",
];
/// How the entries of interrupts are called.
const INTERRUPTS: [&str; 2] = ["asm_sysvec_", "asm_common_interrupt"];

fn in_kernel(sample: &Sample) -> Work {
    let has = |names: &[&str]| sample.kernel().any(|frame| names.contains(&name(frame)));
    let interrupted = sample.kernel().any(|frame| {
        INTERRUPTS
            .iter()
            .any(|entry| frame.symbol.starts_with(entry))
    });
    let call = CALLS.iter().find(|(_, names)| has(names));
    match call.map(|(work, _)| *work) {
        Some(Work::Scheduling) => Work::Scheduling,
        _ if interrupted => Work::Interrupts,
        Some(Work::TapWrite) if has(&NETWORK_STACK) => Work::NetworkStack,
        Some(work) => work,
        None => Work::OtherCalls,
    }
}

/// A function's name without what the compiler has appended (`.isra.0`, `.cold`).
fn name(frame: &Frame) -> &str {
    frame.symbol.split('.').next().unwrap_or_default()
}

fn in_process(frame: &Frame) -> Work {
    let file = frame.file();
    if file.starts_with("libc.so") || file.starts_with("ld-linux") || file == "[vdso]" {
        Work::Libc
    } else if file.starts_with("perf-") || file.starts_with("[JIT]") || file == "//anon" {
        Work::Guest
    } else if file.starts_with("qemu-system-") {
        Work::Hypervisor
    } else if file.starts_with("nic-emu-cli") {
        of_ours(&frame.symbol)
    } else {
        Work::Libraries
    }
}

/// The part of the daemon that a function such as `<nic_emu::a::B as vfio_user::C>::d` is of: that of the type, if it is a
/// trait's.
fn of_ours(symbol: &str) -> Work {
    let start = symbol.trim_start_matches(['<', '&', '*', '[', '(']);
    let start = start.strip_prefix("mut ").unwrap_or(start);
    let start = start.strip_prefix("dyn ").unwrap_or(start);
    match start.split("::").next().unwrap_or_default() {
        "nic_emu" => Work::Model,
        "vfio_user" => Work::Transport,
        "net_backend" => Work::Backend,
        "guest_mem" => Work::GuestMemory,
        "nic_emu_cli" => Work::Daemon,
        _ => Work::Crates,
    }
}

/// Samples, added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub samples: u64,
    /// Processor time that they stand for, in ns.
    pub ns: u64,
    work: BTreeMap<Work, u64>,
    functions: BTreeMap<(Work, String), u64>,
}

impl Tally {
    /// Adds them up.
    pub fn of<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Self {
        let mut tally = Self::default();
        for sample in samples {
            let work = Work::of(sample);
            tally.samples += 1;
            tally.ns += sample.ns;
            *tally.work.entry(work).or_default() += sample.ns;
            if let Some(frame) = sample.frames.first() {
                let function = (work, frame.symbol.clone());
                *tally.functions.entry(function).or_default() += sample.ns;
            }
        }
        tally
    }

    /// Share of each kind of work in percent, the largest first.
    #[must_use]
    pub fn work(&self) -> Vec<(Work, f64)> {
        let shares = self.work.iter().map(|(work, ns)| (*work, self.share(*ns)));
        descending(shares.collect())
    }

    /// Share of each function that samples were taken in, called by nobody else there, in percent, the largest first.
    #[must_use]
    pub fn functions(&self) -> Vec<((Work, &str), f64)> {
        let functions = self.functions.iter();
        let shares = functions.map(|((work, name), ns)| ((*work, name.as_str()), self.share(*ns)));
        descending(shares.collect())
    }

    fn share(&self, ns: u64) -> f64 {
        ns as f64 * 100.0 / self.ns.max(1) as f64
    }
}

fn descending<T>(mut shares: Vec<(T, f64)>) -> Vec<(T, f64)> {
    shares.sort_by(|one, other| other.1.total_cmp(&one.1));
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Functions from the innermost on; those with a file after `@` are not the kernel's.
    fn sample(functions: &[&str]) -> Sample {
        let frame = |function: &&str| {
            let (symbol, object) = function
                .split_once('@')
                .unwrap_or((function, "[kernel.kallsyms]"));
            Frame {
                symbol: symbol.to_owned(),
                object: object.to_owned(),
            }
        };
        Sample {
            ns: 10,
            frames: functions.iter().map(frame).collect(),
            ..Sample::default()
        }
    }

    fn work(functions: &[&str]) -> Work {
        Work::of(&sample(functions))
    }

    #[test]
    fn the_kernel_is_told_by_the_call() {
        let write = [
            "tun_get_user",
            "tun_chr_write_iter",
            "vfs_write",
            "do_syscall_64",
        ];
        assert_eq!(work(&write), Work::TapWrite);
        let stack = [
            "tcp_v4_rcv",
            "do_softirq.part.0",
            "tun_get_user",
            "tun_chr_write_iter",
        ];
        assert_eq!(work(&stack), Work::NetworkStack);
        assert_eq!(
            work(&["skb_copy_datagram_iter", "tun_do_read.isra.0"]),
            Work::TapRead
        );
        assert_eq!(
            work(&["unix_stream_sendmsg", "__sys_sendto"]),
            Work::SocketSend
        );
        assert_eq!(
            work(&["unix_stream_read_generic", "__sys_recvmsg"]),
            Work::SocketReceive
        );
        assert_eq!(
            work(&["_raw_spin_unlock", "eventfd_write", "vfs_write"]),
            Work::Eventfd
        );
        assert_eq!(
            work(&["ep_send_events", "ep_poll", "do_epoll_wait"]),
            Work::Epoll
        );
        assert_eq!(
            work(&["do_syscall_64", "write@/usr/lib/libc.so.6"]),
            Work::OtherCalls
        );
    }

    #[test]
    fn going_to_sleep_is_scheduling_wherever_it_happens() {
        assert_eq!(
            work(&["finish_task_switch", "__schedule", "schedule", "ep_poll"]),
            Work::Scheduling
        );
        let preempted = [
            "__schedule",
            "preempt_schedule_irq",
            "asm_sysvec_reschedule_ipi",
        ];
        assert_eq!(work(&preempted), Work::Scheduling);
        let interrupted = [
            "handle_softirqs",
            "asm_sysvec_apic_timer_interrupt",
            "tun_do_read",
        ];
        assert_eq!(work(&interrupted), Work::Interrupts);
    }

    #[test]
    fn processes_are_told_by_file_and_crate() {
        let ours = |symbol: &str| work(&[&format!("{symbol}@/target/release/nic-emu-cli")]);
        assert_eq!(ours("nic_emu::e1000::tx::Tx::run"), Work::Model);
        assert_eq!(
            ours("<vfio_user::Server as nic_emu_cli::x::Y>::serve"),
            Work::Transport
        );
        assert_eq!(ours("<&mut dyn net_backend::Backend>::send"), Work::Backend);
        assert_eq!(ours("nic_emu_cli::shard::run"), Work::Daemon);
        assert_eq!(ours("guest_mem::map::Map::get"), Work::GuestMemory);
        assert_eq!(ours("core::ptr::drop_in_place<nic_emu::A>"), Work::Crates);
        assert_eq!(work(&["[unknown]@/tmp/perf-17.map"]), Work::Guest);
        assert_eq!(
            work(&["[unknown]@/lab/usr/bin/qemu-system-x86_64"]),
            Work::Hypervisor
        );
        assert_eq!(
            work(&["memcpy@/lab/usr/lib/x86_64-linux-gnu/libc.so.6"]),
            Work::Libc
        );
        assert_eq!(
            work(&["g_main@/lab/usr/lib/libglib-2.0.so.0"]),
            Work::Libraries
        );
        assert_eq!(work(&[]), Work::Libraries);
    }

    #[test]
    fn shares_are_of_all_samples() {
        let mut samples = vec![sample(&["a", "eventfd_write"]); 3];
        samples.push(sample(&["b", "ep_poll"]));
        let tally = Tally::of(&samples);
        assert_eq!((tally.samples, tally.ns), (4, 40));
        assert_eq!(tally.work(), [(Work::Eventfd, 75.0), (Work::Epoll, 25.0)]);
        let functions = tally.functions();
        assert_eq!(
            functions,
            [((Work::Eventfd, "a"), 75.0), ((Work::Epoll, "b"), 25.0)]
        );
        assert!(Tally::of([]).work().is_empty());
    }
}
