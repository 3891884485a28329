//! A reset that comes while a queue waits for memory, on another thread, wins.

use std::sync::{Arc, Mutex};

use guest_mem::{Access, DmaError, GuestMem, Remote};
use nic_emu::Time;
use nic_emu::common::frame::{RxFrame, RxMeta, TxBurst};
use nic_emu::e1000::bits::{rctl, tctl};
use nic_emu::e1000::regs::Reg;
use nic_emu::e1000::{self, Config, Control, REGISTER_BAR, ResetKind};

const RAM: usize = 0x10000;
const RING: u32 = 0x1000;
const BUFFER: u64 = 0x8000;
const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

/// Memory of zeros and a guest that resets the NIC while the NIC waits for its writes.
#[derive(Debug)]
struct Guest {
    ram: Mutex<Vec<u8>>,
    control: Mutex<Option<Control>>,
}

impl Remote for Guest {
    fn read(&self, addr: u64, to: &mut [u8]) -> Result<(), DmaError> {
        to.copy_from_slice(&self.ram.lock().unwrap()[addr as usize..][..to.len()]);
        Ok(())
    }

    fn write(&self, addr: u64, from: &[u8]) -> Result<(), DmaError> {
        self.ram.lock().unwrap()[addr as usize..][..from.len()].copy_from_slice(from);
        Ok(())
    }

    fn flush(&self) -> Result<(), DmaError> {
        if let Some(control) = &mut *self.control.lock().unwrap() {
            control.reset(ResetKind::Bus, Time(1));
        }
        Ok(())
    }

    fn blocks(&self) -> bool {
        true
    }
}

fn memory(guest: &Arc<Guest>) -> GuestMem {
    let builder = GuestMem::builder();
    let builder = builder.remote(0, RAM as u64, Access::ReadWrite, guest.clone());
    builder.build().unwrap()
}

fn write(control: &mut Control, reg: Reg, value: u32) {
    let offset = reg.row().offset.into();
    control.write(REGISTER_BAR, offset, &value.to_le_bytes(), Time(0));
}

fn start(ram: Vec<u8>) -> (Arc<Guest>, Control, e1000::tx::TxQueue, e1000::rx::RxQueue) {
    let (mut control, tx, rx) = e1000::new(&Config::new(MAC));
    control.set_bus_master(true);
    for (base, len, tail, enable, bit) in [
        (Reg::TDBAL, Reg::TDLEN, Reg::TDT, Reg::TCTL, tctl::EN),
        (Reg::RDBAL, Reg::RDLEN, Reg::RDT, Reg::RCTL, rctl::EN),
    ] {
        for (reg, value) in [(base, RING), (len, 256), (enable, bit), (tail, 4)] {
            write(&mut control, reg, value);
        }
    }
    let guest = Guest {
        ram: Mutex::new(ram),
        control: Mutex::new(None),
    };
    (Arc::new(guest), control, tx, rx)
}

/// A ring of descriptors with 64 bytes each, to be reported.
fn ram() -> Vec<u8> {
    const EOP_IFCS_RS: u64 = 0x0B;
    let mut ram = vec![0; RAM];
    for at in (RING as usize..).step_by(16).take(16) {
        ram[at..at + 8].copy_from_slice(&BUFFER.to_le_bytes());
        ram[at + 8..at + 16].copy_from_slice(&(EOP_IFCS_RS << 24 | 64).to_le_bytes());
    }
    ram
}

#[test]
fn a_transmit_queue_does_not_move_the_head_of_the_next_ring() {
    let (guest, control, mut tx, _) = start(ram());
    let mem = memory(&guest);
    let shared = control.shared().clone();
    let mut burst = TxBurst::new();
    tx.fetch(&mem, &mut burst, Time(0));
    assert_eq!(burst.len(), 4);
    *guest.control.lock().unwrap() = Some(control);
    tx.complete(&mem, &mut burst, 4, Time(0)).unwrap();
    assert_eq!(shared.regs.get(Reg::TDH), 0);
    assert_eq!(shared.regs.get(Reg::ICR), 0);
    assert!(tx.is_settled());
}

#[test]
fn a_receive_queue_does_not_move_the_head_of_the_next_ring() {
    let (guest, control, _, mut rx) = start(ram());
    let mem = memory(&guest);
    let shared = control.shared().clone();
    let mut frame = [0; 60];
    frame[..6].copy_from_slice(&MAC);
    let meta = RxMeta::default();
    let _ = rx.deliver(&mem, RxFrame { data: &frame, meta }, Time(0));
    *guest.control.lock().unwrap() = Some(control);
    rx.finish(&mem, Time(0)).unwrap();
    assert_eq!(shared.regs.get(Reg::RDH), 0);
    assert_eq!(shared.regs.get(Reg::ICR), 0);
    assert!(rx.is_settled());
}
