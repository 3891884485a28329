//! Queues whose memory the hypervisor has to be asked for: they wait for it on a thread of their own.

use std::io;
use std::os::fd::BorrowedFd;
use std::thread::{Builder, JoinHandle};

use super::{Joint, Nic};
use crate::shard::{Door, Shard};

/// The hired shard that has the queues of a NIC. It ends when this is gone, and the queues have left.
pub(super) struct Abroad(Option<Door>);

impl Drop for Abroad {
    fn drop(&mut self) {
        if let Some(door) = self.0.take() {
            door.close();
        }
    }
}

impl Nic {
    /// Sends the queues to a thread of their own while their memory has to be asked for, and home afterwards.
    pub(super) fn place_queues(&mut self, epoll: BorrowedFd<'_>) -> io::Result<()> {
        let Some(control) = &mut self.control else {
            return Ok(());
        };
        let remote = control.is_remote();
        self.refused &= remote;
        if remote && self.abroad.is_none() && !self.refused {
            self.hired.retain(|thread| !thread.is_finished());
            match hire(&self.joint) {
                Ok((door, thread)) => {
                    tracing::info!(
                        nic = self.joint.name,
                        "asks its hypervisor for the guest's memory, on a thread of its own"
                    );
                    control.watch_waker(epoll)?;
                    self.joint.tx.send_to(door.clone());
                    self.joint.rx.send_to(door.clone());
                    self.abroad = Some(Abroad(Some(door)));
                    self.hired.push(thread);
                }
                Err(error) => {
                    tracing::error!(
                        nic = self.joint.name,
                        "no thread for the queues, they stay where they are: {error}"
                    );
                    self.refused = true;
                }
            }
        } else if !remote && self.abroad.is_some() {
            let (tx, rx) = (&self.joint.tx, &self.joint.rx);
            if let (Some(tx_home), Some(rx_home)) = (tx.home.get(), rx.home.get()) {
                tx.send_to(tx_home.clone());
                rx.send_to(rx_home.clone());
            }
            self.abroad = None;
        }
        Ok(())
    }
}

/// A thread that serves the queues that come through its door, until nobody can come any more; and the wakers between it
/// and the others.
fn hire(joint: &Joint) -> io::Result<(Door, JoinHandle<()>)> {
    let shard = Shard::hired()?;
    joint.tx.waker.watch()?;
    joint.rx.waker.watch()?;
    joint.control.watch()?;
    // Not the whole path: the kernel keeps 15 bytes of a thread's name.
    let name = joint.name.rsplit('/').next().unwrap_or_default().to_owned();
    let nic = joint.name.clone();
    let door = shard.door().ok_or(io::ErrorKind::NotFound)?;
    let thread = Builder::new().name(name).spawn(move || {
        if let Err(error) = shard.run_hired() {
            tracing::error!(nic, "closed, its queues have no event loop: {error}");
        }
    })?;
    Ok((door, thread))
}
