//! The daemon's side: a thread that answers operators.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::net::{SocketFlags, accept_with};
use serde::Serialize;
use serde_json::{Value, json};
use vfio_user::Listener;

use super::{Failure, Listed, MAX_REQUEST, Params, Request, read_line, write_line};
use crate::mac::MacAddr;
use crate::nic::Joint;
use crate::shard::Door;
use crate::view::View;
use crate::waiting::Waits;

/// How long one connection may take in all.
const CONNECTION: Duration = Duration::from_secs(3);
/// How long a NIC may take to say what only it knows; its queues may wait for a hypervisor.
const ANSWER: Duration = Duration::from_millis(500);
/// How long to wait when the process has no descriptor for one more connection.
const AGAIN: Duration = Duration::from_millis(100);

/// A NIC that operators may ask about.
pub(crate) struct Watched {
    pub(crate) joint: Arc<Joint>,
    pub(crate) mac: MacAddr,
    /// Of the shard that has its control.
    pub(crate) door: Option<Door>,
}

/// The thread. Ends when it is dropped, and takes the socket with it.
pub(crate) struct Server {
    stop: Arc<OwnedFd>,
    /// Whoever is being answered.
    current: Arc<Mutex<Option<UnixStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers those who connect to `listener` about `nics` and how `shards` wait.
    ///
    /// # Errors
    ///
    /// There is no thread or no descriptor to be had.
    pub(crate) fn start(
        listener: Listener,
        nics: Vec<Watched>,
        shards: Vec<Arc<Waits>>,
    ) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let current = Arc::default();
        let desk = Desk {
            nics,
            shards,
            current: Arc::clone(&current),
        };
        let ended = stop.clone();
        let thread = Builder::new()
            .name("operator".into())
            .spawn(move || desk.serve(&listener, &ended))?;
        Ok(Self {
            stop,
            current,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(stream) = lock(&self.current).take() {
            // Nobody else may keep us from ending.
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where the questions go.
struct Desk {
    nics: Vec<Watched>,
    shards: Vec<Arc<Waits>>,
    current: Arc<Mutex<Option<UnixStream>>>,
}

impl Desk {
    fn serve(&self, listener: &Listener, stop: &OwnedFd) {
        loop {
            let mut fds = [
                PollFd::new(stop, PollFlags::IN),
                PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            if !fds[0].revents().is_empty() {
                return;
            }
            match accept_with(listener.as_fd(), SocketFlags::CLOEXEC) {
                // Whoever breaks off or goes beyond the limits has nothing to expect.
                Ok(socket) => {
                    drop(self.answer_all(socket.into(), stop));
                    *lock(&self.current) = None;
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(_) => std::thread::sleep(AGAIN),
            }
        }
    }

    /// Answers line by line, as long as the connection may last.
    fn answer_all(&self, mut stream: UnixStream, stop: &OwnedFd) -> io::Result<()> {
        let deadline = Instant::now() + CONNECTION;
        *lock(&self.current) = Some(stream.try_clone()?);
        let mut rest = Vec::new();
        let stopped = || {
            let mut fds = [PollFd::new(stop, PollFlags::IN)];
            poll(&mut fds, Some(&rustix::event::Timespec::default())) != Ok(0)
        };
        while !stopped() {
            match read_line(&mut stream, &mut rest, MAX_REQUEST, deadline) {
                Ok(Some(line)) => write_line(&mut stream, &self.answer(&line), deadline)?,
                Ok(None) => break,
                Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                    let what = format!("a request has at most {MAX_REQUEST} bytes");
                    let failure = Failure::new(-32600, what);
                    return write_line(&mut stream, &reply(&Value::Null, Err(failure)), deadline);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The reply to one line.
    fn answer(&self, line: &[u8]) -> String {
        match serde_json::from_slice::<Request>(line) {
            Ok(request) => reply(&request.id, self.run(&request.method, &request.params)),
            Err(error) => {
                let code = if error.is_data() { -32600 } else { -32700 };
                reply(&Value::Null, Err(Failure::new(code, error.to_string())))
            }
        }
    }

    fn run(&self, method: &str, params: &Params) -> Result<Value, Failure> {
        match method {
            "list" => {
                let listed = |nic: &Watched| Listed {
                    name: nic.joint.name.clone(),
                    mac: nic.mac.to_string(),
                };
                value(self.nics.iter().map(listed).collect::<Vec<_>>())
            }
            "inspect" => value(self.view(self.find(params)?)),
            "link" => {
                let nic = self.find(params)?;
                let up = params
                    .up
                    .ok_or_else(|| Failure::new(-32602, "link needs up, true or false"))?;
                if nic.joint.plug(up) {
                    let up = if up { "up" } else { "down" };
                    tracing::info!(nic = nic.joint.name, "an operator takes the link {up}");
                }
                value(self.view(nic).link)
            }
            _ => {
                let what =
                    format!("there is no method {method:.40}: there are list, inspect, link");
                Err(Failure::new(-32601, what))
            }
        }
    }

    fn find(&self, params: &Params) -> Result<&Watched, Failure> {
        let name = params.nic.as_deref();
        let name = name.ok_or_else(|| Failure::new(-32602, "it needs nic, the name of a NIC"))?;
        let found = self.nics.iter().find(|nic| nic.joint.name == name);
        let found = found.ok_or_else(|| Failure::new(1, format!("there is no NIC {name}")))?;
        match found.joint.is_over() {
            true => Err(Failure::new(
                2,
                format!("{name} has been closed after an error, see the log"),
            )),
            false => Ok(found),
        }
    }

    fn view(&self, nic: &Watched) -> View {
        nic.joint.operator.ask();
        if let Some(door) = &nic.door {
            door.knock();
        }
        let answer = nic.joint.operator.wait(ANSWER);
        View::new(&nic.joint, nic.mac, answer, &self.shards)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn value(result: impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(result).map_err(|error| Failure::new(-32603, error.to_string()))
}

fn reply(id: &Value, result: Result<Value, Failure>) -> String {
    match result {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(error) => json!({ "jsonrpc": "2.0", "id": id, "error": error }),
    }
    .to_string()
}
