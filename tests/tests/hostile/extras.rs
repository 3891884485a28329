//! What a NIC has only if it was asked for: an EEPROM in a file, a flash, an expansion ROM, the MSI capability.

use std::fs;

use guest_driver::regs::{ICR, ICS, IMC, IMS};
use guest_driver::{Bus, eeprom};
use nic_emu::e1000::regs::Reg;
use nic_emu_cli::{EepromFile, FlashFile, Nic, Rom};
use vfio_user::client::ClientError;
use vfio_user::wire::region_index;

use crate::{made, plain_nic};

/// Where the MSI capability is.
const MSI: u8 = 0xF0;

/// Opcodes of the chip: these two take two bits more where others have an address.
const EXTENDED: u32 = 0b100;
const ENABLE: u32 = 0b11_0000;
const WRITE_ALL: u32 = 0b01_0000;
const ERASE_ALL: u32 = 0b10_0000;

/// A driver that writes its EEPROM without end wears out nothing and fills no disk: there is one file of 128 bytes, and
/// it holds what was written last. If it cannot be written any more, the NIC goes on.
#[test]
fn an_eeprom_in_a_file_is_written_without_end() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = folder.path().join("eeproms");
    fs::create_dir(&place).expect("a folder of our own");
    let path = place.join("eeprom.bin");
    let mut first = true;
    let kept = |name, model: &nic_emu::e1000::Config, listener, plug| {
        if !std::mem::take(&mut first) {
            return plain_nic(name, model, listener, plug);
        }
        let image = model.eeprom_image();
        let (file, words) = EepromFile::open(&path, image).expect("a new EEPROM");
        let mut model = model.clone();
        model.eeprom = Some(words);
        plain_nic(name, &model, listener, plug).keep_eeprom(file)
    };
    made(1, kept, |nic| {
        let held = fs::read(&path).expect("the file is there");
        let mut send = |opcode, address| eeprom::command(&mut nic.bus, opcode, address, 0);
        send(EXTENDED, ENABLE).expect("access is granted");
        send(EXTENDED, WRITE_ALL).expect("access is granted");
        send(EXTENDED, ERASE_ALL).expect("access is granted");
        let mut words = [0; 64];
        for round in 0..8u16 {
            for (word, value) in (0..64u8).zip(&mut words) {
                *value = round.wrapping_mul(0x1357) ^ u16::from(word) << 5;
                eeprom::write_word(&mut nic.bus, word, *value).expect("access is granted");
            }
        }
        assert_eq!(eeprom::read_word(&mut nic.bus, 63), Some(words[63]));
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert!(
            fs::read(&path).expect("the file is there") == bytes,
            "other words than were written"
        );
        let files = fs::read_dir(&place).expect("the folder is there").count();
        assert_eq!(files, 1, "drafts are left");

        // As it was, so that the device is the one that everybody knows.
        let (held, _) = held.as_chunks();
        let words: Vec<u16> = held
            .iter()
            .map(|bytes| u16::from_le_bytes(*bytes))
            .collect();
        for (word, value) in (0..64u8).zip(&words) {
            eeprom::write_word(&mut nic.bus, word, *value).expect("access is granted");
        }
        assert_eq!(eeprom::checksum(&mut nic.bus), Some(eeprom::CHECKSUM));

        fs::remove_dir_all(&place).expect("a folder of our own");
        for value in 0..200 {
            eeprom::write_word(&mut nic.bus, 0x20, value).expect("access is granted");
        }
        assert_eq!(eeprom::read_word(&mut nic.bus, 0x20), Some(199));
        eeprom::write_word(&mut nic.bus, 0x20, words[0x20]).expect("access is granted");
    });
}

/// Reads at every odd place and length give the bytes there; beyond the end there is an answer of some kind; writes
/// change nothing.
#[test]
fn a_rom_is_read_and_written_anywhere() {
    let mut image: Vec<u8> = (0..3000u32).map(|at| (at * 7) as u8).collect();
    image[..2].copy_from_slice(&[0x55, 0xAA]);
    let rom = Rom::new(image.clone()).expect("a ROM");
    let size = u64::from(rom.size());
    image.resize(size as usize, 0xFF);
    let with_rom =
        |name, model: &_, listener, plug| Nic::of(name, model, Some(rom.clone()), listener, plug);
    made(1, with_rom, |nic| {
        let client = nic.bus.bus.client();
        let lengths = [0usize, 1, 2, 3, 4, 5, 7, 8, 9, 64, 255, 1021, 4096];
        let places = [0, 1, 3, 2047, 2999, 3000, size - 9, size - 8, size - 1];
        let beyond = [size, size + 1, 1 << 32, u64::MAX - 3, u64::MAX];
        for at in places.into_iter().chain(beyond) {
            for len in lengths {
                let mut bytes = vec![0x5A; len];
                let inside = at.checked_add(len as u64).is_some_and(|end| end <= size);
                match client.region_write(region_index::ROM, at, &bytes) {
                    Ok(()) | Err(ClientError::Refused { .. }) => {}
                    Err(error) => panic!("write of {len} at {at:#x}: {error}"),
                }
                let byte = |n: usize| {
                    let at = usize::try_from(at.checked_add(n as u64)?).ok()?;
                    image.get(at).copied()
                };
                match client.region_read(region_index::ROM, at, &mut bytes) {
                    Ok(()) if !inside => {}
                    Ok(()) => {
                        let right = |(n, is): (usize, &u8)| *is == byte(n).unwrap_or(0xFF);
                        let right = bytes.iter().enumerate().all(right);
                        assert!(right, "{len} at {at:#x}");
                    }
                    Err(ClientError::Refused { .. }) => {
                        assert!(!inside || len == 0, "{len} at {at:#x} are refused");
                    }
                    Err(error) => panic!("read of {len} at {at:#x}: {error}"),
                }
            }
        }
    });
}

/// The capability's bytes written in every size with every kind of value, while causes come and go.
#[test]
fn messages_switched_on_and_off_all_the_time() {
    for shards in [1, 3] {
        let with_msi = |name, model: &nic_emu::e1000::Config, listener, plug| {
            let mut model = model.clone();
            model.msi = true;
            plain_nic(name, &model, listener, plug)
        };
        made(shards, with_msi, |nic| {
            assert_eq!(nic.bus.config_read(MSI, 1), 5, "the capability's id");
            let before = nic.bus.config_read(MSI, 4);
            nic.bus.write32(IMS, !0);
            for round in 0..500u32 {
                let size = [1u8, 2, 4][round as usize % 3];
                let at = MSI + (round * u32::from(size)) as u8 % 16;
                let value = round.wrapping_mul(0x9E37_79B9) >> (round % 32);
                let bytes = &value.to_le_bytes()[..size.into()];
                let client = nic.bus.bus.client();
                match client.region_write(region_index::CONFIG, at.into(), bytes) {
                    // More messages than there are cannot be switched on.
                    Ok(()) | Err(ClientError::Refused { .. }) => {}
                    Err(error) => panic!("{size} at {at:#x}: {value:#x}: {error}"),
                }
                nic.bus.write32(ICS, 1 << (round % 17));
                if round % 5 == 0 {
                    nic.bus.config_write(MSI + 2, 2, 1);
                    nic.bus.read32(ICR);
                }
            }
            nic.bus.write32(IMC, !0);
            nic.bus.config_write(MSI + 2, 2, 0);
            assert_eq!(nic.bus.config_read(MSI, 4), before, "what is not written");
        });
    }
}

/// Writes of every size at every place of a flash, allowed and not, reads between them, and chips erased without end: the file
/// stays as large as it is and holds what the guest reads.
#[test]
fn a_flash_is_written_anywhere_and_without_end() {
    const SIZE: u64 = 128 << 10;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("flash.bin");
    let mut first = true;
    let fitted = |name, model: &nic_emu::e1000::Config, listener, plug| {
        if !std::mem::take(&mut first) {
            return plain_nic(name, model, listener, plug);
        }
        let (file, flash) = FlashFile::open(&path).expect("a new flash");
        let mut model = model.clone();
        model.flash = Some(flash);
        plain_nic(name, &model, listener, plug).keep_flash(file)
    };
    made(1, fitted, |nic| {
        let eecd = Reg::EECD.offset();
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        // The writes of commands, and of what comes near.
        let known = [0xAA, 0x55, 0xA0, 0x80, 0x30, 0x10, 0x90, 0xF0];
        for round in 0..4000 {
            if round % 50 == 0 {
                nic.bus
                    .write32(eecd, [0x20, 0x20, 0x10, 0x30][random() as usize % 4]);
            }
            let client = nic.bus.bus.client();
            let at = match random() % 8 {
                0..=2 => 0x5555,
                3..=5 => 0x2AAA,
                6 => random() % SIZE,
                _ => [SIZE - 1, SIZE, SIZE + 1, u64::MAX - 3, 1 << 32][random() as usize % 5],
            };
            let len = [1, 1, 1, 2, 4, 8, 3, 4096][random() as usize % 8];
            let byte = known[random() as usize % known.len()];
            let inside = at.checked_add(len as u64).is_some_and(|end| end <= SIZE);
            let mut bytes = vec![byte; len];
            for written in [true, false] {
                let done = match written {
                    true => client.region_write(1, at, &bytes),
                    false => client.region_read(1, at, &mut bytes),
                };
                match done {
                    Ok(()) => {}
                    Err(ClientError::Refused { .. }) => assert!(!inside, "{len} at {at:#x}"),
                    Err(error) => panic!("{len} at {at:#x}: {error}"),
                }
            }
        }
        nic.bus.write32(eecd, 0x20);
        let client = nic.bus.bus.client();
        let mut send = |writes: &[(u64, u8)]| {
            for &(at, byte) in writes {
                client.region_write(1, at, &[byte]).expect("it answers");
            }
        };
        let unlock = [(0x5555, 0xAA), (0x2AAA, 0x55)];
        send(&[(0, 0), (0, 0xF0)]);
        for value in 0..100 {
            send(&unlock);
            send(&[(0x5555, 0xA0), (0x1234, value)]);
            send(&unlock);
            send(&[(0x5555, 0x80)]);
            send(&unlock);
            send(&[(0x5555, 0x10)]);
        }
        send(&unlock);
        send(&[(0x5555, 0xA0), (0x1_FFFF, 0x42)]);
        let mut read = vec![0; SIZE as usize];
        for (at, to) in (0..).step_by(4096).zip(read.chunks_mut(4096)) {
            client.region_read(1, at, to).expect("it answers");
        }
        assert!(read.ends_with(&[0xFF, 0x42]));
        let stored = fs::read(&path).expect("the file is there");
        assert!(stored == read, "the file has other bytes");
    });
}
