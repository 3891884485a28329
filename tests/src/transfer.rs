//! Files over TCP, compared by SHA-256.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nic_emu_lab::{Netns, Vm};
use sha2::{Digest, Sha256};

use crate::inside::inside;

/// Longest silence on the way.
const SILENCE: Duration = Duration::from_secs(30);
/// What a whole file may take.
const PATIENCE: Duration = Duration::from_secs(120);
const PORT: u16 = 7000;
const FILE: &str = "/tmp/file";

/// A file that arrived whole.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Its size.
    pub bytes: u64,
    /// From its first byte to its last.
    pub took: Duration,
}

impl Transfer {
    /// Mbit/s.
    #[must_use]
    pub fn mbit(&self) -> f64 {
        self.bytes as f64 * 8.0 / 1e6 / self.took.as_secs_f64().max(1e-9)
    }
}

/// Sends `mib` MiB from a network namespace of this machine to a file of the guest.
///
/// # Errors
/// The connection fails, or the guest's file differs.
pub fn host_to_guest(netns: &Netns, from: IpAddr, vm: &mut Vm, mib: usize) -> Result<Transfer> {
    let sender = listen(netns, from, move |mut stream| {
        let mut hash = Sha256::new();
        let mut noise = Noise(mib as u64 + 1);
        let mut chunk = vec![0; 1 << 20];
        for _ in 0..mib {
            noise.fill(&mut chunk);
            hash.update(&chunk);
            stream.write_all(&chunk).context("cannot send")?;
        }
        Ok(hex(hash))
    })?;
    let started = Instant::now();
    let received = vm.ok_for(&format!("nc {from} {PORT} </dev/null >{FILE}"), PATIENCE);
    let took = started.elapsed();
    let sent = join(sender)?;
    received?;
    compare(&sent, &sha256_in_guest(vm, FILE)?)?;
    Ok(Transfer {
        bytes: (mib as u64) << 20,
        took,
    })
}

/// Sends the guest's file of the last [`host_to_guest`] to a network namespace of this machine.
///
/// # Errors
/// The connection fails, or what arrives differs.
pub fn guest_to_host(vm: &mut Vm, netns: &Netns, to: IpAddr) -> Result<Transfer> {
    let receiver = listen(netns, to, |mut stream| {
        let mut hash = Sha256::new();
        let mut chunk = vec![0; 1 << 20];
        let mut bytes = 0;
        loop {
            match stream.read(&mut chunk).context("cannot receive")? {
                0 => return Ok(format!("{} {bytes}", hex(hash))),
                len => {
                    hash.update(&chunk[..len]);
                    bytes += len as u64;
                }
            }
        }
    })?;
    let started = Instant::now();
    let sent = vm.ok_for(&format!("nc {to} {PORT} <{FILE}"), PATIENCE);
    let took = started.elapsed();
    let received = join(receiver)?;
    sent?;
    let (hash, bytes) = received.split_once(' ').context("no size")?;
    compare(&sha256_in_guest(vm, FILE)?, hash)?;
    Ok(Transfer {
        bytes: bytes.parse()?,
        took,
    })
}

/// Makes a file of `mib` MiB in one guest and sends it to another at `to`.
///
/// # Errors
/// The connection fails, or what arrives differs.
pub fn guest_to_guest(from: &mut Vm, to_vm: &mut Vm, to: IpAddr, mib: usize) -> Result<Transfer> {
    let bytes = mib << 20;
    from.ok_for(&format!("head -c {bytes} /dev/urandom >{FILE}"), PATIENCE)?;
    // An end of its standard input would end the connection: a FIFO that it holds open itself has none.
    to_vm.ok(&format!(
        "rm -f {FILE}.done {FILE}.fifo; mkfifo {FILE}.fifo
         (nc -l -p {PORT} <>{FILE}.fifo >{FILE}.got; echo >{FILE}.done) >/dev/null 2>&1 &
         n=0
         until ss -ltn | grep -q ':{PORT} '; do n=$((n + 1)); [ $n -gt 100 ] && exit 1; usleep 100000; done"
    ))?;
    let started = Instant::now();
    from.ok_for(&format!("nc {to} {PORT} <{FILE}"), PATIENCE)?;
    let took = started.elapsed();
    to_vm.ok(&format!("n=0; until [ -e {FILE}.done ]; do n=$((n + 1)); [ $n -gt 100 ] && exit 1; usleep 100000; done"))?;
    compare(
        &sha256_in_guest(from, FILE)?,
        &sha256_in_guest(to_vm, &format!("{FILE}.got"))?,
    )?;
    Ok(Transfer {
        bytes: (mib as u64) << 20,
        took,
    })
}

fn sha256_in_guest(vm: &mut Vm, file: &str) -> Result<String> {
    let printed = vm.ok_for(&format!("sha256sum {file}"), PATIENCE)?;
    Ok(printed
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned())
}

fn compare(sent: &str, arrived: &str) -> Result<()> {
    ensure!(sent.len() == 64, "no SHA-256: {sent:?}");
    ensure!(
        sent == arrived,
        "the file was damaged on its way: SHA-256 {sent} was sent, {arrived} arrived"
    );
    Ok(())
}

/// Listens inside the namespace and serves the first client on a thread.
fn listen(
    netns: &Netns,
    on: IpAddr,
    serve: impl FnOnce(TcpStream) -> Result<String> + Send + 'static,
) -> Result<JoinHandle<Result<String>>> {
    let address = SocketAddr::new(on, PORT);
    let bind = || TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"));
    let listener = inside(netns.name(), bind)?;
    listener.set_nonblocking(true)?;
    Ok(std::thread::spawn(move || {
        let deadline = Instant::now() + SILENCE;
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("cannot accept the guest's connection"),
            }
            ensure!(
                Instant::now() < deadline,
                "the guest did not connect within {SILENCE:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        serve(stream)
    }))
}

fn join(thread: JoinHandle<Result<String>>) -> Result<String> {
    match thread.join() {
        Ok(result) => result,
        Err(_) => bail!("the host's end of the transfer panicked"),
    }
}

/// SHA-256 of `bytes` as `sha256sum` prints it.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(Sha256::new().chain_update(bytes))
}

fn hex(hash: Sha256) -> String {
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Bytes that no compression or pattern hides a fault in (xorshift64*, Vigna 2016).
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let word = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}
