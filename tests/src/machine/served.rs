//! NICs of the daemon in a thread of this process, their cables in the hands of the test.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use guest_driver::socket::Socket;
use guest_driver::{Bar, Bus, Wire};
use net_backend::{Backend, Counters, Port, RxBuf, switch};
use nic_emu::Time;
use nic_emu::common::frame::{Features, Offload, RxFrame, TxBurst};
use nic_emu_cli::{MacAddr, Nic, Report, Shard};
use rustix::event::{EventfdFlags, eventfd};
use vfio_user::{ListenOptions, Listener};

/// A shard of NICs that serves sockets in a folder of its own until it is dropped.
pub struct Daemon {
    folder: tempfile::TempDir,
    stop: Option<UnixStream>,
    shard: Option<JoinHandle<io::Result<Vec<Report>>>>,
}

impl Daemon {
    /// Serves one NIC for each address; the first one listens on [`Daemon::socket`]`(0)`.
    ///
    /// # Panics
    ///
    /// If the machine has no descriptors, threads or temporary folders left.
    pub fn start(addresses: &[[u8; 6]]) -> (Self, Vec<Cable>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (stop, stopped) = UnixStream::pair().expect("a socket pair");
        let mut shard = Shard::new(stopped).expect("an event loop");
        let mut daemon = Self {
            folder,
            stop: Some(stop),
            shard: None,
        };
        let mut cables = Vec::new();
        for (index, mac) in addresses.iter().enumerate() {
            let listener = Listener::bind(daemon.socket(index), &ListenOptions::default())
                .expect("a socket to listen on");
            let (plug, cable) = Cable::new().expect("an eventfd");
            let name = format!("nic{index}");
            let nic = Nic::new(name, MacAddr(*mac), listener, Box::new(plug));
            shard.add(nic).expect("a NIC that can be watched");
            cables.push(cable);
        }
        let shard = std::thread::Builder::new().name("shard".into());
        let shard = Shard::run_in(shard, addresses.len(), daemon_shard(shard, stop_name()));
        daemon.shard = Some(shard);
        (daemon, cables)
    }
}
