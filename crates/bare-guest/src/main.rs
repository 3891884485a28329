//! The image that QEMU boots; what it does is in the library.

#![no_std]
#![no_main]

mod entry;
mod image;
mod mem;

use bare_guest::machine::{Machine, Ram};

fn main(machine: Machine, ram: Ram, command: &str) -> ! {
    let done = bare_guest::run(machine, ram, command);
    image::end(machine, done)
}
