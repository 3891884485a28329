//! Another image: the same bare PC under a driver that others wrote, the crate `e1000-driver`, as it comes from the
//! registry. It knows nothing of this project; what it needs of a device is written nowhere but in its code.
//!
//! The job is always the same: each frame goes back to where it came from ([`echo`]). Words of the command line are
//! those of the other image.
//!
//! That crate is under the GPL, version 2, and so is an image linked with it: it is built for a test where that runs, and
//! handed to nobody.

#![no_std]
#![no_main]

extern crate alloc;

#[path = "../entry.rs"]
mod entry;
#[path = "../image.rs"]
mod image;
#[path = "../mem.rs"]
mod mem;

mod echo;
mod heap;

use bare_guest::args::Args;
use bare_guest::machine::{Machine, Ram};
use bare_guest::report::Serial;
use bare_guest::{interrupt, report};

fn main(machine: Machine, mut ram: Ram, command: &str) -> ! {
    heap::set_up(&mut ram);
    let mut serial = Serial::new(machine);
    // The firmware has left its cursor behind a message.
    report!(serial, "");
    interrupt::silence(machine);
    let done = Args::parse(command).and_then(|args| echo::run(machine, ram, &args, &mut serial));
    match done {
        Ok(()) => report!(serial, "end ok"),
        Err(error) => report!(serial, "failed {error}"),
    }
    image::end(machine, done.is_ok())
}
