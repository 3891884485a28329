//! What the guest can do, one job a boot. Each prints a record with what it counted and how long that took.

use core::sync::atomic::Ordering::Relaxed;

use guest_driver::desc::{self, Desc, RX_DD, RX_EOP, RxStatus, TX_DD};
use guest_driver::regs::{ICR, ICS, IOADDR, IODATA, MPC, MTA, STATUS, cause};
use guest_driver::ring::Ring;
use guest_driver::{Bus, Config, E1000};

use crate::args::{Args, Error, Job};
use crate::frame;
use crate::interrupt::{self, STATE};
use crate::machine::{Machine, Ram};
use crate::msix;
use crate::nic::Nic;
use crate::patience::Patience;
use crate::report;
use crate::report::Serial;

const MS: u64 = 1_000_000;

/// Brings the card up and does what `args` say.
///
/// # Errors
///
/// There is no card, it does not come up, or nothing happens for longer than `args` allow.
pub fn run(machine: Machine, ram: Ram, args: &Args, serial: &mut Serial) -> Result<(), Error> {
    if args.job == Job::Msix {
        return msix::run(machine, args, serial);
    }
    let nic = Nic::find(machine, ram)?;
    let (slot, registers, line, khz) = (nic.slot(), nic.registers(), nic.line(), nic.clock.khz);
    let config = Config {
        tx_count: args.ring,
        rx_count: args.ring,
        ..Config::default()
    };
    let mut nic = E1000::start(nic, config).map_err(Error::Device)?;
    let [a, b, c, d, e, f] = nic.mac;
    report!(
        serial,
        "nic slot={slot} registers={registers:#x} line={line} khz={khz} \
         mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"
    );
    report!(serial, "ready");
    if args.ask {
        serial.wait();
    }
    let done = match args.job {
        Job::Probe | Job::Msix => Ok(()),
        Job::Mmio => {
            mmio(&mut nic, args, serial);
            Ok(())
        }
        Job::Irq => irq(&mut nic, args, serial),
        Job::Tx => tx(&mut nic, args, serial),
        Job::Rx => rx(&mut nic, args, serial),
        Job::Echo => echo(&mut nic, args, serial),
    };
    if args.ask {
        serial.wait();
    }
    nic.bus.wait(u64::from(args.linger) * MS);
    done
}

fn mmio(nic: &mut E1000<Nic>, args: &Args, serial: &mut Serial) {
    let bus = &mut nic.bus;
    bus.io_write32(IOADDR, STATUS);
    let mut time = |name: &str, access: fn(&mut Nic)| {
        let start = bus.clock.now();
        for _ in 0..args.count {
            access(bus);
        }
        let ns = bus.clock.now() - start;
        report!(serial, "mmio op={name} count={} ns={ns}", args.count);
    };
    time("read", |bus| _ = bus.read32(STATUS));
    // An entry of the multicast table that stays as it is.
    time("write", |bus| bus.write32(MTA, 0));
    time("write_read", |bus| {
        bus.write32(MTA, 0);
        bus.read32(STATUS);
    });
    time("port", |bus| _ = bus.io_read32(IODATA));
}

fn irq(nic: &mut E1000<Nic>, args: &Args, serial: &mut Serial) -> Result<(), Error> {
    let (machine, line) = (nic.bus.machine(), nic.bus.line());
    nic.causes();
    interrupt::set_up(machine, nic.bus.registers(), line, args.keep);
    nic.enable_interrupts(cause::TXDW);
    machine.interrupts(true);

    let start = nic.bus.now();
    let mut patience = Patience::new(nic.bus.clock, args);
    let mut caused = 0;
    while caused < args.count {
        nic.bus.write32(ICS, cause::TXDW);
        caused += 1;
        if !patience.wait(|| STATE.taken.load(Relaxed) >= caused) {
            break;
        }
    }
    let ns = nic.bus.now() - start;

    // Whatever is still under way has come by then.
    nic.bus.wait(20 * MS);
    let taken = STATE.taken.load(Relaxed);
    nic.disable_interrupts();
    nic.bus.wait(MS);
    let stuck = u8::from(nic.bus.interrupt());
    machine.interrupts(false);
    let pending = nic.bus.read32(ICR);
    report!(
        serial,
        "irq caused={caused} taken={taken} kept={} spurious={} stuck={stuck} pending={pending:#x} ns={ns}",
        STATE.kept.load(Relaxed),
        STATE.spurious.load(Relaxed),
    );
    if taken < args.count {
        return Err(Error::Idle);
    }
    Ok(())
}

/// Writes the frame of number `number` into the ring, in the buffer of its descriptor, which holds the rest already.
fn push_frame(nic: &mut E1000<Nic>, number: u32, size: usize) {
    let buffer = nic.tx_buffer(nic.tx.tail);
    nic.bus
        .ram
        .write(buffer + frame::NUMBER as u64, &number.to_le_bytes());
    push_sent(nic, buffer, size);
}

fn push_sent(nic: &mut E1000<Nic>, buffer: u64, size: usize) {
    let desc = desc::legacy(buffer, size as u16, desc::EOP | desc::IFCS | desc::RS);
    nic.tx.push(&mut nic.bus, desc);
}

/// Takes back what the device has sent; returns how many.
fn reap(nic: &mut E1000<Nic>) -> u32 {
    let mut done = 0;
    while nic.tx.clean != nic.tx.tail
        && nic.bus.ram.load(nic.tx.addr(nic.tx.clean) + 8) & TX_DD != 0
    {
        nic.tx.clean = nic.tx.after(nic.tx.clean);
        done += 1;
    }
    done
}

fn tx(nic: &mut E1000<Nic>, args: &Args, serial: &mut Serial) -> Result<(), Error> {
    let mut bytes = [0; frame::MAX];
    frame::fill(&mut bytes, nic.mac);
    for index in 0..nic.tx.count {
        let buffer = nic.tx_buffer(index);
        nic.bus.ram.write(buffer, &bytes[..args.size]);
    }
    let mut patience = Patience::new(nic.bus.clock, args);
    let (mut queued, mut sent) = (0, 0);
    let largest = args.batch.min(nic.tx.count / 2);
    let start = nic.bus.now();
    while sent < args.count {
        // Whole batches only: a ring that is nearly full would be told of every single frame.
        let wanted = largest.min(args.count - queued);
        let batch = if nic.tx.free() < wanted { 0 } else { wanted };
        for _ in 0..batch {
            push_frame(nic, queued, args.size);
            queued += 1;
        }
        if batch > 0 {
            nic.tx.kick(&mut nic.bus);
        }
        let done = reap(nic);
        sent += done;
        if batch + done > 0 {
            patience.renew();
        } else if patience.is_over() {
            break;
        }
    }
    let ns = nic.bus.now() - start;
    report!(
        serial,
        "tx frames={sent} bytes={} ns={ns}",
        u64::from(sent) * args.size as u64
    );
    if sent < args.count {
        return Err(Error::Idle);
    }
    Ok(())
}

/// A frame in its receive buffer.
struct Arrived {
    index: u32,
    /// Without FCS.
    len: usize,
}

/// Frames as they come out of a ring whose buffers are posted again in batches.
struct Receiver {
    posted: u32,
    batch: u32,
}

impl Receiver {
    fn new(nic: &E1000<Nic>, args: &Args) -> Self {
        Self {
            posted: 0,
            batch: args.batch.min(nic.rx.count / 2),
        }
    }

    /// The next frame. It stays in its buffer until [`Receiver::give_back`].
    fn next(&self, nic: &E1000<Nic>) -> Option<Arrived> {
        let index = nic.rx.clean;
        let high = nic.bus.ram.load(nic.rx.addr(index) + 8);
        let status = RxStatus::from(Desc { low: 0, high });
        if status.status & RX_DD == 0 {
            return None;
        }
        // All frames fit one buffer; anything else is counted as empty.
        let whole = status.status & RX_EOP != 0;
        let len = if whole { usize::from(status.len) } else { 4 };
        Some(Arrived {
            index,
            len: len.saturating_sub(4),
        })
    }

    fn give_back(&mut self, nic: &mut E1000<Nic>, frame: &Arrived) {
        nic.rx.clean = nic.rx.after(frame.index);
        let low = nic.rx_buffer(nic.rx.tail);
        nic.rx.push(&mut nic.bus, Desc { low, high: 0 });
        self.posted += 1;
        if self.posted == self.batch {
            self.kick(nic);
        }
    }

    fn kick(&mut self, nic: &mut E1000<Nic>) {
        if self.posted > 0 {
            self.posted = 0;
            Ring::kick(&nic.rx, &mut nic.bus);
        }
    }
}

/// Says so when the first frame has come that asks just for that; returns whether this is one.
///
/// A sender may be faster than the word that the receiver was switched on: what arrives before is lost.
fn hear(frame: &[u8], heard: &mut bool, serial: &mut Serial) -> bool {
    let knocks = frame.get(12..14) == Some(&frame::KNOCK);
    if knocks && !*heard {
        *heard = true;
        report!(serial, "hearing");
    }
    knocks
}

fn rx(nic: &mut E1000<Nic>, args: &Args, serial: &mut Serial) -> Result<(), Error> {
    let mut receiver = Receiver::new(nic, args);
    let mut patience = Patience::new(nic.bus.clock, args);
    let (mut frames, mut bytes, mut strange, mut gaps) = (0u32, 0u64, 0u32, 0u32);
    let (mut expected, mut first, mut heard) = (0u32, None, false);
    while frames < args.count {
        if let Some(arrived) = receiver.next(nic) {
            let mut head = [0; frame::NUMBER + 4];
            nic.bus.ram.read(nic.rx_buffer(arrived.index), &mut head);
            let (head, number) = head.split_at(frame::NUMBER);
            if head.ends_with(&frame::ETHERTYPE) && arrived.len >= frame::MIN {
                if first.is_none() {
                    first = Some(nic.bus.now());
                }
                let number = number.try_into().map_or(0, u32::from_le_bytes);
                gaps += u32::from(number != expected);
                expected = number.wrapping_add(1);
                frames += 1;
                bytes += arrived.len as u64;
            } else {
                strange += 1;
                hear(head, &mut heard, serial);
            }
            receiver.give_back(nic, &arrived);
            patience.renew();
        } else {
            receiver.kick(nic);
            if patience.is_over() {
                break;
            }
        }
    }
    let ns = first.map_or(0, |first| nic.bus.now() - first);
    let missed = nic.bus.read32(MPC);
    report!(
        serial,
        "rx frames={frames} bytes={bytes} strange={strange} gaps={gaps} missed={missed} ns={ns}"
    );
    if frames < args.count {
        return Err(Error::Idle);
    }
    Ok(())
}

fn echo(nic: &mut E1000<Nic>, args: &Args, serial: &mut Serial) -> Result<(), Error> {
    let mut receiver = Receiver::new(nic, args);
    let mut patience = Patience::new(nic.bus.clock, args);
    let (mut returned, mut waiting, mut heard) = (0, 0, false);
    let mut bytes = [0; frame::MAX];
    let start = nic.bus.now();
    while returned < args.count {
        reap(nic);
        let mut happened = false;
        if nic.tx.free() > 0
            && let Some(arrived) = receiver.next(nic)
        {
            let bytes = &mut bytes[..arrived.len.min(frame::MAX)];
            nic.bus.ram.read(nic.rx_buffer(arrived.index), bytes);
            receiver.give_back(nic, &arrived);
            if hear(bytes, &mut heard, serial) {
                // Nothing to return.
            } else if bytes.len() >= frame::NUMBER {
                bytes.copy_within(6..12, 0);
                bytes[6..12].copy_from_slice(&nic.mac);
                let buffer = nic.tx_buffer(nic.tx.tail);
                nic.bus.ram.write(buffer, bytes);
                push_sent(nic, buffer, bytes.len());
                returned += 1;
                waiting += 1;
            }
            happened = true;
        }
        if waiting > 0 && (!happened || waiting == args.batch || returned == args.count) {
            waiting = 0;
            nic.tx.kick(&mut nic.bus);
        }
        if happened {
            patience.renew();
        } else {
            receiver.kick(nic);
            if patience.is_over() {
                break;
            }
        }
    }
    let sent = nic.flush(1000 * MS);
    let ns = nic.bus.now() - start;
    report!(serial, "echo frames={returned} ns={ns}");
    if returned < args.count || !sent {
        return Err(Error::Idle);
    }
    Ok(())
}
