//! Results, a line each, on the first serial port: a word that names the record, then `key=value` words. What comes from
//! there is only ever a sign to go on.

use core::fmt;

use crate::machine::Machine;

const COM1: u16 = 0x3F8;
/// Line status register and its bits for "a byte has come" and "transmitter takes a byte".
const LSR: u16 = COM1 + 5;
const LSR_DR: u8 = 1 << 0;
const LSR_THRE: u8 = 1 << 5;

/// The first serial port; 8250 compatible, as QEMU has it.
#[derive(Debug)]
pub struct Serial(Machine);

impl Serial {
    /// Takes the port as the firmware left it: its speed means nothing in QEMU.
    pub fn new(machine: Machine) -> Self {
        Self(machine)
    }

    /// Waits for a byte, and takes it.
    pub fn wait(&mut self) {
        while self.0.inb(LSR) & LSR_DR == 0 {
            self.0.pause();
        }
        self.0.inb(COM1);
    }
}

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while self.0.inb(LSR) & LSR_THRE == 0 {
                self.0.pause();
            }
            self.0.outb(COM1, byte);
        }
        Ok(())
    }
}

/// Prints a line to a [`Serial`](crate::report::Serial).
#[macro_export]
macro_rules! report {
    ($serial:expr, $($word:tt)*) => {{
        use core::fmt::Write;
        // A serial port takes everything.
        let _ = writeln!($serial, $($word)*);
    }};
}
