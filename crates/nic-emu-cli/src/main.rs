//! Exports emulated NICs to hypervisors over vfio-user.

fn main() {}
