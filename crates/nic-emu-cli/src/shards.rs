//! The daemon's threads, and which part of which NIC lives on which of them.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::Builder;
use std::time::Duration;

use crate::cpus::Cpu;
use crate::nic::{Joint, Nic, Places, Report};
use crate::shard::{Door, Shard};
use crate::waiting::Waits;

/// Some shards, and NICs on them in turn: with two or more, the queues of a NIC are on different ones, with three or
/// more its control is on a third. With one it is the same code.
pub struct Shards {
    shards: Vec<Shard>,
    /// Shard by shard; empty if they run wherever the kernel likes.
    cpus: Vec<Cpu>,
    /// The NICs, in the order in which they came.
    nics: Vec<Arc<Joint>>,
    stop: UnixStream,
}

/// Parts of a NIC that can keep a thread busy: control and two queues.
pub(crate) const PARTS: usize = 3;

impl Shards {
    /// `count` shards without NICs, at least one, which run until `stop` becomes readable.
    ///
    /// # Errors
    ///
    /// The kernel has no descriptor or memory left for an epoll.
    pub fn new(stop: UnixStream, count: usize) -> io::Result<Self> {
        let mut shards = vec![Shard::new(stop.try_clone()?)?];
        for _ in 1..count {
            shards.push(Shard::new(stop.try_clone()?)?);
        }
        Ok(Self {
            shards,
            cpus: Vec::new(),
            nics: Vec::new(),
            stop,
        })
    }

    /// Has shard i run on the i-th of these processors alone.
    #[must_use]
    pub fn on_cpus(mut self, cpus: &[Cpu]) -> Self {
        self.cpus = cpus.to_vec();
        self
    }

    /// As [`Shard::busy_poll`], for each of them.
    #[must_use]
    pub fn busy_poll(mut self, time: Duration) -> Self {
        let shards = self.shards.into_iter();
        self.shards = shards.map(|shard| shard.busy_poll(time)).collect();
        self
    }

    /// Takes over a NIC; its socket is served as soon as the shards run.
    ///
    /// # Errors
    ///
    /// A descriptor of the NIC cannot be waited for.
    pub fn add(&mut self, nic: Nic) -> io::Result<()> {
        self.place(nic).map(|_| ())
    }

    /// As [`add`](Self::add); returns the door of the shard that has the NIC's control.
    pub(crate) fn place(&mut self, nic: Nic) -> io::Result<Option<Door>> {
        let places = places(self.nics.len(), self.shards.len());
        self.nics.push(nic.joint().clone());
        for (shard, parts) in nic.divide(places)? {
            self.shards[shard].add(parts)?;
        }
        Ok(self.shards[places.control].door())
    }

    /// How each shard waits, while they run.
    pub fn waits(&self) -> Vec<Arc<Waits>> {
        self.shards.iter().map(Shard::waits).collect()
    }

    /// Serves the NICs until told to stop, the first shard on this thread; returns what each NIC has counted.
    ///
    /// # Errors
    ///
    /// The kernel has no thread left, or refuses to wait. One shard that fails ends the others at once.
    ///
    /// # Panics
    ///
    /// If a shard itself has: what panics in a NIC's turn ends that NIC only.
    pub fn run(self) -> io::Result<Vec<Report>> {
        let mut shards = self.shards.into_iter();
        let first = shards.next().ok_or(io::ErrorKind::NotFound)?;
        let cpu = |shard: usize| self.cpus.get(shard).copied();
        let mut threads = Vec::new();
        for (number, shard) in (1..).zip(shards) {
            let cpu = cpu(number);
            let name = format!("shard {number}");
            let all = EndsAll(self.stop.try_clone()?);
            let thread = Builder::new()
                .name(name)
                .spawn(move || run(shard, cpu, all))?;
            threads.push(thread);
        }
        let mut results = vec![run(first, cpu(0), EndsAll(self.stop))];
        for thread in threads {
            match thread.join() {
                Ok(result) => results.push(result),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        let (mut ended, mut parts) = (Vec::new(), Vec::new());
        for (number, result) in results.into_iter().enumerate() {
            let (controls, queues) = result.map_err(|error| {
                io::Error::new(error.kind(), format!("shard {number}: {error}"))
            })?;
            ended.extend(controls);
            parts.extend(queues);
        }
        // Backends go with the last of their halves, and have counted all that they will.
        drop(parts);
        let has_ended = |nic: &&Arc<Joint>| ended.iter().any(|joint| Arc::ptr_eq(joint, nic));
        Ok(self
            .nics
            .iter()
            .filter(has_ended)
            .map(|joint| Report::of(joint))
            .collect())
    }
}

/// Tells all shards to stop when one has ended, for whatever reason: half a NIC is of no use to anybody.
struct EndsAll(UnixStream);

impl Drop for EndsAll {
    fn drop(&mut self) {
        // Each has a descriptor of the same socket, and finds its end now.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

fn run(shard: Shard, cpu: Option<Cpu>, _all: EndsAll) -> io::Result<(Vec<Arc<Joint>>, Vec<Nic>)> {
    if let Some(cpu) = cpu {
        cpu.pin()?;
    }
    shard.run_until_stopped()
}

/// Where NIC `nic` lives among so many shards. Control and receive queue share one of two: what the control has to say
/// concerns reception more often, and a transmit queue in a system call keeps no CPU of the guest waiting.
fn places(nic: usize, shards: usize) -> Places {
    let place = |part| (nic * PARTS.min(shards) + part) % shards;
    match shards {
        1 => Places {
            control: 0,
            tx: 0,
            rx: 0,
        },
        2 => Places {
            control: nic % 2,
            rx: nic % 2,
            tx: (nic + 1) % 2,
        },
        _ => Places {
            control: place(0),
            tx: place(1),
            rx: place(2),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_fails_ends_the_others_at_once() {
        for broken in 0..3 {
            // Nobody ever tells them to stop.
            let (stop, _ours) = UnixStream::pair().unwrap();
            let mut shards = Shards::new(stop, 3).unwrap();
            shards.shards[broken].break_epoll();
            let (told, result) = std::sync::mpsc::channel();
            std::thread::spawn(move || told.send(shards.run()));
            let patience = Duration::from_secs(60);
            let result = result.recv_timeout(patience).expect("they end");
            let error = result.unwrap_err().to_string();
            assert!(error.starts_with(&format!("shard {broken}: ")), "{error}");
        }
    }

    #[test]
    fn parts_go_to_different_shards_in_turn() {
        for shards in 1..9 {
            let mut load = vec![0; shards];
            for nic in 0..2 * shards {
                let Places { control, tx, rx } = places(nic, shards);
                assert_eq!(tx != rx, shards >= 2);
                assert_eq!(control != tx && control != rx, shards >= 3);
                for part in [control, tx, rx] {
                    load[part] += 1;
                }
            }
            assert_eq!(load, vec![2 * PARTS; shards], "{shards} shards");
        }
    }
}
