//! Accesses that no driver makes: checklist items 13, 15 and 16; the unknown EEPROM opcode.

use guest_driver::regs::{
    EECD, EERD, IOADDR, IODATA, MDIC, MTA, RAL0, STATUS, VET, VFTA, eecd, mdic,
};
use guest_driver::{Bus, eeprom};
use vfio_user::client::ClientError;

use crate::against;

const BAR0: u32 = 0;
const BAR0_SIZE: u64 = 0x2_0000;

/// The I/O BAR's region.
const PORTS: u32 = 2;

#[test]
fn odd_sizes_at_odd_places() {
    against(|nic| {
        let client = nic.bus.bus.client();
        for len in [1, 2, 3, 5, 8, 16, 64, 4096] {
            for offset in [0, 1, 2, 3, 6, 0xBE, 0x2802, 0x3816, 0x400C, 0x5401] {
                let mut bytes = vec![0; len];
                client
                    .region_read(BAR0, offset, &mut bytes)
                    .expect("a read within the region");
                client
                    .region_write(BAR0, offset, &bytes)
                    .expect("a write within the region");
                client
                    .region_write_posted(BAR0, offset, &vec![0xFF; len])
                    .expect("a write can be sent");
            }
        }
    });
}

/// Parts of a register read as the parts they are.
#[test]
fn parts_of_registers() {
    against(|nic| {
        nic.bus.write32(VET, 0x8100);
        let whole = nic.bus.read32(STATUS).to_le_bytes();
        let client = nic.bus.bus.client();
        for (at, want) in (u64::from(STATUS)..).zip(whole) {
            let mut byte = [0; 1];
            client.region_read(BAR0, at, &mut byte).expect("a byte");
            assert_eq!(byte[0], want, "byte {at} of STATUS");
        }
        // A part that is written changes the register as a whole or not at all.
        client
            .region_write(BAR0, u64::from(VET), &[0xA8])
            .expect("a byte");
        let vet = nic.bus.read32(VET);
        assert!([0x8100, 0x81A8].contains(&vet), "VET is {vet:#x}");
    });
}

/// Offsets beyond the region are the client's mistake: all ones or an error, and the connection lives on.
#[test]
fn offsets_beyond_the_region() {
    against(|nic| {
        let client = nic.bus.bus.client();
        for offset in [BAR0_SIZE, BAR0_SIZE - 2, u64::MAX - 3, 1 << 63] {
            let mut data = [0; 4];
            match client.region_read(BAR0, offset, &mut data) {
                Ok(()) => assert_eq!(data, [0xFF; 4], "a read at {offset:#x}"),
                Err(error) => assert!(matches!(error, ClientError::Refused { .. }), "{error}"),
            }
            if let Err(error) = client.region_write(BAR0, offset, &[0; 4]) {
                assert!(matches!(error, ClientError::Refused { .. }), "{error}");
            }
            client
                .region_write_posted(BAR0, offset, &[0; 4])
                .expect("a write can be sent");
        }
    });
}

#[test]
fn every_register_with_every_kind_of_value() {
    against(|nic| {
        for value in [!0, 0, 0x5555_5555, 0x8000_0001] {
            for offset in (0..BAR0_SIZE as u32).step_by(4) {
                // Whole pages of the packet buffer are alike.
                if offset >= 0xA000 && offset % 0x400 != 0 {
                    continue;
                }
                nic.bus.write32(offset, value);
            }
            for offset in (0..0xA000).step_by(4) {
                nic.bus.read32(offset);
            }
        }
    });
}

#[test]
fn io_window_anywhere() {
    against(|nic| {
        for address in [
            0, 1, 2, 8, 0x3818, 0x1_FFFC, 0x1_FFFF, 0x2_0000, 0x8_0000, 0xF_FFFF, 0x10_0000, !0,
        ] {
            nic.bus.io_write32(IOADDR, address);
            nic.bus.io_read32(IOADDR);
            nic.bus.io_write32(IODATA, 0);
            nic.bus.io_read32(IODATA);
        }
        let client = nic.bus.bus.client();
        for offset in 0..0x40 {
            for len in [1, 2, 4, 8] {
                let mut bytes = vec![0; len];
                // Beyond the end it is refused, and before it is nothing.
                let _ = client.region_read(PORTS, offset, &mut bytes);
                let _ = client.region_write(PORTS, offset, &bytes);
            }
        }
    });
}

#[test]
fn eeprom_pins_at_random() {
    against(|nic| {
        for opcode in 0..8 {
            for bits in [0, 1, 15, 16, 17, 32] {
                // With zeros behind it no opcode enables writing: what a guest does to its own EEPROM, stays.
                eeprom::command(&mut nic.bus, opcode, 0, bits).expect("access is granted");
            }
        }
        let mut state = 1u32;
        for step in 0..3000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let pins = eecd::SK | eecd::CS | eecd::DI | eecd::REQ;
            // Chip select goes before nine clocks, which a command that enables writing needs, can have passed.
            let pins = if step % 16 == 0 { eecd::REQ } else { pins };
            nic.bus.write32(EECD, state >> 24 & pins);
        }
        nic.bus.write32(EECD, 0);
        for word in [0x3F, 0x40, 0x7F, 0xFF] {
            for start in [0x1, 0x3, 0xFFFF_00FF] {
                nic.bus.write32(EERD, start | word << 8);
                nic.bus.read32(EERD);
            }
        }
        assert_eq!(eeprom::checksum(&mut nic.bus), Some(eeprom::CHECKSUM));
    });
}

#[test]
fn phy_accesses_of_every_kind() {
    against(|nic| {
        for operation in 0..4 {
            for address in [0, 1, 2, 31] {
                for register in 0..32 {
                    // Power-down and reset bits among the data.
                    let data = 0xFFFF_u32.wrapping_mul(register);
                    let command = data & 0xFFFF
                        | register << mdic::REG_SHIFT
                        | address << mdic::PHY_SHIFT
                        | operation << 26;
                    nic.bus.write32(MDIC, command);
                    nic.bus.write32(MDIC, command | mdic::READY | mdic::INT_EN);
                }
                assert!(nic.bus.read32(MDIC) & mdic::READY != 0, "MDIC never ends");
            }
        }
        // The script ends as a driver would begin.
        for value in [0x9140, 0x1140] {
            guest_driver::phy::write(&mut nic.bus, guest_driver::phy::BMCR, value);
        }
        for (register, value) in [(4, 0x0DE1), (9, 0x0E00), (16, 0x0360)] {
            guest_driver::phy::write(&mut nic.bus, register, value);
        }
        guest_driver::phy::write(&mut nic.bus, guest_driver::phy::BMCR, 0x1340);
    });
}

#[test]
fn parts_of_tables_and_what_lies_behind_them() {
    against(|nic| {
        let client = nic.bus.bus.client();
        for base in [MTA, RAL0, VFTA] {
            for word in [0, 1, 31, 32, 127, 128, 129] {
                for (part, len) in [(0, 1), (1, 1), (2, 2), (0, 2), (1, 2), (0, 8), (4, 8)] {
                    let offset = u64::from(base) + 4 * word + part;
                    client
                        .region_write(BAR0, offset, &vec![0xFF; len])
                        .expect("a write within the region");
                    client
                        .region_read(BAR0, offset, &mut vec![0; len])
                        .expect("a read within the region");
                }
            }
        }
    });
}
