//! NICs of the daemon in a thread of this process, their cables in the hands of the test.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use guest_driver::regs::STATUS;
use guest_driver::socket::Socket;
use guest_driver::{Bus, Wire};
use net_backend::{Backend, Receiver, RxBuf, switch};
use nic_emu::Time;
use nic_emu::common::frame::{Offload, RxCsum, RxFrame, TxBurst};
use nic_emu::common::gso::Segments;
use nic_emu::e1000::Config;
use nic_emu_cli::{Nic, Report, Shards};
use rustix::event::{EventfdFlags, eventfd};
use vfio_user::{ListenOptions, Listener};

/// Shards of NICs that serve sockets in a folder of its own until it is dropped.
pub struct Daemon {
    folder: tempfile::TempDir,
    stop: Option<UnixStream>,
    shards: Option<JoinHandle<io::Result<Vec<Report>>>>,
}

impl Daemon {
    /// Serves one NIC for each address; the first one listens on [`Daemon::socket`]`(0)`.
    ///
    /// # Panics
    ///
    /// If the machine has no descriptors, threads or temporary folders left.
    pub fn start(addresses: &[[u8; 6]]) -> (Self, Vec<Cable>) {
        Self::on_shards(1, addresses)
    }

    /// As [`start`](Self::start), with the parts of the NICs on so many threads.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub fn on_shards(count: usize, addresses: &[[u8; 6]]) -> (Self, Vec<Cable>) {
        Self::of(count, addresses, |name, model, listener, plug| {
            Nic::of(name, model, None, listener, plug)
        })
    }

    /// As [`on_shards`](Self::on_shards), each NIC as `make` makes it from its name, its model and its two ends.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub fn of(
        count: usize,
        addresses: &[[u8; 6]],
        mut make: impl FnMut(String, &Config, Listener, Backend) -> Nic,
    ) -> (Self, Vec<Cable>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (stop, stopped) = UnixStream::pair().expect("a socket pair");
        let mut shards = Shards::new(stopped, count).expect("event loops");
        let mut daemon = Self {
            folder,
            stop: Some(stop),
            shards: None,
        };
        let mut cables = Vec::new();
        for (index, mac) in addresses.iter().enumerate() {
            let listener = Listener::bind(daemon.socket(index), &ListenOptions::default())
                .expect("a socket to listen on");
            let (plug, cable) = cable().expect("an eventfd");
            let name = format!("nic{index}");
            let nic = make(name, &Config::new(*mac), listener, plug);
            shards.add(nic).expect("a NIC that can be watched");
            cables.push(cable);
        }
        let thread = std::thread::Builder::new().name("shard".into());
        daemon.shards = Some(thread.spawn(move || shards.run()).expect("a thread"));
        (daemon, cables)
    }

    /// Where NIC `index` listens.
    pub fn socket(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("nic{index}.sock"))
    }

    /// Ends the shards and returns what its NICs have counted; a NIC that panicked is missing.
    ///
    /// # Panics
    ///
    /// If a shard itself has panicked or failed.
    pub fn stop(mut self) -> Vec<Report> {
        drop(self.stop.take());
        let shards = self.shards.take().expect("stopped once only");
        shards
            .join()
            .expect("the shard does not panic")
            .expect("the shard does not fail")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(shards) = self.shards.take() {
            let _ = shards.join();
        }
    }
}

/// A new cable: the end for the NIC and the end for the test.
fn cable() -> io::Result<(Backend, Cable)> {
    let (near, far) = switch::pair()?;
    let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let link = Arc::new(Link {
        up: AtomicBool::new(true),
        bell,
        damage: Mutex::default(),
    });
    let plug = Backend {
        name: "cable".into(),
        rx: Box::new(Plug {
            port: near.rx,
            link: Arc::clone(&link),
        }),
        ..near
    };
    let cable = Cable {
        port: far,
        link,
        buffer: RxBuf::new(),
        under_way: VecDeque::new(),
    };
    Ok((plug, cable))
}

struct Link {
    up: AtomicBool,
    bell: OwnedFd,
    /// Whether each frame on its way to the NIC arrives with a wrong FCS.
    damage: Mutex<VecDeque<bool>>,
}

impl Link {
    fn damage(&self) -> MutexGuard<'_, VecDeque<bool>> {
        self.damage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The NIC's end of a cable: a switch port whose link the test sets.
struct Plug {
    port: Box<dyn Receiver>,
    link: Arc<Link>,
}

impl Receiver for Plug {
    fn recv<'b>(&mut self, buf: &'b mut RxBuf, now: Time) -> Option<RxFrame<'b>> {
        let mut frame = self.port.recv(buf, now)?;
        frame.meta.bad_fcs = self.link.damage().pop_front().unwrap_or_default();
        Some(frame)
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.port.fd()
    }
    fn link(&mut self) -> bool {
        let _ = rustix::io::read(&self.link.bell, &mut [0; 8]);
        self.link.up.load(Ordering::SeqCst)
    }
    fn link_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.link.bell.as_fd())
    }
}

/// The test's end of a cable.
pub struct Cable {
    port: Backend,
    link: Arc<Link>,
    buffer: RxBuf,
    /// What is left of a super-frame, which a wire carries as segments.
    under_way: VecDeque<(Vec<u8>, bool)>,
}

impl Cable {
    /// Sends a frame that arrives with a wrong FCS.
    pub fn transmit_damaged(&mut self, frame: &[u8]) {
        self.put(frame, true);
    }

    /// The next frame that the device sent, and whether it was the device that made its L4 checksum. One with a wrong FCS
    /// ends here, as with any station.
    pub fn collect_summed(&mut self) -> Option<(Vec<u8>, bool)> {
        if let Some(frame) = self.under_way.pop_front() {
            return Some(frame);
        }
        let frame = loop {
            let frame = self.port.rx.recv(&mut self.buffer, Time(0))?;
            if !frame.meta.bad_fcs {
                break frame;
            }
        };
        let summed = frame.meta.csum != RxCsum::Unknown;
        let mut segments = Segments::new(frame.into())?;
        let mut buffer = vec![0; segments.max_len()];
        while let Some(len) = segments.next_into(&mut buffer) {
            self.under_way.push_back((buffer[..len].to_vec(), summed));
        }
        self.under_way.pop_front()
    }

    fn put(&mut self, frame: &[u8], damaged: bool) {
        self.link.damage().push_back(damaged);
        let mut burst = TxBurst::new();
        let head = frame.len().min(64);
        let rest = [guest_mem::GuestSlice::from_bytes(&frame[head..])];
        assert!(burst.push_frame(&frame[..head], &rest, Offload::default()));
        while self.port.tx.send(&burst, Time(0)) == 0 {
            std::thread::yield_now();
        }
    }
}

impl Wire for Cable {
    fn transmit(&mut self, frame: &[u8]) {
        self.put(frame, false);
    }

    fn collect(&mut self) -> Option<Vec<u8>> {
        self.collect_summed().map(|(frame, _)| frame)
    }

    fn set_carrier(&mut self, up: bool) {
        self.link.up.store(up, Ordering::SeqCst);
        rustix::io::write(&self.link.bell, &1u64.to_ne_bytes()).expect("an eventfd takes a write");
    }
}

/// A NIC reached over its socket.
pub struct Served {
    /// The guest's side.
    pub bus: Socket,
    /// The network's side.
    pub cable: Cable,
    /// The process around the NIC; none if somebody else holds it.
    _daemon: Option<Daemon>,
}

impl Served {
    /// A NIC of a daemon of its own.
    ///
    /// # Panics
    ///
    /// If it cannot be served or connected to.
    pub fn start() -> Self {
        Self::on_shards(1)
    }

    /// As [`start`](Self::start), on so many threads.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub fn on_shards(count: usize) -> Self {
        let (daemon, mut cables) = Daemon::on_shards(count, &[super::MAC]);
        let mut served = Self::connect(&daemon, 0, cables.remove(0));
        served._daemon = Some(daemon);
        served
    }

    /// NIC `index` of `daemon`.
    ///
    /// # Panics
    ///
    /// If it cannot be connected to.
    pub fn connect(daemon: &Daemon, index: usize, cable: Cable) -> Self {
        Self::over(
            Socket::connect(daemon.socket(index)).expect("a server that answers"),
            cable,
        )
    }

    /// A NIC that is connected.
    pub fn over(bus: Socket, cable: Cable) -> Self {
        Self {
            bus,
            cable,
            _daemon: None,
        }
    }

    /// Unplugs the guest; the cable stays for the next one.
    pub fn unplug(self) -> Cable {
        self.cable
    }
}

impl Bus for Served {
    guest_driver::delegate_bus!(self => self.bus);
}

impl Wire for Served {
    /// Comes after all that the driver has written: those writes do not wait to be executed, but a read does.
    fn transmit(&mut self, frame: &[u8]) {
        self.bus.read32(STATUS);
        self.cable.transmit(frame);
    }
    fn collect(&mut self) -> Option<Vec<u8>> {
        self.cable.collect()
    }
    fn set_carrier(&mut self, up: bool) {
        self.cable.set_carrier(up);
    }
}
