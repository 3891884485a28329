//! One frame around a loop: out of the transmit ring, over a wire that leads back, into the receive ring.

use std::sync::Arc;

use guest_mem::{Access, GuestMem, Mapping};
use nic_emu::Time;
use nic_emu::common::frame::{RxFrame, TxBurst};
use nic_emu::e1000::regs::Reg;
use nic_emu::e1000::{self, Config, REGISTER_BAR};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ram = Arc::new(Mapping::anonymous(0x1_0000)?);
    let mem = GuestMem::builder()
        .map(0, ram.len(), ram, 0, Access::ReadWrite)
        .build()?;
    let (mut nic, mut tx, mut rx) = e1000::new(&Config::new([0x52, 0x54, 0, 0, 0, 1]));
    let now = Time::ZERO;
    nic.set_bus_master(true);

    // The driver: rings of 8 descriptors at 0x1000 and 0x2000, a frame at 0x3000, a buffer for another at 0x4000.
    let frame = b"\x52\x54\0\0\0\x01\x52\x54\0\0\0\x01\x88\xb5 Once around the loop, and back into my own memory!";
    mem.write(0x3000, frame)?;
    mem.store_u64(0x1000, 0x3000)?;
    mem.store_u64(0x1008, 0x0B00_0000 | frame.len() as u64)?; // EOP, IFCS, RS
    mem.store_u64(0x2000, 0x4000)?;
    for (reg, value) in [
        (Reg::TDBAL, 0x1000),
        (Reg::TDLEN, 8 * 16),
        (Reg::RDBAL, 0x2000),
        (Reg::RDLEN, 8 * 16),
        (Reg::IMS, 1 << 7),  // RXT0
        (Reg::RCTL, 1 << 1), // EN
        (Reg::TCTL, 1 << 1), // EN
        (Reg::RDT, 1),
        (Reg::TDT, 1),
    ] {
        let offset = u64::from(reg.row().offset);
        nic.write(REGISTER_BAR, offset, &u32::to_le_bytes(value), now);
    }

    // The wire: what the NIC sends is lent to us, copied, and given back to it.
    let mut burst = TxBurst::new();
    tx.fetch(&mem, &mut burst, now);
    let mut wire = [0; 2048];
    let len = burst
        .frame(0)
        .copy_to(&mut wire)
        .ok_or("longer than our wire")?;
    tx.complete(&mem, &mut burst, 1, now)?;
    rx.deliver(&mem, RxFrame::new(&wire[..len]), now);
    rx.finish(&mem, now)?;

    // The driver finds it, and would have been interrupted.
    let mut received = vec![0; len];
    mem.read(0x4000, &mut received)?;
    assert_eq!(received, frame);
    assert!(nic.shared().irq.poll(now));
    println!("{len} bytes went around; {:?}", nic.counters());
    Ok(())
}
