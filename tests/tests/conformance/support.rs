//! What the checks are made of.

use guest_driver::desc::Desc;
use guest_driver::ring::{Ring, Side};
use guest_driver::{Config, E1000, Offload, Received, e1000};
use nic_emu_tests::Machine;

/// Why a check failed, or nothing.
pub(crate) type Outcome = Result<(), String>;

/// What a check does.
pub(crate) type Claim = Box<dyn Fn(&mut dyn Machine) -> Outcome + Send + Sync>;

/// One claim about the device, on a machine that was just switched on.
pub(crate) struct Check {
    /// `group::claim`.
    pub(crate) name: String,
    /// Proves it or says what was seen instead.
    pub(crate) run: Claim,
}

/// A check of each named function, called after the module and the function.
#[macro_export]
macro_rules! checks {
    ($group:literal: $($name:ident),* $(,)?) => {
        vec![$($crate::support::Check {
            name: concat!($group, "::", stringify!($name)).into(),
            run: Box::new($name),
        }),*]
    };
}

/// Leaves the check with a sentence unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($sentence:tt)+) => {
        if !$condition {
            return Err(format!($($sentence)+));
        }
    };
}

/// Leaves the check unless both sides are equal; numbers are shown in hexadecimal.
#[macro_export]
macro_rules! ensure_eq {
    ($got:expr, $want:expr, $($what:tt)+) => {{
        let (got, want) = ($got, $want);
        if got != want {
            return Err(format!("{}: {:#x?} and not {:#x?}", format!($($what)+), got, want));
        }
    }};
}

/// The driver on a machine of any kind.
pub(crate) type Nic<'m> = E1000<&'m mut dyn Machine>;

/// A station that is not the device.
pub(crate) const PEER: [u8; 6] = [0x52, 0x54, 0, 0xAA, 0xBB, 0xCC];
/// Everybody.
pub(crate) const BROADCAST: [u8; 6] = [0xFF; 6];
/// How long the device gets for what it does at once, in ns.
pub(crate) const SOON: u64 = 2_000_000_000;

/// Brings the device up.
pub(crate) fn start(machine: &mut dyn Machine, config: Config) -> Result<Nic<'_>, String> {
    E1000::start(machine, config).map_err(|error| error.to_string())
}

/// Brings the device up as far as probe goes, without rings.
pub(crate) fn probe(machine: &mut dyn Machine) -> Result<[u8; 6], String> {
    e1000::probe(machine).map_err(|error| error.to_string())
}

/// Asks `done` until it has an answer, for at most [`SOON`].
pub(crate) fn soon<T>(
    nic: &mut Nic<'_>,
    mut done: impl FnMut(&mut Nic<'_>) -> Option<T>,
) -> Option<T> {
    let start = nic.bus.now();
    let mut pause = 20_000;
    loop {
        if let Some(answer) = done(nic) {
            return Some(answer);
        }
        if nic.bus.now() - start >= SOON {
            return None;
        }
        nic.bus.wait(pause);
        pause = (pause * 2).min(10_000_000);
    }
}

/// The next frame that the device sends.
pub(crate) fn sent(nic: &mut Nic<'_>) -> Result<Vec<u8>, String> {
    soon(nic, |nic| nic.bus.collect()).ok_or_else(|| "no frame was sent".into())
}

/// Makes sure that the device sends exactly these frames, in this order.
pub(crate) fn sends(nic: &mut Nic<'_>, frames: &[Vec<u8>]) -> Outcome {
    for (index, want) in frames.iter().enumerate() {
        let got = sent(nic).map_err(|error| format!("frame {index}: {error}"))?;
        same(&got, want).map_err(|error| format!("frame {index}: {error}"))?;
    }
    sends_nothing(nic)
}

/// Makes sure that the device sends nothing (more).
pub(crate) fn sends_nothing(nic: &mut Nic<'_>) -> Outcome {
    nic.bus.settle();
    match nic.bus.collect() {
        None => Ok(()),
        Some(frame) => Err(format!("a frame of {} bytes was sent", frame.len())),
    }
}

/// The next frame that the driver receives.
pub(crate) fn received(nic: &mut Nic<'_>) -> Result<(Vec<u8>, Received), String> {
    let mut buffer = vec![0; 1 << 16];
    let got = soon(nic, |nic| nic.receive(&mut buffer)).ok_or("no frame was received")?;
    buffer.truncate(got.len);
    Ok((buffer, got))
}

/// Sends `frame` to the device and makes sure that the driver receives just that.
pub(crate) fn receives(nic: &mut Nic<'_>, frame: &[u8]) -> Result<Received, String> {
    nic.bus.transmit(frame);
    let (got, received) = received(nic)?;
    same(&got, frame)?;
    Ok(received)
}

/// Makes sure that the driver receives nothing (more).
pub(crate) fn receives_nothing(nic: &mut Nic<'_>) -> Outcome {
    nic.bus.settle();
    match nic.receive(&mut [0; 64]) {
        None => Ok(()),
        Some(got) => Err(format!("a frame of {} bytes was received", got.len)),
    }
}

/// Compares two frames.
pub(crate) fn same(got: &[u8], want: &[u8]) -> Outcome {
    ensure!(
        got.len() == want.len(),
        "{} bytes and not {}",
        got.len(),
        want.len()
    );
    match got.iter().zip(want).position(|(got, want)| got != want) {
        None => Ok(()),
        Some(at) => Err(format!(
            "byte {at} is {:#04x} and not {:#04x}",
            got[at], want[at]
        )),
    }
}

/// Sends a packet by the driver's own means.
pub(crate) fn send(nic: &mut Nic<'_>, packet: &[u8], offload: Offload) -> Outcome {
    ensure!(
        soon(nic, |nic| nic.send(packet, offload).then_some(())).is_some(),
        "the transmit ring stays full"
    );
    Ok(())
}

/// Puts `bytes` into a fresh piece of DMA memory.
pub(crate) fn place(nic: &mut Nic<'_>, bytes: &[u8]) -> u64 {
    let addr = nic.bus.alloc(bytes.len().max(1), 16);
    nic.bus.dma_write(addr, bytes);
    addr
}

/// Queues descriptors as they are and announces them; returns the index of the first.
pub(crate) fn push(nic: &mut Nic<'_>, descs: &[Desc]) -> u32 {
    let first = nic.tx.tail;
    for desc in descs {
        nic.tx.push(&mut nic.bus, *desc);
    }
    nic.tx.kick(&mut nic.bus);
    first
}

/// Waits until the device has taken everything in the transmit ring; its head is at the tail then.
pub(crate) fn drained(nic: &mut Nic<'_>) -> Outcome {
    let tail = nic.tx.tail;
    let reached = soon(nic, |nic| (nic.tx.head(&mut nic.bus) == tail).then_some(()));
    ensure!(
        reached.is_some(),
        "TDH stays at {} before {tail}",
        nic.tx.head(&mut nic.bus)
    );
    nic.tx.clean = tail;
    Ok(())
}

/// Gives the device a receive ring of `count` descriptors, of which only the first `posted` have buffers, at the
/// addresses that `buffer` tells. The receiver must be off.
pub(crate) fn receive_ring(
    nic: &mut Nic<'_>,
    count: u32,
    posted: u32,
    mut buffer: impl FnMut(u32) -> u64,
) {
    nic.rx = Ring::new(&mut nic.bus, Side::Rx, count);
    for index in 0..posted {
        let low = buffer(index);
        nic.rx.push(&mut nic.bus, Desc { low, high: 0 });
    }
    nic.rx.kick(&mut nic.bus);
}
