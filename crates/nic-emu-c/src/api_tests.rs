//! What panics on this side ends on this side.

use guest_mem::DmaError;
use guest_mem::Remote;

use super::*;
use crate::device::Host;

/// Memory that panics when it is read.
#[derive(Debug)]
struct Trap;

impl Remote for Trap {
    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), DmaError> {
        panic!("this is what the test is about")
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), DmaError> {
        Ok(())
    }

    fn flush(&self) -> Result<(), DmaError> {
        Ok(())
    }

    fn blocks(&self) -> bool {
        false
    }
}

impl Host for Trap {
    fn transmit(&self, _: &[u8]) -> bool {
        true
    }

    fn interrupt(&self, _: bool) {}

    fn receive_ready(&self) {}

    fn pme(&self, _: bool) {}
}

#[test]
fn a_panic_becomes_a_status_and_stays_one() {
    let made = Nic::new(&Config::new([2, 0, 0, 0, 0, 1]), Arc::new(Trap));
    let nic = Box::into_raw(Box::new(NicEmu(Mutex::new(made))));
    // SAFETY: `nic` lives until it is destroyed at the end.
    unsafe {
        assert_eq!(nic_emu_set_bus_master(nic, true, 0), Status::Ok);
        // TDLEN, TCTL.EN, and a descriptor to fetch.
        assert_eq!(nic_emu_write(nic, 0, 0x3808, 4, 128, 0), Status::Ok);
        assert_eq!(nic_emu_write(nic, 0, 0x0400, 4, 2, 0), Status::Ok);
        assert_eq!(nic_emu_write(nic, 0, 0x3818, 4, 1, 0), Status::Failed);
        let mut value = 7;
        assert_eq!(nic_emu_read(nic, 0, 0, 4, &mut value, 0), Status::Failed);
        assert_eq!(value, 7);
        assert_eq!(nic_emu_reset(nic, 0), Status::Failed);
        assert_eq!(nic_emu_destroy(nic), Status::Ok);
    }
}
