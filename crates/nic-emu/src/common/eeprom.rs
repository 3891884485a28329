//! Serial EEPROM of 64 words behind a bit-banged Microwire port (93C46, as fitted to 8254x cards).
//!
//! A command is a start bit, two opcode bits and six address bits, sampled from DI on rising SK while CS is high:
//!
//! | opcode | address | |
//! |---|---|---|
//! | 10 | word | READ: data follows on DO, most significant bit first, one bit per falling SK; word after word |
//! | 01 | word | WRITE: 16 data bits follow |
//! | 11 | word | ERASE to all ones |
//! | 00 | 11xxxx, 00xxxx | EWEN, EWDS: allow or forbid WRITE, ERASE and their -ALL forms |
//! | 00 | 10xxxx, 01xxxx | ERAL, WRAL: ERASE, WRITE every word |
//!
//! A change takes effect when CS drops after the last bit, and at once: DO reads 1 (ready) when CS rises again. CS
//! dropping earlier abandons the command. There is no sequence of pins that does anything else.

use serde::{Deserialize, Serialize};

/// Number of 16-bit words.
pub const WORDS: usize = 64;

/// What the words up to and including [`CHECKSUM`] add up to.
pub const SUM: u16 = 0xBABA;

/// The word that makes the sum right.
pub const CHECKSUM: usize = 0x3F;

const COMMAND_BITS: u8 = 8;

/// Levels of the pins that the host drives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    /// Chip select.
    pub cs: bool,
    /// Clock.
    pub sk: bool,
    /// Data into the EEPROM.
    pub di: bool,
}

/// What the shift register is in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// Waiting for a start bit.
    Start,
    /// Opcode and address.
    Command { bits: u8, value: u8 },
    /// READ: the word being shifted out and the bits of it that have left.
    Out { word: u8, bits: u8 },
    /// WRITE and WRAL: the data bits so far.
    In {
        target: Target,
        bits: u8,
        value: u16,
    },
    /// Complete: takes effect when CS drops.
    Change { target: Target, value: u16 },
    /// Nothing more to come before CS drops.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Target {
    Word(u8),
    All,
}

/// The state of an EEPROM, but for the pins that the host drives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedEeprom {
    words: [[u16; 16]; WORDS / 16],
    phase: Phase,
    data_out: bool,
    write_enabled: bool,
}

/// The EEPROM: its words and the state of its port.
#[derive(Clone, Debug)]
pub struct Eeprom {
    words: [u16; WORDS],
    pins: Pins,
    phase: Phase,
    data_out: bool,
    write_enabled: bool,
    /// The words are not what they were when somebody asked.
    changed: bool,
}

impl Eeprom {
    /// An EEPROM with these contents; the checksum word is set so that the sum is right.
    pub fn new(mut words: [u16; WORDS]) -> Eeprom {
        let sum = words[..CHECKSUM]
            .iter()
            .fold(0, |sum: u16, &word| sum.wrapping_add(word));
        words[CHECKSUM] = SUM.wrapping_sub(sum);
        Eeprom::with(words)
    }

    /// An EEPROM with just these contents.
    pub fn with(words: [u16; WORDS]) -> Eeprom {
        Eeprom {
            words,
            pins: Pins::default(),
            phase: Phase::Done,
            data_out: true,
            write_enabled: false,
            changed: false,
        }
    }

    /// Whether the contents have changed since the last call.
    pub fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The contents.
    pub fn words(&self) -> &[u16; WORDS] {
        &self.words
    }

    /// The word at an address, of which the chip only looks at the low six bits.
    pub fn word(&self, address: u8) -> u16 {
        self.words[usize::from(address) % WORDS]
    }

    /// Level of DO, the pin that the EEPROM drives; 1 when it has nothing to say.
    pub fn data_out(&self) -> bool {
        self.data_out
    }

    /// Drives the pins. If several change at once, chip select is taken to come first, the clock last.
    pub fn drive(&mut self, pins: Pins) {
        let before = std::mem::replace(&mut self.pins, pins);
        if before.cs && !pins.cs {
            self.deselect();
        }
        if !before.cs && pins.cs {
            self.phase = Phase::Start;
            self.data_out = true;
        }
        if pins.cs && !before.sk && pins.sk {
            self.clock_in(pins.di);
        }
        if pins.cs && before.sk && !pins.sk {
            self.clock_out();
        }
    }

    /// Its state. The levels of the pins are for whoever drives them to remember.
    pub fn save(&self) -> SavedEeprom {
        let (lines, _) = self.words.as_chunks();
        SavedEeprom {
            words: std::array::from_fn(|line| lines[line]),
            phase: self.phase,
            data_out: self.data_out,
            write_enabled: self.write_enabled,
        }
    }

    /// Takes over a state, as far as an EEPROM can have it, with the pins at these levels.
    pub fn restore(&mut self, saved: &SavedEeprom, pins: Pins) {
        self.changed |= self.words != *saved.words.as_flattened();
        self.words.copy_from_slice(saved.words.as_flattened());
        self.write_enabled = saved.write_enabled;
        self.pins = pins;
        self.phase = match saved.phase {
            _ if !pins.cs => Phase::Done,
            Phase::Command { bits, value } => {
                let bits = bits % COMMAND_BITS;
                let value = value & ((1 << bits) - 1);
                Phase::Command { bits, value }
            }
            Phase::Out { word, bits } => Phase::Out {
                word,
                bits: bits % 16,
            },
            Phase::In {
                target,
                bits,
                value,
            } => {
                let bits = bits % 16;
                let value = value & ((1 << bits) - 1);
                Phase::In {
                    target,
                    bits,
                    value,
                }
            }
            other => other,
        };
        self.data_out = saved.data_out || !matches!(self.phase, Phase::Out { .. });
    }

    fn deselect(&mut self) {
        if let (Phase::Change { target, value }, true) = (self.phase, self.write_enabled) {
            let before = self.words;
            match target {
                Target::Word(address) => self.words[usize::from(address) % WORDS] = value,
                Target::All => self.words = [value; WORDS],
            }
            self.changed |= self.words != before;
        }
        self.phase = Phase::Done;
        self.data_out = true;
    }

    fn clock_in(&mut self, di: bool) {
        self.phase = match self.phase {
            Phase::Start if di => Phase::Command { bits: 0, value: 0 },
            Phase::Command { bits, value } => {
                let value = value << 1 | u8::from(di);
                if bits + 1 < COMMAND_BITS {
                    Phase::Command {
                        bits: bits + 1,
                        value,
                    }
                } else {
                    self.decode(value)
                }
            }
            Phase::In {
                target,
                bits,
                value,
            } => {
                let value = value << 1 | u16::from(di);
                if bits + 1 < 16 {
                    Phase::In {
                        target,
                        bits: bits + 1,
                        value,
                    }
                } else {
                    Phase::Change { target, value }
                }
            }
            other => other,
        };
    }

    fn decode(&mut self, command: u8) -> Phase {
        let address = command & 0x3F;
        match (command >> 6, address >> 4) {
            (0b10, _) => Phase::Out {
                word: address,
                bits: 0,
            },
            (0b01, _) => Phase::In {
                target: Target::Word(address),
                bits: 0,
                value: 0,
            },
            (0b11, _) => Phase::Change {
                target: Target::Word(address),
                value: 0xFFFF,
            },
            (_, 0b01) => Phase::In {
                target: Target::All,
                bits: 0,
                value: 0,
            },
            (_, 0b10) => Phase::Change {
                target: Target::All,
                value: 0xFFFF,
            },
            (_, enable) => {
                self.write_enabled = enable == 0b11;
                Phase::Done
            }
        }
    }

    fn clock_out(&mut self) {
        if let Phase::Out { word, bits } = self.phase {
            self.data_out = self.word(word) << bits & 0x8000 != 0;
            self.phase = match bits + 1 {
                16 => Phase::Out {
                    word: word.wrapping_add(1),
                    bits: 0,
                },
                bits => Phase::Out { word, bits },
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays the host side of the port.
    struct Host(Eeprom);

    impl Host {
        fn new() -> Host {
            let mut words = [0; WORDS];
            for (address, word) in words.iter_mut().enumerate() {
                *word = 0xA500 ^ address as u16;
            }
            Host(Eeprom::new(words))
        }

        fn select(&mut self, cs: bool) {
            self.0.drive(Pins {
                cs,
                sk: false,
                di: false,
            });
        }

        fn shift_out(&mut self, value: u32, bits: u32) {
            for bit in (0..bits).rev() {
                let di = value >> bit & 1 != 0;
                self.0.drive(Pins {
                    cs: true,
                    sk: false,
                    di,
                });
                self.0.drive(Pins {
                    cs: true,
                    sk: true,
                    di,
                });
                self.0.drive(Pins {
                    cs: true,
                    sk: false,
                    di,
                });
            }
        }

        fn shift_in(&mut self) -> u16 {
            let mut value = 0;
            for _ in 0..16 {
                self.0.drive(Pins {
                    cs: true,
                    sk: true,
                    di: false,
                });
                value = value << 1 | u16::from(self.0.data_out());
                self.0.drive(Pins {
                    cs: true,
                    sk: false,
                    di: false,
                });
            }
            value
        }

        fn command(&mut self, command: u32, bits: u32) {
            self.select(false);
            self.select(true);
            self.shift_out(command, bits);
        }

        fn read(&mut self, address: u32) -> u16 {
            self.command(0b110 << 6 | address, 9);
            let value = self.shift_in();
            self.select(false);
            value
        }

        fn write(&mut self, address: u32, value: u16) {
            self.command((0b101 << 6 | address) << 16 | u32::from(value), 25);
            self.select(false);
            self.select(true);
            assert!(self.0.data_out(), "ready after a write");
            self.select(false);
        }
    }

    const EWEN: u32 = 0b100_110000;
    const EWDS: u32 = 0b100_000000;

    #[test]
    fn reads_every_word_and_the_sum_is_right() {
        let mut host = Host::new();
        let mut sum = 0u16;
        for address in 0..WORDS as u32 {
            let value = host.read(address);
            assert_eq!(value, host.0.word(address as u8));
            sum = sum.wrapping_add(value);
        }
        assert_eq!(sum, SUM);
    }

    #[test]
    fn reads_on_into_the_next_word() {
        let mut host = Host::new();
        host.command(0b110 << 6 | 62, 9);
        let words = *host.0.words();
        assert_eq!(
            [host.shift_in(), host.shift_in(), host.shift_in()],
            [words[62], words[63], words[0]]
        );
    }

    #[test]
    fn writes_need_the_latch_and_the_drop_of_cs() {
        let mut host = Host::new();
        host.write(5, 0x1234);
        assert_eq!(host.read(5), 0xA505, "not enabled yet");
        host.command(EWEN, 9);
        host.write(5, 0x1234);
        assert_eq!(host.read(5), 0x1234);
        host.command((0b101 << 6 | 6) << 16 | 0x4321, 25);
        assert_eq!(host.0.word(6), 0xA506, "CS is still high");
        host.select(false);
        assert_eq!(host.0.word(6), 0x4321);
        host.command(0b111 << 6 | 7, 9);
        host.select(false);
        assert_eq!(host.read(7), 0xFFFF);
        host.command(EWDS, 9);
        host.write(5, 0);
        assert_eq!(host.read(5), 0x1234);
    }

    #[test]
    fn all_words_at_once() {
        let mut host = Host::new();
        host.command(EWEN, 9);
        host.command(0b100_010000 << 16 | 0x0F0F, 25);
        host.select(false);
        assert!(host.0.words().iter().all(|&word| word == 0x0F0F));
        host.command(0b100_100000, 9);
        host.select(false);
        assert!(host.0.words().iter().all(|&word| word == 0xFFFF));
    }

    #[test]
    fn a_drop_of_cs_abandons_what_is_not_complete() {
        for bits in 0..25 {
            let mut host = Host::new();
            let before = *host.0.words();
            host.command(EWEN, 9);
            host.command(((0b101 << 6 | 9) << 16) >> (25 - bits), bits);
            host.select(false);
            assert_eq!(*host.0.words(), before, "{bits} bits");
            assert_eq!(host.read(9), before[9]);
        }
    }

    #[test]
    fn clocks_without_cs_do_nothing() {
        let mut host = Host::new();
        host.command(0b110 << 6 | 3, 9);
        host.select(false);
        for sk in [true, false].repeat(100) {
            host.0.drive(Pins {
                cs: false,
                sk,
                di: true,
            });
            assert!(host.0.data_out());
        }
        assert_eq!(host.read(3), 0xA503);
    }

    #[test]
    fn leading_zeros_before_the_start_bit_do_not_count() {
        let mut host = Host::new();
        host.command(0b110 << 6 | 3, 20);
        assert_eq!(host.shift_in(), 0xA503);
    }
}
