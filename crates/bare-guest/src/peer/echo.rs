//! Frames back and forth by that driver.

use alloc::vec::Vec;
use core::hint::black_box;

use bare_guest::args::{Args, Error};
use bare_guest::frame;
use bare_guest::machine::{Machine, Ram};
use bare_guest::nic::Nic;
use bare_guest::patience::Patience;
use bare_guest::report;
use bare_guest::report::Serial;
use e1000_driver::e1000::{E1000Device, KernelFunc};
use guest_driver::Bus;
use guest_driver::fcs::fcs;
use guest_driver::regs::pci;

/// PCI's COMMAND: memory decodes, and the device may reach RAM.
const MEMORY_AND_MASTER: u32 = 1 << 1 | 1 << 2;
/// The station that the driver makes of whatever device it finds; it reads no EEPROM.
const STATION: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x55];
const MS: u64 = 1_000_000;

/// What the driver asks of a kernel.
struct Kernel(Nic);

impl KernelFunc for Kernel {
    fn dma_alloc_coherent(&mut self, pages: usize) -> (usize, usize) {
        let (len, align) = (pages * Self::PAGE_SIZE, Self::PAGE_SIZE as u64);
        let addr = self.0.ram.alloc(len, align) as usize;
        (addr, addr)
    }

    fn dma_free_coherent(&mut self, _: usize, _: usize) {}
}

/// Brings the card up and sends `args.count` frames back, each as it came but for its addresses, with its FCS behind it:
/// the driver never asks for one (IFCS), so it has to be among what it is given. `args.fcs` off leaves it out.
///
/// # Errors
///
/// There is no card, or nothing happens for longer than `args` allow.
pub(crate) fn run(
    machine: Machine,
    ram: Ram,
    args: &Args,
    serial: &mut Serial,
) -> Result<(), Error> {
    let mut nic = Nic::find(machine, ram)?;
    let (slot, registers, line, clock) = (nic.slot(), nic.registers(), nic.line(), nic.clock);
    nic.config_write(pci::COMMAND, 2, MEMORY_AND_MASTER);
    let Ok(mut device) = E1000Device::new(Kernel(nic), registers as usize) else {
        return Err(Error::NoDevice);
    };
    report!(
        serial,
        "nic slot={slot} registers={registers:#x} line={line}"
    );
    report!(serial, "ready");

    let mut patience = Patience::new(clock, args);
    let (mut returned, mut refused, mut causes, mut heard) = (0, 0, 0, false);
    while returned < args.count {
        // What a device changes meanwhile is not volatile to that driver: it must be seen as forgotten.
        let frames = black_box(&mut device).e1000_recv().unwrap_or_default();
        if frames.is_empty() {
            if patience.is_over() {
                break;
            }
            continue;
        }
        patience.renew();
        causes |= device.e1000_intr();
        for mut frame in frames {
            if frame.get(12..14) == Some(&frame::KNOCK) {
                if !heard {
                    report!(serial, "hearing");
                }
                heard = true;
            } else if send_back(black_box(&mut device), &mut frame, args.fcs) {
                returned += 1;
            } else {
                refused += 1;
            }
        }
    }
    clock.wait((50 + u64::from(args.linger)) * MS);
    let pending = device.e1000_intr();
    device.e1000_irq_disable();
    report!(
        serial,
        "echo frames={returned} refused={refused} causes={causes:#x} pending={pending:#x}"
    );
    if returned < args.count {
        return Err(Error::Idle);
    }
    Ok(())
}

/// Whether the driver took it.
fn send_back(device: &mut E1000Device<'_, Kernel>, frame: &mut Vec<u8>, with_fcs: bool) -> bool {
    frame.copy_within(6..12, 0);
    frame[6..12].copy_from_slice(&STATION);
    if with_fcs {
        frame.extend(fcs(frame));
    }
    device.e1000_transmit(frame) == frame.len() as i32
}
